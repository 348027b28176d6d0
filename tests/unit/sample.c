// The sampler chain: draws of every case of tests/data/samplers.json against the distribution that
// tests/oracle/record_samplers.py computed (chi-square), and what a distribution does not show.
// DRAWS=N draws so many times a case.
#include "runtime/sample.h"
#include "tests/check.h"
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

enum { VOCAB = 48, HISTORY = 64 };
static float logits[VOCAB];
static int32_t history[HISTORY];
static int count;
static SampleRoom *room;

static const struct {
    const char *name;
    size_t offset;
    int whole;
} fields[] = {
#define REAL(field)                                                                                \
    {                                                                                              \
#field, offsetof(SamplerOptions, field), 0                                                 \
    }
#define WHOLE(field)                                                                               \
    {                                                                                              \
#field, offsetof(SamplerOptions, field), 1                                                 \
    }
    REAL(temperature),
    REAL(top_p),
    REAL(min_p),
    REAL(dynatemp_min),
    REAL(dynatemp_max),
    REAL(dynatemp_exponent),
    REAL(smoothing),
    REAL(top_n_sigma),
    REAL(top_a),
    REAL(tfs),
    REAL(typical),
    REAL(xtc_probability),
    REAL(xtc_threshold),
    REAL(repetition),
    REAL(frequency),
    REAL(presence),
    REAL(dry_multiplier),
    REAL(dry_base),
    REAL(mirostat_tau),
    REAL(adaptive_target),
    REAL(skew),
    WHOLE(top_k),
    WHOLE(penalty_range),
    WHOLE(penalty_decay),
    WHOLE(dry_allowed_length),
    WHOLE(dry_range),
    WHOLE(mirostat),
    WHOLE(xtc_random),
};

static uint32_t *bits(const json_t *ids, uint32_t *set)
{
    memset(set, 0, 4 * BIT_WORDS(VOCAB));
    for (size_t i = 0; i < json_array_size(ids); i++)
        ADD_BIT(set, json_integer_value(json_array_get(ids, i)));
    return ids ? set : NULL;
}

static SamplerOptions read_options(const json_t *o)
{
    static uint32_t allowed[BIT_WORDS(VOCAB)], breakers[BIT_WORDS(VOCAB)],
        protected[BIT_WORDS(VOCAB)];
    static int32_t bias_id[8];
    static float bias[8];
    SamplerOptions s = sampler_defaults;
    size_t read = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const json_t *v = json_object_get(o, fields[i].name);
        char *at = (char *)&s + fields[i].offset;
        if (!v) continue;
        if (fields[i].whole)
            *(int *)at = (int)json_integer_value(v);
        else
            *(float *)at = (float)json_number_value(v);
        read++;
    }
    s.allowed = bits(json_object_get(o, "allowed"), allowed);
    s.breakers = bits(json_object_get(o, "breakers"), breakers);
    s.protected = bits(json_object_get(o, "protected"), protected);
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(o, "bias"), key, value)
    {
        bias_id[s.bias_count] = atoi(key);
        bias[s.bias_count++] = (float)json_number_value(value);
    }
    s.bias_id = bias_id;
    s.bias = bias;
    const json_t *order = json_object_get(o, "order");
    if (order) s.order_count = 0;
    for (size_t i = 0; i < json_array_size(order); i++)
        for (int stage = 0; stage < STAGE_COUNT; stage++)
            if (!strcmp(stage_names[stage], json_string_value(json_array_get(order, i))))
                s.order[s.order_count++] = (uint8_t)stage;
    read += !!s.allowed + !!s.breakers + !!s.protected + (s.bias_count > 0) + !!order;
    CHECK(read == json_object_size(o));
    CHECK((size_t)s.order_count == (order ? json_array_size(order) : STAGE_COUNT));
    return s;
}

// 3.09 deviations of the standard normal that Wilson and Hilferty's cube root makes of chi-square:
// a correct sampler fails one case in a thousand, and these seeds are fixed.
static void check_draws(const char *name, const SamplerOptions *o, const json_t *expected,
                        int draws)
{
    int hits[VOCAB] = {0}, degrees = -1, wrong = 0;
    double chi = 0, rest = 0, rest_hits = 0;
    for (int i = 0; i < draws; i++) {
        Sampler s;
        sampler_start(&s, o);
        int32_t id = sample_token(room, logits, history, count, &s, (uint64_t)i);
        if (id < 0 || id >= VOCAB)
            wrong++;
        else
            hits[id]++;
    }
    for (int i = 0; i < VOCAB; i++) {
        double mean = draws * json_number_value(json_array_get(expected, (size_t)i));
        if (mean == 0) wrong += hits[i];
        if (mean < 5) {
            rest += mean, rest_hits += hits[i];
        } else {
            chi += (hits[i] - mean) * (hits[i] - mean) / mean;
            degrees++;
        }
    }
    if (rest >= 1) {
        chi += (rest_hits - rest) * (rest_hits - rest) / rest;
        degrees++;
    }
    double z = 0;
    if (degrees > 0)
        z = (cbrt(chi / degrees) - (1 - 2.0 / (9 * degrees))) / sqrt(2.0 / (9 * degrees));
    CHECK_MSG(wrong == 0 && z < 3.09, "%s: %d impossible draws, chi-square %.1f of %d degrees",
              name, wrong, chi, degrees);
}

// The device's chain and the general one are one.
static void test_plain(void)
{
    int same = 0;
    for (int i = 0; i < 2000; i++) {
        Sampling p = {.temperature = 0.3f + (float)(i % 7) * 0.3f,
                      .top_k = i % 11 * 3,
                      .top_p = i % 3 ? 0.9f : 1,
                      .min_p = i % 2 ? 0.02f : 0,
                      .seed = 9,
                      .draw = (uint64_t)i};
        SamplerOptions o = sampler_defaults;
        o.temperature = p.temperature;
        o.top_k = p.top_k, o.top_p = p.top_p, o.min_p = p.min_p, o.seed = p.seed;
        CHECK(sampler_is_plain(&o));
        Sampler s;
        sampler_start(&s, &o);
        same += sample_plain(room, logits, &p) ==
                sample_token(room, logits, history, count, &s, p.draw);
    }
    CHECK_MSG(same == 2000, "%d", same);
}

// What mirostat and adaptive-p promise over many draws: mu moves by eta for every bit of surprise
// beyond tau, so where it stays bounded the surprise is tau on average; and the mean probability of
// what is drawn is the target.
static void test_feedback(void)
{
    enum { DRAWS = 4000 };
    Sampler s;
    SamplerOptions o = sampler_defaults;
    for (o.mirostat = 1; o.mirostat <= 2; o.mirostat++) {
        o.mirostat_tau = 1.5f;
        sampler_start(&s, &o);
        for (int i = 0; i < DRAWS; i++) sample_token(room, logits, history, count, &s, (uint64_t)i);
        CHECK_MSG(s.mu > 0 && s.mu < 12, "mirostat %d: mu %g", o.mirostat, s.mu);
    }
    o = sampler_defaults;
    o.top_k = 6;
    o.adaptive_target = 0.2f;
    sampler_start(&s, &o);
    Likely best[6];
    double mass = 0, mean = 0;
    sample_logprobs(logits, VOCAB, 0, 6, best);
    for (int i = 0; i < 6; i++) mass += exp(best[i].logprob);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = sample_token(room, logits, history, count, &s, (uint64_t)i);
        mean += exp(sample_logprobs(logits, VOCAB, id, 0, NULL)) / mass / DRAWS;
    }
    CHECK_MSG(fabs(mean - 0.2) < 0.02, "%g", mean);
}

static void test_bans(void)
{
    Sampler s;
    SamplerOptions o = sampler_defaults;
    static uint32_t first[BIT_WORDS(VOCAB)], five[BIT_WORDS(VOCAB)], eleven[BIT_WORDS(VOCAB)];
    static const int32_t late[] = {5};
    ADD_BIT(first, 11);
    ADD_BIT(five, 5);
    ADD_BIT(eleven, 11);
    o.temperature = 0;
    sampler_start(&s, &o);
    CHECK(sample_token(room, logits, history, count, &s, 0) == 5);
    s.banned_at = count, s.banned = five;
    int32_t second = sample_token(room, logits, history, count, &s, 0);
    CHECK(second != 5 && second >= 0);
    s.banned_at = count - 1;
    CHECK(sample_token(room, logits, history, count, &s, 0) == 5);
    o.late = late, o.late_count = 1, o.late_until = count + 1;
    sampler_start(&s, &o);
    CHECK(!sampler_is_plain(&o) && sample_token(room, logits, history, count, &s, 0) == second);
    o.first = first, o.first_at = count;
    sampler_start(&s, &o);
    CHECK(sample_token(room, logits, history, count, &s, 0) == 11);
    // Nothing left, and no numbers.
    o.late_until = 0;
    s.banned_at = count, s.banned = eleven;
    CHECK(sample_token(room, logits, history, count, &s, 0) == SAMPLE_NOTHING);
    float kept = logits[3];
    logits[3] = NAN;
    sampler_start(&s, &sampler_defaults);
    CHECK(sample_token(room, logits, history, count, &s, 0) == SAMPLE_NAN);
    CHECK(sample_plain(room, logits, &(Sampling){.temperature = 1, .top_p = 1}) == -1);
    logits[3] = -INFINITY;
    CHECK(sample_plain(room, logits, &(Sampling){.temperature = 0, .top_p = 1}) == 5);
    logits[3] = kept;
}

// Draws under a mask are those of logits that are minus infinity elsewhere.
static void test_masks(void)
{
    static uint32_t mask[BIT_WORDS(VOCAB)];
    float cut[VOCAB];
    int same = 0, all = 0;
    Sampler s;
    for (int i = 0; i < VOCAB; i++) {
        if (i % 3 == 1) ADD_BIT(mask, i);
        cut[i] = i % 3 == 1 ? logits[i] : -INFINITY;
    }
    for (int i = 0; i < 600; i++) {
        SamplerOptions o = sampler_defaults;
        o.temperature = (float)(i % 5) * 0.5f;
        o.top_k = i % 7;
        o.top_p = i % 2 ? 0.8f : 1;
        o.repetition = i % 4 ? 1 : 1.3f;
        Sampling p = {
            .temperature = o.temperature, .top_p = o.top_p, .top_k = o.top_k, .draw = (uint64_t)i};
        sampler_start(&s, &o);
        int32_t expected = sample_token(room, cut, history, count, &s, (uint64_t)i);
        s.mask = mask;
        same += sample_token(room, logits, history, count, &s, (uint64_t)i) == expected;
        int32_t plain = sample_plain(room, cut, &p);
        p.mask = mask;
        same += sample_plain(room, logits, &p) == plain && plain % 3 == 1;
        all += 2;
    }
    CHECK_MSG(same == all, "%d of %d", same, all);
    memset(mask, 0, sizeof mask);
    CHECK(sample_token(room, logits, history, count, &s, 0) == SAMPLE_NOTHING);
    CHECK(sample_plain(room, logits, &(Sampling){.mask = mask}) == SAMPLE_NOTHING);
}

static void test_weights(void)
{
    double worst = 0;
    for (double x = 0; x < 12; x += 0.00137) {
        double w = (double)sampling_weight((float)-x, 0, 1) / (double)SAMPLING_ONE;
        worst = fmax(worst, fabs(w / exp((float)-x) - 1));
    }
    CHECK_MSG(worst < 1e-6, "%g", worst);
    CHECK(sampling_weight(3, 3, 2) == SAMPLING_ONE && sampling_weight(NAN, 0, 1) == 0);
    CHECK(sampling_weight(-1e30f, 0, 1) == 0 && sampling_weight(-INFINITY, 0, 1) == 0);
    Likely likely[4];
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) sum += exp(logits[i]);
    float p = sample_logprobs(logits, VOCAB, 7, 4, likely);
    CHECK(fabs(p - (logits[7] - log(sum))) < 1e-5 && likely[0].id == 5);
    CHECK(likely[0].logprob >= likely[1].logprob && likely[2].logprob >= likely[3].logprob);
}

static void test_refusals(void)
{
    Error err;
    SamplerOptions o = sampler_defaults;
    CHECK(sampler_check(&o, &err) == 0);
    o.typical = 1.5f;
    CHECK(sampler_check(&o, &err) != 0 && strstr(err.text, "typical is 1.5"));
    o = sampler_defaults;
    o.temperature = NAN;
    CHECK(sampler_check(&o, &err) != 0);
    o = sampler_defaults;
    o.mirostat = 2, o.skew = 1;
    CHECK(sampler_check(&o, &err) != 0);
    o = sampler_defaults;
    o.order[1] = o.order[0];
    CHECK(sampler_check(&o, &err) != 0 && strstr(err.text, "twice"));
}

// A vocabulary of today's size: what a draw costs (printed, not judged).
static void show_cost(void)
{
    enum { LARGE = 128256, ROUNDS = 20 };
    static float row[LARGE];
    Error err;
    SampleRoom *large;
    if (sample_open(&large, LARGE, 64, &err) != 0) return;
    for (int i = 0; i < LARGE; i++) row[i] = (float)(i * 7919LL % 20011) / 1500;
    static const char *const names[] = {"temperature", "top-k 40, top-p 0.9", "everything"};
    for (int kind = 0; kind < 3; kind++) {
        SamplerOptions o = sampler_defaults;
        if (kind == 1) o.top_k = 40, o.top_p = 0.9f;
        if (kind == 2) o.repetition = 1.1f, o.top_p = 0.9f, o.typical = 0.95f, o.tfs = 0.99f;
        Sampler s;
        sampler_start(&s, &o);
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        for (int i = 0; i < ROUNDS; i++) sample_token(large, row, history, count, &s, (uint64_t)i);
        clock_gettime(CLOCK_MONOTONIC, &b);
        fprintf(stderr, "%s: %.2f ms a draw of %d\n", names[kind],
                ((double)(b.tv_sec - a.tv_sec) * 1e3 + (double)(b.tv_nsec - a.tv_nsec) / 1e6) /
                    ROUNDS,
                LARGE);
    }
    sample_close(large);
}

int main(void)
{
    Error err;
    json_error_t where;
    json_t *data = json_load_file("tests/data/samplers.json", 0, &where);
    if (!data || sample_open(&room, VOCAB, HISTORY, &err) != 0) return 1;
    json_t *list = json_object_get(data, "history");
    for (int i = 0; i < VOCAB; i++)
        logits[i] =
            (float)json_number_value(json_array_get(json_object_get(data, "logits"), (size_t)i));
    for (count = 0; count < (int)json_array_size(list); count++)
        history[count] = (int32_t)json_integer_value(json_array_get(list, (size_t)count));
    int draws = getenv("DRAWS") ? atoi(getenv("DRAWS")) : 20000;
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(data, "cases"), i, c)
    {
        SamplerOptions o = read_options(json_object_get(c, "options"));
        o.seed = 1;
        CHECK_MSG(sampler_check(&o, &err) == 0, "%s", err.text);
        check_draws(json_string_value(json_object_get(c, "name")), &o, json_object_get(c, "p"),
                    draws);
    }
    test_plain();
    test_feedback();
    test_bans();
    test_masks();
    test_weights();
    test_refusals();
    show_cost();
    sample_close(room);
    json_decref(data);
    return check_done();
}
