// The model's chat templates at work: messages to prompts, and the format of the replies. Knows
// nothing of HTTP or the terminal.
#pragma once
#include "error.h"
#include "reply.h"
#include "template.h"
#include "tokens.h"

typedef struct {
    // Bits by id, for Job.hidden: special tokens that no format of a reply is made of.
    uint32_t *hidden;
    // private
    Templates *templates;
} Chat;

// The templates of the program. A model without any opens too; only its prompts fail.
int chat_open(Chat *c, const Tokens *t, Error *err);
void chat_close(Chat *c);
// 0, or why the model takes no messages.
int chat_check(const Chat *c, Error *err);
// The Jinja text for requests without tools, or NULL.
const char *chat_template(const Chat *c);
// The name of template i, or NULL.
const char *chat_template_name(const Chat *c, int i);

typedef struct {
    char *text; // the caller's, to be freed
    size_t bytes;
    ReplyFormat format;
    const char *template_text; // of the template that was used
    Reasoning reasoning;
} ChatPrompt;

// Lets replies reason or not, as variables of a template say that; whether the model's knows them.
void chat_set_thinking(json_t *values, int on);
int chat_knows_thinking(const Chat *c);
// The texts of a list as one.
json_t *chat_join(const json_t *texts);

// The prompt of a conversation. `values` are the template's variables: messages, tools,
// add_generation_prompt, ... in the form of OpenAI's API. `name`: of the template, or NULL. Special
// tokens are spelled out, the beginning of text included.
int chat_prompt(const Chat *c, const char *name, const json_t *values, ChatPrompt *out, Error *err);
