// The chip, what only sm_90a has: matrix instructions of a warpgroup (four warps, 128 threads) that
// run in the background and read their second operand from shared memory, copies to two blocks at
// once, registers moved between warps. One small function each; tests put them on the CPU.
#pragma once
#include "kernels/cuda/common.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define WGMMA 1
#define CLUSTER_OF_2 __cluster_dims__(2, 1, 1)
#else
#define WGMMA 0
#endif

#if WGMMA

// --- barriers that count bytes as well, and copies to both blocks of a cluster --------------------

// Arrives, and has the phase wait for that many copied bytes as well.
DEVICE void barrier_expect(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

// Arrives at the barrier of the same place in block `rank` of the cluster.
DEVICE void barrier_arrive(uint64_t *barrier, int rank)
{
    asm volatile("{\n"
                 ".reg .b32 there;\n"
                 "mapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
                 "}" ::"r"(shared_address(barrier)),
                 "r"(rank)
                 : "memory");
}

// Copies to this block, or to the same place in both blocks of the cluster, where each one's
// barrier counts the bytes. 16-byte multiples.
DEVICE void bulk_copy(void *to, const void *from, int bytes, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

DEVICE void bulk_copy_both(void *to, const void *from, int bytes, uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier)), "h"((uint16_t)3)
                 : "memory");
}

// --- blocks and warps ----------------------------------------------------------------------------

DEVICE int cluster_rank(void)
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

// All threads of both blocks.
DEVICE void cluster_sync(void)
{
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}

// The first 256 threads of the block.
DEVICE void consumers_sync(void)
{
    asm volatile("bar.sync 1, 256;" ::: "memory");
}

// --- matrix instructions -------------------------------------------------------------------------

// Describes B in shared memory: rows of 64 halves of k, one row a column of B, in groups of 8 rows
// and 1024 bytes, aligned to that; the 16-byte parts of row r stand at places part ^ r % 8. Plus 2:
// the next 16 of k.
DEVICE uint64_t matrix_descriptor(const void *shared)
{
    return (uint64_t)(64 | 1u << 30) << 32 | 1u << 16 | (shared_address(shared) & 0x3ffff) >> 4;
}

// The same for B without a swizzle: matrices of eight columns by 16 bytes of k, each 128 bytes one
// column after the other, `k_bytes` to the next of k and `column_bytes` to the next eight columns;
// all of it multiples of 16.
DEVICE uint64_t matrix_descriptor(const void *shared, int k_bytes, int column_bytes)
{
    return (uint64_t)(column_bytes >> 4) << 32 | (uint64_t)(k_bytes >> 4) << 16 |
           (shared_address(shared) & 0x3ffff) >> 4;
}

// Between any other use of the registers of wgmma and the next wgmma.
DEVICE void wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes a group of wgmmas.
DEVICE void wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits until at most N groups are under way.
template <int N> DEVICE void wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// c += A B for 64 rows, N columns, 16 of k, in the background. Warp w of the warpgroup has rows
// 16 w .. of A and c, as mma_half has them; c[4 j ..] are the columns 8 j .. of its c.
template <int N>
DEVICE void wgmma(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b);

#define WGMMA_4(c) "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])
#define WGMMA_16(c) WGMMA_4(c), WGMMA_4((c) + 4), WGMMA_4((c) + 8), WGMMA_4((c) + 12)
#define WGMMA_32(c) WGMMA_16(c), WGMMA_16((c) + 16)

// After the wait for the last wgmma into N numbers: they are read from here on, not before.
template <int N> DEVICE void wgmma_results(float *c)
{
#pragma unroll
    for (int i = 0; i < N; i += 32) asm volatile("" : WGMMA_32(c + i)::"memory");
}

template <> DEVICE void wgmma<128>(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
                 "{%64,%65,%66,%67}, %68, 1, 1, 1, 0;"
                 : WGMMA_32(c), WGMMA_32(c + 32)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

template <> DEVICE void wgmma<256>(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
                 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
                 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
                 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,"
                 "%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127}, "
                 "{%128,%129,%130,%131}, %132, 1, 1, 1, 0;"
                 : WGMMA_32(c), WGMMA_32(c + 32), WGMMA_32(c + 64), WGMMA_32(c + 96)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

// The same for bytes, of A unsigned, of B signed: 32 of k.
template <int N>
DEVICE void wgmma_bytes(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b);

#define WGMMA_BYTES_4(c) "+r"((c)[0]), "+r"((c)[1]), "+r"((c)[2]), "+r"((c)[3])
#define WGMMA_BYTES_16(c)                                                                          \
    WGMMA_BYTES_4(c), WGMMA_BYTES_4((c) + 4), WGMMA_BYTES_4((c) + 8), WGMMA_BYTES_4((c) + 12)

template <int N> DEVICE void wgmma_results(int32_t *c)
{
#pragma unroll
    for (int i = 0; i < N; i += 4) asm volatile("" : WGMMA_BYTES_4(c + i)::"memory");
}

template <> DEVICE void wgmma_bytes<16>(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                   uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9,%10,%11}, %12, 1;"
                 : WGMMA_BYTES_4(c), WGMMA_BYTES_4(c + 4)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

template <> DEVICE void wgmma_bytes<32>(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                   uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.s8 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, "
                 "{%16,%17,%18,%19}, %20, 1;"
                 : WGMMA_BYTES_16(c)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

template <> DEVICE void wgmma_bytes<64>(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                   uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
                 "{%32,%33,%34,%35}, %36, 1;"
                 : WGMMA_BYTES_16(c), WGMMA_BYTES_16(c + 16)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

#endif
