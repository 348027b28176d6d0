-- MiMo 7B: Llama with biases on q, k and v. The layers that predict further tokens are left out.
local llama = require "llama"

return llama:with {
  name   = "mimo",
  hf     = { "MiMoForCausalLM" },
  expect = { use_sliding_window = false },

  qkv_bias     = true,
  o_bias       = false,
  ffn_bias     = false,
  max_position = cfg("max_position_embeddings", 32768),
}
