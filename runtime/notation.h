// The texts of JSON values, as grammars: strings, numbers, whatever a value may be. White space is
// little: none, a space, or a new line with some indentation.
#pragma once
#include "grammar.h"
#include <jansson.h>

Expr notation_space(Grammar *g);
Expr notation_string(Grammar *g, int32_t min, int32_t max); // of so many characters
Expr notation_number(Grammar *g);
Expr notation_whole(Grammar *g);
Expr notation_value(Grammar *g);
int notation_object(Grammar *g); // the rule of any object
// A value as it is written, without white space; the text is the caller's, NULL without memory.
char *notation_text(const json_t *v);
Expr notation_exactly(Grammar *g, const json_t *v);
// A string that is none of an object's names, written without escapes.
Expr notation_other_name(Grammar *g, const json_t *properties);

// The rule of an object with certain members in this order: of each its name, and as value the text
// of JSON `text`, or a `rule` where that is NULL.
typedef struct {
    const char *name, *text;
    int rule;
} Member;
int notation_members(Grammar *g, const Member *members, int count);
