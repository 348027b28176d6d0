// The gated delta rule of prompts, in chunks of DELTA_CHUNK tokens, on matrix instructions.
//
// A chunk finds S. Token i of it has k, q and v, strength s_i, and f_i, the product of the decays
// up to its own. It adds k_i x_i to the state, where x_i is s_i (v_i - what k_i finds there):
//     x_i = s_i (v_i - f_i k_i S - sum over j < i of f_i / f_j (k_i k_j) x_j)
// With A_ij = s_i f_i / f_j (k_i k_j) below the diagonal, and f S, f / f_j ... row by row:
//     T = (1 + A)^-1 diag(s)                        M_ij = f_i / f_j (q_i k_j), j <= i
//     X = T (V - f K S)       Y = f Q S + M X       S = f_last S + (K f_last / f)' X
// T and M know nothing of S: delta_chunk finds them for all chunks and heads at once. delta_rule
// takes one chunk after the other, all heads and columns at once.
//
// Operands are fp16, sums float32, and so are S, the logarithms of f and the inverse, which is
// found by substitution. k and q are rounded once, everywhere to the same, so that the rule is that
// of keys near by. Where keys resemble each other what tokens add cancels, so T, M, V - f K S and X
// are sums of two fp16 numbers in the products of each other. No entry of T is beyond one, because
// a token's correction makes nothing longer; what has no known size, S and V - f K S, goes with a
// power of two. Against the rule in double precision, 2,048 tokens: 2e-4 of Y for random q, k and
// v, at most 5e-4 for keys that resemble each other or are all the same, with strengths near one
// and nothing decaying; with single fp16 numbers those are 2.4e-3.
//
// Prompts of fewer than some 25 tokens would be quicker token by token, by microseconds a layer.
#pragma once
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/delta.cuh"

#if DELTA_HEADS
static_assert(DELTA_CHUNK == QUERY_ROWS, "find_queries finds chunks");
static_assert(DELTA_SHARED_BYTES <= 99 * 1024, "what every GPU gives a block");

// What a token is to the others of its chunk, for one head: its row of T, what rounding left of
// that, its row of M and the same, f of itself, f of the last one over that. Of T and M, tiles of
// 16 by 16 above the diagonal are never read.
#define LINK_REST (2 * DELTA_CHUNK) // behind a row
#define LINK_READ (4 * DELTA_CHUNK)
#define LINK_FACTORS (8 * DELTA_CHUNK)

// Smaller ones are zero to every float32; sums of a chunk's stay exact enough to subtract.
#define LEAST_LOG_DECAY (-30.0f)

// --- operands ------------------------------------------------------------------------------------
// C += A B of 16 rows, eights of columns, sixteens of k. A is in registers as mma_half has it; in
// shared memory lie rows of n, with k along them (or rows of k, with n along them: transposed).

// Where a lane begins to load sixteen rows of A, or of k; and of n.
DEVICE const uint8_t *rows_of_a(const uint8_t *rows, int stride)
{
    int lane = threadIdx.x % WARP;
    return rows + lane % 16 * stride + lane / 16 * 16;
}

DEVICE const uint8_t *rows_of_b(const uint8_t *rows, int stride)
{
    int lane = threadIdx.x % WARP;
    return rows + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 16;
}

// N eights of columns, K sixteens of k; B transposed.
template <int N, int K>
DEVICE void multiply_transposed(float sums[N][4], const uint32_t a[K][4], const uint8_t *b,
                                int stride)
{
    b = rows_of_a(b, stride);
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int n = 0; n < N / 2; n++) {
            uint32_t r[4];
            load_matrices_transposed(r, b + k * 16 * stride + n * 32);
            mma_half(sums[2 * n], a[k][0], a[k][1], a[k][2], a[k][3], r[0], r[1]);
            mma_half(sums[2 * n + 1], a[k][0], a[k][1], a[k][2], a[k][3], r[2], r[3]);
        }
}

// N eights of columns, as many of k, up to the diagonal; A in two halves, B as links have it.
template <int N>
DEVICE void multiply_links(float sums[N][4], const uint32_t a[N / 2][4],
                           const uint32_t rest[N / 2][4], const uint8_t *b)
{
    b = rows_of_b(b, DELTA_LINK_BYTES);
#pragma unroll
    for (int k = 0; k < N / 2; k++)
#pragma unroll
        for (int n = k; n < N / 2; n++) {
            const uint8_t *from = b + n * 16 * DELTA_LINK_BYTES + k * 32;
            uint32_t r[4], l[4];
            load_matrices(r, from);
            load_matrices(l, from + LINK_REST);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float *to = sums[2 * n + i];
                mma_half(to, rest[k][0], rest[k][1], rest[k][2], rest[k][3], r[2 * i],
                         r[2 * i + 1]);
                mma_half(to, a[k][0], a[k][1], a[k][2], a[k][3], l[2 * i], l[2 * i + 1]);
                mma_half(to, a[k][0], a[k][1], a[k][2], a[k][3], r[2 * i], r[2 * i + 1]);
            }
        }
}

// What rounding to a pair of fp16 numbers leaves of two.
DEVICE uint32_t pack_rest(float low, float high, uint32_t pair)
{
    return pack_half(low - half_float(pair & 0xffff), high - half_float(pair >> 16));
}

// Sums times `scale` as an operand A, their columns as its k.
template <int N> DEVICE void to_operand(const float sums[N][4], float scale, uint32_t a[N / 2][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            a[n / 2][n % 2 * 2 + i] = pack_half(sums[n][2 * i] * scale, sums[n][2 * i + 1] * scale);
}

// The same in two halves.
template <int N>
DEVICE void to_operand(const float sums[N][4], float scale, uint32_t a[N / 2][4],
                       uint32_t rest[N / 2][4])
{
    to_operand<N>(sums, scale, a);
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            rest[n / 2][n % 2 * 2 + i] = pack_rest(
                sums[n][2 * i] * scale, sums[n][2 * i + 1] * scale, a[n / 2][n % 2 * 2 + i]);
}

// Powers of two that bring a warp's numbers below 512, and back; without them beyond 2^68.
typedef struct {
    float in, out;
} Scale;

template <int N> DEVICE Scale scale_of(const float v[N][4])
{
    float most = 0;
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) most = fmaxf(most, fabsf(v[n][e]));
    uint32_t exponent = warp_max(float_bits(most)) & 0x7f800000u;
    if (exponent < 67u << 23) exponent = 67u << 23;
    Scale scale = {bits_float((262u << 23) - exponent), bits_float(exponent - (8u << 23))};
    return scale;
}

// Starts the copy of a chunk's q and k, a warp a row at a time; zeros behind the last one.
template <int THREADS>
DEVICE void keys_start(const DeltaRows &d, int key_head, int row, int rows, uint8_t *to)
{
    constexpr int PIECES = DELTA_KEY_BYTES / 16, STEP = DELTA_KEY_HEADS * DELTA_KEY_BYTES;
    static_assert(PIECES <= WARP, "one for a lane");
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint8_t *from = d.keys +
                          ((uint64_t)(row + warp) * DELTA_KEY_HEADS + key_head) * DELTA_KEY_BYTES +
                          lane * 16;
    to += warp * DELTA_KEY_STRIDE + lane * 16;
    if (lane >= PIECES) return;
#pragma unroll 2
    for (int r = 0; r < DELTA_CHUNK; r += THREADS / WARP)
        copy_start(to + r * DELTA_KEY_STRIDE, from + (int64_t)r * STEP, warp + r < rows);
}

DEVICE uint8_t *link_of(const DeltaRows &d, int row, int head)
{
    return d.links + ((uint64_t)row * DELTA_HEADS + head) * DELTA_LINK_BYTES;
}

// The same of a chunk's links, of which the first token's is at `from`.
DEVICE void links_start(const uint8_t *from, int rows, uint8_t *to)
{
    constexpr int ROW = DELTA_CHUNK / 8, STEP = DELTA_HEADS * DELTA_LINK_BYTES;
    static_assert(4 * ROW == WARP, "rows of T and M, a piece for a lane");
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const uint8_t *own = from + (int64_t)warp * STEP + lane * 16;
    uint8_t *rows_to = to + warp * DELTA_LINK_BYTES + lane * 16;
#pragma unroll 2
    for (int r = 0; r < DELTA_CHUNK; r += DELTA_THREADS / WARP) {
        bool above = lane % ROW / 2 > r / 16; // the diagonal
        copy_start(rows_to + r * DELTA_LINK_BYTES, own + (int64_t)r * STEP,
                   warp + r < rows && !above);
    }
    for (int r = threadIdx.x; r < DELTA_CHUNK; r += DELTA_THREADS)
        copy_start(to + r * DELTA_LINK_BYTES + LINK_FACTORS,
                   from + (int64_t)r * STEP + LINK_FACTORS, r < rows);
}

// --- T and M -------------------------------------------------------------------------------------

// Column c of (1 + A)^-1, by a thread, from a table where [j][i] is A_ij, j < i. Row i of the
// result goes to [i][c], c <= i, which is nobody else's, and times `strength` to the first `rows`
// links.
DEVICE void invert_column(float *table, int c, float strength, uint8_t *link, int rows)
{
#pragma unroll 1
    for (int first = 0; first < DELTA_CHUNK; first += 16) {
        float t[16];
#pragma unroll
        for (int i = 0; i < 16; i++) t[i] = first + i == c;
#pragma unroll 2
        for (int j = c / WARP * WARP; j < first; j++) {
            const float *row = table + j * DELTA_TABLE_STRIDE;
            float known = j < c ? 0 : row[c];
#pragma unroll
            for (int i = 0; i < 16; i += 4) {
                float4 a = *(const float4 *)(row + first + i);
                t[i] = fmaf(-a.x, known, t[i]), t[i + 1] = fmaf(-a.y, known, t[i + 1]);
                t[i + 2] = fmaf(-a.z, known, t[i + 2]), t[i + 3] = fmaf(-a.w, known, t[i + 3]);
            }
        }
#pragma unroll
        for (int j = 0; j < 16; j++)
#pragma unroll
            for (int i = j + 1; i < 16; i++)
                t[i] = fmaf(-table[(first + j) * DELTA_TABLE_STRIDE + first + i], t[j], t[i]);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            if (c <= first + i) table[(first + i) * DELTA_TABLE_STRIDE + c] = t[i];
            if (first + i < rows) {
                uint8_t *own =
                    link + (uint64_t)(first + i) * DELTA_HEADS * DELTA_LINK_BYTES + 2 * c;
                uint16_t v = float_half(t[i] * strength);
                *(uint16_t *)own = v;
                *(uint16_t *)(own + LINK_REST) = float_half(t[i] * strength - half_float(v));
            }
        }
    }
}

// Of one head: a token's strength, the logarithm of its decay, and the sum of those up to its own.
typedef struct {
    float strength[DELTA_CHUNK], log_decay[DELTA_CHUNK], log_f[DELTA_CHUNK];
} ChunkGates;

// Element (i, j) of products of keys with keys and queries with keys becomes that of A, for the
// table, and of M, which comes back.
DEVICE float chunk_element(const ChunkGates &gates, float *table, int i, int j, float key,
                           float query)
{
    if (j > i) return 0;
    float decay = expf(gates.log_f[i] - gates.log_f[j]);
    if (j < i) table[j * DELTA_TABLE_STRIDE + i] = gates.strength[i] * decay * key;
    return decay * query;
}

// Links of two heads of a key head. Grid: (chunks, at most rows / DELTA_CHUNK + segments; key heads
// by pairs of heads).
DEVICE void delta_chunk_prefill(const State &s, const Batch &b)
{
    constexpr int TILES = DELTA_CHUNK / 16;
    __shared__ ChunkGates gates[2];
    const DeltaRows d = delta_rows(s, b.rows);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, c = lane % 4;
    int key_head = blockIdx.y / DELTA_PAIRS, pair = blockIdx.y % DELTA_PAIRS * 2;
    // What goes by token: that of one of the heads, where there are two.
    int half = threadIdx.x / DELTA_CHUNK, token = threadIdx.x % DELTA_CHUNK;
    int heads = SHARING - pair < 2 ? 1 : 2, first_head = key_head * SHARING + pair;
    uint8_t *queries = shared_memory(), *keys = queries + DELTA_KEY_BYTES / 2;
    float *tables = (float *)shared_memory();
    ChunkGates &gate = gates[half];
    grid_release();
    grid_wait();
    QueryTile own;
    if (!find_queries(b, blockIdx.x, &own)) return;
    keys_start<DELTA_CHUNK_THREADS>(d, key_head, own.row, own.rows, queries);
    copy_commit();
    gate.strength[token] = gate.log_decay[token] = 0;
    if (half < heads && token < own.rows) {
        const float *from = d.gates + (uint64_t)(own.row + token) * DELTA_GATES + first_head + half;
        gate.strength[token] = from[0];
        gate.log_decay[token] = fmaxf(from[DELTA_HEADS], LEAST_LOG_DECAY);
    }
    copy_wait<0>();
    block_sync();

    // A warp has rows 16 warp .. of the products, up to the diagonal.
    float by_key[2 * TILES][4] = {}, by_query[2 * TILES][4] = {}, log_f = 0;
    const uint8_t *a = rows_of_a(queries + warp * 16 * DELTA_KEY_STRIDE, DELTA_KEY_STRIDE);
    const uint8_t *columns = rows_of_b(keys, DELTA_KEY_STRIDE);
#pragma unroll 2
    for (int k = 0; k < DELTA_KEY_UP / 16; k++) {
        uint32_t q[4], r[4], n[4];
        load_matrices(q, a + k * 32);
        load_matrices(r, a + DELTA_KEY_BYTES / 2 + k * 32);
#pragma unroll
        for (int t = 0; t < TILES; t++) {
            if (t > warp) break;
            load_matrices(n, columns + t * 16 * DELTA_KEY_STRIDE + k * 32);
            mma_half(by_key[2 * t], r[0], r[1], r[2], r[3], n[0], n[1]);
            mma_half(by_key[2 * t + 1], r[0], r[1], r[2], r[3], n[2], n[3]);
            mma_half(by_query[2 * t], q[0], q[1], q[2], q[3], n[0], n[1]);
            mma_half(by_query[2 * t + 1], q[0], q[1], q[2], q[3], n[2], n[3]);
        }
    }
    for (int i = 0; i < DELTA_CHUNK; i++) log_f += i <= token ? gate.log_decay[i] : 0;
    gate.log_f[token] = log_f;
    block_sync(); // and the keys have been read, in whose place the tables are

#pragma unroll 1
    for (int h = 0; h < heads; h++) {
        float *table = tables + h * DELTA_CHUNK * DELTA_TABLE_STRIDE;
#pragma unroll
        for (int t = 0; t < 2 * TILES; t++)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                int i = warp * 16 + g + e * 4, j = t * 8 + 2 * c;
                if (t / 2 > warp) break;
                float m[2];
#pragma unroll
                for (int n = 0; n < 2; n++)
                    m[n] = chunk_element(gates[h], table, i, j + n, by_key[t][e + n],
                                         by_query[t][e + n]);
                if (i < own.rows) {
                    uint8_t *link = link_of(d, own.row + i, first_head + h) + LINK_READ + j * 2;
                    uint32_t pair = pack_half(m[0], m[1]);
                    *(uint32_t *)link = pair;
                    *(uint32_t *)(link + LINK_REST) = pack_rest(m[0], m[1], pair);
                }
            }
    }
    block_sync();
    if (half >= heads) return;
    uint8_t *link = link_of(d, own.row, first_head + half);
    invert_column(tables + half * DELTA_CHUNK * DELTA_TABLE_STRIDE, token, gate.strength[token],
                  link, own.rows);
    if (token < own.rows)
        *(float2 *)(link + (uint64_t)token * DELTA_HEADS * DELTA_LINK_BYTES + LINK_FACTORS) =
            make_float2(expf(log_f), expf(gate.log_f[DELTA_CHUNK - 1] - log_f));
}

// --- chunk after chunk ---------------------------------------------------------------------------
// A warp has sixteen columns of a head's matrix, transposed, as an operand C: lane 4 g + c has of
// its columns g and g + 8, rows 8 n + 2 c and the next in m[n]. V and X are held in the same way, a
// chunk's tokens in the place of rows.

#define CHUNK_EIGHTS (DELTA_CHUNK / 8)
#define KEY_EIGHTS (DELTA_KEY_UP / 8)

// Keeps the tokens that the next segment needs: each channel by one of the blocks of a segment.
DEVICE void keep_segment(const DeltaRows &d, float *state, const Segment &segment, int head,
                         int part)
{
    for (int which = part || head % SHARING ? DELTA_V : DELTA_Q; which <= DELTA_V; which++) {
        int own = delta_head(which, head), first = which == DELTA_V ? part * DELTA_PART : 0;
        int end = which == DELTA_V ? first + DELTA_PART : DELTA_KEY_DIM;
        for (int i = first + threadIdx.x; i < end && i < delta_width(which); i += DELTA_THREADS)
            keep_channel(state, segment, delta_channel(which, own) + i,
                         d.in + (uint64_t)segment.row * DELTA_IN + delta_column(which, own) + i,
                         DELTA_IN);
    }
}

// Calls with n, e, and how many rows (tokens) and columns that element is behind the lane's first.
template <int N, typename CALL> DEVICE void for_elements(CALL call)
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) call(n, e, 8 * n + e % 2, e / 2 * 8);
}

// What k and q of a chunk find in a state, times `scale`.
DEVICE void read_state(const float m[KEY_EIGHTS][4], float scale, const uint8_t *queries,
                       float by_key[CHUNK_EIGHTS][4], float by_query[CHUNK_EIGHTS][4])
{
    const uint8_t *rows = rows_of_b(queries, DELTA_KEY_STRIDE);
#pragma unroll
    for (int k = 0; k < KEY_EIGHTS / 2; k++) {
        uint32_t a[1][4];
        to_operand<2>(m + 2 * k, scale, a);
#pragma unroll
        for (int n = 0; n < CHUNK_EIGHTS / 2; n++) {
            const uint8_t *from = rows + n * 16 * DELTA_KEY_STRIDE + k * 32;
            uint32_t key[4], query[4];
            load_matrices(key, from + DELTA_KEY_BYTES / 2);
            load_matrices(query, from);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                mma_half(by_key[2 * n + i], a[0][0], a[0][1], a[0][2], a[0][3], key[2 * i],
                         key[2 * i + 1]);
                mma_half(by_query[2 * n + i], a[0][0], a[0][1], a[0][2], a[0][3], query[2 * i],
                         query[2 * i + 1]);
            }
        }
    }
}

// The rule for one part of a head of a segment. Grid: (heads x parts, segments).
DEVICE void delta_rule_prefill(const State &s, const Batch &b, const Layer *layer)
{
    constexpr int KEYS = DELTA_CHUNK * DELTA_KEY_STRIDE;
    const DeltaRows d = delta_rows(s, b.rows);
    int head = blockIdx.x / DELTA_PARTS, part = blockIdx.x % DELTA_PARTS;
    int column = part * DELTA_PART + threadIdx.x / WARP * 16 + threadIdx.x % WARP / 4;
    int row = 2 * (threadIdx.x % 4); // and column: the lane's first ones
    uint8_t *links = shared_memory(), *stages = links + DELTA_CHUNK * DELTA_LINK_BYTES;
    grid_release();
    grid_wait();
    const Segment segment = b.segment[blockIdx.y];
    float *state = state_of(s, layer, segment.sequence);
    float *matrix = state + (head * DELTA_KEY_DIM + row) * DELTA_COLUMNS + column;
    float *values =
        d.values + (uint64_t)(segment.row + row) * DELTA_VALUES + head * DELTA_VALUE_DIM + column;
    auto next_links = [&](int first) {
        links_start(link_of(d, segment.row + first, head), segment.rows - first, links);
        copy_commit();
    };
    auto factors = [&](int i) { // of the lane's token number i
        return *(const float2 *)(links + (row + i) * DELTA_LINK_BYTES + LINK_FACTORS);
    };
    auto is_column = [&](int beside) {
        return DELTA_VALUE_DIM % 16 == 0 || column + beside < DELTA_VALUE_DIM;
    };
    float m[KEY_EIGHTS][4], v[CHUNK_EIGHTS][4];
    auto load_values = [&](int left) {
        for_elements<CHUNK_EIGHTS>([&](int n, int e, int i, int beside) {
            v[n][e] = row + i < left && is_column(beside) ? values[i * DELTA_VALUES + beside] : 0;
        });
    };

    keys_start<DELTA_THREADS>(d, head / SHARING, segment.row, segment.rows, stages);
    copy_commit();
    next_links(0);
    keep_segment(d, state, segment, head, part);
    for_elements<KEY_EIGHTS>([&](int n, int e, int i, int beside) {
        m[n][e] = segment.position && row + i < DELTA_KEY_DIM
                      ? load_fresh1(matrix + i * DELTA_COLUMNS + beside)
                      : 0;
    });
    load_values(segment.rows);
#pragma unroll 1
    for (int first = 0; first < segment.rows; first += DELTA_CHUNK) {
        int left = segment.rows - first, next = first + DELTA_CHUNK;
        uint8_t *queries = stages + first / DELTA_CHUNK % 2 * KEYS;
        uint8_t *keys = queries + DELTA_KEY_BYTES / 2;
        copy_wait<1>();
        block_sync(); // keys are there; those of the chunk before are not needed any more
        keys_start<DELTA_THREADS>(d, head / SHARING, segment.row + next, left - DELTA_CHUNK,
                                  stages + next / DELTA_CHUNK % 2 * KEYS);
        copy_commit();

        Scale of_state = scale_of<KEY_EIGHTS>(m);
        float found[CHUNK_EIGHTS][4] = {}, x[CHUNK_EIGHTS][4] = {}, y[CHUNK_EIGHTS][4] = {};
        read_state(m, of_state.in, queries, found, y);

        copy_wait<1>();
        block_sync(); // links are there
        for_elements<CHUNK_EIGHTS>([&](int n, int e, int i, int) {
            found[n][e] = fmaf(-factors(i).x * of_state.out, found[n][e], v[n][e]);
        });
        Scale of_x = scale_of<CHUNK_EIGHTS>(found); // x is at most DELTA_CHUNK times as large
        uint32_t a[CHUNK_EIGHTS / 2][4], rest[CHUNK_EIGHTS / 2][4];
        to_operand<CHUNK_EIGHTS>(found, of_x.in, a, rest);
        multiply_links<CHUNK_EIGHTS>(x, a, rest, links);

        to_operand<CHUNK_EIGHTS>(x, 1, a, rest);
        for_elements<CHUNK_EIGHTS>([&](int n, int e, int i, int) {
            float2 f = factors(i);
            y[n][e] *= f.x * (of_state.out * of_x.in), x[n][e] *= f.y;
        });
        uint32_t left_over[CHUNK_EIGHTS / 2][4];
        to_operand<CHUNK_EIGHTS>(x, 1, left_over);
        multiply_links<CHUNK_EIGHTS>(y, a, rest, links + LINK_READ);
        for_elements<CHUNK_EIGHTS>([&](int n, int e, int i, int beside) {
            if (row + i < left && is_column(beside))
                values[i * DELTA_VALUES + beside] = y[n][e] * of_x.out;
        });
        float decay = factors((left < DELTA_CHUNK ? left : DELTA_CHUNK) - 1 - row).x;
        block_sync(); // links are read
        next_links(next);
        values += DELTA_CHUNK * DELTA_VALUES;
        load_values(left - DELTA_CHUNK);

#pragma unroll
        for (int half = 0; half < 2; half++) { // of the rows, for their registers' sake
            float change[KEY_EIGHTS / 2][4] = {};
            multiply_transposed<KEY_EIGHTS / 2, CHUNK_EIGHTS / 2>(
                change, left_over, keys + half * DELTA_KEY_UP, DELTA_KEY_STRIDE);
            for_elements<KEY_EIGHTS / 2>([&](int n, int e, int, int) {
                float *own = m[half * (KEY_EIGHTS / 2) + n] + e;
                *own = fmaf(change[n][e], of_x.out, decay * *own);
            });
        }
    }
    copy_wait<0>();
    for_elements<KEY_EIGHTS>([&](int n, int e, int i, int beside) {
        if (row + i < DELTA_KEY_DIM) matrix[i * DELTA_COLUMNS + beside] = m[n][e];
    });
}
#endif
