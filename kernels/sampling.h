// How the next token is drawn, shared by host and device. The filters apply in this order to the
// distribution after temperature: top-k, then top-p, then min-p; the draw is among what is left.
#pragma once
#include "types.h"

#ifdef __CUDACC__
#define SHARED_INLINE __device__ static inline
#else
#define SHARED_INLINE static inline
#endif

typedef struct {
    float temperature; // 0: the most likely token, lowest id on ties
    float top_p;       // smallest set of likeliest tokens whose mass reaches it; 1: off
    float min_p;       // share of the likeliest token's probability; 0: off
    int32_t top_k;     // 0: off
    uint64_t seed;     // equal seeds give equal draws
    uint64_t draw;     // which draw of its sequence this is
} Sampling;

// Uniform in [0, 1) with 24 bits, a function of (seed, draw) alone: two rounds of the splitmix64
// finaliser (Steele, Lea and Flood, 2014).
SHARED_INLINE float sampling_uniform(uint64_t seed, uint64_t draw)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u * (draw + 1);
    for (int i = 0; i < 2; i++) {
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
    }
    return (float)(z >> 40) * 0x1p-24f;
}
