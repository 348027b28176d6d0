// up: h = act(gate) * lifted(up) of rmsnorm(x). up_alone: h = act(up).
#pragma once
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/wide.cuh"

DEVICE float activate(const Layer *layer, float v)
{
    if (ACTIVATION == GELU_TANH) // 0.5 + 0.5 tanh(u) is the logistic function of 2 u
        return divide_fast(v, 1 + expf(-1.5957691216f * v * (1 + 0.044715f * v * v)));
    if (ACTIVATION == RELU2) return v > 0 ? v * v : 0;
    if (ACTIVATION == XIELU) {
        if (v > 0) return layer->act[0] * v * v + 0.5f * v;
        return (expf(fminf(v, -1e-6f)) - 1 - v) * layer->act[1] + 0.5f * v;
    }
    if (ACTIVATION == CLAMPED_SILU) {
        v = v > ACT_LIMIT ? ACT_LIMIT : v;
        return divide_fast(v, 1 + expf(-1.702f * v));
    }
    return divide_fast(v, 1 + expf(-v));
}

// What gate is multiplied with.
DEVICE float lifted(float up)
{
    if (ACTIVATION != CLAMPED_SILU) return up;
    return (up > ACT_LIMIT ? ACT_LIMIT : up < -ACT_LIMIT ? -ACT_LIMIT : up) + 1;
}

// Grid: rows.
template <int GATE, int UP>
DEVICE void up_prepare(const State &s, const Batch &b, const Layer *layer, const Linear *w)
{
    grid_release();
    grid_wait();
    prepare<DIM, 2, FORMAT_IS_EXL3(GATE) | FORMAT_IS_EXL3(UP) << 1>(
        s, w, normed_source(s, layer->ffn_norm, nullptr), blockIdx.x, b.rows);
}

// A row of h (.., WIDTH): of prepared row `row`, by a map or without one the same.
template <int WIDTH> DEVICE float *active_row(const State &s, const int32_t *map, int row)
{
    return s.h + (uint64_t)(map ? map[row] : row) * WIDTH;
}

#if WGMMA
// One of the two products of a tile into h: act(gate), or h times up, by the same lane. `rows` were
// prepared.
template <int BITS, int GATE, int UP, int WIDTH, typename Weights>
DEVICE void up_tile(const State &s, const Layer *layer, const Weights &weights, int which,
                    Ring *ring, const Tile &t, int rows, const int32_t *map)
{
    float sums[WIDE_ROWS / 2];
    multiply_tile<BITS, GATE, UP, UP, DIM>(ring, which, t.rows, sums);
    const Linear w = linear_of(weights);
    const bool exl3 = which ? FORMAT_IS_EXL3(UP) : FORMAT_IS_EXL3(GATE);
    if (exl3) hadamard_stage(sums);
    Columns columns = columns_of(s, w, t.block, exl3);
#pragma unroll
    for (int part = 0; part < WIDE_PARTS; part++) {
        if (part * WIDE_PART_ROWS >= t.rows) break;
        int count = part_rows(t, part);
        float scale[2];
#pragma unroll
        for (int u = 0; u < 2; u++)
            scale[u] = prepared_scale(s, which, rows)[readable_row(t, part, u)];
        const float *tile = tile_part(ring, sums, part);
#pragma unroll
        for (int u = 0; u < 2; u++) {
            float *h = active_row<WIDTH>(s, map, readable_row(t, part, u)), v[16], gate[16];
            if (which) load_columns<WIDTH>(h, t.block, gate);
            finish_row(tile, own_row(u), scale[u], s, w, t.block, columns, exl3, v);
            if (which) {
#pragma unroll
                for (int i = 0; i < 16; i++) v[i] = lifted(v[i]) * gate[i];
            } else {
#pragma unroll
                for (int i = 0; i < 16; i++) v[i] = activate(layer, v[i]);
            }
            if (own_row(u) < count) store_columns<WIDTH>(h, t.block, v);
        }
    }
}

// Grid: clusters of two blocks. w: gate and up. Gate first, its activation through h. Of the WIDTH
// columns that rows of h have room for, `width` are there.
template <int GATE, int UP, int WIDTH>
DEVICE void up_prefill(const State &s, const Batch &b, const Layer *layer, const Linear *w,
                       int tile_rows, int width)
{
    constexpr int BITS = WORK_MOST(FORMAT_BITS(GATE), FORMAT_BITS(UP));
    int tiles = (b.rows + tile_rows - 1) / tile_rows, items = tiles * PAIRS(width);
    Ring ring;
    ring_open<BITS>(&ring);
    grid_release();
    grid_wait();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < items; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(width), b.rows, tile_rows);
            for (int which = 0; which < 2; which++)
                ring_fill<BITS, DIM>(&ring, s, w[which].weights, FORMAT_BITS(which ? UP : GATE), t,
                                     prepared<DIM>(s, which, b.rows), b.rows);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < items; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(width), b.rows, tile_rows);
#pragma unroll 1
            for (int which = 0; which < 2; which++)
                up_tile<BITS, GATE, UP, WIDTH>(s, layer, w[which], which, &ring, t, b.rows,
                                               nullptr);
        }
    }
    ring_close();
}
#else
// A tile of `rows` rows from prepared row `first` of `all` on, into h. Gate first, its activation
// through h; the same lane then multiplies it with up.
template <int GATE, int UP, int WIDTH>
DEVICE void up_tile(const State &s, const Layer *layer, const Linear &gate, const Linear &up,
                    int block, int first, int rows, int all, const int32_t *map)
{
    int warp = threadIdx.x / WARP, column = block * BLOCK + 4 * (threadIdx.x % WARP);
    const float *tile = gemm_tile<GATE, DIM>(
        s, gate, block, prepared<DIM>(s, 0, all) + (uint64_t)first * PADDED(DIM), rows);
    for (int r = warp; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, all)[first + r], v);
        finish_columns(s, gate, block, v);
        for (int i = 0; i < 4; i++) v[i] = activate(layer, v[i]);
        store4<WIDTH>(active_row<WIDTH>(s, map, first + r), column, v);
    }
    block_sync();
    tile = gemm_tile<UP, DIM>(s, up, block,
                              prepared<DIM>(s, 1, all) + (uint64_t)first * PADDED(DIM), rows);
    for (int r = warp; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4], h[4];
        tile_row(tile, r, prepared_scale(s, 1, all)[first + r], v);
        finish_columns(s, up, block, v);
        load4<WIDTH>(active_row<WIDTH>(s, map, first + r), column, h);
        for (int i = 0; i < 4; i++) v[i] = lifted(v[i]) * h[i];
        store4<WIDTH>(active_row<WIDTH>(s, map, first + r), column, v);
    }
}

// Grid: (tiles of rows, column blocks of WIDTH). w: gate and up.
template <int GATE, int UP, int WIDTH>
DEVICE void up_prefill(const State &s, const Batch &b, const Layer *layer, const Linear *w, int,
                       int width)
{
    const Linear gate = w[0], up = w[1];
    int first = blockIdx.x * TILE_ROWS;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    grid_release();
    grid_wait();
    if (width != WIDTH && blockIdx.y >= BLOCKS(width)) return;
    up_tile<GATE, UP, WIDTH>(s, layer, gate, up, blockIdx.y, first, rows, b.rows, nullptr);
}
#endif

// --- without a gate ------------------------------------------------------------------------------

// A row's columns 4 * lane .. + 3 of a column block, by a whole warp.
DEVICE void put_active(const State &s, const Layer *layer, const Linear &w, int row, int block,
                       float v[4])
{
    finish_columns(s, w, block, v);
    for (int i = 0; i < 4; i++) v[i] = activate(layer, v[i]);
    store4<FFN_DIM>(s.h + (uint64_t)row * FFN_DIM, block * BLOCK + 4 * (threadIdx.x % WARP), v);
}

// Grid: rows.
template <int UP> DEVICE void up_alone_prepare(const State &s, const Batch &b, const Layer *layer)
{
    grid_release();
    grid_wait();
    prepare<DIM, 1, FORMAT_IS_EXL3(UP)>(s, &layer->up, normed_source(s, layer->ffn_norm, nullptr),
                                        blockIdx.x, b.rows);
}

#if WGMMA
// Grid: clusters of two blocks.
template <int UP>
DEVICE void up_alone_prefill(const State &s, const Batch &b, const Layer *layer, int tile_rows)
{
    constexpr int BITS = FORMAT_BITS(UP);
    const Linear w = layer->up;
    const int width = LAYER_FFN_DIM(layer);
    int tiles = (b.rows + tile_rows - 1) / tile_rows, items = tiles * PAIRS(width);
    Ring ring;
    ring_open<BITS>(&ring);
    grid_release();
    grid_wait();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < items; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(width), b.rows, tile_rows);
            ring_fill<BITS, DIM>(&ring, s, w.weights, BITS, t, prepared<DIM>(s, 0, b.rows), b.rows);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < items; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(width), b.rows, tile_rows);
            float sums[WIDE_ROWS / 2];
            multiply_tile<BITS, UP, UP, UP, DIM>(&ring, 0, t.rows, sums);
            for (int part = 0; part * WIDE_PART_ROWS < t.rows; part++) {
                const float *tile = tile_part(&ring, sums, part);
                for (int r = threadIdx.x / WARP; r < part_rows(t, part);
                     r += PREFILL_THREADS / WARP) {
                    int row = t.first + part * WIDE_PART_ROWS + r;
                    float v[4];
                    tile_row(tile, r, prepared_scale(s, 0, b.rows)[row], v);
                    put_active(s, layer, w, row, t.block, v);
                }
            }
        }
    }
    ring_close();
}
#else
// Grid: (tiles of rows, column blocks of FFN_DIM).
template <int UP>
DEVICE void up_alone_prefill(const State &s, const Batch &b, const Layer *layer, int)
{
    const Linear w = layer->up;
    int first = blockIdx.x * TILE_ROWS, block = blockIdx.y;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    grid_release();
    grid_wait();
    if (LAYER_FFN_DIM(layer) != FFN_DIM && block >= BLOCKS(LAYER_FFN_DIM(layer))) return;
    const float *tile = gemm_tile<UP, DIM>(
        s, w, block, prepared<DIM>(s, 0, b.rows) + (uint64_t)first * PADDED(DIM), rows);
    for (int r = threadIdx.x / WARP; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, b.rows)[first + r], v);
        put_active(s, layer, w, first + r, block, v);
    }
}
#endif
