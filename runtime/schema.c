// One function a type.
#include "schema.h"
#include "match.h"
#include "merge.h"
#include "notation.h"
#include "pattern.h"
#include "ranges.h"
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MOST_DEPTH 60     // of schemas within schemas
#define MOST_VALUES 20000 // schemas that are read
#define MOST_ITEMS 1000000
#define MOST_NAME 1024 // bytes

typedef struct {
    Grammar *g;
    Merger merger;
    json_t *references; // name -> rule
    json_t *unread;     // names, in the order in which they were found
    char path[256];
    int depth, values;
} Schema;

// --- failures ------------------------------------------------------------------------------------

static int fail(Schema *s, const char *keyword, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(Schema *s, const char *keyword, const char *fmt, ...)
{
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return grammar_fail(s->g, "schema #%s%s%s: %s", s->path, *keyword ? "/" : "", keyword, what);
}

static int fail_merge(Schema *s)
{
    return fail(s, s->merger.at, "%s", s->merger.error.text);
}

// Goes down in the path; returns where to come back to.
static size_t enter(Schema *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static size_t enter(Schema *s, const char *fmt, ...)
{
    size_t before = strlen(s->path);
    va_list args;
    va_start(args, fmt);
    vsnprintf(s->path + before, sizeof s->path - before, fmt, args);
    va_end(args);
    return before;
}

static Expr value_at(Schema *s, const json_t *schema, const char *keyword, const char *name);
static int read_rules(Schema *s, const json_t *schema);
static Expr value(Schema *s, const json_t *schema);

// --- strings -------------------------------------------------------------------------------------

// A count that a keyword gives.
static int get_count(Schema *s, const json_t *schema, const char *keyword, int32_t *out)
{
    const json_t *v = json_object_get(schema, keyword);
    double d = json_number_value(v);
    if (!v) return 0;
    if (!json_is_number(v) || d < 0 || d != floor(d))
        return fail(s, keyword, "expected a whole number from 0");
    *out = d > MOST_ITEMS ? MOST_ITEMS : (int32_t)d;
    return d > MOST_ITEMS && strncmp(keyword, "min", 3) == 0
               ? fail(s, keyword, "more than a million")
               : 0;
}

#define DATE                                                                                       \
    "([12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"  \
    "02-(0[1-9]|1[0-9]|2[0-8]))|[12][0-9]([02468][48]|[2468]0|[13579][26])-02-29)"
#define TIME                                                                                       \
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?"                                     \
    "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define HOST LABEL "(\\." LABEL "){0,5}"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define GROUP "[0-9A-Fa-f]{1,4}"
#define N "[0-9]{1,4}"
#define CLOCK "T(" N "H(" N "M(" N "S)?)?|" N "M(" N "S)?|" N "S)"

static const char *format_pattern(const char *name)
{
    static const struct {
        const char *name, *pattern;
    } formats[] = {
        {"date", DATE},
        {"time", TIME},
        {"date-time", DATE "T" TIME},
        {"duration",
         "P((" N "D|" N "M(" N "D)?|" N "Y(" N "M(" N "D)?)?)(" CLOCK ")?|" CLOCK "|" N "W)"},
        {"uuid", "[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"},
        {"email",
         "[A-Za-z0-9_%+-]{1,32}(\\.[A-Za-z0-9_%+-]{1,15}){0,2}@" LABEL "(\\." LABEL "){1,4}"},
        {"hostname", HOST},
        {"ipv4", BYTE "(\\." BYTE "){3}"},
        {"ipv6", "(" GROUP ":){7}" GROUP "|(" GROUP ":){1,6}:" GROUP "|::" GROUP},
        {"uri",
         "(https?|ftp)://" HOST "(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._~!$&'()*+,;=:@-]{0,256}){0,16}"
         "(\\?[A-Za-z0-9._~!$&'()*+,;=:@/?-]{0,256})?(#[A-Za-z0-9._~!$&'()*+,;=:@/?-]{0,256})?"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0) return formats[i].pattern;
    return NULL;
}

static Expr string_like(Schema *s, const json_t *schema, const char *keyword, const char *pattern,
                        int search)
{
    int32_t min = 0, max = GRAMMAR_MANY;
    Error err;
    if (get_count(s, schema, "minLength", &min) != 0 ||
        get_count(s, schema, "maxLength", &max) != 0)
        return -1;
    Pattern run;
    if (search && pattern_read_run(s->g, pattern, strlen(pattern), min, max, &run))
        return grammar_join(s->g, 3, grammar_word(s->g, "\""), run.e, grammar_word(s->g, "\""));
    // Told apart from the failure of another pattern, which has no place yet.
    Grammar *probe = grammar_open();
    Pattern known = {-1, 0, 0};
    if (probe) known = pattern_read(probe, pattern, strlen(pattern), 1, search);
    int bad = probe && grammar_error(probe, &err) != 0;
    grammar_close(probe);
    if (bad) return fail(s, keyword, "%s", err.text);
    if (known.min < min) return fail(s, "minLength", "it cannot be joined with this %s", keyword);
    if (known.max > max) return fail(s, "maxLength", "it cannot be joined with this %s", keyword);
    Pattern p = pattern_read(s->g, pattern, strlen(pattern), 1, search);
    return grammar_join(s->g, 3, grammar_word(s->g, "\""), p.e, grammar_word(s->g, "\""));
}

static Expr string_value(Schema *s, const json_t *schema)
{
    const json_t *pattern = json_object_get(schema, "pattern");
    const json_t *format = json_object_get(schema, "format");
    int32_t min = 0, max = GRAMMAR_MANY;
    if (pattern && !json_is_string(pattern)) return fail(s, "pattern", "expected a text");
    if (format && !json_is_string(format)) return fail(s, "format", "expected a text");
    if (pattern && format) return fail(s, "format", "it cannot be joined with a pattern");
    if (pattern) return string_like(s, schema, "pattern", json_string_value(pattern), 1);
    if (format) {
        const char *known = format_pattern(json_string_value(format));
        return known ? string_like(s, schema, "format", known, 0)
                     : fail(s, "format", "'%.60s' is not there", json_string_value(format));
    }
    if (get_count(s, schema, "minLength", &min) != 0 ||
        get_count(s, schema, "maxLength", &max) != 0)
        return -1;
    if (min > max) return fail(s, "maxLength", "it is less than minLength");
    return notation_string(s->g, min, max);
}

// --- numbers -------------------------------------------------------------------------------------

// The tighter of a closed and an open bound.
static int get_bound(Schema *s, const json_t *schema, const char *closed, const char *open,
                     int sign, Bound *out)
{
    const json_t *c = json_object_get(schema, closed), *o = json_object_get(schema, open);
    if (c && !json_is_number(c)) return fail(s, closed, "expected a number");
    if (o && !json_is_number(o)) return fail(s, open, "expected a number");
    double at_closed = json_number_value(c), at_open = json_number_value(o);
    int use_open = o && (!c || sign * at_open >= sign * at_closed);
    *out = (Bound){c || o, use_open, use_open ? at_open : at_closed};
    return 0;
}

static Expr number_value(Schema *s, const json_t *schema, int whole)
{
    Bound low, high;
    const json_t *multiple = json_object_get(schema, "multipleOf");
    if (get_bound(s, schema, "minimum", "exclusiveMinimum", 1, &low) != 0 ||
        get_bound(s, schema, "maximum", "exclusiveMaximum", -1, &high) != 0)
        return -1;
    if (multiple && json_number_value(multiple) != 1)
        return fail(s, "multipleOf", "only 1 is there");
    whole |= multiple != NULL;
    if (!low.set && !high.set) return whole ? notation_whole(s->g) : notation_number(s->g);
    // Beyond what the texts without exponents can reach a bound says nothing.
    if (low.set && low.value < -1e15) low.set = 0;
    if (high.set && high.value > 1e15) high.set = 0;
    Expr e = whole ? ranges_whole(s->g, low, high) : ranges_real(s->g, low, high);
    const char *keyword = low.set     ? low.open ? "exclusiveMinimum" : "minimum"
                          : high.open ? "exclusiveMaximum"
                                      : "maximum";
    return e >= 0 ? e : fail(s, keyword, "no number that can be written is within the bounds");
}

// --- arrays --------------------------------------------------------------------------------------

// Items behind the first `at`, which had schemas of their own: what follows the last of those.
static Expr more_items(Schema *s, int rule, int32_t at, int32_t min, int32_t max)
{
    Grammar *g = s->g;
    if (rule < 0 || max <= at) return grammar_word(g, "");
    int32_t least = min > at ? min - at : 0, most = max == GRAMMAR_MANY ? max : max - at;
    if (at) {
        Expr more =
            grammar_join(g, 3, grammar_word(g, ","), notation_space(g), grammar_call(g, rule));
        return grammar_repeat(g, more, least, most);
    }
    Expr more = grammar_join(g, 3, grammar_word(g, ","), notation_space(g), grammar_call(g, rule));
    Expr all = grammar_join(
        g, 2, grammar_call(g, rule),
        grammar_repeat(g, more, least > 1 ? least - 1 : 0, most == GRAMMAR_MANY ? most : most - 1));
    return grammar_repeat(g, all, least > 0, 1);
}

// The first items, each with a schema of its own: from the last to the first, what is there from
// that place on.
static Expr first_items(Schema *s, const json_t *list, int rule, int32_t min, int32_t max)
{
    Grammar *g = s->g;
    int32_t count = (int32_t)json_array_size(list);
    Expr rest = more_items(s, rule, count, min, max);
    for (int32_t i = count - 1; i >= 0; i--) {
        if (i >= max) {
            rest = grammar_word(g, "");
            continue;
        }
        char name[24];
        snprintf(name, sizeof name, "%d", i);
        Expr item = value_at(s, json_array_get(list, (size_t)i), "prefixItems", name);
        Expr here = i ? grammar_join(g, 4, grammar_word(g, ","), notation_space(g), item, rest)
                      : grammar_join(g, 2, item, rest);
        rest = grammar_repeat(g, here, i < min, 1);
    }
    return rest;
}

static Expr array_value(Schema *s, const json_t *schema)
{
    const json_t *list = json_object_get(schema, "prefixItems");
    const json_t *items = json_object_get(schema, "items");
    int32_t min = 0, max = GRAMMAR_MANY;
    if (json_is_array(items)) { // before 2020
        list = items;
        items = json_object_get(schema, "additionalItems");
    }
    if (list && !json_is_array(list)) return fail(s, "prefixItems", "expected a list of schemas");
    if (get_count(s, schema, "minItems", &min) != 0 || get_count(s, schema, "maxItems", &max) != 0)
        return -1;
    if (min > max) return fail(s, "maxItems", "it is less than minItems");
    int count = (int)json_array_size(list), wanted = min > count || !count;
    if (count > 100) return fail(s, "prefixItems", "more than 100");
    int rule = -1;
    if (!json_is_false(items) && (items || wanted) && max > count) {
        rule = grammar_fresh(s->g);
        grammar_define(s->g, rule,
                       items ? value_at(s, items, "items", NULL) : notation_value(s->g));
    } else if (json_is_false(items) && min > count) {
        return fail(s, "items", "minItems asks for more than there may be");
    }
    Expr all = count ? first_items(s, list, rule, min, max) : more_items(s, rule, 0, min, max);
    return grammar_join(s->g, 5, grammar_word(s->g, "["), notation_space(s->g), all,
                        notation_space(s->g), grammar_word(s->g, "]"));
}

// --- objects -------------------------------------------------------------------------------------

// An object's parts: what is listed, in order, and what else there may be.
typedef struct {
    json_t *listed;   // name -> schema, all that are listed or required
    json_t *named;    // name -> true: those, and what is forbidden
    json_t *required; // name -> true
    Expr key;         // of other properties; -1: there are none
    int other;        // the rule of such a property with its value, or -1
    int32_t min, max;
} Object;

static int collect_required(Schema *s, const json_t *schema, Object *o)
{
    const json_t *required = json_object_get(schema, "required");
    json_t *name;
    size_t i;
    if (required && !json_is_array(required))
        return fail(s, "required", "expected a list of names");
    json_array_foreach(required, i, name)
    {
        if (!json_is_string(name)) return fail(s, "required", "expected a list of names");
        json_object_set_new(o->required, json_string_value(name), json_true());
    }
    return 0;
}

static int collect_listed(Schema *s, const json_t *schema, Object *o)
{
    const json_t *properties = json_object_get(schema, "properties"), *flat;
    const char *name;
    json_t *one;
    if (properties && !json_is_object(properties))
        return fail(s, "properties", "expected an object");
    if (json_object_size(properties) > MOST_VALUES) return fail(s, "properties", "too many");
    json_object_foreach((json_t *)properties, name, one)
    {
        if (!(flat = merge_flat(&s->merger, one))) {
            enter(s, "/properties/%s", name);
            return fail_merge(s);
        }
        json_object_set_new(o->named, name, json_true());
        if (!json_is_false(flat))
            json_object_set(o->listed, name, one);
        else if (json_object_get(o->required, name))
            return fail(s, "required", "'%.60s' is forbidden", name);
    }
    return 0;
}

// What is required and not listed.
static int collect_unlisted(Schema *s, const json_t *schema, Object *o)
{
    json_t *more = json_object_get(schema, "additionalProperties"), *ignored;
    const char *name;
    if (json_object_size(o->required) > MOST_VALUES) return fail(s, "required", "too many");
    json_object_foreach(o->required, name, ignored)
    {
        if (json_object_get(o->listed, name)) continue;
        if (json_is_false(more)) return fail(s, "required", "'%.60s' is forbidden", name);
        json_object_set_new(o->named, name, json_true());
        json_object_set_new(o->listed, name, more ? json_incref(more) : json_true());
    }
    return 0;
}

// Which properties there may be besides the listed ones.
static int collect_others(Schema *s, const json_t *schema, Object *o)
{
    const json_t *more = json_object_get(schema, "additionalProperties");
    const json_t *patterns = json_object_get(schema, "patternProperties");
    const json_t *names = json_object_get(schema, "propertyNames");
    int listed = json_object_size(o->listed) > 0;
    Grammar *g = s->g;
    const char *name;
    json_t *ignored;
    if (patterns && !json_is_object(patterns))
        return fail(s, "patternProperties", "expected an object");
    if (json_object_size(patterns)) {
        void *only = json_object_iter((json_t *)patterns);
        const char *pattern = json_object_iter_key(only);
        if (listed || names || (more && !json_is_false(more)) || json_object_size(patterns) > 1)
            return fail(s, "patternProperties", "only one is there, without other properties");
        json_t *key = json_pack("{s:s}", "pattern", pattern);
        o->key = string_value(s, key);
        json_decref(key);
        o->other = grammar_fresh(g);
        grammar_define(
            g, o->other,
            grammar_join(g, 4, o->key, grammar_word(g, ":"), notation_space(g),
                         value_at(s, json_object_iter_value(only), "patternProperties", pattern)));
        return 0;
    }
    if (names && !json_is_true(names) && listed)
        return fail(s, "propertyNames", "only without other properties");
    // An object of which nothing is said may have any.
    if (!more && listed) return 0;
    if (!more && (json_object_get(schema, "properties"))) return 0;
    if (more && json_is_false(merge_flat(&s->merger, more))) return 0;
    json_object_foreach(o->named, name, ignored)
    {
        if (strlen(name) > MOST_NAME)
            return fail(s, "additionalProperties", "a property's name is too long beside it");
    }
    if (names && !json_is_true(names)) {
        json_t *text = json_pack("{s:s}", "type", "string");
        const json_t *both = merge_both(&s->merger, text, names);
        o->key = both ? value_at(s, both, "propertyNames", NULL) : fail_merge(s);
        json_decref(text);
    } else {
        o->key = notation_other_name(g, o->named);
    }
    o->other = grammar_fresh(g);
    grammar_define(
        g, o->other,
        grammar_join(g, 4, o->key, grammar_word(g, ":"), notation_space(g),
                     more ? value_at(s, more, "additionalProperties", NULL) : notation_value(g)));
    return 0;
}

static int check_counts(Schema *s, const Object *o)
{
    int32_t listed = (int32_t)json_object_size(o->listed),
            required = (int32_t)json_object_size(o->required);
    if (o->min > o->max) return fail(s, "maxProperties", "it is less than minProperties");
    if (o->max < GRAMMAR_MANY && listed ? o->other >= 0 || listed > o->max : 0)
        return fail(s, "maxProperties", "it is not there with so many properties");
    // Others may have equal names, so two of them may be one.
    if (o->min > required && o->min > 1)
        return fail(s, "minProperties", "only as many as are required, or 1");
    if (o->min > 0 && !listed && o->other < 0)
        return fail(s, "minProperties", "there may be no property");
    return 0;
}

// Nothing but others: { pairs }
static Expr others_only(Schema *s, const Object *o)
{
    Grammar *g = s->g;
    int32_t most = o->max == GRAMMAR_MANY ? o->max : o->max - 1;
    if (o->other < 0 || o->max == 0) return grammar_word(g, "}");
    Expr more =
        grammar_join(g, 3, grammar_word(g, ","), notation_space(g), grammar_call(g, o->other));
    Expr some = grammar_join(g, 3, grammar_call(g, o->other), grammar_repeat(g, more, 0, most),
                             notation_space(g));
    return grammar_join(g, 2, grammar_repeat(g, some, o->min > 0, 1), grammar_word(g, "}"));
}

// From the last property to the first: what may stand from there on when something stands before
// it (`later`), and when nothing does (`first`).
static Expr listed_and_others(Schema *s, const Object *o)
{
    Grammar *g = s->g;
    int later = grammar_fresh(g), first = grammar_fresh(g), count = 0;
    Expr more = grammar_word(g, "");
    if (o->other >= 0)
        more = grammar_repeat(
            g,
            grammar_join(g, 3, grammar_word(g, ","), notation_space(g), grammar_call(g, o->other)),
            0, GRAMMAR_MANY);
    grammar_define(g, later, grammar_join(g, 3, more, notation_space(g), grammar_word(g, "}")));
    Expr none = grammar_choice(g);
    if (!o->min) grammar_add(g, none, grammar_word(g, "}"));
    if (o->other >= 0)
        grammar_add(g, none, grammar_join(g, 2, grammar_call(g, o->other), grammar_call(g, later)));
    int some = !o->min || o->other >= 0;
    if (some) grammar_define(g, first, none);
    const char **names = malloc((json_object_size(o->listed) + 1) * sizeof *names), *key;
    json_t *one;
    if (!names) return grammar_fail(g, "out of memory");
    json_object_foreach(o->listed, key, one) names[count++] = key;
    while (count-- > 0) {
        int pair = grammar_fresh(g), next_later = grammar_fresh(g), next_first = grammar_fresh(g);
        json_t *name = json_string(names[count]);
        int optional = !json_object_get(o->required, names[count]);
        Expr v = value_at(s, json_object_get(o->listed, names[count]), "properties", names[count]);
        grammar_define(g, pair,
                       grammar_join(g, 4, notation_exactly(g, name), grammar_word(g, ":"),
                                    notation_space(g), v));
        json_decref(name);
        Expr with = grammar_join(g, 4, grammar_word(g, ","), notation_space(g),
                                 grammar_call(g, pair), grammar_call(g, later));
        Expr begin = grammar_join(g, 2, grammar_call(g, pair), grammar_call(g, later));
        grammar_define(g, next_later,
                       optional ? grammar_either(g, 2, with, grammar_call(g, later)) : with);
        grammar_define(g, next_first,
                       optional && some ? grammar_either(g, 2, begin, grammar_call(g, first))
                                        : begin);
        later = next_later;
        first = next_first;
        some = 1;
    }
    free(names);
    return grammar_call(g, first);
}

static Expr object_value(Schema *s, const json_t *schema)
{
    Object o = {json_object(), json_object(), json_object(), -1, -1, 0, GRAMMAR_MANY};
    Expr rest = -1;
    if (collect_required(s, schema, &o) == 0 && collect_listed(s, schema, &o) == 0 &&
        collect_unlisted(s, schema, &o) == 0 && collect_others(s, schema, &o) == 0 &&
        get_count(s, schema, "minProperties", &o.min) == 0 &&
        get_count(s, schema, "maxProperties", &o.max) == 0 && check_counts(s, &o) == 0)
        rest = json_object_size(o.listed) ? listed_and_others(s, &o) : others_only(s, &o);
    json_decref(o.listed);
    json_decref(o.named);
    json_decref(o.required);
    return grammar_join(s->g, 3, grammar_word(s->g, "{"), notation_space(s->g), rest);
}

// --- any schema ----------------------------------------------------------------------------------

// What is written for a schema, by itself; NULL: nothing.
static Matcher *matcher_of(Schema *s, const json_t *schema)
{
    Schema inner = *s;
    Error err;
    inner.g = grammar_open();
    inner.references = json_object();
    inner.unread = json_array();
    inner.values = 0;
    int good = inner.g && inner.references && inner.unread;
    int rule = good ? read_rules(&inner, schema) : -1;
    Matcher *m = rule >= 0 ? matcher_open(inner.g, rule, &err) : NULL;
    if (rule < 0) grammar_close(inner.g);
    s->merger = inner.merger;
    s->values += inner.values;
    json_decref(inner.references);
    json_decref(inner.unread);
    return m;
}

// 1 when a value is among what is written, as it is written here.
static int is_written(Matcher *m, const json_t *v)
{
    char *text = notation_text(v);
    Place place;
    if (!m || !text) {
        free(text);
        return 0;
    }
    place_enter(m, &place);
    int good = place_read(m, &place, text, strlen(text)) == 0 && match_accepts(m, place.state);
    place_leave(&place);
    free(text);
    return good;
}

// Characters of a string within minLength and maxLength.
static int has_length(const json_t *schema, const json_t *v)
{
    const json_t *min = json_object_get(schema, "minLength"),
                 *max = json_object_get(schema, "maxLength");
    double count = 0;
    if (!json_is_string(v)) return 1;
    for (const char *p = json_string_value(v); *p; p++) count += (*p & 0xc0) != 0x80;
    return (!min || count >= json_number_value(min)) && (!max || count <= json_number_value(max));
}

static Expr one_of_values(Schema *s, const json_t *schema, const json_t *values)
{
    Expr all = grammar_choice(s->g);
    json_t *rest = json_copy((json_t *)schema), *v;
    size_t i, count = 0;
    if (!json_is_array(values)) fail(s, "enum", "expected a list");
    json_object_del(rest, "enum");
    json_object_del(rest, "minLength");
    json_object_del(rest, "maxLength");
    json_array_append_new(s->merger.kept, rest);
    const json_t *types = json_object_get(rest, "type");
    int plain = json_object_size(rest) == (types != NULL);
    Matcher *m = plain ? NULL : matcher_of(s, rest);
    json_array_foreach(values, i, v)
    {
        if (!merge_has_type(types, v) || !has_length(schema, v)) continue;
        if (!plain && !is_written(m, v)) continue;
        grammar_add(s->g, all, notation_exactly(s->g, v));
        count++;
    }
    int beyond = m && matcher_failed(m);
    matcher_close(m);
    if (beyond) return fail(s, "enum", "it takes too much to find which values are valid");
    return count ? all : fail(s, "enum", "no value is valid");
}

static Expr any_of(Schema *s, const json_t *schema, const json_t *list)
{
    Expr all = grammar_choice(s->g);
    json_t *base = json_copy((json_t *)schema), *one;
    size_t i, count = 0;
    json_object_del(base, "anyOf");
    json_array_append_new(s->merger.kept, base);
    if (!json_is_array(list) || !json_array_size(list))
        return fail(s, "anyOf", "expected a list of schemas");
    json_array_foreach(list, i, one)
    {
        size_t back = enter(s, "/anyOf/%zu", i);
        const json_t *both = json_object_size(base) ? merge_both(&s->merger, base, one) : one;
        const json_t *flat = both ? merge_flat(&s->merger, both) : NULL;
        if (!flat) return fail_merge(s);
        if (!json_is_false(flat)) {
            grammar_add(s->g, all, value(s, flat));
            count++;
        }
        s->path[back] = 0;
    }
    return count ? all : fail(s, "anyOf", "nothing is valid");
}

// A rule for what is referred to, which is read later: schemas may refer to one another in long
// chains.
static Expr reference(Schema *s, const char *name)
{
    json_t *known = json_object_get(s->references, name);
    if (known) return grammar_call(s->g, (int)json_integer_value(known));
    if (!merge_target(&s->merger, name)) return fail_merge(s);
    int rule = grammar_fresh(s->g);
    json_object_set_new(s->references, name, json_integer(rule));
    json_array_append_new(s->unread, json_string(name));
    return grammar_call(s->g, rule);
}

// The rule of a schema and of all that it refers to.
static int read_rules(Schema *s, const json_t *schema)
{
    int rule = grammar_fresh(s->g);
    json_t *name;
    size_t i;
    grammar_define(s->g, rule, value(s, schema));
    json_array_foreach(s->unread, i, name) // reading one may find more
    {
        const char *text = json_string_value(name);
        snprintf(s->path, sizeof s->path, "%s", text + 1);
        grammar_define(s->g, (int)json_integer_value(json_object_get(s->references, text)),
                       value(s, merge_target(&s->merger, text)));
    }
    return rule;
}

// Keywords that change what is valid and are not there.
static int check_keywords(Schema *s, const json_t *schema)
{
    static const char *const refused[] = {
        "not",          "if",       "dependentRequired", "dependentSchemas",
        "dependencies", "contains", "$dynamicRef",       "$recursiveRef",
        "extends",      "disallow", "divisibleBy",       NULL};
    static const char *const harmless_false[] = {"uniqueItems", NULL};
    for (int i = 0; refused[i]; i++)
        if (json_object_get(schema, refused[i])) return fail(s, refused[i], "it is not there");
    for (int i = 0; harmless_false[i]; i++) {
        const json_t *v = json_object_get(schema, harmless_false[i]);
        if (v && !json_is_false(v)) return fail(s, harmless_false[i], "only false is there");
    }
    return 0;
}

static const char *const types[] = {"object",  "array",   "string", "number",
                                    "integer", "boolean", "null"};
#define TYPES (sizeof types / sizeof *types)

static Expr of_type(Schema *s, const json_t *schema, const char *type)
{
    switch (type[0]) {
    case 'o':
        return object_value(s, schema);
    case 'a':
        return array_value(s, schema);
    case 's':
        return string_value(s, schema);
    case 'b':
        return grammar_either(s->g, 2, grammar_word(s->g, "true"), grammar_word(s->g, "false"));
    case 'i':
        return number_value(s, schema, 1);
    default:
        return type[2] == 'l' ? grammar_word(s->g, "null") : number_value(s, schema, 0);
    }
}

static int check_types(Schema *s, const json_t *named)
{
    size_t i;
    if (!named) return 0;
    if (!json_is_string(named) && !json_is_array(named))
        return fail(s, "type", "expected a name or a list of names");
    for (i = 0; i < (json_is_array(named) ? json_array_size(named) : 1); i++) {
        const char *name =
            json_string_value(json_is_array(named) ? json_array_get(named, i) : named);
        size_t k = 0;
        while (name && k < TYPES && strcmp(types[k], name) != 0) k++;
        if (!name || k == TYPES)
            return fail(s, "type", "there is no type '%.40s'", name ? name : "?");
    }
    return 0;
}

static Expr by_type(Schema *s, const json_t *schema)
{
    Expr all = grammar_choice(s->g);
    int count = 0;
    if (check_types(s, json_object_get(schema, "type")) != 0) return -1;
    for (size_t i = 0; i < TYPES; i++)
        if (merge_makes(schema, types[i])) {
            grammar_add(s->g, all, of_type(s, schema, types[i]));
            count++;
        }
    return count ? all : notation_value(s->g);
}

static Expr value(Schema *s, const json_t *schema)
{
    if (++s->values > MOST_VALUES) return fail(s, "", "it is too large");
    if (++s->depth > MOST_DEPTH) return fail(s, "", "it is nested too deeply");
    const json_t *flat = merge_flat(&s->merger, schema);
    Expr e = -1;
    const char *name = json_string_value(json_object_get(flat, "$ref"));
    if (!flat)
        fail_merge(s);
    else if (json_is_true(flat))
        e = notation_value(s->g);
    else if (json_is_false(flat))
        fail(s, "", "nothing is valid here");
    else if (json_object_get(flat, "$ref") && !name)
        fail(s, "$ref", "expected a text");
    else if (name)
        e = reference(s, name);
    else if (check_keywords(s, flat) != 0)
        ;
    else if (json_object_get(flat, "anyOf"))
        e = any_of(s, flat, json_object_get(flat, "anyOf"));
    else if (json_object_get(flat, "enum"))
        e = one_of_values(s, flat, json_object_get(flat, "enum"));
    else
        e = by_type(s, flat);
    s->depth--;
    return e;
}

static Expr value_at(Schema *s, const json_t *schema, const char *keyword, const char *name)
{
    size_t back = enter(s, "/%s%s%s", keyword, name ? "/" : "", name ? name : "");
    Expr e = value(s, schema);
    s->path[back] = 0;
    return e;
}

// Whether a reference stands below an $id of its own: it would begin there.
static int is_rebased(const json_t *v, int inner, int below)
{
    const char *id = json_string_value(json_object_get(v, "$id"));
    const char *reference = json_string_value(json_object_get(v, "$ref")), *key;
    json_t *part;
    size_t i;
    below |= inner && id && *id != '#';
    if (below && reference && *reference == '#') return 1;
    json_object_foreach((json_t *)v, key, part)
    {
        if (is_rebased(part, 1, below)) return 1;
    }
    json_array_foreach(v, i, part)
    {
        if (is_rebased(part, 1, below)) return 1;
    }
    return 0;
}

int schema_read(Grammar *g, const json_t *schema)
{
    Schema s = {.g = g, .references = json_object(), .unread = json_array()};
    Error err;
    int rule = -1;
    if (merger_open(&s.merger, schema) != 0 || !s.references || !s.unread)
        grammar_fail(g, "out of memory");
    else if (is_rebased(schema, 0, 0))
        fail(&s, "$ref", "those below an $id within the schema are not followed");
    else
        rule = read_rules(&s, schema);
    merger_close(&s.merger);
    json_decref(s.references);
    json_decref(s.unread);
    return grammar_error(g, &err) == 0 ? rule : -1;
}
