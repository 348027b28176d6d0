// How the next token is drawn, one definition for host and device: equal logits, settings and draws
// give equal tokens on both, because everything behind the logits is integer arithmetic. The
// filters apply in this order to the distribution after temperature of the tokens that the mask
// allows: top-k, top-p, min-p; the draw is among what is left, in the order of ids.
#pragma once
#include "types.h"

#ifdef __CUDACC__
#define SHARED_INLINE __device__ static inline
#else
#define SHARED_INLINE static inline
#endif

typedef struct {
    float temperature;    // below SAMPLING_COLD: the most likely token, lowest id on ties
    float top_p;          // smallest set of likeliest tokens whose mass reaches it; 1: off
    float min_p;          // share of the likeliest token's probability; 0: off
    int32_t top_k;        // 0: off
    uint64_t seed;        // equal seeds give equal draws
    uint64_t draw;        // which draw of its sequence this is
    const uint32_t *mask; // bits by id: other tokens are never drawn; NULL: all are
} Sampling;

#define SAMPLING_COLD 1e-4f
#define SAMPLING_NOTHING (-2) // instead of a token: the mask leaves none

// 24 random bits, a function of (seed, draw) alone: two rounds of the splitmix64 finaliser (Steele,
// Lea and Flood, 2014).
SHARED_INLINE uint32_t sampling_bits(uint64_t seed, uint64_t draw)
{
    uint64_t z = seed + 0x9e3779b97f4a7c15u * (draw + 1);
    for (int i = 0; i < 2; i++) {
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
    }
    return (uint32_t)(z >> 40);
}

// The unnormalised probability of a token: 2^40 exp((logit - largest) * inverse), where inverse is
// 1 / temperature. Relative error below 1e-6, down to the last unit; 0 for NaN. Sums of weights
// stay below 2^62 for any vocabulary and are exact in any order.
#define SAMPLING_ONE ((uint64_t)1 << 40)
SHARED_INLINE uint64_t sampling_weight(float logit, float largest, float inverse)
{
    float x = (logit - largest) * inverse;
    if (!(x > -28.0f)) return 0; // below one unit
    if (x >= 0) return SAMPLING_ONE;
    // -x log2(e) = whole + f / 2^32; the weight is 2^40 / 2^whole * 2^(-f / 2^32).
    uint64_t y = (uint64_t)(x * -4294967296.0f) * 96817625u; // log2(e) 2^26
    uint64_t f = y >> 26 & 0xffffffffu;
    // The Taylor series of 2^-f, coefficients ln(2)^n / n! in units of 2^-32, by Horner's rule.
    uint64_t r = 437;
    r = 5676 - (f * r >> 32);
    r = 65510 - (f * r >> 32);
    r = 661577 - (f * r >> 32);
    r = 5726720 - (f * r >> 32);
    r = 41309550 - (f * r >> 32);
    r = 238388332 - (f * r >> 32);
    r = 1031764991 - (f * r >> 32);
    r = 2977044472u - (f * r >> 32);
    r = ((uint64_t)1 << 32) - (f * r >> 32);
    return r << 8 >> (y >> 58);
}

// The part of `total` that a share in [0, 1] makes.
SHARED_INLINE uint64_t sampling_share(uint64_t total, float share)
{
    return (uint64_t)((double)total * (double)share);
}

// Where in [0, total) the draw falls.
SHARED_INLINE uint64_t sampling_target(uint64_t total, uint32_t bits)
{
    return (total >> 24) * bits + ((total & 0xffffff) * bits >> 24);
}
