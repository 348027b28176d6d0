// The sampler that a request asks for: every family has these fields. docs/samplers.md lists them.
#pragma once
#include "api.h"
#include "sample.h"

int sampling_knows(const char *field);
// What generation_config.json asks for.
SamplerOptions sampling_of_model(void);
// What the answer's body asks for; the answer keeps the memory. Checked as a whole.
int sampling_read(const Api *api, Answer *a, SamplerOptions *o, Refusal *r);
// Adds the special tokens and those whose bytes contain one of the strings.
void sampling_mark(const Tokens *t, uint32_t *set, const char *const *strings, int count);
