// Every function that returns a schema returns one that the merger keeps.
#include "apart.h"
#include "merge.h"
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST_MERGES 400000 // schemas, their keywords and properties
#define MOST_DEPTH 40
#define MOST_ALTERNATIVES 512

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

const json_t *merge_fail(Merger *m, const char *keyword, const char *what)
{
    snprintf(m->at, sizeof m->at, "%s", keyword);
    error_set(&m->error, "%s", what);
    return NULL;
}

json_t *merge_keep(Merger *m, json_t *made)
{
    return made && json_array_append_new(m->kept, made) == 0 ? made : NULL;
}

// Work is counted: 0, or -1 when there was too much of it.
int merge_spend(Merger *m, size_t work)
{
    m->merges += work < MOST_MERGES ? (int)work : MOST_MERGES;
    if (m->merges <= MOST_MERGES) return 0;
    m->merges = MOST_MERGES + 1;
    merge_fail(m, "", "it takes too much to join its schemas");
    return -1;
}

static int is_one_of(const char *key, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(*names, key) == 0) return 1;
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
        return merge_fail(m, "$ref", "only references within the schema (#/...) are there");
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
    return at ? at : merge_fail(m, "$ref", "there is nothing at this place");
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

static const struct {
    const char *name;
    int bits;
    const char *keywords[8]; // that speak of it
} types[] = {
    {"object",
     TYPE_OBJECT,
     {"properties", "required", "additionalProperties", "patternProperties", "propertyNames",
      "minProperties", "maxProperties"}},
    {"array", TYPE_ARRAY, {"items", "prefixItems", "minItems", "maxItems", "additionalItems"}},
    {"string", TYPE_STRING, {"minLength", "maxLength", "pattern", "format"}},
    {"boolean", TYPE_BOOLEAN, {NULL}},
    {"null", TYPE_NIL, {NULL}},
    {"number",
     TYPE_WHOLE | TYPE_REAL,
     {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}},
    {"integer", TYPE_WHOLE, {NULL}}};
#define TYPES (sizeof types / sizeof *types)

// Whether a keyword may say something about what is valid; unknown ones do not.
static int is_known(const char *keyword)
{
    static const char *const others[] = {"$ref",
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
                                         "uniqueItems",
                                         "unevaluatedItems",
                                         "unevaluatedProperties",
                                         NULL};
    for (size_t i = 0; i < TYPES; i++)
        if (is_one_of(keyword, types[i].keywords)) return 1;
    return is_one_of(keyword, others);
}

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

int merge_made_types(const json_t *schema)
{
    int made = 0;
    for (size_t i = 0; i < TYPES; i++)
        if (merge_makes(schema, types[i].name)) made |= types[i].bits;
    return made;
}

static int bits_of(const char *name)
{
    for (size_t i = 0; name && i < TYPES; i++)
        if (strcmp(types[i].name, name) == 0) return types[i].bits;
    return 0;
}

// The types that a schema's `type` leaves.
int merge_types(const json_t *schema)
{
    const json_t *named = json_object_get(schema, "type");
    int bits = json_is_string(named) ? bits_of(json_string_value(named)) : 0;
    json_t *one;
    size_t i;
    json_array_foreach(named, i, one) bits |= bits_of(json_string_value(one));
    return named ? bits : -1;
}

json_t *merge_type_names(int bits)
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

int merge_is_among(const json_t *values, const json_t *value)
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
    if (merge_spend(m, json_array_size(a) * json_array_size(b) / 16) != 0) return NULL;
    list = json_array();
    json_array_foreach(a, i, value)
    {
        if (merge_is_among(b, value)) json_array_append(list, value);
    }
    return list;
}

static int is_false(const json_t *schema)
{
    return json_is_false(schema);
}

// What a schema demands of a property that it may not list; NULL: nothing, or more than is known
// here.
const json_t *merge_property(const json_t *schema, const char *name)
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
            const json_t *other = merge_property(sides[1 - i], name);
            const json_t *one = merge_spend(m, 1) != 0 ? NULL
                                : other                ? both(m, value, other, depth + 1)
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
    for (int i = 0; i < 2 && merge_spend(m, json_array_size(sides[i])) == 0; i++)
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
        merge_fail(m, "anyOf", "too many combinations");
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
    merge_fail(m, key, "two of them cannot be merged");
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
                      : strcmp(key, "type") == 0 ? merge_type_names(merge_types(a) & merge_types(b))
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
    if (merge_types(schema) != TYPE_OBJECT) return 0;
    json_array_foreach(json_object_get(schema, "required"), i, name)
    {
        const json_t *one =
            json_is_string(name) ? merge_property(schema, json_string_value(name)) : NULL;
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

// What a says of properties by their names, b says of all that it does not list.
static int patterns_meet(const json_t *a, const json_t *b)
{
    const json_t *patterns = json_object_get(a, "patternProperties");
    const json_t *others = json_object_get(b, "additionalProperties");
    return json_object_size(patterns) && others && !json_is_true(others) &&
           !json_equal(patterns, json_object_get(b, "patternProperties"));
}

static const json_t *both(Merger *m, const json_t *a, const json_t *b, int depth)
{
    if (depth > MOST_DEPTH) return merge_fail(m, "allOf", "schemas are merged too deeply");
    if (merge_spend(m, 1 + json_object_size(a) + json_object_size(b)) != 0) return NULL;
    a = merge_flat_at(m, a, depth + 1);
    b = a ? merge_flat_at(m, b, depth + 1) : NULL;
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
        return merge_fail(m, "prefixItems", "it cannot be merged with items");
    if (patterns_meet(a, b) || patterns_meet(b, a))
        return merge_fail(m, "patternProperties", "it cannot be merged with additionalProperties");
    json_t *all = merge_keep(m, json_copy((json_t *)a));
    json_t *properties = merge_properties(m, a, b, depth);
    if (!all || !properties || add_keywords(m, all, b, depth) != 0) {
        json_decref(properties);
        return NULL;
    }
    if (json_object_get(a, "properties") || json_object_get(b, "properties"))
        json_object_set(all, "properties", properties);
    json_decref(properties);
    return is_empty(all) ? merge_keep(m, json_false()) : all;
}

// unevaluated* that is false, in the words of a schema that nothing stands beside.
static int close_schema(Merger *m, json_t *schema, const char *unevaluated, const char *keyword)
{
    static const char *const beside[] = {"$ref", "allOf", "anyOf", "oneOf", "patternProperties"};
    const json_t *value = json_object_get(schema, unevaluated);
    if (!value) return 0;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++)
        if (!json_is_false(value) || json_object_get(schema, beside[i])) {
            merge_fail(m, unevaluated, "only false is there, without allOf and the like beside it");
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
    json_t *rest = merge_keep(m, json_object()), *value;
    const char *key;
    json_object_foreach((json_t *)schema, key, value)
    {
        if (is_known(key)) json_object_set(rest, key, value);
    }
    if (!rest) merge_fail(m, "", "out of memory");
    if (!rest || merge_spend(m, 1 + json_object_size(rest)) != 0 ||
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
        all = both(m, all, merge_keep(m, json_pack("{s:[O]}", "enum", constant)), depth + 1);
    if (list && !json_is_array(list)) return merge_fail(m, "allOf", "expected a list of schemas");
    json_array_foreach(list, i, part)
    {
        if (all) all = both(m, all, part, depth + 1);
    }
    if (one && all) {
        const json_t *any = apart_alternatives(m, one, depth);
        all = any ? both(m, all, any, depth + 1) : NULL;
    }
    return all;
}

const json_t *merge_flat_at(Merger *m, const json_t *schema, int depth)
{
    char key[32];
    if (depth > MOST_DEPTH) return merge_fail(m, "allOf", "schemas are merged too deeply");
    if (json_is_boolean(schema)) return schema;
    if (!json_is_object(schema)) return merge_fail(m, "", "expected an object, true or false");
    if (is_flat(schema)) return schema;
    snprintf(key, sizeof key, "%p", (const void *)schema);
    const json_t *known = json_object_get(m->flats, key);
    if (json_is_null(known)) return merge_fail(m, "", "it is made of itself");
    if (known) return known;
    json_object_set_new(m->flats, key, json_null()); // while it is being made
    const json_t *made = make_flat(m, schema, depth);
    if (made && merge_keep(m, json_incref((json_t *)schema))) // so that no other gets its address
        json_object_set(m->flats, key, (json_t *)made);
    else
        json_object_del(m->flats, key);
    return made;
}

const json_t *merge_flat(Merger *m, const json_t *schema)
{
    return merge_flat_at(m, schema, 0);
}

const json_t *merge_both(Merger *m, const json_t *a, const json_t *b)
{
    return both(m, a, b, 0);
}
