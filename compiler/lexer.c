// Jinja text -> tokens. White space around tags follows Jinja's lexer to the letter.
#include "lexer.h"
#include "util.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

typedef struct {
    Syntax *syntax;
    const char *source, *at, *end;
    uint32_t line;
    Token *tokens;
    size_t count, room;
} Lexer;

void fail_syntax(Syntax *syntax, uint32_t line, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 32) *c = '?';
    syntax->problem = arena_format("%s: line %u: %s", syntax->where, line, text);
    longjmp(syntax->failed, 1);
}

// --- characters ----------------------------------------------------------------------------------

// The character at `at`, which is valid UTF-8; *bytes is its length.
static int32_t char_at(const char *at, const char *end, int *bytes)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)at, end - at, &c);
    *bytes = n > 0 ? (int)n : 1;
    return n > 0 ? c : (unsigned char)*at;
}

// What Python counts as white space.
static int is_space(int32_t c)
{
    if (c < 128) return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
    return c == 0x85 || utf8proc_category(c) == UTF8PROC_CATEGORY_ZS || c == 0x2028 || c == 0x2029;
}

static const char *skip_space(const char *at, const char *end)
{
    int n;
    while (at < end && is_space(char_at(at, end, &n))) at += n;
    return at;
}

// The end of a text without the white space at its end.
static const char *strip_right(const char *start, const char *end)
{
    while (end > start) {
        const char *last = end - 1;
        while (last > start && (*last & 0xc0) == 0x80) last--;
        int n;
        if (!is_space(char_at(last, end, &n))) break;
        end = last;
    }
    return end;
}

static int is_word(int32_t c)
{
    if (c < 128) return c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
    utf8proc_category_t k = utf8proc_category(c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_NO) || k == UTF8PROC_CATEGORY_PC ||
           c == 0xb7;
}

static int starts_with(const char *at, const char *end, const char *word)
{
    size_t n = strlen(word);
    return (size_t)(end - at) >= n && memcmp(at, word, n) == 0;
}

// --- tokens
// ---------------------------------------------------------------------------------------

static Token *add_token(Lexer *x, TokenKind kind, const char *text, size_t bytes)
{
    Token token = {kind, x->line, text, bytes, 0};
    APPEND(x->tokens, x->count, x->room, token);
    return &x->tokens[x->count - 1];
}

static void move_to(Lexer *x, const char *to)
{
    for (; x->at < to; x->at++) x->line += *x->at == '\n';
}

static void add_data(Lexer *x, const char *start, const char *end)
{
    if (end > start) add_token(x, TOKEN_DATA, start, (size_t)(end - start));
}

// Digits in groups separated by single underscores; NULL when there are none.
static const char *skip_digits(const char *at, const char *end)
{
    if (at >= end || *at < '0' || *at > '9') return NULL;
    while (at < end && ((*at >= '0' && *at <= '9') ||
                        (*at == '_' && end - at > 1 && at[1] >= '0' && at[1] <= '9')))
        at++;
    return at;
}

// The end of a float that starts at `at`; NULL when the digits there are no float.
static const char *skip_float(const Lexer *x)
{
    const char *at = x->at, *end = x->end, *part;
    if (at > x->source && at[-1] == '.') return NULL;
    at = skip_digits(at, end);
    if (!at) return NULL;
    const char *whole = at;
    if (at < end && *at == '.' && (part = skip_digits(at + 1, end))) at = part;
    if (at < end && (*at | 32) == 'e') {
        const char *digits = at + 1;
        if (digits < end && (*digits == '+' || *digits == '-')) digits++;
        if ((part = skip_digits(digits, end))) at = part;
    }
    return at == whole ? NULL : at;
}

static void lex_number(Lexer *x)
{
    char copy[400];
    size_t n = 0;
    const char *end = skip_float(x);
    int is_float = end != NULL;
    static const struct {
        const char *prefix, *digits;
        int base;
    } bases[] = {{"0b", "01", 2}, {"0o", "01234567", 8}, {"0x", "0123456789abcdefABCDEF", 16}};
    int base = 10;
    for (int i = 0; i < 3 && !is_float; i++) {
        if (x->end - x->at < 3 || x->at[0] != '0' || (x->at[1] | 32) != bases[i].prefix[1])
            continue;
        const char *at = x->at + 2;
        while (at < x->end && (strchr(bases[i].digits, *at + !*at) ||
                               (*at == '_' && x->end - at > 1 && strchr(bases[i].digits, at[1]))))
            at++;
        if (at > x->at + 2) base = bases[i].base, end = at;
    }
    if (!end) {
        end = skip_digits(x->at, x->end);
        if (*x->at == '0') // 007 is 0, 0 and 7
            for (end = x->at + 1; end < x->end && *end == '0';) end++;
    }
    for (const char *at = base == 10 ? x->at : x->at + 2; at < end; at++) {
        if (*at == '_') continue;
        if (n + 1 == sizeof copy)
            fail_syntax(x->syntax, x->line, "a number of more than 399 characters");
        copy[n++] = *at;
    }
    copy[n] = 0;
    Token *token =
        add_token(x, is_float ? TOKEN_FLOAT : TOKEN_INTEGER, x->at, (size_t)(end - x->at));
    if (is_float) {
        double value = strtod(copy, NULL);
        memcpy(&token->bits, &value, 8);
    } else {
        errno = 0;
        token->bits = (uint64_t)strtoll(copy, NULL, base);
        if (errno) fail_syntax(x->syntax, x->line, "the integer %.40s is too large", copy);
    }
    move_to(x, end);
}

static void add_character(Lexer *x, Buffer *b, uint32_t c)
{
    utf8proc_uint8_t text[4];
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        fail_syntax(x->syntax, x->line, "the escape of character %x is no character", c);
    buffer_add(b, text, (size_t)utf8proc_encode_char((utf8proc_int32_t)c, text));
}

// A string in quotes, with Python's escapes.
static void lex_string(Lexer *x)
{
    char quote = *x->at;
    const char *end = x->at + 1;
    while (end < x->end && *end != quote) end += *end == '\\' && x->end - end > 1 ? 2 : 1;
    if (end >= x->end)
        fail_syntax(x->syntax, x->line, "unexpected char '%c': the string does not end", quote);
    Buffer b = {0};
    for (const char *at = x->at + 1; at < end;) {
        static const char letters[] = "\\'\"abfnrtv", values[] = "\\'\"\a\b\f\n\r\t\v";
        if (*at != '\\') {
            buffer_add(&b, at++, 1);
            continue;
        }
        char c = *++at;
        const char *known = strchr(letters, c);
        int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0, n = 0;
        uint32_t value = 0;
        if (c == '\n') {
            at++;
        } else if (c && known) {
            buffer_add(&b, &values[known - letters], 1);
            at++;
        } else if (c >= '0' && c <= '7') {
            for (; n < 3 && *at >= '0' && *at <= '7'; n++, at++)
                value = value * 8 + (uint32_t)(*at - '0');
            add_character(x, &b, value);
        } else if (digits) {
            for (at++; n < digits && at < end && *at && strchr("0123456789abcdefABCDEF", *at);
                 n++, at++)
                value = value << 4 | (uint32_t)(*at <= '9' ? *at - '0' : (*at | 32) - 'a' + 10);
            if (n < digits) fail_syntax(x->syntax, x->line, "truncated \\%c escape", c);
            add_character(x, &b, value);
        } else if (c == 'N') {
            fail_syntax(x->syntax, x->line, "\\N escapes are not supported");
        } else {
            buffer_add(&b, "\\", 1); // an unknown escape stays as it is
        }
    }
    add_token(x, TOKEN_STRING, b.bytes ? arena_copy(b.data, b.bytes) : "", b.bytes);
    buffer_free(&b);
    move_to(x, end + 1);
}

static void lex_operator(Lexer *x, Buffer *open)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                            "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        const char *o = operators[i];
        if (!starts_with(x->at, x->end, o)) continue;
        if (*o == '(') buffer_add(open, ")", 1);
        if (*o == '[') buffer_add(open, "]", 1);
        if (*o == '{') buffer_add(open, "}", 1);
        if (*o == ')' || *o == ']' || *o == '}') {
            if (!open->bytes) fail_syntax(x->syntax, x->line, "unexpected '%s'", o);
            char expected = open->data[--open->bytes];
            if (expected != *o)
                fail_syntax(x->syntax, x->line, "unexpected '%s', expected '%c'", o, expected);
        }
        add_token(x, TOKEN_OPERATOR, o, strlen(o));
        x->at += strlen(o);
        return;
    }
    int n;
    char_at(x->at, x->end, &n);
    fail_syntax(x->syntax, x->line, "unexpected char '%.*s'", n, x->at);
}

// Behind the end of a block or comment: "-%}" takes all white space, "%}" one newline, "+%}" none.
static const char *after_end(const char *at, const char *end, char sign)
{
    if (sign == '-') return skip_space(at, end);
    return sign != '+' && at < end && *at == '\n' ? at + 1 : at;
}

// The inside of a tag up to and with its end.
static void lex_tag(Lexer *x, int variable)
{
    const char *close = variable ? "}}" : "%}";
    Buffer open = {0};
    for (;;) {
        move_to(x, skip_space(x->at, x->end));
        if (x->at >= x->end) { // the parser says what is missing
            buffer_free(&open);
            return;
        }
        int sign = *x->at == '-' || (*x->at == '+' && !variable);
        if (!open.bytes && starts_with(x->at + sign, x->end, close)) {
            add_token(x, variable ? TOKEN_VARIABLE_END : TOKEN_BLOCK_END, close, 2);
            const char *next = x->at + sign + 2;
            char mark = sign ? *x->at : variable ? '+' : 0;
            move_to(x, after_end(next, x->end, mark));
            buffer_free(&open);
            return;
        }
        int n;
        if (*x->at >= '0' && *x->at <= '9') {
            lex_number(x);
        } else if (is_word(char_at(x->at, x->end, &n))) {
            const char *end = x->at;
            while (end < x->end && is_word(char_at(end, x->end, &n))) end += n;
            add_token(x, TOKEN_NAME, x->at, (size_t)(end - x->at));
            move_to(x, end);
        } else if (*x->at == '"' || *x->at == '\'') {
            lex_string(x);
        } else {
            lex_operator(x, &open);
        }
    }
}

// The part of the data from x->at to `end` that stays before a block, comment or raw block.
static const char *strip_before(Lexer *x, const char *end, char sign, int line_starts)
{
    if (sign == '-') return strip_right(x->at, end);
    if (sign == '+') return end;
    const char *line = end;
    while (line > x->at && line[-1] != '\n') line--;
    if (line == x->at && !line_starts) return end;
    return skip_space(line, end) == end ? line : end;
}

// Behind "{% raw %}" when it stands at `tag`, else NULL.
static const char *raw_begin(const char *tag, const char *end, int sign)
{
    const char *at = skip_space(tag + 2 + sign, end);
    if (!starts_with(at, end, "raw")) return NULL;
    at = skip_space(at + 3, end);
    if (starts_with(at, end, "-%}")) return skip_space(at + 3, end);
    return starts_with(at, end, "%}") ? at + 2 : NULL;
}

static void lex_raw(Lexer *x, int line_starts)
{
    for (const char *tag = x->at; tag < x->end; tag++) {
        if (!starts_with(tag, x->end, "{%")) continue;
        int sign = tag + 2 < x->end && (tag[2] == '-' || tag[2] == '+');
        const char *at = skip_space(tag + 2 + sign, x->end);
        if (!starts_with(at, x->end, "endraw")) continue;
        at = skip_space(at + 6, x->end);
        int end_sign = at < x->end && (*at == '-' || *at == '+');
        if (!starts_with(at + end_sign, x->end, "%}")) continue;
        add_data(x, x->at, strip_before(x, tag, sign ? tag[2] : 0, line_starts));
        move_to(x, after_end(at + end_sign + 2, x->end, end_sign ? *at : 0));
        return;
    }
    fail_syntax(x->syntax, x->line, "Missing end of raw directive");
}

static void lex_comment(Lexer *x)
{
    const char *close = memmem(x->at, (size_t)(x->end - x->at), "#}", 2);
    if (!close) fail_syntax(x->syntax, x->line, "Missing end of comment tag");
    char sign = close > x->at && (close[-1] == '-' || close[-1] == '+') ? close[-1] : 0;
    move_to(x, after_end(close + 2, x->end, sign));
}

static void lex(Lexer *x)
{
    while (x->at < x->end) {
        int line_starts = x->at == x->source || x->at[-1] == '\n';
        const char *tag = x->at;
        while (tag < x->end && !starts_with(tag, x->end, "{%") && !starts_with(tag, x->end, "{{") &&
               !starts_with(tag, x->end, "{#"))
            tag++;
        if (tag == x->end) {
            add_data(x, x->at, x->end);
            break;
        }
        char kind = tag[1];
        int sign = tag + 2 < x->end && (tag[2] == '-' || tag[2] == '+');
        char mark = sign ? tag[2] : 0;
        const char *stay =
            kind == '{' && mark != '-' ? tag : strip_before(x, tag, mark, line_starts);
        add_data(x, x->at, stay);
        const char *raw = kind == '%' ? raw_begin(tag, x->end, sign) : NULL;
        move_to(x, raw ? raw : tag + 2 + sign);
        if (raw) {
            lex_raw(x, raw[-1] == '\n');
        } else if (kind == '#') {
            lex_comment(x);
        } else {
            add_token(x, kind == '{' ? TOKEN_VARIABLE_BEGIN : TOKEN_BLOCK_BEGIN, tag, 2);
            lex_tag(x, kind == '{');
        }
    }
    add_token(x, TOKEN_END, "end of template", 15);
}

// The text as Jinja splits it into lines: every line ends in \n, and the last newline is no part.
static char *normalize_newlines(const char *text, size_t *bytes)
{
    char *copy = arena_alloc(*bytes + 1);
    size_t n = 0;
    for (size_t i = 0; i < *bytes; i++) {
        if (text[i] == '\r' && i + 1 < *bytes && text[i + 1] == '\n') continue;
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (n && copy[n - 1] == '\n') n--;
    *bytes = n;
    return copy;
}

Token *lex_template(Syntax *syntax, const char *text, size_t bytes)
{
    Lexer x = {.syntax = syntax, .line = 1};
    x.source = x.at = normalize_newlines(text, &bytes);
    x.end = x.source + bytes;
    lex(&x);
    return x.tokens;
}
