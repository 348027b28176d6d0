// qkv_gated: as qkv, where each head of q is followed by HEAD_DIM gates; those stay in s->y.
// out_gated: as out, of attention's values times the sigmoids of their gates.
#pragma once
#include "out.h"
#include "qkv.h"

#if GATED_ATTENTION
ALWAYS void qkv_gated(Worker *w, State *s, const Batch *b, int format_q, int format_k, int format_v,
                      const Layer *layer)
{
    const int kv_heads = LAYER_KV_HEADS(layer), kv_width = LAYER_KV_WIDTH(layer);
    // (rows, HEADS, 2, HEAD_DIM), then keys and values (rows, kv_heads, HEAD_DIM).
    float *both = s->y;
    float *k = both + (size_t)b->rows * 2 * Q_WIDTH, *v = k + (size_t)b->rows * kv_width;
    Input x = {s->x, DIM, NULL, floats_at(s, layer->attn_norm)};
    product(format_q, w, s, b, &layer->q, x, both, 2 * Q_WIDTH, false);
    product(format_k, w, s, b, &layer->k, x, k, kv_width, false);
    product(format_v, w, s, b, &layer->v, x, v, kv_width, false);

    const int heads = HEADS + 2 * kv_heads;
    Range units = share(b->rows * heads, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const int row = i / heads, head = i % heads, kv_head = (head - HEADS) % kv_heads;
        if (head < HEADS) {
            float *q = s->q + ((size_t)row * HEADS + head) * HEAD_DIM;
            memcpy(q, both + ((size_t)row * HEADS + head) * 2 * HEAD_DIM, HEAD_DIM * sizeof *q);
            finish_head(s, b, layer, PART_Q, row, head, q);
        } else {
            const bool is_k = head < HEADS + kv_heads;
            finish_head(s, b, layer, is_k ? PART_K : PART_V, row, kv_head,
                        (is_k ? k : v) + (size_t)row * kv_width + kv_head * HEAD_DIM);
        }
    }
    worker_barrier(w);
}

ALWAYS void out_gated(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    Range units = share(b->rows * HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const float *gate = s->y + (size_t)i * 2 * HEAD_DIM + HEAD_DIM;
        float *a = s->a + (size_t)i * HEAD_DIM;
        for (int c = 0; c < HEAD_DIM; c++) a[c] /= 1.0f + expf(-gate[c]);
    }
    worker_barrier(w);
    out(w, s, b, format, layer);
}
#endif
