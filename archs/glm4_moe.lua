-- GLM-4.5, 4.6 and 4.7: dots.llm1 with rope on half of each head, and norms on the heads of q and k
-- where the config says so. The layer that predicts further tokens is left out.
local dots1 = require "dots1"
local llama = require "llama"

return dots1:with {
  name   = "glm4_moe",
  hf     = { "Glm4MoeForCausalLM" },
  ignore = { "partial_rotary_factor" },

  kv_heads     = cfg { "num_key_value_heads", default = 8, null = function(m) return m.heads end },
  eps          = cfg("rms_norm_eps", 1e-05),
  o_bias       = false,
  max_position = cfg("max_position_embeddings", 131072),
  rope         = rope_config { style = "neox", partial = 0.5 },
  window       = false,
  head_norms   = cfg("use_qk_norm", false),
  attn         = each(function(m) return m.head_norms and dots1.attn or llama.attn end),

  dense   = cfg("first_k_dense_replace", 1),
  experts = cfg("n_routed_experts", 128),
  active  = cfg("num_experts_per_tok", 8),
  route_normalize = cfg { "norm_topk_prob", default = true, null = false },
}
