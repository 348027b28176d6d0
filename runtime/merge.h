// JSON schemas as plain objects: references followed, allOf merged into what it stands beside, so
// that a schema says all in its own keywords. What comes out allows nothing that was not valid;
// where oneOf needs it, it allows less. Knows nothing of grammars.
#pragma once
#include "error.h"
#include <jansson.h>

typedef struct {
    const json_t *root;
    json_t *kept;  // what was made, for as long as it is used
    json_t *flats; // by the address of the schema
    int merges;    // work so far, for a bound
    Error error;   // of the last failure: what is wrong, without the place
    char at[64];   // the keyword, or empty
} Merger;

int merger_open(Merger *m, const json_t *root);
void merger_close(Merger *m);

// The schema that a $ref names; NULL and an error.
const json_t *merge_target(Merger *m, const char *reference);
// The schema without allOf, const and oneOf, without $ref where other keywords stand beside it, and
// without keywords that say nothing about what is valid; alternatives are in anyOf. json_false()
// where nothing can be valid. NULL and an error for what cannot be merged. The result is the
// merger's.
const json_t *merge_flat(Merger *m, const json_t *schema);
// Both schemas at once, likewise.
const json_t *merge_both(Merger *m, const json_t *a, const json_t *b);
// Whether a value is of one of a schema's types, which may be missing.
int merge_has_type(const json_t *types, const json_t *value);
// Whether values of a type are made: it is named, or none is and a keyword speaks of it.
int merge_makes(const json_t *schema, const char *type);

// For apart.c: parts of merging.
enum {
    TYPE_OBJECT = 1,
    TYPE_ARRAY = 2,
    TYPE_STRING = 4,
    TYPE_BOOLEAN = 8,
    TYPE_NIL = 16,
    TYPE_WHOLE = 32,
    TYPE_REAL = 64
};
int merge_types(const json_t *schema);      // that `type` leaves
int merge_made_types(const json_t *schema); // as merge_makes says
json_t *merge_type_names(int bits);
const json_t *merge_fail(Merger *m, const char *keyword, const char *what); // NULL
json_t *merge_keep(Merger *m, json_t *made);
// Counts work: 0, or -1 and an error when there was too much of it.
int merge_spend(Merger *m, size_t work);
// As merge_flat, within so many others.
const json_t *merge_flat_at(Merger *m, const json_t *schema, int depth);
int merge_is_among(const json_t *values, const json_t *value);
// What a schema demands of a property that it may not list; NULL: nothing, or more than is known.
const json_t *merge_property(const json_t *schema, const char *name);
