-- Gemma 2: norms around attention and feed-forward, stored as their difference from one; soft caps
-- on scores and logits; embeddings scaled by the root of their width; every other layer windowed.
local llama = require "llama"

return llama:with {
  name   = "gemma2",
  hf     = { "Gemma2ForCausalLM" },
  expect = { hidden_activation = "gelu_pytorch_tanh",
             hidden_act = { "gelu_pytorch_tanh", "gelu" } }, -- which counts only without the former
  ignore = { "sliding_window_size", "use_bidirectional_attention" },

  kv_heads      = cfg("num_key_value_heads", 4),
  head_dim      = cfg("head_dim", 256),
  eps           = cfg("rms_norm_eps", 1e-06),
  tied          = cfg("tie_word_embeddings", true),
  ffn_bias      = false,
  max_position  = cfg("max_position_embeddings", 8192),
  embed_scale   = derived(function(m) return m.dim ^ 0.5 end),
  query_scalar  = cfg("query_pre_attn_scalar", 256),
  softmax_scale = derived(function(m) return m.query_scalar ^ -0.5 end),
  attn_softcap  = cfg { "attn_logit_softcapping", default = 50, null = false },
  logit_softcap = cfg { "final_logit_softcapping", default = 30, null = false },

  size   = cfg { "sliding_window", default = 4096, null = false },
  window = windows {
    size    = function(m) return m.size end,
    sliding = function(m, l) return l % 2 == 0 end,
  },

  norm      = rmsnorm { "model.norm", offset = 1 },
  attn_norm = rmsnorm { "input_layernorm", offset = 1 },
  attn_post = rmsnorm { "post_attention_layernorm", offset = 1 },
  ffn_norm  = rmsnorm { "pre_feedforward_layernorm", offset = 1 },
  ffn       = llama.ffn:with { act = "gelu_tanh" },
  ffn_post  = rmsnorm { "post_feedforward_layernorm", offset = 1 },

  layer = function(m, x)
    x = x + m.attn_post(m.attn(m.attn_norm(x)))
    return x + m.ffn_post(m.ffn(m.ffn_norm(x)))
  end,
}
