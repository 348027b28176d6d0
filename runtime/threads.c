// Threads that spin briefly for the next pass or barrier and then sleep, so that steps of a few
// microseconds do not pay for a wake-up and an idle program uses no processor.
#include "threads.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 4000

struct Barrier {
    int count;
    atomic_int arrived;
    atomic_uint phase; // a futex
};

struct Pool {
    int count, started;
    struct Barrier barrier;
    Worker *workers;
    pthread_t *threads;
    void *local;
    atomic_uint round; // a futex: rises by one for each pool_run
    atomic_int busy;
    atomic_uint idle_wake; // a futex the caller sleeps on
    int quit;
    void (*work)(Worker *w, void *argument);
    void *argument;
};

// Waits until *word differs from `old`.
static void wait_change(atomic_uint *word, unsigned old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != old) return;
        __builtin_ia32_pause();
    }
    while (atomic_load_explicit(word, memory_order_acquire) == old)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
}

static void change(atomic_uint *word)
{
    atomic_fetch_add_explicit(word, 1, memory_order_acq_rel);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void worker_barrier(Worker *w)
{
    struct Barrier *b = w->barrier;
    if (b->count == 1) return;
    unsigned phase = atomic_load_explicit(&b->phase, memory_order_acquire);
    if (atomic_fetch_add_explicit(&b->arrived, 1, memory_order_acq_rel) + 1 == b->count) {
        atomic_store_explicit(&b->arrived, 0, memory_order_relaxed);
        change(&b->phase);
    } else {
        wait_change(&b->phase, phase);
    }
}

typedef struct {
    Pool *pool;
    Worker *worker;
} Start;

static void *thread_main(void *argument)
{
    Start start = *(Start *)argument;
    free(argument);
    Pool *p = start.pool;
    for (unsigned round = 0;; round++) {
        wait_change(&p->round, round);
        if (p->quit) return NULL;
        p->work(start.worker, p->argument);
        if (atomic_fetch_sub_explicit(&p->busy, 1, memory_order_acq_rel) == 1)
            change(&p->idle_wake);
    }
}

int pool_open(Pool **pool, int count, size_t local_bytes, Error *err)
{
    if (count <= 0) {
        cpu_set_t set;
        count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    }
    Pool *p = calloc(1, sizeof *p);
    *pool = p;
    if (!p) return error_set(err, "out of memory");
    local_bytes = (local_bytes + 4095) & ~(size_t)4095;
    p->count = p->barrier.count = count;
    p->workers = calloc((size_t)count, sizeof *p->workers);
    p->threads = calloc((size_t)count, sizeof *p->threads);
    p->local = aligned_alloc(4096, local_bytes * (size_t)count + 4096);
    if (!p->workers || !p->threads || !p->local) return error_set(err, "out of memory");
    memset(p->local, 0, local_bytes * (size_t)count);
    for (int i = 0; i < count; i++)
        p->workers[i] = (Worker){.index = i,
                                 .count = count,
                                 .local = (char *)p->local + local_bytes * (size_t)i,
                                 .barrier = &p->barrier};
    for (int i = 1; i < count; i++) {
        Start *start = malloc(sizeof *start);
        if (!start) return error_set(err, "out of memory");
        *start = (Start){p, &p->workers[i]};
        if (pthread_create(&p->threads[i], NULL, thread_main, start) != 0) {
            free(start);
            return error_set(err, "cannot start thread %d of %d", i + 1, count);
        }
        p->started = i;
    }
    return 0;
}

void pool_close(Pool *p)
{
    if (!p) return;
    p->quit = 1;
    change(&p->round);
    for (int i = 1; i <= p->started; i++) pthread_join(p->threads[i], NULL);
    free(p->workers);
    free(p->threads);
    free(p->local);
    free(p);
}

int pool_count(const Pool *p)
{
    return p->count;
}

void pool_run(Pool *p, void (*work)(Worker *w, void *argument), void *argument)
{
    p->work = work;
    p->argument = argument;
    atomic_store_explicit(&p->busy, p->count - 1, memory_order_relaxed);
    unsigned idle = atomic_load_explicit(&p->idle_wake, memory_order_acquire);
    if (p->count > 1) change(&p->round);
    work(&p->workers[0], argument);
    while (atomic_load_explicit(&p->busy, memory_order_acquire) > 0) wait_change(&p->idle_wake, idle);
}
