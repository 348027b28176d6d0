-- The text part of Kimi K2.5 and K2.6: DeepSeek-V3.
local deepseek_v3 = require "deepseek_v3"

return deepseek_v3:with {
  name   = "kimi_k25",
  hf     = { "KimiK25ForConditionalGeneration" },
  inside = "text_config",
  roots  = { { model = "language_model.model.", head = "language_model.lm_head" },
             { model = "model.language_model.", head = "lm_head" } },

  tied = cfg { "tie_word_embeddings", default = false, outer = true },
}
