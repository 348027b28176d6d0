// Keys and values of less than 16 bits: into the cache, and out of it as fp16 (kernels/cache.h).
#pragma once
#include "kernels/cuda/exl3.cuh"
#include "kernels/cuda/work.h"

// Groups by eight lanes: channels 4 * lane .. + 3 in v.
DEVICE void turn_channels(float v[4])
{
    float s0 = v[0] + v[1], d0 = v[0] - v[1], s1 = v[2] + v[3], d1 = v[2] - v[3];
    v[0] = s0 + s1, v[1] = d0 + d1, v[2] = s0 - s1, v[3] = d0 - d1;
#pragma unroll
    for (int bit = 1; bit < 8; bit *= 2)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float other = shuffle_xor(v[i], bit);
            v[i] = threadIdx.x & bit ? other - v[i] : other + v[i];
        }
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= TURN_SCALE;
}

DEVICE float sum_of_eight(float v)
{
#pragma unroll
    for (int bit = 1; bit < 8; bit *= 2) v += shuffle_xor(v, bit);
    return v;
}

// Turns a group by eight lanes, 4 channels each, and stores it: of a query where this lane's
// channels belong, else as token t of a head's part. Nothing is stored where it is not real.
FUNCTION void store_turned(float *query, uint8_t *part, int bits, int t, int group, bool real,
                           float v0, float v1, float v2, float v3)
{
    int lane = threadIdx.x % WARP;
    float v[4] = {v0, v1, v2, v3}, best = -1;
    turn_channels(v);
    if (query) {
        if (real) *(float4 *)query = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
    float largest = fmaxf(fmaxf(fabsf(v[0]), fabsf(v[1])), fmaxf(fabsf(v[2]), fabsf(v[3])));
#pragma unroll
    for (int bit = 1; bit < 8; bit *= 2) largest = fmaxf(largest, shuffle_xor(largest, bit));
    if (largest < 1e-30f) largest = 1e-30f;
    float scale = largest * SCALE_TRIED(0, bits);
    uint64_t placed = 0;
#pragma unroll 1
    for (int i = 0; i < SCALES_TRIED(bits); i++) {
        // Of codes, the scale that fits best: <v, level> / <level, level>.
        uint64_t tried = 0;
        float cells = (float)(1 << (bits - 1)) / (largest * SCALE_TRIED(i, bits));
        float product = 0, square = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int code = code_of(v[j], cells, bits);
            float level = (float)level_of(code, bits);
            product += v[j] * level, square += level * level;
            tried |= place_code(bits, code, lane % 2 * 4 + j);
        }
        product = sum_of_eight(product), square = sum_of_eight(square);
        if (product * product / square <= best) continue;
        best = product * product / square;
        placed = tried;
        if (SCALES_TRIED(bits) > 1) scale = product / square * (float)(1 << bits);
    }
    uint32_t low = (uint32_t)placed, high = (uint32_t)(placed >> 32);
    low |= shuffle_xor(low, 1), high |= shuffle_xor(high, 1);
    if (real && lane % 2 == 0)
        store_codes(group_codes(part, bits, t, group), bits, lane % 8 / 2,
                    (uint64_t)high << 32 | low);
    if (real && lane % 8 == 0) *group_scale(part, bits, t, group) = float_half(scale);
}

// Channels 8 eight .. + 7 of token t as fp16. Of a pair of codes, 2 code + 1024 is an fp16 with the
// code in its mantissa; scaled exactly to the middle of the cell between -1 and 1.
DEVICE void expand_codes(uint8_t *part, int bits, int t, int eight, uint32_t word[4])
{
    const uint8_t *codes = group_codes(part, bits, t, eight / 4);
    uint32_t scale = *group_scale(part, bits, t, eight / 4) * 0x10001u;
    uint32_t width = (uint32_t)(15 - bits) << 10; // 2^-bits
    uint32_t first = float_half(-(float)(1023 + (1 << bits)) * half_float(width));
    eight %= 4;
    if (bits == 8) {
        uint2 v = *(const uint2 *)(codes + 8 * eight);
        word[0] = permute(v.x, 0, 0x4140), word[1] = permute(v.x, 0, 0x4342);
        word[2] = permute(v.y, 0, 0x4140), word[3] = permute(v.y, 0, 0x4342);
    } else {
        int at = 0;
        word[0] = word[1] = word[2] = word[3] = 0;
        if (bits & 4) {
            uint32_t v = *(const uint32_t *)(codes + 4 * eight);
#pragma unroll
            for (int j = 0; j < 4; j++) word[j] = v >> 4 * j & 0x000f000fu;
            codes += 16, at = 4;
        }
        if (bits & 2) {
            uint32_t v = permute(*(const uint16_t *)(codes + 2 * eight), 0, 0x4140);
#pragma unroll
            for (int j = 0; j < 4; j++) word[j] |= (v >> 2 * j & 0x00030003u) << at;
            codes += 8, at += 2;
        }
        if (bits & 1) {
            uint32_t v = codes[eight] * 0x1001u;
#pragma unroll
            for (int j = 0; j < 4; j++) word[j] |= (v >> j & 0x00010001u) << at;
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t middle = fma_half2(word[j] << 1 | 0x64006400u, width * 0x10001u, first * 0x10001u);
        word[j] = fma_half2(middle, scale, 0);
    }
}
