// The device code of one test of tests/kernels/cuda.c.
#include "constants.h"
#include "kernels/cuda/steps.cuh"

TEST_KERNELS

#define ALL_STEPS(q, k, v, o, g, u, d_, h)                                                          \
    DECODER_embed(EMBED_FORMAT)                                                                    \
    for (int l = 0; l < LAYERS; l++) {                                                             \
        const Layer *own = &s.layers[l];                                                           \
        DECODER_qkv(q, k, v, own) DECODER_attend(own) DECODER_out(o, own)                          \
        DECODER_up(g, u, own) DECODER_down(d_, own)                                                \
    }                                                                                              \
    DECODER_head(h)
ENTRY(decode_kernel, DECODE_THREADS, 1)
{
    Decoder d = decoder_open(s, b, 1, n);
    TEST_STEP_FORMATS(ALL_STEPS)
    decoder_close(d);
}
