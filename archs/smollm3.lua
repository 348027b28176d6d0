-- SmolLM 3: Llama in which every fourth layer does not turn q and k.
local llama = require "llama"

return llama:with {
  name = "smollm3",
  hf   = { "SmolLM3ForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 4, null = function(m) return m.heads end },
  tied         = cfg("tie_word_embeddings", true),
  max_position = cfg("max_position_embeddings", 32768),

  use_window = cfg("use_sliding_window", false),
  size       = cfg("sliding_window", false),
  turns      = cfg("no_rope_layers", false), -- 1: the layer turns q and k
  interval   = cfg("no_rope_layer_interval", 4),
  turned     = rope_config { style = "neox", theta = 2000000 },
  rope       = each(function(m, l)
    local turns = (l + 1) % m.interval ~= 0
    if m.turns then turns = m.turns[l + 1] ~= 0 end
    return turns and m.turned
  end),
  window = windows {
    size    = function(m) return m.use_window and m.size end,
    sliding = function(m, l) return m.use_window and not m.rope end,
  },
}
