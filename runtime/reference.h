// Logits to compare with: recorded in a safetensors file, or computed by another program of exlc.
#pragma once
#include "options.h"

// What logits writes and tests/oracle records: input_ids I32 (windows, tokens) and logits F32
// (windows, tokens, vocab), or both without windows; further tensors are passed over.
typedef struct {
    const int32_t *ids;
    const float *logits;
    size_t windows, tokens, vocab;
} Recorded;

typedef struct {
    const char *path;
    Recorded recorded; // all of a file, or the last window of a program
    int is_program;
    // private
    uint8_t *map, *data;
    size_t map_bytes, room;
    FILE *to, *from; // of a program
    int pid;
} Reference;

// A program computes on the device that the options ask for, with windows of up to `context`
// tokens. Exits on failure, as do the others.
Reference reference_open(const char *path, const Options *o, int context);
// A program's logits (count, vocab) for these ids; valid until the next call.
const float *reference_logits(Reference *r, const int32_t *ids, int count);
void reference_close(Reference *r);
