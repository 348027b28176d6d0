// Messages to the text that a model was trained on.
#pragma once
#include "error.h"
#include "tokens.h"
#include <jansson.h>

// Appends the prompt of a conversation to *out. `values` are the template's variables: messages,
// tools, add_generation_prompt, ... Special tokens are spelled out, the beginning of text included.
int chat_prompt(const json_t *values, TokenText *out, Error *err);
// 1 when the model came with a template.
int chat_has_template(void);
