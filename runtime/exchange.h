// Requests with a body: first they are read, on threads of their own where there are any, then the
// generator works on them, and what it says goes to the client until that leaves. All functions are
// for the thread of the connections.
#pragma once
#include "answer.h"
#include "keys.h"
#include "readers.h"
#include "server.h"
#include <event2/http.h>

typedef struct Exchange Exchange;

struct Server {
    const Options *options;
    Keys keys;
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

void reply_header(struct evhttp_request *http, const char *name, const char *value);
void reply(Server *server, struct evhttp_request *http, int status, const char *type,
           const void *data, size_t bytes);
// Sends and releases a value.
void reply_json(Server *server, struct evhttp_request *http, int status, json_t *value);
// In the form of a family of endpoints; NULL: OpenAI's.
void reply_refusal(Server *server, struct evhttp_request *http, const Family *family,
                   const Refusal *r);
void refuse(Server *server, struct evhttp_request *http, const Family *family, int status,
            const char *text);

// Takes a request on, or refuses it.
void exchange_open(Server *server, struct evhttp_request *http, const char *path,
                   const Family *family, int what);
// What readers and the generator have done goes on its way.
void exchanges_news(Server *server);
// A comment now and then keeps proxies from giving up on a silent stream.
void exchanges_ping(Server *server);
// When the server goes down and all is answered, the loop ends a moment later, for what is still
// being written.
void exchanges_leave(Server *server);
// What runs ends within one step of the generator.
void exchanges_cancel(Server *server);
// Releases what is left; the generator and the readers have stopped.
void exchanges_close(Server *server);
