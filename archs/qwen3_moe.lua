-- Qwen 3 MoE: Qwen 3 with experts in its layers, or in every decoder_sparse_step-th of them.
local qwen3 = require "qwen3"

return qwen3:with {
  name   = "qwen3_moe",
  hf     = { "Qwen3MoeForCausalLM" },
  expect = { use_sliding_window = false, use_qk_norm = true },

  kv_heads = cfg { "num_key_value_heads", default = 4, null = function(m) return m.heads end },
  head_dim = cfg { "head_dim", default = 128, null = function(m) return m.dim // m.heads end },
  window   = false,

  saved_as   = cfg("num_local_experts", 128), -- what transformers 5 calls them
  experts    = cfg("num_experts", function(m) return m.saved_as end),
  active     = cfg("num_experts_per_tok", 8),
  expert_dim = cfg("moe_intermediate_size", 768),
  route_normalize = cfg("norm_topk_prob", false),
  step       = cfg("decoder_sparse_step", 1),
  dense      = cfg("mlp_only_layers", false), -- numbers of layers without experts

  mlp = qwen3.ffn,
  ffn = moe { under = "mlp.", router = "gate", score = "softmax", normalize = true,
              expert = qwen3.ffn:with { under = "experts.{e}." },
              stacked = { gate_up = "experts.gate_up_proj", down = "experts.down_proj" } },

  is_dense = function(m, l)
    for _, n in ipairs(m.dense or {}) do
      if n == l then return true end
    end
    return (l + 1) % m.step ~= 0
  end,

  layer = function(m, x, l)
    x = x + m.attn(m.attn_norm(x))
    if m.is_dense(m, l) then return x + m.mlp(m.ffn_norm(x)) end
    return x + m.ffn(m.ffn_norm(x))
  end,
}
