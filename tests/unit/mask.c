// Masks against slow judges: of regular expressions, whether PCRE2 says that a text with one more
// token is a match or the beginning of one, for every token of a vocabulary; of JSON, whether
// jansson reads what random walks through masks have written.
#include "compiler/tokenizer.h"
#include "runtime/mask.h"
#include "runtime/notation.h"
#include "runtime/pattern.h"
#include "runtime/sample.h"
#include "runtime/schema.h"
#include "tests/check.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <time.h>

static Tokens *tokens;
static Vocabulary *vocabulary;
static uint32_t *mask;
static unsigned seed = 1;

static unsigned pick(unsigned below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static Matcher *compile(Grammar *g, int rule)
{
    Error err = {{0}};
    Matcher *m = matcher_open(g, rule, &err);
    CHECK_MSG(m, "%s", err.text);
    return m;
}

// The `number`th of the allowed tokens; -1 when there are none.
static int32_t allowed_token(unsigned number)
{
    int count = 0;
    for (int pass = 0; pass < 2; pass++) {
        int seen = 0;
        for (int32_t id = 0; id < tokens_count(tokens); id++)
            if (HAS_BIT(mask, id) && seen++ == (int)(number % (unsigned)(count ? count : 1)) &&
                pass)
                return id;
        count = seen;
    }
    return -1;
}

// --- regular expressions -------------------------------------------------------------------------

// A text of `bytes` whole characters' beginnings could be one, or become one. What ends within a
// character is only asked up to there.
static int viable(pcre2_code *code, pcre2_match_data *data, const char *text, size_t bytes,
                  int whole)
{
    int found = pcre2_match(code, (PCRE2_SPTR)text, bytes, 0,
                            PCRE2_ANCHORED | (whole ? 0 : PCRE2_PARTIAL_HARD), data, NULL);
    return found >= 0 || (!whole && found == PCRE2_ERROR_PARTIAL);
}

static int is_ascii(const char *s, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)s[i] >= 0x80) return 0;
    return 1;
}

// Along one random text: every ASCII token, and whether the text may end.
static void walk_regex(Matcher *m, pcre2_code *code, pcre2_match_data *data, const char *pattern)
{
    char text[4096];
    size_t bytes = 0;
    Place place;
    place_enter(m, &place);
    for (int step = 0; step < 8; step++) {
        int wrong = 0;
        CHECK(mask_fill(m, vocabulary, &place, NULL, 0, mask) == 0);
        for (int32_t id = 0; id < tokens_count(tokens); id++) {
            size_t n;
            const char *s = tokens_bytes(tokens, id, &n);
            if (!n || tokens_is_special(tokens, id)) {
                wrong += HAS_BIT(mask, id);
                continue;
            }
            if (!is_ascii(s, n) || bytes + n > sizeof text) continue;
            memcpy(text + bytes, s, n);
            if ((int)HAS_BIT(mask, id) != viable(code, data, text, bytes + n, 0) && wrong++ < 3)
                fprintf(stderr, "%s: '%.*s' is %s allowed\n", pattern, (int)(bytes + n), text,
                        HAS_BIT(mask, id) ? "" : "not");
        }
        CHECK_MSG(!wrong, "%s: %d tokens after '%.*s'", pattern, wrong, (int)bytes, text);
        CHECK_MSG(match_accepts(m, place.state) == viable(code, data, text, bytes, 1),
                  "%s: the end of '%.*s'", pattern, (int)bytes, text);
        int32_t id = allowed_token(pick(100000));
        size_t n = 0;
        const char *s = id < 0 ? "" : tokens_bytes(tokens, id, &n);
        if (id < 0 || !is_ascii(s, n) || bytes + n > 3000) break;
        CHECK(mask_read(m, &place, tokens, id, 0) == 0);
        memcpy(text + bytes, s, n);
        bytes += n;
    }
    place_leave(&place);
}

static void test_regexes(void)
{
    static const char *const patterns[] = {"[a-z]+( [a-z]+)*\\.?",
                                           "(?:The|A) (city|town) of [A-Z][a-z]{2,7}",
                                           "\\d{1,3}(,\\d{3})*(\\.\\d+)?",
                                           "(a|ab|abc)(d|cd|bcd)e*",
                                           "\\w{3,5}-\\w{3,5}",
                                           "\"([^\"\\\\]|\\\\.){0,30}\"",
                                           "(?:[^aeiou\\n]{1,2}[aeiou]){2,9}",
                                           "\\s*[!-~]+\\s*",
                                           "x*y*z*",
                                           "(ab?){2,40}",
                                           "[^\\n]{0,7}",
                                           "[-\\w.]+@[a-z]+\\.(com|org)",
                                           "",
                                           "a{0}b",
                                           "(|a)(|b)c",
                                           "\\((?:[^()]|\\([^()]*\\))*\\)"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        int error;
        size_t at;
        char ended[256];
        snprintf(ended, sizeof ended, "(?:%s)\\z", patterns[i]);
        pcre2_code *code =
            pcre2_compile((PCRE2_SPTR)ended, PCRE2_ZERO_TERMINATED,
                          PCRE2_NO_START_OPTIMIZE | PCRE2_NO_AUTO_POSSESS, &error, &at, NULL);
        CHECK_MSG(code, "%s", patterns[i]);
        pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
        Grammar *g = grammar_open();
        int rule = grammar_fresh(g);
        grammar_define(g, rule, pattern_read(g, patterns[i], strlen(patterns[i]), 0, 0).e);
        Matcher *m = compile(g, rule);
        for (int walk = 0; m && walk < 3; walk++) walk_regex(m, code, data, patterns[i]);
        matcher_close(m);
        pcre2_match_data_free(data);
        pcre2_code_free(code);
    }
}

// --- JSON ----------------------------------------------------------------------------------------

// Random walks, which turn to an end where they can after a while: all are JSON.
static void test_json(void)
{
    Grammar *g = grammar_open();
    Matcher *m = compile(g, notation_object(g));
    int ended = 0;
    for (int walk = 0; walk < 60; walk++) {
        TokenText text = {0};
        Place place;
        Error err;
        place_enter(m, &place);
        for (int step = 0; step < 4000 && !match_ends(m, place.state); step++) {
            CHECK(mask_fill(m, vocabulary, &place, NULL, 0, mask) == 0);
            int32_t id = allowed_token(pick(1 << 20)), close[] = {'"', '}', ']', '0', 'e', 'l'};
            for (size_t k = 0; step > 20 && k < sizeof close / sizeof *close; k++) {
                char one = (char)close[k];
                int32_t token = tokens_find(tokens, &one, 1);
                if (token >= 0 && HAS_BIT(mask, token)) {
                    id = token;
                    break;
                }
            }
            CHECK(id >= 0 && mask_read(m, &place, tokens, id, 0) == 0);
            CHECK(tokens_decode(tokens, &id, 1, 0, &text, &err) == 0);
        }
        if (match_accepts(m, place.state)) {
            // Token by token the bytes may be cut within characters: joined they are the same.
            json_t *json = json_loadb(text.data, text.bytes, 0, NULL);
            ended++;
            CHECK_MSG(json_is_object(json) || !is_ascii(text.data, text.bytes), "%.*s",
                      (int)text.bytes, text.data);
            json_decref(json);
        }
        place_leave(&place);
        free(text.data);
    }
    CHECK_MSG(ended > 40, "%d ended", ended);
    matcher_close(m);
}

// --- in several goes -----------------------------------------------------------------------------

static Matcher *matcher_of(const char *schema)
{
    Grammar *g = grammar_open();
    json_t *json = json_loads(schema, JSON_DECODE_ANY, NULL);
    Matcher *m = compile(g, schema_read(g, json));
    json_decref(json);
    return m;
}

// Along two texts of one matcher, whose masks are made in turns, a little at a time: the same masks
// as another matcher's at once.
static void test_goes(void)
{
    static const char schema[] =
        "{\"type\": \"array\", \"minItems\": 4, \"items\": {\"type\": \"object\", \"properties\": "
        "{\"id\": "
        "{\"type\": "
        "\"string\", \"maxLength\": 9}, \"n\": {\"type\": \"number\"}}, \"required\": [\"id\"]}}";
    Matcher *little = matcher_of(schema), *whole = matcher_of(schema);
    size_t words = BIT_WORDS(tokens_count(tokens));
    uint32_t *parts[] = {calloc(words, sizeof *mask), calloc(words, sizeof *mask)};
    Place at[2], same[2];
    MaskWork work[2] = {0};
    int goes = 0, wrong = 0, ends[2] = {0};
    for (int k = 0; k < 2; k++) place_enter(little, &at[k]), place_enter(whole, &same[k]);
    for (int step = 0; step < 60 && !ends[0] && !ends[1]; step++) {
        int made[2] = {0};
        for (int k = 0; k < 2; k++)
            CHECK(mask_begin(&work[k], little, vocabulary, &at[k], NULL, 0, parts[k]) == 0);
        while (!made[0] || !made[1])
            for (int k = 0; k < 2; k++, goes++) {
                int64_t budget = 20 + pick(200);
                int status = mask_go_on(&work[k], &budget);
                CHECK(status >= 0);
                made[k] |= status == 0;
            }
        for (int k = 0; k < 2; k++) {
            CHECK(mask_fill(whole, vocabulary, &same[k], NULL, 0, mask) == 0);
            wrong += memcmp(mask, parts[k], words * sizeof *mask) != 0;
            int32_t id = allowed_token(pick(1 << 20));
            CHECK(mask_read(little, &at[k], tokens, id, 0) == 0 &&
                  mask_read(whole, &same[k], tokens, id, 0) == 0);
            ends[k] = match_ends(whole, same[k].state);
        }
    }
    CHECK_MSG(!wrong && goes > 300, "%d of the masks differ, %d goes", wrong, goes);
    // One that is dropped lets go of its matcher.
    mask_begin(&work[0], little, vocabulary, &at[0], NULL, 0, parts[0]);
    mask_drop(&work[0]);
    for (int k = 0; k < 2; k++) place_leave(&at[k]), place_leave(&same[k]), free(parts[k]);
    matcher_close(little);
    matcher_close(whole);
}

// --- prefixes and special tokens -----------------------------------------------------------------

// The token of these bytes.
static int32_t token_of(const char *text)
{
    for (int32_t id = 0; id < tokens_count(tokens); id++) {
        size_t n;
        const char *s = tokens_bytes(tokens, id, &n);
        if (n == strlen(text) && memcmp(s, text, n) == 0) return id;
    }
    return -1;
}

static int allows(const char *token)
{
    int32_t id = token_of(token);
    return id >= 0 && HAS_BIT(mask, id);
}

static void test_prefix(void)
{
    Grammar *g = grammar_open();
    int rule = grammar_fresh(g);
    grammar_define(g, rule, pattern_read(g, "(ing|ng|g)( of)?", 16, 0, 0).e);
    Matcher *m = compile(g, rule);
    Place place;
    place_enter(m, &place);
    // Behind a healed "i": the token itself, and longer ones whose rest goes on.
    CHECK(mask_fill(m, vocabulary, &place, "i", 1, mask) == 0);
    CHECK(allows("i") && allows("ing") && allows("in") && !allows("n") && !allows("is"));
    CHECK(mask_fill(m, vocabulary, &place, NULL, 0, mask) == 0);
    CHECK(allows("ing") && allows("n") && allows("g") && !allows("is"));
    CHECK(mask_read(m, &place, tokens, token_of("ing"), 1) == 0 && match_accepts(m, place.state));
    place_leave(&place);
    matcher_close(m);

    g = grammar_open();
    rule = grammar_fresh(g);
    const char *end = "<|end_of_text|>";
    grammar_define(g, rule,
                   grammar_join(g, 2, grammar_text(g, "a", 1), grammar_token(g, end, strlen(end))));
    m = compile(g, rule);
    int32_t special = tokens_find(tokens, end, strlen(end));
    place_enter(m, &place);
    CHECK(mask_fill(m, vocabulary, &place, NULL, 0, mask) == 0 && allows("a") && !allows(end));
    CHECK(place_read(m, &place, "a", 1) == 0 &&
          mask_fill(m, vocabulary, &place, NULL, 0, mask) == 0);
    // The byte that stands before a special token is a token too, and is not allowed in its place.
    CHECK(token_of("\xff") >= 0 && !allows("\xff"));
    CHECK(allows(end) && !allows("a") && !allows("<"));
    CHECK(mask_read(m, &place, tokens, special, 0) == 0 && match_ends(m, place.state));
    place_leave(&place);
    matcher_close(m);
}

// --- time ----------------------------------------------------------------------------------------

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_time(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

// Prints what masks take along a text; mask DIR SCHEMA TEXT asks it of another vocabulary.
static void time_masks(const char *schema, const char *text)
{
    json_t *json = json_loads(schema, JSON_DECODE_ANY, NULL);
    Grammar *g = grammar_open();
    Matcher *m = compile(g, schema_read(g, json));
    TokenList ids = {0};
    Error err;
    CHECK(json && tokens_encode(tokens, text, strlen(text), 0, &ids, &err) == 0);
    double *times = calloc(ids.count + 1, sizeof *times), sum = 0;
    for (int round = 0; round < 2; round++) {
        Place place;
        place_enter(m, &place);
        for (size_t i = 0; i < ids.count; i++) {
            double start = seconds();
            CHECK(mask_fill(m, vocabulary, &place, NULL, 0, mask) == 0);
            times[i] = seconds() - start;
            sum += times[i];
            CHECK_MSG(HAS_BIT(mask, ids.id[i]), "token %zu is not allowed", i);
            CHECK(mask_read(m, &place, tokens, ids.id[i], 0) == 0);
        }
        CHECK(match_accepts(m, place.state));
        place_leave(&place);
        qsort(times, ids.count, sizeof *times, by_time);
        printf("%s: %zu tokens of %d: median %.4f ms, mean %.4f, 99 %% %.3f, all %.3f\n",
               round ? "again" : "at first", ids.count, tokens_count(tokens),
               1e3 * times[ids.count / 2], 1e3 * sum / (double)ids.count,
               1e3 * times[ids.count * 99 / 100], 1e3 * times[ids.count - 1]);
        sum = 0;
    }
    free(times);
    free(ids.id);
    json_decref(json);
    matcher_close(m);
}

int main(int argc, char **argv)
{
    Buffer tables = {0};
    Error err;
    compile_tokenizer(argc > 1 ? argv[1] : "examples/wikilm", &tables);
    if (tokens_open(&tokens, tables.data, tables.bytes, &err) != 0 ||
        vocabulary_open(&vocabulary, tokens, tokens_count(tokens), &err) != 0)
        return 1;
    mask = calloc(BIT_WORDS(tokens_count(tokens)), sizeof *mask);
    if (argc > 3) {
        time_masks(argv[2], argv[3]);
    } else {
        test_regexes();
        test_json();
        test_goes();
        test_prefix();
        time_masks("{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, "
                   "\"n\": {\"type\": "
                   "\"array\", \"items\": {\"type\": \"number\"}}}, \"required\": [\"name\"]}",
                   "{\"name\": \"The city of Paris is the capital of France.\", \"n\": [1, 2.5, "
                   "-3e10, 400]}");
    }
    free(mask);
    vocabulary_close(vocabulary);
    tokens_close(tokens);
    buffer_free(&tables);
    return check_done();
}
