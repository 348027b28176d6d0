// latent: keys and values of all heads come from one latent vector a token (kernels/cpu/latent.h).
// The decode form, in steps of its own around those of a plain layer:
//   qkv              q_a and kv_a of the normed x; without q_a, q_b and kv_a
//   latent_queries   q_b of q_a's norm, where there is one
//   latent_heads     queries: key rows of kv_b and rope -> q; the latent: norm and rope -> cache
//   attend           over the latents, which are keys and values of every head
//   latent_values    adds the splits; value rows of kv_b -> y
// kv_b has 16 bits a value and is read once for ROW_GROUP rows.
//
// Attention takes LATENT_HEADS heads of a row at a time, as rows of A; LATENT_KEYS keys are B for
// the scores, and where keys and values have equally many bits the same copy is B for the sums. A
// row's keys are cut into splits by its position alone, at most LATENT_SPLITS of them.
#pragma once
#include "kernels/cuda/attend.cuh"

#if KV_LATENT
#define VALUES_AT_ONCE 32         // of an item of latent_values
#define EXPECTED_BYTES (16 << 20) // of kv_b that are read ahead of their step
static_assert(LATENT_ROW == HEAD_DIM, "a latent is cached as a head");

// Rows of kv_b of one head: (EXPANDED, KV_LATENT), its key channels first.
DEVICE const uint16_t *expansion_of(const State &s, const Layer *layer, int head)
{
    return weights_at<uint16_t>(s, layer->kv_b) + (uint64_t)head * EXPANDED * KV_LATENT;
}

// Two neighbours of kv_b.
DEVICE float2 expansion_pair(uint32_t pair)
{
    if (KV_B_FORMAT == b16)
        return make_float2(bits_float(pair << 16), bits_float(pair & 0xffff0000u));
    return make_float2(half_float(pair & 0xffff), half_float(pair >> 16));
}

// Norm and rope of a row's latent, to the cache as key and as value. `c` is LATENT_ROW channels; by
// `warps` warps, of which this is `warp`.
template <bool QUANTIZED>
DEVICE void store_latent(const State &s, const Batch &b, const Layer *layer, int row,
                         const float *c, int warp, int warps)
{
    int lane = threadIdx.x % WARP, position = b.position[row], t = position % PAGE;
    int key_bits = QUANTIZED ? KEY_BITS(&s) : 16, value_bits = QUANTIZED ? VALUE_BITS(&s) : 16;
    const float *norm = weights_at<float>(s, layer->kv_a_norm), *turn = turns_of(s, layer, row);
    float sum = 0;
    for (int i = lane; i < KV_LATENT; i += WARP) sum += c[i] * c[i];
    float factor = 1.0f / sqrtf(warp_sum(sum) / KV_LATENT + LATENT_EPS);
    for (int task = warp; task < 2 * BLOCKS(LATENT_ROW); task += warps) {
        int value = task / BLOCKS(LATENT_ROW), bits = value ? value_bits : key_bits;
        int i = task % BLOCKS(LATENT_ROW) * BLOCK + 4 * lane;
        uint8_t *part =
            cache_head(&s, &b, layer, key_bits, value_bits, value, b.sequence[row], 0, position);
        float v[4] = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (i < KV_LATENT)
                v[j] = c[i + j] * (factor * norm[i + j]);
            else if (i < LATENT_ROW)
                v[j] = turned_channel(c + KV_LATENT, i - KV_LATENT + j, turn);
#if QUANTIZED_CACHE
        if (bits < 16) {
            store_turned(nullptr, part, bits, t, i / CACHE_GROUP, i < LATENT_ROW, v[0], v[1], v[2],
                         v[3]);
            continue;
        }
#endif
        if (i < LATENT_ROW)
            *(uint2 *)(global((uint16_t *)part) + t * LATENT_ROW + i) =
                make_uint2(pack_half(v[0], v[1]), pack_half(v[2], v[3]));
    }
}

// Copies COUNT latents from a position on, CHANNELS channels of each, as keys or values in fp16;
// zeros outside from .. to. They lie in one page. By THREADS threads.
template <bool QUANTIZED, int COUNT, int CHANNELS, int THREADS>
DEVICE void latents_start(const State &s, const Batch &b, const Layer *layer, int value,
                          int sequence, int first, int from, int to, uint8_t *place)
{
    int key_bits = QUANTIZED ? KEY_BITS(&s) : 16, value_bits = QUANTIZED ? VALUE_BITS(&s) : 16;
    int bits = value ? value_bits : key_bits;
    uint8_t *part =
        global(cache_head(&s, &b, layer, key_bits, value_bits, value, sequence, 0, first));
#pragma unroll(QUANTIZED ? 1 : 4)
    for (int i = threadIdx.x; i < COUNT * (CHANNELS / 8); i += THREADS) {
        int t = i / (CHANNELS / 8), eight = i % (CHANNELS / 8), in_page = first % PAGE + t;
        bool real = first + t >= from && first + t <= to;
        uint8_t *at = place + t * VALUE_STRIDE + eight * 16;
        if (bits < 16)
            expand_value(part, bits, in_page, eight, real, at);
        else
            copy_start(at, (const uint16_t *)part + in_page * LATENT_ROW + eight * 8, real);
    }
    copy_commit();
}

template <bool QUANTIZED> DEVICE bool values_are_keys(const State &s)
{
    return !QUANTIZED || KEY_BITS(&s) == VALUE_BITS(&s);
}

// Channels i .. i + 3 of a query, turned where the keys are. By groups of eight lanes.
template <bool QUANTIZED> DEVICE uint2 query_part(const State &s, const float *q, int i, bool real)
{
    float4 t = real ? load_fresh(q + i) : make_float4(0, 0, 0, 0);
    float v[4] = {t.x, t.y, t.z, t.w};
    if (QUANTIZED && KEY_BITS(&s) < 16) turn_channels(v);
    return make_uint2(pack_half(v[0], v[1]), pack_half(v[2], v[3]));
}

// What is left of a row by the first steps: q_a, kv_a, q_b.
DEVICE const uint64_t *latent_sums(const State &s, int row)
{
    return sums_at(s, work_of(s).sums_qkv) + (uint64_t)row * RAW_DIM;
}

DEVICE float x_factor(const State &s, int row)
{
    return norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, threadIdx.x % WARP);
}

// --- latent_queries ------------------------------------------------------------------------------

#if Q_LATENT
// Factors of a row's norms, of x and of q_a.
DEVICE float2 *latent_factors(void)
{
    return (float2 *)(shared_memory() + DECODE_SHARED_BYTES - ROUTING_BYTES - LATENT_BYTES);
}

// By all multiplying warps, before they make activations of q_a.
DEVICE void begin_queries(const Decoder &d, const Plan &p)
{
    const State &s = decode_state();
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *squares = (float *)room(); // (rows, BLOCKS(Q_LATENT))
    step_start(d, p.step.kind);
    for (int task = warp; task < p.rows * BLOCKS(Q_LATENT); task += MULTIPLIERS / WARP) {
        int row = task / BLOCKS(Q_LATENT), block = task % BLOCKS(Q_LATENT);
        float v[4], sum = 0, factor = x_factor(s, row);
        read_sums(latent_sums(s, row), block, factor, v);
        finish_columns(s, p.layer->q_a, block, v);
        for (int i = 0; i < 4; i++)
            if (block * BLOCK + 4 * lane + i < Q_LATENT) sum += v[i] * v[i];
        sum = warp_sum(sum);
        if (lane == 0) squares[task] = sum;
        if (lane == 0 && block == 0) latent_factors()[row].x = factor;
    }
    multipliers_sync();
    for (int row = threadIdx.x; row < p.rows; row += MULTIPLIERS) {
        float sum = 0;
        for (int i = 0; i < BLOCKS(Q_LATENT); i++) sum += squares[row * BLOCKS(Q_LATENT) + i];
        latent_factors()[row].y = 1.0f / sqrtf(sum / Q_LATENT + LATENT_EPS);
    }
    multipliers_sync();
}

// The normed q_a.
DEVICE void load_queries(const Plan &p, int row, int block, float v[4])
{
    const State &s = decode_state();
    float2 factor = latent_factors()[row];
    float norm[4];
    read_sums(latent_sums(s, row), block, factor.x, v);
    finish_columns(s, p.layer->q_a, block, v);
    load4<Q_LATENT>(weights_at<float>(s, p.layer->q_a_norm),
                    block * BLOCK + 4 * (threadIdx.x % WARP), norm);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= factor.y * norm[i];
}
#endif

// --- latent_heads --------------------------------------------------------------------------------
// An item is a head and 128 channels of the latent. Two warps take 64 channels each, two a lane,
// for an eighth of the key rows, and there are eight eighths.

// The outputs of q_b for one head: (rows, COVER(QUERY_DIM)), from the beginning of a column block.
DEVICE void finish_queries(const State &s, const Layer *layer, int first_row, int rows, int head,
                           float *queries)
{
    int lane = threadIdx.x % WARP, first = head * QUERY_DIM / BLOCK;
    int blocks = (head * QUERY_DIM + QUERY_DIM - 1) / BLOCK - first + 1;
    for (int task = threadIdx.x / WARP; task < rows * blocks; task += MULTIPLIERS / WARP) {
        int row = task / blocks, block = task % blocks;
        float v[4], factor = Q_LATENT ? 1 : x_factor(s, first_row + row);
        read_sums(latent_sums(s, first_row + row) + QUERIES_AT, first + block, factor, v);
        finish_columns(s, layer->q_b, first + block, v);
        *(float4 *)(queries + row * COVER(QUERY_DIM) + block * BLOCK + 4 * lane) =
            make_float4(v[0], v[1], v[2], v[3]);
    }
    multipliers_sync();
}

DEVICE void map_queries(const State &s, const Layer *layer, int first_row, int rows, int head,
                        int part, const float *queries, float *sums)
{
    constexpr int DEPTH = NOPE_DIM / QUERY_PARTS, AT_ONCE = DEPTH % 4 ? 2 : 4;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, eighth = warp / 2;
    int in_part = warp % 2 * 64 + 2 * lane, channel = part * BLOCK + in_part;
    const float *q = queries + head * QUERY_DIM % BLOCK;
    float2 sum[ROW_GROUP];
#pragma unroll
    for (int r = 0; r < ROW_GROUP; r++) sum[r] = make_float2(0, 0);
    if (channel < KV_LATENT) {
        const uint16_t *k = expansion_of(s, layer, head) + channel;
#pragma unroll 4
        for (int n = eighth * DEPTH; n < (eighth + 1) * DEPTH; n += AT_ONCE) {
            float2 w[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                w[i] = expansion_pair(*(const uint32_t *)(k + (n + i) * KV_LATENT));
#pragma unroll
            for (int r = 0; r < ROW_GROUP; r++) {
                if (r >= rows) break;
                const float *t = q + r * COVER(QUERY_DIM) + n;
#pragma unroll
                for (int i = 0; i < AT_ONCE; i += 2) {
                    float2 two = *(const float2 *)(t + i);
                    sum[r].x = fmaf(two.x, w[i].x, fmaf(two.y, w[i + 1].x, sum[r].x));
                    sum[r].y = fmaf(two.x, w[i].y, fmaf(two.y, w[i + 1].y, sum[r].y));
                }
            }
        }
    }
#pragma unroll
    for (int r = 0; r < ROW_GROUP; r++)
        *(float2 *)(sums + (eighth * ROW_GROUP + r) * BLOCK + in_part) = sum[r];
    multipliers_sync();
    int r = warp % ROW_GROUP, row = first_row + r, i = 4 * lane;
    float *to = s.q + ((uint64_t)row * HEADS + head) * LATENT_ROW;
    if (r < rows && warp < ROW_GROUP && part * BLOCK + i < KV_LATENT) {
        float v[4] = {0, 0, 0, 0};
#pragma unroll
        for (int j = 0; j < QUERY_PARTS; j++) {
            float4 t = *(const float4 *)(sums + (j * ROW_GROUP + r) * BLOCK + i);
            v[0] += t.x, v[1] += t.y, v[2] += t.z, v[3] += t.w;
        }
        *(float4 *)(to + part * BLOCK + i) = make_float4(v[0], v[1], v[2], v[3]);
    }
    if (r < rows && warp >= ROW_GROUP && part == 0 && i < ROPE_DIM) {
        const float *turned = q + r * COVER(QUERY_DIM) + NOPE_DIM, *turn = turns_of(s, layer, row);
#pragma unroll
        for (int j = 0; j < 4; j++) to[KV_LATENT + i + j] = turned_channel(turned, i + j, turn);
    }
    multipliers_sync();
}

template <bool QUANTIZED> DEVICE void latent_heads(const Plan &p)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    constexpr int PARTS = BLOCKS(KV_LATENT);
    int from = HEADS * PARTS * blockIdx.x / gridDim.x;
    int to = HEADS * PARTS * (blockIdx.x + 1) / gridDim.x;
    float *queries = (float *)room(), *sums = queries + ROW_GROUP * COVER(QUERY_DIM);
    for (int first = 0; first < b.rows; first += ROW_GROUP) {
        int rows = b.rows - first < ROW_GROUP ? b.rows - first : ROW_GROUP;
#pragma unroll 1
        for (int item = from; item < to; item++) {
            int head = item / PARTS, part = item % PARTS;
            if (item == from || part == 0) finish_queries(s, p.layer, first, rows, head, queries);
            map_queries(s, p.layer, first, rows, head, part, queries, sums);
        }
    }
    // Latents, a row a block, from the blocks on that may have had less to do.
    for (int row = gridDim.x - 1 - blockIdx.x; row < b.rows; row += gridDim.x) {
        int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        for (int block = warp; block < BLOCKS(LATENT_ROW); block += MULTIPLIERS / WARP) {
            float v[4];
            read_sums(latent_sums(s, row) + PADDED(Q_LATENT), block, x_factor(s, row), v);
            finish_columns(s, p.layer->kv_a, block, v);
            *(float4 *)(queries + block * BLOCK + 4 * lane) = make_float4(v[0], v[1], v[2], v[3]);
        }
        multipliers_sync();
        store_latent<QUANTIZED>(s, b, p.layer, row, queries, warp, MULTIPLIERS / WARP);
        multipliers_sync();
    }
}

// By the copying warp, ahead of the others: has rows of kv_b that this block's items need come
// nearer, the key rows or the value rows, unless they are too many to stay there.
DEVICE void expect_expansion(const Layer *layer, bool values)
{
    constexpr int ROWS = NOPE_DIM, PARTS = BLOCKS(KV_LATENT);
    constexpr int VALUE_PARTS = (VALUE_DIM + VALUES_AT_ONCE - 1) / VALUES_AT_ONCE;
    if ((uint64_t)HEADS * EXPANDED * KV_LATENT * 2 > EXPECTED_BYTES) return;
    int parts = values ? VALUE_PARTS : PARTS, lane = threadIdx.x % WARP;
    int rows = values ? VALUES_AT_ONCE : ROWS, width = values ? KV_LATENT : BLOCK;
    for (int item = HEADS * parts * blockIdx.x / gridDim.x;
         item < HEADS * parts * (blockIdx.x + 1) / gridDim.x; item++) {
        const uint16_t *from = expansion_of(decode_state(), layer, item / parts);
        int row = values ? NOPE_DIM + item % parts * rows : 0, lines = (width + 63) / 64,
            column = values ? 0 : item % parts * width;
        for (int i = lane; i < rows * lines; i += WARP) {
            int r = row + i / lines, at = column + i % lines * 64;
            if (r < EXPANDED && at < KV_LATENT) prefetch(from + r * KV_LATENT + at);
        }
    }
}

// --- attend --------------------------------------------------------------------------------------

// Keys of a split.
DEVICE int split_length(int position)
{
    int length = LATENT_SPLIT;
    while (position / length >= LATENT_SPLITS) length *= 2;
    return length;
}

// Of a row's split: sums (HEADS, KV_LATENT), largest scores (HEADS), total weights (HEADS).
DEVICE float *latent_partial(const State &s, int row, int index)
{
    return work_at<float>(s, work_of(s).large) +
           ((uint64_t)row * LATENT_SPLITS + index) * LATENT_SPLIT_FLOATS;
}

// As plan_attend: the items of every row, heads by splits.
DEVICE void plan_latents(const Layer *layer)
{
    const Batch &b = decode_batch();
    int32_t *first_split = decode_shared()->first_split, *end = decode_shared()->items;
    for (int row = threadIdx.x; row < b.rows; row += MULTIPLIERS) {
        int position = b.position[row], length = split_length(position);
        first_split[row] = first_key(layer->window, position) / length;
        end[row + 1] = (position / length - first_split[row] + 1) * LATENT_TILES;
    }
    multipliers_sync();
    if (threadIdx.x == 0) {
        end[0] = 0;
        for (int row = 0; row < b.rows; row++) end[row + 1] += end[row];
    }
}

// Keys from .. to of a row for the heads of a tile. `keys` is the room of LATENT_KEYS latents and,
// behind it, of scores.
template <bool QUANTIZED>
DEVICE void latent_item(const State &s, const Batch &b, const Layer *layer, int row, int tile,
                        int from, int to, const uint8_t *queries, uint8_t *keys, float *partial)
{
    constexpr int TILES = LATENT_HEADS / 16, K_PARTS = LATENT_K_PARTS, KEY_TILES = LATENT_KEYS / 8;
    constexpr int SCORE_STRIDE = LATENT_SCORE_STRIDE, WEIGHT_STRIDE = LATENT_WEIGHT_STRIDE;
    constexpr int OWN = LATENT_HEADS / 16, LANES = WARP / OWN; // heads of a warp, lanes of a head
    constexpr int GROUPS = (KV_LATENT / 16 + 15) / 16;         // of 16 channels, of a warp
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    float *scores = (float *)(keys + LATENT_KEYS * VALUE_STRIDE); // (K_PARTS, heads, SCORE_STRIDE)
    uint16_t *weights = (uint16_t *)(scores + K_PARTS * LATENT_HEADS * SCORE_STRIDE);
    float *factors = (float *)(weights + LATENT_HEADS * WEIGHT_STRIDE); // (heads)
    int sequence = b.sequence[row], own = warp * OWN + lane / LANES;    // this lane's head
    float sums[GROUPS][TILES][2][4] = {}, most = bits_float(0xff800000u), total = 0;
#pragma unroll 1
    for (int key = from / LATENT_KEYS * LATENT_KEYS; key <= to; key += LATENT_KEYS) {
        latents_start<QUANTIZED, LATENT_KEYS, LATENT_ROW, MULTIPLIERS>(s, b, layer, 0, sequence,
                                                                       key, from, to, keys);
        copy_wait<0>();
        multipliers_sync();
        {
            int m = warp % TILES, n = warp / TILES % KEY_TILES, part = warp / TILES / KEY_TILES;
            const uint8_t *q =
                queries + (m * 16 + lane % 16) * VALUE_STRIDE + lane / 16 * 16; // load_matrices
            const uint8_t *k = keys + (n * 8 + lane % 8) * VALUE_STRIDE + lane / 8 * 16;
            float score[4] = {};
#pragma unroll 3
            for (int i = part * (LATENT_ROW / 32) / K_PARTS;
                 i < (part + 1) * (LATENT_ROW / 32) / K_PARTS; i++) {
                uint32_t low[4], high[4], r[4];
                load_matrices(low, q + i * 64);
                load_matrices(high, q + i * 64 + 32);
                load_matrices(r, k + i * 64);
                mma_half(score, low[0], low[1], low[2], low[3], r[0], r[1]);
                mma_half(score, high[0], high[1], high[2], high[3], r[2], r[3]);
            }
            float *at = scores + (part * LATENT_HEADS + m * 16 + g) * SCORE_STRIDE + n * 8 + 2 * c;
            *(float2 *)at = make_float2(score[0], score[1]);
            *(float2 *)(at + 8 * SCORE_STRIDE) = make_float2(score[2], score[3]);
        }
        multipliers_sync();
        {
            int first = lane % LANES * OWN; // of this lane's keys
            float v[OWN], now = most, sum = 0;
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                float product = 0;
#pragma unroll
                for (int part = 0; part < K_PARTS; part++)
                    product += scores[(part * LATENT_HEADS + own) * SCORE_STRIDE + first + i];
                int t = key + first + i;
                v[i] = t >= from && t <= to ? score_of(product) : bits_float(0xff800000u);
                now = fmaxf(now, v[i]);
            }
#pragma unroll
            for (int bit = LANES / 2; bit; bit /= 2) now = fmaxf(now, shuffle_xor(now, bit));
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                uint16_t weight = float_half(exp2f(v[i] - now));
                weights[own * WEIGHT_STRIDE + first + i] = weight;
                sum += half_float(weight);
            }
            float factor = exp2f(most - now);
            total = total * factor + lane_sum<LANES>(sum);
            most = now;
            if (lane % LANES == 0) factors[own] = factor;
        }
        if (!values_are_keys<QUANTIZED>(s)) {
            latents_start<QUANTIZED, LATENT_KEYS, KV_LATENT, MULTIPLIERS>(s, b, layer, 1, sequence,
                                                                          key, from, to, keys);
            copy_wait<0>();
        }
        multipliers_sync();
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            int d = (warp + 16 * i) * 16;
            if (d >= KV_LATENT) break;
#pragma unroll
            for (int m = 0; m < TILES; m++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float factor = factors[m * 16 + g + e / 2 * 8];
                    sums[i][m][0][e] *= factor, sums[i][m][1][e] *= factor;
                }
#pragma unroll
            for (int k = 0; k < LATENT_KEYS / 16; k++) {
                uint32_t r[4], a[4];
                load_matrices_transposed(
                    r, keys + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * VALUE_STRIDE + d * 2 +
                           lane / 16 * 16);
#pragma unroll
                for (int m = 0; m < TILES; m++) {
                    load_matrices(a, (const uint8_t *)weights +
                                         (m * 16 + lane % 16) * WEIGHT_STRIDE * 2 + k * 32 +
                                         lane / 16 * 16);
                    mma_half(sums[i][m][0], a[0], a[1], a[2], a[3], r[0], r[1]);
                    mma_half(sums[i][m][1], a[0], a[1], a[2], a[3], r[2], r[3]);
                }
            }
        }
        multipliers_sync(); // the room is free
    }
#pragma unroll
    for (int i = 0; i < GROUPS; i++)
#pragma unroll
        for (int j = 0; j < TILES * 4; j++) { // tiles of heads, halves of them, of the channels
            int d = (warp + 16 * i) * 16 + j % 2 * 8 + 2 * c, half = j / 2 % 2;
            int head = tile * LATENT_HEADS + j / 4 * 16 + g + half * 8;
            const float *sum = sums[i][j / 4][j % 2] + 2 * half;
            if (head < HEADS && d < KV_LATENT)
                *(float2 *)(partial + head * KV_LATENT + d) = make_float2(sum[0], sum[1]);
        }
    own += tile * LATENT_HEADS;
    if (lane % LANES == 0 && own < HEADS) {
        partial[HEADS * KV_LATENT + own] = most;
        partial[HEADS * KV_LATENT + HEADS + own] = total;
    }
}

template <bool QUANTIZED> DEVICE void latent_attend(const Decoder &d, const Plan &p)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    const int32_t *first_split = decode_shared()->first_split, *end = decode_shared()->items;
    uint8_t *queries = room(), *keys = queries + LATENT_HEADS * VALUE_STRIDE;
    int items = end[b.rows], window = p.layer->window;
    int from_item = (uint64_t)items * blockIdx.x / gridDim.x;
    int to_item = (uint64_t)items * (blockIdx.x + 1) / gridDim.x;
#pragma unroll 1
    for (int item = from_item, row = 0; item < to_item; item++) {
        while (end[row + 1] <= item) row++;
        int splits = (end[row + 1] - end[row]) / LATENT_TILES;
        int tile = (item - end[row]) / splits, index = (item - end[row]) % splits;
        int position = b.position[row], length = split_length(position);
        int from = first_key(window, position), to = (first_split[row] + index + 1) * length - 1;
        if (from < to + 1 - length) from = to + 1 - length;
        if (to > position) to = position;
        if (item == from_item || index == 0) {
            for (int i = threadIdx.x; i < LATENT_HEADS * (LATENT_ROW / 4); i += MULTIPLIERS) {
                int own = i / (LATENT_ROW / 4), head = tile * LATENT_HEADS + own;
                int channel = i % (LATENT_ROW / 4) * 4;
                *(uint2 *)(queries + own * VALUE_STRIDE + channel * 2) = query_part<QUANTIZED>(
                    s, s.q + ((uint64_t)row * HEADS + head) * LATENT_ROW, channel, head < HEADS);
            }
            if (item == from_item && threadIdx.x < WARP) stamp(d, 3, 0);
        }
        latent_item<QUANTIZED>(s, b, p.layer, row, tile, from, to, queries, keys,
                               latent_partial(s, row, index));
    }
}

// --- latent_values -------------------------------------------------------------------------------
// An item is a head and 32 of its values, two a warp.

// The latents that attention gives for a head: (rows, KV_LATENT).
template <bool QUANTIZED>
DEVICE void add_latents(const State &s, const Batch &b, const Layer *layer, int first, int rows,
                        int head, float *latents)
{
    int lane = threadIdx.x % WARP, count = rows * (KV_LATENT / 4);
    for (int i = threadIdx.x; i - lane < count; i += MULTIPLIERS) {
        int at = i < count ? i : count - 1, row = first + at / (KV_LATENT / 4);
        int channel = at % (KV_LATENT / 4) * 4, position = b.position[row];
        int length = split_length(position);
        int splits = position / length - first_key(layer->window, position) / length + 1;
        const float *partial = latent_partial(s, row, 0);
        const float *most = partial + HEADS * KV_LATENT + head;
        float largest = bits_float(0xff800000u), weight = 0, v[4] = {0, 0, 0, 0};
        partial += head * KV_LATENT + channel;
#pragma unroll 8
        for (int j = 0; j < splits; j++)
            largest = fmaxf(largest, load_fresh1(most + j * LATENT_SPLIT_FLOATS));
#pragma unroll 4
        for (int j = 0; j < splits; j++) {
            float factor = exp2f(load_fresh1(most + j * LATENT_SPLIT_FLOATS) - largest);
            float4 t = load_fresh(partial + j * LATENT_SPLIT_FLOATS);
            v[0] = fmaf(factor, t.x, v[0]), v[1] = fmaf(factor, t.y, v[1]);
            v[2] = fmaf(factor, t.z, v[2]), v[3] = fmaf(factor, t.w, v[3]);
            weight = fmaf(factor, load_fresh1(most + j * LATENT_SPLIT_FLOATS + HEADS), weight);
        }
        for (int j = 0; j < 4; j++) v[j] /= weight;
        if (QUANTIZED && VALUE_BITS(&s) < 16) turn_channels(v);
        if (i < count) *(float4 *)(latents + i * 4) = make_float4(v[0], v[1], v[2], v[3]);
    }
    multipliers_sync();
}

template <bool QUANTIZED> DEVICE void latent_values(const Plan &p)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    constexpr int PARTS = (VALUE_DIM + VALUES_AT_ONCE - 1) / VALUES_AT_ONCE;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int from = HEADS * PARTS * blockIdx.x / gridDim.x;
    int to = HEADS * PARTS * (blockIdx.x + 1) / gridDim.x;
    float *latents = (float *)room();
    for (int first = 0; first < b.rows; first += ROW_GROUP) {
        int rows = b.rows - first < ROW_GROUP ? b.rows - first : ROW_GROUP;
#pragma unroll 1
        for (int item = from; item < to; item++) {
            int head = item / PARTS, value = item % PARTS * VALUES_AT_ONCE + 2 * warp;
            const uint16_t *w =
                expansion_of(s, p.layer, head) + (uint64_t)(NOPE_DIM + value) * KV_LATENT;
            float sum[2][ROW_GROUP] = {};
            if (item == from || item % PARTS == 0)
                add_latents<QUANTIZED>(s, b, p.layer, first, rows, head, latents);
#pragma unroll
            for (int k = 0; k < BLOCKS(KV_LATENT); k++) {
                float4 u[2];
                int channel = k * BLOCK + 4 * lane;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint2 four = make_uint2(0, 0);
                    if (channel < KV_LATENT && value + i < VALUE_DIM)
                        four = *(const uint2 *)(w + i * KV_LATENT + channel);
                    float2 low = expansion_pair(four.x), high = expansion_pair(four.y);
                    u[i] = make_float4(low.x, low.y, high.x, high.y);
                }
#pragma unroll
                for (int r = 0; r < ROW_GROUP; r++) {
                    if (r >= rows || channel >= KV_LATENT) break;
                    float4 t = *(const float4 *)(latents + r * KV_LATENT + channel);
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        sum[i][r] = fmaf(
                            t.x, u[i].x,
                            fmaf(t.y, u[i].y, fmaf(t.z, u[i].z, fmaf(t.w, u[i].w, sum[i][r]))));
                }
            }
#pragma unroll
            for (int r = 0; r < ROW_GROUP; r++) {
                if (r >= rows) break;
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float all = warp_sum(sum[i][r]);
                    if (lane == 0 && value + i < VALUE_DIM)
                        s.y[(uint64_t)(first + r) * ATTENDED + head * VALUE_DIM + value + i] = all;
                }
            }
            multipliers_sync(); // the latents are free
        }
    }
}

#endif
