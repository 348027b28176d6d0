// Which rows the next pass computes.
#include "batch.h"
#include "pools.h"
#include <stdlib.h>
#include <string.h>

// Part of a page that is worth a copy.
#define WORTH_COPYING 16
// Tokens that a sequence draws before the state that it may go back to is renewed.
#define OWN_STEP 32

int batch_open(Batcher *b, Device *d, const DeviceOptions *o, Error *err)
{
    *b = (Batcher){.device = d, .options = *o, .max_context = o->max_context, .reuse = 1};
    size_t rows = (size_t)o->max_rows, slots = (size_t)o->max_sequences;
    b->decode_rows = device_decode_rows(d);
    b->sequences = calloc(slots, sizeof *b->sequences);
    b->token = calloc(rows, 4);
    b->position = calloc(rows, 4);
    b->sequence = calloc(rows, 4);
    b->output = calloc(rows, 4);
    b->segment = calloc(rows, sizeof *b->segment);
    b->sampling = calloc((size_t)o->max_outputs, sizeof *b->sampling);
    b->owner = calloc((size_t)o->max_outputs, sizeof *b->owner);
    int bad = !b->sequences || !b->token || !b->position || !b->sequence || !b->output ||
              !b->segment || !b->sampling || !b->owner;
    for (size_t i = 0; !bad && i < slots; i++) {
        b->sequences[i].tokens = calloc((size_t)b->max_context + 1, 4);
        bad = !b->sequences[i].tokens;
        for (int pool = 0; pool < POOLS; pool++) {
            b->sequences[i].page[pool] = calloc((size_t)o->pages_per_sequence, sizeof(int));
            bad |= !b->sequences[i].page[pool];
        }
    }
    for (int pool = 0; pool < POOLS; pool++) {
        b->found[pool] = calloc((size_t)o->pages_per_sequence, sizeof(int));
        bad |= !b->found[pool];
    }
    if (bad) return error_set(err, "out of memory");
    b->pools = pool_layers(&model_info, POOL_WINDOW, &b->window) ? 2 : 1;
    for (int pool = 0; pool < b->pools; pool++)
        if (cache_open(&b->cache[pool], o->pages[pool], err) != 0) return -1;
    if (tier_open(&b->tier, d, o->host_pages, err) != 0) return -1;
    if (model_info.state_bytes &&
        states_open(&b->states, o->max_sequences, o->states - o->max_sequences, err) != 0)
        return -1;
    return sample_open(&b->room, model_info.vocab, b->max_context, err);
}

void batch_close(Batcher *b)
{
    for (int i = 0; b->sequences && i < b->options.max_sequences; i++) {
        free(b->sequences[i].tokens);
        for (int pool = 0; pool < POOLS; pool++) free(b->sequences[i].page[pool]);
    }
    free(b->sequences);
    for (int pool = 0; pool < POOLS; pool++) {
        cache_close(b->cache[pool]);
        free(b->found[pool]);
    }
    tier_close(&b->tier);
    states_close(b->states);
    sample_close(b->room);
    free(b->token);
    free(b->position);
    free(b->sequence);
    free(b->output);
    free(b->segment);
    free(b->sampling);
    free(b->owner);
    *b = (Batcher){0};
}

static int pages_of(int tokens)
{
    return (tokens + PAGE - 1) / PAGE;
}

// Pages for what a sequence has and the token it draws next.
static int pages_wanted(const Sequence *s)
{
    return pages_of(s->count < s->limit ? s->count + 1 : s->count);
}

// --- pages ---------------------------------------------------------------------------------------

static void put_page(Batcher *b, Sequence *s, int pool, int index, int page)
{
    s->page[pool][index] = page;
    device_set_page(b->device, pool, (int)(s - b->sequences), index, page);
}

// The first page of a pool that a sequence needs once so many tokens are computed.
static int first_page(const Batcher *b, int pool, int computed)
{
    return pool == POOL_WINDOW ? first_window_page(b->window, computed) : 0;
}

// Lets go of the pages from number `keep` on, the last one first, so that beginnings stay longest.
static void drop_from(Batcher *b, Sequence *s, int keep)
{
    for (; s->pages > keep; s->pages--)
        for (int pool = 0; pool < b->pools; pool++)
            if (s->pages > s->first[pool]) cache_drop(b->cache[pool], s->page[pool][s->pages - 1]);
    for (int pool = 0; pool < b->pools; pool++)
        if (s->first[pool] > keep) s->first[pool] = keep;
}

// Lets go of the pages that windows have left behind.
static void slide(Batcher *b, Sequence *s, int computed)
{
    for (int pool = 0; pool < b->pools; pool++)
        for (int to = first_page(b, pool, computed); s->first[pool] < to; s->first[pool]++)
            if (s->first[pool] < s->pages)
                cache_drop(b->cache[pool], s->page[pool][s->first[pool]]);
}

static void drop_pages(Batcher *b, Sequence *s)
{
    int tail = s->computed - s->entered * PAGE;
    if (b->reuse && !b->states && tail >= WORTH_COPYING && s->entered < s->pages)
        for (int pool = 0; pool < b->pools; pool++)
            cache_enter(b->cache[pool], s->page[pool][s->entered], s->chain,
                        s->tokens + s->entered * PAGE, tail, 0);
    drop_from(b, s, 0);
    s->computed = s->entered = s->uniform = 0;
    s->chain = 0;
    if (!s->draws) s->reused = 0;
}

// Lets others find the pages that have become full. Where an equal one is there already, that one
// is used from now on. What stands before a page is named by the pages of POOL_ALL.
static void enter_pages(Batcher *b, Sequence *s)
{
    for (; b->reuse && (s->entered + 1) * PAGE <= s->computed; s->entered++) {
        const int32_t *tokens = s->tokens + s->entered * PAGE;
        int uniform = (s->entered + 1) * PAGE <= s->uniform, common;
        for (int pool = 0; pool < b->pools; pool++) {
            Cache *c = b->cache[pool];
            int twin = uniform ? cache_find(c, s->chain, tokens, PAGE, 1, &common) : -1;
            if (twin >= 0) {
                cache_share(c, twin);
                cache_drop(c, s->page[pool][s->entered]);
                put_page(b, s, pool, s->entered, twin);
            } else {
                cache_enter(c, s->page[pool][s->entered], s->chain, tokens, PAGE, uniform);
            }
        }
        s->chain = cache_chain(b->cache[POOL_ALL], s->page[POOL_ALL][s->entered]);
    }
    slide(b, s, s->computed);
}

// An empty page; what it held goes to the second level.
static int take_page(Batcher *b, int pool)
{
    int oldest = cache_oldest(b->cache[pool]);
    if (oldest >= 0) tier_keep(&b->tier, pool, b->cache[pool], oldest);
    return cache_take(b->cache[pool]);
}

// The sequence that gives its pages up, `s` if there is no other.
static Sequence *choose_victim(Batcher *b, Sequence *s)
{
    Sequence *victim = s;
    for (int i = 0; i < b->options.max_sequences; i++) {
        Sequence *t = &b->sequences[i];
        if (t->active && !t->suspended && t->pages &&
            (t->priority > victim->priority ||
             (t->priority == victim->priority && t->order > victim->order)))
            victim = t;
    }
    return victim;
}

// Makes sure of pages for the first `tokens` tokens; takes them from others if it must. Returns -1
// when the sequence itself is the one that has to wait.
static int grow(Batcher *b, Sequence *s, int tokens)
{
    while (s->pages < pages_of(tokens)) {
        int there = 1;
        for (int pool = 0; pool < b->pools; pool++) there &= cache_unused(b->cache[pool]) > 0;
        if (there) {
            for (int pool = 0; pool < b->pools; pool++)
                put_page(b, s, pool, s->pages, take_page(b, pool));
            s->pages++;
            continue;
        }
        Sequence *victim = choose_victim(b, s);
        drop_pages(b, victim);
        victim->suspended = 1;
        if (victim == s) return -1;
    }
    return 0;
}

// The page of a pool that follows `before` and is a whole one of the prompt from token `at` on, and
// what *chain it is the end of: a page of the device, or HOST_PAGE of one of the second level; NONE
// when there is none.
#define NONE (-1)
#define HOST_PAGE(page) (-2 - (page))
static int find_whole(const Batcher *b, const Sequence *s, int pool, Chain before, int at, int tier,
                      Chain *chain)
{
    const int32_t *tokens = s->tokens + at;
    int count = s->count - 1 - at, common;
    int page = cache_find(b->cache[pool], before, tokens, count, b->deterministic, &common);
    if (common == PAGE) {
        *chain = cache_chain(b->cache[pool], page);
        return page;
    }
    page = tier ? tier_find(&b->tier, pool, before, tokens, count, b->deterministic) : -1;
    if (page < 0) return NONE;
    *chain = tier_chain(&b->tier, pool, page);
    return HOST_PAGE(page);
}

// How many pages from the start of a prompt can be had, the sequence's own full ones included: all
// of POOL_ALL are there, and those of the windows at their end, in b->found.
static int find_pages(Batcher *b, const Sequence *s, int tier)
{
    int best = s->entered, windows_from = s->entered; // from there on none is missing
    Chain chain = s->chain, end = 0, ignored;
    for (int n = s->entered;; n++, chain = end) {
        b->found[POOL_ALL][n] = find_whole(b, s, POOL_ALL, chain, n * PAGE, tier, &end);
        if (b->found[POOL_ALL][n] == NONE) return best;
        if (b->pools > 1) {
            b->found[POOL_WINDOW][n] =
                find_whole(b, s, POOL_WINDOW, chain, n * PAGE, tier, &ignored);
            if (b->found[POOL_WINDOW][n] == NONE) windows_from = n + 1;
        }
        // A chunk is taken as a whole where results must not depend on what is there.
        if (b->deterministic && (n + 1) * PAGE % b->options.max_rows) continue;
        int first = first_page(b, POOL_WINDOW, (n + 1) * PAGE);
        if (b->pools == 1 || windows_from <= (first > s->entered ? first : s->entered))
            best = n + 1;
    }
}

// Of a pool, the first page that take_found takes up to number `end`.
static int first_taken(const Batcher *b, const Sequence *s, int pool, int end)
{
    int first = first_page(b, pool, end * PAGE);
    return first > s->entered ? first : s->entered;
}

// Whether there is room on the device for what was found in the second level.
static int found_fits(const Batcher *b, const Sequence *s, int end)
{
    for (int pool = 0; pool < b->pools; pool++) {
        int room = cache_unused(b->cache[pool]);
        for (int i = first_taken(b, s, pool, end); i < end; i++) {
            int page = b->found[pool][i];
            room -= page < 0 || cache_users(b->cache[pool], page) == 0;
        }
        if (room < 0) return 0;
    }
    return 1;
}

// The first `computed` tokens were found in the cache. What a sequence finds that has drawn already
// was its own.
static void go_on_at(Sequence *s, int computed)
{
    if (!s->draws) s->reused += computed - s->computed;
    s->computed = computed;
}

// Shares the pages up to number `end` that find_pages found.
static void take_found(Batcher *b, Sequence *s, int end)
{
    for (int pool = 0; pool < b->pools; pool++) {
        int *found = b->found[pool], from = first_taken(b, s, pool, end);
        // First what might go otherwise.
        for (int i = from; i < end; i++) {
            if (found[i] >= 0)
                cache_share(b->cache[pool], found[i]);
            else
                tier_hold(&b->tier, pool, HOST_PAGE(found[i]));
        }
        for (int i = from; i < end; i++) {
            if (found[i] >= 0) continue;
            int host = HOST_PAGE(found[i]);
            found[i] = take_page(b, pool);
            tier_restore(&b->tier, pool, host, b->cache[pool], found[i]);
            tier_release(&b->tier, pool, host);
            b->restored++;
        }
        for (int first = first_page(b, pool, end * PAGE); s->first[pool] < first; s->first[pool]++)
            if (s->first[pool] < s->pages)
                cache_drop(b->cache[pool], s->page[pool][s->first[pool]]);
        for (int i = from; i < end; i++) {
            if (i < s->pages) cache_drop(b->cache[pool], s->page[pool][i]);
            put_page(b, s, pool, i, found[i]);
        }
    }
    if (s->pages < end) s->pages = end;
    for (; s->entered < end; s->entered++) {
        int page = s->page[POOL_ALL][s->entered];
        s->chain = cache_chain(b->cache[POOL_ALL], page);
        if (cache_is_uniform(b->cache[POOL_ALL], page) && s->uniform == s->entered * PAGE)
            s->uniform += PAGE;
    }
    go_on_at(s, end * PAGE);
}

// Copies what part of the next page is there. There must be an unused page besides each.
static void copy_part(Batcher *b, Sequence *s)
{
    int source[POOLS], part = PAGE;
    for (int pool = 0; pool < b->pools; pool++) {
        int common;
        source[pool] = cache_find(b->cache[pool], s->chain, s->tokens + s->computed,
                                  s->count - 1 - s->computed, 0, &common);
        if (common < part) part = common;
        if (part < WORTH_COPYING || cache_unused(b->cache[pool]) < 2) return;
    }
    for (int pool = 0; pool < b->pools; pool++) cache_share(b->cache[pool], source[pool]);
    grow(b, s, s->computed + 1);
    for (int pool = 0; pool < b->pools; pool++) {
        device_copy_page(b->device, pool, s->page[pool][s->entered], source[pool]);
        cache_drop(b->cache[pool], source[pool]);
    }
    go_on_at(s, s->computed + part);
}

// --- saved states --------------------------------------------------------------------------------

// How many of the first tokens are there in whole pages with a saved state behind them, and its
// slot. The last token is always computed. *pages: tokens that are there in whole pages, with or
// without; those are in b->found.
static int find_saved(const Batcher *b, const int32_t *tokens, int count, int *slot, int *pages)
{
    int saved = 0, common;
    Chain chain = 0;
    *slot = -1;
    for (*pages = 0; b->reuse && *pages + PAGE < count; *pages += PAGE) {
        const Cache *c = b->cache[POOL_ALL];
        int page = cache_find(c, chain, tokens + *pages, PAGE, b->deterministic, &common);
        if (page < 0 || common < PAGE) break;
        chain = cache_chain(c, page);
        b->found[POOL_ALL][*pages / PAGE] = page;
        int found = states_find(b->states, chain);
        if (found < 0) continue;
        saved = *pages + PAGE;
        *slot = found;
    }
    return saved;
}

// Goes on from a saved state, when a prompt is begun.
static void find_state(Batcher *b, Sequence *s)
{
    int slot, pages;
    if (s->computed) return;
    int saved = find_saved(b, s->tokens, s->count, &slot, &pages);
    take_found(b, s, saved / PAGE);
    s->branch = pages > saved ? pages : 0;
    if (!saved) return;
    states_touch(b->states, slot);
    device_copy_state(b->device, (int)(s - b->sequences), slot);
}

// Where the next chunk of a recurrent model's prompt ends at the latest. Its last token is left to
// a pass that draws, so that it is computed in the same form when it is the first to be taken back.
// A chunk ends where the state is to be saved. Pages from there on come out as they would without.
static int end_of_chunk(const Batcher *b, const Sequence *s)
{
    int end = s->count - 1, border = s->count / PAGE * PAGE;
    if (b->reuse && border > s->computed && border < end) end = border;
    if (b->reuse && s->branch > s->computed && s->branch < end) end = s->branch;
    return end;
}

// Saves a state at a page's border for others: behind the last whole page, and where a prompt
// parted from what was in the cache. While a sequence draws it keeps only the latest.
static void save_for_others(Batcher *b, Sequence *s)
{
    int is_drawing = s->computed == s->count;
    if (!b->reuse || !s->computed || s->computed != s->entered * PAGE ||
        (s->computed != s->branch && s->computed + PAGE <= s->count) ||
        states_find(b->states, s->chain) >= 0)
        return;
    int again =
        is_drawing && s->latest >= 0 && states_find(b->states, s->latest_chain) == s->latest;
    int slot = again ? s->latest : states_take(b->states);
    if (slot < 0) return;
    device_copy_state(b->device, slot, (int)(s - b->sequences));
    states_enter(b->states, slot, s->chain);
    if (!is_drawing) return;
    s->latest = slot;
    s->latest_chain = s->chain;
}

// Renews the state that the sequence may go back to.
static void save_own(Batcher *b, Sequence *s)
{
    if (s->own < 0 || s->count - s->computed != 1 || s->computed >= s->settled ||
        (s->own_at && s->computed - s->own_at < OWN_STEP))
        return;
    device_copy_state(b->device, s->own, (int)(s - b->sequences));
    s->own_at = s->computed;
}

// Looks in the cache for what comes next in a prompt, at a page's border. The last token is always
// computed: its logits are wanted.
static void find_beginning(Batcher *b, Sequence *s)
{
    // What every token's state is needed for must see them all.
    if (s->vector && model_info.embedding != EMBEDDING_LAST) return;
    if (b->states) {
        find_state(b, s);
        return;
    }
    if (!b->reuse || s->computed != s->entered * PAGE) return;
    int pages = find_pages(b, s, 1);
    if (!found_fits(b, s, pages)) pages = find_pages(b, s, 0);
    if (pages > s->entered) take_found(b, s, pages);
    if (!b->deterministic) copy_part(b, s);
}

// --- sequences -----------------------------------------------------------------------------------

// Pages that are there for a newcomer with these tokens, or for one that lost its pages, beyond
// what those that go on will take for what they already have. Pages it shares with others count as
// there, unless it might have to compute them all the same before it shares them.
static int pages_for(const Batcher *b, const int32_t *tokens, int count)
{
    const Cache *c = b->cache[POOL_ALL];
    int there = cache_unused(c), common;
    for (int i = 0; i < b->options.max_sequences; i++) {
        const Sequence *s = &b->sequences[i];
        if (!s->active || s->suspended) continue;
        int wanted = b->deterministic ? pages_of(s->limit) : pages_wanted(s);
        if (s->pages < wanted) there -= wanted - s->pages;
    }
    if (!b->reuse || b->deterministic) return there;
    Chain chain = 0;
    int slot, all, end = b->states ? find_saved(b, tokens, count, &slot, &all) : count;
    for (int at = 0; at + PAGE < count && at < end; at += PAGE) {
        int page = cache_find(c, chain, tokens + at, PAGE, 0, &common);
        if (page < 0 || common < PAGE) break;
        if (cache_users(c, page) > 0) there++;
        chain = cache_chain(c, page);
    }
    return there;
}

int batch_admit(Batcher *b, const int32_t *tokens, int count, int more, const SamplerOptions *o,
                int priority, int rewinds)
{
    int slot = 0, limit = count + more;
    if (count < 1 || more < 0 || (int64_t)count + more > b->max_context ||
        pages_of(limit) > b->options.pages[POOL_ALL])
        return BATCH_TOO_LONG;
    while (slot < b->options.max_sequences && b->sequences[slot].active) slot++;
    if (slot == b->options.max_sequences) return BATCH_FULL;
    for (int i = 0; i < b->options.max_sequences; i++)
        if (b->sequences[i].suspended && b->sequences[i].priority <= priority) return BATCH_FULL;
    int first = count + 1 < limit ? count + 1 : limit;
    if (pages_of(b->deterministic ? limit : first) > pages_for(b, tokens, count)) return BATCH_FULL;
    rewinds = rewinds && b->states;
    if (rewinds && states_unheld(b->states) == 0) return BATCH_FULL;
    Sequence *s = &b->sequences[slot];
    memcpy(s->tokens, tokens, 4 * (size_t)count);
    s->count = count;
    s->computed = s->reused = s->pages = s->entered = s->uniform = 0;
    memset(s->first, 0, sizeof s->first);
    s->chain = 0;
    s->suspended = s->wants_logits = s->held = 0;
    s->vector = NULL;
    s->draws = 0;
    s->limit = limit;
    s->priority = priority;
    s->order = ++b->order;
    s->active = 1;
    s->settled = count;
    s->own = rewinds ? states_take(b->states) : -1;
    s->own_at = s->branch = 0;
    s->latest = -1;
    s->plain = sampler_is_plain(o);
    sampler_start(&s->sampler, o);
    return slot;
}

// The pages of windows that have been let go but are seen again, if they are still there. -1 when
// one is not, or might not be where nothing may depend on that.
static int restore_windows(Batcher *b, Sequence *s)
{
    for (int pool = 0; pool < b->pools; pool++)
        while (s->first[pool] > first_page(b, pool, s->computed)) {
            if (b->deterministic) return -1;
            int i = s->first[pool] - 1, common;
            Chain before = i ? cache_chain(b->cache[POOL_ALL], s->page[POOL_ALL][i - 1]) : 0;
            int page = cache_find(b->cache[pool], before, s->tokens + i * PAGE, PAGE, 0, &common);
            if (common < PAGE) return -1;
            cache_share(b->cache[pool], page);
            put_page(b, s, pool, i, page);
            s->first[pool]--;
        }
    return 0;
}

void batch_rewind(Batcher *b, int sequence, int count)
{
    Sequence *s = &b->sequences[sequence];
    s->count = count;
    if (s->own_at >= count) s->own_at = 0; // it was settled, and is taken back all the same
    if (s->computed < count) return;
    s->computed = b->states ? s->own_at : count - 1;
    int keep = s->computed / PAGE;
    if (b->states && s->own_at) device_copy_state(b->device, sequence, s->own);
    if (s->uniform > s->computed) s->uniform = s->computed;
    if (s->entered > keep) { // before pages are let go
        s->entered = keep;
        s->chain = keep ? cache_chain(b->cache[POOL_ALL], s->page[POOL_ALL][keep - 1]) : 0;
    }
    drop_from(b, s, keep + 1);
    if (!s->computed || restore_windows(b, s) != 0) {
        s->computed = s->entered * PAGE;
        drop_pages(b, s); // read again as a prompt
        return;
    }
    // The page at hand may have been full and is written again: not where others read it.
    int old[POOLS], shared = 0;
    for (int pool = 0; pool < b->pools; pool++) {
        old[pool] = s->page[pool][keep];
        shared |= cache_users(b->cache[pool], old[pool]) > 1;
    }
    if (!shared) {
        for (int pool = 0; pool < b->pools; pool++) cache_leave(b->cache[pool], old[pool]);
        return;
    }
    for (int pool = 0; pool < b->pools; pool++) cache_share(b->cache[pool], old[pool]);
    drop_from(b, s, keep);
    int grown = grow(b, s, s->computed + 1) == 0;
    for (int pool = 0; pool < b->pools; pool++) {
        if (grown) device_copy_page(b->device, pool, s->page[pool][keep], old[pool]);
        cache_drop(b->cache[pool], old[pool]);
    }
}

void batch_settle(Batcher *b, int sequence, int count)
{
    Sequence *s = &b->sequences[sequence];
    s->settled = count;
    if (b->states) save_own(b, s);
}

void batch_retire(Batcher *b, int sequence)
{
    Sequence *s = &b->sequences[sequence];
    drop_pages(b, s);
    if (s->own >= 0) states_drop(b->states, s->own);
    s->own = -1;
    s->active = s->suspended = 0;
}

int batch_room(const Batcher *b, int sequence)
{
    const Sequence *s = &b->sequences[sequence];
    return s->limit - s->count;
}

int batch_pages_used(const Batcher *b)
{
    return b->options.pages[POOL_ALL] - cache_unused(b->cache[POOL_ALL]);
}

// --- passes --------------------------------------------------------------------------------------

// Adds `rows` rows of a sequence to the pass.
static void add_rows(Batcher *b, Batch *pass, Sequence *s, int rows)
{
    int slot = (int)(s - b->sequences);
    b->segment[pass->segments++] = (Segment){pass->rows, rows, slot, s->computed};
    for (int i = 0; i < rows; i++, pass->rows++, s->computed++) {
        b->token[pass->rows] = s->tokens[s->computed];
        b->position[pass->rows] = s->computed;
        b->sequence[pass->rows] = slot;
    }
    if (s->computed == s->count) {
        const SamplerOptions *o = &s->sampler.options;
        b->owner[pass->outputs] = slot;
        b->sampling[pass->outputs] = (Sampling){o->temperature,
                                                o->top_p,
                                                o->min_p,
                                                o->top_k,
                                                o->seed,
                                                s->draws,
                                                s->plain ? s->sampler.mask : NULL};
        b->output[pass->outputs++] = pass->rows - 1;
    }
}

// The next chunk of the most urgent prompt.
static void add_prompt(Batcher *b, Batch *pass)
{
    Sequence *first = NULL;
    for (int i = 0; i < b->options.max_sequences; i++) {
        Sequence *s = &b->sequences[i];
        if (!s->active || s->suspended || s->held || s->count - s->computed < 2) continue;
        if (!first || s->priority < first->priority ||
            (s->priority == first->priority && s->order < first->order))
            first = s;
    }
    if (!first) return;
    find_beginning(b, first);
    // Chunks end at multiples of their size, so that where they end depends on the prompt alone.
    int most = b->options.max_rows, whole = b->states && most % PAGE == 0 ? PAGE : most;
    int rows = (b->states ? end_of_chunk(b, first) : first->count) - first->computed;
    int chunk = most - first->computed % most;
    if (rows > chunk) rows = chunk;
    if (grow(b, first, first->computed + rows) != 0) return;
    if (first->uniform == first->computed && first->computed % whole == 0) first->uniform += rows;
    b->prompt_rows += rows;
    add_rows(b, pass, first, rows);
}

static int draws_next(const Sequence *s)
{
    return s->active && !s->suspended && !s->held && s->count - s->computed == 1;
}

// One row of everybody who has one left, in turns when they are more than fit.
static void add_decodes(Batcher *b, Batch *pass)
{
    int slots = b->options.max_sequences, from = b->next;
    // First all pages: who needs one may take it from another.
    for (int i = 0; i < slots; i++) {
        Sequence *s = &b->sequences[i];
        if (draws_next(s)) grow(b, s, s->count);
    }
    for (int i = 0; i < slots && pass->rows < b->decode_rows; i++) {
        Sequence *s = &b->sequences[(from + i) % slots];
        if (!draws_next(s)) continue;
        add_rows(b, pass, s, 1);
        b->next = ((int)(s - b->sequences) + 1) % slots;
    }
    b->prompt_rows = 0;
}

// Lets sequences that lost their pages go on, the most important and oldest first.
static void resume(Batcher *b)
{
    for (;;) {
        Sequence *first = NULL;
        for (int i = 0; i < b->options.max_sequences; i++) {
            Sequence *s = &b->sequences[i];
            if (s->suspended && (!first || s->priority < first->priority ||
                                 (s->priority == first->priority && s->order < first->order)))
                first = s;
        }
        if (!first) return;
        if (pages_wanted(first) > pages_for(b, first->tokens, first->count)) return;
        first->suspended = 0;
    }
}

// Adds what a pass computed of a prompt to its vector.
static void pool_rows(const Batcher *b, const Segment *segment, Sequence *s)
{
    const float *rows = device_final(b->device) + (size_t)segment->row * (size_t)model_info.dim;
    for (int i = 0; i < segment->rows; i++, rows += model_info.dim) {
        int at = segment->position + i;
        int alone = model_info.embedding == EMBEDDING_LAST ? at == s->count - 1 : at == 0;
        if (model_info.embedding != EMBEDDING_MEAN && !alone) continue;
        if (alone)
            memcpy(s->vector, rows, 4 * (size_t)model_info.dim);
        else
            for (int k = 0; k < model_info.dim; k++) s->vector[k] += rows[k];
    }
    if (model_info.embedding == EMBEDDING_MEAN && s->computed == s->count)
        for (int k = 0; k < model_info.dim; k++) s->vector[k] /= (float)s->count;
}

int batch_step(Batcher *b, Drawn *drawn)
{
    Batch pass = {.token = b->token,
                  .position = b->position,
                  .sequence = b->sequence,
                  .output = b->output,
                  .segment = b->segment};
    resume(b);
    int decodes = 0, prompts = 0;
    for (int i = 0; i < b->options.max_sequences; i++) {
        const Sequence *s = &b->sequences[i];
        if (!s->active || s->suspended || s->held) continue;
        decodes += draws_next(s);
        prompts += s->count - s->computed > 1;
    }
    if (prompts && (!decodes || b->prompt_rows < b->options.max_rows)) add_prompt(b, &pass);
    if (!pass.rows) add_decodes(b, &pass);
    if (!pass.rows) return decodes + prompts ? 0 : -1;

    device_forward(b->device, &pass, pass.outputs ? b->sampling : NULL);
    for (int i = 0; i < pass.segments; i++) {
        Sequence *s = &b->sequences[pass.segment[i].sequence];
        if (s->vector) pool_rows(b, &pass.segment[i], s);
        enter_pages(b, s);
        if (b->states) save_for_others(b, s);
        if (b->states) save_own(b, s);
    }
    if (!pass.outputs) return 0;
    const int32_t *tokens = device_tokens(b->device);
    for (int i = 0; i < pass.outputs; i++) {
        Sequence *s = &b->sequences[b->owner[i]];
        int plain = s->plain && s->sampler.banned_at != s->count;
        drawn[i] = (Drawn){b->owner[i], tokens[i], NULL};
        if (!plain || s->wants_logits)
            drawn[i].logits = device_logits(b->device) + (size_t)i * (size_t)model_info.vocab;
        if (!plain)
            drawn[i].token =
                sample_token(b->room, drawn[i].logits, s->tokens, s->count, &s->sampler, s->draws);
        if (drawn[i].token >= 0 && batch_room(b, b->owner[i]) > 0)
            s->tokens[s->count++] = drawn[i].token;
        s->draws++;
    }
    return pass.outputs;
}
