// Grammars as llama.cpp writes them: tables of texts that they allow and do not, and what is
// refused or given up.
#include "runtime/gbnf.h"
#include "runtime/match.h"
#include "tests/check.h"
#include <stdlib.h>

static Matcher *make(const char *text, Error *err)
{
    Grammar *g = grammar_open();
    return matcher_open(g, gbnf_read(g, text, strlen(text)), err);
}

// 1: the text is one, 0: it is none, MATCH_FAILED.
static int is_text(Matcher *m, const char *text, size_t bytes)
{
    Place place;
    place_enter(m, &place);
    int status = place_read(m, &place, text, bytes);
    int good = status == 0 ? match_accepts(m, place.state) : status == MATCH_DEAD ? 0 : status;
    place_leave(&place);
    return good;
}

static const struct {
    const char *grammar, *good[12], *bad[12];
} tables[] = {
    {"root ::= \"a\" | \"bc\"", {"a", "bc"}, {"", "b", "abc", "ac", "aa"}},
    {"root ::= \"a\"?", {"", "a"}, {"aa", "b"}},
    {"root ::= \"ab\"* \"c\"+", {"c", "abc", "ababccc"}, {"", "ab", "acc", "abac"}},
    {"root ::= [ab]{3}", {"aba", "bbb"}, {"ab", "abab", "abc"}},
    {"root ::= \"ab\"{2,}", {"abab", "ababab"}, {"ab", "ababa", ""}},
    {"root ::= [0-9]{1,3} (\",\" [0-9]{3}){0,2}",
     {"7", "123", "1,234", "12,345,678"},
     {"", "1234", "1,23", "1,234,567,890"}},
    {"root ::= (\"a\" | \"aa\"){2,3}", {"aa", "aaa", "aaaaaa"}, {"a", "aaaaaaa"}},
    {"root ::= (\"a\"? \"b\"?){2} \"c\"", {"c", "abc", "ababc", "bac"}, {"abababc", "babac"}},
    {"root ::= [^a-z\\n]",
     {"A", "é", "日", "\xf0\x9f\x98\x80", "\""},
     {"a", "m", "\n", "\x80", "\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80"}},
    {"root ::= [\\x41\\u00e9\\U0001F600\\]-] \"\\t\\\"\"",
     {"A\t\"", "é\t\"", "\xf0\x9f\x98\x80\t\"", "]\t\"", "-\t\""},
     {"B\t\"", "A\""}},
    {"root ::= [a-] .", {"ab", "-\n", "a日"}, {"bb", "a", "ab "}},
    {"root ::= [α-ω]+", {"αβγ", "ω"}, {"a", "Ω", ""}},
    {"root ::= [߿-ࠁ\u0fff-\u1001\uffff-\U00010001]",
     {"߿", "ࠀ", "ࠁ", "\xe0\xbf\xbf", "\xe1\x80\x81", "\xef\xbf\xbf", "\xf0\x90\x80\x81"},
     {"ߠ", "ࠂ", "\xe1\x80\x82", "\xef\xbf\xbe", "\xf0\x90\x80\x82"}},
    {"# a comment\nroot ::= # another\n  item (\",\" item)*\n\nitem ::= [a-z]+ |\n  \"(\" (\n "
     "root\n )? \")\"",
     {"a", "ab,c", "()", "(a,(b)),c"},
     {",", "a,", "(a", "a)", "(,)"}},
    {"root ::= expr\nexpr ::= term ((\"+\" | \"-\") term)*\nterm ::= [0-9]+ | \"(\" expr \")\"",
     {"1", "1+2", "(1-(2+3))-4"},
     {"1+", "(1", "1)", "()"}},
    {"root ::= \"a\" root \"b\" | \"\"", {"", "ab", "aaabbb"}, {"a", "aab", "abb", "ba"}},
    {"root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"x\"",
     {"x", "axb", "aaxbc", "aaaxcbc"},
     {"", "ax", "axbc"}},
    // Texts read the same both ways need all their callers kept apart.
    {"root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"a\" | \"b\" | \"\"",
     {"abba", "ababa", "bb", ""},
     {"ab", "abb", "abab"}},
    // Rules that may be empty, before, between and behind.
    {"root ::= e a e a e\na ::= \"a\"? e\ne ::= \"\" | \"-\"",
     {"", "a", "aa", "-a--a-", "-----"},
     {"aaa", "------", "b"}},
    {"root ::= x*\nx ::= y | z\ny ::= \"\"\nz ::= \"z\" | y", {"", "zzz"}, {"zy"}},
    {"root ::= a-b_c9\na-b_c9 ::= \"x\"\n", {"x"}, {"y"}},
    {"root ::= \"\"", {""}, {"a"}},
    // What would never end is not begun.
    {"root ::= \"a\" x | \"ab\" | x{0,3} \"c\"\nx ::= \"b\" x | \"a\" x x",
     {"ab", "c"},
     {"a", "abb"}},
};

static void test_tables(void)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        Error err = {{0}};
        Matcher *m = make(tables[i].grammar, &err);
        CHECK_MSG(m, "%s: %s", tables[i].grammar, err.text);
        for (int k = 0; m && k < 12 && tables[i].good[k]; k++)
            CHECK_MSG(is_text(m, tables[i].good[k], strlen(tables[i].good[k])) == 1, "%s: '%s'",
                      tables[i].grammar, tables[i].good[k]);
        for (int k = 0; m && k < 12 && tables[i].bad[k]; k++)
            CHECK_MSG(is_text(m, tables[i].bad[k], strlen(tables[i].bad[k])) == 0, "%s: not '%s'",
                      tables[i].grammar, tables[i].bad[k]);
        matcher_close(m);
    }
}

static void test_refusals(void)
{
    static const char *const cases[][2] = {
        {"", "no rule called root"},
        {"a ::= \"b\"", "no rule called root"},
        {"root = \"a\"", "line 1: expected '::='"},
        {"root ::= \"a\"\nroot ::= \"b\"", "line 2: a rule that is there already"},
        {"root ::= \"a", "a literal does not end"},
        {"root ::= [a", "the text ends too early"},
        {"root ::= [z-a]", "goes backwards"},
        {"root ::= []", "no characters"},
        {"root ::= (\"a\"", "expected ')'"},
        {"root ::= \"a\")", "without its '('"},
        {"root ::= \"a\" | *", "expected a literal"},
        {"root ::= \"a\"{3,2}", "goes backwards"},
        {"root ::= \"a\"{1000001}", "more than a million"},
        {"root ::= \"\\q\"", "an unknown escape"},
        {"root ::= \"\\xg0\"", "hexadecimal"},
        {"root ::= \"\\ud800\"", "no such character"},
        {"root ::= \"\xff\"", "not UTF-8"},
        {"root ::= <think>", "not there yet"},
        {"root ::= nowhere", "the rule nowhere is not there"},
        {"root ::= root \"a\" | \"b\"", "left recursion"},
        {"root ::= a\na ::= \"\" b\nb ::= [x]? a \"y\"", "left recursion"},
        {"root ::= (root){2}", "left recursion"},
        {"root ::= \"a\" x\nx ::= \"b\" x | \"c\" root", "it allows no text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err = {{0}};
        Matcher *m = make(cases[i][0], &err);
        CHECK_MSG(!m && strstr(err.text, cases[i][1]), "%s: %s", cases[i][0], err.text);
        matcher_close(m);
    }
}

// A text of one piece many times, between two others.
static char *many(const char *before, const char *piece, size_t count, const char *after)
{
    char *text = malloc(strlen(before) + strlen(piece) * count + strlen(after) + 1), *at = text;
    at += sprintf(at, "%s", before);
    for (size_t i = 0; i < count; i++, at += strlen(piece)) memcpy(at, piece, strlen(piece));
    sprintf(at, "%s", after);
    return text;
}

// Large and hostile ones: refused, or given up within bounds, or good.
static void test_bounds(void)
{
    char *deep = many("root ::= ", "(", 100000, "\"a\""),
         *long_one = many("root ::= \"", "a", 700000, "\"");
    const char *const refused[] = {deep, long_one};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        Error err;
        CHECK(!make(refused[i], &err));
    }
    char *as = many("", "a", 20000, ""),
         *thrice = many("root ::= x x x\nx ::= \"", "a", 200000, "\"");
    const struct {
        const char *grammar;
        int expected; // of 20,000 times a
    } cases[] = {{"root ::= \"a\"{20000}", 1},
                 {"root ::= \"a\"{1000000}", 0},
                 {"root ::= (\"a\"{10}){2000}", 1},
                 {"root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"", 0},
                 {"root ::= \"a\" root | \"a\"", 1},
                 {"root ::= (\"a\"* \"a\"*)* \"b\"?", 1},
                 {"root ::= ((\"a\"{0,99999}){0,99999}){0,9999} \"b\"", MATCH_FAILED},
                 {"root ::= (\"a\" | \"aa\"){3,100000} \"b\"", MATCH_FAILED},
                 // Many ways to have come to one place are one.
                 {"root ::= (\"a\" | \"aa\" | \"aaa\"){3,}", 1},
                 {"root ::= ((\"a\" | \"aa\"){1,20} \"a\"?){2,}", 1},
                 {thrice, 0}, // laid once
                 {"root ::= a{1,30000}\na ::= \"a\" b\nb ::= \"\" | \"(\" b \")\"", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Error err;
        Matcher *m = make(cases[i].grammar, &err);
        CHECK_MSG(m && is_text(m, as, 20000) == cases[i].expected, "%s", cases[i].grammar);
        // Once it has gone beyond its bounds it stays there.
        CHECK(!m || matcher_failed(m) == (cases[i].expected == MATCH_FAILED));
        matcher_close(m);
    }
    free(deep), free(long_one), free(as), free(thrice);
}

// Places survive what is cleared away, and each goes its own way.
static void test_places(void)
{
    Error err;
    Matcher *m = make("root ::= \"(\" root \")\" root | [a-z]{0,5000} ", &err);
    Place one, two;
    place_enter(m, &one);
    CHECK(place_read(m, &one, "((", 2) == 0);
    place_enter(m, &two);
    CHECK(place_read(m, &two, "(abc", 4) == 0 && place_read(m, &two, "!", 1) == MATCH_DEAD);
    // Many thousand nodes and states.
    for (int i = 0; i < 100000; i++)
        if (place_read(m, &one, i % 3 ? "(" : "x)(", i % 3 ? 1 : 3) != 0) break;
    CHECK(!match_accepts(m, one.state));
    CHECK(place_read(m, &two, "d)", 2) == 0 && match_accepts(m, two.state));
    CHECK(place_read(m, &two, ")", 1) == MATCH_DEAD && match_accepts(m, two.state));
    place_leave(&one);
    CHECK(!place_entered(&one) && place_entered(&two));
    place_leave(&two);
    matcher_close(m);
}

int main(void)
{
    test_tables();
    test_refusals();
    test_bounds();
    test_places();
    return check_done();
}
