// From a packed pass (drawn in kernels/types.h) to products and to weights.
//
// A vector has SECTIONS sections of 16 bytes: section i belongs to k-tile c = group * SECTIONS + i
// of the pass, its four 32-bit lanes to runs g = 0..3 or g = 4..7. Word w of a run in this form is
// a vector; a transposition of 4 x 4 words within the sections makes it from four plain loads.
//
//     packed, vector v:  | c0: w0 w1 w2 w3 | c1: w0 w1 w2 w3 | ...   one load per g
//     transposed, w0:    | c0: g0 g1 g2 g3 | c1: g0 g1 g2 g3 | ...
//
// A pair is a vector with two windows of 16 bits in each lane: two weights of one column, rows
// pair_row(.., 0) and pair_row(.., 1). The eight pairs q of column half 0 (columns g) and of half 1
// (columns g + 8) have the same rows, so activations are laid out once, in pairs as well.
#pragma once
#include "../types.h"
#include "vector.h"

#define SECTIONS (VECTOR / 16)
#define GROUPS (4 / SECTIONS)                   // vectors that cover the four k-tiles of a pass
#define CHUNKS (2 * GROUPS)                     // the same for a slice
#define SLICE_WORDS(bits) (CHUNKS * 4 * (bits)) // words of a transposed slice
// A slice is BLOCK rows, two passes: activations are quantized and summed slice by slice.

#define CODEBOOK_SCALE 0x1p56f // of activations, and of sums: summands are decoded times 2^-112
#define MUL1_A 0.00676727294921875f
#define MUL1_CENTER 510                            // byte sums are taken relative to this
#define MUL1_REST (1534.0f * MUL1_A - 10.3828125f) // value of the center

// How far apart in the run the two windows of a pair are.
ALWAYS int pair_distance(int bits)
{
    return bits == 1 ? 16 : bits == 8 ? 2 : bits == 16 ? 1 : 8;
}

// The newer window of pair q in column half `half`; window u is weight 31 - u of the run.
ALWAYS int pair_window(int bits, int q, int half)
{
    int u = half ? 0 : 4;
    switch (pair_distance(bits)) {
    case 16:
        return u | (q & 3) | (q >> 2) << 3;
    case 8:
        return u | (q & 3) | (q >> 2) << 4;
    case 2:
        return u | (q & 1) | (q >> 1) << 3;
    default:
        return u | (q & 1) << 1 | (q >> 1) << 3;
    }
}

// Row in the k-tile of the window in the low (0) or high (1) half of pair q.
ALWAYS int pair_row(int bits, int q, int high)
{
    int u = pair_window(bits, q, 0);
    if (high == (bits != 16)) u += pair_distance(bits);
    int p = 31 - u;
    return 2 * (p >> 3) + (p & 1) + 8 * (p >> 1 & 1);
}

// Bits n .. n + 31 of high:low, and the same for halves of lanes.
ALWAYS Words funnel(Words low, Words high, int n)
{
    if (n == 0) return low;
#if VECTOR == 64
    return (Words)_mm512_shrdv_epi32((__m512i)low, (__m512i)high, _mm512_set1_epi32(n));
#else
    return low >> n | high << (32 - n);
#endif
}

ALWAYS Words funnel_halves(Words low, Words high, int n)
{
    if (n == 0) return low;
#if VECTOR == 64
    return (Words)_mm512_shrdv_epi16((__m512i)low, (__m512i)high, _mm512_set1_epi16((short)n));
#else
    return (Words)((Halves)low >> n | (Halves)high << (16 - n));
#endif
}

// In each section: the last lane of `other`, then the first three of v.
ALWAYS Words previous_run(Words v, Words other)
{
#if VECTOR == 16
    return __builtin_shufflevector(other, v, 3, 4, 5, 6);
#else
    return (Words)MM(alignr_epi8)((MM_INT)v, (MM_INT)other, 12);
#endif
}

#define DEAL(i, n)                                                                                 \
    ((i) % 4 == 0 ? 0x05040100 : (i) % 4 == 1 ? 0x07060302 : (i) % 4 == 2 ? 0x0d0c0908 : 0x0f0e0b0a)

// Orders the half words 0 2 1 3 4 6 5 7 in each section.
ALWAYS MM_INT deal_halves(MM_INT v)
{
#if VECTOR == 16
    return _mm_shufflelo_epi16(_mm_shufflehi_epi16(v, 0xd8), 0xd8);
#else
    const Words order = {LANES(DEAL, 0)};
    return MM(shuffle_epi8)(v, (MM_INT)order);
#endif
}

// Transposes group `group` of a pass: out[w][high], w < 4 * bits, high 0 for runs 0..3, 1 for 4..7.
// At 4 bits the halves of words 0, 1 and 2, 3 are dealt out: chunks (0, 2), (1, 3), (4, 6), (5, 7)
// of 16 bits share a lane, so that whole pairs come out of one shift.
// Fetches what lies `ahead` bytes further on, when that is not 0.
ALWAYS void transpose_pass(int bits, const uint8_t *pass, int group, size_t ahead, Words (*out)[2])
{
    for (int v = 0; v < bits; v++)
        for (int high = 0; high < 2; high++) {
            const uint8_t *from = pass + 512 * v + 256 * high + VECTOR * group;
            MM_INT row[4];
            UNROLL for (int g = 0; g < 4; g++)
            {
                row[g] = (MM_INT) * (const WordsAt *)(from + 64 * g);
                if (ahead && VECTOR * group % 64 == 0) __builtin_prefetch(from + 64 * g + ahead);
                if (bits == 4) row[g] = deal_halves(row[g]);
            }
            MM_INT a = MM(unpacklo_epi32)(row[0], row[1]), b = MM(unpacklo_epi32)(row[2], row[3]);
            MM_INT c = MM(unpackhi_epi32)(row[0], row[1]), d = MM(unpackhi_epi32)(row[2], row[3]);
            out[4 * v][high] = (Words)MM(unpacklo_epi64)(a, b);
            out[4 * v + 1][high] = (Words)MM(unpackhi_epi64)(a, b);
            out[4 * v + 2][high] = (Words)MM(unpacklo_epi64)(c, d);
            out[4 * v + 3][high] = (Words)MM(unpackhi_epi64)(c, d);
        }
}

// Pair q of column half `half`. run[w][0] is word w of the runs, `previous` word 0 of the runs
// before.
ALWAYS Words take_pair(int bits, const Words (*run)[2], Words previous, int q, int half)
{
#define WORD(w) ((w) < bits ? run[(w) < bits ? (w) : 0][0] : previous)
    int u = pair_window(bits, q, half), at = bits * u;
    if (bits == 16) return run[15 - u / 2][0];
    if (bits == 4) {
        int chunk = (u >> 2 & 1) + 2 * (u >> 4);
        Words next = chunk == 0   ? run[1][0]
                     : chunk == 1 ? funnel(run[0][0], run[2][0], 16)
                     : chunk == 2 ? run[3][0]
                                  : funnel(run[2][0], previous, 16);
        return funnel_halves(run[chunk][0], next, 4 * (u & 3));
    }
    Words low = funnel(WORD(at / 32), WORD(at / 32 + 1), at % 32);
    if (bits < 3 || bits == 8) return low; // the other window is 16 bits further
    int to = at + 8 * bits - 16;
    Words high = funnel(WORD(to / 32), WORD(to / 32 + 1), to % 32);
    return (low & 0xffff) | (high & 0xffff0000);
#undef WORD
}

// The product of the codebook, s * M (+ C), of both windows s of each lane: low and high half
// words.
ALWAYS void multiply_pair(int codebook, Words pair, Halves *low, Halves *high)
{
    const uint32_t m = codebook == CODEBOOK_MUL1  ? 0x83DCD12D
                       : codebook == CODEBOOK_MCG ? 0xCBAC1FED
                                                  : 89226354;
    Halves s = (Halves)pair, constant = (Halves){0} + (uint16_t)m;
    *low = s * constant;
    *high = (Halves)MM(mulhi_epu16)((MM_INT)s, (MM_INT)constant) + s * (uint16_t)(m >> 16);
    if (codebook == CODEBOOK_3INST) {
        const uint32_t c = 64248484;
        *low += (uint16_t)c;
        Shorts carry = *low < (Halves){0} + (uint16_t)c; // -1 where it wrapped
        *high += (uint16_t)(c >> 16);
        *high -= (Halves)carry;
    }
}

// The sum of the four bytes of each product.
ALWAYS Shorts add_bytes(Halves low, Halves high)
{
#if VECTOR == 16
    return (Shorts)((low & 0xff) + (high & 0xff) + (low >> 8) + (high >> 8));
#else
    MM_INT ones = MM(set1_epi8)(1);
    return (Shorts)MM(maddubs_epi16)((MM_INT)low, ones) +
           (Shorts)MM(maddubs_epi16)((MM_INT)high, ones);
#endif
}

// sum + a.low * b.low + a.high * b.high in each lane.
ALWAYS Ints add_products(Ints sum, Shorts a, Shorts b)
{
#if VECTOR == 64
    return (Ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
#else
    return (Ints)((Words)sum + (Words)MM(madd_epi16)((MM_INT)a, (MM_INT)b));
#endif
}

// The fp16 summand in the upper half of each lane of y, not yet masked, times 2^-112.
ALWAYS Floats summand(Words y)
{
    return (Floats)(((Words)((Ints)y >> 3) & 0x81FFE000) ^ 0x076C0000);
}

// The weights of a pair as floats: those of the low windows and those of the high. The summands of
// MCG and 3INST are added unrounded and stay times 2^-112.
ALWAYS void pair_weights(int format, Words pair, Floats *low, Floats *high)
{
    if (FORMAT_CODEBOOK(format) == CODEBOOK_BF16) {
        *low = (Floats)(pair << 16);
        *high = (Floats)(pair & 0xffff0000);
    } else if (FORMAT_CODEBOOK(format) == CODEBOOK_F16) {
#if VECTOR == 64
        *low = (Floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)pair));
        *high = (Floats)_mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)(pair >> 16)));
#elif VECTOR == 32
        const __m256i order =
            _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9,
                             12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
        __m256i split = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)pair, order), 0xd8);
        *low = (Floats)_mm256_cvtph_ps(_mm256_castsi256_si128(split));
        *high = (Floats)_mm256_cvtph_ps(_mm256_extracti128_si256(split, 1));
#else
        uint32_t lane[4];
        uint16_t half[8];
        memcpy(lane, &pair, sizeof lane);
        for (int i = 0; i < 4; i++)
            half[i] = (uint16_t)lane[i], half[4 + i] = (uint16_t)(lane[i] >> 16);
        *low = load_halves(half);
        *high = load_halves(half + 4);
#endif
    } else {
        Halves a, b;
        multiply_pair(FORMAT_CODEBOOK(format), pair, &a, &b);
        if (FORMAT_CODEBOOK(format) == CODEBOOK_MUL1) {
            Words sums = (Words)add_bytes(a, b);
            *low = __builtin_convertvector((Ints)(sums & 0xffff), Floats);
            *high = __builtin_convertvector((Ints)(sums >> 16), Floats);
            *low = *low * MUL1_A + (MUL1_REST - MUL1_CENTER * MUL1_A);
            *high = *high * MUL1_A + (MUL1_REST - MUL1_CENTER * MUL1_A);
        } else {
            *low = summand((Words)a << 16) + summand((Words)b << 16);
            *high = summand((Words)a) + summand((Words)b);
        }
    }
}

// Bytes of the prepared activations of one slice of R rows, for products with few rows.
//   MUL1:   int16 pairs (CHUNKS, 8 pairs, R) vectors; int32 start (R) vectors; float scale (R);
//           float sum (R), the sum of the quantized values times their scale
//   else:   float (CHUNKS, 8 pairs, 2, R) vectors
// A vector holds in every lane of a section the activation (or pair) of the section's k-tile.
ALWAYS size_t slice_bytes(int format, int R)
{
    return (size_t)R * (FORMAT_CODEBOOK(format) == CODEBOOK_MUL1 ? 1152 : 2048);
}

// Lays out 128 values of row r of R.
ALWAYS void prepare_slice(int format, char *slice, int R, int r, const float *v)
{
    const int bits = FORMAT_BITS(format);
    if (FORMAT_CODEBOOK(format) != CODEBOOK_MUL1) {
        const float scale = FORMAT_IS_EXL3(format) ? CODEBOOK_SCALE : 1.0f;
        Floats4 *to = (Floats4 *)slice;
        for (int chunk = 0; chunk < CHUNKS; chunk++)
            for (int i = 0; i < SECTIONS; i++) {
                const float *tile = v + 16 * (chunk * SECTIONS + i);
                for (int q = 0; q < 8; q++)
                    for (int high = 0; high < 2; high++) {
                        float x = tile[pair_row(bits, q, high)] * scale;
                        to[(((chunk * 8 + q) * 2 + high) * R + r) * SECTIONS + i] =
                            (Floats4){x, x, x, x};
                    }
            }
        return;
    }
    Floats most = {0}, poison = {0}; // poison: NaN if any value is NaN or infinite
    for (int i = 0; i < BLOCK; i += FLOATS) {
        Floats x = load(v + i);
        most = larger(most, (Floats)((Ints)x & 0x7fffffff));
        poison += x * 0.0f;
    }
    float peak = largest_lane(most), bad = sum_lanes(poison);
    float scale = peak * (1.0f / 32767.0f) + bad;
    float inverse = peak > 0 ? 32767.0f / peak : 0.0f;
    int16_t a[BLOCK];
    for (int i = 0; i < BLOCK; i++) {
        float x = v[i] * inverse;
        a[i] = (int16_t)(int32_t)((x + 12582912.0f) - 12582912.0f);
    }
    Words4 *to = (Words4 *)slice;
    int32_t sums[8];
    for (int tile = 0; tile < 8; tile++) {
        const int16_t *from = a + 16 * tile;
        int chunk = tile / SECTIONS, section = tile % SECTIONS;
        int32_t sum = 0;
        UNROLL for (int q = 0; q < 8; q++)
        {
            int16_t low = from[pair_row(bits, q, 0)], high = from[pair_row(bits, q, 1)];
            sum += low + high;
            uint32_t pair = (uint16_t)low | (uint32_t)(uint16_t)high << 16;
            to[((chunk * 8 + q) * R + r) * SECTIONS + section] = (Words4){0} + pair;
        }
        sums[tile] = sum;
    }
    int32_t *start = (int32_t *)(slice + (size_t)R * 1024) + r * FLOATS;
    int32_t all = 0;
    for (int section = 0; section < SECTIONS; section++) {
        int32_t sum = 0;
        for (int tile = section; tile < 8; tile += SECTIONS) sum += sums[tile];
        all += sum;
        for (int i = 0; i < 4; i++)
            start[4 * section + i] = (int32_t)(0u - (uint32_t)MUL1_CENTER * (uint32_t)sum);
    }
    float *scales = (float *)(slice + (size_t)R * 1088);
    scales[r] = scale;
    scales[R + r] = scale * (float)all;
}

// z[r][n] = sum over k of x[r][k] W[k][n], for 64-column halves first .. end-1 of a column block
// and R = 1, 2, 4 or 8 rows prepared in `act`. Each row goes through the same operations whatever R
// is.
ALWAYS void multiply_few(int format, int R, const char *act, int slices, const uint8_t *weights,
                         int first, int end, float (*z)[BLOCK])
{
    const int bits = FORMAT_BITS(format), integer = FORMAT_CODEBOOK(format) == CODEBOOK_MUL1;
    Words words[SLICE_WORDS(16)][2];
    Floats sums[2][4][2][8][2]; // (half, tile, high, row, column half)
    for (int half = first; half < end; half++)
        for (int i = 0; i < 8; i++)
            for (int r = 0; r < R; r++)
                sums[half][i / 2][i % 2][r][0] = sums[half][i / 2][i % 2][r][1] = (Floats){0};

    for (int slice = 0; slice < slices; slice++) {
        const char *x = act + slice * slice_bytes(format, R);
        for (int half = first; half < end; half++) {
            for (int chunk = 0; chunk < CHUNKS; chunk++)
                transpose_pass(bits,
                               weights + (size_t)PASS_BYTES(bits) *
                                             ((2 * slice + chunk / GROUPS) * 2 + half),
                               chunk % GROUPS, 4 * PASS_BYTES(bits), words + chunk * 4 * bits);
            for (int i = 0; i < 8; i++) {
                const int tile = i / 2, high = i % 2;
                Floats(*sum)[2] = sums[half][tile][high];
                Ints count[8][2];
                Floats real[8][2];
                UNROLL for (int r = 0; r < R; r++)
                {
                    if (integer)
                        count[r][0] = count[r][1] = ((const Ints *)(x + (size_t)R * 1024))[r];
                    else
                        real[r][0] = sum[r][0], real[r][1] = sum[r][1];
                }
                for (int chunk = 0; chunk < CHUNKS; chunk++) {
                    const Words(*run)[2] = words + (chunk * 4 + tile) * bits;
                    Words previous = previous_run(run[0][high], run[0][1 - high]);
                    run = (const Words(*)[2]) & run[0][high];
                    UNROLL for (int q = 0; q < 8; q++)
                    {
                        UNROLL for (int column = 0; column < 2; column++)
                        {
                            Words pair = take_pair(bits, run, previous, q, column);
                            if (integer) {
                                Halves a, b;
                                multiply_pair(CODEBOOK_MUL1, pair, &a, &b);
                                Shorts bytes = add_bytes(a, b);
                                UNROLL for (int r = 0; r < R; r++) count[r][column] =
                                    add_products(count[r][column], bytes,
                                                 ((const Shorts *)x)[(chunk * 8 + q) * R + r]);
                            } else {
                                Floats a, b;
                                pair_weights(format, pair, &a, &b);
                                const Floats *at = (const Floats *)x + (chunk * 8 + q) * 2 * R;
                                UNROLL for (int r = 0; r < R; r++) real[r][column] += a * at[r];
                                UNROLL for (int r = 0; r < R; r++) real[r][column] += b * at[R + r];
                            }
                        }
                    }
                }
                UNROLL for (int r = 0; r < R; r++)
                {
                    if (integer) {
                        float scale = ((const float *)(x + (size_t)R * 1088))[r];
                        sum[r][0] += __builtin_convertvector(count[r][0], Floats) * scale;
                        sum[r][1] += __builtin_convertvector(count[r][1], Floats) * scale;
                    } else {
                        sum[r][0] = real[r][0], sum[r][1] = real[r][1];
                    }
                }
            }
        }
    }

    for (int r = 0; r < R; r++) {
        float rest = 0;
        if (integer)
            for (int slice = 0; slice < slices; slice++)
                rest += ((const float *)(act + slice * slice_bytes(format, R) +
                                         (size_t)R * 1088))[R + r];
        rest *= MUL1_REST;
        const float scale = integer ? MUL1_A : FORMAT_IS_EXL3(format) ? CODEBOOK_SCALE : 1.0f;
        for (int half = first; half < end; half++)
            for (int i = 0; i < 8; i++)
                for (int column = 0; column < 2; column++)
                    *(Floats4At *)(z[r] + 64 * half + 16 * (i / 2) + 8 * column + 4 * (i % 2)) =
                        sum_sections(sums[half][i / 2][i % 2][r][column]) * scale + rest;
    }
}

// The weights of a pass, exact: panel[k][n].
ALWAYS void decode_pass(int format, const uint8_t *pass, float (*panel)[PASS_COLUMNS])
{
    const int bits = FORMAT_BITS(format);
    const float scale =
        FORMAT_IS_EXL3(format) && FORMAT_CODEBOOK(format) != CODEBOOK_MUL1 ? 0x1p112f : 1.0f;
    Words words[4 * 16][2];
    for (int group = 0; group < GROUPS; group++) {
        transpose_pass(bits, pass, group, 0, words);
        for (int i = 0; i < 8; i++) {
            const int tile = i / 2, high = i % 2;
            const Words(*run)[2] = words + tile * bits;
            Words previous = previous_run(run[0][high], run[0][1 - high]);
            run = (const Words(*)[2]) & run[0][high];
            UNROLL for (int q = 0; q < 8; q++)
            {
                UNROLL for (int column = 0; column < 2; column++)
                {
                    Floats two[2];
                    pair_weights(format, take_pair(bits, run, previous, q, column), &two[0],
                                 &two[1]);
                    UNROLL for (int h = 0; h < 2; h++)
                    {
                        Floats4 part[SECTIONS];
                        two[h] *= scale;
                        if (FORMAT_IS_EXL3(format)) two[h] = round_halves(two[h]);
                        memcpy(part, &two[h], VECTOR);
                        for (int section = 0; section < SECTIONS; section++)
                            *(Floats4 *)(panel[16 * (group * SECTIONS + section) +
                                               pair_row(bits, q, h)] +
                                         16 * tile + 8 * column + 4 * high) = part[section];
                    }
                }
            }
        }
    }
}

// One function per format and number of rows; only those that a program uses are kept.
#define EVERY_FORMAT(F)                                                                            \
    F(t1)                                                                                          \
    F(t2)                                                                                          \
    F(t3) F(t4) F(t5) F(t6) F(t7) F(t8) F(c1) F(c2) F(c3) F(c4) F(c5) F(c6) F(c7) F(c8) F(m1)      \
        F(m2) F(m3) F(m4) F(m5) F(m6) F(m7) F(m8) F(f16) F(b16)

#define FUNCTIONS(format)                                                                          \
    ONCE void multiply_1_##format(const char *act, int slices, const uint8_t *weights, int first,  \
                                  int end, float(*z)[BLOCK])                                       \
    {                                                                                              \
        multiply_few(format, 1, act, slices, weights, first, end, z);                              \
    }                                                                                              \
    ONCE void multiply_2_##format(const char *act, int slices, const uint8_t *weights, int first,  \
                                  int end, float(*z)[BLOCK])                                       \
    {                                                                                              \
        multiply_few(format, 2, act, slices, weights, first, end, z);                              \
    }                                                                                              \
    ONCE void multiply_4_##format(const char *act, int slices, const uint8_t *weights, int first,  \
                                  int end, float(*z)[BLOCK])                                       \
    {                                                                                              \
        multiply_few(format, 4, act, slices, weights, first, end, z);                              \
    }                                                                                              \
    ONCE void multiply_8_##format(const char *act, int slices, const uint8_t *weights, int first,  \
                                  int end, float(*z)[BLOCK])                                       \
    {                                                                                              \
        multiply_few(format, 8, act, slices, weights, first, end, z);                              \
    }                                                                                              \
    ONCE void prepare_slice_##format(char *slice, int R, int r, const float *v)                    \
    {                                                                                              \
        prepare_slice(format, slice, R, r, v);                                                     \
    }                                                                                              \
    ONCE void decode_pass_##format(const uint8_t *pass, float(*panel)[PASS_COLUMNS])               \
    {                                                                                              \
        decode_pass(format, pass, panel);                                                          \
    }
EVERY_FORMAT(FUNCTIONS)
#undef FUNCTIONS

ALWAYS void multiply(int format, int R, const char *act, int slices, const uint8_t *weights,
                     int first, int end, float (*z)[BLOCK])
{
#define CASE(name)                                                                                 \
    case name:                                                                                     \
        if (R == 1)                                                                                \
            multiply_1_##name(act, slices, weights, first, end, z);                                \
        else if (R == 2)                                                                           \
            multiply_2_##name(act, slices, weights, first, end, z);                                \
        else if (R == 4)                                                                           \
            multiply_4_##name(act, slices, weights, first, end, z);                                \
        else                                                                                       \
            multiply_8_##name(act, slices, weights, first, end, z);                                \
        break;
    switch (format) {
        EVERY_FORMAT(CASE)
    }
#undef CASE
}

ALWAYS void prepare(int format, char *slice, int R, int r, const float *v)
{
#define CASE(name)                                                                                 \
    case name:                                                                                     \
        prepare_slice_##name(slice, R, r, v);                                                      \
        break;
    switch (format) {
        EVERY_FORMAT(CASE)
    }
#undef CASE
}

ALWAYS void decode_panel(int format, const uint8_t *pass, float (*panel)[PASS_COLUMNS])
{
#define CASE(name)                                                                                 \
    case name:                                                                                     \
        decode_pass_##name(pass, panel);                                                           \
        break;
    switch (format) {
        EVERY_FORMAT(CASE)
    }
#undef CASE
}
