// attend: a = softmax(SOFTMAX_SCALE q k) v over the cached keys of the row's sequence, up to its
// position, and no further back than the layer's window.
//
// Few rows of a sequence: one row and KV head at a time, its HEADS / KV_HEADS queries together.
// Many: up to QUERIES queries (rows x heads of one KV head) against blocks of KEYS keys,
// transposed, so that both products are those of linear.h and softmax runs along lanes of queries.
#pragma once
#include "qkv.h"

#define GROUP (HEADS / KV_HEADS) // query heads that share a KV head, the fewest of any layer
#define FAR (-1e30f)             // score of a key that is not seen

// The first position that a query at `position` sees.
ALWAYS int first_key(const Layer *layer, int position)
{
    return layer->window > 0 && position >= layer->window ? position - layer->window + 1 : 0;
}

// The KV head of a group of query heads.
ALWAYS int kv_head_of(const Layer *layer, int group)
{
    (void)layer;
    return group * LAYER_KV_HEADS(layer) / KV_HEADS;
}

// The score of a head that has no value; FAR where there is none.
ALWAYS float sink_of(const State *s, const Layer *layer, int head)
{
    return ATTN_SINKS ? ((const float *)(s->weights + layer->sinks))[head] : FAR;
}

#define HEAD_VECTORS ((HEAD_DIM + FLOATS - 1) / FLOATS)

// Working memory, in Worker.local: of few rows k and v where the cache is quantized, of many all.
typedef struct {
    float q[HEAD_DIM_PADDED][QUERIES]; // queries, scaled
    float a[HEAD_DIM_PADDED][QUERIES]; // weighted sums of values
    float k[KEYS][HEAD_DIM_PADDED];
    float v[KEYS][HEAD_DIM_PADDED];
    float score[KEYS][QUERIES];
    float most[QUERIES], total[QUERIES];
    int32_t low[QUERIES], high[QUERIES]; // positions that a query sees
} Attention;

// Channels i .. of row j of a block: where it is fp16, else from `expanded`.
ALWAYS Floats row_part(const uint16_t *halves, const float expanded[][HEAD_DIM_PADDED], int j,
                       int i)
{
    return halves ? load_halves_part(halves + j * HEAD_DIM + i, HEAD_DIM - i)
                  : load(expanded[j] + i);
}

// One row and group. Keys in blocks of KEYS, aligned, so that a block lies in one page.
ALWAYS void attend_one(const State *s, const Batch *b, const Layer *layer, int row, int group,
                       bool quantized, Attention *t)
{
    const int kv_head = kv_head_of(layer, group), position = b->position[row];
    const float *from = s->q + (size_t)row * Q_WIDTH + group * GROUP * HEAD_DIM;
    Floats q[GROUP][HEAD_VECTORS], sum[GROUP][HEAD_VECTORS];
    float most[GROUP], total[GROUP];
    for (int g = 0; g < GROUP; g++) {
        for (int i = 0; i < HEAD_VECTORS; i++) {
            float part[FLOATS] = {0};
            int n = SMALLER(FLOATS, HEAD_DIM - i * FLOATS);
            memcpy(part, from + g * HEAD_DIM + i * FLOATS, (size_t)n * sizeof *part);
            q[g][i] = load(part) * SOFTMAX_SCALE;
            sum[g][i] = (Floats){0};
        }
        most[g] = sink_of(s, layer, group * GROUP + g), total[g] = ATTN_SINKS;
    }

    int key = first_key(layer, position);
    while (key <= position) {
        const int n = SMALLER(KEYS - key % KEYS, position + 1 - key);
        const uint16_t *k, *v;
        if (quantized) {
            k = cache_rows(s, b, layer, 0, b->sequence[row], kv_head, key, n, t->k);
            v = cache_rows(s, b, layer, 1, b->sequence[row], kv_head, key, n, t->v);
        } else {
            k = cache_halves(s, b, layer, 0, b->sequence[row], kv_head, key);
            v = cache_halves(s, b, layer, 1, b->sequence[row], kv_head, key);
        }
        float score[GROUP][KEYS];
        for (int j = 0; j < n; j++) {
            Floats dot[GROUP];
            for (int g = 0; g < GROUP; g++) dot[g] = (Floats){0};
            UNROLL for (int i = 0; i < HEAD_VECTORS; i++)
            {
                Floats x = row_part(k, t->k, j, i * FLOATS);
                for (int g = 0; g < GROUP; g++) dot[g] += q[g][i] * x;
            }
            for (int g = 0; g < GROUP; g++) score[g][j] = sum_lanes(dot[g]);
        }
        for (int g = 0; g < GROUP; g++) {
            if (ATTN_SOFTCAP != 0)
                for (int j = 0; j < n; j += FLOATS)
                    store(score[g] + j, softcap(load(score[g] + j), ATTN_SOFTCAP));
            for (int j = n; j < KEYS; j++) score[g][j] = FAR;
            Floats top = splat(most[g]);
            for (int j = 0; j < KEYS; j += FLOATS) top = larger(load(score[g] + j), top);
            float now = largest_lane(top), shrink = exponential(splat(most[g] - now))[0];
            Floats added = {0};
            for (int j = 0; j < KEYS; j += FLOATS) {
                Floats e = exponential(load(score[g] + j) - now);
                store(score[g] + j, e);
                added += e;
            }
            // The keys beyond n count as e^-87 each: nothing.
            total[g] = total[g] * shrink + sum_lanes(added);
            most[g] = now;
            for (int i = 0; i < HEAD_VECTORS; i++) sum[g][i] *= shrink;
        }
        for (int j = 0; j < n; j++) UNROLL for (int i = 0; i < HEAD_VECTORS; i++)
            {
                Floats x = row_part(v, t->v, j, i * FLOATS);
                for (int g = 0; g < GROUP; g++) sum[g][i] += score[g][j] * x;
            }
        key += n;
    }

    float *to = s->a + (size_t)row * Q_WIDTH + group * GROUP * HEAD_DIM;
    for (int g = 0; g < GROUP; g++)
        for (int i = 0; i < HEAD_VECTORS; i++) {
            Floats result = sum[g][i] / total[g];
            int n = SMALLER(FLOATS, HEAD_DIM - i * FLOATS);
            memcpy(to + g * HEAD_DIM + i * FLOATS, &result, (size_t)n * sizeof *to);
        }
    for (int g = 0; quantized && g < GROUP; g++) turn_output(s, to + g * HEAD_DIM);
}

ONCE void attend_row(const State *s, const Batch *b, const Layer *layer, int row, int group,
                     Attention *t)
{
    if (KEY_BITS(s) < 16 || VALUE_BITS(s) < 16)
        attend_one(s, b, layer, row, group, true, t);
    else
        attend_one(s, b, layer, row, group, false, t);
}

// Rows row .. row+rows-1 of a segment, heads first_head .. first_head+heads-1 of one group.
ONCE void attend_rows(const State *s, const Batch *b, const Layer *layer, int row, int rows,
                      int group, int first_head, int heads, Attention *t)
{
    const int kv_head = kv_head_of(layer, group);
    const int sequence = b->sequence[row];
    const int first = b->position[row], last = b->position[row + rows - 1];
    for (int i = 0; i < QUERIES; i++) {
        int r = i / heads < rows ? i / heads : rows - 1, h = first_head + i % heads;
        const float *from = s->q + (size_t)(row + r) * Q_WIDTH + h * HEAD_DIM;
        for (int d = 0; d < HEAD_DIM; d++) t->q[d][i] = from[d] * SOFTMAX_SCALE;
        t->high[i] = b->position[row + r];
        t->low[i] = first_key(layer, t->high[i]);
        t->most[i] = sink_of(s, layer, h);
        t->total[i] = ATTN_SINKS;
    }
    memset(t->a, 0, sizeof t->a);

    for (int key = first_key(layer, first) / KEYS * KEYS; key <= last; key += KEYS) {
        // Only positions that some row sees are read; the cache holds nothing yet beyond `last`.
        const int begin = LARGER(first_key(layer, first) - key, 0);
        const int end = SMALLER(KEYS, last + 1 - key);
        const uint16_t *k =
            cache_rows(s, b, layer, 0, sequence, kv_head, key + begin, end - begin, t->k + begin);
        const uint16_t *v =
            cache_rows(s, b, layer, 1, sequence, kv_head, key + begin, end - begin, t->v + begin);
        memset(t->score, 0, sizeof t->score);
        for (int j = 0; j < KEYS; j++)
            if (j < begin || j >= end) {
                memset(t->k[j], 0, sizeof t->k[j]);
                memset(t->v[j], 0, sizeof t->v[j]);
            } else {
                for (int i = 0; k && i < HEAD_DIM; i += FLOATS)
                    store(t->k[j] + i, row_part(k, NULL, j - begin, i));
                for (int i = 0; v && i < HEAD_DIM; i += FLOATS)
                    store(t->v[j] + i, row_part(v, NULL, j - begin, i));
            }
        multiply_panel(KEYS, t->k[0], HEAD_DIM_PADDED, 1, HEAD_DIM, (const float(*)[64])t->q,
                       t->score[0], QUERIES);

        const bool all_seen = key + KEYS - 1 <= first && key >= first_key(layer, last);
        for (int i = 0; i < QUERIES; i += FLOATS) {
            Floats before = load(t->most + i), most = before, total = {0};
            const Ints low = *(const Ints *)(t->low + i), high = *(const Ints *)(t->high + i);
            for (int j = 0; j < KEYS; j++) {
                Floats x = load(t->score[j] + i);
                if (ATTN_SOFTCAP != 0) store(t->score[j] + i, x = softcap(x, ATTN_SOFTCAP));
                if (!all_seen) {
                    Ints at = splat_int(key + j), hidden = (at < low) | (at > high);
                    x = (Floats)(((Ints)x & ~hidden) | ((Ints)splat(FAR) & hidden));
                    store(t->score[j] + i, x);
                }
                most = larger(x, most);
            }
            for (int j = 0; j < KEYS; j++) {
                Floats e = exponential(load(t->score[j] + i) - most);
                store(t->score[j] + i, e);
                total += e;
            }
            Floats shrink = exponential(before - most);
            store(t->total + i, load(t->total + i) * shrink + total);
            store(t->most + i, most);
            for (int d = 0; d < HEAD_DIM; d++) store(t->a[d] + i, load(t->a[d] + i) * shrink);
        }
        multiply_panel(HEAD_DIM, t->v[0], 1, HEAD_DIM_PADDED, KEYS, (const float(*)[64])t->score,
                       t->a[0], QUERIES);
    }

    for (int i = 0; i < rows * heads; i++) {
        float *to =
            s->a + (size_t)(row + i / heads) * Q_WIDTH + (first_head + i % heads) * HEAD_DIM;
        float factor = 1.0f / t->total[i];
        for (int d = 0; d < HEAD_DIM; d++) to[d] = t->a[d][i] * factor;
        turn_output(s, to);
    }
}

ALWAYS void attend(Worker *w, State *s, const Batch *b, const Layer *layer)
{
    enum { TOGETHER = SMALLER(GROUP, QUERIES), STEP = QUERIES / TOGETHER };
    int unit = 0; // counted over all segments; a worker does every count-th
    for (int i = 0; i < b->segments; i++) {
        const Segment *segment = &b->segment[i];
        if (segment->rows <= ROUND_ROWS) {
            for (int r = 0; r < segment->rows; r++)
                for (int group = 0; group < KV_HEADS; group++)
                    if (unit++ % w->count == w->index)
                        attend_row(s, b, layer, segment->row + r, group, w->local);
            continue;
        }
        for (int r = 0; r < segment->rows; r += STEP)
            for (int group = 0; group < KV_HEADS; group++)
                for (int h = 0; h < GROUP; h += TOGETHER)
                    if (unit++ % w->count == w->index)
                        attend_rows(s, b, layer, segment->row + r, SMALLER(STEP, segment->rows - r),
                                    group, group * GROUP + h, SMALLER(TOGETHER, GROUP - h),
                                    w->local);
    }
    worker_barrier(w);
}
