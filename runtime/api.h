// OpenAI's requests and answers as jobs of the generator, with the further parameters that
// docs/serving.md lists. Knows JSON and jobs, nothing of connections.
#pragma once
#include "chat.h"
#include "generate.h"
#include <jansson.h>

typedef struct {
    Generator *generator;
    const Tokens *tokens;
    const char *name; // of the model
    Chat chat;
    uint32_t *newlines, *breakers; // bits by id: what XTC leaves alone; DRY's default breakers
} Api;

int api_open(Api *api, Generator *g, const Tokens *t, const char *name, Error *err);
void api_close(Api *api);

// Why a request is refused: an HTTP status and the fields of OpenAI's error object.
typedef struct {
    int status;
    const char *type, *code; // code may be NULL
    char param[64];          // may be empty
    Error error;
} Refusal;
json_t *api_error(const Refusal *r);

// One request and what has been said of its answer.
typedef struct {
    int chat, stream, include_usage, echo;
    int job_count, prompts; // job i continues prompt i / (job_count / prompts)
    Job *jobs;
    struct Said {
        size_t bytes; // of the text
        int tokens, begun, done;
        Reply reply;    // of chats
        json_t *deltas; // parts that are not yet sent
        int calls;
    } * said;
    char id[40];
    int64_t created;
    // private
    json_t *body;        // strings of the jobs live in it
    const json_t *tools; // or NULL
    ReplyFormat format;
    int in_reasoning;
    TokenList *prompt; // (prompts)
    uint32_t *allowed, *breakers;
    int32_t *bias_id, *stop_ids;
    float *bias;
    const char **stop, **banned;
} Answer;

// Makes the jobs that a request's body asks for; they are not yet submitted. Takes over nothing.
int api_request(Api *api, json_t *body, int chat, Answer **out, Refusal *r);
void api_free(Answer *a); // no job is the generator's

// With the generator's lock held:
// The next piece of a streamed answer as one or more events "data: ...\n\n" at the end of *out, the
// last one with the finish reason; nothing when there is nothing new.
int api_events(Api *api, Answer *a, TokenText *out, Error *err);
// All of it, when every job has finished. NULL and a refusal when one failed.
json_t *api_response(Api *api, Answer *a, Refusal *r);
int api_finished(const Answer *a); // every job has ended

// The endpoints that answer at once; NULL and a refusal when they do not.
json_t *api_models(const Api *api);
json_t *api_model(const Api *api);
json_t *api_props(const Api *api);
json_t *api_encode(const Api *api, const json_t *body, Refusal *r);
json_t *api_decode(const Api *api, const json_t *body, Refusal *r);
json_t *api_cache(const Api *api);
int api_metrics(const Api *api, TokenText *out, Error *err); // Prometheus' text format
