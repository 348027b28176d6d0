-- The text part of Qwen 2 VL and Qwen 2.5 VL: Qwen 2. The three axes of its rope are the same for
-- text.
local qwen2 = require "qwen2"

return qwen2:with {
  name   = "qwen2_5_vl",
  hf     = { "Qwen2_5_VLForConditionalGeneration", "Qwen2VLForConditionalGeneration" },
  inside = "text_config", -- in files of transformers 5; others have its keys at the top
  roots  = { { model = "model.language_model.", head = "lm_head" } },

  kv_heads    = cfg { "num_key_value_heads", default = 8, null = function(m) return m.heads end },
  head_dim    = derived(function(m) return m.dim // m.heads end),
  vocab       = cfg("vocab_size", 152064),
  eps         = cfg("rms_norm_eps", 1e-05),
  tied        = cfg { "tie_word_embeddings", default = false, outer = true },
  window_from = cfg("max_window_layers", 80),
  rope        = rope_config { style = "neox", theta = 1000000,
                              types = { default = "default", mrope = "default", yarn = "yarn" } },
}
