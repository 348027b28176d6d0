// out: x += a Wo (+ bias). down: x += h Wdown (+ bias). out_norm, down_norm: x += the norm of that.
#pragma once
#include "linear.h"

// The product of the batch's rows of `in` is written to `to` (rows, out), or added to it.
ALWAYS void product(int format, Worker *w, State *s, const Batch *b, const Linear *linear, Input in,
                    float *to, int out, bool add)
{
    const int blocks = blocks_of(out), width = in.width;
    const float *from = in.x;

    if (b->rows <= FEW_ROWS) {
        const bool shared = few_shared(b->rows, width);
        Moments moments[FEW_ROWS];
        const bool split = few_split(w, blocks);
        char *act = shared ? s->work : w->local;
        Range units = share(split ? 2 * blocks : blocks, w->index, w->count);
        Range slices = {0, blocks_of(width)};
        if (shared) slices = share(slices.end, w->index, w->count);
        if (shared || units.first < units.end) {
            norm_rows(&in, 0, b->rows, moments);
            few_prepare(format, s, linear, &in, moments, b->rows, slices, act);
        }
        if (shared) worker_barrier(w);
        if (split) {
            float *sums = few_sums(s);
            for (int half = units.first; half < units.end; half++)
                few_half(format, s, linear, width, half, act, b->rows, sums, PADDED(out));
            worker_barrier(w);
            units = share(b->rows * blocks, w->index, w->count);
            for (int i = units.first; i < units.end; i++) {
                int row = i / blocks, at = i % blocks * BLOCK;
                finish_block(FORMAT_IS_EXL3(format), s, linear, i % blocks,
                             width_of(out, i % blocks), sums + (size_t)row * PADDED(out) + at,
                             to + (size_t)row * out + at, add);
            }
            worker_barrier(w);
            return;
        }
        for (int block = units.first; block < units.end; block++)
            few_block(format, s, linear, width, out, block, act, b->rows, to + block * BLOCK, out,
                      add);
        worker_barrier(w);
        return;
    }

    Tiles *tiles = w->local;
    for (int row = 0; row < b->rows; row += MANY_ROWS) {
        const int rows = SMALLER(MANY_ROWS, b->rows - row);
        Moments moments[MANY_ROWS];
        in.x = from + (size_t)row * width;
        Range mine = share(rows, w->index, w->count);
        norm_rows(&in, mine.first, mine.end, moments);
        many_prepare(format, s, linear, &in, moments, rows, mine, s->work);
        worker_barrier(w);
        const int parts = row_tiles(rows, blocks, w);
        Range units = share(blocks * parts, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            int block = i / parts;
            Range tile = share(rows, i % parts, parts);
            many_block(format, s, linear, width, out, block, s->work, rows, tile, tiles,
                       tiles->tile[0], to + (size_t)(row + tile.first) * out + block * BLOCK, out,
                       add);
        }
        worker_barrier(w);
    }
}

// x += norm(y)
ALWAYS void add_normed(Worker *w, State *s, const Batch *b, uint64_t norm)
{
    const float *weights = floats_at(s, norm);
    Range rows = share(b->rows, w->index, w->count);
    for (int r = rows.first; r < rows.end; r++) {
        float *x = s->x + (size_t)r * DIM;
        const float *y = s->y + (size_t)r * DIM;
        Moments m = moments_of(y, DIM, LAYER_NORM);
        for (int i = 0; i < DIM; i++)
            x[i] += RESIDUAL_SCALE * ((y[i] - m.mean) * m.factor * weights[i]);
    }
    worker_barrier(w);
}

ALWAYS void out(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    product(format, w, s, b, &layer->o, (Input){s->a, HEADS * HEAD_DIM, NULL, NULL}, s->x, DIM,
            true);
}

ALWAYS void out_norm(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    product(format, w, s, b, &layer->o, (Input){s->a, HEADS * HEAD_DIM, NULL, NULL}, s->y, DIM,
            false);
    add_normed(w, s, b, layer->attn_post);
}

ALWAYS void down(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    product(format, w, s, b, &layer->down, (Input){s->h, LAYER_FFN_DIM(layer), NULL, NULL}, s->x,
            DIM, true);
}

ALWAYS void down_norm(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    product(format, w, s, b, &layer->down, (Input){s->h, LAYER_FFN_DIM(layer), NULL, NULL}, s->y,
            DIM, false);
    add_normed(w, s, b, layer->ffn_post);
}
