// The last 64 bytes of a file that carries weights: an executable, or FILE.weights beside it. The
// weights are the `bytes` bytes before the trailer and start at a multiple of 4096.
#pragma once
#include <stdint.h>

#define TRAILER_MAGIC "exlc weights 1\n"

typedef struct {
    char magic[16];
    uint64_t bytes;
    char build_id[32]; // hexadecimal; the program knows the same
    uint64_t unused;
} Trailer;
