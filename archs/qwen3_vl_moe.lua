-- The text part of Qwen 3 VL with experts: Qwen 3 MoE. Files that are not quantized have the inputs
-- of all experts before their outputs.
local qwen3_moe = require "qwen3_moe"

return qwen3_moe:with {
  name   = "qwen3_vl_moe",
  hf     = { "Qwen3VLMoeForConditionalGeneration" },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" } },

  kv_heads     = cfg { "num_key_value_heads", default = 16, null = function(m) return m.heads end },
  head_dim     = cfg("head_dim", function(m) return m.dim // m.heads end),
  vocab        = cfg("vocab_size", 151936),
  tied         = cfg { "tie_word_embeddings", default = false, outer = true },
  max_position = cfg("max_position_embeddings", 128000),
  rope         = rope_config { style = "neox", theta = 500000 },

  saved_as   = cfg("num_local_experts", 60),
  active     = cfg("num_experts_per_tok", 4),
  expert_dim = cfg("moe_intermediate_size", 1408),
  route_normalize = true,

  ffn = qwen3_moe.ffn:with { stacked = { gate_up = "experts.gate_up_proj",
                                         down = "experts.down_proj", transposed = true } },
}
