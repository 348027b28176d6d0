-- GLM-4.7 Flash: DeepSeek-V3 without groups of experts, the first layer dense.
local deepseek_v3 = require "deepseek_v3"

return deepseek_v3:with {
  name   = "glm4_moe_lite",
  hf     = { "Glm4MoeLiteForCausalLM" },
  expect = { first_k_dense_replace = 1 },

  eps          = cfg("rms_norm_eps", 1e-05),
  vocab        = cfg("vocab_size", 154880),
  max_position = cfg("max_position_embeddings", 202752),
  q_latent     = cfg { "q_lora_rank", default = 768, null = false },
  nope_dim     = cfg("qk_nope_head_dim", 192),
  value_dim    = cfg("v_head_dim", 256),

  kinds       = cfg("mlp_layer_types", false), -- "dense" or "sparse" for every layer
  experts     = cfg("n_routed_experts", 64),
  active      = cfg("num_experts_per_tok", 4),
  expert_dim  = cfg("moe_intermediate_size", 1536),
  route_scale = cfg("routed_scaling_factor", 1.8),
  groups      = cfg("n_group", 1),
  top_groups  = cfg("topk_group", 1),

  layer = function(m, x, l)
    x = x + m.attn(m.attn_norm(x))
    local kind = m.kinds and m.kinds[l + 1] or (l == 0 and "dense" or "sparse")
    if kind == "dense" then return x + m.mlp(m.ffn_norm(x)) end
    return x + m.ffn(m.ffn_norm(x))
  end,
}
