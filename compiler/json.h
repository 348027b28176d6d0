// Strict JSON for the compiler: cJSON behind checks that cJSON does not make.
#pragma once
#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdint.h>

// Parses a complete JSON text. Dies, naming `where` and the byte, on: a syntax error, trailing
// text, invalid UTF-8, nesting deeper than 128, a key twice in one object, an integer literal
// beyond 2^53. The word Infinity is a number, as in files that Python wrote. The tree lives until
// exit.
cJSON *parse_json(const char *where, const char *text, size_t bytes);

// Reads and parses a file; the second form returns NULL when there is no such file.
cJSON *read_json(const char *path);
cJSON *read_json_if_present(const char *path);

// Member of an object by exact, case-sensitive key; NULL when absent (or `object` is no object).
const cJSON *json_get(const cJSON *object, const char *key);

// Whole number in [low, high]; dies naming `where` and `key` otherwise.
int64_t json_whole(const char *where, const char *key, const cJSON *value, int64_t low,
                     int64_t high);
