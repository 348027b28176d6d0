// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// The device code of this model: the weight formats that forward.inc names, one line per kernel
// variant, and the steps of a decode pass.
#include "constants.h"

// exlc: begin kernels
#include "kernels/cuda/steps.cuh"

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
#define LAYER(l) l
#define STEP(name, ...) TABLE_##name(__VA_ARGS__)

DEVICE constexpr StepTable make_steps(void)
{
    StepTable t = {};
#include "forward.inc"
    return t;
}

__constant__ StepTable STEP_TABLE = make_steps();
DECODE()
