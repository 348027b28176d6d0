// Where the model runs: the processor's threads or one GPU, behind one interface. Sized at open,
// nothing is allocated between passes. One thread at a time uses a Device.
#pragma once
#include "../kernels/sampling.h"
#include "error.h"
#include "load.h"
#include "program.h"

typedef struct Device Device;

// Of decode passes on a GPU: one kernel, a replayed graph of a kernel a step, or those one by one.
typedef enum { MODE_PERSISTENT, MODE_GRAPH, MODE_STEPS } LaunchMode;

typedef struct DeviceOptions DeviceOptions;
struct DeviceOptions {
    int cuda, ordinal; // cuda 0: the CPU
    int threads;       // CPU; 0: all
    int max_rows;      // of one pass
    int max_outputs;   // rows with logits in one pass
    int max_context;   // tokens of one sequence
    int max_sequences, pages_per_sequence;
    int pages[POOLS];         // of PAGE tokens each
    int host_pages[POOLS];    // of a second level, in host memory
    int key_bits, value_bits; // of the cache: 16 or 2 to 8
    int states;        // slots of recurrent states: the sequences' first, then saved ones
    int keep_hidden;   // keep the residual stream after every layer
    int trace;         // on a GPU: keep the times of the steps of a decode pass in one launch
    LaunchMode mode;
    // Makes the sizes fit so many bytes of a GPU's memory, before any is taken; NULL: they stand.
    void (*fit)(DeviceOptions *o, uint64_t bytes, const char *device);
};

// Values of a row of State.h.
int hidden_width(const ModelInfo *m);
int device_open(Device **d, const DeviceOptions *o, const Weights *w, Error *err);
void device_close(Device *d);
const DeviceOptions *device_options(const Device *d); // those that it took
const char *device_name(const Device *d); // "cpu (avx512, 2 threads)", "cuda:0 (NVIDIA H200, sm_90)"
uint64_t device_memory(const Device *d);  // bytes taken, weights included

// Page number `index` of sequence slot `sequence` is physical page `page` of a pool from the next
// pass on.
void device_set_page(Device *d, int pool, int sequence, int index, int page);
// Gives sequence slot 0 all pages, and those of the windows in turn, for whoever needs no more; -1
// where they do not hold a sequence of max_context.
int device_map_pages(Device *d);

// Physical page `to` of a pool becomes a copy of `from`, before the next pass.
void device_copy_page(Device *d, int pool, int to, int from);
// Page `host` of the second level becomes a copy of page `page`, or the other way, before the next
// pass.
void device_save_page(Device *d, int pool, int host, int page);
void device_load_page(Device *d, int pool, int page, int host);
// State slot `to` becomes a copy of `from`, before the next pass. Slot i below max_sequences is that
// of sequence slot i, which a pass takes as empty at position 0 and leaves behind its last row.
void device_copy_state(Device *d, int to, int from);
// The most rows of different sequences that one pass can compute so that each row's result does not
// depend on the others.
int device_decode_rows(const Device *d);

// Starts one pass. Arrays of *b are host memory and may be reused at return; its page_table and
// pages_per_sequence are not used. With `sampling` (b->outputs of them), a token is drawn for every
// output row. On a GPU this returns before the pass is done.
void device_forward(Device *d, const Batch *b, const Sampling *sampling);

// Results of the last pass; each waits for it. The memory stays valid until the next pass.
const int32_t *device_tokens(Device *d);                   // (outputs); -1 where logits were NaN
const float *device_logits(Device *d);                     // (outputs, vocab)
const float *device_hidden(Device *d);                     // (layers + 1, rows, dim)
const float *device_final(Device *d); // (rows, dim): of those, what the final norm gives
void device_wait(Device *d);

// Times of the last pass (steps, blocks, TRACE_WORDS), where it was a decode pass in one launch and
// options.trace was set; else NULL. Host memory, valid until the next call.
const uint64_t *device_trace(Device *d, int *steps, int *blocks);

// The steps of a pass on a GPU, each launched alone.
typedef struct {
    char step[96]; // as forward.inc has it: "up, m4, m4, LAYER(l)", or "sample"
    int count;     // in a pass
    double seconds; // of one
} StepTime;
// Times those of the last pass: one step in all its layers, again and again, then the next step.
// Returns how many there are, at most `room`; 0 on the CPU. Of *pass only the counts are of use. What the last pass left in the cache and in
// states is lost.
int device_time_steps(Device *d, Batch *pass, StepTime *times, int room);

// Measures how fast the device reads memory that is in no cache, bytes per second; 0 when a GPU
// has no memory left to try it on.
double device_read_rate(Device *d);
