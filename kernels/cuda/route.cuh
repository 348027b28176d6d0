// Experts of a row from its scores, and rows grouped by expert: what both forms of a routed layer
// share, and the list that every block of the decode form keeps of the rows at hand.
#pragma once
#include "kernels/cuda/scores.cuh"

#if EXPERTS
#define OWN_EXPERTS ((EXPERTS + WARP - 1) / WARP) // of a lane: lane, lane + 32, ...
static_assert(OWN_EXPERTS <= 32, "bits of what a lane has chosen");

// A linear layer of an expert, from that of the first and the bytes from one to the next.
DEVICE Linear of_expert(const Linear &first, uint64_t stride, int expert)
{
    Linear l = first;
    uint64_t more = expert * stride;
    l.weights += more;
    if (l.suh) l.suh += more;
    if (l.svh) l.svh += more;
    if (l.bias) l.bias += more;
    return l;
}

typedef struct {
    const Linear *first;
    const Layer *layer;
    int expert;
} ExpertLinear;

DEVICE Linear linear_of(const ExpertLinear &w)
{
    return of_expert(*w.first, w.layer->expert_stride, w.expert);
}

// Weights of score `number`: of an expert, or after those of the shared one.
DEVICE const float *router_row(const State &s, const Layer *layer, int number)
{
    return number < EXPERTS ? weights_at<float>(s, layer->router) + (uint64_t)number * DIM
                            : weights_at<float>(s, layer->shared_weight);
}

// How many scores a row has.
DEVICE int score_count(const Layer *layer)
{
    return EXPERTS + (layer->shared_weight != 0);
}

// --- choosing ------------------------------------------------------------------------------------
// By whole warps; value[j] and choice[j] belong to expert lane + 32 j.

#define MINUS_INFINITY bits_float(0xff800000u)

DEVICE int own_expert(int j)
{
    return j * WARP + (int)(threadIdx.x % WARP);
}

DEVICE bool is_expert(int j)
{
    return own_expert(j) < EXPERTS;
}

// Choices outside the best groups become -infinity. A group is worth its best one, or the sum of
// its two best.
DEVICE void keep_top_groups(float choice[OWN_EXPERTS])
{
    constexpr int SIZE = EXPERTS / ROUTER_GROUPS;
    int lane = threadIdx.x % WARP;
    float worth[ROUTER_GROUPS];
#pragma unroll
    for (int g = 0; g < ROUTER_GROUPS; g++) {
        float best = MINUS_INFINITY, second = MINUS_INFINITY;
#pragma unroll
        for (int j = 0; j < OWN_EXPERTS; j++) {
            if (!is_expert(j) || (lane + j * WARP) / SIZE != g) continue;
            if (choice[j] > best)
                second = best, best = choice[j];
            else if (choice[j] > second)
                second = choice[j];
        }
        for (int bit = 1; bit < WARP; bit *= 2) {
            float other = shuffle_xor(best, bit), next = shuffle_xor(second, bit);
            float low = other > best ? best : other;
            best = other > best ? other : best;
            second = next > second ? next : second;
            second = low > second ? low : second;
        }
        worth[g] = ROUTER_GROUP_BEST > 1 ? best + second : best;
    }
#pragma unroll
    for (int g = 0; g < ROUTER_GROUPS; g++) {
        int better = 0;
#pragma unroll
        for (int i = 0; i < ROUTER_GROUPS; i++)
            better += worth[i] > worth[g] || (worth[i] == worth[g] && i < g);
#pragma unroll
        for (int j = 0; j < OWN_EXPERTS; j++)
            if (better >= ROUTER_TOP_GROUPS && (lane + j * WARP) / SIZE == g)
                choice[j] = MINUS_INFINITY;
    }
}

// The larger a number, the larger its place; that of a NaN is 0.
DEVICE uint32_t choice_place(float choice)
{
    uint32_t bits = float_bits(choice + 0.0f); // no -0
    return choice != choice ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
}

// The first expert that is not chosen, if its choice is a NaN; else `best`.
DEVICE int unless_nan(const float choice[OWN_EXPERTS], uint32_t chosen, int best)
{
    bool found = false;
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++) {
        uint32_t left = warp_ballot(is_expert(j) && !(chosen >> j & 1));
        uint32_t nans = warp_ballot(choice[j] != choice[j]);
        if (found || !left) continue;
        uint32_t first = left & -left;
        if (nans & first) best = j * WARP + count_bits(first - 1);
        found = true;
    }
    return best;
}

// The best of the experts that are not chosen, by places: the first one of the largest.
DEVICE int best_expert(const uint32_t place[OWN_EXPERTS], uint32_t chosen)
{
    uint32_t most = 0;
    int best = EXPERTS;
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++)
        if (!(chosen >> j & 1) && place[j] > most) most = place[j], best = own_expert(j);
    uint32_t all = warp_max(most), having = warp_ballot(most == all && best < EXPERTS);
    if (having & (having - 1)) // several have it
        return (int)~warp_max(~(uint32_t)(most == all ? best : EXPERTS));
    return having ? (int)shuffle((uint32_t)best, count_bits(having - 1)) : EXPERTS;
}

// From a row's scores, in `value`, to its experts and their weights, ascending by expert. Among
// equal choices the first is taken, and a NaN only where it is the first one left. `bias` is added
// for the choice, where it is not null.
DEVICE void choose_experts(const float *bias, float value[OWN_EXPERTS], uint16_t *experts,
                           float *weights)
{
    int lane = threadIdx.x % WARP;
    float choice[OWN_EXPERTS], most = MINUS_INFINITY, total = 0, sum = 0;
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++)
        if (is_expert(j) && value[j] > most) most = value[j];
    for (int bit = 1; bit < WARP; bit *= 2) {
        float other = shuffle_xor(most, bit);
        most = other > most ? other : most;
    }
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++) {
        value[j] = ROUTER_SIGMOID ? 1 / (1 + expf(-value[j])) : expf(value[j] - most);
        if (is_expert(j)) total += value[j];
    }
    if (!ROUTER_SIGMOID) total = warp_sum(total);
    uint32_t chosen = 0, place[OWN_EXPERTS]; // bit j
    bool nan = false;
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++) {
        if (!ROUTER_SIGMOID) value[j] /= total;
        choice[j] = value[j];
        if (bias && is_expert(j)) choice[j] += bias[own_expert(j)];
        nan |= is_expert(j) && choice[j] != choice[j];
    }
    nan = warp_ballot(nan) != 0;
    if (ROUTER_GROUPS > 1) keep_top_groups(choice);
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++) place[j] = is_expert(j) ? choice_place(choice[j]) : 0;
#pragma unroll 1
    for (int i = 0; i < ACTIVE_EXPERTS; i++) {
        int best = best_expert(place, chosen);
        if (nan) best = unless_nan(choice, chosen, best);
#pragma unroll
        for (int j = 0; j < OWN_EXPERTS; j++)
            if (own_expert(j) == best) sum += value[j], chosen |= 1u << j;
    }
    sum = warp_sum(sum);
    float scale = ROUTER_NORMALIZE ? (sum > 1e-20f ? sum : 1e-20f) : 1;
    int before = 0;
#pragma unroll
    for (int j = 0; j < OWN_EXPERTS; j++) {
        uint32_t all = warp_ballot(chosen >> j & 1);
        int at = before + count_bits(all & ((1u << lane) - 1));
        if (chosen >> j & 1)
            experts[at] = own_expert(j), weights[at] = value[j] * ROUTER_SCALE / scale;
        before += count_bits(all);
    }
}

// The weight of the shared expert from its score.
DEVICE float shared_weight(bool weighted, float score)
{
    return weighted ? 1 / (1 + expf(-score)) : 1;
}

// --- rows by expert, in the decode form ----------------------------------------------------------

// In shared memory of every block. A route is row * ACTIVE_EXPERTS + which of the row's experts; a
// place is a route's number when they are sorted by expert, then by row.
typedef struct {
    int32_t experts; // that rows go to
    float shared[DECODE_ROWS];
    float weight[DECODE_ROWS * ACTIVE_EXPERTS];       // of each route
    uint16_t expert[DECODE_ROWS * ACTIVE_EXPERTS];    // of each route
    uint16_t place[DECODE_ROWS * ACTIVE_EXPERTS];     // of each route
    uint16_t route[DECODE_ROWS * ACTIVE_EXPERTS];     // of each place
    uint16_t first[DECODE_ROWS * ACTIVE_EXPERTS + 1]; // place of each expert that rows go to
} Routing;
static_assert(sizeof(Routing) <= ROUTING_BYTES, "room of Routing");

DEVICE Routing *routing(void)
{
    return (Routing *)(shared_memory() + DECODE_SHARED_BYTES - ROUTING_BYTES);
}

DEVICE int row_of_place(int place)
{
    return routing()->route[place] / ACTIVE_EXPERTS;
}

// The experts of all rows from the sums of their scores. By the multiplying warps; ends out of
// sync.
DEVICE void choose_rows(const Routed &layer)
{
    const State &s = decode_state();
    Routing *r = routing();
    const float *bias = weights_at<float>(s, layer.router_bias);
    const float *choice_bias =
        layer.choice_bias ? weights_at<float>(s, layer.choice_bias) : nullptr;
    int lane = threadIdx.x % WARP;
    for (int row = threadIdx.x / WARP; row < decode_batch().rows; row += MULTIPLIERS / WARP) {
        const uint64_t *sums = work_at<uint64_t>(s, work_of(s).sums_route) + row * SCORES;
        float score[OWN_EXPERTS], shared = 0;
        // All is asked for before anything is waited for.
#pragma unroll
        for (int j = 0; j < OWN_EXPERTS; j++)
            score[j] = is_expert(j) ? score_from_fixed(load_fresh64(sums + own_expert(j))) : 0;
        if (layer.shared_weight) shared = score_from_fixed(load_fresh64(sums + EXPERTS));
        float factor = norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane);
#pragma unroll
        for (int j = 0; j < OWN_EXPERTS; j++) {
            score[j] *= factor;
            if (layer.router_bias && is_expert(j)) score[j] += bias[own_expert(j)];
        }
        choose_experts(choice_bias, score, r->expert + row * ACTIVE_EXPERTS,
                       r->weight + row * ACTIVE_EXPERTS);
        if (lane == 0) r->shared[row] = shared_weight(layer.shared_weight, shared * factor);
    }
}

// What choose_rows found, to the working memory for later launches, and back.
DEVICE void keep_routes(void)
{
    const State &s = decode_state();
    const Routing *r = routing();
    int rows = decode_batch().rows;
    for (int i = threadIdx.x; i < rows * ACTIVE_EXPERTS; i += MULTIPLIERS) {
        work_at<uint16_t>(s, work_of(s).experts)[i] = r->expert[i];
        work_at<float>(s, work_of(s).weights)[i] = r->weight[i];
    }
    for (int i = threadIdx.x; i < rows; i += MULTIPLIERS)
        work_at<float>(s, work_of(s).shared)[i] = r->shared[i];
}

DEVICE void recall_routes(void)
{
    const State &s = decode_state();
    Routing *r = routing();
    int rows = decode_batch().rows;
    for (int i = threadIdx.x; i < rows * ACTIVE_EXPERTS; i += MULTIPLIERS) {
        r->expert[i] = work_at<uint16_t>(s, work_of(s).experts)[i];
        r->weight[i] = work_at<float>(s, work_of(s).weights)[i];
    }
    for (int i = threadIdx.x; i < rows; i += MULTIPLIERS)
        r->shared[i] = work_at<float>(s, work_of(s).shared)[i];
}

// Groups the routes by expert, and tells the copying warp. By the multiplying warps, in sync.
DEVICE void group_routes(void)
{
    Routing *r = routing();
    int routes = decode_batch().rows * ACTIVE_EXPERTS, lane = threadIdx.x % WARP;
    if (decode_batch().rows == 1) { // its experts are in order already
        for (int i = threadIdx.x; i <= routes; i += MULTIPLIERS) {
            r->first[i] = i;
            if (i < routes) r->place[i] = r->route[i] = i;
        }
        if (threadIdx.x == 0) r->experts = routes;
        multipliers_sync();
        if (threadIdx.x == 0) barrier_arrive(&decode_shared()->routed);
        return;
    }
    multipliers_sync();
    for (int i = threadIdx.x; i < routes; i += MULTIPLIERS) {
        int place = 0;
        for (int j = 0; j < routes; j++)
            place += r->expert[j] < r->expert[i] || (r->expert[j] == r->expert[i] && j < i);
        r->place[i] = place;
        r->route[place] = i;
    }
    multipliers_sync();
    if (threadIdx.x < WARP) {
        int experts = 0;
        for (int at = 0; at < routes; at += WARP) {
            int place = at + lane;
            bool begins = place < routes && (place == 0 || r->expert[r->route[place]] !=
                                                               r->expert[r->route[place - 1]]);
            uint32_t all = warp_ballot(begins);
            if (begins) r->first[experts + count_bits(all & ((1u << lane) - 1))] = place;
            experts += count_bits(all);
        }
        if (lane == 0) r->first[experts] = routes, r->experts = experts;
    }
    multipliers_sync();
    if (threadIdx.x == 0) barrier_arrive(&decode_shared()->routed);
}
#endif
