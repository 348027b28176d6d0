// Texts to vectors: every input is a job that draws nothing.
#include "embeddings.h"
#include "answer.h"
#include "base64.h"
#include "completions.h"
#include "program.h"
#include "request.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_INPUTS 2048

static const char *const names[] = {"input", "model",         "encoding_format", "dimensions",
                                    "user",  "add_bos_token", "priority",        NULL};

static int check_fields(const json_t *body, Refusal *r)
{
    const char *key;
    json_t *value;
    if (!json_is_object(body)) return refusal_set(r, 400, "", "expected a JSON object");
    json_object_foreach((json_t *)body, key, value)
    {
        if (json_is_null(value) || field_listed(key, names)) continue;
        refusal_set(r, 400, key, "Unrecognized request argument supplied: %.100s", key);
        r->code = "unknown_parameter";
        return -1;
    }
    return 0;
}

static int read_form(const json_t *body, Answer *a, Refusal *r)
{
    const json_t *form = field_of(body, "encoding_format", NULL);
    const char *word = form ? json_string_value(form) : "float";
    a->packed = word && strcmp(word, "base64") == 0;
    if (!a->packed && !(word && strcmp(word, "float") == 0))
        return refusal_set(r, 400, "encoding_format", "encoding_format: expected float or base64");
    a->dimensions = model_info.dim;
    return field_whole(body, "dimensions", NULL, 1, model_info.dim, &a->dimensions, r);
}

static int request(Api *api, json_t *body, Answer **out, Refusal *r)
{
    int priority = 0;
    *out = NULL;
    if (model_info.embedding == EMBEDDING_NONE)
        return refusal_set(r, 501, "", "this model is not made for embeddings");
    if (check_fields(body, r) != 0) return -1;
    Answer *a = *out = calloc(1, sizeof *a);
    if (!a) return refusal_memory(r);
    a->family = &embeddings;
    a->body = json_incref(body);
    snprintf(a->id, sizeof a->id, "embd-%016llx", (unsigned long long)random_bits());
    if (read_form(body, a, r) != 0 ||
        field_whole(body, "priority", NULL, -1000, 1000, &priority, r) != 0 ||
        request_prompts(api, a, "input", MOST_INPUTS, r) != 0)
        return -1;
    a->jobs = calloc((size_t)a->prompts, sizeof *a->jobs);
    a->said = calloc((size_t)a->prompts, sizeof *a->said);
    a->vectors = calloc((size_t)a->prompts * (size_t)model_info.dim, sizeof *a->vectors);
    if (!a->jobs || !a->said || !a->vectors) return refusal_memory(r);
    for (int i = 0; i < a->prompts; i++) {
        Job *job = &a->jobs[a->job_count++];
        job_init(job);
        job->max_tokens = 0;
        job->priority = priority;
        job->name = a->id;
        job->vector = a->vectors + (size_t)i * (size_t)model_info.dim;
        if (request_fit(api, job, &a->prompt[i], "input", r) != 0) return -1;
    }
    return 0;
}

// The first `dimensions` of a vector, which keep its length where the model gives it one.
static json_t *vector_json(const Answer *a, float *v)
{
    double sum = 0;
    for (int i = 0; i < a->dimensions; i++) sum += (double)v[i] * v[i];
    if (a->dimensions < model_info.dim && model_info.embedding_normal && sum > 0)
        for (int i = 0; i < a->dimensions; i++) v[i] = (float)(v[i] / sqrt(sum));
    if (a->packed) {
        char *text = base64_text(v, 4 * (size_t)a->dimensions);
        json_t *packed = text ? json_string(text) : NULL;
        free(text);
        return packed;
    }
    json_t *list = json_array();
    for (int i = 0; i < a->dimensions; i++) json_array_append_new(list, json_real(v[i]));
    return list;
}

static json_t *response(Api *api, Answer *a, Refusal *r)
{
    json_t *data = json_array();
    json_int_t tokens = 0;
    for (int i = 0; i < a->job_count; i++) {
        const Job *job = &a->jobs[i];
        if (answer_good(job, r) != 0) {
            json_decref(data);
            return NULL;
        }
        tokens += job->prompt_count;
        json_array_append_new(data, json_pack("{s:s, s:i, s:o}", "object", "embedding", "index", i,
                                              "embedding", vector_json(a, job->vector)));
    }
    return json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                     api->name, "usage", "prompt_tokens", tokens, "total_tokens", tokens);
}

const Family embeddings = {request, NULL, response, completions_error, NULL, NULL};
