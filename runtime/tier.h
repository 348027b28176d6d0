// The second level of the cache: pages that the device had no room for, in host memory. It keeps
// whole pages, under the names that they had, and the least recently used go.
#pragma once
#include "cache.h"
#include "device.h"

typedef struct {
    // private
    Device *device;
    Cache *cache[POOLS];
} Tier;

// `pages` of each pool, as the device was opened with.
int tier_open(Tier *t, Device *d, const int pages[POOLS], Error *err);
void tier_close(Tier *t);

// Keeps what a page of the device's cache holds, if that is worth it.
void tier_keep(Tier *t, int pool, const Cache *c, int page);
// The whole page that follows `before`; -1 when it is not there.
int tier_find(const Tier *t, int pool, Chain before, const int32_t *tokens, int count, int uniform);
Chain tier_chain(const Tier *t, int pool, int page);
// A page that is held does not go.
void tier_hold(Tier *t, int pool, int page);
void tier_release(Tier *t, int pool, int page);
// Copies a page back to page `to` of the device's cache, which others can find from then on.
void tier_restore(Tier *t, int pool, int page, Cache *c, int to);
