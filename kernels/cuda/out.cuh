// out and down: x += linear(input) + bias, and the sums of squares of the new x.
#pragma once
#include "kernels/cuda/gemm.cuh"

// Adds a row's outputs of one column block to x, by a whole warp.
DEVICE void add_to_x(const State &s, int row, int block, float v[4])
{
    float x[4];
    load4<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * (threadIdx.x % WARP), x);
    for (int i = 0; i < 4; i++) v[i] += x[i];
    store_x(s, row, block, v);
}

// Grid: column blocks times slices.
template <int FORMAT, int IN>
DEVICE void out(const State &s, const Batch &b, const Linear *linear, const float *input, int group)
{
    constexpr int COUNT = SLICES(FORMAT, IN);
    const Linear w = *linear;
    int block = blockIdx.x / COUNT, slice = blockIdx.x % COUNT;
    float *partial = work_at<float>(s, work_of(s).large);
    uint64_t unit_floats = (uint64_t)b.rows * BLOCK;
    linear_unit<FORMAT, IN>(s, w, plain_source(input), block, slice, b.rows, group,
                            partial + blockIdx.x * unit_floats);
    if (!last_arrival(work_at<int32_t>(s, work_of(s).counters) + block, COUNT)) return;
    partial += block * COUNT * unit_floats;
    for (int row = threadIdx.x / WARP; row < b.rows; row += DECODE_THREADS / WARP) {
        float v[4];
        add_slices(partial, COUNT, b.rows, row, v);
        finish_columns<FORMAT>(s, w, block, v);
        add_to_x(s, row, block, v);
    }
}

// Grid: rows.
template <int FORMAT, int IN>
DEVICE void out_prepare(const State &s, const Batch &b, const Linear *linear, const float *input)
{
    grid_release();
    grid_wait();
    prepare<FORMAT_IS_EXL3(FORMAT) ? m1 : f16, IN>(s, *linear, plain_source(input), 0, blockIdx.x,
                                                   b.rows);
}

// Grid: (tiles of rows, column blocks).
template <int FORMAT, int IN>
DEVICE void out_prefill(const State &s, const Batch &b, const Linear *linear)
{
    const Linear w = *linear;
    int first = blockIdx.x * TILE_ROWS, block = blockIdx.y;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    grid_release();
    grid_wait();
    const float *tile = gemm_tile<FORMAT, IN>(
        s, w, block, prepared<IN>(s, 0, b.rows) + (uint64_t)first * PADDED(IN), rows);
    for (int r = threadIdx.x / WARP; r < rows; r += DECODE_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, b.rows)[first + r], v);
        finish_columns<FORMAT>(s, w, block, v);
        add_to_x(s, first + r, block, v);
    }
}
