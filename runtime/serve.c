// The commands that answer requests: serve, over HTTP, and batch, those of a file.
#include "answer.h"
#include "completions.h"
#include "embeddings.h"
#include "messages.h"
#include "responses.h"
#include "server.h"
#include "tokens.h"
#include "writer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

// Model, generator and endpoints, in the sizes of a server.
static void open_serving(Writer *w, Api *api, const Options *o)
{
    Error err;
    Tokens *t = open_any_tokens();
    Options sized = *o;
    sized.fits = 1;
    if (!sized.max_batch) sized.max_batch = model_info.max_batch;
    if (!sized.cache_tokens) {
        // Not every sequence grows to the end: one full context, or 32,768 tokens for all.
        int64_t one = o->max_context ? o->max_context : model_info.max_context;
        int64_t some = one > 32768 ? one : 32768, all = one * sized.max_batch;
        sized.cache_tokens = (int)(some < all ? some : all);
    }
    open_writer(w, &sized, t, model_info.embedding != EMBEDDING_NONE);
    if (api_open(api, &w->generator, t, o->name ? o->name : model_info.name, &err) != 0)
        fail("%s", err.text);
    api->sampler = choose_sampler(o);
    fprintf(stderr, "%s on %s: %d sequences of up to %d tokens, %d tokens of cache\n",
            model_info.name, device_name(w->model.device), w->model.options.max_sequences,
            w->model.options.max_context, w->model.options.pages[POOL_ALL] * PAGE);
}

int command_serve(const Options *o)
{
    if (o->print_config) return print_config(o), 0;
    Error err;
    if (server_check(o, &err) != 0) fail("%s", err.text); // before the weights are read
    Writer w;
    Api api;
    open_serving(&w, &api, o);
    int status = server_run(o, &api);
    api_close(&api);
    close_writer(&w);
    return status;
}

// --- batch ---------------------------------------------------------------------------------------

// A line that is not answered yet.
typedef struct Line Line;
struct Line {
    json_t *id; // or NULL
    const Family *family;
    Answer *answer;
    int refused;
    Refusal refusal;
    Line *next;
};

// By its "url" (as OpenAI's batches have it) or "path" (as --capture does), else by what it holds.
static const Family *find_family(const json_t *line, const json_t *body)
{
    static const struct {
        const char *path, *member;
        const Family *family;
    } families[] = {{"/v1/chat/completions", "messages", &chat_completions},
                    {"/v1/completions", "prompt", &text_completions},
                    {"/v1/responses", NULL, &responses},
                    {"/v1/messages", NULL, &messages},
                    {"/v1/embeddings", "input", &embeddings}};
    const char *path = json_string_value(field_of(line, "url", "path"));
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const char *member = families[i].member;
        if (path ? strcmp(path, families[i].path) == 0 || strcmp(path, families[i].path + 3) == 0
                 : member && json_object_get(body, member))
            return families[i].family;
    }
    return NULL;
}

static int read_request(Api *api, Line *l, json_t *line)
{
    json_t *body = json_object_get(line, "body");
    if (!body) body = line;
    l->family = find_family(line, body);
    if (!l->family)
        return refusal_set(&l->refusal, 400, "url",
                           "neither a path of this server nor prompt, messages or input");
    if (body == line) json_object_del(body, "custom_id");
    json_object_del(body, "stream");
    json_object_del(body, "stream_options");
    return l->family->request(api, body, &l->answer, &l->refusal);
}

static Line *begin_line(Api *api, const char *text, size_t bytes)
{
    json_error_t err;
    json_t *line = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &err);
    Line *l = calloc(1, sizeof *l);
    if (!l) fail("out of memory");
    l->id = json_incref(json_object_get(line, "custom_id"));
    if (!line) {
        l->refused = 1;
        refusal_set(&l->refusal, 400, "", "the line is no JSON: column %d: %s", err.column,
                    err.text);
    } else {
        l->refused = read_request(api, l, line) != 0;
    }
    for (int i = 0; !l->refused && i < l->answer->job_count; i++)
        if (generator_submit(api->generator, &l->answer->jobs[i], &l->answer->jobs[i].error) != 0)
            fail("%s", l->answer->jobs[i].error.text);
    json_decref(line);
    return l;
}

static int is_answered(const Line *l)
{
    return l->refused || answer_finished(l->answer);
}

static void print_line(Api *api, Line *l)
{
    json_t *body = l->refused ? NULL : l->family->response(api, l->answer, &l->refusal);
    int status = body ? 200 : l->refusal.status;
    if (!body) body = (l->family ? l->family->error : completions_error)(&l->refusal);
    json_t *line = json_pack("{s:O?, s:{s:i, s:o}}", "custom_id", l->id, "response", "status_code",
                             status, "body", body);
    char *text = line ? json_dumps(line, ANSWER_JSON) : NULL;
    if (!text) fail("out of memory");
    if (puts(text) < 0 || fflush(stdout) != 0) fail("standard output: cannot write");
    free(text);
    json_decref(line);
    json_decref(l->id);
    answer_free(l->answer);
    free(l);
}

int command_batch(const Options *o)
{
    FILE *f =
        o->prompt_file && strcmp(o->prompt_file, "-") != 0 ? fopen(o->prompt_file, "r") : stdin;
    if (!f) fail("%s: %s", o->prompt_file, strerror(errno));
    Writer w;
    Api api;
    open_serving(&w, &api, o);
    // Enough that the batch is full while the oldest is waited for.
    int most = 4 * w.model.options.max_sequences, open = 0, over = 0;
    Line *first = NULL, **last = &first;
    char *text = NULL;
    size_t room = 0;
    while (!over || first) {
        ssize_t bytes = 0;
        while (!over && open < most) {
            over = (bytes = getline(&text, &room, f)) < 0;
            if (over || strspn(text, " \t\r\n") == (size_t)bytes) continue;
            *last = begin_line(&api, text, (size_t)bytes);
            last = &(*last)->next;
            open++;
        }
        while (first && is_answered(first)) {
            Line *l = first;
            first = l->next;
            if (!first) last = &first;
            print_line(&api, l);
            open--;
        }
        if (first) generator_step(&w.generator);
    }
    if (ferror(f))
        fail("%s: %s", o->prompt_file ? o->prompt_file : "standard input", strerror(errno));
    if (f != stdin) fclose(f);
    free(text);
    api_close(&api);
    close_writer(&w);
    return 0;
}
