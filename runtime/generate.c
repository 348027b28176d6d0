// The queue, and from drawn tokens to text.
#include "generate.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_TAKES 1000  // of text of one job, for banned strings
#define MASK_WORK 100000 // between two passes, for all jobs: about a millisecond

const double time_steps[TIME_STEPS] = {.001, .0025, .005, .01, .025, .05, .1, .25,
                                       .5,   1,     2.5,  5,   10,   30,  60};

static void count_time(Times *t, double seconds)
{
    int i = 0;
    while (i < TIME_STEPS && seconds > time_steps[i]) i++;
    if (i < TIME_STEPS) t->within[i]++;
    t->count++;
    t->sum += seconds;
}

double monotonic_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int generator_open(Generator *g, Device *d, const DeviceOptions *o, const Tokens *tokens,
                   Error *err)
{
    *g = (Generator){.tokens = tokens};
    pthread_mutex_init(&g->lock, NULL);
    pthread_mutex_init(&g->opening, NULL);
    pthread_cond_init(&g->work, NULL);
    g->running = calloc((size_t)o->max_sequences, sizeof *g->running);
    g->drawn = calloc((size_t)o->max_sequences, sizeof *g->drawn);
    g->border = calloc((size_t)o->max_context + 1, sizeof *g->border);
    if (!g->running || !g->drawn || !g->border) return error_set(err, "out of memory");
    g->stats.pages = o->pages[POOL_ALL];
    g->stats.host_pages = o->host_pages[POOL_ALL];
    return batch_open(&g->batch, d, o, err);
}

void generator_close(Generator *g)
{
    if (g->threaded) generator_stop(g);
    batch_close(&g->batch);
    free(g->running);
    free(g->drawn);
    free(g->border);
    vocabulary_close(g->vocabulary);
    pthread_cond_destroy(&g->work);
    pthread_mutex_destroy(&g->lock);
    pthread_mutex_destroy(&g->opening);
}

// --- jobs ----------------------------------------------------------------------------------------

void job_init(Job *job)
{
    *job = (Job){.sampler = sampler_defaults, .logprobs = -1, .slot = -1};
    job->sampler.temperature = 0;
}

void job_close(Job *job)
{
    stream_close(&job->stream);
    free(job->text.data);
    free(job->token);
    free(job->likely);
    free(job->ids);
    free(job->healing);
    free(job->containing);
    free(job->taken);
    free(job->mask);
}

int generator_check(const Generator *g, const Job *job, Error *err)
{
    const DeviceOptions *o = &g->batch.options;
    int64_t cache = (int64_t)o->pages[POOL_ALL] * PAGE,
            all = (int64_t)job->prompt_count + job->max_tokens;
    if (all > o->max_context)
        return error_set(err,
                         "This model's maximum context length is %d tokens. However, you requested "
                         "%lld tokens (%d in the prompt, %d in the completion).",
                         o->max_context, (long long)all, job->prompt_count, job->max_tokens);
    if (all > cache)
        return error_set(err,
                         "The cache holds %lld tokens. However, you requested %lld tokens (%d in "
                         "the prompt, %d in the completion).",
                         (long long)cache, (long long)all, job->prompt_count, job->max_tokens);
    return 0;
}

static int same_text(const char *text, const char *pattern, size_t bytes, int fold)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char a = (unsigned char)text[i], b = (unsigned char)pattern[i];
        if (fold && a >= 'A' && a <= 'Z') a += 32;
        if (fold && b >= 'A' && b <= 'Z') b += 32;
        if (a != b) return 0;
    }
    return 1;
}

// Tokens that may stand where the prompt's last one stood: those whose bytes begin with its bytes.
static int prepare_healing(const Generator *g, Job *job, Error *err)
{
    size_t bytes, n;
    const char *last = tokens_bytes(g->tokens, job->prompt[job->prompt_count - 1], &bytes);
    if (job->prompt_count < 2 || !bytes ||
        tokens_is_special(g->tokens, job->prompt[job->prompt_count - 1]))
        return 0;
    job->healing = calloc(BIT_WORDS(model_info.vocab), sizeof *job->healing);
    if (!job->healing) return error_set(err, "out of memory");
    for (int32_t id = 0; id < model_info.vocab && id < tokens_count(g->tokens); id++) {
        const char *text = tokens_bytes(g->tokens, id, &n);
        if (n >= bytes && memcmp(text, last, bytes) == 0 && !tokens_is_special(g->tokens, id))
            ADD_BIT(job->healing, id);
    }
    job->id_count--;
    job->skip_bytes = job->healed_bytes = (int)bytes;
    job->sampler.first = job->healing;
    job->sampler.first_at = job->id_count;
    return 0;
}

static int prepare_bans(const Generator *g, Job *job, Error *err)
{
    job->containing = calloc(BIT_WORDS(model_info.vocab), sizeof *job->containing);
    job->taken = calloc(BIT_WORDS(model_info.vocab), sizeof *job->taken);
    if (!job->containing || !job->taken) return error_set(err, "out of memory");
    for (int32_t id = 0; id < model_info.vocab && id < tokens_count(g->tokens); id++) {
        size_t bytes;
        const char *text = tokens_bytes(g->tokens, id, &bytes);
        for (int i = 0; i < job->banned_count; i++) {
            size_t n = strlen(job->banned[i]);
            for (size_t at = 0; at + n <= bytes; at++)
                if (same_text(text + at, job->banned[i], n, 1)) ADD_BIT(job->containing, id);
        }
    }
    return 0;
}

static int prepare_grammar(Generator *g, Job *job, Error *err)
{
    job->mask = malloc(BIT_WORDS(model_info.vocab) * sizeof *job->mask);
    if (!job->mask) return error_set(err, "out of memory");
    pthread_mutex_lock(&g->opening);
    int status = 0;
    if (!g->vocabulary) { // else the generator may be reading it
        Vocabulary *v = NULL;
        status = vocabulary_open(&v, g->tokens, model_info.vocab, err);
        if (status == 0)
            g->vocabulary = v;
        else
            vocabulary_close(v);
    }
    pthread_mutex_unlock(&g->opening);
    return status;
}

int generator_prepare(Generator *g, Job *job, Error *err)
{
    job->id_count = job->prompt_count;
    job->ids = malloc(4 * (size_t)job->prompt_count);
    if (!job->ids) return error_set(err, "out of memory");
    memcpy(job->ids, job->prompt, 4 * (size_t)job->prompt_count);
    if (job->heal && prepare_healing(g, job, err) != 0) return -1;
    if (job->banned_count && prepare_bans(g, job, err) != 0) return -1;
    if (job->matcher && prepare_grammar(g, job, err) != 0) return -1;
    if (job->min_tokens > 0) {
        job->sampler.late_until = job->id_count + job->min_tokens;
        job->sampler.late = model_info.eos;
        job->sampler.late_count = model_info.eos_count;
    }
    // The prompt's last token tells the stream that it is not at the beginning of a text.
    stream_open(&job->stream, g->tokens, !job->show_special);
    return stream_feed(&job->stream, job->ids[job->id_count - 1], err);
}

int generator_submit(Generator *g, Job *job, Error *err)
{
    if (!job->ids && generator_prepare(g, job, err) != 0) return -1;
    job->submitted = monotonic_seconds();
    pthread_mutex_lock(&g->lock);
    Job **at = &g->first;
    while (*at && (*at)->priority <= job->priority) at = &(*at)->next;
    job->next = *at;
    *at = job;
    g->stats.requests++;
    g->stats.queued++;
    pthread_cond_signal(&g->work);
    pthread_mutex_unlock(&g->lock);
    return 0;
}

void generator_cancel(Generator *g, Job *job)
{
    pthread_mutex_lock(&g->lock);
    job->cancelled = 1;
    pthread_cond_signal(&g->work);
    pthread_mutex_unlock(&g->lock);
}

static void finish(Generator *g, Job *job, Reason reason)
{
    mask_drop(&job->masking);
    place_leave(&job->place);
    job->wants_mask = 0;
    if (job->slot >= 0) {
        batch_retire(&g->batch, job->slot);
        g->running[job->slot] = NULL;
        g->stats.running--;
        g->stats.pages_used = batch_pages_used(&g->batch);
    }
    job->slot = -1;
    job->ended = monotonic_seconds();
    g->stats.cancelled += reason == REASON_CANCELLED;
    g->stats.failed += reason == REASON_FAILED;
    if (reason == REASON_FAILED && !job->impossible) {
        Fault *fault = &g->stats.fault[g->stats.faults++ % FAULTS_KEPT];
        *fault = (Fault){job->ended, job->error};
    }
    g->stats.prompt_tokens += (uint64_t)job->prompt_count;
    g->stats.reused_tokens += (uint64_t)job->reused;
    job->reason = reason;
    if (job->changed) job->changed(job);
}

// --- text ----------------------------------------------------------------------------------------

// Where one of the patterns first occurs in the undecided text; -1 when none does. *held grows to
// the bytes at the end that could become one.
static ptrdiff_t find_pattern(const Job *job, const char *const *pattern, int count, int fold,
                              const char **which, size_t *held)
{
    const char *text = job->text.data + job->decided;
    size_t bytes = job->text.bytes - job->decided;
    for (size_t at = 0; at < bytes; at++)
        for (int i = 0; i < count; i++) {
            size_t n = strlen(pattern[i]), left = bytes - at;
            if (!same_text(text + at, pattern[i], n < left ? n : left, fold)) continue;
            if (n <= left) {
                *which = pattern[i];
                return (ptrdiff_t)(job->decided + at);
            }
            if (left > *held) *held = left;
        }
    return -1;
}

// The text that a token completes is then in job->stream.text.
static int feed_stream(Job *job, int32_t id, Error *err)
{
    if (!job->hidden || !HAS_BIT(job->hidden, id)) return stream_feed(&job->stream, id, err);
    job->stream.text.bytes = 0;
    return 0;
}

static int add_text(Job *job, const char *data, size_t bytes, Error *err)
{
    size_t skip = bytes < (size_t)job->skip_bytes ? bytes : (size_t)job->skip_bytes;
    job->skip_bytes -= (int)skip;
    bytes -= skip;
    TokenText *t = &job->text;
    if (t->bytes + bytes + 1 > t->room) {
        size_t room = 2 * (t->bytes + bytes) + 256;
        char *larger = realloc(t->data, room);
        if (!larger) return error_set(err, "out of memory");
        t->data = larger;
        t->room = room;
    }
    if (bytes) memcpy(t->data + t->bytes, data + skip, bytes);
    t->bytes += bytes;
    t->data[t->bytes] = 0;
    return 0;
}

static int add_token(Job *job, int32_t id, const float *logits, Error *err)
{
    if (job->token_count == job->token_room) {
        int room = 2 * job->token_room + 64;
        Token *larger = realloc(job->token, (size_t)room * sizeof *larger);
        if (!larger) return error_set(err, "out of memory");
        job->token = larger;
        job->token_room = room;
        if (job->logprobs > 0) {
            Likely *more =
                realloc(job->likely, (size_t)room * (size_t)job->logprobs * sizeof *more);
            if (!more) return error_set(err, "out of memory");
            job->likely = more;
        }
    }
    int n = job->token_count++;
    job->token[n] = (Token){.id = id, .end = (int)job->text.bytes};
    if (job->logprobs >= 0)
        job->token[n].logprob =
            sample_logprobs(logits, model_info.vocab, id, job->logprobs,
                            job->likely ? job->likely + (size_t)n * (size_t)job->logprobs : NULL);
    return 0;
}

// The first `from` tokens less those at their end that only began a character.
static int whole_characters(const Job *job, int from)
{
    while (from > 0 && job->token[from - 1].end == (from > 1 ? job->token[from - 2].end : 0))
        from--;
    return from;
}

// --- grammars ------------------------------------------------------------------------------------

// The model's ends are allowed where the text may end and nowhere else. The request's own stop
// there too; what the grammar has as text stops wherever it stands, as stop strings do.
static void mark_ends(Job *job)
{
    int may = match_accepts(job->matcher, job->place.state);
    for (int i = 0; i < model_info.eos_count && !job->ignore_end; i++) {
        int32_t id = model_info.eos[i];
        job->mask[id / 32] &= ~(1u << id % 32);
        if (may) ADD_BIT(job->mask, id);
    }
    for (int i = 0; may && i < job->stop_id_count && job->token_count >= job->min_tokens; i++)
        ADD_BIT(job->mask, job->stop_id[i]);
}

static int beyond_bounds(Job *job, Error *err)
{
    job->impossible = 1;
    return error_set(err, "the grammar takes more time or memory than it may");
}

// What the grammar allows next is to be found out, before the next draw.
static int want_mask(Generator *g, Job *job, Error *err)
{
    // Of a token that is drawn anew, what the prompt had stays.
    size_t prefix = job->token_count ? 0 : (size_t)job->healed_bytes, bytes;
    const char *healed = tokens_bytes(g->tokens, job->prompt[job->prompt_count - 1], &bytes);
    if (mask_begin(&job->masking, job->matcher, g->vocabulary, &job->place, healed, prefix,
                   job->mask) != 0)
        return beyond_bounds(job, err);
    job->wants_mask = 1;
    g->batch.sequences[job->slot].held = 1;
    return 0;
}

// Reads a token of the answer.
static int follow_grammar(Generator *g, Job *job, int number, Error *err)
{
    size_t skip = number ? 0 : (size_t)job->healed_bytes;
    int status = mask_read(job->matcher, &job->place, g->tokens, job->token[number].id, skip);
    if (status == MATCH_DEAD) return error_set(err, "the grammar does not allow what was drawn");
    return status == 0 ? 0 : beyond_bounds(job, err);
}

// Of a job that starts: where nothing can follow nothing need be drawn.
static Reason begin_grammar(Generator *g, Job *job)
{
    place_enter(job->matcher, &job->place);
    if (!matcher_failed(job->matcher) && match_ends(job->matcher, job->place.state))
        return REASON_END;
    return want_mask(g, job, &job->error) == 0 ? REASON_NONE : REASON_FAILED;
}

// The answer's first tokens anew.
static int restart_grammar(Generator *g, Job *job, Error *err)
{
    place_leave(&job->place);
    place_enter(job->matcher, &job->place);
    for (int i = 0; i < job->token_count; i++)
        if (follow_grammar(g, job, i, err) != 0) return -1;
    return want_mask(g, job, err);
}

// Behind a new token.
static Reason obey_grammar(Generator *g, Job *job, Error *err)
{
    if (follow_grammar(g, job, job->token_count - 1, err) != 0) return REASON_FAILED;
    if (match_ends(job->matcher, job->place.state)) return REASON_END;
    return want_mask(g, job, err) == 0 ? REASON_NONE : REASON_FAILED;
}

// Takes back the text from byte `at` on, and the tokens that made it; what began it is not drawn
// there again. Returns -1 when that happened too often.
static int take_back(Generator *g, Job *job, size_t at, Error *err)
{
    int from = 0;
    while (from < job->token_count && (size_t)job->token[from].end <= at) from++;
    from = whole_characters(job, from);
    Sequence *s = &g->batch.sequences[job->slot];
    Sampler *sampler = &s->sampler;
    int count = job->id_count + from;
    if (++job->takes > MOST_TAKES) {
        job->impossible = 1;
        return error_set(err, "the banned strings leave nothing to say");
    }
    // Another token with the string in it would be taken back too.
    if (sampler->banned_at != count)
        memcpy(job->taken, job->containing, 4 * BIT_WORDS(model_info.vocab));
    ADD_BIT(job->taken, job->token[from].id);
    sampler->banned = job->taken;
    sampler->banned_at = count;
    batch_rewind(&g->batch, job->slot, count);

    job->token_count = from;
    if (job->tokens_decided > from) job->tokens_decided = from;
    if (!from) job->skip_bytes = job->healed_bytes;
    job->text.bytes = from ? (size_t)job->token[from - 1].end : 0;
    job->text.data[job->text.bytes] = 0;
    stream_close(&job->stream);
    stream_open(&job->stream, g->tokens, !job->show_special);
    if (stream_feed(&job->stream, job->ids[job->id_count - 1], err) != 0) return -1;
    for (int i = 0; i < from; i++)
        if (feed_stream(job, job->token[i].id, err) != 0) return -1;
    return job->matcher ? restart_grammar(g, job, err) : 0;
}

// The last `window` tokens are something said at least twice: their border is at least half of them
// (failure function of Knuth, Morris and Pratt).
static int repeats(Generator *g, const Job *job)
{
    int n = job->loop_window, *border = g->border;
    if (!n || job->token_count < n || job->token_count % 16) return 0;
    const Token *t = job->token + job->token_count - n;
    border[0] = 0;
    for (int i = 1, k = 0; i < n; i++) {
        while (k && t[i].id != t[k].id) k = border[k - 1];
        if (t[i].id == t[k].id) k++;
        border[i] = k;
    }
    return 2 * border[n - 1] >= n;
}

static int ends_text(const Job *job, int32_t id)
{
    for (int i = 0; i < model_info.eos_count && !job->ignore_end; i++)
        if (model_info.eos[i] == id) return 1;
    return 0;
}

static int stops(const Job *job, int32_t id)
{
    for (int i = 0; i < job->stop_id_count; i++)
        if (job->stop_id[i] == id) return 1;
    return 0;
}

static void decide(Job *job, size_t bytes)
{
    job->decided = bytes;
    while (job->tokens_decided < job->token_count &&
           (size_t)job->token[job->tokens_decided].end <= bytes)
        job->tokens_decided++;
}

// Cuts the answer at byte `at`; tokens that begin behind it go.
static void cut(Job *job, size_t at)
{
    job->text.bytes = at;
    job->text.data[at] = 0;
    while (job->token_count > 0 &&
           (size_t)(job->token_count > 1 ? job->token[job->token_count - 2].end : 0) >= at)
        job->token_count--;
    for (int i = 0; i < job->token_count; i++)
        if ((size_t)job->token[i].end > at) job->token[i].end = (int)at;
}

// Looks for stop and banned strings in the undecided text; with `last`, no more will come.
static Reason settle(Generator *g, Job *job, int last, Error *err)
{
    const char *which;
    size_t held = 0;
    ptrdiff_t stop = find_pattern(job, job->stop, job->stop_count, 0, &which, &held);
    const char *stopped_by = stop >= 0 ? which : NULL;
    ptrdiff_t ban = find_pattern(job, job->banned, job->banned_count, 1, &which, &held);
    if (ban >= 0 && (stop < 0 || ban < stop)) {
        if (last) { // too late to draw something else
            cut(job, (size_t)ban);
            decide(job, job->text.bytes);
            return REASON_NONE;
        }
        return take_back(g, job, (size_t)ban, err) == 0 ? REASON_NONE : REASON_FAILED;
    }
    if (stop >= 0) {
        cut(job, (size_t)stop);
        job->stopped_by = stopped_by;
    }
    size_t sure = job->text.bytes - (last || stop >= 0 ? 0 : held);
    // A token is taken back as a whole, so none is decided in part.
    if (job->banned_count && held && !last && stop < 0) {
        int whole = job->tokens_decided;
        while (whole < job->token_count && (size_t)job->token[whole].end <= sure) whole++;
        sure = whole ? (size_t)job->token[whole - 1].end : 0;
    }
    decide(job, sure);
    return stop >= 0 ? REASON_STOP : REASON_NONE;
}

// What a drawn token does to its job.
static Reason take_token(Generator *g, Job *job, const Drawn *drawn, Error *err)
{
    Reason reason = REASON_NONE;
    int32_t id = drawn->token;
    double now = monotonic_seconds();
    if (id < 0) {
        job->impossible = id == SAMPLE_NOTHING;
        error_set(err, job->impossible ? "no token is left that the request allows"
                                       : "the logits are not numbers");
        return REASON_FAILED;
    }
    if (!job->first) {
        job->first = now;
        count_time(&g->stats.first_token, now - job->submitted);
    } else {
        count_time(&g->stats.between_tokens, now - job->latest);
    }
    job->latest = now;
    g->stats.drawn_tokens++;
    if (ends_text(job, id)) {
        reason = REASON_END;
    } else if (stops(job, id) && job->token_count >= job->min_tokens) {
        reason = REASON_STOP;
    } else {
        if (feed_stream(job, id, err) != 0 ||
            add_text(job, job->stream.text.data, job->stream.text.bytes, err) != 0 ||
            add_token(job, id, drawn->logits, err) != 0)
            return REASON_FAILED;
        if (job->matcher) reason = obey_grammar(g, job, err);
        if (reason == REASON_FAILED) return reason;
        int tokens = job->token_count;
        Reason found = settle(g, job, 0, err);
        if (found != REASON_NONE) return found;
        if (job->token_count < tokens) return REASON_NONE; // taken back
        if (reason == REASON_NONE && repeats(g, job)) reason = REASON_LOOP;
        if (reason == REASON_NONE && job->token_count >= job->max_tokens) reason = REASON_LENGTH;
    }
    if (reason == REASON_NONE) return reason;
    if (stream_flush(&job->stream, err) != 0 ||
        add_text(job, job->stream.text.data, job->stream.text.bytes, err) != 0)
        return REASON_FAILED;
    if (job->token_count) job->token[job->token_count - 1].end = (int)job->text.bytes;
    Reason found = settle(g, job, 1, err);
    return found == REASON_NONE ? reason : found;
}

// The prompt is read; its vector gets the model's length.
static Reason take_vector(Job *job, Error *err)
{
    double sum = 0;
    for (int i = 0; i < model_info.dim; i++) sum += (double)job->vector[i] * job->vector[i];
    if (!isfinite(sum)) {
        error_set(err, "the states are not numbers");
        return REASON_FAILED;
    }
    float length = (float)sqrt(sum);
    for (int i = 0; model_info.embedding_normal && length > 0 && i < model_info.dim; i++)
        job->vector[i] /= length;
    job->first = monotonic_seconds();
    return REASON_END;
}

// --- steps ---------------------------------------------------------------------------------------

// Ends cancelled jobs, starts waiting ones. Lock held.
static void admit(Generator *g)
{
    for (int i = 0; i < g->batch.options.max_sequences; i++)
        if (g->running[i] && g->running[i]->cancelled) finish(g, g->running[i], REASON_CANCELLED);
    for (Job **at = &g->first, *job; (job = *at);) {
        if (job->cancelled) {
            *at = job->next;
            g->stats.queued--;
            finish(g, job, REASON_CANCELLED);
        } else {
            at = &job->next;
        }
    }
    while (g->first) {
        Job *job = g->first;
        // The context counts what was taken off for healing; the first token replaces it.
        int slot = batch_admit(&g->batch, job->ids, job->id_count,
                               job->max_tokens + job->prompt_count - job->id_count, &job->sampler,
                               job->priority, job->banned_count > 0);
        if (slot == BATCH_FULL) break;
        g->first = job->next;
        g->stats.queued--;
        if (slot == BATCH_TOO_LONG) {
            error_set(&job->error, "%d prompt tokens and %d new ones do not fit", job->prompt_count,
                      job->max_tokens);
            finish(g, job, REASON_FAILED);
            continue;
        }
        job->started = monotonic_seconds();
        count_time(&g->stats.queue, job->started - job->submitted);
        g->stats.running++;
        job->slot = slot;
        g->running[slot] = job;
        g->batch.sequences[slot].wants_logits = job->logprobs >= 0;
        g->batch.sequences[slot].vector = job->vector;
        Reason reason = job->matcher ? begin_grammar(g, job) : REASON_NONE;
        if (reason == REASON_NONE && job->max_tokens == 0 && !job->vector) reason = REASON_LENGTH;
        if (reason != REASON_NONE) finish(g, job, reason);
    }
}

// Works on the masks that jobs wait for, in turns, as long as a pass may be kept waiting. Returns
// how many are not made yet. Others may hand in jobs meanwhile: no lock is held.
static int make_masks(Generator *g)
{
    int slots = g->batch.options.max_sequences, from = g->masked + 1, waiting = 0;
    int64_t budget = MASK_WORK;
    for (int i = 0; i < slots; i++) {
        int slot = (from + i) % slots;
        Job *job = g->running[slot];
        if (!job || !job->wants_mask) continue;
        int status = mask_go_on(&job->masking, &budget); // what is known costs nothing
        if (status == 0) {
            mark_ends(job);
            job->wants_mask = 0;
            g->batch.sequences[slot].sampler.mask = job->mask;
            g->batch.sequences[slot].held = 0;
        } else if (status < 0) {
            pthread_mutex_lock(&g->lock);
            beyond_bounds(job, &job->error);
            finish(g, job, REASON_FAILED);
            pthread_mutex_unlock(&g->lock);
        } else {
            if (!waiting++) g->masked = slot;
        }
    }
    return waiting;
}

int generator_step(Generator *g)
{
    pthread_mutex_lock(&g->lock);
    admit(g);
    pthread_mutex_unlock(&g->lock);
    int waiting = make_masks(g);
    int drawn = batch_step(&g->batch, g->drawn);
    if (drawn < 0) return waiting > 0;
    pthread_mutex_lock(&g->lock);
    g->stats.pages_used = batch_pages_used(&g->batch);
    g->stats.pages_restored = g->batch.restored;
    for (int i = 0; i < g->batch.options.max_sequences; i++)
        if (g->running[i]) g->running[i]->pages = g->batch.sequences[i].pages;
    for (int i = 0; i < drawn; i++) {
        Job *job = g->running[g->drawn[i].sequence];
        size_t decided = job->decided;
        int told = job->tokens_decided;
        job->reused = g->batch.sequences[job->slot].reused;
        Reason reason = job->vector ? take_vector(job, &job->error)
                                    : take_token(g, job, &g->drawn[i], &job->error);
        if (reason != REASON_NONE)
            finish(g, job, reason);
        else if (job->changed && (job->decided != decided || job->tokens_decided != told))
            job->changed(job);
        if (reason == REASON_NONE)
            batch_settle(&g->batch, job->slot,
                         job->id_count + whole_characters(job, job->tokens_decided));
    }
    pthread_mutex_unlock(&g->lock);
    return 1;
}

// --- the thread ----------------------------------------------------------------------------------

static void *work(void *argument)
{
    Generator *g = argument;
    for (;;) {
        int worked = generator_step(g);
        pthread_mutex_lock(&g->lock);
        while (!worked && !g->first && !g->stopping) pthread_cond_wait(&g->work, &g->lock);
        int stopping = g->stopping;
        pthread_mutex_unlock(&g->lock);
        if (stopping) break;
    }
    pthread_mutex_lock(&g->lock);
    for (Job *job = g->first; job; job = job->next) job->cancelled = 1;
    for (int i = 0; i < g->batch.options.max_sequences; i++)
        if (g->running[i]) g->running[i]->cancelled = 1;
    admit(g);
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

int generator_start(Generator *g, Error *err)
{
    if (pthread_create(&g->thread, NULL, work, g) != 0)
        return error_set(err, "cannot start a thread");
    g->threaded = 1;
    return 0;
}

void generator_stop(Generator *g)
{
    pthread_mutex_lock(&g->lock);
    g->stopping = 1;
    pthread_cond_signal(&g->work);
    pthread_mutex_unlock(&g->lock);
    pthread_join(g->thread, NULL);
    g->threaded = 0;
}
