// Fuzzes the readers of grammars, regular expressions and JSON schemas: the first byte says which,
// the rest is the text. What is accepted is walked through, and what a schema ends with must be
// JSON.
#include "../../runtime/gbnf.h"
#include "../../runtime/match.h"
#include "../../runtime/pattern.h"
#include "../../runtime/schema.h"
#include <stdlib.h>
#include <string.h>

static int read_rule(Grammar *g, int kind, const char *text, size_t bytes, json_t *schema)
{
    if (kind == 0) return gbnf_read(g, text, bytes);
    if (kind == 3) return schema_read(g, schema);
    int rule = grammar_fresh(g);
    grammar_define(g, rule, pattern_read(g, text, bytes, kind == 2, kind == 2).e);
    return rule;
}

// Bytes that go on, one after the other; `seed` chooses. Prefers what closes after a while.
static size_t walk(Matcher *m, Place *place, unsigned seed, char *text, size_t most)
{
    static const char closing[] = "\"}]0e";
    size_t bytes = 0;
    while (bytes < most && !match_ends(m, place->state)) {
        int status = MATCH_DEAD;
        for (size_t i = 0; bytes > 20 && status == MATCH_DEAD && i < sizeof closing - 1; i++) {
            text[bytes] = closing[i];
            status = place_read(m, place, text + bytes, 1);
        }
        for (unsigned i = 0; status == MATCH_DEAD && i < 256; i++) {
            text[bytes] = (char)(seed / 256 + i);
            status = place_read(m, place, text + bytes, 1);
        }
        if (status != 0) return bytes; // a dead end, or beyond bounds
        bytes++;
        seed = seed * 1664525u + 1013904223u;
    }
    return bytes;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    if (bytes < 1) return 0;
    const char *text = (const char *)data + 1;
    int kind = data[0] & 3;
    json_t *schema = kind == 3 ? json_loadb(text, bytes - 1, JSON_DECODE_ANY, NULL) : NULL;
    Grammar *g = kind < 3 || schema ? grammar_open() : NULL;
    Matcher *m = NULL;
    Error err = {{0}};
    if (g) m = matcher_open(g, read_rule(g, kind, text, bytes - 1, schema), &err);
    if (g && !m && (!*err.text || strchr(err.text, '\n'))) abort();
    for (unsigned i = 0; m && i < 4; i++) {
        static char said[400];
        Place place;
        Piece pieces[MATCH_PIECES];
        place_enter(m, &place);
        size_t n = walk(m, &place, (unsigned)bytes * 77777 + i * 1234567, said, sizeof said);
        matcher_pieces(m, place.state, 16, pieces);
        if (kind == 3 && match_accepts(m, place.state)) {
            json_t *json = json_loadb(said, n, JSON_DECODE_ANY, NULL);
            if (!json) abort();
            json_decref(json);
        }
        place_leave(&place);
    }
    matcher_close(m);
    json_decref(schema);
    return 0;
}
