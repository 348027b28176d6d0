// Where keys and values lie, and how they are stored in 2 to 8 bits. Plain C for host and device;
// needs the constants of the model.
//
// A page holds the layers of its pool one after the other, a layer its KV_HEADS heads of keys, then
// of values. A head's part of a page is, in 16 bits, fp16 (PAGE, HEAD_DIM). In fewer, the channels
// of a token go through the Hadamard transform in groups of 32, and each becomes the number of one
// of 2^bits equally wide cells from -scale to scale, which stands for the cell's middle:
//
//     codes (PAGE, HEAD_GROUPS, 4 * bits bytes), then scales fp16 (PAGE, HEAD_GROUPS)
//
//   a group of 8 bits:   the codes of channels 0 .. 31
//   a group of fewer:    parts of 4, 2 and 1 bits, as many as make up the bits, lowest bits first
//     part of f bits:    4 * f bytes, of which each f hold channels 8i .. 8i + 7, i = 0 .. 3
//       these, as a little-endian number: f bits each of channels 0 2 4 6 1 3 5 7, lowest first
//
//   code, bits 5:  |  4-bit part, 16 bytes: low nibbles of the codes  | 1-bit part, 4 bytes |
//   value = scale * ((code + 1/2) / 2^(bits - 1) - 1)
//
// Keys stay turned: queries are turned too. Attention's output is turned back where values are.
#pragma once
#include "features.h"
#include "types.h"

#ifdef __CUDACC__
#define CACHE_INLINE __device__ static __forceinline__
#else
#define CACHE_INLINE static inline
#endif

// 1: keys and values can be stored in 2 to 8 bits.
#ifndef QUANTIZED_CACHE
#define QUANTIZED_CACHE 0
#endif
#define KEY_BITS(s) (QUANTIZED_CACHE ? (s)->key_bits : 16)
#define VALUE_BITS(s) (QUANTIZED_CACHE ? (s)->value_bits : 16)

#define HEAD_GROUPS (HEAD_DIM / CACHE_GROUP)
#define HEAD_BYTES(bits) ((uint64_t)PAGE * CACHE_ROW_BYTES(HEAD_DIM, bits))
#define TURN_SCALE 0.17677669529663687f // 1 / sqrt(32)

// A head's part of the page that holds `position`. The bits are KEY_BITS(s) and VALUE_BITS(s), or
// 16 where no others can be.
CACHE_INLINE uint8_t *cache_head(const State *s, const Batch *b, const Layer *layer, int key_bits,
                                 int value_bits, int value, int sequence, int head, int position)
{
    const int pool = WINDOW_LAYERS && layer->window > 0 ? POOL_WINDOW : POOL_ALL;
    uint64_t place =
        (uint64_t)(WINDOW_LAYERS || CACHE_LAYERS != LAYERS ? layer->kept : layer - s->layers);
    uint64_t entry =
        (uint64_t)sequence * (uint64_t)b->pages_per_sequence + (uint64_t)position / PAGE;
    uint64_t page = (uint64_t)b->page_table[pool][entry];
    uint64_t keys = HEAD_BYTES(key_bits), values = HEAD_BYTES(value_bits);
    return s->cache[pool] + page * s->page_bytes[pool] + place * KV_HEADS * (keys + values) +
           (value ? KV_HEADS * keys + (uint64_t)head * values : (uint64_t)head * keys);
}

// A token's group in a head's part, t counted from the page's start.
CACHE_INLINE uint8_t *group_codes(uint8_t *head, int bits, int t, int group)
{
    return head + (uint64_t)(t * HEAD_GROUPS + group) * 4 * (uint64_t)bits;
}

CACHE_INLINE uint16_t *group_scale(uint8_t *head, int bits, int t, int group)
{
    return (uint16_t *)group_codes(head, bits, PAGE, 0) + t * HEAD_GROUPS + group;
}

// The bits of channel `channel` of eight, where the parts of the eight follow each other.
CACHE_INLINE uint64_t place_code(int bits, uint32_t code, int channel)
{
    if (bits == 8) return (uint64_t)code << (8 * channel);
    uint64_t placed = 0;
    int at = 0, place = channel / 2 + channel % 2 * 4;
    for (int f = 4; f; f /= 2) {
        if (!(bits & f)) continue;
        placed |= (uint64_t)(code & ((1u << f) - 1)) << (at + f * place);
        code >>= f;
        at += 8 * f;
    }
    return placed;
}

// Stores what place_code gave for channels 8 `eight` .. + 7 of a group.
CACHE_INLINE void store_codes(uint8_t *codes, int bits, int eight, uint64_t placed)
{
    if (bits == 8) {
        ((uint64_t *)codes)[eight] = placed;
        return;
    }
    if (bits & 4) ((uint32_t *)codes)[eight] = (uint32_t)placed, codes += 16, placed >>= 32;
    if (bits & 2) ((uint16_t *)codes)[eight] = (uint16_t)placed, codes += 8, placed >>= 16;
    if (bits & 1) codes[eight] = (uint8_t)placed;
}

// The cell of x among 2^bits, of which a unit holds `cells`; the outer ones reach further. What is
// not a number gets one too: its group's scale is none either.
CACHE_INLINE int code_of(float x, float cells, int bits)
{
    float cell = x * cells + (float)(1 << (bits - 1)), last = (float)((1 << bits) - 1);
    return cell > 0 ? (int)(cell < last ? cell : last) : 0;
}

// The middle of a cell in halves of its width.
CACHE_INLINE int level_of(int code, int bits)
{
    return 2 * code + 1 - (1 << bits);
}

// The scales that are tried for a group, in units of its largest magnitude: with few bits it pays
// to cut that off.
#define SCALES_TRIED(bits) ((bits) > 4 ? 1 : 3)
#define SCALE_TRIED(i, bits)                                                                       \
    ((1 - 0.15f * (float)(i)) * (float)(1 << (bits)) / (float)((1 << (bits)) - 1))
