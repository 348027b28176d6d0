// Strict JSON for the compiler: one scan of the text rejects what cJSON would let pass, then cJSON
// builds the tree.
#include "json.h"
#include "util.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 128

typedef struct {
    const char *where, *text, *p, *end;
    char *copy; // of text, for cJSON
} Scan;

static _Noreturn void fail(Scan *s, const char *what)
{
    die(s->where, "byte %zu: %s", (size_t)(s->p - s->text), what);
}

static void skip_space(Scan *s)
{
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
        s->p++;
}

static void scan_string(Scan *s)
{
    if (s->p >= s->end || *s->p != '"') fail(s, "expected a string");
    s->p++;
    while (s->p < s->end && *s->p != '"') {
        if ((unsigned char)*s->p < 32) fail(s, "control character in a string");
        if (*s->p != '\\') {
            s->p++;
            continue;
        }
        if (++s->p >= s->end) fail(s, "unfinished string");
        if (*s->p == 'u') {
            for (int i = 1; i <= 4; i++)
                if (s->end - s->p <= i || !strchr("0123456789abcdefABCDEF", s->p[i]) || !s->p[i])
                    fail(s, "bad \\u escape");
            // cJSON ends a string at a zero; a key or value holding one would be read short.
            if (memcmp(s->p + 1, "0000", 4) == 0) fail(s, "\\u0000 in a string");
            s->p += 5;
        } else if (*s->p && strchr("\"\\/bfnrt", *s->p)) {
            s->p++;
        } else {
            fail(s, "unknown escape");
        }
    }
    if (s->p >= s->end) fail(s, "unfinished string");
    s->p++;
}

// Python writes an infinite number as this word, which cJSON reads when it is written otherwise.
static int scan_infinity(Scan *s)
{
    static const char word[] = "Infinity", number[] = "1e999   ";
    size_t n = sizeof word - 1;
    if ((size_t)(s->end - s->p) < n || memcmp(s->p, word, n) != 0) return 0;
    memcpy(s->copy + (s->p - s->text), number, n);
    s->p += n;
    return 1;
}

static void scan_number(Scan *s)
{
    const char *start = s->p;
    int whole = 1;
    if (*s->p == '-') s->p++;
    if (scan_infinity(s)) return;
    if (s->p >= s->end || *s->p < '0' || *s->p > '9') fail(s, "bad number");
    if (*s->p == '0' && s->p + 1 < s->end && s->p[1] >= '0' && s->p[1] <= '9')
        fail(s, "number with a leading zero");
    while (s->p < s->end && *s->p && strchr("0123456789.eE+-", *s->p)) {
        if (strchr(".eE", *s->p)) whole = 0;
        s->p++;
    }
    char copy[400], *rest;
    size_t n = (size_t)(s->p - start);
    if (n >= sizeof copy) fail(s, "number of more than 399 characters");
    memcpy(copy, start, n);
    copy[n] = 0;
    double value = strtod(copy, &rest);
    if (*rest) fail(s, "bad number");
    if (whole && fabs(value) > 9007199254740992.0) fail(s, "integer beyond 2^53");
}

static void scan_value(Scan *s, int depth)
{
    if (depth > MAX_DEPTH) fail(s, "nested deeper than 128");
    skip_space(s);
    if (s->p >= s->end) fail(s, "unexpected end");
    if (*s->p == '{' || *s->p == '[') {
        char open = *s->p++, close = open == '{' ? '}' : ']';
        skip_space(s);
        if (s->p < s->end && *s->p == close) {
            s->p++;
            return;
        }
        for (;;) {
            if (open == '{') {
                skip_space(s);
                scan_string(s);
                skip_space(s);
                if (s->p >= s->end || *s->p != ':') fail(s, "expected ':'");
                s->p++;
            }
            scan_value(s, depth + 1);
            skip_space(s);
            if (s->p < s->end && *s->p == ',') {
                s->p++;
                continue;
            }
            if (s->p >= s->end || *s->p != close) fail(s, "expected ',' or a closing bracket");
            s->p++;
            return;
        }
    }
    if (*s->p == '"') {
        scan_string(s);
    } else if (*s->p == '-' || (*s->p >= '0' && *s->p <= '9')) {
        scan_number(s);
    } else if (!scan_infinity(s)) {
        static const char *const words[] = {"true", "false", "null"};
        for (int i = 0; i < 3; i++) {
            size_t n = strlen(words[i]);
            if ((size_t)(s->end - s->p) >= n && memcmp(s->p, words[i], n) == 0) {
                s->p += n;
                return;
            }
        }
        fail(s, "expected a value");
    }
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void check_keys(const char *where, const cJSON *node)
{
    size_t count = 0;
    for (const cJSON *c = node->child; c; c = c->next) {
        count++;
        if (c->child) check_keys(where, c);
    }
    if (!cJSON_IsObject(node) || count < 2) return;
    const char **keys = cJSON_malloc(count * sizeof *keys);
    if (!keys) die("memory", "cannot allocate %zu keys", count);
    size_t i = 0;
    for (const cJSON *c = node->child; c; c = c->next) keys[i++] = c->string;
    qsort(keys, count, sizeof *keys, compare_keys);
    for (i = 1; i < count; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0) die(where, "key \"%s\" twice in one object", keys[i]);
    cJSON_free(keys);
}

// What it holds is cJSON's, like the tree, so that who catches die can give all of it back.
cJSON *parse_json(const char *where, const char *text, size_t bytes)
{
    if (!utf8_valid(text, bytes)) die(where, "not valid UTF-8");
    Scan s = {where, text, text, text + bytes, cJSON_malloc(bytes + 1)};
    if (!s.copy) die("memory", "cannot allocate %zu bytes", bytes);
    memcpy(s.copy, text, bytes);
    if (bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) s.p += 3;
    const char *start = s.copy + (s.p - text);
    scan_value(&s, 0);
    skip_space(&s);
    if (s.p != s.end) fail(&s, "text after the JSON value");
    cJSON *tree = cJSON_ParseWithLength(start, (size_t)(s.copy + bytes - start));
    cJSON_free(s.copy);
    if (!tree) die(where, "not valid JSON");
    check_keys(where, tree);
    return tree;
}

cJSON *read_json_if_present(const char *path)
{
    Buffer b;
    if (!read_file_if_present(path, &b)) return NULL;
    cJSON *tree = parse_json(path, b.data, b.bytes);
    buffer_free(&b);
    return tree;
}

cJSON *read_json(const char *path)
{
    cJSON *tree = read_json_if_present(path);
    if (!tree) die(path, "no such file");
    return tree;
}

const cJSON *json_get(const cJSON *object, const char *key)
{
    return cJSON_IsObject(object) ? cJSON_GetObjectItemCaseSensitive(object, key) : NULL;
}

int64_t json_whole(const char *where, const char *key, const cJSON *value, int64_t low,
                     int64_t high)
{
    if (!cJSON_IsNumber(value) || value->valuedouble != floor(value->valuedouble) ||
        value->valuedouble < (double)low || value->valuedouble > (double)high) {
        char *found = value ? cJSON_PrintUnformatted(value) : NULL;
        die(where, "%s is %.80s, expected a whole number from %lld to %lld", key,
            found ? found : "missing", (long long)low, (long long)high);
    }
    return (int64_t)value->valuedouble;
}
