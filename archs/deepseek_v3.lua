-- DeepSeek-V3 and R1, Kimi K2, Moonlight and others of that make: attention over one latent vector
-- a token, and the experts of dots.llm1. The layers that predict further tokens are left out.
local dots1 = require "dots1"

return dots1:with {
  name   = "deepseek_v3",
  hf     = { "DeepseekV3ForCausalLM" },
  expect = { topk_method = "noaux_tc", scoring_func = "sigmoid", rope_interleave = true,
             moe_layer_freq = 1 },
  ignore = { "sliding_window" },

  eps          = cfg("rms_norm_eps", 1e-06),
  max_position = cfg("max_position_embeddings", 4096),
  window       = false,
  q_latent     = cfg { "q_lora_rank", default = 1536, null = false },
  kv_latent    = cfg("kv_lora_rank", 512),
  nope_dim     = cfg("qk_nope_head_dim", 128),
  turned_dim   = cfg("qk_rope_head_dim", 64),
  value_dim    = cfg("v_head_dim", 128),
  latent_eps   = 1e-06, -- whatever rms_norm_eps says
  kv_heads     = derived(function() return 1 end),
  head_dim     = derived(function(m) return m.kv_latent + m.turned_dim end),
  rope         = rope_config { style = "interleaved", dim = function(m) return m.turned_dim end },

  route_normalize = cfg { "norm_topk_prob", default = true, null = false },

  -- A scaled rope with mscale_all_dim makes scores larger, too.
  scaling       = cfg("rope_scaling", false),
  parameters    = cfg("rope_parameters", false),
  softmax_scale = derived(function(m)
    local s, m_all = m.scaling or m.parameters or {}, 0
    local kind = s.rope_type or s.type or "default"
    if kind ~= "default" and type(s.mscale_all_dim) == "number" and s.factor > 1 then
      m_all = 0.1 * s.mscale_all_dim * math.log(s.factor)
    end
    return (m.nope_dim + m.turned_dim) ^ -0.5 * (m_all + 1) ^ 2
  end),

  dense       = cfg("first_k_dense_replace", 3),
  experts     = cfg("n_routed_experts", 256),
  active      = cfg("num_experts_per_tok", 8),
  expert_dim  = cfg("moe_intermediate_size", 2048),
  route_scale = cfg("routed_scaling_factor", 2.5),
  groups      = cfg("n_group", 8),
  top_groups  = cfg("topk_group", 4),

  attn = latent_attention { under = "self_attn.", q = "q_proj", q_a = "q_a_proj",
                            q_a_norm = "q_a_layernorm", q_b = "q_b_proj",
                            kv_a = "kv_a_proj_with_mqa", kv_a_norm = "kv_a_layernorm",
                            kv_b = "kv_b_proj", o = "o_proj" },
}
