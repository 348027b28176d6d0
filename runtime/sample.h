// Draws a token from logits on the CPU; kernels/sampling.h says how.
#pragma once
#include "../kernels/sampling.h"

// logits (vocab) stay unchanged; room holds vocab floats and vocab ints. -1 when a logit is NaN.
int32_t sample_token(const float *logits, int vocab, const Sampling *s, float *room, int32_t *ids);
