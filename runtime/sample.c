// The sampler chain on the CPU. Candidates stay in the order of ids; a stage changes their logits,
// or sorts a copy to find out which of them stay.
#include "sample.h"
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define X(name) #name,
const char *const stage_names[STAGE_COUNT] = {SAMPLER_STAGES(X)};
#undef X
#define X(name) STAGE_##name,
const SamplerOptions sampler_defaults = {.temperature = 1,
                                         .top_p = 1,
                                         .dynatemp_exponent = 1,
                                         .tfs = 1,
                                         .typical = 1,
                                         .xtc_threshold = 0.1f,
                                         .repetition = 1,
                                         .penalty_range = -1,
                                         .dry_base = 1.75f,
                                         .dry_allowed_length = 2,
                                         .dry_range = -1,
                                         .mirostat_tau = 5,
                                         .mirostat_eta = 0.1f,
                                         .adaptive_target = 1,
                                         .adaptive_decay = 0.9f,
                                         .order = {SAMPLER_STAGES(X)},
                                         .order_count = STAGE_COUNT};
#undef X

typedef struct {
    float logit;
    int32_t id;
} Candidate;

struct SampleRoom {
    int vocab, max_context;
    Candidate *candidate;     // (vocab)
    uint64_t *weight;         // (vocab)
    uint64_t *sorted, *other; // (vocab): key << 32 | index
    uint8_t *keep;            // (vocab)
    float *strongest, *sum;   // (vocab): penalties; zero between draws
    int32_t *repeat;          // (vocab): DRY; zero between draws
    int32_t *match;           // (max_context + 1)
    // the chain at hand
    int count;
    float largest, inverse; // of the candidates; 1 / temperature so far
    uint64_t total;         // of the weights
};

int sampler_is_plain(const SamplerOptions *o)
{
    static const uint8_t plain[] = {STAGE_temperature, STAGE_top_k, STAGE_top_p, STAGE_min_p};
    int next = 0;
    for (int i = 0; i < o->order_count; i++)
        if (next < 4 && o->order[i] == plain[next]) next++;
    return next == 4 && o->dynatemp_max <= o->dynatemp_min && o->smoothing == 0 &&
           o->top_n_sigma == 0 && o->top_a == 0 && o->tfs == 1 && o->typical == 1 &&
           o->xtc_probability == 0 && o->repetition == 1 && o->frequency == 0 && o->presence == 0 &&
           o->dry_multiplier == 0 && o->mirostat == 0 && o->adaptive_target == 1 && o->skew == 0 &&
           !o->bias_count && !o->allowed && !o->first && !o->late_count;
}

int sampler_check(const SamplerOptions *o, Error *err)
{
    const struct {
        const char *name;
        double value, low, high;
    } ranges[] = {
        {"temperature", o->temperature, 0, 100},
        {"top_p", o->top_p, 0, 1},
        {"min_p", o->min_p, 0, 1},
        {"top_k", o->top_k, 0, INT32_MAX},
        {"min_temp", o->dynatemp_min, 0, 100},
        {"max_temp", o->dynatemp_max, 0, 100},
        {"temp_exponent", o->dynatemp_exponent, 0, 100},
        {"smoothing_factor", o->smoothing, 0, 100},
        {"top_n_sigma", o->top_n_sigma, 0, 1000},
        {"top_a", o->top_a, 0, 1},
        {"tfs", o->tfs, 0, 1},
        {"typical", o->typical, 0, 1},
        {"xtc_probability", o->xtc_probability, 0, 1},
        {"xtc_threshold", o->xtc_threshold, 0, 1},
        {"repetition_penalty", o->repetition, 0.01, 100},
        {"frequency_penalty", o->frequency, -100, 100},
        {"presence_penalty", o->presence, -100, 100},
        {"penalty_range", o->penalty_range, -1, INT32_MAX},
        {"repetition_decay", o->penalty_decay, 0, INT32_MAX},
        {"dry_multiplier", o->dry_multiplier, 0, 100},
        {"dry_base", o->dry_base, 1, 100},
        {"dry_allowed_length", o->dry_allowed_length, 1, 1 << 20},
        {"dry_range", o->dry_range, -1, INT32_MAX},
        {"mirostat_mode", o->mirostat, 0, 2},
        {"mirostat_tau", o->mirostat_tau, 0, 100},
        {"mirostat_eta", o->mirostat_eta, 0, 1},
        {"adaptive_target", o->adaptive_target, 0, 1},
        {"adaptive_decay", o->adaptive_decay, 0, 0.99},
        {"skew", o->skew, -10, 10},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (!(ranges[i].value >= ranges[i].low && ranges[i].value <= ranges[i].high))
            return error_set(err, "%s is %g, expected %g to %g", ranges[i].name, ranges[i].value,
                             ranges[i].low, ranges[i].high);
    int adaptive = o->adaptive_target<1, dynamic = o->dynatemp_max> o->dynatemp_min;
    if (o->mirostat && adaptive)
        return error_set(err, "mirostat_mode and adaptive_target exclude each other");
    if (o->skew != 0 && (o->mirostat || adaptive))
        return error_set(err, "skew excludes mirostat_mode and adaptive_target");
    if (o->temperature < SAMPLING_COLD && !dynamic && (o->mirostat || adaptive))
        return error_set(err, "temperature 0 excludes mirostat_mode and adaptive_target");
    for (int i = 0; i < o->order_count; i++)
        for (int j = 0; j < i; j++)
            if (o->order[i] == o->order[j])
                return error_set(err, "sampler_order names %s twice", stage_names[o->order[i]]);
    return 0;
}

void sampler_start(Sampler *s, const SamplerOptions *o)
{
    double decay = o->adaptive_decay;
    *s = (Sampler){.options = *o,
                   .mu = 2 * o->mirostat_tau,
                   .weighted = o->adaptive_target / (1 - decay),
                   .total = 1 / (1 - decay),
                   .banned_at = -1};
}

int sample_open(SampleRoom **out, int vocab, int max_context, Error *err)
{
    SampleRoom *r = calloc(1, sizeof *r);
    *out = r;
    if (!r) return error_set(err, "out of memory");
    size_t n = (size_t)vocab;
    r->vocab = vocab;
    r->max_context = max_context;
    r->candidate = malloc(n * sizeof *r->candidate);
    r->weight = malloc(n * sizeof *r->weight);
    r->sorted = malloc(n * sizeof *r->sorted);
    r->other = malloc(n * sizeof *r->other);
    r->keep = malloc(n);
    r->strongest = calloc(n, sizeof *r->strongest);
    r->sum = calloc(n, sizeof *r->sum);
    r->repeat = calloc(n, sizeof *r->repeat);
    r->match = malloc(((size_t)max_context + 1) * sizeof *r->match);
    if (!r->candidate || !r->weight || !r->sorted || !r->other || !r->keep || !r->strongest ||
        !r->sum || !r->repeat || !r->match)
        return error_set(err, "out of memory");
    return 0;
}

void sample_close(SampleRoom *r)
{
    if (!r) return;
    free(r->candidate);
    free(r->weight);
    free(r->sorted);
    free(r->other);
    free(r->keep);
    free(r->strongest);
    free(r->sum);
    free(r->repeat);
    free(r->match);
    free(r);
}

// --- candidates ----------------------------------------------------------------------------------

static void weigh(SampleRoom *r)
{
    r->largest = -INFINITY;
    for (int i = 0; i < r->count; i++)
        if (r->candidate[i].logit > r->largest) r->largest = r->candidate[i].logit;
    r->total = 0;
    for (int i = 0; i < r->count; i++) {
        r->weight[i] = sampling_weight(r->candidate[i].logit, r->largest, r->inverse);
        r->total += r->weight[i];
    }
}

static double probability(const SampleRoom *r, int i)
{
    return (double)r->weight[i] / (double)r->total;
}

// Natural logarithms.
static double entropy(const SampleRoom *r)
{
    double h = 0;
    for (int i = 0; i < r->count; i++)
        if (r->weight[i]) h -= probability(r, i) * log(probability(r, i));
    return h;
}

// Bits that order as the floats do.
static uint32_t ordered_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Sorts r->sorted by key; equal keys keep their order.
static void sort_keys(SampleRoom *r)
{
    for (int shift = 32; shift < 64; shift += 11) {
        int start[2048] = {0};
        for (int i = 0; i < r->count; i++) start[r->sorted[i] >> shift & 2047]++;
        for (int i = 0, sum = 0; i < 2048; i++) {
            int n = start[i];
            start[i] = sum;
            sum += n;
        }
        for (int i = 0; i < r->count; i++)
            r->other[start[r->sorted[i] >> shift & 2047]++] = r->sorted[i];
        uint64_t *swap = r->sorted;
        r->sorted = r->other;
        r->other = swap;
    }
}

// Best first, ties by id.
static void sort_candidates(SampleRoom *r)
{
    for (int i = 0; i < r->count; i++)
        r->sorted[i] = (uint64_t)(uint32_t)~ordered_bits(r->candidate[i].logit) << 32 | (uint32_t)i;
    sort_keys(r);
}

static int sorted_index(const SampleRoom *r, int rank)
{
    return (int)(uint32_t)r->sorted[rank];
}

// Drops the candidates that are not marked in r->keep.
static void compact(SampleRoom *r)
{
    int n = 0;
    for (int i = 0; i < r->count; i++)
        if (r->keep[i]) r->candidate[n++] = r->candidate[i];
    r->count = n;
}

static void keep_first(SampleRoom *r, int ranks)
{
    memset(r->keep, 0, (size_t)r->count);
    for (int i = 0; i < ranks; i++) r->keep[sorted_index(r, i)] = 1;
    compact(r);
}

// Ranks, from the best, whose mass first reaches `target`.
static int ranks_of_mass(const SampleRoom *r, uint64_t target)
{
    uint64_t mass = 0;
    int n = 0;
    while (n < r->count && (n == 0 || mass < target)) mass += r->weight[sorted_index(r, n++)];
    return n;
}

static int best_index(const SampleRoom *r)
{
    int best = 0;
    for (int i = 1; i < r->count; i++)
        if (r->candidate[i].logit > r->candidate[best].logit) best = i;
    return best;
}

// --- stages --------------------------------------------------------------------------------------

// How much an occurrence `distance` tokens before the end counts.
static float strength(const SamplerOptions *o, int distance)
{
    if (o->penalty_range < 0 || distance < o->penalty_range) return 1;
    int past = distance - o->penalty_range;
    return past >= o->penalty_decay ? 0 : 1 - (float)(past + 1) / (float)(o->penalty_decay + 1);
}

static void penalties(SampleRoom *r, const SamplerOptions *o, const int32_t *history, int count)
{
    if (o->repetition == 1 && o->frequency == 0 && o->presence == 0) return;
    int seen = 0;
    for (; seen < count; seen++) {
        float s = strength(o, seen);
        int32_t id = history[count - 1 - seen];
        if (s == 0) break;
        if (s > r->strongest[id]) r->strongest[id] = s;
        r->sum[id] += s;
    }
    for (int i = 0; i < r->count; i++) {
        Candidate *c = &r->candidate[i];
        float s = r->strongest[c->id];
        if (s == 0) continue;
        float full = c->logit > 0 ? c->logit / o->repetition : c->logit * o->repetition;
        c->logit += s * (full - c->logit);
        c->logit -= o->presence * s + o->frequency * r->sum[c->id];
    }
    while (seen-- > 0) {
        int32_t id = history[count - 1 - seen];
        r->strongest[id] = r->sum[id] = 0;
    }
}

// For every earlier occurrence of the longest suffix of the history, the token that followed it is
// penalised by multiplier * base ^ (length - allowed length). Lengths come from the Z-algorithm
// over the history read backwards.
static void dry(SampleRoom *r, const SamplerOptions *o, const int32_t *history, int count)
{
    if (o->dry_multiplier == 0) return;
    int n = o->dry_range < 0 || o->dry_range > count ? count : o->dry_range, limit = 0;
    const int32_t *last = history + count - 1; // last[-i] is the token i before the end
    while (limit < n && !(o->breakers && HAS_BIT(o->breakers, last[-limit]))) limit++;
    if (limit < o->dry_allowed_length) return;
    int *z = r->match;
    for (int i = 1, left = 0, right = 0; i < n; i++) {
        z[i] = i < right && z[i - left] < right - i ? z[i - left] : i < right ? right - i : 0;
        while (i + z[i] < n && last[-z[i]] == last[-(i + z[i])]) z[i]++;
        if (i + z[i] > right) left = i, right = i + z[i];
    }
    for (int i = 1; i < n; i++) {
        int length = z[i] < limit ? z[i] : limit;
        int32_t next = last[-(i - 1)];
        if (length >= o->dry_allowed_length && length > r->repeat[next]) r->repeat[next] = length;
    }
    for (int i = 0; i < r->count; i++) {
        Candidate *c = &r->candidate[i];
        if (!r->repeat[c->id] || (o->breakers && HAS_BIT(o->breakers, c->id))) continue;
        float penalty = o->dry_multiplier *
                        powf(o->dry_base, (float)(r->repeat[c->id] - o->dry_allowed_length));
        c->logit -= fminf(penalty, 1e30f);
    }
    for (int i = 0; i < n; i++) r->repeat[last[-i]] = 0;
}

static void temperature(SampleRoom *r, const SamplerOptions *o)
{
    float t = o->temperature;
    if (o->dynatemp_max > o->dynatemp_min) {
        weigh(r);
        double share = r->count > 1 ? entropy(r) / log(r->count) : 0;
        t = o->dynatemp_min +
            (o->dynatemp_max - o->dynatemp_min) * (float)pow(share, o->dynatemp_exponent);
    }
    r->inverse *= 1 / fmaxf(t, SAMPLING_COLD);
}

static void smoothing(SampleRoom *r, const SamplerOptions *o)
{
    if (o->smoothing == 0) return;
    weigh(r);
    for (int i = 0; i < r->count; i++) {
        float below = r->largest - r->candidate[i].logit;
        r->candidate[i].logit = r->largest - o->smoothing * below * below;
    }
}

static void top_n_sigma(SampleRoom *r, const SamplerOptions *o)
{
    if (o->top_n_sigma == 0) return;
    double sum = 0, squares = 0;
    int n = 0;
    weigh(r);
    for (int i = 0; i < r->count; i++) {
        double v = (double)r->candidate[i].logit - r->largest;
        if (isfinite(v)) sum += v, squares += v * v, n++;
    }
    double deviation = sqrt(fmax(squares / n - sum / n * (sum / n), 0));
    for (int i = 0; i < r->count; i++)
        r->keep[i] = r->candidate[i].logit >= r->largest - o->top_n_sigma * deviation;
    compact(r);
}

static void top_k(SampleRoom *r, const SamplerOptions *o)
{
    if (o->top_k == 0 || o->top_k >= r->count) return;
    sort_candidates(r);
    keep_first(r, o->top_k);
}

static void top_p(SampleRoom *r, const SamplerOptions *o)
{
    if (o->top_p >= 1) return;
    weigh(r);
    sort_candidates(r);
    keep_first(r, ranks_of_mass(r, sampling_share(r->total, o->top_p)));
}

static void min_p(SampleRoom *r, const SamplerOptions *o)
{
    if (o->min_p == 0) return;
    weigh(r);
    uint64_t least = sampling_share(SAMPLING_ONE, o->min_p);
    for (int i = 0; i < r->count; i++) r->keep[i] = r->weight[i] >= least;
    compact(r);
}

static void top_a(SampleRoom *r, const SamplerOptions *o)
{
    if (o->top_a == 0) return;
    weigh(r);
    double best = (double)SAMPLING_ONE / (double)r->total;
    for (int i = 0; i < r->count; i++)
        r->keep[i] = r->weight[i] == SAMPLING_ONE || probability(r, i) >= o->top_a * best * best;
    compact(r);
}

// Cuts where the curve of sorted probabilities has turned flat: where the share of the absolute
// second differences seen so far exceeds tfs.
static void tfs(SampleRoom *r, const SamplerOptions *o)
{
    if (o->tfs >= 1 || r->count < 3) return;
    weigh(r);
    sort_candidates(r);
    double all = 0, seen = 0;
    int kept = 0;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i + 2 < r->count; i++) {
            double a = (double)r->weight[sorted_index(r, i)],
                   b = (double)r->weight[sorted_index(r, i + 1)],
                   c = (double)r->weight[sorted_index(r, i + 2)];
            double bend = fabs(a - 2 * b + c);
            if (round == 0) {
                all += bend;
            } else {
                seen += bend;
                if (seen > o->tfs * all) break;
                kept = i + 1;
            }
        }
    if (all > 0) keep_first(r, kept > 0 ? kept : 1);
}

// Keeps the tokens whose information is nearest to the entropy, until their mass is reached.
static void typical(SampleRoom *r, const SamplerOptions *o)
{
    if (o->typical >= 1) return;
    weigh(r);
    double h = entropy(r);
    for (int i = 0; i < r->count; i++) {
        float away = r->weight[i] ? (float)fabs(-log(probability(r, i)) - h) : INFINITY;
        r->sorted[i] = (uint64_t)ordered_bits(away) << 32 | (uint32_t)i;
    }
    sort_keys(r);
    keep_first(r, ranks_of_mass(r, sampling_share(r->total, o->typical)));
}

// Takes the likely tokens' place away from all but the least likely of them: in a share of the
// draws (xtc_random), or by making their probabilities what they would be on average over those
// draws.
static void xtc(SampleRoom *r, const SamplerOptions *o, uint64_t draw)
{
    double q = o->xtc_probability;
    if (q == 0 || o->xtc_threshold > 0.5f) return;
    if (o->xtc_random && sampling_bits(o->seed ^ 0x585443, draw) * 0x1p-24 >= q) return;
    weigh(r);
    int least = -1, likely = 0;
    double mass = 0;
    for (int i = 0; i < r->count; i++) {
        r->keep[i] = 1;
        if (probability(r, i) < o->xtc_threshold) continue;
        if (o->protected && HAS_BIT(o->protected, r->candidate[i].id)) continue;
        if (least < 0 || r->weight[i] < r->weight[least]) least = i;
        r->keep[i] = 0;
        likely++;
        mass += probability(r, i);
    }
    if (likely < 2) return;
    r->keep[least] = 1;
    if (o->xtc_random) {
        compact(r);
        return;
    }
    mass -= probability(r, least);
    float change = (float)log((1 - q) / (1 + q * mass / (1 - mass))) / r->inverse;
    for (int i = 0; i < r->count; i++)
        if (!r->keep[i]) r->candidate[i].logit += change;
}

// --- the draw ------------------------------------------------------------------------------------

static int draw_index(SampleRoom *r, const SamplerOptions *o, uint64_t draw)
{
    weigh(r);
    uint32_t bits = sampling_bits(o->seed, draw);
    uint64_t target = sampling_target(r->total, bits), mass = 0;
    if (o->skew != 0) {
        sort_candidates(r);
        target = sampling_share(r->total, (float)pow(bits * 0x1p-24, exp(-o->skew)));
        for (int i = 0; i < r->count; i++) {
            mass += r->weight[sorted_index(r, i)];
            if (mass > target) return sorted_index(r, i);
        }
        return sorted_index(r, 0); // rounded up to the total
    }
    for (int i = 0; i < r->count; i++) {
        mass += r->weight[i];
        if (mass > target) return i;
    }
    return best_index(r);
}

// Version 1 estimates Zipf's exponent from the best 100 tokens and turns mu into a count of them;
// version 2 cuts at a probability of 2^-mu. Both correct mu by the surprise of what was drawn.
static int mirostat(SampleRoom *r, Sampler *s, uint64_t draw)
{
    const SamplerOptions *o = &s->options;
    weigh(r);
    sort_candidates(r);
    int kept = 1;
    if (o->mirostat == 1) {
        double over = 0, under = 0, n = r->count;
        for (int i = 0; i < 99 && i + 1 < r->count; i++) {
            double t = log((i + 2.0) / (i + 1.0));
            double p = probability(r, sorted_index(r, i)),
                   q = probability(r, sorted_index(r, i + 1));
            if (q == 0) break;
            over += t * log(p / q);
            under += t * t;
        }
        double zipf = under > 0 ? over / under : 1, epsilon = zipf - 1;
        double k = fabs(epsilon) < 1e-6 ? exp2(s->mu) / log(n)
                                        : epsilon * exp2(s->mu) / (1 - pow(n, -epsilon));
        k = pow(k, 1 / zipf);
        kept = k < 1 || isnan(k) ? 1 : k > n ? r->count : (int)lround(k);
    } else {
        while (kept < r->count && probability(r, sorted_index(r, kept)) >= exp2(-s->mu)) kept++;
    }
    keep_first(r, kept);
    int drawn = draw_index(r, o, draw);
    s->mu -= o->mirostat_eta * (-log2(probability(r, drawn)) - o->mirostat_tau);
    return drawn;
}

// Steers the average probability of what is drawn towards a target.
static int adaptive(SampleRoom *r, Sampler *s, uint64_t draw)
{
    const SamplerOptions *o = &s->options;
    weigh(r);
    double aim = fmin(fmax(2 * o->adaptive_target - s->weighted / s->total, 0), 1);
    uint64_t *share = r->other; // what the weights are before the scores replace them
    memcpy(share, r->weight, (size_t)r->count * sizeof *share);
    double total = (double)r->total;
    for (int i = 0; i < r->count; i++) {
        double p = (double)share[i] / total, x = fabs(p - aim) / 0.3;
        r->candidate[i].logit = p < 1e-8 ? -INFINITY : (float)(5 - 10 * x * x / (1 + x));
    }
    r->inverse = 1;
    int drawn = draw_index(r, o, draw);
    s->weighted = (double)share[drawn] / total + o->adaptive_decay * s->weighted;
    s->total = 1 + o->adaptive_decay * s->total;
    return drawn;
}

// Fills the candidates; -1 when a logit is NaN.
static int fill(SampleRoom *r, const float *logits)
{
    int bad = 0;
    for (int i = 0; i < r->vocab; i++) {
        bad |= isnan(logits[i]);
        r->candidate[i] = (Candidate){logits[i], i};
    }
    r->count = r->vocab;
    r->inverse = 1;
    return bad ? -1 : 0;
}

int32_t sample_token(SampleRoom *r, const float *logits, const int32_t *history, int count,
                     Sampler *s, uint64_t draw)
{
    const SamplerOptions *o = &s->options;
    if (fill(r, logits) != 0) return SAMPLE_NAN;
    for (int i = 0; i < o->bias_count; i++) r->candidate[o->bias_id[i]].logit += o->bias[i];
    for (int i = 0; i < r->count; i++)
        r->keep[i] = r->candidate[i].logit > -INFINITY && (!o->allowed || HAS_BIT(o->allowed, i)) &&
                     (!o->first || count != o->first_at || HAS_BIT(o->first, i)) &&
                     (!s->mask || HAS_BIT(s->mask, i));
    for (int i = 0; count < o->late_until && i < o->late_count; i++) r->keep[o->late[i]] = 0;
    for (int i = 0; count == s->banned_at && i < r->count; i++)
        if (HAS_BIT(s->banned, i)) r->keep[i] = 0;
    compact(r);
    int greedy = o->temperature < SAMPLING_COLD && o->dynatemp_max <= o->dynatemp_min;
    for (int i = 0; i < o->order_count && r->count; i++) {
        int stage = o->order[i];
        if (stage == STAGE_penalties)
            penalties(r, o, history, count);
        else if (stage == STAGE_dry)
            dry(r, o, history, count);
        else if (greedy)
            continue;
        else if (stage == STAGE_temperature)
            temperature(r, o);
        else if (stage == STAGE_smoothing)
            smoothing(r, o);
        else if (stage == STAGE_top_n_sigma)
            top_n_sigma(r, o);
        else if (stage == STAGE_top_k)
            top_k(r, o);
        else if (stage == STAGE_top_p)
            top_p(r, o);
        else if (stage == STAGE_min_p)
            min_p(r, o);
        else if (stage == STAGE_top_a)
            top_a(r, o);
        else if (stage == STAGE_tfs)
            tfs(r, o);
        else if (stage == STAGE_typical)
            typical(r, o);
        else if (stage == STAGE_xtc)
            xtc(r, o, draw);
    }
    if (!r->count) return SAMPLE_NOTHING;
    int drawn = best_index(r);
    if (!greedy && isfinite(r->candidate[drawn].logit))
        drawn = o->mirostat              ? mirostat(r, s, draw)
                : o->adaptive_target < 1 ? adaptive(r, s, draw)
                                         : draw_index(r, o, draw);
    return r->candidate[drawn].id;
}

int32_t sample_plain(SampleRoom *r, const float *logits, const Sampling *s)
{
    if (fill(r, logits) != 0) return SAMPLE_NAN;
    for (int i = 0; s->mask && i < r->count; i++) r->keep[i] = HAS_BIT(s->mask, i);
    if (s->mask) compact(r);
    if (!r->count) return SAMPLE_NOTHING;
    int best = best_index(r);
    if (s->temperature < SAMPLING_COLD || s->top_k == 1 || !isfinite(r->candidate[best].logit))
        return r->candidate[best].id;
    SamplerOptions o = {.top_k = s->top_k, .top_p = s->top_p, .min_p = s->min_p, .seed = s->seed};
    r->inverse = 1 / s->temperature;
    top_k(r, &o);
    top_p(r, &o);
    min_p(r, &o);
    return r->candidate[draw_index(r, &o, s->draw)].id;
}

float sample_logprobs(const float *logits, int vocab, int32_t token, int top, Likely *out)
{
    float largest = -INFINITY;
    for (int i = 0; i < vocab; i++) largest = fmaxf(largest, logits[i]);
    double sum = 0;
    for (int i = 0; i < vocab; i++) sum += expf(logits[i] - largest);
    double norm = largest + log(sum);
    int n = 0;
    for (int i = 0; i < vocab && top > 0; i++) {
        float p = (float)(logits[i] - norm);
        if (n == top && p <= out[n - 1].logprob) continue;
        int at = n < top ? n++ : n - 1;
        for (; at > 0 && out[at - 1].logprob < p; at--) out[at] = out[at - 1];
        out[at] = (Likely){i, p};
    }
    return (float)(logits[token] - norm);
}
