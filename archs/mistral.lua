-- Mistral: Llama whose every layer sees only the last sliding_window keys.
local llama = require "llama"

return llama:with {
  name = "mistral",
  hf   = { "MistralForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 8, null = function(m) return m.heads end },
  qkv_bias     = false,
  ffn_bias     = false,
  window       = cfg { "sliding_window", default = 4096, null = false },
  max_position = cfg("max_position_embeddings", 131072),
}
