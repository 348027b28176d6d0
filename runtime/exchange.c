// Requests with a body, from their first reader to their last event.
#include "exchange.h"
#include "completions.h"
#include "program.h"
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SILENCE 15             // seconds until a stream shows that it lives
#define OUTPUT_BYTES (8 << 20) // that a client may leave unread

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

void reply_header(struct evhttp_request *http, const char *name, const char *value)
{
    evhttp_add_header(evhttp_request_get_output_headers(http), name, value);
}

static void allow_origin(Server *server, struct evhttp_request *http)
{
    if (server->options->cors)
        reply_header(http, "Access-Control-Allow-Origin", server->options->cors);
}

void reply(Server *server, struct evhttp_request *http, int status, const char *type,
           const void *data, size_t bytes)
{
    struct evbuffer *body = evbuffer_new();
    if (body) evbuffer_add(body, data, bytes);
    reply_header(http, "Content-Type", type);
    allow_origin(server, http);
    if (server->draining) reply_header(http, "Connection", "close");
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
void reply_json(Server *server, struct evhttp_request *http, int status, json_t *value)
{
    char *text = value ? json_dumps(value, ANSWER_JSON) : NULL;
    json_decref(value);
    reply_text(server, http, status, text);
}

void reply_refusal(Server *server, struct evhttp_request *http, const Family *family,
                   const Refusal *r)
{
    if (r->status == 401) reply_header(http, "WWW-Authenticate", "Bearer");
    if (r->status == 503) reply_header(http, "Retry-After", "1");
    reply_json(server, http, r->status, (family ? family->error : completions_error)(r));
}

void refuse(Server *server, struct evhttp_request *http, const Family *family, int status,
            const char *text)
{
    Refusal r;
    refusal_set(&r, status, "", "%s", text);
    if (status == 401) r.code = "invalid_api_key";
    reply_refusal(server, http, family, &r);
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

void exchanges_leave(Server *server)
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
    exchanges_leave(server);
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
    pthread_mutex_unlock(&g->lock);
    // Of what is finished nothing changes: the generator need not wait.
    if (x->http && finished && !x->answer->stream)
        response = family->response(server->api, x->answer, &r);

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
            reply_refusal(server, http, family, &r);
    }
    free(text.data);
    return finished;
}

// --- reading -------------------------------------------------------------------------------------

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
    if (body && x->server->options->capture) x->captured = json_dumps(body, ANSWER_JSON);
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

// Whether so many jobs more have no room in the queue, which those that are being read enter first.
// What is more than it holds at all goes in when nobody waits.
static int is_full(Server *server, int reading, int jobs)
{
    Generator *g = server->api->generator;
    pthread_mutex_lock(&g->lock);
    int waiting = g->stats.queued + reading;
    pthread_mutex_unlock(&g->lock);
    return waiting && waiting + jobs > server->options->max_queue;
}

static void begin_answer(Exchange *x)
{
    Server *server = x->server;
    Generator *g = server->api->generator;
    x->begun = 1;
    x->spoke = monotonic_seconds();
    if (x->answer->stream) {
        reply_header(x->http, "Content-Type", "text/event-stream");
        reply_header(x->http, "Cache-Control", "no-cache");
        reply_header(x->http, "X-Accel-Buffering", "no");
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
    Server *server = x->server;
    const char *id = x->answer ? x->answer->id : "";
    if (fprintf(server->capture,
                "{\"time\":%lld,\"path\":\"%s\",\"id\":\"%s\",\"status\":%d,\"body\":%s}\n",
                (long long)time(NULL), x->path, id, x->refused ? x->refusal.status : 200,
                x->captured) >= 0 &&
        fflush(server->capture) == 0)
        return;
    // The line may be there in part; no other may stand behind it.
    fprintf(stderr, "%s: %s: %s; no more requests are kept\n", model_info.name,
            server->options->capture, strerror(errno));
    fclose(server->capture);
    server->capture = NULL;
}

// What has been read is answered, or goes to the generator.
static void take_read(Reading *reading)
{
    Exchange *x = (Exchange *)reading;
    Server *server = x->server;
    server->unread--;
    if (!x->refused && x->what == GENERATE && is_full(server, 0, x->answer->job_count))
        x->refused = refusal_set(&x->refusal, 503, "", "too many requests are waiting") != 0;
    if (x->captured && server->capture) capture(x);
    if (!x->http) {
        end_exchange(x);
    } else if (x->refused) {
        reply_refusal(server, detach(x), x->family, &x->refusal);
        end_exchange(x);
    } else if (x->what != GENERATE) {
        char *text = x->reply;
        x->reply = NULL;
        reply_text(server, detach(x), 200, text);
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

void exchange_open(Server *server, struct evhttp_request *http, const char *path,
                   const Family *family, int what)
{
    struct evbuffer *input = evhttp_request_get_input_buffer(http);
    if (evbuffer_get_length(input) > (size_t)server->options->max_body) {
        refuse(server, http, family, 413, "the body is too large");
        return;
    }
    if (what == GENERATE && server->draining) {
        refuse(server, http, family, 503, "the server is shutting down");
        return;
    }
    if (what == GENERATE ? is_full(server, server->unread, 1)
                         : server->unread >= server->options->max_queue) {
        refuse(server, http, family, 503, "too many requests are waiting");
        return;
    }
    Exchange *x = open_exchange(server, http, input);
    if (!x) {
        refuse(server, http, family, 500, "out of memory");
        return;
    }
    x->what = what;
    x->path = path;
    x->family = family;
    server->unread++;
    if (server->readers) {
        readers_begin(server->readers, &x->reading);
    } else {
        read_request(&x->reading);
        take_read(&x->reading);
    }
}

// --- all of them --------------------------------------------------------------------------------

void exchanges_news(Server *server)
{
    Generator *g = server->api->generator;
    for (Reading *r; server->readers && (r = readers_done(server->readers));) take_read(r);
    for (Exchange *x = server->exchanges, *next; x; x = next) {
        next = x->next;
        pthread_mutex_lock(&g->lock);
        int dirty = x->dirty;
        pthread_mutex_unlock(&g->lock);
        if (dirty && speak(x)) end_exchange(x);
    }
}

void exchanges_ping(Server *server)
{
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

void exchanges_cancel(Server *server)
{
    for (Exchange *x = server->exchanges; x; x = x->next)
        for (int i = 0; x->begun && i < x->answer->job_count; i++)
            generator_cancel(server->api->generator, &x->answer->jobs[i]);
}

void exchanges_close(Server *server)
{
    while (server->exchanges) end_exchange(server->exchanges);
}
