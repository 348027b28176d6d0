// Workers for the tests: threads that run one function together, with a spinning barrier.
#pragma once
#include "../../runtime/program.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct Barrier {
    _Atomic int arrived, round;
    int count;
} Barrier;

void worker_barrier(Worker *w)
{
    Barrier *barrier = w->barrier;
    int round = atomic_load(&barrier->round);
    if (atomic_fetch_add(&barrier->arrived, 1) == barrier->count - 1) {
        atomic_store(&barrier->arrived, 0);
        atomic_fetch_add(&barrier->round, 1);
        return;
    }
    for (int spins = 0; atomic_load(&barrier->round) == round; spins++) {
        __builtin_ia32_pause();
        if (spins > 20000) sched_yield();
    }
}

typedef struct {
    Worker worker;
    void (*run)(Worker *w, void *context);
    void *context;
} Task;

static void *start_task(void *argument)
{
    Task *task = argument;
    task->run(&task->worker, task->context);
    return NULL;
}

// Runs `run` on `count` workers and waits for them.
static inline void run_workers(int count, size_t local_bytes, void (*run)(Worker *w, void *context),
                               void *context)
{
    Barrier barrier = {.count = count};
    pthread_t thread[64];
    Task task[64];
    for (int i = 0; i < count; i++) {
        void *local = aligned_alloc(64, (local_bytes + 63) / 64 * 64);
        task[i] = (Task){{i, count, local, &barrier}, run, context};
        if (i > 0) pthread_create(&thread[i], NULL, start_task, &task[i]);
    }
    start_task(&task[0]);
    for (int i = 1; i < count; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < count; i++) free(task[i].worker.local);
}
