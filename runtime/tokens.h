// Text <-> tokens, by the tables that exlc made of the model's tokenizer.json (vocab.h). Gives the
// ids and texts that version 0.22 of Hugging Face's tokenizers package gives. Knows nothing of
// models, prompts or chat.
#pragma once
#include "error.h"
#include "vocab.h"
#include <stddef.h>
#include <stdint.h>

typedef struct Tokens Tokens;

// Growing lists of the caller; zero-initialised is empty and valid, free() releases them.
typedef struct {
    int32_t *id;
    size_t count, room;
} TokenList;

typedef struct {
    char *data;
    size_t bytes, room;
} TokenText;

// Checks the tables and prepares them. `tables` must be 8-byte aligned and outlive *t; NULL is a
// tokenizer without a single token, for models that came without one.
int tokens_open(Tokens **t, const void *tables, size_t bytes, Error *err);
void tokens_close(Tokens *t);

// Highest id + 1. Some ids below it may have no token.
int tokens_count(const Tokens *t);
int tokens_exists(const Tokens *t, int32_t id);
int tokens_is_special(const Tokens *t, int32_t id);
// The bytes that a token adds in the middle of a text, not always whole characters; empty for an id
// without a token.
const char *tokens_bytes(const Tokens *t, int32_t id, size_t *bytes);
// The id of the token that is spelled so in tokenizer.json, or -1.
int32_t tokens_find(const Tokens *t, const char *content, size_t bytes);
// What tokenizer_config.json names, or -1.
int32_t tokens_bos(const Tokens *t);
int32_t tokens_eos(const Tokens *t);

enum {
    TOKENS_ADD_SPECIAL = 1,  // put the model's special tokens around the text
    TOKENS_PARSE_SPECIAL = 2 // special tokens spelled out in the text become their ids
};

// Appends the ids of a text. Fails on invalid UTF-8. Any number of threads may encode at once.
int tokens_encode(const Tokens *t, const char *text, size_t bytes, int flags, TokenList *out,
                  Error *err);

// Appends the text of `count` ids; ids without a token are passed over.
int tokens_decode(const Tokens *t, const int32_t *id, size_t count, int skip_special,
                  TokenText *out, Error *err);

// Decodes one id at a time. After feed and flush, `text` holds the newly completed text, whole
// UTF-8 characters; all of them together are what tokens_decode gives for all ids.
typedef struct {
    TokenText text;
    // private
    const Tokens *tokens;
    int skip_special, partial_bytes;
    uint64_t count;                  // tokens seen
    TokenText run;                   // bytes of byte tokens whose end has not come
    TokenText held, joined, work[2]; // working memory
    char partial[4];                 // the start of a character
    uint32_t seen[VOCAB_MAX_STEPS];  // what a step must remember: see stream_push
} TokenStream;

void stream_open(TokenStream *s, const Tokens *t, int skip_special);
int stream_feed(TokenStream *s, int32_t id, Error *err);
int stream_flush(TokenStream *s, Error *err);
void stream_close(TokenStream *s);
