// Launches of every step on a GPU's stream: which form, which variant, how large a grid. Included
// by forward.c and nothing else. Layers, tables and the arrays of the batch are device memory here
// and are only passed on; all that is decided depends on the numbers of rows, segments and outputs.
#pragma once
#include "kernels/cuda/work.h"
#include "kernels/sampling.h"
#include "runtime/gpu.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static size_t gpu_work_bytes(int max_rows, int max_outputs)
{
    return work_places(max_rows, max_outputs).bytes;
}

static State with_places(const State *s)
{
    State placed = *s;
    Work work = work_places(s->max_rows, s->max_outputs);
    _Static_assert(sizeof work <= sizeof placed.places, "room of State.places");
    memcpy(placed.places, &work, sizeof work);
    return placed;
}

// --- names ---------------------------------------------------------------------------------------

// Kernel `step` with the formats a, b, c (0: none) and an ending, looked up once a thread.
static int step_kernel(Gpu *gpu, const char *step, int a, int b, int c, const char *ending)
{
    typedef struct {
        Gpu *gpu;
        const char *step, *ending;
        int a, b, c, kernel;
    } Known;
    static _Thread_local Known known[256];
    static _Thread_local int count;
    for (int i = 0; i < count; i++) {
        Known *k = &known[i];
        if (k->gpu == gpu && k->a == a && k->b == b && k->c == c && strcmp(k->step, step) == 0 &&
            strcmp(k->ending, ending) == 0)
            return k->kernel;
    }
    static const char codebooks[] = {'t', 'c', 'm', 'f', 'b'};
    char name[96];
    int at = snprintf(name, sizeof name, "%s", step);
    int formats[3] = {a, b, c};
    for (int i = 0; i < 3 && formats[i]; i++)
        at += snprintf(name + at, sizeof name - at, "_%c%d", codebooks[FORMAT_CODEBOOK(formats[i])],
                       FORMAT_BITS(formats[i]));
    snprintf(name + at, sizeof name - at, "%s", ending);
    int kernel = gpu_kernel(gpu, name);
    if (kernel < 0) fprintf(stderr, "the program holds no kernel %s\n", name);
    assert(kernel >= 0);
    if (count < (int)(sizeof known / sizeof *known))
        known[count++] = (Known){gpu, step, ending, a, b, c, kernel};
    return kernel;
}

static void launch_step(Gpu *gpu, int kernel, const State *s, const Batch *b, const Layer *layer,
                        int n, int grid, int grid_y, int block, int shared_bytes)
{
    State placed = with_places(s);
    void *arguments[] = {&placed, (void *)b, &layer, &n};
    gpu_launch(gpu, kernel, grid, grid_y, block, shared_bytes, GPU_OVERLAP, arguments);
}

// --- forms ---------------------------------------------------------------------------------------

// What the kernels of the decode form declare statically stays below 2 KB.
static int decode_shared_bytes(const Gpu *gpu)
{
    return (int)gpu->shared_bytes_per_block - 2048;
}

// The rows of the decode form for which this GPU has room, 0 where attention or a delta net has
// none.
static int decode_rows_here(const Gpu *gpu)
{
    int bytes = decode_shared_bytes(gpu);
    return DECODE_SHARED_BYTES + WORK_MOST(ATTEND_ROOM, DELTA_ROOM) > bytes
               ? 0
               : decode_rows_that_fit(bytes);
}

// Few rows, or one row a sequence: the decode form. Its rows come out the same in any batch.
static int decode_form(const Gpu *gpu, const State *s, const Batch *b)
{
    int rows = decode_rows_here(gpu);
    return b->rows <= (int)work_decode_rows(s->max_rows) && b->rows <= rows &&
           (b->rows <= ROW_GROUP || b->rows == b->segments);
}

// The most rows that the decode form takes here; at least 1, which then takes the prefill form.
static inline int gpu_decode_rows(const Gpu *gpu)
{
    int rows = decode_rows_here(gpu), all = (int)work_decode_rows(DECODE_ROWS);
    return rows < 1 ? 1 : rows < all ? rows : all;
}

static int most(int a, int b)
{
    return a > b ? a : b;
}

// Bytes of shared memory for the activations of `rows` rows in the decode form.
static int activation_room(const Gpu *gpu, int rows)
{
    return held_units(rows, decode_shared_bytes(gpu)) * UNIT_BYTES(rows);
}

// A kernel of the decode form: for few rows or many, for keys and values of 16 bits or fewer.
static int decode_kernel(Gpu *gpu, const char *name, const State *s, int rows)
{
    static const char *const endings[2][2] = {{"", "_wide"}, {"_quantized", "_quantized_wide"}};
    return step_kernel(gpu, name, 0, 0, 0, endings[IS_QUANTIZED(s)][rows > NARROW_ROWS]);
}

// The first parameter of decode_step after state and batch (decode.cuh).
typedef struct {
    int32_t kind, layer, format[3], pending, phase;
} DecodeStep;

// A decode step as a launch of its own, or of its two phases: as many blocks as multiprocessors,
// all shared memory. `room` is for what lies there besides the ring.
static void launch_decode(Gpu *gpu, int kind, const State *s, const Batch *b, const Layer *layer,
                          int x, int y, int z, int pending, int room)
{
    State placed = with_places(s);
    DecodeStep step = {kind, layer ? (int)(layer - s->layers) : 0, {x, y, z}, pending, PHASE_ALL};
    void *arguments[] = {&placed, (void *)b, &step, &room};
    int rows = kind == STEP_HEAD ? b->outputs : b->rows;
    int apart = rows > NARROW_ROWS && prepared_apart(kind);
    for (int phase = apart; phase <= 2 * apart; phase++) {
        step.phase = phase;
        gpu_launch(gpu, decode_kernel(gpu, "decode_step", s, rows), gpu->sm_count, 1,
                   DECODE_THREADS, decode_shared_bytes(gpu), GPU_OVERLAP, arguments);
    }
}

// The wide prefill form: clusters of two blocks for `pairs` pairs of column blocks, which they take
// in turn with tiles of 128 or 256 rows. Tiles of 256 take not quite twice as long, but leave more
// of the GPU idle at the end.
static void launch_wide(Gpu *gpu, int kernel, const State *s, const Batch *b, const Layer *layer,
                        int bits, int pairs, int rows)
{
    int clusters = most(gpu->sm_count / 2, 1);
    int large = (rows + WIDE_ROWS - 1) / WIDE_ROWS * pairs;
    int small = (rows + WIDE_ROWS / 2 - 1) / (WIDE_ROWS / 2) * pairs;
    int turns = (large + clusters - 1) / clusters, small_turns = (small + clusters - 1) / clusters;
    int halve = small_turns * 6 < turns * 11, items = halve ? small : large;
    launch_step(gpu, kernel, s, b, layer, halve ? WIDE_ROWS / 2 : WIDE_ROWS,
                2 * (items < clusters ? items : clusters), 1, WIDE_THREADS,
                WIDE_SHARED_BYTES(bits));
}

// The most bits and shared memory of up to three formats.
typedef struct {
    int bits, bytes;
} FormatNeeds;

static FormatNeeds needs_of(int x, int y, int z)
{
    int formats[3] = {x, y, z};
    FormatNeeds needs = {0, 0};
    for (int i = 0; i < 3 && formats[i]; i++) {
        needs.bytes = most(needs.bytes, PREFILL_SHARED_BYTES(formats[i]));
        needs.bits = most(needs.bits, FORMAT_BITS(formats[i]));
    }
    return needs;
}

// A prefill step: the activations, then tiles of rows by column blocks, in pairs where the form
// wants that.
static void launch_tiles(Gpu *gpu, int prepare, int kernel, const State *s, const Batch *b,
                         const Layer *layer, FormatNeeds needs, int blocks, int pairs, int rows)
{
    launch_step(gpu, prepare, s, b, layer, 0, rows, 1, PREFILL_THREADS, 0);
    if (gpu->image_sm == 90)
        launch_wide(gpu, kernel, s, b, layer, needs.bits, pairs, rows);
    else
        launch_step(gpu, kernel, s, b, layer, 0, (rows + TILE_ROWS - 1) / TILE_ROWS, blocks,
                    PREFILL_THREADS, needs.bytes);
}

static void launch_prefill(Gpu *gpu, const char *step, const State *s, const Batch *b,
                           const Layer *layer, int x, int y, int z, int blocks, int pairs, int rows)
{
    launch_tiles(gpu, step_kernel(gpu, step, x, y, z, "_prepare"),
                 step_kernel(gpu, step, x, y, z, "_prefill"), s, b, layer, needs_of(x, y, z),
                 blocks, pairs, rows);
}

// All steps of the decode form in one launch, for rows that are sequences of their own; 0 when this
// pass or this GPU does not allow it.
static inline int launch_together(Gpu *gpu, const State *s, const Batch *b)
{
    int rows = most(b->rows, b->outputs), bytes = decode_shared_bytes(gpu);
    int room = most(most(activation_room(gpu, rows), ATTEND_ROOM), most(COMBINE_ROOM, DELTA_ROOM));
    if (!decode_form(gpu, s, b) || b->rows != b->segments || b->outputs == 0 || s->hidden ||
        room + DECODE_SHARED_BYTES + MOST_CHUNK_BYTES > bytes)
        return 0;
    State placed = with_places(s);
    void *arguments[] = {&placed, (void *)b, &room};
    return gpu_launch_together(gpu, decode_kernel(gpu, "decode_pass", s, rows), DECODE_THREADS,
                               bytes, arguments);
}

// --- steps ---------------------------------------------------------------------------------------

static inline void launch_embed(Gpu *gpu, const State *s, const Batch *b, int format)
{
    launch_step(gpu, step_kernel(gpu, "embed", format, 0, 0, ""), s, b, NULL, 0, b->rows, 1,
                PREFILL_THREADS, 0);
}

static inline void launch_keep(Gpu *gpu, const State *s, const Batch *b, int l)
{
    if (s->hidden)
        launch_step(gpu,
                    step_kernel(gpu, decode_form(gpu, s, b) ? "keep_pending_kernel" : "keep_kernel",
                                0, 0, 0, ""),
                    s, b, NULL, l, b->rows, 1, PREFILL_THREADS, 0);
}

// A step of linear layers with one input in the form of this pass: decode step `kind`, or the
// prefill kernels of `name`.
static void launch_layers(Gpu *gpu, int kind, const char *name, const State *s, const Batch *b,
                          const Layer *layer, int x, int y, int z, int blocks, int pairs)
{
    if (decode_form(gpu, s, b))
        launch_decode(gpu, kind, s, b, layer, x, y, z, 0, activation_room(gpu, b->rows));
    else
        launch_prefill(gpu, name, s, b, layer, x, y, z, blocks, pairs, b->rows);
}

static inline void launch_qkv(Gpu *gpu, const State *s, const Batch *b, int q, int k, int v,
                              const Layer *layer)
{
    launch_layers(gpu, STEP_QKV, "qkv", s, b, layer, q, k, v, BLOCKS(Q_WIDE) + 2 * BLOCKS(KV_DIM),
                  PAIRS(Q_WIDE) + 2 * PAIRS(KV_DIM));
    if ((!HEADS_IN_BLOCKS || IS_QUANTIZED(s)) && !decode_form(gpu, s, b))
        launch_step(gpu, step_kernel(gpu, "qkv_finish_kernel", 0, 0, 0, ""), s, b, layer, 0,
                    b->rows, (HEADS + 2 * KV_HEADS + 7) / 8, PREFILL_THREADS, 0);
}

static inline void launch_qkv_gated(Gpu *gpu, const State *s, const Batch *b, int q, int k, int v,
                                    const Layer *layer)
{
    launch_qkv(gpu, s, b, q, k, v, layer);
}

#if KV_LATENT
// One of the linear layers of latent attention in the prefill form, its kernels by their ending.
static void launch_latent_layer(Gpu *gpu, const State *s, const Batch *b, const int f[3],
                                const char *prepare, const char *kernel, int format, int width,
                                const Layer *layer)
{
    const char *step = Q_LATENT ? "latent" : "latent_direct";
    launch_tiles(gpu, step_kernel(gpu, step, f[0], f[1], f[2], prepare),
                 step_kernel(gpu, step, f[0], f[1], f[2], kernel), s, b, layer,
                 needs_of(format, 0, 0), BLOCKS(width), PAIRS(width), b->rows);
}

// Queries to latents, or latents to values.
static void launch_map(Gpu *gpu, const char *kernel, const State *s, const Batch *b,
                       const Layer *layer, int width)
{
    launch_step(gpu, step_kernel(gpu, kernel, 0, 0, 0, ""), s, b, layer, 0, (b->rows + 63) / 64,
                HEADS * BLOCKS(width), 128, 0);
}

static inline void launch_latent(Gpu *gpu, const State *s, const Batch *b, int q_a, int kv_a,
                                 int q_b, const Layer *layer)
{
    int f[3] = {q_a, kv_a, q_b}, room = activation_room(gpu, b->rows);
    if (decode_form(gpu, s, b)) {
        launch_decode(gpu, STEP_QKV, s, b, layer, q_a, kv_a, 0, 0, room);
        launch_decode(gpu, STEP_LATENT_QUERIES, s, b, layer, q_b, 0, 0, 0, room);
        launch_decode(gpu, STEP_LATENT_HEADS, s, b, layer, 0, 0, 0, 0, ATTEND_ROOM);
        return;
    }
    launch_latent_layer(gpu, s, b, f, "_q_a_prepare", "_q_a_prefill", q_a, Q_LATENT, layer);
    launch_latent_layer(gpu, s, b, f, "_kv_a_prepare", "_kv_a_prefill", kv_a, LATENT_ROW, layer);
    launch_step(gpu, step_kernel(gpu, "latent_norm_kernel", 0, 0, 0, ""), s, b, layer, 0, b->rows,
                1, PREFILL_THREADS, 0);
    launch_latent_layer(gpu, s, b, f, "_q_b_prepare", "_q_b_prefill", q_b, HEADS * QUERY_DIM,
                        layer);
    launch_map(gpu, "latent_queries_kernel", s, b, layer, KV_LATENT);
}

static inline void launch_latent_direct(Gpu *gpu, const State *s, const Batch *b, int q, int kv_a,
                                        const Layer *layer)
{
    int f[3] = {q, kv_a, 0};
    if (decode_form(gpu, s, b)) {
        launch_decode(gpu, STEP_QKV, s, b, layer, q, kv_a, 0, 0, activation_room(gpu, b->rows));
        launch_decode(gpu, STEP_LATENT_HEADS, s, b, layer, 0, 0, 0, 0, ATTEND_ROOM);
        return;
    }
    launch_latent_layer(gpu, s, b, f, "_q_b_prepare", "_q_b_prefill", q, HEADS * QUERY_DIM, layer);
    launch_latent_layer(gpu, s, b, f, "_kv_a_prepare", "_kv_a_prefill", kv_a, LATENT_ROW, layer);
    launch_step(gpu, step_kernel(gpu, "latent_norm_kernel", 0, 0, 0, ""), s, b, layer, 0, b->rows,
                1, PREFILL_THREADS, 0);
    launch_map(gpu, "latent_queries_kernel", s, b, layer, KV_LATENT);
}

static void launch_latent_prefill(Gpu *gpu, const State *s, const Batch *b, const Layer *layer)
{
    static const char *const names[2][2] = {
        {"latent_attend_16_kernel", "latent_attend_32_kernel"},
        {"latent_quantized_16_kernel", "latent_quantized_32_kernel"}};
    int wide = LATENT_PREFILL_SHARED_BYTES(32) <= (int)gpu->shared_bytes_per_block;
    launch_step(gpu, step_kernel(gpu, names[IS_QUANTIZED(s)][wide], 0, 0, 0, ""), s, b, layer, 0,
                b->rows / QUERY_ROWS + b->segments, HEADS, 256,
                wide ? LATENT_PREFILL_SHARED_BYTES(32) : LATENT_PREFILL_SHARED_BYTES(16));
}
#endif

static inline void launch_attend(Gpu *gpu, const State *s, const Batch *b, const Layer *layer)
{
    if (decode_form(gpu, s, b)) {
        if (!KV_LATENT && b->rows != b->segments)
            launch_decode(gpu, STEP_HEADS, s, b, layer, 0, 0, 0, 0, ATTEND_ROOM);
        launch_decode(gpu, STEP_ATTEND, s, b, layer, 0, 0, 0, 0, ATTEND_ROOM);
    } else {
#if KV_LATENT
        launch_latent_prefill(gpu, s, b, layer);
        return;
#endif
        const char *name = IS_QUANTIZED(s) ? "attend_quantized_kernel" : "attend_prefill_kernel";
        launch_step(gpu, step_kernel(gpu, name, 0, 0, 0, ""), s, b, layer, 0,
                    b->rows / QUERY_ROWS + b->segments, HEADS, 128, ATTEND_PREFILL_SHARED_BYTES);
    }
}

// The norm of a product before it is added to x.
static void launch_post(Gpu *gpu, int kind, const char *kernel, const State *s, const Batch *b,
                        const Layer *layer)
{
    if (decode_form(gpu, s, b))
        launch_decode(gpu, kind, s, b, layer, 0, 0, 0, 0, 0);
    else
        launch_step(gpu, step_kernel(gpu, kernel, 0, 0, 0, ""), s, b, layer, 0, b->rows, 1,
                    PREFILL_THREADS, 0);
}

static inline void launch_out(Gpu *gpu, const State *s, const Batch *b, int format,
                              const Layer *layer)
{
    launch_layers(gpu, STEP_OUT, "out", s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM));
}

#if KV_LATENT
static inline void launch_latent_out(Gpu *gpu, const State *s, const Batch *b, int format,
                                     const Layer *layer)
{
    if (decode_form(gpu, s, b))
        launch_decode(gpu, STEP_LATENT_VALUES, s, b, layer, 0, 0, 0, 0, ATTEND_ROOM);
    else
        launch_map(gpu, "latent_values_kernel", s, b, layer, VALUE_DIM);
    launch_layers(gpu, STEP_OUT, "latent_out", s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM));
}
#endif

static inline void launch_out_gated(Gpu *gpu, const State *s, const Batch *b, int format,
                                    const Layer *layer)
{
    launch_layers(gpu, STEP_OUT, "out_gated", s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM));
}

static inline void launch_out_norm(Gpu *gpu, const State *s, const Batch *b, int format,
                                   const Layer *layer)
{
    launch_layers(gpu, STEP_OUT, "out_norm", s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM));
    launch_post(gpu, STEP_OUT_POST, "attn_post_kernel", s, b, layer);
}

static inline void launch_up(Gpu *gpu, const State *s, const Batch *b, int gate, int up,
                             const Layer *layer)
{
    launch_layers(gpu, STEP_UP, "up", s, b, layer, gate, up, 0, BLOCKS(FFN_DIM), PAIRS(FFN_DIM));
}

static inline void launch_up_alone(Gpu *gpu, const State *s, const Batch *b, int up,
                                   const Layer *layer)
{
    launch_layers(gpu, STEP_UP_ALONE, "up_alone", s, b, layer, up, 0, 0, BLOCKS(FFN_DIM),
                  PAIRS(FFN_DIM));
}

#if DELTA_HEADS
static void launch_delta_kernel(Gpu *gpu, const char *name, const State *s, const Batch *b,
                                const Layer *layer, int grid, int grid_y, int block,
                                int shared_bytes)
{
    launch_step(gpu, step_kernel(gpu, name, 0, 0, 0, ""), s, b, layer, 0, grid, grid_y, block,
                shared_bytes);
}

// A gated delta net up to its values; z 0: it is part of the first product.
static inline void launch_delta(Gpu *gpu, const State *s, const Batch *b, int in, int z,
                                const Layer *layer)
{
    if (decode_form(gpu, s, b)) {
        launch_decode(gpu, STEP_DELTA_IN, s, b, layer, in, z, 0, 0, activation_room(gpu, b->rows));
        launch_decode(gpu, STEP_DELTA, s, b, layer, 0, 0, 0, 0, DELTA_ROOM);
        return;
    }
    int gates = b->rows * DELTA_HEADS, heads = 2 * DELTA_KEY_HEADS + DELTA_HEADS;
    int score_tiles = (DELTA_GATES + SCORE_TILE - 1) / SCORE_TILE;
    launch_delta_kernel(gpu, "delta_score_kernel", s, b, layer,
                        (b->rows + SCORE_ROWS - 1) / SCORE_ROWS, UNITS(DIM) * score_tiles,
                        PREFILL_THREADS, 0);
    launch_delta_kernel(gpu, "delta_gates_kernel", s, b, layer,
                        (gates + PREFILL_THREADS - 1) / PREFILL_THREADS, 1, PREFILL_THREADS, 0);
    launch_tiles(gpu, step_kernel(gpu, "delta", in, z, 0, "_in_prepare"),
                 step_kernel(gpu, "delta", in, z, 0, "_in_prefill"), s, b, layer,
                 needs_of(in, 0, 0), BLOCKS(DELTA_IN), PAIRS(DELTA_IN), b->rows);
    if (z)
        launch_tiles(gpu, step_kernel(gpu, "delta", in, z, 0, "_z_prepare"),
                     step_kernel(gpu, "delta", in, z, 0, "_z_prefill"), s, b, layer,
                     needs_of(z, 0, 0), BLOCKS(DELTA_VALUES), PAIRS(DELTA_VALUES), b->rows);
    launch_delta_kernel(
        gpu, "delta_mix_kernel", s, b, layer, (b->rows + DELTA_MIX_ROWS - 1) / DELTA_MIX_ROWS,
        (heads + PREFILL_THREADS / 32 - 1) / (PREFILL_THREADS / 32), PREFILL_THREADS, 0);
    launch_delta_kernel(gpu, "delta_chunk_kernel", s, b, layer,
                        b->rows / DELTA_CHUNK + b->segments, DELTA_KEY_HEADS * DELTA_PAIRS,
                        DELTA_CHUNK_THREADS, DELTA_CHUNK_SHARED_BYTES);
    launch_delta_kernel(gpu, "delta_rule_kernel", s, b, layer, DELTA_HEADS * DELTA_PARTS,
                        b->segments, DELTA_THREADS, DELTA_SHARED_BYTES);
}

static inline void launch_delta_grouped(Gpu *gpu, const State *s, const Batch *b, int in,
                                        const Layer *layer)
{
    launch_delta(gpu, s, b, in, 0, layer);
}

static inline void launch_delta_out(Gpu *gpu, const State *s, const Batch *b, int format,
                                    const Layer *layer)
{
    launch_layers(gpu, STEP_DELTA_OUT, "delta_out", s, b, layer, format, 0, 0, BLOCKS(DIM),
                  PAIRS(DIM));
}
#endif

// In the decode form of parallel layers, what attention and feed-forward left is added to x.
static void launch_join(Gpu *gpu, const State *s, const Batch *b, const Layer *layer)
{
    if (PARALLEL && decode_form(gpu, s, b))
        launch_decode(gpu, STEP_JOIN, s, b, layer, 0, 0, 0, 0, 0);
}

static inline void launch_down(Gpu *gpu, const State *s, const Batch *b, int format,
                               const Layer *layer)
{
    launch_layers(gpu, STEP_DOWN, "down", s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM));
    launch_join(gpu, s, b, layer);
}

static inline void launch_down_norm(Gpu *gpu, const State *s, const Batch *b, int format,
                                    const Layer *layer)
{
    launch_layers(gpu, STEP_DOWN, "down_norm", s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM));
    launch_join(gpu, s, b, layer);
    launch_post(gpu, STEP_DOWN_POST, "ffn_post_kernel", s, b, layer);
}

#if EXPERTS
// One of the two products of a wave of `places` places: the activations, then tiles.
static void launch_wave(Gpu *gpu, const int formats[3], const char *prepare, const char *kernel,
                        const State *s, const Batch *b, const Layer *layer, int wave,
                        FormatNeeds needs, int places, int width)
{
    int routes = b->rows * ACTIVE_EXPERTS, experts = routes < EXPERTS ? routes : EXPERTS;
    launch_step(gpu, step_kernel(gpu, "experts", formats[0], formats[1], formats[2], prepare), s, b,
                layer, wave, places, 1, PREFILL_THREADS, 0);
    int k = step_kernel(gpu, "experts", formats[0], formats[1], formats[2], kernel);
    if (gpu->image_sm == 90) {
        int items = (places / WIDE_ROWS + experts) * PAIRS(width), most_items = gpu->sm_count / 2;
        if (items > most_items) items = most(most_items, 1);
        launch_step(gpu, k, s, b, layer, wave, 2 * items, 1, WIDE_THREADS,
                    WIDE_SHARED_BYTES(needs.bits));
    } else {
        launch_step(gpu, k, s, b, layer, wave, places / TILE_ROWS + experts, BLOCKS(width),
                    PREFILL_THREADS, needs.bytes);
    }
}

static int score_tiles(void)
{
    return (EXPERTS + 1 + SCORE_TILE - 1) / SCORE_TILE;
}

static void launch_routing(Gpu *gpu, const State *s, const Batch *b, const Layer *layer)
{
    launch_step(gpu, step_kernel(gpu, "score_kernel", 0, 0, 0, ""), s, b, layer, 0,
                (b->rows + SCORE_ROWS - 1) / SCORE_ROWS, UNITS(DIM) * score_tiles(),
                PREFILL_THREADS, 0);
    launch_step(gpu, step_kernel(gpu, "choose_kernel", 0, 0, 0, ""), s, b, layer, 0,
                (b->rows + PREFILL_THREADS / 32 - 1) / (PREFILL_THREADS / 32), 1, PREFILL_THREADS,
                0);
    launch_step(gpu, step_kernel(gpu, "group_kernel", 0, 0, 0, ""), s, b, layer, 0, EXPERTS, 1,
                PREFILL_THREADS, 0);
}

static void launch_experts(Gpu *gpu, const State *s, const Batch *b, const int formats[3],
                           const Layer *layer)
{
    int all = (int)work_most_places(b->rows), places = (int)work_wave(s->max_rows);
    for (int wave = 0; wave * places < all; wave++) {
        int here = all - wave * places < places ? all - wave * places : places;
        launch_wave(gpu, formats, "_up_prepare", "_up_prefill", s, b, layer, wave,
                    needs_of(formats[0], formats[1], 0), here, EXPERT_DIM);
        launch_wave(gpu, formats, "_down_prepare", "_down_prefill", s, b, layer, wave,
                    needs_of(formats[2], 0, 0), here, DIM);
        launch_step(gpu, step_kernel(gpu, "combine_kernel", 0, 0, 0, ""), s, b, layer, wave,
                    b->rows, 1, PREFILL_THREADS, 0);
    }
}

static void launch_shared(Gpu *gpu, const State *s, const Batch *b, const int f[3],
                          const Layer *layer)
{
    launch_tiles(gpu, step_kernel(gpu, "shared", f[0], f[1], f[2], "_up_prepare"),
                 step_kernel(gpu, "shared", f[0], f[1], f[2], "_up_prefill"), s, b, layer,
                 needs_of(f[0], f[1], 0), BLOCKS(SHARED_DIM), PAIRS(SHARED_DIM), b->rows);
    launch_tiles(gpu, step_kernel(gpu, "shared", f[0], f[1], f[2], "_down_prepare"),
                 step_kernel(gpu, "shared", f[0], f[1], f[2], "_down_prefill"), s, b, layer,
                 needs_of(f[2], 0, 0), BLOCKS(DIM), PAIRS(DIM), b->rows);
}

// A routed layer; shared formats 0: without a shared expert.
static inline void launch_moe_shared(Gpu *gpu, const State *s, const Batch *b, int gate, int up,
                                     int down, int shared_gate, int shared_up, int shared_down,
                                     const Layer *layer)
{
    if (decode_form(gpu, s, b)) {
        int room = activation_room(gpu, b->rows);
        launch_decode(gpu, STEP_ROUTE, s, b, layer, shared_gate, shared_up, 0, 0, room);
        launch_decode(gpu, STEP_EXPERTS_UP, s, b, layer, gate, up, shared_down, 0, room);
        launch_decode(gpu, STEP_EXPERTS_DOWN, s, b, layer, down, 0, 0, 0, room);
        launch_decode(gpu, STEP_COMBINE, s, b, layer, 0, 0, 0, 0, COMBINE_ROOM);
        return;
    }
    launch_routing(gpu, s, b, layer);
    if (shared_gate) launch_shared(gpu, s, b, (int[]){shared_gate, shared_up, shared_down}, layer);
    launch_experts(gpu, s, b, (int[]){gate, up, down}, layer);
}

static inline void launch_moe(Gpu *gpu, const State *s, const Batch *b, int gate, int up, int down,
                              const Layer *layer)
{
    launch_moe_shared(gpu, s, b, gate, up, down, 0, 0, 0, layer);
}
#endif

// The sums of the last layer's feed-forward, which no head reads and clears. The next pass may have
// fewer rows, and layers of other widths.
static void clear_last_sums(Gpu *gpu, const State *s)
{
    Work w = work_places(s->max_rows, s->max_outputs);
    gpu_clear_async(gpu, (GpuPointer)s->work + w.sums_up, w.sums_head - w.sums_up);
}

static inline void launch_head(Gpu *gpu, const State *s, const Batch *b, int format)
{
    int pending = decode_form(gpu, s, b); // the last layer's products
    launch_keep(gpu, s, b, LAYERS);
    if (b->outputs == 0) {
        if (pending) clear_last_sums(gpu, s);
        return;
    }
    if (b->outputs <= decode_rows_here(gpu)) {
        launch_decode(gpu, STEP_HEAD, s, b, NULL, format, 0, 0, pending,
                      activation_room(gpu, b->outputs));
        launch_decode(gpu, STEP_LOGITS, s, b, NULL, 0, 0, 0, pending, 0);
    } else
        launch_prefill(gpu, "head", s, b, NULL, format, 0, 0, BLOCKS(VOCAB), PAIRS(VOCAB),
                       b->outputs);
}

// sampling (outputs) and tokens (outputs) are device memory; a row whose logits hold a NaN gets -1.
static inline void launch_sample(Gpu *gpu, const State *s, const Batch *b, const Sampling *sampling,
                                 int32_t *tokens)
{
    State placed = with_places(s);
    void *arguments[] = {&placed, (void *)b, &sampling, &tokens};
    if (b->outputs)
        gpu_launch(gpu, step_kernel(gpu, "sample_kernel", 0, 0, 0, ""), b->outputs, 1, 1024, 0,
                   GPU_OVERLAP, arguments);
}
