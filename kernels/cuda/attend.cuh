// attend: a = softmax(q k * scale) v over the cache, causal, optionally within a window.
//
// Decode form: an item is one row, one key head and one split of the keys; its query heads share
// the reads. Blocks take equal ranges of the items, which are found from the positions on the
// device. Where every row is a sequence of its own, a block first finishes the queries of its
// items, and with the last split the new key and value. Scores: keys are the A operand, query heads
// the 8 columns; outputs: channels of the values are A, the weights of the heads B. Splits are
// counted in tokens; the next step adds them in their order.
#pragma once
#include "kernels/cuda/qkv.cuh"

#define LOG2_E 1.4426950408889634f

// A score in powers of two, from the product of query and key.
DEVICE float score_of(float product)
{
    return ATTN_SOFTCAP != 0 ? softcap(product * SOFTMAX_SCALE, ATTN_SOFTCAP) * LOG2_E
                             : product * (SOFTMAX_SCALE * LOG2_E);
}

// What a head's score without a value adds to the weights, which are relative to 2^largest.
DEVICE float sink_weight(const State &s, const Layer *layer, int head, float largest)
{
    if (!ATTN_SINKS) return 0;
    return exp2f(weights_at<float>(s, layer->sinks)[head] * LOG2_E - largest);
}

// First key a query at `position` sees.
DEVICE int first_key(int window, int position)
{
    return window > 0 && position >= window ? position - window + 1 : 0;
}

// Channels 8 part .. of a key or value as fp16 in shared memory; zeros when `real` is 0.
DEVICE void expand_value(uint8_t *head, int bits, int t, int part, bool real, void *to)
{
    uint32_t word[4] = {};
    if (real) expand_codes(head, bits, t, part, word);
    *(uint4 *)to = {word[0], word[1], word[2], word[3]};
}

// Operand words of 16 * N channels of a row, N = 1 or 2: lane c of a group takes the 4 N channels
// from 4 N c, whose word pairs are the two halves of k of one instruction each.
#define CHUNK (HEAD_DIM % 32 == 0 ? 32 : 16)
#define CHUNKS (HEAD_DIM / CHUNK)
#define CHUNK_WORDS (CHUNK / 8)
DEVICE void load_chunk(const uint16_t *row, int chunk, int c, uint32_t word[CHUNK_WORDS])
{
    if (CHUNK == 32) {
        uint4 v = *(const uint4 *)(row + chunk * CHUNK + c * 8);
        word[0] = v.x, word[1] = v.y;
        word[2 % CHUNK_WORDS] = CHUNK == 32 ? v.z : v.x;
        word[3 % CHUNK_WORDS] = CHUNK == 32 ? v.w : v.y;
    } else {
        uint2 v = *(const uint2 *)(row + chunk * CHUNK + c * 4);
        word[0] = v.x, word[1] = v.y;
    }
}

// Where the keys and the values of a head begin in the page of a split.
typedef struct {
    uint8_t *keys, *values;
} Split;

// One item: the weighted values of its keys, their largest score and total weight, either to s.a
// (one split) or to `partial`. `queries` are (GROUP, HEAD_DIM) in shared memory, `values` the room
// behind them.
template <bool QUANTIZED>
DEVICE void attend_item(const State &s, const Layer *layer, int row, int kv_head, Split place,
                        int split, int splits, int from, int to, const float *queries,
                        uint8_t *values, float *partial)
{
    constexpr int SCORE_STRIDE = SPLIT + 4, WEIGHT_STRIDE = SPLIT + 8;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    float *scores = (float *)(values + SPLIT * VALUE_STRIDE); // (heads, SCORE_STRIDE)
    uint16_t *weights =
        (uint16_t *)(scores + HEAD_TILES * 8 * SCORE_STRIDE);           // (heads, WEIGHT_STRIDE)
    float *total = (float *)(weights + HEAD_TILES * 8 * WEIGHT_STRIDE); // (heads)
    float *largest = total + HEAD_TILES * 8;                            // (heads)
    // Keys from .. to of this split, counted from its start.
    int from_start = split * SPLIT % PAGE;
    int key_bits = cache_bits(s, QUANTIZED, KEY), value_bits = cache_bits(s, QUANTIZED, VALUE);
    uint8_t *key_head = global(place.keys), *value_head = global(place.values);
    const uint16_t *keys = (const uint16_t *)key_head + from_start * HEAD_DIM;
    const uint16_t *cached_values = (const uint16_t *)value_head + from_start * HEAD_DIM;
    int first_tile = from / 16, last_tile = to / 16;

#pragma unroll 1
    for (int i = threadIdx.x; i < (last_tile - first_tile + 1) * 16 * (HEAD_DIM / 8);
         i += MULTIPLIERS) {
        int t = first_tile * 16 + i / (HEAD_DIM / 8), part = i % (HEAD_DIM / 8);
        if (value_bits < 16)
            expand_value(value_head, value_bits, from_start + t, part, t >= from && t <= to,
                         values + t * VALUE_STRIDE + part * 16);
        else
            copy_start(values + t * VALUE_STRIDE + part * 16,
                       cached_values + t * HEAD_DIM + part * 8, t >= from && t <= to);
    }
    copy_commit();

    for (int h = 0; h < HEAD_TILES; h++) {
        uint32_t q[CHUNKS][CHUNK_WORDS];
#pragma unroll
        for (int i = 0; i < CHUNKS; i++)
#pragma unroll
            for (int j = 0; j < CHUNK_WORDS; j++) {
                float2 v = make_float2(0, 0);
                if (h * 8 + g < GROUP)
                    v = *(const float2 *)(queries + (h * 8 + g) * HEAD_DIM + i * CHUNK +
                                          c * (CHUNK / 4) + 2 * j);
                q[i][j] = pack_half(v.x, v.y);
            }
        for (int tile = first_tile + warp; tile <= last_tile; tile += MULTIPLIERS / WARP) {
            const uint16_t *low = keys + (tile * 16 + g) * HEAD_DIM, *high = low + 8 * HEAD_DIM;
            float score[4] = {};
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                uint32_t k0[CHUNK_WORDS], k1[CHUNK_WORDS];
                if (key_bits < 16) {
                    int t = from_start + tile * 16 + g;
                    expand_codes(key_head, key_bits, t, i * 4 + c, k0);
                    expand_codes(key_head, key_bits, t + 8, i * 4 + c, k1);
                } else {
                    load_chunk(low, i, c, k0);
                    load_chunk(high, i, c, k1);
                }
#pragma unroll
                for (int j = 0; j < CHUNK_WORDS; j += 2)
                    mma_half(score, k0[j], k1[j], k0[j + 1], k1[j + 1], q[i][j], q[i][j + 1]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int t = tile * 16 + g + i / 2 * 8;
                scores[(h * 8 + 2 * c + i % 2) * SCORE_STRIDE + t] =
                    t >= from && t <= to ? score_of(score[i]) : bits_float(0xff800000u);
            }
        }
    }
    multipliers_sync();

    for (int head = warp; head < GROUP; head += MULTIPLIERS / WARP) {
        float *score = scores + head * SCORE_STRIDE, most = bits_float(0xff800000u), sum = 0;
        for (int t = first_tile * 16 + lane; t < last_tile * 16 + 16; t += WARP)
            most = fmaxf(most, score[t]);
#pragma unroll
        for (int bit = 16; bit; bit /= 2) most = fmaxf(most, shuffle_xor(most, bit));
        for (int t = first_tile * 16 + lane; t < last_tile * 16 + 16; t += WARP) {
            uint16_t weight = float_half(exp2f(score[t] - most));
            weights[head * WEIGHT_STRIDE + t] = weight;
            sum += half_float(weight);
        }
        sum = warp_sum(sum);
        if (splits == 1) sum += sink_weight(s, layer, kv_head * GROUP + head, most);
        if (lane == 0) total[head] = sum, largest[head] = most;
    }
    copy_wait<0>();
    multipliers_sync();

    for (int d = warp * 16; d < HEAD_DIM; d += MULTIPLIERS / WARP * 16) {
        float sums[HEAD_TILES][4] = {};
        for (int tile = first_tile; tile <= last_tile; tile++) {
            uint32_t a[4];
            load_matrices_transposed(a, values +
                                            (tile * 16 + lane / 16 * 8 + lane % 8) * VALUE_STRIDE +
                                            (d + lane / 8 % 2 * 8) * 2);
#pragma unroll
            for (int h = 0; h < HEAD_TILES; h++) {
                const uint16_t *weight = weights + (h * 8 + g) * WEIGHT_STRIDE + tile * 16 + 2 * c;
                mma_half(sums[h], a[0], a[1], a[2], a[3], *(const uint32_t *)weight,
                         *(const uint32_t *)(weight + 8));
            }
        }
        for (int h = 0; h < HEAD_TILES; h++)
            for (int i = 0; i < 4; i++) {
                int head = h * 8 + 2 * c + i % 2, channel = d + g + i / 2 * 8;
                if (head >= GROUP) continue;
                if (splits == 1)
                    global(s.a)[(uint64_t)row * Q_DIM + (kv_head * GROUP + head) * HEAD_DIM +
                                channel] = sums[h][i] / total[head];
                else
                    partial[head * HEAD_DIM + channel] = sums[h][i];
            }
    }
    if (splits > 1 && threadIdx.x < GROUP) {
        partial[GROUP * HEAD_DIM + threadIdx.x] = largest[threadIdx.x];
        partial[GROUP * HEAD_DIM + GROUP + threadIdx.x] = total[threadIdx.x];
    }
}

// Place of the first split of a row and key head.
DEVICE float *split_partials(const State &s, int row, int kv_head)
{
    return work_at<float>(s, work_of(s).large) +
           ((uint64_t)row * KV_HEADS + kv_head) * MOST_SPLITS * SPLIT_FLOATS;
}

// Channels channel .. + 3 of a row's attention output, from its splits; zeros beyond Q_DIM.
DEVICE void add_splits(const State &s, const Layer *layer, int row, int channel, int splits,
                       float v[4])
{
    float largest = bits_float(0xff800000u), weight = 0;
    v[0] = v[1] = v[2] = v[3] = 0;
    if (channel >= Q_DIM) return;
    int head = channel / HEAD_DIM % GROUP;
    const float *partial = split_partials(s, row, channel / (GROUP * HEAD_DIM));
    const float *most = partial + GROUP * HEAD_DIM + head;
    partial += channel % (GROUP * HEAD_DIM);
#pragma unroll 8
    for (int j = 0; j < splits; j++) largest = fmaxf(largest, load_fresh1(most + j * SPLIT_FLOATS));
#pragma unroll 8
    for (int j = 0; j < splits; j++) {
        float factor = exp2f(load_fresh1(most + j * SPLIT_FLOATS) - largest);
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = fmaf(factor, load_fresh1(partial + j * SPLIT_FLOATS + i), v[i]);
        weight = fmaf(factor, load_fresh1(most + j * SPLIT_FLOATS + GROUP), weight);
    }
    weight += sink_weight(s, layer, channel / HEAD_DIM, largest);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] /= weight;
}

// Whether the queries of a pass are finished where they attend: no row sees the key of another.
DEVICE bool heads_together(const Batch &b)
{
    return b.rows == b.segments;
}

// An item of attention; items are numbered by row, key head and split.
typedef struct {
    int row, kv_head, split, index, splits; // index: of splits, which begin with the first one seen
} Item;

// `row` is its row or one before it.
DEVICE Item item_at(int item, int row)
{
    const int32_t *end = decode_shared()->items;
    while (end[row + 1] <= item) row++;
    Item i = {row};
    i.splits = (end[row + 1] - end[row]) / KV_HEADS;
    i.kv_head = (item - end[row]) / i.splits;
    i.index = (item - end[row]) % i.splits;
    i.split = decode_shared()->first_split[row] + i.index;
    return i;
}

// Where the items of this block of threads begin, or those of the next one.
DEVICE int items_begin(int block)
{
    return (uint64_t)decode_shared()->items[decode_batch().rows] * block / gridDim.x;
}

// Where the keys and values of items begin, SPLITS_AHEAD of them at a time, in shared memory.
DEVICE Split *splits_ahead(void)
{
    return (Split *)(room() + AHEAD_BYTES);
}

// Of those from `item` on, up to `end`. By the multiplying warps; ends out of sync.
template <bool QUANTIZED> DEVICE void list_splits(const Layer *layer, int item, int end)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    int number = threadIdx.x;
    if (number >= SPLITS_AHEAD || item + number >= end) return;
    Item i = item_at(item + number, 0);
    int own = kv_head_of(layer, i.kv_head), first = i.split * SPLIT;
    splits_ahead()[number] = Split{cache_part<QUANTIZED>(s, b, layer, i.row, false, own, first),
                                   cache_part<QUANTIZED>(s, b, layer, i.row, true, own, first)};
}

// What a block attends to, before the inputs are there: the items of every row, and what is known
// of its first ones. Ends out of sync.
template <bool QUANTIZED> DEVICE void plan_attend(const Layer *layer)
{
    const Batch &b = decode_batch();
    int32_t *first_split = decode_shared()->first_split, *end = decode_shared()->items;
    for (int row = threadIdx.x; row < b.rows; row += MULTIPLIERS) {
        int position = b.position[row];
        first_split[row] = first_key(layer->window, position) / SPLIT;
        end[row + 1] = (position / SPLIT - first_split[row] + 1) * KV_HEADS;
    }
    multipliers_sync();
    if (threadIdx.x == 0) {
        end[0] = 0;
        for (int row = 0; row < b.rows; row++) end[row + 1] += end[row];
    }
    multipliers_sync();
    int from = items_begin(blockIdx.x), to = items_begin(blockIdx.x + 1);
    if (from == to) return;
    list_splits<QUANTIZED>(layer, from, to);
    Item first = item_at(from, 0);
    look_ahead<QUANTIZED>(decode_state(), b, layer, first.row, first.kv_head);
}

template <bool QUANTIZED> DEVICE void decode_attend(const Decoder &d, const Plan &plan)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    float *queries = (float *)(splits_ahead() + SPLITS_AHEAD), *raw = queries + QUERY_FLOATS;
    uint8_t *values = (uint8_t *)raw;
    const Layer *layer = plan.layer;
    int from_item = items_begin(blockIdx.x), to_item = items_begin(blockIdx.x + 1);
#pragma unroll 1
    for (int item = from_item, row = 0; item < to_item; item++) {
        Item i = item_at(item, row);
        int number = (item - from_item) % SPLITS_AHEAD;
        row = i.row;
        if (number == 0 && item > from_item) {
            list_splits<QUANTIZED>(layer, item, to_item);
            multipliers_sync();
        }
        if (heads_together(b)) {
            if (item == from_item || i.index == 0 || i.index == i.splits - 1) {
                if (item > from_item && i.index == 0) {
                    look_ahead<QUANTIZED>(s, b, layer, i.row, i.kv_head);
                    multipliers_sync();
                }
                finish_heads<QUANTIZED>(s, plan, i.row, i.kv_head, i.index == i.splits - 1, queries,
                                        raw);
            }
        } else {
            for (int j = threadIdx.x; j < GROUP * HEAD_DIM; j += MULTIPLIERS)
                queries[j] =
                    load_fresh1(s.q + (uint64_t)i.row * Q_DIM + i.kv_head * GROUP * HEAD_DIM + j);
            multipliers_sync();
        }
        if (item == from_item && threadIdx.x < WARP) stamp(d, 3, 0);
        float *partial = split_partials(s, i.row, i.kv_head) + (uint64_t)i.index * SPLIT_FLOATS;
        int position = b.position[i.row], start = i.split * SPLIT;
        int from = first_key(layer->window, position) - start, to = position - start;
        from = from > 0 ? from : 0, to = to < SPLIT ? to : SPLIT - 1;
        attend_item<QUANTIZED>(s, layer, i.row, i.kv_head, splits_ahead()[number], i.split,
                               i.splits, from, to, queries, values, partial);
        multipliers_sync(); // the room is free for the next item
    }
}

// --- prefill form --------------------------------------------------------------------------------
// 64 query rows of one segment and one head a block of 4 warps, 16 rows a warp; tiles of keys and
// values two at a time in the background, running softmax in registers.

// Starts the copy of KEY_ROWS keys from `first`, and their values; zeros after key `last`.
template <bool QUANTIZED>
DEVICE void keys_start(const State &s, const Batch &b, const Layer *layer, int sequence,
                       int kv_head, int first, int last, uint8_t *keys, uint8_t *values)
{
    int key_bits = QUANTIZED ? KEY_BITS(&s) : 16, value_bits = QUANTIZED ? VALUE_BITS(&s) : 16;
    uint8_t *key_head =
        cache_head(&s, &b, layer, key_bits, value_bits, 0, sequence, kv_head, first);
    uint8_t *value_head =
        cache_head(&s, &b, layer, key_bits, value_bits, 1, sequence, kv_head, first);
    for (int i = threadIdx.x; i < KEY_ROWS * (HEAD_DIM / 8); i += 128) {
        int t = i / (HEAD_DIM / 8), part = i % (HEAD_DIM / 8);
        int in_page = first % PAGE + t, at = in_page * HEAD_DIM + part * 8;
        bool real = first + t <= last;
        if (key_bits < 16)
            expand_value(key_head, key_bits, in_page, part, real,
                         keys + t * VALUE_STRIDE + part * 16);
        else
            copy_start(keys + t * VALUE_STRIDE + part * 16, (const uint16_t *)key_head + at, real);
        if (value_bits < 16)
            expand_value(value_head, value_bits, in_page, part, real,
                         values + t * VALUE_STRIDE + part * 16);
        else
            copy_start(values + t * VALUE_STRIDE + part * 16, (const uint16_t *)value_head + at,
                       real);
    }
}

// Turns the channels of row r of a lane's two back. Of a group a lane has two in each of four
// neighbours of `sums`, and three more lanes the others.
DEVICE void turn_sums(float sums[HEAD_DIM / 8][4], int r)
{
#pragma unroll
    for (int d = 0; d < HEAD_DIM / 8; d++) {
        float *v = sums[d] + 2 * r, even = v[0] + v[1], odd = v[0] - v[1];
        v[0] = even * TURN_SCALE, v[1] = odd * TURN_SCALE;
#pragma unroll
        for (int e = 0; e < 2; e++)
#pragma unroll
            for (int bit = 1; bit < 4; bit *= 2) {
                float other = shuffle_xor(v[e], bit);
                v[e] = threadIdx.x & bit ? other - v[e] : other + v[e];
            }
    }
#pragma unroll
    for (int step = 1; step < 4; step *= 2)
#pragma unroll
        for (int d = 0; d < HEAD_DIM / 8; d++)
#pragma unroll
            for (int e = 2 * r; !(d & step) && e < 2 * r + 2; e++) {
                float low = sums[d][e], high = sums[(d + step) % (HEAD_DIM / 8)][e];
                sums[d][e] = low + high, sums[(d + step) % (HEAD_DIM / 8)][e] = low - high;
            }
}

// Up to QUERY_ROWS rows of one segment.
typedef struct {
    int sequence, row, position, rows; // row and position of the first one
} QueryTile;

// Tile `tile` of a batch, counted through its segments; false when there are not so many.
DEVICE bool find_queries(const Batch &b, int tile, QueryTile *found)
{
    int segment = 0;
    for (; segment < b.segments; segment++) {
        int tiles = (b.segment[segment].rows + QUERY_ROWS - 1) / QUERY_ROWS;
        if (tile < tiles) break;
        tile -= tiles;
    }
    if (segment == b.segments) return false;
    const Segment own = b.segment[segment];
    int before = tile * QUERY_ROWS, left = own.rows - before;
    *found = QueryTile{own.sequence, own.row + before, own.position + before,
                       left < QUERY_ROWS ? left : QUERY_ROWS};
    return true;
}

// Grid: (tiles of queries, at most rows / 64 + segments; query heads).
template <bool QUANTIZED>
DEVICE void attend_prefill(const State &s, const Batch &b, const Layer *layer)
{
    constexpr int KEY_GROUPS = KEY_ROWS / 8, CHANNEL_GROUPS = HEAD_DIM / 8;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    int head = blockIdx.y;
    grid_release();
    int window = layer->window, kv_head = kv_head_of(layer, head / GROUP);
    grid_wait();

    QueryTile own;
    if (!find_queries(b, blockIdx.x, &own)) return;
    int rows = own.rows, first_row = own.row, position = own.position;
    int last = position + rows - 1, first = first_key(window, position) / KEY_ROWS * KEY_ROWS;

    uint8_t *queries = shared_memory(), *stages = queries + QUERY_ROWS * VALUE_STRIDE;
    keys_start<QUANTIZED>(s, b, layer, own.sequence, kv_head, first, last, stages,
                          stages + KEY_ROWS * VALUE_STRIDE);
    copy_commit();
    for (int i = threadIdx.x; i < QUERY_ROWS * (HEAD_DIM / 2); i += 128) {
        int r = i / (HEAD_DIM / 2), k = i % (HEAD_DIM / 2) * 2;
        float2 v = make_float2(0, 0);
        if (r < rows)
            v = *(const float2 *)(s.q + (uint64_t)(first_row + r) * Q_DIM + head * HEAD_DIM + k);
        *(uint32_t *)(queries + r * VALUE_STRIDE + k * 2) = pack_half(v.x, v.y);
    }

    float sums[CHANNEL_GROUPS][4] = {};
    float most[2] = {bits_float(0xff800000u), bits_float(0xff800000u)}, total[2] = {0, 0};
    int at[2] = {position + warp * 16 + g, position + warp * 16 + g + 8}; // of this lane's two rows
    const uint8_t *query =
        queries + (warp * 16 + lane % 16) * VALUE_STRIDE + lane / 16 * 16; // for load_matrices
    int stage = 0;
    for (int key = first; key <= last; key += KEY_ROWS) {
        uint8_t *keys = stages + stage * 2 * KEY_ROWS * VALUE_STRIDE;
        uint8_t *values = keys + KEY_ROWS * VALUE_STRIDE;
        copy_wait<0>();
        block_sync(); // these keys are there, and the other stage is free
        stage ^= 1;
        if (key + KEY_ROWS <= last) {
            uint8_t *next = stages + stage * 2 * KEY_ROWS * VALUE_STRIDE;
            keys_start<QUANTIZED>(s, b, layer, own.sequence, kv_head, key + KEY_ROWS, last, next,
                                  next + KEY_ROWS * VALUE_STRIDE);
        }
        copy_commit();

        float score[KEY_GROUPS][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD_DIM / 16; k++) {
            uint32_t a[4];
            load_matrices(a, query + k * 32);
#pragma unroll
            for (int j = 0; j < KEY_GROUPS; j += 2) {
                uint32_t r[4];
                load_matrices(r, keys + (j * 8 + lane / 16 * 8 + lane % 8) * VALUE_STRIDE + k * 32 +
                                     lane / 8 % 2 * 16);
                mma_half(score[j], a[0], a[1], a[2], a[3], r[0], r[1]);
                mma_half(score[j + 1], a[0], a[1], a[2], a[3], r[2], r[3]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float tile_most = most[r];
#pragma unroll
            for (int j = 0; j < KEY_GROUPS; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int t = key + 8 * j + 2 * c + e;
                    bool seen = t <= at[r] && (window <= 0 || at[r] - t < window);
                    float *v = &score[j][2 * r + e];
                    *v = seen ? score_of(*v) : bits_float(0xff800000u);
                    tile_most = fmaxf(tile_most, *v);
                }
            tile_most = fmaxf(tile_most, shuffle_xor(tile_most, 1));
            tile_most = fmaxf(tile_most, shuffle_xor(tile_most, 2));
            // A row may see none of the first keys.
            float base = tile_most == bits_float(0xff800000u) ? 0 : tile_most;
            float factor = exp2f(most[r] - base), sum = 0;
            most[r] = tile_most;
#pragma unroll
            for (int j = 0; j < KEY_GROUPS; j++)
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
            for (int d = 0; d < CHANNEL_GROUPS; d++)
                sums[d][2 * r] *= factor, sums[d][2 * r + 1] *= factor;
        }
#pragma unroll
        for (int k = 0; k < KEY_ROWS / 16; k++) {
            uint32_t a0 = pack_half(score[2 * k][0], score[2 * k][1]);
            uint32_t a1 = pack_half(score[2 * k][2], score[2 * k][3]);
            uint32_t a2 = pack_half(score[2 * k + 1][0], score[2 * k + 1][1]);
            uint32_t a3 = pack_half(score[2 * k + 1][2], score[2 * k + 1][3]);
#pragma unroll
            for (int d = 0; d < CHANNEL_GROUPS; d += 2) {
                uint32_t r[4];
                load_matrices_transposed(
                    r, values + (k * 16 + lane / 8 % 2 * 8 + lane % 8) * VALUE_STRIDE + d * 16 +
                           lane / 16 * 16);
                mma_half(sums[d], a0, a1, a2, a3, r[0], r[1]);
                mma_half(sums[d + 1], a0, a1, a2, a3, r[2], r[3]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = warp * 16 + g + 8 * r;
        total[r] += sink_weight(s, layer, head, most[r]);
        if (QUANTIZED && VALUE_BITS(&s) < 16) turn_sums(sums, r);
        if (row < rows)
            for (int d = 0; d < CHANNEL_GROUPS; d++)
                *(float2 *)(s.a + (uint64_t)(first_row + row) * Q_DIM + head * HEAD_DIM + d * 8 +
                            2 * c) =
                    make_float2(sums[d][2 * r] / total[r], sums[d][2 * r + 1] / total[r]);
    }
}
