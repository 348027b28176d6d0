// Where layers lack attention or a feed-forward (SKIPS_PARTS), the decode form counts parts instead
// of layers: x lies in s.x before every other part and in `middle` before the rest, since a part
// reads it from the one and stores it, with what the part before left as sums, in the other. Two
// feed-forwards in a row have sums of their own, so that one's can be read and cleared while the
// other's are added to.
#pragma once
#include "kernels/cuda/decode.cuh"

#if SKIPS_PARTS

// The part before one, whose products are still to be added to x.
typedef struct {
    const Layer *layer; // null: none
    bool feeds;         // its feed-forward, else its attention
    int odd;            // of the part that follows: whether an odd number come before it
} Before;

DEVICE bool attends(const Layer *layer)
{
    return (KV_LATENT ? layer->q_b : layer->q).weights != 0;
}

DEVICE bool feeds(const Layer *layer)
{
    return layer->up.weights != 0;
}

// Before the first part of a layer.
DEVICE Before before_layer(const State &s, const Layer *layer)
{
    Before b = {layer->before < 0 ? nullptr : s.layers + layer->before, false, layer->parts % 2};
    if (b.layer) b.feeds = feeds(b.layer);
    return b;
}

// Before its feed-forward.
DEVICE Before before_feeding(const State &s, const Layer *layer)
{
    Before b = before_layer(s, layer);
    if (attends(layer)) b.layer = layer, b.feeds = false, b.odd ^= 1;
    return b;
}

// After layer l, which may be -1.
DEVICE Before after_layer(const State &s, int l)
{
    Before b = {nullptr, false, 0};
    if (l < 0) return b;
    const Layer *layer = s.layers + l;
    b = before_feeding(s, layer);
    if (feeds(layer)) b.layer = layer, b.feeds = true, b.odd ^= 1;
    return b;
}

DEVICE const Linear *pending_linear(const Before &b)
{
    return !b.layer ? nullptr : b.feeds ? &b.layer->down : &b.layer->o;
}

DEVICE float *x_before(const State &s, int odd)
{
    return odd ? work_at<float>(s, work_of(s).middle) : s.x;
}

// Sums of the gate and up, and of the down, of a feed-forward before which an odd number of parts
// come, or an even one.
DEVICE uint64_t up_sums_of(const Work &w, int odd)
{
    return w.sums_up + odd * ((w.sums_down - w.sums_up) / 2);
}

DEVICE uint64_t down_sums_of(const Work &w, int odd)
{
    return w.sums_down + odd * ((w.sums_head - w.sums_down) / 2);
}

DEVICE uint64_t pending_sums_of(const Work &w, const Before &b)
{
    return b.feeds ? down_sums_of(w, b.odd ^ 1) : w.sums_out;
}

// A step that reads x: from where, with what, and the gate and up of the part before to clear.
DEVICE void plan_stream(Plan *p, const Work &w, const Before &b, uint64_t rows)
{
    const State &s = decode_state();
    p->x = x_before(s, b.odd), p->new_x = x_before(s, b.odd ^ 1);
    p->pending_count = 0;
    if (b.layer) p->pending[p->pending_count++] = *pending_linear(b);
    p->pending_sums = pending_sums_of(w, b);
    p->old_sums = up_sums_of(w, b.odd ^ 1);
    p->old_count = b.layer && b.feeds ? rows * UP_SUMS : 0;
}

// The step after it: clears what it read.
DEVICE void plan_cleared(Plan *p, const Work &w, const Before &b, uint64_t rows)
{
    p->old_sums = pending_sums_of(w, b);
    p->old_count = b.layer ? rows * PADDED(DIM) : 0;
}

// What of a planned step differs from that of a model whose layers all have both parts.
DEVICE void plan_skips(Plan *p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    uint64_t rows = decode_batch().rows;
    Before b = p->step.kind == STEP_HEAD || p->step.kind == STEP_LOGITS ? after_layer(s, LAYERS - 1)
               : p->step.kind == STEP_QKV || p->step.kind == STEP_ATTEND
                   ? before_layer(s, p->layer)
                   : before_feeding(s, p->layer);
    switch (p->step.kind) {
    case STEP_UP:
    case STEP_UP_ALONE:
        p->sums = up_sums_of(w, b.odd); // and on
    case STEP_QKV:
        plan_stream(p, w, b, rows);
        break;
    case STEP_DOWN:
        p->sums = down_sums_of(w, b.odd), p->pending_sums = up_sums_of(w, b.odd); // and on
    case STEP_ATTEND:
        plan_cleared(p, w, b, rows);
        break;
    case STEP_HEAD:
        if (p->step.pending) plan_stream(p, w, b, rows);
        break;
    case STEP_LOGITS:
        if (p->step.pending) plan_cleared(p, w, b, rows);
        break;
    }
}

#endif
