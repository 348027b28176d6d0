// The server as its clients see it: tests/server/run PROGRAM TEXT [CHAT], the bundled model, a
// text, and the bundled model with chat_template.jinja.
#include "../check.h"
#include "client.h"
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

static const char *program;
static char *words; // a long text

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// The greedy completion of the command line; the caller frees.
static char *run_program(const char *prompt, int n)
{
    char *command = format("%s run -p '%s' -n %d --temperature 0 --device %s", program, prompt, n,
                           device_name());
    char *text = calloc(1, 1 << 16);
    FILE *f = popen(command, "r");
    size_t bytes = fread(text, 1, (1 << 16) - 1, f);
    if (bytes && text[bytes - 1] == '\n') text[bytes - 1] = 0;
    pclose(f);
    free(command);
    return text;
}

static char *read_text(const char *path)
{
    char *text = calloc(1, 1 << 16);
    FILE *f = fopen(path, "r");
    if (!f || !fread(text, 1, (1 << 16) - 1, f)) exit(1);
    fclose(f);
    return text;
}

// A request body whose prompt is `bytes` of the text from `from` on.
static char *body_about(size_t from, size_t bytes, const char *more)
{
    json_t *prompt = json_stringn(words + from, bytes);
    char *quoted = json_dumps(prompt, JSON_ENCODE_ANY);
    char *body = format("{\"prompt\": %s, %s}", quoted, more);
    free(quoted);
    json_decref(prompt);
    return body;
}

// A request is refused with a status and a message that contains `text`.
static void refused(int port, const char *method, const char *path, const char *body, int want,
                    const char *text)
{
    int status;
    char *answer = request(port, method, path, "", body, &status);
    json_t *error = json_loads(answer, 0, NULL);
    const char *message =
        json_string_value(json_object_get(json_object_get(error, "error"), "message"));
    CHECK_MSG(status == want && message && strstr(message, text), "%s %s %.60s: %d %s", method,
              path, body, status, answer);
    json_decref(error);
    free(answer);
}

static void test_refusals(int port)
{
    const char *completions = "/v1/completions";
    refused(port, "GET", "/nowhere", "", 404, "no such path");
    refused(port, "GET", completions, "", 405, "not allowed");
    refused(port, "POST", completions, "{", 400, "no JSON");
    refused(port, "POST", completions, "", 400, "no JSON");
    refused(port, "POST", completions, "[]", 400, "expected a JSON object");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"prompt\": \"b\"}", 400, "no JSON");
    refused(port, "POST", completions, "{}", 400, "prompt is missing");
    refused(port, "POST", completions, "{\"prompt\": 5}", 400, "prompt");
    refused(port, "POST", completions, "{\"prompt\": [4096]}", 400, "0 to 4095");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"temprature\": 1}", 400, "temprature");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"chat_template_kwargs\": {}}", 400,
            "chat_template_kwargs");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"temperature\": \"1\"}", 400,
            "number");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"top_p\": 1.5}", 400, "top_p");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"n\": 0}", 400, "n: expected");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"stop\": [7.5]}", 400, "stop");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"rep_pen\": 2, \"repeat_penalty\": 1}",
            400, "different values");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"guidance_scale\": 1.5}", 400,
            "only 1 changes nothing");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"custom_token_bans\": \"4, x\"}", 400,
            "token ids");
    refused(port, "POST", completions,
            "{\"prompt\": \"a\", \"temperature\": 1, \"mirostat\": 2, \"adaptive_target\": 0.5}",
            400, "exclude");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"sampler_order\": [\"best\"]}", 400,
            "best");
    refused(port, "POST", completions,
            "{\"prompt\": \"a\", \"response_format\": {\"type\": \"yaml\"}}", 400,
            "response_format");
    refused(port, "POST", completions, "{\"prompt\": \"a\", \"max_tokens\": 5000}", 400,
            "maximum context length is 2048");
    refused(port, "POST", "/v1/chat/completions",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", 400, "no chat template");
    refused(port, "POST", "/v1/embeddings", "{}", 501, "embeddings");
    // A refusal says what would go, and has the form of its path's API.
    char *all = read_all(send_request(port, "GET", completions, "", ""));
    CHECK_MSG(strstr(all, " 405 ") && strstr(all, "\r\nAllow: POST\r\n"), "%s", all);
    free(all);
    all = read_all(send_request(port, "POST", "/health", "", ""));
    CHECK_MSG(strstr(all, " 405 ") && strstr(all, "\r\nAllow: GET, HEAD\r\n"), "%s", all);
    free(all);
    all = read_all(send_request(port, "POST", "/v1/messages/batches", "", "{}"));
    CHECK_MSG(strstr(all, " 404 ") && strstr(all, "\"type\":\"not_found_error\""), "%s", all);
    free(all);
    char *large = malloc(3000);
    memset(large, ' ', 2999);
    large[2999] = 0;
    refused(port, "POST", completions, large, 413, "too large");
    free(large);

    // What is no HTTP at all does not stop it.
    int fd = connect_to(port);
    send_all(fd, "\x16\x03\x01\x02garbage\r\n\r\n", 14);
    free(read_all(fd));
    fd = connect_to(port);
    send_all(fd, "POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", 55);
    close(fd);
    int status;
    free(request(port, "GET", "/health", "", "", &status));
    CHECK(status == 200);
}

static void test_answers(int port)
{
    int status;
    char *greedy = run_program("The city of Paris", 24);
    json_t *a = complete(port, "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24}", &status);
    CHECK_MSG(strcmp(text_of(a), greedy) == 0, "'%s', expected '%s'", text_of(a), greedy);
    CHECK(strcmp(reason_of(a), "length") == 0 && usage_of(a, "completion_tokens") == 24);
    json_decref(a);

    // The same by ids, through the tokenizer's own endpoint.
    char *text =
        request(port, "POST", "/tokenize", "", "{\"content\": \"The city of Paris\"}", &status);
    json_t *ids = json_loads(text, 0, NULL);
    char *list = json_dumps(json_object_get(ids, "tokens"), 0);
    char *body =
        format("{\"prompt\": %s, \"max_tokens\": 24, \"echo\": true, \"model\": \"any\"}", list);
    a = complete(port, body, &status);
    CHECK_MSG(strncmp(text_of(a), "The city of Paris", 17) == 0 &&
                  strcmp(text_of(a) + 17, greedy) == 0,
              "'%s'", text_of(a));
    json_decref(a);
    free(body);
    free(text);
    body = format("{\"tokens\": %s}", list);
    text = request(port, "POST", "/v1/token/decode", "", body, &status);
    CHECK_MSG(strstr(text, "\"The city of Paris\""), "%s", text);
    free(text);
    free(body);
    free(list);
    json_decref(ids);

    // Streamed: the pieces make the same text, and the last word is [DONE].
    text = request(port, "POST", "/v1/completions", "",
                   "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"stream\": true, "
                   "\"return_token_ids\": true, \"stream_options\": {\"include_usage\": true}}",
                   &status);
    char joined[4096] = "";
    json_t *drawn = json_array();
    int tokens = 0, done = 0, ended = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (strcmp(line, "data: [DONE]") == 0) done++;
        json_t *event = json_loads(line + 6, 0, NULL);
        if (!event) continue;
        if (choice(event, 0)) strcat(joined, text_of(event));
        json_array_extend(drawn, json_object_get(choice(event, 0), "token_ids"));
        ended += strcmp(reason_of(event), "length") == 0;
        tokens += usage_of(event, "completion_tokens");
        json_decref(event);
    }
    CHECK_MSG(strcmp(joined, greedy) == 0 && done == 1 && ended == 1 && tokens == 24,
              "'%s', %d, %d, %d", joined, done, ended, tokens);
    free(text);

    // Its ids are as many, say the same, and are those of the whole answer.
    list = json_dumps(drawn, JSON_COMPACT);
    body = format("{\"tokens\": %s}", list);
    text = request(port, "POST", "/detokenize", "", body, &status);
    a = json_loads(text, 0, NULL);
    const char *said = json_string_value(json_object_get(a, "text"));
    CHECK_MSG(json_array_size(drawn) == 24 && said && strcmp(said, greedy) == 0, "%s: %s", list,
              text);
    json_decref(a);
    free(text);
    free(body);
    free(list);
    a = complete(port,
                 "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, "
                 "\"return_token_ids\": true}",
                 &status);
    CHECK(json_equal(json_object_get(choice(a, 0), "token_ids"), drawn));
    CHECK(json_array_size(json_object_get(choice(a, 0), "prompt_token_ids")) ==
          (size_t)usage_of(a, "prompt_tokens"));
    json_decref(a);
    json_decref(drawn);

    // Several prompts, several choices: each as if alone.
    a = complete(port, "{\"prompt\": [\"The city of Paris\", \"A\"], \"n\": 2, \"max_tokens\": 24}",
                 &status);
    CHECK(json_array_size(json_object_get(a, "choices")) == 4);
    CHECK(strcmp(text_of(a), greedy) == 0);
    json_decref(a);
    json_t *three = complete(port,
                             "{\"prompt\": \"In\", \"n\": 3, \"max_tokens\": 12, "
                             "\"temperature\": 1, \"seed\": 5}",
                             &status);
    for (int i = 0; i < 3; i++) {
        body = format("{\"prompt\": \"In\", \"max_tokens\": 12, \"temperature\": 1, \"seed\": %d}",
                      5 + i);
        a = complete(port, body, &status);
        const char *same = json_string_value(json_object_get(choice(three, (size_t)i), "text"));
        CHECK_MSG(same && strcmp(text_of(a), same) == 0, "seed %d: '%s', '%s'", 5 + i, text_of(a),
                  same);
        json_decref(a);
        free(body);
    }
    json_decref(three);
    free(greedy);
}

// What a stock front end sends (SillyTavern, which takes this server for TabbyAPI) is the request
// that its few settings make.
static void test_front_end(int port)
{
    int status;
    char *text = read_text("tests/server/front_end.json");
    json_t *theirs = complete(port, text, &status);
    CHECK_MSG(status == 200, "%d", status);
    json_t *ours = complete(port,
                            "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"seed\": 7, "
                            "\"temperature\": 0.9, \"temperature_last\": true, \"top_k\": 0,"
                            "\"min_p\": 0.05, "
                            "\"repetition_penalty\": 1.1, \"penalty_range\": 512, "
                            "\"banned_tokens\": [261, 262]}",
                            &status);
    CHECK_MSG(text_of(ours)[0] && strcmp(text_of(theirs), text_of(ours)) == 0, "'%s', '%s'",
              text_of(theirs), text_of(ours));
    json_decref(theirs);
    json_decref(ours);
    free(text);
    // As llama.cpp and LM Studio have them: a range around the temperature, no limit, no /v1.
    ours = complete(port,
                    "{\"prompt\": \"A\", \"max_tokens\": 9, \"seed\": 7, \"min_temp\": 0.5, "
                    "\"max_temp\": 1.5}",
                    &status);
    text = request(port, "POST", "/completions", "",
                   "{\"prompt\": \"A\", \"n_predict\": 9, \"seed\": 7, \"temperature\": 1, "
                   "\"dynatemp_range\": 0.5}",
                   &status);
    theirs = json_loads(text, 0, NULL);
    CHECK_MSG(strcmp(text_of(theirs), text_of(ours)) == 0, "'%s', '%s'", text, text_of(ours));
    json_decref(theirs);
    json_decref(ours);
    free(text);
    ours = complete(port, "{\"prompt\": \"A\", \"max_tokens\": -1, \"stop\": \" \"}", &status);
    CHECK(status == 200 && strcmp(reason_of(ours), "stop") == 0);
    json_decref(ours);
}

static void test_endings(int port)
{
    int status;
    // A stop string in the middle of a token, seen only when the next token is there.
    json_t *a = complete(port,
                         "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"stop\": "
                         "[\"pulous c\", \"xyz\"]}",
                         &status);
    CHECK_MSG(strcmp(text_of(a), " is the most po") == 0, "'%s'", text_of(a));
    CHECK(strcmp(reason_of(a), "stop") == 0);
    json_decref(a);
    char *text = request(port, "POST", "/v1/completions", "",
                         "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"stop\": "
                         "\"pulous c\", \"stream\": true}",
                         &status);
    CHECK_MSG(!strstr(text, "popul") && !strstr(text, "ulous\"") && !strstr(text, "\"text\":\"pul"),
              "%s", text);
    free(text);
    a = complete(port, "{\"prompt\": \"The city of Paris\", \"max_tokens\": 3, \"stop\": \"zzz\"}",
                 &status);
    CHECK(strcmp(reason_of(a), "length") == 0);
    json_decref(a);

    // A banned string never appears, whatever its case, and the text goes on without it.
    a = complete(port,
                 "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"banned_strings\": "
                 "[\"POPULOUS\", \"france\", \"capital\"]}",
                 &status);
    CHECK_MSG(!strcasestr(text_of(a), "populous") && !strcasestr(text_of(a), "france") &&
                  !strcasestr(text_of(a), "capital"),
              "'%s'", text_of(a));
    CHECK_MSG(strncmp(text_of(a), " is the most", 12) == 0 &&
                  usage_of(a, "completion_tokens") == 24,
              "'%s'", text_of(a));
    json_decref(a);

    a = complete(port,
                 "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"banned_strings\": "
                 "[\" \", \"e\"]}",
                 &status);
    CHECK_MSG(status == 200 && !strpbrk(text_of(a), " eE"), "%d '%s'", status, text_of(a));
    json_decref(a);

    // Grammars end the text themselves, where nothing may follow; and leave the choice to the
    // model.
    for (int seed = 0; seed < 4; seed++) {
        char *body = format(
            "{\"prompt\": \"The city of Paris\", \"temperature\": 1.5, \"seed\": %d, "
            "\"max_tokens\": 200, \"response_format\": {\"type\": \"json_schema\", "
            "\"json_schema\": {\"name\": \"x\", \"schema\": {\"type\": \"array\", \"items\": "
            "{\"type\": [\"integer\", \"boolean\"]}, \"minItems\": 2, \"maxItems\": 5}}}}",
            seed);
        a = complete(port, body, &status);
        json_t *list = json_loads(text_of(a), 0, NULL), *item;
        size_t i, good = 0;
        json_array_foreach(list, i, item) good += json_is_integer(item) || json_is_boolean(item);
        CHECK_MSG(good >= 2 && good == json_array_size(list) && strcmp(reason_of(a), "stop") == 0,
                  "%s", text_of(a));
        json_decref(list);
        json_decref(a);
        free(body);
    }
    // The likeliest of what is allowed is not the likeliest of all.
    a = complete(
        port,
        "{\"prompt\": \"The city of Paris\", \"regex_pattern\": \" (is|was) (the|a) [a-z]+\", "
        "\"max_tokens\": 20, \"stop\": \"zzz\"}",
        &status);
    CHECK_MSG(strncmp(text_of(a), " is the ", 8) == 0 && !strchr(text_of(a) + 8, ' '), "'%s'",
              text_of(a));
    json_decref(a);

    // One that must be empty is, and a token that stops does so within a grammar's text too.
    a = complete(port,
                 "{\"prompt\": \"The\", \"grammar\": \"root ::= \\\"\\\"\", \"ignore_eos\": true, "
                 "\"min_tokens\": 3}",
                 &status);
    CHECK_MSG(status == 200 && !*text_of(a) && strcmp(reason_of(a), "stop") == 0, "%d", status);
    json_decref(a);
    a = complete(port,
                 "{\"prompt\": \"The city\", \"regex_pattern\": \"( of){3}!\", \"stop\": [281], "
                 "\"max_tokens\": 20}",
                 &status);
    CHECK_MSG(status == 200 && !*text_of(a) && strcmp(reason_of(a), "stop") == 0, "%d '%s'", status,
              text_of(a));
    json_decref(a);

    // The end of text: drawn at once when it is by far the likeliest, not before min_tokens, never
    // when it is ignored.
    a = complete(port, "{\"prompt\": \"The\", \"max_tokens\": 9, \"logit_bias\": {\"1\": 99}}",
                 &status);
    CHECK(usage_of(a, "completion_tokens") == 0 && strcmp(reason_of(a), "stop") == 0);
    json_decref(a);
    a = complete(
        port,
        "{\"prompt\": \"The\", \"max_tokens\": 9, \"min_tokens\": 4, \"logit_bias\": {\"1\": 99}}",
        &status);
    CHECK(usage_of(a, "completion_tokens") == 4 && strcmp(reason_of(a), "stop") == 0);
    json_decref(a);
    a = complete(port,
                 "{\"prompt\": \"The\", \"max_tokens\": 9, \"ignore_eos\": true, \"logit_bias\": "
                 "{\"1\": 99}}",
                 &status);
    CHECK(usage_of(a, "completion_tokens") == 9 && strcmp(reason_of(a), "length") == 0);
    json_decref(a);
    a = complete(port, "{\"prompt\": \"The\", \"max_tokens\": 0}", &status);
    CHECK(usage_of(a, "completion_tokens") == 0 && strcmp(reason_of(a), "length") == 0);
    json_decref(a);

    // What leaves no token is the request's fault.
    refused(port, "POST", "/v1/completions",
            "{\"prompt\": \"The\", \"max_tokens\": 9, \"allowed_tokens\": [300], "
            "\"banned_tokens\": [300]}",
            400, "no token is left");

    // One allowed token is a loop.
    a = complete(port,
                 "{\"prompt\": \"The\", \"max_tokens\": 500, \"allowed_tokens\": [300], "
                 "\"loop_detect_window\": 64}",
                 &status);
    const char *why = json_string_value(json_object_get(choice(a, 0), "eos_reason"));
    CHECK(why && strcmp(why, "loop_detected") == 0 && usage_of(a, "completion_tokens") == 64);
    json_decref(a);

    // Healing: a prompt cut inside a word is continued as if it were not.
    a = complete(port,
                 "{\"prompt\": \"The city of Paris is the most popul\", \"max_tokens\": 3, "
                 "\"token_healing\": true}",
                 &status);
    CHECK_MSG(strncmp(text_of(a), "ous city", 8) == 0, "'%s'", text_of(a));
    json_decref(a);
}

// Log-probabilities against those of the logits command's row.
static void test_logprobs(int port)
{
    int status;
    json_t *a = complete(
        port, "{\"prompt\": [0, 44, 496, 83, 950], \"max_tokens\": 1, \"logprobs\": 5}", &status);
    const json_t *l = json_object_get(choice(a, 0), "logprobs");
    double drawn = json_number_value(json_array_get(json_object_get(l, "token_logprobs"), 0));
    const json_t *top = json_array_get(json_object_get(l, "top_logprobs"), 0);
    const char *path = "build/tests/serve.logits";
    char *command =
        format("%s logits --ids 0,44,496,83,950 --device %s -o %s", program, device_name(), path);
    CHECK(system(command) == 0);
    free(command);
    FILE *f = fopen(path, "rb");
    uint64_t header = 0;
    static float row[4096];
    int read = f && fread(&header, 8, 1, f) == 1 &&
               fseek(f, (long)(8 + header + 4 * 4096 * sizeof(float)), SEEK_SET) == 0 &&
               fread(row, sizeof row, 1, f) == 1;
    CHECK(read);
    if (f) fclose(f);
    double sum = 0, best = -1e30;
    for (int i = 0; i < 4096; i++) sum += exp(row[i]), best = fmax(best, row[i]);
    CHECK_MSG(fabs(best - log(sum) - drawn) < 1e-3, "%g, expected %g", drawn, best - log(sum));
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)top, key, value)
    {
        double nearest = 1;
        for (int i = 0; i < 4096; i++)
            nearest = fmin(nearest, fabs(row[i] - log(sum) - json_number_value(value)));
        CHECK_MSG(nearest < 1e-3, "'%s' %g", key, json_number_value(value));
    }
    CHECK(json_object_size(top) == 5);
    json_decref(a);
}

// --- many at once --------------------------------------------------------------------------------

typedef struct {
    int port, ok;
    char *body, *text;
} Call;

static void *call(void *argument)
{
    Call *c = argument;
    int status;
    json_t *a = complete(c->port, c->body, &status);
    c->ok = status == 200;
    c->text = strdup(text_of(a));
    json_decref(a);
    return NULL;
}

// Equal requests give equal answers whoever else is there; half of them share long beginnings.
static void test_crowd(int port, int calls)
{
    Call alone[64], crowd[64];
    pthread_t thread[64];
    for (int i = 0; i < calls; i++) {
        char more[128];
        snprintf(more, sizeof more,
                 "\"max_tokens\": %d, \"temperature\": %d, \"seed\": %d, \"top_p\": 0.95",
                 8 + i % 7, i % 2, i);
        char *body = body_about(i % 2 ? 0 : (size_t)(1500 * i),
                                (size_t)(i % 4 == 3 ? 40 : 900 + 50 * (i % 5)), more);
        alone[i] = crowd[i] = (Call){.port = port, .body = body};
        call(&alone[i]);
    }
    for (int i = 0; i < calls; i++) pthread_create(&thread[i], NULL, call, &crowd[i]);
    int same = 0;
    for (int i = 0; i < calls; i++) {
        pthread_join(thread[i], NULL);
        same += alone[i].ok && crowd[i].ok && strcmp(alone[i].text, crowd[i].text) == 0;
        free(alone[i].text);
        free(crowd[i].text);
        free(alone[i].body);
    }
    CHECK_MSG(same == calls, "%d of %d answers are the same in company", same, calls);
}

static void test_cache(int port)
{
    int status;
    char *body = body_about(20000, 2500, "\"max_tokens\": 4");
    json_t *first = complete(port, body, &status), *second = complete(port, body, &status);
    CHECK_MSG(cached_of(first) == 0 && cached_of(second) == usage_of(second, "prompt_tokens") - 1,
              "%d, %d of %d", cached_of(first), cached_of(second),
              usage_of(second, "prompt_tokens"));
    CHECK(strcmp(text_of(first), text_of(second)) == 0);
    json_decref(first);
    json_decref(second);
    free(body);
    body = body_about(20000, 2600, "\"max_tokens\": 4"); // the same beginning, then more
    first = complete(port, body, &status);
    CHECK_MSG(cached_of(first) > 700, "%d", cached_of(first));
    json_decref(first);
    free(body);
}

// --- chats ---------------------------------------------------------------------------------------

// Answers of the chatting model are what a request says: each of these tokens outweighs the next by
// far and is penalized once it is there.
//   " Paris" "</think>" " city" "<|begin_of_text|>" "<tool_call>" " now" "</tool_call>" and the end
#define DICTATED                                                                                   \
    "\"temperature\": 0, \"presence_penalty\": 100, \"frequency_penalty\": 100, \"logit_bias\": "  \
    "{\"3163\": 900, \"4\": 876, \"1066\": 852, \"0\": 828, \"2\": 804, \"1364\": 780, \"3\": "    \
    "756, "                                                                                        \
    "\"1\": 732}"
#define TOOLS "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"clock\"}}]"
// Long enough for the cache to be looked at.
#define HELLO_TEXT "How did they do it when they were there at the end of the war?"
#define HELLO "\"messages\": [{\"role\": \"user\", \"content\": \"" HELLO_TEXT "\"}]"

static json_t *post(int port, const char *path, const char *body, int *status)
{
    char *text = request(port, "POST", path, "", body, status);
    json_t *answer = json_loads(text, 0, NULL);
    free(text);
    return answer ? answer : json_null();
}

static json_t *chat(int port, const char *body, int *status)
{
    return post(port, "/v1/chat/completions", body, status);
}

// The prompt of a request is exactly `text`: a completion of that text, asked for next, finds all
// of its tokens in the cache, and there are as many.
static void check_prompt_of(int port, const char *path, const char *members, const char *text)
{
    int status;
    char *body = format("{%s}", members);
    json_t *asked = post(port, path, body, &status);
    free(body);
    json_t *prompt = json_string(text);
    char *quoted = json_dumps(prompt, JSON_ENCODE_ANY);
    body = format("{\"prompt\": %s, \"add_bos_token\": false, \"max_tokens\": 1}", quoted);
    json_t *same = complete(port, body, &status);
    // Anthropic's count leaves out what was in the cache.
    int tokens = usage_of(asked, "prompt_tokens") + usage_of(asked, "input_tokens") +
                 usage_of(asked, "cache_read_input_tokens");
    CHECK_MSG(tokens > 0 && usage_of(same, "prompt_tokens") == tokens &&
                  cached_of(same) == tokens - 1,
              "%s: %d tokens, %d expected, %d of them the same", members, tokens,
              usage_of(same, "prompt_tokens"), cached_of(same));
    free(quoted);
    free(body);
    json_decref(prompt);
    json_decref(asked);
    json_decref(same);
}

static void check_prompt(int port, const char *members, const char *text)
{
    char *body = format("%s, \"max_tokens\": 1", members);
    check_prompt_of(port, "/v1/chat/completions", body, text);
    free(body);
}

static void check_message(int port, const char *members, const char *text)
{
    char *body = format("%s, \"max_tokens\": 1", members);
    check_prompt_of(port, "/v1/messages", body, text);
    free(body);
}

// Blocks become a chat: neighbours of one role are one message.
static void test_messages(int port)
{
    check_message(port, HELLO, "user: " HELLO_TEXT "\nassistant: <think>\n");
    check_message(port,
                  HELLO ", \"system\": [{\"type\": \"text\", \"text\": \"On\"}, {\"type\": "
                        "\"text\", \"text\": \"ce\"}], \"thinking\": {\"type\": \"disabled\"}",
                  "system: Once\nuser: " HELLO_TEXT "\nassistant: <think></think>");
    check_message(port,
                  HELLO ", \"tools\": [{\"name\": \"clock\", \"input_schema\": {}}], "
                        "\"thinking\": {\"type\": \"enabled\", \"budget_tokens\": 2000}",
                  "tool clock\nuser: " HELLO_TEXT "\nassistant: <think>\n");
    check_message(
        port,
        "\"system\": \"Once\", \"messages\": [{\"role\": \"user\", \"content\": \"A\"}, {\"role\": "
        "\"user\", \"content\": \"B\"}, {\"role\": \"assistant\", \"content\": [{\"type\": "
        "\"thinking\", \"thinking\": \"T\", \"signature\": \"\"}, {\"type\": \"tool_use\", \"id\": "
        "\"x\", \"name\": \"now\", \"input\": {\"a\": 41}}]}, {\"role\": \"user\", \"content\": "
        "[{\"type\": \"tool_result\", \"tool_use_id\": \"x\", \"content\": [{\"type\": \"text\", "
        "\"text\": \"noon\"}], \"is_error\": true}, {\"type\": \"text\", \"text\": \"So?\"}]}]",
        "system: Once\nuser: A\n\nB\nassistant: (T)<tool_call>now a=42</tool_call>\n"
        "tool: noon!\nuser: So?\nassistant: <think>\n");
    // A last message of the assistant is continued.
    check_message(port,
                  "\"messages\": [{\"role\": \"user\", \"content\": \"" HELLO_TEXT
                  "\"}, {\"role\": \"assistant\", \"content\": \"The city\"}]",
                  "user: " HELLO_TEXT "\nassistant: The city");
    // One without blocks begins nothing, and above all does not continue the user's.
    check_message(port,
                  "\"messages\": [{\"role\": \"user\", \"content\": \"" HELLO_TEXT
                  "\"}, {\"role\": \"assistant\", \"content\": []}]",
                  "user: " HELLO_TEXT "\nassistant: <think>\n");
    refused(
        port, "POST", "/v1/messages",
        "{\"max_tokens\": 1, \"messages\": [{\"role\": \"user\", \"content\": \"A\"}, {\"role\": "
        "\"assistant\", \"content\": [{\"type\": \"tool_use\", \"id\": \"x\", \"name\": \"now\", "
        "\"input\": {}}]}]}",
        400, "messages: the last one ends in a call without its result");
}

// So do items.
static void test_items(int port)
{
    const char *path = "/v1/responses";
    check_prompt_of(port, path, "\"input\": \"" HELLO_TEXT "\", \"max_output_tokens\": 1",
                    "user: " HELLO_TEXT "\nassistant: <think>\n");
    check_prompt_of(port, path,
                    "\"input\": \"" HELLO_TEXT "\", \"reasoning\": {\"effort\": \"none\"}, "
                    "\"max_output_tokens\": 1",
                    "user: " HELLO_TEXT "\nassistant: <think></think>");
    check_prompt_of(
        port, path,
        "\"instructions\": \"Once\", \"max_output_tokens\": 1, \"tools\": [{\"type\": "
        "\"function\", "
        "\"name\": \"clock\"}], \"input\": [{\"role\": \"developer\", \"content\": \"D\"}, "
        "{\"type\": \"message\", \"role\": \"user\", \"content\": [{\"type\": \"input_text\", "
        "\"text\": \"A\"}, {\"type\": \"input_text\", \"text\": \"B\"}]}, {\"type\": "
        "\"reasoning\", "
        "\"summary\": [], \"content\": [{\"type\": \"reasoning_text\", \"text\": \"T\"}]}, "
        "{\"type\": \"message\", \"role\": \"assistant\", \"content\": [{\"type\": "
        "\"output_text\", "
        "\"text\": \"C\"}]}, {\"type\": \"function_call\", \"call_id\": \"x\", \"name\": \"now\", "
        "\"arguments\": \"{\\\"a\\\": 41}\"}, {\"type\": \"function_call_output\", \"call_id\": "
        "\"x\", \"output\": \"noon\"}]",
        "tool clock\nsystem: Once\n\nD\nuser: AB\nassistant: (T)C<tool_call>now a=42</tool_call>\n"
        "tool: noon\nassistant: <think>\n");
    // What is wrong is called by this protocol's names.
    refused(port, "POST", path, "{\"input\": \"A\", \"max_output_tokens\": -1}", 400,
            "max_output_tokens: expected");
    int status;
    char *text =
        request(port, "POST", path, "", "{\"input\": \"A\", \"max_output_tokens\": 9999}", &status);
    CHECK_MSG(status == 400 && strstr(text, "\"param\":\"input\""), "%s", text);
    free(text);
}

static void test_prompts(int port)
{
    check_prompt(port, HELLO, "user: " HELLO_TEXT "\nassistant: <think>\n");
    check_prompt(port, HELLO ", \"enable_thinking\": false",
                 "user: " HELLO_TEXT "\nassistant: <think></think>");
    check_prompt(port, HELLO ", \"chat_template_kwargs\": {\"enable_thinking\": false}",
                 "user: " HELLO_TEXT "\nassistant: <think></think>");
    check_prompt(port, HELLO ", \"reasoning\": {\"enabled\": false, \"effort\": \"low\"}",
                 "user: " HELLO_TEXT "\nassistant: <think></think>");
    check_prompt(port, HELLO ", \"thinking\": {\"type\": \"disabled\"}",
                 "user: " HELLO_TEXT "\nassistant: <think></think>");
    check_prompt(port, HELLO ", \"add_generation_prompt\": false", "user: " HELLO_TEXT "\n");
    check_prompt(port, HELLO ", \"continue_final_message\": true", "user: " HELLO_TEXT);
    check_prompt(port, HELLO ", " TOOLS, "tool clock\nuser: " HELLO_TEXT "\nassistant: <think>\n");
    check_prompt(port, HELLO ", " TOOLS ", \"tool_choice\": \"auto\"",
                 "tool clock\nuser: " HELLO_TEXT "\nassistant: <think>\n");
    check_prompt(port, HELLO ", " TOOLS ", \"tool_choice\": \"none\"",
                 "user: " HELLO_TEXT "\nassistant: <think>\n");
    check_prompt(port, HELLO ", \"documents\": [{\"title\": \"D\"}]",
                 "document D\nuser: " HELLO_TEXT "\nassistant: <think>\n");
    // Arguments come as text and reach the template as what they say; content may come in parts.
    check_prompt(
        port,
        "\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": "
        "\"On\"}, {\"type\": \"text\", \"text\": \"ce\"}]}, {\"role\": \"assistant\", "
        "\"content\": null, \"tool_calls\": [{\"id\": \"x\", \"type\": \"function\", "
        "\"function\": {\"name\": \"now\", \"arguments\": \"{\\\"a\\\": 41}\"}}, {\"function\": "
        "{\"name\": \"then\", \"arguments\": \"\"}}]}]",
        "user: Once\nassistant: <tool_call>now a=42</tool_call><tool_call>then</tool_call>\n"
        "assistant: <think>\n");
    // A template that takes them for text gets the text.
    check_prompt(port,
                 "\"messages\": [{\"role\": \"user\", \"content\": \"Once\"}, {\"role\": "
                 "\"assistant\", \"tool_calls\": [{\"function\": {\"name\": \"raw\", "
                 "\"arguments\": \"{\\\"a\\\":1.50}\"}}]}]",
                 "user: Once\nassistant: <tool_call>raw {\"a\":1.50}</tool_call>\n"
                 "assistant: <think>\n");
}

// The prompt of a chat as text and as tokens, without an answer.
static void test_templates(int port)
{
    int status;
    json_t *made = post(port, "/apply-template", "{" HELLO ", " TOOLS "}", &status);
    const char *prompt = json_string_value(json_object_get(made, "prompt"));
    CHECK_MSG(prompt && !strcmp(prompt, "tool clock\nuser: " HELLO_TEXT "\nassistant: <think>\n"),
              "%d %s", status, prompt);
    json_t *ids = post(port, "/tokenize", "{" HELLO ", " TOOLS "}", &status);
    json_t *answer = chat(port, "{" HELLO ", " TOOLS ", \"max_tokens\": 1}", &status);
    CHECK(json_integer_value(json_object_get(ids, "count")) == usage_of(answer, "prompt_tokens") &&
          usage_of(answer, "prompt_tokens") > 10);
    json_decref(made);
    json_decref(ids);
    json_decref(answer);
    // Templates have names.
    char *names = request(port, "GET", "/v1/templates", "", "", &status);
    CHECK_MSG(strstr(names, "[\"default\"]"), "%s", names);
    free(names);
    made = post(port, "/apply-template", "{" HELLO ", \"prompt_template\": \"default\"}", &status);
    CHECK(status == 200 && json_is_string(json_object_get(made, "prompt")));
    json_decref(made);
    refused(port, "POST", "/v1/chat/completions", "{" HELLO ", \"prompt_template\": \"other\"}",
            400, "there are: default");
    refused(port, "POST", "/apply-template", "{}", 400, "messages");
    refused(port, "POST", "/tokenize", "{\"messages\": []}", 400, "at least one");
}

static const char *part_of(const json_t *message, const char *name)
{
    const char *text = json_string_value(json_object_get(message, name));
    return text ? text : "(none)";
}

// reasoning_content|content|name(arguments) of a message.
static char *parts_of(const json_t *message)
{
    const json_t *call = json_array_get(json_object_get(message, "tool_calls"), 0);
    const json_t *function = json_object_get(call, "function");
    CHECK(!call ||
          (strlen(part_of(call, "id")) == 9 && strcmp(part_of(call, "type"), "function") == 0));
    return format("%s|%s|%s(%s)", part_of(message, "reasoning_content"),
                  part_of(message, "content"), part_of(function, "name"),
                  part_of(function, "arguments"));
}

static void check_reply(int port, const char *members, const char *parts, const char *reason)
{
    int status;
    char *body = format("{%s}", members);
    json_t *a = chat(port, body, &status);
    char *found = parts_of(json_object_get(choice(a, 0), "message"));
    CHECK_MSG(strcmp(found, parts) == 0 && strcmp(reason_of(a), reason) == 0, "%s: %s, %s", members,
              found, reason_of(a));
    free(found);
    free(body);
    json_decref(a);
}

static void test_replies(int port)
{
    check_reply(port, HELLO ", " TOOLS ", " DICTATED, "Paris|city|now({})", "tool_calls");
    // Without tools the tags of a call are text.
    check_reply(port, HELLO ", " DICTATED, "Paris|city<tool_call> now</tool_call>|(none)((none))",
                "stop");
    check_reply(port, HELLO ", " TOOLS ", \"max_tokens\": 1, " DICTATED, "Paris||(none)((none))",
                "length");
    check_reply(port, HELLO ", " TOOLS ", \"stop\": \" city\", " DICTATED, "Paris||(none)((none))",
                "stop");
    check_reply(port, HELLO ", \"skip_special_tokens\": false, \"max_tokens\": 4, " DICTATED,
                "Paris|city<|begin_of_text|>|(none)((none))", "length");
    check_reply(port,
                HELLO ", " TOOLS
                      ", \"banned_tokens\": [3163, 1066], \"enable_thinking\": false, " DICTATED,
                "(none)|(none)|now({})", "tool_calls");

    // Streamed, twice over: the role, the parts in their order, the reason with an empty delta.
    int status;
    char *text =
        request(port, "POST", "/v1/chat/completions", "",
                "{\"stream\": true, \"n\": 2, " HELLO ", " TOOLS ", " DICTATED "}", &status);
    char said[2][256] = {"", ""};
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *event = json_loads(line + 6, 0, NULL);
        const json_t *c = choice(event, 0), *delta = json_object_get(c, "delta");
        if (delta) {
            const json_t *call = json_array_get(json_object_get(delta, "tool_calls"), 0);
            char *parts = parts_of(delta),
                 *out = said[json_integer_value(json_object_get(c, "index"))];
            strcat(out, json_object_get(delta, "role") ? "role"
                        : json_object_size(delta)      ? parts
                                                       : reason_of(event));
            strcat(out, ";");
            CHECK(!call || json_is_integer(json_object_get(call, "index")));
            free(parts);
        }
        json_decref(event);
    }
    for (int i = 0; i < 2; i++)
        CHECK_MSG(strcmp(said[i], "role;Paris|(none)|(none)((none));(none)|city|(none)((none));"
                                  "(none)|(none)|now({});tool_calls;") == 0,
                  "%s", said[i]);
    free(text);
}

// Said twice over, the reply has two calls; where one is wanted at most, the first.
static void test_one_call(int port)
{
    for (int parallel = 0; parallel < 2; parallel++) {
        int status;
        char *body = format("{" HELLO ", " TOOLS ", \"enable_thinking\": false, \"max_tokens\": 6, "
                            "\"parallel_tool_calls\": %s, \"temperature\": 0, "
                            "\"presence_penalty\": 100, \"frequency_penalty\": 100, "
                            "\"logit_bias\": {\"2\": 900, \"1364\": 880, \"3\": 860}}",
                            parallel ? "true" : "false");
        json_t *a = chat(port, body, &status);
        const json_t *message = json_object_get(choice(a, 0), "message");
        size_t calls = json_array_size(json_object_get(message, "tool_calls"));
        CHECK_MSG(calls == 1 + (size_t)parallel && strcmp(reason_of(a), "length") == 0,
                  "%d: %zu calls, %s", status, calls, reason_of(a));
        free(body);
        json_decref(a);
    }
}

// Calls that are asked for: of a tool, with valid arguments, and one where more are not wanted.
static void test_forced(int port)
{
    static const char tools[] =
        "\"enable_thinking\": false, \"temperature\": 1, \"max_tokens\": 300, \"tools\": "
        "[{\"type\": \"function\", \"function\": {\"name\": \"move\", \"parameters\": {\"type\": "
        "\"object\", \"properties\": {\"to\": {\"enum\": [\"left\", \"right\"]}}, \"required\": "
        "[\"to\"]}}}]";
    for (int seed = 0; seed < 4; seed++) {
        int status;
        char *body = format("{" HELLO ", %s, \"seed\": %d, \"tool_choice\": \"required\", "
                            "\"parallel_tool_calls\": false}",
                            tools, seed);
        json_t *a = chat(port, body, &status),
               *choice = json_array_get(json_object_get(a, "choices"), 0);
        json_t *calls = json_object_get(json_object_get(choice, "message"), "tool_calls");
        json_t *function = json_object_get(json_array_get(calls, 0), "function");
        const char *text = json_string_value(json_object_get(function, "arguments"));
        json_t *arguments = text ? json_loads(text, 0, NULL) : NULL;
        const char *to = json_string_value(json_object_get(arguments, "to"));
        CHECK_MSG(status == 200 && json_array_size(calls) == 1 && to &&
                      (strcmp(to, "left") == 0 || strcmp(to, "right") == 0),
                  "%d %s", status, text ? text : "?");
        json_decref(arguments);
        json_decref(a);
        free(body);
    }
}

// A call with a number of many digits, in Anthropic's form a number of the answer, and in OpenAI's
// events as its text. Every token is dictated:
//   "<tool_call>" " now" "[" "A" "R" "G" "S" "]" "{" " \"" "x" "\"" ":\n" "0" "." "193" "186" "189"
//   "187" "}" "</tool_call>" and the end
static void test_numbers(int port)
{
    static const int ids[] = {2, 1364, 63, 37, 54,   43,   55,   65,   95, 314, 92,
                              6, 850,  20, 18, 1311, 2429, 2440, 2514, 97, 3,   1};
    char bias[512] = "", *at = bias;
    for (int i = 0; i < (int)(sizeof ids / sizeof *ids); i++)
        at += sprintf(at, "%s\"%d\": %d", i ? ", " : "", ids[i], 900 - 24 * i);
    char *body =
        format("\"temperature\": 0, \"presence_penalty\": 100, \"frequency_penalty\": 100, "
               "\"repetition_penalty\": 10, \"logit_bias\": {%s}",
               bias);
    char *message = format("{\"max_tokens\": 40, " HELLO ", \"tools\": [{\"name\": \"clock\", "
                           "\"input_schema\": {}}], \"thinking\": {\"type\": \"disabled\"}, %s}",
                           body);
    char *items = format("{\"stream\": true, \"input\": \"" HELLO_TEXT "\", \"tools\": [{\"type\": "
                         "\"function\", \"name\": \"clock\"}], \"reasoning\": {\"effort\": "
                         "\"none\"}, %s}",
                         body);
    int status;
    char *text = request(port, "POST", "/v1/messages", "", message, &status);
    CHECK_MSG(strstr(text, "\"input\":{\"x\":0.193186189187}"), "%s", text);
    free(text);
    text = request(port, "POST", "/v1/responses", "", items, &status);
    char *done = strstr(text, "event: response.function_call_arguments.done");
    char *end = done ? strstr(done, "\n\n") : NULL;
    if (end) *end = 0;
    CHECK_MSG(done &&
                  strstr(done, "\"name\":\"now\",\"arguments\":\"{ \\\"x\\\":\\n0.193186189187}\""),
              "%s", text);
    free(text);
    free(items);
    free(message);
    free(body);
}

static void test_chat_refusals(int port)
{
    static const char *const cases[][2] = {
        {"{}", "messages"},
        {"{\"messages\": []}", "at least one"},
        {"{\"messages\": [{\"content\": \"x\"}]}", "no role"},
        {"{\"messages\": [{\"role\": \"tool\", \"content\": \"x\"}]}", "A tool cannot begin."},
        {"{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}",
         "'image_url'"},
        {"{" HELLO ", \"tools\": {}}", "tools: expected"},
        {"{" HELLO ", \"tools\": [{\"type\": \"function\"}]}", "tools: number 0"},
        {"{" HELLO ", \"tool_choice\": \"required\"}", "no tools"},
        {"{" HELLO ", " TOOLS
         ", \"tool_choice\": {\"type\": \"function\", \"function\": {\"name\": "
         "\"clocks\"}}}",
         "'clocks'"},
        {"{" HELLO ", " TOOLS ", \"parallel_tool_calls\": 1}", "parallel_tool_calls"},
        {"{" HELLO ", \"chat_template_kwargs\": []}", "expected an object"},
        {"{" HELLO ", \"add_generation_prompt\": true, \"continue_final_message\": true}",
         "exclude each other"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refused(port, "POST", "/v1/chat/completions", cases[i][0], 400, cases[i][1]);
    int status;
    char *text = request(port, "GET", "/props", "", "", &status);
    CHECK_MSG(strstr(text, "A tool cannot begin."), "%s", text);
    free(text);
    text = request(port, "GET", "/v1/model", "", "", &status);
    CHECK_MSG(strstr(text, "\"prompt_template\":true"), "%s", text);
    free(text);
}

static void test_chat(const char *chatting)
{
    Server s = start_server(chatting, (const char *[]){NULL});
    test_prompts(s.port);
    test_messages(s.port);
    test_items(s.port);
    test_replies(s.port);
    test_numbers(s.port);
    test_templates(s.port);
    test_one_call(s.port);
    test_forced(s.port);
    test_chat_refusals(s.port);
    CHECK(stop_server(&s, SIGTERM) == 0);
}

// --- coming and going ----------------------------------------------------------------------------

static double metric(int port, const char *name)
{
    int status;
    char *text = request(port, "GET", "/metrics", "", "", &status);
    char *line = format("\nexlc:%s ", name), *at = strstr(text, line);
    double value = at ? atof(at + strlen(line)) : -1;
    free(line);
    free(text);
    return value;
}

static const char *const endless =
    "{\"prompt\": \"The\", \"max_tokens\": 2000, \"stream\": true, \"ignore_eos\": true}";

// Who holds pages, while and after.
static void test_owners(int port)
{
    int fd = send_request(port, "POST", "/v1/completions", "", endless), status;
    char part[4096] = "";
    double start = seconds();
    CHECK(recv(fd, part, sizeof part - 1, 0) > 0);
    json_t *cache = NULL;
    const json_t *one = NULL;
    do {
        char *text = request(port, "GET", "/cache", "", "", &status);
        json_decref(cache);
        cache = json_loads(text, 0, NULL);
        one = json_array_get(json_object_get(cache, "sequences"), 0);
        free(text);
    } while (json_integer_value(json_object_get(one, "tokens")) < 300 && seconds() - start < 10);
    const char *id = json_string_value(json_object_get(one, "id"));
    CHECK_MSG(json_array_size(json_object_get(cache, "sequences")) == 1 && id &&
                  strncmp(id, "cmpl-", 5) == 0 &&
                  json_integer_value(json_object_get(one, "pages")) ==
                      (json_integer_value(json_object_get(one, "tokens")) + 255) / 256,
              "%s", json_dumps(cache, JSON_COMPACT));
    json_decref(cache);
    close(fd);
    start = seconds();
    while (metric(port, "requests_running") > 0 && seconds() - start < 5) usleep(1000);
}

static void test_leaving(int port)
{
    double before = metric(port, "requests_cancelled_total");
    int fd[3];
    for (int i = 0; i < 3; i++) fd[i] = send_request(port, "POST", "/v1/completions", "", endless);
    char part[64];
    for (int i = 0; i < 3; i++) CHECK(recv(fd[i], part, sizeof part, 0) > 0);
    double start = seconds();
    while (metric(port, "requests_running") < 3 && seconds() - start < 5) usleep(1000);
    CHECK(metric(port, "requests_running") == 3);
    for (int i = 0; i < 3; i++) close(fd[i]);
    start = seconds();
    while (metric(port, "requests_running") > 0 && seconds() - start < 5) usleep(1000);
    CHECK_MSG(seconds() - start < 0.3, "%g s", seconds() - start);
    CHECK(metric(port, "requests_cancelled_total") == before + 3);
    CHECK(metric(port, "cache_usage_ratio") == 0);
}

// A long text that is tokenized holds up no other client.
static void test_long_reading(void)
{
    Server s = start_server(program, (const char *[]){NULL});
    enum { BYTES = 7000000 };
    char *text = malloc(BYTES + 1);
    for (size_t i = 0; i < BYTES; i++) {
        char c = words[i % 50000];
        text[i] = c < ' ' || c == '"' || c == '\\' ? ' ' : c;
    }
    text[BYTES] = 0;
    const struct {
        const char *path;
        char *body;
        const char *words;
    } slow[] = {
        {"/tokenize", format("{\"text\": \"%s\"}", text), "\"count\":"},
        {"/v1/completions", format("{\"prompt\": \"%s\"}", text), "maximum context length"},
    };
    for (int i = 0; i < 2; i++) {
        int fd = send_request(s.port, "POST", slow[i].path, "", slow[i].body), others = 0, status;
        char first;
        double start = seconds(), longest = 0;
        while (recv(fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && seconds() - start < 20) {
            double asked = seconds();
            free(request(s.port, "GET", "/health", "", "", &status));
            if (seconds() - asked > longest) longest = seconds() - asked;
            others += status == 200;
        }
        char *answer = read_all(fd);
        CHECK_MSG(strstr(answer, slow[i].words) && others >= 10 && longest < 0.2,
                  "%s: %g s, meanwhile %d, the longest took %g s; %.300s", slow[i].path,
                  seconds() - start, others, longest, answer);
        free(answer);
        free(slow[i].body);
    }
    free(text);
    CHECK(stop_server(&s, SIGTERM) == 0);
}

// Choices that take turns: the times are those of all of them.
static void test_times(void)
{
    Server s = start_server(program, (const char *[]){"--max-batch", "1", NULL});
    int status;
    json_t *a = complete(
        s.port, "{\"prompt\": \"The\", \"n\": 4, \"max_tokens\": 40, \"ignore_eos\": true}",
        &status);
    const json_t *usage = json_object_get(a, "usage");
    double queue = json_number_value(json_object_get(usage, "queue_time")),
           writing = json_number_value(json_object_get(usage, "completion_time"));
    CHECK_MSG(queue > 0 && writing > queue, "%g s in the queue, %g s of writing", queue, writing);
    json_decref(a);
    CHECK(stop_server(&s, SIGTERM) == 0);
}

// What is written down of requests, when it is asked for.
static void test_records(void)
{
    char path[] = "/tmp/exlc-capture-XXXXXX", text[4096] = "";
    close(mkstemp(path));
    Server s = start_server(program, (const char *[]){"--log-requests", "--capture", path,
                                                      "--api-key", "secret", NULL});
    int status;
    const char *key = "Authorization: Bearer secret\r\n";
    free(request(s.port, "POST", "/v1/completions", key,
                 "{\"prompt\": \"The\",\n\"max_tokens\": 3}", &status));
    CHECK(status == 200);
    free(request(s.port, "POST", "/tokenize", key, "{\"text\": 5}", &status));
    free(request(s.port, "POST", "/tokenize", key, "{", &status));
    CHECK(read(s.log, text, sizeof text - 1) > 0);
    int prompt, cached, drawn;
    double queue, reading, rate, writing, speed;
    const char *line = strstr(text, "cmpl-");
    CHECK_MSG(line &&
                  sscanf(line,
                         "cmpl-%*[0-9a-f]: %lf s in the queue; %d prompt tokens, %d of them "
                         "cached, %lf s, %lf tokens/s; %d drawn, %lf s, %lf tokens/s\n",
                         &queue, &prompt, &cached, &reading, &rate, &drawn, &writing,
                         &speed) == 8 &&
                  prompt == 2 && cached == 0 && drawn == 3 && reading > 0 && speed > 0,
              "%s", text);
    CHECK(stop_server(&s, SIGTERM) == 0);
    FILE *f = fopen(path, "r");
    char lines[3][4096];
    int count = 0;
    while (f && count < 3 && fgets(lines[count], sizeof *lines, f)) count++;
    CHECK_MSG(count == 2, "%d", count);
    json_t *first = json_loads(lines[0], 0, NULL), *second = json_loads(lines[1], 0, NULL),
           *body = NULL;
    const char *where = "?";
    CHECK(first && json_unpack(first, "{s:s, s:o}", "path", &where, "body", &body) == 0 &&
          strcmp(where, "/v1/completions") == 0 && !strstr(lines[0], "secret"));
    CHECK(json_integer_value(json_object_get(body, "max_tokens")) == 3);
    CHECK(json_integer_value(json_object_get(second, "status")) == 400);
    json_decref(first);
    json_decref(second);
    if (f) fclose(f);
    unlink(path);
    // What cannot be kept is said once, and changes no answer.
    s = start_server(program, (const char *[]){"--capture", "/dev/full", NULL});
    for (int i = 0; i < 2; i++) {
        free(request(s.port, "POST", "/tokenize", "", "{\"text\": \"x\"}", &status));
        CHECK(status == 200);
    }
    text[read(s.log, text, sizeof text - 1)] = 0;
    CHECK_MSG(strstr(text, "/dev/full: No space left") &&
                  strchr(text, '\n') == text + strlen(text) - 1,
              "%s", text);
    CHECK(stop_server(&s, SIGTERM) == 0);
}

// A second server says that the port is taken, and nothing else: before it reads any weights.
static void test_second(int port)
{
    char *command = format("%s serve --device %s --port %d 2>&1", program, device_name(), port);
    char *text = calloc(1, 4096);
    FILE *f = popen(command, "r");
    text[fread(text, 1, 4095, f)] = 0;
    CHECK(pclose(f) >> 8 == 1);
    CHECK_MSG(strstr(text, "already in use") && strchr(text, '\n') == text + strlen(text) - 1, "%s",
              text);
    free(text);
    free(command);
}

// What a request does not say, the server's options do.
static void test_defaults(void)
{
    const char *words = "{\"prompt\": \"The city of Paris\", \"max_tokens\": 24, \"seed\": 7%s}";
    char *bodies[2] = {format(words, ""),
                       format(words, ", \"temperature\": 0.9, \"top_k\": 5, \"min_p\": 0.1")};
    char *said[3];
    for (int i = 0; i < 3; i++) {
        const char *options[] = {"--temperature", "0.9", "--top-k", "5", "--min-p", "0.1", NULL};
        Server s = start_server(program, options + (i ? 6 : 0));
        int status;
        json_t *a = complete(s.port, bodies[i == 1], &status);
        said[i] = format("%s", text_of(a));
        json_decref(a);
        CHECK(stop_server(&s, SIGTERM) == 0);
    }
    CHECK_MSG(strcmp(said[0], said[1]) == 0 && strcmp(said[0], said[2]) != 0, "%s|%s|%s", said[0],
              said[1], said[2]);
    for (int i = 0; i < 3; i++) free(said[i]);
    free(bodies[0]);
    free(bodies[1]);
}

static void test_keys(void)
{
    Server s = start_server(program,
                            (const char *[]){"--api-key", "one", "--admin-key", "two", "--cors",
                                             "*", "--name", "a/b c", "--cache-bits", "8,4", NULL});
    const struct {
        const char *path, *headers;
        int status;
    } cases[] = {
        {"/v1/models", "", 401},
        {"/v1/models", "Authorization: Bearer on\r\n", 401},
        {"/v1/models", "Authorization: Bearer one\r\n", 200},
        {"/v1/models", "x-api-key: one\r\n", 200},
        {"/v1/models", "x-admin-key: two\r\n", 200},
        {"/v1/models/a/b%20c", "x-api-key: one\r\n", 200},
        {"/v1/models/a%2Fb%20c", "x-api-key: one\r\n", 200},
        {"/v1/models/a%2Fb", "x-api-key: one\r\n", 404},
        {"/v1/auth/permission", "x-api-key: on\r\n", 401},
        {"/cache", "x-api-key: one\r\n", 401},
        {"/cache", "Authorization: Bearer two\r\n", 200},
        {"/health", "", 200},
        {"/", "", 200},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status;
        free(request(s.port, "GET", cases[i].path, cases[i].headers, "", &status));
        CHECK_MSG(status == cases[i].status, "%s %s: %d", cases[i].path, cases[i].headers, status);
    }
    int status;
    char *model = request(s.port, "GET", "/v1/model", "x-api-key: one\r\n", "", &status);
    CHECK_MSG(strstr(model, "\"cache_mode\":\"8,4\""), "%s", model);
    free(model);
    char *granted =
        request(s.port, "GET", "/v1/auth/permission", "x-api-key: one\r\n", "", &status);
    CHECK_MSG(strcmp(granted, "{\"permission\":\"api\"}") == 0, "%s", granted);
    free(granted);
    granted = request(s.port, "GET", "/v1/auth/permission", "x-api-key: two\r\n", "", &status);
    CHECK_MSG(strcmp(granted, "{\"permission\":\"admin\"}") == 0, "%s", granted);
    free(granted);
    char *all = read_all(send_request(s.port, "OPTIONS", "/v1/models", "", ""));
    CHECK(strstr(all, "204") && strstr(all, "Access-Control-Allow-Origin: *"));
    free(all);
    CHECK(stop_server(&s, SIGTERM) == 0);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0) exit(1);
    fclose(f);
}

static int status_of(int port, const char *path, const char *key)
{
    int status;
    char *header = format("Authorization: Bearer %s\r\n", key);
    free(request(port, "GET", path, header, "", &status));
    free(header);
    return status;
}

// A file of keys, as our own or TabbyAPI's, is read again when it changes; a bad one is not taken.
static void test_key_file(void)
{
    char path[] = "/tmp/exlc-keys-XXXXXX", text[4096] = "";
    FILE *f;
    close(mkstemp(path));
    write_file(path, "# people\napi-key = one\napi-key = \"two\"\nadmin-key = boss\n");
    Server s = start_server(program, (const char *[]){"--keys", path, "--api-key", "given", NULL});
    CHECK(status_of(s.port, "/v1/models", "one") == 200 &&
          status_of(s.port, "/v1/models", "two") == 200 &&
          status_of(s.port, "/v1/models", "given") == 200 &&
          status_of(s.port, "/v1/models", "three") == 401);
    CHECK(status_of(s.port, "/cache", "one") == 401 && status_of(s.port, "/cache", "boss") == 200);
    write_file(path, "admin_key: boss\napi_key:\n  - three\n  - 'four'\n");
    double start = seconds();
    while (status_of(s.port, "/v1/models", "three") != 200 && seconds() - start < 5) usleep(50000);
    CHECK(status_of(s.port, "/v1/models", "four") == 200 &&
          status_of(s.port, "/v1/models", "one") == 401 &&
          status_of(s.port, "/v1/models", "given") == 200);
    // Also when it is as old as the one before; half a key is none.
    struct stat file;
    CHECK(stat(path, &file) == 0);
    write_file(path, "api-key = five\n");
    CHECK(utimensat(AT_FDCWD, path, (struct timespec[]){file.st_atim, file.st_mtim}, 0) == 0);
    start = seconds();
    while (status_of(s.port, "/v1/models", "five") != 200 && seconds() - start < 5) usleep(50000);
    CHECK(status_of(s.port, "/v1/models", "five") == 200 &&
          status_of(s.port, "/v1/models", "three") == 401);
    f = fopen(path, "w");
    CHECK(f && fwrite("api-key = five\0six\n", 1, 20, f) == 20 && fclose(f) == 0);
    CHECK(read(s.log, text, sizeof text - 1) > 0 && strstr(text, ":1: expected 'api-key = KEY'"));
    CHECK(status_of(s.port, "/v1/models", "five") == 200);
    memset(text, 0, sizeof text);
    write_file(path, "api_key: [one\nnonsense\n");
    CHECK(read(s.log, text, sizeof text - 1) > 0);
    CHECK_MSG(strstr(text, ":1: expected 'api-key = KEY'") && strstr(text, "stay as they were"),
              "%s", text);
    CHECK(status_of(s.port, "/v1/models", "five") == 200);
    CHECK(stop_server(&s, SIGTERM) == 0);
    unlink(path);
}

// SIGTERM: a short answer is finished, a long one is cut off in time, the status is 0.
static void test_drain(void)
{
    Server s = start_server(program, (const char *[]){"--drain", "5", NULL});
    int fd = send_request(s.port, "POST", "/v1/completions", "",
                          "{\"prompt\": \"The\", \"max_tokens\": 60, \"stream\": true}");
    char part[64];
    CHECK(recv(fd, part, sizeof part, 0) > 0);
    double start = seconds();
    int status = stop_server(&s, SIGTERM);
    CHECK_MSG(status == 0 && seconds() - start < 5, "%d after %g s", status, seconds() - start);
    char *text = read_all(fd);
    CHECK_MSG(strstr(text, "\"length\"") && strstr(text, "[DONE]"), "%s",
              text + strlen(text) / 10 * 9);
    free(text);

    s = start_server(program, (const char *[]){"--drain", "1", NULL});
    int many[16];
    for (int i = 0; i < 16; i++)
        many[i] = send_request(s.port, "POST", "/v1/completions", "", endless);
    CHECK(recv(many[0], part, sizeof part, 0) > 0);
    start = seconds();
    status = stop_server(&s, SIGTERM);
    CHECK_MSG(status == 0 && seconds() - start < 1.3, "%d after %g s", status, seconds() - start);
    text = read_all(many[0]);
    CHECK_MSG(strstr(text, "shutting down") && strstr(text, "[DONE]"), "%s",
              text + strlen(text) - 100);
    free(text);
    for (int i = 1; i < 16; i++) close(many[i]);
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    program = argv[1];
    int fd = open(argv[2], O_RDONLY);
    words = calloc(1, 1 << 17);
    if (fd < 0 || read(fd, words, (1 << 17) - 1) < 50000) return 1;
    for (char *p = words; *p; p++)
        if ((unsigned char)*p >= 128) *p = '-'; // any byte may be a border
    close(fd);
    signal(SIGPIPE, SIG_IGN);

    Server s = start_server(program, (const char *[]){"--max-body", "2500", NULL});
    test_refusals(s.port);
    CHECK(stop_server(&s, SIGTERM) == 0);
    s = start_server(program, (const char *[]){NULL});
    test_answers(s.port);
    test_front_end(s.port);
    test_second(s.port);
    test_endings(s.port);
    test_logprobs(s.port);
    test_cache(s.port);
    test_owners(s.port);
    test_leaving(s.port);
    CHECK(stop_server(&s, SIGINT) == 0);
    s = start_server(program, (const char *[]){"--deterministic", "--chunk", "256", NULL});
    test_crowd(s.port, 24);
    CHECK(stop_server(&s, SIGTERM) == 0);
    s = start_server(program, (const char *[]){"--deterministic", "--chunk", "256", "--cache-bits",
                                               "5,4", NULL});
    test_crowd(s.port, 8);
    CHECK(stop_server(&s, SIGTERM) == 0);
    // A cache that holds three of them: they wait for each other, or go on later.
    s = start_server(program,
                     (const char *[]){"--cache-tokens", "1280", "--max-context", "512", NULL});
    test_crowd(s.port, 16);
    CHECK(stop_server(&s, SIGTERM) == 0);
    test_times();
    test_records();
    test_long_reading();
    test_defaults();
    test_keys();
    test_key_file();
    test_drain();
    if (argc > 3) test_chat(argv[3]);
    free(words);
    return check_done();
}
