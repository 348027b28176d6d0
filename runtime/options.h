// The command line of the emitted program.
#pragma once
#include "device.h"

typedef enum {
    RUN = 1,
    CHAT = 2,
    SERVE = 4,
    BENCH = 8,
    INFO = 16,
    TOKENIZE = 32,
    LOGITS = 64,
    EVAL = 128,
    VERIFY = 256,
    SELFTEST = 512,
    TEMPLATE = 1024,
    BATCH = 2048
} Command;

typedef struct {
    // where
    int cuda, ordinal, device_given, threads;
    LaunchMode mode;
    const char *trace; // file
    int mode_given;
    // limits
    uint64_t host_cache; // bytes
    uint64_t gpu_memory; // bytes of info's GPU; 0: any
    int fits;            // where memory is short, fewer tokens of cache do than the default
    int max_context, max_batch, cache_tokens, saved_states, key_bits, value_bits, chunk,
        deterministic;
    // text and sampling; NAN and -1 mean not given
    const char *prompt, *prompt_file, *ids, *output, *text, *reference, *system;
    const char *grammar_file, *json_schema;
    const char *stop[16];
    int stop_count, n, chat, raw, top_k, seed_given;
    int thinks; // -1: as the template has it
    float temperature, top_p, min_p;
    uint64_t seed;
    // forms
    int json, hidden, decode, no_special;
    int windows, context;
    // serve
    const char *config, *host, *api_key, *admin_key, *cors, *name, *capture, *keys;
    int port, drain, max_body, max_queue, print_config, log_requests;
    // bench
    int prompts[32], prompt_count, batches[32], batch_count, contexts[32], context_count, gen, steps;
    const char *arguments[8];
    int argument_count;
} Options;

// Parses what follows the command; serve also reads the environment and its configuration file.
// Wrong usage prints one line and exits 2; --help prints the command's options and exits 0.
Options parse_options(int argc, char **argv, int first, const char *name, Command command);
// Every option of serve with its value, as a configuration file.
void print_config(const Options *o);

// How an option of the command line was given, for messages: "--port", "EXLC_PORT", "FILE:3: port".
const char *option_name(const char *option);

_Noreturn void usage_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
// Prints "FILE: text" on stderr and exits 1.
_Noreturn void fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

// Weights and device as the options ask. max_rows and max_outputs 0 choose. Exits on failure.
typedef struct {
    Weights weights;
    Device *device;
    DeviceOptions options;
} Model;
Model open_model(const Options *o, int max_rows, int max_outputs, int keep_hidden);
void close_model(Model *m);
// The sizes that open_model would choose, without opening anything.
DeviceOptions choose_sizes(const Options *o, int cuda, int max_rows, int max_outputs,
                           int keep_hidden);
// Device memory that those sizes take, weights included.
uint64_t memory_bytes(const DeviceOptions *o);
// Takes pages off the cache until the sizes fit a GPU with so many bytes free, less 256 MiB, and off
// the longest context what the cache then has no room for; not below `least` tokens. 0, or -1 and
// the least sizes when they do not fit either.
int fit_memory(DeviceOptions *o, uint64_t free_bytes, int least);

// The tokenizer of the program; exits when it has none.
struct Tokens *open_tokens(void);
struct Tokens *open_any_tokens(void); // without tokens when it has none
// Exits when an id has no row in the model's embedding.
void check_ids(const int32_t *ids, size_t count);

// Commands; each returns the exit status.
int command_run(const Options *o);
int command_chat(const Options *o);
int command_serve(const Options *o);
int command_batch(const Options *o);
int command_bench(const Options *o);
int command_info(const Options *o);
int command_tokenize(const Options *o);
int command_template(const Options *o);
int command_logits(const Options *o);
int command_eval(const Options *o);
int command_verify(const Options *o);
int command_selftest(const Options *o);
