// The device code of one test of tests/kernels/cuda.c.
#include "constants.h"
#include "kernels/cuda/steps.cuh"

TEST_KERNELS
