// Lines by libedit, the rest by escape sequences.
#include "terminal.h"
#include "base64.h"
#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIM "\033[2m"
#define BRIGHT "\033[1;32m"
#define PLAIN "\033[0m"

static volatile sig_atomic_t interrupted;
static int within_message;

static void on_interrupt(int signal)
{
    (void)signal;
    interrupted = 1;
}

int terminal_interrupted(void)
{
    int was = interrupted;
    interrupted = 0;
    return was;
}

// --- colours -------------------------------------------------------------------------------------

int terminal_colours(void)
{
    const char *forbidden = getenv("NO_COLOR"), *term = getenv("TERM");
    return isatty(2) && !(forbidden && *forbidden) && term && strcmp(term, "dumb") != 0;
}

const char *terminal_dim(void)
{
    return terminal_colours() ? DIM : "";
}

const char *terminal_plain(void)
{
    return terminal_colours() ? PLAIN : "";
}

// --- lines ---------------------------------------------------------------------------------------

// libedit takes what stands between \1 as of no width.
static char *prompt_text(EditLine *editor)
{
    (void)editor;
    if (!terminal_colours()) return within_message ? ". " : "> ";
    return within_message ? "\1" BRIGHT "\1. \1" PLAIN "\1" : "\1" BRIGHT "\1> \1" PLAIN "\1";
}

void terminal_open(Terminal *t, const char *name)
{
    HistEvent event;
    *t = (Terminal){0};
    if (!isatty(0) || !isatty(2)) return;
    setlocale(LC_CTYPE, "");
    t->editor = el_init(name, stdin, stderr, stderr);
    t->history = history_init();
    if (!t->editor || !t->history) return;
    history(t->history, &event, H_SETSIZE, 1000);
    el_set(t->editor, EL_PROMPT_ESC, prompt_text, '\1');
    el_set(t->editor, EL_EDITOR, "emacs");
    el_set(t->editor, EL_HIST, history, t->history);
    el_set(t->editor, EL_SIGNAL, 1);
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
}

void terminal_close(Terminal *t)
{
    if (t->editor) el_end(t->editor);
    if (t->history) history_end(t->history);
    free(t->line);
}

const char *terminal_line(Terminal *t, int within)
{
    ssize_t bytes;
    within_message = within;
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
    interrupted = 0;
    return t->line;
}

// --- editor and clipboard ------------------------------------------------------------------------

static char *read_back(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t room = 0;
    ssize_t bytes = f ? getdelim(&text, &room, 0, f) : -1;
    if (f) fclose(f);
    if (bytes < 0) { // an empty file, too
        free(text);
        return f ? strdup("") : NULL;
    }
    // Editors end the last line.
    if (bytes && text[bytes - 1] == '\n') text[bytes - 1] = 0;
    return text;
}

char *terminal_edit(const Terminal *t, const char *text)
{
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR"), *dir = getenv("TMPDIR");
    char path[256], command[512], *result = NULL;
    if (!t->editor) {
        fprintf(stderr, "without a terminal there is nothing to edit with\n");
        return NULL;
    }
    if (visual && *visual) editor = visual;
    if (!editor || !*editor) editor = "vi";
    snprintf(path, sizeof path, "%.200s/exlc-chat-XXXXXX", dir && *dir ? dir : "/tmp");
    int fd = mkstemp(path);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    int bad = !f || fprintf(f, "%s\n", text) < 0;
    if (f) bad |= fclose(f) != 0;
    if (bad) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    } else if (snprintf(command, sizeof command, "%s \"%s\"", editor, path) >=
                   (int)sizeof command ||
               system(command) != 0) {
        fprintf(stderr, "the editor '%.200s' did not end well\n", editor);
    } else if (!(result = read_back(path))) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
    }
    if (fd >= 0) unlink(path);
    return result;
}

int terminal_copy(const Terminal *t, const char *text, size_t bytes)
{
    char *packed = t->editor ? base64_text(text, bytes) : NULL;
    if (packed) fprintf(stderr, "\033]52;c;%s\a", packed);
    free(packed);
    return packed ? 0 : -1;
}
