-- OLMo 3: OLMo 2 with windows on three layers of four, whose rope is not scaled.
local olmo2 = require "olmo2"

return olmo2:with {
  name = "olmo3",
  hf   = { "Olmo3ForCausalLM" },

  size   = cfg { "sliding_window", default = 4096, null = false },
  window = windows {
    size    = function(m) return m.size end,
    sliding = function(m, l) return (l + 1) % 4 ~= 0 end,
  },
  near = rope_config { style = "neox", theta = 500000, theta_key = false, -- it is for the others
                       of = "sliding_attention", scaled = false },
  far  = rope_config { style = "neox", theta = 500000, of = "full_attention" },
  rope = each(function(m, l) return is_sliding(m, l) and m.near or m.far end),
}
