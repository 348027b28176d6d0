// The batch against a device that remembers, for every place in the cache, the text whose keys and
// values would stand there: a pass checks all places that its rows see, and a token follows from
// the text alone. So every answer must be the one that its prompt has alone, whoever shares batch,
// pages and windows. Or a token follows from the forms too, of many rows or one, in which all that
// it sees was computed, as the last bits of a real model do.
#include "runtime/batch.h"
#include "runtime/pools.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 300, SLOTS = 4, CONTEXT = 2560, PAGES_EACH = CONTEXT / PAGE, MOST_PAGES = 64 };

static const Layer layer_table[3] = {{.window = WINDOW}, {.window = 0}, {.window = WINDOW - 50}};
const ModelInfo model_info = {.layers = 3,
                              .cache_layers = 3,
                              .window_layers = 2,
                              .vocab = 1000,
                              .layer_table = layer_table,
                              .dim = 1,
                              .embedding = EMBEDDING_MEAN};

typedef struct {
    uint64_t text, forms; // up to there
} Place;

struct Device {
    DeviceOptions options;
    int pools;
    int table[POOLS][SLOTS][PAGES_EACH];
    Place page[POOLS][MOST_PAGES][PAGE], host[POOLS][MOST_PAGES][PAGE];
    int32_t tokens[SLOTS];
    float final[CONTEXT]; // of each row its token
    Batcher *batcher;
    int wrong, passes, restored, forms; // forms: they matter
};

static uint64_t extend(uint64_t text, int32_t token)
{
    text = (text ^ (uint32_t)token) * 0x9e3779b97f4a7c15u;
    return text ^ text >> 29;
}

static int32_t next_token(uint64_t text)
{
    return (int32_t)(extend(text, -1) % 40);
}

int device_decode_rows(const Device *d)
{
    return d->options.max_outputs;
}

void device_set_page(Device *d, int pool, int sequence, int index, int page)
{
    d->table[pool][sequence][index] = page;
}

void device_copy_page(Device *d, int pool, int to, int from)
{
    memcpy(d->page[pool][to], d->page[pool][from], sizeof d->page[pool][to]);
}

static Place *place(Device *d, int pool, int sequence, int position)
{
    int page = d->table[pool][sequence][position / PAGE];
    d->wrong += page < 0 || page >= d->options.pages[pool];
    return &d->page[pool][page][position % PAGE];
}

// Of a token at a position, from what it sees.
static uint64_t forms_at(Device *d, int sequence, int position, uint64_t form)
{
    for (int pool = 0; pool < d->pools && position > 0; pool++) {
        int from = pool == POOL_WINDOW && position >= WINDOW ? position - WINDOW + 1 : 0;
        form = extend(form ^ place(d, pool, sequence, from)->forms, pool) ^
               place(d, pool, sequence, position - 1)->forms;
    }
    return form;
}

void device_forward(Device *d, const Batch *b, const Sampling *sampling)
{
    (void)sampling;
    static uint64_t texts[CONTEXT];
    d->passes++;
    for (int i = 0; i < b->segments; i++) {
        const Segment *g = &b->segment[i];
        const int32_t *tokens = d->batcher->sequences[g->sequence].tokens;
        for (int t = 0; t < g->position + g->rows; t++)
            texts[t] = extend(t ? texts[t - 1] : 1, tokens[t]);
        // All places are written before any is read, as layer by layer in a pass.
        for (int r = 0; r < g->rows; r++) {
            int t = g->position + r, form = b->rows > 24 ? 2 : g->rows > 8;
            uint64_t forms = extend(forms_at(d, g->sequence, t, (uint64_t)form), tokens[t]);
            d->wrong += b->token[g->row + r] != tokens[t];
            d->final[g->row + r] = (float)tokens[t];
            for (int pool = 0; pool < d->pools; pool++)
                *place(d, pool, g->sequence, t) = (Place){texts[t], forms};
        }
    }
    for (int i = 0; i < b->segments; i++) {
        const Segment *g = &b->segment[i];
        const int32_t *tokens = d->batcher->sequences[g->sequence].tokens;
        for (int t = 0; t < g->position + g->rows; t++)
            texts[t] = extend(t ? texts[t - 1] : 1, tokens[t]);
        for (int pool = 0; pool < d->pools; pool++) {
            int from = pool == POOL_WINDOW ? g->position - WINDOW + 1 : 0;
            for (int t = from > 0 ? from : 0; t < g->position + g->rows; t++)
                d->wrong += place(d, pool, g->sequence, t)->text != texts[t];
        }
        for (int o = 0; o < b->outputs; o++) {
            int t = b->position[b->output[o]];
            if (b->sequence[b->output[o]] == g->sequence)
                d->tokens[o] =
                    next_token(d->forms ? place(d, POOL_ALL, g->sequence, t)->forms : texts[t]);
        }
    }
}

void device_save_page(Device *d, int pool, int host, int page)
{
    memcpy(d->host[pool][host], d->page[pool][page], sizeof d->host[pool][host]);
}

void device_load_page(Device *d, int pool, int page, int host)
{
    memcpy(d->page[pool][page], d->host[pool][host], sizeof d->page[pool][page]);
    d->restored++;
}

void device_copy_state(Device *d, int to, int from)
{
    (void)to, (void)from;
    d->wrong++;
}

const int32_t *device_tokens(Device *d)
{
    return d->tokens;
}

const float *device_final(Device *d)
{
    return d->final;
}

const float *device_logits(Device *d)
{
    d->wrong++;
    return NULL;
}

typedef struct {
    int slot, prompt, more, taken_back;
    uint64_t text; // of the prompt
} Request;

// What is drawn after the prompt must be what follows from it.
static int check_answer(const Request *r, const Sequence *s)
{
    uint64_t text = r->text;
    int wrong = s->count != r->prompt + r->more;
    for (int t = r->prompt; t < s->count; t++) {
        wrong += s->tokens[t] != next_token(text);
        text = extend(text, s->tokens[t]);
    }
    return wrong;
}

// A batch over `all` pages, and `windows` for windows, of `host` pages each in the second level.
static void open_plain(Batcher *b, Device *d, int all, int windows, int host, int chunk)
{
    Error err;
    *d = (Device){.options = {.max_rows = chunk,
                              .max_outputs = SLOTS,
                              .max_context = CONTEXT,
                              .max_sequences = SLOTS,
                              .pages_per_sequence = PAGES_EACH,
                              .pages = {all, windows},
                              .host_pages = {host, windows ? host : 0}},
                  .pools = windows ? 2 : 1,
                  .batcher = b};
    CHECK(all <= MOST_PAGES && windows <= MOST_PAGES);
    CHECK(batch_open(b, d, &d->options, &err) == 0);
    if (!windows) b->pools = 1;
}

// `pages` of POOL_ALL; windows: with layers that have some; host: pages of a second level.
static void test_life(int windows, int deterministic, int pages, int host, int chunk, int rounds)
{
    static Device d;
    Batcher b;
    int seen = WINDOW_PAGES(WINDOW, SLOTS, chunk);
    open_plain(&b, &d, pages, !windows ? 0 : seen < pages ? seen : pages, host, chunk);
    b.deterministic = deterministic;

    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    Request request[SLOTS];
    Drawn drawn[SLOTS];
    int active = 0, done = 0, wrong = 0, reused = 0, most = 0;
    srand((unsigned)(pages + chunk));
    for (int round = 0; round < rounds || active; round++) {
        if (round < rounds && active < SLOTS && rand() % 3 == 0) {
            // One of a few beginnings, then something of its own.
            static int32_t tokens[CONTEXT];
            int shared = rand() % 6, common = rand() % 1700, own = 1 + rand() % 300;
            Request r = {.prompt = common + own, .more = rand() % 250, .text = 1};
            for (int i = 0; i < r.prompt; i++) {
                tokens[i] = i < common ? shared * 100 + i % 17 : rand() % 500;
                r.text = extend(r.text, tokens[i]);
            }
            r.slot = batch_admit(&b, tokens, r.prompt, r.more, &greedy, rand() % 2, 1);
            if (r.slot >= 0 && r.more == 0)
                batch_retire(&b, r.slot);
            else if (r.slot >= 0)
                request[active++] = r;
            wrong += r.slot == BATCH_TOO_LONG;
        }
        int n = batch_step(&b, drawn);
        wrong += n < 0 && active;
        for (int i = 0; i < active; i++) {
            Request *r = &request[i];
            Sequence *s = &b.sequences[r->slot];
            if (windows && s->pages - s->first[POOL_WINDOW] > most && !s->suspended &&
                s->count - s->computed == 1)
                most = s->pages - s->first[POOL_WINDOW];
            if (s->count > r->prompt + 3 && r->taken_back < 2 && rand() % 60 == 0) {
                // Back by a little or, as a user may, by a lot.
                int back = rand() % 3 ? 1 + rand() % 40 : 1 + rand() % (s->count - r->prompt);
                if (back > s->count - r->prompt) back = s->count - r->prompt;
                batch_rewind(&b, r->slot, s->count - back);
                r->taken_back++;
            }
            if (rand() % 800 == 0) { // its client is gone
                batch_retire(&b, r->slot);
                request[i--] = request[--active];
                continue;
            }
            if (batch_room(&b, r->slot) > 0) continue;
            wrong += check_answer(r, s) + (s->reused >= r->prompt);
            reused += s->reused;
            done++;
            batch_retire(&b, r->slot);
            request[i--] = request[--active];
        }
    }
    CHECK_MSG(wrong == 0 && d.wrong == 0, "%d wrong, %d places", wrong, d.wrong);
    CHECK_MSG(done > rounds / 200 && reused > done * 20, "%d done, %d tokens found", done, reused);
    CHECK_MSG((d.restored > 0) == (host > 0), "%d pages of the second level", d.restored);
    CHECK_MSG(most <= (WINDOW + REWIND_TOKENS) / PAGE + 2, "%d pages of a window", most);
    for (int pool = 0; pool < d.pools; pool++)
        CHECK(cache_unused(b.cache[pool]) == d.options.pages[pool]);
    batch_close(&b);
}

// A text that comes back is taken up where it ended, with the pages of its window only.
static void test_return(void)
{
    static Device d;
    static int32_t tokens[CONTEXT];
    Batcher b;
    Drawn drawn[SLOTS];
    open_plain(&b, &d, 40, WINDOW_PAGES(WINDOW, SLOTS, 512), 0, 512);
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    for (int i = 0; i < CONTEXT; i++) tokens[i] = i % 37;
    int reused[3];
    const int length[3] = {2000, 2100, 1500};
    for (int i = 0; i < 3; i++) {
        tokens[1990 + i]++; // they part there, or a little later
        int slot = batch_admit(&b, tokens, length[i], 1, &greedy, 0, 0);
        while (batch_step(&b, drawn) == 0) continue;
        reused[i] = b.sequences[slot].reused;
        batch_retire(&b, slot);
    }
    CHECK_MSG(reused[0] == 0 && reused[1] >= 1990 && reused[2] >= 1280 && d.wrong == 0,
              "%d %d %d tokens found, %d wrong", reused[0], reused[1], reused[2], d.wrong);
    batch_close(&b);
}

// A text that loses its pages while it is read has every token once in its mean.
static void test_mean(void)
{
    enum { TOKENS = 1000 };
    static Device d;
    static int32_t tokens[TOKENS];
    Batcher b;
    Drawn drawn[SLOTS];
    open_plain(&b, &d, 5, 0, 0, 16);
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    double sum = 0;
    float mean = 0;
    int lost = 0;
    for (int i = 0; i < TOKENS; i++) tokens[i] = i % 7, sum += tokens[i];
    int writer = batch_admit(&b, tokens, 250, 400, &greedy, 0, 0);
    int reader = batch_admit(&b, tokens + 1, TOKENS - 1, 0, &greedy, 1, 0);
    CHECK(writer >= 0 && reader >= 0);
    Sequence *s = &b.sequences[reader];
    for (s->vector = &mean; s->computed < s->count;) {
        batch_step(&b, drawn);
        lost |= s->suspended;
        if (lost && b.sequences[writer].active && !batch_room(&b, writer)) batch_retire(&b, writer);
    }
    CHECK_MSG(lost && mean == (float)(sum / (TOKENS - 1)), "%g, not %g", (double)mean,
              sum / (TOKENS - 1));
    batch_close(&b);
}

// What others have driven out of the cache comes back from the second level.
static void test_second_level(void)
{
    static Device d;
    static int32_t tokens[CONTEXT];
    Batcher b;
    Drawn drawn[SLOTS];
    for (int host = 0; host < 2; host++) {
        open_plain(&b, &d, 10, 10, host * 20, 512);
        SamplerOptions greedy = sampler_defaults;
        greedy.temperature = 0;
        int reused = 0;
        for (int i = 0; i < 3; i++) { // a text, another one, the first again
            for (int t = 0; t < 2000; t++) tokens[t] = t % 37 + i % 2;
            int slot = batch_admit(&b, tokens, 2000, 1, &greedy, 0, 0);
            while (batch_step(&b, drawn) == 0) continue;
            reused = b.sequences[slot].reused;
            batch_retire(&b, slot);
        }
        CHECK_MSG(d.wrong == 0 && (host ? reused == 7 * PAGE : reused < 4 * PAGE),
                  "%d tokens found, %d wrong", reused, d.wrong);
        batch_close(&b);
    }
}

// The same, deterministic, where forms matter.
static void open_batch(Batcher *b, Device *d, int all, int windows, int host, int chunk)
{
    open_plain(b, d, all, windows, host, chunk);
    d->forms = b->deterministic = 1;
}

static int admit(Batcher *b, int salt, int prompt, int more, int priority)
{
    static int32_t tokens[CONTEXT];
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    for (int i = 0; i < prompt; i++) tokens[i] = i % 37 + salt;
    return batch_admit(b, tokens, prompt, more, &greedy, priority, 0);
}

// Two that lost their pages, and would not fit together, go on one after the other.
static void test_outgrown(void)
{
    static Device d;
    Batcher b;
    Drawn drawn[SLOTS];
    open_batch(&b, &d, 10, 0, 0, 512);
    b.deterministic = 0;
    int slot[3] = {admit(&b, 0, 500, 2000, 0), admit(&b, 1, 1000, 600, 1),
                   admit(&b, 2, 1020, 500, 1)};
    int left = 3, most = 0;
    while (left && batch_step(&b, drawn) >= 0) {
        int suspended = 0;
        for (int i = 0; i < 3; i++) {
            suspended += b.sequences[i].active && b.sequences[i].suspended;
            if (!b.sequences[slot[i]].active || batch_room(&b, slot[i])) continue;
            batch_retire(&b, slot[i]);
            left--;
        }
        if (suspended > most) most = suspended;
    }
    CHECK_MSG(left == 0 && most == 2 && d.wrong == 0, "%d never ended, %d lost their pages", left,
              most);
    batch_close(&b);
}

// With `deterministic` nobody loses pages to somebody whose own are counted as there: of a chunk
// that is not there as a whole, none is taken.
static void test_promised(void)
{
    static Device d;
    Batcher b;
    Drawn drawn[SLOTS];
    open_batch(&b, &d, 11, 0, 0, 1024);
    int first = admit(&b, 0, 900, 1148, 1), suspended = 0, second = BATCH_FULL;
    while (batch_step(&b, drawn) >= 0 && batch_room(&b, first)) {
        if (b.sequences[first].count >= 1800 && second == BATCH_FULL)
            second = admit(&b, 0, 900, 600, 0);
        suspended += b.sequences[first].suspended;
    }
    CHECK(suspended == 0 && d.wrong == 0);
    batch_close(&b);
}

// With `deterministic`, what going back far computes again does not depend on what is there.
static void test_far_back(void)
{
    static Device d;
    Batcher b;
    Drawn drawn[SLOTS];
    for (int company = 0; company < 2; company++) {
        open_batch(&b, &d, 40, 12, 0, 512);
        int slot = admit(&b, 0, 1034, 900, 0);
        while (batch_room(&b, slot) > 300) batch_step(&b, drawn);
        for (int i = 0; i < 2 * company; i++) {
            int other = admit(&b, 100 * (i + 1), 2500, 1, 0);
            while (batch_room(&b, other)) batch_step(&b, drawn);
            batch_retire(&b, other);
        }
        batch_rewind(&b, slot, 1300);
        CHECK_MSG(b.sequences[slot].computed == 0, "%d of 1300 kept, %s company",
                  b.sequences[slot].computed, company ? "in" : "without");
        while (batch_room(&b, slot)) batch_step(&b, drawn);
        CHECK(d.wrong == 0);
        batch_close(&b);
    }
}

// A request whose answer follows from itself: when `at` tokens are drawn, `back` are taken back.
typedef struct {
    int family, common, own, more, at, back, slot, again;
    uint64_t answer;
} Asked;

static void serve(Batcher *b, Device *d, Asked *asked, int count)
{
    static int32_t tokens[CONTEXT];
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    Asked *running[SLOTS] = {0};
    Drawn drawn[SLOTS];
    int wrong = 0;
    for (int next = 0, left = count; left && wrong == 0;) {
        for (; next < count; next++) {
            Asked *a = &asked[next];
            int prompt = a->common + a->own;
            for (int i = 0; i < prompt; i++)
                tokens[i] = i < a->common ? a->family * 100 + i % 17 : (a->own + i) % 500;
            a->slot = batch_admit(b, tokens, prompt, a->more, &greedy, a->own % 2, 1);
            if (a->slot < 0) break;
            running[a->slot] = a;
        }
        wrong += batch_step(b, drawn) < 0;
        for (int i = 0; i < SLOTS; i++) {
            Asked *a = running[i];
            Sequence *s = &b->sequences[i];
            if (!a) continue;
            wrong += s->suspended;
            if (s->count == a->common + a->own + a->at && !a->again++)
                batch_rewind(b, i, s->count - a->back);
            if (batch_room(b, i)) continue;
            for (int t = 0; t < s->count; t++) a->answer = extend(a->answer, s->tokens[t]);
            batch_retire(b, i);
            running[i] = NULL;
            left--;
        }
    }
    CHECK_MSG(wrong == 0 && d->wrong == 0, "%d wrong, %d places", wrong, d->wrong);
}

// With `deterministic` every answer is what it is alone.
static void test_company(int windows, int host, int chunk)
{
    enum { COUNT = 120 };
    static Device d;
    static Asked alone[COUNT], together[COUNT];
    Batcher b;
    int different = 0;
    for (int i = 0; i < COUNT; i++) {
        Asked a = {.family = rand() % 3,
                   .common = rand() % 1500,
                   .own = 1 + rand() % 300,
                   .more = 5 + rand() % 700};
        a.at = 1 + rand() % (a.more - 1);
        a.back = rand() % 2 ? rand() % a.at : rand() % (a.at < 40 ? a.at : 40);
        alone[i] = together[i] = a;
        open_batch(&b, &d, 20, windows, 0, chunk);
        serve(&b, &d, &alone[i], 1);
        batch_close(&b);
    }
    open_batch(&b, &d, 20, windows, host, chunk);
    serve(&b, &d, together, COUNT);
    for (int i = 0; i < COUNT; i++) different += alone[i].answer != together[i].answer;
    CHECK_MSG(different == 0 && !d.restored == !host, "%d different, %d pages restored", different,
              d.restored);
    batch_close(&b);
}

int main(void)
{
    for (int windows = 0; windows <= 20; windows += 20) {
        test_company(windows, 0, 256);
        test_company(windows, 30, 512);
    }
    test_outgrown();
    test_promised();
    test_far_back();
    test_second_level();
    test_mean();
    test_return();
    for (int windows = 0; windows < 2; windows++)
        for (int deterministic = 0; deterministic < 2; deterministic++) {
            test_life(windows, deterministic, 60, 0, 512, 3000);
            test_life(windows, deterministic, 14, 0, 256, 3000);
            test_life(windows, deterministic, 25, 0, 1024, 3000);
            test_life(windows, deterministic, 14, 60, 512, 3000);
            test_life(windows, deterministic, 25, 8, 256, 3000);
        }
    return check_done();
}
