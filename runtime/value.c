// Values with Python's meaning: their truth, order, text and arithmetic, and the memory of a
// rendering.
#include "value.h"
#include "jinja.h"
#include "methods.h"
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

// --- memory and errors ---------------------------------------------------------------------------

#define BLOCK_BYTES ((size_t)1 << 16)

typedef struct Block {
    struct Block *next;
    size_t bytes;
} Block;

_Noreturn void render_fail(Render *r, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    error_set(r->err, "chat template, line %u: %s", r->line, text);
    longjmp(r->failed, 1);
}

// Room for `bytes` at r->top.
static void make_room(Render *r, size_t bytes)
{
    if ((size_t)(r->end - r->top) >= bytes && r->top) return;
    size_t size = bytes > BLOCK_BYTES ? bytes : BLOCK_BYTES;
    if (r->memory + size > RENDER_MAX_MEMORY)
        render_fail(r, "more than %zu MiB of memory are needed", RENDER_MAX_MEMORY >> 20);
    Block *b = malloc(sizeof *b + size);
    if (!b) render_fail(r, "out of memory");
    *b = (Block){r->blocks, size};
    r->blocks = b;
    r->memory += size;
    r->top = (char *)(b + 1);
    r->end = r->top + size;
}

// Room that need not be aligned, so that texts can grow where they are.
static char *alloc_text(Render *r, size_t bytes)
{
    if (bytes > RENDER_MAX_MEMORY)
        render_fail(r, "more than %zu MiB of memory are needed", RENDER_MAX_MEMORY >> 20);
    make_room(r, bytes);
    char *p = r->top;
    r->top += bytes;
    return p;
}

void *render_alloc(Render *r, size_t bytes)
{
    size_t gap = (size_t)(-(uintptr_t)r->top & 7);
    if (bytes > RENDER_MAX_MEMORY)
        render_fail(r, "more than %zu MiB of memory are needed", RENDER_MAX_MEMORY >> 20);
    make_room(r, bytes + gap);
    r->top += -(uintptr_t)r->top & 7; // a fresh block is aligned
    void *p = r->top;
    r->top += bytes;
    return memset(p, 0, bytes);
}

void render_step(Render *r, size_t steps)
{
    r->steps += steps;
    if (r->steps > RENDER_MAX_STEPS)
        render_fail(r, "it takes more than %u steps", RENDER_MAX_STEPS);
}

void render_enter(Render *r)
{
    if (++r->depth > RENDER_MAX_DEPTH) render_fail(r, "nested deeper than %d", RENDER_MAX_DEPTH);
}

void render_leave(Render *r)
{
    r->depth--;
}

void render_release(Render *r)
{
    while (r->blocks) {
        Block *b = r->blocks;
        r->blocks = b->next;
        free(b);
    }
}

// --- text ----------------------------------------------------------------------------------------

// Room for `bytes` more, in place when the text was made last.
static void grow_text(Render *r, Text *t, size_t bytes)
{
    if (t->room - t->bytes >= bytes) return;
    size_t room = t->bytes + bytes > 2 * t->room ? t->bytes + bytes + 32 : 2 * t->room;
    if (t->data && t->data + t->room == r->top && (size_t)(r->end - r->top) >= room - t->room) {
        r->top += room - t->room;
    } else {
        char *data = alloc_text(r, room);
        if (t->bytes) memcpy(data, t->data, t->bytes);
        t->data = data;
    }
    t->room = room;
}

void text_add(Render *r, Text *t, const char *data, size_t bytes)
{
    grow_text(r, t, bytes);
    render_step(r, bytes / 16);
    if (bytes) memcpy(t->data + t->bytes, data, bytes);
    t->bytes += bytes;
}

void text_print(Render *r, Text *t, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    text_add(r, t, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
}

void text_add_char(Render *r, Text *t, int32_t c)
{
    utf8proc_uint8_t text[4];
    text_add(r, t, (char *)text, (size_t)utf8proc_encode_char(c, text));
}

int32_t text_next(const char **at, const char *end)
{
    unsigned char lead = (unsigned char)**at;
    utf8proc_int32_t c = lead;
    utf8proc_ssize_t n = 1;
    if (lead >= 0x80) n = utf8proc_iterate((const utf8proc_uint8_t *)*at, end - *at, &c);
    *at += n > 0 ? n : 1;
    return n > 0 ? c : lead;
}

size_t text_length(const char *text, size_t bytes)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) n += (text[i] & 0xc0) != 0x80;
    return n;
}

size_t text_offset(const char *text, size_t bytes, size_t n)
{
    size_t i = 0;
    for (; i < bytes && (n || (text[i] & 0xc0) == 0x80); i++)
        n -= i + 1 < bytes ? (text[i + 1] & 0xc0) != 0x80 : 1;
    return i;
}

int is_space(int32_t c)
{
    if (c < 128) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || utf8proc_category(c) == UTF8PROC_CATEGORY_ZS || c == 0x2028 || c == 0x2029;
}

// --- making values -------------------------------------------------------------------------------

Value value_undefined(Render *r, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    size_t bytes = n < (int)sizeof text ? (size_t)n : sizeof text - 1;
    char *copy = alloc_text(r, bytes + 1);
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    return (Value){.kind = VALUE_UNDEFINED, .text = copy};
}

Value value_list(Render *r, int form)
{
    return (Value){
        .kind = VALUE_LIST, .form = (uint8_t)form, .list = render_alloc(r, sizeof(List))};
}

void list_add(Render *r, Value list, Value item)
{
    List *l = list.list;
    if (l->count == l->room) {
        uint32_t room = l->room ? 2 * l->room : 8;
        Value *larger = render_alloc(r, room * sizeof *larger);
        if (l->count) memcpy(larger, l->item, l->count * sizeof *larger);
        l->item = larger;
        l->room = room;
    }
    l->item[l->count++] = item;
}

Value value_pair(Render *r, Value a, Value b)
{
    Value pair = value_list(r, FORM_TUPLE);
    pair.list->item = render_alloc(r, 2 * sizeof(Value));
    pair.list->count = pair.list->room = 2;
    pair.list->item[0] = a;
    pair.list->item[1] = b;
    return pair;
}

Value value_dict(Render *r)
{
    return (Value){.kind = VALUE_DICT, .dict = render_alloc(r, sizeof(Dict))};
}

// What can be a key: nothing that Python could change.
static int is_hashable(Render *r, Value key)
{
    if (key.kind != VALUE_LIST || key.form > FORM_GROUP) return key.kind != VALUE_DICT;
    int hashable = key.form != FORM_LIST;
    render_enter(r);
    for (uint32_t i = 0; hashable && i < key.list->count; i++)
        hashable = is_hashable(r, key.list->item[i]);
    render_leave(r);
    return hashable;
}

const Value *dict_get(Render *r, const Dict *d, Value key)
{
    if (!is_hashable(r, key)) render_fail(r, "unhashable type: '%s'", value_type(key));
    render_step(r, d->count / 8);
    for (uint32_t i = 0; i < d->count; i++)
        if (value_equal(r, d->pair[i].key, key)) return &d->pair[i].value;
    return NULL;
}

const Value *dict_find(const Dict *d, const char *key)
{
    size_t bytes = strlen(key);
    for (uint32_t i = 0; i < d->count; i++) {
        const Value *k = &d->pair[i].key;
        if (k->kind == VALUE_STRING && k->bytes == bytes && memcmp(k->text, key, bytes) == 0)
            return &d->pair[i].value;
    }
    return NULL;
}

static void dict_append(Render *r, Dict *d, Value key, Value value)
{
    if (d->count == d->room) {
        uint32_t room = d->room ? 2 * d->room : 8;
        Pair *larger = render_alloc(r, room * sizeof *larger);
        if (d->count) memcpy(larger, d->pair, d->count * sizeof *larger);
        d->pair = larger;
        d->room = room;
    }
    d->pair[d->count++] = (Pair){key, value};
}

void dict_set(Render *r, Dict *d, Value key, Value value)
{
    const Value *old = dict_get(r, d, key);
    if (old)
        *(Value *)old = value;
    else
        dict_append(r, d, key, value);
}

Value value_from_json(Render *r, const json_t *json)
{
    Value v = value_none();
    const json_t *item;
    size_t i;
    render_enter(r);
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        v = value_dict(r);
        for (void *at = json_object_iter((json_t *)json); at;
             at = json_object_iter_next((json_t *)json, at)) {
            const char *key = json_object_iter_key(at);
            dict_append(r, v.dict, value_literal(key),
                        value_from_json(r, json_object_iter_value(at)));
        }
        break;
    case JSON_ARRAY:
        v = value_list(r, FORM_LIST);
        json_array_foreach(json, i, item) list_add(r, v, value_from_json(r, item));
        break;
    case JSON_STRING:
        if (json_string_length(json) > RENDER_MAX_MEMORY) render_fail(r, "a string is too long");
        v = value_string(json_string_value(json), json_string_length(json));
        break;
    case JSON_INTEGER:
        v = value_int(json_integer_value(json));
        break;
    case JSON_REAL:
        v = value_float(json_real_value(json));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        v = value_bool(json_is_true(json));
        break;
    case JSON_NULL:
        break;
    }
    render_leave(r);
    return v;
}

// --- what a value is -----------------------------------------------------------------------------

const char *value_type(Value v)
{
    static const char *const forms[] = {"list",      "tuple",       "tuple",      "range",
                                        "dict_keys", "dict_values", "dict_items", "generator"};
    static const char *const kinds[] = {[VALUE_MISSING] = "missing",
                                        [VALUE_UNDEFINED] = "Undefined",
                                        [VALUE_NONE] = "NoneType",
                                        [VALUE_BOOL] = "bool",
                                        [VALUE_INT] = "int",
                                        [VALUE_FLOAT] = "float",
                                        [VALUE_STRING] = "str",
                                        [VALUE_DICT] = "dict",
                                        [VALUE_NAMESPACE] = "Namespace",
                                        [VALUE_METHOD] = "builtin_function_or_method",
                                        [VALUE_MACRO] = "Macro",
                                        [VALUE_FUNCTION] = "function",
                                        [VALUE_LOOP] = "LoopContext",
                                        [VALUE_CYCLER] = "Cycler",
                                        [VALUE_JOINER] = "Joiner"};
    return v.kind == VALUE_LIST ? forms[v.form] : kinds[v.kind];
}

int value_is_number(Value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT || v.kind == VALUE_FLOAT;
}

double value_number(Value v)
{
    return v.kind == VALUE_FLOAT ? v.number : (double)v.integer;
}

static int is_whole(Value v)
{
    return v.kind == VALUE_BOOL || v.kind == VALUE_INT;
}

int value_true(Value v)
{
    switch ((ValueKind)v.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return 0;
    case VALUE_BOOL:
    case VALUE_INT:
        return v.integer != 0;
    case VALUE_FLOAT:
        return v.number != 0;
    case VALUE_STRING:
        return v.bytes != 0;
    case VALUE_LIST:
        return v.form == FORM_GENERATOR || v.list->count != 0;
    case VALUE_DICT:
        return v.dict->count != 0;
    default:
        return 1;
    }
}

// A tuple by what it can be compared with: groups are tuples too.
static int list_family(Value v)
{
    return v.form == FORM_GROUP ? FORM_TUPLE : v.form;
}

static int compare_numbers(Value a, Value b)
{
    if (is_whole(a) && is_whole(b)) return (a.integer > b.integer) - (a.integer < b.integer);
    double x = value_number(a), y = value_number(b);
    return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

static int compare_strings(Value a, Value b)
{
    size_t n = a.bytes < b.bytes ? a.bytes : b.bytes;
    int order = memcmp(a.text, b.text, n);
    if (order) return order < 0 ? -1 : 1;
    return (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int equal_dicts(Render *r, const Dict *a, const Dict *b)
{
    if (a->count != b->count) return 0;
    for (uint32_t i = 0; i < a->count; i++) {
        const Value *other = dict_get(r, b, a->pair[i].key);
        if (!other || !value_equal(r, a->pair[i].value, *other)) return 0;
    }
    return 1;
}

int value_equal(Render *r, Value a, Value b)
{
    if (value_is_number(a) && value_is_number(b)) return compare_numbers(a, b) == 0;
    if (a.kind != b.kind) return 0;
    switch ((ValueKind)a.kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return 1;
    case VALUE_STRING:
        return a.bytes == b.bytes && (a.text == b.text || memcmp(a.text, b.text, a.bytes) == 0);
    case VALUE_LIST: {
        if (a.list == b.list) return 1;
        if (list_family(a) != list_family(b) || a.list->count != b.list->count ||
            a.form >= FORM_VALUES)
            return 0;
        render_enter(r);
        render_step(r, a.list->count);
        int equal = 1;
        for (uint32_t i = 0; equal && i < a.list->count; i++)
            equal = value_equal(r, a.list->item[i], b.list->item[i]);
        render_leave(r);
        return equal;
    }
    case VALUE_DICT: {
        if (a.dict == b.dict) return 1;
        render_enter(r);
        render_step(r, a.dict->count);
        int equal = equal_dicts(r, a.dict, b.dict);
        render_leave(r);
        return equal;
    }
    default:
        return a.object == b.object;
    }
}

static void check_defined(Render *r, Value v)
{
    if (v.kind == VALUE_UNDEFINED) render_fail(r, "%s", v.text);
}

int value_compare(Render *r, Value a, Value b, const char *op)
{
    check_defined(r, a);
    check_defined(r, b);
    if (value_is_number(a) && value_is_number(b)) return compare_numbers(a, b);
    if (a.kind == VALUE_STRING && b.kind == VALUE_STRING) return compare_strings(a, b);
    if (a.kind == VALUE_LIST && b.kind == VALUE_LIST && list_family(a) == list_family(b) &&
        list_family(a) <= FORM_TUPLE) {
        uint32_t n = a.list->count < b.list->count ? a.list->count : b.list->count;
        render_enter(r);
        render_step(r, n);
        int order = (a.list->count > b.list->count) - (a.list->count < b.list->count);
        for (uint32_t i = 0; i < n; i++) {
            if (value_equal(r, a.list->item[i], b.list->item[i])) continue;
            order = value_compare(r, a.list->item[i], b.list->item[i], op);
            break;
        }
        render_leave(r);
        return order;
    }
    render_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, value_type(a),
                value_type(b));
}

int value_contains(Render *r, Value in, Value v)
{
    if (in.kind == VALUE_STRING) {
        if (v.kind != VALUE_STRING)
            render_fail(r, "'in <string>' requires string as left operand, not %s", value_type(v));
        render_step(r, in.bytes / 16);
        return memmem(in.text, in.bytes, v.text, v.bytes) != NULL;
    }
    if (in.kind == VALUE_DICT) return dict_get(r, in.dict, v) != NULL;
    if (in.kind == VALUE_UNDEFINED) return 0;
    if (in.kind != VALUE_LIST)
        render_fail(r, "argument of type '%s' is not iterable", value_type(in));
    List *items = value_items(r, in);
    for (uint32_t i = 0; i < items->count; i++) {
        render_step(r, 1);
        if (value_equal(r, items->item[i], v)) return 1;
    }
    return 0;
}

List *value_items(Render *r, Value v)
{
    if (v.kind == VALUE_LIST && v.form != FORM_GENERATOR) return v.list;
    Value list = value_list(r, FORM_LIST);
    if (v.kind == VALUE_LIST) {
        for (; v.list->used < v.list->count; v.list->used++)
            list_add(r, list, v.list->item[v.list->used]);
    } else if (v.kind == VALUE_DICT) {
        for (uint32_t i = 0; i < v.dict->count; i++) list_add(r, list, v.dict->pair[i].key);
    } else if (v.kind == VALUE_STRING) {
        for (const char *at = v.text, *end = at + v.bytes; at < end;) {
            const char *start = at;
            text_next(&at, end);
            list_add(r, list, value_string(start, (size_t)(at - start)));
        }
    } else if (v.kind != VALUE_UNDEFINED) {
        render_fail(r, "'%s' object is not iterable", value_type(v));
    }
    render_step(r, list.list->count);
    return list.list;
}

int value_has_length(Value v)
{
    return v.kind == VALUE_STRING || v.kind == VALUE_DICT || v.kind == VALUE_UNDEFINED ||
           (v.kind == VALUE_LIST && v.form != FORM_GENERATOR);
}

int64_t value_length(Render *r, Value v)
{
    if (!value_has_length(v)) render_fail(r, "object of type '%s' has no len()", value_type(v));
    if (v.kind == VALUE_UNDEFINED) return 0;
    if (v.kind == VALUE_DICT) return v.dict->count;
    if (v.kind == VALUE_LIST) return v.list->count;
    render_step(r, v.bytes / 16);
    return (int64_t)text_length(v.text, v.bytes);
}

// --- values as text ------------------------------------------------------------------------------

void text_add_float(Render *r, Text *t, double d)
{
    if (isnan(d) || isinf(d)) {
        text_print(r, t, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    char s[64];
    int digits = 1;
    do snprintf(s, sizeof s, "%.*e", digits - 1, d);
    while (digits++ < 17 && strtod(s, NULL) != d);
    int exponent = atoi(strchr(s, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = digits - 2 - exponent;
        text_print(r, t, "%.*f", decimals > 0 ? decimals : 0, d);
        if (decimals <= 0) text_add(r, t, ".0", 2);
    } else {
        text_add(r, t, s, strlen(s));
    }
}

static int is_printable(int32_t c)
{
    if (c < 128) return c >= 32 && c < 127;
    utf8proc_category_t k = utf8proc_category(c);
    return !(k == UTF8PROC_CATEGORY_CN || k >= UTF8PROC_CATEGORY_ZS);
}

static void add_string_repr(Render *r, Text *t, Value v)
{
    if (v.form == FORM_MARKUP) text_add(r, t, "Markup(", 7);
    int quote = memchr(v.text, '\'', v.bytes) && !memchr(v.text, '"', v.bytes) ? '"' : '\'';
    text_add_char(r, t, quote);
    for (const char *at = v.text, *end = at + v.bytes; at < end;) {
        const char *start = at;
        int32_t c = text_next(&at, end);
        if (c == quote || c == '\\')
            text_print(r, t, "\\%c", c);
        else if (c == '\n')
            text_add(r, t, "\\n", 2);
        else if (c == '\r')
            text_add(r, t, "\\r", 2);
        else if (c == '\t')
            text_add(r, t, "\\t", 2);
        else if (is_printable(c))
            text_add(r, t, start, (size_t)(at - start));
        else
            text_print(r, t, c < 256 ? "\\x%02x" : c < 65536 ? "\\u%04x" : "\\U%08x", (unsigned)c);
    }
    text_add_char(r, t, quote);
    if (v.form == FORM_MARKUP) text_add(r, t, ")", 1);
}

static void add_list_repr(Render *r, Text *t, Value v)
{
    static const char *const open[] = {
        "[", "(", "(", "range(", "dict_keys([", "dict_values([", "dict_items(["};
    static const char *const close[] = {"]", ")", ")", ")", "])", "])", "])"};
    const List *l = v.list;
    if (v.form == FORM_GENERATOR) {
        text_print(r, t, "<generator object at %p>", (void *)l);
        return;
    }
    text_add(r, t, open[v.form], strlen(open[v.form]));
    if (v.form == FORM_RANGE) { // its bounds stand behind its items
        const Value *bound = l->item + l->count;
        text_print(r, t, "%lld, %lld", (long long)bound[0].integer, (long long)bound[1].integer);
        if (bound[2].integer != 1) text_print(r, t, ", %lld", (long long)bound[2].integer);
    }
    for (uint32_t i = 0; i < l->count && v.form != FORM_RANGE; i++) {
        if (i) text_add(r, t, ", ", 2);
        text_add_repr(r, t, l->item[i]);
    }
    if (list_family(v) == FORM_TUPLE && l->count == 1) text_add(r, t, ",", 1);
    text_add(r, t, close[v.form], strlen(close[v.form]));
}

static void add_dict_repr(Render *r, Text *t, const Dict *d)
{
    text_add(r, t, "{", 1);
    for (uint32_t i = 0; i < d->count; i++) {
        if (i) text_add(r, t, ", ", 2);
        text_add_repr(r, t, d->pair[i].key);
        text_add(r, t, ": ", 2);
        text_add_repr(r, t, d->pair[i].value);
    }
    text_add(r, t, "}", 1);
}

void text_add_repr(Render *r, Text *t, Value v)
{
    render_enter(r);
    render_step(r, 1);
    switch ((ValueKind)v.kind) {
    case VALUE_STRING:
        add_string_repr(r, t, v);
        break;
    case VALUE_LIST:
        add_list_repr(r, t, v);
        break;
    case VALUE_DICT:
        add_dict_repr(r, t, v.dict);
        break;
    case VALUE_NAMESPACE:
        text_add(r, t, "<Namespace ", 11);
        add_dict_repr(r, t, v.dict);
        text_add(r, t, ">", 1);
        break;
    case VALUE_NONE:
        text_add(r, t, "None", 4);
        break;
    case VALUE_BOOL:
        text_add(r, t, v.integer ? "True" : "False", v.integer ? 4 : 5);
        break;
    case VALUE_INT:
        text_print(r, t, "%lld", (long long)v.integer);
        break;
    case VALUE_FLOAT:
        text_add_float(r, t, v.number);
        break;
    case VALUE_UNDEFINED:
        text_add(r, t, "Undefined", 9);
        break;
    default:
        text_print(r, t, "<%s object at %p>", value_type(v), v.object);
    }
    render_leave(r);
}

void text_add_value(Render *r, Text *t, Value v)
{
    if (v.kind == VALUE_STRING)
        text_add(r, t, v.text, v.bytes);
    else if (v.kind != VALUE_UNDEFINED)
        text_add_repr(r, t, v);
}

Value value_text(Render *r, Value v)
{
    if (v.kind == VALUE_STRING) return v;
    Text t = {0};
    text_add_value(r, &t, v);
    return text_value(&t);
}

// --- JSON ----------------------------------------------------------------------------------------

static void add_json_string(Render *r, Text *t, Value v, int ascii)
{
    text_add(r, t, "\"", 1);
    for (const char *at = v.text, *end = at + v.bytes; at < end;) {
        static const char letters[] = "nrtbf\"\\", values[] = "\n\r\t\b\f\"\\";
        const char *start = at;
        while (at < end && (unsigned char)*at >= 32 && *at != '"' && *at != '\\' &&
               !(ascii && (unsigned char)*at >= 0x80))
            at++;
        text_add(r, t, start, (size_t)(at - start));
        if (at >= end) break;
        int32_t c = text_next(&at, end);
        const char *known = c && c < 128 ? strchr(values, c) : NULL;
        if (known)
            text_print(r, t, "\\%c", letters[known - values]);
        else if (c < 0x10000)
            text_print(r, t, "\\u%04x", (unsigned)c);
        else
            text_print(r, t, "\\u%04x\\u%04x", 0xd800u + ((unsigned)(c - 0x10000) >> 10),
                       0xdc00u + ((unsigned)(c - 0x10000) & 0x3ff));
    }
    text_add(r, t, "\"", 1);
}

static void add_json_break(Render *r, Text *t, const JsonForm *form, int level)
{
    if (!form->indent) return;
    text_add(r, t, "\n", 1);
    for (int i = 0; i < level; i++) text_add(r, t, form->indent, strlen(form->indent));
}

static void add_json_scalar(Render *r, Text *t, Value v)
{
    static const char *const words[] = {"NaN", "-Infinity", "Infinity"};
    if (v.kind == VALUE_NONE)
        text_add(r, t, "null", 4);
    else if (v.kind == VALUE_BOOL)
        text_add(r, t, v.integer ? "true" : "false", v.integer ? 4 : 5);
    else if (v.kind == VALUE_INT)
        text_print(r, t, "%lld", (long long)v.integer);
    else if (isnan(v.number) || isinf(v.number))
        text_print(r, t, "%s", words[isnan(v.number) ? 0 : v.number < 0 ? 1 : 2]);
    else
        text_add_float(r, t, v.number);
}

static void add_json_key(Render *r, Text *t, Value key, int ascii)
{
    Text plain = {0};
    if (key.kind != VALUE_STRING && key.kind != VALUE_NONE && !value_is_number(key))
        render_fail(r, "keys must be str, int, float, bool or None, not %s", value_type(key));
    if (key.kind != VALUE_STRING) {
        add_json_scalar(r, &plain, key);
        key = text_value(&plain);
    }
    add_json_string(r, t, key, ascii);
}

// The pairs of a dict in the order of their keys.
static const Pair *sort_pairs(Render *r, const Dict *d)
{
    Pair *sorted = render_alloc(r, (d->count + !d->count) * sizeof *sorted);
    for (uint32_t i = 0; i < d->count; i++) { // insertion: objects are small
        uint32_t at = i;
        render_step(r, i);
        for (; at > 0 && value_compare(r, d->pair[i].key, sorted[at - 1].key, "<") < 0; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = d->pair[i];
    }
    return sorted;
}

void text_add_json(Render *r, Text *t, Value v, const JsonForm *form, int level)
{
    render_enter(r);
    render_step(r, 1);
    if (v.kind == VALUE_STRING) {
        add_json_string(r, t, v, form->ascii);
    } else if (v.kind == VALUE_LIST && list_family(v) <= FORM_TUPLE) {
        text_add(r, t, "[", 1);
        for (uint32_t i = 0; i < v.list->count; i++) {
            if (i) text_add_value(r, t, form->item_separator);
            add_json_break(r, t, form, level + 1);
            text_add_json(r, t, v.list->item[i], form, level + 1);
        }
        if (v.list->count) add_json_break(r, t, form, level);
        text_add(r, t, "]", 1);
    } else if (v.kind == VALUE_DICT) {
        const Pair *pair = form->sorted ? sort_pairs(r, v.dict) : v.dict->pair;
        text_add(r, t, "{", 1);
        for (uint32_t i = 0; i < v.dict->count; i++) {
            if (i) text_add_value(r, t, form->item_separator);
            add_json_break(r, t, form, level + 1);
            add_json_key(r, t, pair[i].key, form->ascii);
            text_add_value(r, t, form->key_separator);
            text_add_json(r, t, pair[i].value, form, level + 1);
        }
        if (v.dict->count) add_json_break(r, t, form, level);
        text_add(r, t, "}", 1);
    } else if (v.kind == VALUE_NONE || value_is_number(v)) {
        add_json_scalar(r, t, v);
    } else {
        render_fail(r, "Object of type %s is not JSON serializable", value_type(v));
    }
    render_leave(r);
}

// --- arithmetic ----------------------------------------------------------------------------------

static _Noreturn void fail_operands(Render *r, int op, Value a, Value b)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};
    if (op == JINJA_ADD &&
        (a.kind == VALUE_STRING || (a.kind == VALUE_LIST && a.form <= FORM_TUPLE)))
        render_fail(r, "can only concatenate %s (not \"%s\") to %s", value_type(a), value_type(b),
                    value_type(a));
    render_fail(r, "unsupported operand type(s) for %s: '%s' and '%s'", signs[op], value_type(a),
                value_type(b));
}

static double floor_mod(double a, double b)
{
    double m = fmod(a, b);
    if (m != 0 && (m < 0) != (b < 0)) m += b;
    return m == 0 ? copysign(0, b) : m;
}

static Value binary_floats(Render *r, int op, double a, double b)
{
    if (b == 0 && (op == JINJA_DIV || op == JINJA_FLOORDIV || op == JINJA_MOD))
        render_fail(r, op == JINJA_DIV ? "division by zero" : "float floor division by zero");
    switch (op) {
    case JINJA_ADD:
        return value_float(a + b);
    case JINJA_SUB:
        return value_float(a - b);
    case JINJA_MUL:
        return value_float(a * b);
    case JINJA_DIV:
        return value_float(a / b);
    case JINJA_FLOORDIV:
        return value_float(floor(a / b));
    case JINJA_MOD:
        return value_float(floor_mod(a, b));
    default:
        if (a == 0 && b < 0) render_fail(r, "0.0 cannot be raised to a negative power");
        return value_float(pow(a, b));
    }
}

static int power(int64_t a, int64_t b, int64_t *result)
{
    *result = 1;
    for (;; b >>= 1) {
        if (b & 1 && __builtin_mul_overflow(*result, a, result)) return 1;
        if (b <= 1) return 0;
        if (__builtin_mul_overflow(a, a, &a)) return 1;
    }
}

static Value binary_ints(Render *r, int op, int64_t a, int64_t b)
{
    int64_t c = 0;
    int overflow = 0;
    if (op == JINJA_DIV || (op == JINJA_POW && b < 0))
        return binary_floats(r, op, (double)a, (double)b);
    if ((op == JINJA_FLOORDIV || op == JINJA_MOD) && b == 0)
        render_fail(r, "integer division or modulo by zero");
    if (op == JINJA_ADD)
        overflow = __builtin_add_overflow(a, b, &c);
    else if (op == JINJA_SUB)
        overflow = __builtin_sub_overflow(a, b, &c);
    else if (op == JINJA_MUL)
        overflow = __builtin_mul_overflow(a, b, &c);
    else if (op == JINJA_POW)
        overflow = power(a, b, &c);
    else if (b == -1)
        overflow = op == JINJA_FLOORDIV && __builtin_sub_overflow(0, a, &c);
    else if (op == JINJA_FLOORDIV)
        c = a / b - (a % b != 0 && (a % b < 0) != (b < 0));
    else
        c = a % b + (a % b != 0 && (a % b < 0) != (b < 0) ? b : 0);
    if (overflow) render_fail(r, "an integer beyond 64 bits");
    return value_int(c);
}

static void escape_markup(Render *r, Text *t, Value v)
{
    for (uint32_t i = 0; i < v.bytes; i++) {
        static const char special[] = "&<>\"'";
        static const char *const entity[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
        const char *found = v.text[i] ? strchr(special, v.text[i]) : NULL;
        if (found)
            text_add(r, t, entity[found - special], strlen(entity[found - special]));
        else
            text_add(r, t, &v.text[i], 1);
    }
}

// Markup added to a text escapes it.
static Value concat_markup(Render *r, Value a, Value b)
{
    Text t = {0};
    if (a.form == FORM_MARKUP)
        text_add(r, &t, a.text, a.bytes);
    else
        escape_markup(r, &t, a);
    if (b.form == FORM_MARKUP)
        text_add(r, &t, b.text, b.bytes);
    else
        escape_markup(r, &t, b);
    Value v = text_value(&t);
    v.form = FORM_MARKUP;
    return v;
}

Value value_concat(Render *r, Value a, Value b)
{
    if (a.form == FORM_MARKUP || b.form == FORM_MARKUP) return concat_markup(r, a, b);
    if (!a.bytes) return b;
    if (!b.bytes) return a;
    render_step(r, b.bytes / 16);
    // The text that was made last grows where it is: a template that collects its output piece by
    // piece takes linear time.
    if (a.text + a.bytes == r->top && (size_t)(r->end - r->top) >= b.bytes) {
        memcpy(r->top, b.text, b.bytes);
        r->top += b.bytes;
        return value_string(a.text, (size_t)a.bytes + b.bytes);
    }
    render_step(r, a.bytes / 16);
    char *data = alloc_text(r, (size_t)a.bytes + b.bytes);
    memcpy(data, a.text, a.bytes);
    memcpy(data + a.bytes, b.text, b.bytes);
    return value_string(data, (size_t)a.bytes + b.bytes);
}

static Value repeat(Render *r, Value v, int64_t times)
{
    if (times < 0) times = 0;
    if (v.kind == VALUE_STRING) {
        if (v.bytes && (uint64_t)times > RENDER_MAX_MEMORY / v.bytes)
            render_fail(r, "more than %zu MiB of memory are needed", RENDER_MAX_MEMORY >> 20);
        size_t bytes = v.bytes * (size_t)times;
        render_step(r, bytes / 16);
        char *data = alloc_text(r, bytes);
        for (int64_t i = 0; i < times && v.bytes; i++)
            memcpy(data + (size_t)i * v.bytes, v.text, v.bytes);
        Value result = value_string(data, bytes);
        result.form = v.form;
        return result;
    }
    Value list = value_list(r, v.form);
    for (int64_t i = 0; i < times && v.list->count; i++) {
        render_step(r, v.list->count);
        for (uint32_t k = 0; k < v.list->count; k++) list_add(r, list, v.list->item[k]);
    }
    return list;
}

static int can_repeat(Value v)
{
    return v.kind == VALUE_STRING || (v.kind == VALUE_LIST && v.form <= FORM_TUPLE);
}

Value value_binary(Render *r, int op, Value a, Value b)
{
    check_defined(r, a);
    check_defined(r, b);
    if (is_whole(a) && is_whole(b)) return binary_ints(r, op, a.integer, b.integer);
    if (value_is_number(a) && value_is_number(b))
        return binary_floats(r, op, value_number(a), value_number(b));
    if (op == JINJA_MOD && a.kind == VALUE_STRING) return format_percent(r, a, b);
    if (op == JINJA_MUL && can_repeat(a) && is_whole(b)) return repeat(r, a, b.integer);
    if (op == JINJA_MUL && can_repeat(b) && is_whole(a)) return repeat(r, b, a.integer);
    if (op != JINJA_ADD || a.kind != b.kind) fail_operands(r, op, a, b);
    if (a.kind == VALUE_STRING) return value_concat(r, a, b);
    if (a.kind != VALUE_LIST || a.form > FORM_GROUP || list_family(a) != list_family(b))
        fail_operands(r, op, a, b);
    Value sum = value_list(r, list_family(a));
    render_step(r, a.list->count + b.list->count);
    for (uint32_t i = 0; i < a.list->count; i++) list_add(r, sum, a.list->item[i]);
    for (uint32_t i = 0; i < b.list->count; i++) list_add(r, sum, b.list->item[i]);
    return sum;
}

// --- parts of values -----------------------------------------------------------------------------

// As Jinja names the type of an object that lacks something.
static const char *owner_name(Value v)
{
    return v.kind == VALUE_NONE ? "None" : value_type(v);
}

static Value no_attribute(Render *r, Value v, Value name)
{
    int bytes = name.bytes > 100 ? 100 : (int)name.bytes;
    return value_undefined(r, "'%s%s' has no attribute '%.*s'", owner_name(v),
                           v.kind == VALUE_NONE ? "" : " object", bytes, name.text);
}

// Names that the sandbox of Jinja keeps from templates.
static int is_unsafe(Value v, Value name)
{
    static const char *const lists[] = {"append", "clear", "pop",    "reverse",
                                        "insert", "sort",  "extend", "remove"};
    static const char *const dicts[] = {"clear", "pop", "popitem", "setdefault", "update"};
    if (name.bytes > 4 && memcmp(name.text, "__", 2) == 0) return 1;
    int is_dict = v.kind == VALUE_DICT, count = is_dict ? 5 : 8;
    if (!is_dict && (v.kind != VALUE_LIST || v.form != FORM_LIST)) return 0;
    for (int i = 0; i < count; i++) {
        const char *s = is_dict ? dicts[i] : lists[i];
        if (strlen(s) == name.bytes && memcmp(s, name.text, name.bytes) == 0) return 1;
    }
    return 0;
}

// What getattr() of Python gives; 0 when there is no such attribute.
static int find_attribute(Render *r, Value v, Value name, Value *found)
{
    if (v.kind == VALUE_NAMESPACE) {
        const Value *member = dict_get(r, v.dict, name);
        if (member) *found = *member;
        return member != NULL;
    }
    if (v.kind == VALUE_LIST && v.form == FORM_GROUP && name.bytes) {
        int first = name.bytes == 7 && memcmp(name.text, "grouper", 7) == 0;
        if (first || (name.bytes == 4 && memcmp(name.text, "list", 4) == 0))
            return *found = v.list->item[!first], 1;
    }
    if (is_unsafe(v, name)) {
        *found =
            value_undefined(r, "access to attribute '%.*s' of '%s' object is unsafe.",
                            (int)(name.bytes > 100 ? 100 : name.bytes), name.text, value_type(v));
        found->form = FORM_UNSAFE;
        return 1;
    }
    return find_method(r, v, name.text, name.bytes, found);
}

// What v[index] of Python gives; 0 where that raises an error.
static int find_item(Render *r, Value v, Value index, Value *found)
{
    if (v.kind == VALUE_DICT) {
        const Value *member = is_hashable(r, index) ? dict_get(r, v.dict, index) : NULL;
        if (member) *found = *member;
        return member != NULL;
    }
    int sequence = v.kind == VALUE_STRING || (v.kind == VALUE_LIST && v.form <= FORM_RANGE);
    if (!sequence || !is_whole(index)) return 0;
    int64_t count = value_length(r, v),
            i = index.integer < 0 ? index.integer + count : index.integer;
    if (i < 0 || i >= count) return 0;
    if (v.kind == VALUE_LIST) return *found = v.list->item[i], 1;
    size_t start = text_offset(v.text, v.bytes, (size_t)i);
    *found = value_string(v.text + start, text_offset(v.text + start, v.bytes - start, 1));
    return 1;
}

Value value_attribute(Render *r, Value v, Value name)
{
    Value found;
    check_defined(r, v);
    if (find_attribute(r, v, name, &found) || find_item(r, v, name, &found)) return found;
    return no_attribute(r, v, name);
}

Value value_item(Render *r, Value v, Value index)
{
    Value found;
    check_defined(r, v);
    if (find_item(r, v, index, &found)) return found;
    if (index.kind == VALUE_STRING) {
        if (find_attribute(r, v, index, &found)) return found;
        return no_attribute(r, v, index);
    }
    Text repr = {0};
    text_add_repr(r, &repr, index);
    return value_undefined(r, "%s%s has no element %.*s", owner_name(v),
                           v.kind == VALUE_NONE ? "" : " object",
                           (int)(repr.bytes > 100 ? 100 : repr.bytes), repr.data);
}

// A bound of a slice within [low, high]; `missing` when it is none.
static int64_t slice_bound(Render *r, Value v, int64_t count, int64_t low, int64_t high,
                           int64_t missing)
{
    if (v.kind == VALUE_MISSING || v.kind == VALUE_NONE) return missing;
    if (!is_whole(v))
        render_fail(r, "slice indices must be integers or None or have an __index__ method");
    int64_t i = v.integer;
    if (i < 0) i = i < -count ? low : i + count;
    return i < low ? low : i > high ? high : i;
}

Value value_slice(Render *r, Value v, Value start, Value stop, Value step)
{
    check_defined(r, v);
    if (v.kind != VALUE_STRING && (v.kind != VALUE_LIST || v.form > FORM_RANGE))
        render_fail(r,
                    v.kind == VALUE_DICT ? "unhashable type: 'slice'"
                                         : "'%s' object is not subscriptable",
                    value_type(v));
    int64_t count = value_length(r, v), by = 1;
    if (step.kind != VALUE_MISSING && step.kind != VALUE_NONE) {
        if (!is_whole(step))
            render_fail(r, "slice indices must be integers or None or have an __index__ method");
        by = step.integer;
    }
    if (by == 0) render_fail(r, "slice step cannot be zero");
    int64_t low = by < 0 ? -1 : 0, high = by < 0 ? count - 1 : count;
    int64_t from = slice_bound(r, start, count, low, high, by < 0 ? high : low);
    int64_t to = slice_bound(r, stop, count, low, high, by < 0 ? low : high);
    if (v.kind == VALUE_STRING && by == 1) {
        if (to < from) to = from;
        size_t a = text_offset(v.text, v.bytes, (size_t)from);
        size_t b = text_offset(v.text + a, v.bytes - a, (size_t)(to - from));
        Value part = value_string(v.text + a, b);
        part.form = v.form;
        return part;
    }
    Value list = value_list(r, v.kind == VALUE_LIST ? list_family(v) : FORM_LIST);
    if (list.form == FORM_RANGE) list.form = FORM_LIST;
    const List *items = value_items(r, v);
    for (int64_t i = from; by > 0 ? i < to : i > to;) {
        render_step(r, 1);
        list_add(r, list, items->item[i]);
        if (__builtin_add_overflow(i, by, &i)) break;
    }
    if (v.kind == VALUE_LIST) return list;
    Text t = {0};
    for (uint32_t i = 0; i < list.list->count; i++) text_add_value(r, &t, list.list->item[i]);
    return text_value(&t);
}
