// Connections: routes, keys, limits, the way down.
#include "server.h"
#include "completions.h"
#include "embeddings.h"
#include "exchange.h"
#include "messages.h"
#include "responses.h"
#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <event2/keyvalq_struct.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define HEADER_BYTES 65536
#define READERS 4 // requests that are read at once

extern const char page_text[], page_text_end[];

// --- routes --------------------------------------------------------------------------------------

// The best of the keys that a request has.
static int permission(const Server *server, struct evhttp_request *http)
{
    struct evkeyvalq *headers = evhttp_request_get_input_headers(http);
    const char *names[] = {"Authorization", "x-api-key", "x-admin-key"};
    int granted = keys_permission(&server->keys, NULL);
    for (int i = 0; i < 3; i++) {
        const char *key = evhttp_find_header(headers, names[i]);
        if (!key) continue;
        if (i == 0 && strncasecmp(key, "Bearer ", 7) == 0) key += 7;
        int of_key = keys_permission(&server->keys, key);
        if (of_key > granted) granted = of_key;
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
    reply_header(http, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    reply_header(http, "Access-Control-Allow-Headers",
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
        reply_header(http, "Content-Security-Policy",
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
            refuse(server, http, NULL, 500, err.text);
        else
            reply(server, http, 200, "text/plain; version=0.0.4", text.data, text.bytes);
        free(text.data);
    } else if (what == ONE_MODEL && !is_model(server, path_of(http) + 11)) {
        refuse(server, http, NULL, 404, "there is no such model");
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
    const Family *family = family_of(http);
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
            refuse(server, http, family, 401, "an API key is missing or wrong");
        else if (method == EVHTTP_REQ_POST)
            exchange_open(server, http, routes[i].path, family, routes[i].what);
        else
            get(server, http, routes[i].what);
        return;
    }
    if (allowed) reply_header(http, "Allow", allowed);
    if (allowed)
        refuse(server, http, family, 405, "the method is not allowed here");
    else if (strncmp(path_of(http), "/v1/responses/", 14) == 0)
        refuse(server, http, family, 404, "responses are not stored");
    else
        refuse(server, http, family, 404, "there is no such path");
}

// --- up and down ---------------------------------------------------------------------------------

static void on_news(evutil_socket_t fd, short what, void *argument)
{
    (void)what;
    uint64_t count;
    if (read(fd, &count, sizeof count) < 0 && errno != EAGAIN) return;
    exchanges_news(argument);
}

static void on_quiet(evutil_socket_t fd, short what, void *argument)
{
    (void)fd, (void)what;
    Server *server = argument;
    Error err;
    exchanges_ping(server);
    if (keys_refresh(&server->keys, &err) < 0)
        fprintf(stderr, "%s: %s; the keys stay as they were\n", model_info.name, err.text);
}

static void on_deadline(evutil_socket_t fd, short what, void *argument)
{
    (void)fd, (void)what;
    Server *server = argument;
    static const struct timeval moment = {0, 250000};
    exchanges_cancel(server);
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
    exchanges_leave(server);
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
    if (keys_open(&server->keys, o->api_key, o->admin_key, o->keys, err) != 0) return -1;
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
    exchanges_close(server);
    event_free(server->term);
    event_free(server->interrupt);
    event_free(server->deadline);
    event_free(server->quiet);
    event_free(server->news);
    evhttp_free(server->http);
    event_base_free(server->base);
    close(server->news_fd);
    if (server->capture) fclose(server->capture);
    keys_close(&server->keys);
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
