// embed: x = embedding row of the token, the sums of squares of x, and the cosines and sines of the
// row's position. keep: x -> hidden[l]. One block of 256 threads a row.
#pragma once
#include "kernels/cuda/linear.cuh"

__constant__ float ROPE_FREQUENCY[ROPES * (ROPE_DIM / 2)] = ROPE_INVERSE;
__constant__ float ROPE_FACTORS[ROPES] = {ROPE_FACTOR};

template <int FORMAT> DEVICE void embed(const State &s, const Batch &b)
{
    int row = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    grid_release();
    grid_wait();
    const uint16_t *from =
        (const uint16_t *)(s.weights + s.ends.embed) + (uint64_t)b.token[row] * DIM;
    for (int block = warp; block < BLOCKS(DIM); block += DECODE_THREADS / WARP) {
        float v[4];
        for (int i = 0; i < 4; i++) {
            int k = block * BLOCK + 4 * lane + i;
            uint16_t bits = k < DIM ? from[k] : 0;
            v[i] = FORMAT == b16 ? bits_float((uint32_t)bits << 16) : half_float(bits);
            v[i] *= EMBED_SCALE;
        }
        store_x(s, row, block, v);
    }
    float position = (float)b.position[row];
    for (int j = threadIdx.x; j < ROPES * (ROPE_DIM / 2); j += DECODE_THREADS) {
        // The angle is rounded to float32 before cosine and sine, as Hugging Face does.
        float angle = position * ROPE_FREQUENCY[j];
        float *to = s.rope + ((uint64_t)row * ROPES * (ROPE_DIM / 2) + j) * 2;
        to[0] = cosf(angle) * ROPE_FACTORS[j / (ROPE_DIM / 2)];
        to[1] = sinf(angle) * ROPE_FACTORS[j / (ROPE_DIM / 2)];
    }
}

DEVICE void keep(const State &s, const Batch &b, int l)
{
    grid_release();
    grid_wait();
    uint64_t row = blockIdx.x, rows = b.rows;
    for (int k = threadIdx.x; k < DIM; k += DECODE_THREADS)
        s.hidden[(l * rows + row) * DIM + k] = s.x[row * DIM + k];
}
