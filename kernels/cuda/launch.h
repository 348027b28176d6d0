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
    void *arguments[] = {(void *)s, (void *)b, &layer, &n};
    gpu_launch(gpu, kernel, grid, grid_y, block, shared_bytes, 1, arguments);
}

// --- forms ---------------------------------------------------------------------------------------

// Few rows, or one row a sequence: the decode form. Its rows come out the same in any batch.
static int decode_form(const State *s, const Batch *b)
{
    return b->rows <= (int)work_decode_rows(s->max_rows) &&
           (b->rows <= ROW_GROUP || b->rows == b->segments);
}

static int most(int a, int b)
{
    return a > b ? a : b;
}

// A decode step of `units` blocks over `rows` rows; formats of its linear layers, 0 for none.
static void launch_decode(Gpu *gpu, const char *step, const State *s, const Batch *b,
                          const Layer *layer, int x, int y, int z, int units, int rows)
{
    int formats[3] = {x, y, z}, group = rows < ROW_GROUP ? rows : ROW_GROUP, bytes = 0;
    for (;; group--) {
        bytes = 0;
        for (int i = 0; i < 3 && formats[i]; i++)
            bytes = most(bytes, DECODE_SHARED_BYTES(formats[i], group));
        // What the kernels declare statically stays below 6 KB.
        if (group == 1 || bytes + 6144 <= (int)gpu->shared_bytes_per_block) break;
    }
    launch_step(gpu, step_kernel(gpu, step, x, y, z, ""), s, b, layer, group, units, 1,
                DECODE_THREADS, bytes);
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

// A prefill step: the activations, then tiles of rows by column blocks, in pairs where the form
// wants that.
static void launch_prefill(Gpu *gpu, const char *step, const State *s, const Batch *b,
                           const Layer *layer, int x, int y, int z, int blocks, int pairs, int rows)
{
    int formats[3] = {x, y, z}, bytes = 0, bits = 0;
    for (int i = 0; i < 3 && formats[i]; i++) {
        bytes = most(bytes, PREFILL_SHARED_BYTES(formats[i]));
        bits = most(bits, FORMAT_BITS(formats[i]));
    }
    launch_step(gpu, step_kernel(gpu, step, x, y, z, "_prepare"), s, b, layer, 0, rows, 1,
                DECODE_THREADS, 0);
    int kernel = step_kernel(gpu, step, x, y, z, "_prefill");
    if (gpu->image_sm == 90)
        launch_wide(gpu, kernel, s, b, layer, bits, pairs, rows);
    else
        launch_step(gpu, kernel, s, b, layer, 0, (rows + TILE_ROWS - 1) / TILE_ROWS, blocks,
                    DECODE_THREADS, bytes);
}

// --- steps ---------------------------------------------------------------------------------------

static inline void launch_embed(Gpu *gpu, const State *s, const Batch *b, int format)
{
    launch_step(gpu, step_kernel(gpu, "embed", format, 0, 0, ""), s, b, NULL, 0, b->rows, 1,
                DECODE_THREADS, 0);
}

static inline void launch_keep(Gpu *gpu, const State *s, const Batch *b, int l)
{
    if (s->hidden)
        launch_step(gpu, step_kernel(gpu, "keep_kernel", 0, 0, 0, ""), s, b, NULL, l, b->rows, 1,
                    DECODE_THREADS, 0);
}

static inline void launch_qkv(Gpu *gpu, const State *s, const Batch *b, int q, int k, int v,
                              const Layer *layer)
{
    if (decode_form(s, b))
        launch_decode(gpu, "qkv", s, b, layer, q, k, v,
                      BLOCKS(Q_DIM) * SLICES(q, DIM) +
                          BLOCKS(KV_DIM) * (SLICES(k, DIM) + SLICES(v, DIM)),
                      b->rows);
    else
        launch_prefill(gpu, "qkv", s, b, layer, q, k, v, BLOCKS(Q_DIM) + 2 * BLOCKS(KV_DIM),
                       PAIRS(Q_DIM) + 2 * PAIRS(KV_DIM), b->rows);
    if (!HEADS_IN_BLOCKS)
        launch_step(gpu, step_kernel(gpu, "qkv_finish_kernel", 0, 0, 0, ""), s, b, layer, 0,
                    b->rows, (HEADS + 2 * KV_HEADS + 7) / 8, DECODE_THREADS, 0);
}

static inline void launch_attend(Gpu *gpu, const State *s, const Batch *b, const Layer *layer)
{
    if (decode_form(s, b)) {
        int items = b->rows * KV_HEADS * MOST_SPLITS, fill = 2 * gpu->sm_count;
        launch_step(gpu, step_kernel(gpu, "attend_kernel", 0, 0, 0, ""), s, b, layer, 0,
                    items < fill ? items : fill, 1, DECODE_THREADS, ATTEND_SHARED_BYTES);
    } else {
        launch_step(gpu, step_kernel(gpu, "attend_prefill_kernel", 0, 0, 0, ""), s, b, layer, 0,
                    b->rows / QUERY_ROWS + b->segments, HEADS, 128, ATTEND_PREFILL_SHARED_BYTES);
    }
}

// out, down, out_norm or down_norm, from `in` channels.
static void launch_product(Gpu *gpu, const char *step, const State *s, const Batch *b, int format,
                           const Layer *layer, int in)
{
    if (decode_form(s, b))
        launch_decode(gpu, step, s, b, layer, format, 0, 0, BLOCKS(DIM) * SLICES(format, in),
                      b->rows);
    else
        launch_prefill(gpu, step, s, b, layer, format, 0, 0, BLOCKS(DIM), PAIRS(DIM), b->rows);
}

static inline void launch_out(Gpu *gpu, const State *s, const Batch *b, int format,
                              const Layer *layer)
{
    launch_product(gpu, "out", s, b, format, layer, Q_DIM);
}

static inline void launch_out_norm(Gpu *gpu, const State *s, const Batch *b, int format,
                                   const Layer *layer)
{
    launch_product(gpu, "out_norm", s, b, format, layer, Q_DIM);
    launch_step(gpu, step_kernel(gpu, "attn_post_kernel", 0, 0, 0, ""), s, b, layer, 0, b->rows, 1,
                DECODE_THREADS, 0);
}

static inline void launch_up(Gpu *gpu, const State *s, const Batch *b, int gate, int up,
                             const Layer *layer)
{
    if (decode_form(s, b))
        launch_decode(gpu, "up", s, b, layer, gate, up, 0,
                      BLOCKS(FFN_DIM) * (SLICES(gate, DIM) + SLICES(up, DIM)), b->rows);
    else
        launch_prefill(gpu, "up", s, b, layer, gate, up, 0, BLOCKS(FFN_DIM), PAIRS(FFN_DIM),
                       b->rows);
}

static inline void launch_up_alone(Gpu *gpu, const State *s, const Batch *b, int up,
                                   const Layer *layer)
{
    if (decode_form(s, b))
        launch_decode(gpu, "up_alone", s, b, layer, up, 0, 0, BLOCKS(FFN_DIM) * SLICES(up, DIM),
                      b->rows);
    else
        launch_prefill(gpu, "up_alone", s, b, layer, up, 0, 0, BLOCKS(FFN_DIM), PAIRS(FFN_DIM),
                       b->rows);
}

static inline void launch_down(Gpu *gpu, const State *s, const Batch *b, int format,
                               const Layer *layer)
{
    launch_product(gpu, "down", s, b, format, layer, FFN_DIM);
}

static inline void launch_down_norm(Gpu *gpu, const State *s, const Batch *b, int format,
                                    const Layer *layer)
{
    launch_product(gpu, "down_norm", s, b, format, layer, FFN_DIM);
    launch_step(gpu, step_kernel(gpu, "ffn_post_kernel", 0, 0, 0, ""), s, b, layer, 0, b->rows, 1,
                DECODE_THREADS, 0);
}

static inline void launch_head(Gpu *gpu, const State *s, const Batch *b, int format)
{
    if (s->hidden)
        launch_step(gpu, step_kernel(gpu, "final_norm_kernel", 0, 0, 0, ""), s, b, NULL, 0, b->rows,
                    1, DECODE_THREADS, 0);
    if (b->outputs == 0) return;
    if (b->outputs <= DECODE_ROWS)
        launch_decode(gpu, "head", s, b, NULL, format, 0, 0, BLOCKS(VOCAB) * SLICES(format, DIM),
                      b->outputs);
    else
        launch_prefill(gpu, "head", s, b, NULL, format, 0, 0, BLOCKS(VOCAB), PAIRS(VOCAB),
                       b->outputs);
}

// sampling (outputs) and tokens (outputs) are device memory; a row whose logits hold a NaN gets -1.
static inline void launch_sample(Gpu *gpu, const State *s, const Batch *b, const Sampling *sampling,
                                 int32_t *tokens)
{
    void *arguments[] = {(void *)s, (void *)b, &sampling, &tokens};
    if (b->outputs)
        gpu_launch(gpu, step_kernel(gpu, "sample_kernel", 0, 0, 0, ""), b->outputs, 1, 1024, 0, 1,
                   arguments);
}
