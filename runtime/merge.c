// Every function that returns a schema returns one that the merger keeps.
#include "merge.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_MERGES 400000 // schemas, their keywords and properties
#define MOST_DEPTH 40
#define MOST_ALTERNATIVES 512
#define MOST_LEVELS 7 // of what tells two schemas apart

static const json_t *alternatives_apart(Merger *m, const json_t *list, int depth);
static const json_t *flat(Merger *m, const json_t *schema, int depth);
static const json_t *both(Merger *m, const json_t *a, const json_t *b, int depth);

int merger_open(Merger *m, const json_t *root)
{
    *m = (Merger){.root = root, .kept = json_array(), .flats = json_object()};
    return m->kept && m->flats ? 0 : -1;
}

void merger_close(Merger *m)
{
    json_decref(m->flats);
    json_decref(m->kept);
    *m = (Merger){0};
}

static const json_t *fail(Merger *m, const char *keyword, const char *what)
{
    snprintf(m->at, sizeof m->at, "%s", keyword);
    error_set(&m->error, "%s", what);
    return NULL;
}

static json_t *keep(Merger *m, json_t *made)
{
    return made && json_array_append_new(m->kept, made) == 0 ? made : NULL;
}

// Work is counted: 0, or -1 when there was too much of it.
static int spend(Merger *m, size_t work)
{
    m->merges += work < MOST_MERGES ? (int)work : MOST_MERGES;
    if (m->merges <= MOST_MERGES) return 0;
    m->merges = MOST_MERGES + 1;
    fail(m, "", "it takes too much to join its schemas");
    return -1;
}

static int is_one_of(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(*names, key) == 0) return 1;
    return 0;
}

// Whether a keyword may say something about what is valid; unknown ones do not.
static int is_known(const char *keyword)
{
    static const char *const known[] = {"$ref",
                                        "$dynamicRef",
                                        "$recursiveRef",
                                        "type",
                                        "enum",
                                        "const",
                                        "anyOf",
                                        "allOf",
                                        "oneOf",
                                        "not",
                                        "if",
                                        "dependentRequired",
                                        "dependentSchemas",
                                        "dependencies",
                                        "contains",
                                        "extends",
                                        "disallow",
                                        "divisibleBy",
                                        "properties",
                                        "required",
                                        "additionalProperties",
                                        "patternProperties",
                                        "propertyNames",
                                        "minProperties",
                                        "maxProperties",
                                        "unevaluatedProperties",
                                        "items",
                                        "prefixItems",
                                        "additionalItems",
                                        "minItems",
                                        "maxItems",
                                        "uniqueItems",
                                        "unevaluatedItems",
                                        "minLength",
                                        "maxLength",
                                        "pattern",
                                        "format",
                                        "minimum",
                                        "maximum",
                                        "exclusiveMinimum",
                                        "exclusiveMaximum",
                                        "multipleOf",
                                        NULL};
    return is_one_of(keyword, known);
}

// --- references ----------------------------------------------------------------------------------

// One step of a pointer, ~ and % escapes undone.
static void unescape(char *step)
{
    char *to = step;
    for (const char *p = step; *p; p++) {
        if (*p == '%' && p[1] && p[2]) {
            char hex[3] = {p[1], p[2], 0}, *end;
            long byte = strtol(hex, &end, 16);
            if (!*end && byte > 0) {
                *to++ = (char)byte;
                p += 2;
                continue;
            }
        }
        *to++ = *p;
    }
    *to = 0;
    to = step;
    for (const char *p = step; *p; p++) {
        int escape = *p == '~' && (p[1] == '0' || p[1] == '1');
        *to++ = !escape ? *p : p[1] == '0' ? '~' : '/';
        p += escape;
    }
    *to = 0;
}

const json_t *merge_target(Merger *m, const char *reference)
{
    const json_t *at = m->root;
    if (*reference != '#' || (reference[1] && reference[1] != '/'))
        return fail(m, "$ref", "only references within the schema (#/...) are there");
    char *path = strdup(reference + 1);
    for (char *step = path, *next; step && *step == '/' && at; step = next) {
        next = strchr(++step, '/');
        size_t bytes = next ? (size_t)(next - step) : strlen(step);
        char *name = strndup(step, bytes), *end = NULL;
        if (name) unescape(name);
        if (json_is_array(at)) {
            size_t i = name && *name ? strtoul(name, &end, 10) : SIZE_MAX;
            at = end && !*end ? json_array_get(at, i) : NULL;
        } else {
            at = name ? json_object_get(at, name) : NULL;
        }
        free(name);
    }
    free(path);
    return at ? at : fail(m, "$ref", "there is nothing at this place");
}

// --- types ---------------------------------------------------------------------------------------

static int names_type(const char *type, const json_t *value)
{
    double d = json_number_value(value);
    if (!type) return 0;
    if (strcmp(type, "object") == 0) return json_is_object(value);
    if (strcmp(type, "array") == 0) return json_is_array(value);
    if (strcmp(type, "string") == 0) return json_is_string(value);
    if (strcmp(type, "boolean") == 0) return json_is_boolean(value);
    if (strcmp(type, "null") == 0) return json_is_null(value);
    if (strcmp(type, "number") == 0) return json_is_number(value);
    if (strcmp(type, "integer") != 0) return 0;
    return json_is_integer(value) ||
           (json_is_real(value) && d > -1e15 && d < 1e15 && d == (double)(int64_t)d);
}

int merge_has_type(const json_t *types, const json_t *value)
{
    size_t i;
    json_t *type;
    if (!types) return 1;
    if (json_is_string(types)) return names_type(json_string_value(types), value);
    json_array_foreach(types, i, type)
    {
        if (names_type(json_string_value(type), value)) return 1;
    }
    return 0;
}

enum { OBJECT = 1, ARRAY = 2, STRING = 4, BOOLEAN = 8, NIL = 16, WHOLE = 32, REAL = 64 };
static const struct {
    const char *name;
    int bits;
    const char *keywords[8]; // that speak of it
} types[] = {{"object",
              OBJECT,
              {"properties", "required", "additionalProperties", "patternProperties",
               "propertyNames", "minProperties", "maxProperties"}},
             {"array", ARRAY, {"items", "prefixItems", "minItems", "maxItems", "additionalItems"}},
             {"string", STRING, {"minLength", "maxLength", "pattern", "format"}},
             {"boolean", BOOLEAN, {NULL}},
             {"null", NIL, {NULL}},
             {"number",
              WHOLE | REAL,
              {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}},
             {"integer", WHOLE, {NULL}}};
#define TYPES (sizeof types / sizeof *types)

int merge_makes(const json_t *schema, const char *type)
{
    const json_t *named = json_object_get(schema, "type");
    json_t *one;
    size_t i, k = 0;
    while (k < TYPES && strcmp(types[k].name, type) != 0) k++;
    if (json_is_string(named)) return strcmp(json_string_value(named), type) == 0;
    json_array_foreach(named, i, one)
    {
        if (json_is_string(one) && strcmp(json_string_value(one), type) == 0) return 1;
    }
    for (i = 0; !named && k < TYPES && types[k].keywords[i]; i++)
        if (json_object_get(schema, types[k].keywords[i])) return 1;
    return 0;
}

static int bits_of(const char *name)
{
    for (size_t i = 0; name && i < TYPES; i++)
        if (strcmp(types[i].name, name) == 0) return types[i].bits;
    return 0;
}

// The types that a schema's `type` leaves.
static int types_of(const json_t *schema)
{
    const json_t *named = json_object_get(schema, "type");
    int bits = json_is_string(named) ? bits_of(json_string_value(named)) : 0;
    json_t *one;
    size_t i;
    json_array_foreach(named, i, one) bits |= bits_of(json_string_value(one));
    return named ? bits : -1;
}

static json_t *names_of(int bits)
{
    json_t *list = json_array();
    for (size_t i = 0; i < TYPES; i++)
        if ((types[i].bits & bits) == types[i].bits) {
            json_array_append_new(list, json_string(types[i].name));
            bits &= ~types[i].bits;
        }
    return list;
}

// --- merging -------------------------------------------------------------------------------------

// Whether two values are the same, as JSON schemas take it: 1 is 1.0.
static int same_value(const json_t *a, const json_t *b)
{
    const char *key;
    json_t *value;
    size_t i;
    if (json_is_number(a) && json_is_number(b)) {
        if (json_typeof(a) == json_typeof(b)) return json_equal(a, b);
        json_int_t whole = json_integer_value(json_is_integer(a) ? a : b);
        double real = json_real_value(json_is_real(a) ? a : b);
        return real >= -0x1p63 && real < 0x1p63 && real == floor(real) && (json_int_t)real == whole;
    }
    if (json_typeof(a) != json_typeof(b) || json_array_size(a) != json_array_size(b) ||
        json_object_size(a) != json_object_size(b))
        return 0;
    if (!json_is_array(a) && !json_is_object(a)) return json_equal(a, b);
    json_array_foreach(a, i, value)
    {
        if (!same_value(value, json_array_get(b, i))) return 0;
    }
    json_object_foreach((json_t *)a, key, value)
    {
        const json_t *other = json_object_get(b, key);
        if (!other || !same_value(value, other)) return 0;
    }
    return 1;
}

static int is_among(const json_t *values, const json_t *value)
{
    json_t *one;
    size_t i;
    json_array_foreach(values, i, one)
    {
        if (same_value(one, value)) return 1;
    }
    return 0;
}

static json_t *common_values(Merger *m, const json_t *a, const json_t *b)
{
    json_t *list, *value;
    size_t i;
    if (spend(m, json_array_size(a) * json_array_size(b) / 16) != 0) return NULL;
    list = json_array();
    json_array_foreach(a, i, value)
    {
        if (is_among(b, value)) json_array_append(list, value);
    }
    return list;
}

static int is_false(const json_t *schema)
{
    return json_is_false(schema);
}

// What a schema demands of a property that it may not list; NULL: nothing, or more than is known
// here.
static const json_t *of_property(const json_t *schema, const char *name)
{
    const json_t *listed = json_object_get(json_object_get(schema, "properties"), name);
    if (listed || json_object_get(schema, "patternProperties")) return listed;
    return json_object_get(schema, "additionalProperties");
}

// The properties of both; what one does not list, its additionalProperties hold for.
static json_t *merge_properties(Merger *m, const json_t *a, const json_t *b, int depth)
{
    json_t *all = json_object(), *value;
    const json_t *sides[] = {a, b};
    const char *name;
    for (int i = 0; i < 2; i++)
        json_object_foreach(json_object_get(sides[i], "properties"), name, value)
        {
            if (json_object_get(all, name)) continue;
            const json_t *other = of_property(sides[1 - i], name);
            const json_t *one = spend(m, 1) != 0 ? NULL
                                : other          ? both(m, value, other, depth + 1)
                                                 : value;
            if (!one) {
                json_decref(all);
                return NULL;
            }
            json_object_set(all, name, (json_t *)one);
        }
    return all;
}

static json_t *merge_required(Merger *m, const json_t *a, const json_t *b)
{
    const json_t *sides[] = {a, b};
    json_t *all = json_array(), *seen = json_object(), *name;
    size_t k;
    for (int i = 0; i < 2 && spend(m, json_array_size(sides[i])) == 0; i++)
        json_array_foreach(sides[i], k, name)
        {
            const char *text = json_string_value(name); // what is no text is refused later
            if (text && json_object_get(seen, text)) continue;
            if (text) json_object_set(seen, text, name);
            json_array_append(all, name);
        }
    json_decref(seen);
    return all;
}

// The alternatives of a in all their combinations with those of b.
static json_t *merge_alternatives(Merger *m, const json_t *a, const json_t *b, int depth)
{
    json_t *all = json_array(), *x, *y;
    size_t i, k;
    if (json_array_size(a) * json_array_size(b) > MOST_ALTERNATIVES) {
        json_decref(all);
        fail(m, "anyOf", "too many combinations");
        return NULL;
    }
    json_array_foreach(a, i, x)
    {
        json_array_foreach(b, k, y)
        {
            const json_t *one = both(m, x, y, depth + 1);
            if (!one) {
                json_decref(all);
                return NULL;
            }
            if (!is_false(one)) json_array_append(all, (json_t *)one);
        }
    }
    return all;
}

// What a keyword says in both schemas; NULL and an error.
static json_t *merge_keyword(Merger *m, const char *key, const json_t *a, const json_t *b,
                             int depth)
{
    static const char *const largest[] = {"minimum",  "exclusiveMinimum", "minLength",
                                          "minItems", "minProperties",    NULL};
    static const char *const smallest[] = {"maximum",  "exclusiveMaximum", "maxLength",
                                           "maxItems", "maxProperties",    NULL};
    static const char *const schemas[] = {"items", "additionalProperties", "propertyNames", NULL};
    int known = json_is_number(a) && json_is_number(b);
    double x = json_number_value(a), y = json_number_value(b);
    if (json_equal(a, b)) return json_incref((json_t *)a);
    if (is_one_of(key, largest) && known) return json_incref((json_t *)(x > y ? a : b));
    if (is_one_of(key, smallest) && known) return json_incref((json_t *)(x < y ? a : b));
    if (strcmp(key, "required") == 0) return merge_required(m, a, b);
    if (strcmp(key, "enum") == 0) return common_values(m, a, b);
    if (strcmp(key, "anyOf") == 0) return merge_alternatives(m, a, b, depth);
    if (is_one_of(key, schemas)) return json_incref((json_t *)both(m, a, b, depth + 1));
    fail(m, key, "two of them cannot be merged");
    return NULL;
}

// Adds the keywords of b to those of a, which is changed.
static int add_keywords(Merger *m, json_t *a, const json_t *b, int depth)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)b, key, value)
    {
        const json_t *other = json_object_get(a, key);
        if (strcmp(key, "properties") == 0) continue;
        json_t *one = !other                     ? json_incref(value)
                      : strcmp(key, "type") == 0 ? names_of(types_of(a) & types_of(b))
                                                 : merge_keyword(m, key, other, value, depth);
        if (!one) return -1;
        json_object_set_new(a, key, one);
    }
    return 0;
}

// Nothing can be valid: no type or value is left, or a required property is forbidden.
static int is_empty(const json_t *schema)
{
    const json_t *type = json_object_get(schema, "type"), *values = json_object_get(schema, "enum");
    const json_t *any = json_object_get(schema, "anyOf");
    json_t *name;
    size_t i;
    if ((json_is_array(type) && !json_array_size(type)) || (values && !json_array_size(values)) ||
        (any && !json_array_size(any)))
        return 1;
    if (types_of(schema) != OBJECT) return 0;
    json_array_foreach(json_object_get(schema, "required"), i, name)
    {
        const json_t *one =
            json_is_string(name) ? of_property(schema, json_string_value(name)) : NULL;
        if (is_false(one)) return 1;
    }
    return 0;
}

// The first items have schemas of their own.
static int has_tuple(const json_t *schema)
{
    return json_object_get(schema, "prefixItems") ||
           json_is_array(json_object_get(schema, "items"));
}

static const json_t *both(Merger *m, const json_t *a, const json_t *b, int depth)
{
    if (depth > MOST_DEPTH) return fail(m, "allOf", "schemas are merged too deeply");
    if (spend(m, 1 + json_object_size(a) + json_object_size(b)) != 0) return NULL;
    a = flat(m, a, depth + 1);
    b = a ? flat(m, b, depth + 1) : NULL;
    if (!a || !b || is_false(a) || json_is_true(b)) return a && b ? a : NULL;
    if (is_false(b) || json_is_true(a)) return b;
    // References are followed where something else must hold too.
    for (const json_t **s = (const json_t *[]){a, b, NULL}; *s; s++) {
        const char *reference = json_string_value(json_object_get(*s, "$ref"));
        const json_t *target = reference ? merge_target(m, reference) : NULL;
        if (reference && !target) return NULL;
        if (target) return both(m, target, *s == a ? b : a, depth + 1);
    }
    if ((has_tuple(a) && json_object_get(b, "items")) ||
        (has_tuple(b) && json_object_get(a, "items")))
        return fail(m, "prefixItems", "it cannot be merged with items");
    json_t *all = keep(m, json_copy((json_t *)a));
    json_t *properties = merge_properties(m, a, b, depth);
    if (!all || !properties || add_keywords(m, all, b, depth) != 0) {
        json_decref(properties);
        return NULL;
    }
    if (json_object_get(a, "properties") || json_object_get(b, "properties"))
        json_object_set(all, "properties", properties);
    json_decref(properties);
    return is_empty(all) ? keep(m, json_false()) : all;
}

// unevaluated* that is false, in the words of a schema that nothing stands beside.
static int close_schema(Merger *m, json_t *schema, const char *unevaluated, const char *keyword)
{
    static const char *const beside[] = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"};
    const json_t *value = json_object_get(schema, unevaluated);
    if (!value) return 0;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
        if (!json_is_false(value) || json_object_get(schema, beside[i])) {
            fail(m, unevaluated, "only false is there, without allOf and the like beside it");
            return -1;
        }
    if (!json_object_get(schema, keyword)) json_object_set_new(schema, keyword, json_false());
    json_object_del(schema, unevaluated);
    return 0;
}

// Whether a schema is all that merge_flat says already.
static int is_flat(const json_t *schema)
{
    static const char *const replaced[] = {
        "allOf", "oneOf", "const", "unevaluatedProperties", "unevaluatedItems", NULL};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)schema, key, value)
    {
        if (!is_known(key) || is_one_of(key, replaced)) return 0;
    }
    return !json_object_get(schema, "$ref") || json_object_size(schema) == 1;
}

// A copy without what says nothing.
static json_t *known_keywords(Merger *m, const json_t *schema)
{
    json_t *rest = keep(m, json_object()), *value;
    const char *key;
    json_object_foreach((json_t *)schema, key, value)
    {
        if (is_known(key)) json_object_set(rest, key, value);
    }
    if (!rest) fail(m, "", "out of memory");
    if (!rest || spend(m, 1 + json_object_size(rest)) != 0 ||
        close_schema(m, rest, "unevaluatedProperties", "additionalProperties") != 0 ||
        close_schema(m, rest, "unevaluatedItems", "items") != 0)
        return NULL;
    return rest;
}

// Of a schema that is not flat.
static const json_t *make_flat(Merger *m, const json_t *schema, int depth)
{
    json_t *rest = known_keywords(m, schema), *part;
    size_t i;
    if (!rest) return NULL;
    const json_t *all = rest, *constant = json_object_get(schema, "const"),
                 *list = json_object_get(schema, "allOf"), *one = json_object_get(schema, "oneOf");
    const char *reference = json_string_value(json_object_get(rest, "$ref"));
    int beside = reference && json_object_size(rest) > 1;
    if (beside) json_object_del(rest, "$ref");
    json_object_del(rest, "const");
    json_object_del(rest, "allOf");
    json_object_del(rest, "oneOf");
    if (beside) {
        const json_t *target = merge_target(m, reference);
        all = target ? both(m, target, rest, depth + 1) : NULL;
    }
    if (constant && all)
        all = both(m, all, keep(m, json_pack("{s:[O]}", "enum", constant)), depth + 1);
    if (list && !json_is_array(list)) return fail(m, "allOf", "expected a list of schemas");
    json_array_foreach(list, i, part)
    {
        if (all) all = both(m, all, part, depth + 1);
    }
    if (one && all) {
        const json_t *any = alternatives_apart(m, one, depth);
        all = any ? both(m, all, any, depth + 1) : NULL;
    }
    return all;
}

static const json_t *flat(Merger *m, const json_t *schema, int depth)
{
    char key[32];
    if (depth > MOST_DEPTH) return fail(m, "allOf", "schemas are merged too deeply");
    if (json_is_boolean(schema)) return schema;
    if (!json_is_object(schema)) return fail(m, "", "expected an object, true or false");
    if (is_flat(schema)) return schema;
    snprintf(key, sizeof key, "%p", (const void *)schema);
    const json_t *known = json_object_get(m->flats, key);
    if (json_is_null(known)) return fail(m, "", "it is made of itself");
    if (known) return known;
    json_object_set_new(m->flats, key, json_null()); // while it is being made
    const json_t *made = make_flat(m, schema, depth);
    if (made && keep(m, json_incref((json_t *)schema))) // so that no other gets its address
        json_object_set(m->flats, key, (json_t *)made);
    else
        json_object_del(m->flats, key);
    return made;
}

const json_t *merge_flat(Merger *m, const json_t *schema)
{
    return flat(m, schema, 0);
}

const json_t *merge_both(Merger *m, const json_t *a, const json_t *b)
{
    return both(m, a, b, 0);
}

// --- apart ---------------------------------------------------------------------------------------

// Follows a schema that is nothing but a reference.
static const json_t *resolve(Merger *m, const json_t *schema, int depth)
{
    for (int i = 0; schema && i < 8; i++) {
        const char *to = json_string_value(json_object_get(schema, "$ref"));
        if (!to) return schema;
        schema = merge_target(m, to);
        if (schema) schema = flat(m, schema, depth);
    }
    return schema;
}

static int values_apart(Merger *m, const json_t *values, const json_t *b)
{
    const json_t *others = json_object_get(b, "enum");
    json_t *value;
    size_t i;
    if (spend(m, json_array_size(values) * json_array_size(others) / 16) != 0) return 0;
    json_array_foreach(values, i, value)
    {
        if (merge_has_type(json_object_get(b, "type"), value) &&
            (!others || is_among(others, value)))
            return 0;
    }
    return 1;
}

static int apart(Merger *m, const json_t *a, const json_t *b, int depth, int levels);

// A property tells them apart: required by one, and forbidden or something else for the other.
static int objects_apart(Merger *m, const json_t *a, const json_t *b, int depth, int levels)
{
    const json_t *sides[] = {a, b};
    json_t *name;
    size_t i;
    for (int side = 0; side < 2; side++)
        json_array_foreach(json_object_get(sides[side], "required"), i, name)
        {
            const char *text = json_string_value(name);
            const json_t *of_a = text ? of_property(a, text) : NULL;
            const json_t *of_b = text ? of_property(b, text) : NULL;
            if (is_false(of_a) || is_false(of_b)) return 1;
            if (of_a && of_b && apart(m, of_a, of_b, depth, levels)) return 1;
        }
    return 0;
}

// 1 when no value is valid under both; 0 when that is not known, `levels` within them.
static int apart(Merger *m, const json_t *a, const json_t *b, int depth, int levels)
{
    if (levels-- == 0 || spend(m, 1) != 0) return 0;
    a = flat(m, a, ++depth);
    a = a ? resolve(m, a, depth) : NULL;
    b = a ? flat(m, b, depth) : NULL;
    b = b ? resolve(m, b, depth) : NULL;
    if (!a || !b) return 0;
    if (is_false(a) || is_false(b)) return 1;
    json_t *one;
    size_t i;
    const json_t *lists[] = {json_object_get(a, "anyOf"), json_object_get(b, "anyOf")};
    for (int side = 0; side < 2; side++) {
        int all = json_array_size(lists[side]) > 0;
        json_array_foreach(lists[side], i, one)
        {
            all = all && (side ? apart(m, a, one, depth, levels) : apart(m, one, b, depth, levels));
        }
        if (all) return 1;
    }
    int common = types_of(a) & types_of(b);
    if (!common) return 1;
    if (json_object_get(a, "enum") && values_apart(m, json_object_get(a, "enum"), b)) return 1;
    if (json_object_get(b, "enum") && values_apart(m, json_object_get(b, "enum"), a)) return 1;
    return common == OBJECT && objects_apart(m, a, b, depth, levels);
}

static int requires(const json_t *schema, const char *name)
{
    json_t *one;
    size_t i;
    json_array_foreach(json_object_get(schema, "required"), i, one)
    {
        if (json_is_string(one) && strcmp(json_string_value(one), name) == 0) return 1;
    }
    return 0;
}

// Forbids a a property that b requires and a does not speak of: it is hardly ever made anyway.
static json_t *forbid_property(const json_t *a, const json_t *b)
{
    json_t *properties = json_copy(json_object_get(a, "properties")), *name;
    size_t i;
    if (!properties) properties = json_object();
    json_array_foreach(json_object_get(b, "required"), i, name)
    {
        const char *text = json_string_value(name);
        if (!text || json_object_get(properties, text) || requires(a, text)) continue;
        json_object_set_new(properties, text, json_false());
        break;
    }
    return properties;
}

// `a` without some of what is valid, so that nothing of it is valid under `b`; NULL when that
// cannot be said. Without a type it has the types that its keywords speak of, as everywhere.
static const json_t *narrow(Merger *m, const json_t *a, const json_t *b, int depth)
{
    a = resolve(m, a, depth);
    b = a ? resolve(m, b, depth) : NULL;
    if (!b || !json_is_object(a) || spend(m, 1 + json_object_size(a)) != 0) return NULL;
    json_t *narrower = keep(m, json_copy((json_t *)a));
    int made = 0;
    for (size_t i = 0; i < TYPES; i++)
        if (merge_makes(a, types[i].name)) made |= types[i].bits;
    if (!json_object_get(a, "type") && !json_object_get(a, "anyOf") &&
        !json_object_get(a, "enum") && made)
        json_object_set_new(narrower, "type", names_of(made));
    if (apart(m, narrower, b, depth, MOST_LEVELS)) return narrower;
    if (types_of(narrower) != OBJECT ||
        (!json_object_get(a, "properties") && !json_object_get(a, "required") &&
         !json_object_get(a, "additionalProperties")))
        return NULL;
    json_object_set_new(narrower, "properties", forbid_property(a, b));
    return apart(m, narrower, b, depth, MOST_LEVELS) ? narrower : NULL;
}

// oneOf, whose alternatives must not hold together, as a schema with anyOf.
static const json_t *alternatives_apart(Merger *m, const json_t *list, int depth)
{
    json_t *valid = keep(m, json_array()), *made = json_array(), *schema;
    json_t *whole = keep(m, json_pack("{s:o}", "anyOf", made));
    size_t i, k;
    if (!valid || !whole || !json_is_array(list) || !json_array_size(list))
        return fail(m, "oneOf", "expected a list of schemas");
    json_array_foreach(list, i, schema)
    {
        const json_t *one = flat(m, schema, depth + 1);
        if (!one) return NULL;
        if (is_false(one)) continue;
        json_array_append(valid, (json_t *)one);
        json_array_append(made, (json_t *)one);
    }
    size_t count = json_array_size(valid);
    if (count > MOST_ALTERNATIVES) return fail(m, "oneOf", "too many alternatives");
    for (i = 0; i < count; i++)
        for (k = 0; k < i; k++) {
            const json_t *a = json_array_get(valid, i), *b = json_array_get(valid, k);
            if (apart(m, a, b, depth, MOST_LEVELS)) continue;
            if (m->merges > MOST_MERGES) return NULL;
            a = narrow(m, json_array_get(made, i), b, depth);
            b = narrow(m, json_array_get(made, k), json_array_get(valid, i), depth);
            if (!a || !b)
                return fail(m, "oneOf", "two of its schemas may hold together; anyOf would do");
            json_array_set(made, i, (json_t *)a);
            json_array_set(made, k, (json_t *)b);
        }
    return whole;
}
