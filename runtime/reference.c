// Logits of others. A program is asked through pipes: a line of ids goes to its `logits --ids - -o
// -`, the safetensors file that it would have written comes back.
#include "reference.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_HEADER (16 << 20)

// --- safetensors ---------------------------------------------------------------------------------

typedef struct {
    uint64_t from, to; // of the bytes behind the header
    size_t shape[3], rank;
} Place;

static Place find_place(const char *path, const json_t *header, const char *name, const char *dtype)
{
    Place p = {0};
    json_int_t from, to;
    const char *type;
    const json_t *tensor = json_object_get(header, name), *shape, *length;
    if (json_unpack((json_t *)tensor, "{s:s, s:o, s:[I, I]}", "dtype", &type, "shape", &shape,
                    "data_offsets", &from, &to) != 0)
        fail("%s: no tensor %s", path, name);
    size_t i, values = 1;
    json_array_foreach(shape, i, length)
    {
        json_int_t n = json_integer_value(length);
        if (i == 3 || n < 1 || n > INT32_MAX || values > SIZE_MAX / 4 / (size_t)n)
            fail("%s: %s has a shape that is not understood", path, name);
        values *= p.shape[p.rank++] = (size_t)n;
    }
    if (strcmp(type, dtype) != 0) fail("%s: %s is %.20s, expected %s", path, name, type, dtype);
    if (from < 0 || from % 4 || to < from || (uint64_t)(to - from) != 4 * (uint64_t)values)
        fail("%s: the bytes of %s do not fit its shape", path, name);
    p.from = (uint64_t)from, p.to = (uint64_t)to;
    return p;
}

// Where ids and logits are in the bytes behind a header; returns how many of those there must be.
static uint64_t parse_header(const char *path, const char *text, size_t bytes, Place *ids,
                             Place *logits)
{
    json_t *header = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(header)) fail("%s: no safetensors file", path);
    *ids = find_place(path, header, "input_ids", "I32");
    *logits = find_place(path, header, "logits", "F32");
    json_decref(header);
    size_t rank = logits->rank;
    if (rank < 2 || ids->rank != rank - 1 || ids->shape[rank - 2] != logits->shape[rank - 2] ||
        (rank == 3 && ids->shape[0] < logits->shape[0]))
        fail("%s: input_ids and logits are not (windows, tokens) and (windows, tokens, vocab)",
             path);
    if (logits->shape[rank - 1] != (size_t)model_info.vocab)
        fail("%s: a vocabulary of %zu, expected %d", path, logits->shape[rank - 1],
             model_info.vocab);
    return ids->to > logits->to ? ids->to : logits->to;
}

static Recorded recorded_at(const uint8_t *data, const Place *ids, const Place *logits)
{
    size_t rank = logits->rank;
    return (Recorded){.ids = (const int32_t *)(data + ids->from),
                      .logits = (const float *)(data + logits->from),
                      .windows = rank == 3 ? logits->shape[0] : 1,
                      .tokens = logits->shape[rank - 2],
                      .vocab = logits->shape[rank - 1]};
}

static void map_file(Reference *r, int fd, size_t bytes)
{
    uint64_t header;
    Place ids, logits;
    r->map_bytes = bytes;
    r->map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (r->map == MAP_FAILED) fail("%s: %s", r->path, strerror(errno));
    memcpy(&header, r->map, 8);
    if (header > MOST_HEADER || header % 4 || 8 + header > bytes)
        fail("%s: no safetensors file", r->path);
    uint64_t needed = parse_header(r->path, (char *)r->map + 8, header, &ids, &logits);
    if (needed > bytes - 8 - header) fail("%s: cut short", r->path);
    r->recorded = recorded_at(r->map + 8 + header, &ids, &logits);
}

// --- programs ------------------------------------------------------------------------------------

static void start_program(Reference *r, const Options *o, int context)
{
    int questions[2], answers[2], n = 6;
    char longest[16], device[16], threads[16];
    char *argv[16] = {(char *)r->path, "logits", "--ids", "-", "-o", "-"};
    snprintf(longest, sizeof longest, "%d", context);
    snprintf(device, sizeof device, o->cuda ? "cuda:%d" : "cpu", o->ordinal);
    snprintf(threads, sizeof threads, "%d", o->threads);
    argv[n++] = "--max-context", argv[n++] = longest;
    if (o->device_given) argv[n++] = "--device", argv[n++] = device;
    if (o->threads) argv[n++] = "--threads", argv[n++] = threads;
    if (pipe2(questions, O_CLOEXEC) != 0 || pipe2(answers, O_CLOEXEC) != 0)
        fail("pipe: %s", strerror(errno));
    signal(SIGPIPE, SIG_IGN); // a reference that is gone is told by what it does not answer
    fflush(NULL);
    r->pid = fork();
    if (r->pid < 0) fail("fork: %s", strerror(errno));
    if (r->pid == 0) {
        signal(SIGPIPE, SIG_DFL);
        dup2(questions[0], 0);
        dup2(answers[1], 1);
        execv(r->path, argv);
        fprintf(stderr, "%s: %s\n", r->path, strerror(errno));
        _exit(127);
    }
    close(questions[0]);
    close(answers[1]);
    r->to = fdopen(questions[1], "w");
    r->from = fdopen(answers[0], "r");
    if (!r->to || !r->from) fail("out of memory");
}

// Bytes of the answer; whoever sends too few has said why.
static void *receive(Reference *r, size_t bytes)
{
    if (bytes > r->room) {
        free(r->data);
        r->data = malloc(r->room = bytes);
        if (!r->data) fail("out of memory");
    }
    if (fread(r->data, 1, bytes, r->from) != bytes) fail("%s: it ended early", r->path);
    return r->data;
}

const float *reference_logits(Reference *r, const int32_t *ids, int count)
{
    uint64_t header;
    Place ids_at, logits_at;
    for (int i = 0; i < count; i++) fprintf(r->to, "%d%c", ids[i], i + 1 < count ? ',' : '\n');
    fflush(r->to);
    memcpy(&header, receive(r, 8), 8);
    if (header > MOST_HEADER) fail("%s: it answered something else", r->path);
    uint64_t bytes = parse_header(r->path, receive(r, header), header, &ids_at, &logits_at);
    if (bytes > SIZE_MAX - 16) fail("%s: it answered something else", r->path);
    r->recorded = recorded_at(receive(r, bytes), &ids_at, &logits_at);
    if (r->recorded.tokens != (size_t)count || memcmp(r->recorded.ids, ids, 4 * (size_t)count) != 0)
        fail("%s: it answered for other ids", r->path);
    return r->recorded.logits;
}

// --- open and close ------------------------------------------------------------------------------

Reference reference_open(const char *path, const Options *o, int context)
{
    Reference r = {.path = path};
    struct stat st;
    char magic[4] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) fail("%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || st.st_size < 16 || read(fd, magic, 4) != 4)
        fail("%s: neither a program nor a safetensors file", path);
    r.is_program = memcmp(magic, "\177ELF", 4) == 0;
    if (r.is_program)
        start_program(&r, o, context);
    else
        map_file(&r, fd, (size_t)st.st_size);
    close(fd);
    return r;
}

void reference_close(Reference *r)
{
    if (r->to) fclose(r->to);
    if (r->from) fclose(r->from);
    if (r->pid > 0) waitpid(r->pid, NULL, 0);
    if (r->map) munmap(r->map, r->map_bytes);
    free(r->data);
}
