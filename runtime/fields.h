// The fields of a request's JSON, checked one by one, and why a request is refused. Knows nothing
// of what they are for.
#pragma once
#include "error.h"
#include <jansson.h>
#include <stdint.h>

// An HTTP status and the fields of OpenAI's error object.
typedef struct {
    int status;
    const char *type, *code; // code may be NULL
    char param[64];          // may be empty
    Error error;
} Refusal;

// Fills *r and returns -1.
int refusal_set(Refusal *r, int status, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
int refusal_memory(Refusal *r);
// A message, which may quote or be cut within a character, as a JSON string.
json_t *refusal_text(const char *text);

// The first of the names that is there and not null. The alias may be NULL.
const json_t *field_of(const json_t *body, const char *name, const char *alias);
// 0, with *out as it was when the field is not there; -1 and a refusal when it is something else.
int field_whole(const json_t *body, const char *name, const char *alias, int low, int high,
                int *out, Refusal *r);
int field_flag(const json_t *body, const char *name, const char *alias, int *out, Refusal *r);
// A token id of the model.
int field_id(const json_t *v, const char *name, int32_t *id, Refusal *r);
// A list of them, which the caller frees also after a refusal.
int field_ids(const json_t *v, const char *name, int32_t **ids, size_t *count, Refusal *r);
// A string or a list of strings, and with `ids` also of token ids; empty strings do not count. The
// caller frees the lists, the strings are the value's.
int field_strings(const json_t *v, const char *name, const char ***strings, int *count,
                  int32_t **ids, int *id_count, Refusal *r);
// A text, or a list of objects of these types (NULL-terminated) with one, as a list of texts that
// the caller releases; nothing is an empty one. NULL and a refusal.
json_t *field_texts(const json_t *v, const char *name, const char *const *types, Refusal *r);
// The member "type" of an object, or "?".
const char *field_type(const json_t *v);
// A NULL-terminated list of names has this one.
int field_listed(const char *name, const char *const *names);
