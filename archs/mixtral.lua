-- Mixtral: Llama whose feed-forward is the best experts for each token.
local llama = require "llama"

return llama:with {
  name = "mixtral",
  hf   = { "MixtralForCausalLM" },

  kv_heads     = cfg { "num_key_value_heads", default = 8, null = function(m) return m.heads end },
  eps          = cfg("rms_norm_eps", 1e-05),
  qkv_bias     = false,
  ffn_bias     = false,
  window       = cfg("sliding_window", false),
  max_position = cfg("max_position_embeddings", 131072),
  rope         = rope_config { style = "neox", theta = 1000000 },

  experts    = cfg("num_local_experts", 8),
  active     = cfg("num_experts_per_tok", 2),
  expert_dim = cfg "intermediate_size",

  ffn = moe { under = "block_sparse_moe.", router = "gate", score = "softmax", normalize = true,
              expert = gated_mlp { under = "experts.{e}.", gate = "w1", up = "w3", down = "w2",
                                   act = "silu" } },
}
