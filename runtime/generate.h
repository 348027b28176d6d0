// Requests in, text out: a queue of jobs over the batch. A job's tokens become text here, cut at
// stop strings, taken back at banned ones. Either one thread calls generator_step, or
// generator_start makes a thread that does; then other threads hand in jobs and read their results
// under the generator's lock. Knows nothing of HTTP, JSON or chat.
#pragma once
#include "batch.h"
#include "mask.h"
#include "tokens.h"
#include <pthread.h>

typedef enum {
    REASON_NONE,   // not finished
    REASON_LENGTH, // max_tokens, or the context is full
    REASON_END,    // the model ended the text
    REASON_STOP,   // one of the request's own stop strings or ids: Job.stopped_by
    REASON_LOOP,   // it repeated itself
    REASON_CANCELLED,
    REASON_FAILED // Job.error says why
} Reason;

// A token of the answer.
typedef struct {
    int32_t id;
    float logprob; // under the model's own distribution; 0 unless asked for
    int end;       // bytes of text up to its end
} Token;

typedef struct Job Job;
struct Job {
    // The request. Whoever made the job keeps this memory until the job is finished.
    const int32_t *prompt;
    int prompt_count; // at least 1
    int max_tokens, min_tokens;
    SamplerOptions sampler;
    const char *const *stop; // (stop_count) non-empty UTF-8
    int stop_count;
    const int32_t *stop_id; // (stop_id_count); the model's own ends come on top
    int stop_id_count;
    int ignore_end; // the model's own ends are tokens like others
    const char *const
        *banned; // (banned_count) strings the text must not contain, ASCII case ignored
    int banned_count;
    int logprobs;           // -1: none; else how many of the likeliest tokens besides the drawn one
    int loop_window;        // tokens of pure repetition that end the answer; 0: off
    int heal;               // the prompt's last token may be drawn anew as a longer one
    int show_special;       // special tokens appear in the text
    const uint32_t *hidden; // bits by id: tokens that leave no text; NULL: none
    Matcher *matcher;       // the grammar that the text behind the prompt obeys, or NULL; jobs may
                            // share one, which nobody else uses meanwhile
    float *vector;          // (dim) not NULL: becomes the prompt's embedding, and nothing is drawn
    int priority;           // smaller goes first
    void (*changed)(Job *job); // called by the generator's thread, lock held, when there is news
    void *owner;
    const char *name; // for those who look at what is running; NULL: none

    // The answer, guarded by the generator's lock until finished.
    TokenText text; // all of it so far
    size_t decided; // bytes that stay whatever comes
    Token *token;   // (token_count)
    Likely *likely; // (token_count, logprobs)
    int token_count;
    int tokens_decided; // tokens within the decided text
    Reason reason;
    const char *stopped_by; // the stop string, or NULL
    Error error;
    int impossible;                          // it failed because what it asks for leaves no token
    int reused;                              // prompt tokens that were in the cache
    int pages;                               // of the cache that it holds
    double submitted, started, first, ended; // seconds of a monotonic clock; 0: not yet

    // private
    Job *next;
    int slot, cancelled, token_room, skip_bytes, healed_bytes;
    double latest; // when a token was last drawn
    TokenStream stream;
    int32_t *ids; // the prompt as it is computed
    int id_count;
    uint32_t *healing;            // bits by id: what may stand for the prompt's last token
    uint32_t *containing, *taken; // bits by id: tokens with a banned string in them; and what was
                                  // taken back at the place at hand
    int takes;                    // how often
    Place place;                  // in the grammar, while the job runs
    uint32_t *mask;               // bits by id: what the grammar allows next
    MaskWork masking;             // while that is being made
    int wants_mask;               // its sequence is held until then
};

// How long something took, how often.
enum { TIME_STEPS = 15 };
extern const double time_steps[TIME_STEPS]; // seconds
typedef struct {
    uint64_t count,
        within[TIME_STEPS]; // within[i]: up to time_steps[i], and more than the one before
    double sum;
} Times;

// A job that failed, by no fault of its request.
typedef struct {
    double at; // monotonic_seconds
    Error error;
} Fault;

enum { FAULTS_KEPT = 8 };
typedef struct {
    uint64_t requests, prompt_tokens, reused_tokens, drawn_tokens, cancelled, failed, faults;
    int queued, running, pages_used, host_pages, pages_restored, pages;
    Times queue, first_token, between_tokens;
    Fault fault[FAULTS_KEPT]; // fault number n is at n % FAULTS_KEPT
} GeneratorStats;

typedef struct {
    Batcher batch;
    const Tokens *tokens;
    Vocabulary *vocabulary;  // NULL until a job has a grammar
    pthread_mutex_t opening; // held while that is made
    pthread_mutex_t lock;
    GeneratorStats stats; // guarded by lock
    // private
    pthread_cond_t work;
    pthread_t thread;
    int threaded, stopping;
    Job *first, *last; // waiting, in the order they will start
    Job **running;     // (max_sequences)
    Drawn *drawn;
    int *border; // (max_context): loop detection
    int masked;  // the slot whose mask was worked on last
} Generator;

int generator_open(Generator *g, Device *d, const DeviceOptions *o, const Tokens *tokens,
                   Error *err);
void generator_close(Generator *g);

// A thread of the generator's own until generator_stop, which ends what is running as cancelled.
int generator_start(Generator *g, Error *err);
void generator_stop(Generator *g);

// Makes a job that asks for nothing yet: greedy, no stops.
void job_init(Job *job);
// Frees what the answer took.
void job_close(Job *job);
// 0, or why these values cannot be served: prompt and max_tokens within the context and the cache.
int generator_check(const Generator *g, const Job *job, Error *err);
// What takes long of handing a job in, which any number of threads may do before generator_submit,
// each for its own job; else that does it.
int generator_prepare(Generator *g, Job *job, Error *err);
// Puts a job in the queue. It is the generator's until its reason is no longer REASON_NONE.
int generator_submit(Generator *g, Job *job, Error *err);
// The job ends within one step.
void generator_cancel(Generator *g, Job *job);
// One pass of the batch. 0 when there is nothing to do.
int generator_step(Generator *g);

double monotonic_seconds(void);
