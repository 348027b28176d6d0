// What stands around the constrained part of a reply: reasoning before it, and the calls of tools,
// in the formats that reply.c reads.
#pragma once
#include "grammar.h"
#include "reply.h"

// The rule of a reply whose content is `body`, or that makes `calls`: rules, of which one may be
// negative. It comes behind the reasoning that the prompt began, or that the reply may begin. NULL
// format: the body alone.
int frame_reply(Grammar *g, const ReplyFormat *f, Reasoning reasoning, int body, int calls);
// The rule of calls of a request's tools: all of them, or of `name` where that is not NULL; one
// call or any number. `template_text` tells formats apart that have the same marks. -1 and a
// failure where the format cannot be forced.
int frame_calls(Grammar *g, const ReplyFormat *f, const char *template_text, const json_t *tools,
                const char *name, int single);
