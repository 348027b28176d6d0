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

// 1 / rms of a row, by a whole warp.
template <int IN> DEVICE float norm_factor(const float *squares, int row, int lane)
{
    float sum = 0;
    for (int i = lane; i < BLOCKS(IN); i += WARP)
        sum += load_fresh1(squares + (uint64_t)row * BLOCKS(IN) + i);
    return 1.0f / sqrtf(warp_sum(sum) / IN + NORM_EPS);
}

// Raw sums of columns 4 * lane .. + 3 of a block to outputs: Hadamard, svh, bias. By a whole warp.
DEVICE void finish_columns(const State &s, const Linear &w, int block, float v[4])
{
    int lane = threadIdx.x % WARP, column = block * BLOCK + 4 * lane;
    if (w.svh) {
        float svh[4];
        hadamard(v, lane);
        load4_half(weights_at<uint16_t>(s, w.svh) + column, svh);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] *= HADAMARD_SCALE * svh[i];
    }
    if (w.bias) {
        float4 t = *weights_at<float4>(s, w.bias + 4 * (uint64_t)column);
        v[0] += t.x, v[1] += t.y, v[2] += t.z, v[3] += t.w;
    }
}

// x[row] of one 128-column block and its sum of squares, by a whole warp.
DEVICE void store_x(const State &s, float *x, int row, int block, const float v[4])
{
    int lane = threadIdx.x % WARP, column = block * BLOCK + 4 * lane;
    float sum = 0;
    store4<DIM>(x + (uint64_t)row * DIM, column, v);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (column + i < DIM) sum += v[i] * v[i];
    sum = warp_sum(sum);
    if (lane == 0) work_at<float>(s, work_of(s).squares)[(uint64_t)row * BLOCKS(DIM) + block] = sum;
}
