// What the steps of a pass take on a GPU, each launched alone, beside what they read and multiply.
#include "steps.h"
#include "options.h"
#include "pools.h"
#include <stdlib.h>
#include <string.h>

enum { MOST_STEPS = 64, MOST_FORMATS = 6 };

typedef struct {
    char name[32];
    int formats[MOST_FORMATS], count;
    char format_names[MOST_FORMATS][8];
} StepName;

// "up, m4, m4, LAYER(l)": its name and formats.
static StepName parse_step(const char *text)
{
    static const char codebooks[] = "tcmfb";
    StepName s = {.count = 0};
    char copy[sizeof(StepTime)], *rest;
    strcpy(copy, text);
    char *word = strtok_r(copy, ", ", &rest);
    snprintf(s.name, sizeof s.name, "%.31s", word);
    while ((word = strtok_r(NULL, ", ", &rest)) && s.count < MOST_FORMATS) {
        const char *codebook = strchr(codebooks, *word);
        char *end;
        long bits = strtol(word + 1, &end, 10);
        if (!codebook || bits < 1 || bits > 16 || *end) break;
        snprintf(s.format_names[s.count], sizeof *s.format_names, "%.7s", word);
        s.formats[s.count++] = (int)(codebook - codebooks) << 8 | (int)bits;
    }
    return s;
}

uint64_t cache_bytes(const DeviceOptions *o, int context)
{
    const ModelInfo *m = &model_info;
    uint64_t bytes = 0, row = CACHE_ROW_BYTES(m->head_dim, o->key_bits) +
                              CACHE_ROW_BYTES(m->head_dim, o->value_bits);
    for (int l = 0; l < m->layers; l++) {
        int window = m->layer_table[l].window;
        int seen = window && window < context ? window : context;
        bytes += row * (uint64_t)m->layer_table[l].kv_heads * (uint64_t)seen;
    }
    return bytes + 2 * m->state_bytes; // read and written
}

typedef struct {
    double bytes, products; // that a step reads, and multiplies for one row; 0: not known
} Work;

static void add_linear(Work *w, int format, int in, int out, int copies)
{
    uint64_t bytes = COLUMN_BLOCK_BYTES(FORMAT_BITS(format), in) * (uint64_t)(PADDED(out) / BLOCK);
    if (FORMAT_IS_EXL3(format)) bytes += 2 * (uint64_t)(PADDED(in) + PADDED(out)); // suh, svh
    w->bytes += (double)bytes * copies;
    w->products += (double)in * out * copies;
}

// Steps of dense linear layers, in the order of their formats: one input, up to three outputs.
static int add_dense(Work *w, const StepName *s)
{
    const ModelInfo *m = &model_info;
    int q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    int keys = m->delta_key_heads * m->delta_key_dim, values = m->delta_heads * m->delta_value_dim;
    const struct {
        const char *name;
        int in, out[3];
    } steps[] = {{"qkv", m->dim, {q, kv, kv}},
                 {"qkv_gated", m->dim, {2 * q, kv, kv}},
                 {"out", q, {m->dim}},
                 {"out_norm", q, {m->dim}},
                 {"out_gated", q, {m->dim}},
                 {"delta", m->dim, {2 * keys + values, values}},
                 {"delta_grouped", m->dim, {2 * keys + 2 * values}},
                 {"delta_out", values, {m->dim}},
                 {"up", m->dim, {m->ffn_dim, m->ffn_dim}},
                 {"up_alone", m->dim, {m->ffn_dim}},
                 {"down", m->ffn_dim, {m->dim}},
                 {"down_norm", m->ffn_dim, {m->dim}},
                 {"head", m->dim, {m->vocab}}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (strcmp(steps[i].name, s->name) != 0) continue;
        for (int k = 0; k < s->count; k++)
            add_linear(w, s->formats[k], steps[i].in, steps[i].out[k], 1);
        return 1;
    }
    return 0;
}

// What one row takes of a routed layer. Several rows share experts, by as much as they choose
// alike.
static void add_experts(Work *w, const StepName *s)
{
    const ModelInfo *m = &model_info;
    int widths[2] = {m->expert_dim, m->shared_dim}, copies[2] = {m->active_experts, 1};
    for (int k = 0; k < s->count; k++) {
        int width = widths[k / 3], down = k % 3 == 2;
        add_linear(w, s->formats[k], down ? width : m->dim, down ? m->dim : width, copies[k / 3]);
    }
    w->bytes += 4.0 * m->experts * m->dim;
    w->products += (double)m->experts * m->dim;
}

static Work work_of(const StepName *s, const DeviceOptions *o, const Batch *pass, int context)
{
    const ModelInfo *m = &model_info;
    Work w = {0};
    if (strncmp(s->name, "moe", 3) == 0) {
        if (pass->rows == 1) add_experts(&w, s);
    } else if (strcmp(s->name, "attend") == 0) {
        if (pass->rows == pass->segments && m->cache_layers)
            w.bytes = (double)(cache_bytes(o, context) - 2 * m->state_bytes) * pass->rows /
                      m->cache_layers;
    } else {
        add_dense(&w, s);
        if (strcmp(s->name, "delta") == 0 || strcmp(s->name, "delta_grouped") == 0)
            w.bytes += 2.0 * (double)m->state_bytes / (m->layers - m->cache_layers) *
                       pass->segments; // read and written
    }
    return w;
}

static void print_json_step(const StepName *s, const StepTime *t, const Work *w, int rows,
                            double rate, int first)
{
    printf("%s{\"step\": \"%s\", \"formats\": [", first ? "" : ", ", s->name);
    for (int i = 0; i < s->count; i++) printf("%s\"%s\"", i ? ", " : "", s->format_names[i]);
    printf("], \"count\": %d, \"seconds\": %.4g", t->count, t->seconds);
    if (w->bytes > 0)
        printf(", \"bytes\": %.0f, \"bytes_per_s\": %.4g, \"share_of_read_rate\": %.4f", w->bytes,
               w->bytes / t->seconds, rate > 0 ? w->bytes / t->seconds / rate : 0);
    if (w->products > 0) printf(", \"products_per_s\": %.4g", w->products * rows / t->seconds);
    printf("}");
}

static void print_line_of(const StepName *s, const StepTime *t, const Work *w, int rows,
                          double rate)
{
    char formats[64] = "";
    for (int i = 0; i < s->count; i++) {
        strcat(formats, " ");
        strcat(formats, s->format_names[i]);
    }
    printf("    %-10s%-18s %4d x %9.2f us", s->name, formats, t->count, t->seconds * 1e6);
    if (w->bytes > 0)
        printf("  %8.2f GB/s  %3.0f %%", w->bytes / t->seconds / 1e9,
               rate > 0 ? 100 * w->bytes / t->seconds / rate : 0);
    if (w->products > 0) printf("  %7.3f T products/s", w->products * rows / t->seconds / 1e12);
    printf("\n");
}

void print_steps(Device *d, const DeviceOptions *o, int context, double rate, int json)
{
    static StepTime times[MOST_STEPS];
    Batch pass;
    int count = device_time_steps(d, &pass, times, MOST_STEPS);
    double all = 0;
    if (json) printf("[");
    for (int i = 0; i < count; i++) {
        StepName s = parse_step(times[i].step);
        int rows = strcmp(s.name, "head") == 0 ? pass.outputs : pass.rows;
        Work w = work_of(&s, o, &pass, context);
        if (json)
            print_json_step(&s, &times[i], &w, rows, rate, i == 0);
        else
            print_line_of(&s, &times[i], &w, rows, rate);
        all += times[i].count * times[i].seconds;
    }
    if (json)
        printf("]");
    else
        printf("    %-28s %16.2f us\n", "all of a pass", all * 1e6);
    fflush(stdout);
}
