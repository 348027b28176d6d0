-- The text part of Qwen 3.5 and 3.6 without experts.
local qwen3_5_moe = require "qwen3_5_moe"

return qwen3_5_moe:with {
  name = "qwen3_5",
  hf   = { "Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration" },

  kv_heads = cfg("num_key_value_heads", 4),
  ffn_dim  = cfg("intermediate_size", 12288),
  is_dense = function() return true end,
}
