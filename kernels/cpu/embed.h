// embed: x = rows of the embedding table; cosines and sines of the rows' positions.
// keep: copies x for inspection.
#pragma once
#include "linear.h"
#include <math.h>

ALWAYS void embed(Worker *w, State *s, const Batch *b, int format)
{
    const uint16_t *table = (const uint16_t *)(s->weights + s->ends.embed); // (VOCAB, DIM)
    Range columns = share(DIM, w->index, w->count);
    for (int r = 0; r < b->rows; r++) {
        const uint16_t *from = table + (size_t)b->token[r] * DIM;
        float *x = s->x + (size_t)r * DIM;
        for (int i = columns.first; i < columns.end; i++)
            x[i] = (format == f16 ? half_to_float(from[i]) : bf16_to_float(from[i])) * EMBED_SCALE;
    }

    static const float inverse[ROPES * (ROPE_DIM / 2)] = ROPE_INVERSE;
    static const float factor[ROPES] = {ROPE_FACTOR};
    enum { PAIRS = ROPES * (ROPE_DIM / 2) };
    Range angles = share(b->rows * PAIRS, w->index, w->count);
    for (int i = angles.first; i < angles.end; i++) {
        float angle = (float)b->position[i / PAIRS] * inverse[i % PAIRS];
        s->rope[2 * i] = cosf(angle) * factor[i % PAIRS / (ROPE_DIM / 2)];
        s->rope[2 * i + 1] = sinf(angle) * factor[i % PAIRS / (ROPE_DIM / 2)];
    }
    worker_barrier(w);
}

// Needs no barrier: x is next written after the barriers of qkv and attend.
ALWAYS void keep(Worker *w, State *s, const Batch *b, int layer)
{
    if (!s->hidden) return;
    size_t values = (size_t)b->rows * DIM;
    size_t first = values * (size_t)w->index / (size_t)w->count;
    size_t end = values * (size_t)(w->index + 1) / (size_t)w->count;
    memcpy(s->hidden + (size_t)layer * values + first, s->x + first, (end - first) * sizeof *s->x);
}
