// Keys and values into the cache and out of it (kernels/cache.h).
#pragma once
#include "vector.h"
#include "memory.h"
#include "../cache.h"
#include <math.h>
#include <stdbool.h>

// The orthogonal Hadamard transform of every group of a head.
NEVER void turn_groups(float *v)
{
    for (int group = 0; group < HEAD_GROUPS; group++, v += CACHE_GROUP) {
        for (int step = 1; step < CACHE_GROUP; step *= 2)
            for (int i = 0; i < CACHE_GROUP; i += 2 * step)
                for (int j = i; j < i + step; j++) {
                    float low = v[j], high = v[j + step];
                    v[j] = low + high, v[j + step] = low - high;
                }
        for (int i = 0; i < CACHE_GROUP; i++) v[i] *= TURN_SCALE;
    }
}

ALWAYS void turn_query(const State *s, float *q)
{
    if (KEY_BITS(s) < 16) turn_groups(q);
}

ALWAYS void turn_output(const State *s, float *a)
{
    if (VALUE_BITS(s) < 16) turn_groups(a);
}

// Stores 32 turned channels.
NEVER void store_group(const float *v, int bits, uint8_t *codes, uint16_t *scale)
{
    float largest = 1e-30f, best = -1;
    uint8_t code[CACHE_GROUP] = {0};
    for (int i = 0; i < CACHE_GROUP; i++) largest = fabsf(v[i]) <= largest ? largest : fabsf(v[i]);
    *scale = float_to_half(largest * SCALE_TRIED(0, bits));
    for (int i = 0; i < SCALES_TRIED(bits); i++) {
        // Of codes, the scale that fits best: <v, level> / <level, level>.
        uint8_t tried[CACHE_GROUP];
        const float cells = (float)(1 << (bits - 1)) / (largest * SCALE_TRIED(i, bits));
        float product = 0, square = 0;
        for (int j = 0; j < CACHE_GROUP; j++) {
            tried[j] = (uint8_t)code_of(v[j], cells, bits);
            float level = (float)level_of(tried[j], bits);
            product += v[j] * level, square += level * level;
        }
        if (product * product / square <= best) continue;
        best = product * product / square;
        memcpy(code, tried, sizeof code);
        if (SCALES_TRIED(bits) > 1) *scale = float_to_half(product / square * (float)(1 << bits));
    }
    for (int eight = 0; eight < 4; eight++) {
        uint64_t placed = 0;
        for (int j = 0; j < 8; j++) placed |= place_code(bits, code[8 * eight + j], j);
        store_codes(codes, bits, eight, placed);
    }
}

// The key (value 0) or value (1) of a row's head, HEAD_DIM channels.
ALWAYS void cache_store(const State *s, const Batch *b, const Layer *layer, int value, int row,
                        int head, const float *v)
{
    int bits = value ? VALUE_BITS(s) : KEY_BITS(s), t = b->position[row] % PAGE;
    uint8_t *part = cache_head(s, b, layer, KEY_BITS(s), VALUE_BITS(s), value, b->sequence[row],
                               head, b->position[row]);
    if (bits == 16) {
        store_halves((uint16_t *)part + t * HEAD_DIM, v, HEAD_DIM);
        return;
    }
    float turned[HEAD_DIM];
    memcpy(turned, v, sizeof turned);
    turn_groups(turned);
    for (int group = 0; group < HEAD_GROUPS; group++)
        store_group(turned + group * CACHE_GROUP, bits, group_codes(part, bits, t, group),
                    group_scale(part, bits, t, group));
}

// Where the keys or values from a position on are, in 16 bits.
ALWAYS const uint16_t *cache_halves(const State *s, const Batch *b, const Layer *layer, int value,
                                    int sequence, int head, int position)
{
    return (const uint16_t *)cache_head(s, b, layer, KEY_BITS(s), VALUE_BITS(s), value, sequence,
                                        head, position) +
           position % PAGE * HEAD_DIM;
}

// Eight fields of f bits of a part to eight bytes, in the order of their channels.
ALWAYS uint64_t spread_fields(uint32_t part, int f)
{
    const uint64_t pair = (1u << 2 * f) - 1, one = (1u << f) - 1;
    uint64_t even = part & ((1u << 4 * f) - 1), odd = part >> 4 * f;
    even = (even | even << (32 - 2 * f)) & (pair | pair << 32);
    odd = (odd | odd << (32 - 2 * f)) & (pair | pair << 32);
    even = (even | even << (16 - f)) & one * 0x0001000100010001;
    odd = (odd | odd << (16 - f)) & one * 0x0001000100010001;
    return even | odd << 8;
}

ALWAYS void expand_group(const uint8_t *codes, int bits, float scale, float *to)
{
    uint64_t code[4];
    const uint8_t *twos = codes + (bits & 4 ? 16 : 0), *ones = twos + (bits & 2 ? 8 : 0);
    if (bits == 8) memcpy(code, codes, sizeof code);
    for (int i = 0; bits < 8 && i < 4; i++) {
        code[i] = 0;
        if (bits & 4) code[i] = spread_fields(((const uint32_t *)codes)[i], 4);
        if (bits & 2) code[i] |= spread_fields(((const uint16_t *)twos)[i], 2) << (bits & 4);
        if (bits & 1) code[i] |= spread_fields(ones[i], 1) << (bits & 6);
    }
    const uint8_t *bytes = (const uint8_t *)code;
    const float cell = scale / (float)(1 << (bits - 1)), first = cell / 2 - scale;
    for (int i = 0; i < CACHE_GROUP; i++) to[i] = (float)bytes[i] * cell + first;
}

ALWAYS void expand_rows(uint8_t *part, int bits, int t, int count, float to[][HEAD_DIM_PADDED])
{
    for (int j = 0; j < count; j++)
        for (int group = 0; group < HEAD_GROUPS; group++)
            expand_group(group_codes(part, bits, t + j, group), bits,
                         half_to_float(*group_scale(part, bits, t + j, group)),
                         to[j] + group * CACHE_GROUP);
}

// Keys or values from a position on, `count` in one page: where they are, in 16 bits; else NULL,
// and they are in `to`, turned.
NEVER const uint16_t *cache_rows(const State *s, const Batch *b, const Layer *layer, int value,
                                 int sequence, int head, int position, int count,
                                 float to[][HEAD_DIM_PADDED])
{
    uint8_t *part =
        cache_head(s, b, layer, KEY_BITS(s), VALUE_BITS(s), value, sequence, head, position);
    int t = position % PAGE;
    switch (value ? VALUE_BITS(s) : KEY_BITS(s)) {
    case 2:
        expand_rows(part, 2, t, count, to);
        break;
    case 3:
        expand_rows(part, 3, t, count, to);
        break;
    case 4:
        expand_rows(part, 4, t, count, to);
        break;
    case 5:
        expand_rows(part, 5, t, count, to);
        break;
    case 6:
        expand_rows(part, 6, t, count, to);
        break;
    case 7:
        expand_rows(part, 7, t, count, to);
        break;
    case 8:
        expand_rows(part, 8, t, count, to);
        break;
    default:
        return (const uint16_t *)part + t * HEAD_DIM;
    }
    return NULL;
}
