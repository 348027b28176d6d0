-- ERNIE 4.5 MoE: ERNIE 4.5 with experts, and perhaps a shared one, in all layers of a range.
local ernie4_5 = require "ernie4_5"

return ernie4_5:with {
  name   = "ernie4_5_moe",
  hf     = { "Ernie4_5_MoeForCausalLM" },
  expect = { moe_gate_act = "softmax", moe_use_aux_free = true },

  kv_heads  = cfg { "num_key_value_heads", default = 4, null = function(m) return m.heads end },
  head_dim  = cfg("head_dim", function(m) return m.dim // m.heads end),
  head_bias = cfg("use_bias", false),

  first       = cfg("moe_layer_start_index", 1),
  last        = cfg("moe_layer_end_index", -1), -- of all layers
  interval    = cfg("moe_layer_interval", 1),
  experts     = cfg("moe_num_experts", 64),
  active      = cfg("moe_k", 6),
  expert_dim  = cfg("moe_intermediate_size", 1536),
  shared      = cfg("moe_num_shared_experts", 2),
  shared_dim  = derived(function(m) return m.shared * m.expert_dim end),

  mlp = ernie4_5.ffn,
  ffn = moe { under = "mlp.", router = "gate", score = "softmax", normalize = true,
              choice_bias = { "moe_statics.e_score_correction_bias",
                              "gate.e_score_correction_bias" },
              expert = ernie4_5.ffn:with { under = "experts.{e}." },
              shared = ernie4_5.ffn:with { under = "shared_experts." } },

  layer = function(m, x, l)
    x = x + m.attn(m.attn_norm(x))
    local last = m.last < 0 and m.layers - 1 or m.last
    if l >= m.first and l <= last and (l + 1) % m.interval == 0 then
      return x + m.ffn(m.ffn_norm(x))
    end
    return x + m.mlp(m.ffn_norm(x))
  end,
}
