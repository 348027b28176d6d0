// OpenAI's completions and chat completions.
#include "completions.h"
#include "answer.h"
#include "request.h"
#include <math.h>
#include <stdlib.h>

// --- requests ------------------------------------------------------------------------------------

// The fields of both, and of each.
#define BOTH                                                                                       \
    "stream_options", "n", "max_tokens", "stop", "stop_sequence", "logprobs", "top_logprobs",      \
        "add_bos_token", "response_format"
static const char *const text_names[] = {BOTH,     "prompt",  "max_length",       "echo",
                                         "suffix", "best_of", "return_token_ids", NULL};
static const char *const chat_names[] = {BOTH,
                                         "messages",
                                         "max_completion_tokens",
                                         "tools",
                                         "tool_choice",
                                         "parallel_tool_calls",
                                         "documents",
                                         "add_generation_prompt",
                                         "continue_final_message",
                                         "reasoning_effort",
                                         "enable_thinking",
                                         "verbosity",
                                         NULL};

static int open_chat(Api *api, json_t *body, Answer **out, Refusal *r)
{
    *out = NULL;
    if (request_check(body, 1, chat_names, r) != 0) return -1;
    return request_open(api, &chat_completions, "chatcmpl-", body, 1, out, r);
}

static int open_text(Api *api, json_t *body, Answer **out, Refusal *r)
{
    *out = NULL;
    if (request_check(body, 0, text_names, r) != 0) return -1;
    if (field_of(body, "suffix", NULL))
        return refusal_set(r, 400, "suffix", "suffix: this model does not fill in");
    return request_open(api, &text_completions, "cmpl-", body, 0, out, r);
}

// --- answers -------------------------------------------------------------------------------------

json_t *completions_error(const Refusal *r)
{
    return json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", refusal_text(r->error.text),
                     "type", r->type, "param", *r->param ? refusal_text(r->param) : json_null(),
                     "code", r->code);
}

// The message that deltas add up to; content is null where there are calls alone.
static json_t *join_deltas(const json_t *deltas)
{
    json_t *reasoning = json_array(), *content = json_array(), *calls = json_array(), *delta;
    size_t i;
    json_array_foreach(deltas, i, delta)
    {
        const json_t *value;
        Part part = answer_part(delta, &value);
        if (part == PART_CALL) json_object_del((json_t *)value, "index");
        json_array_append(part == PART_REASONING ? reasoning
                          : part == PART_CALL    ? calls
                                                 : content,
                          (json_t *)value);
    }
    int silent = json_array_size(calls) && !json_array_size(content);
    json_t *message = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content",
                                silent ? json_null() : chat_join(content), "refusal");
    if (json_array_size(reasoning))
        json_object_set_new(message, "reasoning_content", chat_join(reasoning));
    if (json_array_size(calls)) json_object_set(message, "tool_calls", calls);
    json_decref(reasoning);
    json_decref(content);
    json_decref(calls);
    return message;
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
    int64_t prompt = 0, reused = 0, drawn = 0, reasoning = 0;
    double queue = 0, reading = 0, begin = INFINITY, end = 0;
    int choices = a->job_count / a->prompts;
    for (int i = 0; i < a->job_count; i++) {
        const Job *job = &a->jobs[i];
        if (i % choices == 0) prompt += job->prompt_count, reused += job->reused;
        drawn += job->token_count;
        reasoning += a->said[i].reasoning_tokens;
        double first = job->first ? job->first : job->ended;
        queue = fmax(queue, job->started - job->submitted);
        if (job->first) reading = fmax(reading, first - job->started);
        if (job->ended) begin = fmin(begin, first); // one that failed at once never did
        end = fmax(end, job->ended);
    }
    double writing = end > begin ? end - begin : 0;
    return json_pack("{s:I, s:I, s:I, s:{s:I}, s:{s:I}, s:f, s:f, s:f, s:f, s:f}", "prompt_tokens",
                     prompt, "completion_tokens", drawn, "total_tokens", prompt + drawn,
                     "prompt_tokens_details", "cached_tokens", reused, "completion_tokens_details",
                     "reasoning_tokens", reasoning, "queue_time", queue, "prompt_time", reading,
                     "completion_time", writing, "prompt_tokens_per_sec",
                     reading > 0 ? (double)(prompt - reused) / reading : 0,
                     "completion_tokens_per_sec", writing > 0 ? (double)drawn / writing : 0);
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
    json_t *s = answer_text(text.data ? text.data : "", text.bytes);
    free(text.data);
    return s;
}

static json_t *with_echo(const Api *api, const Answer *a, const Job *job, json_t *text)
{
    if (!a->echo || !text) return text;
    json_t *prompt = echoed(api, a, job);
    json_t *both = json_pack("s%+%", json_string_value(prompt), json_string_length(prompt),
                             json_string_value(text), json_string_length(text));
    json_decref(prompt);
    json_decref(text);
    return both;
}

// Ids of the tokens from .. to-1 of an answer, and with the first of them those of its prompt.
static void add_ids(const Answer *a, json_t *choice, const Job *job, int from, int to)
{
    if (!a->token_ids) return;
    json_t *ids = json_array(), *prompt = json_array();
    for (int i = from; i < to; i++) json_array_append_new(ids, json_integer(job->token[i].id));
    for (int i = 0; i < job->prompt_count && !from; i++)
        json_array_append_new(prompt, json_integer(job->prompt[i]));
    json_object_set_new(choice, "token_ids", ids);
    if (!from) json_object_set(choice, "prompt_token_ids", prompt);
    json_decref(prompt);
}

// One event of one choice: its news under `key`, and the reason when it is the last.
static int add_choice(Api *api, Answer *a, int i, const char *key, json_t *news, int last,
                      TokenText *out, Error *err)
{
    const Job *job = &a->jobs[i];
    struct Said *said = &a->said[i];
    json_t *choice = json_pack("{s:i, s:o, s:o, s:s?}", "index", i, key, news, "logprobs",
                               answer_logprobs(api, a, job, said->tokens, job->tokens_decided),
                               "finish_reason", last ? finish_reason(a, i) : NULL);
    add_ids(a, choice, job, said->tokens, job->tokens_decided);
    said->tokens = job->tokens_decided;
    said->done = last;
    if (last) add_ending(choice, job);
    return answer_event(out, chunk_json(api, a, json_pack("[o]", choice)), 0, err);
}

static int add_text(Api *api, Answer *a, int i, TokenText *out, Error *err)
{
    const Job *job = &a->jobs[i];
    struct Said *said = &a->said[i];
    int last = job->reason != REASON_NONE, begun = said->begun;
    // Ids need no text, but may be taken back with what completes a banned string.
    int ids = a->token_ids && !job->banned_count && job->tokens_decided > said->tokens;
    if (!last && job->decided == said->bytes && begun && !ids) return 0;
    json_t *text =
        answer_text(job->text.data ? job->text.data + said->bytes : "", job->decided - said->bytes);
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
        if (answer_event(out, chunk_json(api, a, begin), 0, err) != 0) return -1;
    }
    said->begun = 1;
    if (answer_read(a, i, err) != 0) return -1;
    json_array_foreach(said->deltas, k, delta)
    {
        if (add_choice(api, a, i, "delta", json_incref(delta), 0, out, err) != 0) return -1;
    }
    json_array_clear(said->deltas);
    if (job->reason == REASON_NONE) return 0;
    return add_choice(api, a, i, "delta", json_object(), 1, out, err);
}

static int events(Api *api, Answer *a, TokenText *out, Error *err)
{
    for (int i = 0; i < a->job_count; i++) {
        if (a->jobs[i].reason == REASON_FAILED || a->jobs[i].reason == REASON_CANCELLED) continue;
        if (a->said[i].done) continue;
        if ((a->chat ? add_deltas : add_text)(api, a, i, out, err) != 0) return -1;
    }
    if (!answer_finished(a)) return 0;
    for (int i = 0; i < a->job_count; i++) {
        Refusal r;
        if (answer_good(&a->jobs[i], &r) == 0) continue;
        if (answer_event(out, completions_error(&r), 0, err) != 0) return -1;
    }
    if (a->include_usage) {
        json_t *chunk = chunk_json(api, a, json_array());
        json_object_set_new(chunk, "usage", usage_json(a));
        if (answer_event(out, chunk, 0, err) != 0) return -1;
    }
    return 0;
}

static json_t *response(Api *api, Answer *a, Refusal *r)
{
    json_t *choices = json_array();
    for (int i = 0; i < a->job_count; i++) {
        const Job *job = &a->jobs[i];
        Error err;
        int status = answer_good(job, r);
        if (status == 0 && a->chat && answer_read(a, i, &err) != 0) status = refusal_memory(r);
        if (status != 0) {
            json_decref(choices);
            return NULL;
        }
        json_t *choice = json_pack("{s:i, s:o, s:s}", "index", i, "logprobs",
                                   answer_logprobs(api, a, job, 0, job->token_count),
                                   "finish_reason", finish_reason(a, i));
        if (a->chat)
            json_object_set_new(choice, "message", join_deltas(a->said[i].deltas));
        else
            json_object_set_new(
                choice, "text",
                with_echo(api, a, job,
                          answer_text(job->text.data ? job->text.data : "", job->text.bytes)));
        add_ids(a, choice, job, 0, job->token_count);
        add_ending(choice, job);
        json_array_append_new(choices, choice);
    }
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:o}", "id", a->id, "object",
                     a->chat ? "chat.completion" : "text_completion", "created",
                     (json_int_t)a->created, "model", api->name, "choices", choices, "usage",
                     usage_json(a));
}

const Family text_completions = {open_text,          events, response, completions_error,
                                 "data: [DONE]\n\n", NULL};
const Family chat_completions = {open_chat,          events, response, completions_error,
                                 "data: [DONE]\n\n", NULL};
