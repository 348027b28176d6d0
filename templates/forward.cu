// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// The device code of this model: one line per kernel variant that forward.inc needs, and all decode
// steps as one kernel.
#include "constants.h"
#include "kernels/cuda/steps.cuh"

// exlc: begin kernels
EMBED(f16)
KEEP()
QKV(m4, m4, m4)
ATTEND()
OUT(m4)
UP(m4, m4)
DOWN(m4)
HEAD(m6)
SAMPLE()
// exlc: end kernels

#define LAYER(l) (&s.layers[l])
#define STEP(name, ...) DECODER_##name(__VA_ARGS__)

ENTRY(decode_kernel, DECODE_THREADS, 1)
{
    Decoder d = decoder_open(s, b, 1, n);
#include "forward.inc"
    decoder_close(d);
}
