// The chat templates of a model -> the tables of runtime/jinja.h.
#pragma once
#include "util.h"

// Appends the tables for the templates of DIR to *out, whose length is first padded to a multiple
// of
// 8. They come from chat_template.jinja, else chat_template.json, else chat_template of
// tokenizer_config.json (a text, or a list of named ones), and from
// additional_chat_templates/*.jinja; the special tokens from tokenizer_config.json. A template that
// cannot be compiled is kept with the reason why. Dies on files that cannot be read.
void compile_templates(const char *dir, Buffer *out);

// The same for the text of one template, called "default"; `where` stands for its path in the
// reason.
void compile_template_text(const char *where, const char *text, size_t bytes, Buffer *out);
