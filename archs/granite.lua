-- Granite 3: Llama with factors on embeddings, scores, residuals and logits.
local llama = require "llama"

return llama:with {
  name = "granite",
  hf   = { "GraniteForCausalLM" },

  embed_scale    = cfg("embedding_multiplier", 1),
  softmax_scale  = cfg("attention_multiplier", 1),
  residual_scale = cfg("residual_multiplier", 1),
  logits_divisor = cfg("logits_scaling", 1),
  logit_scale    = derived(function(m) return 1 / m.logits_divisor end),
}
