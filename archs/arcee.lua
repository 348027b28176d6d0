-- Arcee (AFM): Llama whose feed-forward has no gate and squares what is positive.
local llama = require "llama"

return llama:with {
  name   = "arcee",
  hf     = { "ArceeForCausalLM" },
  expect = { hidden_act = "relu2" },

  eps          = cfg("rms_norm_eps", 1e-05),
  max_position = cfg("max_position_embeddings", 4096),

  ffn = mlp { under = "mlp.", up = "up_proj", down = "down_proj", act = "relu2" },
}
