// The device code of one test of tests/kernels/cuda.c.
#include "constants.h"
#include "kernels/cuda/steps.cuh"

TEST_KERNELS

#define ALL_STEPS(q, k, v, o, g, u, d, h)                                                          \
    TABLE_embed(EMBED_FORMAT)                                                                      \
    for (int l = 0; l < LAYERS; l++) {                                                             \
        TABLE_qkv(q, k, v, l) TABLE_attend(l) TABLE_out(o, l) TABLE_up(g, u, l) TABLE_down(d, l)   \
    }                                                                                              \
    TABLE_head(h)
DEVICE constexpr StepTable make_steps(void)
{
    StepTable t = {};
    TEST_STEP_FORMATS(ALL_STEPS)
    return t;
}
__constant__ StepTable STEP_TABLE = make_steps();
DECODE()
