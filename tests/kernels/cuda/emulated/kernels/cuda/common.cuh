// kernels/cuda/common.cuh on the CPU: found before the real one, it puts every chip instruction the
// kernels use on threads of our own, so that they run without a GPU. A block's threads are fibers
// that run in a random order between barriers; background copies happen as late as a wait allows and
// poison their destination until then. That catches wrong indices and most missing barriers.
#pragma once
#include "kernels/types.h"
#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define DEVICE static inline
#define FUNCTION static
#define KERNEL extern "C" void
#define WARP 32
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define __constant__ static
#define __align__(n) __attribute__((aligned(n)))

struct uint2 { uint32_t x, y; } __attribute__((aligned(8)));
struct uint4 { uint32_t x, y, z, w; } __attribute__((aligned(16)));
struct float2 { float x, y; } __attribute__((aligned(8)));
struct float4 { float x, y, z, w; } __attribute__((aligned(16)));
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Index { int x, y; };
struct Lane; // one thread, in emulate.cc
extern Index blockIdx, gridDim, blockDim;
extern Index *current_thread;
#define threadIdx (*current_thread)

void emulate_block_sync(void);
// Hands `count` words to the warp and returns the words of all its lanes, 16 apart.
const uint32_t *emulate_exchange(const uint32_t *mine, int count);
void emulate_copy(void *to, const void *from, int real);
void emulate_commit(void);
void emulate_copy_wait(int left);
uint8_t *emulate_shared(void);
void emulate_multipliers_sync(int threads);
void emulate_four_warps_sync(int i);
void emulate_meeting(int meeting, int waits);
void emulate_global(const void *p);
int emulate_shared_bytes(void);
void emulate_yield(void);
void emulate_barrier_init(uint64_t *barrier, int arrivals);
void emulate_barrier_arrive(uint64_t *barrier, int bytes, int rank);
void emulate_barrier_wait(uint64_t *barrier, int parity);
void emulate_bulk(void *to, const void *from, int bytes, uint64_t *barrier, int both);
int emulate_rank(void);

DEVICE float half_float(uint16_t h) { _Float16 f; memcpy(&f, &h, 2); return (float)f; }
DEVICE uint16_t float_half(float v) { _Float16 f = (_Float16)v; uint16_t h; memcpy(&h, &f, 2); return h; }
DEVICE uint32_t pack_half(float low, float high) { return float_half(low) | (uint32_t)float_half(high) << 16; }
DEVICE int count_bits(uint32_t v) { return __builtin_popcount(v); }
DEVICE float bits_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
DEVICE uint32_t float_bits(float f) { uint32_t b; memcpy(&b, &f, 4); return b; }
DEVICE int64_t round_float(float f) { return llrintf(f); }
DEVICE float divide_fast(float a, float b) { return a / b; }
DEVICE uint32_t add_half2(uint32_t a, uint32_t b)
{
    return pack_half(half_float(a) + half_float(b), half_float(a >> 16) + half_float(b >> 16));
}
DEVICE uint16_t fma_half(uint16_t a, uint16_t b, uint16_t c)
{
    double v = (double)half_float(a) * half_float(b) + half_float(c);
    _Float16 f = (_Float16)v;
    uint16_t h;
    memcpy(&h, &f, 2);
    return h;
}
DEVICE uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c)
{
    return fma_half(a, b, c) | (uint32_t)fma_half(a >> 16, b >> 16, c >> 16) << 16;
}
DEVICE uint32_t permute(uint32_t a, uint32_t b, uint32_t selector)
{
    uint64_t v = (uint64_t)b << 32 | a;
    uint32_t r = 0;
    for (int i = 0; i < 4; i++)
        r |= (uint32_t)(v >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return r;
}
DEVICE uint32_t funnel(uint32_t low, uint32_t high, int shift)
{
    return (uint32_t)(((uint64_t)high << 32 | low) >> shift);
}
DEVICE uint32_t add_bytes(uint32_t a, uint32_t c)
{
    return c + (a & 255) + (a >> 8 & 255) + (a >> 16 & 255) + (a >> 24);
}
template <uint32_t MASK, uint32_t FLIP> DEVICE uint32_t mask_flip(uint32_t a) { return (a & MASK) ^ FLIP; }
__constant__ uint32_t POWERS[18] = {1,    2,    4,    8,     16,    32,    64,        128, 256, 512,
                                    1024, 2048, 4096, 8192, 16384, 32768, 65536, 0xffff0000u};

DEVICE int lane_id(void) { return threadIdx.x % WARP; }
DEVICE uint32_t shuffle(uint32_t v, int lane) { return emulate_exchange(&v, 1)[16 * (lane & 31)]; }
DEVICE float shuffle_xor(float v, int mask)
{
    uint32_t b = float_bits(v);
    return bits_float(emulate_exchange(&b, 1)[16 * (lane_id() ^ mask)]);
}
DEVICE uint32_t shuffle_xor(uint32_t v, int mask) { return emulate_exchange(&v, 1)[16 * (lane_id() ^ mask)]; }
DEVICE uint32_t warp_max(uint32_t v)
{
    const uint32_t *all = emulate_exchange(&v, 1);
    for (int i = 0; i < WARP; i++) v = v > all[16 * i] ? v : all[16 * i];
    return v;
}
DEVICE uint32_t warp_add(uint32_t v)
{
    const uint32_t *all = emulate_exchange(&v, 1);
    uint32_t sum = 0;
    for (int i = 0; i < WARP; i++) sum += all[16 * i];
    return sum;
}
DEVICE uint32_t warp_ballot(int predicate)
{
    uint32_t v = predicate != 0, r = 0;
    const uint32_t *all = emulate_exchange(&v, 1);
    for (int i = 0; i < WARP; i++) r |= all[16 * i] << i;
    return r;
}
DEVICE void warp_sync(void) { uint32_t v = 0; emulate_exchange(&v, 1); }
DEVICE void block_sync(void) { emulate_block_sync(); }
DEVICE void multipliers_sync(void) { emulate_multipliers_sync(512); }
DEVICE void four_warps_sync(int i) { emulate_four_warps_sync(i); }
DEVICE void meeting_arrive(int meeting) { emulate_meeting(meeting, 0); }
DEVICE void meeting_wait(int meeting) { emulate_meeting(meeting, 1); }
template <int N> DEVICE void registers_more(void) {}
template <int N> DEVICE void registers_less(void) {}
template <typename T> DEVICE T *global(T *p) { return p; }
DEVICE void prefetch(const void *) {}

// Operands of all lanes of a matrix instruction: a 0..3, b 4..5.
DEVICE const uint32_t *mma_operands(uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    uint32_t mine[6] = {a0, a1, a2, a3, b0, b1};
    return emulate_exchange(mine, 6);
}
DEVICE void mma_half(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    const uint32_t *all = mma_operands(a0, a1, a2, a3, b0, b1);
    int g = lane_id() / 4, own = lane_id() % 4;
    for (int e = 0; e < 4; e++) {
        int column = 2 * own + e % 2;
        double sum = c[e];
        for (int k = 0; k < 16; k++) {
            uint32_t a = all[16 * (4 * g + k % 8 / 2) + e / 2 + k / 8 * 2];
            uint32_t b = all[16 * (4 * column + k % 8 / 2) + 4 + k / 8];
            sum += (double)half_float(a >> 16 * (k % 2)) * half_float(b >> 16 * (k % 2));
        }
        c[e] = (float)sum;
    }
}
DEVICE void mma_bytes(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
    const uint32_t *all = mma_operands(a0, a1, a2, a3, b0, b1);
    int g = lane_id() / 4, own = lane_id() % 4;
    for (int e = 0; e < 4; e++) {
        int column = 2 * own + e % 2;
        for (int k = 0; k < 32; k++) {
            uint32_t a = all[16 * (4 * g + k % 16 / 4) + e / 2 + k / 16 * 2];
            uint32_t b = all[16 * (4 * column + k % 16 / 4) + 4 + k / 16];
            c[e] += (int32_t)(uint8_t)(a >> 8 * (k % 4)) * (int8_t)(b >> 8 * (k % 4));
        }
    }
}
DEVICE void load_rows(uint32_t r[4], const void *row, int transposed)
{
    uint32_t mine[4];
    assert((uintptr_t)row % 16 == 0);
    memcpy(mine, row, 16);
    const uint32_t *all = emulate_exchange(mine, 4);
    int g = lane_id() / 4, c = lane_id() % 4;
    for (int m = 0; m < 4; m++) {
        if (!transposed) {
            r[m] = all[16 * (8 * m + g) + c];
        } else {
            uint32_t low = all[16 * (8 * m + 2 * c) + g / 2] >> 16 * (g % 2) & 0xffff;
            uint32_t high = all[16 * (8 * m + 2 * c + 1) + g / 2] >> 16 * (g % 2) & 0xffff;
            r[m] = high << 16 | low;
        }
    }
}
DEVICE void load_matrices(uint32_t r[4], const void *row) { load_rows(r, row, 0); }
DEVICE void load_matrices_transposed(uint32_t r[4], const void *row) { load_rows(r, row, 1); }

DEVICE uint8_t *shared_memory(void) { return emulate_shared(); }
DEVICE uint32_t shared_address(const void *p) { return (uint32_t)((const uint8_t *)p - emulate_shared()) + 1024; }
DEVICE void copy_start(void *to, const void *from, int real) { emulate_copy(to, from, real); }
DEVICE void copy_commit(void) { emulate_commit(); }
template <int N> DEVICE void copy_wait(void) { emulate_copy_wait(N); }
DEVICE uint4 load_weights(const uint4 *p) { return *p; }
DEVICE float4 load_fresh(const float *p) { return *(const float4 *)p; }
DEVICE float2 load_fresh2(const float *p) { return *(const float2 *)p; }
DEVICE float load_fresh1(const float *p) { return *p; }
DEVICE uint64_t load_fresh64(const uint64_t *p) { return *p; }
DEVICE void load_fresh4(const uint64_t *p, uint64_t v[4])
{
    assert((uintptr_t)p % 32 == 0);
    memcpy(v, p, 32);
}
DEVICE int atomic_add(int32_t *p, int32_t v) { int old = *p; *p += v; return old; }
DEVICE void shared_add(int32_t *p, int32_t v) { *p += v; }
DEVICE void shared_add64(uint64_t *p, uint64_t v) { *p += v; }
DEVICE void atomic_add64(uint64_t *p, uint64_t v)
{
    emulate_global(p);
    *p += v;
}
DEVICE void memory_fence(void) {}
DEVICE int dynamic_shared_bytes(void) { return emulate_shared_bytes(); }
DEVICE void barrier_init(uint64_t *barrier, int arrivals) { emulate_barrier_init(barrier, arrivals); }
DEVICE void barrier_init_done(void) {}
DEVICE void barrier_arrive(uint64_t *barrier) { emulate_barrier_arrive(barrier, 0, emulate_rank()); }
DEVICE void barrier_wait(uint64_t *barrier, int parity) { emulate_barrier_wait(barrier, parity); }
#define COPY_ARRIVALS 1
DEVICE void copy_weights(uint8_t *to, const uint8_t *from, int bytes, uint64_t *barrier)
{
    if (lane_id() == 0) emulate_bulk(to, from, bytes, barrier, 0);
}
DEVICE void copy_weights_begin(int bytes, uint64_t *barrier)
{
    if (lane_id() == 0) emulate_barrier_arrive(barrier, bytes, emulate_rank());
}
DEVICE void copy_weights_end(uint64_t *) {}
DEVICE void shared_written(void) {}
DEVICE void global_written(void) {}
DEVICE uint64_t nanoseconds(void) { return 0; }
DEVICE void count_release(int32_t *count) { ++*count; }
DEVICE void wait_count(const int32_t *count, int most)
{
    while (*(volatile const int32_t *)count < most) emulate_yield();
}
DEVICE void grid_wait(void) {}
DEVICE void grid_release(void) {}
