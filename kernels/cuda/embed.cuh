// embed: x = embedding row of the token, the sums of squares of x, and the cosines and sines of the
// row's position. keep: x -> hidden[l].
#pragma once
#include "kernels/cuda/skips.cuh"

__constant__ float ROPE_FREQUENCY[ROPES * (ROPE_DIM / 2)] = ROPE_INVERSE;
__constant__ float ROPE_FACTORS[ROPES] = {ROPE_FACTOR};

// One row, by the first `threads` threads of a block.
template <int FORMAT> DEVICE void embed_row(const State &s, const Batch &b, int row, int threads)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint16_t *from = weights_at<uint16_t>(s, s.ends.embed) + (uint64_t)b.token[row] * DIM;
    for (int block = warp; block < BLOCKS(DIM); block += threads / WARP) {
        float v[4];
        for (int i = 0; i < 4; i++) {
            int k = block * BLOCK + 4 * lane + i;
            uint16_t bits = k < DIM ? from[k] : 0;
            v[i] = FORMAT == b16 ? bits_float((uint32_t)bits << 16) : half_float(bits);
            v[i] *= EMBED_SCALE;
        }
        store_x(s, s.x, row, block, v);
    }
    float position = (float)b.position[row];
    for (int j = threadIdx.x; j < ROPES * (ROPE_DIM / 2); j += threads) {
        // The angle is rounded to float32 before cosine and sine, as Hugging Face does.
        float angle = position * ROPE_FREQUENCY[j];
        float *to = s.rope + ((uint64_t)row * ROPES * (ROPE_DIM / 2) + j) * 2;
        to[0] = cosf(angle) * ROPE_FACTORS[j / (ROPE_DIM / 2)];
        to[1] = sinf(angle) * ROPE_FACTORS[j / (ROPE_DIM / 2)];
    }
}

// Grid: rows.
template <int FORMAT> DEVICE void embed(const State &s, const Batch &b)
{
    grid_release();
    grid_wait();
    embed_row<FORMAT>(s, b, blockIdx.x, PREFILL_THREADS);
}

// hidden[l] = x before layer l, or the normed x after the last. pending: x as the decode form
// leaves it, with the products of the layer before still to be added. Grid: rows; 256 threads.
DEVICE void keep(const State &s, const Batch &b, int l, bool pending)
{
    grid_release();
    grid_wait();
    int row = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const Linear *down =
        pending && l > 0 && leaves_down(&s.layers[l - 1]) ? &s.layers[l - 1].down : nullptr;
    const float *from = s.x;
    uint64_t sums = work_of(s).sums_down;
#if SKIPS_PARTS
    if (pending) {
        Before before = after_layer(s, l - 1);
        down = pending_linear(before), from = x_before(s, before.odd);
        sums = pending_sums_of(work_of(s), before);
    }
#endif
    __shared__ float squares[MOMENTS];
    for (int block = warp; block < BLOCKS(DIM); block += PREFILL_THREADS / WARP) {
        float v[4], y[4];
        load4<DIM>(from + (uint64_t)row * DIM, block * BLOCK + 4 * lane, v);
        if (down) {
            read_sums(sums_at(s, sums) + (uint64_t)row * PADDED(DIM), block, 1, y);
            finish_columns(s, *down, block, y);
            for (int i = 0; i < 4; i++) v[i] = y[i] * RESIDUAL_SCALE + v[i];
        }
        store4<DIM>(s.hidden + ((uint64_t)l * b.rows + row) * DIM, block * BLOCK + 4 * lane, v);
        put_moments(squares, block, v);
    }
    if (l < LAYERS) return;
    block_sync();
    Moments m = moments_of(load_moments<false>(squares, lane), lane);
    const float *norm = weights_at<float>(s, s.ends.norm);
    float *x = s.hidden + ((uint64_t)LAYERS * b.rows + row) * DIM;
    for (int k = threadIdx.x; k < DIM; k += PREFILL_THREADS)
        x[k] = (x[k] - m.mean) * m.factor * norm[k];
}
