// Two schemas are told apart by their types, constants and properties, as far as that goes.
#include "apart.h"
#include <string.h>

#define MOST_ALTERNATIVES 512
#define MOST_LEVELS 7 // of what tells two schemas apart

// Follows a schema that is nothing but a reference.
static const json_t *resolve(Merger *m, const json_t *schema, int depth)
{
    for (int i = 0; schema && i < 8; i++) {
        const char *to = json_string_value(json_object_get(schema, "$ref"));
        if (!to) return schema;
        schema = merge_target(m, to);
        if (schema) schema = merge_flat_at(m, schema, depth);
    }
    return schema;
}

static int values_apart(Merger *m, const json_t *values, const json_t *b)
{
    const json_t *others = json_object_get(b, "enum");
    json_t *value;
    size_t i;
    if (merge_spend(m, json_array_size(values) * json_array_size(others) / 16) != 0) return 0;
    json_array_foreach(values, i, value)
    {
        if (merge_has_type(json_object_get(b, "type"), value) &&
            (!others || merge_is_among(others, value)))
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
            const json_t *of_a = text ? merge_property(a, text) : NULL;
            const json_t *of_b = text ? merge_property(b, text) : NULL;
            if (json_is_false(of_a) || json_is_false(of_b)) return 1;
            if (of_a && of_b && apart(m, of_a, of_b, depth, levels)) return 1;
        }
    return 0;
}

// 1 when no value is valid under both; 0 when that is not known, `levels` within them.
static int apart(Merger *m, const json_t *a, const json_t *b, int depth, int levels)
{
    if (levels-- == 0 || merge_spend(m, 1) != 0) return 0;
    a = merge_flat_at(m, a, ++depth);
    a = a ? resolve(m, a, depth) : NULL;
    b = a ? merge_flat_at(m, b, depth) : NULL;
    b = b ? resolve(m, b, depth) : NULL;
    if (!a || !b) return 0;
    if (json_is_false(a) || json_is_false(b)) return 1;
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
    int common = merge_types(a) & merge_types(b);
    if (!common) return 1;
    if (json_object_get(a, "enum") && values_apart(m, json_object_get(a, "enum"), b)) return 1;
    if (json_object_get(b, "enum") && values_apart(m, json_object_get(b, "enum"), a)) return 1;
    return common == TYPE_OBJECT && objects_apart(m, a, b, depth, levels);
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
    if (!b || !json_is_object(a) || merge_spend(m, 1 + json_object_size(a)) != 0) return NULL;
    json_t *narrower = merge_keep(m, json_copy((json_t *)a));
    int made = merge_made_types(a);
    if (!json_object_get(a, "type") && !json_object_get(a, "anyOf") &&
        !json_object_get(a, "enum") && made)
        json_object_set_new(narrower, "type", merge_type_names(made));
    if (apart(m, narrower, b, depth, MOST_LEVELS)) return narrower;
    if (merge_types(narrower) != TYPE_OBJECT ||
        (!json_object_get(a, "properties") && !json_object_get(a, "required") &&
         !json_object_get(a, "additionalProperties")))
        return NULL;
    json_object_set_new(narrower, "properties", forbid_property(a, b));
    return apart(m, narrower, b, depth, MOST_LEVELS) ? narrower : NULL;
}

// oneOf, whose alternatives must not hold together, as a schema with anyOf.
const json_t *apart_alternatives(Merger *m, const json_t *list, int depth)
{
    json_t *valid = merge_keep(m, json_array()), *made = json_array(), *schema;
    json_t *whole = merge_keep(m, json_pack("{s:o}", "anyOf", made));
    size_t i, k;
    if (!valid || !whole || !json_is_array(list) || !json_array_size(list))
        return merge_fail(m, "oneOf", "expected a list of schemas");
    json_array_foreach(list, i, schema)
    {
        const json_t *one = merge_flat_at(m, schema, depth + 1);
        if (!one) return NULL;
        if (json_is_false(one)) continue;
        json_array_append(valid, (json_t *)one);
        json_array_append(made, (json_t *)one);
    }
    size_t count = json_array_size(valid);
    if (count > MOST_ALTERNATIVES) return merge_fail(m, "oneOf", "too many alternatives");
    for (i = 0; i < count; i++)
        for (k = 0; k < i; k++) {
            const json_t *a = json_array_get(valid, i), *b = json_array_get(valid, k);
            if (apart(m, a, b, depth, MOST_LEVELS)) continue;
            if (merge_spend(m, 0) != 0) return NULL;
            a = narrow(m, json_array_get(made, i), b, depth);
            b = narrow(m, json_array_get(made, k), json_array_get(valid, i), depth);
            if (!a || !b)
                return merge_fail(m, "oneOf",
                                  "two of its schemas may hold together; anyOf would do");
            json_array_set(made, i, (json_t *)a);
            json_array_set(made, k, (json_t *)b);
        }
    return whole;
}
