// Scores: products of the normed rows with a few vectors in float32, those of a router or the gates
// of a delta net. In the decode form they are added as fixed-point numbers, the norm's factor left
// out; for many rows they are left in parts of UNIT_ROWS channels.
#pragma once
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/pass.cuh"

// --- decode form ---------------------------------------------------------------------------------
// A warp takes 128 channels and 8 scores at a time.

#define SCORES_AT_ONCE 8

// Sums of scores are fixed-point numbers of 2^-26.
#define SCORE_ONE 67108864.0f

DEVICE uint64_t score_to_fixed(float score)
{
    return (uint64_t)round_float(score < 134217728.0f && score > -134217728.0f ? score * SCORE_ONE
                                                                               : NOT_A_SUM);
}

DEVICE float score_from_fixed(uint64_t sum)
{
    return from_fixed(sum) * (FIXED_ONE / SCORE_ONE);
}

// Calls DO(block, first) for the items of this block's warp `warp` of `warps`.
template <typename Do> DEVICE void score_items(int scores, int warp, int warps, const Do &item_do)
{
    int groups = (scores + SCORES_AT_ONCE - 1) / SCORES_AT_ONCE;
    for (int item = warp * gridDim.x + blockIdx.x; item < BLOCKS(DIM) * groups;
         item += warps * gridDim.x)
        item_do(item / groups, item % groups * SCORES_AT_ONCE);
}

// By the copying warp: has the vectors, ROW(number) each, come nearer.
template <typename Row> DEVICE void expect_scores(int scores, const Row &row)
{
    int lane = threadIdx.x % WARP;
    score_items(scores, 0, 1, [&](int block, int first) {
        int channel = block * BLOCK + lane % 4 * 32;
        if (first + lane / 4 < scores && channel < DIM) prefetch(row(first + lane / 4) + channel);
    });
}

// The sum over the warp of sum[i], in lanes 4 i .. 4 i + 3.
DEVICE float warp_sums(float sum[SCORES_AT_ONCE])
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int half = SCORES_AT_ONCE / 2; half; half /= 2) {
        bool high = lane & half * 4;
#pragma unroll
        for (int i = 0; i < half; i++) {
            float other = shuffle_xor(high ? sum[i] : sum[i + half], half * 4);
            sum[i] = (high ? sum[i + half] : sum[i]) + other;
        }
    }
    for (int bit = 1; bit < 4; bit *= 2) sum[0] += shuffle_xor(sum[0], bit);
    return sum[0];
}

// Adds the scores of all rows to sums (rows, STRIDE), by the multiplying warps, of which this one
// is `warp`. own: the new x is stored here.
template <int STRIDE, typename Row>
DEVICE void add_scores(const Plan &p, int warp, int scores, uint64_t *sums, bool own,
                       const Row &vector)
{
    int lane = threadIdx.x % WARP;
    Part none;
    none.linear = {0, 0, 0, 0};
    score_items(scores, warp, MULTIPLIERS / WARP, [&](int block, int first) {
        float weight[SCORES_AT_ONCE][4];
        Constants c;
#pragma unroll
        for (int i = 0; i < SCORES_AT_ONCE; i++) {
            int number = first + i < scores ? first + i : first;
            load4<DIM>(vector(number), block * BLOCK + 4 * lane, weight[i]);
        }
        load_constants(p, none, block, &c);
        for (int row = 0; row < p.rows; row++) {
            float v[4], sum[SCORES_AT_ONCE] = {};
            load_stream(p, row, block, first == 0 && own, c, v);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                v[j] *= c.in[j];
#pragma unroll
                for (int i = 0; i < SCORES_AT_ONCE; i++) sum[i] = fmaf(v[j], weight[i][j], sum[i]);
            }
            float score = warp_sums(sum);
            if (lane % 4 == 0 && first + lane / 4 < scores)
                atomic_add64(sums + row * STRIDE + first + lane / 4, score_to_fixed(score));
        }
    });
}

// --- prefill form --------------------------------------------------------------------------------

#define SCORE_DEPTH 32 // channels at a time
#define SCORE_STRIDE (SCORE_DEPTH + 4)

// Parts of scores over UNIT_ROWS channels: (UNITS(DIM), rows, STRIDE).
DEVICE float *score_parts(const State &s)
{
    return work_at<float>(s, work_of(s).large);
}

// Grid: (tiles of rows, units x tiles of scores). A thread has 4 rows and 2 scores.
template <int STRIDE, typename Row>
DEVICE void score_tile(const State &s, const Batch &b, uint64_t norm_place, int scores,
                       const Row &vector)
{
    __shared__ __align__(16) float x[SCORE_ROWS * SCORE_STRIDE], w[SCORE_TILE * SCORE_STRIDE];
    __shared__ float factor[SCORE_ROWS];
    const float *norm = weights_at<float>(s, norm_place);
    int unit = blockIdx.y % UNITS(DIM), first = blockIdx.y / UNITS(DIM) * SCORE_TILE;
    int first_row = blockIdx.x * SCORE_ROWS, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int end = (unit + 1) * UNIT_ROWS;
    float sum[4][2] = {};
    grid_release();
    grid_wait();
    if (first >= scores) return;
    for (int r = warp; r < SCORE_ROWS; r += PREFILL_THREADS / WARP) {
        int row = first_row + r < b.rows ? first_row + r : b.rows - 1;
        float f = norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane);
        if (lane == 0) factor[r] = f;
    }
    block_sync();
    for (int k = unit * UNIT_ROWS; k < end && k < DIM; k += SCORE_DEPTH) {
        int channel = k + threadIdx.x % 8 * 4, r = threadIdx.x / 8;
        int row = first_row + r < b.rows ? first_row + r : b.rows - 1;
        float v[4], n[4];
        load4<DIM>(s.x + (uint64_t)row * DIM, channel, v);
        load4<DIM>(norm, channel, n);
        *(float4 *)(x + r * SCORE_STRIDE + threadIdx.x % 8 * 4) =
            make_float4(v[0] * factor[r] * n[0], v[1] * factor[r] * n[1], v[2] * factor[r] * n[2],
                        v[3] * factor[r] * n[3]);
        for (int i = r; i < SCORE_TILE; i += PREFILL_THREADS / 8) {
            int number = first + i < scores ? first + i : scores - 1;
            load4<DIM>(vector(number), channel, v);
            *(float4 *)(w + i * SCORE_STRIDE + threadIdx.x % 8 * 4) =
                make_float4(v[0], v[1], v[2], v[3]);
        }
        block_sync();
#pragma unroll
        for (int i = 0; i < SCORE_DEPTH; i += 4) {
            float4 p = *(const float4 *)(w + lane * SCORE_STRIDE + i);
            float4 q = *(const float4 *)(w + (lane + WARP) * SCORE_STRIDE + i);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float4 t = *(const float4 *)(x + (4 * warp + j) * SCORE_STRIDE + i);
                sum[j][0] =
                    fmaf(t.w, p.w, fmaf(t.z, p.z, fmaf(t.y, p.y, fmaf(t.x, p.x, sum[j][0]))));
                sum[j][1] =
                    fmaf(t.w, q.w, fmaf(t.z, q.z, fmaf(t.y, q.y, fmaf(t.x, q.x, sum[j][1]))));
            }
        }
        block_sync();
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int row = first_row + 4 * warp + j, number = first + lane + i * WARP;
            if (row < b.rows && number < scores)
                score_parts(s)[((uint64_t)unit * b.rows + row) * STRIDE + number] = sum[j][i];
        }
}
