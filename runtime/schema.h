// JSON schemas as grammars: the texts of JSON values that are valid. Not all of them: properties
// stand in the order of the schema, properties that it does not list are there only where
// additionalProperties says so, and white space is little. What cannot be promised is refused.
#pragma once
#include "grammar.h"
#include <jansson.h>

// The rule for a schema, or -1 and the grammar's failure, which names the place in the schema.
int schema_read(Grammar *g, const json_t *schema);
