// Folds ops into steps by the rows of kernels/catalog.h. A row's pattern is matched against the ops
// that are still to do; which op is where in memory is followed through the buffers the rows name,
// so a dataflow that no sequence of rows computes is refused.
#include "exlc.h"
#include "../kernels/catalog.h"
#include <assert.h>
#include <ctype.h>
#include <stddef.h>
#include <string.h>

// --- the rows, read ------------------------------------------------------------------------------

#define MAX_LINES 24
#define MAX_NAME 16

// One statement of a pattern: name = kind:detail(args), or @name = args[0].
typedef struct {
    char name[MAX_NAME], kind[MAX_NAME], detail[MAX_NAME]; // no kind: a store into a buffer
    char args[4][MAX_NAME];
    int arg_count, optional;
} Line;

typedef struct {
    const char *name, *pattern, *comment;
    int formats, line_count;
    Line lines[MAX_LINES];
} Row;

static Row rows[] = {
#define STEP(name, formats, pattern, comment, targets, grid)                                       \
    {#name, pattern, comment, formats, 0, {{{0}, {0}, {0}, {{0}}, 0, 0}}},
    CATALOG(STEP)
#undef STEP
};
#define ROW_COUNT ((int)(sizeof rows / sizeof *rows))

static const char *read_name(const char *p, char *name)
{
    int n = 0;
    while (isspace((unsigned char)*p)) p++;
    while (isalnum((unsigned char)*p) || *p == '_' || *p == '@') {
        assert(n < MAX_NAME - 1);
        name[n++] = *p++;
    }
    name[n] = 0;
    while (isspace((unsigned char)*p)) p++;
    return p;
}

static const char *read_line(const char *p, Line *line)
{
    p = read_name(p, line->name);
    line->optional = *p == '?';
    p += line->optional;
    assert(*p == '=');
    p = read_name(p + 1, line->kind);
    if (*p == ':') p = read_name(p + 1, line->detail);
    if (*p == '(') {
        p = read_name(p + 1, line->args[0]);
        line->arg_count = line->args[0][0] != 0;
        while (*p == ',') p = read_name(p + 1, line->args[line->arg_count++]);
        assert(*p == ')');
        p = read_name(p + 1, (char[MAX_NAME]){0});
    } else {
        memcpy(line->args[0], line->kind, MAX_NAME);
        line->arg_count = 1;
        line->kind[0] = 0;
    }
    assert(*p == ';' || *p == 0);
    return *p == ';' ? p + 1 : p;
}

static void read_rows(void)
{
    for (int r = 0; r < ROW_COUNT; r++) {
        Row *row = &rows[r];
        row->line_count = 0;
        for (const char *p = row->pattern; *p;) {
            assert(row->line_count < MAX_LINES);
            memset(&row->lines[row->line_count], 0, sizeof(Line));
            p = read_line(p, &row->lines[row->line_count++]);
        }
    }
}

// --- matching ------------------------------------------------------------------------------------

#define MAX_BUFFERS 12
#define MAX_OPS 512

// A list of ops on its way through the rows.
typedef struct {
    const OpList *list;
    char done[MAX_OPS];
    struct {
        char name[MAX_NAME];
        int op; // whose value it holds
    } buffers[MAX_BUFFERS];
    int buffer_count;
} Folding;

// The op each line of a row stands for; -1 for a missing optional op.
typedef struct {
    int op[MAX_LINES];    // matched by the line
    int value[MAX_LINES]; // that the line's name stands for
} Match;

static int *find_buffer(Folding *s, const char *name)
{
    for (int i = 0; i < s->buffer_count; i++)
        if (strcmp(s->buffers[i].name, name) == 0) return &s->buffers[i].op;
    assert(s->buffer_count < MAX_BUFFERS);
    strcpy(s->buffers[s->buffer_count].name, name);
    s->buffers[s->buffer_count].op = -1;
    return &s->buffers[s->buffer_count++].op;
}

// The op that an argument of line `at` stands for, or -1.
static int value_of(Folding *s, const Row *row, const Match *m, int at, const char *name)
{
    if (*name == '@') return *find_buffer(s, name);
    for (int i = at - 1; i >= 0; i--)
        if (strcmp(row->lines[i].name, name) == 0) return m->value[i];
    assert(!"a pattern uses a name it does not define");
    return -1;
}

static int is_known_activation(const char *name)
{
    static const char *const names[] = {
#define ACT(name) #name,
        ACTIVATIONS(ACT)
#undef ACT
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (name && strcmp(names[i], name) == 0) return 1;
    return 0;
}

static int fits(const Op *op, const Line *line, const int *args)
{
    if (strcmp(op->kind, line->kind) != 0) return 0;
    if (*line->detail && (!op->detail || strcmp(op->detail, line->detail) != 0)) return 0;
    if (strcmp(op->kind, "act") == 0 && !is_known_activation(op->detail)) return 0;
    int same = 1;
    for (int i = 0; i < 4; i++) same &= op->operand[i] == (i < line->arg_count ? args[i] : -1);
    if (strcmp(op->kind, "add") == 0 || strcmp(op->kind, "mul") == 0)
        same |= args[0] >= 0 && op->operand[1] == args[0] && op->operand[0] == args[1];
    return same;
}

// Matches line `at` and those after it; tries every op for each, in order.
static int match_lines(Folding *s, const Row *row, Match *m, int at)
{
    if (at == row->line_count) return 1;
    const Line *line = &row->lines[at];
    int args[4];
    for (int i = 0; i < line->arg_count; i++) args[i] = value_of(s, row, m, at, line->args[i]);
    m->op[at] = -1;
    m->value[at] = line->arg_count ? args[0] : -1;
    if (!*line->kind) return match_lines(s, row, m, at + 1);
    for (int i = 0; i < (int)s->list->count; i++) {
        int taken = s->done[i];
        for (int j = 0; j < at; j++) taken |= m->op[j] == i;
        if (taken || !fits(&s->list->ops[i], line, args)) continue;
        m->op[at] = m->value[at] = i;
        if (match_lines(s, row, m, at + 1)) return 1;
    }
    if (!line->optional) return 0;
    m->op[at] = -1;
    m->value[at] = line->arg_count ? args[0] : -1;
    return match_lines(s, row, m, at + 1);
}

// 1 when no op outside the match needs a value that the match does not leave in a buffer, and no
// buffer loses a value that is still needed.
static int is_closed(Folding *s, const Row *row, const Match *m)
{
    Folding after = *s;
    for (int i = 0; i < row->line_count; i++) {
        if (m->op[i] >= 0) after.done[m->op[i]] = 1;
        if (!*row->lines[i].kind) *find_buffer(&after, row->lines[i].name) = m->value[i];
    }
    for (int i = 0; i < (int)s->list->count; i++) {
        if (after.done[i]) continue;
        for (int k = 0; k < 4; k++) {
            int from = s->list->ops[i].operand[k], held = from < 0 || !after.done[from];
            for (int j = 0; j < after.buffer_count; j++) held |= after.buffers[j].op == from;
            if (!held) return 0;
        }
    }
    *s = after;
    return 1;
}

// The row that does some of what is left, and its ops.
static const Row *match_row(Folding *s, Match *m)
{
    for (int r = 0; r < ROW_COUNT; r++)
        if (rows[r].line_count && match_lines(s, &rows[r], m, 0) && is_closed(s, &rows[r], m))
            return &rows[r];
    return NULL;
}

// --- steps ---------------------------------------------------------------------------------------

// Where a row's names put their weights.
static const struct {
    const char *name;
    size_t offset;
    int is_op; // the op itself: its tensor and how it is stored
} places[] = {
#define PLACE(field, is_op)                                                                        \
    {                                                                                              \
#field, offsetof(LayerWeights, field), is_op                                               \
    }
    PLACE(attn_norm, 1),   PLACE(q_norm, 1),
    PLACE(k_norm, 1),      PLACE(sinks, 1),
    PLACE(attn_post, 1),   PLACE(ffn_norm, 1),
    PLACE(alpha_p, 1),     PLACE(alpha_n, 1),
    PLACE(ffn_post, 1),    PLACE(q, 0),
    PLACE(k, 0),           PLACE(v, 0),
    PLACE(o, 0),           PLACE(gate, 0),
    PLACE(up, 0),          PLACE(down, 0),
    PLACE(router, 1),      PLACE(router_bias, 1),
    PLACE(choice_bias, 1), PLACE(expert_gate, 1),
    PLACE(expert_up, 1),   PLACE(expert_down, 1),
    PLACE(shared_gate, 0), PLACE(shared_up, 0),
    PLACE(shared_down, 0), PLACE(shared_weight, 1),
    PLACE(q_a, 0),         PLACE(q_b, 0),
    PLACE(kv_a, 0),        PLACE(q_a_norm, 1),
    PLACE(latent_q, 1),    PLACE(latent_k, 1),
    PLACE(delta_in, 0),    PLACE(delta_z, 0),
    PLACE(delta_b, 1),     PLACE(delta_a, 1),
    PLACE(a_log, 1),       PLACE(dt_bias, 1),
    PLACE(conv, 1),        PLACE(delta_norm, 1),
};

static void put_weights(Plan *plan, LayerWeights *w, const char *name, const Op *op)
{
    if (strcmp(name, "embed") == 0) plan->embed = op->tensor;
    if (strcmp(name, "norm") == 0) plan->norm = op;
    if (strcmp(name, "head") == 0) plan->head = op->linear;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (strcmp(places[i].name, name) != 0) continue;
        void *at = (char *)w + places[i].offset;
        if (places[i].is_op)
            *(const Op **)at = op;
        else
            *(const LinearWeights **)at = op->linear;
    }
}

// "a.{x,y}_b" for names that share a beginning and an end between dots; appends to b.
static void roll_names(Buffer *b, const char **names, int count)
{
    for (int i = 0; i < count;) {
        const char *name = names[i], *dot = strrchr(name, '.');
        size_t head = dot ? (size_t)(dot + 1 - name) : 0, total = strlen(name);
        const char *tail = strrchr(name + head, '_');
        if (!tail) tail = name + total;
        int n = 1;
        while (i + n < count && strncmp(names[i + n], name, head) == 0) {
            const char *other = strrchr(names[i + n] + head, '_');
            if (!other || !*tail || strcmp(other, tail) != 0) break;
            n++;
        }
        buffer_print(b, "%s%.*s", b->bytes ? ", " : "", n > 1 ? (int)head : 0, name);
        for (int j = 0; j < n && n > 1; j++) {
            const char *middle = names[i + j] + head;
            buffer_print(b, "%s%.*s", j ? "," : "{", (int)(strrchr(middle, '_') - middle), middle);
        }
        buffer_print(b, n > 1 ? "}%s" : "%s", n > 1 ? tail : name);
        i += n;
    }
}

// The name of an op's weights without the layer's prefix and ".weight".
static const char *short_name(const Op *op, int layer)
{
    const char *name = op->linear ? op->linear->name : op->tensor->name;
    const char *index = arena_format(".%d.", layer), *at = layer < 0 ? NULL : strstr(name, index);
    if (at) name = at + strlen(index);
    size_t n = strlen(name);
    if (!op->linear && n > 7 && strcmp(name + n - 7, ".weight") == 0) n -= 7;
    return arena_copy(name, n);
}

// The op of a kind among those a row matched, or NULL.
static const Op *find_kind(const OpList *list, const Row *row, const Match *m, const char *kind)
{
    for (int i = 0; i < row->line_count; i++)
        if (m->op[i] >= 0 && strcmp(list->ops[m->op[i]].kind, kind) == 0)
            return &list->ops[m->op[i]];
    return NULL;
}

// How a table of 16 bits a value is stored.
static int table_format(const Tensor *t)
{
    return t->dtype == DTYPE_BF16 ? b16 : f16;
}

static Step make_step(const char *where, const Row *row, const OpList *list, const Match *m,
                      int layer)
{
    Step step = {.name = row->name};
    const char *norms[MAX_LINES], *names[MAX_LINES];
    int norm_count = 0, count = 0;
    for (int i = 0; i < row->line_count; i++) {
        if (m->op[i] < 0) continue;
        const Op *op = &list->ops[m->op[i]];
        if (op->linear) step.formats[step.format_count++] = op->linear->format;
        if (strcmp(op->kind, "embedding") == 0)
            step.formats[step.format_count++] = table_format(op->tensor);
        if (strcmp(op->kind, "head_norm") == 0)
            norms[norm_count++] = short_name(op, layer);
        else if (op->linear || op->tensor)
            names[count++] = short_name(op, layer);
        // Several ops may take one tensor.
        if (count > 1 && strcmp(names[count - 1], names[count - 2]) == 0) count--;
    }
    if (step.format_count != row->formats)
        die(where, "step %s takes %d formats, not %d", row->name, row->formats, step.format_count);
    for (int i = 0; i < norm_count; i++) names[count++] = norms[i];
    Buffer b = {0};
    roll_names(&b, names, count);
    const char *comment = row->comment, *act = strstr(comment, "{act}");
    if (act)
        comment = arena_format("%.*s%s%s", (int)(act - comment), comment,
                               find_kind(list, row, m, "act")->detail, act + 5);
    if (strncmp(comment, "{rope}", 6) == 0)
        comment =
            arena_format("%s%s", find_kind(list, row, m, "rope") ? ", rope" : "", comment + 6);
    const char *between = b.data && isalpha((unsigned char)*comment) ? ", " : "";
    step.comment = arena_format("%s%s%s", b.data ? b.data : "", between, comment);
    buffer_free(&b);
    return step;
}

static _Noreturn void refuse_ops(const Folding *s, const char *where)
{
    Buffer b = {0};
    for (int i = 0; i < (int)s->list->count && b.bytes < 200; i++) {
        const Op *op = &s->list->ops[i];
        if (s->done[i]) continue;
        buffer_print(&b, "%s%s%s%s %s", b.bytes ? ", " : "", op->kind, op->detail ? ":" : "",
                     op->detail ? op->detail : "", op->role);
    }
    die(where, "no step computes %s", b.data);
}

// The steps of a list; weights go to w, and those of the ends to plan.
static void fuse_list(Plan *plan, const OpList *list, int layer, LayerWeights *w)
{
    const Graph *g = plan->graph;
    const char *where = arena_format("archs/%s: %s", g->arch_file,
                                     layer < 0 ? "ends" : arena_format("layer %d", layer));
    if (list->count > MAX_OPS) die(where, "%zu ops, at most %d", list->count, MAX_OPS);
    Folding s = {.list = list};
    size_t left = list->count, count = 0, room = 0;
    if (left && strcmp(list->ops[0].kind, "input") == 0) {
        *find_buffer(&s, "@x") = 0;
        s.done[0] = 1;
        left--;
    }
    for (int r = 0; r < ROW_COUNT && layer >= 0; r++)
        if (rows[r].line_count == 0)
            APPEND(w->steps, count, room,
                   ((Step){.name = rows[r].name, .comment = rows[r].comment}));
    while (left) {
        Match m;
        const Row *row = match_row(&s, &m);
        if (!row) refuse_ops(&s, where);
        APPEND(w->steps, count, room, make_step(where, row, list, &m, layer));
        for (int i = 0; i < row->line_count; i++) {
            if (m.op[i] < 0) continue;
            put_weights(plan, w, row->lines[i].name, &list->ops[m.op[i]]);
            left--;
        }
    }
    w->step_count = (int)count;
    const char *result = list == &g->end ? "@logits" : "@x";
    if (*find_buffer(&s, result) != (int)list->count - 1)
        die(where, "the steps do not leave its result in %s", result + 1);
}

// --- the plan ------------------------------------------------------------------------------------

// What must be the same in all layers, and becomes a constant of the program.
static void agree(const Op *op, const char *what, const char **known, const char *found)
{
    if (*known && strcmp(*known, found) != 0)
        die(op->role, "%s %s here and %s in another place, which is not supported", what, found,
            *known);
    *known = found;
}

static void take_traits(Plan *plan)
{
    const char *norm = NULL, *head_norm = NULL, *kv_b = NULL;
    const Graph *g = plan->graph;
    for (int l = 0; l <= g->facts.layers; l++) {
        const OpList *list = l < g->facts.layers ? &g->layers[l] : &g->end;
        for (size_t i = 0; i < list->count; i++) {
            const Op *op = &list->ops[i];
            if (strcmp(op->kind, "norm") == 0) agree(op, "norm", &norm, op->detail);
            if (strcmp(op->kind, "head_norm") == 0) agree(op, "head_norm", &head_norm, op->detail);
            if (strcmp(op->kind, "act") == 0) agree(op, "act", &plan->activation, op->detail);
            if (strcmp(op->kind, "latent_q") != 0) continue;
            plan->kv_b_format = table_format(op->tensor);
            agree(op, "kv_b", &kv_b, format_text(plan->kv_b_format));
        }
    }
    plan->layer_norm = norm && strcmp(norm, "layer") == 0;
    plan->head_norms = head_norm && strcmp(head_norm, "layer") == 0 ? "HEAD_NORM_EACH"
                       : head_norm && strcmp(head_norm, "all") == 0 ? "HEAD_NORM_ALL"
                                                                    : "HEAD_NORM_SHARED";
    if (!plan->activation) plan->activation = "silu";
}

// Attention and feed-forward: how many of them a layer has.
static int parts_of(const LayerWeights *w)
{
    return (w->o != NULL) + (w->up || w->router);
}

// Widths and tables of one layer; needs: those of the layers before it.
static void measure_layer(const Graph *g, int l, LayerWeights *w)
{
    const OpList *list = &g->layers[l];
    w->window = list->window;
    w->rope = -1;
    if (w->k) w->kv_heads = w->k->out / g->facts.head_dim;
    if (w->up) w->ffn_dim = w->up->out;
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->ops[i].kind, "rope") == 0 || strcmp(list->ops[i].kind, "latent_k") == 0)
            w->rope = list->ops[i].rope;
    if (w->latent_k) w->kv_heads = 1;
    const LayerWeights *first = w - l;
    for (int i = 0; i < l; i++)
        w->kept += w->delta_in ? first[i].delta_in != NULL
                   : g->facts.state_layers // one pool, as window_layers has it
                       ? first[i].kv_heads > 0
                       : first[i].kv_heads > 0 && (first[i].window > 0) == (w->window > 0);
    w->before = -1;
    for (int i = 0; i < l; i++) {
        w->parts += parts_of(&first[i]);
        if (parts_of(&first[i])) w->before = i;
    }
}

static void count_parameters(Plan *plan)
{
    const Graph *g = plan->graph;
    double bits = 0, weights = 0;
    for (int l = -1; l <= g->facts.layers; l++) {
        const OpList *list = l < 0 ? &g->begin : l < g->facts.layers ? &g->layers[l] : &g->end;
        for (size_t i = 0; i < list->count; i++) {
            const Op *op = &list->ops[i];
            int again = 0; // a tensor of two ops
            for (size_t j = 0; j < i && op->tensor; j++)
                again |=
                    list->ops[j].tensor && strcmp(list->ops[j].tensor->name, op->tensor->name) == 0;
            if (op->tensor && !again) {
                uint64_t values = 1;
                for (int k = 0; k < op->tensor->rank; k++) values *= (uint64_t)op->tensor->shape[k];
                plan->parameters += values;
            }
            if (!op->linear || (op->linear == plan->head && g->tied_head)) continue;
            uint64_t values = (uint64_t)op->linear->in * (uint64_t)op->linear->out;
            uint64_t copies = op->experts ? (uint64_t)op->expert_count : 1;
            values *= copies;
            plan->parameters += values;
            if (op->linear->bias) plan->parameters += copies * (uint64_t)op->linear->out;
            if (op->linear == plan->head) continue;
            bits += (double)values * FORMAT_BITS(op->linear->format);
            weights += (double)values;
        }
    }
    plan->bits = weights > 0 ? bits / weights : 0;
}

// Whether a layer's feed-forward begins before what attention gives is added.
static int is_parallel(const LayerWeights *w)
{
    if (!w->o) return 0;
    for (int i = 0; i < w->step_count; i++) {
        if (strstr(w->steps[i].name, "out")) return 0; // out_norm, delta_out ...
        if (strncmp(w->steps[i].name, "up", 2) == 0) return 1;
    }
    return 0;
}

static int most(int a, int b)
{
    return a > b ? a : b;
}

// What latent attention keeps of a row, as kernels/features.h has it.
static int latent_width(const Facts *f)
{
    int before = f->q_latent + f->kv_latent + f->rope_dim + f->heads * (f->nope_dim + f->rope_dim);
    return most(before, f->heads * f->value_dim);
}

// The same for a gated delta net: normed x, the projections, two gates a head, what was read.
static int delta_width(const Facts *f)
{
    int keys = f->delta_key_heads * f->delta_key_dim, values = f->delta_heads * f->delta_value_dim;
    return f->dim + 2 * keys + 3 * values + 2 * f->delta_heads;
}

Plan *fuse_ops(const Graph *g)
{
    Plan *plan = arena_alloc(sizeof *plan);
    plan->graph = g;
    read_rows();
    LayerWeights begin = {0}, end = {0};
    fuse_list(plan, &g->begin, -1, &begin);
    plan->layers = arena_alloc((size_t)g->facts.layers * sizeof *plan->layers);
    for (int l = 0; l < g->facts.layers; l++) {
        fuse_list(plan, &g->layers[l], l, &plan->layers[l]);
        measure_layer(g, l, &plan->layers[l]);
        int parallel = is_parallel(&plan->layers[l]);
        plan->parallel = l == 0 || plan->parallel == parallel ? parallel : -1;
        plan->skips_parts |= parts_of(&plan->layers[l]) < 2;
        plan->post_norms |= plan->layers[l].attn_post || plan->layers[l].ffn_post;
        if (plan->post_norms || plan->layers[l].router)
            plan->y_dim = most(plan->y_dim, g->facts.dim);
        if (plan->layers[l].latent_q) plan->y_dim = most(plan->y_dim, latent_width(&g->facts));
        if (plan->layers[l].delta_in) plan->y_dim = most(plan->y_dim, delta_width(&g->facts));
        if (g->facts.gated_attention) // queries with their gates, keys and values
            plan->y_dim = most(plan->y_dim, 2 * g->facts.head_dim *
                                                (g->facts.heads + g->facts.kv_heads));
    }
    fuse_list(plan, &g->end, -1, &end);
    take_traits(plan);
    if (begin.step_count != 1 || end.step_count != 1 || !plan->embed || !plan->norm || !plan->head)
        die(arena_format("archs/%s", g->arch_file),
            "expected one step before the layers and one after, found %d and %d", begin.step_count,
            end.step_count);
    plan->embed_step = begin.steps[0];
    plan->head_step = end.steps[0];
    plan->embed_format = plan->embed_step.formats[0];
    count_parameters(plan);
    return plan;
}
