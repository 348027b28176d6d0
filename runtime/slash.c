// What a line of a conversation that begins with a slash does.
#include "talk.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// --- the conversation ----------------------------------------------------------------------------

static void clear(Talk *t, const char *value)
{
    (void)value;
    const json_t *first = json_array_get(t->messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    t->text.bytes = t->asked = 0;
    while (json_array_size(t->messages) > (role && strcmp(role, "system") == 0))
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
}

static void set_system(Talk *t, const char *value)
{
    json_array_clear(t->messages);
    t->text.bytes = t->asked = 0;
    if (*value) talk_add(t, "system", value);
}

static void retry(Talk *t, const char *value)
{
    size_t count = json_array_size(t->messages);
    if (!talk_said(t)) {
        fprintf(stderr, "there is no answer to try again\n");
    } else if (t->raw && *value) {
        fprintf(stderr, "of a raw text only the answer is tried again\n");
    } else if (t->raw) {
        t->text.bytes = t->asked;
        talk_answer(t);
    } else {
        json_array_remove(t->messages, --count);
        if (*value) json_array_remove(t->messages, --count);
        if (!*value || talk_add(t, "user", value)) talk_answer(t);
    }
}

static void edit(Talk *t, const char *value)
{
    const char *said = talk_said(t);
    if (!said) {
        fprintf(stderr, "there is no answer to edit\n");
        return;
    }
    char *text = *value ? strdup(value) : terminal_edit(&t->terminal, said);
    if (text) talk_continue(t, text);
    free(text);
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
        t->text.bytes = t->asked = 0;
        for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;) append_text(&t->text, part, n);
        if (ferror(f)) fprintf(stderr, "%s: %s\n", path, strerror(errno));
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

// --- how it is answered --------------------------------------------------------------------------

// Of a number from low to high; -1 after a line on stderr.
static double number(const char *value, double low, double high)
{
    char *end;
    double n = strtod(value, &end);
    if (end != value && !*end && n >= low && n <= high) return n;
    fprintf(stderr, "'%s': expected a number from %g to %g\n", value, low, high);
    return -1;
}

static void set_length(Talk *t, const char *value)
{
    double n = number(value, 1, INT32_MAX);
    if (n >= 0) t->max_tokens = (int)n;
}

static void set_temperature(Talk *t, const char *value)
{
    double n = number(value, 0, 100);
    if (n >= 0) t->sampler.temperature = (float)n;
}

static void set_thinking(Talk *t, const char *value)
{
    int on = strcmp(value, "on") == 0 || (!*value && t->thinks != 1);
    if (t->raw || !chat_knows_thinking(&t->chat)) {
        fprintf(stderr, "the template has no switch for reasoning\n");
    } else if (*value && !on && strcmp(value, "off") != 0) {
        fprintf(stderr, "'%s': expected on or off\n", value);
    } else {
        t->thinks = on;
        fprintf(stderr, "reasoning is %s\n", on ? "on" : "off");
    }
}

// Bans a text, or allows it again; without one lists what is banned.
static void ban(Talk *t, const char *value)
{
    size_t n = strlen(value);
    if (n > 1 && *value == '"' && value[n - 1] == '"') value++, n -= 2; // spaces at its ends
    for (int i = 0; !n && i < t->banned_count; i++) fprintf(stderr, "\"%s\"\n", t->banned[i]);
    if (!n) return;
    for (int i = 0; i < t->banned_count; i++)
        if (strlen(t->banned[i]) == n && memcmp(t->banned[i], value, n) == 0) {
            free(t->banned[i]);
            t->banned[i] = t->banned[--t->banned_count];
            return;
        }
    char *text = strndup(value, n);
    t->banned = realloc(t->banned, (size_t)(t->banned_count + 1) * sizeof *t->banned);
    if (!text || !t->banned) fail("out of memory");
    t->banned[t->banned_count++] = text;
}

// --- what is shown -------------------------------------------------------------------------------

static void show_speed(Talk *t, const char *value)
{
    (void)value;
    t->show_speed = !t->show_speed;
}

static void show_likely(Talk *t, const char *value)
{
    double n = *value ? number(value, 0, 20) : t->likely < 0 ? 3 : 0;
    if (n >= 0) t->likely = n > 0 ? (int)n : -1;
}

static void show_tokens(Talk *t, const char *value)
{
    (void)value;
    for (int i = 0; i < t->drawn_count; i++) {
        fprintf(stderr, "%6d ", t->drawn[i]);
        print_token(t->writer.tokens, t->drawn[i], NAN);
        fputs("\n", stderr);
    }
}

// The Nth last block between lines of ```, without those lines.
static const char *find_block(const char *text, int nth, size_t *bytes)
{
    int count = 0;
    for (int round = 0; round < 2; round++) {
        int inside = 0, at = 0;
        const char *begin = NULL;
        for (const char *line = text, *next; line; line = next) {
            next = strchr(line, '\n');
            if (next) next++;
            if (strncmp(line, "```", 3) != 0) continue;
            inside = !inside;
            if (inside) {
                begin = next;
                continue;
            }
            *bytes = (size_t)(line - begin);
            if (round && at == count - nth) return begin;
            at++;
        }
        count = at;
        if (nth > count) return NULL;
    }
    return NULL;
}

static void copy_block(Talk *t, const char *value)
{
    const char *said = talk_said(t), *block;
    double n = *value ? number(value, 1, 1000) : 1;
    size_t bytes;
    if (n < 0) return;
    if (!said || !(block = find_block(said, (int)n, &bytes)))
        fprintf(stderr, "there is no such block of code\n");
    else if (terminal_copy(&t->terminal, block, bytes) != 0)
        fprintf(stderr, "without a terminal there is no clipboard\n");
}

static void toggle_lines(Talk *t, const char *value)
{
    (void)value;
    t->several_lines = !t->several_lines;
    fprintf(stderr, "a message is %s\n",
            t->several_lines ? "several lines, up to one with a dot alone" : "one line");
}

static void leave(Talk *t, const char *value)
{
    (void)value;
    t->over = 1;
}

// --- the commands --------------------------------------------------------------------------------

static void help(Talk *t, const char *value);

static const struct {
    const char *name, *letter, *value; // value in brackets: it may be left out
    void (*run)(Talk *t, const char *value);
    const char *help;
} commands[] = {
    {"/help", "/h", "", help, "this list"},
    {"/clear", "", "", clear, "forget the conversation"},
    {"/system", "/sp", "[TEXT]", set_system, "start over with another system message, or none"},
    {"/retry", "/r", "[TEXT]", retry, "answer the last message again, or this one in its place"},
    {"/edit", "/e", "[TEXT]", edit, "continue the last answer as you edit it, or as this"},
    {"/save", "", "FILE", save, "the conversation"},
    {"/load", "", "FILE", load, "one that was saved"},
    {"/n", "", "TOKENS", set_length, "at most so many in an answer"},
    {"/temp", "", "TEMPERATURE", set_temperature, "0: always the likeliest token"},
    {"/think", "", "[on|off]", set_thinking, "reason before answering, or do not"},
    {"/ban", "", "[TEXT]", ban, "no answer has this text; again: it may; alone: list them"},
    {"/mli", "", "", toggle_lines, "messages of several lines, or of one"},
    {"/cc", "", "[N]", copy_block, "copy the last block of code, or the Nth last"},
    {"/tps", "", "", show_speed, "the speed behind answers, or not"},
    {"/probs", "", "[N]", show_likely, "tokens with their N likeliest behind answers; 0: not"},
    {"/t", "", "", show_tokens, "the tokens of the last answer"},
    {"/exit", "/x", "", leave, "as Ctrl-D does"},
};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void help(Talk *t, const char *value)
{
    (void)t, (void)value;
    for (int i = 0; i < COMMANDS; i++)
        fprintf(stderr, "%-8s %-4s %-12s %s\n", commands[i].name, commands[i].letter,
                commands[i].value, commands[i].help);
}

void talk_obey(Talk *t, const char *line)
{
    size_t n = strcspn(line, " ");
    const char *value = line + n + strspn(line + n, " ");
    for (int i = 0; i < COMMANDS; i++) {
        const char *names[] = {commands[i].name, commands[i].letter};
        for (int k = 0; k < 2; k++) {
            if (strlen(names[k]) != n || memcmp(names[k], line, n) != 0) continue;
            if (commands[i].value[0] && commands[i].value[0] != '[' && !*value)
                fprintf(stderr, "%s needs %s\n", commands[i].name, commands[i].value);
            else if (!commands[i].value[0] && *value)
                fprintf(stderr, "%s takes no value\n", commands[i].name);
            else
                commands[i].run(t, value);
            return;
        }
    }
    fprintf(stderr, "there is no command %.*s; /help lists them\n", (int)(n < 40 ? n : 40), line);
}
