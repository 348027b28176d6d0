-- Llama: pre-norm decoder, grouped-query attention, SwiGLU feed-forward.
return arch {
  name   = "llama",
  hf     = { "LlamaForCausalLM" },
  expect = { hidden_act = "silu" },
  ignore = { "sliding_window" },      -- so does Hugging Face

  dim      = cfg "hidden_size",
  layers   = cfg "num_hidden_layers",
  heads    = cfg "num_attention_heads",
  kv_heads = cfg("num_key_value_heads", function(m) return m.heads end),
  head_dim = cfg("head_dim", function(m) return m.dim // m.heads end),
  ffn_dim  = cfg "intermediate_size",
  vocab    = cfg "vocab_size",
  eps      = cfg "rms_norm_eps",
  tied     = cfg("tie_word_embeddings", false),
  window   = false,
  qkv_bias = cfg("attention_bias", false), -- of a bare config; in files, biases are found
  o_bias   = derived(function(m) return m.qkv_bias end),
  ffn_bias = cfg("mlp_bias", false),
  rope     = rope_config { style = "neox" },   -- reads rope_theta/rope_scaling and rope_parameters

  max_position = cfg("max_position_embeddings", 2048),

  embed = embedding "model.embed_tokens",
  norm  = rmsnorm "model.norm",
  head  = linear { "lm_head", tied = "model.embed_tokens" },

  block     = "model.layers.{l}.",  -- every tensor named below lives under it
  attn_norm = rmsnorm "input_layernorm",
  attn      = attention { under = "self_attn.", q = "q_proj", k = "k_proj",
                          v = "v_proj", o = "o_proj" },
  ffn_norm  = rmsnorm "post_attention_layernorm",
  ffn       = gated_mlp { under = "mlp.", gate = "gate_proj", up = "up_proj",
                          down = "down_proj", act = "silu" },

  layer = function(m, x)
    x = x + m.attn(m.attn_norm(x))
    return x + m.ffn(m.ffn_norm(x))
  end,
}
