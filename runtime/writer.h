// What the commands that make text share.
#pragma once
#include "generate.h"
#include "options.h"

typedef struct {
    Model model;
    Tokens *tokens;
    Generator generator;
} Writer;

// Model and generator as the options ask; takes the tokens over. Exits on failure.
void open_writer(Writer *w, const Options *o, Tokens *tokens);
void close_writer(Writer *w);

SamplerOptions choose_sampler(const Options *o);
// For Job.changed: prints the text that has been decided. Job.owner points to the bytes shown.
void print_text(Job *job);
// Runs a job to its end on this thread; exits when it fails.
void write_job(Writer *w, Job *job);
