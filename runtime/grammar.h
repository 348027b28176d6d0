// What an answer may be: rules over bytes, built by the readers of grammars, regular expressions
// and JSON schemas, and compiled to a program that match.c runs. Classes are of Unicode characters
// and become bytes of UTF-8 here. Knows nothing of tokens.
#pragma once
#include "error.h"
#include <stddef.h>
#include <stdint.h>

// The bytes of a special token's text behind this one, which no UTF-8 has, stand for the token.
#define GRAMMAR_TOKEN 0xff
#define GRAMMAR_MANY INT32_MAX // no upper bound

typedef struct Grammar Grammar;
typedef int32_t Expr; // part of a grammar; negative after a failure, and every part made of it too

typedef struct {
    uint32_t low, high; // code points, both included
} Range;

// Sorts ranges and joins those that touch; returns how many are left.
int range_unite(Range *r, int count);
// What `count` such ranges leave out, in `out` (count + 1); returns how many that are.
int range_complement(const Range *r, int count, Range *out);

Grammar *grammar_open(void); // NULL: out of memory
void grammar_close(Grammar *g);
// The first failure since it was opened stays; returns -1.
int grammar_fail(Grammar *g, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int grammar_error(const Grammar *g, Error *err); // 0, or -1 and the failure

// The rule of a name, declared when there is none.
int grammar_rule(Grammar *g, const char *name, size_t bytes);
// A rule without a name.
int grammar_fresh(Grammar *g);
int grammar_defined(const Grammar *g, int rule);
void grammar_define(Grammar *g, int rule, Expr e);

Expr grammar_text(Grammar *g, const char *text, size_t bytes);  // these bytes; empty is fine
Expr grammar_word(Grammar *g, const char *text);                // these characters
Expr grammar_token(Grammar *g, const char *text, size_t bytes); // a special token, by its text
Expr grammar_class(Grammar *g, const Range *ranges, int count, int negated); // one character
Expr grammar_call(Grammar *g, int rule);
Expr grammar_repeat(Grammar *g, Expr e, int32_t min, int32_t max); // max GRAMMAR_MANY: any number
// Lists grow by grammar_add: one behind another, or one of them.
Expr grammar_sequence(Grammar *g);
Expr grammar_choice(Grammar *g);
void grammar_add(Grammar *g, Expr list, Expr e);
// A sequence or choice of `count` parts.
Expr grammar_join(Grammar *g, int count, ...);
Expr grammar_either(Grammar *g, int count, ...);

// What match.c runs. An item of work is a place in `steps` within some chain of callers.
typedef enum { STEP_BYTE, STEP_SPLIT, STEP_CALL, STEP_REPEAT, STEP_END } StepKind;
typedef struct {
    uint8_t kind, low, high; // of BYTE: the bytes that it takes
    uint8_t skips;           // CALL, REPEAT: what is called may be empty
    uint8_t tail;            // CALL: nothing comes behind it
    uint8_t endless;         // no text from here comes to an end
    int32_t next;
    int32_t other;    // SPLIT: the other place; CALL, REPEAT: number of the rule
    int32_t min, max; // REPEAT
} Step;

typedef struct {
    Step *steps;
    int32_t step_count;
    int32_t *entry; // (rules) places
    int32_t *rank;  // (rules): what a rule calls before it takes a byte has a higher rank
    int32_t rules, root;
    uint8_t class_of[256]; // bytes that no step tells apart have one class
    int classes;
} Program;

// Refuses what cannot be run: left recursion, rules that are missing, more steps than there may be.
int grammar_compile(Grammar *g, int root, Program *p, Error *err);
void program_close(Program *p);
