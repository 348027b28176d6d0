// Chat templates: the messages of a request -> the text of a prompt, by the tables that exlc made
// of the model's Jinja templates (jinja.h). Gives the text that Hugging Face's apply_chat_template
// gives. Knows nothing of tokens, models or HTTP.
#pragma once
#include "error.h"
#include <jansson.h>
#include <stddef.h>
#include <time.h>

typedef struct Templates Templates;

// Checks the tables. `tables` must be 8-byte aligned and outlive *t. A model without templates has
// tables too: count is 0, special tokens may be there.
int templates_open(Templates **t, const void *tables, size_t bytes, Error *err);
void templates_close(Templates *t);

int templates_count(const Templates *t);
// "default" for the template of a model that has one; other names as the model gives them.
const char *templates_name(const Templates *t, int i);
// The Jinja text.
const char *templates_text(const Templates *t, int i);
// Why exlc could not compile it, with file and line; NULL for one that can be rendered.
const char *templates_problem(const Templates *t, int i);
// The text of "bos_token", "eos_token", ... as tokenizer_config.json has it, or NULL.
const char *templates_token(const Templates *t, const char *key);
// The template for a request: the one called `name`; without a name "tool_use" for requests with
// tools and "default" for others, as far as they are there. -1 and a line in *err when there is
// none.
int templates_find(const Templates *t, const char *name, int has_tools, Error *err);

// Renders template i. `request` is an object: messages, tools, documents, add_generation_prompt
// and whatever else the template may ask for (enable_thinking, ...); each member is a variable of
// that name. Special tokens are variables too, unless the request has them. Absent tools and
// documents are none, absent add_generation_prompt is false. One member is no variable:
// continue_final_message true ends the text after the content of the last message.
//
// `now` is the time for strftime_now, 0 the clock's. On success *text (the caller's, to be freed;
// zero-terminated) has `*bytes` bytes. Otherwise -1: what the template says with raise_exception is
// *err verbatim (as far as Error holds), other errors name the template's line. Time, memory and
// depth are limited, so that hostile templates and requests end in an error too. Any number of
// threads may render at once.
int template_render(const Templates *t, int i, const json_t *request, time_t now, char **text,
                    size_t *bytes, Error *err);
