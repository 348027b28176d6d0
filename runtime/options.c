// Parses the command line and opens what it asks for.
#include "options.h"
#include "gpu.h"
#include "pools.h"
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
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

static void parse_device(Options *o, const char *option, const char *text)
{
    o->device_given = 1;
    if (strcmp(text, "cpu") == 0) {
        o->cuda = 0;
    } else if (strncmp(text, "cuda", 4) == 0 && (!text[4] || text[4] == ':')) {
        o->cuda = 1;
        if (text[4]) o->ordinal = (int)whole(option, text + 5, 0, 63);
    } else {
        usage_error("%s %s: expected cpu, cuda or cuda:N", option, text);
    }
}

// " 16 8 4"
static const char *cache_bits_list(void)
{
    static char text[64];
    int n = 0;
    for (int bits = 16; bits > 1; bits--)
        if (model_info.cache_bits >> bits & 1)
            n += snprintf(text + n, sizeof text - (size_t)n, " %d", bits);
    return text;
}

static const char *const mode_names[] = {
    [MODE_PERSISTENT] = "persistent", [MODE_GRAPH] = "graph", [MODE_STEPS] = "steps"};

static void parse_mode(Options *o, const char *option, const char *text)
{
    int mode = 0;
    while (mode <= MODE_STEPS && strcmp(text, mode_names[mode]) != 0) mode++;
    if (mode > MODE_STEPS) usage_error("%s %s: expected persistent, graph or steps", option, text);
    o->mode = (LaunchMode)mode;
    o->mode_given = 1;
}

// Where nothing is said.
static int widest_cache(void)
{
    int bits = 16;
    while (bits > 2 && !(model_info.cache_bits >> bits & 1)) bits--;
    return bits;
}

static void parse_cache_bits(Options *o, const char *option, const char *text)
{
    int bits[32], count = whole_list(option, text, 2, 16, bits);
    if (count > 2) usage_error("%s %s: expected the bits of keys and of values", option, text);
    o->key_bits = bits[0];
    o->value_bits = bits[count - 1];
    for (int i = 0; i < count; i++)
        if (!(model_info.cache_bits >> bits[i] & 1))
            usage_error("%s %s: this program was built for%s", option, text, cache_bits_list());
}

// A number of bytes, perhaps as 512M or 8G.
static uint64_t byte_count(const char *option, const char *text)
{
    char number[32];
    size_t n = strlen(text);
    uint64_t unit = 1;
    snprintf(number, sizeof number, "%s", text);
    if (n > 1 && n < sizeof number && strchr("KMG", text[n - 1])) {
        unit = text[n - 1] == 'K' ? 1 << 10 : text[n - 1] == 'M' ? 1 << 20 : 1 << 30;
        number[n - 1] = 0;
    }
    return unit * (uint64_t)whole(option, number, 0, INT64_MAX >> 30);
}

static void parse_host_cache(Options *o, const char *option, const char *text)
{
    o->host_cache = byte_count(option, text);
}

static void parse_gpu_memory(Options *o, const char *option, const char *text)
{
    o->gpu_memory = byte_count(option, text);
}

static void parse_contexts(Options *o, const char *option, const char *text)
{
    o->context_count = whole_list(option, text, 0, 1 << 24, o->contexts);
}

static void add_stop(Options *o, const char *option, const char *text)
{
    if (o->stop_count == 16) usage_error("more than 16 %s", option);
    if (!*text) usage_error("%s needs a text", option);
    o->stop[o->stop_count++] = text;
}

static void parse_seed(Options *o, const char *option, const char *text)
{
    o->seed = (uint64_t)whole(option, text, 0, INT64_MAX);
    o->seed_given = 1;
}

static void parse_think(Options *o, const char *option, const char *text)
{
    o->thinks = strcmp(text, "on") == 0;
    if (!o->thinks && strcmp(text, "off") != 0)
        usage_error("%s %s: expected on or off", option, text);
}

static void parse_prompts(Options *o, const char *option, const char *text)
{
    o->prompt_count = whole_list(option, text, 1, 1 << 24, o->prompts);
}

static void parse_batches(Options *o, const char *option, const char *text)
{
    o->batch_count = whole_list(option, text, 1, 1024, o->batches);
}

// --- the options ---------------------------------------------------------------------------------

#define WRITERS (RUN | CHAT | SERVE | BATCH)
#define OPENERS (WRITERS | BENCH | LOGITS | EVAL | SELFTEST)
#define ALONE (RUN | CHAT | LOGITS | EVAL | SELFTEST | INFO) // one sequence unless told otherwise

enum { FLAG, WHOLE, NUMBER, TEXT, OTHER };

// One row an option: its form, the commands it belongs to, where its value goes. What differs
// between commands has a row for each.
static const struct {
    const char *name, *value;
    int commands, kind;
    size_t offset;
    double low, high; // of WHOLE and NUMBER; low is also the least length of TEXT
    void (*parse)(Options *o, const char *option, const char *text); // of OTHER
    const char *help;
} rows[] = {
#define AT(field) offsetof(Options, field)
    {"-p", "PROMPT", RUN, TEXT, AT(prompt), 0, 0, 0, "the text to continue"},
    {"-f", "FILE", RUN, TEXT, AT(prompt_file), 1, 0, 0,
     "the text is in this file (without its last newline); -: standard input"},
    {"-f", "FILE", BATCH, TEXT, AT(prompt_file), 1, 0, 0,
     "requests, a line of JSON each; default: standard input"},
    {"-n", "N", RUN | CHAT, WHOLE, AT(n), 0, 1 << 30, 0, "at most so many new tokens; default 256"},
    {"-o", "FILE", LOGITS, TEXT, AT(output), 0, 0, 0,
     "safetensors file to write; -: standard output"},
    {"--ids", "LIST", LOGITS, TEXT, AT(ids), 0, 0, 0,
     "token ids, as 1,2,3; -: lines of them on standard input, a file for each to -o -"},
    {"--hidden", 0, LOGITS, FLAG, AT(hidden), 0, 0, 0,
     "also the residual stream after every layer"},
    {"--chat", 0, RUN, FLAG, AT(chat), 0, 0, 0, "the prompt is a message to the model"},
    {"--raw", 0, CHAT, FLAG, AT(raw), 0, 0, 0, "no template: continue what is typed"},
    {"--system", "TEXT", CHAT, TEXT, AT(system), 0, 0, 0, "the system message"},
    {"--think", "on|off", RUN | CHAT, OTHER, 0, 0, 0, parse_think,
     "reason before answering; default: as the template has it"},
    {"--temperature", "T", WRITERS, NUMBER, AT(temperature), 0, 100, 0,
     "0: always the likeliest token; default: the model's own"},
    {"--top-k", "K", WRITERS, WHOLE, AT(top_k), 0, 1 << 30, 0,
     "draw among the K likeliest; 0: all"},
    {"--top-p", "P", WRITERS, NUMBER, AT(top_p), 0, 1, 0,
     "draw among the likeliest that make up P"},
    {"--min-p", "P", WRITERS, NUMBER, AT(min_p), 0, 1, 0,
     "not below P times the likeliest's probability"},
    {"--seed", "S", RUN | CHAT, OTHER, 0, 0, 0, parse_seed, "equal seeds give equal draws"},
    {"--stop", "TEXT", RUN | CHAT, OTHER, 0, 0, 0, add_stop,
     "end before this text; may be repeated"},
    {"--grammar-file", "FILE", RUN | CHAT, TEXT, AT(grammar_file), 1, 0, 0,
     "what is written obeys this grammar (GBNF)"},
    {"--json-schema", "JSON", RUN | CHAT, TEXT, AT(json_schema), 1, 0, 0,
     "what is written is JSON that is valid under this schema"},
    {"--json", 0, RUN | BENCH | INFO | EVAL, FLAG, AT(json), 0, 0, 0, "print JSON"},
    {"--decode", 0, TOKENIZE, FLAG, AT(decode), 0, 0, 0, "ids to text"},
    {"--no-special", 0, TOKENIZE, FLAG, AT(no_special), 0, 0, 0,
     "no special tokens around the text"},
    {"--text", "FILE", EVAL, TEXT, AT(text), 0, 0, 0, "the text to measure on"},
    {"--reference", "OTHER", EVAL, TEXT, AT(reference), 0, 0, 0,
     "kl: another program, or recorded input_ids and logits, instead of itself with a cache of 16 "
     "bits"},
    {"--windows", "N", EVAL, WHOLE, AT(windows), 1, 1 << 30, 0, "stop after so many"},
    {"--context", "N", EVAL, WHOLE, AT(context), 2, 1 << 24, 0, "tokens of a window; default 512"},
    {"--context", "LIST", BENCH, OTHER, 0, 0, 0, parse_contexts,
     "tokens in the cache before drawing; default 0"},
    {"--prompt", "LIST", BENCH, OTHER, 0, 0, 0, parse_prompts, "prompt lengths; default 512"},
    {"--batch", "LIST", BENCH, OTHER, 0, 0, 0, parse_batches, "sequences at once; default 1"},
    {"--gen", "N", BENCH, WHOLE, AT(gen), 1, 1 << 20, 0, "tokens drawn per row; default 64"},
    {"--steps", 0, BENCH, FLAG, AT(steps), 0, 0, 0,
     "then the steps of such a pass, each alone, on CUDA"},
    {"--trace", "FILE", BENCH, TEXT, AT(trace), 0, 0, 0,
     "timeline of the last decode pass, in the Chrome trace format"},

    {"--host", "ADDRESS", SERVE, TEXT, AT(host), 0, 0, 0, "default 127.0.0.1"},
    {"--port", "P", SERVE, WHOLE, AT(port), 0, 65535, 0, "default 8080; 0 takes a free one"},
    {"--name", "NAME", SERVE | BATCH, TEXT, AT(name), 0, 0, 0,
     "of the model in answers; default: its own"},
    {"--name", "NAME", TEMPLATE, TEXT, AT(name), 0, 0, 0, "which one, where there are several"},
    {"--api-key", "KEY", SERVE, TEXT, AT(api_key), 1, 0, 0, "requests must carry it"},
    {"--admin-key", "KEY", SERVE, TEXT, AT(admin_key), 1, 0, 0, "also opens /cache"},
    {"--keys", "FILE", SERVE, TEXT, AT(keys), 1, 0, 0,
     "more of both, lines 'api-key = KEY'; read again when it changes"},
    {"--cors", "ORIGIN", SERVE, TEXT, AT(cors), 0, 0, 0,
     "pages from there may call; * is anywhere"},
    {"--drain", "S", SERVE, WHOLE, AT(drain), 0, 86400, 0,
     "seconds that running requests get after SIGTERM; default 5"},
    {"--max-body", "BYTES", SERVE, WHOLE, AT(max_body), 1024, 1 << 30, 0,
     "of a request; default 8388608"},
    {"--max-queue", "N", SERVE, WHOLE, AT(max_queue), 1, 1 << 20, 0,
     "requests that may wait; default 1024"},
    {"--log-requests", 0, SERVE, FLAG, AT(log_requests), 0, 0, 0, "one line a request on stderr"},
    {"--capture", "FILE", SERVE, TEXT, AT(capture), 1, 0, 0,
     "append requests to it, a line of JSON each"},
    {"--deterministic", 0, WRITERS, FLAG, AT(deterministic), 0, 0, 0,
     "answers depend on the request alone, not on what the cache holds"},
    {"--config", "FILE", SERVE, TEXT, AT(config), 0, 0, 0, "lines 'option = value'"},
    {"--print-config", 0, SERVE, FLAG, AT(print_config), 0, 0, 0, "print such a file and end"},

    {"--device", "cpu|cuda[:N]", OPENERS | INFO, OTHER, 0, 0, 0, parse_device,
     "default: cuda where it works, else cpu"},
    {"--threads", "N", OPENERS, WHOLE, AT(threads), 1, 1024, 0, "default: all processors"},
    {"--max-context", "N", ALONE | SERVE | BATCH, WHOLE, AT(max_context), 1, 1 << 24, 0,
     "tokens of one sequence; default: the build's limit"},
    {"--max-context", "N", BENCH, WHOLE, AT(max_context), 1, 1 << 24, 0,
     "tokens of one sequence; default: what the rows need"},
    {"--max-batch", "N", ALONE, WHOLE, AT(max_batch), 1, 1024, 0, "sequences at once; default 1"},
    {"--max-batch", "N", SERVE | BATCH, WHOLE, AT(max_batch), 1, 1024, 0,
     "sequences at once; default: the build's limit"},
    {"--max-batch", "N", BENCH, WHOLE, AT(max_batch), 1, 1024, 0,
     "sequences at once; default: the most of --batch"},
    {"--cache-tokens", "N", ALONE | BENCH, WHOLE, AT(cache_tokens), 1, 1 << 30, 0,
     "of all sequences; default: enough for all"},
    {"--cache-tokens", "N", SERVE | BATCH, WHOLE, AT(cache_tokens), 1, 1 << 30, 0,
     "of all sequences; default: one full context, or 32768 if that is more"},
    {"--saved-states", "N", OPENERS | INFO, WHOLE, AT(saved_states), 1, 1 << 16, 0,
     "of recurrent layers, beside those of the sequences; default: two for each"},
    {"--host-cache", "BYTES", WRITERS | INFO, OTHER, 0, 0, 0, parse_host_cache,
     "of host memory for what the GPU's cache has no room for, as 8G; default 0"},
    {"--gpu-memory", "BYTES", INFO, OTHER, 0, 0, 0, parse_gpu_memory,
     "what chat and serve take of a GPU with so much free, as 24G"},
    {"--cache-bits", "K[,V]", OPENERS | INFO, OTHER, 0, 0, 0, parse_cache_bits,
     "of keys, and of values where they differ; 16, or 2 to 8; default: the most it was built for"},
    {"--chunk", "N", OPENERS | INFO, WHOLE, AT(chunk), 1, 1 << 16, 0,
     "prompt tokens in one pass; default 512, on CUDA 2048"},
    {"--mode", "persistent|graph|steps", OPENERS, OTHER, 0, 0, 0, parse_mode,
     "launches on CUDA; default persistent: one of all steps where a pass only decodes"},
};
enum { ROWS = sizeof rows / sizeof *rows };

// How each was given: "--port", "EXLC_PORT", "serve.conf:3: port"; NULL where it was not.
static const char *given[ROWS];

const char *option_name(const char *option)
{
    for (int i = 0; i < ROWS; i++)
        if (given[i] && strcmp(rows[i].name, option) == 0) return given[i];
    return option;
}

static int option_given(const char *option)
{
    for (int i = 0; i < ROWS; i++)
        if (given[i] && strcmp(rows[i].name, option) == 0) return 1;
    return 0;
}

// `name` is how it was given.
static void set_option(Options *o, int row, const char *name, const char *value)
{
    char *at = (char *)o + rows[row].offset;
    given[row] = name;
    if (rows[row].kind == TEXT && strlen(value) < rows[row].low)
        usage_error("%s needs a text", name);
    if (rows[row].kind == FLAG)
        *(int *)at = 1;
    else if (rows[row].kind == WHOLE)
        *(int *)at = (int)whole(name, value, (long long)rows[row].low, (long long)rows[row].high);
    else if (rows[row].kind == NUMBER)
        *(float *)at = number(name, value, rows[row].low, rows[row].high);
    else if (rows[row].kind == TEXT)
        *(const char **)at = value;
    else
        rows[row].parse(o, name, value);
}

static void print_help(const char *command, Command which)
{
    printf("%s %s\n", model_info.name, command);
    for (int i = 0; i < ROWS; i++) {
        if (!(rows[i].commands & which)) continue;
        int column = printf("  %s %s", rows[i].name, rows[i].value ? rows[i].value : "");
        printf("%*s %s\n", column < 28 ? 28 - column : 0, "", rows[i].help);
    }
    exit(fflush(stdout) != 0 || ferror(stdout));
}

// The row of an option of serve as files and the environment spell it, or -1.
static int find_long(const char *name)
{
    for (int i = 0; i < ROWS; i++)
        if (rows[i].commands & SERVE && strcmp(rows[i].name + 2, name) == 0) return i;
    return -1;
}

// Flags are switched by 1, true, yes and 0, false, no.
static void set_from(Options *o, const char *name, int row, const char *value)
{
    name = strdup(name); // they live as long as the program
    value = strdup(value);
    if (!name || !value) fail("out of memory");
    if (rows[row].kind == FLAG) {
        int on = !strcmp(value, "1") || !strcmp(value, "true") || !strcmp(value, "yes");
        if (!on && strcmp(value, "0") && strcmp(value, "false") && strcmp(value, "no"))
            usage_error("%s %s: expected true or false", name, value);
        if (on)
            set_option(o, row, name, value);
        else
            *(int *)((char *)o + rows[row].offset) = 0;
    } else {
        set_option(o, row, name, value);
    }
}

// Lines "option = value", values optionally in quotes; # and [section] lines mean nothing.
static void read_config(Options *o, const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) fail("%s: %s", path, strerror(errno));
    char *line = NULL;
    size_t room = 0;
    for (int number = 1; getline(&line, &room, f) >= 0; number++) {
        char *name = line + strspn(line, " \t"), *end = name + strlen(name), where[300];
        while (end > name && strchr(" \t\r\n", end[-1])) *--end = 0;
        if (!*name || strchr("#;[", *name)) continue;
        snprintf(where, sizeof where, "%.200s:%d", path, number);
        char *value = strchr(name, '=');
        if (!value) usage_error("%s: expected 'option = value'", where);
        for (end = value; end > name && strchr(" \t", end[-1]);) end--;
        *end = 0;
        value++;
        value += strspn(value, " \t");
        size_t n = strlen(value);
        if (n > 1 && strchr("\"'", *value) && value[n - 1] == *value) value[n - 1] = 0, value++;
        int row = find_long(name);
        if (row < 0 || rows[row].offset == AT(config))
            usage_error("%s: unknown option %s", where, name);
        snprintf(where, sizeof where, "%.200s:%d: %s", path, number, rows[row].name + 2);
        set_from(o, where, row, value);
    }
    if (ferror(f)) fail("%s: %s", path, strerror(errno));
    free(line);
    fclose(f);
}

static void environment_name(char *out, const char *option)
{
    strcpy(out, "EXLC_");
    for (out += 5, option += 2; *option; option++)
        *out++ = *option == '-' ? '_' : (char)(*option - ('a' <= *option && *option <= 'z') * 32);
    *out = 0;
}

void print_config(const Options *o)
{
    for (int i = 0; i < ROWS; i++) {
        const char *at = (const char *)o + rows[i].offset, *name = rows[i].name + 2;
        if (!(rows[i].commands & SERVE) || rows[i].offset == AT(config) ||
            rows[i].offset == AT(print_config))
            continue;
        if (rows[i].kind == FLAG)
            printf("%s = %s\n", name, *(const int *)at ? "true" : "false");
        else if (rows[i].kind == WHOLE && *(const int *)at >= rows[i].low)
            printf("%s = %d\n", name, *(const int *)at);
        else if (rows[i].kind == NUMBER && !isnan(*(const float *)at))
            printf("%s = %g\n", name, (double)*(const float *)at);
        else if (rows[i].kind == TEXT && *(const char *const *)at && strstr(name, "-key"))
            printf("# %s is set, and not printed\n", name);
        else if (rows[i].kind == TEXT && *(const char *const *)at)
            printf("%s = \"%s\"\n", name, *(const char *const *)at);
        else if (rows[i].parse == parse_device && o->device_given && o->cuda)
            printf("%s = cuda:%d\n", name, o->ordinal);
        else if (rows[i].parse == parse_device && o->device_given)
            printf("%s = cpu\n", name);
        else if (rows[i].parse == parse_cache_bits)
            printf("%s = %d,%d\n", name, o->key_bits, o->value_bits);
        else if (rows[i].parse == parse_host_cache)
            printf("%s = %llu\n", name, (unsigned long long)o->host_cache);
        else if (rows[i].parse == parse_mode && o->mode_given)
            printf("%s = %s\n", name, mode_names[o->mode]);
        else
            printf("# %s is not set: %s\n", name, rows[i].help);
    }
}

static void parse_arguments(Options *o, int argc, char **argv, int first, const char *name,
                            Command command)
{
    for (int i = first; i < argc; i++) {
        const char *a = argv[i];
        if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0) print_help(name, command);
        if (*a != '-' || !a[1]) {
            if (o->argument_count == 8) usage_error("too many arguments: %s", a);
            o->arguments[o->argument_count++] = a;
            continue;
        }
        int row = 0, known = 0;
        for (; row < ROWS; row++) {
            if (strcmp(rows[row].name, a) != 0) continue;
            known = 1;
            if (rows[row].commands & command) break;
        }
        if (row == ROWS && known) usage_error("%s takes no %s", name, a);
        if (row == ROWS) usage_error("unknown option %s", a);
        if (rows[row].kind != FLAG && i + 1 == argc) usage_error("%s needs a value", a);
        set_option(o, row, a, rows[row].kind == FLAG ? NULL : argv[++i]);
    }
}

Options parse_options(int argc, char **argv, int first, const char *name, Command command)
{
    const Options defaults = {.temperature = NAN,
                              .top_p = NAN,
                              .min_p = NAN,
                              .top_k = -1,
                              .n = -1,
                              .thinks = -1,
                              .gen = 64,
                              .key_bits = widest_cache(),
                              .value_bits = widest_cache(),
                              .context = 512,
                              .host = "127.0.0.1",
                              .port = 8080,
                              .drain = 5,
                              .max_body = 8 << 20,
                              .max_queue = 1024};
    Options o = defaults;
    parse_arguments(&o, argc, argv, first, name, command);
    if (command != SERVE) return o;
    // Again in the order of precedence, now that the file's name is known.
    const char *variable = getenv("EXLC_CONFIG"), *config = o.config ? o.config : variable;
    o = defaults;
    if (config) read_config(&o, config);
    for (int i = 0; i < ROWS; i++) {
        char text[64];
        if (!(rows[i].commands & SERVE) || rows[i].offset == AT(config)) continue;
        environment_name(text, rows[i].name);
        if (getenv(text) && *getenv(text)) set_from(&o, text, i, getenv(text));
    }
    parse_arguments(&o, argc, argv, first, name, command);
    return o;
}

// --- model ---------------------------------------------------------------------------------------

// No more than what other layers keep.
static int window_pages(const DeviceOptions *d)
{
    int window;
    if (!pool_layers(&model_info, POOL_WINDOW, &window)) return 0;
    int64_t pages = WINDOW_PAGES((int64_t)window, d->max_sequences, d->max_rows);
    return pages < d->pages[POOL_ALL] ? (int)pages : d->pages[POOL_ALL];
}

// In the proportions of the first level.
static void divide_host_cache(DeviceOptions *d, uint64_t bytes)
{
    double all = 0;
    for (int pool = 0; pool < POOLS; pool++)
        all += (double)d->pages[pool] * page_bytes(&model_info, pool, d->key_bits, d->value_bits);
    for (int pool = 0; pool < POOLS; pool++) {
        double pages = (double)bytes / all * d->pages[pool];
        d->host_pages[pool] = pages > INT32_MAX ? INT32_MAX : (int)pages;
    }
    if (!d->host_pages[POOL_ALL])
        usage_error("%s %llu: less than one page", option_name("--host-cache"),
                    (unsigned long long)bytes);
}

DeviceOptions choose_sizes(const Options *o, int cuda, int max_rows, int max_outputs,
                           int keep_hidden)
{
    const ModelInfo *m = &model_info;
    int context = o->max_context ? o->max_context : m->max_context;
    int batch = o->max_batch ? o->max_batch : 1;
    if (context > m->max_context)
        usage_error("%s %d: this program was built for at most %d", option_name("--max-context"),
                    context, m->max_context);
    if (batch > m->max_batch)
        usage_error("%s %d: this program was built for at most %d", option_name("--max-batch"),
                    batch, m->max_batch);
    DeviceOptions d = {.cuda = cuda,
                       .ordinal = o->ordinal,
                       .threads = o->threads,
                       .mode = o->mode,
                       .key_bits = o->key_bits,
                       .value_bits = o->value_bits,
                       .trace = o->trace != NULL,
                       .keep_hidden = keep_hidden};
    d.max_context = context;
    d.pages_per_sequence = (context + PAGE - 1) / PAGE;
    d.max_sequences = batch;
    int64_t pages = o->cache_tokens ? ((int64_t)o->cache_tokens + PAGE - 1) / PAGE
                                    : (int64_t)d.pages_per_sequence * batch;
    d.pages[POOL_ALL] = pages > INT32_MAX ? INT32_MAX : (int)pages;
    if (m->state_bytes) d.states = batch + (o->saved_states ? o->saved_states : 2 * batch);
    d.max_rows = max_rows ? max_rows : o->chunk ? o->chunk : cuda ? 2048 : 512;
    if (o->deterministic && d.max_rows % PAGE)
        usage_error("%s %d: with --deterministic a multiple of %d", option_name("--chunk"),
                    d.max_rows, PAGE);
    if (d.max_rows > context) d.max_rows = context;
    if (o->deterministic && d.max_rows > PAGE) d.max_rows -= d.max_rows % PAGE;
    if (d.max_rows < batch)
        d.max_rows = o->deterministic ? (batch + PAGE - 1) / PAGE * PAGE : batch;
    d.max_outputs = max_outputs ? max_outputs : batch;
    d.pages[POOL_WINDOW] = window_pages(&d);
    if (o->saved_states && !m->state_bytes)
        usage_error("%s: %s has no recurrent layers", option_name("--saved-states"), m->name);
    const char *host_cache = option_name("--host-cache");
    if (o->host_cache && !cuda) usage_error("%s goes with --device cuda", host_cache);
    if (o->host_cache && m->state_bytes)
        usage_error("%s: %s has recurrent layers, whose states stay on the GPU", host_cache,
                    m->name);
    if (o->host_cache) divide_host_cache(&d, o->host_cache);
    return d;
}

uint64_t memory_bytes(const DeviceOptions *o)
{
    const ModelInfo *m = &model_info;
    uint64_t rows = (uint64_t)o->max_rows, outputs = (uint64_t)o->max_outputs;
    uint64_t bytes = m->weights_bytes;
    for (int pool = 0; pool < POOLS; pool++)
        bytes += (uint64_t)o->pages[pool] * page_bytes(m, pool, o->key_bits, o->value_bits);
    bytes += (uint64_t)o->states * m->state_bytes;
    bytes += 4 * rows *
             (uint64_t)(m->dim + m->y_dim + 2 * m->heads * m->head_dim + hidden_width(m) +
                        m->ropes * m->rope_dim);
    bytes += 4 * outputs * (uint64_t)m->vocab;
    if (o->keep_hidden) bytes += 4 * rows * (uint64_t)(m->layers + 1) * (uint64_t)m->dim;
    if (o->cuda) bytes += 4 * outputs * (uint64_t)(m->vocab + 31) / 32; // masks
    if (o->cuda && m->gpu_work_bytes) bytes += m->gpu_work_bytes(o->max_rows, o->max_outputs);
    if (!o->cuda && m->cpu) bytes += m->cpu[0]->work_bytes(o->max_rows, o->max_outputs);
    return bytes;
}

// The sizes of a cache of so many pages.
static DeviceOptions with_pages(const DeviceOptions *o, int pages)
{
    DeviceOptions d = *o;
    d.pages[POOL_ALL] = pages;
    d.pages[POOL_WINDOW] = window_pages(&d);
    if (d.max_context / PAGE >= pages) d.max_context = pages * PAGE;
    if (d.max_rows > d.max_context && d.max_context >= d.max_sequences) d.max_rows = d.max_context;
    return d;
}

// Of a GPU whose memory others use too.
#define RESERVED ((uint64_t)256 << 20)

int fit_memory(DeviceOptions *o, uint64_t free_bytes, int least)
{
    uint64_t bytes = free_bytes > RESERVED ? free_bytes - RESERVED : 0;
    int pages = o->pages[POOL_ALL], fewest = (least + PAGE - 1) / PAGE;
    if (memory_bytes(o) <= bytes) return 0;
    DeviceOptions d = *o;
    while (memory_bytes(&d) > bytes && pages > fewest) d = with_pages(o, --pages);
    *o = d;
    return memory_bytes(o) <= bytes ? 0 : -1;
}

// A context that was asked for is kept.
static void fit_gpu(DeviceOptions *o, uint64_t bytes, const char *device)
{
    int64_t before = (int64_t)o->pages[POOL_ALL] * PAGE;
    int least = option_given("--max-context") ? o->max_context : PAGE;
    fit_memory(o, bytes, least); // what still does not is said later
    int64_t after = (int64_t)o->pages[POOL_ALL] * PAGE;
    if (after < before)
        fprintf(stderr,
                "%s: %s has %.1f GiB free: %lld tokens of cache instead of %lld, up to %d in one "
                "sequence\n",
                model_info.name, device, (double)bytes / (1 << 30), (long long)after,
                (long long)before, o->max_context);
}

Model open_model(const Options *o, int max_rows, int max_outputs, int keep_hidden)
{
    Model model = {0};
    Error err;
    int cuda = o->cuda;
    if (!o->device_given && model_info.images) {
        cuda = gpu_count(&err) > 0;
        if (!cuda && !model_info.cpu) fail("%s", err.text);
        if (!cuda)
            fprintf(stderr, "%s: no usable NVIDIA GPU, running on the CPU\n", model_info.name);
    }
    if (o->mode_given && !cuda) usage_error("%s goes with --device cuda", option_name("--mode"));
    model.options = choose_sizes(o, cuda, max_rows, max_outputs, keep_hidden);
    if (model_info.reach && model.options.max_context > model_info.reach)
        fprintf(stderr,
                "%s: a context of %d tokens, and the model was made for %d; what lies beyond may "
                "make no sense\n",
                model_info.name, model.options.max_context, model_info.reach);
    if (weights_open(&model.weights, o->threads ? o->threads : 16, &err) != 0) fail("%s", err.text);
    if (cuda) weights_read_ahead(&model.weights); // while the driver starts
    if (o->fits && !option_given("--cache-tokens")) model.options.fit = fit_gpu;
    if (device_open(&model.device, &model.options, &model.weights, &err) != 0) fail("%s", err.text);
    model.options = *device_options(model.device);
    weights_read_on(&model.weights);
    return model;
}

void close_model(Model *m)
{
    device_close(m->device);
    weights_close(&m->weights);
}
