// A conversation in the form of OpenAI's chat completions, put together from the pieces of
// protocols in which a message is a list of blocks.
#pragma once
#include <jansson.h>

// Neighbouring pieces of one role are one message, for templates that want roles to alternate.
typedef struct {
    json_t *messages;
    // private
    int gap; // the next text is of another message than the one before
} Conversation;

void conversation_open(Conversation *c);
void conversation_message(Conversation *c); // another message of the source begins
void conversation_text(Conversation *c, const char *role, const json_t *text);
void conversation_reasoning(Conversation *c, const json_t *text);
void conversation_call(Conversation *c, const json_t *id, const json_t *name, json_t *arguments);
// The result of a call, returned for what else it may say.
json_t *conversation_result(Conversation *c, const json_t *id, json_t *text);
// The messages, for the caller to release.
json_t *conversation_close(Conversation *c);
