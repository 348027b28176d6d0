// Runs prelude.lua and the architecture file that claims config.architectures[0], in a Lua without
// files, processes or time; turns the traced tables into a Graph and finds every tensor it names.
#include "exlc.h"
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LUA_BYTES (256u << 20)
#define MAX_LUA_STEPS 500 // of a million instructions each

// --- Lua -----------------------------------------------------------------------------------------

// What an op names on disk, looked up once Lua is gone.
typedef struct {
    const char *name, *tied;
    int64_t rows, columns, from;
    const char *fused; // a linear that may hold ours: `rows` of them, ours from `row` on
    int64_t row;
    int64_t out, count; // of experts
    Stack stack;        // that may hold them
    int biased;         // where there are no weights
    int table;          // a linear layer that is read as one
} Place;

typedef struct {
    OpList list;
    Place *places;
    size_t room;
} TracedList;

typedef struct {
    const Checkpoint *checkpoint;
    const ArchFiles *files;
    Graph *graph;
    TracedList *lists; // the first ops, one list a layer, the last ops
    size_t bytes;      // in use by Lua
    int steps;
} Tracer;

static Tracer *tracer_of(lua_State *lua)
{
    return *(Tracer **)lua_getextraspace(lua);
}

static void *allocate(void *data, void *p, size_t old, size_t fresh)
{
    Tracer *t = data;
    if (!p) old = 0; // Lua passes a type there
    if (fresh == 0) {
        free(p);
        t->bytes -= old;
        return NULL;
    }
    if (fresh > old && t->bytes - old + fresh > MAX_LUA_BYTES) return NULL;
    void *q = realloc(p, fresh);
    if (q) t->bytes += fresh - old;
    return q;
}

static void count_steps(lua_State *lua, lua_Debug *event)
{
    (void)event;
    if (++tracer_of(lua)->steps <= MAX_LUA_STEPS) return;
    luaL_where(lua, 0);
    lua_pushstring(lua, "runs for too long");
    lua_concat(lua, 2);
    lua_error(lua);
}

static void push_json(lua_State *lua, const cJSON *value)
{
    luaL_checkstack(lua, 4, "config.json");
    if (cJSON_IsBool(value)) {
        lua_pushboolean(lua, cJSON_IsTrue(value));
    } else if (cJSON_IsNumber(value)) {
        double d = value->valuedouble;
        if (d == floor(d) && fabs(d) <= 9007199254740992.0)
            lua_pushinteger(lua, (lua_Integer)d);
        else
            lua_pushnumber(lua, d);
    } else if (cJSON_IsString(value)) {
        lua_pushstring(lua, value->valuestring);
    } else if (cJSON_IsArray(value)) {
        lua_newtable(lua);
        lua_Integer i = 1;
        for (const cJSON *e = value->child; e; e = e->next) {
            push_json(lua, e);
            lua_rawseti(lua, -2, i++);
        }
    } else if (cJSON_IsObject(value)) {
        lua_newtable(lua);
        for (const cJSON *e = value->child; e; e = e->next) {
            push_json(lua, e);
            lua_setfield(lua, -2, e->string);
        }
    } else {
        lua_pushlightuserdata(lua, NULL);
    }
}

// source(name): the text of an architecture file, or nil.
static int push_source(lua_State *lua)
{
    size_t bytes;
    const char *text = tracer_of(lua)->files->text(luaL_checkstring(lua, 1), &bytes);
    if (text)
        lua_pushlstring(lua, text, bytes);
    else
        lua_pushnil(lua);
    return 1;
}

// line_of(level): file and line of a function that is running, or nothing.
static int push_line(lua_State *lua)
{
    lua_Debug frame;
    if (!lua_getstack(lua, (int)luaL_checkinteger(lua, 1), &frame)) return 0;
    lua_getinfo(lua, "Sl", &frame);
    lua_pushstring(lua, frame.short_src);
    lua_pushinteger(lua, frame.currentline);
    return 2;
}

// has_weights()
static int push_has_weights(lua_State *lua)
{
    const Checkpoint *ck = tracer_of(lua)->checkpoint;
    lua_pushboolean(lua, ck->count && !ck->random_seed);
    return 1;
}

// has_tensor(name)
static int push_has_tensor(lua_State *lua)
{
    lua_pushboolean(lua, find_tensor(tracer_of(lua)->checkpoint, luaL_checkstring(lua, 1)) != NULL);
    return 1;
}

// warn_missing(name)
static int push_warning(lua_State *lua)
{
    warn(tracer_of(lua)->checkpoint->dir, "no tensor %s; taken as zeros", luaL_checkstring(lua, 1));
    return 0;
}

// The libraries an architecture may use; what reads files or hides errors is taken out.
static void open_libraries(lua_State *lua)
{
    static const luaL_Reg libraries[] = {
        {LUA_GNAME, luaopen_base},
        {LUA_TABLIBNAME, luaopen_table},
        {LUA_STRLIBNAME, luaopen_string},
        {LUA_MATHLIBNAME, luaopen_math},
    };
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++) {
        luaL_requiref(lua, libraries[i].name, libraries[i].func, 1);
        lua_pop(lua, 1);
    }
    static const char *const hidden[] = {"dofile", "loadfile",       "print", "pcall",
                                         "xpcall", "collectgarbage", "warn"};
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++) {
        lua_pushnil(lua);
        lua_setglobal(lua, hidden[i]);
    }
    lua_getglobal(lua, "math");
    static const char *const chance[] = {"random", "randomseed"};
    for (int i = 0; i < 2; i++) {
        lua_pushnil(lua);
        lua_setfield(lua, -2, chance[i]);
    }
    lua_pop(lua, 1);
}

// --- the traced tables ---------------------------------------------------------------------------

static int64_t get_integer(lua_State *lua, const char *key)
{
    lua_getfield(lua, -1, key);
    int64_t value = lua_tointeger(lua, -1);
    lua_pop(lua, 1);
    return value;
}

static double get_number(lua_State *lua, const char *key)
{
    lua_getfield(lua, -1, key);
    double value = lua_tonumber(lua, -1);
    lua_pop(lua, 1);
    return value;
}

static int get_boolean(lua_State *lua, const char *key)
{
    lua_getfield(lua, -1, key);
    int value = lua_toboolean(lua, -1);
    lua_pop(lua, 1);
    return value;
}

// A copy of a string field; NULL when it is none.
static const char *get_string(lua_State *lua, const char *key)
{
    size_t bytes;
    lua_getfield(lua, -1, key);
    const char *s = lua_type(lua, -1) == LUA_TSTRING ? lua_tolstring(lua, -1, &bytes) : NULL;
    const char *copy = s ? arena_copy(s, bytes) : NULL;
    lua_pop(lua, 1);
    return copy;
}

// The tensor of all experts that the op on top of the stack may come from.
static Stack read_stack(lua_State *lua)
{
    Stack stack = {0};
    if (lua_getfield(lua, -1, "stack") == LUA_TTABLE)
        stack = (Stack){.weight = get_string(lua, "name"),
                        .bias = get_string(lua, "bias"),
                        .rows = (int)get_integer(lua, "rows"),
                        .first = (int)get_integer(lua, "first"),
                        .step = (int)get_integer(lua, "step"),
                        .transposed = get_boolean(lua, "transposed")};
    lua_pop(lua, 1);
    return stack;
}

static void read_op(lua_State *lua, TracedList *traced)
{
    Op op = {.kind = get_string(lua, "kind"), .role = get_string(lua, "role")};
    op.width = (int)get_integer(lua, "width");
    op.tensor_offset = get_number(lua, "offset");
    op.detail = get_string(lua, "detail");
    op.rope = (int)get_integer(lua, "rope");
    lua_getfield(lua, -1, "args");
    for (int i = 0; i < 4; i++) {
        lua_rawgeti(lua, -1, i + 1);
        op.operand[i] = lua_isnil(lua, -1) ? -1 : (int)lua_tointeger(lua, -1) - 1;
        lua_pop(lua, 1);
    }
    lua_pop(lua, 1);
    Place place = {.name = get_string(lua, "name"), .tied = get_string(lua, "tied")};
    place.rows = get_integer(lua, "rows");
    place.columns = get_integer(lua, "columns");
    place.from = get_integer(lua, "from");
    place.fused = get_string(lua, "fused");
    place.row = get_integer(lua, "row");
    place.out = get_integer(lua, "out");
    place.count = get_integer(lua, "count");
    place.stack = read_stack(lua);
    place.biased = get_boolean(lua, "biased");
    place.table = get_boolean(lua, "table");
    size_t count = traced->list.count;
    APPEND(traced->places, count, traced->room, place);
    APPEND(traced->list.ops, traced->list.count, traced->list.room, op);
}

// The list on top of the stack, which is popped.
static TracedList read_list(lua_State *lua)
{
    TracedList traced = {0};
    traced.list.window = (int)get_integer(lua, "window");
    lua_getfield(lua, -1, "ops");
    lua_Integer count = luaL_len(lua, -1);
    for (lua_Integer i = 1; i <= count; i++) {
        lua_rawgeti(lua, -1, i);
        read_op(lua, &traced);
        lua_pop(lua, 1);
    }
    lua_pop(lua, 2);
    return traced;
}

// The list of numbers under a key of the table on top of the stack; NULL when there is none.
static double *read_numbers(lua_State *lua, const char *key, int count)
{
    double *numbers = NULL;
    if (lua_getfield(lua, -1, key) == LUA_TTABLE) {
        numbers = arena_alloc((size_t)count * sizeof *numbers);
        for (int j = 0; j < count; j++) {
            lua_rawgeti(lua, -1, j + 1);
            numbers[j] = lua_tonumber(lua, -1);
            lua_pop(lua, 1);
        }
    }
    lua_pop(lua, 1);
    return numbers;
}

static void read_ropes(lua_State *lua, Facts *f)
{
    lua_getfield(lua, -1, "ropes");
    f->rope_count = (int)luaL_len(lua, -1);
    f->ropes = arena_alloc((size_t)f->rope_count * sizeof *f->ropes);
    for (int i = 0; i < f->rope_count; i++) {
        lua_rawgeti(lua, -1, i + 1);
        int dim = (int)get_integer(lua, "dim"), interleaved = get_boolean(lua, "interleaved");
        if (i && (dim != f->rope_dim || interleaved != f->rope_interleaved))
            luaL_error(lua, "archs:1: ropes of different widths or styles");
        f->rope_dim = dim;
        f->rope_interleaved = interleaved;
        f->ropes[i] = (Rope){.factor = get_number(lua, "factor"),
                             .inverse = read_numbers(lua, "inverse", dim / 2),
                             .short_inverse = read_numbers(lua, "short", dim / 2),
                             .original = (int)get_integer(lua, "original")};
        if (lua_getfield(lua, -1, "query_scale") == LUA_TTABLE) {
            f->query_beta = get_number(lua, "beta");
            f->query_from = (int)get_number(lua, "from");
        }
        lua_pop(lua, 2);
    }
    lua_pop(lua, 1);
}

static void read_routing(lua_State *lua, Facts *f)
{
    if (lua_getfield(lua, -1, "routing") == LUA_TTABLE) {
        f->experts = (int)get_integer(lua, "experts");
        f->active = (int)get_integer(lua, "active");
        f->expert_dim = (int)get_integer(lua, "expert_dim");
        f->shared_dim = (int)get_integer(lua, "shared_dim");
        f->router_sigmoid = get_boolean(lua, "sigmoid");
        f->router_normalize = get_boolean(lua, "normalize");
        f->router_groups = (int)get_integer(lua, "groups");
        f->router_top_groups = (int)get_integer(lua, "top_groups");
        f->router_group_best = (int)get_integer(lua, "group_best");
        f->router_scale = get_number(lua, "scale");
    }
    lua_pop(lua, 1);
}

static void read_latent(lua_State *lua, Facts *f)
{
    if (lua_getfield(lua, -1, "latent") == LUA_TTABLE) {
        f->q_latent = (int)get_integer(lua, "q");
        f->kv_latent = (int)get_integer(lua, "kv");
        f->nope_dim = (int)get_integer(lua, "nope");
        f->value_dim = (int)get_integer(lua, "value");
        f->latent_eps = get_number(lua, "eps");
    }
    lua_pop(lua, 1);
}

static void read_delta(lua_State *lua, Facts *f)
{
    if (lua_getfield(lua, -1, "delta") == LUA_TTABLE) {
        f->delta_key_heads = (int)get_integer(lua, "key_heads");
        f->delta_heads = (int)get_integer(lua, "heads");
        f->delta_key_dim = (int)get_integer(lua, "key_dim");
        f->delta_value_dim = (int)get_integer(lua, "value_dim");
        f->delta_taps = (int)get_integer(lua, "taps");
        f->delta_grouped = get_boolean(lua, "grouped");
    }
    lua_pop(lua, 1);
}

static void read_facts(lua_State *lua, Graph *g)
{
    Facts *f = &g->facts;
    f->dim = (int)get_integer(lua, "dim");
    f->layers = (int)get_integer(lua, "layers");
    f->heads = (int)get_integer(lua, "heads");
    f->head_dim = (int)get_integer(lua, "head_dim");
    f->vocab = (int)get_integer(lua, "vocab");
    f->max_position = (int)get_integer(lua, "max_position");
    f->reach = (int)get_integer(lua, "reach");
    f->norm_eps = get_number(lua, "eps");
    f->softmax_scale = get_number(lua, "softmax_scale");
    f->embed_scale = get_number(lua, "embed_scale");
    f->residual_scale = get_number(lua, "residual_scale");
    f->logit_scale = get_number(lua, "logit_scale");
    f->attn_softcap = get_number(lua, "attn_softcap");
    f->logit_softcap = get_number(lua, "logit_softcap");
    g->architecture = get_string(lua, "name");
    g->arch_file = get_string(lua, "file");
    g->tied_head = get_boolean(lua, "tied");
    f->act_limit = get_number(lua, "act_limit");
    read_ropes(lua, f);
    read_routing(lua, f);
    read_latent(lua, f);
    read_delta(lua, f);
}

// The whole result of the trace, on top of the stack.
static void read_trace(lua_State *lua, Tracer *t)
{
    read_facts(lua, t->graph);
    int layers = t->graph->facts.layers;
    t->lists = arena_alloc(((size_t)layers + 2) * sizeof *t->lists);
    lua_getfield(lua, -1, "first");
    t->lists[0] = read_list(lua);
    for (int l = 0; l < layers; l++) {
        lua_rawgeti(lua, -1, l + 1);
        t->lists[l + 1] = read_list(lua);
    }
    lua_getfield(lua, -1, "last");
    t->lists[layers + 1] = read_list(lua);
}

// --- running -------------------------------------------------------------------------------------

// Everything that Lua may fail in.
static int run_prelude(lua_State *lua)
{
    open_libraries(lua);
    push_json(lua, tracer_of(lua)->checkpoint->config);
    lua_setglobal(lua, "config");
    lua_pushlightuserdata(lua, NULL);
    lua_setglobal(lua, "null");
    lua_pushcfunction(lua, push_source);
    lua_setglobal(lua, "source");
    lua_pushcfunction(lua, push_line);
    lua_setglobal(lua, "line_of");
    lua_pushcfunction(lua, push_has_weights);
    lua_setglobal(lua, "has_weights");
    lua_pushcfunction(lua, push_has_tensor);
    lua_setglobal(lua, "has_tensor");
    lua_pushcfunction(lua, push_warning);
    lua_setglobal(lua, "warn_missing");
    size_t bytes;
    const char *text = tracer_of(lua)->files->text("compiler/prelude.lua", &bytes);
    if (!text) luaL_error(lua, "compiler/prelude.lua:1: is missing");
    if (luaL_loadbufferx(lua, text, bytes, "@compiler/prelude.lua", "t") != LUA_OK)
        return lua_error(lua);
    lua_call(lua, 0, 1);
    lua_newtable(lua);
    lua_Integer count = 0;
    for (const char *const *name = tracer_of(lua)->files->names; *name; name++) {
        size_t n = strlen(*name);
        if (n <= 10 || strncmp(*name, "archs/", 6) != 0 || strcmp(*name + n - 4, ".lua") != 0)
            continue;
        lua_pushlstring(lua, *name + 6, n - 10);
        lua_rawseti(lua, -2, ++count);
    }
    lua_call(lua, 1, 1);
    read_trace(lua, tracer_of(lua));
    return 0;
}

// Dies with the error on top of the stack: a refusal of config.json or of a place in an
// architecture file, or an error of Lua's own, whose message begins with "FILE:LINE: ".
static _Noreturn void report_error(lua_State *lua, const char *config)
{
    const char *message = NULL, *where = NULL;
    if (lua_istable(lua, -1)) {
        message = get_string(lua, "refused");
        where = get_string(lua, "where");
    }
    if (message) {
        lua_close(lua);
        die(where ? where : config, "%s", message);
    }
    message = lua_tostring(lua, -1);
    message = message ? arena_copy(message, strlen(message)) : "failed without a message";
    lua_close(lua);
    const char *colon = strchr(message, ':'), *end = colon ? strstr(colon + 1, ": ") : NULL;
    if (!end) die("archs", "%s", message);
    die(arena_copy(message, (size_t)(end - message)), "%s", end + 2);
}

// --- tensors -------------------------------------------------------------------------------------

// The head: its own tensors before the embedding's, of either EXL3 before plain.
static const char *choose_head(const Checkpoint *ck, const Place *place)
{
    if (!place->tied || ck->random_seed || is_quantized(ck, place->name)) return place->name;
    if (is_quantized(ck, place->tied)) return place->tied;
    return has_linear(ck, place->name) ? place->name : place->tied;
}

static OpList find_tensors(const Checkpoint *ck, TracedList *traced, int is_end)
{
    for (size_t i = 0; i < traced->list.count; i++) {
        Op *op = &traced->list.ops[i];
        const Place *place = &traced->places[i];
        const int made = (is_end ? MADE_HEAD : 0) | (place->biased ? MADE_BIASED : 0);
        if (!place->name) continue;
        if (place->fused && !has_linear(ck, place->name) && has_linear(ck, place->fused))
            op->linear = find_linear_rows(ck, place->fused, (int)place->from, (int)place->rows,
                                          (int)place->row, op->width);
        else if (strcmp(op->kind, "linear") == 0)
            op->linear = find_linear(ck, is_end ? choose_head(ck, place) : place->name,
                                     (int)place->from, op->width, made);
        else if (strcmp(op->kind, "experts") == 0) {
            op->expert_count = (int)place->count;
            op->experts = place->stack.weight && find_tensor(ck, place->stack.weight)
                              ? find_stacked(ck, &place->stack, (int)place->from, (int)place->out,
                                             op->expert_count)
                              : find_experts(ck, place->name, (int)place->from, (int)place->out,
                                             op->expert_count, made);
            op->linear = op->experts[0];
        } else if (strcmp(op->kind, "embedding") == 0)
            op->tensor = find_values(ck, place->name, place->rows, op->width);
        else if (place->table)
            op->tensor = find_table(ck, place->name, place->rows / place->columns, place->columns);
        else
            op->tensor = place->columns ? find_values(ck, place->name, place->rows / place->columns,
                                                      place->columns)
                                        : find_values(ck, place->name, place->rows, 0);
    }
    return traced->list;
}

Graph *trace_arch(const Checkpoint *ck)
{
    const ArchFiles files = {embedded_names(), embedded_text};
    return trace_files(ck, &files);
}

static void check_rope(const char *config, const Facts *f, const Rope *rope)
{
    for (int j = 0; j < f->rope_dim / 2; j++)
        if (!isfinite((float)rope->inverse[j]) ||
            (rope->short_inverse && !isfinite((float)rope->short_inverse[j])))
            die(config, "rope: the inverse frequency of pair %d is %g", j, rope->inverse[j]);
    if (!isfinite((float)rope->factor)) die(config, "rope: the factor is %g", rope->factor);
}

// The widths that may differ between layers: what buffers must have room for; and what layers keep.
static void measure_layers(Graph *g)
{
    Facts *f = &g->facts;
    for (int l = 0; l < f->layers; l++)
        for (size_t i = 0; i < g->layers[l].count; i++) {
            const Op *op = &g->layers[l].ops[i];
            int kv_heads = 0, width = 0;
            if (strcmp(op->kind, "act") == 0 && !strstr(op->role, "shared") &&
                !g->layers[l].ops[op->operand[0]].experts)
                width = op->width;
            if (strcmp(op->kind, "attend") == 0)
                kv_heads = g->layers[l].ops[op->operand[1]].width / f->head_dim;
            f->cache_layers += strcmp(op->kind, "attend") == 0;
            f->state_layers += strcmp(op->kind, "delta") == 0;
            f->gated_attention |= strcmp(op->kind, "gated") == 0;
            if (kv_heads > f->kv_heads) f->kv_heads = kv_heads;
            if (width > f->ffn_dim) f->ffn_dim = width;
        }
    if (!f->ffn_dim) f->ffn_dim = f->expert_dim;
}

Graph *trace_files(const Checkpoint *ck, const ArchFiles *files)
{
    const char *config = arena_format("%s/config.json", ck->dir);
    if (!cJSON_IsObject(ck->config)) die(config, "not a JSON object");
    Graph *g = arena_alloc(sizeof *g);
    g->checkpoint = ck;
    Tracer tracer = {.checkpoint = ck, .files = files, .graph = g};
    lua_State *lua = lua_newstate(allocate, &tracer);
    if (!lua) die("memory", "cannot start Lua");
    *(Tracer **)lua_getextraspace(lua) = &tracer;
    lua_sethook(lua, count_steps, LUA_MASKCOUNT, 1000000);
    lua_pushcfunction(lua, run_prelude);
    if (lua_pcall(lua, 0, 0, 0) != LUA_OK) report_error(lua, config);
    lua_close(lua);

    if (!ck->random_seed) check_quantization(ck);
    Facts *f = &g->facts;
    if (!f->rope_count) die(config, "no layer turns its queries and keys, which is not supported");
    for (int i = 0; i < f->rope_count; i++) check_rope(config, f, &f->ropes[i]);
    if ((int64_t)f->heads * f->head_dim > 1 << 20)
        die(config, "%d heads of %d channels are more than %d channels", f->heads, f->head_dim,
            1 << 20);
    g->begin = find_tensors(ck, &tracer.lists[0], 0);
    g->layers = arena_alloc((size_t)f->layers * sizeof *g->layers);
    for (int l = 0; l < f->layers; l++) g->layers[l] = find_tensors(ck, &tracer.lists[l + 1], 0);
    g->end = find_tensors(ck, &tracer.lists[f->layers + 1], 1);
    measure_layers(g);
    check_graph(g);
    return g;
}
