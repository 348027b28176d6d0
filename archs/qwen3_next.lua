-- Qwen 3 Next: gated delta nets, attention with gates in every fourth layer, and experts with one
-- that every token passes through. The layer that predicts further tokens is left out.
local qwen3_moe = require "qwen3_moe"

return qwen3_moe:with {
  name   = "qwen3_next",
  hf     = { "Qwen3NextForCausalLM" },
  expect = { attn_output_gate = true },

  vocab        = cfg("vocab_size", 151936),
  kv_heads     = cfg("num_key_value_heads", 2),
  head_dim     = cfg("head_dim", 256),
  ffn_dim      = cfg("intermediate_size", 5632),
  max_position = cfg("max_position_embeddings", 32768),
  rope         = rope_config { style = "neox", partial = 0.25 },

  full_every      = cfg("full_attention_interval", 4),
  delta_key_heads = cfg("linear_num_key_heads", 16),
  delta_heads     = cfg("linear_num_value_heads", 32),
  delta_key_dim   = cfg("linear_key_head_dim", 128),
  delta_value_dim = cfg("linear_value_head_dim", 128),
  delta_taps      = cfg("linear_conv_kernel_dim", 4),

  saved_as   = false,
  experts    = cfg("num_experts", 512),
  active     = cfg("num_experts_per_tok", 10),
  expert_dim = cfg("moe_intermediate_size", 512),
  shared_dim = cfg("shared_expert_intermediate_size", 512),
  route_normalize = cfg { "norm_topk_prob", default = true, null = false },

  norm      = rmsnorm { "model.norm", offset = 1 },
  attn_norm = rmsnorm { "input_layernorm", offset = 1 },
  ffn_norm  = rmsnorm { "post_attention_layernorm", offset = 1 },
  attn      = qwen3_moe.attn:with { gated = true, norm_offset = 1 },
  delta     = delta_net { under = "linear_attn.", qkvz = "in_proj_qkvz", ba = "in_proj_ba",
                          conv = "conv1d", a_log = "A_log", dt_bias = "dt_bias", norm = "norm",
                          o = "out_proj" },
  ffn       = qwen3_moe.ffn:with { shared = qwen3_moe.mlp:with { under = "shared_expert." },
                                   shared_gate = "shared_expert_gate" },

  layer = function(m, x, l)
    local mix = is_linear(m, l) and m.delta or m.attn
    x = x + mix(m.attn_norm(x))
    if m.is_dense(m, l) then return x + m.mlp(m.ffn_norm(x)) end
    return x + m.ffn(m.ffn_norm(x))
  end,
}
