// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// The device code of this model: one line per kernel variant that forward.inc needs.
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
