-- DeepSeek-V2 and V2.5, V2-Lite, Coder-V2: DeepSeek-V3 whose routers take the softmax of all scores
-- and, where groups limit the choice, a group by its best one.
local deepseek_v3 = require "deepseek_v3"

return deepseek_v3:with {
  name   = "deepseek_v2",
  hf     = { "DeepseekV2ForCausalLM" },
  expect = { topk_method = { "greedy", "group_limited_greedy" }, scoring_func = "softmax",
             norm_topk_prob = false },

  vocab        = cfg("vocab_size", 102400),
  max_position = cfg("max_position_embeddings", 2048),
  ffn_bias     = cfg("mlp_bias", false),

  dense       = cfg("first_k_dense_replace", 0),
  experts     = cfg("n_routed_experts", 64),
  active      = cfg "num_experts_per_tok",
  expert_dim  = cfg("moe_intermediate_size", 1407),
  shared      = cfg("n_shared_experts", 2),
  route_scale = cfg("routed_scaling_factor", 1),

  method     = cfg("topk_method", "greedy"),
  limits     = cfg("n_group", 1),
  top_limits = cfg("topk_group", 1),
  groups     = derived(function(m) return m.method == "greedy" and 1 or m.limits end),
  top_groups = derived(function(m) return m.method == "greedy" and 1 or m.top_limits end),

  ffn = deepseek_v3.ffn:with { score = "softmax", choice_bias = false, normalize = false,
                               group_best = 1 },
}
