// qkv: q, k, v = linear(rmsnorm(x)) + bias; per-head rmsnorm of q and k where the model has one;
// rope on the first ROPE_DIM channels; q -> s.q, k and v -> the cache. A head inside a 128-column
// block is finished where the block is; otherwise the raw columns go to memory and `finish` takes
// the heads.
#pragma once
#include "kernels/cuda/cache.cuh"
#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/wide.cuh"

// The cosines and sines of a row for a layer, (ROPE_DIM / 2, 2).
DEVICE const float *turns_of(const State &s, const Layer *layer, int row)
{
    int table = ROPES > 1 && layer->rope > 0 ? layer->rope : 0;
    return s.rope + ((uint64_t)row * ROPES + table) * ROPE_DIM;
}

DEVICE bool is_turned(const Layer *layer)
{
    return ROPE_EVERYWHERE || layer->rope >= 0;
}

// What queries at a position are multiplied with.
DEVICE float query_scale(int position)
{
    return QUERY_BETA != 0 ? 1 + QUERY_BETA * logf(1 + floorf((float)position / QUERY_FROM)) : 1;
}

// Which of q, k, v a column block belongs to; *block becomes its number there.
DEVICE int qkv_which(int *block)
{
    if (*block < BLOCKS(Q_WIDE)) return 0;
    *block -= BLOCKS(Q_WIDE);
    if (*block < BLOCKS(KV_DIM)) return 1;
    *block -= BLOCKS(KV_DIM);
    return 2;
}

// Key and value heads of a layer, where layers differ; and which of them a group of query heads has.
DEVICE int kv_dim_of(const Layer *layer)
{
    (void)layer;
    return LAYER_KV_HEADS(layer) * HEAD_DIM;
}

DEVICE int kv_head_of(const Layer *layer, int group)
{
    (void)layer;
    return LAYER_KV_HEADS(layer) == KV_HEADS ? group : group * LAYER_KV_HEADS(layer) / KV_HEADS;
}

DEVICE const Linear *qkv_linear(const Layer *layer, int which)
{
    return which == 0 ? &layer->q : which == 1 ? &layer->k : &layer->v;
}

// Channel i of a head after rope; `turn` is null where there is none.
DEVICE float turned_channel(const float *c, int i, const float *turn)
{
    float y = c[i];
    if (turn && i < ROPE_DIM) {
        constexpr int HALF = ROPE_DIM / 2;
        bool second = ROPE_INTERLEAVED ? i & 1 : i >= HALF;
        int j = ROPE_INTERLEAVED ? i / 2 : i % HALF;
        float other = c[ROPE_INTERLEAVED ? i ^ 1 : second ? i - HALF : i + HALF];
        float cosine = load_fresh1(turn + 2 * j), sine = load_fresh1(turn + 2 * j + 1);
        y = fmaf(y, cosine, second ? other * sine : -(other * sine));
    }
    return y;
}

#if QUANTIZED_CACHE
// finish_head after its norm, for a cache of less than 16 bits: to `query` or to a head's part.
FUNCTION void finish_quantized(float *c, const float *turn, float scale, float *query,
                               uint8_t *part, int bits, int t)
{
    int lane = threadIdx.x % WARP;
    float y[HEAD_GROUPS];
#pragma unroll
    for (int i = 0; i < HEAD_GROUPS; i++) y[i] = turned_channel(c, i * WARP + lane, turn) * scale;
    warp_sync();
#pragma unroll
    for (int i = 0; i < HEAD_GROUPS; i++) c[i * WARP + lane] = y[i];
    warp_sync();
#pragma unroll 1
    for (int i = 4 * lane; i < PADDED(HEAD_DIM); i += BLOCK) {
        float4 v = i < HEAD_DIM ? *(const float4 *)(c + i) : make_float4(0, 0, 0, 0);
        store_turned(query ? query + i : nullptr, part, bits, t, i / CACHE_GROUP, i < HEAD_DIM, v.x,
                     v.y, v.z, v.w);
    }
}
#endif

// Norm and rope of one head of one row, by a whole warp; queries go to `query` (HEAD_DIM), keys and
// values to the cache. `c` is its channels in shared memory; head counts through q, k and v. `all`
// is the factor of a norm over all heads.
template <bool QUANTIZED>
DEVICE void finish_head(const State &s, const Batch &b, const Layer *layer, int row, int head,
                        float all, float *c, float *query)
{
    int lane = threadIdx.x % WARP;
    bool queries = head < HEADS, value = head >= HEADS + KV_HEADS;
    uint64_t norm = queries ? layer->q_norm : value ? 0 : layer->k_norm;
    if (norm) {
        const float *weight = weights_at<float>(s, norm);
        float sum = 0, mean = 0, factor = all;
        if (HEAD_NORMS == HEAD_NORM_EACH) {
            for (int i = lane; i < HEAD_DIM; i += WARP) mean += c[i];
            mean = warp_sum(mean) / HEAD_DIM;
        }
        for (int i = lane; i < HEAD_DIM; i += WARP) sum += (c[i] - mean) * (c[i] - mean);
        if (HEAD_NORMS != HEAD_NORM_SHARED) weight += (queries ? head : head - HEADS) * HEAD_DIM;
        if (HEAD_NORMS != HEAD_NORM_ALL) factor = 1.0f / sqrtf(warp_sum(sum) / HEAD_DIM + NORM_EPS);
        for (int i = lane; i < HEAD_DIM; i += WARP) c[i] = (c[i] - mean) * (factor * weight[i]);
        warp_sync();
    }
    int key_bits = QUANTIZED ? KEY_BITS(&s) : 16, value_bits = QUANTIZED ? VALUE_BITS(&s) : 16;
    int position = b.position[row];
    uint8_t *part = queries ? nullptr
                            : cache_head(&s, &b, layer, key_bits, value_bits, value,
                                         b.sequence[row], (head - HEADS) % KV_HEADS, position);
    const float *turn = !value && is_turned(layer) ? turns_of(s, layer, row) : nullptr;
    float scale = queries && QUERY_BETA != 0 ? query_scale(position) : 1;
#if QUANTIZED_CACHE
    int bits = value ? value_bits : key_bits;
    if (bits < 16) {
        finish_quantized(c, turn, scale, queries ? query : nullptr, part, bits, position % PAGE);
        return;
    }
#endif
    for (int i = lane; i < HEAD_DIM; i += WARP) {
        float y = turned_channel(c, i, turn);
        if (queries)
            query[i] = QUERY_BETA != 0 ? y * scale : y;
        else
            global((uint16_t *)part)[position % PAGE * HEAD_DIM + i] = float_half(y);
    }
}

// The gates of a query head of a row, which follow its channels in `c`, by a whole warp: to what
// the head's values are multiplied with, in s.y (rows, Q_DIM).
DEVICE void finish_gates(const State &s, int row, int head, const float *c)
{
    if (!GATED_ATTENTION) return;
    float *to = global(s.y) + (uint64_t)row * Q_DIM + head * HEAD_DIM;
    for (int i = threadIdx.x % WARP; i < HEAD_DIM; i += WARP)
        to[i] = 1 / (1 + expf(-c[HEAD_DIM + i]));
}

// Where the columns of linear `which` of a row are left for qkv_finish.
DEVICE float *raw_columns(const State &s, int row, int which)
{
    float *raw = RAW_IN_H ? s.h : work_at<float>(s, work_of(s).raw);
    int first = which == 0 ? 0 : PADDED(Q_WIDE) + (which - 1) * PADDED(KV_DIM);
    return global(raw) + (uint64_t)row * RAW_DIM + first;
}

// A row's outputs 4 * lane .. + 3 of a column block of linear `which`, by a whole warp. `room` is
// 128 floats of shared memory of this warp.
DEVICE void finish_qkv(const State &s, const Batch &b, const Layer *layer, int which, int block,
                       int row, const float v[4], float *room)
{
    int lane = threadIdx.x % WARP;
    if (!HEADS_IN_BLOCKS || IS_QUANTIZED(&s)) {
        float *raw = raw_columns(s, row, which) + block * BLOCK + 4 * lane;
        *(float4 *)raw = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
    *(float4 *)(room + 4 * lane) = make_float4(v[0], v[1], v[2], v[3]);
    warp_sync();
    int heads = which == 0 ? HEADS : LAYER_KV_HEADS(layer);
    int before = which == 0 ? 0 : HEADS + (which - 1) * KV_HEADS;
    for (int i = 0; i < BLOCK / HEAD_DIM; i++) {
        int head = block * (BLOCK / HEAD_DIM) + i;
        if (head < heads)
            finish_head<false>(s, b, layer, row, before + head, 1, room + i * HEAD_DIM,
                               s.q + (uint64_t)row * Q_DIM + head * HEAD_DIM);
    }
    warp_sync();
}

// The query heads of key head kv_head of a row, and with `keys` its key and value and the gates of
// the queries, from the sums that STEP_QKV left: queries to `queries` (GROUP, HEAD_DIM), key and
// value to the cache. By all multiplying warps; `raw` is HEADS_ROOM floats of shared memory.
template <bool QUANTIZED>
DEVICE void finish_heads(const State &s, const Batch &b, const Plan &plan, int row, int kv_head,
                         bool keys, float *queries, float *raw)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, task = 0, heads = 0;
    const uint64_t *sums = sums_at(s, work_of(s).sums_qkv) + (uint64_t)row * RAW_DIM;
    int own = kv_head_of(plan.layer, kv_head), kv_dim = kv_dim_of(plan.layer);
    float *place[3], *to = raw;
    float factor = plan.layer->attn_norm
                       ? norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane)
                       : 1;
    float all[3] = {1, 1, 1};
    if (HEAD_NORMS == HEAD_NORM_ALL) {
        float *squares =
            raw + COVER(Q_PARTS * QUERY_FLOATS) + 2 * COVER(HEAD_DIM); // of the blocks of q, then k
        for (int i = warp; i < BLOCKS(Q_DIM) + BLOCKS(kv_dim); i += MULTIPLIERS / WARP) {
            int which = i >= BLOCKS(Q_DIM), block = which ? i - BLOCKS(Q_DIM) : i;
            float v[4], sum = 0;
            read_sums(sums + (which ? PADDED(Q_DIM) : 0), block, factor, v);
            finish_columns(s, plan.part[which].linear, block, v);
            for (int j = 0; j < 4; j++)
                if (block * BLOCK + 4 * lane + j < (which ? kv_dim : Q_DIM)) sum += v[j] * v[j];
            sum = warp_sum(sum);
            if (lane == 0) squares[i] = sum;
        }
        multipliers_sync();
        for (int which = 0; which < 2; which++) {
            float sum = 0;
            for (int i = 0; i < BLOCKS(which ? kv_dim : Q_DIM); i++)
                sum += squares[(which ? BLOCKS(Q_DIM) : 0) + i];
            all[which] = 1.0f / sqrtf(sum / (which ? kv_dim : Q_DIM) + NORM_EPS);
        }
    }
    for (int which = 0; which < (keys ? 3 : 1); which++) {
        int width = which == 0 ? Q_PARTS * GROUP * HEAD_DIM : HEAD_DIM;
        int first = (which == 0 ? kv_head : own) * width;
        int column = which == 0 ? 0 : PADDED(Q_WIDE) + (which - 1) * PADDED(KV_DIM);
        place[which] = to + first % BLOCK;
        for (int block = first / BLOCK; block * BLOCK < first + width; block++, to += BLOCK) {
            if (task++ % (MULTIPLIERS / WARP) != warp) continue;
            float v[4];
            read_sums(sums + column, block, factor, v);
            finish_columns(s, plan.part[which].linear, block, v);
            *(float4 *)(to + 4 * lane) = make_float4(v[0], v[1], v[2], v[3]);
        }
    }
    multipliers_sync();
    for (int which = 0; which < (keys ? 3 : 1); which++)
        for (int i = 0; i < (which == 0 ? GROUP : 1); i++) {
            if (heads++ % (MULTIPLIERS / WARP) != warp) continue;
            int head = which == 0 ? kv_head * GROUP + i : HEADS + (which - 1) * KV_HEADS + own;
            float *c = place[which] + i * Q_PARTS * HEAD_DIM;
            if (which == 0 && keys) finish_gates(s, row, head, c);
            finish_head<QUANTIZED>(s, b, plan.layer, row, head, all[which], c,
                                   queries + i * HEAD_DIM);
        }
    multipliers_sync();
}

// Queries of all rows to s.q, keys and values to the cache: a step of its own where rows of one
// sequence attend to each other.
template <bool QUANTIZED> DEVICE void decode_heads(const Plan &plan)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    for (int item = blockIdx.x; item < b.rows * KV_HEADS; item += gridDim.x) {
        int row = item / KV_HEADS, kv_head = item % KV_HEADS;
        finish_heads<QUANTIZED>(s, b, plan, row, kv_head, true,
                                s.q + (uint64_t)row * Q_DIM + kv_head * GROUP * HEAD_DIM,
                                (float *)room());
        multipliers_sync(); // the room is free
    }
}

// Activations of one linear layer behind the attention's norm. Grid: rows.
template <int FORMAT>
DEVICE void normed_prepare(const State &s, const Batch &b, const Layer *layer, const Linear *linear)
{
    grid_release();
    grid_wait();
    prepare<DIM, 1, FORMAT_IS_EXL3(FORMAT)>(s, linear, normed_source(s, layer->attn_norm, nullptr),
                                            blockIdx.x, b.rows);
}

// Grid: rows.
template <int Q, int K, int V>
DEVICE void qkv_prepare(const State &s, const Batch &b, const Layer *layer)
{
    grid_release();
    grid_wait();
    prepare<DIM, 3, FORMAT_IS_EXL3(Q) | FORMAT_IS_EXL3(K) << 1 | FORMAT_IS_EXL3(V) << 2>(
        s, &layer->q, normed_source(s, layer->attn_norm, nullptr), blockIdx.x, b.rows);
}

#if WGMMA
// Where the turned pairs are 32 or 64 channels apart, a lane of wide.cuh has both.
#define HEADS_IN_LANES                                                                             \
    ((HEAD_DIM == 64 || HEAD_DIM == 128) && ROPE_DIM == HEAD_DIM && !ROPE_INTERLEAVED &&           \
     HEADS_IN_BLOCKS)
#define HEAD_PARTS (HEADS_IN_LANES ? HEAD_DIM / 32 : 4) // of 4 of a lane's channels

// What finish_lanes needs of a row, read before the tile is there.
typedef struct {
    float turn[HEAD_PARTS / 2][8]; // cosine and sine of a lane's channels
    uint8_t *part;                 // of key head 0 in the cache
    int t;                         // in its page
    float query_scale;
} RowFacts;

DEVICE RowFacts row_facts(const State &s, const Batch &b, const Layer *layer, int row, bool value)
{
    RowFacts f;
    const float *turn = turns_of(s, layer, row);
#pragma unroll
    for (int q = 0; q < HEAD_PARTS / 2; q++) {
        load4<ROPE_DIM>(turn, 2 * own_column(q), f.turn[q]);
        load4<ROPE_DIM>(turn, 2 * own_column(q) + 4, f.turn[q] + 4);
    }
    int position = b.position[row];
    f.query_scale = query_scale(position);
    f.part = cache_head(&s, &b, layer, 16, 16, value, b.sequence[row], 0, position);
    f.t = position % PAGE;
    return f;
}

// finish_qkv of a row by 8 lanes, for the columns of wide.cuh.
DEVICE void finish_lanes(const State &s, const Layer *layer, int which, int block, int row,
                         const RowFacts &f, bool real, float v[16])
{
    uint64_t norm = which == 0 ? layer->q_norm : which == 1 ? layer->k_norm : 0;
#pragma unroll
    for (int first = 0; first < 4; first += HEAD_PARTS) {
        float *c = v + 4 * first;
        if (norm) {
            float sum = 0, mean = 0, weight[4];
            const float *weights = weights_at<float>(s, norm);
            if (HEAD_NORMS == HEAD_NORM_EACH) {
                weights += block * BLOCK + first * 32;
#pragma unroll
                for (int i = 0; i < 4 * HEAD_PARTS; i++) mean += c[i];
                mean = lane_sum<8>(mean) / HEAD_DIM;
            }
#pragma unroll
            for (int i = 0; i < 4 * HEAD_PARTS; i++) sum += (c[i] - mean) * (c[i] - mean);
            sum = lane_sum<8>(sum);
            float factor = 1.0f / sqrtf(sum / HEAD_DIM + NORM_EPS);
#pragma unroll
            for (int q = 0; q < HEAD_PARTS; q++) {
                load4<HEAD_DIM>(weights, own_column(q), weight);
                for (int i = 0; i < 4; i++)
                    c[4 * q + i] = (c[4 * q + i] - mean) * (factor * weight[i]);
            }
        }
        if (which < 2 && is_turned(layer)) {
#pragma unroll
            for (int i = 0; i < 2 * HEAD_PARTS; i++) {
                float cosine = f.turn[i / 4][i % 4 * 2], sine = f.turn[i / 4][i % 4 * 2 + 1];
                float x = c[i], y = c[i + 2 * HEAD_PARTS];
                c[i] = x * cosine - y * sine;
                c[i + 2 * HEAD_PARTS] = y * cosine + x * sine;
            }
        }
    }
    if (!real) return;
    if (which == 0) {
        if (QUERY_BETA != 0)
            for (int i = 0; i < 16; i++) v[i] *= f.query_scale;
        store_columns<Q_DIM>(s.q + (uint64_t)row * Q_DIM, block, v);
        return;
    }
#pragma unroll
    for (int q = 0; q < 4; q++) {
        int channel = block * BLOCK + own_column(q);
        if (channel < kv_dim_of(layer))
            *(uint2 *)(global((uint16_t *)f.part) +
                       (uint64_t)(channel / HEAD_DIM * PAGE + f.t) * HEAD_DIM +
                       channel % HEAD_DIM) = make_uint2(pack_half(v[4 * q], v[4 * q + 1]),
                                                        pack_half(v[4 * q + 2], v[4 * q + 3]));
    }
}

template <int BITS, int Q, int K, int V>
DEVICE void qkv_tile(const State &s, const Batch &b, const Layer *layer, int which, Ring *ring,
                     const Tile &t)
{
    const Linear w = *qkv_linear(layer, which);
    float sums[WIDE_ROWS / 2];
    multiply_tile<BITS, Q, K, V, DIM>(ring, which, t.rows, sums);
    const bool exl3 = which == 0   ? FORMAT_IS_EXL3(Q)
                      : which == 1 ? FORMAT_IS_EXL3(K)
                                   : FORMAT_IS_EXL3(V);
    if (exl3) hadamard_stage(sums);
    Columns columns = columns_of(s, w, t.block, exl3);
#pragma unroll
    for (int part = 0; part < WIDE_PARTS; part++) {
        if (part * WIDE_PART_ROWS >= t.rows) break;
        int count = part_rows(t, part), first = t.first + part * WIDE_PART_ROWS;
        float scale[2];
        RowFacts facts[2];
#pragma unroll
        for (int u = 0; u < 2; u++) {
            int row = readable_row(t, part, u);
            scale[u] = prepared_scale(s, which, b.rows)[row];
            if (HEADS_IN_LANES) facts[u] = row_facts(s, b, layer, row, which == 2);
        }
        float *tile = tile_part(ring, sums, part);
#pragma unroll
        for (int u = 0; u < 2; u++) {
            float v[16];
            finish_row(tile, own_row(u), scale[u], s, w, t.block, columns, exl3, v);
            if (HEADS_IN_LANES && IS_QUANTIZED(&s)) {
                if (own_row(u) < count)
                    store_columns<PADDED(WORK_MOST(Q_DIM, KV_DIM))>(
                        raw_columns(s, first + own_row(u), which), t.block, v);
            } else if (HEADS_IN_LANES)
                finish_lanes(s, layer, which, t.block, first + own_row(u), facts[u],
                             own_row(u) < count, v);
            else
                store_columns<BLOCK>(tile + own_row(u) * TILE_STRIDE, 0, v);
        }
        if (!HEADS_IN_LANES) {
            warp_sync();
            for (int i = 0; i < 8; i++) {
                int r = threadIdx.x / WARP * 8 + i;
                float *outputs = tile + r * TILE_STRIDE + 4 * (threadIdx.x % WARP), v[4];
                for (int j = 0; j < 4; j++) v[j] = outputs[j];
                if (r < count)
                    finish_qkv(s, b, layer, which, t.block, first + r, v, tile + r * TILE_STRIDE);
            }
        }
    }
}

// Item `item`: of q first, then k, then v.
DEVICE Tile qkv_item(const Layer *layer, int item, int rows, int tile_rows, int *which)
{
    int tiles = (rows + tile_rows - 1) / tile_rows, pair = item / tiles;
    int kv_dim = kv_dim_of(layer);
    *which = pair < PAIRS(Q_WIDE) ? 0 : pair < PAIRS(Q_WIDE) + PAIRS(kv_dim) ? 1 : 2;
    pair -= *which == 0 ? 0 : PAIRS(Q_WIDE) + (*which - 1) * PAIRS(kv_dim);
    return tile_at(item % tiles, pair, *which == 0 ? BLOCKS(Q_WIDE) : BLOCKS(kv_dim), rows,
                   tile_rows);
}

// Grid: clusters of two blocks.
template <int Q, int K, int V>
DEVICE void qkv_prefill(const State &s, const Batch &b, const Layer *layer, int tile_rows)
{
    constexpr int BITS = WORK_MOST(FORMAT_BITS(Q), WORK_MOST(FORMAT_BITS(K), FORMAT_BITS(V)));
    int pairs = PAIRS(Q_WIDE) + 2 * PAIRS(kv_dim_of(layer)), which;
    int items = (b.rows + tile_rows - 1) / tile_rows * pairs;
    Ring ring;
    ring_open<BITS>(&ring);
    grid_release();
    grid_wait();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < items; item = next_item(item)) {
            Tile t = qkv_item(layer, item, b.rows, tile_rows, &which);
            ring_fill<BITS, DIM>(&ring, s, qkv_linear(layer, which)->weights,
                                 FORMAT_BITS(which == 0   ? Q
                                             : which == 1 ? K
                                                          : V),
                                 t, prepared<DIM>(s, which, b.rows), b.rows);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < items; item = next_item(item)) {
            Tile t = qkv_item(layer, item, b.rows, tile_rows, &which);
            qkv_tile<BITS, Q, K, V>(s, b, layer, which, &ring, t);
        }
    }
    ring_close();
}
#else
template <int FORMAT>
DEVICE void qkv_tile(const State &s, const Batch &b, const Layer *layer, int which, int block)
{
    __shared__ __align__(16) float room[PREFILL_THREADS / WARP][BLOCK];
    const Linear w = *qkv_linear(layer, which);
    int first = blockIdx.x * TILE_ROWS, warp = threadIdx.x / WARP;
    int rows = b.rows - first < TILE_ROWS ? b.rows - first : TILE_ROWS;
    grid_wait();
    const float *tile = gemm_tile<FORMAT, DIM>(
        s, w, block, prepared<DIM>(s, which, b.rows) + (uint64_t)first * PADDED(DIM), rows);
    for (int r = warp; r < rows; r += PREFILL_THREADS / WARP) {
        float v[4];
        tile_row(tile, r, prepared_scale(s, which, b.rows)[first + r], v);
        finish_columns(s, w, block, v);
        finish_qkv(s, b, layer, which, block, first + r, v, room[warp]);
    }
}

// Grid: (tiles of rows, column blocks of q, k, v, the most of any layer).
template <int Q, int K, int V>
DEVICE void qkv_prefill(const State &s, const Batch &b, const Layer *layer, int)
{
    int block = blockIdx.y, which = qkv_which(&block);
    int format = which == 0 ? Q : which == 1 ? K : V;
    grid_release();
    if (kv_dim_of(layer) != KV_DIM && which && block >= BLOCKS(kv_dim_of(layer))) {
        grid_wait();
        return;
    }
    if (format == Q) qkv_tile<Q>(s, b, layer, which, block);
    if constexpr (K != Q)
        if (format == K) qkv_tile<K>(s, b, layer, which, block);
    if constexpr (V != Q && V != K)
        if (format == V) qkv_tile<V>(s, b, layer, which, block);
}
#endif

// The heads of a row from the raw columns, where a 128-column block does not hold whole heads.
// Grid: (rows, heads of q, k and v / 8), a warp each.
DEVICE void qkv_finish(const State &s, const Batch &b, const Layer *layer)
{
    __shared__ __align__(16) float room[PREFILL_THREADS / WARP][Q_PARTS * HEAD_DIM];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, row = blockIdx.x;
    int head = blockIdx.y * (PREFILL_THREADS / WARP) + warp;
    grid_release();
    grid_wait();
    if (head >= HEADS + 2 * KV_HEADS) return;
    int which = head < HEADS ? 0 : head < HEADS + KV_HEADS ? 1 : 2;
    int own = which == 0 ? head : (head - HEADS) % KV_HEADS;
    if (LAYER_KV_HEADS(layer) != KV_HEADS && which && own >= LAYER_KV_HEADS(layer)) return;
    int width = which == 0 ? Q_PARTS * HEAD_DIM : HEAD_DIM;
    const float *raw = raw_columns(s, row, which) + own * width;
    for (int i = lane; i < width; i += WARP) room[warp][i] = raw[i];
    float all = 1;
    if (HEAD_NORMS == HEAD_NORM_ALL && head < HEADS + KV_HEADS) {
        const float *columns = raw - (head < HEADS ? head : head - HEADS) * HEAD_DIM;
        int width = head < HEADS ? Q_DIM : kv_dim_of(layer);
        float sum = 0;
        for (int i = lane; i < width; i += WARP) sum += columns[i] * columns[i];
        all = 1.0f / sqrtf(warp_sum(sum) / width + NORM_EPS);
    }
    warp_sync();
    if (which == 0) finish_gates(s, row, head, room[warp]);
    finish_head<true>(s, b, layer, row, head, all, room[warp],
                      s.q + (uint64_t)row * Q_DIM + head * HEAD_DIM);
}
