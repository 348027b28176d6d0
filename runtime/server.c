// Connections: routes, keys, limits, event streams, leaving clients, the way down.
#include "server.h"
#include "answer.h"
#include "completions.h"
#include "embeddings.h"
#include "messages.h"
#include "readers.h"
#include "responses.h"
#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define HEADER_BYTES 65536
#define SILENCE 15             // seconds until a stream shows that it lives
#define OUTPUT_BYTES (8 << 20) // that a client may leave unread
#define READERS 4              // requests that are read at once

extern const char page_text[], page_text_end[];

typedef struct Exchange Exchange;

struct Server {
    const Options *options;
    Api *api;
    struct event_base *base;
    struct evhttp *http;
    struct evhttp_bound_socket *bound;
    struct event *news, *quiet, *deadline, *term, *interrupt;
    int news_fd, port;
    Readers *readers;    // NULL: requests are read on the loop
    Exchange *exchanges; // requests under way
    int unread;          // of them, those that are being read
    FILE *capture;       // NULL: requests are not kept
    int draining;
};

// One request with a body: first it is read, then perhaps the generator works on it.
struct Exchange {
    Reading reading; // the first member
    Server *server;
    int what; // of the routes
    const char *path;
    const Family *family;
    struct evhttp_request *http; // NULL once the client has left
    struct evhttp_connection *connection;
    struct event *left; // fires when the client closes
    // The readers', while it is read.
    struct evbuffer *body;
    char *captured; // of the body, for --capture
    int refused;
    Refusal refusal;
    char *reply;    // the whole answer as JSON, or NULL
    Answer *answer; // else what the generator works on
    // From then on.
    int begun; // the generator has the jobs
    int dirty; // guarded by the generator's lock
    double spoke;
    Exchange *next;
};

// --- replies -------------------------------------------------------------------------------------

static void header(struct evhttp_request *http, const char *name, const char *value)
{
    evhttp_add_header(evhttp_request_get_output_headers(http), name, value);
}

static void allow_origin(Server *server, struct evhttp_request *http)
{
    if (server->options->cors) header(http, "Access-Control-Allow-Origin", server->options->cors);
}

static void reply(Server *server, struct evhttp_request *http, int status, const char *type,
                  const void *data, size_t bytes)
{
    struct evbuffer *body = evbuffer_new();
    if (body) evbuffer_add(body, data, bytes);
    header(http, "Content-Type", type);
    allow_origin(server, http);
    if (server->draining) header(http, "Connection", "close");
    evhttp_send_reply(http, status, NULL, body);
    if (body) evbuffer_free(body);
}

// Sends and releases a text.
static void reply_text(Server *server, struct evhttp_request *http, int status, char *text)
{
    if (!text) status = 500, text = strdup("{\"error\":{\"message\":\"out of memory\"}}");
    reply(server, http, status, "application/json", text, text ? strlen(text) : 0);
    free(text);
}

// Sends and releases a value.
static void reply_json(Server *server, struct evhttp_request *http, int status, json_t *value)
{
    char *text = value ? json_dumps(value, ANSWER_JSON) : NULL;
    json_decref(value);
    reply_text(server, http, status, text);
}

static const Family *family_of(struct evhttp_request *http);

// In the form that clients of the path expect.
static void reply_refusal(Server *server, struct evhttp_request *http, const Refusal *r)
{
    const Family *family = family_of(http);
    if (r->status == 401) header(http, "WWW-Authenticate", "Bearer");
    if (r->status == 503) header(http, "Retry-After", "1");
    reply_json(server, http, r->status, (family ? family->error : completions_error)(r));
}

static void refuse(Server *server, struct evhttp_request *http, int status, const char *text)
{
    Refusal r;
    refusal_set(&r, status, "", "%s", text);
    if (status == 401) r.code = "invalid_api_key";
    reply_refusal(server, http, &r);
}

// --- exchanges -----------------------------------------------------------------------------------

// Called by the generator's thread with its lock held.
static void changed(Job *job)
{
    Exchange *x = job->owner;
    uint64_t one = 1;
    if (x->dirty) return;
    x->dirty = 1;
    if (write(x->server->news_fd, &one, sizeof one) < 0) return; // full: it is readable anyway
}

// When all is answered, the loop ends a moment later, for what is still being written.
static void leave_if_drained(Server *server)
{
    static const struct timeval moment = {0, 200000};
    if (server->draining && !server->exchanges) event_base_loopexit(server->base, &moment);
}

// Forgets the connection; returns its request for a last word.
static struct evhttp_request *detach(Exchange *x)
{
    struct evhttp_request *http = x->http;
    if (x->connection) evhttp_connection_set_closecb(x->connection, NULL, NULL);
    x->connection = NULL;
    if (x->left) event_free(x->left);
    x->left = NULL;
    x->http = NULL;
    return http;
}

static void log_exchange(const Exchange *x)
{
    const Answer *a = x->answer;
    int prompt = 0, reused = 0, drawn = 0;
    double queue = 0, reading = 0, begin = INFINITY, end = 0;
    const char *ending = "";
    for (int i = 0; i < a->job_count; i++) {
        const Job *job = &a->jobs[i];
        double first = job->first ? job->first : job->ended;
        prompt += job->prompt_count, reused += job->reused, drawn += job->token_count;
        if (job->started) queue = fmax(queue, job->started - job->submitted);
        if (job->first) reading = fmax(reading, first - job->started);
        begin = fmin(begin, first);
        end = fmax(end, job->ended);
        if (job->reason == REASON_CANCELLED) ending = ", cancelled";
        if (job->reason == REASON_FAILED) ending = ", failed";
    }
    double writing = end - begin;
    fprintf(stderr,
            "%s: %.3f s in the queue; %d prompt tokens, %d of them cached, %.3f s, %.1f tokens/s; "
            "%d drawn, %.3f s, %.1f tokens/s%s\n",
            a->id, queue, prompt, reused, reading, reading > 0 ? (prompt - reused) / reading : 0,
            drawn, writing, writing > 0 ? drawn / writing : 0, ending);
}

static void end_exchange(Exchange *x)
{
    Server *server = x->server;
    Exchange **at = &server->exchanges;
    while (*at != x) at = &(*at)->next;
    *at = x->next;
    if (server->options->log_requests && x->begun) log_exchange(x);
    detach(x);
    if (x->body) evbuffer_free(x->body);
    free(x->captured);
    free(x->reply);
    answer_free(x->answer);
    free(x);
    leave_if_drained(server);
}

// The client is gone: what it asked for ends within one step of the generator.
static void cancel(Exchange *x)
{
    detach(x);
    for (int i = 0; x->begun && i < x->answer->job_count; i++)
        generator_cancel(x->server->api->generator, &x->answer->jobs[i]);
}

static void connection_closed(struct evhttp_connection *connection, void *argument)
{
    (void)connection;
    Exchange *x = argument;
    struct evhttp_request *http = x->http;
    cancel(x);
    // evhttp leaves a request to whoever answers it when its connection breaks meanwhile.
    if (http && !evhttp_request_get_connection(http)) evhttp_request_free(http);
}

// Gives a client up.
static void drop_client(Exchange *x)
{
    struct evhttp_connection *connection = x->connection;
    cancel(x);
    evhttp_connection_free(connection);
}

// The other side has closed. (evhttp itself does not read while an answer is under way, and must
// not: it takes what it then reads for a fault of its own.)
static void client_left(evutil_socket_t fd, short what, void *argument)
{
    (void)fd, (void)what;
    drop_client(argument);
}

// Sends what is new; returns 1 when that was the end.
static int speak(Exchange *x)
{
    Server *server = x->server;
    Generator *g = server->api->generator;
    const Family *family = x->answer->family;
    TokenText text = {0};
    Error err = {{0}};
    Refusal r;
    json_t *response = NULL;
    pthread_mutex_lock(&g->lock);
    x->dirty = 0;
    int finished = answer_finished(x->answer), failed = 0;
    if (x->http && x->answer->stream)
        failed = family->events(server->api, x->answer, &text, &err) != 0;
    else if (x->http && finished)
        response = family->response(server->api, x->answer, &r);
    pthread_mutex_unlock(&g->lock);

    if (x->http && x->answer->stream) {
        struct bufferevent *socket = evhttp_connection_get_bufferevent(x->connection);
        struct evbuffer *chunk = evbuffer_new();
        if (failed || !chunk ||
            evbuffer_get_length(bufferevent_get_output(socket)) > OUTPUT_BYTES) {
            drop_client(x);
        } else {
            struct evhttp_request *http = finished ? detach(x) : x->http;
            if (text.bytes) evbuffer_add(chunk, text.data, text.bytes);
            if (finished) evbuffer_add_printf(chunk, "%s", family->end);
            if (evbuffer_get_length(chunk)) evhttp_send_reply_chunk(http, chunk);
            if (finished) evhttp_send_reply_end(http);
        }
        if (chunk) evbuffer_free(chunk);
        x->spoke = monotonic_seconds();
    } else if (x->http && finished) {
        struct evhttp_request *http = detach(x);
        if (response)
            reply_json(server, http, 200, response);
        else
            reply_refusal(server, http, &r);
    }
    free(text.data);
    return finished;
}

static void take_read(Reading *r);

static void on_news(evutil_socket_t fd, short what, void *argument)
{
    (void)what;
    Server *server = argument;
    Generator *g = server->api->generator;
    uint64_t count;
    if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN) return;
    for (Reading *r; server->readers && (r = readers_done(server->readers));) take_read(r);
    for (Exchange *x = server->exchanges, *next; x; x = next) {
        next = x->next;
        pthread_mutex_lock(&g->lock);
        int dirty = x->dirty;
        pthread_mutex_unlock(&g->lock);
        if (dirty && speak(x)) end_exchange(x);
    }
}

// A comment now and then keeps proxies from giving up on a silent stream.
static void on_quiet(evutil_socket_t fd, short what, void *argument)
{
    (void)fd, (void)what;
    Server *server = argument;
    double now = monotonic_seconds();
    for (Exchange *x = server->exchanges; x; x = x->next) {
        if (!x->http || !x->begun || !x->answer->stream || now - x->spoke < SILENCE) continue;
        struct evbuffer *chunk = evbuffer_new();
        if (!chunk) continue;
        evbuffer_add_printf(chunk, ": ping\n\n");
        evhttp_send_reply_chunk(x->http, chunk);
        evbuffer_free(chunk);
        x->spoke = now;
    }
}

// --- reading -------------------------------------------------------------------------------------

// What a path asks for.
enum {
    PAGE_HTML,
    HEALTH,
    METRICS,
    MODELS,
    ONE_MODEL,
    MODEL,
    PROPS,
    TEMPLATES,
    PERMISSION,
    CACHE,
    GENERATE,
    ENCODE,
    DECODE,
    RENDER,
    COUNT
};

static json_t *parse_body(struct evbuffer *input, Refusal *r)
{
    size_t bytes = evbuffer_get_length(input);
    json_error_t err;
    const char *text = bytes ? (const char *)evbuffer_pullup(input, -1) : "";
    json_t *body = text ? json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &err) : NULL;
    if (!text)
        refusal_memory(r);
    else if (!body)
        refusal_set(r, 400, "", "the body is no JSON: line %d, column %d: %s", err.line, err.column,
                    err.text);
    return body;
}

static int read_jobs(Exchange *x, json_t *body)
{
    Api *api = x->server->api;
    Error err;
    if (x->family->request(api, body, &x->answer, &x->refusal) != 0) return -1;
    for (int i = 0; i < x->answer->job_count; i++)
        if (generator_prepare(api->generator, &x->answer->jobs[i], &err) != 0)
            return refusal_set(&x->refusal, 500, "", "%s", err.text);
    return 0;
}

// On any thread: from the body to jobs, or to the answer.
static void read_request(Reading *reading)
{
    Exchange *x = (Exchange *)reading;
    Api *api = x->server->api;
    json_t *body = parse_body(x->body, &x->refusal), *result = NULL;
    if (body && x->server->capture) x->captured = json_dumps(body, ANSWER_JSON);
    if (!body) {
        x->refused = 1;
    } else if (x->what == GENERATE) {
        x->refused = read_jobs(x, body) != 0;
    } else {
        result = x->what == ENCODE   ? api_encode(api, body, &x->refusal)
                 : x->what == DECODE ? api_decode(api, body, &x->refusal)
                 : x->what == RENDER ? api_render(api, body, &x->refusal)
                                     : x->family->count(api, body, &x->refusal);
        x->refused = !result;
        x->reply = result ? json_dumps(result, ANSWER_JSON) : NULL;
        json_decref(result);
    }
    json_decref(body);
}

// Whether so many more have no room in the queue.
static int is_full(Server *server, int more)
{
    Generator *g = server->api->generator;
    pthread_mutex_lock(&g->lock);
    int queued = g->stats.queued;
    pthread_mutex_unlock(&g->lock);
    return queued + more >= server->options->max_queue;
}

static void begin_answer(Exchange *x)
{
    Server *server = x->server;
    Generator *g = server->api->generator;
    x->begun = 1;
    x->spoke = monotonic_seconds();
    if (x->answer->stream) {
        header(x->http, "Content-Type", "text/event-stream");
        header(x->http, "Cache-Control", "no-cache");
        header(x->http, "X-Accel-Buffering", "no");
        allow_origin(server, x->http);
        evhttp_send_reply_start(x->http, 200, NULL);
    }
    for (int i = 0; i < x->answer->job_count; i++) {
        Job *job = &x->answer->jobs[i];
        job->changed = changed;
        job->owner = x;
        if (generator_submit(g, job, &job->error) == 0) continue;
        pthread_mutex_lock(&g->lock);
        job->reason = REASON_FAILED;
        changed(job);
        pthread_mutex_unlock(&g->lock);
    }
}

// A line for whoever wants to ask the same again.
static void capture(const Exchange *x)
{
    const char *id = x->answer ? x->answer->id : "";
    fprintf(x->server->capture,
            "{\"time\":%lld,\"path\":\"%s\",\"id\":\"%s\",\"status\":%d,\"body\":%s}\n",
            (long long)time(NULL), x->path, id, x->refused ? x->refusal.status : 200, x->captured);
    fflush(x->server->capture);
}

// What has been read is answered, or goes to the generator.
static void take_read(Reading *reading)
{
    Exchange *x = (Exchange *)reading;
    Server *server = x->server;
    server->unread--;
    if (x->captured) capture(x);
    if (!x->http) {
        end_exchange(x);
    } else if (x->refused) {
        reply_refusal(server, detach(x), &x->refusal);
        end_exchange(x);
    } else if (x->what != GENERATE) {
        char *text = x->reply;
        x->reply = NULL;
        reply_text(server, detach(x), 200, text);
        end_exchange(x);
    } else if (is_full(server, x->answer->job_count - 1)) {
        refuse(server, detach(x), 503, "too many requests are waiting");
        end_exchange(x);
    } else {
        begin_answer(x);
    }
}

// A request with its body, which is taken over; NULL: out of memory.
static Exchange *open_exchange(Server *server, struct evhttp_request *http, struct evbuffer *input)
{
    Exchange *x = calloc(1, sizeof *x);
    struct evbuffer *body = x ? evbuffer_new() : NULL;
    if (!body) {
        free(x);
        return NULL;
    }
    evbuffer_add_buffer(body, input);
    struct evhttp_connection *connection = evhttp_request_get_connection(http);
    *x = (Exchange){.reading.work = read_request,
                    .server = server,
                    .http = http,
                    .connection = connection,
                    .body = body,
                    .next = server->exchanges};
    server->exchanges = x;
    evhttp_connection_set_closecb(connection, connection_closed, x);
    int fd = bufferevent_getfd(evhttp_connection_get_bufferevent(connection));
    x->left = event_new(server->base, fd, EV_CLOSED, client_left, x);
    if (x->left) event_add(x->left, NULL);
    return x;
}

// --- routes --------------------------------------------------------------------------------------

static int same_key(const char *given, const char *key)
{
    size_t n = strlen(key), difference = strlen(given) ^ n;
    for (size_t i = 0; i < n && given[i]; i++) difference |= (size_t)(given[i] ^ key[i]);
    return difference == 0;
}

// 0: no valid key, 1: may use the model, 2: may look behind it.
static int permission(const Server *server, struct evhttp_request *http)
{
    const Options *o = server->options;
    struct evkeyvalq *headers = evhttp_request_get_input_headers(http);
    const char *names[] = {"Authorization", "x-api-key", "x-admin-key"};
    int granted = o->api_key ? 0 : o->admin_key ? 1 : 2;
    for (int i = 0; i < 3; i++) {
        const char *key = evhttp_find_header(headers, names[i]);
        if (!key) continue;
        if (i == 0 && strncasecmp(key, "Bearer ", 7) == 0) key += 7;
        if (o->admin_key && same_key(key, o->admin_key)) return 2;
        if (o->api_key && same_key(key, o->api_key)) granted = o->admin_key ? 1 : 2;
    }
    return granted;
}

static const struct {
    const char *path;
    enum evhttp_cmd_type method;
    int permission, what;
    const Family *family; // of GENERATE; or whose form errors have
} routes[] = {
    {"/", EVHTTP_REQ_GET, 0, PAGE_HTML, NULL},
    {"/health", EVHTTP_REQ_GET, 0, HEALTH, NULL},
    {"/metrics", EVHTTP_REQ_GET, 1, METRICS, NULL},
    {"/v1/models", EVHTTP_REQ_GET, 1, MODELS, NULL},
    {"/v1/models/*", EVHTTP_REQ_GET, 1, ONE_MODEL, NULL},
    {"/v1/model/list", EVHTTP_REQ_GET, 1, MODELS, NULL},
    {"/v1/model", EVHTTP_REQ_GET, 1, MODEL, NULL},
    {"/props", EVHTTP_REQ_GET, 1, PROPS, NULL},
    {"/v1/templates", EVHTTP_REQ_GET, 1, TEMPLATES, NULL},
    {"/v1/template/list", EVHTTP_REQ_GET, 1, TEMPLATES, NULL},
    {"/v1/auth/permission", EVHTTP_REQ_GET, 1, PERMISSION, NULL},
    {"/cache", EVHTTP_REQ_GET, 2, CACHE, NULL},
    {"/v1/chat/completions", EVHTTP_REQ_POST, 1, GENERATE, &chat_completions},
    {"/v1/completions", EVHTTP_REQ_POST, 1, GENERATE, &text_completions},
    {"/models", EVHTTP_REQ_GET, 1, MODELS, NULL}, // where a client was given no /v1
    {"/chat/completions", EVHTTP_REQ_POST, 1, GENERATE, &chat_completions},
    {"/completions", EVHTTP_REQ_POST, 1, GENERATE, &text_completions},
    {"/v1/messages", EVHTTP_REQ_POST, 1, GENERATE, &messages},
    {"/v1/messages/count_tokens", EVHTTP_REQ_POST, 1, COUNT, &messages},
    {"/v1/responses", EVHTTP_REQ_POST, 1, GENERATE, &responses},
    {"/v1/responses/input_tokens", EVHTTP_REQ_POST, 1, COUNT, &responses},
    {"/v1/embeddings", EVHTTP_REQ_POST, 1, GENERATE, &embeddings},
    {"/embeddings", EVHTTP_REQ_POST, 1, GENERATE, &embeddings},
    {"/apply-template", EVHTTP_REQ_POST, 1, RENDER, NULL},
    {"/tokenize", EVHTTP_REQ_POST, 1, ENCODE, NULL},
    {"/detokenize", EVHTTP_REQ_POST, 1, DECODE, NULL},
    {"/v1/token/encode", EVHTTP_REQ_POST, 1, ENCODE, NULL},
    {"/v1/token/decode", EVHTTP_REQ_POST, 1, DECODE, NULL},
};
enum { ROUTES = sizeof routes / sizeof *routes };

static void preflight(Server *server, struct evhttp_request *http)
{
    header(http, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    header(http, "Access-Control-Allow-Headers",
           "Authorization, Content-Type, X-API-Key, X-Admin-Key, Anthropic-Version, "
           "Anthropic-Beta, Anthropic-Dangerous-Direct-Browser-Access");
    reply(server, http, 204, "text/plain", "", 0);
}

static const char *path_of(struct evhttp_request *http)
{
    const char *path = evhttp_uri_get_path(evhttp_request_get_evhttp_uri(http));
    return path && *path ? path : "/";
}

// A * at the end of a route's path stands for anything.
static int matches(const char *route, const char *path)
{
    size_t n = strcspn(route, "*");
    return strncmp(route, path, n) == 0 && (route[n] ? path[n] != 0 : path[n] == 0);
}

static const Family *family_of(struct evhttp_request *http)
{
    for (int i = 0; i < ROUTES; i++)
        if (routes[i].family && matches(routes[i].path, path_of(http))) return routes[i].family;
    // What else Anthropic's clients may ask for.
    return matches("/v1/messages/*", path_of(http)) ? &messages : NULL;
}

static void post(Server *server, struct evhttp_request *http, const char *path, int what)
{
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    if (evbuffer_get_length(input) > (size_t)server->options->max_body) {
        refuse(server, http, 413, "the body is too large");
        return;
    }
    if (what == GENERATE && server->draining) {
        refuse(server, http, 503, "the server is shutting down");
        return;
    }
    if (what == GENERATE && is_full(server, server->unread)) {
        refuse(server, http, 503, "too many requests are waiting");
        return;
    }
    Exchange *x = open_exchange(server, http, input);
    if (!x) {
        refuse(server, http, 500, "out of memory");
        return;
    }
    x->what = what;
    x->path = path;
    x->family = family_of(http);
    server->unread++;
    if (server->readers) {
        readers_begin(server->readers, &x->reading);
    } else {
        read_request(&x->reading);
        take_read(&x->reading);
    }
}

static const char *granted(const Server *server, struct evhttp_request *http)
{
    return permission(server, http) == 2 ? "admin" : "api";
}

// A name of a path, which may be percent-encoded.
static int is_model(const Server *server, const char *text)
{
    size_t bytes;
    char *name = evhttp_uridecode(text, 0, &bytes);
    int same =
        name && bytes == strlen(server->api->name) && memcmp(name, server->api->name, bytes) == 0;
    free(name);
    return same;
}

static void get(Server *server, struct evhttp_request *http, int what)
{
    TokenText text = {0};
    Error err;
    if (what == PAGE_HTML) {
        header(http, "Content-Security-Policy",
               "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
               "connect-src 'self'; img-src data:");
        reply(server, http, 200, "text/html; charset=utf-8", page_text,
              (size_t)(page_text_end - page_text));
    } else if (what == HEALTH) {
        int status;
        json_t *health = api_health(server->api, server->draining, &status);
        reply_json(server, http, status, health);
    } else if (what == METRICS) {
        if (api_metrics(server->api, &text, &err) != 0)
            refuse(server, http, 500, err.text);
        else
            reply(server, http, 200, "text/plain; version=0.0.4", text.data, text.bytes);
        free(text.data);
    } else if (what == ONE_MODEL && !is_model(server, path_of(http) + 11)) {
        refuse(server, http, 404, "there is no such model");
    } else {
        reply_json(server, http, 200,
                   what == MODELS                       ? api_models(server->api)
                   : what == MODEL || what == ONE_MODEL ? api_model(server->api)
                   : what == PROPS                      ? api_props(server->api)
                   : what == TEMPLATES                  ? api_templates(server->api)
                   : what == PERMISSION ? json_pack("{s:s}", "permission", granted(server, http))
                                        : api_cache(server->api));
    }
}

static void on_request(struct evhttp_request *http, void *argument)
{
    Server *server = argument;
    enum evhttp_cmd_type method = evhttp_request_get_command(http);
    const char *allowed = NULL;
    for (int i = 0; i < ROUTES; i++) {
        if (!matches(routes[i].path, path_of(http))) continue;
        allowed = routes[i].method == EVHTTP_REQ_GET ? "GET, HEAD" : "POST";
        if (method == EVHTTP_REQ_OPTIONS && server->options->cors) {
            preflight(server, http);
            return;
        }
        if (routes[i].method != method &&
            !(routes[i].method == EVHTTP_REQ_GET && method == EVHTTP_REQ_HEAD))
            continue;
        if (permission(server, http) < routes[i].permission)
            refuse(server, http, 401, "an API key is missing or wrong");
        else if (method == EVHTTP_REQ_POST)
            post(server, http, routes[i].path, routes[i].what);
        else
            get(server, http, routes[i].what);
        return;
    }
    if (allowed) header(http, "Allow", allowed);
    if (allowed)
        refuse(server, http, 405, "the method is not allowed here");
    else if (strncmp(path_of(http), "/v1/responses/", 14) == 0)
        refuse(server, http, 404, "responses are not stored");
    else
        refuse(server, http, 404, "there is no such path");
}

// --- up and down ---------------------------------------------------------------------------------

static void on_deadline(evutil_socket_t fd, short what, void *argument)
{
    (void)fd, (void)what;
    Server *server = argument;
    static const struct timeval moment = {0, 250000};
    for (Exchange *x = server->exchanges; x; x = x->next)
        for (int i = 0; x->begun && i < x->answer->job_count; i++)
            generator_cancel(server->api->generator, &x->answer->jobs[i]);
    event_base_loopexit(server->base, &moment); // for what the answers then say
}

// No new connections; what runs may finish until shortly before the time that was promised.
static void on_signal(evutil_socket_t signal, short what, void *argument)
{
    (void)signal, (void)what;
    Server *server = argument;
    if (server->draining++) { // twice: at once
        event_base_loopbreak(server->base);
        return;
    }
    evhttp_del_accept_socket(server->http, server->bound);
    int64_t ms = 1000 * (int64_t)server->options->drain - 500;
    struct timeval time = {ms > 0 ? ms / 1000 : 0, ms > 0 ? ms % 1000 * 1000 : 0};
    evtimer_add(server->deadline, &time);
    leave_if_drained(server);
}

// Port 0 leaves the choice to the system.
static int listen_on(Server *server, Error *err)
{
    const Options *o = server->options;
    const struct addrinfo passive = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int unknown = getaddrinfo(o->host, NULL, &passive, &found);
    if (unknown)
        return error_set(err, "%s %s: %s", option_name("--host"), o->host, gai_strerror(unknown));
    freeaddrinfo(found);
    server->bound = evhttp_bind_socket_with_handle(server->http, o->host, (uint16_t)o->port);
    if (!server->bound) return error_set(err, "%s:%d: %s", o->host, o->port, strerror(errno));
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    server->port = o->port;
    if (getsockname(evhttp_bound_socket_get_fd(server->bound), (struct sockaddr *)&address,
                    &bytes) == 0)
        server->port =
            ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                                : ((struct sockaddr_in *)&address)->sin_port);
    return 0;
}

static int add_events(Server *server, Error *err)
{
    struct event_base *base = server->base;
    struct timeval second = {1, 0};
    server->news = event_new(base, server->news_fd, EV_READ | EV_PERSIST, on_news, server);
    server->quiet = event_new(base, -1, EV_PERSIST, on_quiet, server);
    server->deadline = evtimer_new(base, on_deadline, server);
    server->term = evsignal_new(base, SIGTERM, on_signal, server);
    server->interrupt = evsignal_new(base, SIGINT, on_signal, server);
    if (!server->news || !server->quiet || !server->deadline || !server->term ||
        !server->interrupt || event_add(server->news, NULL) != 0 ||
        event_add(server->quiet, &second) != 0 || event_add(server->term, NULL) != 0 ||
        event_add(server->interrupt, NULL) != 0)
        return error_set(err, "cannot start the event loop");
    return 0;
}

int server_open(Server **out, const Options *o, Api *api, Error *err)
{
    Server *server = *out = calloc(1, sizeof *server);
    if (!server) return error_set(err, "out of memory");
    *server = (Server){.options = o, .api = api};
    struct event_config *config = event_config_new();
    // Only epoll tells of clients that close while nothing is read.
    if (config) event_config_require_features(config, EV_FEATURE_EARLY_CLOSE);
    server->base = config ? event_base_new_with_config(config) : NULL;
    if (config) event_config_free(config);
    server->http = server->base ? evhttp_new(server->base) : NULL;
    server->news_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!server->http || server->news_fd < 0) return error_set(err, "cannot start the event loop");
    evhttp_set_allowed_methods(server->http, EVHTTP_REQ_GET | EVHTTP_REQ_POST | EVHTTP_REQ_HEAD |
                                                 EVHTTP_REQ_OPTIONS | EVHTTP_REQ_PUT |
                                                 EVHTTP_REQ_DELETE | EVHTTP_REQ_PATCH);
    evhttp_set_max_headers_size(server->http, HEADER_BYTES);
    evhttp_set_max_body_size(server->http, (ev_ssize_t)o->max_body + (1 << 20));
    evhttp_set_timeout(server->http, 120);
    evhttp_set_gencb(server->http, on_request, server);
    if (api && o->capture && !(server->capture = fopen(o->capture, "a")))
        return error_set(err, "%s %s: %s", option_name("--capture"), o->capture, strerror(errno));
    return listen_on(server, err) == 0 ? add_events(server, err) : -1;
}

int server_check(const Options *o, Error *err)
{
    Server *server;
    if (server_open(&server, o, NULL, err) != 0) return -1;
    server_close(server);
    return 0;
}

struct event_base *server_base(Server *server)
{
    return server->base;
}

int server_port(const Server *server)
{
    return server->port;
}

void server_close(Server *server)
{
    while (server->exchanges) end_exchange(server->exchanges);
    event_free(server->term);
    event_free(server->interrupt);
    event_free(server->deadline);
    event_free(server->quiet);
    event_free(server->news);
    evhttp_free(server->http);
    event_base_free(server->base);
    close(server->news_fd);
    if (server->capture) fclose(server->capture);
    free(server);
}

int server_run(const Options *o, Api *api)
{
    Server *server;
    Error err;
    signal(SIGPIPE, SIG_IGN);
    if (server_open(&server, o, api, &err) != 0 ||
        readers_open(&server->readers, READERS, server->news_fd, &err) != 0 ||
        generator_start(api->generator, &err) != 0)
        fail("%s", err.text);
    fprintf(stderr, "%s: listening on http://%s:%d\n", model_info.name, o->host, server->port);
    event_base_dispatch(server->base);
    generator_stop(api->generator);
    // What is still being read is not waited for.
    if (readers_close(server->readers, 0.1) != 0) _exit(0);
    server_close(server);
    return 0;
}
