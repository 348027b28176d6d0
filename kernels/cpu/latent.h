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
ALWAYS const uint16_t *expansion_of(const State *s, const Layer *layer, int head)
{
    return (const uint16_t *)(s->weights + layer->kv_b) + (size_t)head * EXPANDED * KV_LATENT;
}

// v += factor * row
ALWAYS void add_row(float *v, float factor, const uint16_t *row)
{
    int c = 0;
    for (; c + FLOATS <= KV_LATENT; c += FLOATS)
        store(v + c, load(v + c) + factor * load_plain(KV_B_FORMAT, row + c));
    for (; c < KV_LATENT; c++) v[c] += factor * plain_to_float(KV_B_FORMAT, row[c]);
}

ALWAYS float dot_row(const float *v, const uint16_t *row)
{
    Floats sum = {0};
    float rest = 0;
    int c = 0;
    for (; c + FLOATS <= KV_LATENT; c += FLOATS)
        sum += load_plain(KV_B_FORMAT, row + c) * load(v + c);
    for (; c < KV_LATENT; c++) rest += plain_to_float(KV_B_FORMAT, row[c]) * v[c];
    return sum_lanes(sum) + rest;
}

// The norm of a row's latent, in place.
ALWAYS void norm_latent(float *v, int width, const float *norm)
{
    float square = sum_squares(v, width, 0) / (float)width;
    float factor = 1.0f / __builtin_sqrtf(square + LATENT_EPS);
    for (int i = 0; i < width; i++) v[i] *= factor * norm[i];
}

// State.y: q_a (rows, Q_LATENT), kv_a (rows, LATENT_ROW), q_b (rows, HEADS, QUERY_DIM).
ALWAYS float *latent_rows(const State *s, const Batch *b)
{
    return s->y + (size_t)b->rows * Q_LATENT;
}

ALWAYS float *query_rows(const State *s, const Batch *b)
{
    return latent_rows(s, b) + (size_t)b->rows * LATENT_ROW;
}

// From kv_a and q_b to queries, and to keys and values in the cache.
ALWAYS void finish_latents(Worker *w, State *s, const Batch *b, const Layer *layer)
{
    const float *q_b = query_rows(s, b);
    float *kv = latent_rows(s, b);
    Range units = share(b->rows * HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const int row = i / HEADS, head = i % HEADS;
        const float *from = q_b + (size_t)i * QUERY_DIM;
        const uint16_t *k = expansion_of(s, layer, head);
        float *to = s->q + (size_t)i * HEAD_DIM;
        memset(to, 0, KV_LATENT * sizeof *to);
        for (int n = 0; n < NOPE_DIM; n++) add_row(to, from[n], k + (size_t)n * KV_LATENT);
        memcpy(to + KV_LATENT, from + NOPE_DIM, ROPE_DIM * sizeof *to);
        rotate_head(to + KV_LATENT, s->rope + (size_t)row * ROPES * ROPE_DIM);
        turn_query(s, to);
    }
    const float *norm = floats_at(s, layer->kv_a_norm);
    Range rows = share(b->rows, w->index, w->count);
    for (int r = rows.first; r < rows.end; r++) {
        float *v = kv + (size_t)r * LATENT_ROW;
        norm_latent(v, KV_LATENT, norm);
        rotate_head(v + KV_LATENT, s->rope + (size_t)r * ROPES * ROPE_DIM);
        for (int which = 0; which < 2; which++) cache_store(s, b, layer, which, r, 0, v);
    }
    worker_barrier(w);
}

ALWAYS void latent(Worker *w, State *s, const Batch *b, int format_qa, int format_kv, int format_qb,
                   const Layer *layer)
{
    Input x = {s->x, DIM, NULL, floats_at(s, layer->attn_norm)}, q = {s->y, Q_LATENT, NULL, NULL};
    product(format_qa, w, s, b, &layer->q_a, x, s->y, Q_LATENT, false);
    product(format_kv, w, s, b, &layer->kv_a, x, latent_rows(s, b), LATENT_ROW, false);
    Range rows = share(b->rows, w->index, w->count);
    for (int r = rows.first; r < rows.end; r++)
        norm_latent(s->y + (size_t)r * Q_LATENT, Q_LATENT, floats_at(s, layer->q_a_norm));
    worker_barrier(w);
    product(format_qb, w, s, b, &layer->q_b, q, query_rows(s, b), HEADS * QUERY_DIM, false);
    finish_latents(w, s, b, layer);
}

// The same where queries come from x.
ALWAYS void latent_direct(Worker *w, State *s, const Batch *b, int format_q, int format_kv,
                          const Layer *layer)
{
    Input x = {s->x, DIM, NULL, floats_at(s, layer->attn_norm)};
    product(format_q, w, s, b, &layer->q_b, x, query_rows(s, b), HEADS * QUERY_DIM, false);
    product(format_kv, w, s, b, &layer->kv_a, x, latent_rows(s, b), LATENT_ROW, false);
    finish_latents(w, s, b, layer);
}

ALWAYS void latent_out(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    Range units = share(b->rows * HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const float *from = s->a + (size_t)i * HEAD_DIM;
        const uint16_t *v = expansion_of(s, layer, i % HEADS) + (size_t)NOPE_DIM * KV_LATENT;
        for (int j = 0; j < VALUE_DIM; j++)
            s->y[(size_t)i * VALUE_DIM + j] = dot_row(from, v + (size_t)j * KV_LATENT);
    }
    worker_barrier(w);
    Input in = {s->y, HEADS * VALUE_DIM, NULL, NULL};
    product(format, w, s, b, &layer->o, in, s->x, DIM, true);
}
#endif
