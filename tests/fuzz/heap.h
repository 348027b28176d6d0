// For fuzz targets over the compiler: die jumps back to the target, and all memory of the arena, of
// arrays and of cJSON is given back after every input. Build with
//
//   clang -fsanitize=fuzzer,address,undefined \
//     -Wl,--wrap=die,--wrap=arena_alloc,--wrap=arena_copy,--wrap=arena_format,--wrap=grow_array
#pragma once
#include "../../compiler/exlc.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

// What is held outside the arena when die jumps is lost; an ordinary process would have ended.
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

static jmp_buf refused;
static void **blocks;
static size_t block_count, block_room;

static void *keep(void *block)
{
    if (!block) abort();
    if (block_count == block_room) {
        block_room = block_room ? 2 * block_room : 1024;
        blocks = realloc(blocks, block_room * sizeof *blocks);
    }
    return blocks[block_count++] = block;
}

static void free_blocks(void)
{
    for (size_t i = 0; i < block_count; i++) free(blocks[i]);
    block_count = 0;
}

_Noreturn void __wrap_die(const char *where, const char *fmt, ...);
void *__wrap_arena_alloc(size_t bytes);
char *__wrap_arena_copy(const char *s, size_t bytes);
char *__wrap_arena_format(const char *fmt, ...);
void *__wrap_grow_array(void *list, size_t count, size_t *room, size_t size);

// The message is formatted, so that its arguments are checked too.
void __wrap_die(const char *where, const char *fmt, ...)
{
    char text[4096];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!*where || !*text) abort();
    longjmp(refused, 1);
}

void *__wrap_arena_alloc(size_t bytes)
{
    return keep(calloc(1, bytes ? bytes : 1));
}

char *__wrap_arena_copy(const char *s, size_t bytes)
{
    char *copy = keep(calloc(1, bytes + 1));
    memcpy(copy, s, bytes);
    return copy;
}

char *__wrap_arena_format(const char *fmt, ...)
{
    char *s;
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(&s, fmt, args);
    va_end(args);
    if (n < 0) abort();
    return keep(s);
}

// The passes never free their lists.
void *__wrap_grow_array(void *list, size_t count, size_t *room, size_t size)
{
    if (count < *room) return list;
    *room = *room ? *room * 2 : 16;
    void *fresh = keep(calloc(*room, size));
    if (count) memcpy(fresh, list, count * size);
    return fresh;
}

static void *keep_json(size_t bytes)
{
    return keep(malloc(bytes ? bytes : 1));
}

static void forget_json(void *block)
{
    (void)block;
}

static void hook_json(void)
{
    cJSON_Hooks hooks = {keep_json, forget_json};
    cJSON_InitHooks(&hooks);
}
