-- Seed-OSS: Llama with biases on q, k and v.
local llama = require "llama"

return llama:with {
  name = "seed_oss",
  hf   = { "SeedOssForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 8, null = function(m) return m.heads end },
  head_dim     = cfg { "head_dim", default = 128, null = function(m) return m.dim // m.heads end },
  qkv_bias     = cfg("attention_bias", true),
  o_bias       = cfg("attention_out_bias", false),
  max_position = cfg("max_position_embeddings", 524288),
}
