// The chat command: a conversation in the terminal.
#include "writer.h"
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const Options *options;
    Writer writer;
    Chat chat;
    SamplerOptions sampler;
    int raw, max_tokens, show_speed;
    json_t *messages; // of a conversation
    TokenText text;   // of --raw: all that was typed and written
    EditLine *editor; // NULL when input or messages are no terminal
    History *history;
    char *line; // without an editor
    size_t room;
} Talk;

// --- typing --------------------------------------------------------------------------------------

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

static char *prompt_text(EditLine *editor)
{
    (void)editor;
    return "> ";
}

static void open_editor(Talk *t)
{
    HistEvent event;
    if (!isatty(0) || !isatty(2)) return;
    setlocale(LC_CTYPE, "");
    t->editor = el_init(model_info.name, stdin, stderr, stderr);
    t->history = history_init();
    if (!t->editor || !t->history) return;
    history(t->history, &event, H_SETSIZE, 1000);
    el_set(t->editor, EL_PROMPT, prompt_text);
    el_set(t->editor, EL_EDITOR, "emacs");
    el_set(t->editor, EL_HIST, history, t->history);
    el_set(t->editor, EL_SIGNAL, 1);
}

// One line without its newline; NULL at the end of input.
static const char *read_line(Talk *t)
{
    ssize_t bytes;
    if (t->editor) {
        int count;
        HistEvent event;
        const char *line;
        do { // Ctrl-C throws a line away
            interrupted = 0;
            line = el_gets(t->editor, &count);
            if (interrupted) fputs("\n", stderr);
        } while (!line && interrupted);
        if (!line || count <= 0) return NULL;
        if (*line != '\n') history(t->history, &event, H_ENTER, line);
        free(t->line);
        t->line = strdup(line);
        bytes = t->line ? (ssize_t)strlen(t->line) : -1;
    } else {
        bytes = getline(&t->line, &t->room, stdin);
    }
    if (bytes < 0) return NULL;
    if (bytes && t->line[bytes - 1] == '\n') t->line[bytes - 1] = 0;
    return t->line;
}

// --- answers -------------------------------------------------------------------------------------

// Returns the message, which is the conversation's, or NULL after a line on stderr.
static json_t *add_message(Talk *t, const char *role, const char *content)
{
    json_t *message = json_pack("{s:s, s:s}", "role", role, "content", content);
    if (!message)
        fprintf(stderr, "that is not UTF-8\n");
    else
        json_array_append_new(t->messages, message);
    return message;
}

// Continues a text on stdout, the prompt of a chat or (`prompt` NULL) a raw one. *out is what was
// said, and the caller's to close; -1 after a message on stderr. Ctrl-C ends the answer where it
// is.
static int answer(Talk *t, const char *text, size_t bytes, ChatPrompt *prompt, Speech *out)
{
    Error err;
    TokenList ids = {0};
    Generator *g = &t->writer.generator;
    Job job;
    int flags = TOKENS_PARSE_SPECIAL | (prompt ? 0 : TOKENS_ADD_SPECIAL);
    job_init(&job);
    job.matcher = choose_matcher(t->options, prompt);
    speech_open(out, &job, &t->chat, prompt, 0);
    int status = tokens_encode(t->writer.tokens, text, bytes, flags, &ids, &err);
    if (status == 0) check_ids(ids.id, ids.count);
    if (status == 0 && !ids.count) status = error_set(&err, "nothing to continue");
    job.prompt = ids.id;
    job.prompt_count = (int)ids.count;
    int room = g->batch.max_context - job.prompt_count;
    job.max_tokens = room < 1 ? 1 : t->max_tokens < room ? t->max_tokens : room;
    job.sampler = t->sampler;
    job.stop = t->options->stop;
    job.stop_count = t->options->stop_count;
    if (status == 0) status = generator_check(g, &job, &err);
    if (status == 0) status = generator_submit(g, &job, &err);
    if (status == 0) {
        interrupted = 0;
        while (job.reason == REASON_NONE) {
            generator_step(g);
            if (interrupted) generator_cancel(g, &job);
        }
        if (job.reason == REASON_FAILED) status = error_set(&err, "%s", job.error.text);
        putchar('\n');
        fflush(stdout);
    }
    if (status != 0) fprintf(stderr, "%s\n", err.text);
    if (status == 0 && t->show_speed && job.first)
        fprintf(stderr, "[%d prompt tokens, %d of them cached, %.2f s; %d tokens, %.1f tokens/s]\n",
                job.prompt_count, job.reused, job.first - job.started, job.token_count,
                job.ended > job.first ? (job.token_count - 1) / (job.ended - job.first) : 0);
    t->sampler.seed++;
    matcher_close(job.matcher);
    job_close(&job);
    free(ids.id);
    return status;
}

// Continues the text so far and the line.
static void continue_text(Talk *t, const char *line)
{
    Speech said;
    size_t before = t->text.bytes;
    append_text(&t->text, line, strlen(line));
    if (answer(t, t->text.data, t->text.bytes, NULL, &said) == 0)
        append_text(&t->text, said.content.data, said.content.bytes);
    else
        t->text.bytes = before;
    speech_close(&said);
}

// Answers the conversation, whose last message is the user's.
static void reply(Talk *t)
{
    Error err;
    ChatPrompt prompt;
    Speech said = {0};
    json_t *values = json_pack("{s:O, s:b}", "messages", t->messages, "add_generation_prompt", 1);
    int status = chat_prompt(&t->chat, values, &prompt, &err);
    if (status != 0)
        fprintf(stderr, "%s\n", err.text);
    else
        status = answer(t, prompt.text, prompt.bytes, &prompt, &said);
    if (status != 0) {
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
    } else {
        json_t *message = add_message(t, "assistant", said.content.data);
        if (said.reasoning.bytes)
            json_object_set_new(message, "reasoning_content", json_string(said.reasoning.data));
    }
    speech_close(&said);
    json_decref(values);
    free(prompt.text);
}

// --- commands ------------------------------------------------------------------------------------

static void clear(Talk *t)
{
    const json_t *first = json_array_get(t->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    t->text.bytes = 0;
    while (json_array_size(t->messages) > (role && strcmp(role, "system") == 0))
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
}

static void set_system(Talk *t, const char *text)
{
    json_array_clear(t->messages);
    t->text.bytes = 0;
    if (*text) add_message(t, "system", text);
}

static void save(Talk *t, const char *path)
{
    FILE *f = fopen(path, "w");
    int bad = !f;
    if (f && t->raw)
        bad = fwrite(t->text.data ? t->text.data : "", 1, t->text.bytes, f) < t->text.bytes;
    else if (f)
        bad = json_dumpf(t->messages, f, JSON_INDENT(1)) != 0 || fputc('\n', f) == EOF;
    if (f) bad |= fclose(f) != 0;
    if (bad) fprintf(stderr, "%s: %s\n", path, strerror(errno));
}

static void load(Talk *t, const char *path)
{
    json_error_t err;
    FILE *f = fopen(path, "r");
    if (!f) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    } else if (t->raw) {
        char part[4096];
        t->text.bytes = 0;
        for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;) append_text(&t->text, part, n);
    } else {
        json_t *messages = json_loadf(f, JSON_REJECT_DUPLICATES, &err);
        if (json_is_array(messages)) {
            json_decref(t->messages);
            t->messages = messages;
        } else {
            json_decref(messages);
            fprintf(stderr, "%s: no list of messages\n", path);
        }
    }
    if (f) fclose(f);
}

// The last answer anew.
static void retry(Talk *t)
{
    size_t count = json_array_size(t->messages);
    if (t->raw || count < 2) {
        fprintf(stderr, "there is no answer to try again\n");
        return;
    }
    json_array_remove(t->messages, count - 1);
    reply(t);
}

// A line that begins with a slash; returns 0 when the conversation is over.
static int obey(Talk *t, const char *line)
{
    size_t n = strcspn(line, " ");
    const char *value = line + n + strspn(line + n, " ");
    char name[16];
    snprintf(name, sizeof name, "%.*s", (int)n, line);
    if (!strcmp(name, "/exit") || !strcmp(name, "/x")) return 0;
    if (!strcmp(name, "/clear"))
        clear(t);
    else if (!strcmp(name, "/system") || !strcmp(name, "/sp"))
        set_system(t, value);
    else if (!strcmp(name, "/retry") || !strcmp(name, "/r"))
        retry(t);
    else if (!strcmp(name, "/tps"))
        t->show_speed = !t->show_speed;
    else if (!strcmp(name, "/save") && *value)
        save(t, value);
    else if (!strcmp(name, "/load") && *value)
        load(t, value);
    else if (!strcmp(name, "/n") && atoi(value) > 0)
        t->max_tokens = atoi(value);
    else if (!strcmp(name, "/t") && *value)
        t->sampler.temperature = (float)fabs(atof(value));
    else
        fputs("/clear        forget the conversation\n"
              "/system TEXT  start over with another system message\n"
              "/retry        answer the last message again\n"
              "/save FILE    /load FILE    the conversation\n"
              "/n TOKENS     /t TEMPERATURE\n"
              "/tps          show the speed or not\n"
              "/exit         as Ctrl-D does\n",
              stderr);
    return 1;
}

int command_chat(const Options *o)
{
    Error err;
    Tokens *tokens = open_tokens();
    Talk t = {.options = o,
              .raw = o->raw,
              .sampler = choose_sampler(o),
              .max_tokens = o->n < 0 ? o->raw ? 256 : INT32_MAX : o->n,
              .messages = json_array()};
    if (chat_open(&t.chat, tokens, &err) != 0) fail("%s", err.text);
    if (!o->raw && chat_check(&t.chat, &err) != 0)
        fail("%s; chat --raw continues what you type", err.text);
    matcher_close(choose_matcher(o, NULL)); // what is wrong with it is said now
    open_writer(&t.writer, o, tokens);
    if (o->system) set_system(&t, o->system);
    struct sigaction action = {.sa_handler = on_interrupt};
    open_editor(&t);
    if (t.editor) sigaction(SIGINT, &action, NULL);
    fprintf(stderr, "%s on %s. %s; /help lists commands; end with Ctrl-D.\n", model_info.name,
            device_name(t.writer.model.device),
            t.raw ? "What you type is continued, an empty line starts over" : "Type a message");
    for (const char *line; (line = read_line(&t));) {
        if (*line == '/') {
            if (!obey(&t, line)) break;
        } else if (t.raw && !*line) {
            clear(&t);
        } else if (t.raw) {
            continue_text(&t, line);
        } else if (*line) {
            if (add_message(&t, "user", line)) reply(&t);
        }
    }
    if (t.editor) el_end(t.editor);
    if (t.history) history_end(t.history);
    free(t.line);
    free(t.text.data);
    json_decref(t.messages);
    chat_close(&t.chat);
    close_writer(&t.writer);
    return 0;
}
