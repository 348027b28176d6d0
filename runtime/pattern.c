// A parser by recursive descent: alternatives of sequences of repeated atoms.
#include "pattern.h"
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#define MOST_DEPTH 200
#define MOST_COUNT 1000000
#define MOST_RANGES 1024 // of one class

typedef struct {
    Range range[MOST_RANGES];
    int count;
} Set;

typedef struct {
    Grammar *g;
    const char *start, *at, *end;
    int json, search, depth;
    Set set; // of the class that is being read; they do not nest
} Text;

static Pattern fail(const Text *t, const char *what)
{
    grammar_fail(t->g, "regular expression, byte %td: %s", t->at - t->start, what);
    return (Pattern){-1, 0, 0};
}

static int peek(const Text *t)
{
    return t->at < t->end ? (unsigned char)*t->at : -1;
}

static int take(Text *t, int c)
{
    if (peek(t) != c) return 0;
    t->at++;
    return 1;
}

// --- classes -------------------------------------------------------------------------------------

static const Range digits[] = {{'0', '9'}};
static const Range words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
static const Range blanks[] = {{'\t', '\r'}, {' ', ' '}};
// Whatever is white space to somebody.
static const Range all_blanks[] = {{'\t', '\r'},     {0x1c, 0x20},     {0x85, 0x85},
                                   {0xa0, 0xa0},     {0x1680, 0x1680}, {0x180e, 0x180e},
                                   {0x2000, 0x200b}, {0x2028, 0x2029}, {0x202f, 0x202f},
                                   {0x205f, 0x2060}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
static const Range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x85, 0x85}, {0x2028, 0x2029}};

static int add_range(Text *t, Set *s, uint32_t low, uint32_t high)
{
    if (s->count == MOST_RANGES) return (int)fail(t, "a class of too many characters").e;
    s->range[s->count++] = (Range){low, high};
    return 0;
}

static int add_ranges(Text *t, Set *s, const Range *r, int count, int negated)
{
    Range other[16];
    if (negated) {
        count = range_complement(r, count, other);
        r = other;
    }
    for (int i = 0; i < count; i++)
        if (add_range(t, s, r[i].low, r[i].high) != 0) return -1;
    return 0;
}

// The class of an escape's letter, within a class that may be negated: 1 when it is one, -1 after a
// failure.
static int add_escaped_class(Text *t, Set *s, int c, int negated)
{
#define COUNT(list) ((int)(sizeof list / sizeof *list))
    int status = 1;
    if (c == 'd' || c == 'D')
        status = add_ranges(t, s, digits, COUNT(digits), c == 'D');
    else if (c == 'w' || c == 'W')
        status = add_ranges(t, s, words, COUNT(words), c == 'W');
    else if (c == 's' && !negated)
        status = add_ranges(t, s, blanks, COUNT(blanks), 0);
    else if (c == 's')
        status = add_ranges(t, s, all_blanks, COUNT(all_blanks), 0);
    else if (c == 'S' && !negated)
        status = add_ranges(t, s, all_blanks, COUNT(all_blanks), 1);
    else if (c == 'S')
        status = add_ranges(t, s, blanks, COUNT(blanks), 1);
    else
        return 0;
    return status < 0 ? -1 : 1;
}

Expr pattern_json_class(Grammar *g, const Range *ranges, int count)
{
    static const char letters[] = "btnvfr";
    static const Range raw[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0x10ffff}};
    Range plain[MOST_RANGES + 2];
    int plains = 0;
    Expr all = grammar_choice(g);
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < COUNT(raw); k++) {
            uint32_t low = ranges[i].low > raw[k].low ? ranges[i].low : raw[k].low;
            uint32_t high = ranges[i].high < raw[k].high ? ranges[i].high : raw[k].high;
            if (low <= high && plains < COUNT(plain)) plain[plains++] = (Range){low, high};
        }
        for (uint32_t c = ranges[i].low; c <= ranges[i].high && c <= '\\'; c++) {
            char text[8];
            if (c == 0 || (c >= ' ' && c != '"' && c != '\\')) continue;
            if (c >= ' ')
                snprintf(text, sizeof text, "\\%c", (char)c);
            else if (c >= '\b' && c <= '\r' && c != '\v')
                snprintf(text, sizeof text, "\\%c", letters[c - '\b']);
            else
                snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
            grammar_add(g, all, grammar_text(g, text, strlen(text)));
        }
    }
    if (plains) grammar_add(g, all, grammar_class(g, plain, plains, 0));
    return all;
}

static Pattern one_of(Text *t, Set *s, int negated)
{
    Range other[MOST_RANGES + 1];
    int count = range_unite(s->range, s->count);
    const Range *r = s->range;
    if (negated) {
        count = range_complement(r, count, other);
        r = other;
    }
    return (Pattern){
        t->json ? pattern_json_class(t->g, r, count) : grammar_class(t->g, r, count, 0), 1, 1};
}

// --- characters ----------------------------------------------------------------------------------

static int read_hex(Text *t, int most, uint32_t *out)
{
    int n = 0;
    for (*out = 0; n < most; n++, t->at++) {
        int c = peek(t), lower = c | 32;
        if (c >= '0' && c <= '9')
            *out = *out << 4 | (uint32_t)(c - '0');
        else if (lower >= 'a' && lower <= 'f')
            *out = *out << 4 | (uint32_t)(lower - 'a' + 10);
        else
            break;
    }
    return n;
}

// The character of an escape that is none of a class; the backslash has been read.
static int read_escape(Text *t, uint32_t *out)
{
    static const char names[] = "tnrfv0", values[] = "\t\n\r\f\v";
    int c = peek(t);
    const char *known = c > 0 ? strchr(names, c) : NULL;
    if (c < 0) return (int)fail(t, "it ends with a backslash").e;
    t->at++;
    if (known) {
        *out = (unsigned char)values[known - names];
        return c == '0' && peek(t) >= '0' && peek(t) <= '9' ? (int)fail(t, "an octal escape").e : 0;
    }
    if (c == 'x' && read_hex(t, 2, out) == 2) return 0;
    if (c == 'u' && take(t, '{'))
        return read_hex(t, 6, out) && *out <= 0x10ffff && take(t, '}')
                   ? 0
                   : (int)fail(t, "\\u{ needs the digits of a character and }").e;
    if (c == 'u' && read_hex(t, 4, out) == 4) return 0;
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80) {
        t->at--;
        return (int)fail(t, c >= '1' && c <= '9' ? "back references are not regular"
                                                 : "this escape is not there")
            .e;
    }
    *out = (uint32_t)c;
    return 0;
}

static int read_character(Text *t, uint32_t *out)
{
    utf8proc_int32_t one;
    if (peek(t) < 0) return (int)fail(t, "it ends too early").e;
    if (take(t, '\\')) return read_escape(t, out);
    utf8proc_ssize_t bytes = utf8proc_iterate((const uint8_t *)t->at, t->end - t->at, &one);
    if (bytes < 1) return (int)fail(t, "that is not UTF-8").e;
    t->at += bytes;
    *out = (uint32_t)one;
    return 0;
}

// Of a class: 0 a character, 1 a class of its own, which is added.
static int read_member(Text *t, Set *s, int negated, uint32_t *out)
{
    if (peek(t) == '\\' && t->at + 1 < t->end) {
        int known = add_escaped_class(t, s, (unsigned char)t->at[1], negated);
        if (known) t->at += 2;
        if (known) return known;
        if (t->at[1] == 'b') { // a backspace, within a class
            t->at += 2;
            *out = '\b';
            return 0;
        }
    }
    return read_character(t, out);
}

static Pattern read_class(Text *t)
{
    Set *s = &t->set;
    int negated = take(t, '^'), first = 1;
    s->count = 0;
    while (first || peek(t) != ']') {
        uint32_t low, high;
        if (t->at + 1 < t->end && t->at[0] == '[' && t->at[1] == ':')
            return fail(t, "named classes are not there");
        int kind = read_member(t, s, negated, &low);
        if (kind < 0) return (Pattern){-1, 0, 0};
        first = 0;
        if (kind) continue;
        high = low;
        if (peek(t) == '-' && t->at + 1 < t->end && t->at[1] != ']') {
            t->at++;
            kind = read_member(t, s, negated, &high);
            if (kind < 0) return (Pattern){-1, 0, 0};
            if (kind) { // the bar is a character
                if (add_range(t, s, '-', '-') != 0) return (Pattern){-1, 0, 0};
                high = low;
            }
        }
        if (high < low) return fail(t, "a range that goes backwards");
        if (add_range(t, s, low, high) != 0) return (Pattern){-1, 0, 0};
    }
    t->at++;
    return one_of(t, s, negated);
}

// --- expressions ---------------------------------------------------------------------------------

static Pattern read_choice(Text *t);

static Pattern read_group(Text *t)
{
    if (take(t, '?')) {
        int named = take(t, 'P');
        int next = t->at + 1 < t->end ? t->at[1] : 0;
        if (peek(t) == '<' && next != '=' && next != '!') {
            while (peek(t) >= 0 && peek(t) != '>') t->at++;
            if (!take(t, '>')) return fail(t, "a name does not end");
        } else if (named || !take(t, ':')) {
            return fail(t, "only groups, with or without a name, may begin with (?");
        }
    }
    if (++t->depth > MOST_DEPTH) return fail(t, "groups are nested too deeply");
    Pattern p = read_choice(t);
    t->depth--;
    if (p.e >= 0 && !take(t, ')')) return fail(t, "expected ')'");
    return p;
}

static Pattern read_atom(Text *t)
{
    Set *s = &t->set;
    uint32_t c;
    if (take(t, '(')) return read_group(t);
    if (take(t, '[')) return read_class(t);
    s->count = 0;
    if (take(t, '.')) {
        add_ranges(t, s, line_ends, COUNT(line_ends), 1);
        return one_of(t, s, 0);
    }
    if (peek(t) == '*' || peek(t) == '+' || peek(t) == '?') return fail(t, "nothing to repeat");
    if (peek(t) == '^' || peek(t) == '$') return fail(t, "^ and $ may only stand at the ends");
    if (peek(t) == '\\' && t->at + 1 < t->end) {
        int known = add_escaped_class(t, s, (unsigned char)t->at[1], 0);
        if (known) t->at += 2;
        if (known) return one_of(t, s, 0);
    }
    if (read_character(t, &c) != 0 || add_range(t, s, c, c) != 0) return (Pattern){-1, 0, 0};
    return one_of(t, s, 0);
}

// {m}, {m,}, {m,n}, {,n}: 1 when it is one; otherwise the brace is a character.
static int read_counts(Text *t, int64_t *min, int64_t *max)
{
    const char *start = t->at++;
    int64_t *bound[] = {min, max};
    int digits_seen = 0, comma = 0;
    *min = *max = 0;
    for (int i = 0; i < 2; i++) {
        int here = 0;
        for (; peek(t) >= '0' && peek(t) <= '9'; t->at++, here++)
            if (*bound[i] <= MOST_COUNT) *bound[i] = 10 * *bound[i] + peek(t) - '0';
        digits_seen += here;
        if (i == 0 && !(comma = take(t, ','))) *max = *min;
        if (i == 0 && !comma) break;
        if (i == 1 && !here) *max = GRAMMAR_MANY;
    }
    if (digits_seen && take(t, '}')) return 1;
    t->at = start;
    return 0;
}

static Pattern repeat(Text *t, Pattern p, int64_t min, int64_t max)
{
    if (min > MOST_COUNT || (max > MOST_COUNT && max != GRAMMAR_MANY))
        return fail(t, "a repetition of more than a million");
    if (max < min) return fail(t, "a repetition that goes backwards");
    int64_t most = max == GRAMMAR_MANY ? p.max ? GRAMMAR_MANY : 0 : p.max * max;
    int64_t least = p.min * min;
    return (Pattern){grammar_repeat(t->g, p.e, (int32_t)min, (int32_t)max),
                     least < GRAMMAR_MANY ? least : GRAMMAR_MANY,
                     most < GRAMMAR_MANY ? most : GRAMMAR_MANY};
}

// How often the atom before may stand; once when nothing says so, and then 0.
static int read_quantifier(Text *t, int64_t *min, int64_t *max)
{
    int c = peek(t);
    int counted = c == '{' && read_counts(t, min, max);
    if (counted) return 1;
    *min = c != '*' && c != '?';
    *max = c == '*' || c == '+' ? GRAMMAR_MANY : 1;
    if (c != '*' && c != '+' && c != '?') return 0;
    t->at++;
    return 1;
}

static Pattern read_repeated(Text *t)
{
    Pattern p = read_atom(t);
    int64_t min, max;
    if (p.e < 0 || !read_quantifier(t, &min, &max)) return p;
    p = repeat(t, p, min, max);
    take(t, '?'); // the shortest first makes no difference
    if (read_quantifier(t, &min, &max)) return fail(t, "a repetition of a repetition");
    return p;
}

static Pattern anything(Text *t)
{
    static const Range all[] = {{0, 0x10ffff}};
    Expr e = t->json ? pattern_json_class(t->g, all, 1) : grammar_class(t->g, all, 1, 0);
    return (Pattern){grammar_repeat(t->g, e, 0, GRAMMAR_MANY), 0, GRAMMAR_MANY};
}

static void append(Text *t, Pattern *all, Pattern p)
{
    grammar_add(t->g, all->e, p.e);
    all->min += p.min;
    all->max += p.max;
    if (all->min > GRAMMAR_MANY) all->min = GRAMMAR_MANY;
    if (all->max > GRAMMAR_MANY) all->max = GRAMMAR_MANY;
}

static Pattern read_sequence(Text *t)
{
    Pattern all = {grammar_sequence(t->g), 0, 0};
    int outer = t->depth == 0, begins = outer && take(t, '^'), ends = 0;
    if (outer && t->search && !begins) append(t, &all, anything(t));
    while (peek(t) >= 0 && peek(t) != '|' && peek(t) != ')') {
        int last = t->at + 1 == t->end || t->at[1] == '|';
        if (outer && last && take(t, '$')) {
            ends = 1;
            break;
        }
        Pattern p = read_repeated(t);
        if (p.e < 0) return p;
        append(t, &all, p);
    }
    if (outer && t->search && !ends) append(t, &all, anything(t));
    return all;
}

static Pattern read_choice(Text *t)
{
    Pattern all = {grammar_choice(t->g), GRAMMAR_MANY, 0};
    do {
        Pattern p = read_sequence(t);
        if (p.e < 0) return p;
        grammar_add(t->g, all.e, p.e);
        if (p.min < all.min) all.min = p.min;
        if (p.max > all.max) all.max = p.max;
    } while (take(t, '|'));
    return all;
}

Pattern pattern_read(Grammar *g, const char *text, size_t bytes, int json, int search)
{
    Text t = {
        .g = g, .start = text, .at = text, .end = text + bytes, .json = json, .search = search};
    Pattern p = read_choice(&t);
    if (p.e >= 0 && t.at < t.end) return fail(&t, "a ')' without its '('");
    return p;
}

int pattern_read_run(Grammar *g, const char *text, size_t bytes, int64_t min, int64_t max,
                     Pattern *out)
{
    Grammar *probe = grammar_open(); // first without adding anything
    Grammar *grammars[] = {probe, g};
    int found = probe != NULL;
    for (int i = 0; found && i < 2; i++) {
        Text t = {.g = grammars[i],
                  .start = text,
                  .at = text,
                  .end = text + bytes,
                  .json = 1,
                  .search = 1};
        int64_t low, high;
        if (!(found = take(&t, '^') && peek(&t) != '(')) break;
        Pattern p = read_atom(&t);
        read_quantifier(&t, &low, &high);
        if (!(found = p.e >= 0 && take(&t, '$') && t.at == t.end)) break;
        if (low < min) low = min;
        if (high > max) high = max;
        *out = repeat(&t, p, low, high);
        found = out->e >= 0;
    }
    grammar_close(probe);
    return found;
}
