// The traced dataflow: what every op must look like, and its printed form.
#include "exlc.h"
#include <string.h>

// --- checks --------------------------------------------------------------------------------------

static const struct {
    const char *kind;
    int operands, more;        // how many it takes, and how many more it may take
    enum { ANY, KEEPS } width; // of the result: that of every operand
} kinds[] = {
    {"input", 0, 0, ANY},    {"embedding", 0, 0, ANY}, {"values", 0, 0, ANY},
    {"norm", 1, 0, KEEPS},   {"linear", 1, 0, ANY},    {"head_norm", 1, 0, KEEPS},
    {"rope", 1, 0, KEEPS},   {"route", 1, 2, ANY},     {"experts", 2, 0, ANY},
    {"latent_q", 1, 0, ANY}, {"latent_k", 1, 0, ANY},  {"latent_v", 1, 0, ANY},
    {"clamp", 1, 0, KEEPS},  {"gate", 2, 0, KEEPS},    {"attend", 3, 1, ANY},
    {"act", 1, 2, ANY},      {"mul", 2, 0, KEEPS},     {"add", 2, 0, KEEPS},
    {"half", 1, 0, ANY},     {"gated", 2, 0, KEEPS},   {"conv", 1, 0, ANY},
    {"delta_z", 1, 0, ANY},  {"strength", 1, 0, ANY},  {"decay", 3, 0, ANY},
    {"delta", 3, 0, ANY},    {"gate_norm", 2, 0, KEEPS},
};

static void check_op(const Graph *g, const char *where, const OpList *list, size_t at)
{
    const Op *op = &list->ops[at];
    size_t k = 0, count = sizeof kinds / sizeof *kinds;
    while (k < count && strcmp(kinds[k].kind, op->kind) != 0) k++;
    if (k == count) die(where, "%s: there is no op %s", op->role, op->kind);
    for (int i = 0; i < 4; i++) {
        int from = op->operand[i];
        int most = kinds[k].operands + kinds[k].more;
        if ((i < kinds[k].operands && from < 0) || (i >= most && from >= 0) || from >= (int)at)
            die(where, "%s: %s takes %d earlier values", op->role, op->kind, kinds[k].operands);
        if (from >= 0 && kinds[k].width != ANY && list->ops[from].width != op->width)
            die(where, "%s: %s of %d values and one of %d values", op->role, op->kind, op->width,
                list->ops[from].width);
    }
    if (strcmp(op->kind, "linear") == 0 && op->linear->in != list->ops[op->operand[0]].width)
        die(where, "%s takes %d values and is given %d", op->role, op->linear->in,
            list->ops[op->operand[0]].width);
    if (strcmp(op->kind, "attend") == 0) {
        const Facts *f = &g->facts;
        int q = list->ops[op->operand[0]].width, k_width = list->ops[op->operand[1]].width;
        int v = list->ops[op->operand[2]].width;
        if (q != f->heads * f->head_dim || k_width % f->head_dim || v != k_width ||
            f->heads % (k_width / f->head_dim))
            die(where,
                "%s: queries of %d, keys of %d and values of %d channels do not fit %d heads of %d",
                op->role, q, k_width, v, f->heads, f->head_dim);
    }
}

static void check_list(const Graph *g, const char *where, const OpList *list, int width)
{
    for (size_t i = 0; i < list->count; i++) check_op(g, where, list, i);
    for (size_t i = 0; i + 1 < list->count; i++) {
        int used = strcmp(list->ops[i].kind, "input") == 0;
        for (size_t j = i + 1; j < list->count; j++)
            for (int k = 0; k < 4; k++) used |= list->ops[j].operand[k] == (int)i;
        if (!used) die(where, "the value of %s is never used", list->ops[i].role);
    }
    if (list->count == 0 || list->ops[list->count - 1].width != width)
        die(where, "gives %d values, expected %d",
            list->count ? list->ops[list->count - 1].width : 0, width);
}

void check_graph(const Graph *g)
{
    const char *file = arena_format("archs/%s", g->arch_file);
    check_list(g, arena_format("%s: embed", file), &g->begin, g->facts.dim);
    for (int l = 0; l < g->facts.layers; l++)
        check_list(g, arena_format("%s: layer %d", file, l), &g->layers[l], g->facts.dim);
    check_list(g, arena_format("%s: head", file), &g->end, g->facts.vocab);
}

// --- printing ------------------------------------------------------------------------------------

const char *format_text(int format)
{
    static const char letters[] = {'t', 'c', 'm', 'f', 'b'};
    return arena_format("%c%d", letters[FORMAT_CODEBOOK(format)], FORMAT_BITS(format));
}

const char *roll_layers(const char *name, int first, int last)
{
    const char *index = arena_format(".%d.", first), *at = strstr(name, index);
    if (!at || first == last) return name;
    return arena_format("%.*s.{%d..%d}.%s", (int)(at - name), name, first, last,
                        at + strlen(index));
}

static int same_op(const Op *a, const Op *b)
{
    return strcmp(a->kind, b->kind) == 0 && strcmp(a->role, b->role) == 0 &&
           memcmp(a->operand, b->operand, sizeof a->operand) == 0 && a->width == b->width &&
           a->rope == b->rope &&
           (a->linear ? a->linear->format : 0) == (b->linear ? b->linear->format : 0) &&
           (a->linear && a->linear->bias) == (b->linear && b->linear->bias);
}

static int same_list(const OpList *a, const OpList *b)
{
    if (a->count != b->count || a->window != b->window) return 0;
    for (size_t i = 0; i < a->count; i++)
        if (!same_op(&a->ops[i], &b->ops[i])) return 0;
    return 1;
}

static void print_op(const Op *op, size_t at, int first, int last, FILE *out)
{
    Buffer b = {0};
    for (int i = 0; i < 4 && op->operand[i] >= 0; i++)
        buffer_print(&b, "%s%%%d", i ? ", " : "", op->operand[i]);
    fprintf(out, "  %%%-3zu%-10s%-14s%-14s%6d", at, op->kind, op->role, b.data ? b.data : "",
            op->width);
    if (op->linear)
        fprintf(out, "  %s %s%s", roll_layers(op->linear->name, first, last),
                format_text(op->linear->format), op->linear->bias ? " + bias" : "");
    if (op->experts) fprintf(out, ", %d experts", op->expert_count);
    if (op->tensor)
        fprintf(out, "  %s %s", roll_layers(op->tensor->name, first, last), op->tensor->dtype_tag);
    if (op->tensor_offset) fprintf(out, " + %g", op->tensor_offset);
    if (op->detail && strcmp(op->detail, "rms") != 0) fprintf(out, "  %s", op->detail);
    if (op->rope) fprintf(out, "  rope %d", op->rope);
    fputc('\n', out);
    buffer_free(&b);
}

static void print_list(const OpList *list, int first, int last, FILE *out)
{
    for (size_t i = 0; i < list->count; i++) print_op(&list->ops[i], i, first, last, out);
}

static void print_rope(const Facts *f, int i, FILE *out)
{
    const Rope *rope = &f->ropes[i];
    Buffer number = {0};
    if (f->rope_count > 1) buffer_print(&number, " %d", i);
    fprintf(out, "\n  rope%s %s, dim %d, factor %.9g, inverse", number.data ? number.data : "",
            f->rope_interleaved ? "interleaved" : "neox", f->rope_dim, rope->factor);
    int pairs = f->rope_dim / 2;
    for (int j = 0; j < pairs; j++)
        if (j < 2 || j >= pairs - 2)
            fprintf(out, "%s %.9g", j == pairs - 2 && pairs > 4 ? " .." : "", rope->inverse[j]);
    if (rope->short_inverse) fprintf(out, "; another up to %d tokens of context", rope->original);
    buffer_free(&number);
}

void print_graph(const Graph *g, FILE *out)
{
    const Facts *f = &g->facts;
    fprintf(out, "%s (archs/%s)\n", g->architecture, g->arch_file);
    fprintf(out,
            "  dim %d, heads %d, kv_heads %d, head_dim %d, ffn_dim %d, vocab %d, max_position %d\n",
            f->dim, f->heads, f->kv_heads, f->head_dim, f->ffn_dim, f->vocab, f->max_position);
    fprintf(out, "  norm_eps %g, softmax_scale %.9g", f->norm_eps, f->softmax_scale);
    const struct {
        const char *name;
        double value, neutral;
    } more[] = {{"embed_scale", f->embed_scale, 1},
                {"residual_scale", f->residual_scale, 1},
                {"logit_scale", f->logit_scale, 1},
                {"attn_softcap", f->attn_softcap, 0},
                {"logit_softcap", f->logit_softcap, 0},
                {"query_beta", f->query_beta, 0},
                {"act_limit", f->act_limit, 0},
                {"q_latent", f->q_latent, 0},
                {"kv_latent", f->kv_latent, 0},
                {"nope_dim", f->nope_dim, 0},
                {"value_dim", f->value_dim, 0},
                {"latent_eps", f->latent_eps, f->kv_latent ? f->norm_eps : 0},
                {"delta_key_heads", f->delta_key_heads, 0},
                {"delta_heads", f->delta_heads, 0},
                {"delta_key_dim", f->delta_key_dim, 0},
                {"delta_value_dim", f->delta_value_dim, 0},
                {"delta_taps", f->delta_taps, 0},
                {"experts", f->experts, 0},
                {"active", f->active, 0},
                {"expert_dim", f->expert_dim, 0},
                {"shared_dim", f->shared_dim, 0},
                {"router_scale", f->router_scale, f->experts ? 1 : 0}};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        if (more[i].value != more[i].neutral)
            fprintf(out, ", %s %.9g", more[i].name, more[i].value);
    for (int i = 0; i < f->rope_count; i++) print_rope(f, i, out);
    fprintf(out, "\nbegin\n");
    print_list(&g->begin, 0, 0, out);
    for (int first = 0, last; first < f->layers; first = last + 1) {
        for (last = first; last + 1 < f->layers; last++)
            if (!same_list(&g->layers[first], &g->layers[last + 1])) break;
        fprintf(out, first == last ? "layer %d" : "layers %d .. %d", first, last);
        if (g->layers[first].window) fprintf(out, ", window %d", g->layers[first].window);
        fputc('\n', out);
        print_list(&g->layers[first], first, last, out);
    }
    fprintf(out, "end\n");
    print_list(&g->end, 0, 0, out);
}
