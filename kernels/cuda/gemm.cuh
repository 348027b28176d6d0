// The prefill form of a linear layer: many rows. `prepare` writes the transformed activations once
// per distinct input scale as fp16; gemm multiplies them with weights decoded in registers to exact
// fp16, which are the A operand; a tile is 128 columns (one Hadamard block) by 128 rows, on sm_90a
// up to 256 (wide.cuh).
//
// A warp owns 16 columns of the block for all rows and all of k, so every weight is decoded once a
// tile. Weights and activations of 64 k at a time come through shared memory, copied in the
// background. Lane 4g + c has k-tile c of a stage: A and B share that order of k. The activations
// of a tile's 16 channels are stored as the pairs 0 4 1 5 2 6 3 7, so that an operand is two
// neighbouring words.
#pragma once
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/wgmma.cuh"

// fp16 activations of linear `index` of a step: (rows, PADDED(in)); on sm_90a (PADDED(in) / 64,
// rows / 8, 8, 64).
template <int IN> DEVICE uint16_t *prepared(const State &s, int index, int rows)
{
    return work_at<uint16_t>(s, work_of(s).large) + (uint64_t)index * ROWS_UP(rows) * PADDED(IN);
}

DEVICE float *prepared_scale(const State &s, int index, int rows)
{
    return work_at<float>(s, work_of(s).scales) + (uint64_t)index * rows;
}

// Stores channels k .. k + 3 of a row of prepared activations, k = 4 * lane of a block of 128.
template <int IN>
DEVICE void store_prepared(uint16_t *prepared, int row, int rows, int k, const float v[4])
{
    uint32_t low = pack_half(v[0], v[1]), high = pack_half(v[2], v[3]);
    if (WGMMA) {
        // Of 64 channels, 16 c + 8 h + 2 i + e goes to place 16 i + 8 h + 2 c + e, in the order of
        // matrix_descriptor.
        int c = k / 16 % 4, part = k / 8 % 2 + 2 * (k / 2 % 4);
        uint8_t *to = (uint8_t *)prepared +
                      ((uint64_t)(k / 64) * (ROWS_UP(rows) / 8) + row / 8) * 1024 + row % 8 * 128;
        *(uint32_t *)(to + (part ^ row % 8) * 16 + c * 4) = low;
        *(uint32_t *)(to + ((part + 2) ^ row % 8) * 16 + c * 4) = high;
    } else {
        // Pairs p and p + 1 of their tile, p = 2 * (lane % 4).
        int lane = threadIdx.x % WARP;
        uint32_t *tile = (uint32_t *)(prepared + (uint64_t)row * PADDED(IN) + k / 16 * 16) +
                         (lane % 4 * 4 % 8) + lane % 4 / 2;
        tile[0] = low;
        tile[2] = high;
    }
}

// Where the activations of a linear layer come from: rows of x, with a norm or plainly.
typedef struct {
    const float *x;       // (rows, in)
    const float *norm;    // (in) or NULL
    const float *squares; // (rows, MOMENTS) of x, where there is a norm
    const int32_t *map;   // row r is row map[r] of x, or NULL
} Source;

DEVICE Source plain_source(const float *x)
{
    Source from = {x, nullptr, nullptr, nullptr};
    return from;
}

// Without a norm (0), x itself.
DEVICE Source normed_source(const State &s, uint64_t norm, const int32_t *map)
{
    Source from = {s.x, norm ? (const float *)(s.weights + norm) : nullptr,
                   work_at<const float>(s, work_of(s).squares), map};
    return from;
}

// One row of the activations of COUNT linear layers, from a row of the source, by a block of 256
// threads, each with a power of two taken out that keeps any values inside fp16. Bit i of EXL3 says
// that layer i is quantized. Rows have room for IN channels, of which `in` are there.
template <int IN, int COUNT, int EXL3>
DEVICE void prepare_row(const State &s, const Linear *w, const Source &from, int source_row,
                        int row, int rows, int in = IN)
{
    constexpr int PASSES = (BLOCKS(IN) + 7) / 8;
    constexpr bool KEEP = PASSES <= 16; // the row stays in registers
    __shared__ uint32_t warp_most[COUNT][8];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = warp * BLOCK + 4 * lane;
    const float *x = from.x + (uint64_t)source_row * IN;
    Moments m = {0, 1};
    if (from.norm) m = row_moments(from.squares, source_row, lane);
    const uint16_t *suh[COUNT];
    float kept[KEEP ? PASSES : 1][4];
    uint32_t most[COUNT] = {};
#pragma unroll
    for (int i = 0; i < COUNT; i++) suh[i] = (const uint16_t *)(s.weights + w[i].suh);
#pragma unroll
    for (int pass = 0; pass < (KEEP ? PASSES : 0); pass++)
        load4_of<IN>(x, first + pass * 8 * BLOCK, in, kept[pass]);
#pragma unroll(KEEP ? PASSES : 1)
    for (int pass = 0; pass < PASSES; pass++) {
        int k = first + pass * 8 * BLOCK;
        float *v = kept[KEEP ? pass : 0];
        if (k >= PADDED(in)) break;
        if (!KEEP) load4_of<IN>(x, k, in, v);
        if (from.norm) {
            float norm[4];
            load4<IN>(from.norm, k, norm);
            for (int j = 0; j < 4; j++) v[j] = (v[j] - m.mean) * (m.factor * norm[j]);
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float scales[4] = {1, 1, 1, 1};
            if (EXL3 >> i & 1) load4_half(suh[i] + k, scales);
            for (int j = 0; j < 4; j++) {
                uint32_t size = float_bits(v[j] * scales[j]) & 0x7fffffffu;
                most[i] = most[i] > size ? most[i] : size;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        most[i] = warp_max(most[i]);
        if (lane == 0) warp_most[i][warp] = most[i];
    }
    block_sync();
    float inverse[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < 8; j++) most[i] = most[i] > warp_most[i][j] ? most[i] : warp_most[i][j];
        // Into [512, 1024): after the transform at most sqrt(128) times that.
        uint32_t exponent = most[i] & 0x7f800000u;
        bool zero = exponent < 20u << 23;
        inverse[i] = zero ? 0 : bits_float((254u << 23) - (exponent - (9u << 23)));
        if (threadIdx.x == 0)
            prepared_scale(s, i, rows)[row] = zero ? 0 : bits_float(exponent - (9u << 23));
    }

#pragma unroll(KEEP ? PASSES : 1)
    for (int pass = 0; pass < PASSES; pass++) {
        int k = first + pass * 8 * BLOCK;
        float *v = kept[KEEP ? pass : 0];
        if (k >= PADDED(in)) break;
        if (!KEEP) {
            load4_of<IN>(x, k, in, v);
            if (from.norm) {
                float norm[4];
                load4<IN>(from.norm, k, norm);
                for (int j = 0; j < 4; j++) v[j] = (v[j] - m.mean) * (m.factor * norm[j]);
            }
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            float t[4] = {v[0] * inverse[i], v[1] * inverse[i], v[2] * inverse[i],
                          v[3] * inverse[i]};
            if (EXL3 >> i & 1) {
                float scales[4];
                load4_half(suh[i] + k, scales);
                for (int j = 0; j < 4; j++) t[j] *= HADAMARD_SCALE * scales[j];
                hadamard(t, lane);
            }
            store_prepared<IN>(prepared<IN>(s, i, rows), row, rows, k, t);
        }
    }
}

template <int IN, int COUNT, int EXL3>
DEVICE void prepare(const State &s, const Linear *w, const Source &from, int row, int rows,
                    int in = IN)
{
    prepare_row<IN, COUNT, EXL3>(s, w, from, from.map ? from.map[row] : row, row, rows, in);
}

// Columns 4 * lane .. + 3 of a row of a finished tile, with the row's scale.
DEVICE void tile_row(const float *tile, int row, float scale, float v[4])
{
    float4 t = *(const float4 *)(tile + row * TILE_STRIDE + 4 * (threadIdx.x % WARP));
    v[0] = t.x * scale, v[1] = t.y * scale, v[2] = t.z * scale, v[3] = t.w * scale;
}

// The fp16 pairs of the run of tile `tile` (0..3) of a half's pass: pair i is weights 2i, 2i + 1.
template <int FORMAT> DEVICE void decode_run(const uint8_t *pass, int tile, uint32_t pair[16])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    uint32_t run[K + 1];
    load_run<K>(pass, tile, run);
    if constexpr (FORMAT_IS_EXL3(FORMAT)) {
        uint32_t product[32];
        run_products<FORMAT>(run, product);
#pragma unroll
        for (int i = 0; i < 16; i++)
            pair[i] = exact_pair<FORMAT>(product[31 - 2 * i], product[30 - 2 * i]);
    } else {
#pragma unroll
        for (int i = 0; i < 16; i++) pair[i] = plain_pair<FORMAT>(run[i]);
    }
}

#if !WGMMA

// Starts the copy of one stage: both halves of the weights, then the rows of activations, zeros
// after the last row (those addresses are not read). Both pointers are this thread's own.
template <int FORMAT, int IN>
DEVICE void stage_start(uint8_t *stage, const uint8_t *weights, const uint16_t *activations,
                        int rows)
{
    constexpr int WEIGHTS = 2 * PASS_BYTES(FORMAT_BITS(FORMAT)), ROWS_AT_ONCE = PREFILL_THREADS / 8;
    for (int i = 0; i < WEIGHTS; i += PREFILL_THREADS * 16)
        if (i + (int)threadIdx.x * 16 < WEIGHTS)
            copy_start(stage + i + threadIdx.x * 16, weights + i, 1);
    int row = threadIdx.x / 8;
    uint8_t *to = stage + WEIGHTS + row * ACTIVATION_STRIDE + threadIdx.x % 8 * 16;
#pragma unroll
    for (int i = 0; i < TILE_ROWS; i += ROWS_AT_ONCE)
        copy_start(to + i * ACTIVATION_STRIDE, activations + i * PADDED(IN), row + i < rows);
}

// Multiplies one tile; leaves the sums in shared memory as (128 rows, TILE_STRIDE) floats, in sync.
// Of the IN channels that rows have room for, `in` are there.
template <int FORMAT, int IN>
DEVICE float *gemm_tile(const State &s, const Linear &w, int block, const uint16_t *activations,
                        int rows, int in = IN)
{
    constexpr int BITS = FORMAT_BITS(FORMAT);
    constexpr int WEIGHTS = 2 * PASS_BYTES(BITS), COUNT = STAGES(FORMAT);
    const int steps = PADDED(in) / PASS_ROWS;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    uint8_t *stages = shared_memory();
    const uint8_t *weights =
        s.weights + w.weights + block * COLUMN_BLOCK_BYTES(BITS, in) + threadIdx.x * 16;
    activations += (uint64_t)(threadIdx.x / 8) * PADDED(IN) + threadIdx.x % 8 * 8;
    float sums[TILE_ROWS / 8][4] = {};

#pragma unroll
    for (int i = 0; i < COUNT - 1; i++) {
        if (i < steps)
            stage_start<FORMAT, IN>(stages + i * STAGE_BYTES(FORMAT), weights, activations, rows);
        copy_commit();
        weights += WEIGHTS;
        activations += PASS_ROWS;
    }
    uint8_t *stage = stages, *free_stage = stages + (COUNT - 1) * STAGE_BYTES(FORMAT);
    uint8_t *end = stages + COUNT * STAGE_BYTES(FORMAT);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        copy_wait<COUNT - 2>();
        block_sync();
        if (step + COUNT - 1 < steps)
            stage_start<FORMAT, IN>(free_stage, weights, activations, rows);
        copy_commit();
        weights += WEIGHTS;
        activations += PASS_ROWS;
        uint32_t pair[16];
        decode_run<FORMAT>(stage + warp / 4 * PASS_BYTES(BITS), warp % 4, pair);
        const uint8_t *own = stage + WEIGHTS + g * ACTIVATION_STRIDE + c * 32;
#pragma unroll
        for (int t = 0; t < TILE_ROWS / 8; t++) {
            uint4 x = *(const uint4 *)(own + t * 8 * ACTIVATION_STRIDE);
            uint4 y = *(const uint4 *)(own + t * 8 * ACTIVATION_STRIDE + 16);
            mma_half(sums[t], pair[0], pair[2], pair[1], pair[3], x.x, x.y);
            mma_half(sums[t], pair[4], pair[6], pair[5], pair[7], x.z, x.w);
            mma_half(sums[t], pair[8], pair[10], pair[9], pair[11], y.x, y.y);
            mma_half(sums[t], pair[12], pair[14], pair[13], pair[15], y.z, y.w);
        }
        free_stage = stage;
        stage = stage + STAGE_BYTES(FORMAT) == end ? stages : stage + STAGE_BYTES(FORMAT);
    }
    copy_wait<0>();
    block_sync();
    float *tile = (float *)stages;
#pragma unroll
    for (int t = 0; t < TILE_ROWS / 8; t++) {
        float *to = tile + (8 * t + 2 * c) * TILE_STRIDE + 16 * warp + g;
        to[0] = sums[t][0];
        to[TILE_STRIDE] = sums[t][1];
        to[8] = sums[t][2];
        to[TILE_STRIDE + 8] = sums[t][3];
    }
    block_sync();
    return tile;
}

#endif
