// up: h = act(n Wgate) * (n Wup), n = norm(x). up_alone: h = act(n Wup).
#pragma once
#include "linear.h"

ALWAYS Floats activation(const Layer *layer, Floats x)
{
    if (ACTIVATION == GELU_TANH) { // 0.5 + 0.5 tanh(u) is the logistic function of 2 u
        Floats u = x * (1.0f + 0.044715f * x * x) * 0.7978845608f; // sqrt(2 / pi)
        return x / (1.0f + exponential(u * -2.0f));
    }
    if (ACTIVATION == RELU2) {
        Floats positive = larger(splat(0), x);
        return positive * positive;
    }
    if (ACTIVATION == XIELU) {
        Ints is_positive = x > 0;
        Floats power = exponential(-larger(-x, splat(1e-6f))) - 1.0f; // of min(x, -1e-6)
        Floats high = layer->act[0] * x * x, low = (power - x) * layer->act[1];
        return (Floats)(((Ints)high & is_positive) | ((Ints)low & ~is_positive)) + 0.5f * x;
    }
    if (ACTIVATION == CLAMPED_SILU) {
        x = -larger(-x, splat(-ACT_LIMIT));
        return x / (1.0f + exponential(x * -1.702f));
    }
    return x / (1.0f + exponential(-x));
}

// What gate is multiplied with.
ALWAYS Floats lifted(Floats up)
{
    if (ACTIVATION != CLAMPED_SILU) return up;
    return -larger(-larger(up, splat(-ACT_LIMIT)), splat(-ACT_LIMIT)) + 1.0f;
}

// h = activation(gate) * up, or activation(up) where gate is NULL, for one row of a block.
ALWAYS void activate(const Layer *layer, const float *gate, const float *up, float *h, int width)
{
    for (int i = 0; i < width; i += FLOATS) {
        Floats y = activation(layer, load((gate ? gate : up) + i));
        if (gate) y *= lifted(load(up + i));
        if (i + FLOATS <= width)
            store(h + i, y);
        else
            memcpy(h + i, &y, (size_t)(width - i) * sizeof *h);
    }
}

// format_gate 0: there is no gate.
ALWAYS void feed(Worker *w, State *s, const Batch *b, int format_gate, int format_up,
                 const Layer *layer)
{
    const bool gated = format_gate != 0;
    const int ffn_dim = LAYER_FFN_DIM(layer), blocks = blocks_of(ffn_dim);
    Input in = {s->x, DIM, NULL, floats_at(s, layer->ffn_norm)};

    if (b->rows <= FEW_ROWS) {
        const bool shared = few_shared(b->rows, DIM);
        Moments moments[FEW_ROWS];
        const bool split = few_split(w, blocks);
        char *act_gate = shared ? s->work : w->local;
        char *act_up = act_gate + (gated ? few_bytes(format_gate, b->rows, DIM) : 0);
        const int halves = gated ? 2 * blocks : 0; // of gate, which come first
        Range units = share(split ? halves + 2 * blocks : blocks, w->index, w->count);
        Range slices = {0, blocks_of(DIM)};
        if (shared) slices = share(slices.end, w->index, w->count);
        if (shared || units.first < units.end) {
            norm_rows(&in, 0, b->rows, moments);
            if (gated)
                few_prepare(format_gate, s, &layer->gate, &in, moments, b->rows, slices, act_gate);
            few_prepare(format_up, s, &layer->up, &in, moments, b->rows, slices, act_up);
        }
        if (shared) worker_barrier(w);
        if (split) {
            const size_t stride = 2 * PADDED(FFN_DIM); // gate, up
            float *sums = few_sums(s);
            for (int i = units.first; i < units.end; i++)
                if (i < halves)
                    few_half(format_gate, s, &layer->gate, DIM, i, act_gate, b->rows, sums, stride);
                else
                    few_half(format_up, s, &layer->up, DIM, i - halves, act_up, b->rows,
                             sums + PADDED(FFN_DIM), stride);
            worker_barrier(w);
            units = share(b->rows * blocks, w->index, w->count);
            for (int i = units.first; i < units.end; i++) {
                int row = i / blocks, block = i % blocks, width = width_of(ffn_dim, block);
                float *gate = sums + row * stride + block * BLOCK, *up = gate + PADDED(FFN_DIM);
                if (gated)
                    finish_block(FORMAT_IS_EXL3(format_gate), s, &layer->gate, block, 0, gate, gate,
                                 false);
                finish_block(FORMAT_IS_EXL3(format_up), s, &layer->up, block, 0, up, up, false);
                activate(layer, gated ? gate : NULL, up,
                         s->h + (size_t)row * ffn_dim + block * BLOCK, width);
            }
            worker_barrier(w);
            return;
        }
        for (int block = units.first; block < units.end; block++) {
            float y[2][FEW_ROWS][BLOCK];
            if (gated)
                few_block(format_gate, s, &layer->gate, DIM, ffn_dim, block, act_gate, b->rows,
                          y[0][0], BLOCK, false);
            few_block(format_up, s, &layer->up, DIM, ffn_dim, block, act_up, b->rows, y[1][0],
                      BLOCK, false);
            for (int r = 0; r < b->rows; r++)
                activate(layer, gated ? y[0][r] : NULL, y[1][r],
                         s->h + (size_t)r * ffn_dim + block * BLOCK, width_of(ffn_dim, block));
        }
        worker_barrier(w);
        return;
    }

    Tiles *tiles = w->local;
    for (int row = 0; row < b->rows; row += MANY_ROWS) {
        const int rows = SMALLER(MANY_ROWS, b->rows - row);
        Moments moments[MANY_ROWS];
        float *act_gate = s->work, *act_up = act_gate + (gated ? (size_t)rows * PADDED(DIM) : 0);
        Range mine = share(rows, w->index, w->count);
        in.x = s->x + (size_t)row * DIM;
        norm_rows(&in, mine.first, mine.end, moments);
        if (gated) many_prepare(format_gate, s, &layer->gate, &in, moments, rows, mine, act_gate);
        many_prepare(format_up, s, &layer->up, &in, moments, rows, mine, act_up);
        worker_barrier(w);
        const int parts = row_tiles(rows, blocks, w);
        Range units = share(blocks * parts, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            int block = i / parts;
            Range tile = share(rows, i % parts, parts);
            float *gate = tiles->tile[0], *up = tiles->tile[1];
            // Each is finished in place.
            if (gated)
                many_block(format_gate, s, &layer->gate, DIM, ffn_dim, block, act_gate, rows, tile,
                           tiles, gate, gate, BLOCK, false);
            many_block(format_up, s, &layer->up, DIM, ffn_dim, block, act_up, rows, tile, tiles, up,
                       up, BLOCK, false);
            for (int r = 0; r < tile.end - tile.first; r++)
                activate(layer, gated ? gate + r * BLOCK : NULL, up + r * BLOCK,
                         s->h + (size_t)(row + tile.first + r) * ffn_dim + block * BLOCK,
                         width_of(ffn_dim, block));
        }
        worker_barrier(w);
    }
}

ALWAYS void up(Worker *w, State *s, const Batch *b, int format_gate, int format_up,
               const Layer *layer)
{
    feed(w, s, b, format_gate, format_up, layer);
}

ALWAYS void up_alone(Worker *w, State *s, const Batch *b, int format_up, const Layer *layer)
{
    feed(w, s, b, 0, format_up, layer);
}
