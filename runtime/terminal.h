// The terminal of a conversation: typed lines, Ctrl-C, colours, a text editor. Without a terminal
// lines come from standard input as they are, and there are no colours.
#pragma once
#include <stdio.h>

typedef struct {
    // private
    struct editline *editor; // NULL without a terminal
    struct history *history;
    char *line;
    size_t room;
} Terminal;

// What is on stderr is coloured: it is a terminal, and NO_COLOR does not forbid it.
int terminal_colours(void);
// Around what stands behind the answer's own text: "" without colours.
const char *terminal_dim(void);
const char *terminal_plain(void);

void terminal_open(Terminal *t, const char *name);
void terminal_close(Terminal *t);
// One line without its newline, valid until the next call; NULL at the end of input. Within a
// message of several lines the prompt differs.
const char *terminal_line(Terminal *t, int within);
// Ctrl-C since the last line was read or this was called.
int terminal_interrupted(void);
// A text as $VISUAL or $EDITOR left it, which the caller frees; NULL after a line on stderr.
char *terminal_edit(const Terminal *t, const char *text);
// Puts a text on the clipboard of the terminal (OSC 52); -1 where there is none.
int terminal_copy(const Terminal *t, const char *text, size_t bytes);
