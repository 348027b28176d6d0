-- Command-R, R+ and Aya: attention and feed-forward side by side behind one LayerNorm, interleaved
-- rope, scaled logits. R+ has a LayerNorm on each q and k head.
local llama = require "llama"

return llama:with {
  name = "cohere",
  hf   = { "CohereForCausalLM" },

  eps          = cfg("layer_norm_eps", 1e-05),
  tied         = cfg("tie_word_embeddings", true),
  logit_scale  = cfg("logit_scale", 0.0625),
  ffn_bias     = false,
  max_position = cfg("max_position_embeddings", 8192),
  rope         = rope_config { style = "interleaved", theta = 500000 },
  head_norms   = cfg("use_qk_norm", false),

  norm      = layernorm "model.norm",
  attn_norm = layernorm "input_layernorm",
  attn      = each(function(m)
    return m.head_norms and llama.attn:with { q_norm = "q_norm", k_norm = "k_norm",
                                              norms = "each head" } or llama.attn
  end),

  layer = function(m, x)
    return x + m.attn(m.attn_norm(x)) + m.ffn(m.attn_norm(x))
  end,
}
