// JSON schemas as grammars: the texts of JSON values that are valid. Not all of them: properties
// stand in the order of the schema, properties that it does not list are there only where
// additionalProperties says so, and white space is little. What cannot be promised is refused.
#pragma once
#include "grammar.h"
#include <jansson.h>

// The rule for a schema, or -1 and the grammar's failure, which names the place in the schema.
int schema_read(Grammar *g, const json_t *schema);
// The rule for any JSON object.
int schema_object(Grammar *g);
// The rule for a JSON object with certain members in this order: of each its name, and as value the
// text of JSON `text`, or a `rule` where that is NULL.
typedef struct {
    const char *name, *text;
    int rule;
} Member;
int schema_members(Grammar *g, const Member *members, int count);
