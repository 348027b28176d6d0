// The prefill form on sm_90a: tiles of 128 columns by up to 256 rows on wgmma.
//
// Weights are decoded in registers to exact fp16, the A operand; activations are B, in shared
// memory in the order the instruction wants, which `prepare` wrote. Of a block's three warpgroups
// two multiply, each 64 of the 128 columns by all rows, and one thread of the third copies: a ring
// of stages of 64 k, one barrier each for "full" and "empty". A warp decodes its 16 x 64 weights of
// the next stage while the matrix units work on this one.
//
// Two blocks make a cluster: they have neighbouring column blocks and the same rows, and each
// fetches half of the activations for both, because one block alone would ask the second-level
// cache for 36 bytes a clock. Clusters take items (a tile of rows, a pair of column blocks) in
// turn; rows go fastest, so that what runs at a time shares activations and weights.
#pragma once
#include "kernels/cuda/gemm.cuh"

#if WGMMA

typedef struct {
    uint8_t *stages;        // activations, then weights
    float *part;            // (WIDE_PART_ROWS, TILE_STRIDE)
    uint64_t *full, *empty; // barriers of the stages
    int stage, parity;      // the next stage, and of the phase that fills it
} Ring;

// Stages for weights of at most BITS bits. By all threads.
template <int BITS> DEVICE void ring_open(Ring *r)
{
    uint8_t *shared = shared_memory();
    shared += -shared_address(shared) & 1023;
    r->stages = shared;
    r->part = (float *)(shared + WIDE_STAGES(BITS) * WIDE_STAGE_BYTES(BITS));
    r->full = (uint64_t *)((uint8_t *)r->part + WIDE_PART_BYTES);
    r->empty = r->full + WIDE_STAGES(BITS);
    r->stage = r->parity = 0;
    if (threadIdx.x == 0) {
        for (int i = 0; i < WIDE_STAGES(BITS); i++) {
            barrier_init(r->full + i, 1);
            barrier_init(r->empty + i, 2 * DECODE_THREADS / WARP); // the warps of both blocks
        }
        barrier_init_done();
    }
    cluster_sync();
}

// The two sides of the ring: a thread knows its own by this, and begins it with one of the two
// below. A thread starts with 168 registers; a multiprocessor has 65536.
DEVICE bool copies(void)
{
    return threadIdx.x >= DECODE_THREADS;
}

DEVICE void begin_copying(void)
{
    registers_less<40>();
}

DEVICE void begin_multiplying(void)
{
    registers_more<232>();
}

template <int BITS> DEVICE uint8_t *ring_stage(const Ring *r)
{
    return r->stages + r->stage * WIDE_STAGE_BYTES(BITS);
}

template <int BITS> DEVICE void ring_next(Ring *r)
{
    if (++r->stage == WIDE_STAGES(BITS)) r->stage = 0, r->parity ^= 1;
}

// By all threads at the end: no block may go while the other still copies or arrives here.
DEVICE void ring_close(void)
{
    cluster_sync();
}

// --- items ---------------------------------------------------------------------------------------

typedef struct {
    int first, rows; // of the batch
    int block;       // of 128 columns
    bool real;       // false in the second block of a cluster where the blocks are odd in number
} Tile;

DEVICE int first_item(void)
{
    return blockIdx.x / 2;
}

DEVICE int next_item(int item)
{
    return item + gridDim.x / 2;
}

// The tile of this block: pair `pair` of `blocks` column blocks, tile `tile` of rows.
DEVICE Tile tile_at(int tile, int pair, int blocks, int rows, int tile_rows)
{
    Tile t;
    t.first = tile * tile_rows;
    t.rows = rows - t.first < tile_rows ? rows - t.first : tile_rows;
    t.block = 2 * pair + cluster_rank();
    t.real = t.block < blocks;
    if (!t.real) t.block--;
    return t;
}

// --- copying -------------------------------------------------------------------------------------

// All stages of one tile, by one thread of the warpgroup that calls. `activations` of this linear
// layer, for `rows` rows.
template <int BITS, int IN>
DEVICE void ring_fill(Ring *r, const State &s, uint64_t weights, int bits, const Tile &t,
                      const uint16_t *activations, int rows)
{
    if (threadIdx.x != DECODE_THREADS) return;
    int groups = ROWS_UP(t.rows) / 8, half = (groups + 1) / 2;
    int own = cluster_rank() ? groups - half : half, skip = cluster_rank() ? half * 1024 : 0;
    const uint8_t *weight =
        s.weights + weights + (uint64_t)t.block * COLUMN_BLOCK_BYTES(bits, IN);
    const uint8_t *activation = (const uint8_t *)activations + t.first * 128 + skip;
    uint64_t step_bytes = (uint64_t)ROWS_UP(rows) * 128;
#pragma unroll 1
    for (int step = 0; step < PADDED(IN) / PASS_ROWS; step++) {
        uint8_t *stage = ring_stage<BITS>(r);
        uint64_t *full = r->full + r->stage;
        barrier_wait(r->empty + r->stage, r->parity ^ 1);
        barrier_expect(full, 2 * PASS_BYTES(bits) + groups * 1024);
        bulk_copy(stage + WIDE_ACTIVATION_BYTES, weight, 2 * PASS_BYTES(bits), full);
        if (own) bulk_copy_both(stage + skip, activation, own * 1024, full);
        weight += 2 * PASS_BYTES(bits);
        activation += step_bytes;
        ring_next<BITS>(r);
    }
}

// --- multiplying ---------------------------------------------------------------------------------

// Waits for the next stage and decodes this warp's weights of it: linear layer 0, 1 or 2, of format
// A, B or C. The compiler keeps wgmma in the background in one loop a kernel only, so the formats
// branch here.
template <int BITS, int A, int B, int C>
DEVICE void stage_decode(const Ring *r, int which, uint32_t pair[16])
{
    int half = threadIdx.x / WARP / 4, tile = threadIdx.x / WARP % 4;
    const uint8_t *weights = ring_stage<BITS>(r) + WIDE_ACTIVATION_BYTES;
    barrier_wait(r->full + r->stage, r->parity);
    if ((A == B && A == C) || which == 0)
        decode_run<A>(weights + half * PASS_BYTES(FORMAT_BITS(A)), tile, pair);
    else if (B == C || which == 1)
        decode_run<B>(weights + half * PASS_BYTES(FORMAT_BITS(B)), tile, pair);
    else
        decode_run<C>(weights + half * PASS_BYTES(FORMAT_BITS(C)), tile, pair);
}

// Starts the products of the next stage, the only ones of a group; added to sums, or not.
template <int BITS, int N>
DEVICE void stage_multiply(const Ring *r, const uint32_t pair[16], float *sums, int add)
{
    uint64_t b = matrix_descriptor(ring_stage<BITS>(r));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++)
        wgmma<N>(sums, pair[4 * i], pair[4 * i + 2], pair[4 * i + 1], pair[4 * i + 3], b + 2 * i,
                 i || add);
    wgmma_commit();
}

// Tells the copying threads of both blocks that this warp is done with a stage.
DEVICE void stage_release(const Ring *r, int stage)
{
    int lane = threadIdx.x % WARP;
    if (lane < 2) barrier_arrive(r->empty + stage, lane);
}

template <int BITS, int A, int B, int C, int IN, int N>
DEVICE void multiply_rows(Ring *r, int which, float *sums)
{
    constexpr int STEPS = PADDED(IN) / PASS_ROWS; // even
    uint32_t even[16], odd[16];
    int before = 0;
    stage_decode<BITS, A, B, C>(r, which, even);
#pragma unroll 1
    for (int step = 0; step < STEPS; step += 2) {
        stage_multiply<BITS, N>(r, even, sums, step);
        wgmma_wait<1>();
        if (step) stage_release(r, before);
        before = r->stage;
        ring_next<BITS>(r);
        stage_decode<BITS, A, B, C>(r, which, odd);

        stage_multiply<BITS, N>(r, odd, sums, 1);
        wgmma_wait<1>();
        stage_release(r, before);
        before = r->stage;
        ring_next<BITS>(r);
        if (step + 2 < STEPS) stage_decode<BITS, A, B, C>(r, which, even);
    }
    wgmma_wait<0>();
    stage_release(r, before);
}

// The product of a tile of linear layer `which`: this warp's 16 columns by up to 256 rows, as wgmma
// leaves them.
template <int BITS, int A, int B, int C, int IN>
DEVICE void multiply_tile(Ring *r, int which, int rows, float sums[WIDE_ROWS / 2])
{
    if (rows > WIDE_ROWS / 2)
        multiply_rows<BITS, A, B, C, IN, WIDE_ROWS>(r, which, sums);
    else
        multiply_rows<BITS, A, B, C, IN, WIDE_ROWS / 2>(r, which, sums);
}

// Lays rows 64 * part .. + 63 of a tile down in shared memory, in sync.
DEVICE float *tile_part(const Ring *r, const float sums[WIDE_ROWS / 2], int part)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *to = r->part + 2 * (lane % 4) * TILE_STRIDE + 16 * warp + lane / 4;
    consumers_sync();
#pragma unroll
    for (int p = 0; p < WIDE_ROWS / WIDE_PART_ROWS; p++)
        if (p == part) {
#pragma unroll
            for (int j = 0; j < WIDE_PART_ROWS / 8; j++) {
                const float *from = sums + (p * (WIDE_PART_ROWS / 8) + j) * 4;
                to[8 * j * TILE_STRIDE] = from[0];
                to[(8 * j + 1) * TILE_STRIDE] = from[1];
                to[8 * j * TILE_STRIDE + 8] = from[2];
                to[(8 * j + 1) * TILE_STRIDE + 8] = from[3];
            }
        }
    consumers_sync();
    return r->part;
}

// finish_columns of linear layer 0, 1 or 2, of format A, B or C, which matters little.
template <int A, int B, int C>
DEVICE void finish_either(int which, const State &s, const Linear &w, int block, float v[4])
{
    constexpr bool a = FORMAT_IS_EXL3(A), b = FORMAT_IS_EXL3(B), c = FORMAT_IS_EXL3(C);
    if ((a && b && c) || (which == 0 ? a : which == 1 ? b : c))
        finish_columns<m1>(s, w, block, v);
    else
        finish_columns<f16>(s, w, block, v);
}

// Rows of a part; none where the tile is not real.
DEVICE int part_rows(const Tile &t, int part)
{
    int left = t.rows - part * WIDE_PART_ROWS;
    return !t.real ? 0 : left < WIDE_PART_ROWS ? left : WIDE_PART_ROWS;
}

#endif
