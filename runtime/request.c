// Requests to jobs.
#include "request.h"
#include "answer.h"
#include "constrain.h"
#include "foreign.h"
#include "program.h"
#include "sampling.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_CHOICES 128
#define MOST_LOGPROBS 20

// --- prompts -------------------------------------------------------------------------------------

int request_encode(const Api *api, const char *text, size_t bytes, int flags, const char *name,
                   TokenList *out, Refusal *r)
{
    Error err;
    if (!model_info.tokenizer)
        return refusal_set(r, 400, name,
                           "%s: the model came without a tokenizer; only token ids go", name);
    if (tokens_encode(api->tokens, text, bytes, flags, out, &err) != 0)
        return refusal_set(r, 400, name, "%s: %s", name, err.text);
    for (size_t i = 0; i < out->count; i++)
        if (out->id[i] >= model_info.vocab)
            return refusal_set(r, 400, name, "%s: token %d is beyond the model's vocabulary of %d",
                               name, out->id[i], model_info.vocab);
    return 0;
}

static int get_prompt(const Api *api, const json_t *v, const char *field, int flags, TokenList *out,
                      Refusal *r)
{
    if (json_is_string(v))
        return request_encode(api, json_string_value(v), json_string_length(v), flags, field, out,
                              r);
    if (!json_is_array(v))
        return refusal_set(r, 400, field, "%s: expected a string, token ids, or a list of them",
                           field);
    return field_ids(v, field, &out->id, &out->count, r);
}

int request_prompts(const Api *api, Answer *a, const char *field, int most, Refusal *r)
{
    const json_t *v = field_of(a->body, field, NULL);
    int bos = 1;
    if (!v) return refusal_set(r, 400, field, "%s is missing", field);
    if (field_flag(a->body, "add_bos_token", NULL, &bos, r) != 0) return -1;
    int flags = TOKENS_PARSE_SPECIAL | (bos ? TOKENS_ADD_SPECIAL : 0);
    // A list of strings or of lists is several prompts; a list of numbers is one.
    int several = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    if (several && (json_array_size(v) < 1 || json_array_size(v) > (size_t)most))
        return refusal_set(r, 400, field, "%s: expected 1 to %d prompts", field, most);
    a->prompts = several ? (int)json_array_size(v) : 1;
    a->prompt = calloc((size_t)a->prompts, sizeof *a->prompt);
    if (!a->prompt) return refusal_memory(r);
    for (int i = 0; i < a->prompts; i++)
        if (get_prompt(api, several ? json_array_get(v, (size_t)i) : v, field, flags, &a->prompt[i],
                       r) != 0)
            return -1;
    return 0;
}

// Who chooses: 1 when no tool is to be called, 0 else.
static int get_choice(Answer *a, const json_t *choice, Refusal *r)
{
    const char *word = json_string_value(choice);
    const json_t *name = json_object_get(json_object_get(choice, "function"), "name");
    if (json_is_object(choice)) {
        // As chat completions have it, or responses.
        if (!name) name = json_object_get(choice, "name");
        if (strcmp(field_type(choice), "function") != 0 || !json_is_string(name))
            return refusal_set(r, 400, "tool_choice",
                               "tool_choice: expected a function with a name");
        a->tool = json_string_value(name);
    } else if (choice && (!word || (strcmp(word, "auto") != 0 && strcmp(word, "none") != 0 &&
                                    strcmp(word, "required") != 0))) {
        return refusal_set(r, 400, "tool_choice",
                           "tool_choice: expected auto, none, required or a function");
    }
    a->must_call = a->tool || (word && strcmp(word, "required") == 0);
    return word && strcmp(word, "none") == 0;
}

// The tools that the model is to know, into a->tools.
static int get_tools(Answer *a, Refusal *r)
{
    const json_t *tools = field_of(a->body, "tools", NULL), *tool;
    const json_t *choice = field_of(a->body, "tool_choice", NULL);
    int parallel = 1;
    size_t i;
    if (field_flag(a->body, "parallel_tool_calls", NULL, &parallel, r) != 0) return -1;
    if (tools && !json_is_array(tools))
        return refusal_set(r, 400, "tools", "tools: expected a list of functions");
    json_array_foreach(tools, i, tool)
    {
        const char *type = json_string_value(json_object_get(tool, "type"));
        const json_t *function = json_object_get(tool, "function");
        if (!type || strcmp(type, "function") != 0 ||
            !json_is_string(json_object_get(function, "name")))
            return refusal_set(r, 400, "tools", "tools: number %zu is no function with a name", i);
    }
    int none = get_choice(a, choice, r);
    if (none < 0) return -1;
    a->tools = none || !json_array_size(tools) ? NULL : tools;
    a->single = !parallel;
    if (a->must_call && !a->tools)
        return refusal_set(r, 400, "tool_choice", "tool_choice: there are no tools to call");
    return 0;
}

// What a template may use: the conversation and whatever the request sets for it.
static int get_values(const Answer *a, json_t *values, Refusal *r)
{
    static const char *const taken[] = {"messages", "documents", "reasoning_effort",
                                        "enable_thinking", "verbosity"};
    const json_t *more = field_of(a->body, "template_vars", "chat_template_kwargs");
    int resume = 0;
    if (more && !json_is_object(more))
        return refusal_set(r, 400, "chat_template_kwargs",
                           "chat_template_kwargs: expected an object");
    if (field_flag(a->body, "continue_final_message", NULL, &resume, r) != 0) return -1;
    int begin = !resume;
    if (field_flag(a->body, "add_generation_prompt", NULL, &begin, r) != 0) return -1;
    if (begin && resume)
        return refusal_set(r, 400, "continue_final_message",
                           "continue_final_message and add_generation_prompt exclude each other");
    json_object_set_new(values, "add_generation_prompt", json_boolean(begin));
    json_object_set_new(values, "continue_final_message", json_boolean(resume));
    if (more) json_object_update(values, (json_t *)more);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        const json_t *v = field_of(a->body, taken[i], NULL);
        if (v) json_object_set(values, taken[i], (json_t *)v);
    }
    if (a->tools) json_object_set(values, "tools", (json_t *)a->tools);
    return 0;
}

// The prompt's text is the caller's, also after a refusal.
static int render(const Api *api, Answer *a, ChatPrompt *prompt, Refusal *r)
{
    const json_t *messages = field_of(a->body, "messages", NULL);
    if (!json_is_array(messages) || !json_array_size(messages))
        return refusal_set(r, 400, "messages", "messages: expected a list of at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (!json_is_string(json_object_get(json_array_get(messages, i), "role")))
            return refusal_set(r, 400, "messages", "messages: number %zu has no role", i);
    const json_t *template = field_of(a->body, "prompt_template", NULL);
    if (template && !json_is_string(template))
        return refusal_set(r, 400, "prompt_template", "prompt_template: expected a name");
    json_t *values = json_object();
    Error err;
    int status = values ? get_tools(a, r) : refusal_memory(r);
    if (status == 0) status = get_values(a, values, r);
    if (status == 0 &&
        chat_prompt(&api->chat, json_string_value(template), values, prompt, &err) != 0)
        status = refusal_set(r, 400, "messages", "%s", err.text);
    json_decref(values);
    return status;
}

static int get_messages(const Api *api, Answer *a, Refusal *r)
{
    ChatPrompt prompt = {0};
    a->prompts = 1;
    a->prompt = calloc(1, sizeof *a->prompt);
    int status = a->prompt ? render(api, a, &prompt, r) : refusal_memory(r);
    if (status == 0)
        status = request_encode(api, prompt.text, prompt.bytes, TOKENS_PARSE_SPECIAL, "messages",
                                a->prompt, r);
    a->format = prompt.format;
    a->template_text = prompt.template_text;
    a->reasoning = prompt.reasoning;
    free(prompt.text);
    return status;
}

// --- requests ------------------------------------------------------------------------------------

// What every family's requests may have, besides samplers: the last ones change nothing here.
static const char *const common_fields[] = {"model",
                                            "stream",
                                            "min_tokens",
                                            "min_length",
                                            "banned_strings",
                                            "ban_eos_token",
                                            "ignore_eos",
                                            "token_healing",
                                            "loop_detect_window",
                                            "priority",
                                            "skip_special_tokens",
                                            "json_schema",
                                            "regex_pattern",
                                            "grammar",
                                            "grammar_string",
                                            "user",
                                            "metadata",
                                            "store",
                                            "service_tier",
                                            "safety_identifier",
                                            "prompt_cache_key",
                                            NULL};

static const char *const template_fields[] = {"template_vars", "chat_template_kwargs",
                                              "prompt_template", NULL};

typedef struct {
    int chat;
    const char *const *names;
} Known;

static int is_known(void *taker, const char *name)
{
    const Known *k = taker;
    return field_listed(name, k->names) || field_listed(name, common_fields) ||
           sampling_knows(name) || (k->chat && field_listed(name, template_fields));
}

int request_check(json_t *body, int chat, const char *const *names, Refusal *r)
{
    const char *key;
    json_t *value;
    Known known = {chat, names};
    if (!json_is_object(body)) return refusal_set(r, 400, "", "expected a JSON object");
    if (foreign_translate(body, is_known, &known, r) != 0) return -1;
    json_object_foreach(body, key, value)
    {
        if (json_is_null(value) || is_known(&known, key)) continue;
        refusal_set(r, 400, key, "Unrecognized request argument supplied: %.100s", key);
        r->code = "unknown_parameter";
        return -1;
    }
    return 0;
}

static int get_logprobs(const Answer *a, Job *job, Refusal *r)
{
    if (!a->chat)
        return field_whole(a->body, "logprobs", NULL, 0, MOST_LOGPROBS, &job->logprobs, r);
    int on = 0, top = -1;
    if (field_flag(a->body, "logprobs", NULL, &on, r) != 0 ||
        field_whole(a->body, "top_logprobs", NULL, 0, MOST_LOGPROBS, &top, r) != 0)
        return -1;
    if (top >= 0 && !on)
        return refusal_set(r, 400, "top_logprobs", "top_logprobs goes with logprobs true");
    job->logprobs = on ? top > 0 ? top : 0 : -1;
    return 0;
}

// Everything that all choices have in common.
static int get_job(const Api *api, Answer *a, Job *job, int *choices, Refusal *r)
{
    const json_t *body = a->body, *options = field_of(body, "stream_options", NULL), *v;
    int skip_special = 1, best_of = -1, most = api->generator->batch.max_context;
    job->max_tokens = -1;
    if (sampling_read(api, a, &job->sampler, r) != 0 ||
        field_flag(body, "stream", NULL, &a->stream, r) != 0 ||
        field_flag(options, "include_usage", NULL, &a->include_usage, r) != 0 ||
        field_flag(body, "echo", NULL, &a->echo, r) != 0 ||
        field_flag(body, "return_token_ids", NULL, &a->token_ids, r) != 0 ||
        field_whole(body, "n", NULL, 1, MOST_CHOICES, choices, r) != 0 ||
        field_whole(body, "best_of", NULL, 1, MOST_CHOICES, &best_of, r) != 0 ||
        field_whole(body, "max_tokens", a->chat ? "max_completion_tokens" : "max_length", -1,
                    INT32_MAX, &job->max_tokens, r) != 0 ||
        field_whole(body, "min_tokens", "min_length", 0, INT32_MAX, &job->min_tokens, r) != 0 ||
        field_whole(body, "priority", NULL, -1000, 1000, &job->priority, r) != 0 ||
        field_whole(body, "loop_detect_window", NULL, 0, most, &job->loop_window, r) != 0 ||
        field_flag(body, "token_healing", NULL, &job->heal, r) != 0 ||
        field_flag(body, "ban_eos_token", "ignore_eos", &job->ignore_end, r) != 0 ||
        field_flag(body, "skip_special_tokens", NULL, &skip_special, r) != 0 ||
        get_logprobs(a, job, r) != 0)
        return -1;
    // A reply's format is made of special tokens, so in chats only the others are hidden.
    job->show_special = a->chat || !skip_special;
    job->hidden = a->chat && skip_special ? api->chat.hidden : NULL;
    if (options && !json_is_object(options))
        return refusal_set(r, 400, "stream_options", "stream_options: expected an object");
    if (options && !a->stream)
        return refusal_set(r, 400, "stream_options", "stream_options goes with stream true");
    if (best_of >= 0 && best_of != *choices)
        return refusal_set(r, 400, "best_of", "best_of: only as many as n");
    if (a->echo && job->logprobs >= 0)
        return refusal_set(r, 400, "echo", "echo with logprobs is not there yet");
    if ((v = field_of(body, "stop", "stop_sequence")) &&
        field_strings(v, "stop", &a->stop, &job->stop_count, &a->stop_ids, &job->stop_id_count,
                      r) != 0)
        return -1;
    if ((v = field_of(body, "banned_strings", NULL)) &&
        field_strings(v, "banned_strings", &a->banned, &job->banned_count, NULL, NULL, r) != 0)
        return -1;
    job->stop = a->stop;
    job->stop_id = a->stop_ids;
    job->banned = a->banned;
    return 0;
}

// The grammar of the answer, into a->matcher.
static int get_constraint(Api *api, Answer *a, Refusal *r)
{
    Constraint c = {.template_text = a->template_text, .reasoning = a->reasoning};
    Error err;
    int asked = constraint_read(a->body, &c, r);
    if (asked < 0) return -1;
    if (asked && a->must_call)
        return refusal_set(r, 400, "tool_choice",
                           "tool_choice: the answer is either a call or what %s asks for",
                           c.regex     ? "regex_pattern"
                           : c.grammar ? "grammar"
                                       : "the JSON schema");
    if (!asked && !a->must_call) return 0;
    if (!model_info.tokenizer)
        return refusal_set(
            r, 400, "response_format",
            "the model came without a tokenizer; its answers have no text to constrain");
    c.tools = a->tools;
    c.tool = a->tool;
    c.single = a->single;
    c.reply = a->chat ? &a->format : NULL;
    a->format.constrained = 1;
    a->constraints = &api->constraints;
    if (constraints_take(a->constraints, &c, &a->matcher, &err) == 0) return 0;
    const char *field = c.regex                                  ? "regex_pattern"
                        : c.grammar                              ? "grammar"
                        : a->must_call                           ? "tools"
                        : field_of(a->body, "json_schema", NULL) ? "json_schema"
                                                                 : "response_format";
    return refusal_set(r, 400, field, "%s: %s", field, err.text);
}

int request_fit(const Api *api, Job *job, const TokenList *prompt, const char *name, Refusal *r)
{
    const Generator *g = api->generator;
    int context = g->batch.max_context, cache = g->batch.options.pages[POOL_ALL] * PAGE;
    int room = context < cache ? context : cache;
    if (!prompt->count)
        return refusal_set(r, 400, name, "the prompt has no tokens, and the tokenizer adds none");
    if (prompt->count > (size_t)context) { // counted as an answer of one token
        job->max_tokens = 1;
        job->prompt_count = prompt->count < INT32_MAX ? (int)prompt->count : INT32_MAX - 1;
    } else {
        job->prompt_count = (int)prompt->count;
    }
    job->prompt = prompt->id;
    if (job->max_tokens < 0)
        job->max_tokens = room > job->prompt_count ? room - job->prompt_count : 1;
    Error err;
    if (generator_check(g, job, &err) == 0) return 0;
    refusal_set(r, 400, name, "%s", err.text);
    r->code = "context_length_exceeded";
    return -1;
}

int request_open(Api *api, const Family *family, const char *prefix, json_t *body, int chat,
                 Answer **out, Refusal *r)
{
    Answer *a = calloc(1, sizeof *a);
    *out = a;
    if (!a) return refusal_memory(r);
    a->family = family;
    a->chat = chat;
    a->body = json_incref(body);
    a->created = time(NULL);
    snprintf(a->id, sizeof a->id, "%s%016llx", prefix, (unsigned long long)random_bits());
    Job common;
    int choices = 1;
    job_init(&common);
    if (get_job(api, a, &common, &choices, r) != 0 ||
        (chat ? get_messages(api, a, r) : request_prompts(api, a, "prompt", MOST_CHOICES, r)) !=
            0 ||
        get_constraint(api, a, r) != 0)
        return -1;
    if (a->prompts * choices > MOST_CHOICES)
        return refusal_set(r, 400, "n", "more than %d choices", MOST_CHOICES);
    a->jobs = calloc((size_t)(a->prompts * choices), sizeof *a->jobs);
    a->said = calloc((size_t)(a->prompts * choices), sizeof *a->said);
    if (!a->jobs || !a->said) return refusal_memory(r);
    for (int i = 0; i < a->prompts * choices; i++) {
        Job *job = &a->jobs[i];
        *job = common;
        job->matcher = a->matcher;
        job->name = a->id;
        a->job_count++;
        answer_begin(a, i);
        job->sampler.seed += (uint64_t)(i % choices);
        if (request_fit(api, job, &a->prompt[i / choices], chat ? "messages" : "prompt", r) != 0)
            return -1;
    }
    return 0;
}

json_t *request_text(const Api *api, const json_t *body, Refusal *r)
{
    Answer a = {.body = (json_t *)body};
    ChatPrompt prompt = {0};
    json_t *text = NULL;
    if (render(api, &a, &prompt, r) == 0) text = answer_text(prompt.text, prompt.bytes);
    free(prompt.text);
    return text;
}

int request_count(Api *api, json_t *body, Refusal *r)
{
    Answer *a = body ? calloc(1, sizeof *a) : NULL;
    int count = -1;
    if (!a) {
        json_decref(body);
        return body ? refusal_memory(r) : -1;
    }
    a->chat = 1;
    a->body = body;
    if (get_messages(api, a, r) == 0) count = (int)a->prompt[0].count;
    answer_free(a);
    return count;
}
