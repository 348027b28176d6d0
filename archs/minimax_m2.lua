-- MiniMax M2, M2.1 to M2.7: Mixtral with one norm over all heads of q and of k, rope on a part of
-- each head, and experts by independent scores. What predicts further tokens is left out.
local mixtral = require "mixtral"

return mixtral:with {
  name   = "minimax_m2",
  hf     = { "MiniMaxM2ForCausalLM" },
  expect = { use_qk_norm = true, qk_norm_type = "per_layer", use_routing_bias = true,
             scoring_func = "sigmoid", shared_intermediate_size = 0 },

  head_dim     = cfg("head_dim", 128),
  eps          = cfg("rms_norm_eps", 1e-06),
  window       = false,
  max_position = cfg("max_position_embeddings", 196608),
  turned_dim   = cfg("rotary_dim", false),
  rope         = rope_config { style = "neox", theta = 5000000, partial = true,
                               dim = function(m) return m.turned_dim end },

  experts = cfg("num_local_experts", 256),
  active  = cfg("num_experts_per_tok", 8),

  attn = mixtral.attn:with { q_norm = "q_norm", k_norm = "k_norm", norms = "all heads" },
  ffn  = mixtral.ffn:with { score = "sigmoid", choice_bias = { "e_score_correction_bias",
                                                               "gate.e_score_correction_bias" } },
}
