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

static void allow(MaskWork *w, const Branch *b)
{
    uint32_t *mask = w->local ? w->local : w->mask;
    for (int32_t id = b->token; id >= 0; id = w->vocabulary->same[id]) ADD_BIT(mask, id);
}

static int add_exit(MaskWork *w, uint32_t branch)
{
    if (w->exit_count == w->exit_room) {
        uint32_t room = 2 * w->exit_room + 256, *larger = realloc(w->exits, 4 * (size_t)room);
        if (!larger) return -1;
        w->exits = larger;
        w->exit_room = room;
    }
    w->exits[w->exit_count++] = branch;
    return 0;
}

// Next the branches from .. end - 1 are walked, below one of depth `depth` that `state` is behind.
static void begin_walk(MaskWork *w, uint32_t from, uint32_t end, int depth, int32_t state)
{
    w->at = from;
    w->end = end;
    w->states[depth] = state;
}

// Allows the tokens of the walk at hand: 0 at its end, 1 when the budget is used up.
static int walk(MaskWork *w, int64_t *budget)
{
    const Branch *branch = w->vocabulary->branch;
    while (w->at < w->end) {
        const Branch *b = &branch[w->at];
        if (--*budget < 0) return 1;
        int32_t state = matcher_step(w->matcher, w->states[b->depth - 1], b->byte);
        if (state == MATCH_LATER) return 1;
        if (state == MATCH_FAILED) return -1;
        if (state == MATCH_DEAD) {
            w->at = b->end;
            continue;
        }
        w->states[b->depth] = state;
        allow(w, b);
        if (w->local && match_leaves(w->matcher, state) && b->end > w->at + 1 &&
            add_exit(w, w->at) != 0)
            return -1;
        w->at++;
    }
    return 0;
}

// What a local state allows by itself is kept: the mask, the number of exits, the exits.
static int begin_local(MaskWork *w, int32_t local)
{
    w->local = calloc(BIT_WORDS(w->vocabulary->count), 4);
    if (!w->local) return -1;
    w->exit_count = 0;
    begin_walk(w, 0, w->vocabulary->branches, 0, local);
    return 1;
}

static int end_local(MaskWork *w, int32_t local)
{
    size_t words = BIT_WORDS(w->vocabulary->count);
    uint32_t *whole = realloc(w->local, 4 * (words + 1 + w->exit_count));
    if (!whole) return -1;
    w->local = NULL;
    whole[words] = w->exit_count;
    if (w->exit_count) memcpy(whole + words + 1, w->exits, 4 * (size_t)w->exit_count);
    int kept = matcher_keep(w->matcher, local, whole, words + 1 + w->exit_count) != NULL;
    free(whole);
    return kept ? 0 : -1;
}

// Begins the walk that comes next: of a piece the local state, then behind each of its exits. 0
// when there is none.
static int next_walk(MaskWork *w)
{
    size_t words = BIT_WORDS(w->vocabulary->count);
    for (; w->piece < w->piece_count; w->piece++, w->exit = 0) {
        Piece piece = w->pieces[w->piece];
        if (w->local && end_local(w, piece.local) != 0) return -1;
        const uint32_t *kept = matcher_kept(w->matcher, piece.local);
        if (!kept) return begin_local(w, piece.local);
        for (size_t i = 0; !w->exit && i < words; i++) w->mask[i] |= kept[i];
        if (piece.caller >= 0 && w->exit < kept[words]) {
            uint32_t at = kept[words + 1 + w->exit++];
            const Branch *b = &w->vocabulary->branch[at];
            begin_walk(w, at + 1, b->end, b->depth, piece.caller);
            return 1;
        }
    }
    return 0;
}

// --- masks ---------------------------------------------------------------------------------------

void mask_drop(MaskWork *w)
{
    if (w->matcher) matcher_hold(w->matcher, -1);
    free(w->states);
    free(w->local);
    free(w->exits);
    *w = (MaskWork){0};
}

// Only tokens that begin with a prefix: the branches below it.
static void begin_behind(MaskWork *w, const char *prefix, size_t bytes)
{
    const Branch *branch = w->vocabulary->branch;
    uint32_t from = 0, end = w->vocabulary->branches;
    for (size_t depth = 1; depth <= bytes; depth++) {
        while (from < end && branch[from].byte != (uint8_t)prefix[depth - 1])
            from = branch[from].end;
        if (from >= end) return;
        if (depth == bytes) allow(w, &branch[from]);
        end = branch[from++].end;
    }
    begin_walk(w, from, end, (int)bytes, w->state);
}

int mask_begin(MaskWork *w, Matcher *m, const Vocabulary *v, const Place *place, const char *prefix,
               size_t prefix_bytes, uint32_t *mask)
{
    size_t words = BIT_WORDS(v->count);
    mask_drop(w);
    matcher_grant(m);
    matcher_begin(m);
    if (matcher_failed(m)) return -1;
    const uint32_t *kept = prefix_bytes ? NULL : matcher_kept(m, place->state);
    if (kept) {
        memcpy(mask, kept, 4 * words);
        return 0;
    }
    memset(mask, 0, 4 * words);
    matcher_hold(m, 1);
    *w = (MaskWork){.matcher = m,
                    .vocabulary = v,
                    .state = place->state,
                    .mask = mask,
                    .prefixed = prefix_bytes > 0};
    if (!(w->states = malloc(((size_t)v->deepest + 1) * sizeof *w->states))) return -1;
    if (prefix_bytes)
        begin_behind(w, prefix, prefix_bytes);
    else if (!(w->piece_count = matcher_pieces(m, w->state, v->deepest, w->pieces)))
        begin_walk(w, 0, v->branches, 0, w->state);
    return 0;
}

int mask_go_on(MaskWork *w, int64_t *budget)
{
    Matcher *m = w->matcher;
    int status;
    if (!m) return 0;
    int64_t before = matcher_limit(m, *budget);
    do {
        status = walk(w, budget);
        if (status != 0) break;
        status = next_walk(w);
    } while (status == 1);
    if (status == 0 && !w->prefixed &&
        !matcher_keep(m, w->state, w->mask, BIT_WORDS(w->vocabulary->count)))
        status = -1;
    *budget -= before - matcher_limit(m, INT64_MAX);
    if (status != 1) mask_drop(w);
    return status;
}

int mask_fill(Matcher *m, const Vocabulary *v, const Place *place, const char *prefix,
              size_t prefix_bytes, uint32_t *mask)
{
    MaskWork w = {0};
    int64_t budget = INT64_MAX;
    int status = mask_begin(&w, m, v, place, prefix, prefix_bytes, mask);
    if (status == 0) status = mask_go_on(&w, &budget);
    mask_drop(&w);
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
