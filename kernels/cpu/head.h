// head: logits = RMSNorm(x) Whead (+ bias) of the output rows.
#pragma once
#include "linear.h"

// What follows the product: rows of logits from one block of columns.
ALWAYS void finish_logits(float *logits, int rows, int width)
{
    if (LOGIT_SCALE == 1 && LOGIT_SOFTCAP == 0) return;
    for (int r = 0; r < rows; r++, logits += VOCAB)
        for (int i = 0; i < width; i++) {
            float x = logits[i] * LOGIT_SCALE;
            logits[i] = LOGIT_SOFTCAP != 0 ? softcap(splat(x), LOGIT_SOFTCAP)[0] : x;
        }
}

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
            Moments m = moments_of(x, DIM, LAYER_NORM);
            for (int i = 0; i < DIM; i++) to[i] = (x[i] - m.mean) * m.factor * in.norm[i];
        }
    }

    if (b->outputs <= FEW_ROWS) {
        const bool shared = few_shared(b->outputs, DIM);
        Moments moments[FEW_ROWS];
        char *act = shared ? s->work : w->local;
        Range units = share(b->outputs ? blocks : 0, w->index, w->count);
        Range slices = {0, blocks_of(DIM)};
        if (shared) slices = share(slices.end, w->index, w->count);
        if (shared || units.first < units.end) {
            norm_rows(&in, 0, b->outputs, moments);
            few_prepare(format, s, linear, &in, moments, b->outputs, slices, act);
        }
        if (shared) worker_barrier(w);
        for (int block = units.first; block < units.end; block++) {
            few_block(format, s, linear, DIM, VOCAB, block, act, b->outputs,
                      s->logits + block * BLOCK, VOCAB, false);
            finish_logits(s->logits + block * BLOCK, b->outputs, width_of(VOCAB, block));
        }
        worker_barrier(w);
        return;
    }

    Tiles *tiles = w->local;
    for (int row = 0; row < b->outputs; row += MANY_ROWS) {
        const int rows = SMALLER(MANY_ROWS, b->outputs - row);
        Moments moments[MANY_ROWS];
        Range mine = share(rows, w->index, w->count);
        in.row = b->output + row;
        norm_rows(&in, mine.first, mine.end, moments);
        many_prepare(format, s, linear, &in, moments, rows, mine, s->work);
        worker_barrier(w);
        const int parts = row_tiles(rows, blocks, w);
        Range units = share(blocks * parts, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            int block = i / parts;
            Range tile = share(rows, i % parts, parts);
            float *logits = s->logits + (size_t)(row + tile.first) * VOCAB + block * BLOCK;
            many_block(format, s, linear, DIM, VOCAB, block, s->work, rows, tile, tiles,
                       tiles->tile[0], logits, VOCAB, false);
            finish_logits(logits, tile.end - tile.first, width_of(VOCAB, block));
        }
        worker_barrier(w);
    }
}
