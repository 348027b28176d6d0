// The chat command: a conversation in the terminal.
#include "talk.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// --- answers -------------------------------------------------------------------------------------

json_t *talk_add(Talk *t, const char *role, const char *content)
{
    json_t *message = json_pack("{s:s, s:s}", "role", role, "content", content);
    if (!message)
        fprintf(stderr, "that is not UTF-8\n");
    else
        json_array_append_new(t->messages, message);
    return message;
}

static json_t *last_message(const Talk *t, const char *role)
{
    size_t count = json_array_size(t->messages);
    json_t *last = count ? json_array_get(t->messages, count - 1) : NULL;
    const char *whose = json_string_value(json_object_get(last, "role"));
    return whose && strcmp(whose, role) == 0 ? last : NULL;
}

const char *talk_said(const Talk *t)
{
    if (t->raw) return t->asked ? t->text.data + t->asked : NULL;
    return json_string_value(json_object_get(last_message(t, "assistant"), "content"));
}

// What /tps and /probs ask for, and what /t may.
static void report(Talk *t, const Job *job)
{
    free(t->drawn);
    t->drawn_count = 0;
    t->drawn = malloc(4 * (size_t)(job->token_count + 1));
    if (!t->drawn) fail("out of memory");
    for (int i = 0; i < job->token_count; i++) t->drawn[t->drawn_count++] = job->token[i].id;
    if (t->likely >= 0 || t->show_speed) fputs(terminal_dim(), stderr);
    for (int i = 0; t->likely >= 0 && i < job->token_count; i++) {
        print_token(t->writer.tokens, job->token[i].id, job->token[i].logprob);
        for (int k = 0; k < t->likely; k++) {
            const Likely *l = &job->likely[(size_t)i * (size_t)t->likely + (size_t)k];
            fputs("  ", stderr);
            print_token(t->writer.tokens, l->id, l->logprob);
        }
        fputs("\n", stderr);
    }
    if (t->show_speed && job->first)
        fprintf(stderr, "[%d prompt tokens, %d of them cached, %.2f s; %d tokens, %.1f tokens/s]\n",
                job->prompt_count, job->reused, job->first - job->started, job->token_count,
                job->ended > job->first ? (job->token_count - 1) / (job->ended - job->first) : 0);
    if (t->likely >= 0 || t->show_speed) fputs(terminal_plain(), stderr);
}

// Runs a job to its end or to Ctrl-C.
static int run(Talk *t, Job *job, Error *err)
{
    Generator *g = &t->writer.generator;
    if (generator_check(g, job, err) != 0 || generator_submit(g, job, err) != 0) return -1;
    while (job->reason == REASON_NONE) {
        generator_step(g);
        if (terminal_interrupted()) generator_cancel(g, job);
    }
    return job->reason == REASON_FAILED ? error_set(err, "%s", job->error.text) : 0;
}

// Continues a text on stdout, the prompt of a chat or (`prompt` NULL) a raw one, behind `shown`.
// *out is what was said, and the caller's to close; -1 after a message on stderr.
static int answer(Talk *t, const char *text, size_t bytes, ChatPrompt *prompt, const char *shown,
                  Speech *out)
{
    Error err;
    TokenList ids = {0};
    Job job;
    int flags = TOKENS_PARSE_SPECIAL | (prompt ? 0 : TOKENS_ADD_SPECIAL);
    job_init(&job);
    job.matcher = choose_matcher(t->options, prompt);
    speech_open(out, &job, &t->chat, prompt, 0);
    int status = tokens_encode(t->writer.tokens, text, bytes, flags, &ids, &err);
    if (status == 0) check_ids(ids.id, ids.count);
    if (status == 0 && !ids.count) status = error_set(&err, "nothing to continue");
    job.prompt = ids.id;
    job.prompt_count = (int)ids.count;
    int room = t->writer.generator.batch.max_context - job.prompt_count;
    job.max_tokens = room < 1 ? 1 : t->max_tokens < room ? t->max_tokens : room;
    job.sampler = t->sampler;
    job.stop = t->options->stop;
    job.stop_count = t->options->stop_count;
    job.banned = (const char *const *)t->banned;
    job.banned_count = t->banned_count;
    job.logprobs = t->likely;
    fputs(shown, stdout);
    if (status == 0) status = run(t, &job, &err);
    speech_rest(out);
    if (out->reasoning.bytes && !out->content.bytes) fputs("\n", stderr);
    if (status == 0 || *shown) putchar('\n');
    fflush(stdout);
    if (status == 0)
        report(t, &job);
    else
        fprintf(stderr, "%s\n", err.text);
    t->sampler.seed++;
    matcher_close(job.matcher);
    job_close(&job);
    free(ids.id);
    return status;
}

// The prompt of the conversation as it is; with `more`, of more of its last message.
static int make_prompt(Talk *t, int more, ChatPrompt *prompt, Error *err)
{
    json_t *values = json_pack("{s:O, s:b, s:b}", "messages", t->messages, "add_generation_prompt",
                               !more, "continue_final_message", more);
    if (!values) return error_set(err, "out of memory");
    if (t->thinks >= 0) chat_set_thinking(values, t->thinks);
    int status = chat_prompt(&t->chat, NULL, values, prompt, err);
    json_decref(values);
    return status;
}

// Appends an answer to the raw text, whose part up to `asked` is what it answers.
static int answer_raw(Talk *t, size_t asked, const char *shown)
{
    Speech said;
    int status = answer(t, t->text.data, t->text.bytes, NULL, shown, &said);
    if (status == 0) append_text(&t->text, said.content.data, said.content.bytes);
    if (status == 0) t->asked = asked;
    speech_close(&said);
    return status;
}

// A message of the assistant, a new one or more of the last.
static int answer_chat(Talk *t, int more, const char *shown)
{
    Error err;
    ChatPrompt prompt = {0};
    Speech said = {0};
    int status = make_prompt(t, more, &prompt, &err);
    if (status != 0)
        fprintf(stderr, "%s\n", err.text);
    else
        status = answer(t, prompt.text, prompt.bytes, &prompt, shown, &said);
    if (status == 0 && more) {
        TokenText whole = {0};
        append_text(&whole, shown, strlen(shown));
        append_text(&whole, said.content.data, said.content.bytes);
        json_object_set_new(last_message(t, "assistant"), "content",
                            json_stringn(whole.data, whole.bytes));
        free(whole.data);
    } else if (status == 0) {
        json_t *message = talk_add(t, "assistant", said.content.data);
        if (said.reasoning.bytes)
            json_object_set_new(message, "reasoning_content", json_string(said.reasoning.data));
    }
    speech_close(&said);
    free(prompt.text);
    return status;
}

void talk_answer(Talk *t)
{
    if (t->raw)
        answer_raw(t, t->text.bytes, "");
    else if (answer_chat(t, 0, "") != 0)
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
}

void talk_continue(Talk *t, const char *said)
{
    if (t->raw) {
        TokenText before = {0}; // which may have any bytes
        append_text(&before, t->text.data + t->asked, t->text.bytes - t->asked);
        t->text.bytes = t->asked;
        append_text(&t->text, said, strlen(said));
        if (answer_raw(t, t->asked, said) != 0) {
            t->text.bytes = t->asked;
            append_text(&t->text, before.data, before.bytes);
        }
        free(before.data);
        return;
    }
    json_t *message = last_message(t, "assistant"), *text = json_string(said);
    json_t *before = json_incref(json_object_get(message, "content"));
    if (!text)
        fprintf(stderr, "that is not UTF-8\n");
    else if (json_object_set_new(message, "content", text), answer_chat(t, 1, said) != 0)
        json_object_set(message, "content", before);
    json_decref(before);
}

// --- lines ---------------------------------------------------------------------------------------

// A message that goes to the model, of this line and, where several make one, those behind it.
static void say(Talk *t, const char *line)
{
    TokenText whole = {0};
    append_text(&whole, line, strlen(line));
    while (t->several_lines && (line = terminal_line(&t->terminal, 1)) && strcmp(line, ".") != 0) {
        append_text(&whole, "\n", 1);
        append_text(&whole, line, strlen(line));
    }
    if (t->raw) {
        size_t before = t->text.bytes, asked = t->asked;
        append_text(&t->text, whole.data, whole.bytes);
        t->asked = 0;
        talk_answer(t);
        if (!t->asked) t->text.bytes = before, t->asked = asked;
    } else if (talk_add(t, "user", whole.data)) {
        talk_answer(t);
    }
    free(whole.data);
}

static void open_talk(Talk *t)
{
    const Options *o = t->options;
    Error err;
    Tokens *tokens = open_tokens();
    t->messages = json_array();
    if (chat_open(&t->chat, tokens, &err) != 0) fail("%s", err.text);
    if (!o->raw && chat_check(&t->chat, &err) != 0)
        fail("%s; chat --raw continues what you type", err.text);
    if (o->thinks >= 0 && o->raw) usage_error("--think goes without --raw");
    check_thinking(o, &t->chat);
    matcher_close(choose_matcher(o, NULL)); // what is wrong with it is said now
    Options sized = *o;
    sized.fits = 1;
    open_writer(&t->writer, &sized, tokens, 0);
    if (o->system) talk_add(t, "system", o->system);
    terminal_open(&t->terminal, model_info.name);
}

static void close_talk(Talk *t)
{
    terminal_close(&t->terminal);
    for (int i = 0; i < t->banned_count; i++) free(t->banned[i]);
    free(t->banned);
    free(t->drawn);
    free(t->text.data);
    json_decref(t->messages);
    chat_close(&t->chat);
    close_writer(&t->writer);
}

int command_chat(const Options *o)
{
    Talk t = {.options = o,
              .raw = o->raw,
              .sampler = choose_sampler(o),
              .max_tokens = o->n < 0 ? o->raw ? 256 : INT32_MAX : o->n,
              .likely = -1,
              .thinks = o->thinks};
    open_talk(&t);
    fprintf(stderr, "%s on %s. %s; /help lists commands; end with Ctrl-D.\n", model_info.name,
            device_name(t.writer.model.device),
            t.raw ? "What you type is continued, an empty line starts over" : "Type a message");
    for (const char *line; !t.over && (line = terminal_line(&t.terminal, 0));) {
        if (*line == '/')
            talk_obey(&t, line);
        else if (*line)
            say(&t, line);
        else if (t.raw)
            t.text.bytes = t.asked = 0;
    }
    close_talk(&t);
    return 0;
}
