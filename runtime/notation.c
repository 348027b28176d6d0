// Parts that stand in many places are rules with names, so that they are there once.
#include "notation.h"
#include "ranges.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

// The rule of a name, to be defined when *fresh.
static int part(Grammar *g, const char *name, int *fresh)
{
    int rule = grammar_rule(g, name, strlen(name));
    *fresh = rule >= 0 && !grammar_defined(g, rule);
    return rule;
}

// Nothing, a space, or a new line with some indentation.
Expr notation_space(Grammar *g)
{
    int fresh, rule = part(g, "json space", &fresh);
    if (fresh)
        grammar_define(
            g, rule,
            grammar_either(g, 4, grammar_word(g, ""), grammar_word(g, " "),
                           grammar_join(g, 2, grammar_word(g, "\n"),
                                        grammar_repeat(g, grammar_word(g, " "), 0, 64)),
                           grammar_join(g, 2, grammar_word(g, "\n"),
                                        grammar_repeat(g, grammar_word(g, "\t"), 1, 16))));
    return grammar_call(g, rule);
}

// A class given as text, two characters a range.
static Expr ranges_of(Grammar *g, const char *pairs)
{
    Range r[16];
    int count = 0;
    for (; pairs[2 * count] && count < 16; count++)
        r[count] = (Range){(unsigned char)pairs[2 * count], (unsigned char)pairs[2 * count + 1]};
    return grammar_class(g, r, count, 0);
}

static Expr hex(Grammar *g, int count)
{
    return grammar_repeat(g, ranges_of(g, "09afAF"), count, count);
}

// \u and four digits: neither U+0000 nor half of a pair of surrogates.
static Expr unicode_escape(Grammar *g)
{
    Expr four =
        grammar_either(g, 5, grammar_join(g, 2, grammar_word(g, "000"), ranges_of(g, "19afAF")),
                       grammar_join(g, 3, grammar_word(g, "00"), ranges_of(g, "19afAF"), hex(g, 1)),
                       grammar_join(g, 3, grammar_word(g, "0"), ranges_of(g, "19afAF"), hex(g, 2)),
                       grammar_join(g, 2, ranges_of(g, "19acACefEF"), hex(g, 3)),
                       grammar_join(g, 3, ranges_of(g, "ddDD"), ranges_of(g, "07"), hex(g, 2)));
    Expr pair =
        grammar_join(g, 7, ranges_of(g, "ddDD"), ranges_of(g, "89abAB"), hex(g, 2),
                     grammar_word(g, "\\u"), ranges_of(g, "ddDD"), ranges_of(g, "cfCF"), hex(g, 2));
    return grammar_join(g, 2, grammar_word(g, "u"), grammar_either(g, 2, four, pair));
}

static const Range raw[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x10ffff}};

static Expr character(Grammar *g)
{
    int fresh, rule = part(g, "json character", &fresh);
    if (fresh)
        grammar_define(
            g, rule,
            grammar_either(g, 2, grammar_class(g, raw, 3, 0),
                           grammar_join(g, 2, grammar_word(g, "\\"),
                                        grammar_either(g, 2, ranges_of(g, "\"\"\\\\//bbffnnrrtt"),
                                                       unicode_escape(g)))));
    return grammar_call(g, rule);
}

Expr notation_string(Grammar *g, int32_t min, int32_t max)
{
    char name[64];
    snprintf(name, sizeof name, "json string %d %d", min, max);
    int fresh, rule = part(g, name, &fresh);
    if (fresh)
        grammar_define(g, rule,
                       grammar_join(g, 3, grammar_word(g, "\""),
                                    grammar_repeat(g, character(g), min, max),
                                    grammar_word(g, "\"")));
    return grammar_call(g, rule);
}

Expr notation_whole(Grammar *g)
{
    int fresh, rule = part(g, "json whole number", &fresh);
    if (fresh) grammar_define(g, rule, ranges_whole(g, (Bound){0}, (Bound){0}));
    return grammar_call(g, rule);
}

Expr notation_number(Grammar *g)
{
    int fresh, rule = part(g, "json number", &fresh);
    if (fresh) {
        Expr fraction =
            grammar_join(g, 2, grammar_word(g, "."), grammar_repeat(g, ranges_of(g, "09"), 1, 16));
        Expr exponent =
            grammar_join(g, 3, ranges_of(g, "eeEE"), grammar_repeat(g, ranges_of(g, "++--"), 0, 1),
                         grammar_repeat(g, ranges_of(g, "09"), 1, 2));
        grammar_define(g, rule,
                       grammar_join(g, 3, notation_whole(g), grammar_repeat(g, fraction, 0, 1),
                                    grammar_repeat(g, exponent, 0, 1)));
    }
    return grammar_call(g, rule);
}

// open ( item ( , item )* )? close
static Expr enclosed(Grammar *g, const char *open, int item, const char *close)
{
    Expr more = grammar_join(g, 3, grammar_word(g, ","), notation_space(g), grammar_call(g, item));
    Expr items = grammar_join(g, 3, grammar_call(g, item), grammar_repeat(g, more, 0, GRAMMAR_MANY),
                              notation_space(g));
    return grammar_join(g, 4, grammar_word(g, open), notation_space(g),
                        grammar_repeat(g, items, 0, 1), grammar_word(g, close));
}

int notation_object(Grammar *g)
{
    int fresh, rule = part(g, "json object", &fresh);
    if (!fresh) return rule;
    int pair = grammar_fresh(g);
    grammar_define(g, rule, enclosed(g, "{", pair, "}"));
    grammar_define(g, pair,
                   grammar_join(g, 4, notation_string(g, 0, GRAMMAR_MANY), grammar_word(g, ":"),
                                notation_space(g), notation_value(g)));
    return rule;
}

static Expr any_array(Grammar *g)
{
    int fresh, rule = part(g, "json array", &fresh);
    if (fresh) {
        int item = grammar_fresh(g);
        grammar_define(g, rule, enclosed(g, "[", item, "]"));
        grammar_define(g, item, notation_value(g));
    }
    return grammar_call(g, rule);
}

Expr notation_value(Grammar *g)
{
    int fresh, rule = part(g, "json value", &fresh);
    if (fresh) {
        Expr all = grammar_choice(g);
        grammar_define(g, rule, all);
        grammar_add(g, all, notation_string(g, 0, GRAMMAR_MANY));
        grammar_add(g, all, notation_number(g));
        grammar_add(g, all, grammar_word(g, "true"));
        grammar_add(g, all, grammar_word(g, "false"));
        grammar_add(g, all, grammar_word(g, "null"));
        grammar_add(g, all, grammar_call(g, notation_object(g)));
        grammar_add(g, all, any_array(g));
    }
    return grammar_call(g, rule);
}

// Numbers have as few digits as say the same.
char *notation_text(const json_t *v)
{
    for (int digits = 15;; digits++) {
        char *text =
            json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION((size_t)digits));
        if (!text || digits == 17) return text;
        json_t *back = json_loads(text, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        int same = json_equal(back, v);
        json_decref(back);
        if (same) return text;
        free(text);
    }
}

Expr notation_exactly(Grammar *g, const json_t *v)
{
    char *text = notation_text(v);
    Expr e = text ? grammar_word(g, text) : grammar_fail(g, "out of memory");
    free(text);
    return e;
}

int notation_members(Grammar *g, const Member *members, int count)
{
    int rule = grammar_fresh(g);
    Expr all = grammar_join(g, 2, grammar_word(g, "{"), notation_space(g));
    for (int i = 0; i < count; i++) {
        json_t *name = json_string(members[i].name);
        if (i) grammar_add(g, all, grammar_join(g, 2, grammar_word(g, ","), notation_space(g)));
        grammar_add(g, all, notation_exactly(g, name));
        grammar_add(g, all, grammar_join(g, 2, grammar_word(g, ":"), notation_space(g)));
        grammar_add(g, all,
                    members[i].text ? grammar_word(g, members[i].text)
                                    : grammar_call(g, members[i].rule));
        json_decref(name);
    }
    grammar_add(g, all, grammar_join(g, 2, notation_space(g), grammar_word(g, "}")));
    grammar_define(g, rule, all);
    return rule;
}

// --- names of properties -------------------------------------------------------------------------

typedef struct {
    uint32_t *c;
    int count;
} Name;

static int by_name(const void *a, const void *b)
{
    const Name *x = a, *y = b;
    for (int i = 0; i < x->count && i < y->count; i++)
        if (x->c[i] != y->c[i]) return x->c[i] < y->c[i] ? -1 : 1;
    return x->count - y->count;
}

static Expr plain_rest(Grammar *g)
{
    int fresh, rule = part(g, "json plain rest", &fresh);
    if (fresh)
        grammar_define(g, rule,
                       grammar_join(g, 2,
                                    grammar_repeat(g, grammar_class(g, raw, 3, 0), 0, GRAMMAR_MANY),
                                    grammar_word(g, "\"")));
    return grammar_call(g, rule);
}

// What follows `depth` characters that names[0 .. count-1] have in common, so that it is none of
// them, and the closing quote.
static Expr other_rest(Grammar *g, const Name *names, int count, int depth)
{
    int rule = grammar_fresh(g), ends = 0, others = 0;
    Expr all = grammar_choice(g);
    Range *taken = malloc(((size_t)count + 4) * sizeof *taken),
          *left = malloc(((size_t)count + 8) * sizeof *left);
    if (!taken || !left) grammar_fail(g, "out of memory");
    for (int i = 0, next; taken && left && i < count; i = next) {
        for (next = i + 1; next < count && names[i].count > depth && names[next].count > depth &&
                           names[next].c[depth] == names[i].c[depth];)
            next++;
        if (names[i].count == depth) {
            ends = 1;
            continue;
        }
        Range one = {names[i].c[depth], names[i].c[depth]};
        taken[others++] = one;
        grammar_add(g, all,
                    grammar_join(g, 2, grammar_class(g, &one, 1, 0),
                                 other_rest(g, names + i, next - i, depth + 1)));
    }
    if (taken && left) {
        static const Range never[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}};
        memcpy(taken + others, never, sizeof never);
        others = range_complement(taken, range_unite(taken, others + 3), left);
        grammar_add(g, all, grammar_join(g, 2, grammar_class(g, left, others, 0), plain_rest(g)));
    }
    if (!ends) grammar_add(g, all, grammar_word(g, "\""));
    free(taken);
    free(left);
    grammar_define(g, rule, all);
    return grammar_call(g, rule);
}

// A name's characters; NULL for one that would need escapes, which is never written here.
static uint32_t *characters_of(const char *text, int *count)
{
    const uint8_t *p = (const uint8_t *)text;
    uint32_t *c = malloc((strlen(text) + 1) * sizeof *c);
    *count = 0;
    for (utf8proc_int32_t one; c && *p; c[(*count)++] = (uint32_t)one) {
        utf8proc_ssize_t bytes = utf8proc_iterate(p, -1, &one);
        if (bytes < 1 || *p < ' ' || *p == '"' || *p == '\\') {
            free(c);
            return NULL;
        }
        p += bytes;
    }
    return c;
}

Expr notation_other_name(Grammar *g, const json_t *properties)
{
    Name *names = calloc(json_object_size(properties) + 1, sizeof *names);
    int count = 0;
    const char *key;
    json_t *ignored;
    if (!names) return grammar_fail(g, "out of memory");
    json_object_foreach((json_t *)properties, key, ignored)
    {
        if ((names[count].c = characters_of(key, &names[count].count))) count++;
    }
    qsort(names, (size_t)count, sizeof *names, by_name);
    Expr rest = other_rest(g, names, count, 0);
    for (int i = 0; i < count; i++) free(names[i].c);
    free(names);
    return grammar_join(g, 2, grammar_word(g, "\""), rest);
}
