// Who may use the server: keys of the options, and of a file that is read again when it changes.
// Knows nothing of HTTP.
#pragma once
#include "error.h"
#include <time.h>

typedef struct Key Key;
typedef struct {
    // private
    const char *path; // or NULL
    struct timespec changed;
    Key *given, *filed;
} Keys;

// Keys may be NULL, and so may the file. Its lines are "api-key = KEY" and "admin-key = KEY", also
// as YAML has them (api_key: KEY, or - KEY in lines behind); each may be there several times.
int keys_open(Keys *k, const char *api_key, const char *admin_key, const char *path, Error *err);
void keys_close(Keys *k);
// Reads the file again if it has changed: 1 when it did, -1 when it cannot be used, which leaves
// the keys as they were; an error is told once a change.
int keys_refresh(Keys *k, Error *err);

// 0: none of the keys, 1: may use the model, 2: may look behind it. `key` NULL: none was given, and
// where there are no keys of a kind everybody has it.
int keys_permission(const Keys *k, const char *key);
