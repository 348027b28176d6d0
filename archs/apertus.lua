-- Apertus: Llama with norms on the heads of q and k, and a feed-forward without a gate, whose
-- activation has two learned parameters a layer.
local llama = require "llama"

return llama:with {
  name   = "apertus",
  hf     = { "ApertusForCausalLM" },
  expect = { hidden_act = "xielu" },
  ignore = { "qk_norm" },

  eps          = cfg("rms_norm_eps", 1e-05),
  ffn_bias     = false,
  max_position = cfg("max_position_embeddings", 65536),
  rope         = rope_config {
    style = "neox", theta = 12000000,
    otherwise = { rope_type = "llama3", factor = 8, low_freq_factor = 1, high_freq_factor = 4,
                  original_max_position_embeddings = 8192 },
  },

  attn_norm = rmsnorm "attention_layernorm",
  attn      = llama.attn:with { q_norm = "q_norm", k_norm = "k_norm" },
  ffn_norm  = rmsnorm "feedforward_layernorm",
  ffn       = mlp { under = "mlp.", up = "up_proj", down = "down_proj", act = "xielu",
                    parameters = { "act_fn.alpha_p", "act_fn.alpha_n" } },
}
