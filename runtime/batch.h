// Sequences in, rows of work out: who is in the batch, which pages of the cache they own, what the
// next pass computes. Long prompts go in chunks; everything else draws one token per pass.
#pragma once
#include "device.h"

typedef struct {
    int32_t *tokens; // (max_context) prompt and what was drawn
    int count;       // tokens so far
    int computed;    // of them in the cache
    int pages;       // owned
    int *page;       // (pages_per_sequence)
    int active;
    Sampling sampling;
} Sequence;

typedef struct {
    int sequence;
    int32_t token; // -1: the logits were not numbers
} Drawn;

typedef struct {
    Sequence *sequences; // (max_sequences)
    int max_context;
    // private
    Device *device;
    DeviceOptions options;
    int *free_pages, free_count;
    int32_t *token, *position, *sequence, *output;
    Segment *segment;
    Sampling *sampling;
    int *owner; // (max_outputs)
} Batcher;

int batch_open(Batcher *b, Device *d, const DeviceOptions *o, Error *err);
void batch_close(Batcher *b);

enum { BATCH_FULL = -1, BATCH_TOO_LONG = -2 };
// Takes a sequence in, with pages for `count` prompt tokens and `more` new ones. Returns its number,
// BATCH_FULL (no slot or pages now; try after a retirement) or BATCH_TOO_LONG (never fits).
int batch_admit(Batcher *b, const int32_t *tokens, int count, int more, const Sampling *sampling);
// Adds tokens that were not drawn (the next turn of a chat) to a sequence; pages must suffice.
void batch_extend(Batcher *b, int sequence, const int32_t *tokens, int count);
void batch_retire(Batcher *b, int sequence);

// Tokens a sequence can still take within its pages.
int batch_room(const Batcher *b, int sequence);

// Computes one pass. Fills drawn[] (max_sequences) and returns how many tokens were drawn: 0 while a
// prompt is being read, or when there is nothing to do.
int batch_step(Batcher *b, Drawn *drawn);
