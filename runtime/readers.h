// Threads for what takes long of a request, so that the loop of the connections never waits for it.
// Knows nothing of what they do.
#pragma once
#include "error.h"

typedef struct Readers Readers;
typedef struct Reading Reading;
struct Reading {
    void (*work)(Reading *r); // on one of the threads
    // private
    Reading *next;
};

// `news`, an eventfd, counts what is done.
int readers_open(Readers **r, int threads, int news, Error *err);
// Puts one in the queue; it is theirs until readers_done has returned it.
void readers_begin(Readers *r, Reading *reading);
// One that is done, or NULL.
Reading *readers_done(Readers *r);
// Begins no more of those that wait, and ends the threads: 0, or -1 when one is still at work after
// so long; then it goes on, and nothing it uses may be released.
int readers_close(Readers *r, double seconds);
