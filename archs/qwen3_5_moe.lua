-- The text part of Qwen 3.5 and 3.6 with experts: Qwen 3 Next with projections of their own for the
-- parts of a delta net, and experts in every layer.
local qwen3_next = require "qwen3_next"

return qwen3_next:with {
  name   = "qwen3_5_moe",
  hf     = { "Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration" },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" } },

  vocab    = cfg("vocab_size", 248320),
  tied     = cfg { "tie_word_embeddings", default = false, outer = true },
  experts  = cfg("num_experts", 256),
  active   = cfg("num_experts_per_tok", 8),
  dense    = false,
  route_normalize = true,
  is_dense = function() return false end,

  delta = delta_net { under = "linear_attn.", qkv = "in_proj_qkv", z = "in_proj_z",
                      b = "in_proj_b", a = "in_proj_a", conv = "conv1d", a_log = "A_log",
                      dt_bias = "dt_bias", norm = "norm", o = "out_proj" },
}
