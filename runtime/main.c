// The emitted program's command line.
#include "options.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void print_usage(FILE *out)
{
    const ModelInfo *m = &model_info;
    fprintf(out, "%s: %s, %.2f billion parameters, %.2f bits per weight, by exlc %s\n\n", m->name,
            m->architecture, (double)m->parameters / 1e9, m->bits, m->exlc_version);
    fputs(
        "  run -p PROMPT [-n N] [--temperature T] [--top-k K] [--top-p P] [--min-p P] [--seed S]\n"
        "      [--stop TEXT]... [--json]      continue a text; N defaults to 256\n"
        "  chat --raw                         continue what you type, line by line\n"
        "  bench [--json] [--prompt LIST] [--gen N] [--batch LIST] [--context LIST]\n"
        "  info [--json] [--max-context N] [--max-batch N] [--cache-tokens N]\n"
        "  tokenize [--no-special] [--decode] text on stdin to ids, or the other way\n"
        "  template [--name NAME]             JSON {messages, tools, ...} on stdin to the prompt\n"
        "  logits --ids 1,2,3 [--chunk N] [--hidden] -o OUT.safetensors\n"
        "  eval ppl --text FILE [--context 512] [--windows N] [--json]\n"
        "  verify                             read all weights and compare their hash\n"
        "  selftest                           one pass, checked for what every model must do\n"
        "  --licenses                         notices of what is inside\n"
        "\n"
        "Every command: --device cpu|cuda[:N], --threads N, --max-context N, --max-batch N,\n"
        "--cache-tokens N, --chunk N, and on CUDA --mode graph|steps. Exit status: 0 fine,\n"
        "1 failed (one line on stderr), 2 wrong usage.\n",
        out);
}

extern const char licenses_text[];

static int finish(int status)
{
    if (fflush(stdout) != 0 || ferror(stdout)) fail("standard output: cannot write");
    return status;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_DFL);
    const char *command = argc > 1 ? argv[1] : "";
    for (int i = 1; i < argc; i++) // a value may look like it
        if (strcmp(argv[i], "--help") == 0 && (i < 2 || strcmp(argv[i - 1], "-p") != 0))
            command = "--help";
    if (!*command || strcmp(command, "--help") == 0) return print_usage(stdout), finish(0);
    if (strcmp(command, "--version") == 0)
        return printf("%s, by exlc %s\n", model_info.name, model_info.exlc_version), finish(0);
    if (strcmp(command, "--licenses") == 0) return fputs(licenses_text, stdout), finish(0);

    static const struct {
        const char *name;
        int (*run)(const Options *o);
        int arguments; // words that are no options
    } commands[] = {
        {"run", command_run, 0},         {"chat", command_chat, 0},
        {"bench", command_bench, 0},     {"info", command_info, 0},
        {"tokenize", command_tokenize, 0}, {"logits", command_logits, 0},
        {"eval", command_eval, 1},       {"verify", command_verify, 0},
        {"selftest", command_selftest, 0}, {"template", command_template, 0},
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(command, commands[i].name) != 0) continue;
        Options o = parse_options(argc, argv, 2);
        if (o.argument_count != commands[i].arguments)
            usage_error("%s: %s", command,
                        o.argument_count ? o.arguments[o.argument_count - 1] : "which one?");
        return finish(commands[i].run(&o));
    }
    if (strcmp(command, "serve") == 0) fail("%s is not there yet", command);
    usage_error("unknown command %s", command);
}
