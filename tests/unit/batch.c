// The batch of a recurrent model, on a made-up model that finds every mistake: its state is a
// digest of the tokens it has seen, its cache holds the tokens themselves, and every row compares
// the two. What it draws depends on the tokens and on the form in which each was computed, as the
// last bits of a real model do, so that equal requests must have been computed alike.
#include "runtime/batch.h"
#include "runtime/options.h"
#include "tests/check.h"
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 61, CONTEXT = 1536, FEW = 24 };

typedef struct {
    uint64_t tokens, forms; // digests
    int64_t count;
} Digest;

static int mistakes, check_forms;

static uint64_t mix(uint64_t z, uint64_t value)
{
    z = (z ^ value) * 0xbf58476d1ce4e5b9u;
    return z ^ z >> 29;
}

static Digest add_token(Digest d, int token, int form)
{
    return (Digest){mix(d.tokens, (uint64_t)token + 1), mix(d.forms, (uint64_t)(8 * token + form)),
                    d.count + 1};
}

// Key and value (2 halves each) of a position: its token, and its form.
static uint16_t *place(const State *s, const Batch *b, int sequence, int position, int value)
{
    int page = b->page_table[POOL_ALL][sequence * b->pages_per_sequence + position / PAGE];
    return (uint16_t *)s->cache[POOL_ALL] + ((page * 2 + value) * PAGE + position % PAGE) * 2;
}

static Digest digest_cache(const State *s, const Batch *b, int sequence, int count)
{
    Digest d = {0};
    for (int i = 0; i < count; i++)
        d = add_token(d, *place(s, b, sequence, i, 0), *place(s, b, sequence, i, 1));
    return d;
}

static void forward(Worker *w, State *s, const Batch *b)
{
    if (w->index) return;
    for (int i = 0; i < b->segments; i++) {
        const Segment *g = &b->segment[i];
        Digest *d = (Digest *)s->states + g->sequence;
        if (g->position == 0) *d = (Digest){0};
        int form = b->rows > FEW ? 2 : g->rows > 8;
        for (int r = g->row; r < g->row + g->rows; r++) {
            mistakes += d->count != b->position[r];
            *place(s, b, g->sequence, b->position[r], 0) = (uint16_t)b->token[r];
            *place(s, b, g->sequence, b->position[r], 1) = (uint16_t)form;
            *d = add_token(*d, b->token[r], form);
        }
        Digest seen = digest_cache(s, b, g->sequence, (int)d->count);
        mistakes += seen.tokens != d->tokens || (check_forms && seen.forms != d->forms);
        for (int o = 0; o < b->outputs; o++)
            for (int v = 0; v < VOCAB && b->output[o] == g->row + g->rows - 1; v++)
                s->logits[o * VOCAB + v] = d->forms % VOCAB == (uint64_t)v;
    }
}

static size_t work_bytes(int rows, int outputs)
{
    return (size_t)(rows + outputs);
}

static const CpuTarget cpu = {"generic", forward, 64, work_bytes, FEW};
static const CpuTarget *const targets[] = {&cpu, NULL};
const char licenses_text[] = "", page_text[] = "", page_text_end[] = "";
const ModelInfo model_info = {
    .name = "digest",
    .layers = 1,
    .dim = 1,
    .heads = 1,
    .kv_heads = 1,
    .head_dim = 2,
    .ffn_dim = 1,
    .vocab = VOCAB,
    .rope_dim = 2,
    .ropes = 1,
    .cache_layers = 1,
    .state_bytes = sizeof(Digest),
    .max_context = CONTEXT,
    .max_batch = 8,
    .cpu = targets,
};

typedef struct {
    Device *device;
    Batcher batch;
    Weights weights;
} Fixture;

static void open_fixture(Fixture *f, int slots, int pages, int saved, int deterministic)
{
    Error err;
    DeviceOptions o = {.threads = 1,
                       .max_rows = 512,
                       .max_outputs = slots,
                       .max_context = CONTEXT,
                       .max_sequences = slots,
                       .pages_per_sequence = CONTEXT / PAGE,
                       .pages = {pages},
                       .key_bits = 16,
                       .value_bits = 16,
                       .states = slots + saved};
    *f = (Fixture){0};
    CHECK(device_open(&f->device, &o, &f->weights, &err) == 0);
    CHECK(batch_open(&f->batch, f->device, &o, &err) == 0);
    f->batch.deterministic = deterministic;
    check_forms = deterministic;
}

static void close_fixture(Fixture *f)
{
    batch_close(&f->batch);
    device_close(f->device);
}

// What is told of the memory is what is taken, whole pages of each part and small tables aside.
static void test_memory(void)
{
    for (int i = 0; i < 4; i++) {
        Device *d;
        Error err;
        Weights weights = {0};
        DeviceOptions o = {.threads = 1,
                           .max_rows = 100 + 900 * i,
                           .max_outputs = 50,
                           .max_context = CONTEXT,
                           .max_sequences = 2,
                           .pages_per_sequence = 6,
                           .pages = {400 * i + 1},
                           .key_bits = 16,
                           .value_bits = 16,
                           .states = 50000 * i + 2,
                           .keep_hidden = i == 3};
        CHECK(device_open(&d, &o, &weights, &err) == 0);
        int64_t more = (int64_t)(device_memory(d) - memory_bytes(&o));
        CHECK_MSG(more >= 0 && more < 250000, "%lld bytes more", (long long)more);
        device_close(d);
    }
}

// --- requests ------------------------------------------------------------------------------------

// A beginning that several requests share, of a family or what another ended with, then an own
// rest. What is taken back follows from the request alone: behind every `every`-th draw the tokens
// that are not settled.
typedef struct Request {
    int family, shared, own, more, every, priority;
    const struct Request *before;
    int32_t result[CONTEXT + 1];
    int count, draws, cancelled;
} Request;

static int make_prompt(const Request *r, int32_t *tokens)
{
    for (int i = 0; i < r->shared; i++)
        tokens[i] = r->before ? r->before->result[i] : (i * 7 + i / 50 * r->family) % VOCAB;
    for (int i = 0; i < r->own; i++)
        tokens[r->shared + i] = (i * 11 + r->family + r->own * 3 + r->more) % VOCAB;
    return r->shared + r->own;
}

static Request random_request(void)
{
    Request r = {.family = rand() % 3,
                 .shared = rand() % 700,
                 .own = 1 + rand() % 300,
                 .more = 1 + rand() % 300,
                 .every = rand() % 2 ? 5 + rand() % 60 : 0,
                 .priority = rand() % 2};
    if (rand() % 3 == 0) r.shared = rand() % 3 * PAGE;
    return r;
}

// What the generator does with a drawn token. Returns 1 when the request is finished.
static int hear(Batcher *b, int slot, Request *r)
{
    Sequence *s = &b->sequences[slot];
    int prompt = r->shared + r->own;
    r->draws++;
    if (s->count == prompt + r->more || r->draws > 3 * r->more + 20) {
        memcpy(r->result, s->tokens, 4 * (size_t)s->count);
        r->count = s->count;
        return 1;
    }
    // Tokens in threes are settled together.
    int settled = prompt + (s->count - prompt) / 3 * 3, held = s->count - settled;
    if (r->every && r->draws % r->every == 0 && held)
        batch_rewind(b, slot, settled);
    else
        batch_settle(b, slot, settled);
    return 0;
}

// Runs requests, `cancel` in 1000 of them a step being given up, some held back for a step. Returns
// the tokens that were found in the cache.
static int run(Fixture *f, Request *requests, int count, int cancel)
{
    Batcher *b = &f->batch;
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    Request *running[8] = {0};
    Drawn drawn[8];
    int next = 0, left = count, idle = 0, reused = 0;
    while (left && idle < 3) {
        while (next < count) {
            static int32_t tokens[CONTEXT];
            Request *r = &requests[next];
            int slot = batch_admit(b, tokens, make_prompt(r, tokens), r->more, &greedy, r->priority,
                                   r->every > 0);
            mistakes += slot == BATCH_TOO_LONG;
            if (slot < 0) break;
            running[slot] = r;
            next++;
        }
        int held = 0;
        for (int k = 0; k < b->options.max_sequences; k++)
            held += b->sequences[k].held = running[k] && rand() % 8 == 0;
        int n = batch_step(b, drawn);
        idle = n < 0 && !held ? idle + 1 : 0;
        for (int i = 0; i < n; i++) {
            int slot = drawn[i].sequence;
            mistakes += b->sequences[slot].held;
            if (!hear(b, slot, running[slot])) continue;
            reused += b->sequences[slot].reused;
            batch_retire(b, slot);
            running[slot] = NULL;
            left--;
        }
        int slot = rand() % b->options.max_sequences;
        if (!running[slot] || rand() % 1000 >= cancel) continue;
        running[slot]->cancelled = 1;
        batch_retire(b, slot);
        running[slot] = NULL;
        left--;
    }
    CHECK_MSG(left == 0, "%d requests never ended", left);
    return reused;
}

// --- tests ---------------------------------------------------------------------------------------

// Few pages, few states: sequences lose their pages, saved states go, and all is computed rightly.
static void test_shortage(void)
{
    enum { COUNT = 600 };
    static Request requests[COUNT];
    for (int saved = 1; saved <= 9; saved += 4) {
        Fixture f;
        open_fixture(&f, 5, 9, saved, 0);
        for (int i = 0; i < COUNT; i++) requests[i] = random_request();
        mistakes = 0;
        int reused = run(&f, requests, COUNT, 2);
        CHECK_MSG(mistakes == 0, "%d mistakes with %d saved states", mistakes, saved);
        CHECK_MSG(saved == 1 || reused > 0, "%d tokens reused with %d saved", reused, saved);
        CHECK(batch_pages_used(&f.batch) == 0);
        close_fixture(&f);
    }
}

// Every request gives what it gives alone, whoever is there and whatever the cache holds.
static void test_company(void)
{
    enum { COUNT = 400 };
    static Request alone[COUNT], together[COUNT];
    Fixture f;
    mistakes = 0;
    for (int i = 0; i < COUNT; i++) {
        alone[i] = random_request();
        const Request *before = &alone[rand() % (i + 1)];
        if (before->count && before->count < CONTEXT - 600) {
            alone[i].before = before;
            alone[i].shared = before->count;
        }
        together[i] = alone[i];
        open_fixture(&f, 1, 6, 1, 1);
        run(&f, &alone[i], 1, 0);
        close_fixture(&f);
    }
    open_fixture(&f, 6, 40, 9, 1);
    int reused = run(&f, together, COUNT, 1), different = 0;
    for (int i = 0; i < COUNT; i++)
        different += !together[i].cancelled &&
                     (together[i].count != alone[i].count ||
                      memcmp(together[i].result, alone[i].result, 4 * (size_t)alone[i].count) != 0);
    CHECK_MSG(mistakes == 0 && different == 0, "%d mistakes, %d of %d different", mistakes,
              different, COUNT);
    CHECK_MSG(reused > 20 * PAGE, "%d tokens reused", reused);
    close_fixture(&f);
}

// Without --deterministic and with nothing in the cache to find, company makes no difference
// either.
static void test_taking_back(void)
{
    Request r = {.family = 1, .shared = 100, .own = 30, .more = 200, .every = 7};
    Request alone = r, together[4] = {r,
                                      {.shared = 300, .own = 9, .more = 90, .every = 11},
                                      {.shared = 0, .own = 1, .more = 300, .every = 4},
                                      r};
    Fixture f;
    open_fixture(&f, 1, 6, 1, 0);
    f.batch.reuse = 0;
    mistakes = 0;
    run(&f, &alone, 1, 0);
    close_fixture(&f);
    open_fixture(&f, 4, 24, 2, 0); // two wait for the states of the others
    f.batch.reuse = 0;
    run(&f, together, 4, 0);
    for (int i = 0; i < 4; i += 3)
        CHECK(together[i].count == alone.count &&
              memcmp(together[i].result, alone.result, 4 * (size_t)alone.count) == 0);
    CHECK_MSG(mistakes == 0, "%d mistakes", mistakes);
    close_fixture(&f);
}

// What a request finds in the cache.
static void test_reuse(void)
{
    Fixture f;
    Request first = {.family = 1, .shared = 600, .own = 200, .more = 300};
    open_fixture(&f, 2, 40, 8, 0);
    mistakes = 0;
    CHECK(run(&f, &first, 1, 0) == 0);
    Request again = first;
    again.count = again.draws = 0;
    CHECK(run(&f, &again, 1, 0) == 768); // the prompt's last whole page
    Request other = {.family = 1, .shared = 600, .own = 400, .more = 1};
    CHECK(run(&f, &other, 1, 0) == 0); // no state where the two part, but now it is saved
    other.own = 420;
    CHECK(run(&f, &other, 1, 0) == 512);
    // The conversation goes on: the prompt is what was said so far, and more.
    int32_t tokens[CONTEXT];
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    memcpy(tokens, first.result, 4 * (size_t)first.count);
    memset(tokens + first.count, 0, 4 * 10);
    int slot = batch_admit(&f.batch, tokens, first.count + 10, 1, &greedy, 0, 0);
    Drawn drawn[2];
    while (batch_step(&f.batch, drawn) == 0) continue;
    CHECK(f.batch.sequences[slot].reused == first.count / PAGE * PAGE && mistakes == 0);
    batch_retire(&f.batch, slot);
    close_fixture(&f);

    // Where only what was read as a prompt counts, a prompt may grow all the same.
    open_fixture(&f, 2, 40, 8, 1);
    Request growing = {.family = 1, .shared = 800, .own = 1, .more = 1};
    CHECK(run(&f, &growing, 1, 0) == 0);
    growing.shared = 1300;
    CHECK(run(&f, &growing, 1, 0) == 768);
    CHECK(run(&f, &growing, 1, 0) == 1280 && mistakes == 0);
    close_fixture(&f);
}

// The first token drawn is taken back: the prompt is not read again.
static void test_first_token(void)
{
    Fixture f;
    int32_t tokens[700] = {0};
    Drawn drawn[2];
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    open_fixture(&f, 2, 40, 8, 0);
    mistakes = 0;
    int slot = batch_admit(&f.batch, tokens, 700, 9, &greedy, 0, 1);
    while (batch_step(&f.batch, drawn) == 0) continue;
    int32_t first = drawn[0].token;
    while (batch_step(&f.batch, drawn) == 0) continue;
    batch_rewind(&f.batch, slot, 700);
    CHECK(f.batch.sequences[slot].computed == 699);
    while (batch_step(&f.batch, drawn) == 0) continue;
    CHECK(drawn[0].token == first && mistakes == 0);
    // Even what was settled, and more than once.
    batch_settle(&f.batch, slot, 702);
    while (batch_step(&f.batch, drawn) == 0) continue;
    batch_rewind(&f.batch, slot, 690);
    batch_step(&f.batch, drawn);
    CHECK(f.batch.sequences[slot].computed == 689); // from the state saved behind 512
    for (int i = 0; i < 3; i++)
        while (batch_step(&f.batch, drawn) == 0) continue;
    batch_rewind(&f.batch, slot, 691);
    while (batch_step(&f.batch, drawn) == 0) continue;
    CHECK(f.batch.sequences[slot].count == 692 && mistakes == 0);
    close_fixture(&f);
}

// Taken back while its pages are lost: the state that it kept is of another text then.
static void test_lost_and_taken_back(void)
{
    Fixture f;
    int32_t tokens[700] = {0};
    Drawn drawn[2];
    SamplerOptions greedy = sampler_defaults;
    greedy.temperature = 0;
    open_fixture(&f, 2, 6, 8, 0);
    mistakes = 0;
    int slot = batch_admit(&f.batch, tokens, 700, 100, &greedy, 1, 1);
    while (batch_step(&f.batch, drawn) == 0) continue;
    CHECK(f.batch.sequences[slot].own_at == 699);
    int other = batch_admit(&f.batch, tokens, 400, 900, &greedy, 0, 0);
    while (!f.batch.sequences[slot].suspended) batch_step(&f.batch, drawn);
    batch_rewind(&f.batch, slot, 600);
    batch_retire(&f.batch, other);
    while (f.batch.sequences[slot].count < 720) batch_step(&f.batch, drawn);
    batch_rewind(&f.batch, slot, 705);
    while (f.batch.sequences[slot].count < 720) batch_step(&f.batch, drawn);
    CHECK_MSG(mistakes == 0, "%d mistakes", mistakes);
    close_fixture(&f);
}

static void test_states(void)
{
    States *s;
    Error err;
    CHECK(states_open(&s, 5, 3, &err) == 0);
    int a = states_take(s), b = states_take(s), c = states_take(s);
    CHECK(a == 5 && b == 6 && c == 7 && states_take(s) == -1 && states_unheld(s) == 0);
    states_enter(s, a, 11);
    states_enter(s, b, 22);
    CHECK(states_unheld(s) == 2 && states_find(s, 11) == a && states_find(s, 22) == b);
    CHECK(states_find(s, 33) == -1 && states_find(s, 0) == -1);
    states_touch(s, a);
    CHECK(states_take(s) == b && states_find(s, 22) == -1 && states_find(s, 11) == a);
    states_drop(s, c); // empty ones go before those that somebody may find
    CHECK(states_take(s) == c && states_take(s) == a && states_take(s) == -1);
    states_close(s);
}

int main(void)
{
    srand(1);
    test_states();
    test_memory();
    test_reuse();
    test_first_token();
    test_lost_and_taken_back();
    test_taking_back();
    test_shortage();
    test_company();
    return check_done();
}
