// The CUDA steps against reference.h, for one set of constants: every format and form, odd shapes,
// random page tables and windows. Runs on a GPU (argument: a cubin), or against the emulated one
// without an argument. Prints the first wrong element of a step; exit 1 if there was one.
// With TEST_TIMING it then prints how fast the decode form reads weights at the shapes of
// constants.h.
#include "kernels/cuda/launch.h"
#include "reference.h"
#include "tests/kernels/ref_cache.h"
#include "runtime/sample.h"
#include <stdio.h>

#define PAGES 24
#define SEQUENCES 70
#define OWN_PAGES 140
#define PER_SEQUENCE ((MAX_CONTEXT + PAGE - 1) / PAGE)
#ifndef TEST_ROWS
#define TEST_ROWS 150
#endif
// A row of s.y: products before a norm, gates, or what a delta net keeps (compiler/fuse.c).
#define Y_DIM                                                                                      \
    WORK_MOST(WORK_MOST(DIM, Q_DIM),                                                               \
              DIM + 2 * DELTA_KEYS + 3 * DELTA_VALUES + 2 * DELTA_HEADS)
#ifndef TEST_LAYERS
#define TEST_LAYERS LAYERS // sets of weights
#endif
// Layers of the table of steps that have attention, or a feed-forward. Tests of single steps are of
// layer 1, which has both.
#ifndef TEST_ATTENDS
#define TEST_ATTENDS(l) 1
#define TEST_FEEDS(l) 1
#endif

static Gpu *gpu;
static uint8_t *weights; // the host's copy
static size_t weights_bytes;
static State s;
static Batch b;
static Layer layers[TEST_LAYERS];
static int failed, checked;

// --- random data ---------------------------------------------------------------------------------

static uint64_t seed = 88172645463325252u;
static uint32_t random_bits(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 16);
}

static float random_float(void) // mean 0, deviation 1
{
    float sum = 0;
    for (int i = 0; i < 12; i++) sum += random_bits() * 0x1p-32f;
    return sum - 6;
}

static uint16_t half_of(float v)
{
    _Float16 h = (_Float16)v;
    uint16_t bits;
    memcpy(&bits, &h, 2);
    return bits;
}

static uint64_t weights_used = 256;
static uint64_t take(size_t bytes)
{
    uint64_t at = weights_used;
    weights_used += (bytes + 255) / 256 * 256;
    if (weights_used > weights_bytes) {
        size_t old = weights_bytes;
        weights_bytes = weights_used * 2 + (1 << 20);
        weights = realloc(weights, weights_bytes);
        memset(weights + old, 0, weights_bytes - old);
    }
    return at;
}

static uint64_t random_vector(int count, float around, float spread)
{
    uint64_t at = take(count * 4);
    for (int i = 0; i < count; i++) ((float *)(weights + at))[i] = around + spread * random_float();
    return at;
}

static uint64_t random_scales(int count, float size)
{
    uint64_t at = take(count * 2);
    for (int i = 0; i < count; i++)
        ((uint16_t *)(weights + at))[i] =
            half_of((random_bits() & 1 ? -size : size) * (0.5f + random_bits() * 0x1p-32f));
    return at;
}

// A linear layer whose outputs are about as large as its inputs.
static Linear random_linear(int format, int in, int out, int bias)
{
    Linear l = {0};
    size_t bytes = BLOCKS(out) * COLUMN_BLOCK_BYTES(FORMAT_BITS(format), in);
    l.weights = take(bytes);
    if (FORMAT_IS_EXL3(format)) {
        for (size_t i = 0; i < bytes / 4; i++)
            ((uint32_t *)(weights + l.weights))[i] = random_bits();
        l.suh = random_scales(PADDED(in), 1 / sqrtf(in));
        l.svh = random_scales(PADDED(out), 1);
    } else {
        for (size_t i = 0; i < bytes / 2; i++) {
            float v = random_float() / sqrtf(in);
            uint32_t bits;
            memcpy(&bits, &v, 4);
            ((uint16_t *)(weights + l.weights))[i] = format == f16 ? half_of(v) : bits >> 16;
        }
    }
    if (bias) l.bias = random_vector(PADDED(out), 0, 0.3f);
    return l;
}

static float *random_floats(size_t count, float scale)
{
    float *v = malloc(count * 4);
    for (size_t i = 0; i < count; i++) v[i] = scale * random_float();
    return v;
}

// --- device memory -------------------------------------------------------------------------------

static void *device(size_t bytes)
{
    GpuPointer p;
    Error err;
    if (gpu_alloc(gpu, bytes, &p, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    return (void *)p;
}

static void put(const void *to, const void *from, size_t bytes)
{
    gpu_write(gpu, (GpuPointer)to, from, bytes);
}

static void *get(const void *from, size_t bytes)
{
    void *p = malloc(bytes);
    gpu_read(gpu, p, (GpuPointer)from, bytes);
    return p;
}

// The weights and the layer table of the host to the device.
static void put_weights(void)
{
    static size_t room;
    if (weights_used > room) {
        room = weights_used * 2;
        s.weights = device(room);
    }
    put(s.weights, weights, weights_used);
    put(s.layers, layers, sizeof layers);
}

// Host copies of the batch.
static int32_t token[TEST_ROWS], position[TEST_ROWS], sequence[TEST_ROWS], output[TEST_ROWS];
static Segment segment[TEST_ROWS];
static int32_t page_table[POOLS][SEQUENCES * PER_SEQUENCE];

static void put_batch(void)
{
    put(b.token, token, sizeof token);
    put(b.position, position, sizeof position);
    put(b.sequence, sequence, sizeof sequence);
    put(b.output, output, sizeof output);
    put(b.segment, segment, sizeof segment);
    for (int pool = 0; pool < POOLS; pool++)
        put(b.page_table[pool], page_table[pool], sizeof page_table[pool]);
}

// Segments of the given rows at random positions; sequence i has segment i.
static void make_batch(int segments, const int *rows)
{
    b.rows = b.outputs = 0;
    b.segments = segments;
    for (int i = 0; i < segments; i++) {
        int room = MAX_CONTEXT - rows[i] + 1,
            at = random_bits() % 4 == 0 ? 0 : random_bits() % room;
        segment[i] = (Segment){b.rows, rows[i], i, at};
        for (int j = 0; j < rows[i]; j++) {
            token[b.rows] = random_bits() % VOCAB;
            position[b.rows] = at + j;
            sequence[b.rows] = i;
            if (b.rows % 3 != 1) output[b.outputs++] = b.rows;
            b.rows++;
        }
    }
    // Pages are shared at random where sequences do not write: only the pages of the batch's own
    // positions are taken by one sequence each.
    int next = 0;
    for (int i = 0; i < segments; i++)
        for (int p = 0; p < PER_SEQUENCE; p++) {
            int own =
                p >= segment[i].position / PAGE && p <= (segment[i].position + rows[i] - 1) / PAGE;
            for (int pool = 0; pool < POOLS; pool++)
                page_table[pool][i * PER_SEQUENCE + p] =
                    own ? PAGES + (next + 5 * pool) % OWN_PAGES : (int)(random_bits() % PAGES);
            next += own;
        }
    put_batch();
}
#define CACHE_BYTES ((size_t)(PAGES + OWN_PAGES) * LAYERS * 2 * KV_HEADS * PAGE * HEAD_DIM * 2)

// --- comparing -----------------------------------------------------------------------------------

// Elements may differ by `tolerance` of the root mean square of the reference.
static void compare(const char *what, int rows, int columns, const float *got,
                    const double *expected, double tolerance)
{
    size_t count = (size_t)rows * columns;
    double square = 0, error = 0;
    for (size_t i = 0; i < count; i++) {
        square += expected[i] * expected[i];
        error += (got[i] - expected[i]) * (got[i] - expected[i]);
    }
    double rms = sqrt(square / count) + 1e-30;
    checked++;
    for (size_t i = 0; i < count; i++)
        if (!(fabs(got[i] - expected[i]) <=
              6 * tolerance * rms + 2 * tolerance * fabs(expected[i]))) {
            printf("%s, %d rows: [%zu][%zu] is %.7g, expected %.7g (relative error of all %.2e)\n",
                   what, b.rows, i / columns, i % columns, got[i], expected[i],
                   sqrt(error / square));
            failed++;
            return;
        }
    if (getenv("VERBOSE"))
        printf("%-24s %4d rows: relative error %.2e\n", what, b.rows, sqrt(error / square));
}

// The moments of x.
static double *moments_of(const float *x)
{
    double *moments = calloc(b.rows * MOMENTS, sizeof *moments);
    for (int r = 0; r < b.rows; r++)
        for (int block = 0; block < BLOCKS(DIM); block++) {
            int count = DIM - block * BLOCK < BLOCK ? DIM - block * BLOCK : BLOCK;
            const float *from = x + r * DIM + block * BLOCK;
            double sum = 0, square = 0;
            for (int i = 0; i < count && LAYER_NORM; i++) sum += from[i];
            for (int i = 0; i < count; i++)
                square += (from[i] - sum / count) * (from[i] - sum / count);
            moments[r * MOMENTS + block] = square;
            if (LAYER_NORM) moments[r * MOMENTS + BLOCKS(DIM) + block] = sum;
        }
    return moments;
}

static void set_squares(void)
{
    float *x = get(s.x, (size_t)b.rows * DIM * 4), *squares = malloc(b.rows * MOMENTS * 4);
    double *moments = moments_of(x);
    for (int i = 0; i < b.rows * MOMENTS; i++) squares[i] = moments[i];
    put((uint8_t *)s.work + work_places(s.max_rows, s.max_outputs).squares, squares,
        b.rows * MOMENTS * 4);
    free(x), free(squares), free(moments);
}

static void set_middle(void);

static void set_x(void)
{
    float *x = random_floats((size_t)b.rows * DIM, 2);
    for (int i = 0; i < b.rows * DIM && LAYER_NORM; i++) x[i] += 1.5f;
    put(s.x, x, (size_t)b.rows * DIM * 4);
    free(x);
    set_squares();
    if (SKIPS_PARTS) set_middle(); // where the head finds it after an odd number of parts
}

// That the moments beside x belong to it.
static void check_squares(void)
{
    float *x = get(s.x, (size_t)b.rows * DIM * 4);
    float *got = get((uint8_t *)s.work + work_places(s.max_rows, s.max_outputs).squares,
                     b.rows * MOMENTS * 4);
    double *expected = moments_of(x);
    compare("squares of x", b.rows, MOMENTS, got, expected, 1e-5);
    free(x), free(got), free(expected);
}

// Without a norm (0), x itself.
static double *normed_x(uint64_t norm, const int32_t *map, int rows)
{
    float *x = get(s.x, (size_t)b.rows * DIM * 4);
    double *y = malloc((size_t)rows * DIM * sizeof *y);
    for (int r = 0; r < rows; r++) {
        const float *from = x + (map ? map[r] : r) * DIM;
        if (norm) reference_norm(from, (float *)(weights + norm), DIM, y + r * DIM);
        for (int i = 0; !norm && i < DIM; i++) y[r * DIM + i] = from[i];
    }
    free(x);
    return y;
}

// --- the decode form's sums
// -----------------------------------------------------------------------

static Work places(void)
{
    return work_places(s.max_rows, s.max_outputs);
}

static void *work_place(uint64_t place)
{
    return (uint8_t *)s.work + place;
}

// What a step leaves for the next one and clears after it, which is not run here.
static void clear_all_sums(void)
{
    size_t bytes = places().middle - places().sums_qkv;
    void *zeros = calloc(1, bytes);
    put(work_place(places().sums_qkv), zeros, bytes);
    free(zeros);
}

// Outputs of a linear layer, `rows` rows of `out`, from its columns `column` .. of sums (rows,
// width).
static double *finished(uint64_t sums, int rows, int width, int column, const Linear *l, int out,
                        double factor)
{
    int64_t *v = get(work_place(sums), (size_t)rows * width * 8);
    double *y = malloc((size_t)rows * out * sizeof *y), *t = malloc(PADDED(out) * sizeof *t);
    for (int r = 0; r < rows; r++) {
        for (int n = 0; n < PADDED(out); n++)
            t[n] = v[(size_t)r * width + column + n] / 4194304.0 * factor;
        for (int n = 0; l->svh && n < PADDED(out); n += BLOCK) reference_hadamard(t + n);
        for (int n = 0; n < out; n++)
            y[(size_t)r * out + n] =
                t[n] * (l->svh ? reference_half(((uint16_t *)(weights + l->svh))[n]) : 1) +
                (l->bias ? ((float *)(weights + l->bias))[n] : 0);
    }
    free(v);
    free(t);
    return y;
}

static void set_middle(void)
{
    float *x = get(s.x, (size_t)b.rows * DIM * 4);
    put(work_place(places().middle), x, (size_t)b.rows * DIM * 4);
    free(x);
}

// --- steps ---------------------------------------------------------------------------------------

#define TURNS (ROPES * ROPE_DIM) // cosines and sines of a row

static void check_embed(void)
{
    const float inverse[] = ROPE_INVERSE, factor[] = {ROPE_FACTOR};
    launch_embed(gpu, &s, &b, EMBED_FORMAT);
    float *x = get(s.x, (size_t)b.rows * DIM * 4), *rope = get(s.rope, (size_t)b.rows * TURNS * 4);
    double *ex = malloc((size_t)b.rows * DIM * 8), *er = malloc((size_t)b.rows * TURNS * 8);
    const uint16_t *table = (const uint16_t *)(weights + s.ends.embed);
    for (int r = 0; r < b.rows; r++) {
        for (int i = 0; i < DIM; i++) {
            uint16_t bits = table[(size_t)token[r] * DIM + i];
            uint32_t wide = (uint32_t)bits << 16;
            float f;
            memcpy(&f, &wide, 4);
            ex[r * DIM + i] = (EMBED_FORMAT == b16 ? f : reference_half(bits)) * EMBED_SCALE;
        }
        for (int j = 0; j < TURNS / 2; j++) {
            float angle = (float)position[r] * inverse[j];
            er[r * TURNS + 2 * j] = cos(angle) * factor[j / (ROPE_DIM / 2)];
            er[r * TURNS + 2 * j + 1] = sin(angle) * factor[j / (ROPE_DIM / 2)];
        }
    }
    compare("embed", b.rows, DIM, x, ex, 0);
    compare("rope", b.rows, TURNS, rope, er, 1e-6);
    check_squares();
    launch_keep(gpu, &s, &b, 1);
    float *hidden = get(s.hidden + (size_t)b.rows * DIM, (size_t)b.rows * DIM * 4);
    compare("keep", b.rows, DIM, hidden, ex, 0);
    free(x), free(rope), free(ex), free(er), free(hidden);
}

static int pool_of(int l)
{
    return WINDOW_LAYERS && layers[l].window ? POOL_WINDOW : POOL_ALL;
}

static double cache_at(const uint8_t *cache, int l, int row_sequence, int value, int kv, int t,
                       int i)
{
    int pool = pool_of(l);
    int layer = WINDOW_LAYERS || CACHE_LAYERS != LAYERS ? layers[l].kept : l;
    size_t page = page_table[pool][row_sequence * PER_SEQUENCE + t / PAGE];
    size_t keys = PAGE * ref_row_bytes(HEAD_DIM, s.key_bits);
    size_t values = PAGE * ref_row_bytes(HEAD_DIM, s.value_bits);
    const uint8_t *head = cache + page * s.page_bytes[pool] + layer * KV_HEADS * (keys + values) +
                          (value ? KV_HEADS * keys + kv * values : kv * keys);
    return ref_stored(head, PAGE, HEAD_DIM, value ? s.value_bits : s.key_bits, t % PAGE, i);
}

// That what is stored in few bits is near enough, row by row.
static void compare_stored(const char *what, int columns, int bits, const float *got,
                           const double *expected)
{
    checked++;
    for (int r = 0; r < b.rows; r++) {
        double square = 0, error = 0;
        for (int i = r * columns; i < (r + 1) * columns; i++) {
            square += expected[i] * expected[i];
            error += (got[i] - expected[i]) * (got[i] - expected[i]);
        }
        if (sqrt(error / square) < ref_cache_error(bits)) continue;
        printf("%s in %d bits, row %d of %d: relative error %.2e\n", what, bits, r, b.rows,
               sqrt(error / square));
        failed++;
        return;
    }
}

static int split_count(int window, int position)
{
    int first = window > 0 && position >= window ? position - window + 1 : 0;
    return position / SPLIT - first / SPLIT + 1;
}

#if KV_LATENT
#include "latents.h"
#else
#define EACH_HEAD (HEAD_NORMS == HEAD_NORM_EACH)

// Takes the queries of GATED_ATTENTION's heads out of (rows, HEADS, 2, HEAD_DIM), in place, and
// compares the gates with those in s.y.
static void take_queries(double *y, const char *name)
{
    double *gates = malloc((size_t)b.rows * Q_DIM * 8);
    for (int i = 0; i < b.rows * HEADS; i++)
        for (int j = 0; j < HEAD_DIM; j++) {
            gates[(size_t)i * HEAD_DIM + j] =
                1 / (1 + exp(-y[(size_t)i * 2 * HEAD_DIM + HEAD_DIM + j]));
            y[(size_t)i * HEAD_DIM + j] = y[(size_t)i * 2 * HEAD_DIM + j];
        }
    float *got = get(s.y, (size_t)b.rows * Q_DIM * 4);
    char what[64];
    snprintf(what, sizeof what, "gates(%s)", name);
    compare(what, b.rows, Q_DIM, got, gates, 2e-3);
    free(gates), free(got);
}

static void check_qkv(int q, int k, int v, int l, const char *name)
{
    const Layer *layer = &layers[l];
    set_x();
    launch_qkv(gpu, &s, &b, q, k, v, s.layers + l);
    if (decode_form(gpu, &s, &b)) {
        launch_decode(gpu, STEP_HEADS, &s, &b, s.layers + l, 0, 0, 0, 0, ATTEND_ROOM);
        clear_all_sums();
    }
    double *x = normed_x(layer->attn_norm, NULL, b.rows);
    float *rope = get(s.rope, (size_t)b.rows * TURNS * 4);
    for (int which = 0; which < 3; which++) {
        const Linear *w = which == 0 ? &layer->q : which == 1 ? &layer->k : &layer->v;
        int heads = which == 0 ? HEADS : LAYER_KV_HEADS(layer), width = heads * HEAD_DIM;
        uint64_t norm = which == 0 ? layer->q_norm : which == 1 ? layer->k_norm : 0;
        int product = which == 0 ? Q_WIDE : width;
        double *y = malloc((size_t)b.rows * product * 8);
        int format = which == 0 ? q : which == 1 ? k : v;
        reference_linear(weights, w, format, DIM, product, b.rows, x, y);
        if (GATED_ATTENTION && which == 0) take_queries(y, name);
        float *got = malloc((size_t)b.rows * width * 4);
        uint8_t *cache = which ? get(s.cache[pool_of(l)], CACHE_BYTES) : NULL;
        int bits = which == 2 ? s.value_bits : s.key_bits;
        if (which == 0) gpu_read(gpu, got, (GpuPointer)s.q, (size_t)b.rows * width * 4);
        for (int r = 0; r < b.rows && norm && HEAD_NORMS == HEAD_NORM_ALL; r++) {
            double *row = y + (size_t)r * width, sum = 0;
            for (int i = 0; i < width; i++) sum += row[i] * row[i];
            for (int i = 0; i < width; i++)
                row[i] *= ((float *)(weights + norm))[i] / sqrt(sum / width + NORM_EPS);
        }
        for (int r = 0; r < b.rows; r++)
            for (int h = 0; h < heads; h++) {
                reference_head(y + (size_t)r * width + h * HEAD_DIM,
                               norm ? (float *)(weights + norm) + (EACH_HEAD ? h * HEAD_DIM : 0)
                                    : NULL,
                               which < 2 && layer->rope >= 0
                                   ? rope + (size_t)r * TURNS + layer->rope * ROPE_DIM
                                   : NULL);
                for (int i = 0; which == 0 && i < HEAD_DIM; i++)
                    y[(size_t)r * width + h * HEAD_DIM + i] *=
                        1 + QUERY_BETA * log(1 + floor((double)position[r] / QUERY_FROM));
                if (bits < 16) ref_turn(y + (size_t)r * width + h * HEAD_DIM, HEAD_DIM);
                for (int i = 0; which && i < HEAD_DIM; i++)
                    got[(size_t)r * width + h * HEAD_DIM + i] =
                        cache_at(cache, l, sequence[r], which == 2, h, position[r], i);
            }
        char what[64];
        snprintf(what, sizeof what, "qkv(%s).%c", name, "qkv"[which]);
        if (which && bits < 16)
            compare_stored(what, width, bits, got, y);
        else
            compare(what, b.rows, width, got, y, 2e-3);
        free(y), free(got), free(cache);
    }
    free(x), free(rope);
}

// The attention output of rows whose splits the next step would add.
static void add_partials(int l, float *a)
{
    int window = layers[l].window;
    size_t a_row = (size_t)KV_HEADS * MOST_SPLITS * SPLIT_FLOATS;
    float *all = get(work_place(places().large), b.rows * a_row * 4);
    for (int r = 0; r < b.rows; r++)
        for (int channel = 0; channel < Q_DIM; channel++) {
            int splits = split_count(window, position[r]), head = channel / HEAD_DIM;
            const float *p = all + r * a_row + (size_t)(head / GROUP) * MOST_SPLITS * SPLIT_FLOATS;
            double largest = -INFINITY, sum = 0, weight = 0;
            if (splits == 1) continue;
            for (int j = 0; j < splits; j++)
                largest = fmax(largest, p[j * SPLIT_FLOATS + GROUP * HEAD_DIM + head % GROUP]);
            for (int j = 0; j < splits; j++) {
                const float *q = p + j * SPLIT_FLOATS;
                double factor = exp2(q[GROUP * HEAD_DIM + head % GROUP] - largest);
                sum += factor * q[channel % (GROUP * HEAD_DIM)];
                weight += factor * q[GROUP * HEAD_DIM + GROUP + head % GROUP];
            }
            if (ATTN_SINKS)
                weight += exp2(((float *)(weights + layers[l].sinks))[head] * M_LOG2E - largest);
            a[(size_t)r * Q_DIM + channel] = sum / weight;
        }
    free(all);
}

static void check_attend(int l)
{
    float *q = random_floats((size_t)b.rows * Q_DIM, 1);
    put(s.q, q, (size_t)b.rows * Q_DIM * 4);
    if (decode_form(gpu, &s, &b)) {
        Batch given = b; // the queries are in s.q
        given.segments = -1;
        launch_decode(gpu, STEP_ATTEND, &s, &given, s.layers + l, 0, 0, 0, 0, ATTEND_ROOM);
    } else {
        launch_attend(gpu, &s, &b, s.layers + l);
    }
    float *got = get(s.a, (size_t)b.rows * Q_DIM * 4);
    if (decode_form(gpu, &s, &b)) add_partials(l, got);
    uint8_t *cache = get(s.cache[pool_of(l)], CACHE_BYTES);
    double *expected = calloc((size_t)b.rows * Q_DIM, 8), *p = malloc(MAX_CONTEXT * 8);
    for (int r = 0; r < b.rows; r++)
        for (int h = 0; h < HEADS; h++) {
            int window = layers[l].window, last = position[r];
            int kv = h * LAYER_KV_HEADS(&layers[l]) / HEADS;
            int first = window > 0 && last >= window ? last - window + 1 : 0;
            double sink = ATTN_SINKS ? ((float *)(weights + layers[l].sinks))[h] : -INFINITY;
            double most = sink, total = 0;
            for (int t = first; t <= last; t++) {
                p[t] = 0;
                for (int i = 0; i < HEAD_DIM; i++)
                    p[t] += q[(size_t)r * Q_DIM + h * HEAD_DIM + i] *
                            (double)cache_at(cache, l, sequence[r], 0, kv, t, i) * SOFTMAX_SCALE;
                p[t] = reference_softcap(p[t], ATTN_SOFTCAP);
                most = fmax(most, p[t]);
            }
            total = exp(sink - most);
            for (int t = first; t <= last; t++) total += p[t] = exp(p[t] - most);
            for (int t = first; t <= last; t++)
                for (int i = 0; i < HEAD_DIM; i++)
                    expected[(size_t)r * Q_DIM + h * HEAD_DIM + i] +=
                        p[t] / total * cache_at(cache, l, sequence[r], 1, kv, t, i);
        }
    if (s.value_bits < 16 &&
        !decode_form(gpu, &s, &b)) // the decode form leaves that to the next step
        for (int r = 0; r < b.rows; r++) ref_turn(expected + (size_t)r * Q_DIM, Q_DIM);
    compare(layers[l].window ? "attend, window" : "attend", b.rows, Q_DIM, got, expected, 2e-3);
    free(q), free(got), free(cache), free(expected), free(p);
}

#endif

// Lays an attention output down as splits, all but the first of no weight.
static void put_partials(int l, const float *a)
{
    int window = layers[l].window;
    size_t a_row = (size_t)KV_HEADS * MOST_SPLITS * SPLIT_FLOATS;
    float *all = calloc(b.rows * a_row, 4);
    for (int r = 0; r < b.rows; r++)
        for (int kv = 0; kv < KV_HEADS; kv++)
            for (int j = 0; j < split_count(window, position[r]); j++) {
                float *q = all + r * a_row + ((size_t)kv * MOST_SPLITS + j) * SPLIT_FLOATS;
                for (int i = 0; j == 0 && i < GROUP * HEAD_DIM; i++) {
                    // A sink weighs as much as exp2(its score - 3) of the total.
                    int head = kv * GROUP + i / HEAD_DIM;
                    double sink =
                        ATTN_SINKS
                            ? exp2(((float *)(weights + layers[l].sinks))[head] * M_LOG2E - 3)
                            : 0;
                    q[i] = (2 + sink) * a[(size_t)r * Q_DIM + kv * GROUP * HEAD_DIM + i];
                }
                for (int h = 0; h < GROUP; h++) {
                    q[GROUP * HEAD_DIM + h] = j == 0 ? 3 : -INFINITY;
                    q[GROUP * HEAD_DIM + GROUP + h] = j == 0 ? 2 : 0;
                }
            }
    put(work_place(places().large), all, b.rows * a_row * 4);
    free(all);
}

// What out or down multiplies with: `in` channels of rows with room for more.
static double *inputs_of(const float *input, int down, int in)
{
    int room = down ? FFN_DIM : Q_DIM;
    double *x = malloc((size_t)b.rows * in * sizeof *x);
    for (int r = 0; r < b.rows; r++)
        for (int i = 0; i < in; i++) x[(size_t)r * in + i] = input[(size_t)r * room + i];
    if (!down && s.value_bits < 16 && decode_form(gpu, &s, &b))
        for (int r = 0; r < b.rows; r++) ref_turn(x + (size_t)r * Q_DIM, Q_DIM);
    if (GATED_ATTENTION && !down) {
        float *gates = get(s.y, (size_t)b.rows * Q_DIM * 4);
        for (int i = 0; i < b.rows * Q_DIM; i++) x[i] *= gates[i];
        free(gates);
    }
    return x;
}

#if POST_NORMS
// out_norm, in the prefill form down_norm too: x += norm(linear(input)).
static void check_post_norm(int down, int format, int l, const char *name)
{
    const Linear *w = down ? &layers[l].down : &layers[l].o;
    int in = down ? FFN_DIM : Q_DIM, decode = decode_form(gpu, &s, &b);
    float *input = random_floats((size_t)b.rows * in, 1);
    set_x();
    float *before = get(s.x, (size_t)b.rows * DIM * 4);
    put(down ? s.h : s.a, input, (size_t)b.rows * in * 4);
    if (decode) put_partials(l, input), set_middle();
    (down ? launch_down_norm : launch_out_norm)(gpu, &s, &b, format, s.layers + l);
    float *got = get(decode ? work_place(places().middle) : s.x, (size_t)b.rows * DIM * 4),
          product[DIM];
    double *x = inputs_of(input, down, in), *y = malloc((size_t)b.rows * DIM * 8);
    reference_linear(weights, w, format, in, DIM, b.rows, x, y);
    for (int r = 0; r < b.rows; r++) {
        for (int i = 0; i < DIM; i++) product[i] = (float)y[r * DIM + i];
        uint64_t norm = down ? layers[l].ffn_post : layers[l].attn_post;
        reference_norm(product, (float *)(weights + norm), DIM, y + r * DIM);
        for (int i = 0; i < DIM; i++)
            y[r * DIM + i] = y[r * DIM + i] * RESIDUAL_SCALE + before[r * DIM + i];
    }
    char what[64];
    snprintf(what, sizeof what, "%s_norm(%s)", down ? "down" : "out", name);
    compare(what, b.rows, DIM, got, y, 1e-3);
    if (!decode) check_squares();
    clear_all_sums();
    free(input), free(before), free(got), free(x), free(y);
}
#endif

#if GATED_ATTENTION
#define TEST_LAUNCH_OUT_PLAIN launch_out_gated
#else
#define TEST_LAUNCH_OUT_PLAIN launch_out
#endif

static void put_gates(void)
{
    float *gates = malloc((size_t)b.rows * Q_DIM * 4);
    for (int i = 0; i < b.rows * Q_DIM; i++) gates[i] = random_bits() * 0x1p-32f;
    put(s.y, gates, (size_t)b.rows * Q_DIM * 4);
    free(gates);
}

// out, in the prefill form down too: x += linear(input).
static void check_residual(int down, int format, int l, const char *name)
{
#if POST_NORMS
    check_post_norm(down, format, l, name);
#endif
    const Linear *w = down ? &layers[l].down : &layers[l].o;
    int in = down ? FFN_DIM : Q_DIM;
    float *input = random_floats((size_t)b.rows * in, 1);
    set_x();
    float *before = get(s.x, (size_t)b.rows * DIM * 4), *got;
    put(down ? s.h : s.a, input, (size_t)b.rows * in * 4);
    if (decode_form(gpu, &s, &b)) put_partials(l, input);
    if (GATED_ATTENTION && !down) put_gates();
    if (down)
        launch_down(gpu, &s, &b, format, s.layers + l);
    else
        TEST_LAUNCH_OUT_PLAIN(gpu, &s, &b, format, s.layers + l);
    int width = down ? LAYER_FFN_DIM(&layers[l]) : in; // of the input
    double *x = inputs_of(input, down, width), *y = malloc((size_t)b.rows * DIM * 8);
    reference_linear(weights, w, format, width, DIM, b.rows, x, y);
    char what[64];
    snprintf(what, sizeof what, "%s(%s)", down ? "down" : "out", name);
    if (decode_form(gpu, &s, &b)) {
        double *sums = finished(places().sums_out, b.rows, PADDED(DIM), 0, w, DIM, 1);
        got = malloc((size_t)b.rows * DIM * 4);
        for (int i = 0; i < b.rows * DIM; i++) got[i] = sums[i] * RESIDUAL_SCALE + before[i];
        free(sums);
    } else {
        got = get(s.x, (size_t)b.rows * DIM * 4);
        check_squares();
    }
    for (int i = 0; i < b.rows * DIM; i++) y[i] = y[i] * RESIDUAL_SCALE + before[i];
    compare(what, b.rows, DIM, got, y, 4e-4);

    // A row alone gives the same bits.
    if (decode_form(gpu, &s, &b) && b.rows > 1) {
        int r = random_bits() % b.rows, bytes = PADDED(DIM) * 8;
        char *all = get((uint8_t *)work_place(places().sums_out) + r * bytes, bytes);
        Batch few = b;
        State one = s;
        clear_all_sums();
        few.rows = few.segments = 1, few.position += r;
        one.a += (size_t)r * in;
        if (GATED_ATTENTION) one.y += (size_t)r * Q_DIM;
        put_partials(l, input); // the row's come first
        float *own = get((float *)work_place(places().large) +
                             (size_t)r * KV_HEADS * MOST_SPLITS * SPLIT_FLOATS,
                         (size_t)KV_HEADS * MOST_SPLITS * SPLIT_FLOATS * 4);
        put(work_place(places().large), own, (size_t)KV_HEADS * MOST_SPLITS * SPLIT_FLOATS * 4);
        TEST_LAUNCH_OUT_PLAIN(gpu, &one, &few, format, s.layers + l);
        char *alone = get(work_place(places().sums_out), bytes);
        if (memcmp(alone, all, bytes) != 0) {
            printf("%s: row %d of %d differs when it is alone\n", what, r, b.rows);
            failed++;
        }
        free(alone), free(all), free(own);
    }
    clear_all_sums();
    free(input), free(before), free(got), free(x), free(y);
}

// up, or with gate 0 up_alone, and in the decode form down after it, which alone finishes what up
// leaves.
static void check_up(int gate, int up, int down, int l, const char *name)
{
    const Layer *layer = &layers[l];
    int ffn_dim = LAYER_FFN_DIM(layer), decode = decode_form(gpu, &s, &b), n = b.rows * ffn_dim;
    set_x();
    float *before = get(s.x, (size_t)b.rows * DIM * 4);
    if (decode) set_middle();
#ifdef TEST_UP_ALONE
    if (!gate) launch_up_alone(gpu, &s, &b, up, s.layers + l);
#endif
    if (gate) launch_up(gpu, &s, &b, gate, up, s.layers + l);
    double *x = normed_x(layer->ffn_norm, NULL, b.rows);
    double *y = malloc((size_t)n * 8), *z = malloc((size_t)n * 8);
    if (gate) reference_linear(weights, &layer->gate, gate, DIM, ffn_dim, b.rows, x, y);
    reference_linear(weights, &layer->up, up, DIM, ffn_dim, b.rows, x, z);
    for (int i = 0; i < n; i++)
        y[i] = gate ? reference_activation(y[i]) * reference_lifted(z[i])
                    : reference_activation(z[i]);
    char what[64];
    snprintf(what, sizeof what, "up(%s)", name);
    if (decode && PARALLEL) { // down is followed by the step that adds it and what `out` left
        double *t = malloc((size_t)b.rows * DIM * 8);
        float *bias = (float *)(weights + layer->o.bias);
        reference_linear(weights, &layer->down, down, ffn_dim, DIM, b.rows, y, t);
        launch_down(gpu, &s, &b, down, s.layers + l);
        float *got = get(s.x, (size_t)b.rows * DIM * 4);
        check_squares();
        for (int i = 0; i < b.rows * DIM; i++) {
            t[i] = (t[i] + bias[i % DIM]) * RESIDUAL_SCALE;
            got[i] -= before[i];
        }
        compare(what, b.rows, DIM, got, t, 2e-3);
        free(t), free(got);
        clear_all_sums();
    } else if (decode) {
        double *t = malloc((size_t)b.rows * DIM * 8);
        reference_linear(weights, &layer->down, down, ffn_dim, DIM, b.rows, y, t);
        // The residual stream plus what `out` left: a bias at least.
        double *pending = finished(places().sums_out, b.rows, PADDED(DIM), 0, &layer->o, DIM, 1);
        float *after = get(s.x, (size_t)b.rows * DIM * 4);
        for (int i = 0; i < b.rows * DIM; i++)
            pending[i] = before[i] + (layer->attn_post ? 0 : pending[i] * RESIDUAL_SCALE);
        compare("x after out", b.rows, DIM, after, pending, 1e-6);
        check_squares();
        launch_down(gpu, &s, &b, down, s.layers + l);
        uint64_t at = places().sums_down; // the second set, with an odd number of parts before
        if (SKIPS_PARTS) at += (places().sums_head - at) / 2;
        double *sums = finished(at, b.rows, PADDED(DIM), 0, &layer->down, DIM, 1);
        float *got = malloc((size_t)b.rows * DIM * 4);
        for (int i = 0; i < b.rows * DIM; i++) got[i] = sums[i];
        compare(what, b.rows, DIM, got, t, 2e-3);
        free(t), free(pending), free(after), free(sums), free(got);
        clear_all_sums();
    } else {
        float *got = get(s.h, (size_t)b.rows * FFN_DIM * 4);
        for (int i = 0; i < n; i++) got[i] = got[i / ffn_dim * FFN_DIM + i % ffn_dim];
        compare(what, b.rows, ffn_dim, got, y, 2e-3);
        free(got);
    }
    free(before), free(x), free(y), free(z);
}

#if EXPERTS
// Experts of random weights, some with biases. Nobody chooses expert 1, many choose expert 0, and
// the last one scores as expert 2 does.
static void random_experts(Layer *layer, int gate, int up, int down, int shared_gate, int shared_up,
                           int shared_down)
{
    layer->router = random_vector(EXPERTS * DIM, 0, 2 / sqrtf(DIM));
    float *router = (float *)(weights + layer->router);
    memcpy(router + (EXPERTS - 1) * DIM, router + 2 * DIM, DIM * 4);
    uint64_t *bias = ROUTER_SIGMOID ? &layer->choice_bias : &layer->router_bias;
    *bias = random_vector(EXPERTS, 0, 0.1f);
    float *biases = (float *)(weights + *bias);
    biases[0] += 1, biases[1] = -100, biases[EXPERTS - 1] = biases[2];
    layer->shared_gate = layer->shared_up = layer->shared_down = (Linear){0};
    layer->shared_weight = 0;
    if (shared_gate) {
        layer->shared_gate = random_linear(shared_gate, DIM, SHARED_DIM, 0);
        layer->shared_up = random_linear(shared_up, DIM, SHARED_DIM, 1);
        layer->shared_down = random_linear(shared_down, SHARED_DIM, DIM, 0);
        if (TEST_SHARED_WEIGHT) layer->shared_weight = random_vector(DIM, 0, 1 / sqrtf(DIM));
    }
    for (int e = 0; e < EXPERTS; e++) {
        Linear g = random_linear(gate, DIM, EXPERT_DIM, 1);
        Linear u = random_linear(up, DIM, EXPERT_DIM, 0);
        Linear d = random_linear(down, EXPERT_DIM, DIM, 1);
        if (e == 0) layer->gate = g, layer->up = u, layer->down = d;
        if (e == 1) layer->expert_stride = g.weights - layer->gate.weights;
    }
}

static Linear of_expert(Linear l, uint64_t more)
{
    l.weights += more;
    if (l.suh) l.suh += more, l.svh += more;
    if (l.bias) l.bias += more;
    return l;
}

// sum += the output of an expert of `width` channels for one row, times weight.
static void add_expert(const int formats[3], const Linear w[3], int width, const double *x,
                       double weight, double *sum)
{
    double *gate = malloc(width * 8), *up = malloc(width * 8), y[DIM];
    reference_linear(weights, &w[0], formats[0], DIM, width, 1, x, gate);
    reference_linear(weights, &w[1], formats[1], DIM, width, 1, x, up);
    for (int i = 0; i < width; i++) gate[i] = reference_activation(gate[i]) * reference_lifted(up[i]);
    reference_linear(weights, &w[2], formats[2], width, DIM, 1, gate, y);
    for (int i = 0; i < DIM; i++) sum[i] += weight * y[i];
    free(gate), free(up);
}

// What a routed layer adds to one row.
static void reference_experts(const Layer *layer, const int formats[6], const double *x, double *sum)
{
    double score[EXPERTS + 1], weight[ACTIVE_EXPERTS];
    int chosen[ACTIVE_EXPERTS];
    for (int e = 0; e <= EXPERTS; e++) {
        const float *w = (float *)(weights + (e < EXPERTS ? layer->router : layer->shared_weight));
        if (e < EXPERTS) w += e * DIM;
        score[e] = e < EXPERTS && layer->router_bias
                       ? ((float *)(weights + layer->router_bias))[e]
                       : 0;
        for (int i = 0; i < DIM; i++) score[e] += x[i] * w[i];
    }
    reference_route(score,
                    layer->choice_bias ? (float *)(weights + layer->choice_bias) : NULL, chosen,
                    weight);
    for (int i = 0; i < DIM; i++) sum[i] = 0;
    for (int i = 0; i < ACTIVE_EXPERTS; i++) {
        uint64_t more = chosen[i] * layer->expert_stride;
        Linear w[3] = {of_expert(layer->gate, more), of_expert(layer->up, more),
                       of_expert(layer->down, more)};
        add_expert(formats, w, EXPERT_DIM, x, weight[i], sum);
    }
    if (formats[3])
        add_expert(formats + 3, (Linear[]){layer->shared_gate, layer->shared_up, layer->shared_down},
                   SHARED_DIM, x,
                   layer->shared_weight ? 1 / (1 + exp(-score[EXPERTS])) : 1, sum);
}

// Sums of another pass that a routed layer expects to be clear, or leaves to be cleared.
static float *run_experts(const State *state, const Batch *batch, const int f[6], int l)
{
    if (decode_form(gpu, state, batch)) clear_all_sums();
    launch_moe_shared(gpu, state, batch, f[0], f[1], f[2], f[3], f[4], f[5], s.layers + l);
    if (decode_form(gpu, state, batch)) clear_all_sums();
    return get(s.x, (size_t)b.rows * DIM * 4);
}

// A routed layer: x += what the experts give. In the decode form a row alone gives the same bits;
// in both a NaN stays in its row.
static void check_experts(const int formats[6], int l, const char *name)
{
    const Layer *layer = &layers[l];
    int decode = decode_form(gpu, &s, &b), checks = b.rows < 12 ? b.rows : 12, r;
    set_x();
    float *before = get(s.x, (size_t)b.rows * DIM * 4);
    if (decode) set_middle();
    if (decode && layer->o.bias) // what `out` left
        for (int i = 0; i < b.rows * DIM; i++)
            before[i] +=
                RESIDUAL_SCALE * ((float *)(weights + layer->o.bias))[i % DIM];
    float *after = run_experts(&s, &b, formats, l);
    check_squares();
    double *expected = malloc((size_t)checks * DIM * 8), x[DIM];
    float *got = malloc((size_t)checks * DIM * 4);
    for (int i = 0; i < checks; i++) {
        r = checks == b.rows ? i : (int)(random_bits() % b.rows);
        reference_norm(before + (size_t)r * DIM, (float *)(weights + layer->ffn_norm), DIM, x);
        reference_experts(layer, formats, x, expected + (size_t)i * DIM);
        for (int j = 0; j < DIM; j++) {
            got[(size_t)i * DIM + j] = after[(size_t)r * DIM + j] - before[(size_t)r * DIM + j];
            expected[(size_t)i * DIM + j] *= RESIDUAL_SCALE;
        }
    }
    char what[64];
    snprintf(what, sizeof what, "moe(%s)", name);
    compare(what, checks, DIM, got, expected, 2e-3);

    r = random_bits() % b.rows;
    if (decode) {
        State one = s;
        Batch alone = b;
        alone.rows = alone.segments = 1;
        one.x += (size_t)r * DIM;
        float *row = get((float *)work_place(places().middle) + (size_t)r * DIM, DIM * 4);
        float *first = get(work_place(places().middle), DIM * 4);
        put(work_place(places().middle), row, DIM * 4);
        float *again = run_experts(&one, &alone, formats, l);
        if (memcmp(again + (size_t)r * DIM, after + (size_t)r * DIM, DIM * 4) != 0) {
            printf("%s: row %d of %d differs when it is alone\n", what, r, b.rows);
            failed++;
        }
        put(work_place(places().middle), first, DIM * 4);
        free(row), free(first), free(again);
    }
    float nan = NAN, *in = decode ? work_place(places().middle) : s.x;
    if (!decode) put(s.x, before, (size_t)b.rows * DIM * 4);
    if (!decode) set_squares();
    put(in + (size_t)r * DIM + DIM / 2, &nan, 4);
    if (!decode)
        put((float *)work_place(places().squares) + (size_t)r * MOMENTS, &nan, 4);
    float *odd = run_experts(&s, &b, formats, l);
    for (int i = 0; i < b.rows * DIM; i++)
        if (i / DIM == r ? odd[i] == odd[i] : memcmp(&odd[i], &after[i], 4) != 0) {
            printf("%s, %d rows: with a NaN in row %d, [%d][%d] is %g, before %g\n", what, b.rows, r,
                   i / DIM, i % DIM, odd[i], after[i]);
            failed++;
            break;
        }
    checked++;
    free(before), free(after), free(expected), free(got), free(odd);
}
#endif

#if DELTA_HEADS
#include "delta.h"
#endif

static void check_head(int format, const char *name)
{
    set_x();
    launch_head(gpu, &s, &b, format);
    float *got = get(s.logits, (size_t)b.outputs * VOCAB * 4);
    double *x = normed_x(s.ends.norm, output, b.outputs),
           *y = malloc((size_t)b.outputs * VOCAB * 8);
    reference_linear(weights, &s.ends.head, format, DIM, VOCAB, b.outputs, x, y);
    char what[64];
    snprintf(what, sizeof what, "head(%s)", name);
    for (int i = 0; i < b.outputs * VOCAB; i++)
        y[i] = reference_softcap(y[i] * LOGIT_SCALE, LOGIT_SOFTCAP);
    compare(what, b.outputs, VOCAB, got, y, 2e-3);
    Best *best = get((uint8_t *)s.work + work_places(s.max_rows, s.max_outputs).best,
                     (size_t)b.outputs * BLOCKS(VOCAB) * sizeof *best);
    for (int i = 0; i < b.outputs * BLOCKS(VOCAB); i++) {
        const float *row = got + (size_t)(i / BLOCKS(VOCAB)) * VOCAB;
        int first = i % BLOCKS(VOCAB) * BLOCK, id = first;
        for (int j = first; j < first + BLOCK && j < VOCAB; j++)
            if (row[j] > row[id]) id = j;
        if (best[i].id != id || best[i].logit != row[id]) {
            printf("%s: best of block %d is %d, expected %d\n", what, i, best[i].id, id);
            failed++;
            break;
        }
    }
    float *hidden = get(s.hidden + (size_t)LAYERS * b.rows * DIM, (size_t)b.rows * DIM * 4);
    double *normed = normed_x(s.ends.norm, NULL, b.rows);
    clear_all_sums();
    compare("final norm", b.rows, DIM, hidden, normed, 1e-5);
    free(got), free(x), free(y), free(best), free(hidden), free(normed);
}

// --- sampling ------------------------------------------------------------------------------------

typedef struct {
    float logit;
    int id;
} Candidate;

static int by_logit(const void *x, const void *y)
{
    const Candidate *a = x, *c = y;
    return a->logit != c->logit ? (a->logit < c->logit ? 1 : -1) : a->id - c->id;
}

// Draws many tokens from one row of logits: the same ones as the CPU's chain draws, and as often as
// the probabilities say. `masked`: every so manieth token is allowed; 0: no mask.
static void check_sample(float temperature, int top_k, float top_p, float min_p, int coarse,
                         int masked)
{
    enum { DRAWS = 64, ROUNDS = 12 };
    if (s.max_outputs < DRAWS) return;
    float *logits = random_floats(VOCAB, 3), *all = malloc((size_t)DRAWS * VOCAB * 4);
    for (int i = 0; coarse && i < VOCAB; i++) logits[i] = rintf(logits[i]); // many ties
    Candidate sorted[VOCAB];
    static double p[VOCAB];
    double total = 0, sum = 0;
    uint32_t mask[(VOCAB + 31) / 32] = {0};
    int allowed = 0;
    for (int i = 0; i < VOCAB; i++) {
        if (masked && (i * 7919 + 3) % masked) continue;
        mask[i / 32] |= 1u << i % 32;
        sorted[allowed++] = (Candidate){logits[i], i};
    }
    qsort(sorted, (size_t)allowed, sizeof *sorted, by_logit);
    int kept = temperature <= 0 ? 1 : top_k > 0 && top_k < allowed ? top_k : allowed;
    for (int i = 0; i < kept; i++)
        total += temperature > 0 ? exp((sorted[i].logit - sorted[0].logit) / temperature) : 1;
    int count = 0;
    memset(p, 0, sizeof p);
    double kept_total = 0;
    for (; count < kept && (count == 0 || top_p >= 1 || sum < top_p * total); count++) {
        double weight =
            temperature > 0 ? exp((sorted[count].logit - sorted[0].logit) / temperature) : 1;
        sum += weight;
        if (weight >= min_p) kept_total += p[sorted[count].id] = weight;
    }
    Best best[BLOCKS(VOCAB)];
    for (int i = 0; i < BLOCKS(VOCAB); i++) {
        best[i] = (Best){logits[i * BLOCK], i * BLOCK};
        for (int j = i * BLOCK; j < (i + 1) * BLOCK && j < VOCAB; j++)
            if (logits[j] > best[i].logit) best[i] = (Best){logits[j], j};
    }
    static SampleRoom *room;
    Error err;
    if (!room && sample_open(&room, VOCAB, 1, &err) != 0) exit(1);
    Sampling how[DRAWS];
    for (int i = 0; i < DRAWS; i++) {
        memcpy(all + (size_t)i * VOCAB, logits, VOCAB * 4);
        put((uint8_t *)s.work + work_places(s.max_rows, s.max_outputs).best + i * sizeof best, best,
            sizeof best);
    }
    put(s.logits, all, (size_t)DRAWS * VOCAB * 4);
    static int hits[VOCAB];
    memset(hits, 0, sizeof hits);
    static Sampling *device_how;
    static int32_t *device_tokens;
    static uint32_t *device_mask;
    if (!device_how) {
        device_how = device(sizeof how);
        device_tokens = device(DRAWS * 4);
        device_mask = device(sizeof mask);
    }
    put(device_mask, mask, sizeof mask);
    b.outputs = DRAWS;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < DRAWS; i++)
            how[i] = (Sampling){temperature, top_p, min_p, top_k, 42, round * DRAWS + i,
                                masked ? device_mask : NULL};
        put(device_how, how, sizeof how);
        launch_sample(gpu, &s, &b, device_how, device_tokens);
        int32_t *tokens = get(device_tokens, DRAWS * 4);
        for (int i = 0; i < DRAWS; i++) {
            how[i].mask = masked ? mask : NULL;
            int32_t same = sample_plain(room, logits, &how[i]);
            if (tokens[i] != same) {
                printf("sample(%g, %d, %g, %g, mask %d): token %d, on the CPU %d\n", temperature,
                       top_k, top_p, min_p, masked, tokens[i], same);
                failed++;
                free(tokens);
                goto done;
            }
            if (tokens[i] < 0 || tokens[i] >= VOCAB || p[tokens[i]] == 0) {
                printf("sample(%g, %d, %g, %g): token %d is not among the %d kept\n", temperature,
                       top_k, top_p, min_p, tokens[i], count);
                failed++;
                free(tokens);
                goto done;
            }
            hits[tokens[i]]++;
        }
        free(tokens);
    }
    // The ten likeliest, and the draws in order of ids: within five deviations.
    for (int i = 0; i < 10 && i < count; i++) {
        double share = p[sorted[i].id] / kept_total, n = DRAWS * ROUNDS;
        if (fabs(hits[sorted[i].id] - share * n) > 5 * sqrt(n * share * (1 - share)) + 1) {
            printf("sample(%g, %d, %g, %g): token %d drawn %d times of %g, expected %.1f\n",
                   temperature, top_k, top_p, min_p, sorted[i].id, hits[sorted[i].id], n,
                   share * n);
            failed++;
            break;
        }
    }
    checked++;
done:
    free(logits);
    free(all);
}

// --- all of it -----------------------------------------------------------------------------------

static void check_nan(void) // and a mask of nothing
{
    set_x();
    float nan = NAN;
    put(s.x + (size_t)output[0] * DIM + DIM / 2, &nan, 4);
    put((uint8_t *)s.work + work_places(s.max_rows, s.max_outputs).squares +
            (size_t)output[0] * MOMENTS * 4,
        &nan, 4);
    if (SKIPS_PARTS) set_middle();
    launch_head(gpu, &s, &b, TEST_HEAD_FORMAT);
    Sampling how[TEST_ROWS] = {{0}};
    Sampling *device_how = device(sizeof how);
    int32_t *device_tokens = device(sizeof(int32_t) * TEST_ROWS);
    // Output 1 may be no token at all.
    static uint32_t nothing[(VOCAB + 31) / 32];
    uint32_t *mask = device(sizeof nothing);
    put(mask, nothing, sizeof nothing);
    if (TEST_ROWS > 1) how[1].mask = mask;
    put(device_how, how, sizeof how);
    launch_sample(gpu, &s, &b, device_how, device_tokens);
    int32_t *tokens = get(device_tokens, b.outputs * 4);
    for (int i = 0; i < b.outputs; i++)
        if (i < 2 ? tokens[i] != -1 - i : tokens[i] < 0) {
            printf("token of output %d is %d with a NaN in output 0\n", i, tokens[i]);
            failed++;
            break;
        }
    checked++;
    free(tokens);
}

#if KV_LATENT
#define TEST_LAUNCH_QKV launch_latents
#else
#define TEST_LAUNCH_QKV launch_qkv
#endif
#if KV_LATENT
#define TEST_LAUNCH_OUT launch_latent_out
#define TEST_LAUNCH_DOWN launch_down
#elif POST_NORMS
#define TEST_LAUNCH_OUT launch_out_norm
#define TEST_LAUNCH_DOWN launch_down_norm
#else
#define TEST_LAUNCH_OUT TEST_LAUNCH_OUT_PLAIN
#define TEST_LAUNCH_DOWN launch_down
#endif
#ifdef TEST_UP_ALONE
#define TEST_LAUNCH_UP(g, u, layer) launch_up_alone(gpu, &plain, &b, u, layer)
#else
#define TEST_LAUNCH_UP(g, u, layer) launch_up(gpu, &plain, &b, g, u, layer)
#endif

static void random_inputs(Layer *layer, int q, int k, int v)
{
#if KV_LATENT
    random_latents(layer, q, k, v);
#else
    int kv_dim = LAYER_KV_HEADS(layer) * HEAD_DIM;
    layer->q = random_linear(q, DIM, Q_WIDE, 1);
    layer->k = random_linear(k, DIM, kv_dim, 0);
    layer->v = random_linear(v, DIM, kv_dim, 1);
#endif
}

// Routed layers of check_together.
#if EXPERTS
#define TEST_RANDOM_EXPERTS(layer) TEST_EXPERT_FORMATS(RANDOM_EXPERTS, layer)
#define RANDOM_EXPERTS(g, u, d, sg, su, sd, layer) random_experts(layer, g, u, d, sg, su, sd)
#define TEST_LAUNCH_EXPERTS(layer) TEST_EXPERT_FORMATS(LAUNCH_EXPERTS, layer)
#define LAUNCH_EXPERTS(g, u, d, sg, su, sd, layer)                                                 \
    launch_moe_shared(gpu, &plain, &b, g, u, d, sg, su, sd, layer)
#else
#define TEST_ROUTED(l) 0
#define TEST_RANDOM_EXPERTS(layer)
#define TEST_LAUNCH_EXPERTS(layer)
#endif

// Delta nets of check_together.
#if DELTA_HEADS
#define TEST_RANDOM_DELTA(layer) TEST_DELTA_FORMATS(RANDOM_DELTA, layer)
#define RANDOM_DELTA(in, z, o, layer) random_delta(layer, in, z, o)
#define TEST_RUN_DELTA(l) TEST_DELTA_FORMATS(RUN_DELTA, l)
#define RUN_DELTA(in, z, o, l) run_delta(&plain, &b, (int[]){in, z, o}, l)
#else
#define TEST_DELTA(l) 0
#define STATE_FLOATS 0
#define TEST_RANDOM_DELTA(layer)
#define TEST_RUN_DELTA(l)
#endif

// A pass in steps. Attention's products come before or after those of the feed-forward.
#define OUT_FIRST(layer, o) if (!PARALLEL) TEST_LAUNCH_OUT(gpu, &plain, &b, o, layer);
#define OUT_LAST(layer, o) if (PARALLEL) TEST_LAUNCH_OUT(gpu, &plain, &b, o, layer);
#define RUN_STEPS(q_, k_, v_, o_, g_, u_, d_, h_)                                                  \
    launch_embed(gpu, &plain, &b, EMBED_FORMAT);                                                   \
    for (int l = 0; l < LAYERS; l++) {                                                             \
        const Layer *layer = s.layers + l;                                                         \
        if (TEST_DELTA(l)) {                                                                       \
            TEST_RUN_DELTA(l);                                                                     \
        } else if (TEST_ATTENDS(l)) {                                                              \
            TEST_LAUNCH_QKV(gpu, &plain, &b, q_, k_, v_, layer);                                   \
            launch_attend(gpu, &plain, &b, layer);                                                 \
            OUT_FIRST(layer, o_)                                                                   \
        }                                                                                          \
        if (!TEST_FEEDS(l)) continue;                                                              \
        if (TEST_ROUTED(l)) {                                                                      \
            TEST_LAUNCH_EXPERTS(layer);                                                            \
            continue;                                                                              \
        }                                                                                          \
        TEST_LAUNCH_UP(g_, u_, layer);                                                             \
        OUT_LAST(layer, o_)                                                                        \
        TEST_LAUNCH_DOWN(gpu, &plain, &b, d_, layer);                                              \
    }                                                                                              \
    launch_head(gpu, &plain, &b, h_);
static void run_steps(State plain)
{
    TEST_STEP_FORMATS(RUN_STEPS)
}

// All decode steps in one launch give the bits of the launches one by one: logits, the rows' keys
// and values, states, and sums that are clear.
static void check_together(void)
{
    if (!decode_form(gpu, &s, &b) || b.rows != b.segments) return;
    uint64_t start = weights_used;
    State plain = s;
    plain.hidden = NULL;
#define RANDOM_STEPS(q_, k_, v_, o_, g_, u_, d_, h_)                                               \
    for (int l = 0; l < LAYERS; l++) {                                                             \
        int ffn_dim = LAYER_FFN_DIM(&layers[l]);                                                   \
        random_inputs(&layers[l], q_, k_, v_);                                                     \
        layers[l].o = random_linear(o_, ATTENDED, DIM, 0);                                         \
        layers[l].gate = g_ ? random_linear(g_, DIM, ffn_dim, 0) : (Linear){0};                    \
        layers[l].up = random_linear(u_, DIM, ffn_dim, 1);                                         \
        layers[l].down = random_linear(d_, ffn_dim, DIM, 1);                                       \
        layers[l].router = 0;                                                                      \
        if (!TEST_ATTENDS(l)) layers[l].q = layers[l].o = (Linear){0};                             \
        if (!TEST_FEEDS(l)) layers[l].up = layers[l].down = (Linear){0};                           \
        if (TEST_ROUTED(l)) {                                                                      \
            TEST_RANDOM_EXPERTS(&layers[l]);                                                       \
        }                                                                                          \
        if (TEST_DELTA(l)) {                                                                       \
            TEST_RANDOM_DELTA(&layers[l]);                                                         \
        }                                                                                          \
    }                                                                                              \
    s.ends.head = plain.ends.head = random_linear(h_, DIM, VOCAB, 0);
    TEST_STEP_FORMATS(RANDOM_STEPS)
    put_weights();
    plain.weights = s.weights;
    b.outputs = b.rows;
    for (int i = 0; i < b.rows; i++) output[i] = i;
    put_batch();
    size_t logits_bytes = (size_t)b.outputs * VOCAB * 4;
    void *logits[2], *cache[2][POOLS], *states[2];
    float *given = random_floats(STATE_FLOATS, 0.3f);
    for (int together = 0; together < 2; together++) {
        put(s.states, given, STATE_FLOATS * 4);
        if (together) {
            if (!launch_together(gpu, &plain, &b)) {
                printf("%d rows: not in one launch\n", b.rows);
                failed++;
                return;
            }
        } else {
            run_steps(plain);
        }
        logits[together] = get(s.logits, logits_bytes);
        for (int pool = 0; pool < POOLS; pool++)
            cache[together][pool] = get(s.cache[pool], CACHE_BYTES);
        states[together] = get(s.states, STATE_FLOATS * 4);
        size_t bytes = places().middle - places().sums_qkv;
        uint64_t *sums = get(work_place(places().sums_qkv), bytes);
        for (size_t i = 0; i < bytes / 8; i++)
            if (sums[i]) {
                printf("%d rows, %s: sum %zu is left\n", b.rows, together ? "together" : "steps",
                       i);
                failed++;
                break;
            }
        free(sums);
    }
    checked++;
    const float *v = logits[0];
    double square = 0;
    for (size_t i = 0; i < logits_bytes / 4; i++) square += v[i] * v[i];
    if (!(square > 0) || memcmp(logits[0], logits[1], logits_bytes) != 0 ||
        memcmp(cache[0][POOL_ALL], cache[1][POOL_ALL], CACHE_BYTES) != 0 ||
        memcmp(cache[0][POOL_WINDOW], cache[1][POOL_WINDOW], CACHE_BYTES) != 0 ||
        memcmp(states[0], states[1], STATE_FLOATS * 4) != 0) {
        printf("%d rows: one launch differs from one a step\n", b.rows);
        failed++;
    }
    Batch few = b; // a row alone gives the same bits
    int r = random_bits() % b.rows;
    few.rows = few.segments = few.outputs = 1;
    few.token += r, few.position += r, few.sequence += r;
    Segment own = segment[r];
    own.row = 0;
    put(b.segment, &own, sizeof own);
    put(s.states, given, STATE_FLOATS * 4);
    launch_together(gpu, &plain, &few);
    put(b.segment, segment, sizeof own);
    float *alone = get(s.logits, VOCAB * 4);
    if (memcmp(alone, v + (size_t)r * VOCAB, VOCAB * 4) != 0) {
        printf("row %d of %d differs when it is alone\n", r, b.rows);
        failed++;
    }
    free(alone);
    b.outputs = 0; // nor does what comes before it matter: a pass without outputs
    run_steps(plain);
    b.outputs = b.rows;
    put(b.segment, &own, sizeof own);
    put(s.states, given, STATE_FLOATS * 4);
    launch_together(gpu, &plain, &few);
    put(b.segment, segment, sizeof own);
    alone = get(s.logits, VOCAB * 4);
    if (memcmp(alone, v + (size_t)r * VOCAB, VOCAB * 4) != 0) {
        printf("row %d of %d differs behind a pass without outputs\n", r, b.rows);
        failed++;
    }
    free(alone);
    for (int i = 0; i < 2; i++)
        free(logits[i]), free(cache[i][POOL_ALL]), free(cache[i][POOL_WINDOW]), free(states[i]);
    free(given);
    for (int l = 0; l < LAYERS; l++) // nothing is pending in other tests
        if (l != 1) layers[l].down = (Linear){0};
    layers[0].router = layers[1].router = 0;
    put_weights();
    weights_used = start;
}

static void check_batch(int segments, const int *rows)
{
    make_batch(segments, rows);
    if (!ROPE_EVERYWHERE) { // one of the tables, or none; a norm, or none
        static uint64_t norm;
        if (!norm) norm = layers[1].attn_norm;
        layers[1].rope = (int)(random_bits() % (ROPES + 1)) - 1;
        layers[1].attn_norm = random_bits() % 2 ? norm : 0;
        put_weights();
    }
    check_embed();
#if KV_LATENT
#define CHECK_INPUTS check_latent
#define CHECK_OUTPUT(f) check_latent_out(f, 1, #f)
#else
#define CHECK_INPUTS check_qkv
#define CHECK_OUTPUT(f) check_residual(0, f, 1, #f)
#endif
#define CHECK_QKV(x, y, z)                                                                         \
    random_inputs(&layers[1], x, y, z);                                                            \
    put_weights();                                                                                 \
    CHECK_INPUTS(x, y, z, 1, #x "," #y "," #z);                                                    \
    weights_used = start;
#define CHECK_OUT(f)                                                                               \
    if (KV_LATENT) random_inputs(&layers[1], f, f, f);                                             \
    layers[1].o = random_linear(f, ATTENDED, DIM, 1);                                              \
    put_weights();                                                                                 \
    CHECK_OUTPUT(f);                                                                               \
    weights_used = start;
#define CHECK_DOWN(f)                                                                              \
    if (!decode_form(gpu, &s, &b)) {                                                               \
        layers[1].down = random_linear(f, LAYER_FFN_DIM(&layers[1]), DIM, 0);                      \
        put_weights();                                                                             \
        check_residual(1, f, 1, #f);                                                               \
        layers[1].down = (Linear){0};                                                              \
        weights_used = start;                                                                      \
    }
#define CHECK_UP(g, u)                                                                             \
    layers[1].gate = random_linear(g, DIM, LAYER_FFN_DIM(&layers[1]), 0);                          \
    layers[1].up = random_linear(u, DIM, LAYER_FFN_DIM(&layers[1]), 1);                            \
    put_weights();                                                                                 \
    layers[1].down = random_linear(TEST_DOWN_FORMAT, LAYER_FFN_DIM(&layers[1]), DIM, 0);           \
    layers[1].o = (Linear){.bias = random_vector(PADDED(DIM), 0, 0.3f)};                           \
    put_weights();                                                                                 \
    check_up(g, u, TEST_DOWN_FORMAT, 1, #g "," #u);                                                \
    layers[1].down = (Linear){0};                                                                  \
    weights_used = start;
#define CHECK_UP_ALONE(u)                                                                          \
    layers[1].gate = (Linear){0};                                                                  \
    layers[1].up = random_linear(u, DIM, LAYER_FFN_DIM(&layers[1]), 1);                            \
    layers[1].down = random_linear(TEST_DOWN_FORMAT, LAYER_FFN_DIM(&layers[1]), DIM, 0);           \
    layers[1].o = (Linear){.bias = random_vector(PADDED(DIM), 0, 0.3f)};                           \
    put_weights();                                                                                 \
    check_up(0, u, TEST_DOWN_FORMAT, 1, #u " alone");                                              \
    layers[1].down = (Linear){0};                                                                  \
    weights_used = start;
#define CHECK_HEAD(f)                                                                              \
    s.ends.head = random_linear(f, DIM, VOCAB, 0);                                                 \
    put_weights();                                                                                 \
    check_head(f, #f);                                                                             \
    if (f == TEST_HEAD_FORMAT) check_nan();                                                        \
    weights_used = start;
    uint64_t start = weights_used;
    TEST_QKV(CHECK_QKV)
    check_attend(0);
    check_attend(1);
#ifdef TEST_TIMING // large: one format is checked, the others timed
    CHECK_OUT(c3)
    CHECK_UP(m4, m4)
    check_together();
    return;
#endif
    TEST_OUT(CHECK_OUT)
    TEST_UP(CHECK_UP)
#ifdef TEST_UP_ALONE
    TEST_UP_ALONE(CHECK_UP_ALONE)
#endif
    TEST_DOWN(CHECK_DOWN)
#if EXPERTS
#define CHECK_EXPERTS(g, u, d, sg, su, sd)                                                         \
    random_experts(&layers[1], g, u, d, sg, su, sd);                                               \
    layers[1].o = (Linear){.bias = random_vector(PADDED(DIM), 0, 0.3f)};                           \
    put_weights();                                                                                 \
    check_experts((int[]){g, u, d, sg, su, sd}, 1,                                                 \
                  #g "," #u "," #d ", shared " #sg "," #su "," #sd);                               \
    layers[1].router = 0, layers[1].down = (Linear){0};                                            \
    weights_used = start;
    TEST_EXPERTS(CHECK_EXPERTS)
#endif
#if DELTA_HEADS
#define CHECK_DELTA(in, z, o)                                                                      \
    random_delta(&layers[1], in, z, o);                                                            \
    put_weights();                                                                                 \
    check_delta((int[]){in, z, o}, 1, 0, #in "," #z "," #o);                                       \
    weights_used = start;
    TEST_DELTAS(CHECK_DELTA)
#endif
    TEST_HEAD(CHECK_HEAD)
    check_together();
}

#ifdef TEST_TIMING
// Seconds of `count` launches of a decode step over different layers' weights.
static double time_step(const char *step, int format, int rows, int count)
{
    make_batch(rows, (int[]){1, 1, 1, 1, 1, 1, 1, 1});
    for (int round = 0; round < 2; round++) {
        if (round == 1) gpu_mark(gpu, 0);
        for (int i = 0; i < count; i++) {
            const Layer *layer = s.layers + i % TEST_LAYERS;
            if (strcmp(step, "out") == 0) launch_out(gpu, &s, &b, format, layer);
            if (strcmp(step, "up") == 0) launch_up(gpu, &s, &b, format, format, layer);
            if (strcmp(step, "down") == 0) launch_down(gpu, &s, &b, format, layer);
        }
    }
    gpu_mark(gpu, 1);
    return gpu_elapsed(gpu, 0, 1);
}

static void timing(void)
{
    size_t room = (size_t)1536 << 20, at = 0;
    uint32_t *bits = malloc(room);
    for (size_t i = 0; i < room / 4; i++) bits[i] = random_bits();
    for (size_t i = 0; i < 65536 / 2; i++)
        ((uint16_t *)bits)[i] = half_of(0.01f); // scales at the start
    s.weights = device(room);
    put(s.weights, bits, room);
    free(bits);
    printf("decode form on %s: microseconds a launch, GB/s of weights\n", gpu->name);
#define TIME(f)                                                                                    \
    for (int l = 0; l < TEST_LAYERS; l++) {                                                        \
        Linear *linear[] = {&layers[l].o, &layers[l].gate, &layers[l].up, &layers[l].down};        \
        int in[] = {Q_DIM, DIM, DIM, FFN_DIM}, out[] = {DIM, FFN_DIM, FFN_DIM, DIM};               \
        for (int i = 0; i < 4; i++) {                                                              \
            size_t bytes = BLOCKS(out[i]) * COLUMN_BLOCK_BYTES(FORMAT_BITS(f), in[i]);             \
            if (at + bytes > room || at == 0) at = 65536;                                          \
            *linear[i] = (Linear){at, 256, 256, 0};                                                \
            at += bytes;                                                                           \
        }                                                                                          \
        layers[l].ffn_norm = layers[l].attn_norm = 256;                                            \
    }                                                                                              \
    put(s.layers, layers, sizeof layers);                                                          \
    for (int rows = 1; rows <= 8; rows *= 2) {                                                     \
        double out = time_step("out", f, rows, 200) / 200,                                         \
               up = time_step("up", f, rows, 200) / 200;                                           \
        double down = time_step("down", f, rows, 200) / 200, k = FORMAT_BITS(f) / 8.0 * 1e-9;      \
        printf("%-4s %d rows: %dx%d %6.2f us %5.0f   %dx2x%d %6.2f us %5.0f   %dx%d %6.2f us "     \
               "%5.0f\n",                                                                          \
               #f, rows, Q_DIM, DIM, out * 1e6, k * Q_DIM * DIM / out, DIM, FFN_DIM, up * 1e6,     \
               k * 2 * DIM * FFN_DIM / up, FFN_DIM, DIM, down * 1e6, k * FFN_DIM * DIM / down);    \
    }
    TEST_OUT(TIME)
}
#endif

// A cache of random contents.
static void use_cache(int key_bits, int value_bits)
{
    uint8_t *cache = malloc(CACHE_BYTES), *p = cache;
    s.key_bits = key_bits, s.value_bits = value_bits;
    s.page_bytes[POOL_WINDOW] = s.page_bytes[POOL_ALL] =
        (uint64_t)LAYERS * KV_HEADS * PAGE *
        (ref_row_bytes(HEAD_DIM, key_bits) + ref_row_bytes(HEAD_DIM, value_bits));
    for (int i = 0; i < (PAGES + OWN_PAGES) * LAYERS * 2 * KV_HEADS; i++) {
        int bits = i / KV_HEADS % 2 ? value_bits : key_bits;
        uint8_t *end = p + PAGE * ref_row_bytes(HEAD_DIM, bits);
        if (KV_LATENT && i % 2 && key_bits == value_bits) { // latents are both
            memcpy(p, p - (end - p), end - p);
            p = end;
        }
        for (; bits < 16 && p < end - PAGE * HEAD_DIM / 32 * 2; p++) *p = random_bits();
        for (; p < end; p += 2)
            *(uint16_t *)p = half_of(bits < 16 ? 1 + fabsf(random_float()) : random_float());
    }
    for (int pool = 0; pool < POOLS; pool++) put(s.cache[pool], cache, CACHE_BYTES);
    free(cache);
}

#if QUANTIZED_CACHE
#define CHECK_CACHE_STEPS(q_, k_, v_, o_, g_, u_, d_, h_) CHECK_QKV(q_, k_, v_) CHECK_OUT(o_)
// The steps that know how the cache is stored, in the forms that they take.
static void check_quantized(int key_bits, int value_bits)
{
    static const int batches[][5] = {{1}, {1, 31, 1}, {1, 1, 1, 1, 1}, {70, 1, 37, 22}};
    static const int segments[] = {1, 3, 5, 4};
    use_cache(key_bits, value_bits);
    for (int i = 0; i < 4; i++) {
        make_batch(segments[i], batches[i]);
        launch_embed(gpu, &s, &b, EMBED_FORMAT);
        uint64_t start = weights_used;
        TEST_STEP_FORMATS(CHECK_CACHE_STEPS)
        check_attend(0);
        check_attend(1);
        check_together();
    }
}
#endif

int main(int count, char **arguments)
{
    Error err;
    GpuImage images[2] = {{0}};
    if (count > 1) {
        FILE *f = fopen(arguments[1], "rb");
        if (!f) return perror(arguments[1]), 1;
        char *image = malloc(64 << 20);
        images[0] = (GpuImage){90, image, image + fread(image, 1, 64 << 20, f)};
        fclose(f);
    }
    if (gpu_open(&gpu, 0, images, &err) != 0) return fprintf(stderr, "%s\n", err.text), 1;

    s.max_rows = s.max_outputs = TEST_ROWS;
    s.layers = device(sizeof layers);
    for (int pool = 0; pool < POOLS; pool++) {
        s.cache[pool] = device(CACHE_BYTES);
        b.page_table[pool] = device(sizeof page_table[pool]);
    }
    s.x = device(TEST_ROWS * DIM * 4);
    s.q = device(TEST_ROWS * Q_DIM * 4);
    s.a = device(TEST_ROWS * Q_DIM * 4);
    s.h = device(TEST_ROWS * H_DIM * 4);
    int latent = Q_LATENT + LATENT_ROW + HEADS * QUERY_DIM;
    s.y = device(TEST_ROWS * WIDER(Y_DIM, WIDER(ATTENDED, latent)) * 4);
    s.states = device(STATE_FLOATS * 4);
    s.rope = device(TEST_ROWS * TURNS * 4);
    s.logits = device((size_t)TEST_ROWS * VOCAB * 4);
    s.hidden = device((size_t)(LAYERS + 1) * TEST_ROWS * DIM * 4);
    s.work = device(gpu_work_bytes(TEST_ROWS, TEST_ROWS));
    b.token = device(sizeof token);
    b.position = device(sizeof position);
    b.sequence = device(sizeof sequence);
    b.output = device(sizeof output);
    b.segment = device(sizeof segment);
    b.pages_per_sequence = PER_SEQUENCE;

    use_cache(16, 16);
    s.ends.embed = take((size_t)VOCAB * DIM * 2);
    for (int i = 0; i < VOCAB * DIM; i++) {
        uint16_t bits = random_bits();
        ((uint16_t *)(weights + s.ends.embed))[i] = (bits & 0x83ff) | 0x3c00;
    }
    s.ends.norm = random_vector(DIM, 1, 0.2f);
    for (int l = 0; l < LAYERS; l++) {
        layers[l].attn_norm = random_vector(DIM, 1, 0.2f);
        layers[l].ffn_norm = random_vector(DIM, 1, 0.2f);
        if (POST_NORMS) {
            layers[l].attn_post = random_vector(DIM, 1, 0.2f);
            layers[l].ffn_post = random_vector(DIM, 1, 0.2f);
        }
        layers[l].sinks = random_vector(HEADS, 0, 1);
        if (TEST_HEAD_NORM) {
            int all = HEAD_NORMS != HEAD_NORM_SHARED;
            layers[l].q_norm = random_vector(all ? Q_DIM : HEAD_DIM, 1, 0.2f);
            layers[l].k_norm = random_vector(all ? KV_DIM : HEAD_DIM, 1, 0.2f);
        }
        layers[l].act[0] = 0.7f, layers[l].act[1] = 1.1f;
        if (STATE_LAYERS) layers[l].kept = l;
    }
    layers[1].window = TEST_WINDOW;
#ifdef TEST_WIDTHS
    static const int width[LAYERS][2] = TEST_WIDTHS; // key heads, feed-forward
    for (int l = 0, parts = 0, before = -1, kept = 0; l < LAYERS; l++) {
        layers[l].kv_heads = width[l][0], layers[l].ffn_dim = width[l][1];
        layers[l].parts = parts, layers[l].before = before, layers[l].kept = kept;
        parts += TEST_ATTENDS(l) + TEST_FEEDS(l), kept += TEST_ATTENDS(l);
        if (TEST_ATTENDS(l) || TEST_FEEDS(l)) before = l;
    }
#endif
    put_weights();

    check_batch(1, (int[]){1});
    check_batch(1, (int[]){5});
#ifndef TEST_TIMING
    check_batch(9, (int[]){1, 1, 1, 1, 1, 1, 1, 1, 1});
    check_batch(3, (int[]){1, 31, 1});
    check_batch(2, (int[]){1, 2});
    check_batch(8, (int[]){1, 1, 1, 1, 1, 1, 1, 1});
    check_batch(4, (int[]){70, 1, 37, 22});
    check_batch(1, (int[]){45}); // 30 outputs: the head in its decode form
    check_batch(1, (int[]){70}); // 47
    check_batch(1, (int[]){150});
    int ones[33];
    for (int i = 0; i < 33; i++) ones[i] = 1;
    if (MAX_BATCH >= 32) check_batch(32, ones); // the most rows of the decode form
    check_batch(33, ones);
#endif
#if QUANTIZED_CACHE
    static const int widths[][2] = {{8, 4}, {7, 2}, {6, 5}, {3, 8}, {16, 6}, {4, 16}};
    for (int i = 0; i < 6; i++) check_quantized(widths[i][0], widths[i][1]);
    use_cache(16, 16);
#endif
    static const int masks[] = {0, 3, 50};
    for (int i = 0; i < 3; i++) {
        int masked = masks[i];
        check_sample(0, 0, 1, 0, 1, masked);
        check_sample(1, 0, 1, 0, 0, masked);
        check_sample(0.7f, 40, 0.9f, 0, 0, masked);
        check_sample(1.3f, 0, 0.8f, 0.05f, 1, masked);
        check_sample(1, 5, 1, 0, 1, masked);
        check_sample(2, 0, 0.5f, 0, 0, masked);
    }
#if DELTA_HEADS
#define CHECK_PROMPTS(in, z, o) check_delta_prompts((int[]){in, z, o}, 1, #in "," #z "," #o);
    TEST_DELTAS(CHECK_PROMPTS)
#endif
    printf("%s\n%d passed, %d failed, 0 skipped\n", gpu->name, checked - failed, failed);
#ifdef TEST_TIMING
    if (count > 1 && !failed) timing();
#endif
    gpu_close(gpu);
    return failed != 0;
}
