// Messages in the form of OpenAI's API to the form that templates expect, and on to a prompt.
#include "chat.h"
#include "program.h"
#include "sample.h"
#include <stdlib.h>
#include <string.h>

// --- open ----------------------------------------------------------------------------------------

static int is_mark(const ReplyFormat *formats, int count, const char *text, size_t bytes)
{
    for (int i = 0; i < count; i++)
        if (reply_is_mark(&formats[i], text, bytes)) return 1;
    return 0;
}

int chat_open(Chat *c, const Tokens *t, Error *err)
{
    *c = (Chat){0};
    if (templates_open(&c->templates, model_info.templates, model_info.templates_bytes, err) != 0)
        return -1;
    int count = templates_count(c->templates);
    ReplyFormat *formats = calloc((size_t)count + 1, sizeof *formats);
    c->hidden = calloc(BIT_WORDS(model_info.vocab), sizeof *c->hidden);
    if (!formats || !c->hidden) {
        free(formats);
        return error_set(err, "out of memory");
    }
    for (int i = 0; i < count; i++) formats[i] = reply_format(templates_text(c->templates, i));
    for (int32_t id = 0; id < model_info.vocab && id < tokens_count(t); id++) {
        size_t bytes;
        const char *text = tokens_bytes(t, id, &bytes);
        if (tokens_is_special(t, id) && !is_mark(formats, count, text, bytes))
            ADD_BIT(c->hidden, id);
    }
    free(formats);
    return 0;
}

void chat_close(Chat *c)
{
    templates_close(c->templates);
    free(c->hidden);
}

int chat_check(const Chat *c, Error *err)
{
    int i = templates_find(c->templates, NULL, 0, err);
    if (i < 0) return -1;
    const char *problem = templates_problem(c->templates, i);
    return problem ? error_set(err, "%s", problem) : 0;
}

const char *chat_template(const Chat *c)
{
    Error err;
    int i = templates_find(c->templates, NULL, 0, &err);
    return i < 0 ? NULL : templates_text(c->templates, i);
}

void chat_set_thinking(json_t *values, int on)
{
    json_object_set_new(values, "enable_thinking", json_boolean(on));
    json_object_set_new(values, "thinking", json_boolean(on)); // as DeepSeek's and Granite's say
}

int chat_knows_thinking(const Chat *c)
{
    const char *source = chat_template(c);
    return source && strstr(source, "thinking") != NULL;
}

const char *chat_template_name(const Chat *c, int i)
{
    return i < templates_count(c->templates) ? templates_name(c->templates, i) : NULL;
}

// --- messages ------------------------------------------------------------------------------------

// Arguments of tool calls, text in the API, as the objects that they are the text of.
static void parse_arguments(json_t *message)
{
    size_t i;
    json_t *call;
    json_array_foreach(json_object_get(message, "tool_calls"), i, call)
    {
        json_t *function = json_object_get(call, "function");
        const json_t *text = json_object_get(function, "arguments");
        if (!json_is_string(text)) continue;
        json_t *object = json_string_length(text)
                             ? json_loadb(json_string_value(text), json_string_length(text),
                                          JSON_ALLOW_NUL, NULL)
                             : json_object();
        if (json_is_object(object)) json_object_set(function, "arguments", object);
        json_decref(object);
    }
}

json_t *chat_join(const json_t *texts)
{
    size_t i, bytes = 0;
    json_t *text;
    json_array_foreach(texts, i, text) bytes += json_string_length(text);
    char *all = malloc(bytes + 1), *at = all;
    if (!all) return NULL;
    json_array_foreach(texts, i, text)
    {
        memcpy(at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    json_t *whole = json_stringn(all, bytes);
    free(all);
    return whole;
}

// Checks content that is a list of parts; `join` makes it one text.
static int convert_content(json_t *message, size_t number, int join, Error *err)
{
    const json_t *content = json_object_get(message, "content");
    json_t *part, *all = json_array();
    size_t i;
    if (!json_is_array(content)) join = 0;
    json_array_foreach(content, i, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        json_t *text = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text)) {
            json_decref(all);
            return error_set(err,
                             "messages: number %zu: of content in parts, only text is there "
                             "yet, not '%.40s'",
                             number, type ? type : "?");
        }
        json_array_append(all, text);
    }
    if (join) json_object_set_new(message, "content", chat_join(all));
    json_decref(all);
    return 0;
}

// A template that looks at parts mentions their text.
static int knows_parts(const char *source)
{
    return strstr(source, ".text") || strstr(source, "'text'") || strstr(source, "\"text\"");
}

static int render(const Chat *c, int i, const json_t *values, int parse, ChatPrompt *out,
                  Error *err)
{
    int join = !knows_parts(templates_text(c->templates, i)), status = 0;
    json_t *request = json_copy((json_t *)values), *message;
    json_t *messages = json_deep_copy(json_object_get(values, "messages"));
    size_t k;
    json_array_foreach(messages, k, message)
    {
        if (parse) parse_arguments(message);
        if (status == 0) status = convert_content(message, k, join, err);
    }
    if (json_object_set_new(request, "messages", messages) != 0)
        status = error_set(err, "out of memory");
    if (status == 0)
        status = template_render(c->templates, i, request, 0, &out->text, &out->bytes, err);
    json_decref(request);
    return status;
}

int chat_prompt(const Chat *c, const char *name, const json_t *values, ChatPrompt *out, Error *err)
{
    Error second;
    int has_tools = json_array_size(json_object_get(values, "tools")) > 0;
    *out = (ChatPrompt){0};
    int i = templates_find(c->templates, name, has_tools, err);
    if (i < 0) return -1;
    const char *source = templates_text(c->templates, i);
    if (has_tools && !strstr(source, "tools"))
        return error_set(err, "the model's chat template takes no tools");
    // Most templates want arguments as objects, some (DeepSeek's) as text.
    if (render(c, i, values, 1, out, err) != 0 && render(c, i, values, 0, out, &second) != 0)
        return -1;
    out->format = reply_format(source);
    out->template_text = source;
    out->reasoning = reply_reasoning(&out->format, out->text, out->bytes);
    return 0;
}
