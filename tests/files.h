// Model directories made on the spot, and checks that something dies with one line.
#pragma once
#include "../compiler/exlc.h"
#include "check.h"
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// The compiler never frees; that is no leak.
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}

// --- directories ---------------------------------------------------------------------------------

// A fresh directory under /tmp; remove_directory takes it away with the files in it.
static inline const char *make_directory(void)
{
    char *path = arena_format("/tmp/exlc-test-XXXXXX");
    if (!mkdtemp(path)) die(path, "cannot make a directory");
    return path;
}

static inline void remove_directory(const char *dir)
{
    if (system(arena_format("rm -rf '%s'", dir)) != 0) warn(dir, "is left behind");
}

static inline void put_text(const char *dir, const char *name, const char *text)
{
    write_file(arena_format("%s/%s", dir, name), text, strlen(text));
}

// --- safetensors ---------------------------------------------------------------------------------

// A file in the making: header entries and data.
typedef struct {
    Buffer header, data;
} Shard;

// Adds a tensor of zero bytes; shape as JSON: "[2, 3]".
static inline uint8_t *add_tensor(Shard *s, const char *name, const char *dtype, const char *shape,
                                  size_t bytes)
{
    size_t begin = s->data.bytes;
    buffer_print(&s->header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}",
                 s->header.bytes ? "," : "{", name, dtype, shape, begin, begin + bytes);
    for (size_t i = 0; i < bytes; i++) buffer_add(&s->data, "", 1);
    return (uint8_t *)s->data.data + begin;
}

// A plain tensor of one or two dimensions (columns 0: one), F32 or 16 bits a value.
static inline void add_values(Shard *s, const char *name, const char *dtype, int rows, int columns)
{
    const char *shape =
        columns ? arena_format("[%d,%d]", rows, columns) : arena_format("[%d]", rows);
    size_t size = strcmp(dtype, "F32") == 0 ? 4 : 2;
    add_tensor(s, name, dtype, shape, size * (size_t)rows * (size_t)(columns ? columns : 1));
}

static inline void add_marker(Shard *s, const char *name, uint32_t value)
{
    memcpy(add_tensor(s, name, "I32", "[]", 4), &value, 4);
}

// A linear layer: EXL3 of the codebook of `format`, or plain for f16.
static inline void add_linear(Shard *s, const char *name, int format, int in, int out)
{
    if (!FORMAT_IS_EXL3(format)) {
        add_values(s, arena_format("%s.weight", name), format == b16 ? "BF16" : "F16", out, in);
        return;
    }
    int bits = FORMAT_BITS(format), a = PADDED(in), b = PADDED(out);
    add_tensor(s, arena_format("%s.trellis", name), "I16",
               arena_format("[%d,%d,%d]", a / 16, b / 16, 16 * bits),
               (size_t)a * (size_t)b / 8 * (size_t)bits);
    add_values(s, arena_format("%s.suh", name), "F16", a, 0);
    add_values(s, arena_format("%s.svh", name), "F16", b, 0);
    if (FORMAT_CODEBOOK(format) == CODEBOOK_MCG)
        add_marker(s, arena_format("%s.mcg", name), 0xCBAC1FEDu);
    if (FORMAT_CODEBOOK(format) == CODEBOOK_MUL1)
        add_marker(s, arena_format("%s.mul1", name), 0x83DCD12Du);
}

// The bytes of a file with this header and `data_bytes` zero bytes of data.
static inline Buffer raw_file(const void *header, size_t header_bytes, uint64_t claimed,
                              size_t data_bytes)
{
    Buffer b = {0};
    buffer_add(&b, &claimed, 8);
    buffer_add(&b, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++) buffer_add(&b, "", 1);
    return b;
}

static inline void write_shard(Shard *s, const char *dir, const char *name)
{
    buffer_print(&s->header, s->header.bytes ? "}" : "{}");
    Buffer b = raw_file(s->header.data, s->header.bytes, s->header.bytes, 0);
    buffer_add(&b, s->data.data, s->data.bytes);
    write_file(arena_format("%s/%s", dir, name), b.data, b.bytes);
    buffer_free(&b);
    buffer_free(&s->header);
    buffer_free(&s->data);
}

// --- dying ---------------------------------------------------------------------------------------

// What f(argument) writes to stderr in a child; *status is the child's, as of waitpid.
static inline const char *run_child(void (*f)(void *), void *argument, int *status)
{
    int ends[2];
    if (pipe(ends) != 0) die("pipe", "failed");
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        close(ends[1]);
        f(argument);
        _exit(0);
    }
    close(ends[1]);
    Buffer b = {0};
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) buffer_add(&b, part, (size_t)n);
    close(ends[0]);
    waitpid(child, status, 0);
    const char *text = b.bytes ? arena_copy(b.data, b.bytes) : "";
    buffer_free(&b);
    return text;
}

// f(argument) must exit with status 1 and leave exactly one line, holding `words`.
static inline void check_dies(const char *name, void (*f)(void *), void *argument,
                              const char *words)
{
    int status;
    const char *text = run_child(f, argument, &status), *end = strchr(text, '\n');
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 1, "%s: status %#x: %s", name, status,
              text);
    CHECK_MSG(end && !end[1], "%s: not one line: %s", name, text);
    CHECK_MSG(strstr(text, words), "%s: expected \"%s\" in: %s", name, words, text);
}
