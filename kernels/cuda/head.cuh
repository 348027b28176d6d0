// head: logits of the output rows = linear(rmsnorm(x)), and the largest logit of every 128-column
// block, from which greedy sampling picks.
#pragma once
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/wide.cuh"

// Orders logits: the larger one, the lower id among equals, a NaN before all.
DEVICE bool better(float logit, int id, const Best &than)
{
    if (than.id < 0) return false;
    return id < 0 || logit > than.logit || (logit == than.logit && id < than.id);
}

// The best of a warp, in every lane.
DEVICE Best warp_best(Best best)
{
    for (int bit = 16; bit; bit /= 2) {
        float logit = shuffle_xor(best.logit, bit);
        int id = (int)shuffle_xor((uint32_t)best.id, bit);
        if (better(logit, id, best)) best.logit = logit, best.id = id;
    }
    return best;
}

#define NO_BEST                                                                                    \
    {                                                                                              \
        bits_float(0xff800000u), 0x7fffffff                                                        \
    }

// A row's logits 4 * lane .. + 3 of a column block, by a whole warp.
DEVICE void store_logits(const State &s, int output, int block, float v[4])
{
    int lane = threadIdx.x % WARP, column = block * BLOCK + 4 * lane;
    for (int i = 0; i < 4; i++) v[i] = softcap(v[i] * LOGIT_SCALE, LOGIT_SOFTCAP);
    Best best = NO_BEST;
    store4<VOCAB>(s.logits + (uint64_t)output * VOCAB, column, v);
    for (int i = 0; i < 4; i++) {
        int id = v[i] != v[i] ? -1 : column + i;
        if (column + i < VOCAB && better(v[i], id, best)) best.logit = v[i], best.id = id;
    }
    best = warp_best(best);
    if (lane == 0)
        work_at<Best>(s, work_of(s).best)[(uint64_t)output * BLOCKS(VOCAB) + block] = best;
}

// The logits themselves, from the sums of the decode form, which are cleared.
DEVICE void decode_logits(void)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *factors = (float *)room(); // (outputs)
    for (int output = warp; output < b.outputs; output += MULTIPLIERS / WARP) {
        const float *squares = work_at<const float>(s, work_of(s).squares);
        float factor = norm_factor<DIM>(squares, b.output[output], lane);
        if (lane == 0) factors[output] = factor;
    }
    multipliers_sync();
    for (int task = warp * gridDim.x + blockIdx.x; task < b.outputs * BLOCKS(VOCAB);
         task += MULTIPLIERS / WARP * gridDim.x) {
        int output = task / BLOCKS(VOCAB), block = task % BLOCKS(VOCAB);
        uint64_t *sums = sums_at(s, work_of(s).sums_head) + (uint64_t)output * PADDED(VOCAB);
        float v[4];
        read_sums(sums, block, factors[output], v);
        uint4 *place = (uint4 *)(sums + block * BLOCK + 4 * lane);
        place[0] = place[1] = make_uint4(0, 0, 0, 0);
        finish_columns(s, s.ends.head, block, v);
        store_logits(s, output, block, v);
    }
}

// Grid: outputs.
template <int FORMAT> DEVICE void head_prepare(const State &s, const Batch &b)
{
    grid_release();
    grid_wait();
    prepare<DIM, 1, FORMAT_IS_EXL3(FORMAT)>(
        s, &s.ends.head, normed_source(s, s.ends.norm, b.output), blockIdx.x, b.outputs);
}

#if WGMMA
template <int BITS, int FORMAT>
DEVICE void head_tile(const State &s, Ring *ring, const Tile &t, int outputs)
{
    float sums[WIDE_ROWS / 2];
    multiply_tile<BITS, FORMAT, FORMAT, FORMAT, DIM>(ring, 0, t.rows, sums);
    for (int part = 0; part * WIDE_PART_ROWS < t.rows; part++) {
        const float *tile = tile_part(ring, sums, part);
        for (int r = threadIdx.x / WARP; r < part_rows(t, part); r += PREFILL_THREADS / WARP) {
            int row = t.first + part * WIDE_PART_ROWS + r;
            float v[4];
            tile_row(tile, r, prepared_scale(s, 0, outputs)[row], v);
            finish_columns(s, s.ends.head, t.block, v);
            store_logits(s, row, t.block, v);
        }
    }
}

// Grid: clusters of two blocks.
template <int FORMAT> DEVICE void head_prefill(const State &s, const Batch &b, int tile_rows)
{
    constexpr int BITS = FORMAT_BITS(FORMAT), PAIRS = PAIRS(VOCAB);
    int tiles = (b.outputs + tile_rows - 1) / tile_rows;
    Ring ring;
    ring_open<BITS>(&ring);
    grid_release();
    grid_wait();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < tiles * PAIRS; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(VOCAB), b.outputs, tile_rows);
            ring_fill<BITS, DIM>(&ring, s, s.ends.head.weights, BITS, t,
                                 prepared<DIM>(s, 0, b.outputs), b.outputs);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < tiles * PAIRS; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(VOCAB), b.outputs, tile_rows);
            head_tile<BITS, FORMAT>(s, &ring, t, b.outputs);
        }
    }
    ring_close();
}
#else
// Grid: (tiles of outputs, column blocks).
template <int FORMAT> DEVICE void head_prefill(const State &s, const Batch &b, int)
{
    int first = blockIdx.x * TILE_ROWS, block = blockIdx.y;
    int rows = b.outputs - first < TILE_ROWS ? b.outputs - first : TILE_ROWS;
    grid_release();
    grid_wait();
    const float *tile = gemm_tile<FORMAT, DIM>(
        s, s.ends.head, block, prepared<DIM>(s, 0, b.outputs) + (uint64_t)first * PADDED(DIM),
        rows);
    for (int r = threadIdx.x / WARP; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, b.outputs)[first + r], v);
        finish_columns(s, s.ends.head, block, v);
        store_logits(s, first + r, block, v);
    }
}
#endif
