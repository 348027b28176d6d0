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

// Key and value heads of a layer, where layers differ; and which of them a group of query heads
// has.
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
        float2 t = *(const float2 *)(turn + 2 * j);
        y = fmaf(y, t.x, second ? other * t.y : -(other * t.y));
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

// What a head of a row is finished with.
typedef struct {
    const float *norm; // weights of its own, or null
    const float *turn; // cosines and sines, or null
    uint8_t *part;     // of its key head in the cache; null for queries
    int bits, t;       // of the cache; place in its page
    float scale;       // of queries
} HeadFacts;

enum { QUERY, KEY, VALUE };

// Which of them a head is, counted through q, k and v.
DEVICE int head_kind(int head)
{
    return head < HEADS ? QUERY : head < HEADS + KV_HEADS ? KEY : VALUE;
}

// Weights of a head's norm, or null.
DEVICE const float *head_norm(const State &s, const Layer *layer, int head)
{
    int kind = head_kind(head);
    uint64_t norm = kind == QUERY ? layer->q_norm : kind == KEY ? layer->k_norm : 0;
    if (!norm) return nullptr;
    int own = HEAD_NORMS == HEAD_NORM_SHARED ? 0 : kind == QUERY ? head : head - HEADS;
    return weights_at<float>(s, norm) + own * HEAD_DIM;
}

DEVICE int cache_bits(const State &s, bool quantized, int kind)
{
    return !quantized ? 16 : kind == VALUE ? VALUE_BITS(&s) : KEY_BITS(&s);
}

// A key head's keys or values in the page of a position.
template <bool QUANTIZED>
DEVICE uint8_t *cache_part(const State &s, const Batch &b, const Layer *layer, int row, bool value,
                           int kv_head, int position)
{
    return cache_head(&s, &b, layer, cache_bits(s, QUANTIZED, KEY), cache_bits(s, QUANTIZED, VALUE),
                      value, b.sequence[row], kv_head, position);
}

template <bool QUANTIZED>
DEVICE HeadFacts head_facts(const State &s, const Batch &b, const Layer *layer, int row, int head)
{
    int kind = head_kind(head), position = b.position[row];
    HeadFacts f;
    f.norm = head_norm(s, layer, head);
    f.turn = kind != VALUE && is_turned(layer) ? turns_of(s, layer, row) : nullptr;
    f.part = kind == QUERY ? nullptr
                           : cache_part<QUANTIZED>(s, b, layer, row, kind == VALUE,
                                                   (head - HEADS) % KV_HEADS, position);
    f.bits = cache_bits(s, QUANTIZED, kind);
    f.t = position % PAGE;
    f.scale = kind == QUERY ? query_scale(position) : 1;
    return f;
}

// Norm and rope of one head of one row, by a whole warp; queries go to `query` (HEAD_DIM), keys and
// values to the cache. `c` is its channels in shared memory. `all` is the factor of a norm over all
// heads.
DEVICE void finish_head(const HeadFacts &f, float all, float *c, float *query)
{
    int lane = threadIdx.x % WARP;
    if (f.norm) {
        float sum = 0, mean = 0, factor = all;
        if (HEAD_NORMS == HEAD_NORM_EACH) {
            for (int i = lane; i < HEAD_DIM; i += WARP) mean += c[i];
            mean = warp_sum(mean) / HEAD_DIM;
        }
        for (int i = lane; i < HEAD_DIM; i += WARP) sum += (c[i] - mean) * (c[i] - mean);
        if (HEAD_NORMS != HEAD_NORM_ALL) factor = 1.0f / sqrtf(warp_sum(sum) / HEAD_DIM + NORM_EPS);
        for (int i = lane; i < HEAD_DIM; i += WARP) c[i] = (c[i] - mean) * (factor * f.norm[i]);
        warp_sync();
    }
#if QUANTIZED_CACHE
    if (f.bits < 16) {
        finish_quantized(c, f.turn, f.scale, f.part ? nullptr : query, f.part, f.bits, f.t);
        return;
    }
#endif
    for (int i = lane; i < HEAD_DIM; i += WARP) {
        float y = turned_channel(c, i, f.turn);
        if (f.part)
            global((uint16_t *)f.part)[f.t * HEAD_DIM + i] = float_half(y);
        else
            query[i] = QUERY_BETA != 0 ? y * f.scale : y;
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
            finish_head(head_facts<false>(s, b, layer, row, before + head), 1, room + i * HEAD_DIM,
                        s.q + (uint64_t)row * Q_DIM + head * HEAD_DIM);
    }
    warp_sync();
}

// What finishing a group of heads reads besides their sums: in shared memory before those are
// there.
typedef struct {
    uint8_t *part[2];     // of its keys and values in the cache, in the page of the row's position
    const float *norm[2]; // weights of queries' and keys' norms, null: none
    int t, turned;        // place in the page; whether `turn` holds cosines and sines
    float scale;          // of queries
    __align__(16) float turn[ROPE_DIM];
    float weight[HEAD_NORMS == HEAD_NORM_SHARED ? 2 : 1][HEAD_DIM];
} Ahead;
static_assert(sizeof(Ahead) <= AHEAD_BYTES, "room of Ahead");

DEVICE Ahead *ahead(void)
{
    return (Ahead *)room();
}

// By the multiplying warps; ends out of sync.
template <bool QUANTIZED>
DEVICE void look_ahead(const State &s, const Batch &b, const Layer *layer, int row, int kv_head)
{
    Ahead *a = ahead();
    int own = kv_head_of(layer, kv_head), i = threadIdx.x;
    if (i < 2) {
        a->part[i] = cache_part<QUANTIZED>(s, b, layer, row, i, own, b.position[row]);
    } else if (i == 2) {
        int position = b.position[row];
        a->t = position % PAGE, a->scale = query_scale(position);
        a->turned = is_turned(layer);
    } else if (i < 5) {
        bool keys = i == 4;
        a->norm[keys] = head_norm(s, layer, keys ? HEADS + own : kv_head * GROUP);
    }
    if (is_turned(layer))
        for (i = threadIdx.x; i < ROPE_DIM; i += MULTIPLIERS)
            a->turn[i] = load_fresh1(turns_of(s, layer, row) + i);
    for (i = threadIdx.x; HEAD_NORMS == HEAD_NORM_SHARED && i < 2 * HEAD_DIM; i += MULTIPLIERS) {
        const float *norm = head_norm(s, layer, i < HEAD_DIM ? 0 : HEADS);
        if (norm) a->weight[i / HEAD_DIM][i % HEAD_DIM] = norm[i % HEAD_DIM];
    }
}

// Of the heads that were looked ahead to. `i`: which of the group's query heads.
DEVICE HeadFacts facts_ahead(const State &s, bool quantized, int kind, int i)
{
    const Ahead *a = ahead();
    HeadFacts f;
    f.norm = kind == VALUE || !a->norm[kind]  ? nullptr
             : HEAD_NORMS == HEAD_NORM_SHARED ? a->weight[kind]
                                              : a->norm[kind] + (kind == QUERY ? i * HEAD_DIM : 0);
    f.turn = kind != VALUE && a->turned ? a->turn : nullptr;
    f.part = kind == QUERY ? nullptr : a->part[kind == VALUE];
    f.bits = cache_bits(s, quantized, kind);
    f.t = a->t;
    f.scale = kind == QUERY ? a->scale : 1;
    return f;
}

// Factors of a norm over all heads of q and of k of a row, by the multiplying warps. `squares` is a
// float a block of columns in shared memory.
DEVICE void norms_of_all(const State &s, const Plan &plan, const uint64_t *sums, float factor,
                         float *squares, float all[2])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, kv_dim = kv_dim_of(plan.layer);
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

// Columns of linear `kind` that a group's heads are made of.
DEVICE int head_width(int kind)
{
    return kind == QUERY ? Q_PARTS * GROUP * HEAD_DIM : HEAD_DIM;
}

// First of the columns of linear `kind` of which a group of heads is made, and how many column
// blocks hold them.
DEVICE int first_column(int kind, int kv_head, int own)
{
    return (kind == QUERY ? kv_head : own) * head_width(kind);
}

DEVICE int column_blocks(int kind, int kv_head, int own)
{
    return BLOCKS(first_column(kind, kv_head, own) % BLOCK + head_width(kind));
}

// The query heads of key head kv_head of a row that was looked ahead to, and with `keys` its key
// and value and the gates of the queries, from the sums that STEP_QKV left: queries to `queries`
// (GROUP, HEAD_DIM), key and value to the cache. By all multiplying warps; `raw` is HEADS_ROOM
// floats of shared memory.
template <bool QUANTIZED>
DEVICE void finish_heads(const State &s, const Plan &plan, int row, int kv_head, bool keys,
                         float *queries, float *raw)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint64_t *sums = sums_at(s, work_of(s).sums_qkv) + (uint64_t)row * RAW_DIM;
    const float *squares = work_at<const float>(s, work_of(s).squares);
    int own = kv_head_of(plan.layer, kv_head), kinds = keys ? 3 : 1;
    int of_query = column_blocks(QUERY, kv_head, own), of_key = column_blocks(KEY, kv_head, own);
    float all[2] = {1, 1};
    if (HEAD_NORMS == HEAD_NORM_ALL)
        norms_of_all(s, plan, sums, plan.norm ? norm_factor<DIM>(squares, row, lane) : 1,
                     raw + HEADS_COLUMNS, all);
#pragma unroll 1
    for (int i = warp; i < of_query + (kinds - 1) * of_key; i += MULTIPLIERS / WARP) {
        int kind = i < of_query ? QUERY : KEY + (i - of_query) / of_key;
        int block = first_column(kind, kv_head, own) / BLOCK +
                    (kind == QUERY ? i : (i - of_query) % of_key);
        int column = kind == QUERY ? 0 : PADDED(Q_WIDE) + (kind - KEY) * PADDED(KV_DIM);
        const Linear &w = plan.part[kind].linear;
        float v[4];
        // All is asked for before anything is waited for.
        read_sums(sums + column, block, 1, v);
        uint2 svh = load_svh(s, w, block);
        float factor = plan.norm ? norm_factor<DIM>(squares, row, lane) : 1;
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] *= factor;
        finish_columns(s, w, svh, block, v);
        *(float4 *)(raw + i * BLOCK + 4 * lane) = make_float4(v[0], v[1], v[2], v[3]);
    }
    multipliers_sync();
#pragma unroll 1
    for (int i = warp; i < GROUP + kinds - 1; i += MULTIPLIERS / WARP) {
        int kind = i < GROUP ? QUERY : KEY + i - GROUP, head = kind == QUERY ? i : 0;
        int before = kind == QUERY ? 0 : of_query + (kind - KEY) * of_key;
        float *c = raw + before * BLOCK + first_column(kind, kv_head, own) % BLOCK +
                   head * Q_PARTS * HEAD_DIM;
        if (kind == QUERY && keys) finish_gates(s, row, kv_head * GROUP + head, c);
        finish_head(facts_ahead(s, QUANTIZED, kind, head),
                    HEAD_NORMS != HEAD_NORM_ALL ? 1
                    : kind == KEY               ? all[1]
                                                : all[0],
                    c, queries + head * HEAD_DIM);
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
        look_ahead<QUANTIZED>(s, b, plan.layer, row, kv_head);
        multipliers_sync();
        finish_heads<QUANTIZED>(s, plan, row, kv_head, true,
                                s.q + (uint64_t)row * Q_DIM + kv_head * GROUP * HEAD_DIM,
                                (float *)(room() + AHEAD_BYTES));
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
    finish_head(head_facts<true>(s, b, layer, row, head), all, room[warp],
                s.q + (uint64_t)row * Q_DIM + head * HEAD_DIM);
}
