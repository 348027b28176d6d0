-- MiMo 7B: Llama with biases on q, k and v, found by their tensors. The layers that predict further
-- tokens are left out.
local llama = require "llama"

return llama:with {
  name   = "mimo",
  hf     = { "MiMoForCausalLM" },
  expect = { use_sliding_window = false },

  max_position = cfg("max_position_embeddings", 32768),
}
