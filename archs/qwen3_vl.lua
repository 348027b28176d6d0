-- The text part of Qwen 3 VL: Qwen 3. The three axes of its rope are the same for text.
local qwen3 = require "qwen3"

return qwen3:with {
  name   = "qwen3_vl",
  hf     = { "Qwen3VLForConditionalGeneration" },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" } },

  vocab        = cfg("vocab_size", 151936),
  tied         = cfg { "tie_word_embeddings", default = false, outer = true },
  window       = false,
  max_position = cfg("max_position_embeddings", 128000),
  rope         = rope_config { style = "neox", theta = 500000 },
}
