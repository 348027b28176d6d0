// What a head's part of a page of the cache stands for, bit by bit from the drawing in
// kernels/cache.h, in doubles.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline double ref_cache_half(const uint8_t *at)
{
    int h = at[0] | at[1] << 8, e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h >> 15 ? -v : v;
}

// Bytes of one token of a head.
static inline int ref_row_bytes(int head_dim, int bits)
{
    return bits == 16 ? head_dim * 2 : head_dim * bits / 8 + head_dim / 32 * 2;
}

// Channel `channel` of token t of a page of `page` tokens, still turned.
static inline double ref_stored(const uint8_t *head, int page, int head_dim, int bits, int t,
                                int channel)
{
    if (bits == 16) return ref_cache_half(head + (t * head_dim + channel) * 2);
    static const int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    int groups = head_dim / 32, group = channel / 32, i = channel % 32, code = 0, at = 0;
    const uint8_t *codes = head + (t * groups + group) * 4 * bits;
    double scale = ref_cache_half(head + page * groups * 4 * bits + (t * groups + group) * 2);
    if (bits == 8) code = codes[i];
    for (int f = 4; bits < 8 && f; f /= 2) {
        if (!(bits & f)) continue;
        for (int j = 0; j < f; j++) { // bit j of the field
            int bit = i / 8 * 8 * f + place[i % 8] * f + j;
            code |= (codes[bit / 8] >> bit % 8 & 1) << (at + j);
        }
        codes += 4 * f, at += f;
    }
    return scale * ((code + 0.5) / ldexp(1, bits - 1) - 1);
}

// The orthogonal Hadamard transform of each 32 of n, by its definition.
static inline void ref_turn(double *v, int n)
{
    for (int from = 0; from < n; from += 32) {
        double old[32];
        memcpy(old, v + from, sizeof old);
        for (int i = 0; i < 32; i++) {
            v[from + i] = 0;
            for (int j = 0; j < 32; j++)
                v[from + i] += (__builtin_popcount(i & j) % 2 ? -old[j] : old[j]) / sqrt(32);
        }
    }
}

// What a group of normally distributed channels may lose, as a share of its length: a little more
// than the best scale of 2^bits equal cells does (Max, 1960).
static inline double ref_cache_error(int bits)
{
    static const double error[9] = {0, 0, 0.5, 0.245, 0.125, 0.063, 0.0315, 0.0157, 0.0079};
    return bits == 16 ? 5e-4 : error[bits];
}
