// What the server serves: families of endpoints that make jobs of the generator, with the further
// parameters that docs/serving.md lists, and endpoints that answer at once. Knows JSON and jobs,
// nothing of connections.
#pragma once
#include "chat.h"
#include "constrain.h"
#include "fields.h"
#include "generate.h"

typedef struct {
    Generator *generator;
    const Tokens *tokens;
    const char *name;       // of the model
    SamplerOptions sampler; // where a request says nothing; the model's own, until set
    Chat chat;
    Constraints constraints;
    uint32_t *newlines, *breakers; // bits by id: what XTC leaves alone; DRY's default breakers
} Api;

int api_open(Api *api, Generator *g, const Tokens *t, const char *name, Error *err);
void api_close(Api *api);

typedef struct Family Family;

// One request and what has been said of its answer.
typedef struct {
    const Family *family;
    int chat, stream, include_usage, echo, token_ids;
    int job_count, prompts; // job i continues prompt i / (job_count / prompts)
    Job *jobs;
    struct Said {
        size_t bytes; // of the text
        int tokens, begun, done;
        int read, reasoning_tokens; // of chats
        Reply reply;                // of chats
        json_t *deltas;             // parts that are not yet sent
        int calls, single;          // single: one at most
        int part, parts; // where answers have parts: the open one's kind, how many began
    } * said;
    char id[40];
    int64_t created;
    // private
    json_t *body;                  // strings of the jobs live in it
    json_t *asked;                 // the request as it came, where the answer repeats it
    json_t *output, *item, *texts; // of responses: items, the one that is being said and its texts
    int sequence;                  // number of events
    const json_t *tools;           // or NULL
    const char *tool;              // that must be called, or NULL
    int must_call, single;         // a tool; one call at most
    ReplyFormat format;
    const char *template_text;
    Reasoning reasoning;
    Constraints *constraints; // where the matcher is given back
    Matcher *matcher;         // of all jobs, or NULL
    TokenList *prompt;        // (prompts)
    uint32_t *allowed, *breakers;
    int32_t *bias_id, *stop_ids;
    float *bias;
    const char **stop, **banned;
    float *vectors; // (prompts, dim) of embeddings, of which `dimensions` are said,
    int dimensions, packed; // packed: in base64
} Answer;

// Endpoints that speak one protocol.
struct Family {
    // Makes the jobs that a request's body asks for; they are not yet submitted. Takes over
    // nothing; *out is for answer_free in any case.
    int (*request)(Api *api, json_t *body, Answer **out, Refusal *r);
    // With the generator's lock held:
    // The next piece of a streamed answer as one or more events at the end of *out, the last one
    // with the finish reason; nothing when there is nothing new.
    int (*events)(Api *api, Answer *a, TokenText *out, Error *err);
    // All of it, when every job has finished. NULL and a refusal when one failed.
    json_t *(*response)(Api *api, Answer *a, Refusal *r);
    json_t *(*error)(const Refusal *r);
    const char *end; // of a stream, behind its last event
    // How many tokens a request's prompt has, as JSON, or NULL and a refusal. May be NULL.
    json_t *(*count)(Api *api, json_t *body, Refusal *r);
};

// The endpoints that answer at once; NULL and a refusal when they do not.
json_t *api_models(const Api *api);
json_t *api_model(const Api *api);
json_t *api_props(const Api *api);
json_t *api_render(const Api *api, const json_t *body, Refusal *r);
json_t *api_encode(const Api *api, const json_t *body, Refusal *r);
json_t *api_decode(const Api *api, const json_t *body, Refusal *r);
json_t *api_templates(const Api *api); // their names

// How it is doing (metrics.c):
json_t *api_cache(const Api *api);
json_t *api_health(const Api *api, int draining, int *status); // the HTTP status with it
int api_metrics(const Api *api, TokenText *out, Error *err);   // Prometheus' text format
