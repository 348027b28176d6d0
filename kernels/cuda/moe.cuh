// A routed layer in the prefill form. Scores, experts and places of all rows first; the shared
// expert as a dense layer whose product is left in y; then waves of places, each prepared,
// multiplied by the tiles of the dense layers, one expert a tile, and added to y: a row's experts
// in their order, so that waves and tiles do not matter.
#pragma once
#include "kernels/cuda/out.cuh"
#include "kernels/cuda/route.cuh"
#include "kernels/cuda/up.cuh"

#if EXPERTS

// --- routing -------------------------------------------------------------------------------------

// Grid: (tiles of rows, units x tiles of scores).
DEVICE void score_prefill(const State &s, const Batch &b, const Layer *layer)
{
    score_tile<SCORES>(s, b, layer->ffn_norm, score_count(layer),
                       [&](int number) { return router_row(s, layer, number); });
}

// Grid: rows by 8.
DEVICE void choose_prefill(const State &s, const Batch &b, const Layer *layer)
{
    int row = blockIdx.x * (PREFILL_THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const float *bias = weights_at<float>(s, layer->router_bias);
    const float *parts = score_parts(s) + (uint64_t)row * SCORES;
    uint64_t stride = (uint64_t)b.rows * SCORES;
    float score[OWN_EXPERTS], shared = 0;
    grid_release();
    grid_wait();
    if (row >= b.rows) return;
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++) {
        score[j] = 0;
        for (int unit = 0; unit < UNITS(DIM) && is_expert(j); unit++)
            score[j] += parts[unit * stride + lane + j * WARP];
        if (layer->router_bias && is_expert(j)) score[j] += bias[lane + j * WARP];
    }
    for (int unit = 0; unit < UNITS(DIM) && layer->shared_weight; unit++)
        shared += parts[unit * stride + EXPERTS];
    choose_experts(layer->choice_bias ? weights_at<float>(s, layer->choice_bias) : nullptr, score,
                   work_at<uint16_t>(s, work_of(s).experts) + (uint64_t)row * ACTIVE_EXPERTS,
                   work_at<float>(s, work_of(s).weights) + (uint64_t)row * ACTIVE_EXPERTS);
    if (lane == 0)
        work_at<float>(s, work_of(s).shared)[row] = shared_weight(layer->shared_weight, shared);
}

// The places of one expert, which is the block. Grid: experts.
DEVICE void group_prefill(const State &s, const Batch &b)
{
    __shared__ int32_t counts[EXPERTS], before[PREFILL_THREADS / WARP + 1], first_place;
    const uint16_t *experts = work_at<uint16_t>(s, work_of(s).experts);
    int32_t *place = work_at<int32_t>(s, work_of(s).place);
    int32_t *route = work_at<int32_t>(s, work_of(s).route);
    int expert = blockIdx.x, lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    int routes = b.rows * ACTIVE_EXPERTS, warps = PREFILL_THREADS / WARP;
    int own = (routes + PREFILL_THREADS - 1) / PREFILL_THREADS * WARP; // of a warp
    int from = warp * own, to = from + own < routes ? from + own : routes;
    grid_release();
    grid_wait();
    for (int i = threadIdx.x; i < EXPERTS; i += PREFILL_THREADS) counts[i] = 0;
    block_sync();
    for (int i = threadIdx.x; i < routes; i += PREFILL_THREADS) shared_add(counts + experts[i], 1);
    int found = 0;
    for (int at = from; at < to; at += WARP)
        found += count_bits(warp_ballot(at + lane < to && experts[at + lane] == expert));
    if (lane == 0) before[warp + 1] = found;
    block_sync();
    if (warp == 0) {
        int sum = 0;
        for (int i = lane; i < expert; i += WARP) sum += ROWS_UP(counts[i]);
        sum = warp_add(sum);
        if (lane == 0) {
            first_place = sum;
            before[0] = 0;
            for (int i = 0; i < warps; i++) before[i + 1] += before[i];
        }
    }
    block_sync();
    int next = first_place + before[warp], end = first_place + counts[expert];
    for (int at = from; at < to; at += WARP) {
        bool is_own = at + lane < to && experts[at + lane] == expert;
        uint32_t all = warp_ballot(is_own);
        int own_place = next + count_bits(all & ((1u << lane) - 1));
        if (is_own) place[at + lane] = own_place, route[own_place] = at + lane;
        next += count_bits(all);
    }
    // None on the places after them, up to the next expert's, or to the last of a wave.
    int none_end = expert == EXPERTS - 1 ? (int)work_most_places(b.rows) : ROWS_UP(end);
    for (int i = end + threadIdx.x; i < none_end; i += PREFILL_THREADS) route[i] = -1;
    if (threadIdx.x == 0) work_at<Places>(s, work_of(s).first)[expert] = {first_place, end};
}

// --- waves ---------------------------------------------------------------------------------------

DEVICE int wave_places(const State &s)
{
    return (int)work_wave(s.max_rows);
}

// What of an expert's places belongs to a wave, counted from the wave's first.
DEVICE Places places_in_wave(const State &s, int expert, int wave)
{
    Places p = work_at<const Places>(s, work_of(s).first)[expert];
    int first = wave * wave_places(s);
    p.first = clip(p.first - first, wave_places(s));
    p.end = clip(p.end - first, wave_places(s));
    return p;
}

// Where each expert's tiles begin when those of a wave are counted: (EXPERTS + 1). By the first
// warp of a block; the block meets after it.
DEVICE void count_tiles(const State &s, int wave, int tile_rows, int32_t *tiles)
{
    int lane = threadIdx.x, sum = 0;
    for (int at = 0; at < EXPERTS; at += WARP) {
        int count = 0;
        if (at + lane < EXPERTS) {
            Places p = places_in_wave(s, at + lane, wave);
            count = (p.end - p.first + tile_rows - 1) / tile_rows;
        }
        int upto = count; // and of the lanes before
        for (int step = 1; step < WARP; step *= 2) {
            int other = (int)shuffle((uint32_t)upto, lane - step);
            if (lane >= step) upto += other;
        }
        if (at + lane < EXPERTS) tiles[at + lane] = sum + upto - count;
        sum += (int)shuffle((uint32_t)upto, WARP - 1);
    }
    if (lane == 0) tiles[EXPERTS] = sum;
}

// The expert of a tile below tiles[EXPERTS].
DEVICE int expert_of_tile(const int32_t *tiles, int tile)
{
    int low = 0, high = EXPERTS; // tiles[low] <= tile < tiles[high]
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (tiles[middle] <= tile)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// The routes of a wave.
DEVICE const int32_t *wave_routes(const State &s, int wave)
{
    return work_at<const int32_t>(s, work_of(s).route) + (uint64_t)wave * wave_places(s);
}

// Expert and row of this block's place of a wave; false where there is none. By all threads.
DEVICE bool place_here(const State &s, int wave, int *expert, int *route)
{
    uint64_t place = (uint64_t)wave * wave_places(s) + blockIdx.x;
    *route = work_at<const int32_t>(s, work_of(s).route)[place];
    if (*route < 0) return false;
    *expert = work_at<const uint16_t>(s, work_of(s).experts)[*route];
    return true;
}

// Grid: places of a wave.
template <int GATE, int UP>
DEVICE void experts_up_prepare(const State &s, const Batch &, const Layer *layer, int wave)
{
    int expert, route;
    grid_release();
    grid_wait();
    if (!place_here(s, wave, &expert, &route)) return;
    Linear w[2] = {of_expert(layer->gate, layer->expert_stride, expert),
                   of_expert(layer->up, layer->expert_stride, expert)};
    prepare_row<DIM, 2, FORMAT_IS_EXL3(GATE) | FORMAT_IS_EXL3(UP) << 1>(
        s, w, normed_source(s, layer->ffn_norm, nullptr), route / ACTIVE_EXPERTS, blockIdx.x,
        wave_places(s));
}

// Grid: places of a wave.
template <int DOWN>
DEVICE void experts_down_prepare(const State &s, const Batch &, const Layer *layer, int wave)
{
    int expert, route;
    grid_release();
    grid_wait();
    if (!place_here(s, wave, &expert, &route)) return;
    Linear w = of_expert(layer->down, layer->expert_stride, expert);
    prepare_row<EXPERT_DIM, 1, FORMAT_IS_EXL3(DOWN)>(s, &w, plain_source(s.h), route, blockIdx.x,
                                                     wave_places(s));
}

#if WGMMA
// Tile `tile` of a wave's places, pair `pair` of column blocks of a width.
DEVICE Tile expert_tile(const State &s, int wave, const int32_t *tiles, int tile, int pair,
                        int width, int *expert)
{
    *expert = expert_of_tile(tiles, tile);
    Places p = places_in_wave(s, *expert, wave);
    Tile t = tile_at(tile - tiles[*expert], pair, BLOCKS(width), p.end - p.first, WIDE_ROWS);
    t.first += p.first;
    return t;
}

// The list of count_tiles behind the ring.
template <int BITS> DEVICE int32_t *ring_list(const Ring &ring)
{
    return (int32_t *)(ring.full + WIDE_BARRIER_BYTES / 8);
}

// Grid: clusters of two blocks, which take pairs of column blocks of one tile after the other.
template <int GATE, int UP>
DEVICE void experts_up_prefill(const State &s, const Batch &, const Layer *layer, int wave)
{
    constexpr int BITS = WORK_MOST(FORMAT_BITS(GATE), FORMAT_BITS(UP)), PAIRS = PAIRS(EXPERT_DIM);
    int places = wave_places(s), expert;
    Ring ring;
    ring_open<BITS>(&ring);
    int32_t *tiles = ring_list<BITS>(ring);
    grid_release();
    grid_wait();
    if (threadIdx.x < WARP) count_tiles(s, wave, WIDE_ROWS, tiles);
    block_sync();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < tiles[EXPERTS] * PAIRS; item = next_item(item)) {
            Tile t = expert_tile(s, wave, tiles, item / PAIRS, item % PAIRS, EXPERT_DIM, &expert);
            for (int which = 0; which < 2; which++) {
                Linear w = of_expert(which ? layer->up : layer->gate, layer->expert_stride, expert);
                ring_fill<BITS, DIM>(&ring, s, w.weights, FORMAT_BITS(which ? UP : GATE), t,
                                     prepared<DIM>(s, which, places), places);
            }
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < tiles[EXPERTS] * PAIRS; item = next_item(item)) {
            Tile t = expert_tile(s, wave, tiles, item / PAIRS, item % PAIRS, EXPERT_DIM, &expert);
#pragma unroll 1
            for (int which = 0; which < 2; which++) {
                ExpertLinear w = {which ? &layer->up : &layer->gate, layer, expert};
                up_tile<BITS, GATE, UP, EXPERT_DIM>(s, layer, w, which, &ring, t, places,
                                                    wave_routes(s, wave));
            }
        }
    }
    ring_close();
}

// The same.
template <int DOWN>
DEVICE void experts_down_prefill(const State &s, const Batch &, const Layer *layer, int wave)
{
    constexpr int BITS = FORMAT_BITS(DOWN), PAIRS = PAIRS(DIM);
    float *products = work_at<float>(s, work_of(s).products);
    int places = wave_places(s), expert;
    Ring ring;
    ring_open<BITS>(&ring);
    int32_t *tiles = ring_list<BITS>(ring);
    grid_release();
    grid_wait();
    if (threadIdx.x < WARP) count_tiles(s, wave, WIDE_ROWS, tiles);
    block_sync();
    if (fills_ring()) {
        begin_copying();
        for (int item = first_item(); item < tiles[EXPERTS] * PAIRS; item = next_item(item)) {
            Tile t = expert_tile(s, wave, tiles, item / PAIRS, item % PAIRS, DIM, &expert);
            Linear w = of_expert(layer->down, layer->expert_stride, expert);
            ring_fill<BITS, EXPERT_DIM>(&ring, s, w.weights, BITS, t,
                                        prepared<EXPERT_DIM>(s, 0, places), places);
        }
    } else {
        begin_multiplying();
        for (int item = first_item(); item < tiles[EXPERTS] * PAIRS; item = next_item(item)) {
            Tile t = expert_tile(s, wave, tiles, item / PAIRS, item % PAIRS, DIM, &expert);
            ExpertLinear w = {&layer->down, layer, expert};
            out_tile<BITS, DOWN, EXPERT_DIM, true, DIM>(s, w, products, &ring, t, places);
        }
    }
    ring_close();
}
#else
// This block's tile of a wave's places: tile blockIdx.x. False where there is none.
DEVICE bool expert_tile(const State &s, int wave, int *expert, int *first, int *rows)
{
    __shared__ int32_t tiles[EXPERTS + 1];
    if (threadIdx.x < WARP) count_tiles(s, wave, TILE_ROWS, tiles);
    block_sync();
    int tile = blockIdx.x;
    if (tile >= tiles[EXPERTS]) return false;
    *expert = expert_of_tile(tiles, tile);
    Places p = places_in_wave(s, *expert, wave);
    *first = p.first + (tile - tiles[*expert]) * TILE_ROWS;
    *rows = p.end - *first < TILE_ROWS ? p.end - *first : TILE_ROWS;
    return true;
}

// Grid: (tiles of places, column blocks).
template <int GATE, int UP>
DEVICE void experts_up_prefill(const State &s, const Batch &, const Layer *layer, int wave)
{
    int expert, first, rows;
    grid_release();
    grid_wait();
    if (!expert_tile(s, wave, &expert, &first, &rows)) return;
    up_tile<GATE, UP, EXPERT_DIM>(s, layer, of_expert(layer->gate, layer->expert_stride, expert),
                                  of_expert(layer->up, layer->expert_stride, expert), blockIdx.y,
                                  first, rows, wave_places(s), wave_routes(s, wave));
}

template <int DOWN>
DEVICE void experts_down_prefill(const State &s, const Batch &, const Layer *layer, int wave)
{
    int expert, first, rows;
    grid_release();
    grid_wait();
    if (!expert_tile(s, wave, &expert, &first, &rows)) return;
    out_tile<DOWN, EXPERT_DIM, true, DIM>(s, of_expert(layer->down, layer->expert_stride, expert),
                                          work_at<float>(s, work_of(s).products), blockIdx.y, first,
                                          rows, wave_places(s));
}
#endif

// --- sums ----------------------------------------------------------------------------------------

// y += the products of a wave, by weight: from the shared expert's on, which y holds, or from zero;
// after the last wave x += y. Grid: rows.
DEVICE void combine_prefill(const State &s, const Batch &b, const Layer *layer, int wave)
{
    int row = blockIdx.x, lane = threadIdx.x % WARP, first = wave * wave_places(s);
    bool last = first + wave_places(s) >= (int)work_most_places(b.rows);
    bool has_shared = layer->shared_down.weights != 0;
    const float *products = work_at<const float>(s, work_of(s).products);
    const int32_t *place = work_at<const int32_t>(s, work_of(s).place) + row * ACTIVE_EXPERTS;
    const float *weight = work_at<const float>(s, work_of(s).weights) + row * ACTIVE_EXPERTS;
    float *x = s.x + (uint64_t)row * DIM, *y = s.y + (uint64_t)row * DIM;
    grid_release();
    grid_wait();
    for (int block = threadIdx.x / WARP; block < BLOCKS(DIM); block += PREFILL_THREADS / WARP) {
        int column = block * BLOCK + 4 * lane;
        float sum[4] = {0, 0, 0, 0}, v[4];
        if (wave > 0 || has_shared) load4<DIM>(y, column, sum);
        float shared = work_at<const float>(s, work_of(s).shared)[row];
        for (int j = 0; j < 4 && wave == 0; j++) sum[j] *= shared;
        for (int i = 0; i < ACTIVE_EXPERTS; i++) {
            int own = place[i] - first;
            if (own < 0 || own >= wave_places(s)) continue;
            load4<DIM>(products + (uint64_t)own * DIM, column, v);
            for (int j = 0; j < 4; j++) sum[j] += weight[i] * v[j];
        }
        if (last) {
            load4<DIM>(x, column, v);
            for (int j = 0; j < 4; j++) v[j] += RESIDUAL_SCALE * sum[j];
            store_x(s, s.x, row, block, v);
        } else {
            store4<DIM>(y, column, sum);
        }
    }
}
#endif
