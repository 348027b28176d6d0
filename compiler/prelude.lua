-- The whole vocabulary of an architecture file, and the tracer behind it. An architecture file
-- describes facts (right of `=`: a key of config.json), parts (the names of tensors) and `layer`,
-- the dataflow of one layer; `layer` is run once per layer on symbols that record what it does.
-- The result is a table of facts and ops that arch.c turns into a Graph. Nothing here knows a
-- tensor's data, its bits, or a kernel.
--
-- Given by arch.c: config (config.json as a table), null (JSON's null), source (text of a file),
-- line_of (source and line of a level of the stack).

local config, null, source, line_of, load = config, null, source, line_of, load
_G.source, _G.line_of, _G.load = nil, nil, nil

-- --- refusing ------------------------------------------------------------------------------------

local function show(value)
  if value == null or value == nil then return "null" end
  if type(value) == "table" then return #value > 0 and "a list" or "an object" end
  if type(value) == "string" then return '"' .. value .. '"' end
  return tostring(value)
end

-- Stops with one line about config.json.
local function refuse(fmt, ...)
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

local read = {} -- keys that the architecture asked for

-- The value of a top-level key; nil when absent.
local function get(key)
  read[key] = true
  return config[key]
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
local required = { "dim", "layers", "heads", "kv_heads", "head_dim", "ffn_dim", "vocab", "eps",
                   "tied", "max_position" }
local function whole(low, high)
  return function(key, value) return check_whole(key, value, low, high) end
end
facts.dim, facts.heads, facts.kv_heads = whole(1, 1 << 17), whole(1, 4096), whole(1, 4096)
facts.head_dim, facts.ffn_dim = whole(2, 1024), whole(1, 1 << 20)
facts.layers, facts.vocab, facts.max_position = whole(1, 1024), whole(1, 1 << 24), whole(1, 1 << 30)
facts.eps, facts.softmax_scale, facts.tied = check_positive, check_positive, check_boolean
facts.use_window, facts.window_from = check_boolean, whole(0, 1 << 30)

-- cfg "key": the value of a key, required. cfg("key", default): the default, or what it returns for
-- m, where the key is absent or null. cfg { "key", default = D, null = N }: N for an explicit null.
local Cfg = {}
function cfg(key, default)
  local c = { key = key, default = default, null = default }
  if type(key) == "table" then
    c = { key = key[1], default = key.default, null = key.null }
    if c.null == nil then c.null = c.default end
  end
  if type(c.key) ~= "string" then wrong("cfg needs the name of a key") end
  return setmetatable(c, Cfg)
end

local function resolve_cfg(m, c)
  local value = get(c.key)
  if value == nil then value = c.default elseif value == null then value = c.null end
  if type(value) == "function" then value = value(m) end
  if value == nil then refuse("%s is missing", c.key) end
  return value
end

-- --- keys that change the mathematics ------------------------------------------------------------

-- Real configs carry many keys that say nothing about the forward pass, so an unknown key is no
-- error. These do change it in some family: unless the architecture reads a key, its value must be
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
  layer_types = { "full_attention" }, cross_layer_attention = {}, use_cla = {}, gating = {},
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
  for _, key in ipairs(sorted_keys(changes_the_math)) do
    if not read[key] and not is_one_of(key, arch.ignore)
       and not is_neutral(config[key], changes_the_math[key]) then
      refuse("%s is %s, which changes the mathematics and is not supported for %s", key,
             show(config[key]), arch.name)
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

local function check_quantization()
  local q = config.quantization_config
  if q == nil or q == null then return end
  if type(q) ~= "table" or q.quant_method ~= "exl3" then
    local found = show(type(q) == "table" and q.quant_method or nil)
    refuse('quantization_config.quant_method is %s; only "exl3" and unquantized weights are read',
           found)
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
  local factor = rope_number(s, "factor", s.max / s.original)
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
-- context; one table can stand for that only where a single list is ever used.
function rope_rules.longrope(s)
  local short, long = s.dict.short_factor, s.dict.long_factor
  local same = type(short) == "table" and type(long) == "table"
  for j = 1, s.dim // 2 do
    if type(short) ~= "table" or type(short[j]) ~= "number" or short[j] <= 0
       or #short ~= s.dim // 2 then
      refuse("%s.short_factor is not a list of %d positive numbers", s.name, s.dim // 2)
    end
    same = same and short[j] == long[j]
  end
  if not same and s.max > s.original then
    refuse("%s.long_factor differs from short_factor, which is not supported", s.name)
  end
  local inverse = base_frequencies(s)
  for j, f in ipairs(inverse) do inverse[j] = f / short[j] end
  local factor = rope_number(s, "factor", s.max / s.original)
  local on_values = factor <= 1 and 1 or math.sqrt(1 + math.log(factor) / math.log(s.original))
  return inverse, rope_optional(s, "attention_factor") or on_values
end
rope_rules.su = rope_rules.longrope

-- Keys a rope dictionary may hold. Those of another type are without effect, as in Hugging Face.
local rope_keys = {
  "rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "low_freq_factor",
  "high_freq_factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "truncate",
  "attention_factor", "mscale", "mscale_all_dim", "short_factor", "long_factor", "finetuned",
}

local function is_object(value)
  return type(value) == "table" and next(value) ~= nil
end

-- rope_config { style = "neox" | "interleaved", partial = true }: the model's rope. partial: some
-- channels may stay as they are.
local Rope = {}
function rope_config(options)
  if type(options) ~= "table" or (options.style ~= "neox" and options.style ~= "interleaved") then
    wrong('rope_config needs style = "neox" or "interleaved"')
  end
  return setmetatable({ options = options }, Rope)
end

local function resolve_rope(m, rope)
  local scaling, parameters = get "rope_scaling", get "rope_parameters"
  local s = { name = is_object(scaling) and "rope_scaling" or "rope_parameters" }
  s.dict = is_object(scaling) and scaling or parameters
  for name, value in pairs { rope_scaling = scaling, rope_parameters = parameters } do
    if value ~= null and type(value) ~= "table" then
      refuse("%s is %s, expected an object", name, show(value))
    end
  end
  if s.dict == nil or s.dict == null then s.dict = {} end
  for _, key in ipairs(sorted_keys(s.dict)) do
    if s.dict[key] ~= null and not is_one_of(key, rope_keys) then
      refuse("%s.%s is not known", s.name, key)
    end
  end
  local function value_of(key)
    local value, outside = s.dict[key], get(key)
    if value == nil or value == null then value = outside end
    if value == null then value = nil end
    return value
  end
  s.base = check_positive("rope_theta", value_of "rope_theta" or 10000)
  local partial = check_positive("partial_rotary_factor", value_of "partial_rotary_factor" or 1)
  if partial > 1 or (partial < 1 and not rope.options.partial) then
    refuse("partial_rotary_factor is %s, which is not supported for this architecture",
           show(partial))
  end
  s.dim = math.floor(m.head_dim * partial)
  if s.dim < 2 or s.dim % 2 ~= 0 then
    refuse("rope turns %d channels, expected an even number", s.dim)
  end
  s.max = m.max_position
  -- Outside the dictionary it has precedence, as in Hugging Face.
  local original = get "original_max_position_embeddings"
  if original == nil or original == null then original = s.dict.original_max_position_embeddings end
  if original == nil or original == null then original = s.max end
  s.original = check_positive("original_max_position_embeddings", original)

  local kind = s.dict.rope_type
  if kind == nil or kind == null then kind = s.dict.type end
  if kind == nil or kind == null then kind = "default" end
  local rule = type(kind) == "string" and rope_rules[kind]
  if not rule then
    refuse("%s.rope_type is %s; supported are %s", s.name, show(kind),
           table.concat(sorted_keys(rope_rules), ", "))
  end
  local inverse, factor = rule(s)
  return { dim = s.dim, interleaved = rope.options.style == "interleaved", inverse = inverse,
           factor = factor }
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
linear    = word("linear", { [1] = true, tied = false })    -- tied: the embedding it may share
attention = word("attention", { under = false, q = true, k = true, v = true, o = true,
                                q_norm = false, k_norm = false, norm_offset = false })
gated_mlp = word("gated_mlp", { under = false, gate = true, up = true, down = true, act = true })

-- windows { size = W, sliding = f }: layers of which f(m, l) is true, or that config's layer_types
-- calls sliding_attention, see only the last W keys. size is a number, false, or made from m.
local Windows = {}
function windows(t)
  if type(t.sliding) ~= "function" then wrong("windows needs sliding = function(m, l)") end
  return setmetatable(t, Windows)
end

local function window_of(m, l)
  local window = m.window
  if getmetatable(window) == Windows then
    local size = window.size
    if type(size) == "function" then size = size(m) end
    local types, sliding = get "layer_types", size and window.sliding(m, l)
    if types ~= nil and types ~= null then
      if type(types) ~= "table" or #types ~= m.layers then
        refuse("layer_types is %s, expected a list of %d strings", show(types), m.layers)
      end
      local name = types[l + 1]
      if name ~= "full_attention" and name ~= "sliding_attention" then
        refuse('layer_types[%d] is %s, expected "full_attention" or "sliding_attention"', l,
               show(name))
      end
      sliding = name == "sliding_attention"
      if sliding and not size then
        refuse("layer_types[%d] is sliding_attention, but no sliding window is set", l)
      end
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

local function trace_linear(role, name, x, width, tied)
  return record { kind = "linear", role = role, args = { x.index }, width = width,
                  from = x.width, name = name, tied = tied }
end

local trace_part = {}

function trace_part.embedding(m, part, role)
  return record { kind = "embedding", role = role, args = {}, width = m.dim, rows = m.vocab,
                  name = prefix .. part[1] .. ".weight" }
end

function trace_part.rmsnorm(m, part, role, x)
  return record { kind = "rmsnorm", role = role, args = { x.index }, width = x.width,
                  rows = x.width, name = prefix .. part[1] .. ".weight", offset = part.offset }
end

-- The one linear outside a block is the head.
function trace_part.linear(m, part, role, x)
  return trace_linear(role, prefix .. part[1], x, m.vocab, m.tied and part.tied)
end

function trace_part.attention(m, part, role, x)
  local under = prefix .. (part.under or "")
  local function project(name, from, width)
    return trace_linear(role .. "." .. name, under .. part[name], from, width)
  end
  local function head_norm(name, y)
    if not part[name] then return y end
    return record { kind = "head_norm", role = role .. "." .. name, args = { y.index },
                    width = y.width, rows = m.head_dim, name = under .. part[name] .. ".weight",
                    offset = part.norm_offset }
  end
  local function turn(name, y)
    return record { kind = "rope", role = role .. "." .. name, args = { y.index },
                    width = y.width }
  end
  local q = project("q", x, m.heads * m.head_dim)
  local k = project("k", x, m.kv_heads * m.head_dim)
  local v = project("v", x, m.kv_heads * m.head_dim)
  q, k = head_norm("q_norm", q), head_norm("k_norm", k)
  q, k = turn("q", q), turn("k", k)
  local a = record { kind = "attend", role = role, width = q.width,
                     args = { q.index, k.index, v.index } }
  return project("o", a, m.dim)
end

function trace_part.gated_mlp(m, part, role, x)
  local under = prefix .. (part.under or "")
  local function project(name, from, width)
    return trace_linear(role .. "." .. name, under .. part[name], from, width)
  end
  local gate, up = project("gate", x, m.ffn_dim), project("up", x, m.ffn_dim)
  local act = record { kind = "act", role = role, args = { gate.index }, width = gate.width,
                       detail = part.act }
  local h = record { kind = "mul", role = role, args = { act.index, up.index }, width = up.width }
  return project("down", h, m.dim)
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

-- m: the architecture with its facts looked up and its parts ready to be called.
local function instantiate(a)
  return setmetatable({}, { __index = function(m, name)
    local value = a[name]
    local kind, key = getmetatable(value), name
    if kind == Cfg then
      key, value = value.key, resolve_cfg(m, value)
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
    rawset(m, name, value)
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
  if type(names) ~= "table" or #names ~= 1 or type(names[1]) ~= "string" then
    refuse("architectures is %s, expected a list of one name", show(names))
  end
  local a = by_name[names[1]]
  if not a then
    refuse("architecture %s is not supported; supported are %s", names[1],
           table.concat(supported, ", "))
  end
  reading = "archs/" .. file_of[names[1]] .. ".lua"
  check_quantization()
  check_expected(a)

  local m = instantiate(a)
  for _, name in ipairs(required) do
    if m[name] == nil then wrong("does not say %s", name) end
  end
  if m.heads % m.kv_heads ~= 0 then
    refuse("%d attention heads cannot share %d key-value heads", m.heads, m.kv_heads)
  end
  local result = {
    name = names[1], file = file_of[names[1]] .. ".lua", dim = m.dim, layers = m.layers,
    heads = m.heads, kv_heads = m.kv_heads, head_dim = m.head_dim, ffn_dim = m.ffn_dim,
    vocab = m.vocab, max_position = m.max_position, eps = m.eps, tied = m.tied,
    softmax_scale = m.softmax_scale or m.head_dim ^ -0.5, rope = m.rope,
  }
  result.first = trace_list("embed", "", function() return m.embed() end)
  result.last = trace_list("head", "", function() return m.head(m.norm(input(m))) end)
  for l = 0, m.layers - 1 do
    local block = a.block:gsub("{l}", tostring(l))
    local list = trace_list("layer", block, function() return a.layer(m, input(m), l) end)
    list.window = window_of(m, l)
    result[l + 1] = list
  end
  check_unread_keys(a)
  return result
end
