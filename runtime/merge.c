// Every function that returns a schema returns one that the merger keeps.
#include "merge.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_MERGES 200000 // schemas and their properties
#define MOST_DEPTH 40
#define MOST_ALTERNATIVES 512

static const json_t *flat(Merger *m, const json_t *schema, int depth);
static const json_t *both(Merger *m, const json_t *a, const json_t *b, int depth);

int merger_open(Merger *m, const json_t *root)
{
    *m = (Merger){.root = root, .kept = json_array()};
    return m->kept ? 0 : -1;
}

void merger_close(Merger *m)
{
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

int merge_is_note(const char *keyword)
{
    static const char *const notes[] = {
        "$schema",         "$id",           "id",          "$comment",    "$defs",
        "definitions",     "title",         "description", "default",     "examples",
        "example",         "readOnly",      "writeOnly",   "deprecated",  "contentMediaType",
        "contentEncoding", "contentSchema", "$anchor",     "$vocabulary", NULL};
    for (int i = 0; notes[i]; i++)
        if (strcmp(notes[i], keyword) == 0) return 1;
    return 0;
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

static int has_name(const json_t *types, const char *name)
{
    size_t i;
    json_t *type;
    if (json_is_string(types)) return strcmp(json_string_value(types), name) == 0;
    json_array_foreach(types, i, type)
    {
        if (json_is_string(type) && strcmp(json_string_value(type), name) == 0) return 1;
    }
    return 0;
}

// The types that both lists have; a whole number is a number.
static json_t *common_types(const json_t *a, const json_t *b)
{
    static const char *const names[] = {"object", "array",  "string",  "boolean",
                                        "null",   "number", "integer", NULL};
    json_t *list = json_array();
    for (int i = 0; names[i]; i++) {
        int in_a = has_name(a, names[i]), in_b = has_name(b, names[i]);
        if (strcmp(names[i], "integer") == 0) {
            if (has_name(a, "number") && has_name(b, "number")) continue;
            in_a |= has_name(a, "number");
            in_b |= has_name(b, "number");
        }
        if (in_a && in_b) json_array_append_new(list, json_string(names[i]));
    }
    return list;
}

// --- merging -------------------------------------------------------------------------------------

static json_t *common_values(const json_t *a, const json_t *b)
{
    json_t *list = json_array(), *x, *y;
    size_t i, k;
    json_array_foreach(a, i, x)
    {
        json_array_foreach(b, k, y)
        {
            if (json_equal(x, y)) {
                json_array_append(list, x);
                break;
            }
        }
    }
    return list;
}

static int is_false(const json_t *schema)
{
    return json_is_false(schema);
}

// What a schema demands of a property that it may not list.
static const json_t *of_property(const json_t *schema, const char *name)
{
    const json_t *listed = json_object_get(json_object_get(schema, "properties"), name);
    return listed ? listed : json_object_get(schema, "additionalProperties");
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
            m->merges++;
            if (json_object_get(all, name)) continue;
            const json_t *other = of_property(sides[1 - i], name);
            const json_t *one = other ? both(m, value, other, depth + 1) : value;
            if (!one) {
                json_decref(all);
                return NULL;
            }
            json_object_set(all, name, (json_t *)one);
        }
    return all;
}

static json_t *merge_required(const json_t *a, const json_t *b)
{
    json_t *all = json_copy((json_t *)a), *x, *y;
    size_t i, k;
    json_array_foreach(b, i, x)
    {
        int there = 0;
        json_array_foreach(all, k, y) there |= json_equal(x, y);
        if (!there) json_array_append(all, x);
    }
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

static int is_one_of(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(*names, key) == 0) return 1;
    return 0;
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
    if (strcmp(key, "required") == 0) return merge_required(a, b);
    if (strcmp(key, "enum") == 0) return common_values(a, b);
    if (strcmp(key, "type") == 0) return common_types(a, b);
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
        if (merge_is_note(key) || strcmp(key, "properties") == 0) continue;
        json_t *one = other ? merge_keyword(m, key, other, value, depth) : json_incref(value);
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
    if (!has_name(type, "object") || json_array_size(type) > 1) return 0;
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
    m->merges += 1 + (int)(json_object_size(a) + json_object_size(b));
    if (depth > MOST_DEPTH || m->merges > MOST_MERGES)
        return fail(m, "allOf", "schemas are merged too deeply");
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

// oneOf, whose alternatives must not hold together, as a schema with anyOf.
static const json_t *alternatives_apart(Merger *m, const json_t *list, int depth)
{
    json_t *flats = json_array(), *schema;
    json_t *whole = keep(m, json_pack("{s:o}", "anyOf", flats));
    size_t i, k;
    if (!whole || !json_is_array(list) || !json_array_size(list))
        return fail(m, "oneOf", "expected a list of schemas");
    json_array_foreach(list, i, schema)
    {
        const json_t *one = flat(m, schema, depth + 1);
        if (!one) return NULL;
        if (!is_false(one)) json_array_append(flats, (json_t *)one);
    }
    size_t count = json_array_size(flats);
    if (count > MOST_ALTERNATIVES) return fail(m, "oneOf", "too many alternatives");
    for (i = 0; i < count; i++)
        for (k = 0; k < count; k++)
            if (i != k && !merge_apart(m, json_array_get(flats, i), json_array_get(flats, k)))
                return fail(m, "oneOf", "two of its schemas may hold together; anyOf would do");
    return whole;
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

static const json_t *flat(Merger *m, const json_t *schema, int depth)
{
    static const char *const replaced[] = {"allOf", "oneOf", "const", NULL};
    if (depth > MOST_DEPTH) return fail(m, "allOf", "schemas are merged too deeply");
    if (json_is_boolean(schema)) return schema;
    if (!json_is_object(schema)) return fail(m, "", "expected an object, true or false");
    json_t *rest = keep(m, json_object()), *value, *part,
           *closed = keep(m, json_copy((json_t *)schema));
    const char *key;
    size_t i;
    if (!rest || !closed) return fail(m, "", "out of memory");
    if (close_schema(m, closed, "unevaluatedProperties", "additionalProperties") != 0 ||
        close_schema(m, closed, "unevaluatedItems", "items") != 0)
        return NULL;
    schema = closed;
    json_object_foreach((json_t *)schema, key, value)
    {
        if (!merge_is_note(key) && !is_one_of(key, replaced)) json_object_set(rest, key, value);
    }
    const json_t *all = rest, *constant = json_object_get(schema, "const"),
                 *list = json_object_get(schema, "allOf"), *one = json_object_get(schema, "oneOf");
    const char *reference = json_string_value(json_object_get(rest, "$ref"));
    if (reference && (json_object_size(rest) > 1 || constant || list || one)) {
        const json_t *target = merge_target(m, reference);
        json_object_del(rest, "$ref");
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

const json_t *merge_flat(Merger *m, const json_t *schema)
{
    return flat(m, schema, 0);
}

const json_t *merge_both(Merger *m, const json_t *a, const json_t *b)
{
    return both(m, a, b, 0);
}

// --- apart ---------------------------------------------------------------------------------------

static int apart(Merger *m, const json_t *a, const json_t *b, int depth);

static int types_apart(const json_t *a, const json_t *b)
{
    json_t *common = a && b ? common_types(a, b) : NULL;
    int apart = common && !json_array_size(common);
    json_decref(common);
    return apart;
}

// None of a's values is one of b's, or of b's types.
static int values_apart(const json_t *values, const json_t *b)
{
    json_t *value, *other;
    size_t i, k;
    const json_t *others = json_object_get(b, "enum");
    json_array_foreach(values, i, value)
    {
        int fits = merge_has_type(json_object_get(b, "type"), value);
        int there = !others;
        json_array_foreach(others, k, other) there |= json_equal(value, other);
        if (fits && there) return 0;
    }
    return 1;
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

// A property that tells them apart: required by one, and forbidden or something else for the other.
static int objects_apart(Merger *m, const json_t *a, const json_t *b, int depth)
{
    const json_t *sides[] = {a, b};
    int listed = !json_object_get(a, "anyOf") && !json_object_get(a, "patternProperties");
    json_t *name;
    size_t i;
    for (int side = 0; side < 2; side++)
        json_array_foreach(json_object_get(sides[side], "required"), i, name)
        {
            const char *text = json_string_value(name);
            const json_t *of_a = text ? of_property(a, text) : NULL;
            const json_t *of_b = text ? of_property(b, text) : NULL;
            // Nothing is made that is not listed, unless it is required.
            if (side == 1 && listed && text && !of_a && !requires(a, text)) return 1;
            if (is_false(of_a) || is_false(of_b)) return 1;
            if (of_a && of_b && apart(m, of_a, of_b, depth + 1)) return 1;
        }
    return 0;
}

static int apart(Merger *m, const json_t *a, const json_t *b, int depth)
{
    if (depth > 6 || ++m->merges > MOST_MERGES) return 0;
    for (int i = 0; i < 8; i++) { // what only refers to another
        const char *to = json_string_value(json_object_get(a, "$ref"));
        const char *other = json_string_value(json_object_get(b, "$ref"));
        if (to) a = merge_target(m, to);
        if (other) b = merge_target(m, other);
        a = a ? flat(m, a, depth) : NULL;
        b = b && a ? flat(m, b, depth) : NULL;
        if (!a || !b) return 0;
    }
    if (is_false(a) || is_false(b)) return 1;
    json_t *one;
    size_t i;
    const json_t *lists[] = {json_object_get(a, "anyOf"), json_object_get(b, "anyOf")};
    for (int side = 0; side < 2; side++) {
        int all = json_array_size(lists[side]) > 0;
        json_array_foreach(lists[side], i, one)
        {
            all = all && (side ? apart(m, a, one, depth + 1) : apart(m, one, b, depth + 1));
        }
        if (all) return 1;
    }
    const json_t *type_a = json_object_get(a, "type"), *type_b = json_object_get(b, "type");
    if (types_apart(type_a, type_b)) return 1;
    if (json_object_get(a, "enum") && values_apart(json_object_get(a, "enum"), b)) return 1;
    if (json_object_get(b, "enum") && values_apart(json_object_get(b, "enum"), a)) return 1;
    json_t *common = type_a && type_b ? common_types(type_a, type_b) : NULL;
    int objects = json_array_size(common) == 1 && has_name(common, "object");
    json_decref(common);
    // What has properties and no type is made as an object.
    objects |=
        !type_a && json_object_get(a, "properties") && (!type_b || has_name(type_b, "object"));
    return objects && objects_apart(m, a, b, depth);
}

int merge_apart(Merger *m, const json_t *a, const json_t *b)
{
    return apart(m, a, b, 0);
}
