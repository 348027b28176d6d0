// Neighbouring layers whose steps are all the same variant become one run, a loop in the generated
// program. A variant is a step at certain formats; its shapes are constants of the whole program.
#include "exlc.h"
#include "../kernels/catalog.h"
#include <string.h>

static int same_step(const Step *a, const Step *b)
{
    return strcmp(a->name, b->name) == 0 && a->format_count == b->format_count &&
           memcmp(a->formats, b->formats, sizeof a->formats) == 0 &&
           strcmp(a->comment, b->comment) == 0;
}

static int same_layer(const LayerWeights *a, const LayerWeights *b)
{
    if (a->step_count != b->step_count) return 0;
    for (int i = 0; i < a->step_count; i++)
        if (!same_step(&a->steps[i], &b->steps[i])) return 0;
    return 1;
}

static int same_run(const Plan *plan, const Run *a, const Run *b)
{
    return a->last - a->first == b->last - b->first &&
           same_layer(&plan->layers[a->first], &plan->layers[b->first]);
}

// The smallest group of runs that repeats from run `at` on: layers of several kinds in turn.
static void find_group(Plan *plan, int at)
{
    Run *run = plan->runs;
    for (int size = 2; size <= 8 && at + 2 * size <= plan->run_count; size++) {
        int same = 0; // runs that are as the one `size` before
        while (at + size + same < plan->run_count &&
               same_run(plan, &run[at + same], &run[at + size + same]))
            same++;
        if (same < size) continue;
        run[at].group = size;
        run[at].times = 1 + same / size;
        return;
    }
}

void choose_variants(Plan *plan)
{
    size_t count = 0, room = 0;
    int layers = plan->graph->facts.layers;
    for (int first = 0, last; first < layers; first = last + 1) {
        const LayerWeights *w = &plan->layers[first];
        for (last = first; last + 1 < layers; last++)
            if (!same_layer(w, &plan->layers[last + 1])) break;
        Run run = {first, last, w->steps, w->step_count, 1, 1};
        APPEND(plan->runs, count, room, run);
    }
    plan->run_count = (int)count;
    for (int i = 0; i < plan->run_count; i += plan->runs[i].group * plan->runs[i].times)
        find_group(plan, i);
}

static int is_on_cuda(const char *step)
{
    static const struct {
        const char *name, *targets;
    } rows[] = {
#define STEP(name, formats, pattern, comment, targets, grid) {#name, targets},
        CATALOG(STEP)
#undef STEP
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].name, step) == 0) return strstr(rows[i].targets, "cuda") != NULL;
    return 0;
}

// Widths of latent attention for which there are no CUDA kernels.
static const char *missing_of_latents(const Plan *plan)
{
    const Facts *f = &plan->graph->facts;
    if (f->kv_latent % 32 || f->kv_latent > 512 || f->rope_dim % 32 || f->rope_dim > 128 ||
        f->kv_latent + f->rope_dim > 576) // 99 KB of shared memory, which every GPU has
        return arena_format("latents of %d and %d channels: on CUDA multiples of 32 up to 512 and "
                            "128, and 576 together, are expected", f->kv_latent, f->rope_dim);
    if (f->nope_dim % 16 || f->value_dim % 4 || f->q_latent % 4)
        return arena_format("heads of %d and %d channels: on CUDA multiples of 16 and of 4",
                            f->nope_dim, f->value_dim);
    return NULL;
}

const char *missing_on_cuda(const Plan *plan)
{
    const Facts *f = &plan->graph->facts;
    if (f->kv_latent && missing_of_latents(plan)) return missing_of_latents(plan);
    if (!f->kv_latent && (f->head_dim % 16 || f->head_dim > 256))
        return arena_format("head_dim %d: on CUDA a multiple of 16 up to 256 is expected",
                            f->head_dim);
    if (f->experts > 1024)
        return arena_format("%d experts: on CUDA at most 1024", f->experts);
    if (plan->layer_norm && !plan->parallel)
        return "LayerNorm has CUDA kernels only where attention and feed-forward are parallel";
    if (plan->parallel < 0)
        return "layers of parallel and of serial parts together have no CUDA kernels";
    if (plan->parallel && (f->experts || plan->post_norms))
        return "experts or norms before sums in parallel layers have no CUDA kernels";
    if (f->state_layers && plan->parallel)
        return "delta nets in parallel layers have no CUDA kernels";
    if (f->delta_key_heads * f->delta_key_dim % 2 || f->delta_heads * f->delta_value_dim % 2)
        return arena_format("%d key heads of %d channels and %d of %d for values: on CUDA both are "
                            "even in number", f->delta_key_heads, f->delta_key_dim, f->delta_heads,
                            f->delta_value_dim);
    if (f->delta_key_dim > 128)
        return arena_format("delta nets with keys of %d channels: on CUDA at most 128",
                            f->delta_key_dim);
    for (int r = 0; r < plan->run_count; r++)
        for (int i = 0; i < plan->runs[r].step_count; i++)
            if (!is_on_cuda(plan->runs[r].steps[i].name))
                return arena_format("step %s has no CUDA kernels", plan->runs[r].steps[i].name);
    if (plan->skips_parts && (f->experts || f->delta_heads || plan->post_norms || plan->parallel))
        return "layers without attention or feed-forward have no CUDA kernels beside experts, delta "
               "nets, norms before sums or parallel layers";
    for (int l = 0; l < f->layers; l++)
        if (plan->layers[l].kv_heads && f->kv_heads % plan->layers[l].kv_heads)
            return arena_format("layers of %d and of %d key heads have no CUDA kernels",
                                f->kv_heads, plan->layers[l].kv_heads);
    return NULL;
}

static void print_step(const Step *step, FILE *out)
{
    Buffer b = {0};
    buffer_print(&b, "%s", step->name);
    for (int i = 0; i < step->format_count; i++)
        buffer_print(&b, "%s%s", i ? ", " : " ", format_text(step->formats[i]));
    fprintf(out, "  %-20s %s\n", b.data, step->comment);
    buffer_free(&b);
}

void print_plan(const Plan *plan, FILE *out, int runs)
{
    int layers = plan->graph->facts.layers;
    fprintf(out, "begin\n");
    print_step(&plan->embed_step, out);
    for (int i = 0; i < (runs ? plan->run_count : layers); i++) {
        const Run run = runs ? plan->runs[i]
                             : (Run){i, i, plan->layers[i].steps, plan->layers[i].step_count, 1, 1};
        fprintf(out, run.first == run.last ? "layer %d" : "layers %d .. %d", run.first, run.last);
        if (!runs && plan->layers[i].window) fprintf(out, ", window %d", plan->layers[i].window);
        fputc('\n', out);
        for (int j = 0; j < run.step_count; j++) print_step(&run.steps[j], out);
    }
    fprintf(out, "end\n");
    print_step(&plan->head_step, out);
}
