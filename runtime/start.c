// The parts of a program's start.
#include "start.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MOST_PARTS = 16 };

static struct {
    const char *name;
    double seconds;
} parts[MOST_PARTS];
static int count;
static double begun, latest;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void start_begin(void)
{
    begun = latest = seconds();
}

void start_part(const char *name)
{
    double now = seconds();
    int i = 0;
    while (i < count && strcmp(parts[i].name, name) != 0) i++;
    if (i == MOST_PARTS) return;
    parts[i].name = name;
    parts[i].seconds += now - latest;
    latest = now;
    if (i == count) count++;
}

void start_print(double first)
{
    putchar('{');
    for (int i = 0; i < count; i++) printf("\"%s\": %.4f, ", parts[i].name, parts[i].seconds);
    if (first) printf("\"first_token\": %.4f, ", first - latest);
    printf("\"total\": %.4f}", (first ? first : latest) - begun);
}
