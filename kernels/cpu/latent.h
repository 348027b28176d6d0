// latent: the keys and values of all heads come from one latent vector a token, and only that is
// cached, with a few turned channels that the heads share. What would expand it is applied to the
// queries instead, so that attention runs over latents: KV_HEADS is 1, and HEAD_DIM is KV_LATENT +
// ROPE_DIM, for keys as for values.
// latent_out: attention's latents -> the values of each head -> x += v Wo.
#pragma once
#include "out.h"
#include "qkv.h"

#if KV_LATENT
// Rows of kv_b: a head's key channels first, then its values.
ALWAYS const float *expansion_of(const State *s, const Layer *layer, int head)
{
    return floats_at(s, layer->kv_b) + (size_t)head * EXPANDED * KV_LATENT;
}

ALWAYS void latent(Worker *w, State *s, const Batch *b, int format_qa, int format_kv, int format_qb,
                   const Layer *layer)
{
    float *q_a = s->y, *kv = q_a + (size_t)b->rows * Q_LATENT;
    float *q_b = kv + (size_t)b->rows * LATENT_ROW;
    Input x = {s->x, DIM, NULL, floats_at(s, layer->attn_norm)};
    Input q = {q_a, Q_LATENT, NULL, floats_at(s, layer->q_a_norm)};
    product(format_qa, w, s, b, &layer->q_a, x, q_a, Q_LATENT, false);
    product(format_kv, w, s, b, &layer->kv_a, x, kv, LATENT_ROW, false);
    product(format_qb, w, s, b, &layer->q_b, q, q_b, HEADS * QUERY_DIM, false);

    Range units = share(b->rows * HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const int row = i / HEADS, head = i % HEADS;
        const float *from = q_b + (size_t)i * QUERY_DIM, *k = expansion_of(s, layer, head);
        float *to = s->q + (size_t)i * HEAD_DIM;
        memset(to, 0, KV_LATENT * sizeof *to);
        for (int n = 0; n < NOPE_DIM; n++)
            for (int c = 0; c < KV_LATENT; c++) to[c] += from[n] * k[(size_t)n * KV_LATENT + c];
        memcpy(to + KV_LATENT, from + NOPE_DIM, ROPE_DIM * sizeof *to);
        rotate_head(to + KV_LATENT, s->rope + (size_t)row * ROPES * ROPE_DIM);
        turn_query(s, to);
    }
    const float *norm = floats_at(s, layer->kv_a_norm);
    Range rows = share(b->rows, w->index, w->count);
    for (int r = rows.first; r < rows.end; r++) {
        float *v = kv + (size_t)r * LATENT_ROW;
        Moments m = moments_of(v, KV_LATENT, false);
        for (int i = 0; i < KV_LATENT; i++) v[i] *= m.factor * norm[i];
        rotate_head(v + KV_LATENT, s->rope + (size_t)r * ROPES * ROPE_DIM);
        for (int which = 0; which < 2; which++) cache_store(s, b, layer, which, r, 0, v);
    }
    worker_barrier(w);
}

ALWAYS void latent_out(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    Range units = share(b->rows * HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const float *from = s->a + (size_t)i * HEAD_DIM;
        const float *v = expansion_of(s, layer, i % HEADS) + (size_t)NOPE_DIM * KV_LATENT;
        for (int j = 0; j < VALUE_DIM; j++) {
            Floats sum = {0};
            float rest = 0;
            int c = 0;
            for (; c + FLOATS <= KV_LATENT; c += FLOATS)
                sum += load(v + (size_t)j * KV_LATENT + c) * load(from + c);
            for (; c < KV_LATENT; c++) rest += v[(size_t)j * KV_LATENT + c] * from[c];
            s->y[(size_t)i * VALUE_DIM + j] = sum_lanes(sum) + rest;
        }
    }
    worker_barrier(w);
    Input in = {s->y, HEADS * VALUE_DIM, NULL, NULL};
    product(format, w, s, b, &layer->o, in, s->x, DIM, true);
}
#endif
