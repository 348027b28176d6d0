// Replies in every format, whole and in pieces: the parts must not depend on how the text arrives.
#include "../../runtime/reply.h"
#include "../check.h"
#include <stdlib.h>

// What comes out, as one text: "c:" content, "r:" reasoning, "!name(arguments)" calls.
typedef struct {
    char text[4096];
    int last;
} Parts;

static void add(Parts *p, const char *text, size_t bytes)
{
    size_t n = strlen(p->text);
    if (n + bytes < sizeof p->text) memcpy(p->text + n, text, bytes), p->text[n + bytes] = 0;
}

static void take_text(void *to, int reasoning, const char *text, size_t bytes)
{
    Parts *p = to;
    int kind = reasoning ? 'r' : 'c';
    if (p->last != kind) add(p, reasoning ? "|r:" : "|c:", 3);
    p->last = kind;
    if (!bytes) check_failed++; // no empty parts
    add(p, text, bytes);
}

static void take_call(void *to, const char *id, const char *name, const char *arguments,
                      size_t bytes)
{
    Parts *p = to;
    p->last = 0;
    add(p, "|!", 2);
    if (id) add(p, id, strlen(id)), add(p, " ", 1);
    add(p, name, strlen(name));
    add(p, "(", 1);
    add(p, arguments, bytes);
    add(p, ")", 1);
}

static json_t *tools;

static void check_pieces(const char *format, const char *text, int reasoning, const char *wanted,
                         size_t piece)
{
    Parts parts = {"", 0};
    Reply r;
    size_t bytes = strlen(text);
    int failed = 0;
    reply_open(&r, reply_format(format), reasoning, tools,
               (ReplySink){&parts, take_text, take_call});
    for (size_t at = 0; at < bytes; at += piece)
        failed |= reply_feed(&r, text + at, bytes - at < piece ? bytes - at : piece);
    failed |= reply_finish(&r);
    reply_close(&r);
    CHECK_MSG(!failed && strcmp(parts.text, wanted) == 0,
              "%s in pieces of %zu:\n    found    %s\n    expected %s", text, piece, parts.text,
              wanted);
}

static void check_reply(const char *format, const char *text, int reasoning, const char *wanted)
{
    for (size_t piece = 1; piece < 8; piece++) check_pieces(format, text, reasoning, wanted, piece);
    check_pieces(format, text, reasoning, wanted, strlen(text));
}

static const struct {
    const char *format, *text;
    int reasoning;
    const char *wanted;
} cases[] = {
    // no format at all
    {"", "  Hi <b>there</b> \n", 0, "|c:  Hi <b>there</b> \n"},
    {"", "<tool_call>{\"name\": \"f\"}</tool_call>", 0,
     "|c:<tool_call>{\"name\": \"f\"}</tool_call>"},
    // reasoning
    {"</think>", "<think>\nhm, 1 < 2\n</think>\n\nYes. ", 0, "|r:hm, 1 < 2|c:Yes. "},
    {"</think>", "hm\n</think>\n\nYes", 1, "|r:hm|c:Yes"},
    {"</think>", "hm, not finished ", 1, "|r:hm, not finished "},
    {"</think>", "\n\n</think>\n\nYes", 1, "|c:Yes"},
    {"</think>", "a < b, <th", 0, "|c:a < b, <th"},
    {"[/THINK]", "[THINK]x[/THINK]y", 0, "|r:x|c:y"},
    // Hermes
    {"<tool_call>",
     "Let me see.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": "
     "\"Z\\u00fcrich\", "
     "\"x\": 0.1}}\n</tool_call>",
     0, "|c:Let me see.|!get_weather({\"city\": \"Z\\u00fcrich\", \"x\": 0.1})"},
    {"<tool_call></think>",
     "<think>t</think>\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>"
     "{\"arguments\": \"{\\\"a\\\": 1}\" , \"name\":\"g\"}</tool_call>\nDone",
     0, "|r:t|!f({})|!g({\"a\": 1})|c:Done"},
    {"<tool_call>", "<tool_call>no call</tool_call> x", 0, "|c:<tool_call>no call</tool_call> x"},
    {"<tool_call>", "<tool_call>{\"name\": \"f\", \"arguments\": {\"t\": \"<tool_call>\"}}", 0,
     "|!f({\"t\": \"<tool_call>\"})"},
    {"<tool_call>", "<tool_call>{\"name\": \"f\", \"argu", 0,
     "|c:<tool_call>{\"name\": \"f\", \"argu"},
    // Qwen3-Coder
    {"<tool_call>",
     "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n</"
     "parameter>\n<parameter=days>\n2\n"
     "</parameter>\n<parameter=note>\na\n b\n</parameter>\n</function>\n</tool_call>",
     0, "|!get_weather({\"city\": \"12\", \"days\": 2, \"note\": \"a\\n b\"})"},
    {"<tool_call>",
     "<tool_call>\n<function=f>\n<parameter=a>\n[1, {\"b\": "
     "null}]\n</parameter>\n<parameter=c>\nunfin",
     0,
     "|c:<tool_call>\n<function=f>\n<parameter=a>\n[1, {\"b\": "
     "null}]\n</parameter>\n<parameter=c>\nunfin"},
    // GLM 4.5
    {"<tool_call>",
     "ok <tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
     "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
     0, "|c:ok|!get_weather({\"city\": \"Rome\", \"days\": 3})"},
    {"<tool_call>", "<tool_call>now</tool_call>", 0, "|!now({})"},
    // Llama 3.1
    {"<|python_tag|>", "{\"name\": \"f\", \"parameters\": {\"a\": [1, 2]}}", 0,
     "|!f({\"a\": [1, 2]})"},
    {"<|python_tag|>",
     "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": "
     "{\"b\": 1}}<|eom_id|>",
     0, "|!f({})|!g({\"b\": 1})"},
    {"<|python_tag|>", "{\"answer\": 42}", 0, "|c:{\"answer\": 42}"},
    {"<|python_tag|>", "Use {\"name\": \"f\", \"parameters\": {}}", 0,
     "|c:Use {\"name\": \"f\", \"parameters\": {}}"},
    // Mistral
    {"[TOOL_CALLS]",
     "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"abc123xyz\"}, "
     "{\"name\": \"g\", \"arguments\": {}}]",
     0, "|!abc123xyz f({\"a\": 1})|!g({})"},
    {"[TOOL_CALLS]", "Hm.[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{\"b\": \"[ARGS]\"}", 0,
     "|c:Hm.|!f({\"a\": 1})|!g({\"b\": \"[ARGS]\"})"},
    {"[TOOL_CALLS]", "[TOOL_CALLS]f[CALL_ID]abc123xyz[ARGS]{\"a\": 1}", 0,
     "|!abc123xyz f({\"a\": 1})"},
    // DeepSeek V3 and V3.1
    {"<｜tool▁call▁begin｜>",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```"
     "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     0, "|!f({\"a\": 1})|!g({})"},
    {"<｜tool▁call▁begin｜></think>",
     "x</think>y<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}"
     "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     1, "|r:x|c:y|!f({\"a\": 1})"},
    // gpt-oss
    {"<|channel|><|message|>",
     "<|channel|>analysis<|message|>Think <|x|>.<|end|><|start|>assistant<|channel|>final"
     "<|message|>Hello!<|return|>",
     0, "|r:Think <|x|>.|c:Hello!"},
    {"<|channel|><|message|>",
     "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>commentary "
     "to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"X\"}<|call|>",
     0, "|r:t|!get_weather({\"city\":\"X\"})"},
    {"<|channel|><|message|>",
     "<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}", 0, "|!f({})"},
    {"<|channel|><|message|>", "plain text", 0, "|c:plain text"},
    // Command-R, Command-A
    {"Action: tool_name",
     "Action: ```json\n[\n    {\n        \"tool_name\": \"f\",\n        \"parameters\": {\"q\": "
     "\"x\"}\n"
     "    }\n]\n```",
     0, "|!f({\"q\": \"x\"})"},
    {"<|START_ACTION|><|END_THINKING|>",
     "<|START_THINKING|>plan<|END_THINKING|><|START_ACTION|>[\n {\"tool_call_id\": "
     "\"0\", \"tool_name\": \"f\", \"parameters\": {}}\n]<|END_ACTION|>",
     0, "|r:plan|!0 f({})"},
    {"<|START_ACTION|><|END_THINKING|>", "<|START_RESPONSE|>Hi<|END_RESPONSE|>", 0, "|c:Hi"},
    // MiniMax
    {"<minimax:tool_call></think>",
     "t\n</think>\n\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name="
     "\"city\">Oslo</parameter>\n<parameter name=\"days\">1</parameter>\n</invoke>\n<invoke name="
     "\"f\">\n</invoke>\n</minimax:tool_call>",
     1, "|r:t|!get_weather({\"city\": \"Oslo\", \"days\": 1})|!f({})"},
};

static void check_begin(void)
{
    ReplyFormat f = reply_format("... '</think>' ...");
    CHECK(reply_reasoning(&f, "x<think>\n", 9) == REASONING_OPEN);
    CHECK(reply_reasoning(&f, "<think>\n\n</think>\n\n", 19) == REASONING_OVER);
    CHECK(reply_reasoning(&f, "", 0) == REASONING_MAY);
    f = reply_format("<think>");
    CHECK(reply_reasoning(&f, "<think>", 7) == REASONING_MAY);
    CHECK(strcmp(f.name, "plain") == 0);
    CHECK(
        strcmp(reply_format("{\"name\": function name, \"parameters\": dictionary of argument name")
                   .name,
               "python_tag") == 0);
}

static void check_marks(void)
{
    ReplyFormat f = reply_format("<tool_call></think>"), none = reply_format("");
    CHECK(reply_is_mark(&f, "<tool_call>", 11) && reply_is_mark(&f, "</think>", 8));
    CHECK(!reply_is_mark(&f, "<tool_call", 10) && !reply_is_mark(&f, "<|eot_id|>", 10));
    CHECK(!reply_is_mark(&none, "<tool_call>", 11) && !reply_is_mark(&f, "", 0));
}

// Without tools in the request a call is content.
static void check_without_tools(void)
{
    json_t *kept = tools;
    tools = NULL;
    check_reply("<tool_call></think>", "<think>a</think><tool_call>{}</tool_call>", 0,
                "|r:a|c:<tool_call>{}</tool_call>");
    check_reply("<|python_tag|>", "{\"name\": \"f\", \"parameters\": {}}", 0,
                "|c:{\"name\": \"f\", \"parameters\": {}}");
    tools = kept;
}

// Anything goes in; the parts still do not depend on the pieces.
static void check_noise(void)
{
    static const char *const words[] = {"<think>",
                                        "</think>",
                                        "<tool_call>",
                                        "</tool_call>",
                                        "{",
                                        "}",
                                        "\"name\": \"f\"",
                                        " ",
                                        "\n",
                                        "<function=f>",
                                        "<parameter=a>",
                                        "</parameter>",
                                        "</function>",
                                        "x",
                                        "<|channel|>",
                                        "<|message|>",
                                        "<|start|>",
                                        "<|end|>",
                                        "[TOOL_CALLS]",
                                        "[ARGS]",
                                        "<",
                                        "\"arguments\": {}",
                                        ",",
                                        "<arg_key>",
                                        "</arg_key>",
                                        "analysis",
                                        "to=functions.g ",
                                        "[",
                                        "]",
                                        "<|python_tag|>",
                                        "\\",
                                        "\""};
    static const char *const formats[] = {"<tool_call></think>", "<|channel|><|message|>",
                                          "[TOOL_CALLS]", "<|python_tag|>"};
    unsigned seed = 1;
    for (int i = 0; i < 400; i++) {
        char text[512] = "";
        for (int k = 0; k < 20; k++) {
            seed = seed * 1664525u + 1013904223u;
            strcat(text, words[(seed >> 16) % (sizeof words / sizeof *words)]);
        }
        Parts whole = {"", 0};
        Reply r;
        reply_open(&r, reply_format(formats[i % 4]), i & 1, tools,
                   (ReplySink){&whole, take_text, take_call});
        CHECK(reply_feed(&r, text, strlen(text)) == 0 && reply_finish(&r) == 0);
        reply_close(&r);
        check_pieces(formats[i % 4], text, i & 1, whole.text, 1);
        check_pieces(formats[i % 4], text, i & 1, whole.text, 5);
    }
}

int main(void)
{
    tools = json_loads("[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", "
                       "\"parameters\": {\"type\": "
                       "\"object\", \"properties\": {\"city\": {\"type\": \"string\"}, \"days\": "
                       "{\"type\": \"integer\"}}}}}]",
                       0, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_reply(cases[i].format, cases[i].text, cases[i].reasoning, cases[i].wanted);
    check_begin();
    check_marks();
    check_without_tools();
    check_noise();
    json_decref(tools);
    return check_done();
}
