// The parts of a model's reply: reasoning, content, tool calls.
#include "reply.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- formats -------------------------------------------------------------------------------------

enum { CONTENT, REASONING, CALL, HEADER }; // modes

// What a tag does.
typedef enum {
    CALL_BEGIN = 1,
    CALL_END,
    DROP, // it only frames others
    HEADER_BEGIN,
    HEADER_END,
    PART_END,
    REASONING_BEGIN,
    REASONING_END
} Action;

typedef struct {
    const char *text;
    Action action;
} Tag;

typedef struct CallFormat {
    const char *name;
    const char *needles[2]; // a template with all of them speaks this format
    Tag tags[7];
    int bare; // a reply that begins with '{' is a call without any tag
} CallFormat;

// In this order they are tried. What stands between the tags of a call tells its own shape: see
// give_calls.
static const CallFormat call_formats[] = {
    {.name = "harmony",
     .needles = {"<|channel|>", "<|message|>"},
     .tags = {{"<|start|>", HEADER_BEGIN},
              {"<|channel|>", HEADER_BEGIN},
              {"<|message|>", HEADER_END},
              {"<|end|>", PART_END},
              {"<|return|>", PART_END},
              {"<|call|>", PART_END}}},
    {.name = "deepseek",
     .needles = {"<｜tool▁call▁begin｜>"},
     .tags = {{"<｜tool▁calls▁begin｜>", DROP},
              {"<｜tool▁call▁begin｜>", CALL_BEGIN},
              {"<｜tool▁call▁end｜>", CALL_END},
              {"<｜tool▁calls▁end｜>", DROP}}},
    {.name = "minimax",
     .needles = {"<minimax:tool_call>"},
     .tags = {{"<minimax:tool_call>", CALL_BEGIN}, {"</minimax:tool_call>", CALL_END}}},
    {.name = "tool_call", // Hermes, Qwen, GLM
     .needles = {"<tool_call>"},
     .tags = {{"<tool_call>", CALL_BEGIN}, {"</tool_call>", CALL_END}}},
    {.name = "bracketed", .needles = {"[TOOL_CALLS]"}, .tags = {{"[TOOL_CALLS]", CALL_BEGIN}}},
    {.name = "command",
     .needles = {"<|START_ACTION|>"},
     .tags = {{"<|START_ACTION|>", CALL_BEGIN},
              {"<|END_ACTION|>", CALL_END},
              {"<|START_RESPONSE|>", DROP},
              {"<|END_RESPONSE|>", DROP}}},
    {.name = "command-r",
     .needles = {"Action:", "tool_name"},
     .tags = {{"Action: ```json", CALL_BEGIN}, {"Action:```json", CALL_BEGIN}, {"```", CALL_END}}},
    {.name = "python_tag",
     .needles = {"<|python_tag|>"},
     .tags = {{"<|python_tag|>", CALL_BEGIN}, {"<|eom_id|>", DROP}},
     .bare = 1},
    {.name = "python_tag",
     .needles = {"\"parameters\": dictionary of argument name"},
     .tags = {{"<|python_tag|>", CALL_BEGIN}, {"<|eom_id|>", DROP}},
     .bare = 1},
    {.name = "plain"}};

static const char *const reasoning_marks[][2] = {{"<think>", "</think>"},
                                                 {"[THINK]", "[/THINK]"},
                                                 {"<seed:think>", "</seed:think>"},
                                                 {"<|START_THINKING|>", "<|END_THINKING|>"}};

ReplyFormat reply_format(const char *template_text)
{
    ReplyFormat f = {0};
    const CallFormat *c = call_formats;
    for (; c->needles[0]; c++) {
        int second = !c->needles[1] || strstr(template_text, c->needles[1]);
        if (second && strstr(template_text, c->needles[0])) break;
    }
    f.calls = c;
    f.name = c->name;
    for (size_t i = 0; !f.open_mark && i < sizeof reasoning_marks / sizeof *reasoning_marks; i++) {
        if (!strstr(template_text, reasoning_marks[i][1])) continue;
        f.open_mark = reasoning_marks[i][0];
        f.close_mark = reasoning_marks[i][1];
    }
    return f;
}

static int is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static int ends_with(const char *text, size_t bytes, const char *end)
{
    size_t n = strlen(end);
    return bytes >= n && memcmp(text + bytes - n, end, n) == 0;
}

Reasoning reply_reasoning(const ReplyFormat *f, const char *prompt, size_t bytes)
{
    if (!f->open_mark) return REASONING_MAY;
    while (bytes && is_blank(prompt[bytes - 1])) bytes--;
    if (ends_with(prompt, bytes, f->open_mark)) return REASONING_OPEN;
    return ends_with(prompt, bytes, f->close_mark) ? REASONING_OVER : REASONING_MAY;
}

enum { TAGS = 9 }; // of reasoning and of calls

static Tag tag_at(const ReplyFormat *f, int i)
{
    if (i == 0) return (Tag){f->open_mark, REASONING_BEGIN};
    if (i == 1) return (Tag){f->close_mark, REASONING_END};
    return f->calls->tags[i - 2];
}

int reply_is_mark(const ReplyFormat *f, const char *text, size_t bytes)
{
    static const char *const within[] = {"<｜tool▁sep｜>", "[CALL_ID]", "[ARGS]", "<|constrain|>"};
    for (size_t i = 0; i < TAGS + sizeof within / sizeof *within; i++) {
        const char *mark = i < TAGS ? tag_at(f, (int)i).text : within[i - TAGS];
        if (mark && strlen(mark) == bytes && memcmp(mark, text, bytes) == 0) return 1;
    }
    return 0;
}

// --- JSON as text --------------------------------------------------------------------------------

typedef struct {
    const char *at, *end;
} Span;

static Span trim(Span s)
{
    while (s.at < s.end && is_blank(*s.at)) s.at++;
    while (s.end > s.at && is_blank(s.end[-1])) s.end--;
    return s;
}

// The comma, colon or bracket behind the JSON value at `at`, which is known to be valid.
static const char *skip_value(const char *at, const char *end)
{
    int depth = 0, inside = 0;
    for (; at < end; at++) {
        if (inside) {
            if (*at == '\\')
                at++;
            else if (*at == '"')
                inside = 0;
        } else if (*at == '"') {
            inside = 1;
        } else if (*at == '{' || *at == '[') {
            depth++;
        } else if (*at == '}' || *at == ']') {
            if (depth-- == 0) return at;
        } else if (depth == 0 && (*at == ',' || *at == ':')) {
            return at;
        }
    }
    return end;
}

// The text of a member of a valid JSON object, as it was written; empty when there is none.
static Span member(Span object, const char *key)
{
    size_t bytes = strlen(key);
    for (const char *at = object.at + 1; at < object.end;) {
        Span name = trim((Span){at, skip_value(at, object.end)});
        const char *value = skip_value(at, object.end);
        if (value >= object.end || *value != ':') break;
        Span text = trim((Span){value + 1, skip_value(value + 1, object.end)});
        if ((size_t)(name.end - name.at) == bytes + 2 && memcmp(name.at + 1, key, bytes) == 0)
            return text;
        at = skip_value(value + 1, object.end) + 1;
    }
    return (Span){NULL, NULL};
}

// --- calls ---------------------------------------------------------------------------------------

static json_t *parse(Span s, size_t *consumed)
{
    json_error_t where;
    json_t *json = json_loadb(s.at, (size_t)(s.end - s.at),
                              JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &where);
    if (json) *consumed = (size_t)where.position;
    return json;
}

static void give(Reply *r, const char *id, Span name, Span arguments)
{
    char text[256];
    size_t bytes = (size_t)(name.end - name.at);
    if (bytes >= sizeof text) bytes = sizeof text - 1;
    memcpy(text, name.at, bytes);
    text[bytes] = 0;
    static const char none[] = "{}";
    if (arguments.at == arguments.end) arguments = (Span){none, none + 2};
    r->sink.call(r->sink.to, id, text, arguments.at, (size_t)(arguments.end - arguments.at));
}

static const json_t *first_of(const json_t *object, const char *a, const char *b)
{
    const json_t *v = json_object_get(object, a);
    return v ? v : json_object_get(object, b);
}

// {"name": ..., "arguments": ...} or what comes close; 0 when it is no call.
static int give_object(Reply *r, const json_t *json, Span text)
{
    const json_t *inner = json_object_get(json, "function");
    if (json_is_object(inner)) return give_object(r, inner, member(text, "function"));
    const json_t *name = first_of(json, "name", "tool_name");
    const json_t *arguments = first_of(json, "arguments", "parameters");
    if (!json_is_string(name)) return 0;
    Span raw = member(text, json_object_get(json, "arguments") ? "arguments" : "parameters");
    if (json_is_string(arguments)) { // JSON within JSON
        raw.at = json_string_value(arguments);
        raw.end = raw.at + json_string_length(arguments);
    } else if (arguments && !json_is_object(arguments)) {
        return 0;
    }
    const char *id = json_string_value(first_of(json, "id", "tool_call_id"));
    const char *s = json_string_value(name);
    give(r, id, (Span){s, s + json_string_length(name)}, raw);
    return 1;
}

// Objects, or lists of them, with nothing, ";" or "," between; 0 unless all are calls.
static int give_json(Reply *r, Span s)
{
    int calls = 0;
    for (s = trim(s); s.at < s.end;) {
        size_t consumed = 0, i;
        json_t *json = parse(s, &consumed), *item;
        int good = json_is_object(json) && give_object(r, json, (Span){s.at, s.at + consumed});
        const char *at = s.at + 1;
        if (json_is_array(json)) json_array_foreach(json, i, item)
            {
                const char *end = skip_value(at, s.end);
                good = json_is_object(item) && give_object(r, item, trim((Span){at, end}));
                at = end + 1;
                if (!good) break;
            }
        json_decref(json);
        if (!good) return calls;
        calls++;
        s.at += consumed;
        while (s.at < s.end && (is_blank(*s.at) || *s.at == ';' || *s.at == ',')) s.at++;
    }
    return calls;
}

// What the tools say of an argument's type: 1 string, 0 something else, -1 nothing.
static int is_string_argument(const json_t *tools, Span function, Span argument)
{
    size_t i;
    json_t *tool;
    json_array_foreach(tools, i, tool)
    {
        const json_t *f = json_object_get(tool, "function");
        const char *name = json_string_value(json_object_get(f ? f : tool, "name"));
        size_t bytes = (size_t)(function.end - function.at);
        if (!name || strlen(name) != bytes || memcmp(name, function.at, bytes) != 0) continue;
        const json_t *parameters = json_object_get(f ? f : tool, "parameters");
        const json_t *properties = json_object_get(parameters, "properties");
        const json_t *property =
            json_object_getn(properties, argument.at, (size_t)(argument.end - argument.at));
        const char *type = json_string_value(json_object_get(property, "type"));
        return type ? strcmp(type, "string") == 0 : -1;
    }
    return -1;
}

// Adds an argument of an XML format, whose value is plain text, to the object.
static void add_argument(Reply *r, json_t *object, Span function, Span name, Span value)
{
    size_t consumed = 0;
    json_t *v = NULL;
    if (is_string_argument(r->tools, function, name) != 1) {
        Span t = trim(value);
        v = parse(t, &consumed);
        if (v && (consumed != (size_t)(t.end - t.at) || json_is_string(v))) {
            json_decref(v);
            v = NULL;
        }
    }
    if (!v) v = json_stringn(value.at, (size_t)(value.end - value.at));
    json_object_setn_new(object, name.at, (size_t)(name.end - name.at), v);
}

static void give_arguments(Reply *r, Span name, json_t *object)
{
    char *text = json_dumps(object, JSON_REAL_PRECISION(16));
    if (text) give(r, NULL, name, (Span){text, text + strlen(text)});
    free(text);
    json_decref(object);
}

// The text between two marks behind *at, which moves behind the second; 0 when they are not there.
static int between(const char **at, const char *end, const char *open, const char *close,
                   Span *found)
{
    const char *a = memmem(*at, (size_t)(end - *at), open, strlen(open));
    if (!a) return 0;
    a += strlen(open);
    const char *b = memmem(a, (size_t)(end - a), close, strlen(close));
    if (!b) return 0;
    *found = (Span){a, b};
    *at = b + strlen(close);
    return 1;
}

// One newline at both ends of a value belongs to the layout.
static Span strip_newlines(Span s)
{
    if (s.at < s.end && *s.at == '\n') s.at++;
    if (s.at < s.end && s.end[-1] == '\n') s.end--;
    return s;
}

// The marks of a format in which arguments are elements.
typedef struct {
    const char *call, *call_end, *call_close;
    const char *key, *key_end, *value, *value_end;
} Elements;

// <function=NAME> <parameter=KEY> VALUE </parameter> </function>, and other spellings of it.
static int give_elements(Reply *r, Span s, const Elements *e)
{
    int calls = 0;
    Span name, body, key, value;
    while (between(&s.at, s.end, e->call, e->call_end, &name)) {
        const char *close =
            memmem(s.at, (size_t)(s.end - s.at), e->call_close, strlen(e->call_close));
        body = (Span){s.at, close ? close : s.end};
        s.at = body.end;
        json_t *object = json_object();
        while (between(&body.at, body.end, e->key, e->key_end, &key) &&
               between(&body.at, body.end, e->value, e->value_end, &value))
            add_argument(r, object, trim(name), trim(key), strip_newlines(value));
        give_arguments(r, trim(name), object);
        calls++;
    }
    return calls;
}

// GLM: NAME <arg_key>K</arg_key> <arg_value>V</arg_value> ...
static int give_pairs(Reply *r, Span s)
{
    Span key, value, name = {s.at, memmem(s.at, (size_t)(s.end - s.at), "<arg_key>", 9)};
    if (!name.end) name.end = s.end;
    name = trim(name);
    if (name.at == name.end || memchr(name.at, ' ', (size_t)(name.end - name.at))) return 0;
    json_t *object = json_object();
    while (between(&s.at, s.end, "<arg_key>", "</arg_key>", &key) &&
           between(&s.at, s.end, "<arg_value>", "</arg_value>", &value))
        add_argument(r, object, name, trim(key), value);
    give_arguments(r, name, object);
    return 1;
}

// NAME, perhaps [CALL_ID] ID, a mark, and the arguments as JSON, perhaps within ``` fences and
// behind the name of a type.
static int give_marked(Reply *r, Span s, const char *mark)
{
    const char *at = memmem(s.at, (size_t)(s.end - s.at), mark, strlen(mark)), *fence;
    Span name = trim((Span){s.at, at}), arguments = trim((Span){at + strlen(mark), s.end});
    if ((fence = memmem(arguments.at, (size_t)(arguments.end - arguments.at), "```json", 7))) {
        name = trim((Span){arguments.at, fence});
        arguments.at = fence + 7;
        const char *close = memmem(arguments.at, (size_t)(arguments.end - arguments.at), "```", 3);
        if (close) arguments.end = close;
    }
    char id[64] = "";
    const char *with_id = memmem(name.at, (size_t)(name.end - name.at), "[CALL_ID]", 9);
    if (with_id) {
        snprintf(id, sizeof id, "%.*s", (int)(name.end - with_id - 9), with_id + 9);
        name.end = with_id;
    }
    size_t consumed = 0;
    arguments = trim(arguments);
    json_t *json = parse(arguments, &consumed);
    int good = json_is_object(json) && name.at < name.end;
    if (good) give(r, *id ? id : NULL, name, (Span){arguments.at, arguments.at + consumed});
    json_decref(json);
    return good;
}

// The calls between two tags, whose shape tells how to read them; 0 when there are none.
static int give_calls(Reply *r, Span s)
{
    static const Elements functions = {
        "<function=", ">", "</function>", "<parameter=", ">", "", "</parameter>"};
    static const Elements minimax = {
        "<invoke name=\"", "\">", "</invoke>", "<parameter name=\"", "\">", "", "</parameter>"};
    size_t bytes = (size_t)(s.end - s.at);
    if (!bytes) return 0;
    if (*r->recipient) {
        give(r, NULL, (Span){r->recipient, r->recipient + strlen(r->recipient)}, s);
        return 1;
    }
    if (*s.at == '{' || *s.at == '[') return give_json(r, s);
    if (memmem(s.at, bytes, "<function=", 10)) return give_elements(r, s, &functions);
    if (memmem(s.at, bytes, "<invoke name=", 13)) return give_elements(r, s, &minimax);
    if (memmem(s.at, bytes, "<｜tool▁sep｜>", strlen("<｜tool▁sep｜>")))
        return give_marked(r, s, "<｜tool▁sep｜>");
    if (memmem(s.at, bytes, "[ARGS]", 6)) return give_marked(r, s, "[ARGS]");
    if (strcmp(r->format.name, "tool_call") == 0) return give_pairs(r, s);
    return 0;
}

// --- the stream ----------------------------------------------------------------------------------

void reply_open(Reply *r, ReplyFormat f, int in_reasoning, const json_t *tools, ReplySink sink)
{
    *r = (Reply){.format = f, .tools = tools, .sink = sink};
    r->mode = in_reasoning ? REASONING : CONTENT;
    r->fresh = in_reasoning; // white space at the start of a part is layout
}

static void drop(Reply *r, size_t bytes)
{
    r->bytes -= bytes;
    memmove(r->text, r->text + bytes, r->bytes);
    r->searched = r->searched > bytes ? r->searched - bytes : 0;
}

// Gives away the first bytes as text of the current part. White space at their end is kept back
// while what follows is unknown, and dropped where the part ends.
static void give_text(Reply *r, size_t bytes, int part_ends)
{
    size_t start = 0, end = bytes;
    if (r->fresh)
        while (start < bytes && is_blank(r->text[start])) start++;
    while (end > start && is_blank(r->text[end - 1])) end--;
    if (end > start) {
        r->sink.text(r->sink.to, r->mode == REASONING, r->text + start, end - start);
        r->fresh = 0;
        r->started |= r->mode == CONTENT;
        r->spoken |= r->mode == CONTENT;
    }
    drop(r, part_ends || r->fresh ? bytes : end);
}

static int calls_have_ends(const Reply *r)
{
    for (const Tag *t = r->format.calls->tags; t->text; t++)
        if (t->action == CALL_END) return 1;
    return 0;
}

// The tags that count in a mode.
static int counts(const Reply *r, Action a)
{
    if (r->format.constrained && r->spoken) return 0;
    if (a == REASONING_BEGIN) return r->mode == CONTENT;
    if (a == REASONING_END || a == DROP) return r->mode == CONTENT || r->mode == REASONING;
    if (a == CALL_BEGIN)
        return r->tools && (r->mode == CONTENT || (r->mode == CALL && !calls_have_ends(r)));
    if (a == CALL_END) return r->mode == CALL;
    return a == HEADER_END ? r->mode == HEADER : r->mode != HEADER;
}

// The first tag in what was read; without one, *wait is where one could begin.
static const char *find_tag(Reply *r, Tag *found, size_t *wait)
{
    const char *first = NULL, *end = r->text + r->bytes;
    *wait = r->bytes;
    for (int i = 0; i < TAGS; i++) {
        Tag t = tag_at(&r->format, i);
        if (!t.text || !counts(r, t.action)) continue;
        size_t n = strlen(t.text);
        const char *at = memmem(r->text + r->searched, r->bytes - r->searched, t.text, n);
        if (at && (!first || at < first)) first = at, *found = t;
        for (size_t k = n - 1 < r->bytes ? n - 1 : r->bytes; k > 0; k--)
            if (memcmp(end - k, t.text, k) == 0) {
                if (r->bytes - k < *wait) *wait = r->bytes - k;
                break;
            }
    }
    if (!first) r->searched = *wait;
    return first;
}

// The end of a call: what is none after all is content, as it was written. Elements may have been
// cut off where their end is missing; JSON tells by itself.
static void end_call(Reply *r, size_t bytes, const char *close)
{
    Span s = trim((Span){r->text, r->text + bytes});
    int json = s.at < s.end && (*s.at == '{' || *s.at == '[');
    r->mode = CONTENT;
    int given = (close || json || !calls_have_ends(r)) && give_calls(r, s);
    if (!given) {
        if (r->opened) r->sink.text(r->sink.to, 0, r->opened, strlen(r->opened));
        if (bytes) r->sink.text(r->sink.to, 0, r->text, bytes);
        if (close) r->sink.text(r->sink.to, 0, close, strlen(close));
    }
    r->started = 1;
    r->fresh = given;
    *r->recipient = 0;
    drop(r, bytes);
}

// <|channel|>commentary to=functions.NAME <|constrain|>json, without the tag before it.
static void read_header(Reply *r, size_t bytes)
{
    const char *to = memmem(r->text, bytes, "to=functions.", 13);
    r->mode = memmem(r->text, bytes, "analysis", 8) ? REASONING : CONTENT;
    *r->recipient = 0;
    if (to && r->tools) {
        size_t n = 0;
        for (to += 13; to + n < r->text + bytes && !is_blank(to[n]) && to[n] != '<';) n++;
        if (n >= sizeof r->recipient) n = sizeof r->recipient - 1;
        memcpy(r->recipient, to, n);
        r->recipient[n] = 0;
        r->mode = CALL;
        r->opened = NULL;
    }
    drop(r, bytes);
}

static void pass_tag(Reply *r, Tag tag, size_t bytes)
{
    if (r->mode == CALL)
        end_call(r, bytes, tag.action == CALL_END ? tag.text : NULL);
    else if (r->mode == HEADER)
        read_header(r, bytes);
    else
        give_text(r, bytes, 1);
    drop(r, strlen(tag.text));
    r->searched = 0;
    if (tag.action != CALL_END) r->fresh = 1;
    if (tag.action == REASONING_BEGIN) r->mode = REASONING;
    if (tag.action == REASONING_END) r->mode = CONTENT;
    if (tag.action == HEADER_BEGIN) r->mode = HEADER;
    if (tag.action == PART_END) r->mode = CONTENT;
    if (tag.action == CALL_BEGIN) r->mode = CALL, r->opened = tag.text;
}

// A reply that begins with '{' may be a call as a whole.
static void look_for_bare_call(Reply *r)
{
    size_t i = 0;
    if (r->started || r->mode != CONTENT || !r->format.calls->bare || !r->tools) return;
    while (i < r->bytes && is_blank(r->text[i])) i++;
    if (i == r->bytes || r->text[i] != '{') return;
    r->mode = CALL;
    r->opened = NULL;
}

int reply_feed(Reply *r, const char *text, size_t bytes)
{
    if (r->bytes + bytes > r->room) {
        size_t room = 2 * (r->bytes + bytes) + 256;
        char *larger = realloc(r->text, room);
        if (!larger) return -1;
        r->text = larger;
        r->room = room;
    }
    if (bytes) memcpy(r->text + r->bytes, text, bytes);
    r->bytes += bytes;
    for (;;) {
        Tag tag = {NULL, 0};
        size_t wait;
        if (r->bytes) look_for_bare_call(r);
        const char *at = r->bytes ? find_tag(r, &tag, &wait) : NULL;
        if (!at) break;
        pass_tag(r, tag, (size_t)(at - r->text));
    }
    if (r->bytes && (r->mode == CONTENT || r->mode == REASONING)) give_text(r, r->searched, 0);
    return 0;
}

int reply_in_reasoning(const Reply *r)
{
    return r->mode == REASONING;
}

int reply_finish(Reply *r)
{
    if (r->mode == CALL) {
        end_call(r, r->bytes, NULL);
    } else if (r->mode != HEADER) { // nothing follows, so white space is text
        size_t start = 0;
        while (r->fresh && start < r->bytes && is_blank(r->text[start])) start++;
        if (start < r->bytes)
            r->sink.text(r->sink.to, r->mode == REASONING, r->text + start, r->bytes - start);
    }
    r->bytes = 0;
    return 0;
}

void reply_close(Reply *r)
{
    free(r->text);
    *r = (Reply){0};
}
