// sample: the next token of every output row, one block of 1024 threads a row. Greedy rows take the
// best of the maxima that head left. Otherwise tokens have integer weights (kernels/sampling.h), so
// that every sum is exact in any order; top-k and top-p are thresholds on the logit, found by radix
// selection on its ordered bits, ties going to lower ids; min-p is a threshold on the weight. The
// draw walks the kept weights in the order of ids. A token that the row's mask forbids counts as
// one of logit minus infinity, whose weight is zero, and its best is looked for among the others.
#pragma once
#include "kernels/cuda/head.cuh"
#include "kernels/sampling.h"

#define SAMPLE_THREADS 1024
#define SAMPLE_WARPS (SAMPLE_THREADS / WARP)
#define SAMPLE_CHUNK                                                                               \
    ((VOCAB + SAMPLE_WARPS * WARP - 1) / (SAMPLE_WARPS * WARP) * WARP) // ids a warp

// Bits that order as the floats do.
DEVICE uint32_t ordered_bits(float v)
{
    uint32_t bits = float_bits(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float ordered_float(uint32_t bits)
{
    return bits_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits);
}

typedef struct {
    const float *logits;
    const uint32_t *mask; // or NULL
} Row;

DEVICE bool allowed(const Row &row, int id)
{
    return !row.mask || (row.mask[id / 32] >> (id % 32) & 1);
}

DEVICE float logit_of(const Row &row, int id)
{
    return allowed(row, id) ? row.logits[id] : bits_float(0xff800000u);
}

// What is kept: logits above `key`, and the first `ties` ids of those equal to it.
typedef struct {
    uint32_t key;
    uint64_t ties;
} Threshold;

typedef struct {
    float largest, inverse; // of the row; 1 / temperature
    uint64_t least;         // smallest weight that min-p keeps
} Weighting;

DEVICE uint64_t token_weight(const Weighting *w, float logit)
{
    uint64_t weight = sampling_weight(logit, w->largest, w->inverse);
    return weight < w->least ? 0 : weight;
}

typedef struct {
    uint64_t bin[256], sum[SAMPLE_WARPS];
    uint64_t before, equal;
    uint32_t digit;
} SampleRoom;

// Finds the threshold above and at which the amounts first reach `target`: counts of tokens, or
// with `weighted` their weights. Only tokens that `limit` keeps take part; when all together do not
// reach the target, `limit` is the answer.
DEVICE Threshold select_tokens(const Row &row, const Weighting *w, bool weighted, uint64_t target,
                               Threshold limit, SampleRoom *room)
{
    uint64_t above = 0; // amount of tokens above the prefix found so far
    uint32_t prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) room->bin[threadIdx.x] = 0;
        block_sync();
        for (int id = threadIdx.x; id < VOCAB; id += SAMPLE_THREADS) {
            float logit = logit_of(row, id);
            uint32_t key = ordered_bits(logit);
            if (key < limit.key) continue;
            if (shift < 24 && key >> (shift + 8) != prefix >> (shift + 8)) continue;
            uint64_t amount = weighted ? token_weight(w, logit) : 1;
            if (key == limit.key) continue; // counted below, by its ties
            if (amount) shared_add64(&room->bin[key >> shift & 255], amount);
        }
        block_sync();
        if (threadIdx.x == 0) {
            // The ties of the limit lie at one key.
            if (limit.ties && (shift == 24 || limit.key >> (shift + 8) == prefix >> (shift + 8)))
                room->bin[limit.key >> shift & 255] +=
                    limit.ties * (weighted ? token_weight(w, ordered_float(limit.key)) : 1);
            int digit = 255;
            uint64_t sum = above;
            while (digit > 0 && sum + room->bin[digit] < target) sum += room->bin[digit--];
            room->before = sum;
            room->equal = room->bin[digit];
            room->digit = digit;
        }
        block_sync();
        above = room->before;
        prefix |= room->digit << shift;
        block_sync();
    }
    Threshold found = {prefix, 0};
    uint64_t each = weighted ? token_weight(w, ordered_float(prefix)) : 1;
    if (above + room->equal < target || each == 0) return limit;
    found.ties = (target - above + each - 1) / each;
    return found;
}

// How many of this warp's ids have the threshold's key; the same in every lane.
DEVICE uint64_t count_equal(const Row &row, uint32_t key)
{
    int lane = threadIdx.x % WARP, first = threadIdx.x / WARP * SAMPLE_CHUNK;
    uint32_t count = 0;
    for (int id = first + lane; id < first + SAMPLE_CHUNK && id < VOCAB; id += WARP)
        count += ordered_bits(logit_of(row, id)) == key;
    return warp_add(count);
}

// Replaces sum[warp] by the sum of the warps before; returns the total. Same for all threads.
DEVICE uint64_t sum_before(uint64_t *sum, uint64_t own)
{
    int warp = threadIdx.x / WARP;
    block_sync();
    if (threadIdx.x % WARP == 0) sum[warp] = own;
    block_sync();
    uint64_t total = 0, before = 0;
    for (int i = 0; i < SAMPLE_WARPS; i++) {
        if (i == warp) before = total;
        total += sum[i];
    }
    block_sync();
    if (threadIdx.x % WARP == 0) sum[warp] = before;
    block_sync();
    return total;
}

DEVICE uint64_t warp_add64(uint64_t v)
{
    for (int bit = 16; bit; bit /= 2) {
        uint64_t low = shuffle_xor((uint32_t)v, bit), high = shuffle_xor((uint32_t)(v >> 32), bit);
        v += high << 32 | low;
    }
    return v;
}

// Draws among the kept tokens and stores the id.
DEVICE void draw_token(const Row &row, const Weighting *w, Threshold kept, uint32_t bits,
                       int32_t *token, SampleRoom *room)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, first = warp * SAMPLE_CHUNK;
    sum_before(room->sum, count_equal(row, kept.key));
    uint64_t equal_before = room->sum[warp], running = 0;
    // Twice over this warp's ids in order: their total, then the place of the draw.
    uint64_t total = 0, target = 0, mine = 0;
    for (int round = 0; round < 2; round++) {
        uint64_t equal = equal_before;
        for (int base = first; base < first + SAMPLE_CHUNK && base < VOCAB; base += WARP) {
            int id = base + lane;
            float logit = id < VOCAB ? logit_of(row, id) : 0;
            uint32_t key = id < VOCAB ? ordered_bits(logit) : 0;
            uint32_t ties = warp_ballot(id < VOCAB && key == kept.key);
            uint64_t rank = equal + count_bits(ties & ((1u << lane) - 1));
            equal += count_bits(ties);
            bool in = id < VOCAB && (key > kept.key || (key == kept.key && rank < kept.ties));
            uint64_t weight = in ? token_weight(w, logit) : 0;
            if (round == 0) {
                mine += weight;
            } else if (target >= running) {
                uint64_t sum = weight; // inclusive over the lanes before
                for (int step = 1; step < WARP; step *= 2) {
                    uint64_t low = shuffle((uint32_t)sum, lane - step & 31);
                    uint64_t high = shuffle((uint32_t)(sum >> 32), lane - step & 31);
                    if (lane >= step) sum += high << 32 | low;
                }
                sum += running;
                if (weight && target < sum && target >= sum - weight) *token = id;
                uint64_t low = shuffle((uint32_t)sum, 31),
                         high = shuffle((uint32_t)(sum >> 32), 31);
                running = high << 32 | low;
            }
        }
        if (round == 0) {
            total = sum_before(room->sum, warp_add64(mine));
            running = room->sum[warp];
            target = sampling_target(total, bits);
        }
    }
}

// The best of all threads.
DEVICE Best block_best(Best best, Best *bests)
{
    best = warp_best(best);
    block_sync();
    if (threadIdx.x % WARP == 0) bests[threadIdx.x / WARP] = best;
    block_sync();
    for (int i = 0; i < SAMPLE_WARPS; i++)
        if (better(bests[i].logit, bests[i].id, best)) best = bests[i];
    return best;
}

DEVICE Best best_allowed(const Row &row, Best *bests)
{
    Best best = NO_BEST;
    for (int id = threadIdx.x; id < VOCAB; id += SAMPLE_THREADS)
        if (allowed(row, id) && better(row.logits[id], id, best))
            best.logit = row.logits[id], best.id = id;
    best = block_best(best, bests);
    if (best.id == 0x7fffffff) best.id = SAMPLING_NOTHING;
    return best;
}

DEVICE void sample(const State &s, const Batch &, const Sampling *sampling, int32_t *tokens)
{
    __shared__ SampleRoom room;
    __shared__ Best bests[SAMPLE_WARPS];
    int output = blockIdx.x;
    grid_release();
    grid_wait();
    const Best *from = work_at<const Best>(s, work_of(s).best) + (uint64_t)output * BLOCKS(VOCAB);
    const Sampling how = sampling[output];
    const Row row = {s.logits + (uint64_t)output * VOCAB, how.mask};
    Best best = NO_BEST;
    for (int i = threadIdx.x; i < BLOCKS(VOCAB); i += SAMPLE_THREADS)
        if (better(from[i].logit, from[i].id, best)) best = from[i];
    best = block_best(best, bests);
    if (how.mask && best.id >= 0) best = best_allowed(row, bests); // -1: a logit is NaN
    if (threadIdx.x == 0) tokens[output] = best.id;
    bool finite = (float_bits(best.logit) & 0x7fffffffu) < 0x7f800000u;
    if (how.temperature < SAMPLING_COLD || how.top_k == 1 || !finite || best.id < 0) return;
    block_sync(); // the draw overwrites the token
    Weighting w = {best.logit, 1 / how.temperature, 0};
    Threshold kept = {0, VOCAB};
    if (how.top_k > 0 && how.top_k < VOCAB)
        kept = select_tokens(row, &w, false, how.top_k, kept, &room);
    if (how.top_p < 1) {
        // The mass of what top-k kept, then the share of it to reach, at least 1.
        uint64_t mine = 0, total, target;
        for (int id = threadIdx.x; id < VOCAB; id += SAMPLE_THREADS)
            if (ordered_bits(logit_of(row, id)) > kept.key)
                mine += token_weight(&w, logit_of(row, id));
        total = sum_before(room.sum, warp_add64(mine));
        if (kept.key) total += kept.ties * token_weight(&w, ordered_float(kept.key));
        target = sampling_share(total, how.top_p);
        kept = select_tokens(row, &w, true, target > 0 ? target : 1, kept, &room);
    }
    w.least = sampling_share(SAMPLING_ONE, how.min_p);
    draw_token(row, &w, kept, sampling_bits(how.seed, how.draw), &tokens[output], &room);
}
