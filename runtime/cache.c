// A hash table of pages by what comes before them, and a list of the unused ones, oldest first.
#include "cache.h"
#include <stdlib.h>
#include <string.h>

#define NONE (-1)

typedef struct {
    int users, count; // count: tokens others may find; 0: not in the table
    int uniform;
    Chain before, chain;
    uint64_t hash;      // of a full page's ids
    int next;           // in its bucket
    int older, younger; // in the list of unused pages
    int32_t token[PAGE];
} Page;

struct Cache {
    int pages, unused;
    int oldest, youngest; // of the unused
    Chain last_chain;
    int buckets; // a power of two
    int *bucket;
    Page *page;
};

int cache_open(Cache **out, int pages, Error *err)
{
    Cache *c = calloc(1, sizeof *c);
    *out = c;
    if (!c) return error_set(err, "out of memory");
    for (c->buckets = 16; c->buckets < 2 * pages;) c->buckets *= 2;
    c->pages = pages;
    c->page = calloc((size_t)pages, sizeof *c->page);
    c->bucket = malloc((size_t)c->buckets * sizeof *c->bucket);
    if (!c->page || !c->bucket) return error_set(err, "out of memory");
    for (int i = 0; i < c->buckets; i++) c->bucket[i] = NONE;
    c->oldest = c->youngest = NONE;
    for (int i = pages - 1; i >= 0; i--) {
        c->page[i].users = 1;
        cache_drop(c, i);
    }
    return 0;
}

void cache_close(Cache *c)
{
    if (!c) return;
    free(c->page);
    free(c->bucket);
    free(c);
}

int cache_unused(const Cache *c)
{
    return c->unused;
}

int cache_users(const Cache *c, int page)
{
    return c->page[page].users;
}

Chain cache_chain(const Cache *c, int page)
{
    return c->page[page].chain;
}

int cache_is_uniform(const Cache *c, int page)
{
    return c->page[page].uniform;
}

// --- the list of unused pages --------------------------------------------------------------------

static void unlist(Cache *c, int page)
{
    Page *p = &c->page[page];
    if (p->older == NONE)
        c->oldest = p->younger;
    else
        c->page[p->older].younger = p->younger;
    if (p->younger == NONE)
        c->youngest = p->older;
    else
        c->page[p->younger].older = p->older;
    c->unused--;
}

void cache_share(Cache *c, int page)
{
    if (c->page[page].users++ == 0) unlist(c, page);
}

void cache_drop(Cache *c, int page)
{
    Page *p = &c->page[page];
    if (--p->users) return;
    int empty = !p->count; // nothing to lose: the first to be taken
    p->older = empty ? NONE : c->youngest;
    p->younger = empty ? c->oldest : NONE;
    if (p->older == NONE)
        c->oldest = page;
    else
        c->page[p->older].younger = page;
    if (p->younger == NONE)
        c->youngest = page;
    else
        c->page[p->younger].older = page;
    c->unused++;
}

int cache_take(Cache *c)
{
    int page = c->oldest;
    if (page == NONE) return -1;
    cache_leave(c, page);
    cache_share(c, page);
    return page;
}

// --- the table -----------------------------------------------------------------------------------

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint64_t hash_ids(const int32_t *tokens)
{
    uint64_t hash = 0;
    for (int i = 0; i < PAGE; i++) hash = mix(hash + (uint32_t)tokens[i] + 0x9e3779b97f4a7c15u);
    return hash;
}

static int *bucket_of(const Cache *c, Chain before)
{
    return &c->bucket[mix(before + 1) & (uint64_t)(c->buckets - 1)];
}

static void enter(Cache *c, int page, Chain before, Chain chain, const int32_t *tokens, int count,
                  int uniform)
{
    Page *p = &c->page[page];
    cache_leave(c, page);
    memcpy(p->token, tokens, (size_t)count * sizeof *tokens);
    p->count = count;
    p->uniform = uniform;
    p->before = before;
    p->chain = chain;
    p->hash = count == PAGE ? hash_ids(tokens) : 0;
    int *bucket = bucket_of(c, before);
    p->next = *bucket;
    *bucket = page;
}

void cache_enter(Cache *c, int page, Chain before, const int32_t *tokens, int count, int uniform)
{
    enter(c, page, before, ++c->last_chain, tokens, count, uniform);
}

void cache_leave(Cache *c, int page)
{
    Page *p = &c->page[page];
    if (!p->count) return;
    int *link = bucket_of(c, p->before);
    while (*link != page) link = &c->page[*link].next;
    *link = p->next;
    p->count = 0;
}

int cache_find(const Cache *c, Chain before, const int32_t *tokens, int count, int whole,
               int *common)
{
    int best = -1;
    *common = 0;
    if (count > PAGE) count = PAGE;
    if (whole && count < PAGE) return -1;
    uint64_t hash = count == PAGE ? hash_ids(tokens) : 0;
    for (int i = *bucket_of(c, before); i != NONE; i = c->page[i].next) {
        const Page *p = &c->page[i];
        if (p->before != before) continue;
        if (whole && (p->count < PAGE || !p->uniform || p->hash != hash)) continue;
        int most = p->count < count ? p->count : count, n = 0;
        while (n < most && p->token[n] == tokens[n]) n++;
        if (n <= *common || (whole && n < PAGE)) continue;
        best = i;
        *common = n;
    }
    return best;
}

// --- two levels ----------------------------------------------------------------------------------

int cache_oldest(const Cache *c)
{
    return c->oldest;
}

int cache_is_whole(const Cache *c, int page)
{
    return c->page[page].count == PAGE;
}

int cache_find_same(const Cache *c, const Cache *other, int from)
{
    const Page *p = &other->page[from];
    int common, page = cache_find(c, p->before, p->token, p->count, p->uniform, &common);
    return page >= 0 && common == p->count && c->page[page].uniform == p->uniform ? page : -1;
}

void cache_enter_same(Cache *c, int page, const Cache *other, int from)
{
    const Page *p = &other->page[from];
    enter(c, page, p->before, p->chain, p->token, p->count, p->uniform);
}
