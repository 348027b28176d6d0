// Many streams of completions at once against one server: how fast it reads prompts and writes
// answers, and how long clients wait; or, with -t, whether answers are the same in any company.
//
//   load [-c STREAMS,...] [-p PROMPT] [-n ANSWER] [-s SEED] [-t SECONDS] PROGRAM [OPTION ...]
//
// Starts PROGRAM serve on a port of its own, with the further options, on DEVICE (cpu unless that
// is set). Prompts are PROMPT random token ids, answers ANSWER tokens; every count of streams is
// measured with prompts that the server has not seen, and again with the same. Any model goes, also
// one of random weights that came as a bare config.json.
#pragma GCC diagnostic ignored "-Wunused-function" // not all of client.h is needed
#include "client.h"
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <time.h>

enum { MOST_STREAMS = 1024, MOST_COUNTS = 16 };

typedef struct {
    int prompt, answer, vocab;
    uint64_t seed;
} Shape;

// One request under way.
typedef struct {
    int fd; // -1: none
    char *text;
    size_t bytes, room; // of the answer's unfinished line
    int32_t *id;        // (count)
    int count, most, done, refused, cached;
    double sent, first, latest;
} Stream;

typedef struct {
    double *value;
    size_t count, room;
} Times;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static uint64_t splitmix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

// --- streams -------------------------------------------------------------------------------------

static void add_time(Times *t, double value)
{
    if (t->count == t->room) {
        t->room = 2 * t->room + 1024;
        t->value = realloc(t->value, t->room * sizeof *t->value);
        if (!t->value) give_up("out of memory");
    }
    t->value[t->count++] = value;
}

static void begin_stream(Stream *s, int port, const char *body, int most)
{
    s->bytes = 0;
    s->count = s->done = s->refused = s->cached = 0;
    s->first = s->latest = 0;
    if (most > s->most) s->id = realloc(s->id, sizeof *s->id * (size_t)(s->most = most));
    s->sent = seconds();
    s->fd = send_request(port, "POST", "/v1/completions", "", body);
    if (s->fd < 0 || !s->id) give_up("cannot connect");
}

static void end_stream(Stream *s)
{
    close(s->fd);
    s->fd = -1;
}

// The ids of one event, which the client has at `now`.
static void take_event(Stream *s, const char *line, double now, Times *gaps)
{
    const char *at = strstr(line, "\"token_ids\":["), *cached = strstr(line, "\"cached_tokens\":");
    if (cached) s->cached = atoi(cached + 16);
    if (!at || at[13] == ']') return;
    if (!s->first)
        s->first = now;
    else if (gaps)
        add_time(gaps, now - s->latest);
    s->latest = now;
    char *p = (char *)at + 12;
    do {
        if (s->count == s->most) give_up("an answer is longer than what was asked for");
        s->id[s->count++] = (int32_t)strtol(p + 1, &p, 10);
    } while (*p == ',');
}

static void take_line(Stream *s, const char *line, double now, Times *gaps)
{
    if (strncmp(line, "HTTP/1.1 ", 9) == 0 && atoi(line + 9) != 200) s->refused = 1;
    if (strncmp(line, "data: {\"error\"", 14) == 0) s->refused = 1;
    if (strcmp(line, "data: [DONE]") == 0) s->done = 1;
    if (strncmp(line, "data: {", 7) == 0) take_event(s, line, now, gaps);
}

// What has arrived; events never cross the chunks that they are sent in, so their lines are whole.
static void read_stream(Stream *s, Times *gaps)
{
    if (s->bytes + 65536 > s->room) s->text = realloc(s->text, s->room = s->bytes + 131072);
    if (!s->text) give_up("out of memory");
    ssize_t n = recv(s->fd, s->text + s->bytes, s->room - s->bytes - 1, 0);
    if (n <= 0 && errno == EINTR) return;
    if (n <= 0) {
        end_stream(s);
        return;
    }
    double now = seconds();
    s->bytes += (size_t)n;
    s->text[s->bytes] = 0;
    char *line = s->text;
    for (char *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        take_line(s, line, now, gaps);
    }
    s->bytes -= (size_t)(line - s->text);
    memmove(s->text, line, s->bytes + 1);
    if (s->done || s->refused) end_stream(s);
}

// Waits for news of any stream.
static void read_streams(Stream *streams, int count, Times *gaps)
{
    struct pollfd fds[MOST_STREAMS];
    for (int i = 0; i < count; i++) fds[i] = (struct pollfd){streams[i].fd, POLLIN, 0};
    if (poll(fds, (nfds_t)count, 120000) == 0) give_up("no news for two minutes");
    for (int i = 0; i < count; i++)
        if (fds[i].revents) read_stream(&streams[i], gaps);
}

// --- requests ------------------------------------------------------------------------------------

// Prompt `number`: its first `shared` ids are those of prompt 0 of the same kind. The caller frees.
static char *make_body(const Shape *shape, uint64_t kind, int number, int prompt, int shared,
                       int answer, const char *sampler)
{
    char *body = malloc(12 * (size_t)prompt + 200), *p = body;
    if (!body) give_up("out of memory");
    p += sprintf(p, "{\"prompt\":[");
    for (int i = 0; i < prompt; i++) {
        uint64_t of = i < shared ? 0 : (uint64_t)number;
        uint64_t r =
            splitmix64(shape->seed ^ splitmix64(kind ^ splitmix64(of << 32 | (uint64_t)i)));
        p += sprintf(p, "%s%d", i ? "," : "", (int)(r % (uint64_t)shape->vocab));
    }
    sprintf(p,
            "],\"max_tokens\":%d,%s,\"ignore_eos\":true,\"return_token_ids\":true,\"stream\":true,"
            "\"stream_options\":{\"include_usage\":true}}",
            answer, sampler);
    return body;
}

// --- speed ---------------------------------------------------------------------------------------

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// In milliseconds; sorts.
static double percentile(Times *t, double share)
{
    if (!t->count) return 0;
    qsort(t->value, t->count, sizeof *t->value, by_value);
    size_t at = (size_t)(share * (double)t->count);
    return 1e3 * t->value[at < t->count ? at : t->count - 1];
}

// All bodies at once. Returns how many answers were not what was asked for.
static int measure(const Shape *shape, int port, Stream *streams, char **body, int count,
                   const char *what)
{
    Times first = {0}, gaps = {0};
    double start = seconds(), last_first = start, end = start;
    int bad = 0, open = count;
    int64_t tokens = 0, cached = 0;
    for (int i = 0; i < count; i++) begin_stream(&streams[i], port, body[i], shape->answer);
    while (open) {
        read_streams(streams, count, &gaps);
        open = 0;
        for (int i = 0; i < count; i++) open += streams[i].fd >= 0;
    }
    for (int i = 0; i < count; i++) {
        const Stream *s = &streams[i];
        bad += !s->done || s->count != shape->answer;
        tokens += s->count, cached += s->cached;
        if (s->first) add_time(&first, s->first - s->sent);
        if (s->first > last_first) last_first = s->first;
        if (s->latest > end) end = s->latest;
    }
    printf("%7d  %-7s %9.1f %9.0f %8lld | %9.1f %9.1f | %8.2f %8.2f%s\n", count, what,
           (double)tokens / (end - start), (double)count * shape->prompt / (last_first - start),
           (long long)cached, percentile(&first, 0.5), percentile(&first, 0.99),
           percentile(&gaps, 0.5), percentile(&gaps, 0.99), bad ? "  INCOMPLETE" : "");
    fflush(stdout);
    free(first.value);
    free(gaps.value);
    return bad;
}

static int measure_counts(const Shape *shape, int port, const int *counts, int count_of_counts)
{
    static Stream streams[MOST_STREAMS];
    static char *body[MOST_STREAMS];
    int bad = 0;
    printf(
        "prompts of %d tokens, answers of %d\n\n"
        "                 generated   prompts   cached | first token, ms     | between, ms\n"
        "streams  prompts  tokens/s  tokens/s   tokens |       p50       p99 |      p50      p99\n",
        shape->prompt, shape->answer);
    for (int k = -1; k < count_of_counts; k++) {
        int count = k < 0 ? 1 : counts[k];
        for (int i = 0; i < count; i++)
            body[i] = make_body(shape, (uint64_t)(k + 2), i, shape->prompt, 0, shape->answer,
                                "\"temperature\":0");
        bad += measure(shape, port, streams, body, count, k < 0 ? "warm-up" : "new");
        if (k >= 0) bad += measure(shape, port, streams, body, count, "again");
        for (int i = 0; i < count; i++) free(body[i]);
    }
    return bad;
}

// --- soak ----------------------------------------------------------------------------------------

enum { REQUESTS = 96 };

typedef struct {
    char *body;
    int32_t *id; // the answer when asked alone
    int count;
} Known;

static long resident_kib(const Server *server)
{
    char path[64], line[256];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)server->pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "VmRSS: %ld", &kib);
    if (f) fclose(f);
    return kib;
}

// Requests of all lengths and samplers, some with a beginning in common, each asked alone.
static void ask_alone(const Shape *shape, int port, Known *known, Stream *s)
{
    for (int i = 0; i < REQUESTS; i++) {
        uint64_t r = splitmix64(shape->seed + (uint64_t)i);
        int prompt = 1 + (int)(r % (uint64_t)shape->prompt);
        int answer = 1 + (int)((r >> 20) % (uint64_t)shape->answer);
        int shared = i % 3 ? 0 : (int)((r >> 40) % (uint64_t)prompt);
        char sampler[64];
        snprintf(sampler, sizeof sampler, "\"temperature\":%d,\"top_p\":0.9,\"seed\":%d", i % 2, i);
        known[i].body = make_body(shape, 1, i, prompt, shared, answer, sampler);
        begin_stream(s, port, known[i].body, shape->answer);
        while (s->fd >= 0) read_streams(s, 1, NULL);
        if (!s->done || s->count != answer) give_up("an answer is not as long as asked for");
        known[i].count = s->count;
        known[i].id = malloc(sizeof *s->id * (size_t)s->count);
        if (!known[i].id) give_up("out of memory");
        memcpy(known[i].id, s->id, sizeof *s->id * (size_t)s->count);
    }
}

// What the server's /cache says must be 0 when nobody asks for anything.
static int busy(int port)
{
    int status, sum;
    char *text = request(port, "GET", "/cache", "", "", &status);
    json_t *state = json_loads(text, 0, NULL);
    sum = (int)(json_integer_value(json_object_get(state, "running")) +
                json_integer_value(json_object_get(state, "queued")) +
                json_integer_value(json_object_get(state, "pages_used")));
    if (!state || status != 200) sum = 1;
    json_decref(state);
    free(text);
    return sum;
}

typedef struct {
    int same, others, left;
} Tally;

static void print_tally(const Tally *t, double elapsed, const Server *server)
{
    printf("%6.0f s: %d answers as when alone, %d others, %d left, %ld KiB resident\n", elapsed,
           t->same, t->others, t->left, resident_kib(server));
    fflush(stdout);
}

// Counts an answer that has ended, however it did.
static void compare(const Stream *s, const Known *known, Tally *t)
{
    if (s->done && s->count == known->count &&
        memcmp(s->id, known->id, sizeof *s->id * (size_t)s->count) == 0)
        t->same++;
    else
        t->others++;
}

// For some seconds, `count` streams at a time, of which every fourth is left in the middle. Returns
// how much was wrong.
static int soak(const Shape *shape, const Server *server, int count, double duration)
{
    static Stream streams[MOST_STREAMS];
    static int open[MOST_STREAMS], of[MOST_STREAMS], leave[MOST_STREAMS];
    Known known[REQUESTS];
    Tally tally = {0};
    uint64_t r = shape->seed;
    ask_alone(shape, server->port, known, streams);
    double start = seconds(), said = 0;
    print_tally(&tally, 0, server);
    for (int running = 1; running;) {
        double elapsed = seconds() - start;
        running = 0;
        for (int i = 0; i < count; i++) {
            Stream *s = &streams[i];
            if (open[i] && s->fd < 0) {
                compare(s, &known[of[i]], &tally);
                open[i] = 0;
            } else if (open[i] && s->count >= leave[i]) {
                end_stream(s);
                tally.left++;
                open[i] = 0;
            }
            if (!open[i] && elapsed < duration) {
                r = splitmix64(r);
                of[i] = (int)(r % REQUESTS);
                leave[i] =
                    (r >> 32) % 4 ? INT32_MAX : (int)((r >> 34) % (uint64_t)known[of[i]].count);
                begin_stream(s, server->port, known[of[i]].body, shape->answer);
                open[i] = 1;
            }
            running += open[i];
        }
        if (running) read_streams(streams, count, NULL);
        if (elapsed - said > 30) print_tally(&tally, said = elapsed, server);
    }
    print_tally(&tally, seconds() - start, server);
    for (int i = 0; i < 50 && busy(server->port); i++) usleep(100000);
    int stuck = busy(server->port);
    if (stuck) printf("something still runs, waits or holds pages\n");
    for (int i = 0; i < REQUESTS; i++) free(known[i].body), free(known[i].id);
    return tally.others + stuck + !tally.same;
}

// --- main ----------------------------------------------------------------------------------------

static int number(const char *text, int most)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*end || n < 1 || n > most) {
        fprintf(stderr, "load: '%s': expected 1 to %d\n", text, most);
        exit(2);
    }
    return (int)n;
}

// What the program says of itself.
static int info_of(const char *program, const char *name)
{
    char *command = format("'%s' info --json", program), text[8192];
    FILE *f = popen(command, "r");
    size_t bytes = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) pclose(f);
    json_t *info = json_loadb(text, bytes, 0, NULL);
    int value = (int)json_integer_value(json_object_get(info, name));
    json_decref(info);
    free(command);
    if (!value) give_up("the program does not say what it is");
    return value;
}

int main(int argc, char **argv)
{
    int counts[MOST_COUNTS] = {1, 8, 32, 128}, count = 4, most = 1, limit = 0, bad;
    Shape shape = {.prompt = 512, .answer = 128, .seed = 1};
    for (int option; (option = getopt(argc, argv, "+c:p:n:s:t:")) != -1;) {
        if (option == 'c') {
            count = 0;
            for (char *word = strtok(optarg, ","); word && count < MOST_COUNTS;
                 word = strtok(NULL, ","))
                counts[count++] = number(word, MOST_STREAMS);
        } else if (option == 'p') {
            shape.prompt = number(optarg, 1 << 20);
        } else if (option == 'n') {
            shape.answer = number(optarg, 1 << 20);
        } else if (option == 's') {
            shape.seed = (uint64_t)number(optarg, INT32_MAX);
        } else if (option == 't') {
            limit = number(optarg, 1 << 20);
        } else {
            return 2;
        }
    }
    if (optind == argc || !count || argc - optind > 16) {
        fprintf(stderr, "load [-c STREAMS,...] [-p PROMPT] [-n ANSWER] [-s SEED] [-t SECONDS] "
                        "PROGRAM [OPTION ...]\n");
        return 2;
    }
    const char *program = argv[optind];
    shape.vocab = info_of(program, "vocab");
    int room = info_of(program, "max_batch");
    for (int i = 0; i < count; i++) most = counts[i] > most ? counts[i] : most;
    if (most > room)
        fprintf(stderr, "load: the program takes %d at a time (exlc build --max-batch)\n", room);
    // Room for all, in whole pages of 256; when soaking for half of them, so that they get in each
    // other's way.
    int context = (shape.prompt + shape.answer + 255) / 256 * 256 + 256;
    char *batch = format("%d", most < room ? most : room), *longest = format("%d", context);
    char *cache = format("%d", limit ? most * context / 2 + context : most * context);
    const char *options[32] = {"--max-batch",    batch, "--max-context", longest,
                               "--cache-tokens", cache};
    int n = 6;
    if (limit) options[n++] = "--deterministic", options[n++] = "--chunk", options[n++] = "256";
    for (int i = optind + 1; i < argc; i++) options[n++] = argv[i];
    signal(SIGPIPE, SIG_IGN);
    Server server = start_server(program, options);
    bad = limit ? soak(&shape, &server, most, limit)
                : measure_counts(&shape, server.port, counts, count);
    bad += stop_server(&server, SIGTERM) != 0;
    free(batch);
    free(longest);
    free(cache);
    printf("%d passed, %d failed, 0 skipped\n", !bad, bad != 0);
    return bad != 0;
}
