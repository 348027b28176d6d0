// Fuzzes config.json: the text is parsed, traced by the architecture it names and fused, with
// made-up weights. See heap.h for how to build it; link the passes up to choose.c and the embedded
// files.
#include "heap.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    embedded_names(); // makes a list that stays
    block_count = 0;
    hook_json();
    return 0;
}

static void check_plan(const Plan *plan)
{
    const Facts *f = &plan->graph->facts;
    int at = 0;
    for (int r = 0; r < plan->run_count; r++) {
        if (plan->runs[r].first != at) abort();
        at = plan->runs[r].last + 1;
    }
    if (at != f->layers || f->rope_dim > f->head_dim || f->heads % f->kv_heads) abort();
    for (int l = 0; l < f->layers; l++) {
        const LayerWeights *w = &plan->layers[l];
        int whole = (w->q || w->kv_a || w->delta_in) && (w->down || w->router);
        if ((!whole && !plan->skips_parts) || w->window < 0) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (setjmp(refused) == 0) {
        Checkpoint *ck = arena_alloc(sizeof *ck);
        *ck = (Checkpoint){.dir = "fuzz",
                           .name = "fuzz",
                           .random_seed = 1,
                           .random_format = m4,
                           .random_head_format = m6};
        ck->config = parse_json("fuzz/config.json", (const char *)data, bytes);
        Plan *plan = fuse_ops(trace_arch(ck));
        choose_variants(plan);
        check_plan(plan);
    }
    free_blocks();
    return 0;
}
