-- Ministral 3 and Devstral 2, and the text part of Mistral 3 models: Mistral whose queries may grow
-- with the logarithm of their position.
local mistral = require "mistral"

return mistral:with {
  name   = "mistral3",
  hf     = { "Ministral3ForCausalLM", "Mistral3ForConditionalGeneration" },
  expect = { model_type = { "mistral", "ministral3", "mistral3" } },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" },
             { model = "language_model.model.", head = "language_model.lm_head" } },

  head_dim     = cfg { "head_dim", default = 128, null = function(m) return m.dim // m.heads end },
  tied         = cfg { "tie_word_embeddings", default = false, outer = true },
  window       = cfg("sliding_window", false),
  max_position = cfg("max_position_embeddings", 262144),
  rope         = rope_config { style = "neox", query_scale = true },
}
