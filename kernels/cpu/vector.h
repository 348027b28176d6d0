// Vectors of the instruction set at hand: 64 bytes with AVX-512 (VNNI, VBMI2), 32 with AVX2,
// else 16. The steps are written in terms of these types and compiled once per instruction set.
#pragma once
#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512VNNI__) && defined(__AVX512VBMI2__) && defined(__AVX512BW__)
#define VECTOR 64
#define MM(name) _mm512_##name
#define MM_INT __m512i
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define VECTOR 32
#define MM(name) _mm256_##name
#define MM_INT __m256i
#else
#define VECTOR 16
#define MM(name) _mm_##name
#define MM_INT __m128i
#endif
#define FLOATS (VECTOR / 4) // lanes of 32 bits

#define ALWAYS static inline __attribute__((always_inline))
#define NEVER static __attribute__((noinline, unused))
// Code that is large enough to exist once.
#ifdef __clang__
#define ONCE NEVER
#else
#define ONCE NEVER __attribute__((noclone))
#endif
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 64")
#endif

typedef float Floats __attribute__((vector_size(VECTOR), may_alias));
typedef int32_t Ints __attribute__((vector_size(VECTOR), may_alias));
typedef uint32_t Words __attribute__((vector_size(VECTOR), may_alias));
typedef int16_t Shorts __attribute__((vector_size(VECTOR), may_alias));
typedef uint16_t Halves __attribute__((vector_size(VECTOR), may_alias));
typedef float Floats4 __attribute__((vector_size(16), may_alias));
typedef uint32_t Words4 __attribute__((vector_size(16), may_alias));

// The same where the address is not known to be aligned.
typedef Floats FloatsAt __attribute__((aligned(4)));
typedef Floats4 Floats4At __attribute__((aligned(4)));
typedef Words WordsAt __attribute__((aligned(4)));

#if VECTOR == 64
#define LANES(F, n)                                                                                \
    F(0, n), F(1, n), F(2, n), F(3, n), F(4, n), F(5, n), F(6, n), F(7, n), F(8, n), F(9, n),      \
        F(10, n), F(11, n), F(12, n), F(13, n), F(14, n), F(15, n)
#elif VECTOR == 32
#define LANES(F, n) F(0, n), F(1, n), F(2, n), F(3, n), F(4, n), F(5, n), F(6, n), F(7, n)
#else
#define LANES(F, n) F(0, n), F(1, n), F(2, n), F(3, n)
#endif
#define LANE_XOR(i, n) (i) ^ (n)
#define LANE_SAME(i, n) n
#define LANE_SIGN(i, n) (i) & (n) ? -1.0f : 1.0f
// Lane i of the result is lane i ^ n of v.
#define SWAP_LANES(v, n) __builtin_shufflevector(v, v, LANES(LANE_XOR, n))

ALWAYS Floats load(const float *p)
{
    return *(const FloatsAt *)p;
}

ALWAYS void store(float *p, Floats v)
{
    *(FloatsAt *)p = v;
}

ALWAYS Floats splat(float x)
{
    return (Floats){LANES(LANE_SAME, x)}; // not 0 + x, which is an addition to the compiler
}

ALWAYS Ints splat_int(int32_t x)
{
    return (Ints){0} + x;
}

// The larger of the two in each lane; b where either is NaN.
ALWAYS Floats larger(Floats a, Floats b)
{
    return (Floats)MM(max_ps)(a, b);
}

ALWAYS float sum_lanes(Floats v)
{
#if VECTOR == 64
    v += SWAP_LANES(v, 8);
#endif
#if VECTOR >= 32
    v += SWAP_LANES(v, 4);
#endif
    v += SWAP_LANES(v, 2);
    v += SWAP_LANES(v, 1);
    return v[0];
}

ALWAYS float largest_lane(Floats v)
{
#if VECTOR == 64
    v = larger(v, SWAP_LANES(v, 8));
#endif
#if VECTOR >= 32
    v = larger(v, SWAP_LANES(v, 4));
#endif
    v = larger(v, SWAP_LANES(v, 2));
    v = larger(v, SWAP_LANES(v, 1));
    return v[0];
}

// The four sections of 16 bytes that a vector may have, added up.
ALWAYS Floats4 sum_sections(Floats v)
{
#if VECTOR == 64
    v += SWAP_LANES(v, 8);
#endif
#if VECTOR >= 32
    v += SWAP_LANES(v, 4);
    return __builtin_shufflevector(v, v, 0, 1, 2, 3);
#else
    return v;
#endif
}

// e^x to about 2e-7, for x up to 88; what is below -87 counts as -87. NaN stays NaN.
ALWAYS Floats exponential(Floats x)
{
    x = larger(splat(-87.0f), x);
    x = (Floats)MM(min_ps)(splat(88.0f), x);
    const float round = 12582912.0f; // 1.5 * 2^23: the integer ends up in the low bits
    Floats shifted = x * 1.44269504f + round;
    Floats n = shifted - round;
    Floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Ints scale = (Ints)(((Words)shifted << 23) + (127u << 23));
    return p * (Floats)scale;
}

// tanh(x) to about 2e-7, absolute.
ALWAYS Floats hyperbolic_tangent(Floats x)
{
    return 1.0f - 2.0f / (exponential(x + x) + 1.0f);
}

// c tanh(x / c)
ALWAYS Floats softcap(Floats x, float c)
{
    return hyperbolic_tangent(x * (1.0f / c)) * c;
}

// fp16 to float and back, one value.
ALWAYS float half_to_float(uint16_t h)
{
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    // Shifted into place, the exponent is 112 too small: right for subnormals too.
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    uint32_t bits = rest >= 0x0f800000 ? rest + 0x70000000 : rest;
    float value;
    memcpy(&value, &bits, 4);
    if (rest < 0x0f800000) value *= 0x1p112f;
    memcpy(&bits, &value, 4);
    bits |= sign;
    memcpy(&value, &bits, 4);
    return value;
#endif
}

ALWAYS uint16_t float_to_half(float x)
{
#ifdef __F16C__
    return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); // 65520 and up
    if (magnitude < 0x38800000) { // subnormal: the addition of 0.5 rounds at 2^-24
        float tiny;
        memcpy(&tiny, &magnitude, 4);
        tiny += 0.5f;
        memcpy(&magnitude, &tiny, 4);
        return (uint16_t)(sign | (magnitude - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
#endif
}

ALWAYS float bf16_to_float(uint16_t h)
{
    uint32_t bits = (uint32_t)h << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// FLOATS fp16 values in a row.
ALWAYS Floats load_halves(const uint16_t *p)
{
#if VECTOR == 64
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif VECTOR == 32
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    // As half_to_float.
    Words h = (Words)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
    Words rest = (h & 0x7fff) << 13, special = (Words)((Ints)rest >= 0x0f800000);
    Floats normal = (Floats)rest * 0x1p112f, large = (Floats)(rest + 0x70000000);
    return (Floats)(((Words)normal & ~special) | ((Words)large & special) | (h & 0x8000) << 16);
#endif
}

// The first n of them, the rest zero.
ALWAYS Floats load_halves_part(const uint16_t *p, int n)
{
    if (n >= FLOATS) return load_halves(p);
    uint16_t part[FLOATS] = {0};
    memcpy(part, p, (size_t)n * 2);
    return load_halves(part);
}

// FLOATS values of f16 or b16 in a row.
ALWAYS Floats load_plain(int format, const uint16_t *p)
{
    if (format == f16) return load_halves(p);
#if VECTOR == 64
    Words h = (Words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
#elif VECTOR == 32
    Words h = (Words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#else
    Words h = (Words)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i *)p), _mm_setzero_si128());
#endif
    return (Floats)(h << 16);
}

ALWAYS float plain_to_float(int format, uint16_t h)
{
    return format == f16 ? half_to_float(h) : bf16_to_float(h);
}

// Each lane rounded to the nearest fp16; normal numbers only.
ALWAYS Floats round_halves(Floats v)
{
#if VECTOR == 64
    return (Floats)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif VECTOR == 32
    return (Floats)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
    Words bits = (Words)v;
    return (Floats)((bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000);
#endif
}

ALWAYS void store_halves(uint16_t *p, const float *x, int n)
{
    int i = 0;
#if VECTOR == 64
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256((__m256i *)(p + i), _mm512_cvtps_ph((__m512)load(x + i), 0));
#elif VECTOR == 32
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(p + i), _mm256_cvtps_ph((__m256)load(x + i), 0));
#endif
    for (; i < n; i++) p[i] = float_to_half(x[i]);
}

// Which of `units` things worker w does: a run of neighbours.
typedef struct {
    int first, end;
} Range;

ALWAYS Range share(int units, int index, int count)
{
    return (Range){(int)((int64_t)units * index / count),
                   (int)((int64_t)units * (index + 1) / count)};
}
