// head: logits = RMSNorm(x) Whead (+ bias) of the output rows.
#pragma once
#include "linear.h"

ALWAYS void head(Worker *w, State *s, const Batch *b, int format)
{
    const int blocks = blocks_of(VOCAB);
    const Linear *linear = &s->ends.head;
    Input in = {s->x, DIM, b->output, (const float *)(s->weights + s->ends.norm)};

    if (s->hidden) { // the last row of (LAYERS + 1): x after the final norm, all rows
        Range rows = share(b->rows, w->index, w->count);
        for (int r = rows.first; r < rows.end; r++) {
            const float *x = s->x + (size_t)r * DIM;
            float *to = s->hidden + ((size_t)LAYERS * b->rows + r) * DIM;
            float factor = norm_factor(x, DIM);
            for (int i = 0; i < DIM; i++) to[i] = x[i] * factor * in.norm[i];
        }
    }

    if (b->outputs <= FEW_ROWS) {
        const bool shared = few_shared(b->outputs, DIM);
        float factor[FEW_ROWS];
        char *act = shared ? s->work : w->local;
        Range units = share(b->outputs ? blocks : 0, w->index, w->count);
        Range slices = {0, blocks_of(DIM)};
        if (shared) slices = share(slices.end, w->index, w->count);
        if (shared || units.first < units.end) {
            norm_factors(&in, 0, b->outputs, factor);
            few_prepare(format, s, linear, &in, factor, b->outputs, slices, act);
        }
        if (shared) worker_barrier(w);
        for (int block = units.first; block < units.end; block++)
            few_block(format, s, linear, DIM, VOCAB, block, act, b->outputs,
                      s->logits + block * BLOCK, VOCAB, false);
        worker_barrier(w);
        return;
    }

    Tiles *tiles = w->local;
    for (int row = 0; row < b->outputs; row += MANY_ROWS) {
        const int rows = SMALLER(MANY_ROWS, b->outputs - row);
        float factor[MANY_ROWS];
        Range mine = share(rows, w->index, w->count);
        in.row = b->output + row;
        norm_factors(&in, mine.first, mine.end, factor);
        many_prepare(format, s, linear, &in, factor, rows, mine, s->work);
        worker_barrier(w);
        const int parts = row_tiles(rows, blocks, w);
        Range units = share(blocks * parts, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            int block = i / parts;
            Range tile = share(rows, i % parts, parts);
            many_block(
                format, s, linear, DIM, VOCAB, block, s->work, rows, tile, tiles, tiles->tile[0],
                s->logits + (size_t)(row + tile.first) * VOCAB + block * BLOCK, VOCAB, false);
        }
        worker_barrier(w);
    }
}
