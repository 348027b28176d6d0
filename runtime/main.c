// The emitted program's command line.
#include "options.h"
#include "start.h"
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void print_usage(FILE *out)
{
    const ModelInfo *m = &model_info;
    fprintf(out, "%s: %s, %.2f billion parameters, %.2f bits per weight, by exlc %s\n\n", m->name,
            m->architecture, (double)m->parameters / 1e9, m->bits, m->exlc_version);
    fputs("  run -p PROMPT      continue a text\n"
          "  chat [--raw]       talk to it, or continue what you type\n"
          "  serve              answer HTTP requests as OpenAI's and Anthropic's APIs do\n"
          "  batch -f FILE      answer a file of such requests\n"
          "  bench              how fast it reads and writes\n"
          "  info               sizes, limits, needs\n"
          "  tokenize           text on stdin to ids, or the other way\n"
          "  template           JSON {messages, tools, ...} on stdin to the prompt\n"
          "  logits --ids LIST -o FILE\n"
          "  eval ppl|kl --text FILE\n"
          "  verify             read all weights and compare their hash\n"
          "  selftest           one pass, checked for what every model must do\n"
          "  --version, --licenses\n"
          "\n"
          "COMMAND --help lists a command's options. Exit status: 0 fine, 1 failed (one line on\n"
          "stderr), 2 wrong usage.\n",
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
    start_begin();
    signal(SIGPIPE, SIG_DFL);
    // Where a standard stream is closed, no file or socket of ours may take its number; the stream
    // itself goes on failing.
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", fd ? O_RDONLY : O_WRONLY);
    const char *command = argc > 1 ? argv[1] : "";
    if (!*command || strcmp(command, "--help") == 0 || strcmp(command, "-h") == 0)
        return print_usage(stdout), finish(0);
    if (strcmp(command, "--version") == 0)
        return printf("%s, by exlc %s\n", model_info.name, model_info.exlc_version), finish(0);
    if (strcmp(command, "--licenses") == 0) return fputs(licenses_text, stdout), finish(0);

    static const struct {
        const char *name;
        int (*run)(const Options *o);
        Command which;
        int arguments; // words that are no options
    } commands[] = {
        {"run", command_run, RUN, 0},
        {"chat", command_chat, CHAT, 0},
        {"serve", command_serve, SERVE, 0},
        {"batch", command_batch, BATCH, 0},
        {"bench", command_bench, BENCH, 0},
        {"info", command_info, INFO, 0},
        {"tokenize", command_tokenize, TOKENIZE, 0},
        {"template", command_template, TEMPLATE, 0},
        {"logits", command_logits, LOGITS, 0},
        {"eval", command_eval, EVAL, 1},
        {"verify", command_verify, VERIFY, 0},
        {"selftest", command_selftest, SELFTEST, 0},
    };
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(command, commands[i].name) != 0) continue;
        Options o = parse_options(argc, argv, 2, command, commands[i].which);
        if (o.argument_count < commands[i].arguments) usage_error("eval needs ppl or kl");
        if (o.argument_count > commands[i].arguments)
            usage_error("%s takes no '%s'", command, o.arguments[commands[i].arguments]);
        return finish(commands[i].run(&o));
    }
    usage_error("unknown command %s", command);
}
