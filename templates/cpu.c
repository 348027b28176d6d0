// The forward pass on the CPU. Compiled once per instruction set, with TARGET set to its name.
#include "constants.h"
#include "kernels/cpu/steps.h"

#define LAYER(l) (&s->layers[l])
#define STEP(name, ...) name(w, s, b, __VA_ARGS__);

#define JOIN(a, b) a##b
#define NAME(a, b) JOIN(a, b)

// Executed by every worker; see runtime/program.h.
void NAME(forward_, TARGET)(Worker *w, State *s, const Batch *b)
{
#include "forward.inc"
}
