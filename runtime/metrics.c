// How the server is doing, for those who watch it.
#include "api.h"
#include "program.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RECENT 60 // seconds that a fault makes the server unhealthy

static GeneratorStats stats_of(const Api *api)
{
    Generator *g = api->generator;
    pthread_mutex_lock(&g->lock);
    GeneratorStats s = g->stats;
    pthread_mutex_unlock(&g->lock);
    return s;
}

// --- the cache -----------------------------------------------------------------------------------

json_t *api_cache(const Api *api)
{
    Generator *g = api->generator;
    json_t *sequences = json_array();
    pthread_mutex_lock(&g->lock);
    GeneratorStats s = g->stats;
    for (int i = 0; g->running && i < g->batch.options.max_sequences; i++) {
        const Job *job = g->running[i];
        if (job)
            json_array_append_new(
                sequences, json_pack("{s:s?, s:i, s:i, s:i, s:i}", "id", job->name, "prompt_tokens",
                                     job->prompt_count, "reused_tokens", job->reused, "tokens",
                                     job->prompt_count + job->token_count, "pages", job->pages));
    }
    pthread_mutex_unlock(&g->lock);
    double hits = s.prompt_tokens ? (double)s.reused_tokens / (double)s.prompt_tokens : 0;
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:f, s:o}", "page_tokens", PAGE,
                     "pages", s.pages, "pages_used", s.pages_used, "host_pages", s.host_pages,
                     "pages_restored", s.pages_restored, "running", s.running, "queued", s.queued,
                     "prompt_tokens", (json_int_t)s.prompt_tokens, "reused_tokens",
                     (json_int_t)s.reused_tokens, "hit_rate", hits, "sequences", sequences);
}

// --- health --------------------------------------------------------------------------------------

json_t *api_health(const Api *api, int draining, int *status)
{
    GeneratorStats s = stats_of(api);
    double now = monotonic_seconds();
    int kept = s.faults < FAULTS_KEPT ? (int)s.faults : FAULTS_KEPT, recent = 0;
    json_t *issues = json_array();
    for (int i = 1; i <= kept; i++) { // the last one first
        const Fault *fault = &s.fault[(s.faults - (uint64_t)i) % FAULTS_KEPT];
        time_t at = time(NULL) - (time_t)(now - fault->at);
        char when[32];
        struct tm utc;
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&at, &utc));
        json_array_append_new(issues, json_pack("{s:s, s:o}", "time", when, "description",
                                                refusal_text(fault->error.text)));
        recent |= now - fault->at < RECENT;
    }
    *status = draining || recent ? 503 : 200;
    return json_pack("{s:s, s:o}", "status",
                     draining ? "draining"
                     : recent ? "failing"
                              : "ok",
                     "issues", issues);
}

// --- Prometheus ----------------------------------------------------------------------------------

static void print_times(FILE *f, const char *name, const char *help, const Times *t)
{
    uint64_t count = 0;
    fprintf(f, "# HELP exlc:%s %s\n# TYPE exlc:%s histogram\n", name, help, name);
    for (int i = 0; i < TIME_STEPS; i++) {
        count += t->within[i];
        fprintf(f, "exlc:%s_bucket{le=\"%g\"} %llu\n", name, time_steps[i],
                (unsigned long long)count);
    }
    fprintf(f, "exlc:%s_bucket{le=\"+Inf\"} %llu\nexlc:%s_sum %.9g\nexlc:%s_count %llu\n", name,
            (unsigned long long)t->count, name, t->sum, name, (unsigned long long)t->count);
}

int api_metrics(const Api *api, TokenText *out, Error *err)
{
    GeneratorStats s = stats_of(api);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"requests_total", "counter", "Sequences asked for.", (double)s.requests},
        {"requests_cancelled_total", "counter", "Sequences whose client left.",
         (double)s.cancelled},
        {"requests_failed_total", "counter", "Sequences that failed.", (double)s.failed},
        {"requests_running", "gauge", "Sequences in the batch.", s.running},
        {"requests_waiting", "gauge", "Sequences in the queue.", s.queued},
        {"prompt_tokens_total", "counter", "Prompt tokens of ended sequences.",
         (double)s.prompt_tokens},
        {"prompt_tokens_cached_total", "counter", "Of them found in the cache.",
         (double)s.reused_tokens},
        {"generation_tokens_total", "counter", "Tokens drawn.", (double)s.drawn_tokens},
        {"cache_usage_ratio", "gauge", "Share of the cache's pages in use.",
         (double)s.pages_used / s.pages},
    };
    FILE *f = open_memstream(&out->data, &out->bytes);
    if (!f) return error_set(err, "out of memory");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        fprintf(f, "# HELP exlc:%s %s\n# TYPE exlc:%s %s\nexlc:%s %.9g\n", rows[i].name,
                rows[i].help, rows[i].name, rows[i].type, rows[i].name, rows[i].value);
    print_times(f, "request_queue_time_seconds", "From request to its start.", &s.queue);
    print_times(f, "time_to_first_token_seconds", "From request to first token.", &s.first_token);
    print_times(f, "inter_token_latency_seconds", "Between tokens of a sequence.",
                &s.between_tokens);
    return fclose(f) == 0 ? 0 : error_set(err, "out of memory");
}
