// The EXL3 weight format: packed words -> windows -> products -> matrix-instruction operands, and
// the 128-point Hadamard transform.
//
// A lane owns a run, 32 consecutive weights of one 16 x 16 tile (kernels/types.h): `words` holds
// its K words newest first, then the newest word of the run before it. Window u, 0 the newest
// weight of the run, is bits [K u, K u + 16) of that little-endian number, so every shift is a
// constant:
//
//     words[0]   | ...  u = 1 | u = 0 |      K = 4: u = 0 is bits 0..15, u = 1 bits 4..19, ...
//     words[1]   |      u = 8 ........|
//     words[K]   | 16 - K bits of it: the older bits of the last windows
//
// product = window * multiplier + addend mod 2^32. As a weight it is
//     MUL1         fp16(sum of its four bytes * A + B), or its bytes as four u8 summands
//     MCG, 3INST   fp16(low half + high half) of (product & 0x8fff8fff) ^ 0x3b603b60, or both
//     halves
//                  as two fp16 summands
// What fits a unit of the chip best differs by K; all the ways below are exact and give equal bits.
#pragma once
#include "kernels/cuda/common.cuh"

template <int FORMAT> DEVICE uint32_t codebook_multiplier(void)
{
    constexpr int codebook = FORMAT_CODEBOOK(FORMAT);
    return codebook == CODEBOOK_3INST ? 89226354u
           : codebook == CODEBOOK_MCG ? 0xCBAC1FEDu
                                      : 0x83DCD12Du;
}

template <int FORMAT> DEVICE uint32_t codebook_addend(void)
{
    return FORMAT_CODEBOOK(FORMAT) == CODEBOOK_3INST ? 64248484u : 0;
}

// MUL1's affine step: weight = byte sum * MUL1_SCALE + MUL1_OFFSET, with 1024 * scale + bias of the
// fp16 constants 0x1eee and 0xc931 folded into the offset.
#define MUL1_SCALE 0.00676727294921875f
#define MUL1_OFFSET (-3.453125f)

// --- words ---------------------------------------------------------------------------------------

// This lane's words of the run of tile `tile` (0..3) of a half's pass; for trellis weights run[K]
// becomes the word before them.
template <int K> DEVICE void load_run(const uint8_t *pass, int tile, uint32_t run[K + 1])
{
    int lane = threadIdx.x % WARP;
    // Word q of a lane is word q % 4 of its vector q / 4.
    const uint8_t *own = pass + lane * 16;
    if (K % 4 == 0) {
#pragma unroll
        for (int i = 0; i < K; i += 4) {
            uint4 v = *(const uint4 *)(own + (tile * K + i) / 4 * 512);
            run[i] = v.x, run[(i + 1) % (K + 1)] = v.y;
            run[(i + 2) % (K + 1)] = v.z, run[(i + 3) % (K + 1)] = v.w;
        }
    } else if (K % 2 == 0) {
#pragma unroll
        for (int i = 0; i < K; i += 2) {
            int q = tile * K + i;
            uint2 v = *(const uint2 *)(own + q / 4 * 512 + q % 4 * 4);
            run[i] = v.x, run[i + 1] = v.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < K; i++) {
            int q = tile * K + i;
            run[i] = *(const uint32_t *)(own + q / 4 * 512 + q % 4 * 4);
        }
    }
    if (K < 16) run[K] = shuffle(run[0], (lane + 28) % WARP);
}

// --- windows -------------------------------------------------------------------------------------

DEVICE uint32_t stream_word(const uint32_t *words, int bit)
{
    int i = bit >> 5, shift = bit & 31;
    return shift ? funnel(words[i], words[i + 1], shift) : words[i];
}

// The half word of `v` at byte 0, 1 or 2, zero-extended.
DEVICE uint32_t half_at(uint32_t v, int byte)
{
    return permute(v, 0, byte == 0 ? 0x4410 : byte == 1 ? 0x4421 : 0x4432);
}

// Windows sorted by offset mod 8: a register taken at bit b serves the offsets b, b + 8 and b + 16
// by one byte permutation each. 1.3 ALU instructions a weight at K = 4 and 8.
template <int FORMAT> DEVICE void products_by_class(const uint32_t *words, uint32_t product[32])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    const uint32_t multiplier = codebook_multiplier<FORMAT>(), addend = codebook_addend<FORMAT>();
#pragma unroll
    for (int c = 0; c < 8; c++) {
        int base = -100;
        uint32_t v = 0;
#pragma unroll
        for (int u = 0; u < 32; u++) {
            int at = K * u;
            if ((at & 7) == c) {
                if (at - base > 16) {
                    base = c == 0 && (at & 31) <= 16 ? at & ~31 : at;
                    v = stream_word(words, base);
                }
                product[u] = half_at(v, (at - base) / 8) * multiplier + addend;
            }
        }
    }
}

// The same, but where b and b + 16 are both windows the lower one is multiplied with the upper one
// still above it and repaired by a multiplication: fewer ALU, more multiplier instructions.
template <int FORMAT> DEVICE void products_by_mix(const uint32_t *words, uint32_t product[32])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    const uint32_t multiplier = codebook_multiplier<FORMAT>(), addend = codebook_addend<FORMAT>();
#pragma unroll
    for (int c = 0; c < 8; c++) {
        int base = -100;
        uint32_t v = 0;
#pragma unroll
        for (int u = 0; u < 32; u++) {
            int at = K * u;
            if ((at & 7) == c) {
                if (at - base > 16) {
                    base = c == 0 && (at & 31) <= 16 ? at & ~31 : at;
                    v = stream_word(words, base);
                }
                int byte = (at - base) / 8;
                bool repaired_later = byte == 0 && u + 16 / K < 32;
                if (!repaired_later) product[u] = half_at(v, byte) * multiplier + addend;
                if (byte == 2 && u >= 16 / K)
                    product[u - 16 / K] =
                        product[u] * POWERS[17] + (v * multiplier + (addend + (addend << 16)));
            }
        }
    }
}

// For K dividing 16: 32 bits hold two windows; the unmasked product is wrong only by the product of
// the upper one << 16.
template <int FORMAT> DEVICE void products_by_pair(const uint32_t *words, uint32_t product[32])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    const uint32_t multiplier = codebook_multiplier<FORMAT>(), addend = codebook_addend<FORMAT>();
#pragma unroll
    for (int u = 0; u < 32; u++) {
        int at = K * u;
        if ((at & 31) < 16) {
            int upper = u + 16 / K;
            uint32_t v = stream_word(words, at);
            product[upper] = half_at(v, 2) * multiplier + addend;
            product[u] = product[upper] * POWERS[17] + (v * multiplier + (addend + (addend << 16)));
        }
    }
}

// A window inside one word goes to the top by a multiplication and is taken by a permutation; one
// that crosses words by a funnel shift. For K that does not divide 8.
template <int FORMAT> DEVICE void products_balanced(const uint32_t *words, uint32_t product[32])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    const uint32_t multiplier = codebook_multiplier<FORMAT>(), addend = codebook_addend<FORMAT>();
#pragma unroll
    for (int u = 0; u < 32; u++) {
        int i = K * u >> 5, shift = K * u & 31;
        uint32_t window = shift % 8 == 0 && shift <= 16 ? half_at(words[i], shift / 8)
                          : shift < 16                  ? half_at(words[i] * POWERS[16 - shift], 2)
                                       : half_at(funnel(words[i], words[i + 1], shift), 0);
        product[u] = window * multiplier + addend;
    }
}

// All windows by multiplication and permutation, from registers at multiples of 16 bits.
template <int FORMAT> DEVICE void products_from_top(const uint32_t *words, uint32_t product[32])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    const uint32_t multiplier = codebook_multiplier<FORMAT>(), addend = codebook_addend<FORMAT>();
#pragma unroll
    for (int h = 0; h < 2 * K; h++) {
        uint32_t v = h & 1 ? permute(words[h >> 1], words[(h >> 1) + 1], 0x5432) : words[h >> 1];
#pragma unroll
        for (int u = 0; u < 32; u++) {
            int shift = K * u - 16 * h;
            if (shift >= 0 && shift < 16) {
                uint32_t window =
                    shift % 8 == 0 ? half_at(v, shift / 8) : half_at(v * POWERS[16 - shift], 2);
                product[u] = window * multiplier + addend;
            }
        }
    }
}

// The 32 products of a run; product[31 - j] belongs to weight j of the run.
template <int FORMAT> DEVICE void run_products(const uint32_t *words, uint32_t product[32])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    constexpr bool bytes = FORMAT_CODEBOOK(FORMAT) == CODEBOOK_MUL1;
    if constexpr (16 % K != 0) {
        if constexpr (bytes)
            products_balanced<FORMAT>(words, product);
        else
            products_from_top<FORMAT>(words, product);
    } else {
        if constexpr (!bytes)
            products_by_pair<FORMAT>(words, product);
        else if constexpr (K <= 2)
            products_by_mix<FORMAT>(words, product);
        else
            products_by_class<FORMAT>(words, product);
    }
}

// --- finishes ------------------------------------------------------------------------------------

// Both fp16 summands of an MCG or 3INST weight.
DEVICE uint32_t summands(uint32_t product)
{
    return mask_flip<0x8fff8fffu, 0x3b603b60u>(product);
}

// Two weights as fp16, bit for bit what the format defines.
template <int FORMAT> DEVICE uint32_t exact_pair(uint32_t product0, uint32_t product1)
{
    if constexpr (FORMAT_CODEBOOK(FORMAT) == CODEBOOK_MUL1) {
        uint32_t s0 = add_bytes(product0, 0x6400), s1 = add_bytes(product1, 0x6400);
        return fma_half2(permute(s0, s1, 0x5410), 0x1eee1eeeu, 0xc931c931u);
    } else {
        uint32_t x0 = summands(product0), x1 = summands(product1);
        return add_half2(permute(x0, x1, 0x5410), permute(x0, x1, 0x7632));
    }
}

// Two bf16 as two fp16: equal unless the weight is beyond 65504 or below 2^-24 in magnitude.
DEVICE uint32_t half_from_bfloat(uint32_t pair)
{
    return pack_half(bits_float(pair << 16), bits_float(pair & 0xffff0000u));
}

// Word i (0..15) of a run of 16-bit weights as fp16.
template <int FORMAT> DEVICE uint32_t plain_pair(uint32_t word)
{
    return FORMAT_CODEBOOK(FORMAT) == CODEBOOK_BF16 ? half_from_bfloat(word) : word;
}

// --- Hadamard ------------------------------------------------------------------------------------

#define HADAMARD_SCALE 0.08838834764831845f // 1 / sqrt(128)

// 128 values of a warp, value 4 * lane + i in v[i], times the Sylvester matrix, not yet scaled.
DEVICE void hadamard(float v[4], int lane)
{
    float s0 = v[0] + v[1], d0 = v[0] - v[1], s1 = v[2] + v[3], d1 = v[2] - v[3];
    v[0] = s0 + s1;
    v[1] = d0 + d1;
    v[2] = s0 - s1;
    v[3] = d0 - d1;
#pragma unroll
    for (int bit = 1; bit < WARP; bit *= 2) {
        float sign = lane & bit ? -1.0f : 1.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = fmaf(v[i], sign, shuffle_xor(v[i], bit));
    }
}

DEVICE float warp_sum(float v)
{
#pragma unroll
    for (int bit = 16; bit; bit /= 2) v += shuffle_xor(v, bit);
    return v;
}
