// up: h = silu(n Wgate) * (n Wup), n = RMSNorm(x).
#pragma once
#include "linear.h"

// h = silu(gate) * up for one row of a block.
ALWAYS void activate(const float *gate, const float *up, float *h, int width)
{
    int i = 0;
    for (; i + FLOATS <= width; i += FLOATS) {
        Floats g = load(gate + i);
        store(h + i, g / (1.0f + exponential(-g)) * load(up + i));
    }
    if (i < width) {
        Floats g = {0}, u = {0};
        memcpy(&g, gate + i, (size_t)(width - i) * sizeof *h);
        memcpy(&u, up + i, (size_t)(width - i) * sizeof *h);
        g = g / (1.0f + exponential(-g)) * u;
        memcpy(h + i, &g, (size_t)(width - i) * sizeof *h);
    }
}

ALWAYS void up(Worker *w, State *s, const Batch *b, int format_gate, int format_up,
               const Layer *layer)
{
    const int blocks = blocks_of(FFN_DIM);
    Input in = {s->x, DIM, NULL, (const float *)(s->weights + layer->ffn_norm)};

    if (b->rows <= FEW_ROWS) {
        const bool shared = few_shared(b->rows, DIM);
        float factor[FEW_ROWS];
        const bool split = few_split(w, blocks);
        char *act_gate = shared ? s->work : w->local;
        char *act_up = act_gate + few_bytes(format_gate, b->rows, DIM);
        Range units = share(split ? 4 * blocks : blocks, w->index, w->count);
        Range slices = {0, blocks_of(DIM)};
        if (shared) slices = share(slices.end, w->index, w->count);
        if (shared || units.first < units.end) {
            norm_factors(&in, 0, b->rows, factor);
            few_prepare(format_gate, s, &layer->gate, &in, factor, b->rows, slices, act_gate);
            few_prepare(format_up, s, &layer->up, &in, factor, b->rows, slices, act_up);
        }
        if (shared) worker_barrier(w);
        if (split) {
            const size_t stride = 2 * PADDED(FFN_DIM); // gate, up
            float *sums = few_sums(s);
            for (int i = units.first; i < units.end; i++)
                if (i < 2 * blocks)
                    few_half(format_gate, s, &layer->gate, DIM, i, act_gate, b->rows, sums, stride);
                else
                    few_half(format_up, s, &layer->up, DIM, i - 2 * blocks, act_up, b->rows,
                             sums + PADDED(FFN_DIM), stride);
            worker_barrier(w);
            units = share(b->rows * blocks, w->index, w->count);
            for (int i = units.first; i < units.end; i++) {
                int row = i / blocks, block = i % blocks, width = width_of(FFN_DIM, block);
                float *gate = sums + row * stride + block * BLOCK, *up = gate + PADDED(FFN_DIM);
                finish_block(FORMAT_IS_EXL3(format_gate), s, &layer->gate, block, 0, gate, gate,
                             false);
                finish_block(FORMAT_IS_EXL3(format_up), s, &layer->up, block, 0, up, up, false);
                activate(gate, up, s->h + (size_t)row * FFN_DIM + block * BLOCK, width);
            }
            worker_barrier(w);
            return;
        }
        for (int block = units.first; block < units.end; block++) {
            float y[2][FEW_ROWS][BLOCK];
            few_block(format_gate, s, &layer->gate, DIM, FFN_DIM, block, act_gate, b->rows, y[0][0],
                      BLOCK, false);
            few_block(format_up, s, &layer->up, DIM, FFN_DIM, block, act_up, b->rows, y[1][0],
                      BLOCK, false);
            for (int r = 0; r < b->rows; r++)
                activate(y[0][r], y[1][r], s->h + (size_t)r * FFN_DIM + block * BLOCK,
                         width_of(FFN_DIM, block));
        }
        worker_barrier(w);
        return;
    }

    Tiles *tiles = w->local;
    for (int row = 0; row < b->rows; row += MANY_ROWS) {
        const int rows = SMALLER(MANY_ROWS, b->rows - row);
        float factor[MANY_ROWS];
        float *act_gate = s->work, *act_up = act_gate + (size_t)rows * PADDED(DIM);
        Range mine = share(rows, w->index, w->count);
        in.x = s->x + (size_t)row * DIM;
        norm_factors(&in, mine.first, mine.end, factor);
        many_prepare(format_gate, s, &layer->gate, &in, factor, rows, mine, act_gate);
        many_prepare(format_up, s, &layer->up, &in, factor, rows, mine, act_up);
        worker_barrier(w);
        const int parts = row_tiles(rows, blocks, w);
        Range units = share(blocks * parts, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            int block = i / parts;
            Range tile = share(rows, i % parts, parts);
            float *gate = tiles->tile[0], *up = tiles->tile[1];
            // Each is finished in place.
            many_block(format_gate, s, &layer->gate, DIM, FFN_DIM, block, act_gate, rows, tile,
                       tiles, gate, gate, BLOCK, false);
            many_block(format_up, s, &layer->up, DIM, FFN_DIM, block, act_up, rows, tile, tiles, up,
                       up, BLOCK, false);
            for (int r = tile.first; r < tile.end; r++)
                activate(gate + (r - tile.first) * BLOCK, up + (r - tile.first) * BLOCK,
                         s->h + (size_t)(row + r) * FFN_DIM + block * BLOCK,
                         width_of(FFN_DIM, block));
        }
        worker_barrier(w);
    }
}
