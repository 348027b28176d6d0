-- OLMo 2: norms only behind attention and feed-forward, and one over all heads of q and of k.
local llama = require "llama"

return llama:with {
  name = "olmo2",
  hf   = { "Olmo2ForCausalLM" },

  eps      = cfg("rms_norm_eps", 1e-05),
  ffn_bias = false,

  attn      = llama.attn:with { q_norm = "q_norm", k_norm = "k_norm", norms = "all heads" },
  attn_post = rmsnorm "post_attention_layernorm",
  ffn_post  = rmsnorm "post_feedforward_layernorm",

  layer = function(m, x)
    x = x + m.attn_post(m.attn(x))
    return x + m.ffn_post(m.ffn(x))
  end,
}
