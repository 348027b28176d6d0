// JSON schemas: tables of texts that are written for them and are not, and what is refused, where.
// tests/clients/constrained.py holds what models write against the jsonschema package.
#include "runtime/match.h"
#include "runtime/schema.h"
#include "tests/check.h"
#include <stdlib.h>

// Single quotes stand for double ones.
static char *quoted(const char *text)
{
    char *copy = strdup(text);
    for (char *p = copy; *p; p++)
        if (*p == '\'') *p = '"';
    return copy;
}

static Matcher *make(const char *text, Error *err)
{
    char *json = quoted(text);
    json_t *schema = json_loads(json, JSON_DECODE_ANY, NULL);
    Grammar *g = grammar_open();
    CHECK_MSG(schema, "%s", json);
    Matcher *m = matcher_open(g, schema_read(g, schema), err);
    json_decref(schema);
    free(json);
    return m;
}

static int is_text(Matcher *m, const char *text)
{
    Place place;
    char *json = quoted(text);
    place_enter(m, &place);
    int good = place_read(m, &place, json, strlen(json)) == 0 && match_accepts(m, place.state);
    place_leave(&place);
    free(json);
    return good;
}

#define TREE                                                                                       \
    "{'$ref': '#/$defs/a', '$defs': {'a': {'type': ['array', 'null'], 'items': {'$ref': "          \
    "'#/$defs/a'}}}}"

static const struct {
    const char *schema, *good[14], *bad[14];
} tables[] = {
    {"true",
     {"1", "'a'", "null", "[]", "{}", "[1, {'a': [true]}]", "-0.5e-7"},
     {"", "tru", "[1,]", "01", "{a: 1}", "+1", ".5", "1."}},
    {"{'type': 'string'}",
     {"''", "'a\\n\\u00e9\\ud83d\\ude00 日'", "'\\/'"},
     {"'", "'\n'", "'\\x'", "'\\ud800'", "'\\u0000'", "a", "'\\ude00'"}},
    {"{'type': 'string', 'minLength': 2, 'maxLength': 3}",
     {"'ab'", "'日本語'", "'\\n\\u0041'", "'\\ud83d\\ude00a'"},
     {"'a'", "'abcd'", "'\\ud83d\\ude00'"}},
    {"{'type': 'integer'}", {"0", "-7", "123456789012345"}, {"00", "1.0", "1e3", "-", "-01"}},
    {"{'type': 'integer', 'minimum': -12, 'maximum': 105}",
     {"-12", "-9", "0", "9", "10", "99", "100", "105"},
     {"-13", "106", "110", "200", "1000", "-20", "-100"}},
    {"{'type': 'integer', 'exclusiveMinimum': 9}",
     {"10", "99", "1234567"},
     {"9", "-10", "0", "010"}},
    {"{'type': 'integer', 'minimum': 0.5, 'exclusiveMaximum': 3}", {"1", "2"}, {"0", "3"}},
    {"{'type': 'integer', 'maximum': -5}", {"-5", "-60", "-123"}, {"-4", "5", "0"}},
    {"{'type': 'number', 'minimum': 0.25, 'maximum': 10.5}",
     {"0.25", "0.3", "1", "9.999", "10", "10.5", "10.49", "0.250"},
     {"0.24", "0.2", "0", "10.51", "11", "-1", "0.2499"}},
    {"{'type': 'number', 'exclusiveMinimum': 0.25, 'exclusiveMaximum': 0.3}",
     {"0.26", "0.2501", "0.299"},
     {"0.25", "0.3", "0.30", "0.250", "0"}},
    {"{'type': 'number', 'exclusiveMinimum': 0}", {"0.001", "1", "17.5"}, {"0", "0.0", "-1"}},
    // Within the bounds as doubles: 16 and more digits are rounded.
    {"{'type': 'number', 'exclusiveMinimum': 0.25, 'exclusiveMaximum': 100}",
     {"0.2500000000000001", "0.26", "99.99", "99.99999999999999", "50"},
     {"0.25000000000000001", "99.999999999999999", "100", "0.25"}},
    {"{'type': 'number', 'exclusiveMinimum': -3, 'maximum': 1e-7}",
     {"-2.999", "0", "0.0000001", "0.00000009"},
     {"-3", "-2.9999999999999999", "0.00000011"}},
    {"{'type': 'number', 'minimum': 1.23456789012345e-7, 'maximum': 1.5e-5}",
     {"0.000000123456789013", "0.000015"},
     {"0.000000123456789012", "0.0000151", "0"}},
    {"{'type': 'number', 'minimum': 1e-20, 'maximum': 1}", {"0.000000000000000001"}, {"0", "0.0"}},
    {"{'type': 'number', 'minimum': 0.00012345678901234568}",
     {"0.00012345678901234568", "0.0002"},
     {"0.0001234567890123456", "0.00012345678901234"}},
    {"{'type': 'number', 'minimum': -1.5, 'exclusiveMaximum': 0}",
     {"-1.5", "-1", "-0.1", "-1.49"},
     {"0", "-0", "-1.51", "-2", "0.5"}},
    {"{'type': 'number', 'multipleOf': 1}", {"5", "-5"}, {"5.0"}},
    {"{'type': ['boolean', 'null']}", {"true", "false", "null"}, {"0", "'null'"}},
    {"{'enum': ['a', 1, null, {'x': [1]}]}", {"'a'", "1", "null", "{'x':[1]}"}, {"'b'", "2", "{}"}},
    {"{'type': 'string', 'enum': ['a', 1]}", {"'a'"}, {"1"}},
    {"{'enum': [0.1, 1e-7, [2.5, 1.0]]}", {"0.1", "1e-7", "[2.5,1.0]"}, {"0.10000000000000001"}},
    {"{'const': 'x\\\"\\\\'}", {"'x\\\"\\\\'"}, {"'x'"}},
    {"{'enum': ['a', 'bb', 'ccc'], 'minLength': 2, 'pattern': 'c|b'}", {"'bb'", "'ccc'"}, {"'a'"}},
    {"{'type': 'array', 'items': {'type': 'integer'}}",
     {"[]", "[1]", "[1, 2,3]", "[\n  1,\n  2\n]", "[ ]"},
     {"[,]", "[1 ]2", "['a']", "[1,]", "[1  ,2]"}},
    {"{'type': 'array', 'items': {'type': 'null'}, 'minItems': 1, 'maxItems': 2}",
     {"[null]", "[null,null]"},
     {"[]", "[null,null,null]"}},
    {"{'type': 'array', 'maxItems': 0}", {"[]"}, {"[1]"}},
    {"{'prefixItems': [{'const': 1}, {'const': 2}]}",
     {"[]", "[1]", "[1,2]"},
     {"[2]", "[1,2,3]", "[,2]"}},
    {"{'prefixItems': [{'const': 1}, {'const': 2}], 'items': {'const': 3}, 'minItems': 1, "
     "'maxItems': 4}",
     {"[1]", "[1,2]", "[1,2,3]", "[1,2,3,3]"},
     {"[]", "[1,3]", "[1,2,3,3,3]"}},
    {"{'items': [{'const': 1}], 'additionalItems': false, 'minItems': 1}",
     {"[1]"},
     {"[]", "[1,1]"}},
    {"{'type': 'object', 'properties': {'a': {'type': 'integer'}, 'b': {'type': 'null'}, 'c': "
     "{'type': 'null'}}, 'required': ['b']}",
     {"{'b':null}", "{'a': 1,'b':null}", "{'a':1,'b':null,'c':null}",
      "{\n\t'b': null, 'c': null\n}"},
     {"{}", "{'a':1}", "{'b':null,'a':1}", "{'b':null,'d':1}", "{'b':null,}", "{,'b':null}",
      "{'a':1 'b':null}"}},
    {"{'type': 'object', 'properties': {'a': {'const': 1}}, 'minProperties': 1}",
     {"{'a':1}"},
     {"{}"}},
    {"{'properties': {'a': {'const': 1}, 'b': false}, 'additionalProperties': {'const': 2}}",
     {"{}", "{'a':1}", "{'a':1,'x':2}", "{'x':2}", "{'aa':2,'':2}"},
     {"{'a':2}", "{'x':1}", "{'\\u0061':2}", "{'x':2,'a':2}", "{'b':2}"}},
    {"{'required': ['z'], 'properties': {'a': {'const': 1}}}",
     {"{'z':[]}", "{'a':1,'z':0}"},
     {"{'a':1}"}},
    {"{'type': 'object'}", {"{}", "{'a': {'b': []}}"}, {"[]", "{'a'}"}},
    {"{'type': 'object', 'additionalProperties': {'const': 1}, 'maxProperties': 2}",
     {"{}", "{'a':1,'b':1}"},
     {"{'a':1,'b':1,'c':1}"}},
    {"{'type': 'object', 'propertyNames': {'enum': ['x', 'y']}}",
     {"{}", "{'x':1,'y':2}"},
     {"{'z':1}"}},
    {"{'patternProperties': {'^[a-c]$': {'const': 1}}}",
     {"{'a':1}", "{}"},
     {"{'d':1}", "{'aa':1}", "{'a':2}"}},
    {"{'anyOf': [{'type': 'integer'}, {'type': 'array', 'items': {'type': 'integer'}}]}",
     {"1", "[1]"},
     {"'a'", "[[1]]"}},
    {"{'type': 'object', 'properties': {'k': {}}, 'required': ['k'], 'anyOf': [{'properties': "
     "{'k': {'const': 1}}}, {'properties': {'k': {'const': 'a'}, 'l': true}}]}",
     {"{'k':1}", "{'k':'a'}", "{'k':'a','l':2}"},
     {"{'k':2}", "{'k':1,'l':2}"}},
    {"{'oneOf': [{'type': 'integer', 'const': 1}, {'type': 'integer', 'const': 2}]}",
     {"1", "2"},
     {"3"}},
    // What tells alternatives apart holds for what stands beside them too.
    {"{'type': ['object', 'null'], 'oneOf': [{'properties': {'k': {'const': 1}}, 'required': "
     "['k']}, {'properties': {'k': {'const': 2}}, 'required': ['k']}]}",
     {"{'k':1}", "{'k':2}"},
     {"null", "{'k':3}", "{}"}},
    {"{'type': 'object', 'properties': {'k': {'type': 'null'}, 'x': {}}, 'oneOf': [{'required': "
     "['k']}, {'required': ['x']}]}",
     {"{'k':null}", "{'x':1}"},
     {"{'k':null,'x':1}", "{}"}},
    {"{'allOf': [{'oneOf': [{'type': 'object', 'required': ['x']}, {'type': 'object', 'required': "
     "['y']}]}, {'properties': {'x': {}, 'y': {}}}]}",
     {"{'x':1}", "{'y':1}"},
     {"{'x':1,'y':1}", "{}"}},
    {"{'allOf': [{'type': 'string', 'x-order': 1}, {'x-order': 2}]}", {"'a'"}, {"1"}},
    {"{'enum': ['a', 'b'], 'x-names': ['A', 'B']}", {"'a'"}, {"'c'"}},
    {"{'allOf': [{'enum': [1, 2.0, [1.0]]}, {'enum': [1.0, 2, [1]]}]}",
     {"1", "2.0", "[1.0]"},
     {"[2]"}},
    {"{'allOf': [{'type': 'integer', 'minimum': 3}, {'maximum': 5}]}", {"3", "5"}, {"2", "6"}},
    {"{'allOf': [{'properties': {'a': {'type': 'integer'}}, 'required': ['a']}, {'properties': "
     "{'a': {'maximum': 3}, 'b': {}}, 'additionalProperties': false}]}",
     {"{'a':3}", "{'a':0,'b':'x'}"},
     {"{'a':4}", "{'b':1}"}},
    {"{'type': 'object', 'properties': {'a': {}}, 'unevaluatedProperties': false}",
     {"{}", "{'a':1}"},
     {"{'b':1}"}},
    {"{'type': 'object', 'unevaluatedProperties': false}", {"{}"}, {"{'b':1}"}},
    {"{'prefixItems': [true], 'unevaluatedItems': false}", {"[]", "[1]"}, {"[1,2]"}},
    {"{'anyOf': [{'properties': {'b': true}, 'unevaluatedProperties': false}], 'properties': {'a': "
     "true}}",
     {"{'b':1}", "{}"},
     {"{'a':1}"}},
    {"{'type': 'number', 'maximum': 1e20}", {"5", "-5.5"}, {"1e21", "1e3"}},
    {TREE, {"[]", "null", "[[], [null, [[]]]]"}, {"[1]", "[[]"}},
    {"{'type': 'object', 'properties': {'a': {'$ref': '#/$defs/x'}, 'b': {'const': 1}}, '$defs': "
     "{'x': "
     "{'items': {'$ref': '#/$defs/x'}, 'type': 'array', 'minItems': 1}}}",
     {"{}", "{'b':1}"},
     {"{'a':[[[", "{'a':[]}"}},
    {"{'$ref': '#/definitions/a~1b%20c', 'definitions': {'a/b c': {'const': 1}}}", {"1"}, {"2"}},
    {"{'$ref': '#/$defs/a', 'maximum': 5, '$defs': {'a': {'type': 'integer', 'minimum': 4}}}",
     {"4", "5"},
     {"3", "6"}},
    {"{'type': 'string', 'pattern': '^a[^b]{1,2}$'}",
     {"'ac'", "'a\\\"\\\\'", "'a\\n'", "'a\\u001f'"},
     {"'ab'", "'a'", "'a\n'", "'xac'"}},
    {"{'type': 'string', 'pattern': '^[a-c]+$', 'minLength': 2, 'maxLength': 3}",
     {"'ab'", "'cba'"},
     {"'a'", "'abca'", "'ad'"}},
    {"{'type': 'string', 'pattern': '^\\\\d{2,9}$', 'maxLength': 3}",
     {"'12'", "'123'"},
     {"'1'", "'1234'"}},
    {"{'type': 'string', 'pattern': '^[^\\\\S]\\\\S$'}",
     {"' a'", "'\\té'"},
     {"'\u200ba'", "'\u1680a'", "' \u200b'"}},
    {"{'type': 'string', 'pattern': 'b+'}", {"'b'", "'abbc'"}, {"'a'", "''"}},
    {"{'type': 'string', 'pattern': '^a|b$'}", {"'ax'", "'xb'", "'ab'"}, {"'xa'", "'bx'"}},
    {"{'type': 'string', 'format': 'date'}",
     {"'2024-02-29'", "'1999-12-31'"},
     {"'2023-02-29'", "'2024-13-01'", "'2024-04-31'", "'1900-02-29'"}},
    {"{'type': 'string', 'format': 'ipv4'}",
     {"'1.2.3.4'", "'255.255.255.255'"},
     {"'256.1.1.1'", "'1.2.3'", "'01.2.3.4'"}},
    {"{'title': 'T', 'description': 'D', 'default': 1, 'x-order': 3, 'type': 'null'}",
     {"null"},
     {"1"}},
};

static void test_tables(void)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        Error err = {{0}};
        Matcher *m = make(tables[i].schema, &err);
        CHECK_MSG(m, "%s: %s", tables[i].schema, err.text);
        for (int k = 0; m && k < 14 && tables[i].good[k]; k++)
            CHECK_MSG(is_text(m, tables[i].good[k]), "%s: %s", tables[i].schema, tables[i].good[k]);
        for (int k = 0; m && k < 14 && tables[i].bad[k]; k++)
            CHECK_MSG(!is_text(m, tables[i].bad[k]), "%s: not %s", tables[i].schema,
                      tables[i].bad[k]);
        matcher_close(m);
    }
}

static void test_refusals(void)
{
    static const char *const cases[][2] = {
        {"1", "schema #: expected an object"},
        {"false", "schema #: nothing is valid"},
        {"{'type': 'text'}", "#/type: there is no type 'text'"},
        {"{'properties': {'a/b': {'not': {}}}}", "#/properties/a/b/not: "},
        {"{'items': {'anyOf': [{'type': 'null'}, {'contains': {}}]}}",
         "#/items/anyOf/1/contains: "},
        {"{'uniqueItems': true, 'type': 'array'}", "#/uniqueItems: "},
        {"{'if': {}, 'then': {}}", "#/if: "},
        {"{'allOf': [{'properties': {'a': {}}}], 'unevaluatedProperties': false}",
         "#/unevaluatedProperties: only false is there, without"},
        {"{'allOf': [{'patternProperties': {'^x': {}}}, {'additionalProperties': false}]}",
         "patternProperties: it cannot be merged with additionalProperties"},
        {"{'patternProperties': {'^x': {}}, 'allOf': [{'type': 'object', 'unevaluatedProperties': "
         "false}]}",
         "patternProperties: it cannot be merged with additionalProperties"},
        {"{'dependentRequired': {'a': ['b']}}", "#/dependentRequired: "},
        {"{'type': 'string', 'format': 'color'}", "#/format: 'color'"},
        {"{'type': 'string', 'pattern': '(?!a)'}", "#/pattern: regular expression, byte 2"},
        {"{'type': 'string', 'pattern': '^(ab)+$', 'maxLength': 3}",
         "#/maxLength: it cannot be joined"},
        {"{'pattern': 'a{2}{3}'}", "#/pattern: regular expression, byte 7: a repetition of"},
        {"{'pattern': '\\\\u{110000}'}", "#/pattern: regular expression, byte 9"},
        {"{'type': 'string', 'minLength': 1.5}", "#/minLength: expected a whole number"},
        {"{'type': 'string', 'minLength': 3, 'maxLength': 2}", "#/maxLength: it is less"},
        {"{'type': 'integer', 'minimum': 5, 'maximum': 4}", "#/minimum: no number"},
        {"{'type': 'integer', 'minimum': 9007199254740993}", "#/minimum: no number"},
        {"{'type': 'number', 'multipleOf': 0.5}", "#/multipleOf: only 1"},
        {"{'minimum': '1'}", "#/minimum: expected a number"},
        {"{'exclusiveMinimum': true}", "#/exclusiveMinimum: expected a number"},
        {"{'enum': []}", "#/enum: no value"},
        {"{'type': 'string', 'enum': [1]}", "#/enum: no value"},
        {"{'oneOf': [{'type': 'integer'}, {'type': 'number'}]}", "#/oneOf: two of its schemas"},
        {"{'oneOf': [{'properties': {'a': {}}}, {'properties': {'b': {}}}]}",
         "#/oneOf: two of its schemas"},
        {"{'oneOf': [{'const': 1}, {'const': 1.0}]}", "#/oneOf: two of its schemas"},
        {"{'oneOf': [{'type': 'object', 'required': ['x'], 'properties': {'x': {}}}, {'type': "
         "'object', 'patternProperties': {'x': {}}, 'additionalProperties': false}]}",
         "#/oneOf: two of its schemas"},
        {"{'oneOf': [{'properties': {'k': {'const': 1}}, 'required': ['k'], 'items': {}}, "
         "{'properties': {'k': {'const': 2}}, 'required': ['k']}]}",
         "#/oneOf: two of its schemas"},
        {"{'oneOf': [{'properties': {'k': {'const': 1}}, 'required': ['k'], 'anyOf': [{'type': "
         "'string'}, {'type': 'object'}]}, {'properties': {'k': {'const': 2}}, 'required': "
         "['k']}]}",
         "#/oneOf: two of its schemas"},
        {"{'oneOf': [{'type': 'object'}, {'type': 'object', 'required': ['k']}]}",
         "#/oneOf: two of its schemas"},
        {"{'anyOf': {}}", "#/anyOf: expected a list"},
        {"{'allOf': [{'type': 'string'}, {'type': 'null'}]}", "#: nothing is valid"},
        {"{'allOf': [{'pattern': 'a'}, {'pattern': 'b'}]}", "#/pattern: two of them"},
        {"{'required': ['a'], 'properties': {'a': false}}", "#/required: 'a' is forbidden"},
        {"{'required': ['a'], 'additionalProperties': false}", "#/required: 'a' is forbidden"},
        {"{'patternProperties': 5}", "#/patternProperties: expected an object"},
        {"{'enum': "
         "['aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaa'], 'pattern': '^(([a-z]{1,99}){1,99}){1,99}$'}",
         "#/enum: it takes too much"},
        {"{'required': 'a'}", "#/required: expected a list"},
        {"{'properties': {'a': 1}}", "#/properties/a: expected an object"},
        {"{'properties': {'a': {}}, 'patternProperties': {'b': {}}}",
         "#/patternProperties: only one"},
        {"{'properties': {'a': {}, 'b': {}}, 'minProperties': 2}", "#/minProperties: only as many"},
        {"{'$ref': '#/$defs/x'}", "#/$ref: there is nothing"},
        {"{'$ref': 'other.json'}", "#/$ref: only references within"},
        {"{'$ref': '#/$defs/x', '$defs': {'x': {'$id': 'http://e/x', '$ref': '#/$defs/y', '$defs': "
         "{'y': {'type': 'integer'}}}, 'y': {'type': 'string'}}}",
         "#/$ref: those below an $id"},
        {"{'$ref': '#'}", "left recursion"},
        {"{'type': 'object', 'properties': {'a': {'$ref': '#'}}, 'required': ['a']}",
         "it allows no text"},
        {"{'allOf': [{'$ref': '#'}]}", "#: it is made of itself"},
        {"{'oneOf': [{'type': 'null'}, {'oneOf': [{'$ref': '#'}, {'$ref': '#'}]}]}",
         "#/oneOf: two of its schemas"},
        {"{'type': 'object', 'oneOf': [{'$ref': '#'}, {'properties': {'a': {'$ref': '#'}}}]}",
         "#/oneOf: two of its schemas"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {{0}};
        Matcher *m = make(cases[i][0], &err);
        CHECK_MSG(!m && strstr(err.text, cases[i][1]), "%s: %s", cases[i][0], err.text);
        matcher_close(m);
    }
}

// An object of many properties, of which none need be there.
static void test_many_properties(void)
{
    size_t room = 200000, at = 0;
    char *schema = malloc(room), *first = "{'p0': 1}", *last = "{'p2999': 1}";
    Error err = {{0}};
    at += (size_t)snprintf(schema, room, "{'properties': {");
    for (int i = 0; i < 3000; i++)
        at += (size_t)snprintf(schema + at, room - at, "%s'p%d': {'const': 1}", i ? ", " : "", i);
    snprintf(schema + at, room - at, "}}");
    Matcher *m = make(schema, &err);
    CHECK_MSG(m && is_text(m, first) && is_text(m, last) && is_text(m, "{}"), "%s", err.text);
    matcher_close(m);
    free(schema);
}

// Schemas that refer to one another in a long chain.
static void test_long_chain(void)
{
    size_t room = 100000, at = 0;
    char *schema = malloc(room), *text = "{'a':{'a':{'a':{}}}}";
    Error err = {{0}};
    at += (size_t)snprintf(schema, room, "{'$ref': '#/$defs/0', '$defs': {");
    for (int i = 0; i < 500; i++)
        at += (size_t)snprintf(schema + at, room - at,
                               "'%d': {'properties': {'a': {'$ref': '#/$defs/%d'}}}, ", i, i + 1);
    snprintf(schema + at, room - at, "'500': {'type': 'null'}}}");
    Matcher *m = make(schema, &err);
    CHECK_MSG(m && is_text(m, text) && !is_text(m, "{'a':null}"), "%s", err.text);
    matcher_close(m);
    free(schema);
}

int main(void)
{
    test_tables();
    test_many_properties();
    test_long_chain();
    test_refusals();
    return check_done();
}
