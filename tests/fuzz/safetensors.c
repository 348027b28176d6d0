// Fuzzes the safetensors reader: headers as they come, then every tensor as a linear layer, its
// bias and a table. See heap.h for how to build it; link compiler/checkpoint.c, json.c and util.c.
#include "heap.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    hook_json();
    return 0;
}

// What find_linear makes of the tensor's name up to its last dot, with widths near its shape.
static void use_tensor(const Checkpoint *ck, const Tensor *t)
{
    const char *dot = strrchr(t->name, '.');
    if (!dot) return;
    int trellis = strcmp(dot, ".trellis") == 0;
    int64_t out = t->rank > trellis ? t->shape[trellis] * (trellis ? 16 : 1) : 1;
    int64_t in = t->rank > 1 - trellis ? t->shape[1 - trellis] * (trellis ? 16 : 1) : 1;
    if (in < 1 || out < 1 || in > 1 << 20 || out > 1 << 20) return;
    const char *name = arena_copy(t->name, (size_t)(dot - t->name));
    LinearWeights *w = find_linear(ck, name, (int)in, (int)out, 0);
    if (!w->format || (!w->trellis && !w->weight)) abort();
    find_values(ck, t->name, t->shape[0], t->rank > 1 ? t->shape[1] : 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static Checkpoint ck;
    ck = (Checkpoint){.dir = "fuzz", .name = "fuzz"};
    if (setjmp(refused) == 0) {
        parse_header("fuzz.safetensors", data, bytes, &ck);
        sort_tensors(&ck);
        for (size_t i = 0; i < ck.count; i++) {
            const Tensor *t = &ck.tensors[i];
            if (t->data < data || t->data + t->bytes > data + bytes) abort();
        }
        for (size_t i = 0; i < ck.count; i++) use_tensor(&ck, &ck.tensors[i]);
    }
    free_blocks();
    return 0;
}
