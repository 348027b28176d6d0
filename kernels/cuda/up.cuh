// up: h = silu(gate) * up of rmsnorm(x).
#pragma once
#include "kernels/cuda/gemm.cuh"

DEVICE float silu(float v)
{
    return v / (1 + expf(-v));
}

template <int FORMAT>
DEVICE void up_unit(const State &s, const Batch &b, const Layer *layer, const Linear &w, int unit,
                    int group, float *partial)
{
    linear_unit<FORMAT, DIM>(s, w, normed_source(s, layer->ffn_norm, nullptr),
                             unit / SLICES(FORMAT, DIM), unit % SLICES(FORMAT, DIM), b.rows, group,
                             partial);
}

// Grid: the units of gate, then those of up. Both of a column block arrive at one counter.
template <int GATE, int UP>
DEVICE void up(const State &s, const Batch &b, const Layer *layer, int group)
{
    constexpr int GATES = SLICES(GATE, DIM), UPS = SLICES(UP, DIM);
    constexpr int GATE_UNITS = BLOCKS(FFN_DIM) * GATES;
    const bool gate = blockIdx.x < GATE_UNITS;
    const Linear w = gate ? layer->gate : layer->up;
    int unit = gate ? blockIdx.x : blockIdx.x - GATE_UNITS, block = unit / (gate ? GATES : UPS);
    float *partial = work_at<float>(s, work_of(s).large);
    uint64_t unit_floats = (uint64_t)b.rows * BLOCK;
    float *own = partial + blockIdx.x * unit_floats;
    if constexpr (GATE == UP) {
        up_unit<UP>(s, b, layer, w, unit, group, own);
    } else {
        if (gate)
            up_unit<GATE>(s, b, layer, w, unit, group, own);
        else
            up_unit<UP>(s, b, layer, w, unit, group, own);
    }
    if (!last_arrival(work_at<int32_t>(s, work_of(s).counters) + block, GATES + UPS)) return;
    const Linear gate_linear = layer->gate, up_linear = layer->up;
    int lane = threadIdx.x % WARP;
    for (int row = threadIdx.x / WARP; row < b.rows; row += DECODE_THREADS / WARP) {
        float v[4], y[4];
        add_slices(partial + (uint64_t)block * GATES * unit_floats, GATES, b.rows, row, v);
        add_slices(partial + (GATE_UNITS + (uint64_t)block * UPS) * unit_floats, UPS, b.rows, row,
                   y);
        finish_columns<GATE>(s, gate_linear, block, v);
        finish_columns<UP>(s, up_linear, block, y);
        for (int i = 0; i < 4; i++) v[i] = silu(v[i]) * y[i];
        store4<FFN_DIM>(s.h + (uint64_t)row * FFN_DIM, block * BLOCK + 4 * lane, v);
    }
}

// Grid: (rows, 2).
template <int GATE, int UP>
DEVICE void up_prepare(const State &s, const Batch &b, const Layer *layer)
{
    grid_release();
    grid_wait();
    Source from = normed_source(s, layer->ffn_norm, nullptr);
    int which = blockIdx.y, format = which ? UP : GATE;
    const Linear &w = which ? layer->up : layer->gate;
    if (FORMAT_IS_EXL3(format))
        prepare<m1, DIM>(s, w, from, which, blockIdx.x, b.rows);
    else
        prepare<f16, DIM>(s, w, from, which, blockIdx.x, b.rows);
}

// Grid: (tiles of rows, column blocks). Gate first, its activation through h; the same lane then
// multiplies it with up.
template <int GATE, int UP>
DEVICE void up_prefill(const State &s, const Batch &b, const Layer *layer)
{
    const Linear gate_linear = layer->gate, up_linear = layer->up;
    int first = blockIdx.x * TILE_ROWS, block = blockIdx.y, warp = threadIdx.x / WARP;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    int column = block * BLOCK + 4 * (threadIdx.x % WARP);
    grid_release();
    grid_wait();
    const float *tile = gemm_tile<GATE, DIM>(
        s, gate_linear, block, prepared<DIM>(s, 0, b.rows) + (uint64_t)first * PADDED(DIM), rows);
    for (int r = warp; r < rows; r += DECODE_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, b.rows)[first + r], v);
        finish_columns<GATE>(s, gate_linear, block, v);
        for (int i = 0; i < 4; i++) v[i] = silu(v[i]);
        store4<FFN_DIM>(s.h + (uint64_t)(first + r) * FFN_DIM, column, v);
    }
    block_sync();
    tile = gemm_tile<UP, DIM>(s, up_linear, block,
                              prepared<DIM>(s, 1, b.rows) + (uint64_t)first * PADDED(DIM), rows);
    for (int r = warp; r < rows; r += DECODE_THREADS / WARP) {
        float v[4], h[4];
        tile_row(tile, r, prepared_scale(s, 1, b.rows)[first + r], v);
        finish_columns<UP>(s, up_linear, block, v);
        load4<FFN_DIM>(s.h + (uint64_t)(first + r) * FFN_DIM, column, h);
        for (int i = 0; i < 4; i++) v[i] *= h[i];
        store4<FFN_DIM>(s.h + (uint64_t)(first + r) * FFN_DIM, column, v);
    }
}
