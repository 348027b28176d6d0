// The pages of the cache: who uses them, and which tokens their keys and values belong to, so that
// sequences with equal beginnings share pages and a later request finds what an earlier one left.
// A page is found by what comes before it and its own token ids, all of which are compared: equal
// hashes are never taken for equal texts. Knows page numbers and ids; the memory is the device's.
#pragma once
#include "../kernels/types.h"
#include "error.h"

typedef struct Cache Cache;

int cache_open(Cache **cache, int pages, Error *err);
void cache_close(Cache *c);

// Pages that no sequence uses; cache_take can give so many.
int cache_unused(const Cache *c);
int cache_users(const Cache *c, int page);

// An empty page with one user; the least recently used contents go. -1 when all are in use.
int cache_take(Cache *c);
// One more user, one fewer. Without users a page keeps its contents until cache_take needs it.
void cache_share(Cache *c, int page);
void cache_drop(Cache *c, int page);

// Names a beginning of whole pages: 0 is the empty one, and every full page entered stands for the
// text up to its end.
typedef uint64_t Chain;
Chain cache_chain(const Cache *c, int page);

// The first `count` tokens of a page, which follow `before`, are in the cache: others may find
// them. uniform: all were computed in the form of long prompts.
void cache_enter(Cache *c, int page, Chain before, const int32_t *tokens, int count, int uniform);
// The contents are about to change.
void cache_leave(Cache *c, int page);

// The page that follows `before` and has most of the first `count` of tokens in common; -1 when
// none has any. *common is how many, at most PAGE. whole: only full pages that are all equal and
// uniform.
int cache_find(const Cache *c, Chain before, const int32_t *tokens, int count, int whole,
               int *common);
int cache_is_uniform(const Cache *c, int page);

// For a second level, whose pages are named as those of the first.
// The page whose contents cache_take lets go of; -1 when there is none.
int cache_oldest(const Cache *c);
// 1 when all of a page is entered.
int cache_is_whole(const Cache *c, int page);
// The page with the contents of page `from` of another level; -1 when there is none.
int cache_find_same(const Cache *c, const Cache *other, int from);
// The page has the contents of page `from` of another level, and takes its name.
void cache_enter_same(Cache *c, int page, const Cache *other, int from);
