// The commands that make text: run, chat, tokenize, template.
#include "batch.h"
#include "options.h"
#include "render.h"
#include "tokenize.h"
#include "tokens.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

Tokens *open_tokens(void)
{
    Tokens *t;
    Error err;
    if (!model_info.tokenizer) fail("the model directory had no tokenizer.json");
    if (tokens_open(&t, model_info.tokenizer, model_info.tokenizer_bytes, &err) != 0)
        fail("%s", err.text);
    return t;
}

void check_ids(const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= model_info.vocab)
            fail("token %d is beyond the model's vocabulary of %d", ids[i], model_info.vocab);
}

// Given options over generation_config.json; a fresh seed when none is given.
static Sampling choose_sampling(const Options *o)
{
    const ModelInfo *m = &model_info;
    Sampling s = {.temperature = isnan(o->temperature) ? (float)m->temperature : o->temperature,
                  .top_k = o->top_k < 0 ? m->top_k : o->top_k,
                  .top_p = isnan(o->top_p) ? (float)m->top_p : o->top_p,
                  .min_p = isnan(o->min_p) ? (float)m->min_p : o->min_p,
                  .seed = o->seed};
    if (!o->seed_given) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        s.seed = (uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec;
    }
    return s;
}

static int ends_text(int32_t token)
{
    for (int i = 0; i < model_info.eos_count; i++)
        if (model_info.eos[i] == token) return 1;
    return 0;
}

static void print_json_text(const char *s, size_t bytes)
{
    putchar('"');
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

// --- one stream of text, cut at stop strings ------------------------------------------------------

typedef struct {
    const Options *options;
    TokenStream stream;
    char *text; // everything shown and held back
    size_t bytes, room, shown;
    int quiet, stopped;
} Output;

// Bytes at the end of the text that could be the start of a stop string.
static size_t held_bytes(const Output *out)
{
    size_t most = 0;
    for (int i = 0; i < out->options->stop_count; i++) {
        const char *stop = out->options->stop[i];
        size_t n = strlen(stop);
        for (size_t k = n - 1; k > most; k--)
            if (k <= out->bytes && memcmp(out->text + out->bytes - k, stop, k) == 0) most = k;
    }
    return most;
}

static void show(Output *out, size_t until)
{
    if (!out->quiet && until > out->shown) {
        fwrite(out->text + out->shown, 1, until - out->shown, stdout);
        fflush(stdout);
    }
    if (until > out->shown) out->shown = until;
}

static void add_text(Output *out, const char *text, size_t bytes)
{
    if (out->bytes + bytes + 1 > out->room) {
        out->room = (out->bytes + bytes + 1) * 2;
        out->text = realloc(out->text, out->room);
        if (!out->text) fail("out of memory");
    }
    memcpy(out->text + out->bytes, text, bytes);
    out->bytes += bytes;
    out->text[out->bytes] = 0;
    const char *first = NULL;
    for (int i = 0; i < out->options->stop_count; i++) {
        const char *found = memmem(out->text + out->shown, out->bytes - out->shown,
                                   out->options->stop[i], strlen(out->options->stop[i]));
        if (found && (!first || found < first)) first = found;
    }
    if (first) {
        out->bytes = (size_t)(first - out->text);
        out->stopped = 1;
        show(out, out->bytes);
    } else {
        show(out, out->bytes - held_bytes(out));
    }
}

// Draws up to n tokens; returns how many, and why it ended in *reason.
static int generate(Batcher *b, int sequence, int n, Output *out, const char **reason,
                    double *first_token)
{
    Drawn drawn[1];
    Error err;
    int count = 0;
    *reason = "length";
    while (count < n) {
        int got = batch_step(b, drawn);
        if (!got) {
            if (b->sequences[sequence].computed == b->sequences[sequence].count) break;
            continue;
        }
        if (drawn[0].token < 0) fail("the logits are not numbers");
        if (count++ == 0 && first_token) *first_token = seconds();
        if (ends_text(drawn[0].token)) {
            *reason = "eos";
            break;
        }
        if (stream_feed(&out->stream, drawn[0].token, &err) != 0) fail("%s", err.text);
        add_text(out, out->stream.text.data, out->stream.text.bytes);
        if (out->stopped) {
            *reason = "stop";
            break;
        }
    }
    if (!out->stopped) {
        if (stream_flush(&out->stream, &err) != 0) fail("%s", err.text);
        add_text(out, out->stream.text.data, out->stream.text.bytes);
        show(out, out->bytes);
    }
    return count;
}

// --- commands ------------------------------------------------------------------------------------

int command_run(const Options *o)
{
    if (!o->prompt) usage_error("run needs -p PROMPT");
    if (o->chat) fail("chat templates are not there yet; run without --chat continues the text");
    Tokens *t = open_tokens();
    Error err;
    TokenList ids = {0};
    if (tokens_encode(t, o->prompt, strlen(o->prompt), TOKENS_ADD_SPECIAL | TOKENS_PARSE_SPECIAL,
                      &ids, &err) != 0)
        fail("%s", err.text);
    if (!ids.count) fail("the prompt has no tokens, and the tokenizer adds none");
    check_ids(ids.id, ids.count);
    int n = o->n < 0 ? 256 : o->n;

    // No more cache than this run can fill.
    Options sized = *o;
    int context = o->max_context ? o->max_context : model_info.max_context;
    if (ids.count > (size_t)context)
        fail("the prompt has %zu tokens, the context %d", ids.count, context);
    if ((int64_t)ids.count + n > context) n = context - (int)ids.count;
    if (!sized.max_context) sized.max_context = (int)ids.count + n;
    Model model = open_model(&sized, 0, 0, 0);
    Batcher b;
    if (batch_open(&b, model.device, &model.options, &err) != 0) fail("%s", err.text);
    Sampling sampling = choose_sampling(o);
    int sequence = batch_admit(&b, ids.id, (int)ids.count, n, &sampling);
    if (sequence < 0)
        fail("%zu prompt tokens and %d new ones do not fit %d tokens of cache", ids.count, n,
             model.options.pages * PAGE);

    Output out = {.options = o, .quiet = o->json};
    stream_open(&out.stream, t, 1);
    const char *reason;
    double start = seconds(), first = start;
    int count = n ? generate(&b, sequence, n, &out, &reason, &first) : 0;
    double end = seconds();
    if (o->json) {
        printf("{\"text\": ");
        print_json_text(out.text ? out.text : "", out.bytes);
        printf(", \"ids\": [");
        for (int i = (int)ids.count; i < b.sequences[sequence].count; i++)
            printf("%s%d", i > (int)ids.count ? ", " : "", b.sequences[sequence].tokens[i]);
        printf("], \"prompt_tokens\": %zu, \"tokens\": %d, \"stop_reason\": \"%s\", "
               "\"prompt_seconds\": %.6f, \"seconds\": %.6f}\n",
               ids.count, count, n ? reason : "length", first - start, end - first);
    } else {
        putchar('\n');
    }
    batch_close(&b);
    close_model(&model);
    stream_close(&out.stream);
    free(out.text);
    free(ids.id);
    tokens_close(t);
    return 0;
}

int command_chat(const Options *o)
{
    if (!o->raw)
        fail("chat templates are not there yet; chat --raw continues what you type");
    Tokens *t = open_tokens();
    Error err;
    Model model = open_model(o, 0, 0, 0);
    Batcher b;
    if (batch_open(&b, model.device, &model.options, &err) != 0) fail("%s", err.text);
    Sampling sampling = choose_sampling(o);
    fprintf(stderr, "%s on %s. A line is continued; an empty line starts over; end with Ctrl-D.\n",
            model_info.name, device_name(model.device));
    char *line = NULL;
    size_t room = 0;
    int sequence = -1;
    for (;;) {
        fprintf(stderr, "> ");
        ssize_t bytes = getline(&line, &room, stdin);
        if (bytes < 0) break;
        if (bytes && line[bytes - 1] == '\n') line[--bytes] = 0;
        if (!bytes) {
            if (sequence >= 0) batch_retire(&b, sequence);
            sequence = -1;
            continue;
        }
        TokenList ids = {0};
        int flags = TOKENS_PARSE_SPECIAL | (sequence < 0 ? TOKENS_ADD_SPECIAL : 0);
        if (tokens_encode(t, line, (size_t)bytes, flags, &ids, &err) != 0) {
            fprintf(stderr, "%s\n", err.text);
            continue;
        }
        int n = o->n < 0 ? 256 : o->n;
        check_ids(ids.id, ids.count);
        if (!ids.count) continue;
        if (sequence < 0) {
            int room = b.max_context < b.options.pages * PAGE ? b.max_context
                                                              : b.options.pages * PAGE;
            int more = room - (int)ids.count;
            sequence = more < 0 ? BATCH_TOO_LONG
                                : batch_admit(&b, ids.id, (int)ids.count, more, &sampling);
        } else if (batch_room(&b, sequence) < (int)ids.count) {
            fprintf(stderr, "the context of %d tokens is full; an empty line starts over\n",
                    b.max_context);
            free(ids.id);
            continue;
        } else {
            batch_extend(&b, sequence, ids.id, (int)ids.count);
        }
        free(ids.id);
        if (sequence < 0) {
            fprintf(stderr, "too long for the context of %d tokens and a cache of %d\n",
                    b.max_context, b.options.pages * PAGE);
            continue;
        }
        Output out = {.options = o};
        stream_open(&out.stream, t, 1);
        const char *reason;
        generate(&b, sequence, n, &out, &reason, NULL);
        putchar('\n');
        stream_close(&out.stream);
        free(out.text);
    }
    free(line);
    batch_close(&b);
    close_model(&model);
    tokens_close(t);
    return 0;
}

int command_tokenize(const Options *o)
{
    Error err;
    if (!model_info.tokenizer) fail("the model directory had no tokenizer.json");
    if (tokenize_input(model_info.tokenizer, model_info.tokenizer_bytes, o->decode, o->no_special,
                       &err) != 0)
        fail("%s", err.text);
    return 0;
}

int command_template(const Options *o)
{
    Error err;
    if (render_input(model_info.templates, model_info.templates_bytes, o->name, &err) != 0)
        fail("%s", err.text);
    return 0;
}
