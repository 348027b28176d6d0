// Two queues under one lock.
#include "readers.h"
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct Readers {
    pthread_mutex_t lock;
    pthread_cond_t work, idle;
    Reading *first, **last; // waiting
    Reading *done;
    int threads, news, stopping; // threads: that have not ended
};

static void *read_on(void *argument)
{
    Readers *r = argument;
    uint64_t one = 1;
    pthread_mutex_lock(&r->lock);
    while (!r->stopping) {
        Reading *reading = r->first;
        if (!reading) {
            pthread_cond_wait(&r->work, &r->lock);
            continue;
        }
        r->first = reading->next;
        if (!r->first) r->last = &r->first;
        pthread_mutex_unlock(&r->lock);
        reading->work(reading);
        pthread_mutex_lock(&r->lock);
        reading->next = r->done;
        r->done = reading;
        if (write(r->news, &one, sizeof one) < 0) continue; // full: it is readable anyway
    }
    r->threads--;
    pthread_cond_signal(&r->idle);
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

int readers_open(Readers **out, int threads, int news, Error *err)
{
    Readers *r = *out = calloc(1, sizeof *r);
    if (!r) return error_set(err, "out of memory");
    r->last = &r->first;
    r->news = news;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->work, NULL);
    pthread_cond_init(&r->idle, NULL);
    for (; r->threads < threads; r->threads++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, read_on, r) != 0)
            return error_set(err, "cannot start a thread");
        pthread_detach(thread);
    }
    return 0;
}

void readers_begin(Readers *r, Reading *reading)
{
    reading->next = NULL;
    pthread_mutex_lock(&r->lock);
    *r->last = reading;
    r->last = &reading->next;
    pthread_cond_signal(&r->work);
    pthread_mutex_unlock(&r->lock);
}

Reading *readers_done(Readers *r)
{
    pthread_mutex_lock(&r->lock);
    Reading *reading = r->done;
    if (reading) r->done = reading->next;
    pthread_mutex_unlock(&r->lock);
    return reading;
}

int readers_close(Readers *r, double seconds)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(seconds * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000, until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&r->lock);
    r->stopping = 1;
    pthread_cond_broadcast(&r->work);
    int late = 0;
    while (r->threads && !late) late = pthread_cond_timedwait(&r->idle, &r->lock, &until) != 0;
    int busy = r->threads;
    pthread_mutex_unlock(&r->lock);
    if (busy) return -1;
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->work);
    pthread_cond_destroy(&r->idle);
    free(r);
    return 0;
}
