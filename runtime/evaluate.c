// The commands that look at logits: logits, eval.
#include "reference.h"
#include "tokens.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Runs positions [from, from + rows) of a sequence in slot 0; logits for all of them.
static void run_rows(Model *m, const int32_t *tokens, int from, int rows)
{
    static int32_t *position, *sequence, *output, room;
    if (rows > room) {
        room = rows;
        position = realloc(position, 4 * (size_t)rows);
        sequence = realloc(sequence, 4 * (size_t)rows);
        output = realloc(output, 4 * (size_t)rows);
        if (!position || !sequence || !output) fail("out of memory");
    }
    for (int i = 0; i < rows; i++) {
        position[i] = from + i;
        sequence[i] = 0;
        output[i] = i;
    }
    Segment segment = {0, rows, 0, from};
    Batch b = {.rows = rows,
               .segments = 1,
               .outputs = rows,
               .token = tokens + from,
               .position = position,
               .sequence = sequence,
               .output = output,
               .segment = &segment};
    // Greedy draws ride along, so that single rows take the same captured path as generation.
    Sampling greedy[1] = {{.top_p = 1}};
    device_forward(m->device, &b, rows == 1 ? greedy : NULL);
}

// Rows a pass may have so that its logits stay below 256 MB.
static int limit_rows(int rows)
{
    int most = (256 << 20) / 4 / model_info.vocab;
    if (most < 1) most = 1;
    return rows < most ? rows : most;
}

static void map_pages(Model *m)
{
    if (device_map_pages(m->device) != 0)
        fail("--cache-tokens %d: %d are needed", m->options.pages[POOL_ALL] * PAGE,
             m->options.pages_per_sequence * PAGE);
}

// --- logits --------------------------------------------------------------------------------------

static int32_t *parse_ids(const char *text, int *count)
{
    int32_t *ids = NULL;
    size_t room = 0;
    *count = 0;
    for (const char *p = text; *p;) {
        char *end;
        long id = strtol(p, &end, 10);
        if (end == p || (*end && *end != ','))
            usage_error("--ids: '%.20s' is no list of token ids", p);
        if (id < 0 || id >= model_info.vocab)
            fail("--ids: id %ld, expected 0 to %d", id, model_info.vocab - 1);
        if ((size_t)*count == room) {
            room = room ? room * 2 : 1024;
            ids = realloc(ids, 4 * room);
            if (!ids) fail("out of memory");
        }
        ids[(*count)++] = (int32_t)id;
        if (*end && !end[1]) usage_error("--ids ends in a comma");
        p = *end ? end + 1 : end;
    }
    if (!*count) usage_error("--ids: no token ids");
    return ids;
}

// The unfinished output file, for whatever ends the process before it is renamed.
static char temporary[4200];

static void remove_temporary(void)
{
    if (*temporary) unlink(temporary);
}

static void on_signal(int number)
{
    remove_temporary();
    signal(number, SIG_DFL);
    raise(number);
}

static void put(FILE *f, const char *path, const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, f) != bytes) fail("%s: %s", path, strerror(errno));
}

static void open_output(FILE **f, const char *path)
{
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISREG(st.st_mode))
        fail("%s: exists and is no regular file", path);
    snprintf(temporary, sizeof temporary, "%.4096s.tmp%d", path, (int)getpid());
    *f = fopen(temporary, "wb");
    if (!*f) {
        *temporary = 0;
        fail("%s: %s", path, strerror(errno));
    }
    atexit(remove_temporary);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
}

static void close_output(FILE *f, const char *path)
{
    if (fflush(f) != 0 || fclose(f) != 0 || rename(temporary, path) != 0)
        fail("%s: %s", path, strerror(errno));
    *temporary = 0;
}

// Writes a safetensors file of the ids, the logits behind each of them, and perhaps the residual
// stream after every layer.
static void write_logits(Model *model, const int32_t *ids, int count, int chunk, int keep_hidden,
                         FILE *f, const char *path)
{
    const ModelInfo *m = &model_info;
    size_t vocab = (size_t)m->vocab, dim = (size_t)m->dim, tokens = (size_t)count;
    size_t states = keep_hidden ? (size_t)m->layers + 1 : 0, at = 4 * tokens * vocab;
    float *hidden = states ? malloc(4 * states * tokens * dim) : NULL;
    char *header = malloc(512 + states * 128);
    if ((states && !hidden) || !header) fail("out of memory");
    int n = sprintf(header,
                    "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}",
                    tokens, vocab, at);
    n += sprintf(header + n,
                 ",\"input_ids\":{\"dtype\":\"I32\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}",
                 tokens, at, at + 4 * tokens);
    at += 4 * tokens;
    for (size_t l = 0; l < states; l++, at += 4 * tokens * dim)
        n += sprintf(header + n,
                     ",\"hidden.%zu\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],"
                     "\"data_offsets\":[%zu,%zu]}",
                     l, tokens, dim, at, at + 4 * tokens * dim);
    n += sprintf(header + n, "}");
    while (n % 8) header[n++] = ' ';
    uint64_t header_bytes = (uint64_t)n;
    put(f, path, &header_bytes, 8);
    put(f, path, header, header_bytes);
    for (int from = 0; from < count; from += chunk) {
        int rows = count - from < chunk ? count - from : chunk;
        run_rows(model, ids, from, rows);
        put(f, path, device_logits(model->device), 4 * (size_t)rows * vocab);
        const float *h = states ? device_hidden(model->device) : NULL;
        for (size_t l = 0; l < states; l++)
            memcpy(hidden + (l * tokens + (size_t)from) * dim, h + l * (size_t)rows * dim,
                   4 * (size_t)rows * dim);
    }
    put(f, path, ids, 4 * tokens);
    if (states) put(f, path, hidden, 4 * states * tokens * dim);
    free(header);
    free(hidden);
}

// A file to standard output for each line of ids on standard input.
static int answer_lines(const Options *o)
{
    Options sized = *o;
    if (!sized.max_context) sized.max_context = model_info.max_context;
    int chunk = limit_rows(o->chunk ? o->chunk : 512), count;
    if (chunk > sized.max_context) chunk = sized.max_context;
    Model model = open_model(&sized, chunk, chunk, o->hidden);
    map_pages(&model);
    char *line = NULL;
    size_t room = 0;
    for (ssize_t bytes; (bytes = getline(&line, &room, stdin)) > 0;) {
        if (line[bytes - 1] == '\n') line[bytes - 1] = 0;
        int32_t *ids = parse_ids(line, &count);
        if (count > sized.max_context)
            fail("%d ids do not fit a context of %d tokens", count, sized.max_context);
        write_logits(&model, ids, count, chunk, o->hidden, stdout, "standard output");
        if (fflush(stdout) != 0) fail("standard output: %s", strerror(errno));
        free(ids);
    }
    free(line);
    close_model(&model);
    return 0;
}

int command_logits(const Options *o)
{
    if (!o->ids || !o->output) usage_error("logits needs --ids LIST and -o FILE");
    int lines = strcmp(o->ids, "-") == 0, count;
    if (lines != (strcmp(o->output, "-") == 0)) usage_error("--ids - goes with -o -");
    if (lines) return answer_lines(o);
    int32_t *ids = parse_ids(o->ids, &count);
    const ModelInfo *m = &model_info;
    Options sized = *o;
    if (!sized.max_context) sized.max_context = count;
    if (count > sized.max_context || count > m->max_context)
        fail("%d ids do not fit a context of %d tokens", count,
             sized.max_context < m->max_context ? sized.max_context : m->max_context);
    int chunk = limit_rows(o->chunk ? o->chunk : 512);
    if (chunk > count) chunk = count;
    Model model = open_model(&sized, chunk, chunk, o->hidden);
    map_pages(&model);
    FILE *f;
    open_output(&f, o->output);
    write_logits(&model, ids, count, chunk, o->hidden, f, o->output);
    close_output(f, o->output);
    free(ids);
    close_model(&model);
    return 0;
}

// --- eval ----------------------------------------------------------------------------------------

static char *read_text(const char *path, size_t *bytes)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail("%s: %s", path, strerror(errno));
    char *data = NULL;
    size_t room = 0;
    *bytes = 0;
    do {
        if (*bytes + 65536 > room) {
            room = room ? room * 2 : 1 << 20;
            data = realloc(data, room);
            if (!data) fail("out of memory");
        }
        *bytes += fread(data + *bytes, 1, 65536, f);
    } while (!feof(f) && !ferror(f));
    if (ferror(f)) fail("%s: %s", path, strerror(errno));
    fclose(f);
    return data;
}

// log of the sum of e^logits
static double log_sum(const float *logits, int vocab)
{
    float top = logits[0];
    for (int i = 1; i < vocab; i++) top = logits[i] > top ? logits[i] : top;
    double total = 0;
    for (int from = 0; from < vocab; from += 64) { // float within a block, double across
        float sum = 0;
        for (int i = from; i < vocab && i < from + 64; i++) sum += expf(logits[i] - top);
        total += (double)sum;
    }
    return log(total) + (double)top;
}

// Kullback and Leibler's divergence of softmax(logits) from softmax(reference), in nats.
static double divergence(const float *reference, const float *logits, int vocab)
{
    double p = log_sum(reference, vocab), q = log_sum(logits, vocab), sum = 0;
    for (int i = 0; i < vocab; i++) {
        double log_p = (double)reference[i] - p;
        sum += exp(log_p) * (log_p - ((double)logits[i] - q));
    }
    return sum;
}

// The likeliest tokens, likeliest first; of equals the lower id.
enum { TOP = 5 };
static void find_top(const float *logits, int vocab, int top[TOP])
{
    int count = 0;
    for (int i = 0; i < vocab; i++) {
        if (count == TOP && !(logits[i] > logits[top[TOP - 1]])) continue;
        int at = count < TOP ? count++ : TOP - 1;
        for (; at > 0 && logits[i] > logits[top[at - 1]]; at--) top[at] = top[at - 1];
        top[at] = i;
    }
}

// What is measured: windows of ids, of which `rows` are computed.
typedef struct {
    int32_t *ids; // (count, width)
    size_t count;
    int width, rows;
} Windows;

// Windows of a text, each behind a BOS token; the last token is only predicted.
static Windows windows_of_text(const Options *o)
{
    Tokens *t = open_tokens();
    Error err;
    size_t bytes;
    char *text = read_text(o->text, &bytes);
    TokenList ids = {0};
    if (tokens_encode(t, text, bytes, 0, &ids, &err) != 0) fail("%s: %s", o->text, err.text);
    free(text);

    const ModelInfo *m = &model_info;
    int width = o->context;
    if (width < 2 || width > m->max_context)
        fail("--context %d: expected 2 to %d", width, m->max_context);
    int bos = tokens_bos(t) >= 0 ? tokens_bos(t) : m->bos;
    check_ids(ids.id, ids.count);
    if (bos >= m->vocab) fail("BOS %d is beyond the vocabulary of %d", bos, m->vocab);
    if (bos < 0) fail("the model names no BOS token, which eval puts before every window");
    Windows w = {.width = width, .rows = width - 1, .count = ids.count / (size_t)(width - 1)};
    if (o->windows && (size_t)o->windows < w.count) w.count = (size_t)o->windows;
    if (!w.count) fail("%s: %zu tokens, a window needs %d", o->text, ids.count, width - 1);
    w.ids = malloc(4 * w.count * (size_t)width);
    if (!w.ids) fail("out of memory");
    for (size_t i = 0; i < w.count; i++) {
        int32_t *window = w.ids + i * (size_t)width;
        window[0] = bos;
        memcpy(window + 1, ids.id + i * (size_t)(width - 1), 4 * (size_t)(width - 1));
    }
    free(ids.id);
    tokens_close(t);
    return w;
}

static Windows windows_of_file(const Options *o, const Recorded *r)
{
    if (r->tokens > (size_t)model_info.max_context)
        fail("%s: windows of %zu tokens do not fit a context of %d", o->reference, r->tokens,
             model_info.max_context);
    Windows w = {.width = (int)r->tokens, .rows = (int)r->tokens, .count = r->windows};
    if (o->windows && (size_t)o->windows < w.count) w.count = (size_t)o->windows;
    check_ids(r->ids, w.count * r->tokens);
    w.ids = malloc(4 * w.count * r->tokens);
    if (!w.ids) fail("out of memory");
    memcpy(w.ids, r->ids, 4 * w.count * r->tokens);
    return w;
}

static void show_progress(size_t done, size_t all)
{
    if (isatty(2))
        fprintf(stderr, done < all ? "\r%zu / %zu windows" : "\r%zu / %zu windows\n", done, all);
}

// The rows of a pass, and the model for windows of that width.
static Model open_for(const Options *o, int width, int *chunk)
{
    Options sized = *o;
    sized.max_context = width;
    *chunk = limit_rows(o->chunk && o->chunk < width ? o->chunk : width);
    Model model = open_model(&sized, *chunk, *chunk, 0);
    map_pages(&model);
    return model;
}

// How likely the text is.
static int evaluate_ppl(const Options *o)
{
    Windows w = windows_of_text(o);
    int chunk, vocab = model_info.vocab;
    Model model = open_for(o, w.width, &chunk);
    double sum = 0;
    for (size_t i = 0; i < w.count; i++) {
        const int32_t *window = w.ids + i * (size_t)w.width;
        for (int from = 0; from < w.rows; from += chunk) {
            int rows = w.rows - from < chunk ? w.rows - from : chunk;
            run_rows(&model, window, from, rows);
            const float *logits = device_logits(model.device);
            for (int r = 0; r < rows; r++, logits += vocab)
                sum += log_sum(logits, vocab) - (double)logits[window[from + r + 1]];
        }
        show_progress(i + 1, w.count);
    }
    double tokens = (double)w.count * w.rows, nll = sum / tokens;
    if (!isfinite(nll)) fail("the logits are not numbers");
    printf(o->json ? "{\"nll\": %.8f, \"ppl\": %.8f, \"tokens\": %.0f}\n"
                   : "nll %.6f\nppl %.6f\ntokens %.0f\n",
           nll, exp(nll), tokens);
    free(w.ids);
    close_model(&model);
    return 0;
}

// Sums over all rows that were compared.
typedef struct {
    float *divergence; // of every row
    size_t rows;
    double top1, top5;
} Comparison;

static void compare_row(Comparison *c, const float *expected, const float *logits)
{
    int vocab = model_info.vocab, best[TOP], ours[TOP], shared = 0,
        count = vocab < TOP ? vocab : TOP;
    c->divergence[c->rows++] = (float)divergence(expected, logits, vocab);
    find_top(expected, vocab, best);
    find_top(logits, vocab, ours);
    for (int i = 0; i < count; i++)
        for (int j = 0; j < count; j++) shared += best[i] == ours[j];
    c->top1 += best[0] == ours[0];
    c->top5 += (double)shared / count;
}

static int by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_comparison(Comparison *c, int json)
{
    double sum = 0, n = (double)c->rows;
    for (size_t i = 0; i < c->rows; i++) sum += (double)c->divergence[i];
    if (!isfinite(sum)) fail("the logits are not numbers");
    qsort(c->divergence, c->rows, sizeof *c->divergence, by_size);
    const float *d = c->divergence;
    printf(json ? "{\"kl\": %.8f, \"kl_median\": %.8f, \"kl_p99\": %.8f, \"kl_max\": %.8f, "
                  "\"top1\": %.6f, \"top5\": %.6f, \"tokens\": %zu}\n"
                : "kl %.6f\nkl_median %.6f\nkl_p99 %.6f\nkl_max %.6f\ntop1 %.4f\ntop5 %.4f\n"
                  "tokens %zu\n",
           sum / n, (double)d[c->rows / 2], (double)d[c->rows * 99 / 100], (double)d[c->rows - 1],
           c->top1 / n, c->top5 / n, c->rows);
}

// How far the model is from another one, from what was recorded, or with neither from itself with
// keys and values of 16 bits.
static int evaluate_kl(const Options *o)
{
    Reference reference = {0};
    Model own = {0};
    int chunk, vocab = model_info.vocab;
    if (o->reference) reference = reference_open(o->reference, o, o->context);
    int recorded = o->reference && !reference.is_program;
    if (recorded && o->text) usage_error("--text: %s holds the ids", o->reference);
    if (!recorded && !o->text) usage_error("eval needs --text FILE");
    Windows w = recorded ? windows_of_file(o, &reference.recorded) : windows_of_text(o);
    Model model = open_for(o, w.width, &chunk);
    if (!o->reference) {
        Options wide = *o;
        wide.key_bits = wide.value_bits = 16;
        own = open_for(&wide, w.width, &chunk);
    }
    Comparison c = {.divergence = malloc(sizeof(float) * w.count * (size_t)w.rows)};
    if (!c.divergence) fail("out of memory");
    for (size_t i = 0; i < w.count; i++) {
        const int32_t *window = w.ids + i * (size_t)w.width;
        const float *expected = NULL;
        if (recorded)
            expected = reference.recorded.logits + i * (size_t)w.rows * (size_t)vocab;
        else if (o->reference)
            expected = reference_logits(&reference, window, w.rows);
        for (int from = 0; from < w.rows; from += chunk) {
            int rows = w.rows - from < chunk ? w.rows - from : chunk;
            run_rows(&model, window, from, rows);
            const float *logits = device_logits(model.device);
            if (!o->reference) {
                run_rows(&own, window, from, rows);
                expected = device_logits(own.device);
            }
            for (int r = 0; r < rows; r++, logits += vocab, expected += vocab)
                compare_row(&c, expected, logits);
        }
        show_progress(i + 1, w.count);
    }
    print_comparison(&c, o->json);
    free(c.divergence);
    free(w.ids);
    close_model(&model);
    if (!o->reference) close_model(&own);
    reference_close(&reference);
    return 0;
}

int command_eval(const Options *o)
{
    if (strcmp(o->arguments[0], "kl") == 0) return evaluate_kl(o);
    if (strcmp(o->arguments[0], "ppl") != 0)
        usage_error("eval %s: expected ppl or kl", o->arguments[0]);
    if (o->reference) usage_error("--reference goes with eval kl");
    if (!o->text) usage_error("eval needs --text FILE");
    return evaluate_ppl(o);
}
