-- Qwen 3: Qwen 2 with a norm on each q and k head.
local qwen2 = require "qwen2"

return qwen2:with {
  name = "qwen3",
  hf   = { "Qwen3ForCausalLM" },

  head_dim = cfg("head_dim", 128),
  qkv_bias = cfg("attention_bias", false),
  o_bias   = derived(function(m) return m.qkv_bias end),
  attn     = qwen2.attn:with { q_norm = "q_norm", k_norm = "k_norm" },
}
