// Memory, buffers and errors of the compiler. Every pass and every compiler test includes this.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

// Prints one line "exlc: WHERE: MESSAGE" on stderr, removes unfinished output files and exits 1.
// `where` names the file, tensor, key or Lua line; the message says what was found and what was
// expected.
_Noreturn void die(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// A note on stderr that does not stop the build ("exlc: WHERE: MESSAGE").
void warn(const char *where, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

// Where stderr is a terminal: how far some work is, on a line that the next message, or the end of
// the work, takes away.
void show_progress(const char *what, uint64_t done, uint64_t all);

// Files to delete should the process die before forget_file (also on SIGINT, SIGTERM, SIGHUP).
void remember_file(const char *path);
void forget_file(const char *path);

// A new directory beside `path`, for work on it. It goes with everything in it when this process
// ends, however it ends: a small child process waits for that, so even a kill leaves nothing. At
// most two of them.
char *work_directory(const char *path);
// Deletes them now. Called by die() too.
void remove_work_directories(void);
// In a child process: die() prints and exits, but the parent's files stay.
void leave_files_to_parent(void);

// Arena: zeroed memory that lives until exit. Never returns NULL.
void *arena_alloc(size_t bytes);
char *arena_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *arena_copy(const char *s, size_t bytes); // adds a terminating zero

// A growable byte buffer in the heap; zero-initialised is empty and valid.
typedef struct {
    char *data; // always followed by a zero byte once something was added
    size_t bytes, room;
} Buffer;
void buffer_add(Buffer *b, const void *data, size_t bytes);
void buffer_print(Buffer *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buffer_align(Buffer *b, size_t alignment); // pads with zero bytes
void buffer_free(Buffer *b);

// Grows a typed heap array by one element: APPEND(list, count, room, value).
void *grow_array(void *list, size_t count, size_t *room, size_t size);
#define APPEND(list, count, room, value)                                                          \
    ((list) = grow_array((list), (count), &(room), sizeof *(list)), (list)[(count)++] = (value))

// The whole file, NUL-terminated, in the heap. Dies with the path when it cannot be read.
Buffer read_file(const char *path);
// As read_file, but returns 0 (and leaves *out empty) when there is no such file.
int read_file_if_present(const char *path, Buffer *out);
// Writes through a temporary file in the same directory, syncs, renames. Dies on any failure.
void write_file(const char *path, const void *data, size_t bytes);

// Strict UTF-8: no surrogates, no overlong forms, nothing above U+10FFFF.
int utf8_valid(const void *data, size_t bytes);
