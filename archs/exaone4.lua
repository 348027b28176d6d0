-- EXAONE 4.0: norms only behind attention and feed-forward, and on the heads of q and k. Models
-- with windows do not turn q and k where there is none; models without turn them everywhere.
local llama = require "llama"

return llama:with {
  name = "exaone4",
  hf   = { "Exaone4ForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 32, null = function(m) return m.heads end },
  eps          = cfg("rms_norm_eps", 1e-05),
  qkv_bias     = false,
  ffn_bias     = false,
  size         = cfg { "sliding_window", default = 4096, null = false },
  pattern      = cfg("sliding_window_pattern", 4), -- a number, or letters: L is a window
  window       = windows {
    size    = function(m) return m.size end,
    sliding = function(m, l)
      if not m.size or l == m.layers - 1 then return false end
      if type(m.pattern) == "number" then return (l + 1) % m.pattern ~= 0 end
      local at = l % #m.pattern + 1
      return m.pattern:sub(at, at) == "L"
    end,
  },
  turned = rope_config { style = "neox" },
  rope   = each(function(m, l) return (not m.size or is_sliding(m, l)) and m.turned end),

  attn      = llama.attn:with { q_norm = "q_norm", k_norm = "k_norm" },
  attn_post = rmsnorm "post_attention_layernorm",
  ffn_post  = rmsnorm "post_feedforward_layernorm",

  layer = function(m, x)
    x = x + m.attn_post(m.attn(x))
    return x + m.ffn_post(m.ffn(x))
  end,
}
