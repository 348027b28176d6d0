// The sampler chain on the CPU: from a row of logits to a token. kernels/sampling.h defines the
// draw and the filters that a GPU applies itself; docs/samplers.md states every stage. Knows tokens
// as ids only. Nothing here allocates after sample_open.
#pragma once
#include "../kernels/sampling.h"
#include "error.h"

// The stages that sampler_order can name. Bias, allowed and banned tokens come before all of them;
// mirostat, adaptive-p and skew replace or bend the draw at the end.
#define SAMPLER_STAGES(X)                                                                          \
    X(penalties)                                                                                   \
    X(dry) X(temperature) X(smoothing) X(top_n_sigma) X(top_k) X(top_p) X(min_p) X(top_a) X(tfs)   \
        X(typical) X(xtc)
#define X(name) STAGE_##name,
enum { SAMPLER_STAGES(X) STAGE_COUNT };
#undef X
extern const char *const stage_names[STAGE_COUNT];

// What a request asks for. Pointers are borrowed and may be NULL.
typedef struct {
    float temperature, top_p, min_p; // as in Sampling
    int32_t top_k;
    uint64_t seed;
    float dynatemp_min, dynatemp_max, dynatemp_exponent; // off unless max > min
    float smoothing;                                     // 0: off
    float top_n_sigma;                                   // 0: off
    float top_a, tfs, typical;                           // 0, 1, 1: off
    float xtc_probability, xtc_threshold;                // probability 0: off
    int xtc_random;                                      // 0: the expected distribution
    float repetition, frequency, presence;               // 1, 0, 0: off
    int penalty_range, penalty_decay; // tokens from the end at full strength (-1: all), then fading
    float dry_multiplier, dry_base;   // multiplier 0: off
    int dry_allowed_length, dry_range; // range -1: the whole history
    int mirostat;                      // 0: off, 1, 2
    float mirostat_tau, mirostat_eta;
    float adaptive_target, adaptive_decay; // target 1: off
    float skew;                            // 0: off
    uint8_t order[STAGE_COUNT];
    int order_count;
    const int32_t *bias_id; // (bias_count)
    const float *bias;      // (bias_count), added to logits; -INFINITY bans
    int bias_count;
    const uint32_t *allowed;   // bits by id: others are never drawn
    const uint32_t *breakers;  // bits by id: tokens that end a DRY match
    const uint32_t *protected; // bits by id: tokens that XTC leaves alone
    const uint32_t *first;     // bits by id: the only tokens allowed after first_at tokens
    int first_at;
    const int32_t *late; // (late_count): not drawn before there are late_until tokens
    int late_count, late_until;
} SamplerOptions;

#define BIT_WORDS(n) (((size_t)(n) + 31) / 32)
#define HAS_BIT(set, i) ((set)[(i) / 32] >> ((i) % 32) & 1)
#define ADD_BIT(set, i) ((set)[(i) / 32] |= 1u << ((i) % 32))

// All stages off but temperature 1, in the default order.
extern const SamplerOptions sampler_defaults;
// The values are in range and do not contradict each other.
int sampler_check(const SamplerOptions *o, Error *err);
// 1 when the device's own chain draws the same: then Sampling says it all.
int sampler_is_plain(const SamplerOptions *o);

// One sequence's sampler: what it asks for, and what it learned from its draws.
typedef struct {
    SamplerOptions options;
    double mu;              // of mirostat
    double weighted, total; // of adaptive-p
    const uint32_t *banned; // bits by id: what was taken back, not drawn again after banned_at tokens
    int banned_at;
    const uint32_t *mask; // bits by id: others are not drawn now; NULL: all may be
} Sampler;
void sampler_start(Sampler *s, const SamplerOptions *o);

// Working memory for one thread.
typedef struct SampleRoom SampleRoom;
int sample_open(SampleRoom **room, int vocab, int max_context, Error *err);
void sample_close(SampleRoom *room);

// Instead of a token: a logit is NaN; everything is excluded.
enum { SAMPLE_NAN = -1, SAMPLE_NOTHING = SAMPLING_NOTHING };
// The token that follows history (count), or one of those. logits (vocab) stay unchanged. `draw` is
// the number of this draw in its sequence.
int32_t sample_token(SampleRoom *room, const float *logits, const int32_t *history, int count,
                     Sampler *s, uint64_t draw);
// The same for the device's own chain.
int32_t sample_plain(SampleRoom *room, const float *logits, const Sampling *s);

// Natural logarithms of probabilities under the model's own distribution: of `token`, and of the
// `top` likeliest ids, best first, ties by id.
typedef struct {
    int32_t id;
    float logprob;
} Likely;
float sample_logprobs(const float *logits, int vocab, int32_t token, int top, Likely *out);
