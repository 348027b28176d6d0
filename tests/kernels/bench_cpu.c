// Speed of the CPU kernels: decode and prefill of a small model with random weights (the geometry
// is that of the example model, unless -D says otherwise). bench_cpu [workers]
#define LAYERS 6
#define DIM 512
#define HEADS 8
#define KV_HEADS 4
#define FFN_DIM 1536
#define VOCAB 4096
#include "constants.h"
#include "../../kernels/cpu/steps.h"
#include "workers.h"
#include <stdio.h>
#include <time.h>

#ifndef FORMAT
#define FORMAT m4
#endif
#ifndef HEAD_FORMAT
#define HEAD_FORMAT m6
#endif
enum { MOST_ROWS = 512, PAGES = 8 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint8_t *weights;
static uint64_t used = 256;
static State state;
static Batch batch;
static int repeats;
static double seconds, part[8];

static uint64_t place(size_t bytes)
{
    uint64_t at = used;
    used = (used + bytes + 255) / 256 * 256;
    return at;
}

static uint64_t place_norm(int width)
{
    uint64_t at = place((size_t)width * 4);
    for (int i = 0; i < width; i++) ((float *)(weights + at))[i] = 1;
    return at;
}

static Linear place_linear(int format, int in, int out)
{
    Linear linear = {.weights =
                         place(PADDED(out) / BLOCK * COLUMN_BLOCK_BYTES(FORMAT_BITS(format), in))};
    if (!FORMAT_IS_EXL3(format)) return linear;
    linear.suh = place(PADDED(in) * 2);
    linear.svh = place(PADDED(out) * 2);
    for (int i = 0; i < PADDED(in); i++)
        ((uint16_t *)(weights + linear.suh))[i] = i * 7 % 5 < 2 ? 0x2a00 : 0xaa00; // +-0.047
    for (int i = 0; i < PADDED(out); i++)
        ((uint16_t *)(weights + linear.svh))[i] = i * 7 % 3 < 1 ? 0x3c00 : 0xbc00;
    return linear;
}

static void forward(Worker *w, State *s, const Batch *b)
{
    double t[9];
    embed(w, s, b, f16);
    for (int l = 0; l < LAYERS; l++) {
        t[0] = now();
        qkv(w, s, b, FORMAT, FORMAT, FORMAT, &s->layers[l]);
        t[1] = now();
        attend(w, s, b, &s->layers[l]);
        t[2] = now();
        out(w, s, b, FORMAT, &s->layers[l]);
        t[3] = now();
        up(w, s, b, FORMAT, FORMAT, &s->layers[l]);
        t[4] = now();
        down(w, s, b, FORMAT, &s->layers[l]);
        t[5] = now();
        if (w->index == 0)
            for (int i = 0; i < 5; i++) part[i] += t[i + 1] - t[i];
    }
    t[0] = now();
    head(w, s, b, HEAD_FORMAT);
    if (w->index == 0) part[5] += now() - t[0];
}

static void run(Worker *w, void *context)
{
    (void)context;
    forward(w, &state, &batch); // warm
    double kept[8] = {0};
    for (int i = 0; i < repeats; i++) {
        if (w->index == 0) memset(part, 0, sizeof part);
        double start = now();
        forward(w, &state, &batch);
        double taken = now() - start;
        if (w->index == 0 && (i == 0 || taken < seconds))
            seconds = taken, memcpy(kept, part, sizeof part);
    }
    if (w->index == 0) memcpy(part, kept, sizeof part);
}

static void measure(const char *what, int rows, int position, int outputs, int workers)
{
    static int32_t token[MOST_ROWS], positions[MOST_ROWS], sequence[MOST_ROWS], output[MOST_ROWS];
    static int32_t pages[PAGES * 8];
    static Segment segment[MOST_ROWS];
    int together = outputs == rows ? 1 : rows; // decode: each row a sequence
    for (int i = 0; i < rows; i++) {
        token[i] = i * 37 % VOCAB;
        sequence[i] = i / together;
        positions[i] = position + i % together;
        output[i] = rows - outputs + i;
        segment[i] = (Segment){i * together, together, i, position};
    }
    for (int i = 0; i < PAGES * 8; i++) pages[i] = i;
    batch = (Batch){rows,      rows / together, outputs, PAGES,   token,
                    positions, sequence,        output,  segment, pages};
    double best = 1e9, best_part[8] = {0};
    repeats = rows > 8 ? 2 : 30;
    for (int i = 0; i < 5; i++) {
        run_workers(workers, CPU_LOCAL_BYTES, run, NULL);
        if (seconds < best) best = seconds, memcpy(best_part, part, sizeof part);
    }
    printf(
        "%-8s %4d rows at %4d, %d workers: %8.0f tokens/s, %8.1f us (qkv %.1f attend %.1f out %.1f "
        "up %.1f down %.1f head %.1f)\n",
        what, rows, position, workers, rows / best, best * 1e6, best_part[0] * 1e6,
        best_part[1] * 1e6, best_part[2] * 1e6, best_part[3] * 1e6, best_part[4] * 1e6,
        best_part[5] * 1e6);
    for (int i = 0; i < DIM; i++)
        if (state.x[i] != state.x[i]) printf("NaN!\n"), exit(1);
}

int main(int count, char **arguments)
{
    static Layer layers[LAYERS];
    int workers = count > 1 ? atoi(arguments[1]) : 2;
    weights = aligned_alloc(256, 64 << 20);
    uint32_t seed = 1;
    for (int i = 0; i < 16 << 20; i++)
        ((uint32_t *)weights)[i] = seed = seed * 1664525 + 1013904223;
    for (int l = 0; l < LAYERS; l++)
        layers[l] = (Layer){.kept = l,
                            .attn_norm = place_norm(DIM),
                            .ffn_norm = place_norm(DIM),
                            .q = place_linear(FORMAT, DIM, HEADS * HEAD_DIM),
                            .k = place_linear(FORMAT, DIM, KV_HEADS * HEAD_DIM),
                            .v = place_linear(FORMAT, DIM, KV_HEADS * HEAD_DIM),
                            .o = place_linear(FORMAT, HEADS * HEAD_DIM, DIM),
                            .gate = place_linear(FORMAT, DIM, FFN_DIM),
                            .up = place_linear(FORMAT, DIM, FFN_DIM),
                            .down = place_linear(FORMAT, FFN_DIM, DIM)};
    state = (State){
        .weights = weights, .layers = layers, .max_rows = MOST_ROWS, .max_outputs = MOST_ROWS};
    state.ends.embed = place(VOCAB * DIM * 2);
    for (int i = 0; i < VOCAB * DIM; i++)
        ((uint16_t *)(weights + state.ends.embed))[i] &= 0xbfff; // small and finite
    state.ends.norm = place_norm(DIM);
    state.ends.head = place_linear(HEAD_FORMAT, DIM, VOCAB);
    state.key_bits = state.value_bits = 16;
    state.page_bytes[POOL_ALL] = (uint64_t)LAYERS * 2 * KV_HEADS * PAGE * HEAD_DIM * 2;
    state.cache[POOL_ALL] = calloc((size_t)PAGES * 8 * LAYERS * 2 * KV_HEADS * PAGE * HEAD_DIM, 2);
    state.x = malloc((size_t)MOST_ROWS * DIM * 4);
    state.q = malloc((size_t)MOST_ROWS * HEADS * HEAD_DIM * 4);
    state.a = malloc((size_t)MOST_ROWS * HEADS * HEAD_DIM * 4);
    state.h = malloc((size_t)MOST_ROWS * FFN_DIM * 4);
    state.rope = malloc((size_t)MOST_ROWS * ROPE_DIM * 4);
    state.logits = malloc((size_t)MOST_ROWS * VOCAB * 4);
    state.work = aligned_alloc(64, (CPU_WORK_BYTES(MOST_ROWS, MOST_ROWS) + 63) / 64 * 64);
    for (int n = 1; n <= workers; n++) {
        measure("decode", 1, 0, 1, n);
        measure("decode", 1, 200, 1, n);
        measure("decode", 1, 1900, 1, n);
        measure("decode", 2, 200, 2, n);
        measure("decode", 4, 200, 4, n);
        measure("decode", 8, 200, 8, n);
        measure("prefill", 16, 0, 1, n);
        measure("prefill", 128, 0, 1, n);
        measure("prefill", 512, 0, 1, n);
    }
    return 0;
}
