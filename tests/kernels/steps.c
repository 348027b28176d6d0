// Every step of a layer on the CPU against ref.c, on a made-up model whose constants come from the
// command line. Each step is compared on the state it finds, so that an error shows where it is.
#include "constants.h"
#include "../../kernels/cpu/steps.h"
#include "../check.h"
#include "ref.h"
#include "ref_cache.h"
#include "workers.h"
#include <math.h>

#ifndef FORMAT_LIST // q, k, v, o, gate, up, down, head
#define FORMAT_LIST m4, m3, m5, m4, m2, m4, m6, m6
#endif
#ifndef WINDOW
#define WINDOW 0
#endif
#ifndef NORMS // of q and k heads
#define NORMS 0
#endif
#ifndef BIAS
#define BIAS 0
#endif

enum { Q_PART, K_PART, V_PART, O_PART, GATE_PART, UP_PART, DOWN_PART, HEAD_PART, PARTS };
enum { SEQUENCES = 5, PAGES_EACH = 5, PAGES = SEQUENCES * PAGES_EACH, MOST_ROWS = 400 };
enum { LAYER_INDEX = 1 }; // the layer under test

static uint8_t *weights;
static uint64_t used = 256;
static RefLinear linears[PARTS];
static State state;
static Layer layers[LAYERS];
static Batch batch;
static const float inverse[ROPE_DIM / 2] = ROPE_INVERSE;
static float attn_norm[DIM], ffn_norm[DIM], final_norm[DIM], q_norm[HEAD_DIM], k_norm[HEAD_DIM];
static uint16_t embedding[VOCAB][DIM];

static uint64_t append(const void *data, size_t bytes)
{
    uint64_t at = used;
    memcpy(weights + at, data, bytes);
    used = (at + bytes + 255) / 256 * 256;
    return at;
}

static Linear append_linear(int part, int format, int in, int width, int bias)
{
    RefLinear *linear = &linears[part];
    *linear = ref_random(format, in, width, bias);
    ref_dense(linear);
    size_t bytes;
    uint8_t *packed = ref_pack(linear, &bytes);
    Linear result = {.weights = append(packed, bytes)};
    if (linear->suh) {
        result.suh = append(linear->suh, PADDED(in) * 2);
        result.svh = append(linear->svh, PADDED(width) * 2);
    }
    if (bias) result.bias = append(linear->bias, PADDED(width) * 4);
    free(packed);
    return result;
}

static void random_norm(float *norm, int width)
{
    for (int i = 0; i < width; i++) norm[i] = 1 + 0.2f * (float)ref_random_normal();
}

// The program under test.
#define EIGHT(...) EIGHT_(__VA_ARGS__)
#define EIGHT_(fq, fk, fv, fo, fg, fu, fd, fh)                                                     \
    static const int formats[PARTS] = {fq, fk, fv, fo, fg, fu, fd, fh};                            \
    static void run_qkv(Worker *w, void *c)                                                        \
    {                                                                                              \
        State *s = c;                                                                              \
        qkv(w, s, &batch, fq, fk, fv, &s->layers[LAYER_INDEX]);                                    \
    }                                                                                              \
    static void run_out(Worker *w, void *c)                                                        \
    {                                                                                              \
        State *s = c;                                                                              \
        out(w, s, &batch, fo, &s->layers[LAYER_INDEX]);                                            \
    }                                                                                              \
    static void run_up(Worker *w, void *c)                                                         \
    {                                                                                              \
        State *s = c;                                                                              \
        up(w, s, &batch, fg, fu, &s->layers[LAYER_INDEX]);                                         \
    }                                                                                              \
    static void run_down(Worker *w, void *c)                                                       \
    {                                                                                              \
        State *s = c;                                                                              \
        down(w, s, &batch, fd, &s->layers[LAYER_INDEX]);                                           \
    }                                                                                              \
    static void run_head(Worker *w, void *c)                                                       \
    {                                                                                              \
        head(w, c, &batch, fh);                                                                    \
    }
EIGHT(FORMAT_LIST)

static void run_embed(Worker *w, void *c)
{
    embed(w, c, &batch, EMBED_FORMAT);
    keep(w, c, &batch, LAYER_INDEX);
}

static void run_attend(Worker *w, void *c)
{
    State *s = c;
    attend(w, s, &batch, &s->layers[LAYER_INDEX]);
}

static void compare(const char *what, const float *found, const double *expected, int rows,
                    int width, double bound)
{
    for (int r = 0; r < rows; r++) {
        double error = ref_error(found + (size_t)r * width, expected + (size_t)r * width, width);
        CHECK_MSG(error < bound, "%s, row %d of %d: error %.3g", what, r, rows, error);
        if (error < bound) continue;
        for (int i = 0; i < width; i++) {
            double a = found[(size_t)r * width + i], e = expected[(size_t)r * width + i];
            if (fabs(a - e) <= 0.01 * (fabs(e) + 0.01)) continue;
            fprintf(stderr, "  first: column %d: %g, expected %g\n", i, a, e);
            break;
        }
        return;
    }
}

static int bits_of(int which)
{
    return which ? state.value_bits : state.key_bits;
}

enum { POOL = WINDOW_LAYERS && WINDOW ? POOL_WINDOW : POOL_ALL }; // of the layer under test
static uint64_t cache_bytes(void)
{
    return PAGES * state.page_bytes[POOL];
}

// A head's part of the page of a position.
static uint8_t *head_part(int which, int sequence, int head, int position)
{
    size_t page = (size_t)batch.page_table[POOL][sequence * PAGES_EACH + position / PAGE];
    size_t keys = (size_t)PAGE * (size_t)ref_row_bytes(HEAD_DIM, state.key_bits);
    size_t values = (size_t)PAGE * (size_t)ref_row_bytes(HEAD_DIM, state.value_bits);
    return state.cache[POOL] + page * state.page_bytes[POOL] +
           (size_t)layers[LAYER_INDEX].kept * KV_HEADS * (keys + values) +
           (which ? KV_HEADS * keys + (size_t)head * values : (size_t)head * keys);
}

typedef struct {
    int sequence, head;
} Place;

static void key_or_value(void *context, int which, int position, double *v)
{
    Place *place = context;
    const uint8_t *part = head_part(which, place->sequence, place->head, position);
    for (int d = 0; d < HEAD_DIM; d++)
        v[d] = ref_stored(part, PAGE, HEAD_DIM, bits_of(which), position % PAGE, d);
}

// Random contents of one position, or what is not a number.
static void fill(int which, int sequence, int head, int position, int nan)
{
    uint8_t *part = head_part(which, sequence, head, position);
    int bits = bits_of(which), t = position % PAGE, groups = HEAD_DIM / CACHE_GROUP;
    uint16_t *halves = (uint16_t *)part + t * HEAD_DIM;
    for (int d = 0; bits == 16 && d < HEAD_DIM; d++)
        halves[d] = nan ? 0x7e00 : ref_round(ref_random_normal());
    if (bits == 16) return;
    for (int i = 0; i < groups * 4 * bits; i++)
        part[t * groups * 4 * bits + i] = (uint8_t)ref_random_bits();
    uint16_t *scale = (uint16_t *)(part + PAGE * groups * 4 * bits) + t * groups;
    for (int i = 0; i < groups; i++)
        scale[i] = nan ? 0x7e00 : ref_round(1 + fabs(ref_random_normal()));
}

// Takes over what a row wrote of a head.
static void take_over(uint8_t *to, const uint8_t *from, const uint8_t *part, int bits, int t)
{
    size_t at = (size_t)(part - from), row = HEAD_DIM * (size_t)bits / 8,
           groups = HEAD_DIM / CACHE_GROUP;
    memcpy(to + at + (size_t)t * row, part + (size_t)t * row, row);
    if (bits == 16) return;
    at += PAGE * row + (size_t)t * groups * 2;
    memcpy(to + at, from + at, groups * 2);
}

static double *widen(const float *x, size_t count)
{
    double *wide = malloc(count * sizeof *wide);
    for (size_t i = 0; i < count; i++) wide[i] = x[i];
    return wide;
}

// x (rows, DIM) normed.
static double *normed(const float *norm)
{
    double *x = widen(state.x, (size_t)batch.rows * DIM);
    for (int r = 0; r < batch.rows; r++) {
        double row[DIM];
        ref_norm(x + (size_t)r * DIM, norm, DIM, NORM_EPS, row);
        memcpy(x + (size_t)r * DIM, row, sizeof row);
    }
    return x;
}

static void test_qkv(int workers)
{
    uint8_t *before = malloc(cache_bytes());
    memcpy(before, state.cache[POOL], cache_bytes());
    double *x = normed(attn_norm);
    for (int part = Q_PART; part <= V_PART; part++) {
        int heads = part == Q_PART ? HEADS : KV_HEADS;
        double *y = malloc((size_t)batch.rows * heads * HEAD_DIM * sizeof *y);
        float *found = malloc((size_t)batch.rows * heads * HEAD_DIM * sizeof *found);
        if (part == Q_PART) run_workers(workers, CPU_LOCAL_BYTES, run_qkv, &state);
        ref_linear(&linears[part], x, batch.rows, y);
        for (int i = 0; i < batch.rows * heads; i++) {
            int row = i / heads, head = i % heads;
            double *v = y + (size_t)i * HEAD_DIM, copy[HEAD_DIM];
            memcpy(copy, v, sizeof copy);
            if (NORMS && part != V_PART)
                ref_norm(copy, part == Q_PART ? q_norm : k_norm, HEAD_DIM, NORM_EPS, v);
            if (part != V_PART)
                ref_rope(v, inverse, ROPE_DIM, ROPE_INTERLEAVED, ROPE_FACTOR, batch.position[row]);
            int bits = bits_of(part == V_PART), position = batch.position[row];
            if (bits < 16) ref_turn(v, HEAD_DIM);
            if (part == Q_PART) continue;
            Place place = {batch.sequence[row], head};
            key_or_value(&place, part == V_PART, position, copy);
            for (int d = 0; d < HEAD_DIM; d++) found[(size_t)i * HEAD_DIM + d] = (float)copy[d];
            take_over(before, state.cache[POOL],
                      head_part(part == V_PART, place.sequence, head, position), bits,
                      position % PAGE);
        }
        compare(part == Q_PART   ? "q"
                : part == K_PART ? "k"
                                 : "v",
                part == Q_PART ? state.q : found, y, batch.rows, heads * HEAD_DIM,
                part == Q_PART ? 3e-4 : ref_cache_error(bits_of(part == V_PART)));
        free(y), free(found);
    }
    CHECK_MSG(memcmp(before, state.cache[POOL], cache_bytes()) == 0, "cache changed elsewhere");
    free(before), free(x);
}

static void test_attend(int workers)
{
    double *a = malloc((size_t)batch.rows * HEADS * HEAD_DIM * sizeof *a);
    double *q = widen(state.q, (size_t)batch.rows * HEADS * HEAD_DIM);
    run_workers(workers, CPU_LOCAL_BYTES, run_attend, &state);
    for (int i = 0; i < batch.rows * HEADS; i++) {
        int row = i / HEADS, last = batch.position[row];
        int first = WINDOW && last >= WINDOW ? last - WINDOW + 1 : 0;
        Place place = {batch.sequence[row], i % HEADS / (HEADS / KV_HEADS)};
        ref_attend(q + (size_t)i * HEAD_DIM, HEAD_DIM, SOFTMAX_SCALE, first, last, key_or_value,
                   &place, a + (size_t)i * HEAD_DIM);
        if (state.value_bits < 16) ref_turn(a + (size_t)i * HEAD_DIM, HEAD_DIM);
    }
    compare("attend", state.a, a, batch.rows, HEADS * HEAD_DIM, 5e-6);
    free(a), free(q);
}

// x += from W
static void test_add(const char *what, int part, const float *from, int width, int workers,
                     void (*run)(Worker *w, void *c))
{
    double *x = widen(state.x, (size_t)batch.rows * DIM);
    double *in = widen(from, (size_t)batch.rows * width);
    double *y = malloc((size_t)batch.rows * DIM * sizeof *y);
    ref_linear(&linears[part], in, batch.rows, y);
    for (int i = 0; i < batch.rows * DIM; i++) x[i] += y[i];
    run_workers(workers, CPU_LOCAL_BYTES, run, &state);
    compare(what, state.x, x, batch.rows, DIM, 3e-4);
    free(x), free(in), free(y);
}

static void test_up(int workers)
{
    double *x = normed(ffn_norm), *gate = malloc((size_t)batch.rows * FFN_DIM * sizeof *gate);
    double *up = malloc((size_t)batch.rows * FFN_DIM * sizeof *up);
    ref_linear(&linears[GATE_PART], x, batch.rows, gate);
    ref_linear(&linears[UP_PART], x, batch.rows, up);
    for (int i = 0; i < batch.rows * FFN_DIM; i++) gate[i] = ref_silu(gate[i]) * up[i];
    run_workers(workers, CPU_LOCAL_BYTES, run_up, &state);
    compare("up", state.h, gate, batch.rows, FFN_DIM, 5e-4);
    free(x), free(gate), free(up);
}

static void test_head(int workers)
{
    double *x = normed(final_norm), *y = malloc((size_t)batch.rows * VOCAB * sizeof *y);
    double *rows = malloc((size_t)batch.rows * DIM * sizeof *rows);
    for (int i = 0; i < batch.outputs; i++)
        memcpy(rows + (size_t)i * DIM, x + (size_t)batch.output[i] * DIM, DIM * sizeof *x);
    ref_linear(&linears[HEAD_PART], rows, batch.outputs, y);
    run_workers(workers, CPU_LOCAL_BYTES, run_head, &state);
    compare("logits", state.logits, y, batch.outputs, VOCAB, 3e-4);
    compare("hidden", state.hidden + (size_t)LAYERS * batch.rows * DIM, x, batch.rows, DIM, 1e-6);
    free(x), free(y), free(rows);
}

static void test_embed(int workers)
{
    double *x = malloc((size_t)batch.rows * DIM * sizeof *x);
    for (int i = 0; i < batch.rows * DIM; i++) {
        uint16_t bits = embedding[batch.token[i / DIM]][i % DIM];
        x[i] = EMBED_FORMAT == f16 ? ref_half(bits) : ref_bf16(bits);
    }
    double *rope = malloc((size_t)batch.rows * ROPE_DIM * sizeof *rope);
    for (int i = 0; i < batch.rows * ROPE_DIM / 2; i++) {
        float angle = (float)batch.position[i / (ROPE_DIM / 2)] * inverse[i % (ROPE_DIM / 2)];
        rope[2 * i] = cos(angle) * ROPE_FACTOR, rope[2 * i + 1] = sin(angle) * ROPE_FACTOR;
    }
    run_workers(workers, CPU_LOCAL_BYTES, run_embed, &state);
    compare("embed", state.x, x, batch.rows, DIM, 1e-12);
    compare("keep", state.hidden + (size_t)LAYER_INDEX * batch.rows * DIM, x, batch.rows, DIM,
            1e-12);
    compare("rope", state.rope, rope, batch.rows, ROPE_DIM, 1e-6);
    free(x), free(rope);
}

// A batch of segments {rows, position}, one of each sequence.
static void test_batch(const int (*list)[2], int segments, int workers)
{
    static Segment segment[SEQUENCES];
    static int32_t token[MOST_ROWS], position[MOST_ROWS], sequence[MOST_ROWS], output[MOST_ROWS];
    static int32_t table[PAGES];
    int row = 0;
    for (int i = 0; i < PAGES; i++) table[i] = i;
    for (int i = PAGES - 1; i > 0; i--) {
        int j = (int)(ref_random_bits() % (unsigned)(i + 1)), t = table[i];
        table[i] = table[j], table[j] = t;
    }
    batch = (Batch){.segments = segments,
                    .pages_per_sequence = PAGES_EACH,
                    .token = token,
                    .position = position,
                    .sequence = sequence,
                    .output = output,
                    .segment = segment,
                    .page_table = {[POOL] = table}};
    for (int i = 0; i < segments; i++) {
        int s = SEQUENCES - 1 - i;
        segment[i] = (Segment){row, list[i][0], s, list[i][1]};
        for (int r = 0; r < list[i][0]; r++, row++) {
            token[row] = (int)(ref_random_bits() % VOCAB);
            position[row] = list[i][1] + r;
            sequence[row] = s;
            if (row % 3 != 1) output[batch.outputs++] = row;
        }
    }
    batch.rows = row;
    // What no row may read is NaN: positions from the end of each sequence on.
    for (int i = 0; i < SEQUENCES * PAGES_EACH * PAGE; i++)
        for (int n = 0; n < 2 * KV_HEADS; n++)
            fill(n % 2, i / (PAGES_EACH * PAGE), n / 2, i % (PAGES_EACH * PAGE), 1);
    for (int i = 0; i < segments; i++)
        for (int t = 0; t < segment[i].position; t++)
            for (int n = 0; n < 2 * KV_HEADS; n++)
                if (!WINDOW || t > segment[i].position - WINDOW)
                    fill(n % 2, segment[i].sequence, n / 2, t, 0);
    state.work = aligned_alloc(64, (CPU_WORK_BYTES(MOST_ROWS, MOST_ROWS) + 63) / 64 * 64);
    memset(state.work, 0xff, CPU_WORK_BYTES(MOST_ROWS, MOST_ROWS));

    test_embed(workers);
    for (int i = 0; i < batch.rows * DIM; i++) state.x[i] = (float)ref_random_normal() * 3;
    test_qkv(workers);
    test_attend(workers);
    test_add("out", O_PART, state.a, HEADS * HEAD_DIM, workers, run_out);
    test_up(workers);
    test_add("down", DOWN_PART, state.h, FFN_DIM, workers, run_down);
    test_head(workers);
    free(state.work);
}

static void use_cache(int key_bits, int value_bits)
{
    state.key_bits = key_bits, state.value_bits = value_bits;
    state.page_bytes[POOL] =
        (uint64_t)(POOL ? WINDOW_LAYERS : LAYERS) * KV_HEADS * PAGE *
        (uint64_t)(ref_row_bytes(HEAD_DIM, key_bits) + ref_row_bytes(HEAD_DIM, value_bits));
}

int main(void)
{
    weights = aligned_alloc(256, 64 << 20);
    Layer *layer = &layers[LAYER_INDEX];
    layer->kept = POOL ? 0 : LAYER_INDEX;
    random_norm(attn_norm, DIM), random_norm(ffn_norm, DIM), random_norm(final_norm, DIM);
    random_norm(q_norm, HEAD_DIM), random_norm(k_norm, HEAD_DIM);
    for (int i = 0; i < VOCAB * DIM; i++) {
        float value = (float)ref_random_normal();
        uint32_t wide;
        memcpy(&wide, &value, 4);
        embedding[i / DIM][i % DIM] =
            EMBED_FORMAT == f16 ? ref_round(value) : (uint16_t)(wide >> 16);
    }
    layer->attn_norm = append(attn_norm, sizeof attn_norm);
    layer->ffn_norm = append(ffn_norm, sizeof ffn_norm);
    if (NORMS) {
        layer->q_norm = append(q_norm, sizeof q_norm);
        layer->k_norm = append(k_norm, sizeof k_norm);
    }
    layer->window = WINDOW;
    layer->q = append_linear(Q_PART, formats[Q_PART], DIM, HEADS * HEAD_DIM, BIAS);
    layer->k = append_linear(K_PART, formats[K_PART], DIM, KV_HEADS * HEAD_DIM, BIAS);
    layer->v = append_linear(V_PART, formats[V_PART], DIM, KV_HEADS * HEAD_DIM, BIAS);
    layer->o = append_linear(O_PART, formats[O_PART], HEADS * HEAD_DIM, DIM, BIAS);
    layer->gate = append_linear(GATE_PART, formats[GATE_PART], DIM, FFN_DIM, BIAS);
    layer->up = append_linear(UP_PART, formats[UP_PART], DIM, FFN_DIM, BIAS);
    layer->down = append_linear(DOWN_PART, formats[DOWN_PART], FFN_DIM, DIM, BIAS);

    state = (State){
        .weights = weights, .layers = layers, .max_rows = MOST_ROWS, .max_outputs = MOST_ROWS};
    state.ends.embed = append(embedding, sizeof embedding);
    state.ends.norm = append(final_norm, sizeof final_norm);
    state.ends.head = append_linear(HEAD_PART, formats[HEAD_PART], DIM, VOCAB, 0);
    state.cache[POOL] = calloc((size_t)PAGES * LAYERS * 2 * KV_HEADS * PAGE * HEAD_DIM * 2, 1);
    state.x = malloc((size_t)MOST_ROWS * DIM * 4);
    state.q = malloc((size_t)MOST_ROWS * HEADS * HEAD_DIM * 4);
    state.a = malloc((size_t)MOST_ROWS * HEADS * HEAD_DIM * 4);
    state.h = malloc((size_t)MOST_ROWS * FFN_DIM * 4);
    state.rope = malloc((size_t)MOST_ROWS * ROPE_DIM * 4);
    state.logits = malloc((size_t)MOST_ROWS * VOCAB * 4);
    state.hidden = malloc((size_t)MOST_ROWS * DIM * (LAYERS + 1) * 4);

    use_cache(16, 16);
    for (int workers = 1; workers <= 3; workers++) {
        test_batch((const int[][2]){{1, 0}}, 1, workers);
        test_batch((const int[][2]){{1, 1000}}, 1, workers);
        test_batch((const int[][2]){{3, 254}, {1, 700}, {1, 64}}, 3, workers);
        test_batch((const int[][2]){{9, 250}}, 1, workers);
        test_batch((const int[][2]){{130, 0}, {1, 511}, {33, 300}, {8, 100}, {2, 1100}}, 5,
                   workers);
        test_batch((const int[][2]){{18, 40}, {3, 7}}, 2, workers);
        test_batch((const int[][2]){{300, 213}, {12, 31}}, 2, workers);
    }
    for (int bits = 2; QUANTIZED_CACHE && bits <= 8; bits++) {
        use_cache(bits, 10 - bits);
        test_batch((const int[][2]){{3, 254}, {1, 700}, {33, 300}}, 3, 2);
        use_cache(bits % 2 ? bits : 16, bits % 2 ? 16 : bits);
        test_batch((const int[][2]){{1, 511}, {9, 250}}, 2, 2);
    }
    for (int part = 0; part < PARTS; part++) ref_free(&linears[part]);
    free(weights), free(state.cache[POOL]), free(state.x), free(state.q), free(state.a),
        free(state.h);
    free(state.rope), free(state.logits), free(state.hidden);
    return check_done();
}
