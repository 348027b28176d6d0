// Requests' fields to jobs, jobs to answers.
#include "api.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define MOST_CHOICES 128
#define MOST_LOGPROBS 20

// --- refusals ------------------------------------------------------------------------------------

__attribute__((format(printf, 4, 5))) static int refuse(Refusal *r, int status, const char *param,
                                                        const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->error.text, sizeof r->error.text, fmt, args);
    va_end(args);
    r->status = status;
    r->type = status == 401   ? "authentication_error"
              : status >= 500 ? "server_error"
                              : "invalid_request_error";
    r->code = NULL;
    snprintf(r->param, sizeof r->param, "%s", param);
    return -1;
}

json_t *api_error(const Refusal *r)
{
    // A cut or quoted message may not be UTF-8.
    char text[sizeof r->error.text], param[sizeof r->param];
    strcpy(text, r->error.text);
    strcpy(param, r->param);
    json_t *whole = json_string(text);
    for (char *p = text; !whole && *p; p++)
        if ((unsigned char)*p >= 128) *p = '?';
    for (char *p = param; *p; p++)
        if ((unsigned char)*p >= 128) *p = '?';
    json_decref(whole);
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", text, "type", r->type,
                     "param", *param ? param : NULL, "code", r->code);
}

static int no_memory(Refusal *r)
{
    return refuse(r, 500, "", "out of memory");
}

// --- open ----------------------------------------------------------------------------------------

// Adds the tokens whose bytes contain one of the strings.
static void mark_tokens(const Tokens *t, uint32_t *set, const char *const *strings, int count)
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

int api_open(Api *api, Generator *g, const Tokens *t, const char *name, Error *err)
{
    size_t words = BIT_WORDS(model_info.vocab);
    *api = (Api){.generator = g, .tokens = t, .name = name};
    api->newlines = calloc(words, 4);
    api->breakers = calloc(words, 4);
    if (!api->newlines || !api->breakers) return error_set(err, "out of memory");
    if (chat_open(&api->chat, t, err) != 0) return -1;
    mark_tokens(t, api->newlines, (const char *const[]){"\n"}, 1);
    mark_tokens(t, api->breakers, (const char *const[]){"\n", ":", "\"", "*"}, 4);
    return 0;
}

void api_close(Api *api)
{
    chat_close(&api->chat);
    free(api->newlines);
    free(api->breakers);
}

// --- fields --------------------------------------------------------------------------------------

// Numbers that go straight to the sampler, with the names they have elsewhere.
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
    {"typical_p", REAL, AT(typical)},
    {"top_n_sigma", REAL, AT(top_n_sigma)},
    {"skew", REAL, AT(skew)},
    {"smoothing_factor", REAL, AT(smoothing)},
    {"min_temp", REAL, AT(dynatemp_min)},
    {"dynatemp_low", REAL, AT(dynatemp_min)},
    {"max_temp", REAL, AT(dynatemp_max)},
    {"dynatemp_high", REAL, AT(dynatemp_max)},
    {"temp_exponent", REAL, AT(dynatemp_exponent)},
    {"xtc_probability", REAL, AT(xtc_probability)},
    {"xtc_threshold", REAL, AT(xtc_threshold)},
    {"repetition_penalty", REAL, AT(repetition)},
    {"rep_pen", REAL, AT(repetition)},
    {"frequency_penalty", REAL, AT(frequency)},
    {"presence_penalty", REAL, AT(presence)},
    {"penalty_range", WHOLE, AT(penalty_range)},
    {"repetition_range", WHOLE, AT(penalty_range)},
    {"repetition_penalty_range", WHOLE, AT(penalty_range)},
    {"rep_pen_range", WHOLE, AT(penalty_range)},
    {"repetition_decay", WHOLE, AT(penalty_decay)},
    {"dry_multiplier", REAL, AT(dry_multiplier)},
    {"dry_base", REAL, AT(dry_base)},
    {"dry_allowed_length", WHOLE, AT(dry_allowed_length)},
    {"dry_range", WHOLE, AT(dry_range)},
    {"dry_penalty_last_n", WHOLE, AT(dry_range)},
    {"mirostat_mode", WHOLE, AT(mirostat)},
    {"mirostat", WHOLE, AT(mirostat)},
    {"mirostat_tau", REAL, AT(mirostat_tau)},
    {"mirostat_eta", REAL, AT(mirostat_eta)},
    {"adaptive_target", REAL, AT(adaptive_target)},
    {"adaptive_decay", REAL, AT(adaptive_decay)},
#undef AT
};

// The fields that are read one by one below, and those that change nothing here.
static const char *const other_fields[] = {"model",
                                           "stream",
                                           "stream_options",
                                           "n",
                                           "seed",
                                           "max_tokens",
                                           "min_tokens",
                                           "min_length",
                                           "stop",
                                           "stop_sequence",
                                           "banned_strings",
                                           "banned_tokens",
                                           "custom_token_bans",
                                           "allowed_tokens",
                                           "allowed_token_ids",
                                           "logit_bias",
                                           "logprobs",
                                           "top_logprobs",
                                           "top_k",
                                           "temperature_last",
                                           "xtc_random",
                                           "dry_sequence_breakers",
                                           "sampler_order",
                                           "samplers",
                                           "ban_eos_token",
                                           "ignore_eos",
                                           "token_healing",
                                           "loop_detect_window",
                                           "priority",
                                           "skip_special_tokens",
                                           "add_bos_token",
                                           "response_format",
                                           "user",
                                           "metadata",
                                           "store",
                                           "service_tier",
                                           "safety_identifier",
                                           "prompt_cache_key"};
static const char *const chat_fields[] = {"messages",
                                          "max_completion_tokens",
                                          "tools",
                                          "tool_choice",
                                          "parallel_tool_calls",
                                          "documents",
                                          "add_generation_prompt",
                                          "continue_final_message",
                                          "template_vars",
                                          "chat_template_kwargs",
                                          "reasoning_effort",
                                          "enable_thinking",
                                          "verbosity"};
static const char *const completion_fields[] = {"prompt", "max_length", "echo", "suffix",
                                                "best_of"};

static int listed(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0) return 1;
    return 0;
}
#define LISTED(name, names) listed(name, names, sizeof names / sizeof *names)

// The first of the names that is there and not null.
static const json_t *field(const json_t *body, const char *name, const char *alias)
{
    const json_t *v = json_object_get(body, name);
    if ((!v || json_is_null(v)) && alias) v = json_object_get(body, alias);
    return v && !json_is_null(v) ? v : NULL;
}

static int get_whole(const json_t *body, const char *name, const char *alias, int low, int high,
                     int *out, Refusal *r)
{
    const json_t *v = field(body, name, alias);
    if (!v) return 0;
    if (!json_is_integer(v) || json_integer_value(v) < low || json_integer_value(v) > high)
        return refuse(r, 400, name, "%s: expected a whole number from %d to %d", name, low, high);
    *out = (int)json_integer_value(v);
    return 0;
}

static int get_flag(const json_t *body, const char *name, const char *alias, int *out, Refusal *r)
{
    const json_t *v = field(body, name, alias);
    if (!v) return 0;
    if (!json_is_boolean(v)) return refuse(r, 400, name, "%s: expected true or false", name);
    *out = json_is_true(v);
    return 0;
}

static int get_id(const json_t *v, const char *name, int32_t *id, Refusal *r)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) >= model_info.vocab)
        return refuse(r, 400, name, "%s: expected token ids from 0 to %d", name,
                      model_info.vocab - 1);
    *id = (int32_t)json_integer_value(v);
    return 0;
}

// A string or a list of strings, and with `ids` also of token ids.
static int get_strings(const json_t *v, const char *name, const char ***strings, int *count,
                       int32_t **ids, int *id_count, Refusal *r)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > 256) return refuse(r, 400, name, "%s: more than 256", name);
    *strings = malloc((n + 1) * sizeof **strings);
    if (ids) *ids = malloc((n + 1) * sizeof **ids);
    if (!*strings || (ids && !*ids)) return no_memory(r);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (json_is_string(s) && json_string_length(s) > 0 && json_string_length(s) <= 4096) {
            (*strings)[(*count)++] = json_string_value(s);
        } else if (ids && json_is_integer(s)) {
            if (get_id(s, name, &(*ids)[*id_count], r) != 0) return -1;
            (*id_count)++;
        } else {
            return refuse(r, 400, name, "%s: expected strings of 1 to 4096 bytes", name);
        }
    }
    return 0;
}

static int get_order(const json_t *body, SamplerOptions *o, Refusal *r)
{
    const json_t *v = field(body, "sampler_order", "samplers");
    if (!v) {
        int last = 0;
        if (get_flag(body, "temperature_last", NULL, &last, r) != 0) return -1;
        if (!last) return 0;
        // Behind every filter, before XTC.
        int n = 0;
        for (int i = 0; i < STAGE_COUNT; i++) {
            if (i == STAGE_xtc) o->order[n++] = STAGE_temperature;
            if (i != STAGE_temperature) o->order[n++] = (uint8_t)i;
        }
        return 0;
    }
    if (field(body, "temperature_last", NULL))
        return refuse(r, 400, "temperature_last",
                      "temperature_last and sampler_order exclude each other");
    if (!json_is_array(v) || json_array_size(v) > STAGE_COUNT)
        return refuse(r, 400, "sampler_order", "sampler_order: expected a list of stages");
    o->order_count = 0;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const char *name = json_string_value(json_array_get(v, i));
        int stage = 0;
        while (name && stage < STAGE_COUNT && strcmp(stage_names[stage], name) != 0) stage++;
        if (!name || stage == STAGE_COUNT)
            return refuse(r, 400, "sampler_order", "sampler_order: no stage is called '%.40s'",
                          name ? name : "?");
        o->order[o->order_count++] = (uint8_t)stage;
    }
    return 0;
}

static int get_bias(Answer *a, SamplerOptions *o, Refusal *r)
{
    const json_t *map = field(a->body, "logit_bias", NULL);
    const json_t *bans = field(a->body, "banned_tokens", "custom_token_bans");
    if (map && !json_is_object(map))
        return refuse(r, 400, "logit_bias", "logit_bias: expected an object");
    if (bans && !json_is_array(bans))
        return refuse(r, 400, "banned_tokens", "banned_tokens: expected a list of token ids");
    size_t most = json_object_size(map) + json_array_size(bans);
    if (!most) return 0;
    a->bias_id = malloc(most * sizeof *a->bias_id);
    a->bias = malloc(most * sizeof *a->bias);
    if (!a->bias_id || !a->bias) return no_memory(r);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map, key, value)
    {
        char *end;
        long id = strtol(key, &end, 10);
        if (*end || end == key || id < 0 || id >= model_info.vocab || !json_is_number(value) ||
            fabs(json_number_value(value)) > 1000)
            return refuse(
                r, 400, "logit_bias",
                "logit_bias: expected token ids from 0 to %d and numbers from -1000 to 1000",
                model_info.vocab - 1);
        a->bias_id[o->bias_count] = (int32_t)id;
        // OpenAI's -100 is a ban.
        float bias = (float)json_number_value(value);
        a->bias[o->bias_count++] = bias <= -100 ? -INFINITY : bias;
    }
    for (size_t i = 0; i < json_array_size(bans); i++, o->bias_count++) {
        if (get_id(json_array_get(bans, i), "banned_tokens", &a->bias_id[o->bias_count], r) != 0)
            return -1;
        a->bias[o->bias_count] = -INFINITY;
    }
    o->bias_id = a->bias_id;
    o->bias = a->bias;
    return 0;
}

static int get_allowed(Answer *a, SamplerOptions *o, Refusal *r)
{
    const json_t *list = field(a->body, "allowed_tokens", "allowed_token_ids");
    if (!list || (json_is_array(list) && !json_array_size(list))) return 0;
    if (!json_is_array(list))
        return refuse(r, 400, "allowed_tokens", "allowed_tokens: expected a list of token ids");
    a->allowed = calloc(BIT_WORDS(model_info.vocab), 4);
    if (!a->allowed) return no_memory(r);
    for (size_t i = 0; i < json_array_size(list); i++) {
        int32_t id;
        if (get_id(json_array_get(list, i), "allowed_tokens", &id, r) != 0) return -1;
        ADD_BIT(a->allowed, id);
    }
    o->allowed = a->allowed;
    return 0;
}

static int get_breakers(const Api *api, Answer *a, SamplerOptions *o, Refusal *r)
{
    const json_t *v = field(a->body, "dry_sequence_breakers", NULL);
    const char **strings = NULL;
    int count = 0;
    o->breakers = api->breakers;
    o->protected = api->newlines;
    if (!v) return 0;
    a->breakers = calloc(BIT_WORDS(model_info.vocab), 4);
    int status = a->breakers
                     ? get_strings(v, "dry_sequence_breakers", &strings, &count, NULL, NULL, r)
                     : no_memory(r);
    if (status == 0) mark_tokens(api->tokens, a->breakers, strings, count);
    free(strings);
    o->breakers = a->breakers;
    return status;
}

static uint64_t random_bits(void)
{
    uint64_t bits;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits) bits = (uint64_t)time(NULL);
    return bits;
}

static int get_sampler(const Api *api, Answer *a, SamplerOptions *o, Refusal *r)
{
    const ModelInfo *m = &model_info;
    *o = sampler_defaults;
    o->temperature = (float)m->temperature;
    o->top_k = m->top_k;
    o->top_p = (float)m->top_p;
    o->min_p = (float)m->min_p;
    for (size_t i = 0; i < sizeof sampler_fields / sizeof *sampler_fields; i++) {
        const char *name = sampler_fields[i].name;
        const json_t *v = field(a->body, name, NULL);
        char *at = (char *)o + sampler_fields[i].offset;
        if (!v) continue;
        if (!json_is_number(v) || (sampler_fields[i].kind == WHOLE && !json_is_integer(v)))
            return refuse(r, 400, name, "%s: expected a %snumber", name,
                          sampler_fields[i].kind == WHOLE ? "whole " : "");
        if (sampler_fields[i].kind == REAL)
            *(float *)at = (float)json_number_value(v);
        else if (llabs(json_integer_value(v)) > INT32_MAX)
            return refuse(r, 400, name, "%s: %lld is out of range", name,
                          (long long)json_integer_value(v));
        else
            *(int *)at = (int)json_integer_value(v);
    }
    int top_k = o->top_k;
    if (get_whole(a->body, "top_k", NULL, -1, INT32_MAX, &top_k, r) != 0) return -1;
    o->top_k = top_k < 0 ? 0 : top_k;
    const json_t *seed = field(a->body, "seed", NULL);
    if (seed && !json_is_integer(seed))
        return refuse(r, 400, "seed", "seed: expected a whole number");
    o->seed = seed ? (uint64_t)json_integer_value(seed) : random_bits();
    if (get_flag(a->body, "xtc_random", NULL, &o->xtc_random, r) != 0 ||
        get_order(a->body, o, r) != 0 || get_bias(a, o, r) != 0 || get_allowed(a, o, r) != 0 ||
        get_breakers(api, a, o, r) != 0)
        return -1;
    Error err;
    if (sampler_check(o, &err) != 0) {
        int name = (int)strcspn(err.text, " ");
        char param[64];
        snprintf(param, sizeof param, "%.*s", name, err.text);
        return refuse(r, 400, param, "%s", err.text);
    }
    return 0;
}

// --- prompts -------------------------------------------------------------------------------------

static int encode(const Api *api, const char *text, size_t bytes, int flags, const char *name,
                  TokenList *out, Refusal *r)
{
    Error err;
    if (tokens_encode(api->tokens, text, bytes, flags, out, &err) != 0)
        return refuse(r, 400, name, "%s: %s", name, err.text);
    for (size_t i = 0; i < out->count; i++)
        if (out->id[i] >= model_info.vocab)
            return refuse(r, 400, name, "%s: token %d is beyond the model's vocabulary of %d", name,
                          out->id[i], model_info.vocab);
    return 0;
}

static int get_prompt(const Api *api, const json_t *v, int flags, TokenList *out, Refusal *r)
{
    if (json_is_string(v))
        return encode(api, json_string_value(v), json_string_length(v), flags, "prompt", out, r);
    if (!json_is_array(v))
        return refuse(r, 400, "prompt", "prompt: expected a string, token ids, or a list of them");
    out->id = malloc(4 * (json_array_size(v) + 1));
    if (!out->id) return no_memory(r);
    for (size_t i = 0; i < json_array_size(v); i++, out->count++)
        if (get_id(json_array_get(v, i), "prompt", &out->id[i], r) != 0) return -1;
    return 0;
}

static int get_prompts(const Api *api, Answer *a, Refusal *r)
{
    const json_t *v = field(a->body, "prompt", NULL);
    int bos = 1;
    if (!v) return refuse(r, 400, "prompt", "prompt is missing");
    if (get_flag(a->body, "add_bos_token", NULL, &bos, r) != 0) return -1;
    int flags = TOKENS_PARSE_SPECIAL | (bos ? TOKENS_ADD_SPECIAL : 0);
    // A list of strings or of lists is several prompts; a list of numbers is one.
    int several = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    if (several && (json_array_size(v) < 1 || json_array_size(v) > MOST_CHOICES))
        return refuse(r, 400, "prompt", "prompt: expected 1 to %d prompts", MOST_CHOICES);
    a->prompts = several ? (int)json_array_size(v) : 1;
    a->prompt = calloc((size_t)a->prompts, sizeof *a->prompt);
    if (!a->prompt) return no_memory(r);
    for (int i = 0; i < a->prompts; i++)
        if (get_prompt(api, several ? json_array_get(v, (size_t)i) : v, flags, &a->prompt[i], r) !=
            0)
            return -1;
    return 0;
}

// The tools that the model is to know, into a->tools.
static int get_tools(Answer *a, Refusal *r)
{
    const json_t *tools = field(a->body, "tools", NULL), *tool;
    const json_t *choice = field(a->body, "tool_choice", NULL);
    int parallel = 1;
    size_t i;
    if (get_flag(a->body, "parallel_tool_calls", NULL, &parallel, r) != 0) return -1;
    if (!parallel)
        return refuse(r, 400, "parallel_tool_calls", "parallel_tool_calls: only true is there yet");
    if (tools && !json_is_array(tools))
        return refuse(r, 400, "tools", "tools: expected a list of functions");
    json_array_foreach(tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function");
        if (!type || strcmp(type, "function") != 0 ||
            !json_is_string(json_object_get(function, "name")))
            return refuse(r, 400, "tools", "tools: number %zu is no function with a name", i);
    }
    const char *name = json_string_value(choice);
    int none = name && strcmp(name, "none") == 0;
    if (choice && !none && (!name || strcmp(name, "auto") != 0))
        return refuse(r, 400, "tool_choice", "tool_choice: only auto and none are there yet");
    a->tools = none || !json_array_size(tools) ? NULL : tools;
    return 0;
}

// What a template may use: the conversation and whatever the request sets for it.
static int get_values(const Answer *a, json_t *values, Refusal *r)
{
    static const char *const taken[] = {"messages", "documents", "reasoning_effort",
                                        "enable_thinking", "verbosity"};
    const json_t *more = field(a->body, "template_vars", "chat_template_kwargs");
    int resume = 0;
    if (more && !json_is_object(more))
        return refuse(r, 400, "chat_template_kwargs", "chat_template_kwargs: expected an object");
    if (get_flag(a->body, "continue_final_message", NULL, &resume, r) != 0) return -1;
    int begin = !resume;
    if (get_flag(a->body, "add_generation_prompt", NULL, &begin, r) != 0) return -1;
    if (begin && resume)
        return refuse(r, 400, "continue_final_message",
                      "continue_final_message and add_generation_prompt exclude each other");
    json_object_set_new(values, "add_generation_prompt", json_boolean(begin));
    json_object_set_new(values, "continue_final_message", json_boolean(resume));
    if (more) json_object_update(values, (json_t *)more);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        const json_t *v = field(a->body, taken[i], NULL);
        if (v) json_object_set(values, taken[i], (json_t *)v);
    }
    if (a->tools) json_object_set(values, "tools", (json_t *)a->tools);
    return 0;
}

static int get_messages(const Api *api, Answer *a, Refusal *r)
{
    const json_t *messages = field(a->body, "messages", NULL);
    if (!json_is_array(messages) || !json_array_size(messages))
        return refuse(r, 400, "messages", "messages: expected a list of at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (!json_is_string(json_object_get(json_array_get(messages, i), "role")))
            return refuse(r, 400, "messages", "messages: number %zu has no role", i);
    a->prompts = 1;
    a->prompt = calloc(1, sizeof *a->prompt);
    json_t *values = json_object();
    ChatPrompt prompt = {0};
    Error err;
    int status = a->prompt && values ? get_tools(a, r) : no_memory(r);
    if (status == 0) status = get_values(a, values, r);
    if (status == 0 && chat_prompt(&api->chat, values, &prompt, &err) != 0)
        status = refuse(r, 400, "messages", "%s", err.text);
    if (status == 0)
        status =
            encode(api, prompt.text, prompt.bytes, TOKENS_PARSE_SPECIAL, "messages", a->prompt, r);
    a->format = prompt.format;
    a->in_reasoning = prompt.in_reasoning;
    free(prompt.text);
    json_decref(values);
    return status;
}

// --- parts of replies ----------------------------------------------------------------------------

// Bytes as a JSON string; what is no UTF-8 on its own becomes replacement characters.
static json_t *text_json(const char *text, size_t bytes)
{
    json_t *s = json_stringn(text, bytes);
    return s ? s : json_string("\xef\xbf\xbd");
}

static void say_text(void *to, int reasoning, const char *text, size_t bytes)
{
    struct Said *said = to;
    json_array_append_new(
        said->deltas,
        json_pack("{s:o}", reasoning ? "reasoning_content" : "content", text_json(text, bytes)));
}

static void say_call(void *to, const char *id, const char *name, const char *arguments,
                     size_t bytes)
{
    struct Said *said = to;
    char made[10] = ""; // nine letters and digits: the form that Mistral's templates insist on
    uint64_t bits = random_bits();
    for (int i = 0; i < 9; i++, bits /= 36)
        made[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[bits % 36];
    json_t *call =
        json_pack("{s:i, s:s, s:s, s:{s:o, s:o}}", "index", said->calls++, "id", id ? id : made,
                  "type", "function", "function", "name", text_json(name, strlen(name)),
                  "arguments", text_json(arguments, bytes));
    json_array_append_new(said->deltas, json_pack("{s:[o]}", "tool_calls", call));
}

static void open_said(Answer *a, int i)
{
    struct Said *said = &a->said[i];
    if (!a->chat) return;
    said->deltas = json_array();
    reply_open(&said->reply, a->format, a->in_reasoning, a->tools,
               (ReplySink){said, say_text, say_call});
}

// Splits what has been decided since into said->deltas.
static int read_reply(const Job *job, struct Said *said, Error *err)
{
    size_t bytes = job->decided - said->bytes;
    if ((bytes && reply_feed(&said->reply, job->text.data + said->bytes, bytes) != 0) ||
        (job->reason != REASON_NONE && reply_finish(&said->reply) != 0))
        return error_set(err, "out of memory");
    said->bytes = job->decided;
    return 0;
}

// The message that deltas add up to; content is null where there are calls alone.
static json_t *join_deltas(const json_t *deltas)
{
    json_t *message = json_pack("{s:s, s:n, s:n}", "role", "assistant", "content", "refusal");
    json_t *delta, *value;
    const char *key;
    size_t i;
    json_array_foreach(deltas, i, delta) json_object_foreach(delta, key, value)
    {
        json_t *before = json_object_get(message, key);
        if (!before || json_is_null(before))
            json_object_set(message, key, value);
        else if (json_is_array(value))
            json_array_extend(before, value);
        else
            json_object_set_new(message, key,
                                json_pack("s%+%", json_string_value(before),
                                          json_string_length(before), json_string_value(value),
                                          json_string_length(value)));
    }
    json_array_foreach(json_object_get(message, "tool_calls"), i, value)
        json_object_del(value, "index");
    if (!json_object_get(message, "tool_calls") &&
        json_is_null(json_object_get(message, "content")))
        json_object_set_new(message, "content", json_string(""));
    return message;
}

// --- requests ------------------------------------------------------------------------------------

static int check_fields(const Answer *a, Refusal *r)
{
    const char *key;
    json_t *value;
    json_object_foreach(a->body, key, value)
    {
        int known = LISTED(key, other_fields) ||
                    (a->chat ? LISTED(key, chat_fields) : LISTED(key, completion_fields));
        for (size_t i = 0; i < sizeof sampler_fields / sizeof *sampler_fields && !known; i++)
            known = strcmp(key, sampler_fields[i].name) == 0;
        if (!known) {
            refuse(r, 400, key, "Unrecognized request argument supplied: %.100s", key);
            r->code = "unknown_parameter";
            return -1;
        }
    }
    const json_t *format = field(a->body, "response_format", NULL);
    const char *type = json_string_value(json_object_get(format, "type"));
    if (format && (!type || strcmp(type, "text") != 0))
        return refuse(r, 400, "response_format", "response_format: only text is there yet");
    if (field(a->body, "suffix", NULL))
        return refuse(r, 400, "suffix", "suffix: this model does not fill in");
    return 0;
}

static int get_logprobs(const Answer *a, Job *job, Refusal *r)
{
    if (!a->chat) return get_whole(a->body, "logprobs", NULL, 0, MOST_LOGPROBS, &job->logprobs, r);
    int on = 0, top = -1;
    if (get_flag(a->body, "logprobs", NULL, &on, r) != 0 ||
        get_whole(a->body, "top_logprobs", NULL, 0, MOST_LOGPROBS, &top, r) != 0)
        return -1;
    if (top >= 0 && !on)
        return refuse(r, 400, "top_logprobs", "top_logprobs goes with logprobs true");
    job->logprobs = on ? top > 0 ? top : 0 : -1;
    return 0;
}

// Everything that all choices have in common.
static int get_job(const Api *api, Answer *a, Job *job, int *choices, Refusal *r)
{
    const json_t *body = a->body, *options = field(body, "stream_options", NULL), *v;
    int skip_special = 1, best_of = -1, most = api->generator->batch.max_context;
    job->max_tokens = -1;
    if (get_sampler(api, a, &job->sampler, r) != 0 ||
        get_flag(body, "stream", NULL, &a->stream, r) != 0 ||
        get_flag(options, "include_usage", NULL, &a->include_usage, r) != 0 ||
        get_flag(body, "echo", NULL, &a->echo, r) != 0 ||
        get_whole(body, "n", NULL, 1, MOST_CHOICES, choices, r) != 0 ||
        get_whole(body, "best_of", NULL, 1, MOST_CHOICES, &best_of, r) != 0 ||
        get_whole(body, "max_tokens", a->chat ? "max_completion_tokens" : "max_length", 0,
                  INT32_MAX, &job->max_tokens, r) != 0 ||
        get_whole(body, "min_tokens", "min_length", 0, INT32_MAX, &job->min_tokens, r) != 0 ||
        get_whole(body, "priority", NULL, -1000, 1000, &job->priority, r) != 0 ||
        get_whole(body, "loop_detect_window", NULL, 0, most, &job->loop_window, r) != 0 ||
        get_flag(body, "token_healing", NULL, &job->heal, r) != 0 ||
        get_flag(body, "ban_eos_token", "ignore_eos", &job->ignore_end, r) != 0 ||
        get_flag(body, "skip_special_tokens", NULL, &skip_special, r) != 0 ||
        get_logprobs(a, job, r) != 0)
        return -1;
    // A reply's format is made of special tokens, so in chats only the others are hidden.
    job->show_special = a->chat || !skip_special;
    job->hidden = a->chat && skip_special ? api->chat.hidden : NULL;
    if (options && !json_is_object(options))
        return refuse(r, 400, "stream_options", "stream_options: expected an object");
    if (options && !a->stream)
        return refuse(r, 400, "stream_options", "stream_options goes with stream true");
    if (best_of >= 0 && best_of != *choices)
        return refuse(r, 400, "best_of", "best_of: only as many as n");
    if (a->echo && job->logprobs >= 0)
        return refuse(r, 400, "echo", "echo with logprobs is not there yet");
    if ((v = field(body, "stop", "stop_sequence")) &&
        get_strings(v, "stop", &a->stop, &job->stop_count, &a->stop_ids, &job->stop_id_count, r) !=
            0)
        return -1;
    if ((v = field(body, "banned_strings", NULL)) &&
        get_strings(v, "banned_strings", &a->banned, &job->banned_count, NULL, NULL, r) != 0)
        return -1;
    job->stop = a->stop;
    job->stop_id = a->stop_ids;
    job->banned = a->banned;
    return 0;
}

int api_request(Api *api, json_t *body, int chat, Answer **out, Refusal *r)
{
    Answer *a = calloc(1, sizeof *a);
    *out = a;
    if (!a) return no_memory(r);
    a->chat = chat;
    a->body = json_incref(body);
    a->created = time(NULL);
    snprintf(a->id, sizeof a->id, "%s-%016llx", chat ? "chatcmpl" : "cmpl",
             (unsigned long long)random_bits());
    if (!json_is_object(body)) return refuse(r, 400, "", "expected a JSON object");
    Job common;
    int choices = 1;
    job_init(&common);
    if (check_fields(a, r) != 0 || get_job(api, a, &common, &choices, r) != 0 ||
        (chat ? get_messages(api, a, r) : get_prompts(api, a, r)) != 0)
        return -1;
    if (a->prompts * choices > MOST_CHOICES)
        return refuse(r, 400, "n", "more than %d choices", MOST_CHOICES);
    a->jobs = calloc((size_t)(a->prompts * choices), sizeof *a->jobs);
    a->said = calloc((size_t)(a->prompts * choices), sizeof *a->said);
    if (!a->jobs || !a->said) return no_memory(r);
    for (int i = 0; i < a->prompts * choices; i++) {
        Job *job = &a->jobs[i];
        const TokenList *prompt = &a->prompt[i / choices];
        *job = common;
        a->job_count++;
        open_said(a, i);
        if (!prompt->count)
            return refuse(r, 400, "prompt",
                          "the prompt has no tokens, and the tokenizer adds none");
        int context = api->generator->batch.max_context,
            cache = api->generator->batch.options.pages[POOL_ALL] * PAGE;
        int room = context < cache ? context : cache;
        if (prompt->count > (size_t)context) { // counted as an answer of one token
            job->max_tokens = 1;
            job->prompt_count = prompt->count < INT32_MAX ? (int)prompt->count : INT32_MAX - 1;
        } else {
            job->prompt_count = (int)prompt->count;
        }
        job->prompt = prompt->id;
        if (job->max_tokens < 0)
            job->max_tokens = room > job->prompt_count ? room - job->prompt_count : 1;
        job->sampler.seed += (uint64_t)(i % choices);
        if (generator_check(api->generator, job, &r->error) != 0) {
            Error err = r->error;
            refuse(r, 400, chat ? "messages" : "prompt", "%s", err.text);
            r->code = "context_length_exceeded";
            return -1;
        }
    }
    return 0;
}

void api_free(Answer *a)
{
    if (!a) return;
    for (int i = 0; i < a->job_count; i++) {
        job_close(&a->jobs[i]);
        reply_close(&a->said[i].reply);
        json_decref(a->said[i].deltas);
    }
    for (int i = 0; a->prompt && i < a->prompts; i++) free(a->prompt[i].id);
    free(a->prompt);
    free(a->jobs);
    free(a->said);
    free(a->allowed);
    free(a->breakers);
    free(a->bias_id);
    free(a->bias);
    free(a->stop_ids);
    free(a->stop);
    free(a->banned);
    json_decref(a->body);
    free(a);
}

// --- answers -------------------------------------------------------------------------------------

static json_t *bytes_json(const char *text, size_t bytes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < bytes; i++)
        json_array_append_new(list, json_integer((unsigned char)text[i]));
    return list;
}

static json_t *likely_json(const Api *api, int32_t id, float logprob)
{
    size_t bytes;
    const char *text = tokens_bytes(api->tokens, id, &bytes);
    return json_pack("{s:o, s:f, s:o, s:i}", "token", text_json(text, bytes), "logprob",
                     (double)logprob, "bytes", bytes_json(text, bytes), "token_id", id);
}

// Tokens from .. to-1 of a job, in the form of its endpoint; null when nobody asked.
static json_t *logprobs_json(const Api *api, const Answer *a, const Job *job, int from, int to)
{
    if (job->logprobs < 0) return json_null();
    json_t *content = json_array(), *tokens = json_array(), *values = json_array(),
           *tops = json_array(), *offsets = json_array();
    for (int i = from; i < to; i++) {
        const Token *t = &job->token[i];
        const Likely *likely = job->likely ? job->likely + (size_t)i * (size_t)job->logprobs : NULL;
        json_t *one = likely_json(api, t->id, t->logprob), *list = json_array(),
               *map = json_object();
        for (int k = 0; k < job->logprobs && k < model_info.vocab; k++) {
            json_t *l = likely_json(api, likely[k].id, likely[k].logprob);
            json_object_set(map, json_string_value(json_object_get(l, "token")),
                            json_object_get(l, "logprob"));
            json_array_append_new(list, l);
        }
        json_array_append(tokens, json_object_get(one, "token"));
        json_array_append(values, json_object_get(one, "logprob"));
        json_array_append_new(offsets, json_integer(i ? job->token[i - 1].end : 0));
        json_array_append_new(tops, map);
        json_object_set_new(one, "top_logprobs", list);
        json_array_append_new(content, one);
    }
    json_t *result = a->chat ? json_pack("{s:O, s:n}", "content", content, "refusal")
                             : json_pack("{s:O, s:O, s:O, s:O}", "tokens", tokens, "token_logprobs",
                                         values, "top_logprobs", tops, "text_offset", offsets);
    json_decref(content);
    json_decref(tokens);
    json_decref(values);
    json_decref(tops);
    json_decref(offsets);
    return result;
}

static const char *finish_reason(const Answer *a, int i)
{
    if (a->jobs[i].reason == REASON_LENGTH) return "length";
    return a->said[i].calls ? "tool_calls" : "stop";
}

// What ended an answer, beyond finish_reason.
static void add_ending(json_t *choice, const Job *job)
{
    if (job->stopped_by) json_object_set_new(choice, "stop_str", json_string(job->stopped_by));
    if (job->reason == REASON_LOOP)
        json_object_set_new(choice, "eos_reason", json_string("loop_detected"));
}

static json_t *usage_json(const Answer *a)
{
    int64_t prompt = 0, reused = 0, drawn = 0;
    double queue = 0, reading = 0, writing = 0;
    int choices = a->job_count / a->prompts;
    for (int i = 0; i < a->job_count; i++) {
        const Job *job = &a->jobs[i];
        if (i % choices == 0) prompt += job->prompt_count, reused += job->reused;
        drawn += job->token_count;
        double first = job->first ? job->first : job->ended;
        queue = fmax(queue, job->started - job->submitted);
        reading = fmax(reading, first - job->started);
        writing = fmax(writing, job->ended - first);
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:f, s:f, s:f, s:f, s:f}", "prompt_tokens", prompt,
                     "completion_tokens", drawn, "total_tokens", prompt + drawn,
                     "prompt_tokens_details", "cached_tokens", reused, "queue_time", queue,
                     "prompt_time", reading, "completion_time", writing, "prompt_tokens_per_sec",
                     reading > 0 ? (double)(prompt - reused) / reading : 0,
                     "completion_tokens_per_sec", writing > 0 ? (double)drawn / writing : 0);
}

int api_finished(const Answer *a)
{
    for (int i = 0; i < a->job_count; i++)
        if (a->jobs[i].reason == REASON_NONE) return 0;
    return 1;
}

static int add_event(TokenText *out, json_t *event, Error *err)
{
    char *text = event ? json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    size_t bytes = text ? strlen(text) : 0;
    json_decref(event);
    if (text && out->bytes + bytes + 9 > out->room) {
        size_t room = 2 * (out->bytes + bytes) + 1024;
        char *larger = realloc(out->data, room);
        if (larger) out->data = larger, out->room = room;
    }
    if (!text || out->bytes + bytes + 9 > out->room) {
        free(text);
        return error_set(err, "out of memory");
    }
    out->bytes += (size_t)sprintf(out->data + out->bytes, "data: %s\n\n", text);
    free(text);
    return 0;
}

static json_t *chunk_json(const Api *api, const Answer *a, json_t *choices)
{
    json_t *chunk = json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", a->id, "object",
                              a->chat ? "chat.completion.chunk" : "text_completion", "created",
                              (json_int_t)a->created, "model", api->name, "choices", choices);
    if (a->include_usage) json_object_set_new(chunk, "usage", json_null());
    return chunk;
}

// Text of the prompt that an echoing answer begins with.
static json_t *echoed(const Api *api, const Answer *a, const Job *job)
{
    TokenText text = {0};
    Error err;
    if (!a->echo ||
        tokens_decode(api->tokens, job->prompt, (size_t)job->prompt_count, 1, &text, &err) != 0)
        text.bytes = 0;
    json_t *s = text_json(text.data ? text.data : "", text.bytes);
    free(text.data);
    return s;
}

static json_t *with_echo(const Api *api, const Answer *a, const Job *job, json_t *text)
{
    if (!a->echo || !text) return text;
    json_t *prompt = echoed(api, a, job);
    json_t *both = json_sprintf("%s%s", json_string_value(prompt), json_string_value(text));
    json_decref(prompt);
    json_decref(text);
    return both;
}

// One event of one choice: its news under `key`, and the reason when it is the last.
static int add_choice(Api *api, Answer *a, int i, const char *key, json_t *news, int last,
                      TokenText *out, Error *err)
{
    const Job *job = &a->jobs[i];
    struct Said *said = &a->said[i];
    json_t *choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", i, key, news, "logprobs",
                               logprobs_json(api, a, job, said->tokens, job->tokens_decided),
                               "finish_reason", last ? finish_reason(a, i) : NULL);
    said->tokens = job->tokens_decided;
    said->done = last;
    if (last) add_ending(choice, job);
    return add_event(out, chunk_json(api, a, json_pack("[o]", choice)), err);
}

static int add_text(Api *api, Answer *a, int i, TokenText *out, Error *err)
{
    const Job *job = &a->jobs[i];
    struct Said *said = &a->said[i];
    int last = job->reason != REASON_NONE, begun = said->begun;
    if (!last && job->decided == said->bytes && begun) return 0;
    json_t *text =
        text_json(job->text.data ? job->text.data + said->bytes : "", job->decided - said->bytes);
    if (!begun) text = with_echo(api, a, job, text);
    said->begun = 1;
    said->bytes = job->decided;
    return add_choice(api, a, i, "text", text, last, out, err);
}

// As OpenAI's API has it: the role first, parts as they come, the reason with an empty delta.
static int add_deltas(Api *api, Answer *a, int i, TokenText *out, Error *err)
{
    const Job *job = &a->jobs[i];
    struct Said *said = &a->said[i];
    json_t *delta;
    size_t k;
    if (!said->begun) {
        json_t *begin = json_pack("[{s:i, s:{s:s, s:s}, s:n, s:n}]", "index", i, "delta", "role",
                                  "assistant", "content", "", "logprobs", "finish_reason");
        if (add_event(out, chunk_json(api, a, begin), err) != 0) return -1;
    }
    said->begun = 1;
    if (read_reply(job, said, err) != 0) return -1;
    json_array_foreach(said->deltas, k, delta)
    {
        if (add_choice(api, a, i, "delta", json_incref(delta), 0, out, err) != 0) return -1;
    }
    json_array_clear(said->deltas);
    if (job->reason == REASON_NONE) return 0;
    return add_choice(api, a, i, "delta", json_object(), 1, out, err);
}

int api_events(Api *api, Answer *a, TokenText *out, Error *err)
{
    for (int i = 0; i < a->job_count; i++) {
        if (a->jobs[i].reason == REASON_FAILED || a->jobs[i].reason == REASON_CANCELLED) continue;
        if (a->said[i].done) continue;
        if ((a->chat ? add_deltas : add_text)(api, a, i, out, err) != 0) return -1;
    }
    if (!api_finished(a)) return 0;
    for (int i = 0; i < a->job_count; i++) {
        Refusal r;
        int failed = a->jobs[i].reason == REASON_FAILED;
        if (!failed && a->jobs[i].reason != REASON_CANCELLED) continue;
        refuse(&r, failed ? 500 : 503, "", "%s",
               failed ? a->jobs[i].error.text : "the server is shutting down");
        if (add_event(out, api_error(&r), err) != 0) return -1;
    }
    if (a->include_usage) {
        json_t *chunk = chunk_json(api, a, json_array());
        json_object_set_new(chunk, "usage", usage_json(a));
        if (add_event(out, chunk, err) != 0) return -1;
    }
    return 0;
}

json_t *api_response(Api *api, Answer *a, Refusal *r)
{
    json_t *choices = json_array();
    for (int i = 0; i < a->job_count; i++) {
        const Job *job = &a->jobs[i];
        if (job->reason == REASON_FAILED || job->reason == REASON_CANCELLED) {
            json_decref(choices);
            refuse(r, job->reason == REASON_FAILED ? 500 : 503, "", "%s",
                   job->reason == REASON_FAILED ? job->error.text : "the server is shutting down");
            return NULL;
        }
        Error err;
        if (a->chat && read_reply(job, &a->said[i], &err) != 0) {
            json_decref(choices);
            no_memory(r);
            return NULL;
        }
        json_t *choice = json_pack("{s:i, s:o, s:s}", "index", i, "logprobs",
                                   logprobs_json(api, a, job, 0, job->token_count), "finish_reason",
                                   finish_reason(a, i));
        if (a->chat)
            json_object_set_new(choice, "message", join_deltas(a->said[i].deltas));
        else
            json_object_set_new(
                choice, "text",
                with_echo(api, a, job,
                          text_json(job->text.data ? job->text.data : "", job->text.bytes)));
        add_ending(choice, job);
        json_array_append_new(choices, choice);
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", a->id, "object",
                     a->chat ? "chat.completion" : "text_completion", "created",
                     (json_int_t)a->created, "model", api->name, "choices", choices, "usage",
                     usage_json(a));
}

// --- endpoints that answer at once ---------------------------------------------------------------

static json_t *model_json(const Api *api)
{
    return json_pack("{s:s, s:s, s:i, s:s, s:i}", "id", api->name, "object", "model", "created", 0,
                     "owned_by", "exlc", "max_model_len", api->generator->batch.max_context);
}

json_t *api_models(const Api *api)
{
    return json_pack("{s:s, s:[o]}", "object", "list", "data", model_json(api));
}

json_t *api_model(const Api *api)
{
    const DeviceOptions *o = &api->generator->batch.options;
    json_t *m = model_json(api);
    Error err;
    json_object_set_new(
        m, "parameters",
        json_pack("{s:s, s:I, s:f, s:i, s:i, s:s, s:i, s:i, s:b, s:s, s:b}", "architecture",
                  model_info.architecture, "parameters", (json_int_t)model_info.parameters, "bits",
                  model_info.bits, "max_seq_len", o->max_context, "cache_size", o->pages[POOL_ALL] * PAGE,
                  "cache_mode", "FP16", "max_batch_size", o->max_sequences, "chunk_size",
                  o->max_rows, "prompt_template", chat_check(&api->chat, &err) == 0, "build",
                  model_info.build_id, "use_vision", 0));
    return m;
}

json_t *api_props(const Api *api)
{
    const DeviceOptions *o = &api->generator->batch.options;
    const char *source = chat_template(&api->chat);
    return json_pack("{s:i, s:{s:i, s:s}, s:s, s:s}", "total_slots", o->max_sequences,
                     "default_generation_settings", "n_ctx", o->max_context, "model", api->name,
                     "chat_template", source ? source : "", "build_info", model_info.exlc_version);
}

json_t *api_encode(const Api *api, const json_t *body, Refusal *r)
{
    const json_t *text = field(body, "text", "content");
    if (!text) text = field(body, "prompt", NULL);
    int bos = 1, special = 1;
    TokenList ids = {0};
    json_t *result = NULL;
    if (!json_is_string(text)) {
        refuse(r, 400, "text", "text (or content, or prompt): expected a string");
        return NULL;
    }
    if (get_flag(body, "add_bos_token", "add_special", &bos, r) != 0 ||
        get_flag(body, "add_special_tokens", NULL, &bos, r) != 0 ||
        get_flag(body, "encode_special_tokens", "parse_special", &special, r) != 0)
        return NULL;
    int flags = (bos ? TOKENS_ADD_SPECIAL : 0) | (special ? TOKENS_PARSE_SPECIAL : 0);
    if (encode(api, json_string_value(text), json_string_length(text), flags, "text", &ids, r) ==
        0) {
        json_t *list = json_array();
        for (size_t i = 0; i < ids.count; i++) json_array_append_new(list, json_integer(ids.id[i]));
        result = json_pack("{s:o, s:I, s:I, s:i}", "tokens", list, "length", (json_int_t)ids.count,
                           "count", (json_int_t)ids.count, "max_model_len",
                           api->generator->batch.max_context);
    }
    free(ids.id);
    return result;
}

json_t *api_decode(const Api *api, const json_t *body, Refusal *r)
{
    const json_t *list = field(body, "tokens", NULL);
    int special = 0;
    Error err;
    TokenList ids = {0};
    TokenText text = {0};
    json_t *result = NULL;
    if (!json_is_array(list)) {
        refuse(r, 400, "tokens", "tokens: expected a list of token ids");
        return NULL;
    }
    if (get_flag(body, "decode_special_tokens", NULL, &special, r) != 0) return NULL;
    if (get_prompt(api, list, 0, &ids, r) == 0) {
        if (tokens_decode(api->tokens, ids.id, ids.count, !special, &text, &err) != 0) {
            refuse(r, 400, "tokens", "tokens: %s", err.text);
        } else {
            json_t *s = text_json(text.data ? text.data : "", text.bytes);
            result = json_pack("{s:O, s:O, s:o}", "text", s, "content", s, "prompt", s);
        }
    }
    free(text.data);
    free(ids.id);
    return result;
}

json_t *api_cache(const Api *api)
{
    Generator *g = api->generator;
    pthread_mutex_lock(&g->lock);
    GeneratorStats s = g->stats;
    pthread_mutex_unlock(&g->lock);
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:I, s:I}", "page_tokens", PAGE, "pages", s.pages,
                     "pages_used", s.pages_used, "running", s.running, "queued", s.queued,
                     "prompt_tokens", (json_int_t)s.prompt_tokens, "reused_tokens",
                     (json_int_t)s.reused_tokens);
}

int api_metrics(const Api *api, TokenText *out, Error *err)
{
    Generator *g = api->generator;
    pthread_mutex_lock(&g->lock);
    GeneratorStats s = g->stats;
    pthread_mutex_unlock(&g->lock);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"requests_total", "counter", "Sequences asked for.", (double)s.requests},
        {"requests_cancelled_total", "counter", "Sequences whose client left.",
         (double)s.cancelled},
        {"requests_failed_total", "counter", "Sequences that failed.", (double)s.failed},
        {"requests_running", "gauge", "Sequences in the batch.", s.running},
        {"requests_waiting", "gauge", "Sequences in the queue.", s.queued},
        {"prompt_tokens_total", "counter", "Prompt tokens of ended sequences.",
         (double)s.prompt_tokens},
        {"prompt_tokens_cached_total", "counter", "Of them found in the cache.",
         (double)s.reused_tokens},
        {"generation_tokens_total", "counter", "Tokens drawn.", (double)s.drawn_tokens},
        {"cache_usage_ratio", "gauge", "Share of the cache's pages in use.",
         (double)s.pages_used / s.pages},
        {"queue_seconds_total", "counter", "Time spent in the queue.", s.queue_seconds},
    };
    size_t room = 8192;
    char *p = out->data = malloc(room);
    if (!p) return error_set(err, "out of memory");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        p += sprintf(p, "# HELP exlc:%s %s\n# TYPE exlc:%s %s\nexlc:%s %.9g\n", rows[i].name,
                     rows[i].help, rows[i].name, rows[i].type, rows[i].name, rows[i].value);
    p += sprintf(p,
                 "# HELP exlc:time_to_first_token_seconds From request to first token.\n"
                 "# TYPE exlc:time_to_first_token_seconds summary\n"
                 "exlc:time_to_first_token_seconds_sum %.9g\n"
                 "exlc:time_to_first_token_seconds_count %llu\n"
                 "# HELP exlc:inter_token_latency_seconds Between tokens of a sequence.\n"
                 "# TYPE exlc:inter_token_latency_seconds summary\n"
                 "exlc:inter_token_latency_seconds_sum %.9g\n"
                 "exlc:inter_token_latency_seconds_count %llu\n",
                 s.first_token_seconds, (unsigned long long)s.first_tokens, s.token_seconds,
                 (unsigned long long)s.token_gaps);
    out->bytes = (size_t)(p - out->data);
    out->room = room;
    return 0;
}
