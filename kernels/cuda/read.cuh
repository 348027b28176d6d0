// Reads memory and does nothing with it: what a GPU's memory gives at best, the measure for bench.
#pragma once
#include "kernels/cuda/common.cuh"

// vectors of 16 bytes; the sum goes to *sink if it happens to be 1, so that no read is left out.
KERNEL read_bytes(const uint4 *data, uint64_t vectors, uint32_t *sink)
{
    uint32_t sum = 0;
    uint64_t stride = (uint64_t)gridDim.x * blockDim.x;
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * stride < vectors; i += 4 * stride) {
        uint4 a = load_weights(data + i), b = load_weights(data + i + stride);
        uint4 c = load_weights(data + i + 2 * stride), d = load_weights(data + i + 3 * stride);
        sum += a.x ^ b.y ^ c.z ^ d.w ^ a.y ^ b.z ^ c.w ^ d.x;
    }
    if (sum == 1) *sink = sum;
}
