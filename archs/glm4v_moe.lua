-- The text part of GLM-4.5V and GLM-4.6V: GLM-4.5 without norms on the heads of q and k. The three
-- axes of its rope are the same for text.
local glm4_moe = require "glm4_moe"

return glm4_moe:with {
  name   = "glm4v_moe",
  hf     = { "Glm4vMoeForConditionalGeneration" },
  expect = { use_qk_norm = false },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" } },

  vocab        = cfg("vocab_size", 151424),
  tied         = cfg { "tie_word_embeddings", default = false, outer = true },
  qkv_bias     = cfg("attention_bias", true),
  max_position = cfg("max_position_embeddings", 65536),
  head_norms   = false,
}
