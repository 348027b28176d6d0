// moe: a router scores all experts for each row; x += the outputs of the best ones, weighted.
// moe_shared: and the output of an expert that every row passes through.
//
// Rows are grouped by expert. Groups, or pieces of large ones, go through gate, up and down in
// waves of at most MANY_ROWS rows: pieces of few rows straight from packed weights, larger ones
// through panels, as in linear.h. What an expert gives is added to x in the order of the experts,
// by the worker that has the column block, so that a row's sum does not depend on other rows.
#pragma once
#include "up.h"
#include <math.h>

#if EXPERTS
typedef struct {
    int32_t expert;
    float weight;
} Route;

// In State.work. A place is row * ACTIVE_EXPERTS + which of the row's experts.
typedef struct {
    float *scores;  // (rows, EXPERTS)
    Route *routes;  // (rows, ACTIVE_EXPERTS), ascending by expert
    float *shared;  // (rows): weights of the shared expert
    int32_t *first; // (EXPERTS + 1): where each expert's rows start in the next two
    int32_t *row;   // (rows * ACTIVE_EXPERTS)
    int32_t *place; // (rows * ACTIVE_EXPERTS)
    char *act;      // prepared inputs
} Routing;

ALWAYS Routing routing_of(const State *s, int rows)
{
    Routing m;
    m.scores = s->work;
    m.routes = (Route *)(m.scores + (size_t)rows * EXPERTS);
    m.shared = (float *)(m.routes + (size_t)rows * ACTIVE_EXPERTS);
    m.first = (int32_t *)(m.shared + rows);
    m.row = m.first + EXPERTS + 1;
    m.place = m.row + (size_t)rows * ACTIVE_EXPERTS;
    m.act = (char *)s->work + (ROUTE_BYTES(rows) + 63) / 64 * 64;
    return m;
}

// Scores of the choice outside the best groups become -infinity. A group is worth its best score,
// or the sum of its two best.
ALWAYS void keep_top_groups(float *choice)
{
    enum { SIZE = EXPERTS / ROUTER_GROUPS };
    float worth[ROUTER_GROUPS];
    for (int g = 0; g < ROUTER_GROUPS; g++) {
        float best = -INFINITY, second = -INFINITY;
        for (int e = g * SIZE; e < (g + 1) * SIZE; e++)
            if (choice[e] > best)
                second = best, best = choice[e];
            else if (choice[e] > second)
                second = choice[e];
        worth[g] = ROUTER_GROUP_BEST > 1 ? best + second : best;
    }
    for (int g = 0; g < ROUTER_GROUPS; g++) {
        int better = 0;
        for (int i = 0; i < ROUTER_GROUPS; i++)
            better += worth[i] > worth[g] || (worth[i] == worth[g] && i < g);
        if (better >= ROUTER_TOP_GROUPS)
            for (int e = g * SIZE; e < (g + 1) * SIZE; e++) choice[e] = -INFINITY;
    }
}

// From a row's scores to its experts and their weights.
ONCE void choose_experts(const float *scores, const float *choice_bias, Route *routes)
{
    float value[EXPERTS], choice[EXPERTS], most = scores[0], total = 0;
    for (int e = 0; e < EXPERTS; e++) most = LARGER(scores[e], most);
    for (int e = 0; e < EXPERTS; e++) {
        value[e] = ROUTER_SIGMOID ? 1 / (1 + expf(-scores[e])) : expf(scores[e] - most);
        total += value[e];
    }
    for (int e = 0; e < EXPERTS; e++) {
        if (!ROUTER_SIGMOID) value[e] /= total;
        choice[e] = value[e] + (choice_bias ? choice_bias[e] : 0);
    }
    if (ROUTER_GROUPS > 1) keep_top_groups(choice);

    bool chosen[EXPERTS] = {false};
    float sum = 0;
    for (int i = 0; i < ACTIVE_EXPERTS; i++) {
        int best = -1;
        for (int e = 0; e < EXPERTS; e++)
            if (!chosen[e] && (best < 0 || choice[e] > choice[best])) best = e;
        chosen[best] = true;
        sum += value[best];
    }
    for (int e = 0; e < EXPERTS; e++)
        if (chosen[e])
            *routes++ =
                (Route){e, value[e] * ROUTER_SCALE / (ROUTER_NORMALIZE ? LARGER(sum, 1e-20f) : 1)};
}

// y = norm(x); the experts of every row, and the rows of every expert.
ALWAYS void route_rows(Worker *w, State *s, const Batch *b, const Layer *layer, const Routing *m)
{
    const float *norm = floats_at(s, layer->ffn_norm), *router = floats_at(s, layer->router);
    const float *bias = floats_at(s, layer->router_bias);
    const float *shared = floats_at(s, layer->shared_weight);
    Range rows = share(b->rows, w->index, w->count);
    for (int r = rows.first; r < rows.end; r++) {
        const float *x = s->x + (size_t)r * DIM;
        float *y = s->y + (size_t)r * DIM;
        Moments moments = moments_of(x, DIM, LAYER_NORM);
        for (int i = 0; i < DIM; i++) y[i] = (x[i] - moments.mean) * moments.factor * norm[i];
        m->shared[r] = shared ? 1 / (1 + expf(-dot(y, shared, DIM))) : 1;
    }
    worker_barrier(w);
    Range scores = share(b->rows * EXPERTS, w->index, w->count);
    for (int i = scores.first; i < scores.end; i++) {
        int e = i % EXPERTS;
        m->scores[i] = dot(s->y + (size_t)(i / EXPERTS) * DIM, router + (size_t)e * DIM, DIM) +
                       (bias ? bias[e] : 0);
    }
    worker_barrier(w);
    for (int r = rows.first; r < rows.end; r++)
        choose_experts(m->scores + (size_t)r * EXPERTS, floats_at(s, layer->choice_bias),
                       m->routes + (size_t)r * ACTIVE_EXPERTS);
    worker_barrier(w);
    if (w->index == 0) {
        const int places = b->rows * ACTIVE_EXPERTS;
        int next[EXPERTS];
        memset(m->first, 0, (EXPERTS + 1) * sizeof *m->first);
        for (int i = 0; i < places; i++) m->first[m->routes[i].expert + 1]++;
        for (int e = 0; e < EXPERTS; e++) m->first[e + 1] += next[e] = m->first[e];
        for (int i = 0; i < places; i++) {
            int at = next[m->routes[i].expert]++;
            m->row[at] = i / ACTIVE_EXPERTS, m->place[at] = i;
        }
    }
    worker_barrier(w);
}

// ---- products ----

// Rows of one expert; -1: the shared one, whose rows and places are those of the batch.
typedef struct {
    int expert, first, rows;
    size_t act; // where its prepared inputs are, in values
} Piece;

// The pieces that go together, and where to go on.
typedef struct {
    Piece piece[MANY_ROWS];
    int pieces;
    int expert, first; // of the next wave
} Wave;

ALWAYS int padded_rows(int rows)
{
    return rows <= FEW_ROWS ? rounded_rows(rows) : rows;
}

// The next pieces of the routed experts, or of `shared_rows` rows of the shared one.
ALWAYS bool next_wave(Wave *wave, const Routing *m, int shared_rows)
{
    int used = 0;
    wave->pieces = 0;
    while (wave->expert < (shared_rows ? 1 : EXPERTS)) {
        int end = shared_rows ? shared_rows : m->first[wave->expert + 1];
        int rows = SMALLER(end - wave->first, MANY_ROWS);
        if (rows > 0) {
            if (used + padded_rows(rows) > MANY_ROWS) break;
            wave->piece[wave->pieces++] =
                (Piece){shared_rows ? -1 : wave->expert, wave->first, rows, (size_t)used};
            used += padded_rows(rows);
            wave->first += rows;
        }
        if (wave->first == end) {
            wave->expert++;
            if (shared_rows) wave->first = 0;
        }
    }
    return wave->pieces > 0;
}

// A linear layer of an expert, from that of the first.
ALWAYS Linear of_expert(const Linear *first, const Layer *layer, int expert)
{
    Linear l = *first;
    uint64_t more = expert > 0 ? (uint64_t)expert * layer->expert_stride : 0;
    l.weights += more;
    if (l.suh) l.suh += more;
    if (l.svh) l.svh += more;
    if (l.bias) l.bias += more;
    return l;
}

// Part `part` of `parts` of the preparation of a piece's inputs.
ALWAYS void prepare_piece(int format, const State *s, const Linear *linear, const Input *in,
                          const Piece *p, int part, int parts, char *act)
{
    static const Moments none[MANY_ROWS];
    if (p->rows <= FEW_ROWS)
        few_prepare(format, s, linear, in, none, p->rows, (Range){part, part + 1}, act);
    else
        many_prepare(format, s, linear, in, none, p->rows, share(p->rows, part, parts),
                     (float *)act);
}

// Rows tile of one column block of a piece's product, into z (.., BLOCK).
ALWAYS void multiply_piece(int format, const State *s, const Linear *linear, int in, int out,
                           int block, const Piece *p, Range tile, const char *act, Tiles *tiles,
                           float *z)
{
    if (p->rows <= FEW_ROWS)
        few_block(format, s, linear, in, out, block, act, p->rows, z, BLOCK, false);
    else
        many_block(format, s, linear, in, out, block, (const float *)act, p->rows, tile, tiles, z,
                   z, BLOCK, false);
}

// Where a piece's inputs are: 16 bytes hold a prepared value of any format.
ALWAYS char *act_of(const Routing *m, const Piece *p, int width)
{
    return m->act + 16 * p->act * PADDED(width);
}

// Experts of one width: the routed ones, or the shared one.
ALWAYS void pass_experts(Worker *w, State *s, const Batch *b, int format_gate, int format_up,
                         int format_down, const Layer *layer, const Routing *m, bool shared)
{
    const int width = shared ? SHARED_DIM : EXPERT_DIM, blocks = blocks_of(width);
    const Linear *gate_first = shared ? &layer->shared_gate : &layer->gate;
    const Linear *up_first = shared ? &layer->shared_up : &layer->up;
    const Linear *down_first = shared ? &layer->shared_down : &layer->down;
    char *const act_up = m->act + 16 * (size_t)MANY_ROWS * PADDED(DIM);
    Tiles *tiles = w->local;
    Wave wave = {.pieces = 0};
    while (next_wave(&wave, m, shared ? b->rows : 0)) {
        Range units = share(wave.pieces * blocks_of(DIM), w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            const Piece *p = &wave.piece[i / blocks_of(DIM)];
            int part = i % blocks_of(DIM);
            Input in = {s->y, DIM, m->row + p->first, NULL};
            if (shared) in.x += (size_t)p->first * DIM, in.row = NULL;
            Linear gate = of_expert(gate_first, layer, p->expert);
            Linear up = of_expert(up_first, layer, p->expert);
            size_t at = 16 * p->act * PADDED(DIM);
            prepare_piece(format_gate, s, &gate, &in, p, part, blocks_of(DIM), m->act + at);
            prepare_piece(format_up, s, &up, &in, p, part, blocks_of(DIM), act_up + at);
        }
        worker_barrier(w);

        units = share(wave.pieces * blocks, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            const Piece *p = &wave.piece[i / blocks];
            int block = i % blocks;
            Linear gate = of_expert(gate_first, layer, p->expert);
            Linear up = of_expert(up_first, layer, p->expert);
            size_t at = 16 * p->act * PADDED(DIM);
            for (int first = 0; first < p->rows; first += TILE_ROWS) {
                Range tile = {first, SMALLER(first + TILE_ROWS, p->rows)};
                multiply_piece(format_gate, s, &gate, DIM, width, block, p, tile, m->act + at,
                               tiles, tiles->tile[0]);
                multiply_piece(format_up, s, &up, DIM, width, block, p, tile, act_up + at, tiles,
                               tiles->tile[1]);
                for (int r = first; r < tile.end; r++) {
                    size_t place = (size_t)(shared ? p->first + r : m->place[p->first + r]);
                    activate(layer, tiles->tile[0] + (r - first) * BLOCK,
                             tiles->tile[1] + (r - first) * BLOCK,
                             s->h + place * width + block * BLOCK, width_of(width, block));
                }
            }
        }
        worker_barrier(w);

        units = share(wave.pieces * blocks, w->index, w->count);
        for (int i = units.first; i < units.end; i++) {
            const Piece *p = &wave.piece[i / blocks];
            Input in = {s->h, width, m->place + p->first, NULL};
            if (shared) in.x += (size_t)p->first * width, in.row = NULL;
            Linear down = of_expert(down_first, layer, p->expert);
            prepare_piece(format_down, s, &down, &in, p, i % blocks, blocks, act_of(m, p, width));
        }
        worker_barrier(w);

        Range columns = share(blocks_of(DIM), w->index, w->count);
        for (int block = columns.first; block < columns.end; block++)
            for (int i = 0; i < wave.pieces; i++) {
                const Piece *p = &wave.piece[i];
                Linear down = of_expert(down_first, layer, p->expert);
                for (int first = 0; first < p->rows; first += TILE_ROWS) {
                    Range tile = {first, SMALLER(first + TILE_ROWS, p->rows)};
                    multiply_piece(format_down, s, &down, width, DIM, block, p, tile,
                                   act_of(m, p, width), tiles, tiles->tile[0]);
                    for (int r = first; r < tile.end; r++) {
                        int row = shared ? p->first + r : m->row[p->first + r];
                        float weight =
                            shared ? m->shared[row] : m->routes[m->place[p->first + r]].weight;
                        float *x = s->x + (size_t)row * DIM + block * BLOCK;
                        const float *y = tiles->tile[0] + (r - first) * BLOCK;
                        for (int j = 0; j < width_of(DIM, block); j++)
                            x[j] += RESIDUAL_SCALE * weight * y[j];
                    }
                }
            }
        worker_barrier(w);
    }
}

ALWAYS void moe(Worker *w, State *s, const Batch *b, int format_gate, int format_up,
                int format_down, const Layer *layer)
{
    Routing m = routing_of(s, b->rows);
    route_rows(w, s, b, layer, &m);
    pass_experts(w, s, b, format_gate, format_up, format_down, layer, &m, false);
}

ALWAYS void moe_shared(Worker *w, State *s, const Batch *b, int format_gate, int format_up,
                       int format_down, int shared_gate, int shared_up, int shared_down,
                       const Layer *layer)
{
    Routing m = routing_of(s, b->rows);
    route_rows(w, s, b, layer, &m);
    pass_experts(w, s, b, format_gate, format_up, format_down, layer, &m, false);
    pass_experts(w, s, b, shared_gate, shared_up, shared_down, layer, &m, true);
}
#endif
