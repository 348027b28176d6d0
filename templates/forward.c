// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// The forward pass on a GPU, as launches on its stream: one of all steps, or one a step.
#include "constants.h"
#include "kernels/cuda/launch.h"

#define LAYER(l) (&s->layers[l])
#define STEP(name, ...)                                                                            \
    if (gpu_takes(gpu, #name ", " #__VA_ARGS__)) launch_##name(gpu, s, b, __VA_ARGS__);

void forward_gpu(Gpu *gpu, const State *s, const Batch *b, int together)
{
    if (together && launch_together(gpu, s, b)) return;
#include "forward.inc"
}

void sample_gpu(Gpu *gpu, const State *s, const Batch *b, const Sampling *sampling, int32_t *tokens)
{
    launch_sample(gpu, s, b, sampling, tokens);
}

int forward_decode_rows(const Gpu *gpu)
{
    return gpu_decode_rows(gpu);
}

size_t forward_work_bytes(int max_rows, int max_outputs)
{
    return gpu_work_bytes(max_rows, max_outputs);
}
