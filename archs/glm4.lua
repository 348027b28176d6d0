-- GLM-4 (0414 and Z1): norms around attention and feed-forward; interleaved rope on half of each
-- head.
local llama = require "llama"

return llama:with {
  name = "glm4",
  hf   = { "Glm4ForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 2, null = function(m) return m.heads end },
  head_dim     = cfg { "head_dim", default = 128, null = function(m) return m.dim // m.heads end },
  eps          = cfg("rms_norm_eps", 1.5625e-07),
  qkv_bias     = cfg("attention_bias", true),
  o_bias       = false,
  ffn_bias     = false,
  max_position = cfg("max_position_embeddings", 131072),
  rope         = rope_config { style = "interleaved", partial = 0.5 },

  attn_post = rmsnorm "post_self_attn_layernorm",
  ffn       = llama.ffn:with { fused = "gate_up_proj" },
  ffn_post  = rmsnorm "post_mlp_layernorm",

  layer = function(m, x)
    x = x + m.attn_post(m.attn(m.attn_norm(x)))
    return x + m.ffn_post(m.ffn(m.ffn_norm(x)))
  end,
}
