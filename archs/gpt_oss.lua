-- gpt-oss: experts with biases and a clamped activation in every layer; a score without a value in
-- every head's softmax; every other layer windowed.
local llama = require "llama"

return llama:with {
  name   = "gpt_oss",
  hf     = { "GptOssForCausalLM" },
  expect = { swiglu_alpha = 1.702 },

  heads        = cfg("num_attention_heads", 64),
  kv_heads     = cfg { "num_key_value_heads", default = 8, null = function(m) return m.heads end },
  head_dim     = cfg { "head_dim", default = 64, null = function(m) return m.dim // m.heads end },
  eps          = cfg("rms_norm_eps", 1e-05),
  qkv_bias     = cfg("attention_bias", true),
  expert_bias  = true,
  max_position = cfg("max_position_embeddings", 131072),
  rope         = rope_config {
    style = "neox", theta = 150000,
    otherwise = { rope_type = "yarn", factor = 32, beta_fast = 32, beta_slow = 1,
                  truncate = false, original_max_position_embeddings = 4096 },
  },
  size         = cfg { "sliding_window", default = 128, null = false },
  window       = windows {
    size    = function(m) return m.size end,
    sliding = function(m, l) return l % 2 == 0 end,
  },

  experts    = cfg("num_local_experts", 128),
  active     = cfg("num_experts_per_tok", 4),
  expert_dim = cfg "intermediate_size",
  act_limit  = cfg("swiglu_limit", 7.0),

  attn = llama.attn:with { sinks = "sinks" },
  ffn  = moe { under = "mlp.", router = "router", router_bias = "router.bias", score = "softmax",
               normalize = true,
               expert = llama.ffn:with { under = "experts.{e}.", act = "clamped_silu" },
               stacked = { gate_up = "experts.gate_up_proj", down = "experts.down_proj",
                           interleaved = true, transposed = true } },
}
