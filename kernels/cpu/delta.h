// delta: x -> RMSNorm -> q, k, v and z -> convolution over the last DELTA_TAPS tokens of each
// channel of q, k and v, and silu -> gated delta rule, what it reads to s->y. delta_grouped: the
// same from one product. delta_out: RMSNorm of each head of that, times silu(z); x += its product
// with Wo.
//
// A head of values has a matrix S (KEY_DIM, VALUE_DIM), zero before the first token. A token decays
// it, corrects what its key finds there towards its value, and reads at its query:
//     S = d S;  S += k (s (v - k S));  y = q S
// with d and s one number a head and token, and q and k of length one, q over sqrt(KEY_DIM). Rows
// of a sequence follow each other, heads and columns of S are independent: those are what workers
// share.
//
// One core of a busy Sapphire Rapids, AVX-512: 48 heads of 128 x 128 take 75 us a token, about a
// hundredth of a layer's products in a prompt, so that prompts need no form of their own.
#pragma once
#include "out.h"
#include <math.h>

#if DELTA_HEADS
#define SHARING (DELTA_HEADS / DELTA_KEY_HEADS) // heads of values to one of keys
#define GROUP_IN (2 * DELTA_KEY_DIM + 2 * SHARING * DELTA_VALUE_DIM)
#define PART_WIDTH LARGER(DELTA_KEY_DIM, DELTA_COLUMNS)
// Columns of S that are worked on together; divides DELTA_COLUMNS.
#define STATE_BLOCK (DELTA_COLUMNS % (4 * FLOATS) ? 16 : 4 * FLOATS)

// In State.y: what the parts of the step hand on.
typedef struct {
    float *n;     // (rows, DIM) normed x
    float *in;    // (rows, DELTA_IN) the projection; q, k and v then as the convolution leaves them
    float *z;     // (rows, DELTA_VALUES), unless grouped
    float *gates; // (rows, DELTA_HEADS, 2): s and d
    float *y;     // (rows, DELTA_VALUES)
} DeltaRows;

ALWAYS DeltaRows delta_rows(const State *s, int rows)
{
    DeltaRows d = {.n = s->y};
    d.in = d.n + (size_t)rows * DIM;
    d.z = d.in + (size_t)rows * DELTA_IN;
    d.gates = d.z + (DELTA_BY_KEYS ? 0 : (size_t)rows * DELTA_VALUES);
    d.y = d.gates + (size_t)rows * DELTA_HEADS * 2;
    return d;
}

enum { DELTA_Q, DELTA_K, DELTA_V, DELTA_Z };

// The first channel of a head in a row of DeltaRows.in, or of DeltaRows.z.
ALWAYS int delta_channel(int part, int head)
{
    if (!DELTA_BY_KEYS)
        return part == DELTA_Q   ? head * DELTA_KEY_DIM
               : part == DELTA_K ? DELTA_KEYS + head * DELTA_KEY_DIM
                                 : (part == DELTA_V ? 2 * DELTA_KEYS : 0) + head * DELTA_VALUE_DIM;
    if (part == DELTA_Q || part == DELTA_K)
        return head * GROUP_IN + (part == DELTA_K ? DELTA_KEY_DIM : 0);
    return head / SHARING * GROUP_IN + 2 * DELTA_KEY_DIM +
           (head % SHARING + (part == DELTA_Z ? SHARING : 0)) * DELTA_VALUE_DIM;
}

// A sequence's state of a layer: matrices (DELTA_HEADS, KEY_DIM, DELTA_COLUMNS), then what the
// convolution needs of the tokens before (DELTA_TAPS - 1, CONV_DIM).
ALWAYS float *state_of(const State *s, const Layer *layer, int sequence)
{
    return s->states + ((size_t)sequence * STATE_LAYERS + layer->kept) * LAYER_STATE;
}

ALWAYS void silu_in_place(float *v, int width)
{
    for (int i = 0; i < width; i += FLOATS) {
        Floats x = load(v + i);
        store(v + i, x / (1.0f + exponential(-x)));
    }
}

// s and d of every row and head.
ALWAYS void delta_gates(Worker *w, const State *s, const Batch *b, const Layer *layer,
                        const DeltaRows *d)
{
    const float *a_log = floats_at(s, layer->a_log), *dt_bias = floats_at(s, layer->dt_bias);
    Range units = share(b->rows * DELTA_HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const int head = i % DELTA_HEADS;
        const float *n = d->n + (size_t)(i / DELTA_HEADS) * DIM;
        size_t row_b = (size_t)head, row_a = (size_t)head;
        if (DELTA_BY_KEYS) {
            row_b = (size_t)(head / SHARING * 2 * SHARING + head % SHARING);
            row_a = row_b + SHARING;
        }
        float strength = dot(n, floats_at(s, layer->delta_b) + row_b * DIM, DIM);
        float x = dot(n, floats_at(s, layer->delta_a) + row_a * DIM, DIM) + dt_bias[head];
        float softplus = x > 20 ? x : log1pf(expf(x));
        d->gates[2 * i] = 1 / (1 + expf(-strength));
        d->gates[2 * i + 1] = expf(-expf(a_log[head]) * softplus);
    }
}

// One head of q, k or v of a segment, in place.
ONCE void convolve(const State *s, const Layer *layer, const Segment *segment, int part, int head,
                   const DeltaRows *d)
{
    const int width = part == DELTA_V ? DELTA_VALUE_DIM : DELTA_KEY_DIM;
    const int before_part = part == DELTA_Q ? 0 : part == DELTA_K ? DELTA_KEYS : 2 * DELTA_KEYS;
    const int channel = before_part + head * width; // of the convolution
    const float *taps = floats_at(s, layer->conv) + channel;
    float *kept = state_of(s, layer, segment->sequence) + DELTA_MATRICES + channel;
    float *in = d->in + (size_t)segment->row * DELTA_IN + delta_channel(part, head);

    float before[DELTA_TAPS - 1][PART_WIDTH]; // the tokens before the segment
    for (int t = 0; t < DELTA_TAPS - 1; t++)
        if (segment->position == 0)
            memset(before[t], 0, sizeof before[t]);
        else
            memcpy(before[t], kept + t * CONV_DIM, (size_t)width * sizeof *kept);
    for (int t = 0; t < DELTA_TAPS - 1; t++) {
        const int row = segment->rows - (DELTA_TAPS - 1) + t;
        memcpy(kept + t * CONV_DIM,
               row < 0 ? before[row + DELTA_TAPS - 1] : in + (size_t)row * DELTA_IN,
               (size_t)width * sizeof *kept);
    }
    // From the last row to the first, so that those that a row needs are still there.
    for (int r = segment->rows - 1; r >= 0; r--) {
        float v[PART_WIDTH + FLOATS] = {0};
        for (int t = 0; t < DELTA_TAPS; t++) {
            const int row = r - (DELTA_TAPS - 1) + t;
            const float *x = row < 0 ? before[row + DELTA_TAPS - 1] : in + (size_t)row * DELTA_IN;
            for (int i = 0; i < width; i++) v[i] += x[i] * taps[t * CONV_DIM + i];
        }
        silu_in_place(v, width);
        if (part != DELTA_V) {
            float length = 1 / sqrtf(dot(v, v, width) + 1e-6f);
            if (part == DELTA_Q) length /= sqrtf(DELTA_KEY_DIM);
            for (int i = 0; i < width; i++) v[i] *= length;
        }
        memcpy(in + (size_t)r * DELTA_IN, v, (size_t)width * sizeof *v);
    }
}

// STATE_BLOCK columns of one head's matrix through all rows of a segment.
ONCE void delta_columns(const State *s, const Layer *layer, const Segment *segment, int head,
                        int column, const DeltaRows *d)
{
    enum { WIDE = STATE_BLOCK / FLOATS };
    const size_t real = (size_t)SMALLER(STATE_BLOCK, DELTA_VALUE_DIM - column);
    float *matrix = state_of(s, layer, segment->sequence) +
                    (size_t)head * DELTA_KEY_DIM * DELTA_COLUMNS + column;
    if (segment->position == 0)
        for (int i = 0; i < DELTA_KEY_DIM; i++)
            memset(matrix + i * DELTA_COLUMNS, 0, STATE_BLOCK * sizeof *matrix);

    for (int r = segment->row; r < segment->row + segment->rows; r++) {
        const float *in = d->in + (size_t)r * DELTA_IN;
        const float *q = in + delta_channel(DELTA_Q, head / SHARING);
        const float *k = in + delta_channel(DELTA_K, head / SHARING);
        const float *gates = d->gates + ((size_t)r * DELTA_HEADS + head) * 2;
        const float strength = gates[0], decay = gates[1];
        float v[STATE_BLOCK] = {0};
        memcpy(v, in + delta_channel(DELTA_V, head) + column, real * sizeof *v);
        Floats found[2][WIDE], change[WIDE], sum[WIDE];
        UNROLL for (int j = 0; j < WIDE; j++) found[0][j] = found[1][j] = sum[j] = (Floats){0};
        for (int i = 0; i + 1 < DELTA_KEY_DIM; i += 2) UNROLL for (int j = 0; j < WIDE; j++)
            {
                const float *at = matrix + i * DELTA_COLUMNS + j * FLOATS;
                found[0][j] += k[i] * load(at);
                found[1][j] += k[i + 1] * load(at + DELTA_COLUMNS);
            }
        UNROLL for (int j = 0; j < WIDE; j++)
        {
            const int last = DELTA_KEY_DIM - 1;
            if (DELTA_KEY_DIM % 2)
                found[0][j] += k[last] * load(matrix + last * DELTA_COLUMNS + j * FLOATS);
            change[j] = strength * (load(v + j * FLOATS) - decay * (found[0][j] + found[1][j]));
        }
        for (int i = 0; i < DELTA_KEY_DIM; i++) UNROLL for (int j = 0; j < WIDE; j++)
            {
                float *at = matrix + i * DELTA_COLUMNS + j * FLOATS;
                Floats x = decay * load(at) + k[i] * change[j];
                store(at, x);
                sum[j] += q[i] * x;
            }
        UNROLL for (int j = 0; j < WIDE; j++) store(v + j * FLOATS, sum[j]);
        memcpy(d->y + (size_t)r * DELTA_VALUES + head * DELTA_VALUE_DIM + column, v,
               real * sizeof *v);
    }
}

// Normed x to d.n, for the products and the gates.
ALWAYS void delta_norm(Worker *w, const State *s, const Batch *b, const Layer *layer,
                       const DeltaRows *d)
{
    const float *norm = floats_at(s, layer->attn_norm);
    Range rows = share(b->rows, w->index, w->count);
    for (int r = rows.first; r < rows.end; r++) {
        const float *x = s->x + (size_t)r * DIM;
        Moments m = moments_of(x, DIM, LAYER_NORM);
        for (int i = 0; i < DIM; i++)
            d->n[(size_t)r * DIM + i] = (x[i] - m.mean) * m.factor * norm[i];
    }
    worker_barrier(w);
}

// format_z 0: z is part of the first product.
ALWAYS void delta_rule(Worker *w, State *s, const Batch *b, int format, int format_z,
                       const Layer *layer)
{
    enum { PARTS = 2 * DELTA_KEY_HEADS + DELTA_HEADS };
    enum { BLOCKS = DELTA_COLUMNS / STATE_BLOCK };
    const DeltaRows d = delta_rows(s, b->rows);
    delta_norm(w, s, b, layer, &d);
    delta_gates(w, s, b, layer, &d);
    Input n = {d.n, DIM, NULL, NULL};
    product(format, w, s, b, &layer->delta_in, n, d.in, DELTA_IN, false);
    if (format_z) product(format_z, w, s, b, &layer->delta_z, n, d.z, DELTA_VALUES, false);

    Range units = share(b->segments * PARTS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const Segment *segment = &b->segment[i / PARTS];
        const int head = i % PARTS;
        if (head < DELTA_KEY_HEADS)
            convolve(s, layer, segment, DELTA_Q, head, &d);
        else if (head < 2 * DELTA_KEY_HEADS)
            convolve(s, layer, segment, DELTA_K, head - DELTA_KEY_HEADS, &d);
        else
            convolve(s, layer, segment, DELTA_V, head - 2 * DELTA_KEY_HEADS, &d);
    }
    worker_barrier(w);

    units = share(b->segments * DELTA_HEADS * BLOCKS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const int block = i % BLOCKS, head = i / BLOCKS % DELTA_HEADS;
        delta_columns(s, layer, &b->segment[i / BLOCKS / DELTA_HEADS], head, block * STATE_BLOCK,
                      &d);
    }
    worker_barrier(w);
}

ALWAYS void delta(Worker *w, State *s, const Batch *b, int format, int format_z, const Layer *layer)
{
    delta_rule(w, s, b, format, format_z, layer);
}

ALWAYS void delta_grouped(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    delta_rule(w, s, b, format, 0, layer);
}

ALWAYS void delta_out(Worker *w, State *s, const Batch *b, int format, const Layer *layer)
{
    const DeltaRows d = delta_rows(s, b->rows);
    const float *norm = floats_at(s, layer->delta_norm);
    Range units = share(b->rows * DELTA_HEADS, w->index, w->count);
    for (int i = units.first; i < units.end; i++) {
        const size_t row = (size_t)(i / DELTA_HEADS);
        const float *z = (DELTA_BY_KEYS ? d.in + row * DELTA_IN : d.z + row * DELTA_VALUES) +
                         delta_channel(DELTA_Z, i % DELTA_HEADS);
        float *y = d.y + (size_t)i * DELTA_VALUE_DIM, open[DELTA_COLUMNS + FLOATS] = {0};
        memcpy(open, z, DELTA_VALUE_DIM * sizeof *open);
        silu_in_place(open, DELTA_VALUE_DIM);
        Moments m = moments_of(y, DELTA_VALUE_DIM, false);
        for (int j = 0; j < DELTA_VALUE_DIM; j++) y[j] *= m.factor * norm[j] * open[j];
    }
    worker_barrier(w);
    Input in = {d.y, DELTA_VALUES, NULL, NULL};
    product(format, w, s, b, &layer->o, in, s->x, DIM, true);
}
#endif
