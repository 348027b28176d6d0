// A conversation in the terminal, and the commands that its lines may be.
#pragma once
#include "terminal.h"
#include "writer.h"

typedef struct {
    const Options *options;
    Writer writer;
    Chat chat;
    Terminal terminal;
    SamplerOptions sampler;
    int raw, max_tokens, show_speed;
    int likely;        // tokens shown beside each drawn one; -1: none is shown
    int several_lines; // a message ends with a line "."
    int thinks;        // -1: as the template has it
    int over;
    json_t *messages; // of a conversation
    TokenText text;   // of --raw: all that was typed and written,
    size_t asked;     // the last answer begins here; 0: there is none
    int32_t *drawn;   // (drawn_count) ids of the last answer
    int drawn_count;
    char **banned; // (banned_count)
    int banned_count;
} Talk;

// The conversation's next answer; after a failure, which is a line on stderr, what was asked is
// taken back.
void talk_answer(Talk *t);
// The answer that ends the conversation goes on. `said` is shown first; what fails changes nothing.
void talk_continue(Talk *t, const char *said);
// Returns the message, which is the conversation's, or NULL after a line on stderr.
json_t *talk_add(Talk *t, const char *role, const char *content);
// The last answer's text, or NULL.
const char *talk_said(const Talk *t);

// A line that begins with a slash.
void talk_obey(Talk *t, const char *line);
