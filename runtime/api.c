// What is served, and the endpoints that answer at once.
#include "api.h"
#include "answer.h"
#include "program.h"
#include "request.h"
#include "sampling.h"
#include <stdlib.h>
#include <string.h>

// --- open ----------------------------------------------------------------------------------------

int api_open(Api *api, Generator *g, const Tokens *t, const char *name, Error *err)
{
    size_t words = BIT_WORDS(model_info.vocab);
    *api = (Api){.generator = g, .tokens = t, .name = name, .sampler = sampling_of_model()};
    constraints_open(&api->constraints);
    api->newlines = calloc(words, 4);
    api->breakers = calloc(words, 4);
    if (!api->newlines || !api->breakers) return error_set(err, "out of memory");
    if (chat_open(&api->chat, t, err) != 0) return -1;
    sampling_mark(t, api->newlines, (const char *const[]){"\n"}, 1);
    sampling_mark(t, api->breakers, (const char *const[]){"\n", ":", "\"", "*"}, 4);
    return 0;
}

void api_close(Api *api)
{
    chat_close(&api->chat);
    constraints_close(&api->constraints);
    free(api->newlines);
    free(api->breakers);
}

// --- endpoints that answer at once ---------------------------------------------------------------

static json_t *model_json(const Api *api)
{
    // OpenAI's fields and Anthropic's.
    return json_pack("{s:s, s:s, s:i, s:s, s:i, s:s, s:s, s:s}", "id", api->name, "object", "model",
                     "created", 0, "owned_by", "exlc", "max_model_len",
                     api->generator->batch.max_context, "type", "model", "display_name", api->name,
                     "created_at", "1970-01-01T00:00:00Z");
}

json_t *api_models(const Api *api)
{
    return json_pack("{s:s, s:[o], s:b, s:s, s:s}", "object", "list", "data", model_json(api),
                     "has_more", 0, "first_id", api->name, "last_id", api->name);
}

json_t *api_model(const Api *api)
{
    const DeviceOptions *o = &api->generator->batch.options;
    json_t *m = model_json(api);
    Error err;
    char mode[16] = "FP16"; // as TabbyAPI calls it
    if (o->key_bits < 16 || o->value_bits < 16)
        snprintf(mode, sizeof mode, "%d,%d", o->key_bits, o->value_bits);
    json_object_set_new(
        m, "parameters",
        json_pack("{s:s, s:I, s:f, s:i, s:i, s:s, s:i, s:i, s:b, s:s, s:b}", "architecture",
                  model_info.architecture, "parameters", (json_int_t)model_info.parameters, "bits",
                  model_info.bits, "max_seq_len", o->max_context, "cache_size",
                  o->pages[POOL_ALL] * PAGE, "cache_mode", mode, "max_batch_size", o->max_sequences,
                  "chunk_size", o->max_rows, "prompt_template", chat_check(&api->chat, &err) == 0,
                  "build", model_info.build_id, "use_vision", 0));
    return m;
}

json_t *api_props(const Api *api)
{
    const DeviceOptions *o = &api->generator->batch.options;
    const char *source = chat_template(&api->chat);
    return json_pack("{s:i, s:{s:i, s:s}, s:s, s:s}", "total_slots", o->max_sequences,
                     "default_generation_settings", "n_ctx", o->max_context, "model", api->name,
                     "chat_template", source ? source : "", "build_info", model_info.exlc_version);
}

json_t *api_templates(const Api *api)
{
    json_t *names = json_array();
    const char *name;
    for (int i = 0; (name = chat_template_name(&api->chat, i)); i++)
        json_array_append_new(names, json_string(name));
    return json_pack("{s:s, s:o}", "object", "list", "data", names);
}

json_t *api_render(const Api *api, const json_t *body, Refusal *r)
{
    json_t *text = request_text(api, body, r);
    return text ? json_pack("{s:o}", "prompt", text) : NULL;
}

json_t *api_encode(const Api *api, const json_t *body, Refusal *r)
{
    const json_t *text = field_of(body, "text", "content");
    if (!text) text = field_of(body, "prompt", NULL);
    json_t *chat = NULL;
    int bos = 1, special = 1;
    TokenList ids = {0};
    json_t *result = NULL;
    if (!text && field_of(body, "messages", NULL)) { // the template adds what is to be added
        if (!(chat = request_text(api, body, r))) return NULL;
        text = chat, bos = 0;
    } else if (!json_is_string(text)) {
        refusal_set(r, 400, "text", "text (or content, prompt, messages): expected a string");
        return NULL;
    }
    if (field_flag(body, "add_bos_token", "add_special", &bos, r) != 0 ||
        field_flag(body, "add_special_tokens", NULL, &bos, r) != 0 ||
        field_flag(body, "encode_special_tokens", "parse_special", &special, r) != 0)
        return NULL;
    int flags = (bos ? TOKENS_ADD_SPECIAL : 0) | (special ? TOKENS_PARSE_SPECIAL : 0);
    if (request_encode(api, json_string_value(text), json_string_length(text), flags, "text", &ids,
                       r) == 0) {
        json_t *list = json_array();
        for (size_t i = 0; i < ids.count; i++) json_array_append_new(list, json_integer(ids.id[i]));
        result = json_pack("{s:o, s:I, s:I, s:i}", "tokens", list, "length", (json_int_t)ids.count,
                           "count", (json_int_t)ids.count, "max_model_len",
                           api->generator->batch.max_context);
    }
    free(ids.id);
    json_decref(chat);
    return result;
}

json_t *api_decode(const Api *api, const json_t *body, Refusal *r)
{
    const json_t *list = field_of(body, "tokens", NULL);
    int special = 0;
    Error err;
    TokenList ids = {0};
    TokenText text = {0};
    json_t *result = NULL;
    if (!json_is_array(list)) {
        refusal_set(r, 400, "tokens", "tokens: expected a list of token ids");
        return NULL;
    }
    if (field_flag(body, "decode_special_tokens", NULL, &special, r) != 0) return NULL;
    if (field_ids(list, "tokens", &ids.id, &ids.count, r) == 0) {
        if (tokens_decode(api->tokens, ids.id, ids.count, !special, &text, &err) != 0) {
            refusal_set(r, 400, "tokens", "tokens: %s", err.text);
        } else {
            json_t *s = answer_text(text.data ? text.data : "", text.bytes);
            result = json_pack("{s:O, s:O, s:o}", "text", s, "content", s, "prompt", s);
        }
    }
    free(text.data);
    free(ids.id);
    return result;
}
