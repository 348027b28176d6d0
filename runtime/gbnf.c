// GBNF: rules NAME ::= ALTERNATIVES, of "literals", [classes], the dot, names and groups, repeated
// by * + ? {m} {m,} {m,n}. A rule ends with its line, but within parentheses and around a bar.
#include "gbnf.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MOST_DEPTH 200
#define MOST_RANGES 4096 // of one class
#define MOST_COUNT 1000000

typedef struct {
    Grammar *g;
    const char *at, *end;
    int line, depth;
} Text;

static int fail(Text *t, const char *what)
{
    return grammar_fail(t->g, "line %d: %s", t->line, what);
}

static int peek(const Text *t)
{
    return t->at < t->end ? (unsigned char)*t->at : -1;
}

static int is_name(int c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_';
}

// White space and comments; with `lines` also ends of lines.
static void skip_space(Text *t, int lines)
{
    for (; t->at < t->end; t->at++) {
        if (*t->at == '#')
            while (t->at + 1 < t->end && t->at[1] != '\n' && t->at[1] != '\r') t->at++;
        else if (lines && *t->at == '\n')
            t->line++;
        else if (*t->at != ' ' && *t->at != '\t' && !(lines && *t->at == '\r'))
            break;
    }
}

static int read_hex(Text *t, int digits, uint32_t *out)
{
    *out = 0;
    for (int i = 0; i < digits; i++, t->at++) {
        int c = peek(t), lower = c | 32;
        int digit = c >= '0' && c <= '9'           ? c - '0'
                    : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10
                                                   : -1;
        if (digit < 0) return fail(t, "expected a hexadecimal digit");
        *out = *out << 4 | (uint32_t)digit;
    }
    return 0;
}

static int read_escape(Text *t, uint32_t *out)
{
    static const char plain[] = "nrt\\\"[]", *const values = "\n\r\t\\\"[]";
    int c = peek(t);
    const char *known = c > 0 ? strchr(plain, c) : NULL;
    if (c >= 0) t->at++;
    if (known) return *out = (unsigned char)values[known - plain], 0;
    if (c == 'x') return read_hex(t, 2, out);
    if (c == 'u') return read_hex(t, 4, out);
    if (c == 'U') return read_hex(t, 8, out);
    return fail(t, "an unknown escape");
}

// A character of a literal or class.
static int read_character(Text *t, uint32_t *out)
{
    utf8proc_int32_t one;
    int c = peek(t);
    if (c < 0) return fail(t, "the text ends too early");
    if (c == '\n') t->line++;
    if (c == '\\') {
        t->at++;
        if (read_escape(t, out) != 0) return -1;
        return utf8proc_codepoint_valid((utf8proc_int32_t)*out) ? 0 : fail(t, "no such character");
    }
    utf8proc_ssize_t bytes = utf8proc_iterate((const uint8_t *)t->at, t->end - t->at, &one);
    if (bytes < 1) return fail(t, "that is not UTF-8");
    t->at += bytes;
    *out = (uint32_t)one;
    return 0;
}

static Expr read_literal(Text *t)
{
    const char *close = ++t->at;
    uint32_t c;
    size_t bytes = 0;
    for (; close < t->end && *close != '"'; close++)
        if (*close == '\\') close++;
    char *text = close < t->end ? malloc(4 * (size_t)(close - t->at) + 4) : NULL;
    if (!text) return fail(t, close < t->end ? "out of memory" : "a literal does not end");
    int status = 0;
    while (status == 0 && t->at < close) {
        status = read_character(t, &c);
        if (status == 0)
            bytes += (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (uint8_t *)text + bytes);
    }
    t->at = close + 1;
    Expr e = status == 0 ? grammar_text(t->g, text, bytes) : -1;
    free(text);
    return e;
}

static Expr read_class(Text *t)
{
    int negated = t->at + 1 < t->end && t->at[1] == '^', count = 0;
    Range *ranges = malloc(MOST_RANGES * sizeof *ranges);
    if (!ranges) return fail(t, "out of memory");
    int status = 0;
    for (t->at += 1 + negated; status == 0 && peek(t) != ']'; count++) {
        if (count == MOST_RANGES) {
            status = fail(t, "a class of too many characters");
            break;
        }
        Range *r = &ranges[count];
        status = read_character(t, &r->low);
        r->high = r->low;
        if (status == 0 && peek(t) == '-' && t->at + 1 < t->end && t->at[1] != ']') {
            t->at++;
            status = read_character(t, &r->high);
        }
        if (status == 0 && r->high < r->low) status = fail(t, "a range that goes backwards");
    }
    t->at++;
    if (status == 0 && !count && !negated) status = fail(t, "a class has no characters");
    Expr e = status == 0 ? grammar_class(t->g, ranges, count, negated) : -1;
    free(ranges);
    return e;
}

static int read_count(Text *t, int32_t *out)
{
    int64_t n = 0;
    if (peek(t) < '0' || peek(t) > '9') return fail(t, "expected a number");
    for (; peek(t) >= '0' && peek(t) <= '9'; t->at++) {
        n = 10 * n + peek(t) - '0';
        if (n > MOST_COUNT) return fail(t, "a repetition of more than a million");
    }
    *out = (int32_t)n;
    return 0;
}

// {m}, {m,} or {m,n}
static int read_counts(Text *t, int32_t *min, int32_t *max)
{
    t->at++;
    skip_space(t, 0);
    if (read_count(t, min) != 0) return -1;
    *max = *min;
    skip_space(t, 0);
    if (peek(t) == ',') {
        t->at++;
        skip_space(t, 0);
        *max = GRAMMAR_MANY;
        if (peek(t) != '}' && read_count(t, max) != 0) return -1;
        skip_space(t, 0);
    }
    if (peek(t) != '}') return fail(t, "expected '}'");
    t->at++;
    return *max < *min ? fail(t, "a repetition that goes backwards") : 0;
}

static Expr read_choice(Text *t);

static Expr read_item(Text *t)
{
    int c = peek(t);
    if (c == '"') return read_literal(t);
    if (c == '[') return read_class(t);
    if (c == '.') {
        t->at++;
        return grammar_class(t->g, NULL, 0, 1);
    }
    if (c == '(') {
        t->at++;
        if (++t->depth > MOST_DEPTH) return fail(t, "groups are nested too deeply");
        Expr e = read_choice(t);
        t->depth--;
        if (e >= 0 && peek(t) != ')') return fail(t, "expected ')'");
        t->at++;
        return e;
    }
    if (c == '<' || c == '!') return fail(t, "tokens in grammars are not there yet");
    const char *name = t->at;
    while (is_name(peek(t))) t->at++;
    if (t->at == name) return fail(t, "expected a literal, a class, a group or a name");
    return grammar_call(t->g, grammar_rule(t->g, name, (size_t)(t->at - name)));
}

static Expr read_repeated(Text *t)
{
    Expr e = read_item(t);
    for (;;) {
        int32_t min, max = GRAMMAR_MANY;
        // A group may go on behind the end of a line.
        skip_space(t, t->depth > 0);
        int c = peek(t);
        if (e < 0 || (c != '*' && c != '+' && c != '?' && c != '{')) return e;
        min = c == '+';
        if (c == '?') max = 1;
        if (c != '{')
            t->at++;
        else if (read_counts(t, &min, &max) != 0)
            return -1;
        e = grammar_repeat(t->g, e, min, max);
    }
}

static Expr read_sequence(Text *t)
{
    Expr list = grammar_sequence(t->g);
    skip_space(t, t->depth > 0);
    for (;;) {
        int c = peek(t);
        if (c < 0 || c == '|' || c == ')' || c == '\n' || c == '\r') return list;
        Expr e = read_repeated(t);
        if (e < 0) return -1;
        grammar_add(t->g, list, e);
        skip_space(t, t->depth > 0);
    }
}

static Expr read_choice(Text *t)
{
    Expr list = grammar_choice(t->g);
    for (;;) {
        Expr e = read_sequence(t);
        if (e < 0) return -1;
        grammar_add(t->g, list, e);
        if (peek(t) != '|') return list;
        t->at++;
        skip_space(t, 1);
    }
}

static int read_rule(Text *t)
{
    const char *name = t->at;
    while (is_name(peek(t))) t->at++;
    size_t bytes = (size_t)(t->at - name);
    if (!bytes) return fail(t, "expected the name of a rule");
    skip_space(t, 0);
    if (t->end - t->at < 3 || memcmp(t->at, "::=", 3) != 0) return fail(t, "expected '::='");
    t->at += 3;
    skip_space(t, 1);
    int rule = grammar_rule(t->g, name, bytes);
    if (grammar_defined(t->g, rule)) return fail(t, "a rule that is there already");
    Expr e = read_choice(t);
    if (e < 0) return -1;
    if (peek(t) == ')') return fail(t, "a ')' without its '('");
    grammar_define(t->g, rule, e);
    return 0;
}

int gbnf_read(Grammar *g, const char *text, size_t bytes)
{
    Text t = {.g = g, .at = text, .end = text + bytes, .line = 1};
    skip_space(&t, 1);
    while (t.at < t.end) {
        if (read_rule(&t) != 0) return -1;
        skip_space(&t, 1);
    }
    int root = grammar_rule(g, "root", 4);
    return grammar_defined(g, root) ? root : grammar_fail(g, "there is no rule called root");
}
