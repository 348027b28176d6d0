// Marks are special tokens, or their text where the vocabulary has them as text.
#include "frame.h"
#include "notation.h"
#include "schema.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static Expr mark(Grammar *g, const char *text)
{
    return grammar_either(g, 2, grammar_word(g, text), grammar_token(g, text, strlen(text)));
}

static Expr optional(Grammar *g, Expr e)
{
    return grammar_repeat(g, e, 0, 1);
}

// --- text up to a mark ---------------------------------------------------------------------------

enum { MOST_MARK = 64 }; // characters

static int characters(const char *text, uint32_t *c)
{
    const uint8_t *p = (const uint8_t *)text;
    int count = 0;
    for (utf8proc_int32_t one; *p && count < MOST_MARK; c[count++] = (uint32_t)one)
        p += utf8proc_iterate(p, -1, &one);
    return count;
}

// How much of the mark the text ends with, once `c` follows `k` characters of it (Knuth, Morris,
// Pratt; marks are short).
static int matched(const uint32_t *text, int k, uint32_t c)
{
    for (int n = k + 1; n > 0; n--)
        if (text[n - 1] == c && memcmp(text, text + k + 1 - n, (size_t)(n - 1) * sizeof *text) == 0)
            return n;
    return 0;
}

// Any text that ends with the first occurrence of a mark: a rule for each part of it that may have
// been read.
static Expr until(Grammar *g, const char *text)
{
    uint32_t c[MOST_MARK];
    int count = characters(text, c), rule[MOST_MARK] = {0};
    for (int k = 0; k < count; k++) rule[k] = grammar_fresh(g);
    for (int k = 0; k < count; k++) {
        Range known[MOST_MARK];
        int knowns = 0;
        Expr all = grammar_choice(g);
        grammar_add(g, all, grammar_token(g, text, strlen(text)));
        for (int i = 0; i < count; i++) {
            int next = matched(c, k, c[i]), seen = 0;
            for (int j = 0; j < knowns; j++) seen |= known[j].low == c[i];
            if (!next || seen) continue;
            known[knowns++] = (Range){c[i], c[i]};
            Expr one = grammar_class(g, &known[knowns - 1], 1, 0);
            grammar_add(g, all,
                        next == count ? one : grammar_join(g, 2, one, grammar_call(g, rule[next])));
        }
        grammar_add(
            g, all,
            grammar_join(g, 2, grammar_class(g, known, knowns, 1), grammar_call(g, rule[0])));
        grammar_define(g, rule[k], all);
    }
    return grammar_call(g, rule[0]);
}

// --- replies -------------------------------------------------------------------------------------

static Expr blank(Grammar *g)
{
    static const Range blanks[] = {{'\t', '\n'}, {'\r', '\r'}, {' ', ' '}};
    return grammar_repeat(g, grammar_class(g, blanks, 3, 0), 0, 4);
}

static int is_harmony(const ReplyFormat *f)
{
    return strcmp(f->name, "harmony") == 0;
}

// Of a reply in channels, what may come before what is said.
static Expr analysis(Grammar *g)
{
    return optional(g, grammar_join(g, 6, mark(g, "<|channel|>"), grammar_word(g, "analysis"),
                                    mark(g, "<|message|>"), until(g, "<|end|>"),
                                    mark(g, "<|start|>"), grammar_word(g, "assistant")));
}

static Expr harmony_reply(Grammar *g, int body)
{
    Expr json = grammar_join(g, 3, optional(g, grammar_word(g, " ")), mark(g, "<|constrain|>"),
                             grammar_word(g, "json"));
    Expr final = grammar_join(g, 5, mark(g, "<|channel|>"), grammar_word(g, "final"),
                              optional(g, json), mark(g, "<|message|>"), grammar_call(g, body));
    return grammar_join(g, 2, analysis(g), final);
}

int frame_reply(Grammar *g, const ReplyFormat *f, Reasoning reasoning, int body, int calls)
{
    int rule = grammar_fresh(g), harmony = f && is_harmony(f);
    Expr e = grammar_choice(g);
    if (body >= 0) grammar_add(g, e, harmony ? harmony_reply(g, body) : grammar_call(g, body));
    if (calls >= 0) grammar_add(g, e, grammar_call(g, calls));
    if (f && reasoning == REASONING_OPEN)
        e = grammar_join(g, 3, until(g, f->close_mark), blank(g), e);
    else if (f && f->open_mark && !harmony && reasoning == REASONING_MAY)
        e = grammar_join(g, 2,
                         optional(g, grammar_join(g, 3, mark(g, f->open_mark),
                                                  until(g, f->close_mark), blank(g))),
                         e);
    grammar_define(g, rule, e);
    return rule;
}

// --- calls ---------------------------------------------------------------------------------------

typedef struct {
    Grammar *g;
    const ReplyFormat *f;
    const char *template_text, *name; // the name of a tool, as JSON text
    int arguments;                    // rule
} Call;

static Expr object_call(const Call *c, const char *name_key, const char *arguments_key)
{
    Member members[] = {{name_key, c->name, 0}, {arguments_key, NULL, c->arguments}};
    return grammar_call(c->g, notation_members(c->g, members, 2));
}

// The name without its quotes, where it needs no escapes.
static Expr bare_name(const Call *c)
{
    if (strchr(c->name, '\\'))
        return grammar_fail(c->g, "a tool's name has characters that it cannot have");
    return grammar_text(c->g, c->name + 1, strlen(c->name) - 2);
}

static Expr deepseek_call(const Call *c)
{
    Grammar *g = c->g;
    int fenced = strstr(c->template_text, "```json") != NULL;
    Expr arguments = grammar_call(g, c->arguments);
    Expr e = fenced ? grammar_join(g, 6, grammar_word(g, "function"), mark(g, "<｜tool▁sep｜>"),
                                   bare_name(c), grammar_word(g, "\n```json\n"), arguments,
                                   grammar_word(g, "\n```"))
                    : grammar_join(g, 3, bare_name(c), mark(g, "<｜tool▁sep｜>"), arguments);
    return grammar_join(g, 3, mark(g, "<｜tool▁call▁begin｜>"), e, mark(g, "<｜tool▁call▁end｜>"));
}

static Expr command_call(const Call *c)
{
    Member members[] = {{"tool_call_id", "\"0\"", 0},
                        {"tool_name", c->name, 0},
                        {"parameters", NULL, c->arguments}};
    return grammar_call(c->g, notation_members(c->g, members, 3));
}

static Expr harmony_call(const Call *c)
{
    Grammar *g = c->g;
    Expr json = grammar_join(g, 2, mark(g, "<|constrain|>"), grammar_word(g, "json"));
    return grammar_join(g, 7, mark(g, "<|channel|>"), grammar_word(g, "commentary to=functions."),
                        bare_name(c), grammar_word(g, " "), optional(g, json),
                        mark(g, "<|message|>"), grammar_call(g, c->arguments));
}

static Expr tagged_call(const Call *c)
{
    Grammar *g = c->g;
    return grammar_join(g, 5, mark(g, "<tool_call>"), grammar_word(g, "\n"),
                        object_call(c, "name", "arguments"), grammar_word(g, "\n"),
                        mark(g, "</tool_call>"));
}

static Expr bracketed_call(const Call *c)
{
    Grammar *g = c->g;
    if (!strstr(c->template_text, "[ARGS]")) return object_call(c, "name", "arguments");
    return grammar_join(g, 4, mark(g, "[TOOL_CALLS]"), bare_name(c), mark(g, "[ARGS]"),
                        grammar_call(g, c->arguments));
}

static Expr python_call(const Call *c)
{
    return object_call(c, "name", "parameters");
}

// How calls of a format are written: around all of them, around one, between them.
static const struct {
    const char *format;
    Expr (*call)(const Call *c);
    const char *open, *open_text, *between, *close_text, *close; // open and close are marks
    const char *needle; // of the template, where formats of one name differ; !: must not be there
} shapes[] = {
    {"tool_call", tagged_call, NULL, NULL, "\n", NULL, NULL, "!<function="},
    {"bracketed", bracketed_call, NULL, NULL, "", NULL, NULL, "[ARGS]"},
    {"bracketed", bracketed_call, "[TOOL_CALLS]", "[", ", ", "]", NULL, NULL},
    {"deepseek", deepseek_call, "<｜tool▁calls▁begin｜>", "", "\n", "", "<｜tool▁calls▁end｜>",
     "```json"},
    {"deepseek", deepseek_call, "<｜tool▁calls▁begin｜>", "", "", "", "<｜tool▁calls▁end｜>", NULL},
    {"command", command_call, "<|START_ACTION|>", "[", ", ", "]", "<|END_ACTION|>", NULL},
    {"harmony", harmony_call, NULL, NULL, NULL, NULL, NULL, NULL},
    {"python_tag", python_call, NULL, NULL, NULL, NULL, NULL, NULL},
};

static int has_shape(size_t i, const ReplyFormat *f, const char *template_text)
{
    const char *needle = shapes[i].needle;
    if (strcmp(shapes[i].format, f->name) != 0) return 0;
    // GLM has these marks too, with other things between them.
    if (strcmp(f->name, "tool_call") == 0 && strstr(template_text, "<arg_key>")) return 0;
    if (!needle) return 1;
    return *needle == '!' ? !strstr(template_text, needle + 1)
                          : strstr(template_text, needle) != NULL;
}

// A call of one of the tools.
static int any_call(Grammar *g, const ReplyFormat *f, size_t shape, const char *template_text,
                    const json_t *tools, const char *name)
{
    Expr all = grammar_choice(g);
    int rule = grammar_fresh(g), count = 0;
    size_t i;
    json_t *tool;
    json_array_foreach(tools, i, tool)
    {
        const json_t *function = json_object_get(tool, "function");
        const json_t *parameters = json_object_get(function, "parameters");
        json_t *own = json_object_get(function, "name");
        if (name && strcmp(json_string_value(own), name) != 0) continue;
        int arguments = parameters && !json_is_null(parameters) ? schema_read(g, parameters)
                                                                : notation_object(g);
        char *text = json_dumps(own, JSON_ENCODE_ANY | JSON_COMPACT);
        Call call = {g, f, template_text, text ? text : "\"\"", arguments};
        grammar_add(g, all, shapes[shape].call(&call));
        free(text);
        count++;
    }
    if (!count) return grammar_fail(g, "no tool is called '%.64s'", name ? name : "?");
    grammar_define(g, rule, all);
    return rule;
}

int frame_calls(Grammar *g, const ReplyFormat *f, const char *template_text, const json_t *tools,
                const char *name, int single)
{
    size_t i = 0, count = sizeof shapes / sizeof *shapes;
    while (i < count && !has_shape(i, f, template_text)) i++;
    if (i == count)
        return grammar_fail(g, "calls in this model's format (%s) cannot be forced yet", f->name);
    int call = any_call(g, f, i, template_text, tools, name), rule = grammar_fresh(g);
    Expr all = grammar_sequence(g);
    if (is_harmony(f)) grammar_add(g, all, analysis(g));
    if (shapes[i].open)
        grammar_add(
            g, all,
            grammar_join(g, 2, mark(g, shapes[i].open), grammar_word(g, shapes[i].open_text)));
    grammar_add(g, all, grammar_call(g, call));
    if (!single && shapes[i].between)
        grammar_add(g, all,
                    grammar_repeat(g,
                                   grammar_join(g, 2, grammar_word(g, shapes[i].between),
                                                grammar_call(g, call)),
                                   0, GRAMMAR_MANY));
    if (shapes[i].open) grammar_add(g, all, grammar_word(g, shapes[i].close_text));
    if (shapes[i].close) grammar_add(g, all, mark(g, shapes[i].close));
    grammar_define(g, rule, all);
    return rule;
}
