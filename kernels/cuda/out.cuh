// out and down: x += linear(input) + bias, and the sums of squares of the new x. Where a norm comes
// before the sum (POST), the product goes to y, and add_normed adds it. out_gated: the input is
// attention's values times their gates. Products of other widths (OUT) go to y, too.
#pragma once
#include "kernels/cuda/wide.cuh"

// Adds a row's outputs of one column block to x, or leaves them in y (rows, OUT), by a whole warp.
template <bool POST, int OUT>
DEVICE void put_product(const State &s, float *y, int row, int block, float v[4])
{
    float x[4];
    if (POST) {
        store4<OUT>(y + (uint64_t)row * OUT, block * BLOCK + 4 * (threadIdx.x % WARP), v);
        return;
    }
    load4<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * (threadIdx.x % WARP), x);
    for (int i = 0; i < 4; i++) v[i] = v[i] * RESIDUAL_SCALE + x[i];
    store_x(s, s.x, row, block, v);
}

// x += the norm of y. Grid: rows.
DEVICE void add_normed(const State &s, uint64_t norm)
{
    __shared__ float sums[PREFILL_THREADS / WARP];
    int row = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float *weights = (const float *)(s.weights + norm);
    const float *y = s.y + (uint64_t)row * DIM;
    grid_release();
    grid_wait();
    float sum = 0;
    for (int k = threadIdx.x; k < DIM; k += PREFILL_THREADS) sum += y[k] * y[k];
    sum = warp_sum(sum);
    if (lane == 0) sums[warp] = sum;
    block_sync();
    sum = 0;
    for (int i = 0; i < PREFILL_THREADS / WARP; i++) sum += sums[i];
    float factor = RESIDUAL_SCALE / sqrtf(sum / DIM + NORM_EPS);
    for (int block = warp; block < BLOCKS(DIM); block += PREFILL_THREADS / WARP) {
        float v[4], x[4], weight[4];
        load4<DIM>(y, block * BLOCK + 4 * lane, v);
        load4<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * lane, x);
        load4<DIM>(weights, block * BLOCK + 4 * lane, weight);
        for (int i = 0; i < 4; i++) v[i] = x[i] + v[i] * factor * weight[i];
        store_x(s, s.x, row, block, v);
    }
}

// Grid: rows. Of the IN channels that rows have room for, `in` are there, as below.
template <int FORMAT, int IN>
DEVICE void out_prepare(const State &s, const Batch &b, const Linear *linear, const float *input,
                        int in = IN)
{
    grid_release();
    grid_wait();
    prepare<IN, 1, FORMAT_IS_EXL3(FORMAT)>(s, linear, plain_source(input), blockIdx.x, b.rows, in);
}

// The values of a row in place, then as out_prepare. Grid: rows.
template <int FORMAT>
DEVICE void out_gated_prepare(const State &s, const Batch &b, const Linear *linear)
{
    float *a = s.a + (uint64_t)blockIdx.x * Q_DIM, *gate = s.y + (uint64_t)blockIdx.x * Q_DIM;
    grid_release();
    grid_wait();
    for (int i = threadIdx.x; i < Q_DIM; i += PREFILL_THREADS) a[i] *= gate[i];
    block_sync();
    prepare<Q_DIM, 1, FORMAT_IS_EXL3(FORMAT)>(s, linear, plain_source(s.a), blockIdx.x, b.rows);
}

#if WGMMA
template <int BITS, int FORMAT, int IN, bool POST, int OUT, typename Weights>
DEVICE void out_tile(const State &s, const Weights &weights, float *y, Ring *ring, const Tile &t,
                     int rows, int in = IN)
{
    float sums[WIDE_ROWS / 2];
    multiply_tile<BITS, FORMAT, FORMAT, FORMAT, IN>(ring, 0, t.rows, sums, in);
    const Linear w = linear_of(weights);
    constexpr bool EXL3 = FORMAT_IS_EXL3(FORMAT);
    if (EXL3) hadamard_stage(sums);
    Columns columns = columns_of(s, w, t.block, EXL3);
#pragma unroll
    for (int part = 0; part < WIDE_PARTS; part++) {
        if (part * WIDE_PART_ROWS >= t.rows) break;
        int count = part_rows(t, part), first = t.first + part * WIDE_PART_ROWS;
        float scale[2], x[2][16];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            uint64_t row = readable_row(t, part, u);
            scale[u] = prepared_scale(s, 0, rows)[row];
            if (!POST) load_columns<DIM>(s.x + row * DIM, t.block, x[u]);
        }
        const float *tile = tile_part(ring, sums, part);
#pragma unroll
        for (int u = 0; u < 2; u++) {
            float v[16];
            bool real[16];
            finish_row(tile, own_row(u), scale[u], s, w, t.block, columns, EXL3, v);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                if (!POST) v[i] = v[i] * RESIDUAL_SCALE + x[u][i];
                real[i] = t.block * BLOCK + own_column(i / 4) + i % 4 < OUT;
            }
            uint64_t row = first + own_row(u);
            if (own_row(u) < count) store_columns<OUT>((POST ? y : s.x) + row * OUT, t.block, v);
            if (!POST)
                put_moments<8, 16>(row_squares(s, row), t.block, v, real, own_row(u) < count);
        }
    }
}

// Grid: clusters of two blocks.
template <int FORMAT, int IN, bool POST, int OUT>
DEVICE void out_prefill(const State &s, const Batch &b, const Linear *linear, float *y,
                        int tile_rows, int in = IN)
{
    static_assert(POST || OUT == DIM, "x has DIM columns");
    constexpr int BITS = FORMAT_BITS(FORMAT), PAIRS = PAIRS(OUT);
    const Linear w = *linear;
    int tiles = (b.rows + tile_rows - 1) / tile_rows;
    Ring ring;
    ring_open<BITS>(&ring);
    grid_release();
    grid_wait();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < tiles * PAIRS; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(OUT), b.rows, tile_rows);
            ring_fill<BITS, IN>(&ring, s, w.weights, BITS, t, prepared<IN>(s, 0, b.rows), b.rows,
                                in);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < tiles * PAIRS; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(OUT), b.rows, tile_rows);
            out_tile<BITS, FORMAT, IN, POST, OUT>(s, w, y, &ring, t, b.rows, in);
        }
    }
    ring_close();
}
#else
// A tile of `rows` rows from prepared row `first` of `all` on.
template <int FORMAT, int IN, bool POST, int OUT>
DEVICE void out_tile(const State &s, const Linear &w, float *y, int block, int first, int rows,
                     int all, int in = IN)
{
    const float *tile = gemm_tile<FORMAT, IN>(
        s, w, block, prepared<IN>(s, 0, all) + (uint64_t)first * PADDED(IN), rows, in);
    for (int r = threadIdx.x / WARP; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, all)[first + r], v);
        finish_columns(s, w, block, v);
        put_product<POST, OUT>(s, y, first + r, block, v);
    }
}

// Grid: (tiles of rows, column blocks).
template <int FORMAT, int IN, bool POST, int OUT>
DEVICE void out_prefill(const State &s, const Batch &b, const Linear *linear, float *y, int,
                        int in = IN)
{
    static_assert(POST || OUT == DIM, "x has DIM columns");
    const Linear w = *linear;
    int first = blockIdx.x * TILE_ROWS;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    grid_release();
    grid_wait();
    out_tile<FORMAT, IN, POST, OUT>(s, w, y, blockIdx.y, first, rows, b.rows, in);
}
#endif
