-- ERNIE 4.5, dense: Llama with interleaved rope.
local llama = require "llama"

return llama:with {
  name = "ernie4_5",
  hf   = { "Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 2, null = function(m) return m.heads end },
  head_dim     = cfg { "head_dim", default = 128, null = function(m) return m.dim // m.heads end },
  eps          = cfg("rms_norm_eps", 1e-05),
  tied         = cfg("tie_word_embeddings", true),
  qkv_bias     = cfg("use_bias", false),
  ffn_bias     = cfg("use_bias", false),
  max_position = cfg("max_position_embeddings", 131072),
  rope         = rope_config { style = "interleaved", theta = 500000 },
}
