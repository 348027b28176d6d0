// The threads that together run a forward pass on the CPU.
#pragma once
#include "error.h"
#include "program.h"

typedef struct Pool Pool;

// count threads, the caller included; local_bytes of working memory for each. count 0: one for each
// processor this process may use.
int pool_open(Pool **pool, int count, size_t local_bytes, Error *err);
void pool_close(Pool *pool);
int pool_count(const Pool *pool);

// Runs work(worker, argument) on every thread and returns when all are done.
void pool_run(Pool *pool, void (*work)(Worker *w, void *argument), void *argument);
