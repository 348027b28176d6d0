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
            barrier_init(r->empty + i, 2 * PREFILL_THREADS / WARP); // the warps of both blocks
        }
        barrier_init_done();
    }
    cluster_sync();
}

// The two sides of the ring: a thread knows its own by this, and begins it with one of the two
// below. A thread starts with 168 registers; a multiprocessor has 65536.
DEVICE bool fills_ring(void)
{
    return threadIdx.x >= PREFILL_THREADS;
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
// layer, for `rows` rows. Of IN channels `in` are there.
template <int BITS, int IN>
DEVICE void ring_fill(Ring *r, const State &s, uint64_t weights, int bits, const Tile &t,
                      const uint16_t *activations, int rows, int in = IN)
{
    if (threadIdx.x != PREFILL_THREADS) return;
    int groups = ROWS_UP(t.rows) / 8, half = (groups + 1) / 2;
    int own = cluster_rank() ? groups - half : half, skip = cluster_rank() ? half * 1024 : 0;
    const uint8_t *weight = s.weights + weights + (uint64_t)t.block * COLUMN_BLOCK_BYTES(bits, in);
    const uint8_t *activation = (const uint8_t *)activations + t.first * 128 + skip;
    uint64_t step_bytes = (uint64_t)ROWS_UP(rows) * 128;
#pragma unroll 1
    for (int step = 0; step < PADDED(in) / PASS_ROWS; step++) {
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

// Starts the products of the next stage, the only ones of a group.
template <int BITS, int N>
DEVICE void stage_multiply(const Ring *r, const uint32_t pair[16], float *sums)
{
    uint64_t b = matrix_descriptor(ring_stage<BITS>(r));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; i++)
        wgmma<N>(sums, pair[4 * i], pair[4 * i + 2], pair[4 * i + 1], pair[4 * i + 3], b + 2 * i);
    wgmma_commit();
}

// Tells the copying threads of both blocks that this warp is done with a stage.
DEVICE void stage_release(const Ring *r, int stage)
{
    int lane = threadIdx.x % WARP;
    if (lane < 2) barrier_arrive(r->empty + stage, lane);
}

template <int BITS, int A, int B, int C, int N>
DEVICE void multiply_rows(Ring *r, int which, int in, float *sums)
{
    const int steps = PADDED(in) / PASS_ROWS; // even
    uint32_t even[16], odd[16];
    int before = 0;
    stage_decode<BITS, A, B, C>(r, which, even);
#pragma unroll 1
    for (int step = 0; step < steps; step += 2) {
        stage_multiply<BITS, N>(r, even, sums);
        wgmma_wait<1>();
        if (step) stage_release(r, before);
        before = r->stage;
        ring_next<BITS>(r);
        stage_decode<BITS, A, B, C>(r, which, odd);

        stage_multiply<BITS, N>(r, odd, sums);
        wgmma_wait<1>();
        stage_release(r, before);
        before = r->stage;
        ring_next<BITS>(r);
        if (step + 2 < steps) stage_decode<BITS, A, B, C>(r, which, even);
    }
    wgmma_wait<0>();
    wgmma_results<N / 2>(sums);
    stage_release(r, before);
}

// The product of a tile of linear layer `which`: this warp's 16 columns by up to 256 rows, as wgmma
// leaves them.
template <int BITS, int A, int B, int C, int IN>
DEVICE void multiply_tile(Ring *r, int which, int rows, float sums[WIDE_ROWS / 2], int in = IN)
{
#pragma unroll
    for (int i = 0; i < WIDE_ROWS / 2; i++) sums[i] = 0;
    if (rows > WIDE_ROWS / 2)
        multiply_rows<BITS, A, B, C, WIDE_ROWS>(r, which, in, sums);
    else
        multiply_rows<BITS, A, B, C, WIDE_ROWS / 2>(r, which, in, sums);
}

// --- finishing -----------------------------------------------------------------------------------
// A tile is finished in parts of 64 rows: the sums go to shared memory, and each warp takes 8 rows,
// two for each 8 lanes: lane 8 s + p has columns 32 q + 4 p + i of rows s and s + 4 in v[4 q + i].

DEVICE int own_row(int u)
{
    return threadIdx.x / WARP * 8 + 4 * u + threadIdx.x % WARP / 8;
}

// Rows of a part to finish; none where the tile is not real.
DEVICE int part_rows(const Tile &t, int part)
{
    int left = t.rows - part * WIDE_PART_ROWS;
    return !t.real ? 0 : left < WIDE_PART_ROWS ? left : WIDE_PART_ROWS;
}

// The row of the batch for own_row(u) of a part, or the tile's last one.
DEVICE int readable_row(const Tile &t, int part, int u)
{
    int row = part * WIDE_PART_ROWS + own_row(u);
    return t.first + (row < t.rows ? row : t.rows - 1);
}

DEVICE int own_column(int q)
{
    return 32 * q + 4 * (threadIdx.x % 8);
}

// The stage of the Hadamard transform that adds and subtracts columns 8 apart.
DEVICE void hadamard_stage(float sums[WIDE_ROWS / 2])
{
#pragma unroll
    for (int i = 0; i < WIDE_ROWS / 2; i++)
        if (!(i & 2)) {
            float low = sums[i], high = sums[i + 2];
            sums[i] = low + high, sums[i + 2] = low - high;
        }
}

// Lays the rows of a part down as (64, TILE_STRIDE) floats, in sync.
DEVICE float *tile_part(const Ring *r, const float sums[WIDE_ROWS / 2], int part)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *to = r->part + 2 * (lane % 4) * TILE_STRIDE + 16 * warp + lane / 4;
    consumers_sync(); // the part before is read
#pragma unroll
    for (int p = 0; p < WIDE_PARTS; p++)
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

// What a lane's columns of a tile are multiplied with, read before the tile is there.
typedef struct {
    uint2 svh[4]; // pairs of halves
} Columns;

DEVICE Columns columns_of(const State &s, const Linear &w, int block, bool exl3)
{
    Columns c;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        c.svh[q] = make_uint2(0x3c003c00u, 0x3c003c00u);
        if (exl3)
            c.svh[q] = *(const uint2 *)((const uint16_t *)(s.weights + w.svh) + block * BLOCK +
                                        own_column(q));
    }
    return c;
}

// The outputs of a row: its scale, the Hadamard transform after hadamard_stage, svh, bias.
DEVICE void finish_row(const float *tile, int row, float scale, const State &s, const Linear &w,
                       int block, const Columns &c, bool exl3, float v[16])
{
    if (exl3) scale *= HADAMARD_SCALE;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        float4 t = *(const float4 *)(tile + row * TILE_STRIDE + own_column(q));
        v[4 * q] = t.x * scale, v[4 * q + 1] = t.y * scale;
        v[4 * q + 2] = t.z * scale, v[4 * q + 3] = t.w * scale;
    }
    if (exl3) {
#pragma unroll
        for (int step = 1; step < 16; step *= 2)
#pragma unroll
            for (int i = 0; i < 16; i++)
                if (!(i & step)) {
                    float a = v[i], b = v[i + step];
                    v[i] = a + b, v[i + step] = a - b;
                }
#pragma unroll
        for (int bit = 1; bit < 8; bit *= 4) { // columns 4 and 16 apart
            float sign = threadIdx.x & bit ? -1.0f : 1.0f;
#pragma unroll
            for (int i = 0; i < 16; i++) v[i] = fmaf(v[i], sign, shuffle_xor(v[i], bit));
        }
    }
#pragma unroll
    for (int q = 0; q < 4; q++) {
        v[4 * q] *= half_float(c.svh[q].x & 0xffff), v[4 * q + 1] *= half_float(c.svh[q].x >> 16);
        v[4 * q + 2] *= half_float(c.svh[q].y & 0xffff);
        v[4 * q + 3] *= half_float(c.svh[q].y >> 16);
        if (w.bias) {
            float4 t = *(const float4 *)(s.weights + w.bias +
                                         4 * (uint64_t)(block * BLOCK + own_column(q)));
            v[4 * q] += t.x, v[4 * q + 1] += t.y, v[4 * q + 2] += t.z, v[4 * q + 3] += t.w;
        }
    }
}

// A lane's columns of block `block` of a vector of N.
template <int N> DEVICE void load_columns(const float *p, int block, float v[16])
{
#pragma unroll
    for (int q = 0; q < 4; q++) load4<N>(p, block * BLOCK + own_column(q), v + 4 * q);
}

template <int N> DEVICE void store_columns(float *p, int block, const float v[16])
{
#pragma unroll
    for (int q = 0; q < 4; q++) store4<N>(p, block * BLOCK + own_column(q), v + 4 * q);
}

#endif
