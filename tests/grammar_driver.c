// Reads grammars for tests/clients/grammars.py. A line in is an object: `schema`, or the text of a
// `regex`, a `search` (a regular expression, as patterns of schemas) or a `grammar`; `check`, a
// list of texts; `walks`, how many random texts to write, from `seed`. A line out has `error`, or
// `accepted`, a list of numbers (1 a text, 0 none, -2 beyond bounds), `texts`, and `stuck`: texts
// behind which nothing may come although they may not end.
#include "../runtime/gbnf.h"
#include "../runtime/match.h"
#include "../runtime/pattern.h"
#include "../runtime/schema.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LONGEST 600

static unsigned seed;

static unsigned pick(unsigned below)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static Matcher *compile(const json_t *request, Error *err)
{
    const char *regex = json_string_value(json_object_get(request, "regex"));
    const char *search = json_string_value(json_object_get(request, "search"));
    const char *grammar = json_string_value(json_object_get(request, "grammar"));
    Grammar *g = grammar_open();
    int rule;
    if (grammar) {
        rule = gbnf_read(g, grammar, strlen(grammar));
    } else if (regex || search) {
        const char *text = regex ? regex : search;
        rule = grammar_fresh(g);
        grammar_define(g, rule, pattern_read(g, text, strlen(text), 0, search != NULL).e);
    } else {
        rule = schema_read(g, json_object_get(request, "schema"));
    }
    return matcher_open(g, rule, err);
}

static int check(Matcher *m, const char *text)
{
    Place place;
    place_enter(m, &place);
    int status = place_read(m, &place, text, strlen(text));
    int found = status == MATCH_FAILED ? status : status == 0 && match_accepts(m, place.state);
    place_leave(&place);
    return found;
}

// A byte that goes on; -1: none does. After a while one that closes, where there is one.
static int next_byte(Matcher *m, int32_t state, size_t bytes)
{
    static const char closing[] = "\"}]0e";
    int allowed[256], count = 0;
    for (size_t i = 0; bytes > 40 && pick(4) && i < sizeof closing - 1; i++)
        if (matcher_step(m, state, (uint8_t)closing[i]) >= 0) return closing[i];
    for (int c = 1; c < 256; c++)
        if (matcher_step(m, state, (uint8_t)c) >= 0 && (c < 0x80 || count < 8 || !pick(16)))
            allowed[count++] = c;
    return count ? allowed[pick((unsigned)count)] : -1;
}

// Writes a text; 1 when it may end, 0 when it became too long, -1 when it is stuck.
static int walk(Matcher *m, char *text)
{
    Place place;
    size_t bytes = 0;
    int status = 0;
    place_enter(m, &place);
    while (bytes < LONGEST) {
        if (match_accepts(m, place.state) && (match_ends(m, place.state) || !pick(4))) break;
        int c = next_byte(m, place.state, bytes);
        if (c < 0) break;
        text[bytes++] = (char)c;
        if (place_read(m, &place, text + bytes - 1, 1) != 0) break;
    }
    text[bytes] = 0;
    if (match_accepts(m, place.state))
        status = 1;
    else if (bytes < LONGEST && !matcher_failed(m))
        status = -1;
    place_leave(&place);
    return status;
}

static json_t *answer(const json_t *request)
{
    json_t *all = json_object(), *texts = json_array(), *stuck = json_array(), *one;
    json_t *accepted = json_array();
    struct timespec from, to;
    Error err;
    size_t i;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
    Matcher *m = compile(request, &err);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
    seed = (unsigned)json_integer_value(json_object_get(request, "seed"));
    json_object_set_new(all, "texts", texts);
    json_object_set_new(all, "stuck", stuck);
    json_object_set_new(all, "accepted", accepted);
    json_object_set_new(
        all, "seconds",
        json_real((double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec)));
    if (!m) json_object_set_new(all, "error", json_string(err.text));
    json_array_foreach(json_object_get(request, "check"), i, one)
    {
        if (m) json_array_append_new(accepted, json_integer(check(m, json_string_value(one))));
    }
    int walks = (int)json_integer_value(json_object_get(request, "walks"));
    for (int k = 0; m && k < walks; k++) {
        char text[LONGEST + 1];
        int status = walk(m, text);
        if (status) json_array_append_new(status > 0 ? texts : stuck, json_string_nocheck(text));
    }
    matcher_close(m);
    return all;
}

int main(void)
{
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) {
        json_t *request = json_loads(line, 0, NULL), *all = answer(request);
        char *text = json_dumps(all, JSON_COMPACT | JSON_ENSURE_ASCII);
        printf("%s\n", text ? text : "{\"error\": \"the answer is no UTF-8\"}");
        fflush(stdout);
        free(text);
        json_decref(all);
        json_decref(request);
    }
    free(line);
    return 0;
}
