// The device code of one test of tests/kernels/cuda.c.
#include "constants.h"
#include "kernels/cuda/steps.cuh"
#include "tests/kernels/cuda/kernels.h"
