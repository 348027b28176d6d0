// The decode form of a linear layer: few rows, so the weights are read once and everything else has
// to hide behind that.
//
//     y = ((x . suh) H) W  H . svh + bias        H: 128-point Hadamard blocks / sqrt(128)
//
// A unit is one block of 128 columns times one slice of k. Its block of threads
//   1. starts to copy the whole slice of weights to shared memory, before it waits for the launch
//      that makes x: the weights of a step stream in while the step before it still computes;
//   2. makes the activations of its slice: norm, suh, Hadamard, one scale a row;
//   3. multiplies on matrix units: weights are the A operand, up to 8 columns of activations B;
//   4. adds its warps' sums and writes one partial sum a (row, column).
// The last unit of a column block to arrive adds the slices in their order and finishes the
// columns. Every sum has a fixed order that depends on the format alone, and a row never on other
// rows.
#pragma once
#include "kernels/cuda/exl3.cuh"
#include "kernels/cuda/work.h"

DEVICE Work work_of(const State &s)
{
    return work_places(s.max_rows, s.max_outputs);
}

template <typename T> DEVICE T *work_at(const State &s, uint64_t place)
{
    return (T *)((uint8_t *)s.work + place);
}

// Where the activations of a linear layer come from: rows of x, with a norm or plainly.
typedef struct {
    const float *x;       // (rows, in)
    const float *norm;    // (in) or NULL
    const float *squares; // (rows, BLOCKS(in)) sums of squares of x, where there is a norm
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

// c tanh(x / c); x itself where c is 0.
DEVICE float softcap(float x, float c)
{
    return c != 0 ? c * tanhf(x * (1 / c)) : x;
}

// Values k .. k + 3 of a vector of `IN`, zeros beyond it. k is a multiple of 4.
template <int IN> DEVICE void load4(const float *p, int k, float v[4])
{
    if (IN % 4 == 0) {
        float4 t = make_float4(0, 0, 0, 0);
        if (k < IN) t = *(const float4 *)(p + k);
        v[0] = t.x, v[1] = t.y, v[2] = t.z, v[3] = t.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = k + i < IN ? p[k + i] : 0;
    }
}

// Four halves at a multiple of 4.
DEVICE void load4_half(const uint16_t *p, float v[4])
{
    uint2 t = *(const uint2 *)p;
    v[0] = half_float(t.x & 0xffff), v[1] = half_float(t.x >> 16);
    v[2] = half_float(t.y & 0xffff), v[3] = half_float(t.y >> 16);
}

// 1 / rms of a row, by a whole warp.
template <int IN> DEVICE float norm_factor(const float *squares, int row, int lane)
{
    float sum = 0;
    for (int i = lane; i < BLOCKS(IN); i += WARP) sum += squares[(uint64_t)row * BLOCKS(IN) + i];
    return 1.0f / sqrtf(warp_sum(sum) / IN + NORM_EPS);
}

// Factors of input channels k .. k + 3 that are constants of the model: norm and suh.
template <int FORMAT, int IN>
DEVICE void input_scales(const State &s, const Linear &w, const Source &from, int k, float v[4])
{
    v[0] = v[1] = v[2] = v[3] = 1;
    if (from.norm) load4<IN>(from.norm, k, v);
    if (FORMAT_IS_EXL3(FORMAT)) {
        float suh[4];
        load4_half((const uint16_t *)(s.weights + w.suh) + k, suh);
        for (int i = 0; i < 4; i++) v[i] *= suh[i];
    }
}

// --- activations of a slice ----------------------------------------------------------------------

// Scale of a row of activations from the bits of its largest magnitude. Bytes: 32512 steps, which
// two planes of signed bytes hold; fp16: the power of two that brings it into [512, 1024).
template <int FORMAT> DEVICE float activation_scale(uint32_t most)
{
    if (PLANES(FORMAT) == 2) return most < 0x0da24260u ? 0 : bits_float(most) * (1.0f / 32512);
    uint32_t exponent = most & 0x7f800000u;
    return exponent < 20u << 23 ? 0 : bits_float(exponent - (9u << 23));
}

// Its reciprocal; 0 for a row of zeros.
template <int FORMAT> DEVICE float activation_inverse(uint32_t most)
{
    if (PLANES(FORMAT) == 2) return most < 0x0da24260u ? 0 : 32512 / bits_float(most);
    uint32_t exponent = most & 0x7f800000u;
    return exponent < 20u << 23 ? 0 : bits_float((254u << 23) - (exponent - (9u << 23)));
}

typedef struct {
    uint32_t most[ROW_GROUP][8]; // bits of the largest magnitude of each 128 channels
    int32_t sum[ROW_GROUP][8];   // sums of the integer activations
} SliceFacts;

DEVICE uint32_t row_most(const SliceFacts *facts, int row, int blocks)
{
    uint32_t most = 0;
    for (int i = 0; i < blocks; i++) most = most > facts->most[row][i] ? most : facts->most[row][i];
    return most;
}

// Writes the activations of `rows` rows from `first_row` for channels [first, first + 64 steps) to
// shared memory, in the order in which lanes load them: of a column, for k-step s and k-tile c, the
// register r is word r % 4 of the 16 bytes at 256 s + 64 (r / 4) + 16 c (128 s for exact fp16).
// MOST_ROWS only unrolls.
template <int FORMAT, int IN, int MOST_ROWS>
DEVICE void slice_activations(const Source &from, const float scales[4], int first, int steps,
                              int first_row, int rows, uint8_t *columns, SliceFacts *facts)
{
    constexpr int BLOCKS_IN = SLICE_ROWS(FORMAT) / BLOCK, ROW_STEP = 8 / BLOCKS_IN;
    constexpr int MOST = (MOST_ROWS + ROW_STEP - 1) / ROW_STEP;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int block = warp % BLOCKS_IN, own = warp / BLOCKS_IN;
    int k = first + BLOCK * block + 4 * lane;
    bool inside = 2 * block < steps;
    float v[MOST][4];

#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int r = own + i * ROW_STEP;
        if (r < rows) { // the same for the whole warp
            int row = from.map ? from.map[first_row + r] : first_row + r;
            float factor = from.norm ? norm_factor<IN>(from.squares, row, lane) : 1;
            load4<IN>(from.x + (uint64_t)row * IN, inside ? k : PADDED(IN), v[i]);
            uint32_t most = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) v[i][j] *= factor * scales[j];
            if (FORMAT_IS_EXL3(FORMAT)) hadamard(v[i], lane);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                if (FORMAT_IS_EXL3(FORMAT)) v[i][j] *= HADAMARD_SCALE;
                uint32_t size = float_bits(v[i][j]) & 0x7fffffffu;
                most = most > size ? most : size;
            }
            most = warp_max(most);
            if (lane == 0) facts->most[r][block] = most;
        }
    }
    block_sync();

    // This lane's four values are channels 4a .. 4a + 3 of k-tile c of k-step `step`.
    int step = 2 * block + (lane >> 4), c = lane >> 2 & 3, a = lane & 3;
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int r = own + i * ROW_STEP;
        if (r < rows) {
            float inverse = activation_inverse<FORMAT>(row_most(facts, r, BLOCKS_IN));
            uint8_t *to = columns + r * PLANES(FORMAT) * COLUMN_BYTES(FORMAT) +
                          step * STEP_BYTES(FORMAT) + c * 16;
            if (PLANES(FORMAT) == 2) {
                // Rounding to an integer by adding 1.5 * 2^23; 128 more makes byte 1 the balanced
                // high plane and byte 0 the low plane with its sign bit flipped.
                uint32_t u[4];
                int32_t sum = 0;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    u[j] = float_bits(fmaf(v[i][j], inverse, 12582912.0f + 128));
                    sum += (int32_t)(u[j] - 0x4b400000u) - 128;
                }
                sum = warp_add(sum);
                if (lane == 0) facts->sum[r][block] = inside ? sum : 0;
                if (inside) {
                    to += 2 * (a & 1) * 64 + (a >> 1) * 8;
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        uint32_t u0 = u[2 * j], u1 = u[2 * j + 1];
                        *(uint2 *)(to + 64 * j) =
                            make_uint2(permute(u0, 0, 0x1111), permute(u1, 0, 0x1111));
                        *(uint2 *)(to + 64 * j + COLUMN_BYTES(FORMAT)) = make_uint2(
                            permute(u0 ^ 0x80, 0, 0x0000), permute(u1 ^ 0x80, 0, 0x0000));
                    }
                }
            } else if (inside && FORMAT_IS_EXL3(FORMAT)) {
                to += 2 * (a & 1) * 64 + (a >> 1) * 8;
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float v0 = v[i][2 * j] * inverse, v1 = v[i][2 * j + 1] * inverse;
                    *(uint2 *)(to + 64 * j) = make_uint2(pack_half(v0, v0), pack_half(v1, v1));
                }
            } else if (inside) {
                to += (a & 1) * 64 + (a >> 1) * 4;
#pragma unroll
                for (int j = 0; j < 2; j++)
                    *(uint32_t *)(to + 8 * j) =
                        pack_half(v[i][2 * j] * inverse, v[i][2 * j + 1] * inverse);
            }
        }
    }
}

// --- products ------------------------------------------------------------------------------------

template <int FORMAT>
DEVICE void mma(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                uint32_t b1)
{
    if constexpr (PLANES(FORMAT) == 2)
        mma_bytes(c, a0, a1, a2, a3, b0, b1);
    else
        mma_half((float *)c, a0, a1, a2, a3, b0, b1);
}

// One k-step of 64 rows times the 64 columns of a half, for one lane: vector v of its packed words
// is at weights[32 v], the activations of its column(s) at b0 (and b1).
template <int FORMAT, bool WIDE>
DEVICE void pass(const uint4 *weights, const uint8_t *column0, const uint8_t *column1,
                 int32_t sums0[4][4], int32_t sums1[4][4])
{
    constexpr int K = FORMAT_BITS(FORMAT);
    int lane = threadIdx.x % WARP;
    uint32_t word[4 * K], b0[16], b1[16];
#pragma unroll
    for (int i = 0; i < K; i++) {
        uint4 v = weights[i * WARP];
        word[4 * i] = v.x, word[4 * i + 1] = v.y, word[4 * i + 2] = v.z, word[4 * i + 3] = v.w;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint4 v = *(const uint4 *)(column0 + 64 * i);
        b0[4 * i] = v.x, b0[4 * i + 1] = v.y, b0[4 * i + 2] = v.z, b0[4 * i + 3] = v.w;
        if (WIDE) {
            v = *(const uint4 *)(column1 + 64 * i);
            b1[4 * i] = v.x, b1[4 * i + 1] = v.y, b1[4 * i + 2] = v.z, b1[4 * i + 3] = v.w;
        }
    }
#pragma unroll
    for (int t = 0; t < 4; t++) {
        uint32_t run[K + 1], product[32];
#pragma unroll
        for (int i = 0; i < K; i++) run[i] = word[t * K + i];
        run[K] = shuffle(run[0], (lane + 28) % WARP);
        run_products<FORMAT>(run, product);
        if (PLANES(FORMAT) == 1) {
#pragma unroll
            for (int i = 0; i < 32; i++) product[i] = summands(product[i]);
        }
#pragma unroll
        for (int m = 0; m < 8; m++) {
            int j = 31 - (8 * (m / 2) + 2 * (m % 2));
            mma<FORMAT>(sums0[t], product[j], product[j - 4], product[j - 1], product[j - 5],
                        b0[2 * m], b0[2 * m + 1]);
            if (WIDE)
                mma<FORMAT>(sums1[t], product[j], product[j - 4], product[j - 1], product[j - 5],
                            b1[2 * m], b1[2 * m + 1]);
        }
    }
}

// The slice times its activations: the sums of this warp's phase and half, in matrix-unit layout.
template <int FORMAT, bool WIDE>
DEVICE void slice_products(Fetch *fetch, const uint8_t *weights, const uint8_t *activations,
                           int columns, int steps, int32_t sums0[4][4], int32_t sums1[4][4])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int half = warp % 2, phase = warp / 2, g = lane / 4, c = lane % 4;
    // Lanes of unused columns may read any.
    const uint8_t *column0 = activations + (g < columns ? g : 0) * COLUMN_BYTES(FORMAT) + c * 16;
    const uint8_t *column1 =
        activations + (8 + g < columns ? 8 + g : 0) * COLUMN_BYTES(FORMAT) + c * 16;
    const uint4 *own = (const uint4 *)(weights + half * PASS_BYTES(FORMAT_BITS(FORMAT))) + lane;
#pragma unroll 1
    for (int part = 0; part * PHASES < steps; part++) {
        int step = part * PHASES + phase;
        fetch_wait(fetch, part);
        if (step < steps)
            pass<FORMAT, WIDE>(own + step * (2 * PASS_BYTES(FORMAT_BITS(FORMAT)) / 16),
                               column0 + step * STEP_BYTES(FORMAT),
                               column1 + step * STEP_BYTES(FORMAT), sums0, sums1);
    }
}

// The same for 16-bit weights, which come straight from memory, one tile ahead.
template <int FORMAT>
DEVICE void plain_products(const uint8_t *weights, const uint8_t *activations, int columns,
                           int steps, float sums[4][4])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int half = warp % 2, phase = warp / 2, g = lane / 4, c = lane % 4;
    const uint8_t *column = activations + (g < columns ? g : 0) * COLUMN_BYTES(FORMAT) + c * 16;
    const uint4 *own = (const uint4 *)(weights + half * PASS_BYTES(16)) + lane;
    uint4 next[4];
    if (phase < steps)
#pragma unroll
        for (int i = 0; i < 4; i++)
            next[i] = load_weights(own + phase * (2 * PASS_BYTES(16) / 16) + i * WARP);
#pragma unroll 1
    for (int step = phase; step < steps; step += PHASES) {
        uint32_t b[8];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 v = *(const uint4 *)(column + step * STEP_BYTES(FORMAT) + 64 * i);
            b[4 * i] = v.x, b[4 * i + 1] = v.y, b[4 * i + 2] = v.z, b[4 * i + 3] = v.w;
        }
#pragma unroll
        for (int t = 0; t < 4; t++) {
            uint4 now[4];
            int next_step = t < 3 ? step : step + PHASES;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                now[i] = next[i];
                if (next_step < steps)
                    next[i] = load_weights(own + next_step * (2 * PASS_BYTES(16) / 16) +
                                           ((t + 1) % 4 * 4 + i) * WARP);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
                mma_half(sums[t], plain_pair<FORMAT>(now[i].x), plain_pair<FORMAT>(now[i].z),
                         plain_pair<FORMAT>(now[i].y), plain_pair<FORMAT>(now[i].w), b[2 * i],
                         b[2 * i + 1]);
        }
    }
}

// Lays a warp's sums down for the addition of the phases: number (phase, column, n).
DEVICE void store_sums(int32_t *place, int columns, int first_column, const int32_t sums[4][4])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int half = warp % 2, phase = warp / 2, g = lane / 4, c = lane % 4;
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int column = first_column + 2 * c + e;
        if (column < columns) {
            int32_t *to = place + (phase * columns + column) * SUM_STRIDE + half * 64 + g;
#pragma unroll
            for (int t = 0; t < 4; t++) {
                to[16 * t] = sums[t][e];
                to[16 * t + 8] = sums[t][2 + e];
            }
        }
    }
}

// One unit: the partial sums of `rows` rows over one slice and one column block, (rows, 128), in
// groups of at most `group` rows.
template <int FORMAT, int IN>
DEVICE void linear_unit(const State &s, const Linear &w, const Source &from, int block, int slice,
                        int rows, int group, float *partial)
{
    __shared__ Fetch fetch;
    __shared__ SliceFacts facts;
    constexpr int BITS = FORMAT_BITS(FORMAT), BLOCKS_IN = SLICE_ROWS(FORMAT) / BLOCK;
    int first = slice * SLICE_ROWS(FORMAT);
    int steps =
        (PADDED(IN) - first < SLICE_ROWS(FORMAT) ? PADDED(IN) - first : SLICE_ROWS(FORMAT)) /
        PASS_ROWS;
    uint8_t *slice_weights = shared_memory();
    uint8_t *activations = slice_weights + SLICE_BYTES(FORMAT);
    int32_t *place = (int32_t *)activations;
    const uint8_t *weights = s.weights + w.weights + block * COLUMN_BLOCK_BYTES(BITS, IN) +
                             (uint64_t)(first / PASS_ROWS) * 2 * PASS_BYTES(BITS);

    if (FORMAT_IS_EXL3(FORMAT))
        fetch_start(&fetch, slice_weights, weights, steps * 2 * PASS_BYTES(BITS),
                    PHASES * 2 * PASS_BYTES(BITS));
    grid_release();
    float scales[4];
    {
        int channel = first + threadIdx.x / WARP % BLOCKS_IN * BLOCK + 4 * (threadIdx.x % WARP);
        if (channel < PADDED(IN))
            input_scales<FORMAT, IN>(s, w, from, channel, scales);
        else
            scales[0] = scales[1] = scales[2] = scales[3] = 0;
    }
    grid_wait();

    for (int first_row = 0; first_row < rows; first_row += group) {
        int n = rows - first_row < group ? rows - first_row : group;
        int columns = n * PLANES(FORMAT);
        int32_t sums0[4][4] = {}, sums1[4][4] = {};
        if (n == 1)
            slice_activations<FORMAT, IN, 1>(from, scales, first, steps, first_row, n, activations,
                                             &facts);
        else
            slice_activations<FORMAT, IN, ROW_GROUP>(from, scales, first, steps, first_row, n,
                                                     activations, &facts);
        block_sync();
        if constexpr (!FORMAT_IS_EXL3(FORMAT)) {
            plain_products<FORMAT>(weights, activations, columns, steps, (float(*)[4])sums0);
        } else if (PLANES(FORMAT) == 2 && columns > 8) {
            slice_products<FORMAT, PLANES(FORMAT) == 2>(&fetch, slice_weights, activations, columns,
                                                        steps, sums0, sums1);
        } else {
            slice_products<FORMAT, false>(&fetch, slice_weights, activations, columns, steps, sums0,
                                          sums1);
        }
        block_sync();
        store_sums(place, columns, 0, sums0);
        if (PLANES(FORMAT) == 2 && columns > 8) store_sums(place, columns, 8, sums1);
        block_sync();
        int column = threadIdx.x % BLOCK;
        for (int r = threadIdx.x / BLOCK; r < n; r += DECODE_THREADS / BLOCK) {
            const int32_t *from_phase = place + r * PLANES(FORMAT) * SUM_STRIDE + column;
            float scale = activation_scale<FORMAT>(row_most(&facts, r, BLOCKS_IN)), sum;
            if (PLANES(FORMAT) == 2) {
                int32_t high = 0, low = 0, total = 0;
                for (int p = 0; p < PHASES; p++) {
                    high += from_phase[p * columns * SUM_STRIDE];
                    low += from_phase[p * columns * SUM_STRIDE + SUM_STRIDE];
                }
                for (int i = 0; i < BLOCKS_IN; i++) total += facts.sum[r][i];
                sum = MUL1_SCALE * (256.0f * high + low) + MUL1_OFFSET * total;
            } else {
                sum = 0;
                for (int p = 0; p < PHASES; p++)
                    sum += bits_float(from_phase[p * columns * SUM_STRIDE]);
            }
            partial[(first_row + r) * BLOCK + column] = scale * sum;
        }
        block_sync();
    }
}

// --- finishing columns ---------------------------------------------------------------------------

// True in the last of `total` blocks of threads to arrive at a counter, which is zero again then;
// what the others wrote before they arrived can be read.
DEVICE bool last_arrival(int32_t *counter, int total)
{
    __shared__ int last;
    memory_fence();
    block_sync();
    if (threadIdx.x == 0) {
        last = atomic_add(counter, 1) == total - 1;
        if (last) *counter = 0;
    }
    block_sync();
    if (last) memory_fence();
    return last;
}

// The sums of columns 4 * lane .. + 3 of a row over all slices of a column block, in their order.
DEVICE void add_slices(const float *partial, int slices, int rows, int row, float v[4])
{
    int lane = threadIdx.x % WARP;
    v[0] = v[1] = v[2] = v[3] = 0;
#pragma unroll 4
    for (int i = 0; i < slices; i++) {
        float4 t = load_fresh(partial + ((uint64_t)i * rows + row) * BLOCK + 4 * lane);
        v[0] += t.x, v[1] += t.y, v[2] += t.z, v[3] += t.w;
    }
}

// Raw sums of columns 4 * lane .. + 3 of a block to outputs: Hadamard, svh, bias. By a whole warp.
template <int FORMAT>
DEVICE void finish_columns(const State &s, const Linear &w, int block, float v[4])
{
    int lane = threadIdx.x % WARP, column = block * BLOCK + 4 * lane;
    if (FORMAT_IS_EXL3(FORMAT)) {
        float svh[4];
        hadamard(v, lane);
        load4_half((const uint16_t *)(s.weights + w.svh) + column, svh);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] *= HADAMARD_SCALE * svh[i];
    }
    if (w.bias) {
        float4 t = *(const float4 *)(s.weights + w.bias + 4 * (uint64_t)column);
        v[0] += t.x, v[1] += t.y, v[2] += t.z, v[3] += t.w;
    }
}

// Stores values 4 * lane .. + 3 of block `block` of a vector of N, or sets x and its sum of
// squares.
template <int N> DEVICE void store4(float *p, int column, const float v[4])
{
    if (N % 4 == 0) {
        if (column < N) *(float4 *)(p + column) = make_float4(v[0], v[1], v[2], v[3]);
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (column + i < N) p[column + i] = v[i];
    }
}

// x[row] of one 128-column block and its sum of squares, by a whole warp.
DEVICE void store_x(const State &s, int row, int block, const float v[4])
{
    int lane = threadIdx.x % WARP, column = block * BLOCK + 4 * lane;
    float sum = 0;
    store4<DIM>(s.x + (uint64_t)row * DIM, column, v);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (column + i < DIM) sum += v[i] * v[i];
    sum = warp_sum(sum);
    if (lane == 0) work_at<float>(s, work_of(s).squares)[(uint64_t)row * BLOCKS(DIM) + block] = sum;
}
