// The parts of answers that all families have in common.
#include "answer.h"
#include "program.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

int answer_finished(const Answer *a)
{
    for (int i = 0; i < a->job_count; i++)
        if (a->jobs[i].reason == REASON_NONE) return 0;
    return 1;
}

void answer_free(Answer *a)
{
    if (!a) return;
    for (int i = 0; i < a->job_count; i++) {
        job_close(&a->jobs[i]);
        reply_close(&a->said[i].reply);
        json_decref(a->said[i].deltas);
    }
    if (a->matcher) constraints_give(a->constraints, a->matcher);
    for (int i = 0; a->prompt && i < a->prompts; i++) free(a->prompt[i].id);
    free(a->prompt);
    free(a->jobs);
    free(a->said);
    free(a->allowed);
    free(a->breakers);
    free(a->bias_id);
    free(a->bias);
    free(a->stop_ids);
    free(a->stop);
    free(a->banned);
    free(a->vectors);
    json_decref(a->body);
    json_decref(a->asked);
    json_decref(a->output);
    json_decref(a->item);
    json_decref(a->texts);
    free(a);
}

uint64_t random_bits(void)
{
    uint64_t bits;
    if (getrandom(&bits, sizeof bits, 0) != sizeof bits) bits = (uint64_t)time(NULL);
    return bits;
}

json_t *answer_text(const char *text, size_t bytes)
{
    json_t *s = json_stringn(text, bytes);
    return s ? s : json_string("\xef\xbf\xbd");
}

static void say_text(void *to, int reasoning, const char *text, size_t bytes)
{
    struct Said *said = to;
    json_array_append_new(
        said->deltas,
        json_pack("{s:o}", reasoning ? "reasoning_content" : "content", answer_text(text, bytes)));
}

static void say_call(void *to, const char *id, const char *name, const char *arguments,
                     size_t bytes)
{
    struct Said *said = to;
    if (said->single && said->calls) return;
    char made[10] = ""; // nine letters and digits: the form that Mistral's templates insist on
    uint64_t bits = random_bits();
    for (int i = 0; i < 9; i++, bits /= 36)
        made[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[bits % 36];
    if (!id) id = made;
    json_t *call =
        json_pack("{s:i, s:o, s:s, s:{s:o, s:o}}", "index", said->calls++, "id",
                  answer_text(id, strlen(id)), "type", "function", "function", "name",
                  answer_text(name, strlen(name)), "arguments", answer_text(arguments, bytes));
    json_array_append_new(said->deltas, json_pack("{s:[o]}", "tool_calls", call));
}

void answer_begin(Answer *a, int i)
{
    struct Said *said = &a->said[i];
    if (!a->chat) return;
    said->deltas = json_array();
    said->single = a->single;
    reply_open(&said->reply, a->format, a->reasoning == REASONING_OPEN, a->tools,
               (ReplySink){said, say_text, say_call});
}

static int feed(const Job *job, struct Said *said, size_t end)
{
    if (end > job->decided || end <= said->bytes) return 0;
    size_t begin = said->bytes;
    said->bytes = end;
    return reply_feed(&said->reply, job->text.data + begin, end - begin);
}

int answer_read(Answer *a, int i, Error *err)
{
    const Job *job = &a->jobs[i];
    struct Said *said = &a->said[i];
    int status = 0;
    // Token by token, to count those of reasoning.
    for (; said->read < job->tokens_decided; said->read++) {
        said->reasoning_tokens += reply_in_reasoning(&said->reply);
        status |= feed(job, said, (size_t)job->token[said->read].end);
    }
    status |= feed(job, said, job->decided);
    if (job->reason != REASON_NONE) status |= reply_finish(&said->reply);
    return status ? error_set(err, "out of memory") : 0;
}

Part answer_part(const json_t *delta, const json_t **value)
{
    if ((*value = json_object_get(delta, "reasoning_content"))) return PART_REASONING;
    if ((*value = json_object_get(delta, "content"))) return PART_TEXT;
    *value = json_array_get(json_object_get(delta, "tool_calls"), 0);
    return *value ? PART_CALL : PART_NONE;
}

static json_t *bytes_json(const char *text, size_t bytes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < bytes; i++)
        json_array_append_new(list, json_integer((unsigned char)text[i]));
    return list;
}

static json_t *likely_json(const Api *api, int32_t id, float logprob)
{
    size_t bytes;
    const char *text = tokens_bytes(api->tokens, id, &bytes);
    return json_pack("{s:o, s:f, s:o, s:i}", "token", answer_text(text, bytes), "logprob",
                     (double)logprob, "bytes", bytes_json(text, bytes), "token_id", id);
}

json_t *answer_logprobs(const Api *api, const Answer *a, const Job *job, int from, int to)
{
    if (job->logprobs < 0) return json_null();
    json_t *content = json_array(), *tokens = json_array(), *values = json_array(),
           *tops = json_array(), *offsets = json_array();
    for (int i = from; i < to; i++) {
        const Token *t = &job->token[i];
        const Likely *likely = job->likely ? job->likely + (size_t)i * (size_t)job->logprobs : NULL;
        json_t *one = likely_json(api, t->id, t->logprob), *list = json_array(),
               *map = json_object();
        for (int k = 0; k < job->logprobs && k < model_info.vocab; k++) {
            json_t *l = likely_json(api, likely[k].id, likely[k].logprob);
            json_object_set(map, json_string_value(json_object_get(l, "token")),
                            json_object_get(l, "logprob"));
            json_array_append_new(list, l);
        }
        json_array_append(tokens, json_object_get(one, "token"));
        json_array_append(values, json_object_get(one, "logprob"));
        json_array_append_new(offsets, json_integer(i ? job->token[i - 1].end : 0));
        json_array_append_new(tops, map);
        json_object_set_new(one, "top_logprobs", list);
        json_array_append_new(content, one);
    }
    json_t *result = a->chat ? json_pack("{s:O, s:n}", "content", content, "refusal")
                             : json_pack("{s:O, s:O, s:O, s:O}", "tokens", tokens, "token_logprobs",
                                         values, "top_logprobs", tops, "text_offset", offsets);
    json_decref(content);
    json_decref(tokens);
    json_decref(values);
    json_decref(tops);
    json_decref(offsets);
    return result;
}

int answer_good(const Job *job, Refusal *r)
{
    if (job->reason == REASON_FAILED)
        return refusal_set(r, job->impossible ? 400 : 500, "", "%s", job->error.text);
    if (job->reason == REASON_CANCELLED)
        return refusal_set(r, 503, "", "the server is shutting down");
    return 0;
}

int answer_event(TokenText *out, json_t *event, int named, Error *err)
{
    char name[64] = "";
    const char *type = json_string_value(json_object_get(event, "type"));
    if (named && type) snprintf(name, sizeof name, "event: %.50s\n", type);
    char *text = event ? json_dumps(event, ANSWER_JSON) : NULL;
    size_t bytes = text ? strlen(text) + strlen(name) + 9 : 0;
    json_decref(event);
    if (text && out->bytes + bytes > out->room) {
        size_t room = 2 * (out->bytes + bytes) + 1024;
        char *larger = realloc(out->data, room);
        if (larger) out->data = larger, out->room = room;
    }
    if (!text || out->bytes + bytes > out->room) {
        free(text);
        return error_set(err, "out of memory");
    }
    out->bytes += (size_t)sprintf(out->data + out->bytes, "%sdata: %s\n\n", name, text);
    free(text);
    return 0;
}
