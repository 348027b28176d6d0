-- The text part of GLM-4.1V and GLM-4.6V Flash: GLM-4. The three axes of its rope are the same for
-- text.
local glm4 = require "glm4"

return glm4:with {
  name   = "glm4v",
  hf     = { "Glm4vForConditionalGeneration" },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" } },

  head_dim     = derived(function(m) return m.dim // m.heads end),
  eps          = cfg("rms_norm_eps", 1e-05),
  tied         = cfg { "tie_word_embeddings", default = false, outer = true },
  qkv_bias     = true,
  max_position = cfg("max_position_embeddings", 32768),
  rope         = rope_config { style = "interleaved", partial = true },
}
