// OpenAI's responses: items to a chat, a chat's reply to items. Nothing is stored.
#include "responses.h"
#include "answer.h"
#include "completions.h"
#include "conversation.h"
#include "request.h"
#include <stdlib.h>
#include <string.h>

// --- requests ------------------------------------------------------------------------------------

static const char *const names[] = {"input",
                                    "instructions",
                                    "max_output_tokens",
                                    "tools",
                                    "tool_choice",
                                    "parallel_tool_calls",
                                    "previous_response_id",
                                    "conversation",
                                    "background",
                                    "include",
                                    "text",
                                    "reasoning",
                                    "truncation",
                                    "stream_options",
                                    "max_tool_calls",
                                    "prompt_cache_retention",
                                    "prompt_cache_options",
                                    NULL};
static const char *const text_types[] = {"input_text", "output_text", "text", NULL};

static int add_message(Conversation *c, const json_t *item, size_t number, Refusal *r)
{
    static const char *const roles[] = {"user", "assistant", "system", "developer", NULL};
    const char *role = json_string_value(json_object_get(item, "role"));
    if (!role || !field_listed(role, roles))
        return refusal_set(r, 400, "input",
                           "input: number %zu: role: expected user, assistant, system or developer",
                           number);
    const json_t *content = field_of(item, "content", NULL);
    if (!content) return refusal_set(r, 400, "input", "input: number %zu has no content", number);
    json_t *texts = field_texts(content, "input", text_types, r), *text;
    size_t i;
    // Few templates know a developer.
    if (strcmp(role, "developer") == 0) role = "system";
    json_array_foreach(texts, i, text) conversation_text(c, role, text);
    json_decref(texts);
    return texts ? 0 : -1;
}

static int add_call(Conversation *c, const json_t *item, size_t number, Refusal *r)
{
    const json_t *id = json_object_get(item, "call_id"), *name = json_object_get(item, "name");
    json_t *arguments = json_object_get(item, "arguments");
    if (!json_is_string(id) || !json_is_string(name) || !json_is_string(arguments))
        return refusal_set(r, 400, "input",
                           "input: number %zu: function_call needs call_id, name and arguments",
                           number);
    conversation_call(c, id, name, json_incref(arguments));
    return 0;
}

static int add_output(Conversation *c, const json_t *item, size_t number, Refusal *r)
{
    const json_t *id = json_object_get(item, "call_id"), *output = field_of(item, "output", NULL);
    if (!json_is_string(id) || !output)
        return refusal_set(r, 400, "input",
                           "input: number %zu: function_call_output needs call_id and output",
                           number);
    json_t *texts = field_texts(output, "input", text_types, r);
    if (!texts) return -1;
    conversation_result(c, id, chat_join(texts));
    json_decref(texts);
    return 0;
}

// What the model thought; items of other servers may hold nothing that can be read.
static int add_reasoning(Conversation *c, const json_t *item, Refusal *r)
{
    static const char *const types[] = {"reasoning_text", NULL};
    json_t *texts = field_texts(field_of(item, "content", NULL), "input", types, r), *text;
    size_t i;
    json_array_foreach(texts, i, text) conversation_reasoning(c, text);
    json_decref(texts);
    return texts ? 0 : -1;
}

static int add_item(Conversation *c, const json_t *item, size_t number, Refusal *r)
{
    const char *type = field_type(item);
    conversation_message(c);
    if (strcmp(type, "message") == 0 || !json_object_get(item, "type"))
        return add_message(c, item, number, r);
    if (strcmp(type, "function_call") == 0) return add_call(c, item, number, r);
    if (strcmp(type, "function_call_output") == 0) return add_output(c, item, number, r);
    if (strcmp(type, "reasoning") == 0) return add_reasoning(c, item, r);
    return refusal_set(r, 400, "input",
                       "input: number %zu: an item of type '%.40s' is not there yet", number, type);
}

static int get_input(const json_t *body, json_t *chat, Refusal *r)
{
    const json_t *input = field_of(body, "input", NULL);
    const json_t *instructions = field_of(body, "instructions", NULL);
    json_t *item;
    size_t i;
    int status = 0;
    if (!json_is_string(input) && (!json_is_array(input) || !json_array_size(input)))
        return refusal_set(r, 400, "input", "input: expected a text or a list of items");
    if (instructions && !json_is_string(instructions))
        return refusal_set(r, 400, "instructions", "instructions: expected a text");
    Conversation c;
    conversation_open(&c);
    if (instructions) conversation_text(&c, "system", instructions);
    if (json_is_string(input)) conversation_text(&c, "user", input);
    json_array_foreach(input, i, item)
    {
        if (status == 0) status = add_item(&c, item, i, r);
    }
    json_object_set_new(chat, "messages", conversation_close(&c));
    return status;
}

static int get_tools(const json_t *body, json_t *chat, Refusal *r)
{
    const json_t *list = field_of(body, "tools", NULL);
    json_t *tool, *tools;
    size_t i;
    if (!list) return 0;
    if (!json_is_array(list)) return refusal_set(r, 400, "tools", "tools: expected a list");
    json_object_set_new(chat, "tools", tools = json_array());
    json_array_foreach(list, i, tool)
    {
        if (strcmp(field_type(tool), "function") != 0)
            return refusal_set(r, 400, "tools", "tools: number %zu: '%.40s' is not there yet", i,
                               field_type(tool));
        json_t *function = json_copy(tool);
        json_object_del(function, "type");
        json_array_append_new(tools,
                              json_pack("{s:s, s:o}", "type", "function", "function", function));
    }
    return 0;
}

// What would need stored responses, or promises that cannot be kept.
static int check_state(const json_t *body, Refusal *r)
{
    static const char *const stored[] = {"previous_response_id", "conversation"};
    const json_t *include = field_of(body, "include", NULL), *value;
    const json_t *truncation = field_of(body, "truncation", NULL);
    int background = 0;
    size_t i;
    for (i = 0; i < sizeof stored / sizeof *stored; i++)
        if (field_of(body, stored[i], NULL))
            return refusal_set(r, 400, stored[i],
                               "%s: responses are not stored; send the conversation as input",
                               stored[i]);
    if (field_flag(body, "background", NULL, &background, r) != 0) return -1;
    if (background)
        return refusal_set(r, 400, "background", "background: responses are not stored");
    if (truncation &&
        (!json_is_string(truncation) || strcmp(json_string_value(truncation), "disabled") != 0))
        return refusal_set(r, 400, "truncation", "truncation: only disabled is there");
    if (include && !json_is_array(include))
        return refusal_set(r, 400, "include", "include: expected a list");
    json_array_foreach(include, i, value)
    {
        // Reasoning is there as text; nothing of it is hidden.
        const char *text = json_string_value(value);
        if (!text || strcmp(text, "reasoning.encrypted_content") != 0)
            return refusal_set(r, 400, "include", "include: '%.60s' is not there yet",
                               text ? text : "?");
    }
    return 0;
}

// Variables of the template, and the form of the text.
static int get_style(const json_t *body, json_t *chat, Refusal *r)
{
    const json_t *text = field_of(body, "text", NULL),
                 *reasoning = field_of(body, "reasoning", NULL);
    const json_t *format = field_of(text, "format", NULL);
    json_t *verbosity = (json_t *)field_of(text, "verbosity", NULL);
    json_t *effort = (json_t *)field_of(reasoning, "effort", NULL);
    if ((text && !json_is_object(text)) || (reasoning && !json_is_object(reasoning)))
        return refusal_set(r, 400, text ? "text" : "reasoning",
                           "text and reasoning: expected objects");
    if ((verbosity && !json_is_string(verbosity)) || (effort && !json_is_string(effort)))
        return refusal_set(r, 400, verbosity ? "text" : "reasoning",
                           "text.verbosity and reasoning.effort: expected texts");
    if (format) json_object_set(chat, "response_format", (json_t *)format);
    if (verbosity) json_object_set(chat, "verbosity", verbosity);
    if (effort) json_object_set(chat, "reasoning_effort", effort);
    if (effort && strcmp(json_string_value(effort), "none") == 0)
        json_object_set_new(chat, "enable_thinking", json_false());
    return 0;
}

// The same request as a chat's; NULL and a refusal.
static json_t *translate(json_t *body, Refusal *r)
{
    static const struct {
        const char *from, *to;
    } same[] = {{"max_output_tokens", "max_tokens"},
                {"tool_choice", "tool_choice"},
                {"parallel_tool_calls", "parallel_tool_calls"}};
    if (request_check(body, 1, names, r) != 0) return NULL;
    int most = 0;
    if (field_whole(body, "max_output_tokens", NULL, 0, INT32_MAX, &most, r) != 0) return NULL;
    json_t *chat = json_copy((json_t *)body);
    for (const char *const *name = names; *name; name++) json_object_del(chat, *name);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        json_t *value = (json_t *)field_of(body, same[i].from, NULL);
        if (value) json_object_set(chat, same[i].to, value);
    }
    if (check_state(body, r) == 0 && get_input(body, chat, r) == 0 &&
        get_tools(body, chat, r) == 0 && get_style(body, chat, r) == 0)
        return chat;
    json_decref(chat);
    return NULL;
}

static int open_response(Api *api, json_t *body, Answer **out, Refusal *r)
{
    *out = NULL;
    json_t *chat = translate(body, r);
    if (!chat) return -1;
    int status = request_open(api, &responses, "resp_", chat, 1, out, r);
    json_decref(chat);
    if (status != 0 && strcmp(r->param, "messages") == 0) strcpy(r->param, "input");
    if (status != 0 && strcmp(r->param, "response_format") == 0) strcpy(r->param, "text");
    if (status != 0) return -1;
    (*out)->asked = json_incref(body);
    (*out)->output = json_array();
    (*out)->texts = json_array();
    return 0;
}

static json_t *count(Api *api, json_t *body, Refusal *r)
{
    int tokens = request_count(api, translate(body, r), r);
    return tokens < 0
               ? NULL
               : json_pack("{s:s, s:i}", "object", "response.input_tokens", "input_tokens", tokens);
}

// --- the response --------------------------------------------------------------------------------

static json_t *usage_json(const Answer *a)
{
    const Job *job = &a->jobs[0];
    return json_pack("{s:i, s:{s:i, s:i}, s:i, s:{s:i}, s:i}", "input_tokens", job->prompt_count,
                     "input_tokens_details", "cached_tokens", job->reused, "cache_write_tokens", 0,
                     "output_tokens", job->token_count, "output_tokens_details", "reasoning_tokens",
                     a->said[0].reasoning_tokens, "total_tokens",
                     job->prompt_count + job->token_count);
}

static const char *status_of(const Job *job)
{
    return job->reason == REASON_NONE     ? "in_progress"
           : job->reason == REASON_LENGTH ? "incomplete"
                                          : "completed";
}

// What was asked, and what has been said of the answer. `failure` may be NULL.
static json_t *response_json(const Api *api, const Answer *a, const Refusal *failure)
{
    static const struct {
        const char *name, *otherwise;
    } repeated[] = {{"instructions", "null"},
                    {"max_output_tokens", "null"},
                    {"metadata", "{}"},
                    {"reasoning", "{\"effort\": null, \"summary\": null}"},
                    {"text", "{\"format\": {\"type\": \"text\"}}"},
                    {"tool_choice", "\"auto\""},
                    {"tools", "[]"},
                    {"user", "null"}};
    const Job *job = &a->jobs[0];
    const char *status = failure ? "failed" : status_of(job);
    json_t *response = json_pack(
        "{s:s, s:s, s:I, s:s, s:s, s:b, s:n, s:b, s:b, s:s, s:f, s:f, s:O}", "id", a->id, "object",
        "response", "created_at", (json_int_t)a->created, "status", status, "model", api->name,
        "background", 0, "previous_response_id", "store", 0, "parallel_tool_calls", !a->single,
        "truncation", "disabled", "temperature", (double)job->sampler.temperature, "top_p",
        (double)job->sampler.top_p, "output", a->output);
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        const json_t *value = field_of(a->asked, repeated[i].name, NULL);
        json_object_set_new(response, repeated[i].name,
                            value ? json_incref((json_t *)value)
                                  : json_loads(repeated[i].otherwise, JSON_DECODE_ANY, NULL));
    }
    int cut = !failure && job->reason == REASON_LENGTH;
    json_object_set_new(response, "error",
                        failure
                            ? json_pack("{s:s, s:o}", "code",
                                        failure->status < 500 ? "invalid_prompt" : "server_error",
                                        "message", refusal_text(failure->error.text))
                            : json_null());
    json_object_set_new(response, "incomplete_details",
                        cut ? json_pack("{s:s}", "reason", "max_output_tokens") : json_null());
    json_object_set_new(response, "usage",
                        job->reason == REASON_NONE ? json_null() : usage_json(a));
    return response;
}

// --- items and events ----------------------------------------------------------------------------

// Where events go: nowhere without `out`.
typedef struct {
    Answer *answer;
    TokenText *out;
    Error *err;
} Stream;

// Numbers and sends an event.
static int add_event(Stream *s, const char *type, json_t *event)
{
    if (!s->out) {
        json_decref(event);
        return 0;
    }
    json_object_set_new(event, "type", json_string(type));
    json_object_set_new(event, "sequence_number", json_integer(s->answer->sequence++));
    return answer_event(s->out, event, 1, s->err);
}

// Events about the item that is being said; `more` is released.
static int add_output_event(Stream *s, const char *type, json_t *more)
{
    size_t index = json_array_size(s->answer->output);
    json_object_set_new(more, "output_index", json_integer((json_int_t)index));
    return add_event(s, type, more);
}

static int add_item_event(Stream *s, const char *type, json_t *more)
{
    json_object_set(more, "item_id", json_object_get(s->answer->item, "id"));
    return add_output_event(s, type, more);
}

static int add_content_event(Stream *s, const char *type, json_t *more)
{
    json_object_set_new(more, "content_index", json_integer(0));
    return add_item_event(s, type, more);
}

static json_t *part_json(Part part, json_t *text)
{
    if (part == PART_REASONING)
        return json_pack("{s:s, s:o}", "type", "reasoning_text", "text", text);
    return json_pack("{s:s, s:o, s:[], s:[]}", "type", "output_text", "text", text, "annotations",
                     "logprobs");
}

// Text of reasoning or of the message that goes with an event.
static int add_text_event(Stream *s, Part part, const char *what, const char *key, json_t *text)
{
    char type[48];
    json_t *event = json_pack("{s:o}", key, text);
    snprintf(type, sizeof type, "response.%s.%s",
             part == PART_REASONING ? "reasoning_text" : "output_text", what);
    if (part == PART_TEXT) json_object_set_new(event, "logprobs", json_array());
    return add_content_event(s, type, event);
}

static int end_item(Stream *s)
{
    Answer *a = s->answer;
    Part part = (Part)a->said[0].part;
    if (part == PART_NONE) return 0;
    if (part != PART_CALL) {
        json_t *text = chat_join(a->texts), *whole = part_json(part, text);
        json_object_set_new(a->item, "content", json_pack("[O]", whole));
        json_array_clear(a->texts);
        int sent = add_text_event(s, part, "done", "text", json_incref(text));
        if (add_content_event(s, "response.content_part.done", json_pack("{s:o}", "part", whole)) !=
                0 ||
            sent != 0)
            return -1;
    }
    const char *status = a->said[0].done ? status_of(&a->jobs[0]) : "completed";
    json_object_set_new(a->item, "status", json_string(status));
    int sent =
        add_output_event(s, "response.output_item.done", json_pack("{s:O}", "item", a->item));
    json_array_append_new(a->output, a->item);
    a->item = NULL;
    a->said[0].part = PART_NONE;
    return sent;
}

static int begin_item(Stream *s, Part part, const json_t *call)
{
    static const char *const prefixes[] = {
        [PART_REASONING] = "rs", [PART_TEXT] = "msg", [PART_CALL] = "fc"};
    Answer *a = s->answer;
    char id[32];
    if (end_item(s) != 0) return -1;
    snprintf(id, sizeof id, "%s_%016llx", prefixes[part], (unsigned long long)random_bits());
    a->said[0].part = (int)part;
    if (part == PART_REASONING)
        a->item = json_pack("{s:s, s:s, s:s, s:[], s:[]}", "id", id, "type", "reasoning", "status",
                            "in_progress", "summary", "content");
    else if (part == PART_TEXT)
        a->item = json_pack("{s:s, s:s, s:s, s:s, s:[]}", "id", id, "type", "message", "status",
                            "in_progress", "role", "assistant", "content");
    else
        a->item =
            json_pack("{s:s, s:s, s:s, s:O, s:O, s:s}", "id", id, "type", "function_call", "status",
                      "in_progress", "call_id", json_object_get(call, "id"), "name",
                      json_object_get(json_object_get(call, "function"), "name"), "arguments", "");
    if (add_output_event(s, "response.output_item.added", json_pack("{s:O}", "item", a->item)) != 0)
        return -1;
    if (part == PART_CALL) return 0;
    return add_content_event(s, "response.content_part.added",
                             json_pack("{s:o}", "part", part_json(part, json_string(""))));
}

// Texts go on in the open item of their kind; a call is an item of its own.
static int add_delta(Stream *s, const json_t *delta)
{
    const json_t *value;
    Part part = answer_part(delta, &value);
    if (part == PART_CALL) {
        json_t *arguments = json_object_get(json_object_get(value, "function"), "arguments");
        if (begin_item(s, part, value) != 0) return -1;
        json_object_set(s->answer->item, "arguments", arguments);
        return add_item_event(s, "response.function_call_arguments.delta",
                              json_pack("{s:O}", "delta", arguments)) != 0 ||
                       add_item_event(s, "response.function_call_arguments.done",
                                      json_pack("{s:O, s:O}", "name",
                                                json_object_get(s->answer->item, "name"),
                                                "arguments", arguments)) != 0
                   ? -1
                   : 0;
    }
    if ((int)part != s->answer->said[0].part && begin_item(s, part, NULL) != 0) return -1;
    json_array_append(s->answer->texts, (json_t *)value);
    return add_text_event(s, part, "delta", "delta", json_incref((json_t *)value));
}

// What is new, as items, and the end of the last one.
static int say(Stream *s)
{
    Answer *a = s->answer;
    struct Said *said = &a->said[0];
    json_t *delta;
    size_t i;
    if (answer_read(a, 0, s->err) != 0) return -1;
    json_array_foreach(said->deltas, i, delta)
    {
        if (add_delta(s, delta) != 0) return -1;
    }
    json_array_clear(said->deltas);
    if (a->jobs[0].reason == REASON_NONE) return 0;
    said->done = 1;
    return end_item(s);
}

static int events(Api *api, Answer *a, TokenText *out, Error *err)
{
    Stream s = {a, out, err};
    struct Said *said = &a->said[0];
    char last[32];
    Refusal r;
    if (said->done) return 0;
    if (!said->begun) {
        json_t *created = response_json(api, a, NULL);
        said->begun = 1;
        json_object_set_new(created, "status", json_string("in_progress"));
        json_object_set_new(created, "incomplete_details", json_null());
        json_object_set_new(created, "usage", json_null());
        if (add_event(&s, "response.created", json_pack("{s:O}", "response", created)) != 0 ||
            add_event(&s, "response.in_progress", json_pack("{s:o}", "response", created)) != 0)
            return -1;
    }
    if (answer_good(&a->jobs[0], &r) != 0) {
        said->done = 1;
        return add_event(&s, "response.failed",
                         json_pack("{s:o}", "response", response_json(api, a, &r)));
    }
    if (say(&s) != 0) return -1;
    if (!said->done) return 0;
    snprintf(last, sizeof last, "response.%s", status_of(&a->jobs[0]));
    return add_event(&s, last, json_pack("{s:o}", "response", response_json(api, a, NULL)));
}

static json_t *response(Api *api, Answer *a, Refusal *r)
{
    Error err;
    Stream s = {a, NULL, &err};
    if (answer_good(&a->jobs[0], r) != 0) return NULL;
    if (say(&s) != 0) {
        refusal_memory(r);
        return NULL;
    }
    return response_json(api, a, NULL);
}

const Family responses = {open_response, events, response, completions_error, "", count};
