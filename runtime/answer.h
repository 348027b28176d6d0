// What the answers of all families are made of: parts of replies, tokens, events.
#pragma once
#include "api.h"

int answer_finished(const Answer *a); // every job has ended
void answer_free(Answer *a);          // no job is the generator's; NULL is fine

// Numbers of our own would do with nine digits; those in a model's calls keep what they have.
#define ANSWER_JSON (JSON_COMPACT | JSON_REAL_PRECISION(16))

uint64_t random_bits(void);
// Bytes as a JSON string; what is no UTF-8 on its own becomes a replacement character.
json_t *answer_text(const char *text, size_t bytes);
// Makes choice i of a chat ready to be read.
void answer_begin(Answer *a, int i);
// Splits what has been decided since into a->said[i].deltas: objects with one of reasoning_content,
// content (texts) and tool_calls (a list of one call, arguments as text).
int answer_read(Answer *a, int i, Error *err);
// What such an object holds: a text, or the call.
typedef enum { PART_NONE, PART_REASONING, PART_TEXT, PART_CALL } Part;
Part answer_part(const json_t *delta, const json_t **value);
// Tokens from .. to-1 of a job, in the form of its endpoint; null when nobody asked.
json_t *answer_logprobs(const Api *api, const Answer *a, const Job *job, int from, int to);
// 0, or -1 and a refusal for a job that failed or was cut off.
int answer_good(const Job *job, Refusal *r);
// Appends "data: ...\n\n"; `named`: behind a line with the event's type. Releases the event.
int answer_event(TokenText *out, json_t *event, int named, Error *err);
