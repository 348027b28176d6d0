// tokenizer.json of a model -> the tables of runtime/vocab.h.
#pragma once
#include "util.h"
#include <cjson/cJSON.h>

// Appends the tables for DIR/tokenizer.json to *out, whose length is first padded to a multiple of
// 8. Does nothing when there is no such file. Dies, naming the file, on anything the runtime could
// not reproduce exactly. The ids of bos_token and eos_token are taken from tokenizer_config.json;
// which tokens surround a text is the post_processor's word alone.
void compile_tokenizer(const char *dir, Buffer *out);

// The same for the text of a tokenizer.json; `where` stands for its path in messages.
void compile_tokenizer_text(const char *where, const char *text, size_t bytes, Buffer *out);

// Reads tokenizer_config.json or a file like it, with numbers of any size; NULL when there is none.
// Dies when it is no JSON object. The caller deletes the tree.
cJSON *read_tokenizer_config(const char *path);
