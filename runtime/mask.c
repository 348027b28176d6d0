// The tree is an array in the order of the bytes, parents before children: a walk goes along it and
// skips what no token of a branch can be. It has some 300,000 nodes for 128,000 tokens.
#include "mask.h"
#include "sample.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    uint32_t end;   // of the branch, as an index
    int32_t token;  // that ends here, or -1
    uint16_t depth; // bytes down to here, at least 1
    uint8_t byte;
} Branch;

struct Vocabulary {
    Branch *branch; // (branches)
    int32_t *same;  // (count): another token of equal bytes, or -1
    uint32_t branches;
    int count, deepest;
};

// --- building ------------------------------------------------------------------------------------

typedef struct {
    const char *text;
    size_t bytes;
    int32_t id;
    int special;
} Entry;

static int by_bytes(const void *a, const void *b)
{
    const Entry *x = a, *y = b;
    if (x->special != y->special) return x->special - y->special;
    int order = memcmp(x->text, y->text, x->bytes < y->bytes ? x->bytes : y->bytes);
    if (order) return order;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static uint8_t byte_of(const Entry *e, size_t i)
{
    if (!e->special) return (uint8_t)e->text[i];
    return i ? (uint8_t)e->text[i - 1] : GRAMMAR_TOKEN;
}

// Adds an entry behind those that come before it; path[] holds the branches of the last one.
static void add_entry(Vocabulary *v, const Entry *e, uint32_t *path, size_t *depth)
{
    size_t bytes = e->bytes + (size_t)e->special, shared = 0;
    while (shared < bytes && shared < *depth && v->branch[path[shared]].byte == byte_of(e, shared))
        shared++;
    while (*depth > shared) v->branch[path[--*depth]].end = v->branches;
    for (; *depth < bytes; ++*depth) {
        path[*depth] = v->branches;
        v->branch[v->branches++] = (Branch){0, -1, (uint16_t)(*depth + 1), byte_of(e, *depth)};
    }
    Branch *last = &v->branch[path[bytes - 1]];
    v->same[e->id] = last->token;
    last->token = e->id;
    if (v->deepest < (int)bytes) v->deepest = (int)bytes;
}

static int build(Vocabulary *v, Entry *entries, size_t count, size_t bytes)
{
    uint32_t *path = malloc((UINT16_MAX + 1) * sizeof *path);
    size_t depth = 0;
    v->branch = malloc((bytes + 1) * sizeof *v->branch);
    v->same = malloc(((size_t)v->count + 1) * sizeof *v->same);
    if (path && v->branch && v->same) {
        qsort(entries, count, sizeof *entries, by_bytes);
        for (size_t i = 0; i < count; i++) add_entry(v, &entries[i], path, &depth);
        while (depth > 0) v->branch[path[--depth]].end = v->branches;
    }
    int status = path && v->branch && v->same ? 0 : -1;
    free(path);
    return status;
}

int vocabulary_open(Vocabulary **out, const Tokens *t, int count, Error *err)
{
    Vocabulary *v = calloc(1, sizeof *v);
    Entry *entries = malloc(((size_t)count + 1) * sizeof *entries);
    size_t used = 0, bytes = 0;
    *out = v;
    if (v) v->count = count;
    for (int32_t id = 0; entries && id < count && id < tokens_count(t); id++) {
        Entry e = {.id = id, .special = tokens_is_special(t, id)};
        e.text = tokens_bytes(t, id, &e.bytes);
        if (!e.bytes || e.bytes >= UINT16_MAX) continue;
        if (!e.special && memchr(e.text, GRAMMAR_TOKEN, e.bytes)) continue; // of no text
        bytes += e.bytes + (size_t)e.special;
        entries[used++] = e;
    }
    int status = v && entries ? build(v, entries, used, bytes) : -1;
    free(entries);
    return status == 0 ? 0 : error_set(err, "out of memory");
}

void vocabulary_close(Vocabulary *v)
{
    if (!v) return;
    free(v->branch);
    free(v->same);
    free(v);
}

// --- walking -------------------------------------------------------------------------------------

typedef struct {
    Matcher *m;
    const Vocabulary *v;
    int32_t *states; // (deepest + 1): along the way to the branch at hand
    uint32_t *mask;
    uint32_t *exits, exit_count, exit_room; // branches where a local state leaves; NULL: not asked
    int failed;
} Walk;

static void allow(Walk *w, const Branch *b)
{
    for (int32_t id = b->token; id >= 0; id = w->v->same[id]) ADD_BIT(w->mask, id);
}

static void add_exit(Walk *w, uint32_t branch)
{
    if (w->exit_count == w->exit_room) {
        uint32_t room = 2 * w->exit_room + 256, *larger = realloc(w->exits, 4 * (size_t)room);
        if (!larger) {
            w->failed = 1;
            return;
        }
        w->exits = larger;
        w->exit_room = room;
    }
    w->exits[w->exit_count++] = branch;
}

// Allows the tokens of the branches from .. end - 1, below one of depth `depth`, that `state` goes
// on with.
static void walk(Walk *w, uint32_t from, uint32_t end, int depth, int32_t state, int local)
{
    const Branch *branch = w->v->branch;
    w->states[depth] = state;
    for (uint32_t i = from; i < end && !w->failed;) {
        const Branch *b = &branch[i];
        state = matcher_step(w->m, w->states[b->depth - 1], b->byte);
        if (state == MATCH_FAILED) w->failed = 1;
        if (state < 0) {
            i = b->end;
            continue;
        }
        w->states[b->depth] = state;
        allow(w, b);
        if (local && match_leaves(w->m, state) && b->end > i + 1) add_exit(w, i);
        i++;
    }
}

// What a local state allows by itself, kept: the mask, the number of exits, the exits.
static const uint32_t *local_mask(Walk *w, int32_t local)
{
    size_t words = BIT_WORDS(w->v->count);
    const uint32_t *kept = matcher_kept(w->m, local);
    if (kept) return kept;
    uint32_t *mask = w->mask, *all = calloc(words, 4);
    if (!all) return NULL;
    w->mask = all;
    w->exit_count = 0;
    walk(w, 0, w->v->branches, 0, local, 1);
    uint32_t *whole = w->failed ? NULL : realloc(all, 4 * (words + 1 + w->exit_count));
    if (whole) {
        whole[words] = w->exit_count;
        if (w->exit_count) memcpy(whole + words + 1, w->exits, 4 * (size_t)w->exit_count);
        kept = matcher_keep(w->m, local, whole, words + 1 + w->exit_count);
    }
    free(whole ? whole : all);
    w->mask = mask;
    return kept;
}

static int add_piece(Walk *w, Piece piece)
{
    size_t words = BIT_WORDS(w->v->count);
    const uint32_t *kept = local_mask(w, piece.local);
    if (!kept) return -1;
    for (size_t i = 0; i < words; i++) w->mask[i] |= kept[i];
    for (uint32_t i = 0; piece.caller >= 0 && i < kept[words]; i++) {
        uint32_t at = kept[words + 1 + i];
        const Branch *b = &w->v->branch[at];
        walk(w, at + 1, b->end, b->depth, piece.caller, 0);
    }
    return w->failed ? -1 : 0;
}

static int fill_whole(Walk *w, int32_t state)
{
    size_t words = BIT_WORDS(w->v->count);
    Piece pieces[MATCH_PIECES];
    const uint32_t *kept = matcher_kept(w->m, state);
    if (kept) {
        memcpy(w->mask, kept, 4 * words);
        return 0;
    }
    int count = matcher_pieces(w->m, state, w->v->deepest, pieces);
    if (!count) walk(w, 0, w->v->branches, 0, state, 0);
    for (int i = 0; i < count; i++)
        if (add_piece(w, pieces[i]) != 0) return -1;
    return w->failed || !matcher_keep(w->m, state, w->mask, words) ? -1 : 0;
}

// Only tokens that begin with a prefix: the branches below it.
static int fill_behind(Walk *w, int32_t state, const char *prefix, size_t bytes)
{
    uint32_t from = 0, end = w->v->branches;
    for (size_t depth = 1; depth <= bytes; depth++) {
        while (from < end && w->v->branch[from].byte != (uint8_t)prefix[depth - 1])
            from = w->v->branch[from].end;
        if (from >= end) return 0;
        if (depth == bytes) allow(w, &w->v->branch[from]);
        end = w->v->branch[from++].end;
    }
    walk(w, from, end, (int)bytes, state, 0);
    return w->failed ? -1 : 0;
}

int mask_fill(Matcher *m, const Vocabulary *v, const Place *place, const char *prefix,
              size_t prefix_bytes, uint32_t *mask)
{
    Walk w = {.m = m, .v = v, .mask = mask};
    matcher_grant(m);
    matcher_begin(m);
    if (matcher_failed(m)) return -1;
    memset(mask, 0, 4 * BIT_WORDS(v->count));
    w.states = malloc(((size_t)v->deepest + 1) * sizeof *w.states);
    if (!w.states) return -1;
    int status = prefix_bytes ? fill_behind(&w, place->state, prefix, prefix_bytes)
                              : fill_whole(&w, place->state);
    free(w.states);
    free(w.exits);
    return status;
}

int mask_read(Matcher *m, Place *place, const Tokens *t, int32_t id, size_t skip)
{
    char marked[512];
    size_t bytes;
    const char *text = tokens_bytes(t, id, &bytes);
    if (!tokens_is_special(t, id))
        return place_read(m, place, text + (skip < bytes ? skip : bytes),
                          skip < bytes ? bytes - skip : 0);
    if (bytes >= sizeof marked) return MATCH_DEAD;
    marked[0] = (char)GRAMMAR_TOKEN;
    memcpy(marked + 1, text, bytes);
    return place_read(m, place, marked, bytes + 1);
}
