// Fields of requests as other servers call them, and those that they have and this one has not.
#pragma once
#include "fields.h"

// Gives fields of the body, an object, the names and forms they have here, and takes away those that
// ask for nothing. Refuses two names of one thing with different values, and what is not there.
// `known` says whether the request has a field of that name.
int foreign_translate(json_t *body, int (*known)(void *taker, const char *name), void *taker,
                      Refusal *r);
