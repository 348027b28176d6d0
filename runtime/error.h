// How functions of the runtime report failure: they return -1 and fill *err; 0 is success.
#pragma once
#include <stdarg.h>
#include <stdio.h>

typedef struct {
    char text[512]; // one line without a newline
} Error;

// Fills *err and returns -1, so that callers can write: return error_set(err, "...").
__attribute__((format(printf, 2, 3))) static inline int error_set(Error *err, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    for (char *p = err->text; *p; p++)
        if ((unsigned char)*p < 32) *p = '?';
    return -1;
}
