// What both forms of a linear layer share: where its input comes from, norms, finished columns.
//
//     y = ((x . suh) H) W  H . svh + bias        H: 128-point Hadamard blocks / sqrt(128)
#pragma once
#include "kernels/cuda/exl3.cuh"
#include "kernels/cuda/work.h"

DEVICE const Work &work_of(const State &s)
{
    return *(const Work *)s.places;
}

template <typename T> DEVICE T *work_at(const State &s, uint64_t place)
{
    return global((T *)((uint8_t *)s.work + place));
}

// What lies at a place of the weights.
template <typename T> DEVICE const T *weights_at(const State &s, uint64_t place)
{
    return global((const T *)(s.weights + place));
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

// The same of a vector of `in` out of IN.
template <int IN> DEVICE void load4_of(const float *p, int k, int in, float v[4])
{
    load4<IN>(p, k, v);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (in != IN && k + i >= in) v[i] = 0;
}

// The same for what other blocks of this launch may have written.
template <int IN> DEVICE void load4_fresh(const float *p, int k, float v[4])
{
    if (IN % 4 == 0) {
        float4 t = make_float4(0, 0, 0, 0);
        if (k < IN) t = load_fresh(p + k);
        v[0] = t.x, v[1] = t.y, v[2] = t.z, v[3] = t.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = k + i < IN ? load_fresh1(p + k + i) : 0;
    }
}

// c tanh(x / c); x itself where c is 0.
DEVICE float softcap(float x, float c)
{
    return c != 0 ? c * tanhf(x * (1 / c)) : x;
}

// Four halves at a multiple of 4.
DEVICE void load4_half(const uint16_t *p, float v[4])
{
    uint2 t = *(const uint2 *)p;
    v[0] = half_float(t.x & 0xffff), v[1] = half_float(t.x >> 16);
    v[2] = half_float(t.y & 0xffff), v[3] = half_float(t.y >> 16);
}

// Stores values column .. column + 3 of a vector of N.
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

// The norm of a row is (x - mean) * factor, times weights.
typedef struct {
    float mean, factor;
} Moments;

// A lane's share of a row's MOMENTS numbers.
#define LANE_BLOCKS ((BLOCKS(DIM) + WARP - 1) / WARP)
typedef struct {
    float squares[LANE_BLOCKS], all[LAYER_NORM ? LANE_BLOCKS : 1];
} LaneMoments;

// FRESH: in global memory, where others wrote them.
template <bool FRESH> DEVICE LaneMoments load_moments(const float *squares, int lane)
{
    LaneMoments own;
#pragma unroll
    for (int j = 0; j < LANE_BLOCKS; j++) {
        int i = lane + j * WARP;
        const float *at = squares + (i < BLOCKS(DIM) ? i : 0);
        own.squares[j] = FRESH ? load_fresh1(at) : *at;
        if (LAYER_NORM) own.all[j] = FRESH ? load_fresh1(at + BLOCKS(DIM)) : at[BLOCKS(DIM)];
    }
    return own;
}

// By a whole warp.
DEVICE Moments moments_of(const LaneMoments &own, int lane)
{
    float sum = 0, mean = 0;
#pragma unroll
    for (int j = 0; j < LANE_BLOCKS; j++)
        if (LAYER_NORM && lane + j * WARP < BLOCKS(DIM)) mean += own.all[j];
    if (LAYER_NORM) mean = warp_sum(mean) / DIM;
#pragma unroll
    for (int j = 0; j < LANE_BLOCKS; j++) {
        int i = lane + j * WARP;
        if (i >= BLOCKS(DIM)) continue;
        sum += own.squares[j];
        if (!LAYER_NORM) continue;
        float count = DIM - i * BLOCK < BLOCK ? DIM - i * BLOCK : BLOCK;
        float away = own.all[j] / count - mean;
        sum += count * away * away;
    }
    Moments m = {mean, 1.0f / sqrtf(warp_sum(sum) / DIM + NORM_EPS)};
    return m;
}

DEVICE Moments row_moments(const float *squares, int row, int lane)
{
    return moments_of(load_moments<true>(squares + (uint64_t)row * MOMENTS, lane), lane);
}

template <int IN> DEVICE float norm_factor(const float *squares, int row, int lane)
{
    static_assert(IN == DIM, "squares are of x");
    return row_moments(squares, row, lane).factor;
}

// A linear layer as a tile is given it: itself, or what it will be looked up by once the products
// are there, which leaves their registers alone (route.cuh).
DEVICE const Linear &linear_of(const Linear &w)
{
    return w;
}

// Whether the decode form leaves a layer's last products as sums, for the step after it to add.
DEVICE bool leaves_down(const Layer *layer)
{
    return !PARALLEL && !layer->ffn_post && !(EXPERTS && layer->router);
}

// svh of columns 4 * lane .. + 3 of a block, as halves, if the layer has it: known before products.
DEVICE uint2 load_svh(const State &s, const Linear &w, int block)
{
    uint2 none = {};
    return w.svh ? *(weights_at<uint2>(s, w.svh) + block * WARP + threadIdx.x % WARP) : none;
}

// Raw sums of these columns to outputs: Hadamard, svh, bias. By a whole warp.
DEVICE void finish_columns(const State &s, const Linear &w, uint2 svh, int block, float v[4])
{
    int lane = threadIdx.x % WARP;
    if (w.svh) {
        float scale[4] = {half_float(svh.x & 0xffff), half_float(svh.x >> 16),
                          half_float(svh.y & 0xffff), half_float(svh.y >> 16)};
        hadamard(v, lane);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] *= HADAMARD_SCALE * scale[i];
    }
    if (w.bias) {
        float4 t = *(weights_at<float4>(s, w.bias) + block * WARP + lane);
        v[0] += t.x, v[1] += t.y, v[2] += t.z, v[3] += t.w;
    }
}

DEVICE void finish_columns(const State &s, const Linear &w, int block, float v[4])
{
    finish_columns(s, w, load_svh(s, w, block), block, v);
}

// The sum over 32 lanes, or over 8 of them.
template <int LANES> DEVICE float lane_sum(float v)
{
#pragma unroll
    for (int bit = LANES / 2; bit; bit /= 2) v += shuffle_xor(v, bit);
    return v;
}

// A 128-column block of a row of x, LANES lanes with COUNT columns each, to the row's moments.
template <int LANES, int COUNT>
DEVICE void put_moments(float *squares, int block, const float v[COUNT], const bool real[COUNT],
                        bool store)
{
    float sum = 0, mean = 0, square = 0;
    if (LAYER_NORM) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) sum += real[i] ? v[i] : 0;
        sum = lane_sum<LANES>(sum);
        mean = sum / (DIM - block * BLOCK < BLOCK ? DIM - block * BLOCK : BLOCK);
    }
#pragma unroll
    for (int i = 0; i < COUNT; i++)
        if (real[i]) square += (v[i] - mean) * (v[i] - mean);
    square = lane_sum<LANES>(square);
    if (!store || threadIdx.x % LANES != 0) return;
    squares[block] = square;
    if (LAYER_NORM) squares[BLOCKS(DIM) + block] = sum;
}

// The same for a whole warp, with its columns 4 * lane .. + 3.
DEVICE void put_moments(float *squares, int block, const float v[4])
{
    int column = block * BLOCK + 4 * (threadIdx.x % WARP);
    bool real[4] = {column < DIM, column + 1 < DIM, column + 2 < DIM, column + 3 < DIM};
    put_moments<WARP, 4>(squares, block, v, real, true);
}

DEVICE float *row_squares(const State &s, int row)
{
    return work_at<float>(s, work_of(s).squares) + (uint64_t)row * MOMENTS;
}

// x[row] of one 128-column block and its moments, by a whole warp.
DEVICE void store_x(const State &s, float *x, int row, int block, const float v[4])
{
    store4<DIM>(x + (uint64_t)row * DIM, block * BLOCK + 4 * (threadIdx.x % WARP), v);
    put_moments(row_squares(s, row), block, v);
}
