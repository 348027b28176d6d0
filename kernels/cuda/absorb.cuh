// Latent attention in the prefill form: q_a and kv_a, then the norm of q_a and the latents into the
// cache, q_b (without q_a, all of x), and per head the key rows of kv_b on the queries, attention
// over latents, and the value rows of kv_b on what it gives. Of State.y: q_a (rows, Q_LATENT),
// kv_a (rows, LATENT_ROW), q_b (rows, HEADS, QUERY_DIM); at the end values (rows, HEADS, VALUE_DIM).
#pragma once
#include "kernels/cuda/latent.cuh"
#include "kernels/cuda/out.cuh"

#if KV_LATENT

DEVICE float *latent_rows(const State &s, const Batch &b)
{
    return s.y + (uint64_t)b.rows * Q_LATENT;
}

DEVICE float *query_rows(const State &s, const Batch &b)
{
    return latent_rows(s, b) + (uint64_t)b.rows * LATENT_ROW;
}

// Norms q_a in place. By a block of PREFILL_THREADS.
DEVICE void norm_queries(const State &s, const Layer *layer, int row)
{
    __shared__ float squares[PREFILL_THREADS / WARP];
    const float *norm = weights_at<float>(s, layer->q_a_norm);
    float *q = s.y + (uint64_t)row * Q_LATENT, sum = 0;
    for (int i = threadIdx.x; i < Q_LATENT; i += PREFILL_THREADS) sum += q[i] * q[i];
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) squares[threadIdx.x / WARP] = sum;
    block_sync();
    sum = 0;
    for (int i = 0; i < PREFILL_THREADS / WARP; i++) sum += squares[i];
    float factor = 1.0f / sqrtf(sum / WIDER(Q_LATENT, 1) + LATENT_EPS);
    for (int i = threadIdx.x; i < Q_LATENT; i += PREFILL_THREADS) q[i] *= factor * norm[i];
}

// Norms q_a in place; latents to the cache. Grid: rows.
DEVICE void latent_norm(const State &s, const Batch &b, const Layer *layer)
{
    int row = blockIdx.x;
    grid_release();
    grid_wait();
    if (Q_LATENT) norm_queries(s, layer, row);
    store_latent<true>(s, b, layer, row, latent_rows(s, b) + (uint64_t)row * LATENT_ROW,
                       threadIdx.x / WARP, PREFILL_THREADS / WARP);
}

// --- kv_b ----------------------------------------------------------------------------------------

#define MAP_ROWS 64
#define MAP_DEPTH 64                    // channels at a time
#define MAP_STRIDE (MAP_DEPTH * 2 + 16) // bytes of a row, padded against conflicts
#define MAP_WIDE_STRIDE (BLOCK * 2 + 16)

// Queries to latents, or with VALUES latents to values: 64 rows of a head by 128 columns, a warp
// 16 rows. Key rows of kv_b are (NOPE_DIM, KV_LATENT), k by columns; value rows (VALUE_DIM,
// KV_LATENT), columns by k. Grid: (tiles of rows, heads x column blocks); 128 threads.
template <bool VALUES> DEVICE void map_latents(const State &s, const Batch &b, const Layer *layer)
{
    constexpr int DEPTH = VALUES ? KV_LATENT : NOPE_DIM, WIDTH = VALUES ? VALUE_DIM : KV_LATENT;
    __shared__ __align__(16) uint8_t x[MAP_ROWS * MAP_STRIDE],
        w[VALUES ? BLOCK * MAP_STRIDE : MAP_DEPTH * MAP_WIDE_STRIDE];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    int head = blockIdx.y / BLOCKS(WIDTH), column = blockIdx.y % BLOCKS(WIDTH) * BLOCK;
    int first = blockIdx.x * MAP_ROWS;
    const uint16_t *matrix = expansion_of(s, layer, head) + (VALUES ? NOPE_DIM * KV_LATENT : 0);
    const float *from = VALUES ? s.a + head * LATENT_ROW : query_rows(s, b) + head * QUERY_DIM;
    const int stride = HEADS * (VALUES ? LATENT_ROW : QUERY_DIM);
    float sums[BLOCK / 8][4] = {};
    grid_release();
    grid_wait();
#pragma unroll 1
    for (int k0 = 0; k0 < DEPTH; k0 += MAP_DEPTH) {
#pragma unroll 4
        for (int i = threadIdx.x; i < MAP_ROWS * (MAP_DEPTH / 4); i += 128) {
            int r = i / (MAP_DEPTH / 4), k = i % (MAP_DEPTH / 4) * 4;
            float v[4] = {0, 0, 0, 0};
            if (first + r < b.rows) load4<DEPTH>(from + (uint64_t)(first + r) * stride, k0 + k, v);
            if (VALUES && VALUE_BITS(&s) < 16) turn_channels(v);
            *(uint2 *)(x + r * MAP_STRIDE + k * 2) =
                make_uint2(pack_half(v[0], v[1]), pack_half(v[2], v[3]));
        }
#pragma unroll 4
        for (int i = threadIdx.x; i < BLOCK * MAP_DEPTH / 4; i += 128) {
            constexpr int QUARTERS = (VALUES ? MAP_DEPTH : BLOCK) / 4;
            int r = i / QUARTERS, j = i % QUARTERS * 4;
            int row = (VALUES ? column : k0) + r, at = (VALUES ? k0 : column) + j;
            uint2 v = make_uint2(0, 0);
            if (row < (VALUES ? VALUE_DIM : NOPE_DIM) && at < KV_LATENT)
                v = *(const uint2 *)(matrix + (uint64_t)row * KV_LATENT + at);
            *(uint2 *)(w + r * (VALUES ? MAP_STRIDE : MAP_WIDE_STRIDE) + j * 2) =
                make_uint2(plain_pair<KV_B_FORMAT>(v.x), plain_pair<KV_B_FORMAT>(v.y));
        }
        block_sync();
#pragma unroll
        for (int k = 0; k < MAP_DEPTH / 16; k++) {
            uint32_t a[4], r[4];
            load_matrices(a, x + (warp * 16 + lane % 16) * MAP_STRIDE + k * 32 + lane / 16 * 16);
#pragma unroll
            for (int j = 0; j < BLOCK / 8; j += 2) {
                if (VALUES)
                    load_matrices(r, w + (j * 8 + lane / 16 * 8 + lane % 8) * MAP_STRIDE + k * 32 +
                                         lane / 8 % 2 * 16);
                else
                    load_matrices_transposed(
                        r, w + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * MAP_WIDE_STRIDE + j * 16 +
                               lane / 16 * 16);
                mma_half(sums[j], a[0], a[1], a[2], a[3], r[0], r[1]);
                mma_half(sums[j + 1], a[0], a[1], a[2], a[3], r[2], r[3]);
            }
        }
        block_sync();
    }
    float *to = VALUES ? s.y + head * VALUE_DIM : s.q + head * LATENT_ROW;
    const int to_stride = HEADS * (VALUES ? VALUE_DIM : LATENT_ROW);
#pragma unroll
    for (int e = 0; e < 2; e++) {
        int row = first + warp * 16 + g + 8 * e;
        if (row >= b.rows) continue;
#pragma unroll
        for (int j = 0; j < BLOCK / 8; j++) {
            int at = column + j * 8 + 2 * c;
            if (at < WIDTH)
                *(float2 *)(to + (uint64_t)row * to_stride + at) =
                    make_float2(sums[j][2 * e], sums[j][2 * e + 1]);
        }
    }
    // The turned channels of the queries, a row at a time.
    for (int i = 0; i < (VALUES || column > 0 ? 0 : 16 * ROPE_DIM); i += WARP) {
        int row = first + warp * 16 + i / ROPE_DIM, channel = i % ROPE_DIM + lane;
        if (row < b.rows)
            to[(uint64_t)row * to_stride + KV_LATENT + channel] = turned_channel(
                from + (uint64_t)row * stride + NOPE_DIM, channel, turns_of(s, layer, row));
    }
}

// --- attention -----------------------------------------------------------------------------------
// 64 query rows of one segment and one head a block of 8 warps: of 16 rows one warp takes the even
// part of the keys' scores and the first half of the channels, another the rest. KEYS at a time,
// with room for it the next ones in the background.

static_assert(LATENT_PREFILL_SHARED_BYTES(16) <= 99 * 1024, "what every GPU gives a block");

template <bool QUANTIZED, int KEYS>
DEVICE void latent_prefill(const State &s, const Batch &b, const Layer *layer)
{
    constexpr int STAGES = LATENT_STAGES(KEYS), SCORE_STRIDE = KEYS + 4, HALF = KV_LATENT / 2;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    int head = blockIdx.y, rows_at = warp % 4 * 16, half = warp / 4;
    grid_release();
    int window = layer->window;
    grid_wait();

    QueryTile own;
    if (!find_queries(b, blockIdx.x, &own)) return;
    int rows = own.rows, first_row = own.row, position = own.position;
    int last = position + rows - 1, from = first_key(window, position), first = from / KEYS * KEYS;

    uint8_t *queries = shared_memory(), *stages = queries + QUERY_ROWS * VALUE_STRIDE;
    float *scores = (float *)(stages + STAGES * KEYS * VALUE_STRIDE); // (rows, SCORE_STRIDE)
    if (STAGES > 1)
        latents_start<QUANTIZED, KEYS, LATENT_ROW, 256>(s, b, layer, 0, own.sequence, first, from,
                                                        last, stages);
    for (int i = threadIdx.x; i < QUERY_ROWS * (LATENT_ROW / 4); i += 256) {
        int r = i / (LATENT_ROW / 4), channel = i % (LATENT_ROW / 4) * 4;
        *(uint2 *)(queries + r * VALUE_STRIDE + channel * 2) = query_part<QUANTIZED>(
            s, s.q + ((uint64_t)(first_row + r) * HEADS + head) * LATENT_ROW, channel, r < rows);
    }

    float sums[HALF / 8][4] = {};
    float most[2] = {bits_float(0xff800000u), bits_float(0xff800000u)}, total[2] = {0, 0};
    int at[2] = {position + rows_at + g, position + rows_at + g + 8}; // of this lane's two rows
    const uint8_t *query = queries + (rows_at + lane % 16) * VALUE_STRIDE + lane / 16 * 16;
    int stage = 0;
#pragma unroll 1
    for (int key = first; key <= last; key += KEYS) {
        uint8_t *keys = stages + stage * KEYS * VALUE_STRIDE;
        if (STAGES == 1) {
            block_sync(); // the keys before are read
            latents_start<QUANTIZED, KEYS, LATENT_ROW, 256>(s, b, layer, 0, own.sequence, key, from,
                                                            last, keys);
        }
        copy_wait<0>();
        block_sync(); // these keys are there, and the other stage is free
        stage = (stage + 1) % STAGES;
        if (STAGES > 1 && key + KEYS <= last)
            latents_start<QUANTIZED, KEYS, LATENT_ROW, 256>(s, b, layer, 0, own.sequence,
                                                            key + KEYS, from, last,
                                                            stages + stage * KEYS * VALUE_STRIDE);
        {
            float score[KEYS / 16][4] = {};
#pragma unroll 3
            for (int k = 0; k < LATENT_ROW / 32; k++) {
                uint32_t low[4], high[4];
                load_matrices(low, query + k * 64);
                load_matrices(high, query + k * 64 + 32);
#pragma unroll
                for (int j = 0; j < KEYS / 16; j++) {
                    uint32_t r[4];
                    load_matrices(r, keys +
                                         ((half * (KEYS / 16) + j) * 8 + lane % 8) * VALUE_STRIDE +
                                         k * 64 + lane / 8 * 16);
                    mma_half(score[j], low[0], low[1], low[2], low[3], r[0], r[1]);
                    mma_half(score[j], high[0], high[1], high[2], high[3], r[2], r[3]);
                }
            }
#pragma unroll
            for (int j = 0; j < KEYS / 16; j++) {
                float *to =
                    scores + (rows_at + g) * SCORE_STRIDE + half * (KEYS / 2) + 8 * j + 2 * c;
                *(float2 *)to = make_float2(score[j][0], score[j][1]);
                *(float2 *)(to + 8 * SCORE_STRIDE) = make_float2(score[j][2], score[j][3]);
            }
        }
        block_sync();
        if (!values_are_keys<QUANTIZED>(s)) {
            latents_start<QUANTIZED, KEYS, KV_LATENT, 256>(s, b, layer, 1, own.sequence, key, from,
                                                           last, keys);
            copy_wait<0>();
            block_sync();
        }
        float score[KEYS / 8][4];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float *row = scores + (rows_at + g + 8 * r) * SCORE_STRIDE + 2 * c;
            float tile_most = most[r];
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
                float2 product = *(const float2 *)(row + 8 * j);
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int t = key + 8 * j + 2 * c + e;
                    bool seen = t <= at[r] && (window <= 0 || at[r] - t < window);
                    float v = seen ? score_of(e ? product.y : product.x) : bits_float(0xff800000u);
                    score[j][2 * r + e] = v;
                    tile_most = fmaxf(tile_most, v);
                }
            }
            tile_most = fmaxf(tile_most, shuffle_xor(tile_most, 1));
            tile_most = fmaxf(tile_most, shuffle_xor(tile_most, 2));
            // A row may see none of the first keys.
            float base = tile_most == bits_float(0xff800000u) ? 0 : tile_most;
            float factor = exp2f(most[r] - base), sum = 0;
            most[r] = tile_most;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float weight = exp2f(score[j][2 * r + e] - base);
                    score[j][2 * r + e] = weight;
                    sum += weight;
                }
            sum += shuffle_xor(sum, 1);
            sum += shuffle_xor(sum, 2);
            total[r] = total[r] * factor + sum;
#pragma unroll
            for (int d = 0; d < HALF / 8; d++)
                sums[d][2 * r] *= factor, sums[d][2 * r + 1] *= factor;
        }
#pragma unroll
        for (int k = 0; k < KEYS / 16; k++) {
            uint32_t a0 = pack_half(score[2 * k][0], score[2 * k][1]);
            uint32_t a1 = pack_half(score[2 * k][2], score[2 * k][3]);
            uint32_t a2 = pack_half(score[2 * k + 1][0], score[2 * k + 1][1]);
            uint32_t a3 = pack_half(score[2 * k + 1][2], score[2 * k + 1][3]);
#pragma unroll
            for (int d = 0; d < HALF / 8; d += 2) {
                uint32_t r[4];
                load_matrices_transposed(
                    r, keys + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * VALUE_STRIDE +
                           (half * HALF + d * 8) * 2 + lane / 16 * 16);
                mma_half(sums[d], a0, a1, a2, a3, r[0], r[1]);
                mma_half(sums[d + 1], a0, a1, a2, a3, r[2], r[3]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = rows_at + g + 8 * r;
        if (row >= rows) continue;
        float *to = s.a + ((uint64_t)(first_row + row) * HEADS + head) * LATENT_ROW + half * HALF;
#pragma unroll
        for (int d = 0; d < HALF / 8; d++)
            *(float2 *)(to + d * 8 + 2 * c) =
                make_float2(sums[d][2 * r] / total[r], sums[d][2 * r + 1] / total[r]);
    }
}

#endif
