// Regular expressions: the part of Perl's, Python's and JavaScript's that is regular. \d and \w are
// of ASCII; the dot is anything but an end of line.
#pragma once
#include "grammar.h"

typedef struct {
    Expr e;
    int64_t min, max; // characters; max GRAMMAR_MANY or more: any number
} Pattern;

// The texts of an expression. `json`: as they stand in a JSON string. `search`: those with a match
// anywhere in them, but for ^ and $; else the match is the whole. A failure is the grammar's.
Pattern pattern_read(Grammar *g, const char *text, size_t bytes, int json, int search);

// Of an expression ^ATOM$, where the atom is one character or a class and may be repeated: its
// texts of min to max characters, within a JSON string. 0 when it is another expression; nothing is
// added then.
int pattern_read_run(Grammar *g, const char *text, size_t bytes, int64_t min, int64_t max,
                     Pattern *out);

// One of the characters of sorted ranges, as it stands in a JSON string: raw where that may be, and
// escaped otherwise. U+0000 never is.
Expr pattern_json_class(Grammar *g, const Range *ranges, int count);
