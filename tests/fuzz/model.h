// What fuzz targets over the server need of a model: a tokenizer of single bytes and marks, the
// chat template of the server's tests, and a device that "computes" logits from the last token. The
// generator, the batch and the cache are the real ones.
#pragma once
#include "../../compiler/template.h"
#include "../../compiler/tokenizer.h"
#include "../../runtime/api.h"
#include "../../runtime/jinja.h"
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 264, CONTEXT = 160, SEQUENCES = 4 };

static const char *const marks[] = {"<|begin_of_text|>", "<|end_of_text|>", "<think>", "</think>",
                                    "<tool_call>",       "</tool_call>",    "<|one|>", "<|two|>"};
static const int32_t ends[] = {1};
static unsigned char templates[1 << 16];
static const CpuTarget *const no_cpu[] = {NULL};
const ModelInfo model_info = {.name = "fuzz",
                              .architecture = "FuzzForCausalLM",
                              .exlc_version = "0",
                              .build_id = "0",
                              .layers = 1,
                              .vocab = VOCAB,
                              .dim = 8,
                              .embedding = EMBEDDING_MEAN,
                              .embedding_normal = 1,
                              .max_context = CONTEXT,
                              .max_batch = SEQUENCES,
                              .templates = templates,
                              .templates_bytes = sizeof templates,
                              .eos = ends,
                              .eos_count = 1,
                              .bos = 0,
                              .top_p = 1,
                              .cpu = no_cpu};

// --- the tokenizer -------------------------------------------------------------------------------

// GPT-2's character for a byte: itself where it is printable, else from U+0100 on.
static void add_byte(Buffer *json, int byte)
{
    static int others;
    int plain = (byte > 32 && byte < 127) || (byte > 160 && byte < 173) || byte > 173;
    int code = plain ? byte : 256 + others++;
    if (code == '"' || code == '\\')
        buffer_print(json, "\"\\%c\"", code);
    else if (code < 128)
        buffer_print(json, "\"%c\"", code);
    else
        buffer_print(json, "\"%c%c\"", 0xc0 | code >> 6, 0x80 | (code & 63));
}

static Tokens *make_tokens(void)
{
    static Buffer json, tables;
    Tokens *t;
    Error err;
    int count = sizeof marks / sizeof *marks;
    buffer_print(&json, "{\"version\": \"1.0\", \"added_tokens\": [");
    for (int i = 0; i < count; i++)
        buffer_print(&json,
                     "%s{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": "
                     "false, \"rstrip\": false, \"normalized\": false, \"special\": true}",
                     i ? ", " : "", i, marks[i]);
    buffer_print(&json,
                 "], \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                 "\"trim_offsets\": true, \"use_regex\": false}, \"decoder\": {\"type\": "
                 "\"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true, "
                 "\"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"vocab\": {");
    for (int i = 0; i < count; i++) buffer_print(&json, "\"%s\": %d, ", marks[i], i);
    for (int i = 0; i < 256; i++) {
        add_byte(&json, i);
        buffer_print(&json, ": %d%s", count + i, i < 255 ? ", " : "");
    }
    buffer_print(&json, "}, \"merges\": []}}");
    compile_tokenizer_text("fuzz", (const char *)json.data, json.bytes, &tables);
    if (tokens_open(&t, tables.data, tables.bytes, &err) != 0) abort();
    return t;
}

static void make_templates(void)
{
    Buffer text = read_file("tests/server/chat_template.jinja"), tables = {0};
    compile_template_text("fuzz", (const char *)text.data, text.bytes, &tables);
    if (tables.bytes > sizeof templates) abort();
    memcpy(templates, tables.data, tables.bytes);
    ((JinjaHeader *)(void *)templates)->bytes = sizeof templates; // what follows is unused
}

// --- the device ----------------------------------------------------------------------------------

struct Device {
    int32_t token[SEQUENCES * 4];
    float logits[SEQUENCES * 4][VOCAB];
};
static Device device;

// Mostly text, now and then a mark or the end.
void device_forward(Device *d, const Batch *b, const Sampling *sampling)
{
    (void)sampling;
    for (int i = 0; i < b->outputs; i++) {
        uint32_t seed = (uint32_t)b->token[b->output[i]] * 2654435761u +
                        (uint32_t)b->position[b->output[i]] * 40503u;
        for (int id = 0; id < VOCAB; id++)
            d->logits[i][id] = (float)((seed ^ (uint32_t)id * 0x9e3779b1u) >> 16 & 255) / 64;
        int text = 8 + ' ' + (int)(seed >> 8 & 63);
        d->token[i] = seed >> 24 < 230 ? text : (int32_t)(seed >> 16 & 7);
        d->logits[i][d->token[i]] = 9;
    }
}

const int32_t *device_tokens(Device *d)
{
    return d->token;
}

const float *device_logits(Device *d)
{
    return d->logits[0];
}

const float *device_final(Device *d)
{
    return d->logits[0];
}

void device_set_page(Device *d, int pool, int sequence, int index, int page)
{
    (void)d, (void)pool, (void)sequence, (void)index, (void)page;
}

void device_copy_page(Device *d, int pool, int to, int from)
{
    (void)d, (void)pool, (void)to, (void)from;
}

void device_copy_state(Device *d, int to, int from)
{
    (void)d, (void)to, (void)from;
}

int device_map_pages(Device *d)
{
    (void)d;
    return 0;
}

void device_save_page(Device *d, int pool, int host, int page)
{
    (void)d, (void)pool, (void)host, (void)page;
}

void device_load_page(Device *d, int pool, int page, int host)
{
    (void)d, (void)pool, (void)page, (void)host;
}

int device_decode_rows(const Device *d)
{
    (void)d;
    return SEQUENCES;
}

// --- the api -------------------------------------------------------------------------------------

// What the compiler leaves behind is its process's to give back.
void __lsan_disable(void);
void __lsan_enable(void);

static Api *open_api(void)
{
    static Generator generator;
    static Api api;
    const DeviceOptions o = {.max_rows = 64,
                             .max_outputs = SEQUENCES,
                             .max_context = CONTEXT,
                             .max_sequences = SEQUENCES,
                             .pages_per_sequence = 1,
                             .pages = {3}};
    Error err;
    __lsan_disable();
    Tokens *tokens = make_tokens();
    make_templates();
    if (generator_open(&generator, &device, &o, tokens, &err) != 0 ||
        api_open(&api, &generator, tokens, "fuzz", &err) != 0)
        abort();
    __lsan_enable();
    return &api;
}
