// Splits what a model writes into reasoning, content and tool calls, while it is written. The
// format is found in the text of the chat template; every format is a row of data in reply.c. Knows
// nothing of tokens or HTTP.
//
// The text must hold the special tokens spelled out (stream_open with skip_special 0): several
// formats are made of them.
#pragma once
#include <jansson.h>
#include <stddef.h>

typedef struct {
    const char *name;      // of the calls: "tool_call", "harmony", ...; "plain" for none
    const char *open_mark; // of reasoning: "<think>"; NULL without
    const char *close_mark;
    int constrained; // once there is content, nothing else follows, whatever it looks like
    // private
    const struct CallFormat *calls;
} ReplyFormat;

// The format that a chat template (its Jinja text) speaks.
ReplyFormat reply_format(const char *template_text);
// Whether a reply reasons: the prompt leaves it inside ("...<think>\n"), or behind that already
// ("...</think>\n"), or the model decides.
typedef enum { REASONING_MAY, REASONING_OPEN, REASONING_OVER } Reasoning;
Reasoning reply_reasoning(const ReplyFormat *f, const char *prompt, size_t bytes);

// 1 for a text that the format is made of: one of its tags, or a mark within calls.
int reply_is_mark(const ReplyFormat *f, const char *text, size_t bytes);

// Where the parts go, in the order of the text. Texts are valid during the call only.
typedef struct {
    void *to; // the first argument of both
    void (*text)(void *to, int reasoning, const char *text, size_t bytes);
    // `id` is NULL where the model gives none; `arguments` is the text of a JSON object, or what
    // the model wrote instead of one.
    void (*call)(void *to, const char *id, const char *name, const char *arguments, size_t bytes);
} ReplySink;

typedef struct {
    // private
    ReplyFormat format;
    const json_t *tools;
    ReplySink sink;
    int mode, fresh, started, spoken; // spoken: content was given
    const char *opened;               // the tag that began the call
    char recipient[128];              // of a call whose name stands in a header
    char *text;                       // read but not given away
    size_t bytes, room;
    size_t searched; // up to here no tag begins
} Reply;

// `tools` is the request's list or NULL (then calls stay content); it must outlive the reply and
// says which arguments of the XML formats are strings.
void reply_open(Reply *r, ReplyFormat f, int in_reasoning, const json_t *tools, ReplySink sink);
int reply_in_reasoning(const Reply *r); // what comes next is reasoning
// -1: out of memory; nothing more is given then.
int reply_feed(Reply *r, const char *text, size_t bytes);
// The end of the reply: gives what was held back.
int reply_finish(Reply *r);
void reply_close(Reply *r);
