// Memory, buffers and errors of the compiler.
#include "util.h"
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// --- errors and unfinished files -----------------------------------------------------------------

#define MAX_UNFINISHED 16
static char *volatile unfinished[MAX_UNFINISHED];

static void remove_unfinished(void)
{
    for (int i = 0; i < MAX_UNFINISHED; i++)
        if (unfinished[i]) unlink(unfinished[i]);
}

static char *work_paths[2];
static int files_are_the_parents;

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *where)
{
    (void)st, (void)type, (void)where;
    remove(path);
    return 0;
}

void remove_work_directories(void)
{
    for (int i = 0; i < 2; i++) {
        if (work_paths[i]) nftw(work_paths[i], remove_entry, 16, FTW_DEPTH | FTW_PHYS);
        work_paths[i] = NULL;
    }
}

void leave_files_to_parent(void)
{
    files_are_the_parents = 1;
}

char *work_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    char *dir = arena_format("%.*s.%s.XXXXXX", folder, path, path + folder);
    if (!mkdtemp(dir)) die(path, "cannot create a directory beside it: %s", strerror(errno));
    char *whole = realpath(dir, NULL);
    int slot = work_paths[0] != NULL;
    if (work_paths[slot]) die(path, "too many work directories");
    work_paths[slot] = whole ? whole : dir;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) die("pipe", "%s", strerror(errno));
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) die("fork", "%s", strerror(errno));
    if (pid == 0) { // outlives its parent by as long as the deletion takes
        setsid();
        int null = open("/dev/null", O_RDWR);
        for (int fd = 0; fd < 3; fd++) dup2(null, fd);
        close(ends[1]);
        char c;
        while (read(ends[0], &c, 1) < 0 && errno == EINTR) continue;
        remove_work_directories();
        _exit(0);
    }
    close(ends[0]); // ends[1] stays open until this process is gone
    return work_paths[slot];
}

static void on_signal(int number)
{
    remove_unfinished();
    signal(number, SIG_DFL);
    raise(number);
}

void remember_file(const char *path)
{
    static int installed;
    if (!installed) {
        installed = 1;
        signal(SIGINT, on_signal);
        signal(SIGTERM, on_signal);
        signal(SIGHUP, on_signal);
    }
    for (int i = 0; i < MAX_UNFINISHED; i++) {
        if (!unfinished[i]) {
            unfinished[i] = strdup(path);
            return;
        }
    }
    die(path, "too many unfinished files");
}

void forget_file(const char *path)
{
    for (int i = 0; i < MAX_UNFINISHED; i++)
        if (unfinished[i] && strcmp(unfinished[i], path) == 0) unfinished[i] = NULL;
}

// --- messages ------------------------------------------------------------------------------------

static int progress_shown;

static void clear_progress(void)
{
    if (progress_shown) fputs("\r\033[K", stderr);
    progress_shown = 0;
}

void show_progress(const char *what, uint64_t done, uint64_t all)
{
    if (!isatty(2)) return;
    clear_progress();
    if (done >= all) return;
    progress_shown = 1;
    fprintf(stderr, "%s: %llu of %llu", what, (unsigned long long)done, (unsigned long long)all);
}

// One line, whatever the message holds: control characters of hostile names are shown as '?'.
static void print_line(const char *where, const char *fmt, va_list args)
{
    char text[2048];
    int n = snprintf(text, sizeof text, "%s: ", where);
    if (n < 0 || n >= (int)sizeof text) n = sizeof text - 1;
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, args);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127) *p = '?';
    fflush(stdout);
    clear_progress();
    fprintf(stderr, "exlc: %s\n", text);
}

void die(const char *where, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_line(where, fmt, args);
    va_end(args);
    if (files_are_the_parents) _exit(1);
    remove_unfinished();
    remove_work_directories();
    exit(1);
}

void warn(const char *where, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    print_line(where, fmt, args);
    va_end(args);
}

// --- arena ---------------------------------------------------------------------------------------

void *arena_alloc(size_t bytes)
{
    static char *block;
    static size_t left;
    bytes = (bytes + 15) & ~(size_t)15;
    if (bytes > left) {
        size_t size = bytes > (1u << 20) ? bytes : (1u << 20);
        char *fresh = calloc(1, size);
        if (!fresh) die("memory", "cannot allocate %zu bytes", size);
        if (size == bytes) return fresh;
        block = fresh;
        left = size;
    }
    void *p = block;
    block += bytes;
    left -= bytes;
    return p;
}

char *arena_copy(const char *s, size_t bytes)
{
    char *copy = arena_alloc(bytes + 1);
    memcpy(copy, s, bytes);
    return copy;
}

char *arena_format(const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) die("memory", "cannot format '%s'", fmt);
    char *s = arena_alloc((size_t)n + 1);
    vsnprintf(s, (size_t)n + 1, fmt, again);
    va_end(again);
    return s;
}

// --- buffers -------------------------------------------------------------------------------------

static void buffer_reserve(Buffer *b, size_t extra)
{
    if (b->room - b->bytes > extra && b->data) return;
    size_t room = b->room ? b->room : 256;
    while (room - b->bytes <= extra) {
        if (room > SIZE_MAX / 2) die("memory", "a buffer of %zu bytes is too large", b->bytes);
        room *= 2;
    }
    char *data = realloc(b->data, room);
    if (!data) die("memory", "cannot allocate %zu bytes", room);
    b->data = data;
    b->room = room;
}

void buffer_add(Buffer *b, const void *data, size_t bytes)
{
    buffer_reserve(b, bytes);
    if (bytes) memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
    b->data[b->bytes] = 0;
}

void buffer_print(Buffer *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) die("memory", "cannot format '%s'", fmt);
    buffer_reserve(b, (size_t)n + 1);
    vsnprintf(b->data + b->bytes, (size_t)n + 1, fmt, again);
    va_end(again);
    b->bytes += (size_t)n;
}

void buffer_align(Buffer *b, size_t alignment)
{
    while (b->bytes % alignment) buffer_add(b, "", 1);
}

void buffer_free(Buffer *b)
{
    free(b->data);
    *b = (Buffer){0};
}

void *grow_array(void *list, size_t count, size_t *room, size_t size)
{
    if (count < *room) return list;
    *room = *room ? *room * 2 : 16;
    list = realloc(list, *room * size);
    if (!list) die("memory", "cannot allocate %zu elements", *room);
    return list;
}

// --- files ---------------------------------------------------------------------------------------

int read_file_if_present(const char *path, Buffer *out)
{
    *out = (Buffer){0};
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // a pipe has no end to wait for
    if (fd < 0) {
        if (errno == ENOENT || errno == ENOTDIR) return 0;
        die(path, "%s", strerror(errno));
    }
    struct stat st;
    if (fstat(fd, &st) != 0) die(path, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode)) die(path, "not a regular file");
    buffer_reserve(out, (size_t)st.st_size + 1);
    for (;;) {
        buffer_reserve(out, 65536);
        ssize_t n = read(fd, out->data + out->bytes, 65536);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) die(path, "%s", strerror(errno));
        if (n == 0) break;
        out->bytes += (size_t)n;
    }
    out->data[out->bytes] = 0;
    close(fd);
    return 1;
}

Buffer read_file(const char *path)
{
    Buffer b;
    if (!read_file_if_present(path, &b)) die(path, "no such file");
    return b;
}

void write_file(const char *path, const void *data, size_t bytes)
{
    char *temporary = arena_format("%s.tmp%d", path, (int)getpid());
    remember_file(temporary);
    FILE *f = fopen(temporary, "wb");
    if (!f) die(temporary, "%s", strerror(errno));
    if (fwrite(data, 1, bytes, f) != bytes || fflush(f) != 0 || fsync(fileno(f)) != 0)
        die(temporary, "%s", strerror(errno));
    if (fclose(f) != 0 || rename(temporary, path) != 0) die(path, "%s", strerror(errno));
    forget_file(temporary);
}

int utf8_valid(const void *data, size_t bytes)
{
    const unsigned char *p = data, *end = p + bytes;
    while (p < end) {
        unsigned c = *p++;
        if (c < 0x80) continue;
        int more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || end - p < more) return 0;
        unsigned value = c & (0x3fu >> more);
        for (int i = 0; i < more; i++) {
            if ((p[i] & 0xc0) != 0x80) return 0;
            value = value << 6 | (p[i] & 0x3f);
        }
        if (more == 2 && (value < 0x800 || (value >= 0xd800 && value < 0xe000))) return 0;
        if (more == 3 && (value < 0x10000 || value > 0x10ffff)) return 0;
        p += more;
    }
    return 1;
}
