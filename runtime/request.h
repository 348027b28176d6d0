// A request in the form of OpenAI's completions or chat completions, to jobs of the generator.
// Other families translate theirs to it.
#pragma once
#include "api.h"

// Refuses a body that is no object, and fields that are neither null, nor in the NULL-terminated
// list, nor such as every family has, or with chat 1 every one of chats. Fields with names of other
// servers get the ones they have here (foreign.h).
int request_check(json_t *body, int chat, const char *const *names, Refusal *r);
// Makes the answer with its jobs; chat 1: from messages, 0: from prompts. *out is the caller's even
// after a refusal, to be given to answer_free; it keeps the body. `prefix` begins its id.
int request_open(Api *api, const Family *family, const char *prefix, json_t *body, int chat,
                 Answer **out, Refusal *r);
// The tokens of the prompt that a chat's body would make, or -1. Takes the body, which may be NULL
// after a refusal.
int request_count(Api *api, json_t *body, Refusal *r);
// What the template makes of a chat's messages, tools and variables; NULL and a refusal.
json_t *request_text(const Api *api, const json_t *body, Refusal *r);

// The prompts of a field, a text, token ids or a list of either, up to `most`, into a->prompt.
int request_prompts(const Api *api, Answer *a, const char *field, int most, Refusal *r);
// The length of the answer (max_tokens -1: what there is room for), and whether the prompt, of
// field `name`, leaves room for it.
int request_fit(const Api *api, Job *job, const TokenList *prompt, const char *name, Refusal *r);
// Text to ids that the model has; flags of tokens_encode. `name` is the field for the refusal.
int request_encode(const Api *api, const char *text, size_t bytes, int flags, const char *name,
                   TokenList *out, Refusal *r);
