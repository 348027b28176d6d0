// From the fields of a request to a matcher.
#include "constrain.h"
#include "frame.h"
#include "gbnf.h"
#include "notation.h"
#include "pattern.h"
#include "schema.h"
#include <stdlib.h>
#include <string.h>

// --- fields --------------------------------------------------------------------------------------

static int get_schema(const json_t *v, const char *name, Constraint *c, Refusal *r)
{
    const json_t *inner = json_object_get(v, "schema");
    // As OpenAI wraps it.
    if (json_is_object(inner) && json_is_string(json_object_get(v, "name"))) v = inner;
    if (!json_is_object(v) && !json_is_boolean(v))
        return refusal_set(r, 400, name, "%s: expected a JSON schema", name);
    c->schema = v;
    return 1;
}

static int get_format(const json_t *format, Constraint *c, Refusal *r)
{
    const char *type = field_type(format), *name = "response_format";
    const json_t *schema = field_of(format, "schema", NULL),
                 *wrapped = field_of(format, "json_schema", NULL);
    int strict = 0;
    if (!json_is_object(format)) return refusal_set(r, 400, name, "%s: expected an object", name);
    if (strcmp(type, "text") == 0) return 0;
    if (strcmp(type, "json_object") == 0 || strcmp(type, "json") == 0) {
        if (schema) return get_schema(schema, name, c, r);
        c->schema = json_true();
        return 1;
    }
    if (strcmp(type, "json_schema") != 0)
        return refusal_set(r, 400, name,
                           "%s: expected type text, json_object or json_schema, not '%.40s'", name,
                           type);
    if (wrapped && !json_is_object(wrapped))
        return refusal_set(r, 400, name, "%s: json_schema: expected an object", name);
    if (wrapped) schema = field_of(wrapped, "schema", NULL);
    if (field_flag(wrapped ? wrapped : format, "strict", NULL, &strict, r) != 0) return -1;
    if (!schema) return refusal_set(r, 400, name, "%s: json_schema.schema is missing", name);
    return get_schema(schema, name, c, r);
}

static int get_text(const json_t *v, const char *name, const char **out, Refusal *r)
{
    if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
        return refusal_set(r, 400, name, "%s: expected a text", name);
    *out = json_string_value(v);
    return 1;
}

int constraint_read(const json_t *body, Constraint *c, Refusal *r)
{
    const json_t *format = field_of(body, "response_format", NULL);
    const json_t *schema = field_of(body, "json_schema", NULL);
    const json_t *regex = field_of(body, "regex_pattern", NULL);
    const json_t *grammar = field_of(body, "grammar", "grammar_string");
    int found = format ? get_format(format, c, r) : 0;
    if (found < 0) return -1;
    if (found + (schema != NULL) + (regex != NULL) + (grammar != NULL) > 1)
        return refusal_set(
            r, 400, "response_format",
            "response_format, json_schema, regex_pattern and grammar exclude each other");
    if (schema) return get_schema(schema, "json_schema", c, r);
    if (regex) return get_text(regex, "regex_pattern", &c->regex, r);
    if (grammar) return get_text(grammar, "grammar", &c->grammar, r);
    return found;
}

// --- compiling -----------------------------------------------------------------------------------

// The rule of what the content must be; -1 when nothing is asked, or after a failure.
static int content_rule(Grammar *g, const Constraint *c)
{
    if (c->schema) return json_is_true(c->schema) ? notation_object(g) : schema_read(g, c->schema);
    if (c->grammar) return gbnf_read(g, c->grammar, strlen(c->grammar));
    if (!c->regex) return -1;
    int rule = grammar_fresh(g);
    grammar_define(g, rule, pattern_read(g, c->regex, strlen(c->regex), 0, 0).e);
    return rule;
}

int constraint_compile(const Constraint *c, Matcher **m, Error *err)
{
    *m = NULL;
    Grammar *g = grammar_open();
    if (!g) return error_set(err, "out of memory");
    int content = content_rule(g, c), calls = -1;
    if (c->tools) calls = frame_calls(g, c->reply, c->template_text, c->tools, c->tool, c->single);
    *m = matcher_open(g, frame_reply(g, c->reply, c->reasoning, content, calls), err);
    return *m ? 0 : -1;
}

// --- what is kept --------------------------------------------------------------------------------

#define MOST_KEY (1 << 20) // bytes of what is kept

// A text that tells constraints apart; NULL: out of memory.
static char *make_key(const Constraint *c)
{
    const ReplyFormat *f = c->reply;
    json_t *all = json_pack("{s:O?, s:s?, s:s?, s:O?, s:s?, s:i, s:s?, s:s?, s:s?, s:i}", "schema",
                            c->schema, "regex", c->regex, "grammar", c->grammar, "tools", c->tools,
                            "tool", c->tool, "single", c->single, "format", f ? f->name : NULL,
                            "mark", f ? f->close_mark : NULL, "template",
                            c->tools ? c->template_text : NULL, "reasoning", (int)c->reasoning);
    char *key = all ? json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(all);
    return key;
}

void constraints_open(Constraints *all)
{
    *all = (Constraints){0};
    pthread_mutex_init(&all->lock, NULL);
}

// The kept matcher of this key, for one user more; NULL when there is none.
static Matcher *find_kept(Constraints *all, const char *key)
{
    for (int i = 0; i < CONSTRAINTS_KEPT; i++)
        if (all->kept[i].key && strcmp(all->kept[i].key, key) == 0 &&
            !matcher_failed(all->kept[i].matcher)) {
            all->kept[i].users++;
            all->kept[i].used = ++all->clock;
            return all->kept[i].matcher;
        }
    return NULL;
}

// In the place of the one that was unused for longest; takes the key over. Where all are in use the
// matcher is its user's alone.
static void keep(Constraints *all, char *key, Matcher *m)
{
    int place = -1;
    for (int i = 0; i < CONSTRAINTS_KEPT; i++)
        if (all->kept[i].users == 0 && (place < 0 || all->kept[i].used < all->kept[place].used))
            place = i;
    if (place < 0 || strlen(key) > MOST_KEY) {
        free(key);
        return;
    }
    free(all->kept[place].key);
    matcher_close(all->kept[place].matcher);
    all->kept[place].key = key;
    all->kept[place].matcher = m;
    all->kept[place].users = 1;
    all->kept[place].used = ++all->clock;
}

int constraints_take(Constraints *all, const Constraint *c, Matcher **m, Error *err)
{
    char *key = make_key(c);
    if (!key) return error_set(err, "it is no UTF-8, or there is no memory for it");
    pthread_mutex_lock(&all->lock);
    *m = find_kept(all, key);
    pthread_mutex_unlock(&all->lock);
    if (*m || constraint_compile(c, m, err) != 0) {
        free(key);
        return *m ? 0 : -1;
    }
    pthread_mutex_lock(&all->lock);
    Matcher *other = find_kept(all, key); // another thread was faster
    if (!other) keep(all, key, *m);
    pthread_mutex_unlock(&all->lock);
    if (other) {
        free(key);
        matcher_close(*m);
        *m = other;
    }
    return 0;
}

// 1 when it stays kept.
static int give_kept(Constraints *all, Matcher *m)
{
    for (int i = 0; i < CONSTRAINTS_KEPT; i++)
        if (m && all->kept[i].matcher == m) {
            if (--all->kept[i].users > 0) return 1;
            if (!matcher_failed(m)) {
                matcher_rest(m);
                return 1;
            }
            free(all->kept[i].key); // nobody takes it again
            all->kept[i].key = NULL;
            all->kept[i].matcher = NULL;
            all->kept[i].used = 0;
        }
    return 0;
}

void constraints_give(Constraints *all, Matcher *m)
{
    pthread_mutex_lock(&all->lock);
    int kept = give_kept(all, m);
    pthread_mutex_unlock(&all->lock);
    if (!kept) matcher_close(m);
}

void constraints_close(Constraints *all)
{
    for (int i = 0; i < CONSTRAINTS_KEPT; i++) {
        free(all->kept[i].key);
        matcher_close(all->kept[i].matcher);
    }
    pthread_mutex_destroy(&all->lock);
}
