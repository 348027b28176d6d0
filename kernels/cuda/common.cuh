// The chip: every PTX instruction and compiler builtin the kernels use, one small function each.
// Everything else under kernels/cuda is plain C++ over these, so that a test can put this file's
// functions on the CPU (tests/kernels/cuda/emulate.h) and run the kernels without a GPU.
// No toolkit header: 16-bit floats are uint16_t, pairs of them uint32_t.
#pragma once
#include "kernels/types.h"

#define DEVICE __device__ __forceinline__
#define FUNCTION __device__ __noinline__ // with registers of its own
#define KERNEL extern "C" __global__ void
#define WARP 32
#define EVERY_LANE 0xffffffffu

// --- 16-bit floats -------------------------------------------------------------------------------

DEVICE float half_float(uint16_t h)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

DEVICE uint16_t float_half(float f)
{
    uint16_t h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

DEVICE uint32_t pack_half(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

DEVICE int count_bits(uint32_t v)
{
    return __popc(v);
}

DEVICE float bits_float(uint32_t bits)
{
    return __uint_as_float(bits);
}

DEVICE uint32_t float_bits(float f)
{
    return __float_as_uint(f);
}

// To two units in the last place.
DEVICE float divide_fast(float a, float b)
{
    return __fdividef(a, b);
}

// The nearest integer.
DEVICE int64_t round_float(float f)
{
    return __float2ll_rn(f);
}

DEVICE uint32_t add_half2(uint32_t a, uint32_t b)
{
    uint32_t r;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
}

DEVICE uint32_t fma_half2(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

// --- integers ------------------------------------------------------------------------------------

DEVICE uint32_t permute(uint32_t a, uint32_t b, uint32_t selector)
{
    return __byte_perm(a, b, selector);
}

// Bits [shift, shift + 32) of high:low, 0 <= shift < 32.
DEVICE uint32_t funnel(uint32_t low, uint32_t high, int shift)
{
    return __funnelshift_r(low, high, shift);
}

// c plus the sum of the four bytes of a.
DEVICE uint32_t add_bytes(uint32_t a, uint32_t c)
{
    return __dp4a(a, 0x01010101u, c);
}

// (a & mask) ^ flip in one LOP3.
template <uint32_t MASK, uint32_t FLIP> DEVICE uint32_t mask_flip(uint32_t a)
{
    uint32_t r;
    asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(r) : "r"(a), "n"(MASK), "n"(FLIP));
    return r;
}

// Powers of two that the compiler cannot see, so that a multiplication by one stays on the
// multiplier instead of becoming a shift: 1 << i, and -65536 last.
__constant__ uint32_t POWERS[18] = {1,   2,    4,    8,    16,   32,    64,    128,   256,
                                    512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 0xffff0000u};

// --- warps ---------------------------------------------------------------------------------------

DEVICE uint32_t shuffle(uint32_t v, int lane)
{
    return __shfl_sync(EVERY_LANE, v, lane);
}

DEVICE float shuffle_xor(float v, int mask)
{
    return __shfl_xor_sync(EVERY_LANE, v, mask);
}

DEVICE uint32_t shuffle_xor(uint32_t v, int mask)
{
    return __shfl_xor_sync(EVERY_LANE, v, mask);
}

DEVICE uint32_t warp_max(uint32_t v)
{
    return __reduce_max_sync(EVERY_LANE, v);
}

DEVICE uint32_t warp_add(uint32_t v)
{
    return __reduce_add_sync(EVERY_LANE, v);
}

DEVICE uint32_t warp_ballot(int predicate)
{
    return __ballot_sync(EVERY_LANE, predicate);
}

DEVICE void warp_sync(void)
{
    __syncwarp();
}

DEVICE void block_sync(void)
{
    __syncthreads();
}

// The first MULTIPLIERS threads of a block.
DEVICE void multipliers_sync(void)
{
    asm volatile("bar.sync 1, 512;" ::: "memory");
}

// The multipliers and one warp that waits for them, or for which they wait. Who arrives does not
// wait.
DEVICE void meeting_arrive(int meeting)
{
    asm volatile("bar.arrive %0, 544;" ::"r"(6 + meeting) : "memory");
}

DEVICE void meeting_wait(int meeting)
{
    asm volatile("bar.sync %0, 544;" ::"r"(6 + meeting) : "memory");
}

// Warps 4 i .. 4 i + 3 of a block, i < 4.
DEVICE void four_warps_sync(int i)
{
    asm volatile("bar.sync %0, 128;" ::"r"(2 + i) : "memory");
}

// By all warps of a group of four (on sm_90a): how many registers each thread has from here on.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
template <int N> DEVICE void registers_more(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> DEVICE void registers_less(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
#else
template <int N> DEVICE void registers_more(void) {}
template <int N> DEVICE void registers_less(void) {}
#endif

// --- matrix instructions -------------------------------------------------------------------------
// Lane 4g + c. A: a0 (g, k), a1 (g + 8, k), a2 (g, k + 8), a3 (g + 8, k + 8), two halves from
// k = 2c; B: b0 (k = 2c, column g), b1 (k = 2c + 8, column g); C: c0 c1 (g, columns 2c, 2c + 1),
// c2 c3 (g + 8, the same). For bytes read four from k = 4c, and 16 for 8.

DEVICE void mma_half(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                     uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// A holds unsigned bytes, B signed ones.
DEVICE void mma_bytes(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                      uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
                 "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

DEVICE uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

// Four 8 x 8 matrices of halves; lane i gives the address of row i % 8 of matrix i / 8. Lane 4g + c
// receives of matrix m in r[m] the elements (g, 2c), (g, 2c + 1); transposed (2c, g), (2c + 1, g).
DEVICE void load_matrices(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

DEVICE void load_matrices_transposed(uint32_t r[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

// --- memory --------------------------------------------------------------------------------------

// The dynamic shared memory of the block.
DEVICE uint8_t *shared_memory(void)
{
    extern __shared__ __align__(128) uint8_t shared[];
    return shared;
}

DEVICE int dynamic_shared_bytes(void)
{
    uint32_t bytes;
    asm volatile("mov.u32 %0, %%dynamic_smem_size;" : "=r"(bytes));
    return (int)bytes;
}

// 16 bytes from global to shared memory in the background; zeros when `real` is 0.
DEVICE void copy_start(void *to, const void *from, int real)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(real ? 16 : 0)
                 : "memory");
}

// Closes a group of this thread's copies.
DEVICE void copy_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most N groups of this thread are under way.
template <int N> DEVICE void copy_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Weights that are read once.
DEVICE uint4 load_weights(const uint4 *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// The same address, known to be in global memory. Through one that may be anywhere a load takes
// longer, and an atomic addition waits to hear whether it went to shared memory.
template <typename T> DEVICE T *global(T *p)
{
    __builtin_assume(__isGlobal(p));
    return p;
}

// Has the second-level cache read a line of 128 bytes.
DEVICE void prefetch(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// Reads of what other blocks of the same launch wrote, past the first-level cache.
DEVICE float4 load_fresh(const float *p)
{
    return __ldcg((const float4 *)global(p));
}

DEVICE float2 load_fresh2(const float *p)
{
    return __ldcg((const float2 *)global(p));
}

DEVICE float load_fresh1(const float *p)
{
    return __ldcg(global(p));
}

DEVICE uint64_t load_fresh64(const uint64_t *p)
{
    return __ldcg((const unsigned long long *)global(p));
}

// Four numbers at a multiple of 32 bytes.
DEVICE void load_fresh4(const uint64_t *p, uint64_t v[4])
{
    const ulonglong2 *from = (const ulonglong2 *)global(p);
    ulonglong2 a = __ldcg(from), b = __ldcg(from + 1);
    v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
}

DEVICE int atomic_add(int32_t *p, int32_t v)
{
    return atomicAdd(global(p), v);
}

DEVICE void shared_add(int32_t *p, int32_t v)
{
    atomicAdd(p, v);
}

DEVICE void shared_add64(uint64_t *p, uint64_t v)
{
    atomicAdd((unsigned long long *)p, v);
}

// In global memory.
DEVICE void atomic_add64(uint64_t *p, uint64_t v)
{
    // Without an answer, which atomicAdd's ATOMG brings back.
    asm volatile("red.relaxed.gpu.global.add.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

DEVICE void memory_fence(void)
{
    __threadfence();
}

// --- barriers in shared memory that count arrivals, and copies that arrive at them ---------------

DEVICE void barrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

// After barrier_init, before the threads of the block meet.
DEVICE void barrier_init_done(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

DEVICE void barrier_arrive(uint64_t *barrier)
{
    asm volatile("{\n"
                 ".reg .b64 state;\n"
                 "mbarrier.arrive.shared::cta.b64 state, [%0];\n"
                 "}" ::"r"(shared_address(barrier))
                 : "memory");
}

// Until the phase of that parity is complete.
DEVICE void barrier_wait(uint64_t *barrier, int parity)
{
#if __CUDA_ARCH__ >= 900
#define BARRIER_TRY "mbarrier.try_wait.parity.shared::cta.b64"
#else
#define BARRIER_TRY "mbarrier.test_wait.parity.shared.b64"
#endif
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n" BARRIER_TRY " done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

// Copies of weights to shared memory by a whole warp, in multiples of 16 bytes. Between begin, with
// the bytes of all, and end they are COPY_ARRIVALS arrivals at the barrier.
#if __CUDA_ARCH__ >= 900
#define COPY_ARRIVALS 1
DEVICE void copy_weights_begin(int bytes, uint64_t *barrier)
{
    if (threadIdx.x % WARP == 0)
        asm volatile(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
            "r"(bytes)
            : "memory");
}

DEVICE void copy_weights(uint8_t *to, const uint8_t *from, int bytes, uint64_t *barrier)
{
    if (threadIdx.x % WARP == 0)
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
                     "l"(from), "r"(bytes), "r"(shared_address(barrier))
                     : "memory");
}

DEVICE void copy_weights_end(uint64_t *) {}
#else
#define COPY_ARRIVALS 32
DEVICE void copy_weights_begin(int, uint64_t *) {}

DEVICE void copy_weights(uint8_t *to, const uint8_t *from, int bytes, uint64_t *)
{
    for (int i = threadIdx.x % WARP * 16; i < bytes; i += WARP * 16)
        copy_start(to + i, from + i, 1);
}

DEVICE void copy_weights_end(uint64_t *barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(barrier))
                 : "memory");
}
#endif

// Between what this thread wrote to shared memory and what reads it, or copies over it, in the
// background.
DEVICE void shared_written(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Between what this thread, or those it met, wrote to global memory and copies of it.
DEVICE void global_written(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

// --- blocks of one launch that meet --------------------------------------------------------------

// One more at *count; what this block's threads wrote before they met is visible to who sees it.
DEVICE void count_release(int32_t *count)
{
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(count) : "memory");
}

// Until *count is at least `most`.
DEVICE void wait_count(const int32_t *count, int most)
{
    // An acquiring load would empty the first-level cache every time.
    int32_t v;
    do asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(count) : "memory");
    while (v < most);
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// A clock that all multiprocessors share, in nanoseconds.
DEVICE uint64_t nanoseconds(void)
{
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
    return t;
}

// --- neighbouring launches -----------------------------------------------------------------------
// grid_wait returns when all earlier launches are complete and their writes are visible: every
// block calls it, and before it only weights and tables are read and no global memory is written.
// grid_release lets the next launch take free places; it waits in its own grid_wait.

DEVICE void grid_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEVICE void grid_release(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
