// kernels/cuda/wgmma.cuh on the CPU, beside common.cuh; with EMULATED_WGMMA=1 the kernels take their
// forms for sm_90a. Copies and matrix instructions in the background happen as late as a wait
// allows; B is read by the rules of its descriptor.
#pragma once
#include "kernels/cuda/common.cuh"

#ifndef EMULATED_WGMMA
#define EMULATED_WGMMA 0
#endif
#define WGMMA EMULATED_WGMMA
#define CLUSTER_OF_2

#if WGMMA

void emulate_cluster_sync(void);
void emulate_wgmma(void *c, int columns, int bytes, const uint32_t *quad, uint64_t b);
void emulate_wgmma_commit(void);
void emulate_wgmma_wait(int left);

DEVICE void barrier_expect(uint64_t *barrier, int bytes) { emulate_barrier_arrive(barrier, bytes, emulate_rank()); }
DEVICE void barrier_arrive(uint64_t *barrier, int rank) { emulate_barrier_arrive(barrier, 0, rank); }
DEVICE void bulk_copy(void *to, const void *from, int bytes, uint64_t *barrier) { emulate_bulk(to, from, bytes, barrier, 0); }
DEVICE void bulk_copy_both(void *to, const void *from, int bytes, uint64_t *barrier) { emulate_bulk(to, from, bytes, barrier, 1); }
DEVICE int cluster_rank(void) { return emulate_rank(); }
DEVICE void cluster_sync(void) { emulate_cluster_sync(); }
DEVICE void consumers_sync(void) { emulate_multipliers_sync(256); }

DEVICE uint64_t matrix_descriptor(const void *shared)
{
    assert(shared_address(shared) % 1024 == 0);
    return (uint64_t)(64 | 1u << 30) << 32 | 1u << 16 | (shared_address(shared) & 0x3ffff) >> 4;
}
DEVICE uint64_t matrix_descriptor(const void *shared, int k_bytes, int column_bytes)
{
    uint32_t start = shared_address(shared);
    assert(start % 16 == 0 && k_bytes % 16 == 0 && column_bytes % 16 == 0);
    return (uint64_t)(column_bytes >> 4) << 32 | (uint64_t)(k_bytes >> 4) << 16 | (start & 0x3ffff) >> 4;
}
DEVICE void wgmma_fence(void) {}
DEVICE void wgmma_commit(void) { emulate_wgmma_commit(); }
template <int N> DEVICE void wgmma_wait(void)
{
    emulate_wgmma_wait(N);
    warp_sync();
}
template <int N> DEVICE void wgmma_results(float *) {}
template <int N> DEVICE void wgmma_results(int32_t *) {}
DEVICE void wgmma_later(void *c, int columns, int bytes, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
    uint32_t mine[4] = {a0, a1, a2, a3};
    const uint32_t *all = emulate_exchange(mine, 4);
    emulate_wgmma(c, columns, bytes, all + 16 * (lane_id() / 4 * 4), b);
}
template <int N> DEVICE void wgmma(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
    wgmma_later(c, N, 0, a0, a1, a2, a3, b);
}
template <int N> DEVICE void wgmma_bytes(int32_t *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint64_t b)
{
    wgmma_later(c, N, 1, a0, a1, a2, a3, b);
}

#endif
