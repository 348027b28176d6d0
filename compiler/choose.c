// Neighbouring layers whose steps are all the same variant become one run, a loop in the generated
// program. A variant is a step at certain formats; its shapes are constants of the whole program.
#include "exlc.h"
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

void choose_variants(Plan *plan)
{
    size_t count = 0, room = 0;
    int layers = plan->graph->facts.layers;
    for (int first = 0, last; first < layers; first = last + 1) {
        const LayerWeights *w = &plan->layers[first];
        for (last = first; last + 1 < layers; last++)
            if (!same_layer(w, &plan->layers[last + 1])) break;
        Run run = {first, last, w->steps, w->step_count};
        APPEND(plan->runs, count, room, run);
    }
    plan->run_count = (int)count;
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
        const Run run =
            runs ? plan->runs[i] : (Run){i, i, plan->layers[i].steps, plan->layers[i].step_count};
        fprintf(out, run.first == run.last ? "layer %d" : "layers %d .. %d", run.first, run.last);
        if (!runs && plan->layers[i].window) fprintf(out, ", window %d", plan->layers[i].window);
        fputc('\n', out);
        for (int j = 0; j < run.step_count; j++) print_step(&run.steps[j], out);
    }
    fprintf(out, "end\n");
    print_step(&plan->head_step, out);
}
