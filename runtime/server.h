// `serve`: HTTP on the calling thread, the generator on its own, a lock-protected queue between;
// what takes long of requests on further ones.
#pragma once
#include "api.h"
#include "options.h"

// Serves until SIGTERM or SIGINT. Returns the exit status.
int server_run(const Options *o, Api *api);
// Whether it could listen now.
int server_check(const Options *o, Error *err);

// Its parts, for callers that run the loop and the generator themselves. After a failure of open
// the program is to end.
typedef struct Server Server;
int server_open(Server **out, const Options *o, Api *api, Error *err);
int server_port(const Server *server);
struct event_base *server_base(Server *server);
void server_close(Server *server); // the generator has stopped
