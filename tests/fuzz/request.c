// Fuzzes the bodies of requests: the first byte says which endpoint, the second when the client
// leaves, the rest is the body. What is accepted is answered to the end.
#include "model.h"
#include "../../runtime/answer.h"
#include "../../runtime/completions.h"
#include "../../runtime/messages.h"
#include "../../runtime/responses.h"

static void check_json(json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (!text) abort();
    free(text);
    json_decref(json);
}

static void check_refusal(const Family *family, const Refusal *r)
{
    if (r->status < 400 || r->status > 599 || !*r->error.text) abort();
    check_json(family->error(r));
}

// The answer in pieces or as a whole, as the server asks for it.
static void answer(Api *api, Answer *a, int leave)
{
    Generator *g = api->generator;
    Refusal r;
    Error err;
    for (int i = 0; i < a->job_count; i++)
        if (generator_submit(g, &a->jobs[i], &err) != 0) abort();
    for (int step = 0; !answer_finished(a); step++) {
        TokenText text = {0};
        if (step == leave)
            for (int i = 0; i < a->job_count; i++) generator_cancel(g, &a->jobs[i]);
        if (!generator_step(g) && !answer_finished(a)) abort();
        if (a->stream && a->family->events(api, a, &text, &err) != 0) abort();
        free(text.data);
    }
    if (!a->stream) {
        json_t *whole = a->family->response(api, a, &r);
        if (whole)
            check_json(whole);
        else
            check_refusal(a->family, &r);
    }
}

static void generate(Api *api, const Family *family, json_t *body, int leave)
{
    Answer *a;
    Refusal r;
    if (family->request(api, body, &a, &r) == 0)
        answer(api, a, leave);
    else
        check_refusal(family, &r);
    answer_free(a);
}

// --- mutations -----------------------------------------------------------------------------------

static unsigned pick(unsigned *seed, size_t below)
{
    *seed = *seed * 1664525u + 1013904223u;
    return below ? (unsigned)((*seed >> 8) % below) : 0;
}

// A value of any kind, or one from elsewhere in the body.
static json_t *some_value(const json_t *body, unsigned *seed)
{
    static const char *const values[] = {"null",
                                         "true",
                                         "false",
                                         "0",
                                         "-1",
                                         "1",
                                         "3",
                                         "0.5",
                                         "1e300",
                                         "2147483648",
                                         "-2147483648",
                                         "9223372036854775807",
                                         "\"\"",
                                         "\"x\"",
                                         "\"\\u0000\"",
                                         "\"\\u20ac<think>\"",
                                         "\"auto\"",
                                         "\"none\"",
                                         "\"text\"",
                                         "\"user\"",
                                         "\"assistant\"",
                                         "[]",
                                         "{}",
                                         "[\"a\", 1]",
                                         "[[0, 9]]",
                                         "[{}]",
                                         "{\"type\": \"text\", \"text\": \"t\"}",
                                         "{\"type\": \"disabled\"}"};
    size_t count = sizeof values / sizeof *values;
    unsigned i = pick(seed, 2 * count);
    if (i < count) return json_loads(values[i], JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    while (pick(seed, 4) && (json_object_size(body) || json_array_size(body))) {
        void *at = json_object_iter((json_t *)body);
        for (unsigned n = pick(seed, json_object_size(body)); n > 0; n--)
            at = json_object_iter_next((json_t *)body, at);
        body = at ? json_object_iter_value(at)
                  : json_array_get(body, pick(seed, json_array_size(body)));
    }
    return json_deep_copy(body);
}

// Changes one place of a value.
static void change(json_t *v, const json_t *body, unsigned *seed)
{
    size_t members = json_object_size(v), items = json_array_size(v);
    unsigned what = pick(seed, 8);
    if (members) {
        void *at = json_object_iter(v);
        for (unsigned n = pick(seed, members); n > 0; n--) at = json_object_iter_next(v, at);
        json_t *value = json_object_iter_value(at);
        const char *key = json_object_iter_key(at);
        if (what < 5 && (json_is_object(value) || json_is_array(value)))
            change(value, body, seed);
        else if (what == 6)
            json_object_del(v, key);
        else if (what == 7)
            json_object_set_new(v, key, json_pack("[O]", value));
        else
            json_object_set_new(v, key, some_value(body, seed));
    } else if (items) {
        unsigned i = pick(seed, items);
        json_t *value = json_array_get(v, i);
        if (what < 5 && (json_is_object(value) || json_is_array(value)))
            change(value, body, seed);
        else if (what == 6)
            json_array_remove(v, i);
        else if (what == 7)
            json_array_insert_new(v, i, json_deep_copy(value));
        else
            json_array_set_new(v, i, some_value(body, seed));
    } else if (json_is_array(v)) {
        json_array_append_new(v, some_value(body, seed));
    }
}

size_t LLVMFuzzerMutate(unsigned char *data, size_t bytes, size_t room);

// Every second time as bytes, else as JSON.
size_t LLVMFuzzerCustomMutator(unsigned char *data, size_t bytes, size_t room, unsigned seed)
{
    json_t *body = bytes > 2 && pick(&seed, 2)
                       ? json_loadb((char *)data + 2, bytes - 2, JSON_ALLOW_NUL, NULL)
                       : NULL;
    if (!body) return LLVMFuzzerMutate(data, bytes, room);
    for (unsigned n = 1 + pick(&seed, 3); n > 0; n--) {
        json_t *before = json_deep_copy(body);
        change(body, before, &seed);
        json_decref(before);
    }
    size_t length = json_dumpb(body, (char *)data + 2, room - 2, JSON_COMPACT);
    json_decref(body);
    return length && length <= room - 2 ? length + 2 : bytes;
}

// --- the target ----------------------------------------------------------------------------------

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t bytes)
{
    static const Family *const families[] = {&text_completions, &chat_completions, &messages,
                                             &responses};
    static Api *api;
    Refusal r;
    json_t *result;
    if (!api) api = open_api();
    if (bytes < 2) return 0;
    json_t *body = json_loadb((const char *)data + 2, bytes - 2, JSON_REJECT_DUPLICATES, NULL);
    if (!body) return 0;
    int what = data[0] & 7;
    if (what < 4) {
        generate(api, families[what], body, data[1]);
    } else {
        result = what == 4   ? api_encode(api, body, &r)
                 : what == 5 ? api_decode(api, body, &r)
                             : families[what - 4]->count(api, body, &r);
        if (result)
            check_json(result);
        else
            check_refusal(families[what & 3], &r);
    }
    json_decref(body);
    return 0;
}
