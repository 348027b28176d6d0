// The fields of a request, and what is wrong with them.
#include "fields.h"
#include "program.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int refusal_set(Refusal *r, int status, const char *param, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(r->error.text, sizeof r->error.text, fmt, args);
    va_end(args);
    r->status = status;
    r->type = status == 401   ? "authentication_error"
              : status >= 500 ? "server_error"
                              : "invalid_request_error";
    r->code = NULL;
    snprintf(r->param, sizeof r->param, "%s", param);
    return -1;
}

json_t *refusal_text(const char *text)
{
    json_t *s = json_string(text);
    char *plain = s ? NULL : strdup(text);
    for (char *p = plain; p && *p; p++)
        if ((unsigned char)*p >= 128) *p = '?';
    if (plain) s = json_string(plain);
    free(plain);
    return s;
}

int refusal_memory(Refusal *r)
{
    return refusal_set(r, 500, "", "out of memory");
}

const json_t *field_of(const json_t *body, const char *name, const char *alias)
{
    const json_t *v = json_object_get(body, name);
    if ((!v || json_is_null(v)) && alias) v = json_object_get(body, alias);
    return v && !json_is_null(v) ? v : NULL;
}

int field_whole(const json_t *body, const char *name, const char *alias, int low, int high,
                int *out, Refusal *r)
{
    const json_t *v = field_of(body, name, alias);
    if (!v) return 0;
    if (!json_is_integer(v) || json_integer_value(v) < low || json_integer_value(v) > high)
        return refusal_set(r, 400, name, "%s: expected a whole number from %d to %d", name, low,
                           high);
    *out = (int)json_integer_value(v);
    return 0;
}

int field_flag(const json_t *body, const char *name, const char *alias, int *out, Refusal *r)
{
    const json_t *v = field_of(body, name, alias);
    if (!v) return 0;
    if (!json_is_boolean(v)) return refusal_set(r, 400, name, "%s: expected true or false", name);
    *out = json_is_true(v);
    return 0;
}

int field_id(const json_t *v, const char *name, int32_t *id, Refusal *r)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) >= model_info.vocab)
        return refusal_set(r, 400, name, "%s: expected token ids from 0 to %d", name,
                           model_info.vocab - 1);
    *id = (int32_t)json_integer_value(v);
    return 0;
}

int field_ids(const json_t *v, const char *name, int32_t **ids, size_t *count, Refusal *r)
{
    *ids = malloc((json_array_size(v) + 1) * sizeof **ids);
    if (!*ids) return refusal_memory(r);
    for (*count = 0; *count < json_array_size(v); (*count)++)
        if (field_id(json_array_get(v, *count), name, &(*ids)[*count], r) != 0) return -1;
    return 0;
}

int field_strings(const json_t *v, const char *name, const char ***strings, int *count,
                  int32_t **ids, int *id_count, Refusal *r)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (n > 256) return refusal_set(r, 400, name, "%s: more than 256", name);
    *strings = malloc((n + 1) * sizeof **strings);
    if (ids) *ids = malloc((n + 1) * sizeof **ids);
    if (!*strings || (ids && !*ids)) return refusal_memory(r);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        if (json_is_string(s) && !json_string_length(s)) continue; // front ends leave such behind
        if (json_is_string(s) && json_string_length(s) <= 4096) {
            (*strings)[(*count)++] = json_string_value(s);
        } else if (ids && json_is_integer(s)) {
            if (field_id(s, name, &(*ids)[*id_count], r) != 0) return -1;
            (*id_count)++;
        } else {
            return refusal_set(r, 400, name, "%s: expected strings of up to 4096 bytes", name);
        }
    }
    return 0;
}

const char *field_type(const json_t *v)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    return type ? type : "?";
}

json_t *field_texts(const json_t *v, const char *name, const char *const *types, Refusal *r)
{
    if (!v) return json_array();
    if (json_is_string(v)) return json_pack("[O]", v);
    if (!json_is_array(v)) {
        refusal_set(r, 400, name, "%s: expected a text or a list of parts", name);
        return NULL;
    }
    json_t *texts = json_array(), *part;
    size_t i;
    json_array_foreach(v, i, part)
    {
        json_t *text = json_object_get(part, "text");
        if (field_listed(field_type(part), types) && json_is_string(text)) {
            json_array_append(texts, text);
            continue;
        }
        refusal_set(r, 400, name, "%s: only text is there yet, not '%.40s'", name,
                    field_type(part));
        json_decref(texts);
        return NULL;
    }
    return texts;
}

int field_listed(const char *name, const char *const *names)
{
    for (; *names; names++)
        if (strcmp(name, *names) == 0) return 1;
    return 0;
}
