// `serve`: HTTP on the calling thread, the generator on its own, a lock-protected queue between.
#pragma once
#include "api.h"
#include "options.h"

// Serves until SIGTERM or SIGINT. Returns the exit status.
int server_run(const Options *o, Api *api);
