// An index of the pages in host memory beside that of the device's.
#include "tier.h"

int tier_open(Tier *t, Device *d, const int pages[POOLS], Error *err)
{
    *t = (Tier){.device = d};
    for (int pool = 0; pool < POOLS; pool++)
        if (pages[pool] && cache_open(&t->cache[pool], pages[pool], err) != 0) return -1;
    return 0;
}

void tier_close(Tier *t)
{
    for (int pool = 0; pool < POOLS; pool++) cache_close(t->cache[pool]);
}

void tier_keep(Tier *t, int pool, const Cache *c, int page)
{
    Cache *own = t->cache[pool];
    if (!own || !cache_is_whole(c, page)) return;
    int same = cache_find_same(own, c, page);
    if (same >= 0) {
        tier_hold(t, pool, same); // the youngest again
        tier_release(t, pool, same);
        cache_enter_same(own, same, c, page);
        return;
    }
    int to = cache_take(own);
    if (to < 0) return; // all are held
    device_save_page(t->device, pool, to, page);
    cache_enter_same(own, to, c, page);
    cache_drop(own, to);
}

int tier_find(const Tier *t, int pool, Chain before, const int32_t *tokens, int count, int uniform)
{
    int common, page = -1;
    if (t->cache[pool]) page = cache_find(t->cache[pool], before, tokens, count, uniform, &common);
    return page >= 0 && common == PAGE ? page : -1;
}

Chain tier_chain(const Tier *t, int pool, int page)
{
    return cache_chain(t->cache[pool], page);
}

void tier_hold(Tier *t, int pool, int page)
{
    cache_share(t->cache[pool], page);
}

void tier_release(Tier *t, int pool, int page)
{
    cache_drop(t->cache[pool], page);
}

void tier_restore(Tier *t, int pool, int page, Cache *c, int to)
{
    device_load_page(t->device, pool, to, page);
    cache_enter_same(c, to, t->cache[pool], page);
}
