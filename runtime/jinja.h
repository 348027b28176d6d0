// The tables of a model's chat templates, as compiler/template.c writes them and template.c reads
// them: one block of memory without pointers, little-endian, every section 8-byte aligned.
//
//     header | templates | nodes | links | text
//
// A template is a tree of nodes. A node stands behind its children, so that node 0, which is never
// used, can mean "none" and a checked table has no cycles. Equal texts of nodes are stored once:
// two names are the same where their offsets are.
#pragma once
#include <stdint.h>

#define JINJA_MAGIC "exlcjin"
#define JINJA_VERSION 1
#define JINJA_MAX_NESTING 200 // of statements and expressions within each other

// A part of a section: `at` counts elements of the section (bytes of the block for sections
// themselves), `count` its elements.
typedef struct {
    uint32_t at, count;
} JinjaSpan;

typedef struct {
    char magic[8];
    uint32_t version, spare;
    uint64_t bytes;                        // of the whole block
    JinjaSpan templates;                   // JinjaTemplate
    JinjaSpan nodes;                       // JinjaNode
    JinjaSpan links;                       // uint32_t: nodes
    JinjaSpan text;                        // bytes, UTF-8
    JinjaSpan tokens;                      // of text: the special tokens, a JSON object
} JinjaHeader;

// `name` and `source` are followed by a zero, and so is `problem` when it is not empty; a template
// with a problem has no body.
typedef struct {
    JinjaSpan name, source, problem; // of text
    uint32_t body, spare;            // node
} JinjaTemplate;

typedef struct {
    uint16_t kind, op; // op: an operator, filter or test, or flags
    uint32_t line;
    uint32_t a, b, c; // nodes, unless the kind says otherwise; 0: none
    JinjaSpan list;   // of links
    JinjaSpan text;   // of text
} JinjaNode;

enum {
    // expressions
    JINJA_NONE = 1,
    JINJA_TRUE,
    JINJA_FALSE,
    JINJA_INTEGER,  // a: low half, b: high half
    JINJA_FLOAT,    // likewise, the bits of a double
    JINJA_STRING,   // text
    JINJA_NAME,     // text
    JINJA_CAPTURED, // the text that a filter block or set block has caught
    JINJA_LIST,     // list
    JINJA_TUPLE,    // list
    JINJA_DICT,     // list: key, value, key, value ...
    JINJA_GETATTR,  // a . text
    JINJA_GETITEM,  // a [ b ]
    JINJA_SLICE,    // a : b : c
    JINJA_CALL,     // a ( list )
    JINJA_FILTER,   // a | op ( list )
    JINJA_TEST,     // a is op ( list )
    JINJA_KEYWORD,  // in the list of a call: text = a
    JINJA_SPREAD,   // likewise: * a
    JINJA_KEYWORDS, // likewise: ** a
    JINJA_NOT,      // a
    JINJA_NEGATIVE, // a
    JINJA_POSITIVE, // a
    JINJA_AND,      // a, b
    JINJA_OR,       // a, b
    JINJA_BINARY,   // a op b
    JINJA_CONCAT,   // list, joined as text
    JINJA_COMPARE,  // a, list of operands
    JINJA_OPERAND,  // in the list of a comparison: op a
    JINJA_CONDITIONAL, // b if a else c
    // statements
    JINJA_TEXT,         // text
    JINJA_OUTPUT,       // a
    JINJA_BODY,         // list of statements
    JINJA_IF,           // a: test, b: body, c: else
    JINJA_FOR,          // a: target, b: what is walked, list: body, else, test; op: 1 is recursive
    JINJA_SET,          // a: target, b: value
    JINJA_SET_BLOCK,    // a: target, b: body, c: filters over JINJA_CAPTURED, or none
    JINJA_FILTER_BLOCK, // b: body, c: filters over JINJA_CAPTURED
    JINJA_MACRO,        // text: name, list: parameters, b: body, op: the flags below
    JINJA_CALL_BLOCK,   // a: call, list: parameters, b: body, op: likewise
    JINJA_PARAMETER,    // text: name, a: default or none
    JINJA_WITH,         // list: target, value, target, value ...; b: body
    JINJA_SCOPE,        // b: body
    JINJA_BREAK,
    JINJA_CONTINUE,
    // targets: JINJA_NAME, JINJA_TUPLE of targets, and
    JINJA_ATTRIBUTE, // text: attribute, a: the namespace's JINJA_NAME
    JINJA_KINDS
};

enum { JINJA_ADD, JINJA_SUB, JINJA_MUL, JINJA_DIV, JINJA_FLOORDIV, JINJA_MOD, JINJA_POW };
enum { JINJA_EQ, JINJA_NE, JINJA_LT, JINJA_LE, JINJA_GT, JINJA_GE, JINJA_IN, JINJA_NOTIN };

// What a macro's body asks for beyond its parameters.
enum { JINJA_CALLER = 1, JINJA_VARARGS = 2, JINJA_KWARGS = 4 };

// Filters and tests in the order of their numbers; F gets the name in C and the name in Jinja.
#define JINJA_FILTERS(F)                                                                           \
    F(abs, "abs") F(attr, "attr") F(batch, "batch") F(capitalize, "capitalize")                    \
    F(center, "center") F(default, "default") F(dictsort, "dictsort") F(escape, "escape")          \
    F(first, "first") F(float, "float") F(format, "format") F(groupby, "groupby")                  \
    F(indent, "indent") F(int, "int") F(items, "items") F(join, "join") F(last, "last")            \
    F(length, "length") F(list, "list") F(lower, "lower") F(map, "map") F(max, "max")              \
    F(min, "min") F(reject, "reject") F(rejectattr, "rejectattr") F(replace, "replace")            \
    F(reverse, "reverse") F(round, "round") F(safe, "safe") F(select, "select")                    \
    F(selectattr, "selectattr") F(slice, "slice") F(sort, "sort") F(string, "string")              \
    F(sum, "sum") F(title, "title") F(tojson, "tojson") F(trim, "trim") F(truncate, "truncate")    \
    F(unique, "unique") F(upper, "upper") F(urlencode, "urlencode") F(wordcount, "wordcount")      \
    F(default, "d") F(escape, "e") F(length, "count")

#define JINJA_TESTS(T)                                                                             \
    T(boolean, "boolean") T(callable, "callable") T(defined, "defined")                            \
    T(divisibleby, "divisibleby") T(eq, "eq") T(escaped, "escaped") T(even, "even")                \
    T(false, "false") T(filter, "filter") T(float, "float") T(ge, "ge") T(gt, "gt") T(in, "in")    \
    T(integer, "integer") T(iterable, "iterable") T(le, "le") T(lower, "lower") T(lt, "lt")        \
    T(mapping, "mapping") T(ne, "ne") T(none, "none") T(number, "number") T(odd, "odd")            \
    T(sameas, "sameas") T(sequence, "sequence") T(string, "string") T(test, "test")                \
    T(true, "true") T(undefined, "undefined") T(upper, "upper") T(eq, "equalto") T(eq, "==")       \
    T(ne, "!=") T(gt, ">") T(gt, "greaterthan") T(ge, ">=") T(lt, "<") T(lt, "lessthan")           \
    T(le, "<=")
