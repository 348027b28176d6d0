// tokenizer.json -> the tables of runtime/vocab.h. Knows the file format of Hugging Face's
// tokenizers package and refuses what the runtime does not reproduce; the texts themselves are the
// runtime's business. Regular expressions are rewritten from Oniguruma's syntax, which that package
// uses, to PCRE2's, which the runtime uses.
#include "tokenizer.h"
#include "../runtime/vocab.h"
#include "json.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t left, rank;
    VocabMerge to;
} Pair;

typedef struct {
    const char *where;
    Buffer *out;
    size_t base; // where the tables start in *out
    VocabHeader header;

    uint32_t ids; // highest id + 1
    char **name;  // by id; NULL without a token
    uint8_t *kind;
    uint32_t *slots, slot_count;

    // The text section: strings of the vocabulary, then those of the steps.
    VocabStep normalizers[VOCAB_MAX_STEPS], pretokenizers[VOCAB_MAX_STEPS],
        decoders[VOCAB_MAX_STEPS];
    int32_t *prefix, *suffix;
    uint32_t prefix_count, suffix_count;
    char *step_text[6 * VOCAB_MAX_STEPS]; // appended to the text section
    uint32_t step_texts, text_bytes;
} Build;

// --- values --------------------------------------------------------------------------------------

static char *join(const char *a, const char *b)
{
    return arena_format("%s%s", a, b);
}

static const char *get_string(Build *b, const char *path, const cJSON *object, const char *key)
{
    const cJSON *v = json_get(object, key);
    if (!cJSON_IsString(v)) die(b->where, "%s: %s is not a string", path, key);
    return v->valuestring;
}

// A truth value; `missing` when absent, which is an error if that is negative.
static int get_bool(Build *b, const char *path, const cJSON *object, const char *key, int missing)
{
    const cJSON *v = json_get(object, key);
    if (!v && missing >= 0) return missing;
    if (!cJSON_IsBool(v)) die(b->where, "%s: %s is not true or false", path, key);
    return cJSON_IsTrue(v);
}

static const cJSON *get_list(Build *b, const char *path, const cJSON *object, const char *key)
{
    const cJSON *v = json_get(object, key);
    if (!cJSON_IsArray(v)) die(b->where, "%s: %s is not a list", path, key);
    return v;
}

// The characters of a string; the packages' "char" options must have exactly one.
static size_t count_chars(const char *s)
{
    size_t n = 0;
    for (; *s; s++) n += (*s & 0xc0) != 0x80;
    return n;
}

static int32_t find_token(Build *b, const char *name, int kind)
{
    for (uint32_t h = vocab_hash(name, strlen(name));; h++) {
        uint32_t id = b->slots[h & (b->slot_count - 1)];
        if (!id) return -1;
        if (strcmp(b->name[id - 1], name) == 0) return b->kind[id - 1] & kind ? (int)id - 1 : -1;
    }
}

static void insert_token(Build *b, uint32_t id)
{
    uint32_t h = vocab_hash(b->name[id], strlen(b->name[id]));
    while (b->slots[h & (b->slot_count - 1)]) h++;
    b->slots[h & (b->slot_count - 1)] = id + 1;
}

// --- regular expressions -------------------------------------------------------------------------

#define MAX_PATTERN 8192
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

typedef struct {
    const char *where, *pattern, *p;
    char *out;                 // room for the longest rewriting of every byte
    size_t bytes, literal_end; // where the last literal ends in `out`, and which it was
    uint32_t literal;
    int caseless;
} Rewrite;

static _Noreturn void refuse(Rewrite *r, const char *what)
{
    die(r->where, "regular expression, byte %zu: %s is not supported: %.200s",
        (size_t)(r->p - r->pattern), what, r->pattern);
}

static void emit(Rewrite *r, const char *s)
{
    size_t n = strlen(s);
    memcpy(r->out + r->bytes, s, n + 1);
    r->bytes += n;
}

static void emit_char(Rewrite *r, uint32_t c)
{
    char s[16];
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        snprintf(s, sizeof s, "%c", (int)c);
    else
        snprintf(s, sizeof s, "\\x{%x}", (unsigned)c);
    emit(r, s);
}

static uint32_t read_char(Rewrite *r)
{
    const unsigned char *p = (const unsigned char *)r->p;
    int more = p[0] >= 0xf0 ? 3 : p[0] >= 0xe0 ? 2 : p[0] >= 0xc0 ? 1 : 0;
    uint32_t c = more ? p[0] & (0x3fu >> more) : p[0];
    for (int i = 1; i <= more; i++) c = c << 6 | (p[i] & 0x3f);
    r->p += more + 1;
    return c;
}

// Property names without case, space, '-' and '_'. Scripts are asked for by "sc:", because PCRE2
// otherwise means the script extensions.
static const char *const properties[][3] = {
    {"L", "letter"},
    {"Lu", "uppercaseletter"},
    {"Ll", "lowercaseletter"},
    {"Lt", "titlecaseletter"},
    {"Lm", "modifierletter"},
    {"Lo", "otherletter"},
    {"M", "mark"},
    {"Mn", "nonspacingmark"},
    {"Mc", "spacingmark"},
    {"Me", "enclosingmark"},
    {"N", "number"},
    {"Nd", "decimalnumber"},
    {"Nl", "letternumber"},
    {"No", "othernumber"},
    {"P", "punctuation"},
    {"Pc", "connectorpunctuation"},
    {"Pd", "dashpunctuation"},
    {"Ps", "openpunctuation"},
    {"Pe", "closepunctuation"},
    {"Pi", "initialpunctuation"},
    {"Pf", "finalpunctuation"},
    {"Po", "otherpunctuation"},
    {"S", "symbol"},
    {"Sm", "mathsymbol"},
    {"Sc", "currencysymbol"},
    {"Sk", "modifiersymbol"},
    {"So", "othersymbol"},
    {"Z", "separator"},
    {"Zs", "spaceseparator"},
    {"Zl", "lineseparator"},
    {"Zp", "paragraphseparator"},
    {"C", "other"},
    {"Cc", "control"},
    {"Cf", "format"},
    {"Cn", "unassigned"},
    {"Co", "privateuse"},
    {"Alphabetic", "alphabetic"},
    {"White_Space", "whitespace"},
    {"sc:Han", "han"},
    {"sc:Hiragana", "hiragana"},
    {"sc:Katakana", "katakana"},
    {"sc:Hangul", "hangul"},
    {"sc:Bopomofo", "bopomofo"},
    {"sc:Latin", "latin"},
    {"sc:Greek", "greek"},
    {"sc:Cyrillic", "cyrillic"},
    {"sc:Arabic", "arabic"},
    {"sc:Hebrew", "hebrew"},
    {"sc:Thai", "thai"},
    {"sc:Lao", "lao"},
    {"sc:Khmer", "khmer"},
    {"sc:Myanmar", "myanmar"},
    {"sc:Tibetan", "tibetan"},
    {"sc:Devanagari", "devanagari"},
    {"sc:Bengali", "bengali"},
    {"sc:Tamil", "tamil"},
    {"sc:Telugu", "telugu"},
    {"sc:Armenian", "armenian"},
    {"sc:Georgian", "georgian"},
};

static void rewrite_property(Rewrite *r, int negated)
{
    if (*r->p != '{') refuse(r, "\\p without braces");
    r->p++;
    if (*r->p == '^') r->p++, negated = !negated;
    char name[40];
    size_t n = 0;
    for (; *r->p && *r->p != '}'; r->p++) {
        char c = *r->p;
        if (c == ' ' || c == '-' || c == '_') continue;
        if (n + 1 == sizeof name) refuse(r, "this property");
        name[n++] = c >= 'A' && c <= 'Z' ? c + 32 : c;
    }
    if (!*r->p) refuse(r, "an unfinished \\p");
    name[n] = 0;
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        const char *s = properties[i][0];
        int is_short =
            strlen(s) == n && n <= 2 && (s[0] | 32) == name[0] && (n < 2 || (s[1] | 32) == name[1]);
        if (!is_short && strcmp(name, properties[i][1]) != 0) continue;
        emit(r, negated ? "\\P{" : "\\p{");
        emit(r, s);
        emit(r, "}");
        r->p++;
        return;
    }
    refuse(r, "this property");
}

// One escape that stands for a single character, after its backslash; -1 for any other.
static int64_t read_escape(Rewrite *r)
{
    static const char letters[] = "nrtfvae", values[] = "\n\r\t\f\v\a\x1b";
    char c = *r->p;
    const char *known = c ? strchr(letters, c) : NULL;
    if (known) return r->p++, values[known - letters];
    if (c == 'x' || c == 'u') {
        int braces = c == 'x' && r->p[1] == '{', most = braces ? 6 : c == 'x' ? 2 : 4, n = 0;
        r->p += 1 + braces;
        uint32_t value = 0;
        for (; n < most && *r->p && strchr("0123456789abcdefABCDEF", *r->p); n++, r->p++)
            value = value << 4 | (uint32_t)(*r->p <= '9' ? *r->p - '0' : (*r->p | 32) - 'a' + 10);
        if (!n || (c == 'u' && n < 4) || (braces && *r->p != '}')) refuse(r, "this escape");
        r->p += braces;
        if ((c == 'x' && !braces && value > 127) || value > 0x10ffff ||
            (value >= 0xd800 && value < 0xe000))
            refuse(r, "this escape");
        return value;
    }
    if ((unsigned char)c >= 0x80 ||
        (c > 32 && c < 127 && !strchr("0123456789", c) && !((c | 32) >= 'a' && (c | 32) <= 'z')) ||
        c == ' ')
        return read_char(r);
    return -1;
}

// An escape that stands for a set of characters, after its backslash; 0 when it is none.
static int rewrite_set(Rewrite *r, int in_class)
{
    char c = *r->p++;
    switch (c) {
    case 'p':
    case 'P':
        rewrite_property(r, c == 'P');
        return 1;
    case 's':
        emit(r, "\\p{White_Space}");
        return 1;
    case 'S':
        emit(r, "\\P{White_Space}");
        return 1;
    case 'd':
        emit(r, "\\p{Nd}");
        return 1;
    case 'D':
        emit(r, "\\P{Nd}");
        return 1;
    case 'w':
        emit(r, in_class ? WORD : "[" WORD "]");
        return 1;
    case 'h':
        emit(r, in_class ? "0-9a-fA-F" : "[0-9a-fA-F]");
        return 1;
    case 'W':
        if (!in_class) return emit(r, "[^" WORD "]"), 1;
    }
    r->p--;
    return 0;
}

// The items of a class up to "]" or "&&".
static void rewrite_items(Rewrite *r)
{
    size_t start = r->bytes;
    while (*r->p != ']' && !(r->p[0] == '&' && r->p[1] == '&')) {
        if (!*r->p) refuse(r, "an unfinished class");
        if (*r->p == '[') { // a class inside a class adds its characters
            if (r->p[1] == '^' || r->p[1] == ':') refuse(r, "this class inside a class");
            r->p++;
            rewrite_items(r);
            if (*r->p++ != ']') refuse(r, "this class inside a class");
            continue;
        }
        int64_t low, high;
        if (*r->p == '\\') {
            r->p++;
            if (rewrite_set(r, 1)) {
                if (r->p[0] == '-' && r->p[1] != ']') refuse(r, "a range from a set");
                continue;
            }
            low = *r->p == 'b' ? (r->p++, 8) : read_escape(r);
            if (low < 0) refuse(r, "this escape");
        } else {
            low = read_char(r);
        }
        if (r->caseless && low >= 128) refuse(r, "this character without case");
        emit_char(r, (uint32_t)low);
        if (r->p[0] != '-' || r->p[1] == ']') continue;
        r->p++;
        if (*r->p == '\\')
            r->p++, high = read_escape(r);
        else
            high = *r->p && *r->p != '[' ? (int64_t)read_char(r) : -1;
        if (high < low) refuse(r, "this range");
        emit(r, "-");
        emit_char(r, (uint32_t)high);
    }
    if (r->bytes == start) refuse(r, "an empty class");
}

// [abc], [^abc], and the intersections [abc&&[^def]&&ghi], which become look-aheads.
static void rewrite_class(Rewrite *r)
{
    int negated = *++r->p == '^';
    size_t start = r->bytes;
    r->p += negated;
    emit(r, negated ? "[^" : "[");
    rewrite_items(r);
    emit(r, "]");
    while (*r->p == '&') {
        if (negated) refuse(r, "a negated intersection");
        r->p += 2;
        // The class so far moves behind the look-ahead for the next operand.
        size_t bytes = r->bytes - start;
        char *before = arena_copy(r->out + start, bytes);
        r->bytes = start;
        int nested = *r->p == '[', inverted = nested && r->p[1] == '^';
        r->p += nested + inverted;
        emit(r, inverted ? "(?:(?=[^" : "(?:(?=[");
        rewrite_items(r);
        if (nested && *r->p++ != ']') refuse(r, "this intersection");
        emit(r, "])");
        emit(r, before);
        emit(r, ")");
        if (*r->p != ']' && *r->p != '&') refuse(r, "this intersection");
    }
    r->p++;
}

static void rewrite_sequence(Rewrite *r, int depth);

static void rewrite_group(Rewrite *r, int depth)
{
    static const char *const opens[] = {"?:", "?=", "?!", "?>", "?<=", "?<!", "?i:", "?-i:"};
    size_t n = 0;
    int caseless = r->caseless;
    r->p++;
    if (*r->p == '?') {
        for (size_t i = 0; i < sizeof opens / sizeof *opens; i++)
            if (strncmp(r->p, opens[i], strlen(opens[i])) == 0) n = strlen(opens[i]);
        if (!n) refuse(r, "this group");
        if (n == 3 && r->p[1] == 'i') r->caseless = 1;
        if (n == 4) r->caseless = 0;
        emit(r, "(");
        memcpy(r->out + r->bytes, r->p, n);
        r->bytes += n;
        r->p += n;
    } else {
        if (*r->p == '*') refuse(r, "this group");
        emit(r, "(?:");
    }
    rewrite_sequence(r, depth + 1);
    if (*r->p != ')') refuse(r, "an unfinished group");
    r->p++;
    r->caseless = caseless;
    emit(r, ")");
}

// Without regard to case, Oniguruma lets one character equal several (U+00DF and "ss",
// U+FB06 and "st"); PCRE2 does not.
static void rewrite_literal(Rewrite *r, uint32_t c)
{
    static const char *const folded[] = {"ss", "st", "ff", "fi", "fl"};
    if (r->caseless && c >= 128) refuse(r, "this character without case");
    for (size_t i = 0; r->caseless && r->literal_end == r->bytes && i < 5; i++)
        if ((r->literal | 32) == (uint32_t)folded[i][0] && (c | 32) == (uint32_t)folded[i][1])
            refuse(r, "this pair of letters without case");
    emit_char(r, c);
    r->literal = c;
    r->literal_end = r->bytes;
}

static void wrap(Rewrite *r, size_t start)
{
    memmove(r->out + start + 3, r->out + start, r->bytes - start);
    memcpy(r->out + start, "(?:", 3);
    r->bytes += 3;
    emit(r, ")");
}

// The quantifiers after the atom that starts at out[start]. Differences: {n,m}+ repeats the
// repetition, it is not possessive; {n}? makes it optional, not lazy; {,m} starts from 0.
static void rewrite_quantifiers(Rewrite *r, size_t start)
{
    for (int count = 0; *r->p && strchr("*+?{", *r->p); count++) {
        if (count) wrap(r, start);
        if (count > 8) refuse(r, "so many quantifiers");
        if (*r->p != '{') {
            char text[3] = {*r->p++, 0, 0};
            if (*r->p == '?' || *r->p == '+') text[1] = *r->p++;
            emit(r, text);
            continue;
        }
        unsigned low = 0, high = 0;
        int range, digits = 0;
        for (r->p++; *r->p >= '0' && *r->p <= '9' && digits < 6; r->p++, digits++)
            low = low * 10 + (unsigned)(*r->p - '0');
        range = *r->p == ',';
        int open = range;
        if (range)
            for (r->p++; *r->p >= '0' && *r->p <= '9' && digits < 12; r->p++, digits++, open = 0)
                high = high * 10 + (unsigned)(*r->p - '0');
        if (*r->p != '}' || !digits || low > 65535 || high > 65535 ||
            (range && !open && high < low))
            refuse(r, "this quantifier");
        r->p++;
        char text[32];
        if (!range)
            snprintf(text, sizeof text, "{%u}", low);
        else if (open)
            snprintf(text, sizeof text, "{%u,}", low);
        else
            snprintf(text, sizeof text, "{%u,%u}", low, high);
        emit(r, text);
        if (range && *r->p == '?') r->p++, emit(r, "?");
    }
}

static void rewrite_sequence(Rewrite *r, int depth)
{
    if (depth > 50) refuse(r, "nesting this deep");
    while (*r->p && *r->p != ')') {
        size_t start = r->bytes;
        char c = *r->p;
        if (c == '|') {
            r->p++;
            emit(r, "|");
            continue;
        }
        if (strchr("*+?{", c)) refuse(r, "a quantifier here");
        if (c == '(') {
            rewrite_group(r, depth);
        } else if (c == '[') {
            rewrite_class(r);
        } else if (strchr(".^$", c)) {
            r->p++;
            emit(r, (char[]){c, 0});
        } else if (c == '\\') {
            r->p++;
            if (*r->p && strchr("AzZ", *r->p)) {
                emit(r, (char[]){'\\', *r->p++, 0});
            } else if (*r->p == 'b' || *r->p == 'B') {
                emit(r, *r->p++ == 'b'
                            ? "(?:(?<=[" WORD "])(?![" WORD "])|(?<![" WORD "])(?=[" WORD "]))"
                            : "(?:(?<=[" WORD "])(?=[" WORD "])|(?<![" WORD "])(?![" WORD "]))");
            } else if (!rewrite_set(r, 0)) {
                int64_t value = read_escape(r);
                if (value < 0) refuse(r, "this escape");
                rewrite_literal(r, (uint32_t)value);
            }
        } else {
            rewrite_literal(r, read_char(r));
        }
        rewrite_quantifiers(r, start);
    }
}

static char *rewrite_regex(const char *where, const char *pattern)
{
    size_t n = strlen(pattern);
    if (n > MAX_PATTERN) die(where, "regular expression of %zu bytes, at most %d", n, MAX_PATTERN);
    // The longest rewriting is \b: 2 bytes become about 190; wrap adds 4 per quantifier.
    Rewrite r = {
        .where = where, .pattern = pattern, .p = pattern, .out = arena_alloc(n * 128 + 64)};
    if (strncmp(r.p, "(?i)", 4) == 0) r.p += 4, r.caseless = 1, emit(&r, "(?i)");
    rewrite_sequence(&r, 0);
    if (*r.p) refuse(&r, "an unmatched )");
    return r.out;
}

// --- steps ---------------------------------------------------------------------------------------

static VocabSpan add_text(Build *b, const char *s)
{
    VocabSpan span = {b->text_bytes, (uint32_t)strlen(s)};
    b->step_text[b->step_texts++] = (char *)s;
    b->text_bytes += span.count;
    return span;
}

static VocabStep *add_step(Build *b, const char *path, VocabStep *list, VocabSpan *span,
                           uint32_t kind)
{
    if (span->count == VOCAB_MAX_STEPS)
        die(b->where, "%s: more than %d steps", path, VOCAB_MAX_STEPS);
    VocabStep *step = &list[span->count++];
    *step = (VocabStep){.kind = kind};
    return step;
}

static VocabStep *add_normalizer(Build *b, uint32_t kind)
{
    return add_step(b, "normalizer", b->normalizers, &b->header.normalizers, kind);
}

static VocabStep *add_pretokenizer(Build *b, uint32_t kind)
{
    return add_step(b, "pre_tokenizer", b->pretokenizers, &b->header.pretokenizers, kind);
}

static VocabStep *add_decoder(Build *b, uint32_t kind)
{
    return add_step(b, "decoder", b->decoders, &b->header.decoders, kind);
}

// {"String": s} or {"Regex": s}; *regex tells which. A regular expression comes back rewritten.
static const char *get_pattern(Build *b, const char *path, const cJSON *object, int *regex)
{
    const cJSON *v = json_get(object, "pattern");
    const cJSON *s = json_get(v, "String"), *re = json_get(v, "Regex");
    if (!cJSON_IsString(s) == !cJSON_IsString(re))
        die(b->where, "%s: pattern is neither {\"String\": ...} nor {\"Regex\": ...}", path);
    *regex = !cJSON_IsString(s);
    const char *text = *regex ? re->valuestring : s->valuestring;
    if (!*text) die(b->where, "%s: an empty pattern is not supported", path);
    return *regex ? rewrite_regex(b->where, text) : text;
}

static _Noreturn void refuse_type(Build *b, const char *path, const char *type)
{
    die(b->where, "%s: type \"%s\" is not supported", path, type);
}

static void read_normalizer(Build *b, const cJSON *n)
{
    const char *path = "normalizer", *type = get_string(b, path, n, "type");
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *child;
        cJSON_ArrayForEach(child, get_list(b, path, n, "normalizers")) read_normalizer(b, child);
    } else if (strcmp(type, "NFC") == 0) {
        add_normalizer(b, NORMALIZE_NFC);
    } else if (strcmp(type, "NFD") == 0) {
        add_normalizer(b, NORMALIZE_NFD);
    } else if (strcmp(type, "NFKC") == 0) {
        add_normalizer(b, NORMALIZE_NFKC);
    } else if (strcmp(type, "NFKD") == 0) {
        add_normalizer(b, NORMALIZE_NFKD);
    } else if (strcmp(type, "Lowercase") == 0) {
        add_normalizer(b, NORMALIZE_LOWERCASE);
    } else if (strcmp(type, "Strip") == 0) {
        int left = get_bool(b, path, n, "strip_left", -1);
        int right = get_bool(b, path, n, "strip_right", -1);
        add_normalizer(b, NORMALIZE_STRIP)->option =
            (left ? STRIP_LEFT : 0u) | (right ? STRIP_RIGHT : 0u);
    } else if (strcmp(type, "Prepend") == 0) {
        add_normalizer(b, NORMALIZE_PREPEND)->text = add_text(b, get_string(b, path, n, "prepend"));
    } else if (strcmp(type, "Replace") == 0) {
        int regex;
        const char *pattern = get_pattern(b, path, n, &regex);
        VocabStep *step = add_normalizer(b, regex ? NORMALIZE_REPLACE_REGEX : NORMALIZE_REPLACE);
        step->text = add_text(b, pattern);
        step->content = add_text(b, get_string(b, path, n, "content"));
    } else {
        refuse_type(b, path, type);
    }
}

static uint32_t read_behavior(Build *b, const cJSON *p)
{
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious",
                                        "MergedWithNext"};
    const char *s = get_string(b, "pre_tokenizer", p, "behavior");
    for (uint32_t i = 0; i < 5; i++)
        if (strcmp(s, names[i]) == 0) return i;
    die(b->where, "pre_tokenizer: behavior \"%s\" is not supported", s);
}

// The replacement and the scheme of Metaspace, in pre-tokenizers and decoders.
static const char *read_metaspace(Build *b, const char *path, const cJSON *p, uint32_t *scheme)
{
    static const char *const names[] = {"always", "first", "never"};
    const char *replacement = get_string(b, path, p, "replacement");
    if (count_chars(replacement) != 1)
        die(b->where, "%s: Metaspace replacement \"%s\" is not one character", path, replacement);
    const char *s =
        json_get(p, "prepend_scheme") ? get_string(b, path, p, "prepend_scheme") : "always";
    for (*scheme = 0; *scheme < 3 && strcmp(s, names[*scheme]) != 0;) ++*scheme;
    if (*scheme == 3) die(b->where, "%s: prepend_scheme \"%s\" is not supported", path, s);
    const cJSON *prefix = json_get(p, "add_prefix_space");
    if (prefix && !cJSON_IsNull(prefix) && !get_bool(b, path, p, "add_prefix_space", -1) &&
        *scheme != PREPEND_NEVER)
        die(b->where, "%s: add_prefix_space false contradicts prepend_scheme \"%s\"", path, s);
    return replacement;
}

// The pattern of GPT-2, which ByteLevel applies when use_regex is true.
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static void read_pretokenizer(Build *b, const cJSON *p)
{
    const char *path = "pre_tokenizer", *type = get_string(b, path, p, "type");
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *child;
        cJSON_ArrayForEach(child, get_list(b, path, p, "pretokenizers"))
            read_pretokenizer(b, child);
    } else if (strcmp(type, "Split") == 0) {
        int regex;
        const char *pattern = get_pattern(b, path, p, &regex);
        VocabStep *step = add_pretokenizer(b, regex ? SPLIT_REGEX : SPLIT_STRING);
        step->text = add_text(b, pattern);
        step->option = read_behavior(b, p);
        step->flag = (uint32_t)get_bool(b, path, p, "invert", -1);
    } else if (strcmp(type, "ByteLevel") == 0) {
        if (get_bool(b, path, p, "add_prefix_space", -1)) add_pretokenizer(b, PREFIX_SPACE);
        if (get_bool(b, path, p, "use_regex", 1)) {
            VocabStep *step = add_pretokenizer(b, SPLIT_REGEX);
            step->text = add_text(b, rewrite_regex(b->where, GPT2_PATTERN));
            step->option = ISOLATED;
        }
        add_pretokenizer(b, BYTES_TO_CHARS);
    } else if (strcmp(type, "Digits") == 0) {
        int each = get_bool(b, path, p, "individual_digits", -1);
        add_pretokenizer(b, SPLIT_DIGITS)->option = each ? ISOLATED : CONTIGUOUS;
    } else if (strcmp(type, "Punctuation") == 0) {
        uint32_t behavior = json_get(p, "behavior") ? read_behavior(b, p) : ISOLATED;
        add_pretokenizer(b, SPLIT_PUNCTUATION)->option = behavior;
    } else if (strcmp(type, "Metaspace") == 0) {
        VocabStep *step = add_pretokenizer(b, METASPACE);
        step->text = add_text(b, read_metaspace(b, path, p, &step->option));
        const cJSON *split = json_get(p, "split");
        step->flag = !split || cJSON_IsNull(split) || get_bool(b, path, p, "split", -1);
    } else {
        refuse_type(b, path, type);
    }
}

// prepend_scheme "first" asks where a piece stood in the original text. The runtime knows that for
// the steps allowed here.
static void check_first(Build *b)
{
    for (uint32_t i = 0; i < b->header.pretokenizers.count; i++) {
        VocabStep *step = &b->pretokenizers[i];
        if (step->kind != METASPACE || step->option != PREPEND_FIRST) continue;
        if (i > 0)
            die(b->where, "pre_tokenizer: Metaspace with prepend_scheme \"first\" after another "
                          "step is not supported");
        for (uint32_t j = 0; j < b->header.normalizers.count; j++) {
            VocabStep *n = &b->normalizers[j];
            if (n->kind == NORMALIZE_STRIP || n->kind == NORMALIZE_PREPEND ||
                n->kind == NORMALIZE_REPLACE_REGEX ||
                (n->kind == NORMALIZE_REPLACE && (n->text.count > 1 || n->content.count == 0)))
                die(b->where, "Metaspace with prepend_scheme \"first\" together with a normalizer "
                              "that moves the start of the text is not supported");
        }
    }
}

static void read_decoder(Build *b, const cJSON *d)
{
    const char *path = "decoder", *type = get_string(b, path, d, "type");
    VocabStep *last = b->header.decoders.count ? &b->decoders[b->header.decoders.count - 1] : NULL;
    int fused = 0; // all tokens are one string by now
    for (uint32_t i = 0; i < b->header.decoders.count; i++)
        fused |= b->decoders[i].kind == DECODE_FUSE || b->decoders[i].kind == DECODE_BYTES;
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *child;
        cJSON_ArrayForEach(child, get_list(b, path, d, "decoders")) read_decoder(b, child);
    } else if (strcmp(type, "Fuse") == 0) {
        if (!fused) add_decoder(b, DECODE_FUSE);
    } else if (strcmp(type, "Strip") == 0) {
        const char *content = get_string(b, path, d, "content");
        if (count_chars(content) != 1)
            die(b->where, "%s: Strip content \"%s\" is not one character", path, content);
        int64_t start =
            json_whole(b->where, "decoder: Strip start", json_get(d, "start"), 0, 1 << 20);
        if (json_whole(b->where, "decoder: Strip stop", json_get(d, "stop"), 0, 1 << 20))
            die(b->where, "%s: Strip with stop other than 0 is not supported", path);
        VocabStep *step = add_decoder(b, DECODE_STRIP);
        step->option = (uint32_t)start;
        step->text = add_text(b, content);
    } else if (fused) {
        // Text that is already one string cannot be searched before its end is known.
        die(b->where, "%s: \"%s\" after the tokens were joined by \"%s\" is not supported", path,
            type, last->kind == DECODE_BYTES ? "ByteLevel" : "Fuse");
    } else if (strcmp(type, "ByteLevel") == 0) {
        add_decoder(b, DECODE_BYTES);
    } else if (strcmp(type, "ByteFallback") == 0) {
        for (uint32_t i = 0; i < b->header.decoders.count; i++)
            if (b->decoders[i].kind == DECODE_BYTE_FALLBACK)
                die(b->where, "%s: a second ByteFallback is not supported", path);
        add_decoder(b, DECODE_BYTE_FALLBACK);
    } else if (strcmp(type, "Replace") == 0) {
        int regex;
        const char *pattern = get_pattern(b, path, d, &regex);
        if (regex) die(b->where, "%s: Replace by a regular expression is not supported", path);
        VocabStep *step = add_decoder(b, DECODE_REPLACE);
        step->text = add_text(b, pattern);
        step->content = add_text(b, get_string(b, path, d, "content"));
    } else if (strcmp(type, "Metaspace") == 0) {
        VocabStep *step = add_decoder(b, DECODE_METASPACE);
        uint32_t scheme;
        step->text = add_text(b, read_metaspace(b, path, d, &scheme));
        step->flag = scheme != PREPEND_NEVER;
    } else {
        refuse_type(b, path, type);
    }
}

// Puts the ids of one template around those of the processors before it.
static void read_template(Build *b, const cJSON *p)
{
    const char *path = "post_processor";
    const cJSON *pieces = get_list(b, path, p, "single"), *piece, *id;
    const cJSON *tokens = json_get(p, "special_tokens");
    uint32_t room = b->prefix_count + b->suffix_count;
    cJSON_ArrayForEach(piece, pieces)
    {
        const cJSON *special = json_get(piece, "SpecialToken");
        if (special)
            room += (uint32_t)cJSON_GetArraySize(
                json_get(json_get(tokens, get_string(b, path, special, "id")), "ids"));
        if (room > 4096) die(b->where, "%s: more than 4096 special tokens", path);
    }
    int32_t *prefix = arena_alloc((room + 1) * sizeof *prefix);
    int32_t *suffix = arena_alloc((room + 1) * sizeof *suffix);
    uint32_t prefix_count = 0, suffix_count = 0;
    int sequences = 0;
    memcpy(suffix, b->suffix, b->suffix_count * sizeof *suffix);
    suffix_count = b->suffix_count;
    cJSON_ArrayForEach(piece, pieces)
    {
        const cJSON *special = json_get(piece, "SpecialToken");
        const cJSON *sequence = json_get(piece, "Sequence");
        if (!special == !sequence)
            die(b->where, "%s: a piece of the template is neither SpecialToken nor Sequence", path);
        if (sequence) {
            if (strcmp(get_string(b, path, sequence, "id"), "A") != 0 || sequences++)
                die(b->where, "%s: the template \"single\" does not hold sequence A once", path);
            continue;
        }
        const char *name = get_string(b, path, special, "id");
        const cJSON *entry = json_get(tokens, name);
        if (!entry) die(b->where, "%s: special token \"%s\" is not defined", path, name);
        cJSON_ArrayForEach(id, get_list(b, path, entry, "ids"))
        {
            int64_t value = json_whole(b->where, "post_processor: id", id, 0, b->ids - 1);
            if (!b->kind[value])
                die(b->where, "%s: there is no token with id %lld", path, (long long)value);
            if (sequences)
                suffix[suffix_count++] = (int32_t)value;
            else
                prefix[prefix_count++] = (int32_t)value;
        }
    }
    if (!sequences)
        die(b->where, "%s: the template \"single\" does not hold sequence A once", path);
    memcpy(prefix + prefix_count, b->prefix, b->prefix_count * sizeof *prefix);
    b->prefix = prefix;
    b->suffix = suffix;
    b->prefix_count += prefix_count;
    b->suffix_count = suffix_count;
}

static void read_processor(Build *b, const cJSON *p)
{
    const char *path = "post_processor", *type = get_string(b, path, p, "type");
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *child;
        cJSON_ArrayForEach(child, get_list(b, path, p, "processors")) read_processor(b, child);
    } else if (strcmp(type, "TemplateProcessing") == 0) {
        read_template(b, p);
    } else if (strcmp(type, "ByteLevel") != 0) { // which changes offsets only
        refuse_type(b, path, type);
    }
}

// --- vocabulary ----------------------------------------------------------------------------------

// An id may exceed the number of tokens, because vocabularies have holes, but not by far.
static uint32_t read_id(Build *b, const char *name, const cJSON *v, size_t tokens)
{
    size_t limit = tokens * 16 + 65535;
    if (limit > 0xffffff) limit = 0xffffff;
    double id = cJSON_IsNumber(v) ? v->valuedouble : -1;
    if (id >= 0 && id <= (double)limit && id == (uint32_t)id) return (uint32_t)id;
    const char *key = arena_format("id of token \"%.60s\"", name);
    return (uint32_t)json_whole(b->where, key, v, 0, (int64_t)limit);
}

static void read_vocabulary(Build *b, const cJSON *vocab, const cJSON *added)
{
    const cJSON *v;
    size_t tokens = (size_t)cJSON_GetArraySize(vocab) + (size_t)cJSON_GetArraySize(added);
    size_t model_tokens = (size_t)cJSON_GetArraySize(vocab), text = 0;
    cJSON_ArrayForEach(v, vocab)
    {
        uint32_t id = read_id(b, v->string, v, tokens);
        if (id >= b->ids) b->ids = id + 1;
    }
    cJSON_ArrayForEach(v, added)
    {
        const char *content = get_string(b, "added_tokens", v, "content");
        uint32_t id = read_id(b, content, json_get(v, "id"), tokens);
        if (id >= b->ids) b->ids = id + 1;
    }
    if (!b->ids) die(b->where, "model: the vocabulary is empty");
    b->name = arena_alloc(b->ids * sizeof *b->name);
    b->kind = arena_alloc(b->ids);
    for (b->slot_count = 16; b->slot_count < 2 * tokens;) b->slot_count *= 2;
    b->slots = arena_alloc(b->slot_count * sizeof *b->slots);
    cJSON_ArrayForEach(v, vocab)
    {
        uint32_t id = (uint32_t)v->valuedouble;
        if (b->kind[id])
            die(b->where, "tokens \"%.60s\" and \"%.60s\" have the same id %u", b->name[id],
                v->string, id);
        b->name[id] = v->string;
        b->kind[id] = TOKEN_MODEL;
        insert_token(b, id);
    }

    // The package gives an added token the id of the same string in the vocabulary, otherwise the
    // next free one. The model was trained with that id, so a file that states another is refused.
    int64_t highest = -1;
    cJSON_ArrayForEach(v, added)
    {
        const char *content = get_string(b, "added_tokens", v, "content");
        uint32_t id = (uint32_t)json_get(v, "id")->valuedouble;
        if (!*content) die(b->where, "added_tokens: the token with id %u is empty", id);
        int64_t expected = find_token(b, content, TOKEN_MODEL | TOKEN_ADDED);
        if (expected < 0)
            expected = highest >= (int64_t)model_tokens ? highest + 1 : (int64_t)model_tokens;
        if (id != expected)
            die(b->where, "added_tokens: \"%.60s\" has id %u, expected %lld", content, id,
                (long long)expected);
        if (b->kind[id] & TOKEN_ADDED) die(b->where, "added_tokens: two tokens \"%.60s\"", content);
        if (b->kind[id] && strcmp(b->name[id], content) != 0)
            die(b->where, "tokens \"%.60s\" and \"%.60s\" have the same id %u", b->name[id],
                content, id);
        if (!b->kind[id]) {
            b->name[id] = (char *)content;
            insert_token(b, id);
        }
        b->kind[id] |= TOKEN_ADDED;
        if (get_bool(b, "added_tokens", v, "special", -1)) b->kind[id] |= TOKEN_SPECIAL;
        if (id > highest) highest = id;
    }
    for (uint32_t id = 0; id < b->ids; id++) text += b->name[id] ? strlen(b->name[id]) : 0;
    if (text > 0x7fffffff) die(b->where, "the vocabulary has more than 2 GB of text");
    b->text_bytes = (uint32_t)text;
}

static int compare_pairs(const void *a, const void *b)
{
    const Pair *p = a, *q = b;
    if (p->left != q->left) return p->left < q->left ? -1 : 1;
    if (p->to.right != q->to.right) return p->to.right < q->to.right ? -1 : 1;
    return p->to.rank < q->to.rank ? 1 : -1; // of equal pairs the last one counts
}

static uint32_t merge_token(Build *b, uint32_t rank, const char *name)
{
    int32_t id = find_token(b, name, TOKEN_MODEL);
    if (id < 0) die(b->where, "merge %u: \"%.100s\" is not in the vocabulary", rank, name);
    return (uint32_t)id;
}

// Merges come as "left right" or, in newer files, as ["left", "right"].
static Pair *read_merges(Build *b, const cJSON *merges, uint32_t *count)
{
    Pair *pairs = arena_alloc(((size_t)cJSON_GetArraySize(merges) + 1) * sizeof *pairs);
    const cJSON *v;
    uint32_t rank = 0, kept = 0;
    int words = cJSON_IsString(merges->child);
    cJSON_ArrayForEach(v, merges)
    {
        const char *left, *right;
        if (words) {
            if (!cJSON_IsString(v)) die(b->where, "merge %u is not a string like the first", rank);
            if (strncmp(v->valuestring, "#version", 8) == 0) continue;
            const char *space = strchr(v->valuestring, ' ');
            if (!space || strchr(space + 1, ' '))
                die(b->where, "merge %u is \"%.100s\", expected two tokens", rank, v->valuestring);
            left = arena_copy(v->valuestring, (size_t)(space - v->valuestring));
            right = space + 1;
        } else {
            if (!cJSON_IsArray(v) || cJSON_GetArraySize(v) != 2 || !cJSON_IsString(v->child) ||
                !cJSON_IsString(v->child->next))
                die(b->where, "merge %u is not a pair of strings", rank);
            left = v->child->valuestring;
            right = v->child->next->valuestring;
        }
        uint32_t l = merge_token(b, rank, left), r = merge_token(b, rank, right);
        pairs[rank] = (Pair){l, rank, {r, rank, merge_token(b, rank, join(left, right))}};
        rank++;
    }
    if (rank) qsort(pairs, rank, sizeof *pairs, compare_pairs);
    for (uint32_t i = 0; i < rank; i++)
        if (!kept || pairs[i].left != pairs[kept - 1].left ||
            pairs[i].to.right != pairs[kept - 1].to.right)
            pairs[kept++] = pairs[i];
    *count = kept;
    return pairs;
}

// --- writing -------------------------------------------------------------------------------------

static void *start_section(Build *b, VocabSpan *span, size_t count, size_t size)
{
    buffer_align(b->out, 8);
    if (b->out->bytes - b->base + count * size > 0xfffffff0u)
        die(b->where, "the tokenizer's tables exceed 4 GB");
    *span = (VocabSpan){(uint32_t)(b->out->bytes - b->base), (uint32_t)count};
    return arena_alloc(count * size + 1);
}

static void write_list(Build *b, VocabSpan *span, const void *list, size_t count, size_t size)
{
    start_section(b, span, count, size);
    buffer_add(b->out, list, count * size);
}

static void write_tables(Build *b, const Pair *pairs, uint32_t pair_count, const cJSON *added)
{
    VocabHeader *h = &b->header;
    buffer_align(b->out, 8);
    b->base = b->out->bytes;
    memcpy(h->magic, VOCAB_MAGIC, sizeof VOCAB_MAGIC);
    h->version = VOCAB_VERSION;
    buffer_add(b->out, h, sizeof *h);

    uint32_t *ends = start_section(b, &h->ends, b->ids, sizeof *ends), end = 0;
    for (uint32_t id = 0; id < b->ids; id++)
        ends[id] = end += b->name[id] ? (uint32_t)strlen(b->name[id]) : 0;
    buffer_add(b->out, ends, b->ids * sizeof *ends);
    write_list(b, &h->kinds, b->kind, b->ids, 1);
    write_list(b, &h->slots, b->slots, b->slot_count, sizeof *b->slots);

    uint32_t *merge_ends = start_section(b, &h->merge_ends, b->ids, sizeof *merge_ends);
    for (uint32_t id = 0, i = 0; id < b->ids; id++) {
        while (i < pair_count && pairs[i].left == id) i++;
        merge_ends[id] = i;
    }
    buffer_add(b->out, merge_ends, b->ids * sizeof *merge_ends);
    VocabMerge *merges = start_section(b, &h->merges, pair_count, sizeof *merges);
    for (uint32_t i = 0; i < pair_count; i++) merges[i] = pairs[i].to;
    buffer_add(b->out, merges, pair_count * sizeof *merges);

    size_t added_count = (size_t)cJSON_GetArraySize(added), n = 0;
    VocabAdded *list = start_section(b, &h->added, added_count, sizeof *list);
    const cJSON *v;
    // Special tokens come first: of two that look the same when normalized, the first is found.
    for (int special = 1; special >= 0; special--) {
        cJSON_ArrayForEach(v, added)
        {
            uint32_t id = (uint32_t)json_get(v, "id")->valuedouble, flags = 0;
            if (((b->kind[id] & TOKEN_SPECIAL) != 0) != special) continue;
            if (get_bool(b, "added_tokens", v, "lstrip", -1)) flags |= ADDED_LSTRIP;
            if (get_bool(b, "added_tokens", v, "rstrip", -1)) flags |= ADDED_RSTRIP;
            if (get_bool(b, "added_tokens", v, "single_word", -1)) flags |= ADDED_SINGLE_WORD;
            if (get_bool(b, "added_tokens", v, "normalized", -1)) flags |= ADDED_NORMALIZED;
            list[n++] = (VocabAdded){id, flags};
        }
    }
    buffer_add(b->out, list, n * sizeof *list);
    write_list(b, &h->prefix, b->prefix, b->prefix_count, sizeof *b->prefix);
    write_list(b, &h->suffix, b->suffix, b->suffix_count, sizeof *b->suffix);
    write_list(b, &h->normalizers, b->normalizers, h->normalizers.count, sizeof(VocabStep));
    write_list(b, &h->pretokenizers, b->pretokenizers, h->pretokenizers.count, sizeof(VocabStep));
    write_list(b, &h->decoders, b->decoders, h->decoders.count, sizeof(VocabStep));

    start_section(b, &h->text, b->text_bytes, 1);
    for (uint32_t id = 0; id < b->ids; id++)
        if (b->name[id]) buffer_add(b->out, b->name[id], strlen(b->name[id]));
    for (uint32_t i = 0; i < b->step_texts; i++)
        buffer_add(b->out, b->step_text[i], strlen(b->step_text[i]));
    buffer_align(b->out, 8);
    h->bytes = b->out->bytes - b->base;
    memcpy(b->out->data + b->base, h, sizeof *h);
}

// --- the whole file ------------------------------------------------------------------------------

// An option of the model that must be absent, null or the given empty value.
static void expect_empty(Build *b, const cJSON *model, const char *key)
{
    const cJSON *v = json_get(model, key);
    if (!v || cJSON_IsNull(v) || (cJSON_IsString(v) && !*v->valuestring) ||
        (cJSON_IsNumber(v) && v->valuedouble == 0))
        return;
    die(b->where, "model: %s is not supported", key);
}

static uint32_t read_flag(Build *b, const cJSON *model, const char *key, uint32_t flag)
{
    const cJSON *v = json_get(model, key);
    return v && !cJSON_IsNull(v) && get_bool(b, "model", model, key, 0) ? flag : 0;
}

static void compile(const char *where, const char *text, size_t bytes, const char *bos,
                    const char *eos, Buffer *out)
{
    Build *b = arena_alloc(sizeof *b);
    b->where = where;
    b->out = out;
    b->header.unk = -1;
    cJSON *file = parse_json(where, text, bytes);
    if (!cJSON_IsObject(file)) die(where, "not an object");

    const cJSON *model = json_get(file, "model"), *type = json_get(model, "type");
    if (!cJSON_IsObject(model)) die(where, "model is missing");
    if (type && !cJSON_IsString(type)) die(where, "model: type is not a string");
    if (type && strcmp(type->valuestring, "BPE") != 0) refuse_type(b, "model", type->valuestring);
    const cJSON *vocab = json_get(model, "vocab"), *merges = json_get(model, "merges");
    if (!cJSON_IsObject(vocab)) die(where, "model: vocab is not an object");
    if (!cJSON_IsArray(merges)) die(where, "model: merges is not a list");
    const cJSON *added = json_get(file, "added_tokens");
    if (added && !cJSON_IsArray(added)) die(where, "added_tokens is not a list");
    expect_empty(b, model, "dropout");
    expect_empty(b, model, "continuing_subword_prefix");
    expect_empty(b, model, "end_of_word_suffix");
    b->header.flags = read_flag(b, model, "byte_fallback", VOCAB_BYTE_FALLBACK) |
                      read_flag(b, model, "fuse_unk", VOCAB_FUSE_UNK) |
                      read_flag(b, model, "ignore_merges", VOCAB_IGNORE_MERGES);

    read_vocabulary(b, vocab, added);
    const cJSON *unk = json_get(model, "unk_token");
    if (unk && !cJSON_IsNull(unk)) {
        b->header.unk = find_token(b, get_string(b, "model", model, "unk_token"), TOKEN_MODEL);
        if (b->header.unk < 0)
            die(where, "model: unk_token \"%.100s\" is not in the vocabulary", unk->valuestring);
    }
    uint32_t pair_count;
    Pair *pairs = read_merges(b, merges, &pair_count);

    // Truncation and padding are for training and batches; generation never applies them.
    const cJSON *part;
    if ((part = json_get(file, "normalizer")) && !cJSON_IsNull(part)) read_normalizer(b, part);
    if ((part = json_get(file, "pre_tokenizer")) && !cJSON_IsNull(part)) read_pretokenizer(b, part);
    if ((part = json_get(file, "decoder")) && !cJSON_IsNull(part)) {
        read_decoder(b, part);
        // A sequence of no steps joins the tokens as they are; no decoder puts spaces between them.
        if (!b->header.decoders.count) add_decoder(b, DECODE_FUSE);
    }
    b->prefix = b->suffix = arena_alloc(1);
    if ((part = json_get(file, "post_processor")) && !cJSON_IsNull(part)) read_processor(b, part);
    check_first(b);

    b->header.bos = bos ? find_token(b, bos, ~0) : -1;
    b->header.eos = eos ? find_token(b, eos, ~0) : -1;
    write_tables(b, pairs, pair_count, added);
    cJSON_Delete(file);
}

void compile_tokenizer_text(const char *where, const char *text, size_t bytes, Buffer *out)
{
    compile(where, text, bytes, NULL, NULL, out);
}

// Files of this kind usually hold a model_max_length of 10^30, which parse_json refuses.
cJSON *read_tokenizer_config(const char *path)
{
    Buffer text;
    if (!read_file_if_present(path, &text)) return NULL;
    cJSON *config =
        utf8_valid(text.data, text.bytes) ? cJSON_ParseWithLength(text.data, text.bytes) : NULL;
    if (!cJSON_IsObject(config)) die(path, "not a JSON object");
    buffer_free(&text);
    return config;
}

// "bos_token": "<s>" or {"content": "<s>", ...} or null.
static const char *read_config_token(const char *path, const cJSON *config, const char *key)
{
    const cJSON *v = json_get(config, key);
    if (!v || cJSON_IsNull(v)) return NULL;
    if (cJSON_IsObject(v)) v = json_get(v, "content");
    if (!cJSON_IsString(v)) die(path, "%s is neither a string nor an object with content", key);
    return v->valuestring;
}

void compile_tokenizer(const char *dir, Buffer *out)
{
    Buffer text;
    char *path = arena_format("%s/tokenizer.json", dir);
    if (!read_file_if_present(path, &text)) return;
    char *config_path = arena_format("%s/tokenizer_config.json", dir);
    cJSON *config = read_tokenizer_config(config_path);
    compile(path, text.data, text.bytes, read_config_token(config_path, config, "bos_token"),
            read_config_token(config_path, config, "eos_token"), out);
    cJSON_Delete(config);
    buffer_free(&text);
}
