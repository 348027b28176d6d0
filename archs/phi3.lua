-- Phi-3 and Phi-4: Llama whose files may hold q, k and v in one tensor, and gate and up.
local llama = require "llama"

return llama:with {
  name = "phi3",
  hf   = { "Phi3ForCausalLM" },

  eps          = cfg("rms_norm_eps", 1e-05),
  qkv_bias     = false,
  ffn_bias     = false,
  window       = cfg("sliding_window", false),
  max_position = cfg("max_position_embeddings", 4096),
  rope         = rope_config { style = "neox", partial = true, original = 4096,
                               types = { default = "default", longrope = "longrope",
                                         su = "longrope", yarn = "longrope" } },

  attn = llama.attn:with { fused = "qkv_proj" },
  ffn  = llama.ffn:with { fused = "gate_up_proj" },
}
