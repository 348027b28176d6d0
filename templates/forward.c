// The forward pass on a GPU, as launches on its stream (one by one, or captured in a graph).
#include "constants.h"
#include "kernels/cuda/launch.h"

#define LAYER(l) (&s->layers[l])
#define STEP(name, ...) launch_##name(gpu, s, b, __VA_ARGS__);

void forward_gpu(Gpu *gpu, const State *s, const Batch *b)
{
#include "forward.inc"
}
