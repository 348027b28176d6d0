// exlc: begin title
// sample (LlamaForCausalLM), by exlc 0.1.0 from archs/llama.lua.
// exlc: end title
// The forward pass on the CPU. Compiled once per instruction set, with TARGET set to its name.
#include "constants.h"
#include "kernels/cpu/steps.h"

#define LAYER(l) (&s->layers[l])
#define STEP(name, ...) name(w, s, b, __VA_ARGS__);

#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

// Executed by every worker; see runtime/program.h.
static void forward(Worker *w, State *s, const Batch *b)
{
#include "forward.inc"
}

static size_t work_bytes(int max_rows, int max_outputs)
{
    return CPU_WORK_BYTES(max_rows, max_outputs);
}

const CpuTarget JOIN(cpu_, TARGET) = {TEXT(TARGET), forward, CPU_LOCAL_BYTES, work_bytes,
                                     FEW_ROWS};
