// Replies whose content or calls are asked for: texts as models of every format write them are
// allowed, others are not, and whatever is allowed is read back as calls with valid arguments.
#include "runtime/frame.h"
#include "runtime/match.h"
#include "runtime/schema.h"
#include "tests/check.h"
#include <stdlib.h>

static const char tools_text[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"move\", \"parameters\": {\"type\": "
    "\"object\", "
    "\"properties\": {\"x\": {\"type\": \"integer\"}}, \"required\": [\"x\"]}}}, "
    "{\"type\": \"function\", \"function\": {\"name\": \"stay\", \"parameters\": {\"type\": "
    "\"object\", "
    "\"properties\": {}}}}]";
static json_t *tools;

#define T "\xff" // what follows is a special token

static const struct {
    const char *name, *template_text; // with the marks of the format
    const char *one, *two;            // a call, and two of them
    const char *bad[4];
} formats[] = {
    {"Hermes",
     "{{ '<tool_call>' }}",
     "<tool_call>\n{\"name\": \"move\", \"arguments\": {\"x\": 1}}\n</tool_call>",
     T "<tool_call>\n{\"name\":\"stay\",\"arguments\":{}}\n" T
       "</tool_call>\n<tool_call>\n{\"name\": \"move\", "
       "\"arguments\": {\"x\": 2}}\n</tool_call>",
     {"<tool_call>\n{\"name\": \"run\", \"arguments\": {\"x\": 1}}\n</tool_call>",
      "<tool_call>\n{\"name\": \"move\", \"arguments\": {\"x\": \"1\"}}\n</tool_call>",
      "<tool_call>\n{\"name\": \"move\", \"arguments\": {\"x\": 1}}", "Hello"}},
    {"Mistral",
     "{{ '[TOOL_CALLS]' }}",
     T "[TOOL_CALLS][{\"name\": \"move\", \"arguments\": {\"x\": 1}}]",
     "[TOOL_CALLS][{\"name\": \"move\", \"arguments\": {\"x\": 1}}, {\"name\": \"stay\", "
     "\"arguments\": {}}]",
     {"[TOOL_CALLS][]", "[TOOL_CALLS]move{}"}},
    {"Mistral 2025",
     "{{ '[TOOL_CALLS]' ~ name ~ '[ARGS]' }}",
     T "[TOOL_CALLS]move" T "[ARGS]{\"x\": 1}",
     T "[TOOL_CALLS]move" T "[ARGS]{\"x\": 1}" T "[TOOL_CALLS]stay" T "[ARGS]{}",
     {"[TOOL_CALLS]run[ARGS]{\"x\": 1}", "[TOOL_CALLS]move[ARGS]{}"}},
    {"DeepSeek",
     "{{ '<｜tool▁call▁begin｜>' ~ '```json' }}",
     T "<｜tool▁calls▁begin｜>" T "<｜tool▁call▁begin｜>function" T
       "<｜tool▁sep｜>move\n```json\n{\"x\": 1}\n```" T "<｜tool▁call▁end｜>" T
       "<｜tool▁calls▁end｜>",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>move\n```json\n{\"x\": "
     "1}\n```<｜tool▁call▁end｜>\n"
     "<｜tool▁call▁begin｜>function<｜tool▁sep｜>stay\n```json\n{}\n```<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>",
     {"<｜tool▁calls▁begin｜><｜tool▁calls▁end｜>"}},
    {"DeepSeek 3.1",
     "{{ '<｜tool▁call▁begin｜>' }}",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>move<｜tool▁sep｜>{\"x\": "
     "1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>move<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜>"
     "<｜tool▁call▁begin｜>stay<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     {"<｜tool▁call▁begin｜>move<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜>"}},
    {"Command",
     "{{ '<|START_ACTION|>' }}",
     T "<|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"move\", \"parameters\": "
       "{\"x\": 1}}]" T "<|END_ACTION|>",
     "<|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"move\", \"parameters\": {\"x\": "
     "1}}, {\"tool_call_id\": "
     "\"0\", \"tool_name\": \"stay\", \"parameters\": {}}]<|END_ACTION|>",
     {"<|START_ACTION|>[]<|END_ACTION|>"}},
    {"Llama",
     "{{ '<|python_tag|>' }}",
     "{\"name\": \"move\", \"parameters\": {\"x\": 1}}",
     NULL,
     {"{\"name\": \"move\", \"arguments\": {\"x\": 1}}", "move"}},
    {"gpt-oss",
     "{{ '<|channel|>' ~ '<|message|>' }}",
     T "<|channel|>commentary to=functions.move " T "<|constrain|>json" T "<|message|>{\"x\": 1}",
     NULL,
     {"<|channel|>final<|message|>Hello",
      "<|channel|>commentary to=functions.run <|message|>{\"x\": 1}"}},
};

static Matcher *make(const char *template_text, Reasoning reasoning, const char *content,
                     const char *tool, int call, int single, Error *err)
{
    Grammar *g = grammar_open();
    ReplyFormat f = reply_format(template_text);
    int body = -1, calls = -1;
    if (content) {
        body = grammar_fresh(g);
        grammar_define(g, body, grammar_text(g, content, strlen(content)));
    }
    if (call) calls = frame_calls(g, &f, template_text, tools, tool, single);
    return matcher_open(g, frame_reply(g, &f, reasoning, body, calls), err);
}

static int is_text(Matcher *m, const char *text)
{
    Place place;
    place_enter(m, &place);
    int good = place_read(m, &place, text, strlen(text)) == 0 && match_accepts(m, place.state);
    place_leave(&place);
    return good;
}

// --- what is read back ---------------------------------------------------------------------------

typedef struct {
    int moves, stays, others;
    char content[512];
} Heard;

static void hear_text(void *to, int reasoning, const char *text, size_t bytes)
{
    Heard *h = to;
    if (!reasoning)
        snprintf(h->content + strlen(h->content), sizeof h->content - strlen(h->content), "%.*s",
                 (int)bytes, text);
}

static void hear_call(void *to, const char *id, const char *name, const char *arguments,
                      size_t bytes)
{
    Heard *h = to;
    json_t *json = json_loadb(arguments, bytes, 0, NULL);
    (void)id;
    if (strcmp(name, "move") == 0 && json_is_integer(json_object_get(json, "x")) &&
        json_object_size(json) == 1)
        h->moves++;
    else if (strcmp(name, "stay") == 0 && json_is_object(json) && !json_object_size(json))
        h->stays++;
    else
        h->others++;
    json_decref(json);
}

// A text without the marks of special tokens, through the reader of replies.
static Heard hear(ReplyFormat f, Reasoning reasoning, const char *text)
{
    Heard h = {0};
    Reply r;
    reply_open(&r, f, reasoning == REASONING_OPEN, tools, (ReplySink){&h, hear_text, hear_call});
    for (; *text; text++)
        if (*text != *T) reply_feed(&r, text, 1);
    reply_finish(&r);
    reply_close(&r);
    return h;
}

// A random text that is allowed, or an empty one when it finds no end.
static void random_text(Matcher *m, unsigned seed, char *text, size_t most)
{
    static const char closing[] = "}]\"\n<`";
    size_t bytes = 0;
    Place place;
    place_enter(m, &place);
    while (bytes + 1 < most && !match_ends(m, place.state)) {
        int status = MATCH_DEAD;
        for (unsigned i = 0; bytes > 150 && status != 0 && i < sizeof closing - 1; i++) {
            text[bytes] = closing[i];
            status = place_read(m, &place, text + bytes, 1);
        }
        for (unsigned i = 0; status != 0 && i < 256; i++) {
            text[bytes] = (char)(seed / 65536 + i);
            status = text[bytes] ? place_read(m, &place, text + bytes, 1) : MATCH_DEAD;
        }
        if (status != 0) break;
        seed = seed * 1664525u + 1013904223u;
        bytes++;
        if (match_accepts(m, place.state) && seed >> 24 < 100) break;
    }
    text[match_accepts(m, place.state) ? bytes : 0] = 0;
    place_leave(&place);
}

static void test_formats(void)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        Error err = {{0}};
        ReplyFormat f = reply_format(formats[i].template_text);
        Matcher *any = make(formats[i].template_text, REASONING_MAY, NULL, NULL, 1, 0, &err);
        Matcher *single = make(formats[i].template_text, REASONING_MAY, NULL, "move", 1, 1, &err);
        CHECK_MSG(any && single, "%s: %s", formats[i].name, err.text);
        if (!any || !single) continue;
        CHECK_MSG(is_text(any, formats[i].one) && is_text(single, formats[i].one), "%s",
                  formats[i].name);
        Heard h = hear(f, REASONING_MAY, formats[i].one);
        CHECK_MSG(h.moves == 1 && !h.others && !*h.content, "%s: '%s'", formats[i].name, h.content);
        if (formats[i].two) {
            CHECK_MSG(is_text(any, formats[i].two) && !is_text(single, formats[i].two), "%s",
                      formats[i].name);
            h = hear(f, REASONING_MAY, formats[i].two);
            CHECK_MSG(h.moves == 1 && h.stays == 1 && !h.others, "%s", formats[i].name);
        }
        for (int k = 0; k < 4 && formats[i].bad[k]; k++)
            CHECK_MSG(!is_text(any, formats[i].bad[k]), "%s: %s", formats[i].name,
                      formats[i].bad[k]);
        int ended = 0;
        for (unsigned walk = 0; walk < 200; walk++) {
            static char text[4096];
            random_text(walk % 2 ? any : single, walk * 7777777u, text, sizeof text);
            if (!*text) continue;
            ended++;
            h = hear(f, REASONING_MAY, text);
            CHECK_MSG(h.moves + h.stays > 0 && !h.others &&
                          (walk % 2 || (h.moves == 1 && !h.stays)),
                      "%s: %s", formats[i].name, text);
        }
        CHECK_MSG(ended > 50, "%s: %d ended", formats[i].name, ended);
        matcher_close(any);
        matcher_close(single);
    }
}

static void test_refusals(void)
{
    static const char *const unknown[] = {"<tool_call> <function=", "<tool_call> <arg_key>",
                                          "<minimax:tool_call>", "plain", "Action: tool_name"};
    Error err;
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        CHECK_MSG(!make(unknown[i], REASONING_MAY, NULL, NULL, 1, 0, &err) &&
                      strstr(err.text, "cannot be forced"),
                  "%s", unknown[i]);
    CHECK(!make("<tool_call>", REASONING_MAY, NULL, "run", 1, 0, &err) &&
          strstr(err.text, "'run'"));
}

// Reasoning before the content, which ends where its mark first stands.
static void test_reasoning(void)
{
    static const char marks[] = "<think> </think> <tool_call>";
    static const struct {
        Reasoning reasoning;
        const char *text;
        int good;
    } cases[] = {{REASONING_MAY, "yes", 1},
                 {REASONING_MAY, "<think>Well: <<</th</think>\n\nyes", 1},
                 {REASONING_MAY, T "<think>a" T "</think>yes", 1},
                 {REASONING_MAY, "<think>a</think>b</think>yes", 0},
                 {REASONING_MAY, "a</think>yes", 0},
                 {REASONING_MAY, "<think>yes", 0},
                 {REASONING_OPEN, "a<</think>yes", 1},
                 {REASONING_OPEN, "</think>\n\nyes", 1},
                 {REASONING_OPEN, T "</think> yes", 1},
                 {REASONING_OPEN, "日本" T "</think>yes", 1},
                 {REASONING_OPEN, "\xc3</think>yes", 0},
                 {REASONING_OPEN, "yes", 0},
                 {REASONING_OVER, "yes", 1},
                 {REASONING_OVER, "<think></think>yes", 0}};
    Error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Matcher *m = make(marks, cases[i].reasoning, "yes", NULL, 0, 0, &err);
        CHECK_MSG(m && is_text(m, cases[i].text) == cases[i].good, "%d %s", cases[i].reasoning,
                  cases[i].text);
        matcher_close(m);
    }
    // Either the content or a call; and in channels.
    Matcher *m = make(marks, REASONING_MAY, "yes", NULL, 1, 1, &err);
    CHECK(is_text(m, "yes") &&
          is_text(m, "<think></think>"
                     "<tool_call>\n{\"name\": \"stay\", \"arguments\": {}}\n</tool_call>"));
    matcher_close(m);
    m = make("<|channel|> <|message|>", REASONING_MAY, "yes", NULL, 0, 0, &err);
    CHECK(is_text(m, T "<|channel|>final" T "<|message|>yes"));
    CHECK(is_text(m, T "<|channel|>analysis" T "<|message|>Hm." T "<|end|>" T "<|start|>assistant" T
                       "<|channel|>final " T "<|constrain|>json" T "<|message|>yes"));
    CHECK(!is_text(m, "yes") && !is_text(m, T "<|channel|>analysis" T "<|message|>yes"));
    matcher_close(m);
}

// Content that looks like marks stays content.
static void test_content(void)
{
    ReplyFormat f = reply_format("<think> </think> <tool_call>");
    f.constrained = 1;
    Heard h =
        hear(f, REASONING_OPEN, "so</think>{\"a\": \"<think>x</think><tool_call>{}</tool_call>\"}");
    CHECK_MSG(strcmp(h.content, "{\"a\": \"<think>x</think><tool_call>{}</tool_call>\"}") == 0 &&
                  !h.others,
              "%s", h.content);
    h = hear(f, REASONING_MAY, "<tool_call>{\"name\": \"stay\", \"arguments\": {}}</tool_call>");
    CHECK(h.stays == 1 && !*h.content);
}

int main(void)
{
    tools = json_loads(tools_text, 0, NULL);
    test_formats();
    test_refusals();
    test_reasoning();
    test_content();
    json_decref(tools);
    return check_done();
}
