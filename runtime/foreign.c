// Two tables: names elsewhere, and what is elsewhere alone.
#include "foreign.h"
#include <stdlib.h>
#include <string.h>

// As TabbyAPI, llama.cpp, KoboldCpp, text-generation-webui, vLLM and their front ends call it, and
// the name here.
static const char *const aliases[][2] = {
    {"max_new_tokens", "max_tokens"},
    {"n_predict", "max_tokens"},
    {"num_predict", "max_tokens"},
    {"stopping_strings", "stop"},
    {"sampler_seed", "seed"},
    {"n_probs", "logprobs"},
    {"typical_p", "typical"},
    {"rep_pen", "repetition_penalty"},
    {"repeat_penalty", "repetition_penalty"},
    {"rep_pen_range", "penalty_range"},
    {"repetition_range", "penalty_range"},
    {"repetition_penalty_range", "penalty_range"},
    {"repeat_last_n", "penalty_range"},
    {"nsigma", "top_n_sigma"},
    {"dynatemp_min", "min_temp"},
    {"dynatemp_low", "min_temp"},
    {"dynatemp_max", "max_temp"},
    {"dynatemp_high", "max_temp"},
    {"dynatemp_exponent", "temp_exponent"},
    {"dry_penalty_last_n", "dry_range"},
    {"mirostat", "mirostat_mode"},
    {"guided_json", "json_schema"},
    {"guided_regex", "regex_pattern"},
};

// What is not there, and the values that say it need not be; NULL: any, for it changes no answer.
static const struct {
    const char *name, *neutral; // a list, in JSON
} absent[] = {
    {"api_server", NULL},
    {"api_type", NULL},
    {"cache_prompt", NULL},
    {"dynamic_temperature", NULL}, // min_temp and max_temp say it
    {"include_reasoning", NULL},   // it has a field of its own
    {"num_ctx", NULL},
    {"speculative_ngram", NULL},
    {"timings_per_token", NULL},
    {"truncation_length", NULL},
    {"do_sample", "[true]"},
    {"early_stopping", "[false]"},
    {"encoder_repetition_penalty", "[1]"},
    {"epsilon_cutoff", "[0]"},
    {"eta_cutoff", "[0]"},
    {"guidance_scale", "[1]"},
    {"id_slot", "[-1]"},
    {"include_stop_str_in_output", "[false]"},
    {"length_penalty", "[1]"},
    {"max_tokens_second", "[0]"},
    {"min_keep", "[0, 1]"},
    {"modalities", "[[\"text\"]]"},
    {"negative_prompt", "[\"\"]"},
    {"no_repeat_ngram_size", "[0]"},
    {"num_beams", "[1]"},
    {"penalty_alpha", "[0]"},
    {"post_sampling_probs", "[false]"},
    {"rep_pen_slope", "[0, 1]"},
    {"smoothing_curve", "[1]"},
    {"spaces_between_special_tokens", "[true]"},
    {"trim_stop", "[true]"},
    {"use_beam_search", "[false]"},
};

static int same(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

static int rename_fields(json_t *body, int (*known)(void *taker, const char *name), void *taker,
                         Refusal *r)
{
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++) {
        const char *alias = aliases[i][0], *name = aliases[i][1];
        const json_t *v = field_of(body, alias, NULL), *there = field_of(body, name, NULL);
        if (!v || !known(taker, name)) continue;
        if (there && !same(v, there))
            return refusal_set(r, 400, alias, "%s and %s are one thing, with different values",
                               alias, name);
        if (!there) json_object_set(body, name, (json_t *)v);
        json_object_del(body, alias);
    }
    return 0;
}

static int drop_fields(json_t *body, Refusal *r)
{
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        const char *name = absent[i].name, *neutral = absent[i].neutral;
        const json_t *v = field_of(body, name, NULL), *one;
        if (!v) continue;
        json_t *list = neutral ? json_loads(neutral, 0, NULL) : NULL;
        int nothing = !neutral;
        size_t k;
        json_array_foreach(list, k, one) nothing |= same(v, one);
        json_decref(list);
        if (!nothing)
            return refusal_set(r, 400, name, "%s is not there; only %.*s changes nothing", name,
                               (int)strlen(neutral) - 2, neutral + 1);
        json_object_del(body, name);
    }
    return 0;
}

// Lists that front ends send as the text that was typed: "1, 2", "[1, 2]", "".
static void read_lists(json_t *body)
{
    static const char *const lists[] = {"banned_tokens", "custom_token_bans", "allowed_tokens",
                                        "allowed_token_ids", "dry_sequence_breakers"};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const char *text = json_string_value(field_of(body, lists[i], NULL)), *first = text;
        if (!text) continue;
        first += strspn(text, " \t\n");
        char *list = NULL;
        int bare = *first != '[';
        if (bare && strcmp(lists[i], "dry_sequence_breakers") == 0 && *first) continue; // one
        if (asprintf(&list, bare ? "[%s]" : "%s", first) < 0) continue;
        json_t *parsed = json_loads(list, 0, NULL);
        if (parsed) json_object_set_new(body, lists[i], parsed);
        free(list);
    }
}

// Samplers that are switched on and off in other ways.
static void read_samplers(json_t *body)
{
    double range = json_number_value(field_of(body, "dynatemp_range", NULL));
    const json_t *temperature = field_of(body, "temperature", NULL);
    double middle = temperature ? json_number_value(temperature) : 1;
    if (range > 0 && !field_of(body, "min_temp", "max_temp")) {
        json_object_set_new(body, "min_temp", json_real(middle > range ? middle - range : 0));
        json_object_set_new(body, "max_temp", json_real(middle + range));
    }
    if (json_is_number(field_of(body, "dynatemp_range", NULL)))
        json_object_del(body, "dynatemp_range");
    if (json_number_value(field_of(body, "adaptive_target", NULL)) < 0)
        json_object_del(body, "adaptive_target");
}

// {"effort": ..., "enabled": ...} and {"type": "disabled"}, where they are no fields here.
static int read_reasoning(json_t *body, int (*known)(void *taker, const char *name), void *taker,
                          Refusal *r)
{
    json_t *reasoning = json_object_get(body, "reasoning"), *v;
    json_t *thinking = json_object_get(body, "thinking");
    const char *key, *type = field_type(thinking);
    if (!known(taker, "reasoning_effort")) return 0;
    if (json_is_object(reasoning) && !known(taker, "reasoning")) {
        json_object_foreach(reasoning, key, v)
        {
            int effort = strcmp(key, "effort") == 0;
            if (!effort && strcmp(key, "enabled") != 0)
                return refusal_set(r, 400, "reasoning",
                                   "reasoning: only effort and enabled are there");
            json_object_set(body, effort ? "reasoning_effort" : "enable_thinking", v);
        }
        json_object_del(body, "reasoning");
    }
    int on = strcmp(type, "enabled") == 0;
    if ((on || strcmp(type, "disabled") == 0) && !known(taker, "thinking")) {
        json_object_set_new(body, "enable_thinking", json_boolean(on));
        json_object_del(body, "thinking");
    }
    return 0;
}

int foreign_translate(json_t *body, int (*known)(void *taker, const char *name), void *taker,
                      Refusal *r)
{
    if (rename_fields(body, known, taker, r) != 0 || drop_fields(body, r) != 0) return -1;
    read_lists(body);
    read_samplers(body);
    return read_reasoning(body, known, taker, r);
}
