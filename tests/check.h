// A minimal test harness: CHECK counts, and the program ends in one line "N passed, N failed".
#pragma once
#include <stdio.h>
#include <string.h>

static int check_passed, check_failed, check_skipped;

#define CHECK(condition)                                                                           \
    ((condition) ? (void)check_passed++                                                            \
                 : (void)(check_failed++,                                                          \
                          fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition)))

// As CHECK, with a message that says what was found.
#define CHECK_MSG(condition, ...)                                                                  \
    ((condition) ? (void)check_passed++                                                            \
                 : (void)(check_failed++, fprintf(stderr, "%s:%d: failed: %s: ", __FILE__,         \
                                                  __LINE__, #condition),                           \
                          fprintf(stderr, __VA_ARGS__), fputc('\n', stderr)))

// A part that could not run, and why.
#define SKIP(reason) (check_skipped++, fprintf(stderr, "skipped: %s\n", reason))

// The last statement of main: prints the totals, returns the exit status.
static inline int check_done(void)
{
    printf("%d passed, %d failed, %d skipped\n", check_passed, check_failed, check_skipped);
    return check_failed != 0 || check_passed + check_skipped == 0;
}
