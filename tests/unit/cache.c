// The page table: sharing, finding by ids, eviction, against a slow model of the same rules.
#include "runtime/cache.h"
#include "tests/check.h"
#include <stdlib.h>

static int32_t text[8 * PAGE];

static void test_finding(void)
{
    Cache *c;
    Error err;
    CHECK(cache_open(&c, 4, &err) == 0);
    for (int i = 0; i < 8 * PAGE; i++) text[i] = i * 7 % 1000;
    int common, a = cache_take(c), b = cache_take(c);
    CHECK(a != b && cache_unused(c) == 2 && cache_users(c, a) == 1);
    CHECK(cache_find(c, 0, text, PAGE, 0, &common) < 0);
    cache_enter(c, a, 0, text, PAGE, 1);
    cache_enter(c, b, cache_chain(c, a), text + PAGE, 100, 0);
    CHECK(cache_find(c, 0, text, PAGE, 1, &common) == a && common == PAGE);
    CHECK(cache_find(c, 0, text, 50, 0, &common) == a && common == 50);
    CHECK(cache_find(c, 0, text, 50, 1, &common) < 0);
    CHECK(cache_find(c, cache_chain(c, a), text + PAGE, PAGE, 0, &common) == b && common == 100);
    CHECK(cache_find(c, cache_chain(c, a), text + PAGE, PAGE, 1, &common) < 0);
    CHECK(cache_find(c, 0, text + PAGE, PAGE, 0, &common) < 0); // the same ids elsewhere
    text[30]++;
    CHECK(cache_find(c, 0, text, PAGE, 0, &common) == a && common == 30);
    CHECK(cache_find(c, 0, text, PAGE, 1, &common) < 0);
    text[30]--;
    // Unused pages keep what they hold until they are needed, the oldest going first.
    cache_drop(c, b);
    cache_drop(c, a);
    CHECK(cache_unused(c) == 4 && cache_find(c, 0, text, PAGE, 1, &common) == a);
    cache_share(c, a);
    CHECK(cache_users(c, a) == 1 && cache_unused(c) == 3);
    cache_drop(c, a);
    int empty = cache_take(c), other = cache_take(c);
    CHECK(empty != a && empty != b && other != a && other != b);
    CHECK(cache_take(c) == b && cache_find(c, 0, text, PAGE, 1, &common) == a);
    CHECK(cache_take(c) == a && cache_find(c, 0, text, PAGE, 1, &common) < 0);
    CHECK(cache_take(c) == -1 && cache_unused(c) == 0);
    cache_close(c);
}

// Random life: a page that is found always holds the very ids that are looked for, behind the very
// text that is meant; users and unused pages add up.
static void test_life(void)
{
    enum { PAGES = 24, ROUNDS = 20000 };
    static int32_t holds[PAGES][2]; // text and place of what a page was entered with
    int users[PAGES] = {0}, used[PAGES], used_count = 0, wrong = 0, hits = 0;
    Chain chain[PAGES] = {0};
    Cache *c;
    Error err;
    CHECK(cache_open(&c, PAGES, &err) == 0);
    srand(1);
    for (int round = 0; round < ROUNDS; round++) {
        // Text t has pages of ids t * 10 + place; walk it as a sequence would.
        int32_t t = rand() % 9, length = 1 + rand() % 3;
        Chain before = 0;
        for (int32_t at = 0; at < length; at++) {
            int common;
            for (int i = 0; i < PAGE; i++) text[i] = t * 10 + at;
            int page = cache_find(c, before, text, PAGE, 1, &common);
            if (page >= 0) {
                wrong += holds[page][0] != t || holds[page][1] != at ||
                         chain[page] != cache_chain(c, page);
                cache_share(c, page);
                hits++;
            } else {
                page = cache_take(c);
                if (page < 0) break;
                cache_enter(c, page, before, text, PAGE, 1);
                holds[page][0] = t, holds[page][1] = at;
                chain[page] = cache_chain(c, page);
            }
            users[page]++;
            used[used_count++] = page;
            before = cache_chain(c, page);
            while (used_count > PAGES - 6) { // some sequence ends
                int which = rand() % used_count, gone = used[which];
                used[which] = used[--used_count];
                users[gone]--;
                cache_drop(c, gone);
            }
        }
        int unused = 0;
        for (int i = 0; i < PAGES; i++) {
            unused += users[i] == 0;
            wrong += users[i] != cache_users(c, i);
        }
        wrong += unused != cache_unused(c);
    }
    CHECK_MSG(wrong == 0 && hits > ROUNDS / 4, "%d wrong, %d hits", wrong, hits);
    cache_close(c);
}

int main(void)
{
    test_finding();
    test_life();
    return check_done();
}
