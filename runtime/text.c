// The commands that make text: run, tokenize, template.
#include "input.h"
#include "render.h"
#include "sampling.h"
#include "start.h"
#include "terminal.h"
#include "writer.h"
#include "tokenize.h"
#include "tokens.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

Tokens *open_any_tokens(void)
{
    Tokens *t;
    Error err;
    if (tokens_open(&t, model_info.tokenizer, model_info.tokenizer_bytes, &err) != 0)
        fail("%s", err.text);
    return t;
}

Tokens *open_tokens(void)
{
    if (!model_info.tokenizer) fail("the model directory had no tokenizer.json");
    return open_any_tokens();
}

void check_ids(const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= model_info.vocab)
            fail("token %d is beyond the model's vocabulary of %d", ids[i], model_info.vocab);
}

// Given options over generation_config.json; a fresh seed when none is given.
SamplerOptions choose_sampler(const Options *o)
{
    SamplerOptions s = sampling_of_model();
    if (!isnan(o->temperature)) s.temperature = o->temperature;
    if (o->top_k >= 0) s.top_k = o->top_k;
    if (!isnan(o->top_p)) s.top_p = o->top_p;
    if (!isnan(o->min_p)) s.min_p = o->min_p;
    s.seed = o->seed;
    if (!o->seed_given) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        s.seed = (uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec;
    }
    return s;
}

void check_thinking(const Options *o, const Chat *chat)
{
    if (o->thinks >= 0 && !chat_knows_thinking(chat))
        fail("--think: the chat template has no switch for reasoning");
}

static char *read_whole(const char *path)
{
    FILE *f = fopen(path, "rb");
    char *text = NULL;
    size_t room = 0;
    if (!f || getdelim(&text, &room, 0, f) < 0)
        fail("%s: %s", path, f ? "it is empty" : strerror(errno));
    fclose(f);
    return text;
}

Matcher *choose_matcher(const Options *o, ChatPrompt *prompt)
{
    Constraint c = {.reply = prompt ? &prompt->format : NULL,
                    .reasoning = prompt ? prompt->reasoning : REASONING_MAY};
    const char *where = o->grammar_file ? o->grammar_file : "--json-schema";
    char *grammar = NULL;
    json_t *schema = NULL;
    json_error_t at;
    Matcher *m;
    Error err;
    if (!o->grammar_file && !o->json_schema) return NULL;
    if (o->grammar_file && o->json_schema)
        usage_error("--grammar-file and --json-schema exclude each other");
    if (o->json_schema && !(schema = json_loads(o->json_schema, JSON_REJECT_DUPLICATES, &at)))
        fail("--json-schema: %s", at.text);
    if (o->grammar_file) c.grammar = grammar = read_whole(o->grammar_file);
    c.schema = schema;
    if (constraint_compile(&c, &m, &err) != 0) fail("%s: %s", where, err.text);
    if (prompt) prompt->format.constrained = 1;
    json_decref(schema);
    free(grammar);
    return m;
}

void open_writer(Writer *w, const Options *o, Tokens *tokens, int embeds)
{
    Error err;
    *w = (Writer){.tokens = tokens, .model = open_model(o, 0, 0, embeds)};
    if (generator_open(&w->generator, w->model.device, &w->model.options, tokens, &err) != 0)
        fail("%s", err.text);
    w->generator.batch.deterministic = o->deterministic;
}

void close_writer(Writer *w)
{
    generator_close(&w->generator);
    close_model(&w->model);
    tokens_close(w->tokens);
}

// --- what jobs say -------------------------------------------------------------------------------

void append_text(TokenText *text, const char *data, size_t bytes)
{
    if (text->bytes + bytes + 1 > text->room) {
        text->room = 2 * (text->bytes + bytes) + 256;
        text->data = realloc(text->data, text->room);
        if (!text->data) fail("out of memory");
    }
    memcpy(text->data + text->bytes, data, bytes);
    text->bytes += bytes;
    text->data[text->bytes] = 0;
}

static void hear_text(void *to, int reasoning, const char *text, size_t bytes)
{
    Speech *s = to;
    if (!s->quiet && reasoning && !s->dim) fputs(terminal_dim(), stderr), s->dim = 1;
    if (!s->quiet && !reasoning && s->dim) speech_rest(s);
    if (!s->quiet && !reasoning && s->reasoning.bytes && !s->content.bytes) fputs("\n\n", stderr);
    append_text(reasoning ? &s->reasoning : &s->content, text, bytes);
    if (s->quiet) return;
    fwrite(text, 1, bytes, reasoning ? stderr : stdout);
    // Nobody reads any more: nothing to write for.
    if (fflush(stdout) != 0) fail("standard output: cannot write");
}

// Without tools there are no calls.
static void hear_call(void *to, const char *id, const char *name, const char *arguments,
                      size_t bytes)
{
    (void)to, (void)id, (void)name, (void)arguments, (void)bytes;
}

static void hear(Job *job)
{
    Speech *s = job->owner;
    size_t bytes = job->decided - s->read;
    if ((bytes && reply_feed(&s->reply, job->text.data + s->read, bytes) != 0) ||
        (job->reason != REASON_NONE && reply_finish(&s->reply) != 0))
        fail("out of memory");
    s->read = job->decided;
}

void speech_open(Speech *s, Job *job, const Chat *chat, const ChatPrompt *prompt, int quiet)
{
    *s = (Speech){.quiet = quiet};
    reply_open(&s->reply, prompt ? prompt->format : reply_format(""),
               prompt && prompt->reasoning == REASONING_OPEN, NULL,
               (ReplySink){s, hear_text, hear_call});
    append_text(&s->content, "", 0);
    append_text(&s->reasoning, "", 0);
    job->show_special = prompt != NULL; // replies are made of them
    job->hidden = prompt ? chat->hidden : NULL;
    job->changed = hear;
    job->owner = s;
}

void speech_rest(Speech *s)
{
    if (s->dim) fputs(terminal_plain(), stderr);
    s->dim = 0;
}

void speech_close(Speech *s)
{
    speech_rest(s);
    reply_close(&s->reply);
    free(s->content.data);
    free(s->reasoning.data);
}

void write_job(Writer *w, Job *job)
{
    if (generator_submit(&w->generator, job, &job->error) != 0) fail("%s", job->error.text);
    while (job->reason == REASON_NONE) generator_step(&w->generator);
    if (job->reason == REASON_FAILED) fail("%s", job->error.text);
}

static void print_json_text(FILE *f, const char *s, size_t bytes)
{
    fputc('"', f);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 32)
            fprintf(f, "\\u%04x", c);
        else
            fputc(c, f);
    }
    fputc('"', f);
}

void print_token(const Tokens *t, int32_t id, float logprob)
{
    size_t bytes;
    const char *text = tokens_bytes(t, id, &bytes);
    if (!isnan(logprob)) fprintf(stderr, "%.3f ", exp((double)logprob));
    print_json_text(stderr, text, bytes);
}

// --- commands ------------------------------------------------------------------------------------

// The prompt of one message.
static void ask(Chat *chat, const Tokens *t, const char *message, const Options *o,
                ChatPrompt *prompt)
{
    Error err;
    if (chat_open(chat, t, &err) != 0 || chat_check(chat, &err) != 0) fail("%s", err.text);
    json_t *values = json_pack("{s:[{s:s, s:s}], s:b}", "messages", "role", "user", "content",
                               message, "add_generation_prompt", 1);
    if (!values) fail("the prompt is not UTF-8");
    check_thinking(o, chat);
    if (o->thinks >= 0) chat_set_thinking(values, o->thinks);
    if (chat_prompt(chat, NULL, values, prompt, &err) != 0) fail("%s", err.text);
    json_decref(values);
}

static char *read_prompt(const char *path)
{
    Error err;
    size_t bytes;
    char *text = strcmp(path, "-") == 0 ? read_input(&bytes, &err) : read_whole(path);
    if (!text) fail("%s", err.text);
    if (*text && text[strlen(text) - 1] == '\n') text[strlen(text) - 1] = 0;
    return text;
}

int command_run(const Options *o)
{
    static const char *const reasons[] = {
        [REASON_LENGTH] = "length", [REASON_END] = "eos", [REASON_STOP] = "stop"};
    if (!o->prompt == !o->prompt_file) usage_error("run needs -p PROMPT or -f FILE");
    if (o->thinks >= 0 && !o->chat) usage_error("--think goes with --chat");
    Tokens *t = open_tokens();
    Error err;
    char *read = o->prompt_file ? read_prompt(o->prompt_file) : NULL;
    const char *said = read ? read : o->prompt;
    TokenList ids = {0};
    Chat chat = {0};
    ChatPrompt prompt = {0};
    if (o->chat) ask(&chat, t, said, o, &prompt);
    const char *text = o->chat ? prompt.text : said;
    int flags = TOKENS_PARSE_SPECIAL | (o->chat ? 0 : TOKENS_ADD_SPECIAL);
    if (tokens_encode(t, text, o->chat ? prompt.bytes : strlen(text), flags, &ids, &err) != 0)
        fail("%s", err.text);
    if (!ids.count) fail("the prompt has no tokens, and the tokenizer adds none");
    check_ids(ids.id, ids.count);
    int n = o->n < 0 ? 256 : o->n;

    // No more cache than this run can fill.
    Options sized = *o;
    int context = o->max_context ? o->max_context : model_info.max_context;
    if (ids.count > (size_t)context)
        fail("the prompt has %zu tokens, the context %d", ids.count, context);
    if ((int64_t)ids.count + n > context) n = context - (int)ids.count;
    if (!sized.max_context) sized.max_context = (int)ids.count + n;
    Writer w;
    open_writer(&w, &sized, t, 0);
    start_part("memory");
    if (((int)ids.count + n + PAGE - 1) / PAGE > w.model.options.pages[POOL_ALL])
        fail("%zu prompt tokens and %d new ones do not fit %d tokens of cache", ids.count, n,
             w.model.options.pages[POOL_ALL] * PAGE);

    Job job;
    Speech speech;
    job_init(&job);
    job.prompt = ids.id;
    job.prompt_count = (int)ids.count;
    job.max_tokens = n;
    job.sampler = choose_sampler(o);
    job.matcher = choose_matcher(o, o->chat ? &prompt : NULL);
    job.stop = o->stop;
    job.stop_count = o->stop_count;
    speech_open(&speech, &job, &chat, o->chat ? &prompt : NULL, o->json);
    write_job(&w, &job);
    if (o->json) {
        double first = job.first ? job.first : job.ended;
        printf("{\"text\": ");
        print_json_text(stdout, speech.content.data, speech.content.bytes);
        if (o->chat) {
            printf(", \"reasoning_content\": ");
            print_json_text(stdout, speech.reasoning.data, speech.reasoning.bytes);
        }
        printf(", \"ids\": [");
        for (int i = 0; i < job.token_count; i++) printf("%s%d", i ? ", " : "", job.token[i].id);
        printf("], \"prompt_tokens\": %zu, \"tokens\": %d, \"stop_reason\": \"%s\", "
               "\"prompt_seconds\": %.6f, \"seconds\": %.6f, \"start\": ",
               ids.count, job.token_count, reasons[job.reason], first - job.started,
               job.ended - first);
        start_print(job.first);
        printf("}\n");
    } else {
        putchar('\n');
    }
    speech_close(&speech);
    matcher_close(job.matcher);
    job_close(&job);
    close_writer(&w);
    chat_close(&chat);
    free(prompt.text);
    free(ids.id);
    free(read);
    return 0;
}

int command_tokenize(const Options *o)
{
    Error err;
    if (!model_info.tokenizer) fail("the model directory had no tokenizer.json");
    if (tokenize_input(model_info.tokenizer, model_info.tokenizer_bytes, o->decode, o->no_special,
                       &err) != 0)
        fail("%s", err.text);
    return 0;
}

int command_template(const Options *o)
{
    Error err;
    if (render_input(model_info.templates, model_info.templates_bytes, o->name, &err) != 0)
        fail("%s", err.text);
    return 0;
}
