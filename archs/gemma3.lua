-- Gemma 3, and the text part of its multimodal models: Gemma 2 with norms on the heads of q and k
-- in place of soft caps, and windows on five layers of six, which have a rope of their own.
local gemma2 = require "gemma2"

return gemma2:with {
  name   = "gemma3",
  hf     = { "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration" },
  expect = { use_bidirectional_attention = false },
  inside = "text_config",
  roots  = { { model = "model.language_model.", head = "lm_head" },
             { model = "language_model.model.", head = "language_model.lm_head" } },

  dim           = cfg("hidden_size", 2304),
  layers        = cfg("num_hidden_layers", 26),
  heads         = cfg("num_attention_heads", 8),
  ffn_dim       = cfg("intermediate_size", 9216),
  vocab         = cfg("vocab_size", 262208),
  tied          = cfg { "tie_word_embeddings", default = true, outer = true },
  max_position  = cfg("max_position_embeddings", 131072),
  attn_softcap  = cfg("attn_logit_softcapping", false),
  logit_softcap = cfg("final_logit_softcapping", false),

  pattern = cfg("sliding_window_pattern", 6),
  window  = windows {
    size    = function(m) return m.size end,
    sliding = function(m, l) return (l + 1) % m.pattern ~= 0 end,
  },
  near = rope_config { style = "neox", theta = 10000, theta_key = "rope_local_base_freq",
                       of = "sliding_attention", scaled = false },
  far  = rope_config { style = "neox", theta = 1000000, of = "full_attention" },
  rope = each(function(m, l) return is_sliding(m, l) and m.near or m.far end),

  attn = gemma2.attn:with { q_norm = "q_norm", k_norm = "k_norm", norm_offset = 1 },
}
