// Sampler fields of requests.
#include "sampling.h"
#include "answer.h"
#include "program.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

void sampling_mark(const Tokens *t, uint32_t *set, const char *const *strings, int count)
{
    for (int32_t id = 0; id < model_info.vocab && id < tokens_count(t); id++) {
        size_t bytes;
        const char *text = tokens_bytes(t, id, &bytes);
        int mark = tokens_is_special(t, id);
        for (int i = 0; i < count && !mark; i++)
            mark = memmem(text, bytes, strings[i], strlen(strings[i])) != NULL;
        if (mark) ADD_BIT(set, id);
    }
}

// Numbers that go straight to the sampler.
enum { REAL, WHOLE };
static const struct {
    const char *name;
    int kind;
    size_t offset;
} sampler_fields[] = {
#define AT(field) offsetof(SamplerOptions, field)
    {"temperature", REAL, AT(temperature)},
    {"top_p", REAL, AT(top_p)},
    {"min_p", REAL, AT(min_p)},
    {"top_a", REAL, AT(top_a)},
    {"tfs", REAL, AT(tfs)},
    {"typical", REAL, AT(typical)},
    {"top_n_sigma", REAL, AT(top_n_sigma)},
    {"skew", REAL, AT(skew)},
    {"smoothing_factor", REAL, AT(smoothing)},
    {"min_temp", REAL, AT(dynatemp_min)},
    {"max_temp", REAL, AT(dynatemp_max)},
    {"temp_exponent", REAL, AT(dynatemp_exponent)},
    {"xtc_probability", REAL, AT(xtc_probability)},
    {"xtc_threshold", REAL, AT(xtc_threshold)},
    {"repetition_penalty", REAL, AT(repetition)},
    {"frequency_penalty", REAL, AT(frequency)},
    {"presence_penalty", REAL, AT(presence)},
    {"penalty_range", WHOLE, AT(penalty_range)},
    {"repetition_decay", WHOLE, AT(penalty_decay)},
    {"dry_multiplier", REAL, AT(dry_multiplier)},
    {"dry_base", REAL, AT(dry_base)},
    {"dry_allowed_length", WHOLE, AT(dry_allowed_length)},
    {"dry_range", WHOLE, AT(dry_range)},
    {"mirostat_mode", WHOLE, AT(mirostat)},
    {"mirostat_tau", REAL, AT(mirostat_tau)},
    {"mirostat_eta", REAL, AT(mirostat_eta)},
    {"adaptive_target", REAL, AT(adaptive_target)},
    {"adaptive_decay", REAL, AT(adaptive_decay)},
#undef AT
};

// And those that are read one by one below.
static const char *const other_fields[] = {"seed",
                                           "top_k",
                                           "temperature_last",
                                           "xtc_random",
                                           "dry_sequence_breakers",
                                           "sampler_order",
                                           "samplers",
                                           "banned_tokens",
                                           "custom_token_bans",
                                           "allowed_tokens",
                                           "allowed_token_ids",
                                           "logit_bias",
                                           NULL};

int sampling_knows(const char *field)
{
    for (size_t i = 0; i < sizeof sampler_fields / sizeof *sampler_fields; i++)
        if (strcmp(field, sampler_fields[i].name) == 0) return 1;
    return field_listed(field, other_fields);
}

static int get_order(const json_t *body, SamplerOptions *o, Refusal *r)
{
    const json_t *v = field_of(body, "sampler_order", "samplers");
    if (!v) {
        int last = 0;
        if (field_flag(body, "temperature_last", NULL, &last, r) != 0) return -1;
        if (!last) return 0;
        // Behind every filter, before XTC.
        int n = 0;
        for (int i = 0; i < STAGE_COUNT; i++) {
            if (i == STAGE_xtc) o->order[n++] = STAGE_temperature;
            if (i != STAGE_temperature) o->order[n++] = (uint8_t)i;
        }
        return 0;
    }
    if (field_of(body, "temperature_last", NULL))
        return refusal_set(r, 400, "temperature_last",
                           "temperature_last and sampler_order exclude each other");
    if (!json_is_array(v) || json_array_size(v) > STAGE_COUNT)
        return refusal_set(r, 400, "sampler_order", "sampler_order: expected a list of stages");
    o->order_count = 0;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        int stage = 0;
        while (name && stage < STAGE_COUNT && strcmp(stage_names[stage], name) != 0) stage++;
        if (!name || stage == STAGE_COUNT)
            return refusal_set(r, 400, "sampler_order", "sampler_order: no stage is called '%.40s'",
                               name ? name : "?");
        o->order[o->order_count++] = (uint8_t)stage;
    }
    return 0;
}

static int get_bias(Answer *a, SamplerOptions *o, Refusal *r)
{
    const json_t *map = field_of(a->body, "logit_bias", NULL);
    const json_t *bans = field_of(a->body, "banned_tokens", "custom_token_bans");
    if (map && !json_is_object(map))
        return refusal_set(r, 400, "logit_bias", "logit_bias: expected an object");
    if (bans && !json_is_array(bans))
        return refusal_set(r, 400, "banned_tokens", "banned_tokens: expected a list of token ids");
    size_t most = json_object_size(map) + json_array_size(bans);
    if (!most) return 0;
    a->bias_id = malloc(most * sizeof *a->bias_id);
    a->bias = malloc(most * sizeof *a->bias);
    if (!a->bias_id || !a->bias) return refusal_memory(r);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map, key, value)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (*end || end == key || id < 0 || id >= model_info.vocab || !json_is_number(value) ||
            fabs(json_number_value(value)) > 1000)
            return refusal_set(
                r, 400, "logit_bias",
                "logit_bias: expected token ids from 0 to %d and numbers from -1000 to 1000",
                model_info.vocab - 1);
        a->bias_id[o->bias_count] = (int32_t)id;
        // OpenAI's -100 is a ban.
        float bias = (float)json_number_value(value);
        a->bias[o->bias_count++] = bias <= -100 ? -INFINITY : bias;
    }
    for (size_t i = 0; i < json_array_size(bans); i++, o->bias_count++) {
        if (field_id(json_array_get(bans, i), "banned_tokens", &a->bias_id[o->bias_count], r) != 0)
            return -1;
        a->bias[o->bias_count] = -INFINITY;
    }
    o->bias_id = a->bias_id;
    o->bias = a->bias;
    return 0;
}

static int get_allowed(Answer *a, SamplerOptions *o, Refusal *r)
{
    const json_t *list = field_of(a->body, "allowed_tokens", "allowed_token_ids");
    if (!list || (json_is_array(list) && !json_array_size(list))) return 0;
    if (!json_is_array(list))
        return refusal_set(r, 400, "allowed_tokens",
                           "allowed_tokens: expected a list of token ids");
    a->allowed = calloc(BIT_WORDS(model_info.vocab), 4);
    if (!a->allowed) return refusal_memory(r);
    for (size_t i = 0; i < json_array_size(list); i++) {
        int32_t id;
        if (field_id(json_array_get(list, i), "allowed_tokens", &id, r) != 0) return -1;
        ADD_BIT(a->allowed, id);
    }
    o->allowed = a->allowed;
    return 0;
}

static int get_breakers(const Api *api, Answer *a, SamplerOptions *o, Refusal *r)
{
    const json_t *v = field_of(a->body, "dry_sequence_breakers", NULL);
    const char **strings = NULL;
    int count = 0;
    o->breakers = api->breakers;
    o->protected = api->newlines;
    if (!v) return 0;
    a->breakers = calloc(BIT_WORDS(model_info.vocab), 4);
    int status = a->breakers
                     ? field_strings(v, "dry_sequence_breakers", &strings, &count, NULL, NULL, r)
                     : refusal_memory(r);
    if (status == 0) sampling_mark(api->tokens, a->breakers, strings, count);
    free(strings);
    o->breakers = a->breakers;
    return status;
}

SamplerOptions sampling_of_model(void)
{
    const ModelInfo *m = &model_info;
    SamplerOptions o = sampler_defaults;
    o.temperature = (float)m->temperature;
    o.top_k = m->top_k;
    o.top_p = (float)m->top_p;
    o.min_p = (float)m->min_p;
    return o;
}

int sampling_read(const Api *api, Answer *a, SamplerOptions *o, Refusal *r)
{
    *o = api->sampler;
    for (size_t i = 0; i < sizeof sampler_fields / sizeof *sampler_fields; i++) {
        const char *name = sampler_fields[i].name;
        const json_t *v = field_of(a->body, name, NULL);
        char *at = (char *)o + sampler_fields[i].offset;
        if (!v) continue;
        if (!json_is_number(v) || (sampler_fields[i].kind == WHOLE && !json_is_integer(v)))
            return refusal_set(r, 400, name, "%s: expected a %snumber", name,
                               sampler_fields[i].kind == WHOLE ? "whole " : "");
        if (sampler_fields[i].kind == REAL)
            *(float *)at = (float)json_number_value(v);
        else if (llabs(json_integer_value(v)) > INT32_MAX)
            return refusal_set(r, 400, name, "%s: %lld is out of range", name,
                               (long long)json_integer_value(v));
        else
            *(int *)at = (int)json_integer_value(v);
    }
    int top_k = o->top_k;
    if (field_whole(a->body, "top_k", NULL, -1, INT32_MAX, &top_k, r) != 0) return -1;
    o->top_k = top_k < 0 ? 0 : top_k;
    const json_t *seed = field_of(a->body, "seed", NULL);
    if (seed && !json_is_integer(seed))
        return refusal_set(r, 400, "seed", "seed: expected a whole number");
    o->seed = seed ? (uint64_t)json_integer_value(seed) : random_bits();
    if (field_flag(a->body, "xtc_random", NULL, &o->xtc_random, r) != 0 ||
        get_order(a->body, o, r) != 0 || get_bias(a, o, r) != 0 || get_allowed(a, o, r) != 0 ||
        get_breakers(api, a, o, r) != 0)
        return -1;
    Error err;
    if (sampler_check(o, &err) != 0) {
        int name = (int)strcspn(err.text, " ");
        char param[64];
        snprintf(param, sizeof param, "%.*s", name, err.text);
        return refusal_set(r, 400, param, "%s", err.text);
    }
    return 0;
}
