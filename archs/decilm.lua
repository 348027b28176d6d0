-- DeciLM (Nemotron Super 49B, Ultra 253B and others cut out of Llama): every layer has its own
-- number of key-value heads and its own feed-forward width, or lacks one of the two parts.
local llama = require "llama"

-- What changes a part and is not computed here.
local unknown = { "num_sink_tokens", "replace_with_linear", "sparsify", "unshifted_sink",
                  "use_prefill_window_in_sink_attention", "window_length" }

-- The number under `key` of a part of layer l, "attention" or "ffn"; nil without that part.
local function number_of(m, l, part, key)
  local block = m.blocks[l + 1]
  local t = type(block) == "table" and block[part]
  if type(t) ~= "table" then refuse("block_configs[%d].%s is missing", l, part) end
  for _, other in ipairs(unknown) do
    if t[other] and t[other] ~= null then
      refuse("block_configs[%d].%s.%s is set, which is not supported", l, part, other)
    end
  end
  if t.no_op == true then return nil end
  if type(t[key]) ~= "number" or t[key] <= 0 then
    refuse("block_configs[%d].%s.%s is %s, expected a positive number", l, part, key, t[key])
  end
  return t[key]
end

return llama:with {
  name = "decilm",
  hf   = { "DeciLMForCausalLM" },

  blocks   = cfg "block_configs",
  kv_heads = each(function(m, l)
    local group = number_of(m, l, "attention", "n_heads_in_group")
    return group and m.heads // group
  end),
  ffn_dim  = each(function(m, l)
    local mult = number_of(m, l, "ffn", "ffn_mult")
    return mult and (math.floor(2 * mult * m.dim / 3) + 255) // 256 * 256
  end),

  layer = function(m, x)
    if m.kv_heads then x = x + m.attn(m.attn_norm(x)) end
    if m.ffn_dim then x = x + m.ffn(m.ffn_norm(x)) end
    return x
  end,
}
