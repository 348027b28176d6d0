// What the commands that make text share.
#pragma once
#include "chat.h"
#include "constrain.h"
#include "generate.h"
#include "options.h"

typedef struct {
    Model model;
    Tokens *tokens;
    Generator generator;
} Writer;

// Model and generator as the options ask, `embeds`: also for jobs with a vector; takes the tokens
// over. Exits on failure.
void open_writer(Writer *w, const Options *o, Tokens *tokens, int embeds);
void close_writer(Writer *w);

SamplerOptions choose_sampler(const Options *o);
// Exits when --think asks for what the template has no switch for.
void check_thinking(const Options *o, const Chat *chat);
// What --grammar-file and --json-schema ask for, for a text or for the reply to a prompt; NULL when
// they do not. The caller closes it. Exits on failure.
Matcher *choose_matcher(const Options *o, ChatPrompt *prompt);
// What a job says: printed as it comes, content on stdout, reasoning on stderr, and kept.
typedef struct {
    TokenText content, reasoning;
    // private
    Reply reply;
    size_t read; // of the job's text
    int quiet, dim;
} Speech;

// Makes *s the job's listener until it is closed, before the job is submitted. `prompt` is what the
// job answers, NULL for raw text; `quiet` prints nothing.
void speech_open(Speech *s, Job *job, const Chat *chat, const ChatPrompt *prompt, int quiet);
// What was coloured is no longer, after the last part.
void speech_rest(Speech *s);
void speech_close(Speech *s);

// On stderr: a token's text in quotes, and its probability unless the logarithm is NAN.
void print_token(const Tokens *t, int32_t id, float logprob);

// Exits when there is no memory.
void append_text(TokenText *text, const char *data, size_t bytes);
// Runs a job to its end on this thread; exits when it fails.
void write_job(Writer *w, Job *job);
