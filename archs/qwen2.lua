-- Qwen 2 and 2.5: Llama with biases on q, k and v, and windows on the later layers when asked for.
local llama = require "llama"

return llama:with {
  name = "qwen2",
  hf   = { "Qwen2ForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 32, null = function(m) return m.heads end },
  max_position = cfg("max_position_embeddings", 32768),
  qkv_bias     = true,
  o_bias       = false,
  ffn_bias     = false,

  use_window  = cfg("use_sliding_window", false),
  window_size = cfg { "sliding_window", default = 4096, null = false },
  window_from = cfg("max_window_layers", 28),
  window      = windows {
    size    = function(m) return m.use_window and m.window_size end,
    sliding = function(m, l) return l >= m.window_from end,
  },
}
