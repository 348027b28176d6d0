// The bench command: how fast prompts are read and tokens are drawn, and how near that is to what
// the memory can give.
#include "batch.h"
#include "options.h"
#include "start.h"
#include "steps.h"
#include <errno.h>
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

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

// Bytes of weights that a decode pass of one row reads: everything but the embedding table and the
// experts that are not active.
static uint64_t pass_bytes(void)
{
    const ModelInfo *m = &model_info;
    uint64_t idle = (uint64_t)(m->experts - m->active_experts), skipped = 0;
    for (int l = 0; l < m->layers; l++) skipped += idle * m->layer_table[l].expert_stride;
    return m->weights_bytes - 2 * (uint64_t)m->vocab * (uint64_t)m->dim - skipped;
}

// --- bench ---------------------------------------------------------------------------------------

typedef struct {
    Model model;
    Batcher batcher;
    double rate;
    int json, steps, rows;
} Bench;

// A row, and with --steps those of the last pass.
static void print_row(Bench *b, const char *kind, int batch, int context, double tokens_per_s,
                      double bytes_per_s)
{
    double share = b->rate > 0 ? bytes_per_s / b->rate : 0;
    if (b->json)
        printf("%s{\"kind\": \"%s\", \"batch\": %d, \"context\": %d, \"tokens_per_s\": %.2f, "
               "\"bytes_per_s\": %.4g, \"share_of_read_rate\": %.4f",
               b->rows ? ", " : "", kind, batch, context, tokens_per_s, bytes_per_s, share);
    else
        printf(
            "%-8s batch %3d  context %6d  %10.1f tokens/s  %8.2f GB/s  %3.0f %% of the read rate\n",
            kind, batch, context, tokens_per_s, bytes_per_s / 1e9, 100 * share);
    fflush(stdout);
    if (b->steps) {
        if (b->json) printf(", \"steps\": ");
        print_steps(b->model.device, &b->model.options, context, b->rate, b->json);
    }
    if (b->json) printf("}");
    b->rows++;
}

static int32_t *made_up_tokens(int count, int salt)
{
    int32_t *tokens = malloc(4 * (size_t)count);
    if (!tokens) fail("out of memory");
    for (int i = 0; i < count; i++)
        tokens[i] =
            (int32_t)((104729ULL * (uint64_t)(i + 31 * salt + 1)) % (uint64_t)model_info.vocab);
    return tokens;
}

static SamplerOptions greedy(void)
{
    SamplerOptions o = sampler_defaults;
    o.temperature = 0;
    return o;
}

static void bench_prompt(Bench *b, int prompt)
{
    int32_t *tokens = made_up_tokens(prompt, 0);
    Drawn drawn[1];
    SamplerOptions sampler = greedy();
    double times[5];
    for (int i = -1; i < 5; i++) { // the first one warms up
        int s = batch_admit(&b->batcher, tokens, prompt, 0, &sampler, 0, 0);
        if (s < 0) fail("--prompt %d does not fit the cache", prompt);
        double start = seconds();
        while (batch_step(&b->batcher, drawn) == 0) continue;
        if (drawn[0].token < 0) fail("the logits are not numbers");
        if (i >= 0) times[i] = seconds() - start;
        batch_retire(&b->batcher, s);
    }
    double t = median(times, 5);
    int most = b->model.options.max_rows, passes = (prompt + most - 1) / most;
    int s = batch_admit(&b->batcher, tokens, prompt, 0, &sampler, 0, 0);
    if (b->steps) batch_step(&b->batcher, drawn); // the first pass of the prompt
    print_row(b, "prefill", 1, prompt, prompt / t, (double)pass_bytes() * passes / t);
    batch_retire(&b->batcher, s);
    free(tokens);
}

// A pass, whose draws are fine; returns how many.
static int bench_step(Bench *b, Drawn *drawn)
{
    int n = batch_step(&b->batcher, drawn);
    if (n < 0) fail("the sequences have no room for another token");
    for (int i = 0; i < n; i++)
        if (drawn[i].token < 0) fail("the logits are not numbers");
    return n;
}

// Passes, at most, in which `batch` prompts are read `rows` tokens at a time. In all but its own
// the first sequence draws already.
static int passes_to_read(int batch, int prompt, int rows)
{
    return batch * (prompt / rows + 2);
}

static void bench_decode(Bench *b, int batch, int context, int gen)
{
    Drawn *drawn = calloc((size_t)batch, sizeof *drawn);
    double *times = calloc((size_t)gen, sizeof *times);
    if (!drawn || !times) fail("out of memory");
    int prompt = context > 0 ? context : 1, warm = 3;
    int reading = passes_to_read(batch, prompt, b->model.options.max_rows);
    SamplerOptions sampler = greedy();
    for (int i = 0; i < batch; i++) {
        int32_t *tokens = made_up_tokens(prompt, i);
        if (batch_admit(&b->batcher, tokens, prompt, gen + warm + reading, &sampler, 0, 0) < 0)
            fail("--batch %d --context %d does not fit the cache", batch, context);
        free(tokens);
    }
    for (int waiting = batch; waiting > 0;)
        for (int i = bench_step(b, drawn) - 1; i >= 0; i--)
            if (b->batcher.sequences[drawn[i].sequence].draws == 1) waiting--;
    for (int i = -warm; i < gen; i++) {
        double start = seconds();
        // One token for everybody, in as many passes as that takes.
        for (int n = 0; n < batch;) n += bench_step(b, drawn);
        if (i >= 0) times[i] = seconds() - start;
    }
    double t = median(times, gen);
    double bytes =
        (double)pass_bytes() + (double)batch * (double)cache_bytes(&b->model.options, context);
    print_row(b, "decode", batch, context, batch / t, bytes / t);
    for (int i = 0; i < batch; i++) batch_retire(&b->batcher, i);
    free(drawn);
    free(times);
}

// The last decode pass as a timeline in the Chrome trace format: a row a multiprocessor, in every
// step the time it waited for its inputs, prepared them and multiplied.
static void write_trace(Bench *b, const char *path)
{
    static const char *const names[STEP_KINDS] = {[STEP_EMBED] = "embed",
                                                  [STEP_QKV] = "qkv",
                                                  [STEP_HEADS] = "heads",
                                                  [STEP_ATTEND] = "attend",
                                                  [STEP_OUT] = "out",
                                                  [STEP_OUT_POST] = "out_post",
                                                  [STEP_UP] = "up",
                                                  [STEP_UP_ALONE] = "up_alone",
                                                  [STEP_DOWN] = "down",
                                                  [STEP_DOWN_POST] = "down_post",
                                                  [STEP_JOIN] = "join",
                                                  [STEP_HEAD] = "head",
                                                  [STEP_LOGITS] = "logits",
                                                  [STEP_DELTA_IN] = "delta_in",
                                                  [STEP_DELTA] = "delta",
                                                  [STEP_DELTA_OUT] = "delta_out",
                                                  [STEP_LATENT_QUERIES] = "latent_queries",
                                                  [STEP_LATENT_HEADS] = "latent_heads",
                                                  [STEP_LATENT_VALUES] = "latent_values",
                                                  [STEP_ROUTE] = "route",
                                                  [STEP_COMBINE] = "combine",
                                                  [STEP_EXPERTS_UP] = "experts_up",
                                                  [STEP_SHARED_DOWN] = "shared_down",
                                                  [STEP_EXPERTS_DOWN] = "experts_down"};
    static const char *const parts[] = {"waits", "prepares", "works"};
    int steps, blocks, first = 1;
    const uint64_t *trace = device_trace(b->model.device, &steps, &blocks);
    if (!trace) fail("--trace needs a decode pass on a GPU in --mode persistent");
    FILE *f = fopen(path, "w");
    if (!f) fail("%s: %s", path, strerror(errno));
    fprintf(f, "{\"traceEvents\": [\n");
    for (int i = 0; i < steps * blocks; i++) {
        const uint64_t *t = trace + (size_t)i * TRACE_WORDS;
        uint64_t at[4] = {t[1], t[2], t[3] > t[2] && t[3] < t[4] ? t[3] : t[2], t[4]};
        for (int j = 0; j < 3; j++)
            if (at[j + 1] > at[j])
                fprintf(f,
                        "%s{\"name\": \"%s%s %s\", \"ph\": \"X\", \"pid\": 0, \"tid\": %d, "
                        "\"ts\": %.3f, \"dur\": %.3f, \"args\": {\"step\": %d}}",
                        first ? "" : ",\n", names[t[0] % STEP_KINDS],
                        t[0] < STEP_KINDS ? "" : "_inputs", parts[j], i % blocks,
                        (double)(at[j] - trace[1]) / 1e3, (double)(at[j + 1] - at[j]) / 1e3,
                        i / blocks),
                    first = 0;
    }
    fprintf(f, "\n]}\n");
    if (fclose(f) != 0) fail("%s: %s", path, strerror(errno));
}

int command_bench(const Options *o)
{
    Options s = *o;
    if (!s.prompt_count && !s.batch_count && !s.context_count) s.prompts[s.prompt_count++] = 512;
    if (!s.batch_count) s.batches[s.batch_count++] = 1;
    if (!s.context_count) s.contexts[s.context_count++] = 0;
    int longest = 1, widest = 1;
    for (int i = 0; i < s.prompt_count; i++)
        if (s.prompts[i] > longest) longest = s.prompts[i];
    for (int i = 0; i < s.context_count; i++)
        if (s.contexts[i] + s.gen + 4 > longest) longest = s.contexts[i] + s.gen + 4;
    for (int i = 0; i < s.batch_count; i++)
        if (s.batches[i] > widest) widest = s.batches[i];
    if (widest > model_info.max_batch)
        usage_error("--batch %d: this program was built for at most %d", widest,
                    model_info.max_batch);
    if (s.max_batch && widest > s.max_batch)
        usage_error("--batch %d is more than --max-batch %d", widest, s.max_batch);
    longest += passes_to_read(widest, longest, s.chunk ? s.chunk : 512);
    if (longest > model_info.max_context)
        fail("%d tokens do not fit the context of %d", longest, model_info.max_context);
    if (!s.max_context) s.max_context = longest;
    if (!s.max_batch) s.max_batch = widest;

    Bench b = {.json = s.json, .steps = s.steps};
    Error err;
    b.model = open_model(&s, 0, 0, 0);
    start_part("memory");
    if (s.steps && !b.model.options.cuda) usage_error("--steps goes with --device cuda");
    if (batch_open(&b.batcher, b.model.device, &b.model.options, &err) != 0) fail("%s", err.text);
    b.batcher.reuse = 0; // every prompt is read
    b.rate = device_read_rate(b.model.device);
    if (s.json) {
        printf("{\"device\": \"%s\", \"model\": \"%s\", \"read_rate\": %.4g, \"start\": ",
               device_name(b.model.device), model_info.name, b.rate);
        start_print(0);
        printf(", \"rows\": [");
    } else {
        printf("%s on %s, memory reads %.1f GB/s\n", model_info.name, device_name(b.model.device),
               b.rate / 1e9);
    }
    for (int i = 0; i < s.prompt_count; i++) bench_prompt(&b, s.prompts[i]);
    for (int i = 0; i < s.batch_count; i++)
        for (int j = 0; j < s.context_count; j++)
            bench_decode(&b, s.batches[i], s.contexts[j], s.gen);
    if (s.json) printf("]}\n");
    if (s.trace) write_trace(&b, s.trace);
    batch_close(&b.batcher);
    close_model(&b.model);
    return 0;
}
