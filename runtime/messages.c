// Anthropic's messages: blocks to a chat, a chat's reply to blocks.
#include "messages.h"
#include "answer.h"
#include "conversation.h"
#include "request.h"
#include <stdlib.h>
#include <string.h>

// --- requests ------------------------------------------------------------------------------------

static const char *const names[] = {
    "messages", "max_tokens",  "stop_sequences", "system",        "thinking",
    "tools",    "tool_choice", "output_config",  "cache_control", NULL};

// What a block may carry besides its type. Caches need no marks here, and nothing is signed.
static const struct {
    const char *type, *role; // role NULL: of any
    const char *fields[9];
} blocks[] = {
    {"text", NULL, {"text", "cache_control", "citations"}},
    {"thinking", "assistant", {"thinking", "signature"}},
    {"tool_use", "assistant", {"id", "name", "input", "caller", "cache_control"}},
    {"tool_result", "user", {"tool_use_id", "content", "is_error", "cache_control"}},
};

static const char *const text_types[] = {"text", NULL};

static int check_block(const json_t *block, const char *role, size_t number, Refusal *r)
{
    size_t i = 0;
    const char *type = field_type(block), *key;
    json_t *value;
    while (i < sizeof blocks / sizeof *blocks && strcmp(blocks[i].type, type) != 0) i++;
    if (i == sizeof blocks / sizeof *blocks)
        return refusal_set(r, 400, "messages",
                           "messages: number %zu: a block of type '%.40s' is not there yet", number,
                           type);
    if (blocks[i].role && strcmp(blocks[i].role, role) != 0)
        return refusal_set(r, 400, "messages", "messages: number %zu: %s in a message of the %s",
                           number, type, role);
    json_object_foreach((json_t *)block, key, value)
    {
        if (strcmp(key, "type") == 0 || json_is_null(value)) continue;
        if (field_listed(key, blocks[i].fields)) continue;
        return refusal_set(r, 400, "messages", "messages: number %zu: %s with '%.40s'", number,
                           type, key);
    }
    return 0;
}

static int add_result(Conversation *c, const json_t *block, Refusal *r)
{
    const json_t *id = json_object_get(block, "tool_use_id");
    int failed = 0;
    if (!json_is_string(id))
        return refusal_set(r, 400, "messages", "messages: tool_result without tool_use_id");
    if (field_flag(block, "is_error", NULL, &failed, r) != 0) return -1;
    json_t *texts = field_texts(field_of(block, "content", NULL), "tool_result", text_types, r);
    if (!texts) return -1;
    json_t *message = conversation_result(c, id, chat_join(texts));
    if (failed) json_object_set_new(message, "is_error", json_true());
    json_decref(texts);
    return 0;
}

static int add_block(Conversation *c, const json_t *block, const char *role, size_t number,
                     Refusal *r)
{
    if (check_block(block, role, number, r) != 0) return -1;
    const char *type = field_type(block);
    const json_t *text = json_object_get(block, type), *id = json_object_get(block, "id"),
                 *name = json_object_get(block, "name"), *input = json_object_get(block, "input");
    if (strcmp(type, "tool_result") == 0) return add_result(c, block, r);
    if (strcmp(type, "tool_use") == 0) {
        char *arguments = json_is_object(input) ? json_dumps(input, ANSWER_JSON) : NULL;
        if (!json_is_string(id) || !json_is_string(name) || !arguments) {
            free(arguments);
            return refusal_set(r, 400, "messages",
                               "messages: number %zu: tool_use needs id, name and input", number);
        }
        conversation_call(c, id, name, json_string(arguments));
        free(arguments);
        return 0;
    }
    if (!json_is_string(text))
        return refusal_set(r, 400, "messages", "messages: number %zu: %s without text", number,
                           type);
    if (strcmp(type, "text") == 0)
        conversation_text(c, role, text);
    else
        conversation_reasoning(c, text);
    return 0;
}

static int add_message(Conversation *c, const json_t *message, size_t number, Refusal *r)
{
    static const char *const roles[] = {"user", "assistant", "system", NULL};
    const char *role = json_string_value(json_object_get(message, "role"));
    const json_t *content = json_object_get(message, "content");
    json_t *block;
    size_t i;
    if (!role || !field_listed(role, roles))
        return refusal_set(r, 400, "messages",
                           "messages: number %zu: role: expected user or assistant", number);
    conversation_message(c);
    if (json_is_string(content)) {
        conversation_text(c, role, content);
        return 0;
    }
    if (!json_is_array(content))
        return refusal_set(r, 400, "messages",
                           "messages: number %zu: content: expected a text or a list of blocks",
                           number);
    json_array_foreach(content, i, block)
    {
        if (add_block(c, block, role, number, r) != 0) return -1;
    }
    return 0;
}

// A last message of the assistant is continued.
static int get_continuation(const json_t *messages, json_t *chat, Refusal *r)
{
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant") != 0) return 0;
    if (!json_is_string(json_object_get(last, "content")))
        return refusal_set(r, 400, "messages",
                           "messages: the last one ends in a call without its result");
    json_object_set_new(chat, "continue_final_message", json_true());
    json_object_set_new(chat, "add_generation_prompt", json_false());
    return 0;
}

// System prompt and messages.
static int get_conversation(const json_t *body, json_t *chat, Refusal *r)
{
    const json_t *list = field_of(body, "messages", NULL);
    json_t *message, *text,
        *system = field_texts(field_of(body, "system", NULL), "system", text_types, r);
    size_t i;
    if (!system) return -1;
    Conversation c;
    conversation_open(&c);
    json_array_foreach(system, i, text) conversation_text(&c, "system", text);
    json_decref(system);
    int status = 0;
    if (!json_is_array(list) || !json_array_size(list))
        status = refusal_set(r, 400, "messages", "messages: expected at least one message");
    json_array_foreach(list, i, message)
    {
        if (status == 0) status = add_message(&c, message, i, r);
    }
    json_object_set_new(chat, "messages", conversation_close(&c));
    return status == 0 ? get_continuation(c.messages, chat, r) : status;
}

static int get_tools(const json_t *body, json_t *chat, Refusal *r)
{
    // `strict` promises what only a grammar could keep. The last three change nothing here.
    static const char *const fields[] = {
        "type",   "name",           "description",   "input_schema",
        "strict", "input_examples", "cache_control", "eager_input_streaming",
        NULL};
    const json_t *list = field_of(body, "tools", NULL);
    json_t *tool, *tools, *value;
    const char *key;
    size_t i;
    if (!list) return 0;
    if (!json_is_array(list)) return refusal_set(r, 400, "tools", "tools: expected a list");
    json_object_set_new(chat, "tools", tools = json_array());
    json_array_foreach(list, i, tool)
    {
        json_t *name = json_object_get(tool, "name"),
               *schema = json_object_get(tool, "input_schema");
        const json_t *type = field_of(tool, "type", NULL);
        if (type && strcmp(field_type(tool), "custom") != 0)
            return refusal_set(r, 400, "tools", "tools: number %zu: '%.40s' is not there yet", i,
                               field_type(tool));
        if (!json_is_string(name) || !json_is_object(schema))
            return refusal_set(r, 400, "tools", "tools: number %zu needs name and input_schema", i);
        json_object_foreach(tool, key, value)
        {
            if (!field_listed(key, fields) && !json_is_null(value))
                return refusal_set(r, 400, "tools", "tools: number %zu: '%.40s' is not there yet",
                                   i, key);
        }
        json_t *function = json_pack("{s:O}", "name", name);
        json_t *description = json_object_get(tool, "description");
        if (json_is_string(description)) json_object_set(function, "description", description);
        json_object_set(function, "parameters", schema);
        json_array_append_new(tools,
                              json_pack("{s:s, s:o}", "type", "function", "function", function));
    }
    return 0;
}

static int get_choice(const json_t *body, json_t *chat, Refusal *r)
{
    const json_t *choice = field_of(body, "tool_choice", NULL);
    const char *type = field_type(choice);
    const json_t *name = field_of(choice, "name", NULL);
    int single = 0;
    if (!choice) return 0;
    if (field_flag(choice, "disable_parallel_tool_use", NULL, &single, r) != 0) return -1;
    if (single) json_object_set_new(chat, "parallel_tool_calls", json_false());
    if (strcmp(type, "tool") == 0 && json_is_string(name)) {
        json_object_set_new(
            chat, "tool_choice",
            json_pack("{s:s, s:{s:O}}", "type", "function", "function", "name", name));
        return 0;
    }
    if (strcmp(type, "auto") != 0 && strcmp(type, "none") != 0 && strcmp(type, "any") != 0)
        return refusal_set(r, 400, "tool_choice",
                           "tool_choice: expected type auto, any, none, or tool with a name");
    json_object_set_new(chat, "tool_choice",
                        json_string(strcmp(type, "any") == 0 ? "required" : type));
    return 0;
}

// How much the model is to think, as far as a template can say it.
static int get_thinking(const json_t *body, json_t *chat, Refusal *r)
{
    const json_t *thinking = field_of(body, "thinking", NULL);
    const json_t *config = field_of(body, "output_config", NULL);
    const json_t *effort = field_of(config, "effort", NULL);
    const json_t *display = field_of(thinking, "display", NULL);
    const char *type = field_type(thinking);
    int budget = 0, on = strcmp(type, "enabled") == 0;
    if (thinking && !on && strcmp(type, "disabled") != 0 && strcmp(type, "adaptive") != 0)
        return refusal_set(r, 400, "thinking",
                           "thinking: expected type enabled, disabled or adaptive");
    if (field_whole(thinking, "budget_tokens", NULL, 1, INT32_MAX, &budget, r) != 0) return -1;
    if (display && (!json_is_string(display) || strcmp(json_string_value(display), "summarized")))
        return refusal_set(r, 400, "thinking", "thinking: display: only summarized is there");
    if (thinking && strcmp(type, "adaptive") != 0)
        json_object_set_new(chat, "enable_thinking", json_boolean(on));
    if (config && !json_is_object(config))
        return refusal_set(r, 400, "output_config", "output_config: expected an object");
    if (field_of(config, "format", NULL))
        json_object_set(chat, "response_format", (json_t *)field_of(config, "format", NULL));
    if (effort && !json_is_string(effort))
        return refusal_set(r, 400, "output_config", "output_config: effort: expected a text");
    if (effort) json_object_set(chat, "reasoning_effort", (json_t *)effort);
    return 0;
}

// The same request as a chat's; NULL and a refusal.
static json_t *translate(json_t *body, Refusal *r)
{
    if (request_check(body, 1, names, r) != 0) return NULL;
    json_t *chat = json_copy((json_t *)body), *text;
    const json_t *stop = field_of(body, "stop_sequences", NULL);
    size_t i;
    int status = 0;
    for (const char *const *name = names; *name; name++)
        if (strcmp(*name, "max_tokens") != 0) json_object_del(chat, *name);
    if (stop && !json_is_array(stop))
        status = refusal_set(r, 400, "stop_sequences", "stop_sequences: expected a list of texts");
    json_array_foreach(stop, i, text)
    {
        if (!json_is_string(text) || !json_string_length(text))
            status =
                refusal_set(r, 400, "stop_sequences", "stop_sequences: number %zu is no text", i);
    }
    if (json_array_size(stop)) json_object_set(chat, "stop", (json_t *)stop);
    if (status == 0 && get_conversation(body, chat, r) == 0 && get_tools(body, chat, r) == 0 &&
        get_choice(body, chat, r) == 0 && get_thinking(body, chat, r) == 0)
        return chat;
    json_decref(chat);
    return NULL;
}

static int open_messages(Api *api, json_t *body, Answer **out, Refusal *r)
{
    *out = NULL;
    json_t *chat = translate(body, r);
    if (!chat) return -1;
    int status = field_of(chat, "max_tokens", NULL)
                     ? request_open(api, &messages, "msg_", chat, 1, out, r)
                     : refusal_set(r, 400, "max_tokens", "max_tokens is missing");
    json_decref(chat);
    return status;
}

static json_t *count(Api *api, json_t *body, Refusal *r)
{
    int tokens = request_count(api, translate(body, r), r);
    return tokens < 0 ? NULL : json_pack("{s:i}", "input_tokens", tokens);
}

// --- answers -------------------------------------------------------------------------------------

static json_t *error_json(const Refusal *r)
{
    const char *type = r->status == 401   ? "authentication_error"
                       : r->status == 404 ? "not_found_error"
                       : r->status == 413 ? "request_too_large"
                       : r->status == 503 ? "overloaded_error"
                       : r->status >= 500 ? "api_error"
                                          : "invalid_request_error";
    return json_pack("{s:s, s:{s:s, s:o}}", "type", "error", "error", "type", type, "message",
                     refusal_text(r->error.text));
}

static json_t *usage_json(const Answer *a)
{
    const Job *job = &a->jobs[0];
    return json_pack("{s:i, s:i, s:i, s:i, s:{s:i}}", "input_tokens",
                     job->prompt_count - job->reused, "cache_creation_input_tokens", 0,
                     "cache_read_input_tokens", job->reused, "output_tokens", job->token_count,
                     "output_tokens_details", "thinking_tokens", a->said[0].reasoning_tokens);
}

static const char *stop_reason(const Answer *a)
{
    const Job *job = &a->jobs[0];
    if (job->reason == REASON_NONE) return NULL;
    if (job->reason == REASON_LENGTH) return "max_tokens";
    if (job->stopped_by) return "stop_sequence";
    return a->said[0].calls ? "tool_use" : "end_turn";
}

static json_t *message_json(const Api *api, const Answer *a, json_t *content)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:o, s:s?, s:s?, s:o}", "id", a->id, "type", "message",
                     "role", "assistant", "model", api->name, "content", content, "stop_reason",
                     stop_reason(a), "stop_sequence", a->jobs[0].stopped_by, "usage",
                     usage_json(a));
}

// The input of a call: the object that its text is. What is none reaches the tool as it is, so that
// it can complain.
static json_t *input_json(const json_t *call)
{
    const json_t *text = json_object_get(json_object_get(call, "function"), "arguments");
    json_t *input = json_loadb(json_string_value(text), json_string_length(text), 0, NULL);
    if (json_is_object(input)) return input;
    json_decref(input);
    return json_pack("{s:O}", "arguments", text);
}

// A block of a kind; the value is its text, or the call.
static json_t *block_json(Part part, json_t *value, json_t *input)
{
    if (part == PART_REASONING)
        return json_pack("{s:s, s:o, s:s}", "type", "thinking", "thinking", value, "signature", "");
    if (part == PART_TEXT) return json_pack("{s:s, s:o}", "type", "text", "text", value);
    return json_pack("{s:s, s:O, s:O, s:o}", "type", "tool_use", "id", json_object_get(value, "id"),
                     "name", json_object_get(json_object_get(value, "function"), "name"), "input",
                     input);
}

static json_t *blocks_json(const json_t *deltas)
{
    json_t *content = json_array(), *texts = json_array(), *delta;
    const json_t *value, *next;
    size_t i;
    json_array_foreach(deltas, i, delta)
    {
        Part part = answer_part(delta, &value);
        if (part == PART_CALL) {
            json_array_append_new(content, block_json(part, (json_t *)value, input_json(value)));
            continue;
        }
        json_array_append(texts, (json_t *)value);
        if (answer_part(json_array_get(deltas, i + 1), &next) == part) continue;
        json_array_append_new(content, block_json(part, chat_join(texts), NULL));
        json_array_clear(texts);
    }
    json_decref(texts);
    return content;
}

static json_t *response(Api *api, Answer *a, Refusal *r)
{
    Error err;
    if (answer_good(&a->jobs[0], r) != 0) return NULL;
    if (answer_read(a, 0, &err) != 0) {
        refusal_memory(r);
        return NULL;
    }
    return message_json(api, a, blocks_json(a->said[0].deltas));
}

// --- streams -------------------------------------------------------------------------------------

static int add_delta_event(Answer *a, json_t *delta, TokenText *out, Error *err)
{
    return answer_event(out,
                        json_pack("{s:s, s:i, s:o}", "type", "content_block_delta", "index",
                                  a->said[0].parts - 1, "delta", delta),
                        1, err);
}

static int end_block(Answer *a, TokenText *out, Error *err)
{
    struct Said *said = &a->said[0];
    int part = said->part;
    said->part = PART_NONE;
    if (part == PART_NONE) return 0;
    if (part == PART_REASONING &&
        add_delta_event(a, json_pack("{s:s, s:s}", "type", "signature_delta", "signature", ""), out,
                        err) != 0)
        return -1;
    return answer_event(
        out, json_pack("{s:s, s:i}", "type", "content_block_stop", "index", said->parts - 1), 1,
        err);
}

static int begin_block(Answer *a, Part part, json_t *block, TokenText *out, Error *err)
{
    struct Said *said = &a->said[0];
    if (end_block(a, out, err) != 0) {
        json_decref(block);
        return -1;
    }
    said->part = part;
    return answer_event(out,
                        json_pack("{s:s, s:i, s:o}", "type", "content_block_start", "index",
                                  said->parts++, "content_block", block),
                        1, err);
}

// Texts go on in the open block of their kind; a call is a block of its own.
static int add_delta(Answer *a, const json_t *delta, TokenText *out, Error *err)
{
    const json_t *value;
    Part part = answer_part(delta, &value);
    if (part == PART_CALL) {
        json_t *input = input_json(value);
        char *text = json_dumps(input, ANSWER_JSON);
        json_decref(input);
        int status =
            begin_block(a, part, block_json(part, (json_t *)value, json_object()), out, err);
        if (status == 0)
            status = add_delta_event(
                a, json_pack("{s:s, s:s}", "type", "input_json_delta", "partial_json", text), out,
                err);
        free(text);
        return status;
    }
    if ((int)part != a->said[0].part &&
        begin_block(a, part, block_json(part, json_string(""), NULL), out, err) != 0)
        return -1;
    int thinking = part == PART_REASONING;
    return add_delta_event(a,
                           json_pack("{s:s, s:O}", "type",
                                     thinking ? "thinking_delta" : "text_delta",
                                     thinking ? "thinking" : "text", value),
                           out, err);
}

static int events(Api *api, Answer *a, TokenText *out, Error *err)
{
    struct Said *said = &a->said[0];
    Refusal r;
    json_t *delta;
    size_t i;
    if (said->done) return 0;
    if (answer_good(&a->jobs[0], &r) != 0) {
        said->done = 1;
        return answer_event(out, error_json(&r), 1, err);
    }
    if (!said->begun) {
        json_t *message = message_json(api, a, json_array());
        json_object_set_new(message, "stop_reason", json_null());
        json_object_set_new(message, "stop_sequence", json_null());
        said->begun = 1;
        if (answer_event(out, json_pack("{s:s, s:o}", "type", "message_start", "message", message),
                         1, err) != 0)
            return -1;
    }
    if (answer_read(a, 0, err) != 0) return -1;
    json_array_foreach(said->deltas, i, delta)
    {
        if (add_delta(a, delta, out, err) != 0) return -1;
    }
    json_array_clear(said->deltas);
    if (a->jobs[0].reason == REASON_NONE) return 0;
    said->done = 1;
    if (end_block(a, out, err) != 0) return -1;
    json_t *last =
        json_pack("{s:s, s:{s:s, s:s?}, s:o}", "type", "message_delta", "delta", "stop_reason",
                  stop_reason(a), "stop_sequence", a->jobs[0].stopped_by, "usage", usage_json(a));
    if (answer_event(out, last, 1, err) != 0) return -1;
    return answer_event(out, json_pack("{s:s}", "type", "message_stop"), 1, err);
}

const Family messages = {open_messages, events, response, error_json, "", count};
