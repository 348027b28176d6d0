// exlc: begin title
// exlc: end title
// The device code of this model: one line per kernel variant that forward.inc needs.
#include "constants.h"
#include "kernels/cuda/steps.cuh"

// exlc: begin kernels
// exlc: end kernels
