// delta: x -> RMSNorm -> q, k, v and z -> convolution over the last DELTA_TAPS tokens of each
// channel of q, k and v, and silu -> gated delta rule. delta_grouped: the same from one product.
// delta_out: RMSNorm of each head of what that reads, times silu(z); x += its product with Wo.
//
// A head of values has a matrix S (KEY_DIM, VALUE_DIM) in float32, zero before the first token. A
// token decays it, corrects what its key finds there towards its value, and reads at its query:
//     S = d S;  S += k (s (v - k S));  y = q S
// with d and s one number a head and token, and q and k of length one, q over sqrt(KEY_DIM). Rows
// of a sequence follow each other; heads and columns of S are independent.
//
// Decode form, three steps:
//   delta_in   the products, and the gates' scores, as sums
//   delta      four warps take a part of a head's columns, each eight of them in registers, the
//              matrix on its way before the sums are there; q and k of a head are finished and
//              convolved by all who need them
//   delta_out  the tokens that the next convolution needs are kept now that nobody reads the old
//              ones; the norm's factor is applied while the values are loaded
// Many rows: products and gates as tiles, the convolution for all rows, then the rule in chunks of
// tokens (delta_chunk.cuh).
#pragma once
#include "kernels/cuda/out.cuh"
#include "kernels/cuda/scores.cuh"
#include "kernels/cuda/up.cuh"

#if DELTA_HEADS
#define SHARING (DELTA_HEADS / DELTA_KEY_HEADS) // heads of values to one of keys
#define GROUP_IN (2 * DELTA_KEY_DIM + 2 * SHARING * DELTA_VALUE_DIM)

enum { DELTA_Q, DELTA_K, DELTA_V, DELTA_Z };

// The key head, or itself, that a head of values takes a part from.
DEVICE int delta_head(int part, int head)
{
    return part < DELTA_V ? head / SHARING : head;
}

DEVICE int delta_width(int part)
{
    return part < DELTA_V ? DELTA_KEY_DIM : DELTA_VALUE_DIM;
}

// The first column of a head in the product that it comes from.
DEVICE int delta_column(int part, int head)
{
    if (!DELTA_BY_KEYS)
        return (part == DELTA_K   ? DELTA_KEYS
                : part == DELTA_V ? 2 * DELTA_KEYS
                                  : 0) +
               head * delta_width(part);
    if (part < DELTA_V) return head * GROUP_IN + (part == DELTA_K ? DELTA_KEY_DIM : 0);
    return head / SHARING * GROUP_IN + 2 * DELTA_KEY_DIM +
           (head % SHARING + (part == DELTA_Z ? SHARING : 0)) * DELTA_VALUE_DIM;
}

// The first channel of a head in the convolution.
DEVICE int delta_channel(int part, int head)
{
    return part * DELTA_KEYS + head * delta_width(part);
}

// A sequence's state of a layer (features.h): the matrices, then the tokens before.
DEVICE float *state_of(const State &s, const Layer *layer, int sequence)
{
    return global(s.states) + ((uint64_t)sequence * STATE_LAYERS + layer->kept) * LAYER_STATE;
}

DEVICE float silu(float x)
{
    return divide_fast(x, 1 + expf(-x));
}

// --- gates ---------------------------------------------------------------------------------------

// The vector of score `number` of DELTA_GATES.
DEVICE const float *gate_vector(const State &s, const Layer *layer, int number)
{
    int head = number % DELTA_HEADS, decay = number / DELTA_HEADS, row = head;
    if (DELTA_BY_KEYS) row = (head / SHARING * 2 + decay) * SHARING + head % SHARING;
    return weights_at<float>(s, decay ? layer->delta_a : layer->delta_b) + (uint64_t)row * DIM;
}

// s, d and its logarithm of a head from their scores.
typedef struct {
    float strength, decay, log_decay;
} Gates;

DEVICE Gates gates_of(const State &s, const Layer *layer, int head, float strength, float decay)
{
    float x = decay + weights_at<float>(s, layer->dt_bias)[head];
    float softplus = x > 20 ? x : log1pf(expf(x));
    float log_decay = -expf(weights_at<float>(s, layer->a_log)[head]) * softplus;
    Gates g = {1 / (1 + expf(-strength)), expf(log_decay), log_decay};
    return g;
}

// --- the rule ------------------------------------------------------------------------------------
// Lane 4 g + c has of its warp's columns 2 c and 2 c + 1, rows 4 (g + 8 j) + i in m[4 j + i].

#define MATRIX_ROWS (DELTA_KEY_UP / 8)

// `matrix` is that of a head from the warp's columns on.
DEVICE void load_matrix(const float *matrix, bool empty, float2 m[MATRIX_ROWS])
{
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < MATRIX_ROWS; i++) {
        int row = 4 * (g + 8 * (i / 4)) + i % 4;
        m[i] = make_float2(0, 0);
        if (!empty && row < DELTA_KEY_DIM) m[i] = load_fresh2(matrix + row * DELTA_COLUMNS + 2 * c);
    }
}

DEVICE void store_matrix(float *matrix, const float2 m[MATRIX_ROWS])
{
    int g = threadIdx.x % WARP / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < MATRIX_ROWS; i++) {
        int row = 4 * (g + 8 * (i / 4)) + i % 4;
        if (row < DELTA_KEY_DIM) *(float2 *)(matrix + row * DELTA_COLUMNS + 2 * c) = m[i];
    }
}

// The sums over lanes of the same columns.
DEVICE float2 sum_rows(float2 v)
{
#pragma unroll
    for (int bit = 4; bit < WARP; bit *= 2)
        v.x += shuffle_xor(v.x, bit), v.y += shuffle_xor(v.y, bit);
    return v;
}

// Four channels of q or k from row 4 (g + 8 j) on, times `scale`.
DEVICE float4 load_rows(const float *from, int j, float scale)
{
    float4 v = *(const float4 *)(from + 4 * (threadIdx.x % WARP / 4 + 8 * j));
    return make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
}

// One token, by a whole warp; what it reads in the lane's columns. q and k (DELTA_KEY_UP), zeros
// beyond KEY_DIM, are in shared memory and multiplied with their scales.
DEVICE float2 delta_token(float2 m[MATRIX_ROWS], const float *q, float q_scale, const float *k,
                          float k_scale, float2 v, Gates gates)
{
    float2 even = make_float2(0, 0), odd = even, y = even;
#pragma unroll
    for (int j = 0; j < MATRIX_ROWS / 4; j++) {
        float4 key = load_rows(k, j, k_scale);
        const float2 *own = m + 4 * j;
        even.x = fmaf(key.x, own[0].x, even.x), even.y = fmaf(key.x, own[0].y, even.y);
        odd.x = fmaf(key.y, own[1].x, odd.x), odd.y = fmaf(key.y, own[1].y, odd.y);
        even.x = fmaf(key.z, own[2].x, even.x), even.y = fmaf(key.z, own[2].y, even.y);
        odd.x = fmaf(key.w, own[3].x, odd.x), odd.y = fmaf(key.w, own[3].y, odd.y);
    }
    float2 found = sum_rows(make_float2(even.x + odd.x, even.y + odd.y));
    float2 change = make_float2(gates.strength * (v.x - gates.decay * found.x),
                                gates.strength * (v.y - gates.decay * found.y));
#pragma unroll
    for (int j = 0; j < MATRIX_ROWS / 4; j++) {
        float4 key = load_rows(k, j, k_scale), query = load_rows(q, j, q_scale);
        float keys[4] = {key.x, key.y, key.z, key.w};
        float queries[4] = {query.x, query.y, query.z, query.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 *own = m + 4 * j + i;
            own->x = fmaf(keys[i], change.x, gates.decay * own->x);
            own->y = fmaf(keys[i], change.y, gates.decay * own->y);
            y.x = fmaf(queries[i], own->x, y.x), y.y = fmaf(queries[i], own->y, y.y);
        }
    }
    return sum_rows(y);
}

// What makes channels of q or k of length one, from the sum of their squares.
DEVICE float length_factor(float square, int part)
{
    return 1 / sqrtf(square + 1e-6f) / (part == DELTA_Q ? sqrtf(DELTA_KEY_DIM) : 1);
}

// --- the tokens before a segment -----------------------------------------------------------------

// Channel `channel` of the convolution, of the token `back` tokens before a sequence's next one.
DEVICE float token_before(const float *state, int position, int channel, int back)
{
    if (position == 0) return 0;
    return load_fresh1(state + DELTA_MATRICES + (DELTA_TAPS - 1 - back) * CONV_DIM + channel);
}

// Keeps a channel of the last tokens of a segment, whose first row of it is at `raw`, rows `stride`
// floats apart.
DEVICE void keep_channel(float *state, const Segment &segment, int channel, const float *raw,
                         int stride)
{
    float kept[DELTA_TAPS - 1];
#pragma unroll
    for (int t = 0; t < DELTA_TAPS - 1; t++) {
        int row = segment.rows - (DELTA_TAPS - 1) + t;
        kept[t] = row < 0 ? token_before(state, segment.position, channel, -row)
                          : load_fresh1(raw + (uint64_t)row * stride);
    }
#pragma unroll
    for (int t = 0; t < DELTA_TAPS - 1; t++)
        state[DELTA_MATRICES + t * CONV_DIM + channel] = kept[t];
}

// --- decode form ---------------------------------------------------------------------------------

// What `delta` leaves for `delta_out`, in State.y.
typedef struct {
    float *values;  // (rows, DELTA_VALUES): y times norm and silu(z)
    float *raw;     // (rows, CONV_DIM): q, k and v before the convolution
    float *squares; // (rows, DELTA_HEADS, DELTA_EIGHTHS): of y
} DeltaLeft;

DEVICE DeltaLeft delta_left(const State &s, int rows)
{
    DeltaLeft left;
    left.values = global(s.y);
    left.raw = left.values + (uint64_t)rows * DELTA_VALUES;
    left.squares = left.raw + (uint64_t)rows * CONV_DIM;
    return left;
}

// By the copying warp: what will be read of the gates; and for the convolution, each a share.
DEVICE void expect_gates(const Layer *layer)
{
    expect_scores(DELTA_GATES,
                  [&](int number) { return gate_vector(decode_state(), layer, number); });
}

DEVICE void expect_delta(const Layer *layer)
{
    const State &s = decode_state();
    for (int block = blockIdx.x; block < BLOCKS(DELTA_IN); block += gridDim.x)
        expect_halves(s, layer->delta_in.svh, block);
    for (int block = blockIdx.x; block < BLOCKS(DELTA_VALUES) && !DELTA_BY_KEYS; block += gridDim.x)
        expect_halves(s, layer->delta_z.svh, block);
    for (int line = blockIdx.x * WARP + threadIdx.x % WARP; line < DELTA_TAPS * CONV_DIM / 32;
         line += gridDim.x * WARP)
        prefetch(weights_at<float>(s, layer->conv) + line * 32);
}

// Adds the gates' scores, by the multiplying warps, the last ones first: those seldom have
// activations to prepare.
DEVICE void score_gates(const Plan &p)
{
    const State &s = decode_state();
    add_scores<DELTA_SUMS>(p, MULTIPLIERS / WARP - 1 - threadIdx.x / WARP, DELTA_GATES,
                           sums_at(s, p.sums) + DELTA_GATES_AT, false,
                           [&](int number) { return gate_vector(s, p.layer, number); });
}

DEVICE void keep_tokens(const Plan &p)
{
    const State &s = decode_state();
    const Batch &b = decode_batch();
    const float *raw = delta_left(s, b.rows).raw;
    for (int i = blockIdx.x * MULTIPLIERS + threadIdx.x; i < b.segments * CONV_DIM;
         i += gridDim.x * MULTIPLIERS) {
        const Segment &segment = b.segment[i / CONV_DIM];
        int channel = i % CONV_DIM;
        keep_channel(state_of(s, p.layer, segment.sequence), segment, channel,
                     raw + (uint64_t)segment.row * CONV_DIM + channel, CONV_DIM);
    }
}

// Values of delta_out's input, normed.
DEVICE void load_delta(const Plan &p, int row, int block, float v[4])
{
    const DeltaLeft left = delta_left(decode_state(), p.rows);
    int channel = block * BLOCK + 4 * (threadIdx.x % WARP), last = -1;
    float factor = 0;
    load4_fresh<DELTA_VALUES>(left.values + (uint64_t)row * DELTA_VALUES, channel, v);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int head = (channel + i) / DELTA_VALUE_DIM;
        if (head >= DELTA_HEADS) break;
        if (i == 0 || (DELTA_VALUE_DIM % 4 && head != last)) {
            const float *squares =
                left.squares + ((uint64_t)row * DELTA_HEADS + head) * DELTA_EIGHTHS;
            float sum = 0;
#pragma unroll
            for (int j = 0; j < DELTA_EIGHTHS; j++) sum += load_fresh1(squares + j);
            factor = 1 / sqrtf(sum / DELTA_VALUE_DIM + NORM_EPS);
        }
        last = head;
        v[i] *= factor;
    }
}

// What four warps work on: a part of the columns of a head, and a sequence's rows.
typedef struct {
    const Segment *segment;
    int head, part;
    float *state, *matrix; // the latter from this warp's columns on
    bool own;              // the warp has columns
} DeltaItem;

DEVICE DeltaItem delta_item(const Layer *layer, int number)
{
    const State &s = decode_state();
    int warp = threadIdx.x / WARP % 4;
    DeltaItem item;
    item.part = number % DELTA_PARTS;
    item.head = number / DELTA_PARTS % DELTA_HEADS;
    item.segment = decode_batch().segment + number / (DELTA_PARTS * DELTA_HEADS);
    item.state = state_of(s, layer, item.segment->sequence);
    item.matrix =
        item.state + item.head * DELTA_KEY_DIM * DELTA_COLUMNS + item.part * DELTA_PART + 8 * warp;
    item.own = 8 * warp < DELTA_PART;
    return item;
}

// Where four warps have the columns of a row, in shared memory.
typedef struct {
    float *part[4]; // q, k, v, z: finished
    float *mixed;   // (DELTA_MIXED) q, k, v after the convolution, without lengths
    float *open;    // (DELTA_PART) norm times silu(z)
} DeltaRoom;

// The columns of an item's part of a row: from which on, and how many there are.
DEVICE int item_column(const DeltaItem &item, int part)
{
    return delta_column(part, delta_head(part, item.head)) +
           (part < DELTA_V ? 0 : item.part * DELTA_PART);
}

DEVICE int item_width(const DeltaItem &item, int part)
{
    int left = DELTA_VALUE_DIM - item.part * DELTA_PART;
    return part < DELTA_V ? DELTA_KEY_DIM : left < DELTA_PART ? left : DELTA_PART;
}

DEVICE DeltaRoom delta_room(const DeltaItem &item)
{
    DeltaRoom r;
    float *at = (float *)room() + threadIdx.x / 128 * DELTA_FOUR;
#pragma unroll
    for (int part = 0; part < 4; part++) {
        r.part[part] = at + item_column(item, part) % BLOCK;
        at += part < DELTA_V ? COVER(DELTA_KEY_DIM) : COVER(DELTA_PART);
    }
    r.mixed = at;
    r.open = r.mixed + DELTA_MIXED;
    return r;
}

// Finishes the blocks of a row's sums that an item needs, each by one of its four warps.
DEVICE void finish_parts(const Plan &p, const DeltaItem &item, const DeltaRoom &r, int row,
                         float factor)
{
    const State &s = decode_state();
    const uint64_t *sums = sums_at(s, work_of(s).sums_qkv) + (uint64_t)row * DELTA_SUMS;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP % 4, task = 0;
#pragma unroll 1
    for (int part = 0; part < 4; part++) {
        bool z = part == DELTA_Z && !DELTA_BY_KEYS;
        int first = item_column(item, part), end = first + item_width(item, part);
        float *to = r.part[part] - first % BLOCK;
#pragma unroll 1
        for (int block = first / BLOCK; block * BLOCK < end; block++, to += BLOCK) {
            if (task++ % 4 != warp) continue;
            float v[4];
            read_sums(sums + (z ? DELTA_Z_AT : 0), block, factor, v);
            finish_columns(s, z ? p.layer->delta_z : p.layer->delta_in, block, v);
            *(float4 *)(to + 4 * lane) = make_float4(v[0], v[1], v[2], v[3]);
        }
    }
}

// Channel i of DELTA_MIXED of an item: its part, and its number in the convolution, or -1.
DEVICE int item_channel(const DeltaItem &item, int i, int *part, int *within)
{
    *part = i / DELTA_KEY_UP < DELTA_V ? i / DELTA_KEY_UP : DELTA_V;
    *within = i - *part * DELTA_KEY_UP;
    if (*within >= item_width(item, *part)) return -1;
    return delta_channel(*part, delta_head(*part, item.head)) +
           (*part == DELTA_V ? item.part * DELTA_PART : 0) + *within;
}

// A thread's channels of an item, i = thread % 128, + 128, ... of DELTA_MIXED: their taps, what the
// tokens before left of them, and of channel i of z the norm's weight.
#define DELTA_EACH ((DELTA_MIXED + 127) / 128)
typedef struct {
    float taps[DELTA_EACH][DELTA_TAPS], before[DELTA_EACH][DELTA_TAPS - 1], norm;
} DeltaChannels;

DEVICE void load_channels(const Layer *layer, const DeltaItem &item, DeltaChannels *own)
{
    const State &s = decode_state();
    int z = threadIdx.x % 128;
#pragma unroll
    for (int j = 0; j < DELTA_EACH; j++) {
        int part, within, channel = item_channel(item, j * 128 + z, &part, &within);
        const float *taps = weights_at<float>(s, layer->conv) + channel;
#pragma unroll
        for (int t = 0; t < DELTA_TAPS; t++) {
            own->taps[j][t] = channel < 0 ? 0 : taps[t * CONV_DIM];
            if (t < DELTA_TAPS - 1)
                own->before[j][t] = channel < 0 ? 0
                                                : token_before(item.state, item.segment->position,
                                                               channel, DELTA_TAPS - 1 - t);
        }
    }
    own->norm = 0;
    if (z < item_width(item, DELTA_Z))
        own->norm = weights_at<float>(s, layer->delta_norm)[item.part * DELTA_PART + z];
}

// From the finished columns of a row to r.mixed and r.open.
DEVICE void convolve(const Plan &p, const DeltaItem &item, const DeltaRoom &r, int row,
                     DeltaChannels *own)
{
    float *raw = delta_left(decode_state(), p.rows).raw + (uint64_t)row * CONV_DIM;
    bool keeps_keys = item.part == 0 && item.head % SHARING == 0;
    int z = threadIdx.x % 128;
#pragma unroll
    for (int j = 0; j < DELTA_EACH; j++) {
        int part, within, channel = item_channel(item, j * 128 + z, &part, &within);
        float x = channel < 0 ? 0 : r.part[part][within], sum = 0;
        if (channel >= 0 && (part == DELTA_V || keeps_keys)) raw[channel] = x;
#pragma unroll
        for (int t = 0; t < DELTA_TAPS - 1; t++) {
            sum += own->before[j][t] * own->taps[j][t];
            own->before[j][t] = t + 2 < DELTA_TAPS ? own->before[j][(t + 1) % (DELTA_TAPS - 1)] : x;
        }
        sum += x * own->taps[j][DELTA_TAPS - 1];
        if (j * 128 + z < DELTA_MIXED) r.mixed[j * 128 + z] = silu(sum);
    }
    if (z < item_width(item, DELTA_Z)) r.open[z] = own->norm * silu(r.part[DELTA_Z][z]);
}

// Of the part that this warp finds in r.mixed.
DEVICE float item_length(const DeltaRoom &r, int part)
{
    float square = 0;
#pragma unroll
    for (int i = threadIdx.x % WARP; i < DELTA_KEY_UP; i += WARP) {
        float v = r.mixed[part * DELTA_KEY_UP + i];
        square += v * v;
    }
    return length_factor(warp_sum(square), part);
}

// One row of an item, by four warps.
DEVICE void delta_row(const Plan &p, const DeltaItem &item, const DeltaRoom &r, int row,
                      DeltaChannels *own, float2 m[MATRIX_ROWS])
{
    const State &s = decode_state();
    const uint64_t *scores =
        sums_at(s, work_of(s).sums_qkv) + (uint64_t)row * DELTA_SUMS + DELTA_GATES_AT + item.head;
    int four = threadIdx.x / 128, warp = threadIdx.x / WARP % 4, lane = threadIdx.x % WARP;
    float factor = norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane);
    Gates gates = gates_of(s, p.layer, item.head, score_from_fixed(load_fresh64(scores)) * factor,
                           score_from_fixed(load_fresh64(scores + DELTA_HEADS)) * factor);
    finish_parts(p, item, r, row, factor);
    four_warps_sync(four);
    convolve(p, item, r, row, own);
    four_warps_sync(four);
    if (!item.own) return;
    int column = 8 * warp + 2 * (lane % 4), value = item.part * DELTA_PART + column; // of the head
    const float *v = r.mixed + 2 * DELTA_KEY_UP + column;
    float2 y = delta_token(m, r.mixed, item_length(r, DELTA_Q), r.mixed + DELTA_KEY_UP,
                           item_length(r, DELTA_K), make_float2(v[0], v[1]), gates);
    DeltaLeft left = delta_left(s, p.rows);
    float *to = left.values + (uint64_t)row * DELTA_VALUES + item.head * DELTA_VALUE_DIM + value;
    if (lane < 4 && value < DELTA_VALUE_DIM) to[0] = y.x * r.open[column];
    if (lane < 4 && value + 1 < DELTA_VALUE_DIM) to[1] = y.y * r.open[column + 1];
    float square = y.x * y.x + y.y * y.y;
    square += shuffle_xor(square, 1);
    square += shuffle_xor(square, 2);
    if (lane == 0)
        left.squares[((uint64_t)row * DELTA_HEADS + item.head) * DELTA_EIGHTHS +
                     item.part * (DELTA_PART / 8) + warp] = square;
}

// What an item needs that earlier launches left, all on its way at once.
DEVICE DeltaItem load_item(const Layer *layer, int number, DeltaChannels *own,
                           float2 m[MATRIX_ROWS])
{
    DeltaItem item = delta_item(layer, number);
    if (item.own) load_matrix(item.matrix, item.segment->position == 0, m);
    load_channels(layer, item, own);
    return item;
}

// By the multiplying warps; the numbers are the decoder's. With registers of its own: a matrix
// takes 32 that other steps would miss.
FUNCTION void decode_delta(int together, int steps, const Plan &p)
{
    Decoder d = {};
    d.together = together, d.steps = steps;
    int items = decode_batch().segments * DELTA_HEADS * DELTA_PARTS;
    int number = threadIdx.x / 128 * gridDim.x + blockIdx.x;
    bool loaded = together && number < items; // before the inputs are there
    DeltaItem item;
    DeltaChannels own;
    float2 m[MATRIX_ROWS];
    if (loaded) item = load_item(p.layer, number, &own, m);
    step_start(d, STEP_DELTA);
    clear_sums(p.old_sums, p.old_count);
#pragma unroll 1
    for (; number < items; number += MULTIPLIERS / 128 * gridDim.x, loaded = false) {
        if (!loaded) item = load_item(p.layer, number, &own, m);
        DeltaRoom r = delta_room(item);
#pragma unroll 1
        for (int i = 0; i < item.segment->rows; i++)
            delta_row(p, item, r, item.segment->row + i, &own, m);
        if (item.own) store_matrix(item.matrix, m);
    }
}

// --- prefill form --------------------------------------------------------------------------------

// In State.y; keys and links in the work's large part, after the products.
typedef struct {
    float *in;      // (rows, DELTA_IN) the projection
    float *z;       // (rows, DELTA_VALUES), unless grouped
    float *values;  // (rows, DELTA_VALUES) v after the convolution; then what is read
    float *gates;   // (rows, DELTA_GATES)
    uint8_t *keys;  // (rows, DELTA_KEY_HEADS, DELTA_KEY_BYTES): q, then k after the convolution
    uint8_t *links; // (rows, DELTA_HEADS, DELTA_LINK_BYTES): of delta_chunk.cuh
} DeltaRows;

DEVICE DeltaRows delta_rows(const State &s, int rows)
{
    DeltaRows d;
    d.in = global(s.y);
    d.z = d.in + (uint64_t)rows * DELTA_IN;
    d.values = d.z + (DELTA_BY_KEYS ? 0 : (uint64_t)rows * DELTA_VALUES);
    d.gates = d.values + (uint64_t)rows * DELTA_VALUES;
    d.keys = work_at<uint8_t>(s, work_of(s).large);
    d.links = d.keys + (uint64_t)rows * DELTA_KEY_HEADS * DELTA_KEY_BYTES;
    return d;
}

// Grid: (tiles of rows, units x tiles of gates).
DEVICE void delta_score_prefill(const State &s, const Batch &b, const Layer *layer)
{
    score_tile<DELTA_GATES>(s, b, layer->attn_norm, DELTA_GATES,
                            [&](int number) { return gate_vector(s, layer, number); });
}

// Grid: threads for rows by heads.
DEVICE void delta_gates_prefill(const State &s, const Batch &b, const Layer *layer)
{
    int i = blockIdx.x * PREFILL_THREADS + threadIdx.x, row = i / DELTA_HEADS,
        head = i % DELTA_HEADS;
    grid_release();
    grid_wait();
    if (row >= b.rows) return;
    float score[2] = {0, 0};
    for (int unit = 0; unit < UNITS(DIM); unit++)
        for (int j = 0; j < 2; j++)
            score[j] += score_parts(
                s)[((uint64_t)unit * b.rows + row) * DELTA_GATES + j * DELTA_HEADS + head];
    Gates g = gates_of(s, layer, head, score[0], score[1]);
    float *gates = delta_rows(s, b.rows).gates + (uint64_t)row * DELTA_GATES;
    gates[head] = g.strength, gates[DELTA_HEADS + head] = g.log_decay;
}

#define DELTA_MIX_HEADS (2 * DELTA_KEY_HEADS + DELTA_HEADS)
#define DELTA_MIX_LANES ((WIDER(DELTA_KEY_DIM, DELTA_VALUE_DIM) + WARP - 1) / WARP)

// Rows of the same segment before row `row`, DELTA_TAPS - 1 at most.
DEVICE int rows_before(const Batch &b, int row)
{
    int n = 0;
    while (n < DELTA_TAPS - 1 && n < row && b.sequence[row - n - 1] == b.sequence[row]) n++;
    return n;
}

// Convolution, silu, and length one for q and k, which are rounded to fp16. Grid: (tiles of
// DELTA_MIX_ROWS rows, heads of q, k and v by 8), a warp each.
DEVICE void delta_mix_prefill(const State &s, const Batch &b, const Layer *layer)
{
    const DeltaRows d = delta_rows(s, b.rows);
    int lane = threadIdx.x % WARP,
        head = blockIdx.y * (PREFILL_THREADS / WARP) + threadIdx.x / WARP;
    int first = blockIdx.x * DELTA_MIX_ROWS, end = first + DELTA_MIX_ROWS;
    if (end > b.rows) end = b.rows;
    grid_release();
    grid_wait();
    if (head >= DELTA_MIX_HEADS) return;
    int part = head < DELTA_KEY_HEADS ? DELTA_Q : head < 2 * DELTA_KEY_HEADS ? DELTA_K : DELTA_V;
    head -= part * DELTA_KEY_HEADS;
    int width = delta_width(part), channel = delta_channel(part, head);
    const float *in = d.in + delta_column(part, head);
    float taps[DELTA_TAPS][DELTA_MIX_LANES], x[DELTA_TAPS][DELTA_MIX_LANES];
#pragma unroll
    for (int t = 0; t < DELTA_TAPS; t++)
#pragma unroll
        for (int j = 0; j < DELTA_MIX_LANES; j++) {
            int i = j * WARP + lane;
            taps[t][j] =
                i < width ? weights_at<float>(s, layer->conv)[t * CONV_DIM + channel + i] : 0;
        }
    for (int row = first; row < end; row++) {
        int before = rows_before(b, row), position = b.position[row] - before; // of the segment,
        const float *state = state_of(s, layer, b.sequence[row]);              // if it is near
        float square = 0, y[DELTA_MIX_LANES];
#pragma unroll
        for (int t = 0; t < DELTA_TAPS; t++)
#pragma unroll
            for (int j = 0; j < DELTA_MIX_LANES; j++) {
                int i = j * WARP + lane, back = DELTA_TAPS - 1 - t;
                if (row > first && before > 0 && t + 1 < DELTA_TAPS)
                    x[t][j] = x[t + 1][j];
                else
                    x[t][j] = i >= width ? 0
                              : back <= before
                                  ? in[(uint64_t)(row - back) * DELTA_IN + i]
                                  : token_before(state, position, channel + i, back - before);
            }
#pragma unroll
        for (int j = 0; j < DELTA_MIX_LANES; j++) {
            float sum = 0;
#pragma unroll
            for (int t = 0; t < DELTA_TAPS; t++) sum += x[t][j] * taps[t][j];
            y[j] = silu(sum);
            square += y[j] * y[j];
        }
        float factor = part < DELTA_V ? length_factor(warp_sum(square), part) : 1;
        uint16_t *keys = (uint16_t *)(d.keys + ((uint64_t)row * DELTA_KEY_HEADS + head) *
                                                   DELTA_KEY_BYTES) +
                         (part == DELTA_K ? DELTA_KEY_UP : 0);
        float *values = d.values + (uint64_t)row * DELTA_VALUES + head * DELTA_VALUE_DIM;
#pragma unroll
        for (int j = 0; j < DELTA_MIX_LANES; j++) {
            int i = j * WARP + lane;
            if (part == DELTA_V && i < width) values[i] = y[j];
            if (part != DELTA_V && i < DELTA_KEY_UP) keys[i] = float_half(y[j] * factor);
        }
    }
}

// What was read, normed and times silu(z), as activations. Grid: rows.
template <int FORMAT>
DEVICE void delta_out_prepare(const State &s, const Batch &b, const Layer *layer)
{
    const DeltaRows d = delta_rows(s, b.rows);
    const float *norm = weights_at<float>(s, layer->delta_norm);
    int row = blockIdx.x, lane = threadIdx.x % WARP;
    float *values = d.values + (uint64_t)row * DELTA_VALUES;
    grid_release();
    grid_wait();
    for (int head = threadIdx.x / WARP; head < DELTA_HEADS; head += PREFILL_THREADS / WARP) {
        float *y = values + head * DELTA_VALUE_DIM, sum = 0;
        const float *z =
            (DELTA_BY_KEYS ? d.in + (uint64_t)row * DELTA_IN : d.z + (uint64_t)row * DELTA_VALUES) +
            delta_column(DELTA_Z, head);
        for (int i = lane; i < DELTA_VALUE_DIM; i += WARP) sum += y[i] * y[i];
        float factor = 1 / sqrtf(warp_sum(sum) / DELTA_VALUE_DIM + NORM_EPS);
        for (int i = lane; i < DELTA_VALUE_DIM; i += WARP) y[i] *= factor * norm[i] * silu(z[i]);
    }
    block_sync();
    prepare_row<DELTA_VALUES, 1, FORMAT_IS_EXL3(FORMAT)>(s, &layer->o, plain_source(values), 0, row,
                                                         b.rows);
}
#endif
