// Blocks to messages. While a message is made, its texts are lists.
#include "conversation.h"
#include "chat.h"
#include <string.h>

void conversation_open(Conversation *c)
{
    *c = (Conversation){.messages = json_array()};
}

void conversation_message(Conversation *c)
{
    c->gap = 1;
}

// The last message when it is of this role, else a new one.
static json_t *message_of(Conversation *c, const char *role)
{
    size_t count = json_array_size(c->messages);
    json_t *last = count ? json_array_get(c->messages, count - 1) : NULL;
    const char *had = json_string_value(json_object_get(last, "role"));
    if (had && strcmp(had, role) == 0 && strcmp(role, "tool") != 0) return last;
    c->gap = 0;
    json_array_append_new(c->messages, json_pack("{s:s, s:[]}", "role", role, "content"));
    return json_array_get(c->messages, count);
}

void conversation_text(Conversation *c, const char *role, const json_t *text)
{
    json_t *texts = json_object_get(message_of(c, role), "content");
    if (c->gap && json_array_size(texts)) json_array_append_new(texts, json_string("\n\n"));
    json_array_append(texts, (json_t *)text);
    c->gap = 0;
}

// The list under a key of the answer that is being told.
static json_t *list_of(Conversation *c, const char *key)
{
    json_t *message = message_of(c, "assistant");
    if (!json_object_get(message, key)) json_object_set_new(message, key, json_array());
    return json_object_get(message, key);
}

void conversation_reasoning(Conversation *c, const json_t *text)
{
    json_array_append(list_of(c, "reasoning_content"), (json_t *)text);
}

void conversation_call(Conversation *c, const json_t *id, const json_t *name, json_t *arguments)
{
    json_array_append_new(list_of(c, "tool_calls"),
                          json_pack("{s:O, s:s, s:{s:O, s:o}}", "id", id, "type", "function",
                                    "function", "name", name, "arguments", arguments));
}

json_t *conversation_result(Conversation *c, const json_t *id, json_t *text)
{
    json_t *message = message_of(c, "tool");
    json_object_set(message, "tool_call_id", (json_t *)id);
    json_array_append_new(json_object_get(message, "content"), text);
    return message;
}

json_t *conversation_close(Conversation *c)
{
    json_t *message;
    size_t i;
    json_array_foreach(c->messages, i, message)
    {
        json_t *texts = json_object_get(message, "content");
        json_t *reasoning = json_object_get(message, "reasoning_content");
        // Templates tell an answer of calls alone by its missing content.
        int silent = !json_array_size(texts) && json_object_get(message, "tool_calls");
        json_object_set_new(message, "content", silent ? json_null() : chat_join(texts));
        if (reasoning) json_object_set_new(message, "reasoning_content", chat_join(reasoning));
    }
    return c->messages;
}
