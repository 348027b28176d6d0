// Sequences in, rows of work out: who is in the batch, which pages of the cache they use, what the
// next pass computes. Prompts go in chunks, one sequence a pass, in turns with passes that draw a
// token for everybody else; so a row is computed in the same form whoever else is there. A sequence
// takes pages as it grows; when there are none, the youngest of the least important gives its pages
// up and is computed again when there is room. Of layers with a window it keeps only the pages that
// it still sees. Others keep what they hold until the room is needed, so that a text can be taken
// up again wherever the pages of all layers before that place are there.
//
// Layers with a recurrent state have one state for each sequence, that behind its last computed
// token. It is copied to a saved state where going back may be wanted: at borders of pages, for
// later sequences with the same beginning, and for a sequence whose own tokens may be taken back.
// Without a saved state the text is computed again from its beginning.
#pragma once
#include "cache.h"
#include "device.h"
#include "sample.h"
#include "states.h"
#include "tier.h"

typedef struct {
    int32_t *tokens; // (max_context + 1) prompt and what was drawn
    int count;       // tokens so far
    int computed;    // of them in the cache
    int reused;      // of the prompt found there, not computed
    int active;
    int wants_logits; // the caller needs the logits of every draw
    float *vector;    // (dim) the caller's: becomes the embedding of the prompt by its last pass, not
                      // yet of the model's length; or NULL
    int held;         // the caller is not ready for its next draw: passes leave it out
    uint64_t draws;
    Sampler sampler;
    // private
    int plain;        // the device draws
    int priority;     // smaller goes first
    uint64_t order;   // of admission
    int limit;        // tokens it may grow to
    int pages;        // page numbers 0 .. pages - 1 are there,
    int first[POOLS]; // but of a pool only those from here on
    int *page[POOLS]; // (pages_per_sequence)
    int entered;      // full pages that others can find
    int uniform;      // tokens from the start computed in whole chunks of the prompt
    Chain chain;      // up to the last page entered
    int suspended;
    // private, of recurrent models
    int settled;      // tokens that will not be taken back
    int own, own_at;  // its saved state and the tokens before that; -1 and 0: none
    int latest;       // where its state was saved last while it drew; -1: nowhere
    Chain latest_chain;
    int branch; // tokens that the cache had, although no state behind them
} Sequence;

typedef struct {
    int sequence;
    int32_t token;       // or SAMPLE_NAN, SAMPLE_NOTHING
    const float *logits; // (vocab), until the next step; NULL unless the sequence wants them
} Drawn;

typedef struct {
    Sequence *sequences; // (max_sequences)
    int max_context;
    int reuse;         // look for equal beginnings; batch_open sets 1
    int deterministic; // a sequence's tokens depend on itself alone, whatever the cache holds
    // private
    Device *device;
    DeviceOptions options;
    int pools;  // 2 where layers have windows
    int window; // the largest
    Cache *cache[POOLS];
    Tier tier;         // the second level; empty when there is none
    int restored;      // pages that came back from it
    int *found[POOLS]; // (pages_per_sequence)
    States *states; // NULL: no layer is recurrent
    SampleRoom *room;
    uint64_t order;
    int decode_rows;
    int next;        // whose turn it is to draw
    int prompt_rows; // computed since somebody drew
    int32_t *token, *position, *sequence, *output;
    Segment *segment;
    Sampling *sampling;
    int *owner; // (max_outputs)
} Batcher;

int batch_open(Batcher *b, Device *d, const DeviceOptions *o, Error *err);
void batch_close(Batcher *b);

enum { BATCH_FULL = -1, BATCH_TOO_LONG = -2 };
// Takes a sequence in: `count` prompt tokens, up to `more` drawn ones; rewinds: batch_rewind is to
// be expected. Returns its number, BATCH_FULL (no slot, pages or state now; try after a retirement)
// or BATCH_TOO_LONG (never fits).
int batch_admit(Batcher *b, const int32_t *tokens, int count, int more, const SamplerOptions *o,
                int priority, int rewinds);
// Takes back all but the first `count` tokens, at least 1; the last of them is computed again.
void batch_rewind(Batcher *b, int sequence, int count);
// The first `count` tokens will hardly be taken back: going back so far may take long.
void batch_settle(Batcher *b, int sequence, int count);
void batch_retire(Batcher *b, int sequence);

// Tokens a sequence can still take.
int batch_room(const Batcher *b, int sequence);
// Pages that sequences use now.
int batch_pages_used(const Batcher *b);

// Computes one pass. Fills drawn[] (max_sequences) and returns how many tokens were drawn: 0 while
// a prompt is being read, -1 when there is nothing to do.
int batch_step(Batcher *b, Drawn *drawn);
