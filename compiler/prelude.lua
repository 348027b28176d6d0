-- The whole vocabulary of an architecture file, and the tracer behind it. An architecture file
-- describes facts (right of `=`: a key of config.json), parts (the names of tensors) and `layer`,
-- the dataflow of one layer; `layer` is run once per layer on symbols that record what it does.
-- The result is a table of facts and ops that arch.c turns into a Graph. Nothing here knows a
-- tensor's data, its bits, or a kernel.
--
-- Given by arch.c: config (config.json as a table), null (JSON's null), source (text of a file),
-- line_of (source and line of a level of the stack), has_weights (whether the checkpoint has any),
-- has_tensor (whether one has that name), warn_missing (says that one has not).

local config, null, source, line_of, load = config, null, source, line_of, load
local has_weights, has_tensor, warn_missing = has_weights, has_tensor, warn_missing
for name in ("source line_of load has_weights has_tensor warn_missing"):gmatch "%S+" do
  _G[name] = nil
end

-- --- refusing ------------------------------------------------------------------------------------

local function show(value)
  if value == null or value == nil then return "null" end
  if type(value) == "table" then return #value > 0 and "a list" or "an object" end
  if type(value) == "string" then return '"' .. value .. '"' end
  return tostring(value)
end

-- Stops with one line about config.json.
function refuse(fmt, ...)
  error({ refused = string.format(fmt, ...) }, 0)
end

local reading = "archs" -- the architecture file being read or traced

-- Stops with one line about the architecture file: its line that is being executed. A tail call has
-- left no line behind.
local function wrong(fmt, ...)
  local where, level = reading, 2
  while true do
    local file, line = line_of(level)
    if not file then break end
    if file:find("^archs/") then
      where = file .. ":" .. line
      break
    end
    level = level + 1
  end
  error({ refused = string.format(fmt, ...), where = where }, 0)
end

local function sorted_keys(t)
  local keys = {}
  for k in pairs(t) do keys[#keys + 1] = k end
  table.sort(keys)
  return keys
end

-- --- config.json ---------------------------------------------------------------------------------

local model = config -- the object that describes the model: config, or the text model inside it
local read = {}      -- keys that the architecture asked for

-- The value of one of its keys; nil when absent.
local function get(key)
  read[key] = true
  return model[key]
end

local function check_whole(key, value, low, high)
  if math.type(value) ~= "integer" or value < low or value > high then
    refuse("%s is %s, expected a whole number from %d to %d", key, show(value), low, high)
  end
  return value
end

local function check_positive(key, value)
  if type(value) ~= "number" or not (value > 0 and value < math.huge) then
    refuse("%s is %s, expected a positive number", key, show(value))
  end
  return value
end

local function check_boolean(key, value)
  if type(value) ~= "boolean" then refuse("%s is %s, expected true or false", key, show(value)) end
  return value
end

-- What each fact must be; those of required are all that the compiler reads.
local facts = {}
local required = { "dim", "layers", "heads", "head_dim", "vocab", "eps", "tied", "max_position" }
local function whole(low, high)
  return function(key, value) return check_whole(key, value, low, high) end
end
facts.dim, facts.heads, facts.kv_heads = whole(1, 1 << 17), whole(1, 4096), whole(1, 4096)
facts.head_dim, facts.ffn_dim = whole(2, 1024), whole(1, 1 << 20)
facts.layers, facts.vocab, facts.max_position = whole(1, 1024), whole(1, 1 << 24), whole(1, 1 << 30)
facts.eps, facts.softmax_scale, facts.tied = check_positive, check_positive, check_boolean
facts.use_window, facts.window_from = check_boolean, whole(0, 1 << 30)
facts.embed_scale, facts.logit_scale, facts.residual_scale = check_positive, check_positive,
                                                             check_positive
facts.qkv_bias, facts.o_bias, facts.ffn_bias = check_boolean, check_boolean, check_boolean
facts.expert_bias, facts.head_bias = check_boolean, check_boolean
facts.route_normalize = check_boolean -- false: a moe does not normalize, whatever it says
local function check_softcap(key, value)
  return value ~= 0 and value ~= false and check_positive(key, value)
end
facts.attn_softcap, facts.logit_softcap = check_softcap, check_softcap
facts.experts, facts.active, facts.expert_dim = whole(1, 1 << 16), whole(1, 64), whole(1, 1 << 20)
facts.shared_dim, facts.groups, facts.top_groups = whole(0, 1 << 20), whole(1, 1024), whole(1, 1024)
facts.route_scale, facts.act_limit = check_positive, check_positive
facts.kv_latent, facts.latent_eps = whole(1, 960), check_positive
function facts.q_latent(key, value) return value and check_whole(key, value, 1, 1 << 17) end
facts.nope_dim, facts.value_dim = whole(1, 1024), whole(1, 1024)
function facts.turned_dim(key, value) return value and check_whole(key, value, 2, 1024) end
facts.delta_key_heads, facts.delta_heads = whole(1, 1024), whole(1, 1024)
facts.delta_key_dim, facts.delta_value_dim = whole(1, 512), whole(1, 512)
facts.delta_taps, facts.full_every = whole(2, 16), whole(1, 1024)

-- cfg "key": the value of a key, required. cfg("key", default): the default, or what it returns for
-- m, where the key is absent or null. cfg { "key", default = D, null = N }: N for an explicit null;
-- outer = true: the key of the whole config.json goes before that of the text model inside.
local Cfg = {}
function cfg(key, default)
  local c = { key = key, default = default, null = default }
  if type(key) == "table" then
    c = { key = key[1], default = key.default, null = key.null, outer = key.outer }
    if c.null == nil then c.null = c.default end
  end
  if type(c.key) ~= "string" then wrong("cfg needs the name of a key") end
  return setmetatable(c, Cfg)
end

local function resolve_cfg(m, c)
  local value = get(c.key)
  if c.outer and config[c.key] ~= nil then value = config[c.key] end
  if value == nil then value = c.default elseif value == null then value = c.null end
  if type(value) == "function" then value = value(m) end
  if value == nil then refuse("%s is missing", c.key) end
  return value
end

-- each(f): a fact of one layer, f(m, l).
local Each = {}
function each(f)
  return setmetatable({ of = f }, Each)
end

-- derived(f): a fact that follows from others, f(m).
local Derived = {}
function derived(f)
  return setmetatable({ from = f }, Derived)
end

-- --- keys that change the mathematics ------------------------------------------------------------

-- Real configs carry many keys that say nothing about the forward pass, so an unknown key is no
-- error. These do change it in some family: unless the architecture names a key, its value must be
-- absent, null, false, empty or one of those listed.
local changes_the_math = {
  -- attention
  alibi = {}, use_alibi = {}, attention_chunk_size = {}, attention_multiplier = {},
  attention_output_gate = {}, attention_value_scale = { 1 }, attn_logit_softcapping = {},
  attn_temperature_tuning = { 0 }, add_cross_attention = {}, add_full_attention_sink_bias = {},
  add_swa_attention_sink_bias = {}, clip_qkv = {}, index_topk = {}, kv_lora_rank = {},
  q_lora_rank = {}, qk_layernorm = {}, qk_norm = {}, qk_rope_head_dim = {}, use_qk_norm = {},
  use_qk_layernorm = {}, query_pre_attn_scalar = {}, sparse_attention_config = {},
  sliding_window = {}, sliding_window_pattern = {}, sliding_window_size = {},
  num_attention_heads_per_layer = {}, num_key_value_heads_per_layer = {}, use_logn_attn = {},
  layer_types = { "full_attention" }, attn_type_list = { 1 }, cross_layer_attention = {},
  use_cla = {}, gating = {},
  -- rope
  no_rope_layers = { 1 }, no_rope_layer_interval = {}, nope_layer_interval = {}, rotary_dim = {},
  partial_rotary_factor = { 1 }, partial_rotary_factors = { 1 }, rotary_pct = { 1 },
  rope_interleave = {}, rope_interleaved = {}, rope_local_base_freq = {}, swa_rope_theta = {},
  use_dynamic_ntk = {}, use_mrope = {}, llama_4_scaling = {},
  -- embeddings, residuals, logits
  embedding_multiplier = { 1 }, residual_multiplier = { 1 }, logits_scaling = { 1 },
  logit_scale = { 1 }, scale_emb = { 1 }, scale_depth = {}, dim_model_base = {},
  final_logit_softcapping = {}, normalize_embedding = {}, embedding_scale = { 1 },
  use_parallel_residual = {}, parallel_attn = {}, hc_mult = { 1 },
  hidden_size_per_layer_input = { 0 }, lm_head_multiplier = { 1 }, scale_embeddings = {},
  is_encoder_decoder = {},
  -- feed-forward and norms
  num_local_experts = { 0 }, num_experts = { 0 }, n_routed_experts = { 0 }, moe_num_experts = { 0 },
  moe_intermediate_size = {}, mlp_only_layers = {}, swiglu_limit = {}, swiglu_limits = {},
  use_gemma_norm = {}, block_configs = {}, hybrid_override_pattern = {}, layers_block_type = {},
  num_loops = { 1 }, total_ut_steps = { 1 },
  -- a model inside a model
  text_config = {}, llm_config = {},
}

local function is_one_of(value, list)
  for _, v in ipairs(list) do if v == value then return true end end
  return false
end

local function is_neutral(value, neutral)
  if value == nil or value == null or value == false then return true end
  if type(value) ~= "table" then return is_one_of(value, neutral) end
  for k, v in pairs(value) do
    if math.type(k) ~= "integer" or not is_neutral(v, neutral) then return false end
  end
  return true
end

local function check_unread_keys(arch)
  for _, fact in pairs(arch) do
    if getmetatable(fact) == Cfg then read[fact.key] = true end
  end
  for _, key in ipairs(sorted_keys(changes_the_math)) do
    if not read[key] and not is_one_of(key, arch.ignore)
       and not is_neutral(model[key], changes_the_math[key]) then
      refuse("%s is %s, which changes the mathematics and is not supported for %s", key,
             show(model[key]), arch.name)
    end
  end
end

-- expect = { key = value }: refuses a config that has the key with another value. A list means any
-- of its values.
local function check_expected(arch)
  for _, key in ipairs(sorted_keys(arch.expect)) do
    local value, expected = get(key), arch.expect[key]
    if type(expected) ~= "table" then expected = { expected } end
    if value ~= nil and value ~= null and not is_one_of(value, expected) then
      local names = {}
      for i, v in ipairs(expected) do names[i] = show(v) end
      refuse("%s is %s, expected %s", key, show(value), table.concat(names, " or "))
    end
  end
end

-- --- rotary position embedding -------------------------------------------------------------------

-- Every variant becomes inverse frequencies and one factor on cosine and sine, by the formulas of
-- Hugging Face. s: the key's name for messages, its dictionary, base, dim, original and max.
local function rope_number(s, key, default)
  local value = s.dict[key]
  if value == nil or value == null then value = default end
  if value == nil then refuse("%s.%s is missing", s.name, key) end
  return check_positive(s.name .. "." .. key, value)
end

-- An optional number that Python would skip when it is zero.
local function rope_optional(s, key)
  local value = s.dict[key]
  if value == nil or value == null or value == 0 then return nil end
  return check_positive(s.name .. "." .. key, value)
end

local function base_frequencies(s)
  local inverse = {}
  for j = 0, s.dim // 2 - 1 do inverse[j + 1] = s.base ^ (-2 * j / s.dim) end
  return inverse
end

-- A rule gives the frequencies, the factor and, for a shorter context, other frequencies.
local rope_rules = {}

function rope_rules.default(s) return base_frequencies(s), 1 end

function rope_rules.linear(s)
  local inverse, factor = base_frequencies(s), rope_number(s, "factor")
  for j, f in ipairs(inverse) do inverse[j] = f / factor end
  return inverse, 1
end

function rope_rules.llama3(s)
  local inverse, factor = base_frequencies(s), rope_number(s, "factor")
  local low, high = rope_number(s, "low_freq_factor"), rope_number(s, "high_freq_factor")
  if low >= high then
    refuse("%s.low_freq_factor is %s, expected less than high_freq_factor", s.name, show(low))
  end
  for j, f in ipairs(inverse) do
    local length = 2 * math.pi / f
    if length > s.original / low then
      inverse[j] = f / factor
    elseif length >= s.original / high then
      local smooth = (s.original / length - low) / (high - low)
      inverse[j] = (1 - smooth) * f / factor + smooth * f
    end
  end
  return inverse, 1
end

function rope_rules.yarn(s)
  local factor = rope_number(s, "factor", s.dict.factor == null and s.max / s.original or nil)
  local fast, slow = rope_optional(s, "beta_fast") or 32, rope_optional(s, "beta_slow") or 1
  local truncate = s.dict.truncate
  if truncate == nil or truncate == null then truncate = true end
  check_boolean(s.name .. ".truncate", truncate)
  if s.base <= 1 then refuse("rope_theta is %s, expected more than 1", show(s.base)) end

  local function scale(m) return factor <= 1 and 1 or 0.1 * m * math.log(factor) + 1 end
  local mscale, all = rope_optional(s, "mscale"), rope_optional(s, "mscale_all_dim")
  local on_values = rope_optional(s, "attention_factor")
                    or (mscale and all and scale(mscale) / scale(all)) or scale(1)

  -- The channel pair that turns `turns` times within the original context.
  local function pair_of(turns)
    return s.dim * math.log(s.original / (turns * 2 * math.pi)) / (2 * math.log(s.base))
  end
  local low, high = pair_of(fast), pair_of(slow)
  if truncate then low, high = math.floor(low), math.ceil(high) end
  low, high = math.max(low, 0), math.min(high, s.dim - 1)
  if low == high then high = high + 0.001 end

  local inverse = base_frequencies(s)
  for j, f in ipairs(inverse) do
    local slowed = math.min(math.max((j - 1 - low) / (high - low), 0), 1)
    inverse[j] = f / factor * slowed + f * (1 - slowed)
  end
  return inverse, on_values
end

-- Hugging Face changes from the short to the long list when a sequence outgrows the original
-- context. A program has one table: that of the longest context it is built for.
function rope_rules.longrope(s)
  local function divided(key)
    local list, inverse = s.dict[key], base_frequencies(s)
    local fits = type(list) == "table" and #list == #inverse
    for j, f in ipairs(inverse) do
      if not fits or type(list[j]) ~= "number" or not (list[j] > 0) then
        refuse("%s.%s is not a list of %d positive numbers", s.name, key, #inverse)
      end
      inverse[j] = f / list[j]
    end
    return inverse
  end
  local factor = rope_number(s, "factor", s.max / s.original)
  local on_values = factor <= 1 and 1 or math.sqrt(1 + math.log(factor) / math.log(s.original))
  return divided "long_factor", rope_optional(s, "attention_factor") or on_values,
         divided "short_factor"
end
rope_rules.su = rope_rules.longrope

-- Keys a rope dictionary may hold. Those of another type are without effect, as in Hugging Face.
local rope_keys = {
  "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "low_freq_factor",
  "high_freq_factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate",
  "attention_factor", "mscale", "mscale_all_dim", "short_factor", "long_factor", "finetuned",
  "mrope_section", "mrope_interleaved", "max_position_embeddings", "attn_factor",
}

local function is_object(value)
  return type(value) == "table" and next(value) ~= nil
end

-- rope_config { style = "neox" | "interleaved" }: a rope of the model. theta: the base where config
-- states none; theta_key: the key that states it, false for none; of: the layers' name in a
-- rope_parameters with one object for each kind of layer; scaled = false: the base alone counts;
-- otherwise: the object where config has none; partial: some channels may stay as they are;
-- query_scale: llama_4_scaling_beta is known; dim: channels that turn, from m; original: the
-- context before scaling where config states none outside that object; types: the names of
-- rope_type that are known, each with the rule it stands for.
local Rope = {}
local rope_options = { "style", "theta", "theta_key", "of", "scaled", "otherwise", "partial",
                       "query_scale", "dim", "original", "types" }
function rope_config(options)
  if type(options) ~= "table" or (options.style ~= "neox" and options.style ~= "interleaved") then
    wrong('rope_config needs style = "neox" or "interleaved"')
  end
  for _, key in ipairs(sorted_keys(options)) do
    if not is_one_of(key, rope_options) then wrong("rope_config has no field %s", key) end
  end
  return setmetatable({ options = options }, Rope)
end

-- The object that describes a rope, and its name.
local function rope_object(o)
  local scaling, parameters = get "rope_scaling", get "rope_parameters"
  for name, value in pairs { rope_scaling = scaling, rope_parameters = parameters } do
    if value ~= null and type(value) ~= "table" then
      refuse("%s is %s, expected an object", name, show(value))
    end
  end
  local of = o.of and is_object(parameters) and parameters[o.of]
  if of and of ~= null then
    if type(of) ~= "table" then
      refuse("rope_parameters.%s is %s, expected an object", o.of, show(of))
    end
    return of, "rope_parameters." .. o.of
  end
  if o.scaled == false then return {}, "rope_parameters" end
  if is_object(scaling) then return scaling, "rope_scaling" end
  return is_object(parameters) and parameters or o.otherwise or {}, "rope_parameters"
end

-- Queries grow with the logarithm of their position: by 1 + beta ln(1 + floor(position / from)).
local function query_scale_of(s, o)
  local beta = s.dict.llama_4_scaling_beta
  if beta == nil or beta == null then return nil end
  if not o.query_scale then refuse("%s.llama_4_scaling_beta is not known", s.name) end
  return { beta = check_positive(s.name .. ".llama_4_scaling_beta", beta), from = s.original }
end

local ropes = {} -- all that were resolved, in order
local reach = 0  -- tokens that they were made for

local function resolve_rope(m, rope)
  local o, s = rope.options, {}
  s.dict, s.name = rope_object(o)
  for _, key in ipairs(sorted_keys(s.dict)) do
    local known = key == "llama_4_scaling_beta" or is_one_of(key, rope_keys)
    if s.dict[key] ~= null and not known then
      refuse("%s.%s is not known", s.name, key)
    end
  end
  local function value_of(key, outside)
    local value, other = s.dict[key], outside ~= false and get(outside or key) or nil
    if value == nil or value == null then value = other end
    if value == null then value = nil end
    return value
  end
  s.base = check_positive("rope_theta", value_of("rope_theta", o.theta_key) or o.theta or 10000)
  local partial = value_of "partial_rotary_factor"
  if partial == nil then partial = type(o.partial) == "number" and o.partial or 1 end
  check_positive("partial_rotary_factor", partial)
  if partial > 1 or (partial < 1 and not o.partial) then
    refuse("partial_rotary_factor is %s, which is not supported for this architecture",
           show(partial))
  end
  s.dim = o.dim and o.dim(m) or math.floor(m.head_dim * partial)
  if s.dim < 2 or s.dim % 2 ~= 0 then
    refuse("rope turns %d channels, expected an even number", s.dim)
  end
  s.max = m.max_position
  -- Outside the dictionary it has precedence, as in Hugging Face.
  local original = get "original_max_position_embeddings"
  if original == nil or original == null then original = o.original end
  if original == nil then original = s.dict.original_max_position_embeddings end
  if original == nil or original == null then original = s.max end
  s.original = check_positive("original_max_position_embeddings", original)

  local kind = s.dict.rope_type
  if kind == nil or kind == null then kind = s.dict.type end
  if kind == nil or kind == null then kind = "default" end
  local rule = type(kind) == "string" and rope_rules[o.types and o.types[kind] or kind]
  if not rule or o.types and not o.types[kind] then
    refuse("%s.rope_type is %s; supported are %s", s.name, show(kind),
           table.concat(sorted_keys(o.types or rope_rules), ", "))
  end
  local inverse, factor, short = rule(s)
  -- YaRN may be added to a config that still states the length before.
  local extended = kind == "yarn" and s.original * rope_number(s, "factor", s.max / s.original) or 0
  reach = math.max(reach, s.max, math.floor(math.min(extended, 1 << 30)))
  local table_of = { dim = s.dim, interleaved = o.style == "interleaved", inverse = inverse,
                     factor = factor, short = short, original = s.original,
                     query_scale = query_scale_of(s, o) }
  ropes[#ropes + 1] = table_of
  table_of.index = #ropes
  return table_of
end

-- --- parts ---------------------------------------------------------------------------------------

local Part = {}
Part.__index = Part
Part.__call = function() wrong("a part is called as m.NAME(x)") end

-- The same part with some fields changed.
function Part:with(changes)
  local copy = {}
  for k, v in pairs(self) do copy[k] = v end
  for k, v in pairs(changes) do
    if not copy.fields[k] then wrong("%s has no field %s", copy.kind, tostring(k)) end
    copy[k] = v
  end
  return setmetatable(copy, Part)
end

-- A word that makes parts of one kind: fields are its names, 1 the unnamed one; true is required.
local function word(kind, fields)
  return function(t)
    if type(t) == "string" then t = { t } end
    if type(t) ~= "table" then wrong("%s needs a name or a table", kind) end
    local part = { kind = kind, fields = {} }
    for k, required in pairs(fields) do
      part.fields[k] = true
      if required and t[k] == nil then wrong("%s needs %s", kind, k == 1 and "a name" or k) end
    end
    for k, v in pairs(t) do
      if not part.fields[k] then wrong("%s has no field %s", kind, tostring(k)) end
      part[k] = v
    end
    return setmetatable(part, Part)
  end
end

embedding = word("embedding", { [1] = true })
rmsnorm   = word("rmsnorm", { [1] = true, offset = false }) -- offset: added to the stored weight
layernorm = word("layernorm", { [1] = true })               -- subtracts the mean; no bias
linear    = word("linear", { [1] = true, tied = false })    -- tied: the embedding it may share

-- q, k, v, o and fused, which holds the rows of q, k and v in files that were not split. q_norm and
-- k_norm are per head, of one weight; norms = "each head": RMSNorm is LayerNorm with a weight for
-- every head; "all heads": one RMSNorm over all of them. sinks: a score for each head that counts
-- in the softmax and has no value. gated: each head of q is followed by as many channels whose
-- sigmoids are multiplied with what attention gives.
attention = word("attention", { under = false, q = true, k = true, v = true, o = true,
                                fused = false, q_norm = false, k_norm = false, norms = false,
                                norm_offset = false, sinks = false, gated = false })
-- Attention over one latent vector a token: q through q_a, a norm and q_b, or where q_latent is
-- false directly; kv_a gives the latent, which is normed, and turned_dim channels that all heads
-- share; kv_b (kept in 16 bits) maps the latent to the nope_dim key channels and the value_dim
-- values of each head. The latent is what is cached: kv_b is applied to queries and to what
-- attention gives. Facts: q_latent, kv_latent, nope_dim, turned_dim, value_dim, latent_eps of the
-- norms in here; kv_heads is 1 and head_dim kv_latent + turned_dim.
latent_attention = word("latent_attention",
                        { under = false, q = true, q_a = true, q_a_norm = true, q_b = true,
                          kv_a = true, kv_a_norm = true, kv_b = true, o = true })
-- A gated delta net: every value head keeps a matrix that each token decays, corrects towards its
-- value where its key points, and reads where its query points. q, k and v go through a convolution
-- over the last delta_taps tokens of each channel; what is read is normed and multiplied with the
-- SiLU of z. Either qkv, z, b, a, or grouped tensors, with the parts of one key head after the
-- other: qkvz, ba. b: how far the correction goes; a, a_log and dt_bias: how much decays. b, a, ba
-- are never quantized. Facts: delta_key_heads, which the value heads share, delta_heads,
-- delta_key_dim, delta_value_dim, delta_taps.
delta_net = word("delta_net", { under = false, qkv = false, z = false, b = false, a = false,
                                qkvz = false, ba = false, conv = true, a_log = true,
                                dt_bias = true, norm = true, o = true })
-- fused holds the rows of gate and up in files that were not split.
gated_mlp = word("gated_mlp", { under = false, gate = true, up = true, down = true, act = true,
                                fused = false })
-- down(act(up(x))); parameters: the names of two values that the activation learned.
mlp = word("mlp", { under = false, up = true, down = true, act = true, parameters = false })

-- A router and experts. router: the tensor that scores them; router_bias is added to the scores;
-- choice_bias: names of what is added to a score only while choosing, of which the first that is
-- there counts; score: "softmax" or "sigmoid" of all scores; normalize: weights of the chosen add
-- up to one; group_best: how many of a group's best scores, 1 or 2, are what it is worth, 2 if not
-- said. expert: a gated_mlp whose `under` holds {e}; shared: one that every token passes through,
-- shared_gate: its weight is the sigmoid of this. stacked: the tensors of all experts that files
-- may have instead, gate_up (experts, rows of gate and then of up, inputs) and down, with biases
-- under those names and "_bias"; interleaved: rows of gate and up take turns; transposed: inputs
-- come before rows. Facts: experts, active, expert_dim, shared_dim, route_scale, and groups, top_groups:
-- experts are chosen from the best top_groups of groups.
moe = word("moe", { under = true, router = true, router_bias = false, choice_bias = false,
                    score = true, normalize = true, group_best = false, expert = true,
                    stacked = false, shared = false, shared_gate = false })

-- windows { size = W, sliding = f }: layers of which f(m, l) is true, or that config's layer_types
-- calls sliding_attention, see only the last W keys. size is a number, false, or made from m.
local Windows = {}
function windows(t)
  if type(t.sliding) ~= "function" then wrong("windows needs sliding = function(m, l)") end
  return setmetatable(t, Windows)
end

-- What layer_types calls a layer, full_attention or `other`; nil without it.
local function layer_type(m, l, other)
  local types = get "layer_types"
  if types == nil or types == null then return nil end
  if type(types) ~= "table" or #types ~= m.layers then
    refuse("layer_types is %s, expected a list of %d strings", show(types), m.layers)
  end
  local name = types[l + 1]
  if name ~= "full_attention" and name ~= other then
    refuse('layer_types[%d] is %s, expected "full_attention" or "%s"', l, show(name), other)
  end
  return name
end

-- 1 for layers that have a state in place of keys and values; without layer_types all but every
-- full_every-th.
function is_linear(m, l)
  local name = layer_type(m, l, "linear_attention")
  if name then return name == "linear_attention" end
  return (l + 1) % m.full_every ~= 0
end

-- 1 for layers that the model calls sliding, whether or not their window has a size.
function is_sliding(m, l)
  local name = layer_type(m, l, "sliding_attention")
  if name then return name == "sliding_attention" end
  return m.window.sliding(m, l)
end

local function window_of(m, l)
  local window = m.window
  if getmetatable(window) == Windows then
    local size = window.size
    if type(size) == "function" then size = size(m) end
    local sliding = is_sliding(m, l)
    if sliding and not size and layer_type(m, l, "sliding_attention") then
      refuse("layer_types[%d] is sliding_attention, but no sliding window is set", l)
    end
    window = sliding and size
  end
  return window and check_whole("sliding_window", window, 1, 1 << 30) or 0
end

-- --- tracing -------------------------------------------------------------------------------------

local ops, prefix -- of the list being traced: the ops, what tensor names begin with

local Symbol = {}

local function record(op)
  ops[#ops + 1] = op
  return setmetatable({ list = ops, index = #ops, width = op.width }, Symbol)
end

local function check_symbol(symbol, what)
  if getmetatable(symbol) ~= Symbol or symbol.list ~= ops then
    wrong("%s needs a value of this layer", what)
  end
end

Symbol.__add = function(a, b)
  check_symbol(a, "+")
  check_symbol(b, "+")
  return record { kind = "add", role = "residual", args = { a.index, b.index }, width = a.width }
end

local root = {} -- what names that begin with "model." or are "lm_head" begin with instead

-- The name of a tensor as this checkpoint has it.
local function on_disk(name)
  if name == "lm_head" then return root.head or name end
  return root.model and name:gsub("^model%.", root.model) or name
end

-- biased: whether it has a bias where there are no weights that say so. fused: a name, the rows
-- before ours, and its rows in all.
local function trace_linear(role, name, x, width, biased, tied, fused)
  return record { kind = "linear", role = role, args = { x.index }, width = width,
                  from = x.width, name = on_disk(name), biased = biased,
                  tied = tied and on_disk(tied),
                  fused = fused and on_disk(fused.name), row = fused and fused.row,
                  rows = fused and fused.rows }
end

-- The value of a tensor that is no row of the batch.
local function trace_values(role, name, rows)
  return record { kind = "values", role = role, args = {}, width = rows, rows = rows,
                  name = on_disk(name) }
end

local trace_part = {}

function trace_part.embedding(m, part, role)
  return record { kind = "embedding", role = role, args = {}, width = m.dim, rows = m.vocab,
                  name = on_disk(prefix .. part[1] .. ".weight") }
end

local function trace_norm(detail)
  return function(m, part, role, x)
    return record { kind = "norm", detail = detail, role = role, args = { x.index },
                    width = x.width, rows = x.width, name = on_disk(prefix .. part[1] .. ".weight"),
                    offset = part.offset }
  end
end
trace_part.rmsnorm, trace_part.layernorm = trace_norm "rms", trace_norm "layer"

-- The one linear outside a block is the head.
function trace_part.linear(m, part, role, x)
  return trace_linear(role, prefix .. part[1], x, m.vocab, m.head_bias, m.tied and part.tied)
end

local head_norms = { ["each head"] = "layer", ["all heads"] = "all" }

function trace_part.attention(m, part, role, x)
  local under = prefix .. (part.under or "")
  local q_width, kv_width = m.heads * m.head_dim, m.kv_heads * m.head_dim
  local function project(name, from, width, row)
    local fused = row and part.fused and
                  { name = under .. part.fused, row = row, rows = q_width + 2 * kv_width }
    return trace_linear(role .. "." .. name, under .. part[name], from, width,
                        m[name == "o" and "o_bias" or "qkv_bias"], nil, fused)
  end
  local function head_norm(name, y)
    if not part[name] then return y end
    local detail = part.norms and head_norms[part.norms]
    if part.norms and not detail then wrong("attention has no norms = %s", show(part.norms)) end
    return record { kind = "head_norm", detail = detail or "rms", role = role .. "." .. name,
                    args = { y.index }, width = y.width, rows = detail and y.width or m.head_dim,
                    columns = detail == "layer" and m.head_dim,
                    name = on_disk(under .. part[name] .. ".weight"), offset = part.norm_offset }
  end
  local function turn(name, y)
    if not m.rope then return y end
    return record { kind = "rope", role = role .. "." .. name, args = { y.index },
                    width = y.width, rope = m.rope.index - 1 }
  end
  local q = project("q", x, part.gated and 2 * q_width or q_width, 0)
  local k = project("k", x, kv_width, q_width)
  local v = project("v", x, kv_width, q_width + kv_width)
  local gate
  if part.gated then
    local function half(which)
      return record { kind = "half", detail = which, role = role .. ".q", args = { q.index },
                      width = q_width }
    end
    q, gate = half "first", half "second"
  end
  q, k = head_norm("q_norm", q), head_norm("k_norm", k)
  q, k = turn("q", q), turn("k", k)
  local args = { q.index, k.index, v.index }
  if part.sinks then
    args[4] = trace_values(role .. ".sinks", under .. part.sinks, m.heads).index
  end
  local a = record { kind = "attend", role = role, width = q.width, args = args }
  if gate then
    a = record { kind = "gated", role = role, width = q.width, args = { a.index, gate.index } }
  end
  return project("o", a, m.dim)
end

local delta -- the facts of the model's delta nets; nil without one

function trace_part.delta_net(m, part, role, x)
  local under, grouped = prefix .. (part.under or ""), part.qkvz ~= nil
  local keys, values = m.delta_key_heads * m.delta_key_dim, m.delta_heads * m.delta_value_dim
  delta = { key_heads = m.delta_key_heads, heads = m.delta_heads, key_dim = m.delta_key_dim,
            value_dim = m.delta_value_dim, taps = m.delta_taps, grouped = grouped }
  if m.delta_heads % m.delta_key_heads ~= 0 then
    refuse("%d value heads cannot share %d key heads", m.delta_heads, m.delta_key_heads)
  end
  -- An op with a tensor (rows, columns), or (rows) without columns.
  local function op(kind, name, args, width, rows, columns)
    return record { kind = kind, role = role .. "." .. name, args = args, width = width,
                    rows = rows * (columns or 1), columns = columns,
                    name = on_disk(under .. part[name] .. (kind == "values" and "" or ".weight")) }
  end
  local function project(name, from, width)
    return trace_linear(role .. "." .. name, under .. part[name], from, width)
  end
  local mixed, z
  if grouped then
    mixed = project("qkvz", x, 2 * keys + 2 * values)
    z = record { kind = "delta_z", role = role .. ".qkvz", args = { mixed.index }, width = values }
  else
    mixed, z = project("qkv", x, 2 * keys + values), project("z", x, values)
  end
  local a_log = op("values", "a_log", {}, m.delta_heads, m.delta_heads)
  local dt_bias = op("values", "dt_bias", {}, m.delta_heads, m.delta_heads)
  local rows = grouped and 2 * m.delta_heads or m.delta_heads
  local strength = op("strength", grouped and "ba" or "b", { x.index }, m.delta_heads, rows, m.dim)
  local decay = op("decay", grouped and "ba" or "a", { x.index, a_log.index, dt_bias.index },
                   m.delta_heads, rows, m.dim)
  local qkv = op("conv", "conv", { mixed.index }, 2 * keys + values, 2 * keys + values,
                 m.delta_taps)
  local y = record { kind = "delta", role = role, width = values,
                     args = { qkv.index, strength.index, decay.index } }
  y = op("gate_norm", "norm", { y.index, z.index }, values, m.delta_value_dim)
  return project("o", y, m.dim)
end

local latent -- the facts of the model's latent attention; nil without one

function trace_part.latent_attention(m, part, role, x)
  local under = prefix .. (part.under or "")
  latent = { q = m.q_latent or 0, kv = m.kv_latent, nope = m.nope_dim, value = m.value_dim,
             eps = m.latent_eps }
  local function project(name, from, width, biased)
    return trace_linear(role .. "." .. name, under .. part[name], from, width, biased)
  end
  local kv_b = on_disk(under .. part.kv_b)
  local function expand(kind, y, width)
    return record { kind = kind, role = role .. ".kv_b", args = { y.index }, width = width,
                    rows = m.heads * (m.nope_dim + m.value_dim) * m.kv_latent,
                    columns = m.kv_latent, name = kv_b, table = true, rope = m.rope.index - 1 }
  end
  local q_width, heads = m.heads * (m.nope_dim + m.turned_dim), nil
  if m.q_latent then
    local q_a = project("q_a", x, m.q_latent, m.qkv_bias)
    heads = record { kind = "norm", detail = "rms", role = role .. ".q_a_norm",
                     args = { q_a.index }, width = q_a.width, rows = q_a.width,
                     name = on_disk(under .. part.q_a_norm .. ".weight") }
    heads = project("q_b", heads, q_width)
  else
    heads = project("q", x, q_width)
  end
  local kv_a = project("kv_a", x, m.kv_latent + m.turned_dim, m.qkv_bias)
  local q = expand("latent_q", heads, m.heads * m.head_dim)
  local k = record { kind = "latent_k", role = role .. ".kv_a_norm", args = { kv_a.index },
                     width = m.head_dim, rows = m.kv_latent, rope = m.rope.index - 1,
                     name = on_disk(under .. part.kv_a_norm .. ".weight") }
  local a = record { kind = "attend", role = role, width = q.width,
                     args = { q.index, k.index, k.index } }
  return project("o", expand("latent_v", a, m.heads * m.value_dim), m.dim, m.o_bias)
end

local routing -- the facts of the model's routers; nil without one

-- The product of the gate, through the activation, and of up.
local function gated(m, part, role, gate, up)
  local act = record { kind = "act", role = role, args = { gate.index }, width = gate.width,
                       detail = part.act }
  if m.act_limit then -- up is clamped, and one is added
    up = record { kind = "clamp", role = role, args = { up.index }, width = up.width }
  end
  return record { kind = "mul", role = role, args = { act.index, up.index }, width = up.width }
end

function trace_part.gated_mlp(m, part, role, x)
  local under = prefix .. (part.under or "")
  local function project(name, from, width, row)
    local fused = row and part.fused and
                  { name = under .. part.fused, row = row, rows = 2 * m.ffn_dim }
    return trace_linear(role .. "." .. name, under .. part[name], from, width, m.ffn_bias, nil,
                        fused)
  end
  local gate, up = project("gate", x, m.ffn_dim, 0), project("up", x, m.ffn_dim, m.ffn_dim)
  return project("down", gated(m, part, role, gate, up), m.dim)
end

-- The index of an op for a tensor (rows) that weights may lack: the first of `names`.
local function optional_values(role, under, names, rows)
  for _, name in ipairs(names) do
    if not has_weights() or has_tensor(on_disk(under .. name)) then
      return trace_values(role, under .. name, rows).index
    end
  end
  warn_missing(on_disk(under .. names[1]))
  return nil
end

function trace_part.moe(m, part, role, x)
  local under, expert, shared = prefix .. part.under, part.expert, part.shared
  routing = { experts = m.experts, active = m.active, expert_dim = m.expert_dim,
              shared_dim = shared and m.shared_dim or 0,
              normalize = part.normalize and m.route_normalize ~= false,
              sigmoid = part.score == "sigmoid", scale = m.route_scale or 1,
              groups = m.groups or 1, top_groups = m.top_groups or 1,
              group_best = part.group_best or 2 }
  if m.active > m.experts then refuse("%d of %d experts cannot be active", m.active, m.experts) end
  if m.experts % routing.groups ~= 0 or routing.top_groups > routing.groups
     or m.active > m.experts // routing.groups * routing.top_groups then
    refuse("%d of %d groups of %d experts cannot be chosen", routing.top_groups, routing.groups,
           m.experts)
  end
  local args = { x.index }
  if part.router_bias then
    args[2] = trace_values(role .. ".router_bias", under .. part.router_bias, m.experts).index
  end
  if part.choice_bias then
    args[3] = optional_values(role .. ".choice_bias", under, part.choice_bias, m.experts)
  end
  local route = record { kind = "route", role = role .. ".router", args = args, width = m.active,
                         detail = part.score, rows = m.experts * m.dim, columns = m.dim,
                         name = on_disk(under .. part.router .. ".weight") }
  local stacked = part.stacked
  local function stack(name, rows, first, step)
    local whole = stacked and on_disk(under .. stacked[name])
    return stacked and { name = whole, bias = whole .. "_bias", rows = rows, first = first,
                         step = step, transposed = stacked.transposed }
  end
  local function project(name, from, from_width, width, op_width, stack)
    return record { kind = "experts", role = role .. "." .. name, width = op_width,
                    args = { from.index, route.index }, from = from_width, out = width,
                    count = m.experts, stack = stack, biased = m.expert_bias,
                    name = on_disk(under .. expert.under .. expert[name]) }
  end
  local width, step = m.expert_dim, stacked and stacked.interleaved and 2 or 1
  local gate = project("gate", x, m.dim, width, m.active * width,
                       stack("gate_up", 2 * width, 0, step))
  local up = project("up", x, m.dim, width, m.active * width,
                     stack("gate_up", 2 * width, step == 2 and 1 or width, step))
  local h = gated(m, expert, role, gate, up)
  local y = project("down", h, width, m.dim, m.dim, stack("down", m.dim, 0, 1))
  if routing.shared_dim == 0 then return y end

  local function share(name, from, width)
    return trace_linear(role .. ".shared." .. name, under .. shared.under .. shared[name], from,
                        width, m.ffn_bias)
  end
  gate, up = share("gate", x, m.shared_dim), share("up", x, m.shared_dim)
  local all = share("down", gated(m, shared, role .. ".shared", gate, up), m.dim)
  if part.shared_gate then
    all = record { kind = "gate", role = role .. ".shared_gate", args = { all.index, x.index },
                   width = m.dim, rows = m.dim, columns = m.dim,
                   name = on_disk(under .. part.shared_gate .. ".weight") }
  end
  return record { kind = "add", role = role, args = { y.index, all.index }, width = m.dim }
end

function trace_part.mlp(m, part, role, x)
  local under = prefix .. (part.under or "")
  local up = trace_linear(role .. ".up", under .. part.up, x, m.ffn_dim, m.ffn_bias)
  local args = { up.index }
  for i, name in ipairs(part.parameters or {}) do
    args[i + 1] = trace_values(role .. ".parameter", under .. name, 1).index
  end
  local h = record { kind = "act", role = role, args = args, width = up.width, detail = part.act }
  return trace_linear(role .. ".down", under .. part.down, h, m.dim, m.ffn_bias)
end

-- --- architectures -------------------------------------------------------------------------------

local Arch = {}
Arch.__index = Arch

function arch(t)
  if type(t.name) ~= "string" or type(t.hf) ~= "table" then
    wrong("arch needs name and hf, the names in config.architectures")
  end
  if type(t.block) ~= "string" or type(t.layer) ~= "function" then
    wrong("arch needs block, what a layer's tensors begin with, and layer, its dataflow")
  end
  t.expect, t.ignore = t.expect or {}, t.ignore or {}
  return setmetatable(t, Arch)
end

-- A relative: the same architecture with some fields changed. expect and ignore add up.
function Arch:with(changes)
  local copy, expect, ignore = {}, {}, {}
  for k, v in pairs(self) do copy[k] = v end
  for k, v in pairs(changes) do copy[k] = v end
  for k, v in pairs(self.expect) do expect[k] = v end
  for k, v in pairs(changes.expect or {}) do expect[k] = v end
  for _, list in ipairs { self.ignore, changes.ignore or {} } do
    for _, key in ipairs(list) do ignore[#ignore + 1] = key end
  end
  copy.expect, copy.ignore = expect, ignore
  return setmetatable(copy, Arch)
end

-- m: the architecture with its facts looked up and its parts ready to be called. m.l is the layer
-- that is being traced.
local function instantiate(a)
  return setmetatable({}, { __index = function(m, name)
    local value = a[name]
    local key, keep = name, getmetatable(value) ~= Each
    if not keep then value = value.of(m, rawget(m, "l")) end
    local kind = getmetatable(value)
    if kind == Cfg then
      key, value = value.key, resolve_cfg(m, value)
    elseif kind == Derived then
      value = value.from(m)
    elseif kind == Rope then
      value = resolve_rope(m, value)
    elseif kind == Part then
      local part, trace = value, trace_part[value.kind]
      value = function(x)
        if part.kind ~= "embedding" then check_symbol(x, "m." .. name) end
        return trace(m, part, name, x)
      end
    end
    if facts[name] and value ~= nil then value = facts[name](key, value) end
    if keep then rawset(m, name, value) end
    return value
  end })
end

-- Traces f into a list of its own; the ops f does not need must not exist, its value comes last.
local function trace_list(where, begins_with, f)
  ops, prefix = {}, begins_with
  local y = f()
  if getmetatable(y) ~= Symbol or y.list ~= ops or y.index ~= #ops then
    wrong("%s must return the value of its last operation", where)
  end
  return { ops = ops, window = 0 }
end

local function input(m)
  return record { kind = "input", role = "x", args = {}, width = m.dim }
end

local loaded = {}
function require(name)
  if loaded[name] == nil then
    local file = "archs/" .. tostring(name) .. ".lua"
    local text = not file:find("/.*/") and source(file)
    if not text then wrong("there is no %s", file) end
    local chunk, message = load(text, "@" .. file, "t")
    if not chunk then error(message, 0) end
    local outer = reading
    reading = file
    local a = chunk()
    if getmetatable(a) ~= Arch then wrong("does not return an architecture") end
    loaded[name], reading = a, outer
  end
  return loaded[name]
end

-- The object that holds the model's keys. inside: the key of an object that may hold them.
local function choose_model(a)
  local inner = a.inside and config[a.inside]
  if inner == nil or inner == null then return config end
  if type(inner) ~= "table" then refuse("%s is %s, expected an object", a.inside, show(inner)) end
  return inner
end

-- The first of the architecture's roots that the checkpoint has; its own names when it has none.
local function choose_root(a)
  for _, r in ipairs(a.roots or {}) do
    if has_tensor(r.model .. "embed_tokens.weight") then return r end
  end
  -- Models that are made for embeddings are often saved without their head, and what is below it.
  local bare = has_tensor "embed_tokens.weight" and not has_tensor "model.embed_tokens.weight"
  return bare and { model = "" } or {}
end

-- Called by arch.c with the names of all architecture files.
return function(files)
  local by_name, supported, file_of = {}, {}, {}
  for _, file in ipairs(files) do
    for _, name in ipairs(require(file).hf) do
      if by_name[name] then wrong("%s and %s both claim %s", file_of[name], file, name) end
      by_name[name], file_of[name] = require(file), file
      supported[#supported + 1] = name
    end
  end
  table.sort(supported)
  local names = config.architectures
  if names == nil then refuse("architectures is missing") end
  if type(names) ~= "table" or #names ~= 1 or type(names[1]) ~= "string" then
    refuse("architectures is %s, expected a list of one name", show(names))
  end
  local a = by_name[names[1]]
  if not a then
    refuse("architecture %s is not supported; supported are %s", names[1],
           table.concat(supported, ", "))
  end
  reading = "archs/" .. file_of[names[1]] .. ".lua"
  model = choose_model(a)
  root = choose_root(a)
  check_expected(a)

  local m = instantiate(a)
  for _, name in ipairs(required) do
    if m[name] == nil then wrong("does not say %s", name) end
  end
  routing, latent, delta = nil, nil, nil
  local result = {
    name = names[1], file = file_of[names[1]] .. ".lua", dim = m.dim, layers = m.layers,
    heads = m.heads, head_dim = m.head_dim, vocab = m.vocab, max_position = m.max_position,
    eps = m.eps, tied = m.tied, softmax_scale = m.softmax_scale or m.head_dim ^ -0.5,
    embed_scale = m.embed_scale or 1, logit_scale = m.logit_scale or 1,
    residual_scale = m.residual_scale or 1, attn_softcap = m.attn_softcap or 0,
    logit_softcap = m.logit_softcap or 0, ropes = ropes,
  }
  result.first = trace_list("embed", "", function() return m.embed() end)
  result.last = trace_list("head", "", function() return m.head(m.norm(input(m))) end)
  for l = 0, m.layers - 1 do
    rawset(m, "l", l)
    if m.kv_heads and m.heads % m.kv_heads ~= 0 then
      refuse("%d attention heads cannot share %d key-value heads", m.heads, m.kv_heads)
    end
    local block = a.block:gsub("{l}", tostring(l))
    local list = trace_list("layer", block, function() return a.layer(m, input(m), l) end)
    list.window = window_of(m, l)
    result[l + 1] = list
  end
  result.routing, result.act_limit = routing, m.act_limit or 0
  result.latent, result.delta = latent, delta
  if #ropes == 0 and getmetatable(a.rope) == Rope then resolve_rope(m, a.rope) end
  result.reach = math.max(reach, m.max_position)
  check_unread_keys(a)
  return result
end
