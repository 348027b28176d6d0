// Compares logits with recorded ones.
//
//     compare EXPECTED GOT [--row R] [--all LIMIT] [--each LIMIT] [--hidden]
//     compare ids EXPECTED ROW
//
// EXPECTED holds input_ids I32 (rows, tokens), logits F32 (rows, tokens, vocab), hidden.0 ..
// hidden.L F32 (1, positions, width) of row 0, and perhaps hidden_positions I32 (without it: every
// position) and logits_last F32 (rows, vocab), the last position of every row. A row that logits
// lacks is compared at its last position. logits_tied, where it is there, are the logits with a
// choice between two experts made the other way, which rounding within the accuracy limits decides:
// row 0 must be as one of the two throughout. GOT holds logits F32 (tokens, vocab) and perhaps
// hidden.* F32 (tokens, width), which are compared for row 0; --hidden demands them.
//
// The error is |a - b| / |b|, over everything (limit --all) and at each position (--each). One line
// tells the worst figures; exit 0 within the limits, 1 beyond them or unreadable, 2 bad usage.
// `ids` prints the row's input ids, separated by commas.

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = 256, MAX_RANK = 4 };

typedef struct {
    char name[64], dtype[8];
    int rank;
    size_t shape[MAX_RANK];
    size_t begin, end; // in the file's data
    const unsigned char *data;
} Tensor;

typedef struct {
    const char *path;
    Tensor tensors[MAX_TENSORS];
    int count;
} File;

static _Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("compare: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

// ---- safetensors --------------------------------------------------------------------------------

typedef struct {
    const char *path, *at, *start, *end;
} Scanner;

static _Noreturn void bad_header(const Scanner *s, const char *expected)
{
    die("%s: header byte %td: expected %s", s->path, s->at - s->start, expected);
}

static char peek(Scanner *s)
{
    while (s->at < s->end && strchr(" \t\r\n", *s->at) && *s->at) s->at++;
    return s->at < s->end ? *s->at : 0;
}

static bool next_is(Scanner *s, char c)
{
    if (peek(s) != c || !c) return false;
    s->at++;
    return true;
}

static void expect(Scanner *s, char c)
{
    char wanted[] = {'\'', c, '\'', 0};
    if (!next_is(s, c)) bad_header(s, wanted);
}

// A string without escapes, which is all that the names we know need.
static void scan_string(Scanner *s, char *to, size_t size)
{
    expect(s, '"');
    size_t n = 0;
    for (; s->at < s->end && *s->at != '"'; s->at++) {
        if (*s->at == '\\' || (unsigned char)*s->at < 32) bad_header(s, "a plain string");
        if (n + 1 == size) bad_header(s, "a shorter string");
        to[n++] = *s->at;
    }
    to[n] = 0;
    expect(s, '"');
}

static size_t scan_number(Scanner *s)
{
    size_t value = 0;
    if (peek(s) < '0' || peek(s) > '9') bad_header(s, "a number");
    for (; s->at < s->end && *s->at >= '0' && *s->at <= '9'; s->at++) {
        if (value > SIZE_MAX / 16) bad_header(s, "a smaller number");
        value = value * 10 + (size_t)(*s->at - '0');
    }
    return value;
}

static int scan_numbers(Scanner *s, size_t *to, int limit)
{
    int n = 0;
    expect(s, '[');
    if (next_is(s, ']')) return 0;
    do {
        if (n == limit) bad_header(s, "fewer numbers");
        to[n++] = scan_number(s);
    } while (next_is(s, ','));
    expect(s, ']');
    return n;
}

static void scan_metadata(Scanner *s)
{
    char text[4096];
    expect(s, '{');
    if (next_is(s, '}')) return;
    do {
        scan_string(s, text, sizeof text);
        expect(s, ':');
        scan_string(s, text, sizeof text);
    } while (next_is(s, ','));
    expect(s, '}');
}

static void scan_tensor(Scanner *s, Tensor *t)
{
    char key[32];
    size_t offsets[2];
    bool dtype = false, shape = false, place = false;
    expect(s, '{');
    do {
        scan_string(s, key, sizeof key);
        expect(s, ':');
        if (!strcmp(key, "dtype")) {
            scan_string(s, t->dtype, sizeof t->dtype);
            dtype = true;
        } else if (!strcmp(key, "shape")) {
            t->rank = scan_numbers(s, t->shape, MAX_RANK);
            shape = true;
        } else if (!strcmp(key, "data_offsets")) {
            if (scan_numbers(s, offsets, 2) != 2) bad_header(s, "two offsets");
            t->begin = offsets[0];
            t->end = offsets[1];
            place = true;
        } else {
            bad_header(s, "dtype, shape or data_offsets");
        }
    } while (next_is(s, ','));
    expect(s, '}');
    if (!dtype || !shape || !place) bad_header(s, "dtype, shape and data_offsets");
}

static void check_tensor(const File *f, Tensor *t, const unsigned char *data, size_t size)
{
    size_t bytes = 4; // of the dtypes that we read; others are never looked at
    if (t->begin > t->end || t->end > size)
        die("%s: %s: offsets %zu..%zu in %zu bytes", f->path, t->name, t->begin, t->end, size);
    for (int i = 0; i < t->rank; i++)
        if (__builtin_mul_overflow(bytes, t->shape[i], &bytes)) bytes = SIZE_MAX;
    bool known = !strcmp(t->dtype, "F32") || !strcmp(t->dtype, "I32");
    if (known && bytes != t->end - t->begin)
        die("%s: %s: %zu bytes do not match its shape", f->path, t->name, t->end - t->begin);
    t->data = data + t->begin;
}

// The file's bytes stay allocated until the end.
static unsigned char *read_bytes(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) die("%s: %s", path, strerror(errno));
    size_t room = 1 << 16, n = 0, got;
    unsigned char *bytes = malloc(room);
    while (bytes && (got = fread(bytes + n, 1, room - n, f)) > 0) {
        n += got;
        if (n == room) bytes = realloc(bytes, room *= 2);
    }
    if (!bytes) die("%s: out of memory", path);
    if (ferror(f)) die("%s: %s", path, strerror(errno));
    fclose(f);
    *size = n;
    return bytes;
}

static void read_file(File *f, const char *path)
{
    size_t size;
    unsigned char *bytes = read_bytes(path, &size);
    f->path = path;
    f->count = 0;
    if (size < 8) die("%s: %zu bytes are no safetensors file", path, size);
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)bytes[i] << 8 * i;
    if (length > size - 8) die("%s: header of %" PRIu64 " bytes, file of %zu", path, length, size);
    const char *text = (const char *)bytes + 8;
    Scanner s = {path, text, text, text + length};
    expect(&s, '{');
    if (!next_is(&s, '}')) {
        do {
            if (f->count == MAX_TENSORS) bad_header(&s, "fewer tensors");
            Tensor *t = &f->tensors[f->count];
            memset(t, 0, sizeof *t);
            scan_string(&s, t->name, sizeof t->name);
            expect(&s, ':');
            if (!strcmp(t->name, "__metadata__")) {
                scan_metadata(&s);
                continue;
            }
            scan_tensor(&s, t);
            check_tensor(f, t, bytes + 8 + length, size - 8 - (size_t)length);
            f->count++;
        } while (next_is(&s, ','));
        expect(&s, '}');
    }
    if (peek(&s) || s.at != s.end) bad_header(&s, "the end");
}

static const Tensor *find(const File *f, const char *name)
{
    for (int i = 0; i < f->count; i++)
        if (!strcmp(f->tensors[i].name, name)) return &f->tensors[i];
    return NULL;
}

// The tensor of that name, which must have the dtype and rank; a rank one higher is taken too where
// the first dimension is 1.
static Tensor need(const File *f, const char *name, const char *dtype, int rank)
{
    const Tensor *found = find(f, name);
    if (!found) die("%s: no tensor %s", f->path, name);
    Tensor t = *found;
    if (t.rank == rank + 1 && t.shape[0] == 1) {
        t.rank = rank;
        memmove(t.shape, t.shape + 1, sizeof t.shape - sizeof *t.shape);
    }
    if (strcmp(t.dtype, dtype) || t.rank != rank)
        die("%s: %s: %s of rank %d, expected %s of rank %d", f->path, name, t.dtype, t.rank, dtype,
            rank);
    return t;
}

static float f32_at(const unsigned char *data, size_t i)
{
    float value;
    memcpy(&value, data + 4 * i, 4);
    return value;
}

static int32_t i32_at(const unsigned char *data, size_t i)
{
    int32_t value;
    memcpy(&value, data + 4 * i, 4);
    return value;
}

// ---- errors -------------------------------------------------------------------------------------

typedef struct {
    double difference, norm; // sums of squares over everything
    double worst;            // relative error of the worst position
    size_t where;
    size_t positions;
} Errors;

static double relative(double difference, double norm)
{
    if (!isfinite(difference) || !isfinite(norm)) return INFINITY;
    if (norm == 0) return difference == 0 ? 0 : INFINITY;
    return sqrt(difference / norm);
}

// got and want: width floats each, of the same position.
static void add_position(Errors *e, const unsigned char *got, const unsigned char *want,
                         size_t width, size_t position)
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < width; i++) {
        double a = f32_at(got, i), b = f32_at(want, i);
        difference += (a - b) * (a - b);
        norm += b * b;
    }
    double error = relative(difference, norm);
    if (!e->positions || error > e->worst) {
        e->worst = error;
        e->where = position;
    }
    e->difference += difference;
    e->norm += norm;
    e->positions++;
}

static void same(const File *got, const char *name, const char *what, size_t a, size_t b)
{
    if (a != b) die("%s: %s has %zu %s, expected %zu", got->path, name, a, what, b);
}

// name: logits, or logits_tied for rows that it has.
static Errors compare_logits(const File *expected, const File *got, const char *name, size_t row)
{
    Tensor ids = need(expected, "input_ids", "I32", 2), b = need(expected, name, "F32", 3);
    Tensor a = need(got, "logits", "F32", 2);
    size_t tokens = ids.shape[1], vocab = b.shape[2];
    same(got, "logits", "positions", a.shape[0], tokens);
    same(got, "logits", "columns", a.shape[1], vocab);
    Errors e = {0};
    if (row < b.shape[0]) {
        same(expected, name, "positions", b.shape[1], tokens);
        for (size_t i = 0; i < tokens; i++)
            add_position(&e, a.data + 4 * i * vocab, b.data + 4 * (row * tokens + i) * vocab, vocab,
                         i);
        return e;
    }
    Tensor last = need(expected, "logits_last", "F32", 2);
    if (row >= last.shape[0]) die("%s: no row %zu", expected->path, row);
    same(expected, "logits_last", "columns", last.shape[1], vocab);
    if (tokens)
        add_position(&e, a.data + 4 * (tokens - 1) * vocab, last.data + 4 * row * vocab, vocab,
                     tokens - 1);
    return e;
}

static Errors compare_hidden(const File *expected, const File *got, const char *name)
{
    Tensor a = need(got, name, "F32", 2), b = need(expected, name, "F32", 2), places;
    bool some = find(expected, "hidden_positions") != NULL;
    if (some) {
        places = need(expected, "hidden_positions", "I32", 1);
        same(expected, "hidden_positions", "positions", places.shape[0], b.shape[0]);
    } else {
        same(got, name, "positions", a.shape[0], b.shape[0]);
    }
    size_t width = b.shape[1];
    same(got, name, "columns", a.shape[1], width);
    Errors e = {0};
    for (size_t i = 0; i < b.shape[0]; i++) {
        size_t at = some ? (size_t)i32_at(places.data, i) : i;
        if (at >= a.shape[0]) die("%s: %s: no position %zu", got->path, name, at);
        add_position(&e, a.data + 4 * at * width, b.data + 4 * i * width, width, at);
    }
    return e;
}

// True when both figures are within their limits (NaN is not).
static bool is_fine(const Errors *e, double all, double each)
{
    return e->positions && relative(e->difference, e->norm) <= all && e->worst <= each;
}

static bool report(const char *name, const Errors *e, double all, double each)
{
    double total = relative(e->difference, e->norm);
    bool fine = is_fine(e, all, each);
    printf("%s %.2e (limit %.1e), worst position %zu %.2e (limit %.1e)%s", name, total, all,
           e->where, e->worst, each, fine ? "" : " FAILED");
    return fine;
}

static int compare(const File *expected, const File *got, size_t row, double all, double each,
                   bool hidden)
{
    Errors logits = compare_logits(expected, got, "logits", row), worst = {0};
    char name[64], worst_name[64] = "";
    const char *logits_name = "logits";
    if (!is_fine(&logits, all, each) && row == 0 && find(expected, "logits_tied")) {
        Errors tied = compare_logits(expected, got, "logits_tied", row);
        if (is_fine(&tied, all, each)) logits = tied, logits_name = "logits_tied";
    }
    for (int i = 0; row == 0; i++) {
        snprintf(name, sizeof name, "hidden.%d", i);
        bool wanted = find(expected, name), present = find(got, name);
        if (!wanted && present && i > 0) die("%s: %s is one too many", got->path, name);
        if (!wanted) break;
        if (!present && i == 0 && !hidden) break;
        Errors e = compare_hidden(expected, got, name);
        bool worse = relative(e.difference, e.norm) > relative(worst.difference, worst.norm);
        if (i == 0 || worse || e.worst > each) {
            worst = e;
            strcpy(worst_name, name);
        }
        if (!is_fine(&e, all, each)) break;
    }
    if (hidden && !worst_name[0]) die("%s: no hidden states for row %zu", expected->path, row);
    bool fine = report(logits_name, &logits, all, each);
    if (worst_name[0]) {
        printf("; ");
        fine &= report(worst_name, &worst, all, each);
    }
    putchar('\n');
    return fine ? 0 : 1;
}

static int print_ids(const File *expected, size_t row)
{
    Tensor ids = need(expected, "input_ids", "I32", 2);
    if (row >= ids.shape[0]) die("%s: no row %zu", expected->path, row);
    for (size_t i = 0; i < ids.shape[1]; i++)
        printf("%s%" PRId32, i ? "," : "", i32_at(ids.data, row * ids.shape[1] + i));
    putchar('\n');
    return 0;
}

// The two best logits at position `row` of a program's output, with their distance as a share of
// the position's rms: "ID ID SHARE".
static int print_best(const File *got, size_t row)
{
    Tensor logits = need(got, "logits", "F32", 2);
    size_t vocab = logits.shape[1], best = 0, second = 1;
    if (row >= logits.shape[0] || vocab < 2) die("%s: no row %zu", got->path, row);
    const unsigned char *data = logits.data + 4 * row * vocab;
    double squares = 0;
    if (f32_at(data, 1) > f32_at(data, 0)) best = 1, second = 0;
    for (size_t i = 0; i < vocab; i++) {
        double v = (double)f32_at(data, i);
        squares += v * v;
        if (i < 2) continue;
        if (v > (double)f32_at(data, best))
            second = best, best = i;
        else if (v > (double)f32_at(data, second))
            second = i;
    }
    double gap = (double)f32_at(data, best) - (double)f32_at(data, second);
    printf("%zu %zu %.6f\n", best, second, gap / sqrt(squares / (double)vocab));
    return 0;
}

static _Noreturn void usage(void)
{
    fputs("usage: compare EXPECTED GOT [--row R] [--all LIMIT] [--each LIMIT] [--hidden]\n"
          "       compare ids EXPECTED ROW\n",
          stderr);
    exit(2);
}

static size_t parse_row(const char *text)
{
    char *end;
    if (text[0] < '0' || text[0] > '9') usage();
    size_t row = strtoull(text, &end, 10);
    if (*end) usage();
    return row;
}

static double parse_limit(const char *text)
{
    char *end;
    double limit = strtod(text, &end);
    if (end == text || *end || !(limit >= 0) || !isfinite(limit)) usage();
    return limit;
}

int main(int argc, char **argv)
{
    static File expected, got;
    double all = 3e-3, each = 1e-2;
    size_t row = 0;
    bool hidden = false;
    if (argc < 3) usage();
    if (!strcmp(argv[1], "ids")) {
        if (argc != 4) usage();
        row = parse_row(argv[3]);
        read_file(&expected, argv[2]);
        return print_ids(&expected, row);
    }
    if (!strcmp(argv[1], "best")) {
        if (argc != 4) usage();
        row = parse_row(argv[3]);
        read_file(&got, argv[2]);
        return print_best(&got, row);
    }
    for (int i = 3; i < argc; i++) {
        const char *option = argv[i];
        if (!strcmp(option, "--hidden")) {
            hidden = true;
            continue;
        }
        if (++i == argc) usage();
        if (!strcmp(option, "--row"))
            row = parse_row(argv[i]);
        else if (!strcmp(option, "--all"))
            all = parse_limit(argv[i]);
        else if (!strcmp(option, "--each"))
            each = parse_limit(argv[i]);
        else
            usage();
    }
    read_file(&expected, argv[1]);
    read_file(&got, argv[2]);
    return compare(&expected, &got, row, all, each, hidden);
}
