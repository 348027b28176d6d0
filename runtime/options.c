// Parses the command line and opens what it asks for.
#include "options.h"
#include "gpu.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void usage_error(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "%s: ", model_info.name);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, " (see --help)\n");
    va_end(args);
    exit(2);
}

void fail(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    fflush(stdout);
    fprintf(stderr, "%s: ", model_info.name);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

// --- values --------------------------------------------------------------------------------------

static long long whole(const char *option, const char *text, long long low, long long high)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high)
        usage_error("%s %s: expected a whole number from %lld to %lld", option, text, low, high);
    return value;
}

static float number(const char *option, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        usage_error("%s %s: expected a number from %g to %g", option, text, low, high);
    return (float)value;
}

static int whole_list(const char *option, const char *text, long long low, long long high, int *out)
{
    char copy[512];
    int count = 0;
    if (strlen(text) >= sizeof copy) usage_error("%s: list too long", option);
    strcpy(copy, text);
    for (char *rest, *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        if (count == 32) usage_error("%s: more than 32 values", option);
        out[count++] = (int)whole(option, word, low, high);
    }
    if (!count) usage_error("%s: empty list", option);
    return count;
}

static void parse_device(Options *o, const char *text)
{
    o->device_given = 1;
    if (strcmp(text, "cpu") == 0) {
        o->cuda = 0;
    } else if (strncmp(text, "cuda", 4) == 0 && (!text[4] || text[4] == ':')) {
        o->cuda = 1;
        if (text[4]) o->ordinal = (int)whole("--device cuda:", text + 5, 0, 63);
    } else {
        usage_error("--device %s: expected cpu, cuda or cuda:N", text);
    }
}

static void parse_mode(Options *o, const char *text)
{
    if (strcmp(text, "persistent") == 0)
        usage_error("--mode persistent is not there yet; graph and steps are");
    if (strcmp(text, "graph") != 0 && strcmp(text, "steps") != 0)
        usage_error("--mode %s: expected graph or steps", text);
    o->mode = strcmp(text, "graph") == 0 ? MODE_GRAPH : MODE_STEPS;
    o->mode_given = 1;
}

Options parse_options(int argc, char **argv, int first)
{
    Options o = {.temperature = NAN, .top_p = NAN, .min_p = NAN, .top_k = -1, .n = -1, .gen = 64,
                 .cache_bits = 16, .context = 512};
    for (int i = first; i < argc; i++) {
        const char *a = argv[i];
        struct {
            const char *name;
            int *flag;
        } flags[] = {{"--json", &o.json},       {"--hidden", &o.hidden},
                     {"--decode", &o.decode},   {"--no-special", &o.no_special},
                     {"--chat", &o.chat},       {"--raw", &o.raw}};
        int known = 0;
        for (size_t f = 0; f < sizeof flags / sizeof *flags; f++)
            if (strcmp(a, flags[f].name) == 0) *flags[f].flag = known = 1;
        if (known) continue;
        if (*a != '-' || !a[1]) {
            if (o.argument_count == 8) usage_error("too many arguments: %s", a);
            o.arguments[o.argument_count++] = a;
            continue;
        }
        static const char *const valued[] = {
            "-p", "-n", "-o", "--ids", "--temperature", "--top-k", "--top-p", "--min-p", "--seed",
            "--stop", "--device", "--threads", "--max-context", "--max-batch", "--cache-tokens",
            "--cache-bits", "--chunk", "--mode", "--text", "--windows", "--context", "--prompt",
            "--batch", "--gen", "--name"};
        for (size_t v = 0; v < sizeof valued / sizeof *valued; v++) known |= !strcmp(a, valued[v]);
        if (!known) usage_error("unknown option %s", a);
        if (i + 1 == argc) usage_error("%s needs a value", a);
        const char *v = argv[++i];
        if (!strcmp(a, "-p")) o.prompt = v;
        else if (!strcmp(a, "-n")) o.n = (int)whole(a, v, 0, 1 << 30);
        else if (!strcmp(a, "-o")) o.output = v;
        else if (!strcmp(a, "--ids")) o.ids = v;
        else if (!strcmp(a, "--temperature")) o.temperature = number(a, v, 0, 100);
        else if (!strcmp(a, "--top-k")) o.top_k = (int)whole(a, v, 0, 1 << 30);
        else if (!strcmp(a, "--top-p")) o.top_p = number(a, v, 0, 1);
        else if (!strcmp(a, "--min-p")) o.min_p = number(a, v, 0, 1);
        else if (!strcmp(a, "--seed")) o.seed = (uint64_t)whole(a, v, 0, INT64_MAX), o.seed_given = 1;
        else if (!strcmp(a, "--device")) parse_device(&o, v);
        else if (!strcmp(a, "--threads")) o.threads = (int)whole(a, v, 1, 1024);
        else if (!strcmp(a, "--max-context")) o.max_context = (int)whole(a, v, 1, 1 << 24);
        else if (!strcmp(a, "--max-batch")) o.max_batch = (int)whole(a, v, 1, 1024);
        else if (!strcmp(a, "--cache-tokens")) o.cache_tokens = (int)whole(a, v, 1, 1 << 30);
        else if (!strcmp(a, "--cache-bits")) o.cache_bits = (int)whole(a, v, 16, 16);
        else if (!strcmp(a, "--chunk")) o.chunk = (int)whole(a, v, 1, 1 << 16);
        else if (!strcmp(a, "--mode")) parse_mode(&o, v);
        else if (!strcmp(a, "--text")) o.text = v;
        else if (!strcmp(a, "--name")) o.name = v;
        else if (!strcmp(a, "--windows")) o.windows = (int)whole(a, v, 1, 1 << 30);
        else if (!strcmp(a, "--prompt")) o.prompt_count = whole_list(a, v, 1, 1 << 24, o.prompts);
        else if (!strcmp(a, "--batch")) o.batch_count = whole_list(a, v, 1, 1024, o.batches);
        else if (!strcmp(a, "--gen")) o.gen = (int)whole(a, v, 1, 1 << 20);
        else if (!strcmp(a, "--context")) {
            o.context_count = whole_list(a, v, 0, 1 << 24, o.contexts);
            o.context = o.contexts[0];
        } else if (!strcmp(a, "--stop")) {
            if (o.stop_count == 16) usage_error("more than 16 --stop");
            if (!*v) usage_error("--stop needs a text");
            o.stop[o.stop_count++] = v;
        }
    }
    return o;
}

// --- model ---------------------------------------------------------------------------------------

DeviceOptions choose_sizes(const Options *o, int cuda, int max_rows, int max_outputs,
                           int keep_hidden)
{
    const ModelInfo *m = &model_info;
    int context = o->max_context ? o->max_context : m->max_context;
    int batch = o->max_batch ? o->max_batch : 1;
    if (context > m->max_context)
        usage_error("--max-context %d: this program was built for at most %d", context,
                    m->max_context);
    if (batch > m->max_batch)
        usage_error("--max-batch %d: this program was built for at most %d", batch, m->max_batch);
    DeviceOptions d = {.cuda = cuda, .ordinal = o->ordinal, .threads = o->threads, .mode = o->mode,
                       .keep_hidden = keep_hidden};
    d.max_context = context;
    d.pages_per_sequence = (context + PAGE - 1) / PAGE;
    d.max_sequences = batch;
    int64_t pages = o->cache_tokens ? ((int64_t)o->cache_tokens + PAGE - 1) / PAGE
                                    : (int64_t)d.pages_per_sequence * batch;
    d.pages = pages > INT32_MAX ? INT32_MAX : (int)pages;
    d.max_rows = max_rows ? max_rows : o->chunk ? o->chunk : cuda ? 2048 : 512;
    if (d.max_rows > context) d.max_rows = context;
    if (d.max_rows < batch) d.max_rows = batch;
    d.max_outputs = max_outputs ? max_outputs : batch;
    return d;
}

uint64_t memory_bytes(const DeviceOptions *o)
{
    const ModelInfo *m = &model_info;
    uint64_t rows = (uint64_t)o->max_rows, outputs = (uint64_t)o->max_outputs;
    uint64_t bytes = m->weights_bytes;
    bytes += (uint64_t)o->pages * PAGE * (uint64_t)m->layers * 4 * (uint64_t)m->kv_heads *
             (uint64_t)m->head_dim;
    bytes += 4 * rows *
             (uint64_t)(m->dim + 2 * m->heads * m->head_dim + m->ffn_dim + m->rope_dim);
    bytes += 4 * outputs * (uint64_t)m->vocab;
    if (o->keep_hidden) bytes += 4 * rows * (uint64_t)(m->layers + 1) * (uint64_t)m->dim;
    if (o->cuda && m->gpu_work_bytes) bytes += m->gpu_work_bytes(o->max_rows, o->max_outputs);
    if (!o->cuda && m->cpu) bytes += m->cpu[0]->work_bytes(o->max_rows, o->max_outputs);
    return bytes;
}

Model open_model(const Options *o, int max_rows, int max_outputs, int keep_hidden)
{
    Model model = {0};
    Error err;
    int cuda = o->cuda;
    if (!o->device_given && model_info.images) {
        cuda = gpu_count(&err) > 0;
        if (!cuda && !model_info.cpu) fail("%s", err.text);
        if (!cuda) fprintf(stderr, "%s: no usable NVIDIA GPU, running on the CPU\n", model_info.name);
    }
    if (o->mode_given && !cuda) usage_error("--mode goes with --device cuda");
    model.options = choose_sizes(o, cuda, max_rows, max_outputs, keep_hidden);
    if (weights_open(&model.weights, o->threads ? o->threads : 16, &err) != 0 ||
        device_open(&model.device, &model.options, &model.weights, &err) != 0)
        fail("%s", err.text);
    return model;
}

void close_model(Model *m)
{
    device_close(m->device);
    weights_close(&m->weights);
}
