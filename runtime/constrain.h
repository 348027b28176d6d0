// What a request says its answer must be, as a compiled grammar. Compiled ones are kept for
// requests that ask the same again, with all that was found out about them.
#pragma once
#include "fields.h"
#include "match.h"
#include "reply.h"
#include <pthread.h>

// One thing at most is asked for; all of it is borrowed.
typedef struct {
    const json_t *schema; // or json_true(): any object
    const char *regex, *grammar;
    const json_t *tools;      // that may be called, or must be where nothing else is asked for
    const char *tool;         // the one that must be; NULL: any
    int single;               // one call at most
    const ReplyFormat *reply; // of a chat; NULL: plain text
    const char *template_text;
    Reasoning reasoning;
} Constraint;

// Reads response_format, json_schema, regex_pattern and grammar of a request: 1 when one is there,
// 0 when none is.
int constraint_read(const json_t *body, Constraint *c, Refusal *r);

// A matcher for what is asked, which the caller closes.
int constraint_compile(const Constraint *c, Matcher **m, Error *err);

enum { CONSTRAINTS_KEPT = 16 };
typedef struct {
    // private
    pthread_mutex_t lock;
    struct {
        char *key;
        Matcher *matcher;
        int users;
        uint64_t used;
    } kept[CONSTRAINTS_KEPT];
    uint64_t clock;
} Constraints;

void constraints_open(Constraints *all);
// A matcher for what is asked, until it is given back. Any thread may call these; the matcher
// itself is for one, the generator's.
int constraints_take(Constraints *all, const Constraint *c, Matcher **m, Error *err);
void constraints_give(Constraints *all, Matcher *m);
void constraints_close(Constraints *all);
