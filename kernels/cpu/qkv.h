// qkv: x -> RMSNorm -> q, k and v products (+ bias) -> norm of each q and k head -> rope -> q to
// s->q; k and v to the cache.
#pragma once
#include "cache.h"
#include "linear.h"
#include <math.h>

#define Q_WIDTH (HEADS * HEAD_DIM)
#define KV_WIDTH (KV_HEADS * HEAD_DIM) // the most of any layer
#define LAYER_KV_WIDTH(layer) (LAYER_KV_HEADS(layer) * HEAD_DIM)

// Norms the channels of one head, or of all of them.
ALWAYS void norm_channels(float *v, int width, const float *norm)
{
    Moments m = moments_of(v, width, HEAD_NORMS == HEAD_NORM_EACH);
    for (int i = 0; i < width; i++) v[i] = (v[i] - m.mean) * m.factor * norm[i];
}

// rope (ROPE_DIM / 2, 2): cosine and sine of each pair.
ALWAYS void rotate_head(float *v, const float *rope)
{
    for (int j = 0; j < ROPE_DIM / 2; j++) {
        int at = ROPE_INTERLEAVED ? 2 * j : j, to = ROPE_INTERLEAVED ? 2 * j + 1 : j + ROPE_DIM / 2;
        float a = v[at], c = v[to], cosine = rope[2 * j], sine = rope[2 * j + 1];
        v[at] = a * cosine - c * sine;
        v[to] = c * cosine + a * sine;
    }
}

enum { PART_Q, PART_K, PART_V };

// The norm of q or k, or NULL.
ALWAYS const float *head_norm(const State *s, const Layer *layer, int part)
{
    return floats_at(s, part == PART_Q ? layer->q_norm : part == PART_K ? layer->k_norm : 0);
}

// What follows the product for one head of a row, and a norm over all heads.
ONCE void finish_head(const State *s, const Batch *b, const Layer *layer, int part, int row,
                      int head, float *v)
{
    const float *norm = head_norm(s, layer, part);
    if (norm && HEAD_NORMS != HEAD_NORM_ALL)
        norm_channels(v, HEAD_DIM, norm + (HEAD_NORMS == HEAD_NORM_EACH ? head * HEAD_DIM : 0));
    if (part != PART_V && (ROPE_EVERYWHERE || layer->rope >= 0))
        rotate_head(v, s->rope + ((size_t)row * ROPES + (ROPES > 1 ? layer->rope : 0)) * ROPE_DIM);
    if (part == PART_Q && QUERY_BETA != 0) {
        float far = floorf((float)b->position[row] / QUERY_FROM);
        float scale = 1 + QUERY_BETA * logf(1 + far);
        for (int i = 0; i < HEAD_DIM; i++) v[i] *= scale;
    }
    if (part == PART_Q)
        turn_query(s, v);
    else
        cache_store(s, b, layer, part == PART_V, row, head, v);
}

// Heads can be finished with the block that they lie in: where heads divide blocks, and no norm
// needs them all.
#define HEADS_IN_BLOCKS (BLOCK % HEAD_DIM == 0 && HEAD_NORMS != HEAD_NORM_ALL)

ALWAYS void finish_heads(const State *s, const Batch *b, const Layer *layer, int part, int row,
                         int first, int end, float *v)
{
    for (int head = first; head < end; head++)
        finish_head(s, b, layer, part, row, head, v + (head - first) * HEAD_DIM);
}

// All heads of rows first_row ..: q from s->q, k and v from kv (rows, 2, KV_WIDTH).
ALWAYS void finish_rows(Worker *w, const State *s, const Batch *b, const Layer *layer,
                        int first_row, int rows, float *kv)
{
    const int kv_heads = LAYER_KV_HEADS(layer), heads = HEADS + 2 * kv_heads;
    if (HEAD_NORMS == HEAD_NORM_ALL) {
        Range mine = share(rows * 2, w->index, w->count);
        for (int i = mine.first; i < mine.end; i++) {
            int r = i / 2, part = i % 2 ? PART_K : PART_Q;
            const float *norm = head_norm(s, layer, part);
            if (norm && part == PART_Q)
                norm_channels(s->q + (size_t)(first_row + r) * Q_WIDTH, Q_WIDTH, norm);
            else if (norm)
                norm_channels(kv + (size_t)r * 2 * KV_WIDTH, LAYER_KV_WIDTH(layer), norm);
        }
        worker_barrier(w);
    }
    Range mine = share(rows * heads, w->index, w->count);
    for (int i = mine.first; i < mine.end; i++) {
        int r = i / heads, row = first_row + r, head = i % heads;
        if (head < HEADS) {
            finish_head(s, b, layer, PART_Q, row, head,
                        s->q + (size_t)row * Q_WIDTH + head * HEAD_DIM);
            continue;
        }
        int part = head < HEADS + kv_heads ? PART_K : PART_V, at = (head - HEADS) % kv_heads;
        finish_head(s, b, layer, part, row, at,
                    kv + (size_t)(2 * r + (part == PART_V)) * KV_WIDTH + at * HEAD_DIM);
    }
}

// The blocks `blocks` of one of the three products, few rows.
ALWAYS void qkv_part(int format, int part, const State *s, const Batch *b, const Layer *layer,
                     const Linear *linear, Range blocks, const Input *in, const Moments *moments,
                     bool prepared, char *act, float *kv)
{
    const int width = part == PART_Q ? Q_WIDTH : LAYER_KV_WIDTH(layer);
    if (blocks.first >= blocks.end) return;
    if (!prepared)
        few_prepare(format, s, linear, in, moments, b->rows, (Range){0, blocks_of(DIM)}, act);
    for (int block = blocks.first; block < blocks.end; block++) {
        float *y = part == PART_Q ? s->q : kv + (part == PART_V ? KV_WIDTH : 0);
        size_t stride = part == PART_Q ? Q_WIDTH : 2 * KV_WIDTH;
        y += block * BLOCK;
        few_block(format, s, linear, DIM, width, block, act, b->rows, y, stride, false);
        if (HEADS_IN_BLOCKS)
            for (int r = 0; r < b->rows; r++)
                finish_heads(s, b, layer, part, r, block * BLOCK / HEAD_DIM,
                             (block * BLOCK + width_of(width, block)) / HEAD_DIM, y + r * stride);
    }
}

// The same for halves, into sums.
ALWAYS void qkv_halves(int format, const State *s, const Batch *b, const Linear *linear,
                       Range halves, const Input *in, const Moments *moments, bool prepared,
                       char *act, float *sums, size_t stride)
{
    if (halves.first >= halves.end) return;
    if (!prepared)
        few_prepare(format, s, linear, in, moments, b->rows, (Range){0, blocks_of(DIM)}, act);
    for (int half = halves.first; half < halves.end; half++)
        few_half(format, s, linear, DIM, half, act, b->rows, sums, stride);
}

// Units first .. end-1 of all, as those of a part whose units are start .. start+count-1.
ALWAYS Range part_of(Range units, int start, int count)
{
    return (Range){LARGER(units.first - start, 0), SMALLER(units.end - start, count)};
}

ALWAYS void qkv(Worker *w, State *s, const Batch *b, int format_q, int format_k, int format_v,
                const Layer *layer)
{
    const int kv_width = LAYER_KV_WIDTH(layer);
    const int nq = blocks_of(Q_WIDTH), nkv = blocks_of(kv_width), blocks = nq + 2 * nkv;
    float *kv = (float *)((char *)s->work + INPUT_BYTES(LARGER(s->max_rows, s->max_outputs)));
    Input in = {s->x, DIM, NULL, floats_at(s, layer->attn_norm)};

    if (b->rows <= FEW_ROWS) {
        const bool shared = few_shared(b->rows, DIM);
        Moments moments[FEW_ROWS];
        char *act_q = shared ? s->work : w->local;
        char *act_k = act_q + few_bytes(format_q, b->rows, DIM);
        char *act_v = act_k + few_bytes(format_k, b->rows, DIM);
        norm_rows(&in, 0, b->rows, moments);
        if (shared) {
            Range slices = share(blocks_of(DIM), w->index, w->count);
            few_prepare(format_q, s, &layer->q, &in, moments, b->rows, slices, act_q);
            few_prepare(format_k, s, &layer->k, &in, moments, b->rows, slices, act_k);
            few_prepare(format_v, s, &layer->v, &in, moments, b->rows, slices, act_v);
            worker_barrier(w);
        }
        if (few_split(w, blocks)) {
            const size_t stride = (size_t)blocks * BLOCK;
            float *sums = few_sums(s);
            Range units = share(2 * blocks, w->index, w->count);
            qkv_halves(format_q, s, b, &layer->q, part_of(units, 0, 2 * nq), &in, moments, shared,
                       act_q, sums, stride);
            qkv_halves(format_k, s, b, &layer->k, part_of(units, 2 * nq, 2 * nkv), &in, moments,
                       shared, act_k, sums + nq * BLOCK, stride);
            qkv_halves(format_v, s, b, &layer->v, part_of(units, 2 * (nq + nkv), 2 * nkv), &in,
                       moments, shared, act_v, sums + (nq + nkv) * BLOCK, stride);
            worker_barrier(w);
            units = share(b->rows * blocks, w->index, w->count);
            for (int i = units.first; i < units.end; i++) {
                int row = i / blocks, block = i % blocks;
                float *z = sums + row * stride + block * BLOCK;
                float *k = kv + (size_t)row * 2 * KV_WIDTH, *v = k + KV_WIDTH;
                if (block < nq) {
                    finish_block(FORMAT_IS_EXL3(format_q), s, &layer->q, block,
                                 width_of(Q_WIDTH, block), z,
                                 s->q + (size_t)row * Q_WIDTH + block * BLOCK, false);
                } else if (block < nq + nkv) {
                    block -= nq;
                    finish_block(FORMAT_IS_EXL3(format_k), s, &layer->k, block,
                                 width_of(kv_width, block), z, k + block * BLOCK, false);
                } else {
                    block -= nq + nkv;
                    finish_block(FORMAT_IS_EXL3(format_v), s, &layer->v, block,
                                 width_of(kv_width, block), z, v + block * BLOCK, false);
                }
            }
            worker_barrier(w);
            finish_rows(w, s, b, layer, 0, b->rows, kv);
            worker_barrier(w);
            return;
        }
        Range units = share(blocks, w->index, w->count);
        qkv_part(format_q, PART_Q, s, b, layer, &layer->q, part_of(units, 0, nq), &in, moments,
                 shared, act_q, kv);
        qkv_part(format_k, PART_K, s, b, layer, &layer->k, part_of(units, nq, nkv), &in, moments,
                 shared, act_k, kv);
        qkv_part(format_v, PART_V, s, b, layer, &layer->v, part_of(units, nq + nkv, nkv), &in,
                 moments, shared, act_v, kv);
        worker_barrier(w);
        if (!HEADS_IN_BLOCKS) {
            finish_rows(w, s, b, layer, 0, b->rows, kv);
            worker_barrier(w);
        }
        return;
    }

    Tiles *tiles = w->local;
    for (int row = 0; row < b->rows; row += MANY_ROWS) {
        const int rows = SMALLER(MANY_ROWS, b->rows - row);
        Moments moments[MANY_ROWS];
        float *act_q = s->work, *act_k = act_q + (size_t)rows * PADDED(DIM),
              *act_v = act_k + (size_t)rows * PADDED(DIM);
        Range mine = share(rows, w->index, w->count);
        in.x = s->x + (size_t)row * DIM;
        norm_rows(&in, mine.first, mine.end, moments);
        many_prepare(format_q, s, &layer->q, &in, moments, rows, mine, act_q);
        many_prepare(format_k, s, &layer->k, &in, moments, rows, mine, act_k);
        many_prepare(format_v, s, &layer->v, &in, moments, rows, mine, act_v);
        worker_barrier(w);

        const int parts = row_tiles(rows, blocks, w);
        Range units = share(blocks * parts, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            int block = i / parts;
            Range tile = share(rows, i % parts, parts);
            float *q = s->q + (size_t)(row + tile.first) * Q_WIDTH + block * BLOCK;
            float *k = kv + (size_t)tile.first * 2 * KV_WIDTH + (block - nq) * BLOCK;
            float *v = k + KV_WIDTH - nkv * BLOCK;
            if (block < nq)
                many_block(format_q, s, &layer->q, DIM, Q_WIDTH, block, act_q, rows, tile, tiles,
                           tiles->tile[0], q, Q_WIDTH, false);
            else if (block < nq + nkv)
                many_block(format_k, s, &layer->k, DIM, kv_width, block - nq, act_k, rows, tile,
                           tiles, tiles->tile[0], k, 2 * KV_WIDTH, false);
            else
                many_block(format_v, s, &layer->v, DIM, kv_width, block - nq - nkv, act_v, rows,
                           tile, tiles, tiles->tile[0], v, 2 * KV_WIDTH, false);
        }
        worker_barrier(w);
        finish_rows(w, s, b, layer, row, rows, kv);
        worker_barrier(w);
    }
}
