-- dots.llm1: Qwen 3 with experts and a shared one behind its first, dense, layers.
local qwen3 = require "qwen3"

return qwen3:with {
  name   = "dots1",
  hf     = { "Dots1ForCausalLM" },
  expect = { scoring_func = { "noaux_tc", "sigmoid" } },

  kv_heads     = cfg { "num_key_value_heads", default = 32, null = function(m) return m.heads end },
  head_dim     = cfg("head_dim", function(m) return m.dim // m.heads end),
  max_position = cfg("max_position_embeddings", 2048),
  window_size  = cfg { "sliding_window", default = 4096, null = false },
  window_from  = cfg("max_window_layers", 62),
  window       = windows {
    size    = function(m) return m.window_size end,
    sliding = function(m, l) return m.window_size and l >= m.window_from end,
  },

  dense       = cfg("first_k_dense_replace", 0),
  experts     = cfg "n_routed_experts",
  active      = cfg "num_experts_per_tok",
  expert_dim  = cfg "moe_intermediate_size",
  shared      = cfg("n_shared_experts", 1),
  shared_dim  = derived(function(m) return m.shared * m.expert_dim end),
  route_scale = cfg("routed_scaling_factor", 1),
  route_normalize = cfg("norm_topk_prob", false),
  groups      = cfg("n_group", 1),
  top_groups  = cfg("topk_group", 1),

  mlp = qwen3.ffn,
  ffn = moe { under = "mlp.", router = "gate", choice_bias = { "gate.e_score_correction_bias" },
              score = "sigmoid", normalize = true,
              expert = qwen3.ffn:with { under = "experts.{e}." },
              shared = qwen3.ffn:with { under = "shared_experts." } },

  layer = function(m, x, l)
    x = x + m.attn(m.attn_norm(x))
    if l < m.dense then return x + m.mlp(m.ffn_norm(x)) end
    return x + m.ffn(m.ffn_norm(x))
  end,
}
