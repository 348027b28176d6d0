-- Ministral 3 and Devstral 2, whose queries grow with the logarithm of their position, and the text
-- part of Mistral 3 models: Mistral.
local mistral = require "mistral"

local function is_ministral(m) return m.kind == "ministral3" end

return mistral:with {
  name   = "mistral3",
  hf     = { "Ministral3ForCausalLM", "Mistral3ForConditionalGeneration" },
  expect = { model_type = { "mistral", "ministral3", "mistral3" } },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" },
             { model = "language_model.model.", head = "language_model.lm_head" } },

  kind         = cfg("model_type", "mistral"),
  head_dim     = cfg { "head_dim", null = function(m) return m.dim // m.heads end,
                       default = function(m)
                         return is_ministral(m) and 128 or m.dim // m.heads
                       end },
  tied         = cfg { "tie_word_embeddings", default = false, outer = true },
  window       = cfg { "sliding_window", null = false,
                       default = function(m) return not is_ministral(m) and 4096 end },
  max_position = cfg("max_position_embeddings",
                     function(m) return is_ministral(m) and 262144 or 131072 end),

  plain  = mistral.rope,
  scaled = rope_config {
    style = "neox", query_scale = true,
    otherwise = { rope_type = "yarn", rope_theta = 1000000, factor = 16, mscale = 1,
                  mscale_all_dim = 1, original_max_position_embeddings = 16384,
                  llama_4_scaling_beta = 0.1 },
  },
  rope   = each(function(m) return is_ministral(m) and m.scaled or m.plain end),
}
