// The packed weights: behind the program, beside it, or made up from a seed.
#pragma once
#include "error.h"
#include "program.h"
#include <pthread.h>

typedef struct {
    const uint8_t *data; // model_info.weights_bytes bytes, at a multiple of 4096
    char path[4096];     // the file they come from; empty for random weights
    int fd;              // of it, or -1
    uint64_t offset;     // of data in it
    // private
    void *map;
    size_t map_bytes;
    pthread_t ahead;
    int reading, enough;
} Weights;

// Finds, checks (size and build id) and maps them; random weights are made by `threads` threads.
int weights_open(Weights *w, int threads, Error *err);
void weights_close(Weights *w);
// Has the system read the file ahead, asked by a thread of its own, until weights_read_on.
void weights_read_ahead(Weights *w);
void weights_read_on(Weights *w);
// Reads everything and compares the hash; random weights pass.
int weights_verify(const Weights *w, Error *err);
