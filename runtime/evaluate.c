// The commands that look at logits: logits, eval.
#include "options.h"
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

int command_logits(const Options *o)
{
    if (!o->ids || !o->output) usage_error("logits needs --ids LIST and -o FILE");
    int count;
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

    size_t vocab = (size_t)m->vocab, dim = (size_t)m->dim, tokens = (size_t)count;
    size_t states = o->hidden ? (size_t)m->layers + 1 : 0;
    float *hidden = states ? malloc(4 * states * tokens * dim) : NULL;
    if (states && !hidden) fail("out of memory");
    char *header = malloc(256 + states * 128);
    if (!header) fail("out of memory");
    size_t at = 4 * tokens * vocab;
    int n = sprintf(header, "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],\"data_offsets\":[0,%zu]}",
                    tokens, vocab, at);
    for (size_t l = 0; l < states; l++, at += 4 * tokens * dim)
        n += sprintf(header + n,
                     ",\"hidden.%zu\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],"
                     "\"data_offsets\":[%zu,%zu]}",
                     l, tokens, dim, at, at + 4 * tokens * dim);
    n += sprintf(header + n, "}");
    while (n % 8) header[n++] = ' ';
    uint64_t header_bytes = (uint64_t)n;

    struct stat st;
    if (lstat(o->output, &st) == 0 && !S_ISREG(st.st_mode))
        fail("%s: exists and is no regular file", o->output);
    snprintf(temporary, sizeof temporary, "%.4096s.tmp%d", o->output, (int)getpid());
    FILE *f = fopen(temporary, "wb");
    if (!f) {
        *temporary = 0;
        fail("%s: %s", o->output, strerror(errno));
    }
    atexit(remove_temporary);
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    signal(SIGHUP, on_signal);
    put(f, o->output, &header_bytes, 8);
    put(f, o->output, header, header_bytes);
    for (int from = 0; from < count; from += chunk) {
        int rows = count - from < chunk ? count - from : chunk;
        run_rows(&model, ids, from, rows);
        put(f, o->output, device_logits(model.device), 4 * (size_t)rows * vocab);
        const float *h = states ? device_hidden(model.device) : NULL;
        for (size_t l = 0; l < states; l++)
            memcpy(hidden + (l * tokens + (size_t)from) * dim, h + l * (size_t)rows * dim,
                   4 * (size_t)rows * dim);
    }
    if (states) put(f, o->output, hidden, 4 * states * tokens * dim);
    if (fflush(f) != 0 || fclose(f) != 0 || rename(temporary, o->output) != 0)
        fail("%s: %s", o->output, strerror(errno));
    *temporary = 0;
    free(header);
    free(hidden);
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

static int likeliest(const float *logits, int vocab)
{
    int best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
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

// ppl: how likely the text is. kl: how far what the cache's bits make of the model is from what it
// is with a cache of 16 bits.
static int evaluate_text(const Options *o, int kl)
{
    if (!o->text) usage_error("eval needs --text FILE");
    Tokens *t = open_tokens();
    Error err;
    size_t bytes;
    char *text = read_text(o->text, &bytes);
    TokenList ids = {0};
    if (tokens_encode(t, text, bytes, 0, &ids, &err) != 0) fail("%s: %s", o->text, err.text);
    free(text);

    const ModelInfo *m = &model_info;
    int context = o->context;
    if (context < 2 || context > m->max_context)
        fail("--context %d: expected 2 to %d", context, m->max_context);
    int bos = tokens_bos(t) >= 0 ? tokens_bos(t) : m->bos;
    check_ids(ids.id, ids.count);
    if (bos >= m->vocab) fail("BOS %d is beyond the vocabulary of %d", bos, m->vocab);
    if (bos < 0) fail("the model names no BOS token, which eval puts before every window");
    size_t windows = ids.count / (size_t)(context - 1);
    if (o->windows && (size_t)o->windows < windows) windows = (size_t)o->windows;
    if (!windows) fail("%s: %zu tokens, a window needs %d", o->text, ids.count, context - 1);

    Options sized = *o;
    sized.max_context = context;
    int chunk = limit_rows(o->chunk && o->chunk < context ? o->chunk : context);
    Model model = open_model(&sized, chunk, chunk, 0), reference = {0};
    map_pages(&model);
    sized.key_bits = sized.value_bits = 16;
    if (kl) {
        reference = open_model(&sized, chunk, chunk, 0);
        map_pages(&reference);
    }
    int32_t *window = malloc(4 * (size_t)context);
    if (!window) fail("out of memory");
    double sum = 0, kl_sum = 0, same = 0;
    for (size_t w = 0; w < windows; w++) {
        window[0] = bos;
        memcpy(window + 1, ids.id + w * (size_t)(context - 1), 4 * (size_t)(context - 1));
        for (int from = 0; from < context - 1; from += chunk) {
            int rows = context - 1 - from < chunk ? context - 1 - from : chunk;
            run_rows(&model, window, from, rows);
            const float *logits = device_logits(model.device);
            const float *expected = NULL;
            if (kl)
                run_rows(&reference, window, from, rows),
                    expected = device_logits(reference.device);
            for (int i = 0; i < rows; i++, logits += m->vocab) {
                sum += log_sum(logits, m->vocab) - (double)logits[window[from + i + 1]];
                if (!kl) continue;
                kl_sum += divergence(expected, logits, m->vocab);
                same += likeliest(expected, m->vocab) == likeliest(logits, m->vocab);
                expected += m->vocab;
            }
        }
        if (isatty(2)) fprintf(stderr, "\r%zu / %zu windows", w + 1, windows);
    }
    if (isatty(2)) fputc('\n', stderr);
    double tokens = (double)windows * (context - 1), nll = sum / tokens;
    if (!isfinite(nll)) fail("the logits are not numbers");
    const char *form = o->json ? "{\"nll\": %.8f, \"ppl\": %.8f, \"tokens\": %.0f}\n"
                               : "nll %.6f\nppl %.6f\ntokens %.0f\n";
    if (kl)
        form = o->json ? "{\"kl\": %.8f, \"top1\": %.6f, \"tokens\": %.0f}\n"
                       : "kl %.6f\ntop1 %.4f\ntokens %.0f\n";
    printf(form, kl ? kl_sum / tokens : nll, kl ? same / tokens : exp(nll), tokens);
    free(window);
    free(ids.id);
    close_model(&model);
    if (kl) close_model(&reference);
    tokens_close(t);
    return 0;
}

int command_eval(const Options *o)
{
    int kl = strcmp(o->arguments[0], "kl") == 0;
    if (!kl && strcmp(o->arguments[0], "ppl") != 0)
        usage_error("eval %s: expected ppl or kl", o->arguments[0]);
    return evaluate_text(o, kl);
}
