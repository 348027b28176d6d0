// The values of a chat template while it is rendered, with the meaning that Python gives them, and
// the memory they live in. Everything belongs to one rendering and is released with it; a function
// that cannot go on does not return (render_fail).
#pragma once
#include "error.h"
#include <jansson.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    jmp_buf failed; // where render_fail goes; *err then has the line
    Error *err;
    uint32_t line; // of the template, for messages
    // private
    struct Block *blocks;
    char *top, *end; // the free part of the newest block
    size_t memory;
    uint64_t steps;
    int depth;
} Render;

// Limits of one rendering: far beyond any sane template, near enough that a hostile one ends soon.
#define RENDER_MAX_MEMORY ((size_t)256 << 20)
#ifndef RENDER_MAX_STEPS // fuzzers have less patience
#define RENDER_MAX_STEPS 50000000u
#endif
#define RENDER_MAX_DEPTH 1000

// *err gets "chat template, line N: ...".
_Noreturn void render_fail(Render *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *render_alloc(Render *r, size_t bytes); // zeroed, 8-byte aligned
// Counts work; bytes that are looked at count for a sixteenth.
void render_step(Render *r, size_t steps);
// Around everything that calls itself.
void render_enter(Render *r);
void render_leave(Render *r);
void render_release(Render *r);

typedef enum {
    VALUE_MISSING, // an argument that was not given
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST, // and all that is walked like one; see the forms
    VALUE_DICT,
    VALUE_NAMESPACE, // dict
    VALUE_METHOD,    // a function bound to a value
    VALUE_MACRO,     // the rest is the evaluator's
    VALUE_FUNCTION,
    VALUE_LOOP,
    VALUE_CYCLER,
    VALUE_JOINER
} ValueKind;

enum {
    FORM_LIST,
    FORM_TUPLE,
    FORM_GROUP,
    FORM_RANGE,
    FORM_KEYS,
    FORM_VALUES,
    FORM_ITEMS,
    FORM_GENERATOR
};
enum { FORM_PLAIN, FORM_MARKUP };   // of strings: markup came through `safe` or `escape`
enum { FORM_UNKNOWN, FORM_UNSAFE }; // of undefined values: unsafe ones may not be called

typedef struct Value {
    uint8_t kind, form;
    uint32_t bytes; // of strings
    union {
        int64_t integer; // and booleans
        double number;
        const char *text; // of strings, UTF-8; of undefined values why they are, zero-terminated
        struct List *list;
        struct Dict *dict;
        struct Bound *bound;
        void *object;
    };
} Value;

typedef struct List {
    Value *item;
    uint32_t count, room;
    uint32_t used; // items that a generator has given away
} List;

typedef struct {
    Value key, value;
} Pair;

typedef struct Dict {
    Pair *pair; // in the order in which keys came
    uint32_t count, room;
} Dict;

// Arguments of a call; a keyword's key is a string.
typedef struct {
    const Value *item;
    int count;
    const Pair *keyword;
    int keywords;
} Arguments;

typedef Value (*Function)(Render *r, Value self, const Arguments *a);

// A method and what it was taken from.
typedef struct Bound {
    Value self;
    const char *name;
    Function function;
} Bound;

// --- making values -------------------------------------------------------------------------------

static inline Value value_none(void)
{
    return (Value){.kind = VALUE_NONE};
}
static inline Value value_bool(int b)
{
    return (Value){.kind = VALUE_BOOL, .integer = b != 0};
}
static inline Value value_int(int64_t i)
{
    return (Value){.kind = VALUE_INT, .integer = i};
}
static inline Value value_float(double d)
{
    return (Value){.kind = VALUE_FLOAT, .number = d};
}
// `text` must outlive the rendering.
static inline Value value_string(const char *text, size_t bytes)
{
    return (Value){.kind = VALUE_STRING, .bytes = (uint32_t)bytes, .text = text};
}
static inline Value value_literal(const char *text)
{
    return value_string(text, strlen(text));
}
Value value_undefined(Render *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
Value value_list(Render *r, int form);
void list_add(Render *r, Value list, Value item);
Value value_pair(Render *r, Value a, Value b); // a tuple
Value value_dict(Render *r);
void dict_set(Render *r, Dict *d, Value key, Value value);  // fails on keys that cannot be hashed
const Value *dict_get(Render *r, const Dict *d, Value key); // NULL: no such key
const Value *dict_find(const Dict *d, const char *key);
Value value_from_json(Render *r, const json_t *json); // strings stay in `json`

// --- text in the making --------------------------------------------------------------------------

typedef struct {
    char *data;
    size_t bytes, room;
} Text;

void text_add(Render *r, Text *t, const char *data, size_t bytes);
void text_print(Render *r, Text *t, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void text_add_char(Render *r, Text *t, int32_t c);
static inline Value text_value(const Text *t)
{
    return value_string(t->bytes ? t->data : "", t->bytes);
}
// Characters: the one at *at, which moves on; their number; the byte where character n starts.
int32_t text_next(const char **at, const char *end);
size_t text_length(const char *text, size_t bytes);
size_t text_offset(const char *text, size_t bytes, size_t n);
int is_space(int32_t c); // as str.isspace

// --- using values --------------------------------------------------------------------------------

const char *value_type(Value v); // Python's name: "str"
int value_is_number(Value v);    // bool, int, float
double value_number(Value v);    // of a number
int value_true(Value v);
int value_equal(Render *r, Value a, Value b);
int value_compare(Render *r, Value a, Value b, const char *op); // -1, 0, 1, 2: not comparable
int value_contains(Render *r, Value in, Value v);
// What a walk over v gives; a generator gives what it has left, once.
List *value_items(Render *r, Value v);
int64_t value_length(Render *r, Value v);
int value_has_length(Value v);
Value value_text(Render *r, Value v);             // str(v)
void text_add_value(Render *r, Text *t, Value v); // str(v)
void text_add_repr(Render *r, Text *t, Value v);
void text_add_float(Render *r, Text *t, double d);
typedef struct {
    int ascii, sorted;
    const char *indent; // NULL: on one line
    Value item_separator, key_separator;
} JsonForm;
void text_add_json(Render *r, Text *t, Value v, const JsonForm *form, int level);

Value value_binary(Render *r, int op, Value a, Value b); // jinja.h's operators
Value value_concat(Render *r, Value a, Value b);         // of strings
// x.name and x[index]; the evaluator looks into its own kinds before.
Value value_attribute(Render *r, Value v, Value name);
Value value_item(Render *r, Value v, Value index);
Value value_slice(Render *r, Value v, Value start, Value stop, Value step);
