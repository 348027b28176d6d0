-- Command-A, R7B: Command-R with windows on three layers of four, the only ones that turn q and k.
local cohere = require "cohere"

return cohere:with {
  name = "cohere2",
  hf   = { "Cohere2ForCausalLM" },
  expect = { order_of_interleaved_layers = "local_attn_first", rotary_pct = 1 },

  turned  = rope_config { style = "interleaved" },
  rope    = each(function(m, l) return is_sliding(m, l) and m.turned end),
  pattern = cfg("sliding_window_pattern", 4),
  size    = cfg { "sliding_window", default = 4096, null = false },
  window  = windows {
    size    = function(m) return m.size end,
    sliding = function(m, l) return (l + 1) % m.pattern ~= 0 end,
  },
}
