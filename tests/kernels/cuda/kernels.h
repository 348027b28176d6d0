// The kernels of one test of tests/kernels/cuda.c, from its constants.h, and the table of their
// steps: compiled for a GPU by kernels.cu, for the CPU by emulate.cc.
#pragma once

TEST_KERNELS

#if POST_NORMS
#define TABLE_OUT TABLE_out_norm
#define TABLE_DOWN TABLE_down_norm
#else
#define TABLE_OUT TABLE_out
#define TABLE_DOWN TABLE_down
#endif
#ifdef TEST_UP_ALONE
#define TABLE_UP(g, u, l) TABLE_up_alone(u, l)
#else
#define TABLE_UP TABLE_up
#endif
#define ALL_STEPS(q, k, v, o, g, u, d, h)                                                          \
    TABLE_embed(EMBED_FORMAT) for (int l = 0; l < LAYERS; l++){TABLE_qkv(q, k, v, l) TABLE_attend( \
        l) TABLE_OUT(o, l) TABLE_UP(g, u, l) TABLE_DOWN(d, l)} TABLE_head(h)
DEVICE constexpr StepTable make_steps(void)
{
    StepTable t = {};
    TEST_STEP_FORMATS(ALL_STEPS)
    return t;
}
__constant__ StepTable STEP_TABLE = make_steps();
DECODE()
