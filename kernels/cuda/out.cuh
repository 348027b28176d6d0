// out and down: x += linear(input) + bias, and the sums of squares of the new x.
#pragma once
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/up.cuh"

// Adds a row's outputs of one column block to x, by a whole warp.
DEVICE void add_to_x(const State &s, int row, int block, float v[4])
{
    float x[4];
    load4<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * (threadIdx.x % WARP), x);
    for (int i = 0; i < 4; i++) v[i] += x[i];
    store_x(s, s.x, row, block, v);
}

// The attention output, where its splits are still to be added.
typedef struct {
    const State &s;
    const Batch &b;
    int window;
} Attended;

DEVICE void load_block(const Attended &a, int row, int block, bool, float v[4])
{
    int position = a.b.position[row], channel = block * BLOCK + 4 * (threadIdx.x % WARP);
    int splits = position / SPLIT - first_key(a.window, position) / SPLIT + 1;
    if (splits == 1)
        load4_fresh<Q_DIM>(a.s.a + (uint64_t)row * Q_DIM, channel, v);
    else
        add_splits(a.s, row, channel, splits, v);
}

DEVICE void expect_block(const Attended &, int) {}

template <int FORMAT> FUNCTION void decode_out(Decoder *decoder, const Layer *layer)
{
    Decoder d = *decoder;
    const State &s = decode_state();
    const Work &w = work_of(s);
    Part part = {&layer->o, BLOCKS(DIM), 0};
    Attended source = {s, decode_batch(), layer->window};
    linear_step<FORMAT, FORMAT, FORMAT>(d, STEP_OUT, source, Q_DIM, part, part, part, 1,
                                        sums_at(s, w.sums_out), PADDED(DIM), decode_batch().rows,
                                        sums_at(s, w.sums_qkv), (uint64_t)decode_batch().rows * RAW_DIM);
    *decoder = d;
}

// What gate and up left: silu(gate) * up.
typedef struct {
    const State &s;
    const Layer *layer;
} Activated;

DEVICE void load_block(const Activated &a, int row, int block, bool, float v[4])
{
    const State &s = a.s;
    const uint64_t *sums = sums_at(s, work_of(s).sums_up) + (uint64_t)row * 2 * PADDED(FFN_DIM);
    int lane = threadIdx.x % WARP;
    float factor = norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane), y[4];
    read_sums(sums, block, factor, v);
    read_sums(sums + PADDED(FFN_DIM), block, factor, y);
    finish_columns(s, a.layer->gate, block, v);
    finish_columns(s, a.layer->up, block, y);
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = block * BLOCK + 4 * lane + i < FFN_DIM ? silu(v[i]) * y[i] : 0;
}

DEVICE void expect_block(const Activated &a, int block)
{
    expect_halves(a.s, a.layer->gate.svh, block);
    expect_halves(a.s, a.layer->up.svh, block);
}

template <int FORMAT> FUNCTION void decode_down(Decoder *decoder, const Layer *layer)
{
    Decoder d = *decoder;
    const State &s = decode_state();
    const Work &w = work_of(s);
    Part part = {&layer->down, BLOCKS(DIM), 0};
    Activated source = {s, layer};
    linear_step<FORMAT, FORMAT, FORMAT>(d, STEP_DOWN, source, FFN_DIM, part, part, part, 1,
                                        sums_at(s, w.sums_down), PADDED(DIM), decode_batch().rows,
                                        sums_at(s, w.sums_out), (uint64_t)decode_batch().rows * PADDED(DIM));
    *decoder = d;
}

// Grid: rows.
template <int FORMAT, int IN>
DEVICE void out_prepare(const State &s, const Batch &b, const Linear *linear, const float *input)
{
    grid_release();
    grid_wait();
    prepare<IN, 1, FORMAT_IS_EXL3(FORMAT)>(s, linear, plain_source(input), blockIdx.x, b.rows);
}

#if WGMMA
template <int BITS, int FORMAT, int IN>
DEVICE void out_tile(const State &s, const Linear &w, Ring *ring, const Tile &t, int rows)
{
    float sums[WIDE_ROWS / 2];
    multiply_tile<BITS, FORMAT, FORMAT, FORMAT, IN>(ring, 0, t.rows, sums);
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
            load_columns<DIM>(s.x + row * DIM, t.block, x[u]);
        }
        const float *tile = tile_part(ring, sums, part);
#pragma unroll
        for (int u = 0; u < 2; u++) {
            float v[16], sum = 0;
            finish_row(tile, own_row(u), scale[u], s, w, t.block, columns, EXL3, v);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                v[i] += x[u][i];
                if (t.block * BLOCK + own_column(i / 4) + i % 4 < DIM) sum += v[i] * v[i];
            }
#pragma unroll
            for (int bit = 1; bit < 8; bit *= 2) sum += shuffle_xor(sum, bit);
            if (own_row(u) < count) {
                uint64_t row = first + own_row(u);
                store_columns<DIM>(s.x + row * DIM, t.block, v);
                if (threadIdx.x % 8 == 0)
                    work_at<float>(s, work_of(s).squares)[row * BLOCKS(DIM) + t.block] = sum;
            }
        }
    }
}

// Grid: clusters of two blocks.
template <int FORMAT, int IN>
DEVICE void out_prefill(const State &s, const Batch &b, const Linear *linear, int tile_rows)
{
    constexpr int BITS = FORMAT_BITS(FORMAT), PAIRS = PAIRS(DIM);
    const Linear w = *linear;
    int tiles = (b.rows + tile_rows - 1) / tile_rows;
    Ring ring;
    ring_open<BITS>(&ring);
    grid_release();
    grid_wait();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < tiles * PAIRS; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(DIM), b.rows, tile_rows);
            ring_fill<BITS, IN>(&ring, s, w.weights, BITS, t, prepared<IN>(s, 0, b.rows), b.rows);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < tiles * PAIRS; item = next_item(item)) {
            Tile t = tile_at(item % tiles, item / tiles, BLOCKS(DIM), b.rows, tile_rows);
            out_tile<BITS, FORMAT, IN>(s, w, &ring, t, b.rows);
        }
    }
    ring_close();
}
#else
// Grid: (tiles of rows, column blocks).
template <int FORMAT, int IN>
DEVICE void out_prefill(const State &s, const Batch &b, const Linear *linear, int)
{
    const Linear w = *linear;
    int first = blockIdx.x * TILE_ROWS, block = blockIdx.y;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    grid_release();
    grid_wait();
    const float *tile = gemm_tile<FORMAT, IN>(
        s, w, block, prepared<IN>(s, 0, b.rows) + (uint64_t)first * PADDED(IN), rows);
    for (int r = threadIdx.x / WARP; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, 0, b.rows)[first + r], v);
        finish_columns(s, w, block, v);
        add_to_x(s, first + r, block, v);
    }
}
#endif
