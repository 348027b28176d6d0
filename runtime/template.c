// Renders chat templates: walks the tree that exlc made of a template, with the values of value.h.
#include "template.h"
#include "filters.h"
#include "jinja.h"
#include "methods.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct Templates {
    const JinjaHeader *header;
    const JinjaTemplate *templates;
    const JinjaNode *nodes;
    const uint32_t *links;
    const char *text;
    json_t *tokens;
    uint32_t loop, caller, varargs, kwargs; // where these names stand in the text; 0: nowhere
};

// --- the tables ----------------------------------------------------------------------------------

static int in_section(JinjaSpan span, uint64_t size, uint64_t bytes)
{
    return span.at % 8 == 0 && span.at <= bytes && span.count * size <= bytes - span.at;
}

static int in_text(const Templates *t, JinjaSpan span)
{
    uint64_t end = (uint64_t)span.at + span.count;
    return end < t->header->text.count;
}

// A node's children stand before it, its lists and texts in their sections.
static int node_is_sound(const Templates *t, uint32_t i)
{
    const JinjaNode *n = &t->nodes[i];
    int number = n->kind == JINJA_INTEGER || n->kind == JINJA_FLOAT;
    if (n->kind == 0 || n->kind >= JINJA_KINDS || !in_text(t, n->text)) return 0;
    if (!number && (n->a >= i || n->b >= i || n->c >= i)) return 0;
    if ((uint64_t)n->list.at + n->list.count > t->header->links.count) return 0;
    for (uint32_t k = 0; k < n->list.count; k++)
        if (t->links[n->list.at + k] >= i) return 0;
    if (n->kind == JINJA_FOR && n->list.count != 3) return 0;
    return (n->kind != JINJA_DICT && n->kind != JINJA_WITH) || n->list.count % 2 == 0;
}

static int tables_are_sound(const Templates *t)
{
    const JinjaHeader *h = t->header;
    uint32_t nodes = h->nodes.count;
    if (!nodes || !h->text.count || t->text[h->text.count - 1] != 0) return 0;
    for (uint32_t i = 1; i < nodes; i++)
        if (!node_is_sound(t, i)) return 0;
    for (uint32_t i = 0; i < h->templates.count; i++) {
        const JinjaTemplate *e = &t->templates[i];
        if (!in_text(t, e->name) || !in_text(t, e->source) || !in_text(t, e->problem)) return 0;
        if (e->body >= nodes || (!e->problem.count && t->nodes[e->body].kind != JINJA_BODY))
            return 0;
    }
    return in_text(t, h->tokens);
}

static uint32_t find_name(const Templates *t, const char *name)
{
    for (uint32_t i = 1; i < t->header->nodes.count; i++)
        if (t->nodes[i].kind == JINJA_NAME && strcmp(t->text + t->nodes[i].text.at, name) == 0)
            return t->nodes[i].text.at;
    return 0;
}

int templates_open(Templates **out, const void *tables, size_t bytes, Error *err)
{
    const JinjaHeader *h = tables;
    *out = NULL;
    if (bytes < sizeof *h || memcmp(h->magic, JINJA_MAGIC, sizeof h->magic) != 0 ||
        h->version != JINJA_VERSION || h->bytes != bytes ||
        !in_section(h->templates, sizeof(JinjaTemplate), bytes) ||
        !in_section(h->nodes, sizeof(JinjaNode), bytes) ||
        !in_section(h->links, sizeof(uint32_t), bytes) || !in_section(h->text, 1, bytes))
        return error_set(err, "the tables of the chat templates are damaged");
    Templates *t = calloc(1, sizeof *t);
    if (!t) return error_set(err, "out of memory");
    const char *base = tables;
    t->header = h;
    t->templates = (const JinjaTemplate *)(base + h->templates.at);
    t->nodes = (const JinjaNode *)(base + h->nodes.at);
    t->links = (const uint32_t *)(base + h->links.at);
    t->text = base + h->text.at;
    if (tables_are_sound(t))
        t->tokens = json_loadb(t->text + h->tokens.at, h->tokens.count, 0, NULL);
    if (!json_is_object(t->tokens)) {
        templates_close(t);
        return error_set(err, "the tables of the chat templates are damaged");
    }
    t->loop = find_name(t, "loop");
    t->caller = find_name(t, "caller");
    t->varargs = find_name(t, "varargs");
    t->kwargs = find_name(t, "kwargs");
    *out = t;
    return 0;
}

void templates_close(Templates *t)
{
    if (t) json_decref(t->tokens);
    free(t);
}

int templates_count(const Templates *t)
{
    return (int)t->header->templates.count;
}

const char *templates_name(const Templates *t, int i)
{
    return t->text + t->templates[i].name.at;
}

const char *templates_text(const Templates *t, int i)
{
    return t->text + t->templates[i].source.at;
}

const char *templates_problem(const Templates *t, int i)
{
    return t->templates[i].problem.count ? t->text + t->templates[i].problem.at : NULL;
}

const char *templates_token(const Templates *t, const char *key)
{
    return json_string_value(json_object_get(t->tokens, key));
}

static int index_of(const Templates *t, const char *name)
{
    for (int i = 0; i < templates_count(t); i++)
        if (strcmp(templates_name(t, i), name) == 0) return i;
    return -1;
}

int templates_find(const Templates *t, const char *name, int has_tools, Error *err)
{
    if (!templates_count(t)) return error_set(err, "the model has no chat template");
    int i = name ? index_of(t, name) : -1;
    if (!name && has_tools) i = index_of(t, "tool_use");
    if (!name && i < 0) i = index_of(t, "default");
    if (i < 0) {
        char names[300] = "";
        for (int k = 0; k < templates_count(t); k++) {
            size_t n = strlen(names);
            snprintf(names + n, sizeof names - n, "%s%s", k ? ", " : "", templates_name(t, k));
        }
        return error_set(err, "no chat template '%.60s'; there are: %s", name ? name : "default",
                         names);
    }
    return i;
}

// --- state of a rendering ------------------------------------------------------------------------

typedef struct {
    uint32_t name; // where it stands in the text
    Value value;
} Variable;

// The variables that were set in one scope.
typedef struct Frame {
    struct Frame *parent;
    Variable *variable;
    uint32_t count, room;
} Frame;

typedef struct {
    Render render; // first: functions of value.h get the evaluator by it
    const Templates *t;
    Dict *context; // the request
    Frame *frame;
    Text *out;
    Value captured;
    struct timespec now;
} Evaluator;

typedef struct {
    const JinjaNode *node; // a macro or call block
    Frame *frame;          // where it was defined
    Value name;
} Macro;

typedef struct {
    const JinjaNode *node;
    Frame *frame; // around the loop
    const Value *item;
    int64_t at, count, depth;
    Value changed; // what loop.changed saw last
} Loop;

typedef struct {
    const Value *item;
    int count, at;
} Cycler;

typedef struct {
    Value separator;
    int used;
} Joiner;

enum { GO_ON, BREAK, CONTINUE }; // how a statement ends

static Value evaluate(Evaluator *e, uint32_t node);
static int execute(Evaluator *e, uint32_t node);

static _Noreturn void fail_damaged(Evaluator *e)
{
    render_fail(&e->render, "the tables of the chat templates are damaged");
}

static const JinjaNode *node_at(const Evaluator *e, uint32_t node)
{
    return &e->t->nodes[node];
}

static uint32_t link_at(const Evaluator *e, const JinjaNode *n, uint32_t i)
{
    return e->t->links[n->list.at + i];
}

static Value node_text(const Evaluator *e, const JinjaNode *n)
{
    return value_string(e->t->text + n->text.at, n->text.count);
}

// --- variables -----------------------------------------------------------------------------------

static Frame *push_frame(Evaluator *e, Frame *parent)
{
    Frame *frame = render_alloc(&e->render, sizeof *frame);
    frame->parent = parent;
    return e->frame = frame;
}

static void set_variable(Evaluator *e, uint32_t name, Value value)
{
    Frame *f = e->frame;
    if (!name) return; // a special name that no template mentions
    for (uint32_t i = 0; i < f->count; i++)
        if (f->variable[i].name == name) {
            f->variable[i].value = value;
            return;
        }
    if (f->count == f->room) {
        uint32_t room = f->room ? 2 * f->room : 4;
        Variable *larger = render_alloc(&e->render, room * sizeof *larger);
        if (f->count) memcpy(larger, f->variable, f->count * sizeof *larger);
        f->variable = larger;
        f->room = room;
    }
    f->variable[f->count++] = (Variable){name, value};
}

static const Value *find_global(const char *name);

static Value get_variable(Evaluator *e, const JinjaNode *n)
{
    for (const Frame *f = e->frame; f; f = f->parent) {
        render_step(&e->render, 1 + f->count / 8);
        for (uint32_t i = 0; i < f->count; i++)
            if (f->variable[i].name == n->text.at) return f->variable[i].value;
    }
    const char *name = e->t->text + n->text.at;
    const Value *found = dict_find(e->context, name);
    if (!found) found = find_global(name);
    return found ? *found : value_undefined(&e->render, "'%.100s' is undefined", name);
}

static void assign(Evaluator *e, uint32_t target, Value value)
{
    Render *r = &e->render;
    const JinjaNode *n = node_at(e, target);
    r->line = n->line;
    if (n->kind == JINJA_NAME) {
        set_variable(e, n->text.at, value);
    } else if (n->kind == JINJA_ATTRIBUTE && node_at(e, n->a)->kind == JINJA_NAME) {
        Value space = get_variable(e, node_at(e, n->a));
        if (space.kind != VALUE_NAMESPACE)
            render_fail(r, "cannot assign attribute on non-namespace object");
        dict_set(r, space.dict, node_text(e, n), value);
    } else if (n->kind == JINJA_TUPLE) {
        if (value.kind == VALUE_UNDEFINED) render_fail(r, "%s", value.text);
        const List *items = value_items(r, value);
        if (items->count < n->list.count)
            render_fail(r, "not enough values to unpack (expected %u, got %u)", n->list.count,
                        items->count);
        if (items->count > n->list.count)
            render_fail(r, "too many values to unpack (expected %u)", n->list.count);
        render_enter(r);
        for (uint32_t i = 0; i < items->count; i++) assign(e, link_at(e, n, i), items->item[i]);
        render_leave(r);
    } else {
        fail_damaged(e);
    }
}

// The text that a body writes, in a scope of its own.
static int capture(Evaluator *e, uint32_t body, Frame *frame, Value *text)
{
    Text caught = {0}, *out = e->out;
    Frame *before = e->frame;
    e->out = &caught;
    e->frame = frame;
    int end = execute(e, body);
    e->frame = before;
    e->out = out;
    *text = text_value(&caught);
    return end;
}

// --- calls ---------------------------------------------------------------------------------------

static void add_keyword(Evaluator *e, Dict *keywords, Value key, Value value)
{
    if (key.kind != VALUE_STRING) render_fail(&e->render, "keywords must be strings");
    if (dict_get(&e->render, keywords, key))
        render_fail(&e->render, "got multiple values for keyword argument '%.*s'",
                    (int)(key.bytes > 60 ? 60 : key.bytes), key.text);
    dict_set(&e->render, keywords, key, value);
}

static Arguments evaluate_arguments(Evaluator *e, const JinjaNode *n)
{
    Render *r = &e->render;
    Arguments a = {0};
    if (!n->list.count) return a;
    Value items = value_list(r, FORM_LIST), keywords = value_dict(r);
    for (uint32_t i = 0; i < n->list.count; i++) {
        uint32_t link = link_at(e, n, i);
        const JinjaNode *argument = node_at(e, link);
        Value v = evaluate(e, argument->kind == JINJA_KEYWORD || argument->kind == JINJA_SPREAD ||
                                      argument->kind == JINJA_KEYWORDS
                                  ? argument->a
                                  : link);
        if (argument->kind == JINJA_KEYWORD) {
            add_keyword(e, keywords.dict, node_text(e, argument), v);
        } else if (argument->kind == JINJA_SPREAD) {
            const List *spread = value_items(r, v);
            for (uint32_t k = 0; k < spread->count; k++) list_add(r, items, spread->item[k]);
        } else if (argument->kind == JINJA_KEYWORDS) {
            if (v.kind != VALUE_DICT)
                render_fail(r, "argument after ** must be a mapping, not %s", value_type(v));
            for (uint32_t k = 0; k < v.dict->count; k++)
                add_keyword(e, keywords.dict, v.dict->pair[k].key, v.dict->pair[k].value);
        } else {
            list_add(r, items, v);
        }
    }
    return (Arguments){items.list->item, (int)items.list->count, keywords.dict->pair,
                       (int)keywords.dict->count};
}

static int is_text(Value v, const char *text)
{
    return v.kind == VALUE_STRING && strlen(text) == v.bytes && memcmp(v.text, text, v.bytes) == 0;
}

// Gives the parameters of a macro their values, in the current frame.
static void bind_macro(Evaluator *e, const Macro *m, const Arguments *a)
{
    Render *r = &e->render;
    const JinjaNode *n = m->node;
    int parameters = (int)n->list.count;
    Value rest = value_list(r, FORM_TUPLE), others = value_dict(r);
    Value caller = value_undefined(r, "No caller defined");
    uint8_t *used = render_alloc(r, (size_t)a->keywords + 1);
    if (a->count > parameters && !(n->op & JINJA_VARARGS))
        render_fail(r, "macro '%.*s' takes not more than %d argument(s)", (int)m->name.bytes,
                    m->name.text, parameters);
    for (int i = parameters; i < a->count; i++) list_add(r, rest, a->item[i]);
    for (int i = 0; i < parameters; i++) {
        const JinjaNode *p = node_at(e, link_at(e, n, (uint32_t)i));
        Value v = {.kind = VALUE_MISSING};
        if (p->kind != JINJA_PARAMETER) fail_damaged(e);
        if (i < a->count) v = a->item[i];
        for (int k = 0; k < a->keywords && v.kind == VALUE_MISSING; k++)
            if (value_equal(r, a->keyword[k].key, node_text(e, p)))
                v = a->keyword[k].value, used[k] = 1;
        if (v.kind == VALUE_MISSING)
            v = p->a ? evaluate(e, p->a)
                     : value_undefined(r, "parameter '%.100s' was not provided",
                                       e->t->text + p->text.at);
        set_variable(e, p->text.at, v);
    }
    for (int k = 0; k < a->keywords; k++) {
        Value key = a->keyword[k].key;
        if (used[k]) continue;
        if ((n->op & JINJA_CALLER) && is_text(key, "caller"))
            caller = a->keyword[k].value;
        else if (n->op & JINJA_KWARGS)
            dict_set(r, others.dict, key, a->keyword[k].value);
        else
            render_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", (int)m->name.bytes,
                        m->name.text, (int)(key.bytes > 60 ? 60 : key.bytes), key.text);
    }
    if (n->op & JINJA_CALLER) set_variable(e, e->t->caller, caller);
    if (n->op & JINJA_VARARGS) set_variable(e, e->t->varargs, rest);
    if (n->op & JINJA_KWARGS) set_variable(e, e->t->kwargs, others);
}

static Value call_macro(Evaluator *e, const Macro *m, const Arguments *a)
{
    Frame *before = e->frame, *frame = push_frame(e, m->frame);
    Value text;
    uint32_t line = e->render.line;
    bind_macro(e, m, a);
    e->frame = before;
    capture(e, m->node->b, frame, &text);
    e->render.line = line;
    return text;
}

static Value make_macro(Evaluator *e, const JinjaNode *n)
{
    Macro *m = render_alloc(&e->render, sizeof *m);
    *m = (Macro){n, e->frame, node_text(e, n)};
    return (Value){.kind = VALUE_MACRO, .object = m};
}

static int run_loop(Evaluator *e, const JinjaNode *n, Frame *frame, Value walked, int64_t depth);

static Value call(Evaluator *e, Value callee, const Arguments *a)
{
    Render *r = &e->render;
    Value result = value_literal("");
    render_enter(r);
    if (callee.kind == VALUE_METHOD) {
        result = callee.bound->function(r, callee.bound->self, a);
    } else if (callee.kind == VALUE_FUNCTION) {
        result = ((const Bound *)callee.object)->function(r, value_none(), a);
    } else if (callee.kind == VALUE_MACRO) {
        result = call_macro(e, callee.object, a);
    } else if (callee.kind == VALUE_LOOP) {
        Loop *loop = callee.object;
        Text caught = {0}, *out = e->out;
        if (!loop->node->op)
            render_fail(r, "The loop must have the 'recursive' marker to be called recursively.");
        if (a->count != 1 || a->keywords) render_fail(r, "loop() takes one argument");
        e->out = &caught;
        run_loop(e, loop->node, loop->frame, a->item[0], loop->depth + 1);
        e->out = out;
        result = text_value(&caught);
    } else if (callee.kind == VALUE_JOINER) {
        Joiner *joiner = callee.object;
        if (joiner->used) result = joiner->separator;
        joiner->used = 1;
    } else if (callee.kind == VALUE_UNDEFINED) {
        render_fail(r, "%s", callee.text);
    } else {
        render_fail(r, "'%s' object is not callable", value_type(callee));
    }
    render_leave(r);
    return result;
}

// --- functions that every template has -----------------------------------------------------------

#define MAX_RANGE 100000 // of Jinja's sandbox

static Value function_range(Render *r, Value self, const Arguments *a)
{
    int64_t bound[3] = {0, 0, 1};
    (void)self;
    if (a->keywords || a->count < 1 || a->count > 3)
        render_fail(r, "range() takes 1 to 3 arguments (%d given)", a->count);
    for (int i = 0; i < a->count; i++)
        bound[a->count == 1 ? 1 : i] = argument_int(r, "range", a->item[i]);
    int64_t from = bound[0], to = bound[1], by = bound[2];
    if (by == 0) render_fail(r, "range() arg 3 must not be zero");
    __int128 span = by > 0 ? (__int128)to - from : (__int128)from - to,
             unit = by > 0 ? (__int128)by : -(__int128)by;
    __int128 count = span > 0 ? (span + unit - 1) / unit : 0;
    if (count > MAX_RANGE)
        render_fail(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                    MAX_RANGE);
    Value list = value_list(r, FORM_RANGE);
    render_step(r, (size_t)count);
    for (int64_t i = 0; i < (int64_t)count; i++) list_add(r, list, value_int(from + i * by));
    for (int i = 0; i < 3; i++) list_add(r, list, value_int(bound[i])); // see text_add_repr
    list.list->count -= 3;
    return list;
}

static Value function_dict(Render *r, Value self, const Arguments *a)
{
    Value dict = value_dict(r);
    (void)self;
    if (a->count > 1) render_fail(r, "dict expected at most 1 argument, got %d", a->count);
    if (a->count && a->item[0].kind == VALUE_DICT) {
        const Dict *from = a->item[0].dict;
        for (uint32_t i = 0; i < from->count; i++)
            dict_set(r, dict.dict, from->pair[i].key, from->pair[i].value);
    } else if (a->count) {
        const List *pairs = value_items(r, a->item[0]);
        for (uint32_t i = 0; i < pairs->count; i++) {
            const List *pair = value_items(r, pairs->item[i]);
            if (pair->count != 2)
                render_fail(r,
                            "dictionary update sequence element #%u has length %u; 2 is required",
                            i, pair->count);
            dict_set(r, dict.dict, pair->item[0], pair->item[1]);
        }
    }
    for (int i = 0; i < a->keywords; i++)
        dict_set(r, dict.dict, a->keyword[i].key, a->keyword[i].value);
    return dict;
}

static Value function_namespace(Render *r, Value self, const Arguments *a)
{
    Value space = function_dict(r, self, a);
    space.kind = VALUE_NAMESPACE;
    return space;
}

static Value function_cycler(Render *r, Value self, const Arguments *a)
{
    Cycler *c = render_alloc(r, sizeof *c);
    (void)self;
    if (!a->count || a->keywords) render_fail(r, "at least one item has to be provided");
    *c = (Cycler){a->item, a->count, 0};
    return (Value){.kind = VALUE_CYCLER, .object = c};
}

static Value function_joiner(Render *r, Value self, const Arguments *a)
{
    Joiner *j = render_alloc(r, sizeof *j);
    Value separator;
    (void)self;
    bind_arguments(r, a, "joiner", "sep", 0, &separator);
    j->separator = separator.kind == VALUE_MISSING ? value_literal(", ") : separator;
    return (Value){.kind = VALUE_JOINER, .object = j};
}

static Value function_raise_exception(Render *r, Value self, const Arguments *a)
{
    Value message;
    (void)self;
    bind_arguments(r, a, "raise_exception", "message", 1, &message);
    message = value_text(r, message);
    error_set(r->err, "%.*s", (int)message.bytes, message.text);
    longjmp(r->failed, 1);
}

// As datetime.now().strftime: a time without a zone, with microseconds.
static Value function_strftime_now(Render *r, Value self, const Arguments *a)
{
    const Evaluator *e = (const Evaluator *)r;
    Value format;
    Text c_format = {0};
    (void)self;
    bind_arguments(r, a, "strftime_now", "format", 1, &format);
    if (format.kind != VALUE_STRING)
        render_fail(r, "strftime() argument 1 must be str, not %s", value_type(format));
    for (uint32_t i = 0; i < format.bytes; i++) {
        char c = format.text[i], next = i + 1 < format.bytes ? format.text[i + 1] : 0;
        if (c == '%' && next == 'f')
            text_print(r, &c_format, "%06ld", e->now.tv_nsec / 1000), i++;
        else if (c == '%' && (next == 'z' || next == 'Z'))
            i++;
        else if (c == '%')
            text_add(r, &c_format, format.text + i, 1 + !!next), i += !!next;
        else
            text_add(r, &c_format, &c, 1);
    }
    text_add(r, &c_format, ".", 2); // a mark, so that an empty result is no failure
    char text[1024];
    struct tm tm;
    localtime_r(&e->now.tv_sec, &tm);
    size_t bytes = strftime(text, sizeof text, c_format.data, &tm);
    if (!bytes) render_fail(r, "the format of strftime_now is too long");
    Text result = {0};
    text_add(r, &result, text, bytes - 1);
    return text_value(&result);
}

static const Value *find_global(const char *name)
{
    static const Bound functions[] = {
        {.name = "range", .function = function_range},
        {.name = "dict", .function = function_dict},
        {.name = "namespace", .function = function_namespace},
        {.name = "cycler", .function = function_cycler},
        {.name = "joiner", .function = function_joiner},
        {.name = "raise_exception", .function = function_raise_exception},
        {.name = "strftime_now", .function = function_strftime_now}};
#define GLOBAL(i)                                                                                  \
    {                                                                                              \
        .kind = VALUE_FUNCTION, .object = (void *)&functions[i]                                    \
    }
    static const Value values[] = {GLOBAL(0), GLOBAL(1), GLOBAL(2), GLOBAL(3),
                                   GLOBAL(4), GLOBAL(5), GLOBAL(6)};
#undef GLOBAL
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strcmp(functions[i].name, name) == 0) return &values[i];
    return NULL;
}

// --- attributes of loops, macros and cyclers -----------------------------------------------------

static Value loop_cycle(Render *r, Value self, const Arguments *a)
{
    const Loop *loop = self.object;
    if (!a->count) render_fail(r, "no items for cycling given");
    return a->item[loop->at % a->count];
}

static Value loop_changed(Render *r, Value self, const Arguments *a)
{
    Loop *loop = self.object;
    Value now = value_list(r, FORM_TUPLE);
    for (int i = 0; i < a->count; i++) list_add(r, now, a->item[i]);
    int changed = loop->changed.kind == VALUE_MISSING || !value_equal(r, loop->changed, now);
    loop->changed = now;
    return value_bool(changed);
}

static Value cycler_next(Render *r, Value self, const Arguments *a)
{
    Cycler *c = self.object;
    bind_arguments(r, a, "next", "", 0, NULL);
    Value v = c->item[c->at];
    c->at = (c->at + 1) % c->count;
    return v;
}

static Value cycler_reset(Render *r, Value self, const Arguments *a)
{
    Cycler *c = self.object;
    bind_arguments(r, a, "reset", "", 0, NULL);
    c->at = 0;
    return value_none();
}

static Value bind_method(Render *r, Value self, const char *name, Function function)
{
    Bound *bound = render_alloc(r, sizeof *bound);
    *bound = (Bound){self, name, function};
    return (Value){.kind = VALUE_METHOD, .bound = bound};
}

static Value loop_attribute(Render *r, Value v, Value name)
{
    const Loop *l = v.object;
    if (is_text(name, "index")) return value_int(l->at + 1);
    if (is_text(name, "index0")) return value_int(l->at);
    if (is_text(name, "revindex")) return value_int(l->count - l->at);
    if (is_text(name, "revindex0")) return value_int(l->count - l->at - 1);
    if (is_text(name, "first")) return value_bool(l->at == 0);
    if (is_text(name, "last")) return value_bool(l->at + 1 == l->count);
    if (is_text(name, "length")) return value_int(l->count);
    if (is_text(name, "depth")) return value_int(l->depth + 1);
    if (is_text(name, "depth0")) return value_int(l->depth);
    if (is_text(name, "previtem"))
        return l->at ? l->item[l->at - 1] : value_undefined(r, "there is no previous item");
    if (is_text(name, "nextitem"))
        return l->at + 1 < l->count ? l->item[l->at + 1]
                                    : value_undefined(r, "there is no next item");
    if (is_text(name, "cycle")) return bind_method(r, v, "cycle", loop_cycle);
    if (is_text(name, "changed")) return bind_method(r, v, "changed", loop_changed);
    return value_attribute(r, v, name);
}

static Value get_attribute(Render *r, Value v, Value name)
{
    if (v.kind == VALUE_LOOP) return loop_attribute(r, v, name);
    if (v.kind == VALUE_CYCLER) {
        const Cycler *c = v.object;
        if (is_text(name, "current")) return c->item[c->at];
        if (is_text(name, "next")) return bind_method(r, v, "next", cycler_next);
        if (is_text(name, "reset")) return bind_method(r, v, "reset", cycler_reset);
    }
    if (v.kind == VALUE_MACRO && is_text(name, "name")) return ((const Macro *)v.object)->name;
    return value_attribute(r, v, name);
}

// --- expressions ---------------------------------------------------------------------------------

static Value get_item(Evaluator *e, const JinjaNode *n)
{
    Render *r = &e->render;
    Value v = evaluate(e, n->a), missing = {.kind = VALUE_MISSING};
    const JinjaNode *index = node_at(e, n->b);
    if (index->kind == JINJA_SLICE) {
        Value start = index->a ? evaluate(e, index->a) : missing;
        Value stop = index->b ? evaluate(e, index->b) : missing;
        Value step = index->c ? evaluate(e, index->c) : missing;
        return value_slice(r, v, start, stop, step);
    }
    Value key = evaluate(e, n->b);
    int special = v.kind == VALUE_LOOP || v.kind == VALUE_CYCLER || v.kind == VALUE_MACRO;
    return special && key.kind == VALUE_STRING ? get_attribute(r, v, key) : value_item(r, v, key);
}

static int compare(Evaluator *e, int op, Value a, Value b)
{
    Render *r = &e->render;
    switch (op) {
    case JINJA_EQ:
        return value_equal(r, a, b);
    case JINJA_NE:
        return !value_equal(r, a, b);
    case JINJA_LT:
        return value_compare(r, a, b, "<") == -1;
    case JINJA_LE:
        return value_compare(r, a, b, "<=") <= 0;
    case JINJA_GT:
        return value_compare(r, a, b, ">") == 1;
    case JINJA_GE:
        return (unsigned)value_compare(r, a, b, ">=") <= 1; // 2 is neither
    case JINJA_IN:
        return value_contains(r, b, a);
    case JINJA_NOTIN:
        return !value_contains(r, b, a);
    }
    fail_damaged(e);
}

// a < b <= c: every neighbouring pair, as long as they hold.
static Value compare_chain(Evaluator *e, const JinjaNode *n)
{
    Value left = evaluate(e, n->a);
    for (uint32_t i = 0; i < n->list.count; i++) {
        const JinjaNode *operand = node_at(e, link_at(e, n, i));
        if (operand->kind != JINJA_OPERAND) fail_damaged(e);
        Value right = evaluate(e, operand->a);
        if (!compare(e, operand->op, left, right)) return value_bool(0);
        left = right;
    }
    return value_bool(1);
}

static Value negate(Evaluator *e, const JinjaNode *n)
{
    Value v = evaluate(e, n->a);
    if (v.kind == VALUE_UNDEFINED) render_fail(&e->render, "%s", v.text);
    if (!value_is_number(v))
        render_fail(&e->render, "bad operand type for unary %c: '%s'",
                    n->kind == JINJA_NEGATIVE ? '-' : '+', value_type(v));
    if (n->kind == JINJA_POSITIVE) return v.kind == VALUE_FLOAT ? v : value_int(v.integer);
    return v.kind == VALUE_FLOAT ? value_float(-v.number)
                                 : value_binary(&e->render, JINJA_SUB, value_int(0), v);
}

static Value make_collection(Evaluator *e, const JinjaNode *n)
{
    Render *r = &e->render;
    if (n->kind == JINJA_DICT) {
        Value dict = value_dict(r);
        for (uint32_t i = 0; i + 1 < n->list.count; i += 2) {
            Value key = evaluate(e, link_at(e, n, i));
            dict_set(r, dict.dict, key, evaluate(e, link_at(e, n, i + 1)));
        }
        return dict;
    }
    Value list = value_list(r, n->kind == JINJA_TUPLE ? FORM_TUPLE : FORM_LIST);
    for (uint32_t i = 0; i < n->list.count; i++) list_add(r, list, evaluate(e, link_at(e, n, i)));
    return list;
}

static Value concatenate(Evaluator *e, const JinjaNode *n)
{
    Value text = value_literal("");
    for (uint32_t i = 0; i < n->list.count; i++) {
        Value part = value_text(&e->render, evaluate(e, link_at(e, n, i)));
        part.form = FORM_PLAIN;
        text = value_concat(&e->render, text, part);
    }
    return text;
}

static Value number_of(const JinjaNode *n)
{
    uint64_t bits = n->a | (uint64_t)n->b << 32;
    if (n->kind == JINJA_INTEGER) return value_int((int64_t)bits);
    double d;
    memcpy(&d, &bits, 8);
    return value_float(d);
}

static Value evaluate_call(Evaluator *e, const JinjaNode *n)
{
    Value callee = evaluate(e, n->a);
    Arguments a = evaluate_arguments(e, n);
    e->render.line = n->line;
    return call(e, callee, &a);
}

static Value evaluate_filter(Evaluator *e, const JinjaNode *n)
{
    Value v = evaluate(e, n->a);
    Arguments a = evaluate_arguments(e, n);
    e->render.line = n->line;
    if (n->kind == JINJA_TEST) return value_bool(apply_test(&e->render, n->op, v, &a));
    return apply_filter(&e->render, n->op, v, &a);
}

static Value evaluate_node(Evaluator *e, const JinjaNode *n)
{
    Render *r = &e->render;
    Value a;
    switch (n->kind) {
    case JINJA_NONE:
        return value_none();
    case JINJA_TRUE:
    case JINJA_FALSE:
        return value_bool(n->kind == JINJA_TRUE);
    case JINJA_INTEGER:
    case JINJA_FLOAT:
        return number_of(n);
    case JINJA_STRING:
        return node_text(e, n);
    case JINJA_NAME:
        return get_variable(e, n);
    case JINJA_CAPTURED:
        return e->captured;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
        return make_collection(e, n);
    case JINJA_GETATTR:
        a = evaluate(e, n->a);
        r->line = n->line;
        return get_attribute(r, a, node_text(e, n));
    case JINJA_GETITEM:
        return get_item(e, n);
    case JINJA_CALL:
        return evaluate_call(e, n);
    case JINJA_FILTER:
    case JINJA_TEST:
        return evaluate_filter(e, n);
    case JINJA_NOT:
        return value_bool(!value_true(evaluate(e, n->a)));
    case JINJA_NEGATIVE:
    case JINJA_POSITIVE:
        return negate(e, n);
    case JINJA_AND:
        a = evaluate(e, n->a);
        return value_true(a) ? evaluate(e, n->b) : a;
    case JINJA_OR:
        a = evaluate(e, n->a);
        return value_true(a) ? a : evaluate(e, n->b);
    case JINJA_BINARY:
        a = evaluate(e, n->a);
        return value_binary(r, n->op, a, evaluate(e, n->b));
    case JINJA_CONCAT:
        return concatenate(e, n);
    case JINJA_COMPARE:
        return compare_chain(e, n);
    case JINJA_CONDITIONAL:
        if (value_true(evaluate(e, n->a))) return evaluate(e, n->b);
        if (n->c) return evaluate(e, n->c);
        return value_undefined(r,
                               "the inline if-expression on line %u evaluated to false and no else "
                               "section was defined.",
                               n->line);
    }
    fail_damaged(e);
}

static Value evaluate(Evaluator *e, uint32_t node)
{
    const JinjaNode *n = node_at(e, node);
    render_enter(&e->render);
    render_step(&e->render, 1);
    e->render.line = n->line;
    Value v = evaluate_node(e, n);
    render_leave(&e->render);
    return v;
}

// --- statements ----------------------------------------------------------------------------------

// The items of a loop that pass its test.
static const List *walk(Evaluator *e, const JinjaNode *n, Frame *frame, Value walked)
{
    Render *r = &e->render;
    const List *items = value_items(r, walked);
    uint32_t test = link_at(e, n, 2);
    if (!test) return items;
    Value list = value_list(r, FORM_LIST);
    for (uint32_t i = 0; i < items->count; i++) {
        push_frame(e, frame);
        assign(e, n->a, items->item[i]);
        if (value_true(evaluate(e, test))) list_add(r, list, items->item[i]);
    }
    e->frame = frame;
    return list.list;
}

static int run_loop(Evaluator *e, const JinjaNode *n, Frame *frame, Value walked, int64_t depth)
{
    Render *r = &e->render;
    Frame *before = e->frame;
    const List *items = walk(e, n, frame, walked);
    Loop *loop = render_alloc(r, sizeof *loop);
    *loop = (Loop){
        .node = n, .frame = frame, .item = items->item, .count = items->count, .depth = depth};
    // As in Jinja, "else" runs unless one turn came to the end of the body.
    int end = GO_ON, finished = 0;
    for (; loop->at < loop->count; loop->at++) {
        push_frame(e, frame);
        assign(e, n->a, items->item[loop->at]);
        set_variable(e, e->t->loop, (Value){.kind = VALUE_LOOP, .object = loop});
        end = execute(e, link_at(e, n, 0));
        if (end == BREAK) break;
        finished |= end == GO_ON;
    }
    end = GO_ON;
    if (!finished && link_at(e, n, 1)) {
        push_frame(e, frame);
        end = execute(e, link_at(e, n, 1));
    }
    e->frame = before;
    return end;
}

static int run_set_block(Evaluator *e, const JinjaNode *n)
{
    Value text, outer = e->captured;
    Frame *frame = e->frame;
    int end = capture(e, n->b, push_frame(e, frame), &text);
    e->frame = frame;
    if (end != GO_ON) return end;
    if (n->c) {
        e->captured = text;
        text = evaluate(e, n->c);
        e->captured = outer;
    }
    if (n->kind == JINJA_SET_BLOCK)
        assign(e, n->a, text);
    else
        text_add_value(&e->render, e->out, text);
    return GO_ON;
}

// {% call(x) macro(y) %}: the body becomes the macro's caller.
static void run_call_block(Evaluator *e, const JinjaNode *n)
{
    Render *r = &e->render;
    const JinjaNode *target = node_at(e, n->a);
    if (target->kind != JINJA_CALL) fail_damaged(e);
    Value callee = evaluate(e, target->a), keywords = value_dict(r);
    Arguments a = evaluate_arguments(e, target);
    for (int i = 0; i < a.keywords; i++)
        dict_set(r, keywords.dict, a.keyword[i].key, a.keyword[i].value);
    dict_set(r, keywords.dict, value_literal("caller"), make_macro(e, n));
    a.keyword = keywords.dict->pair;
    a.keywords = (int)keywords.dict->count;
    r->line = n->line;
    text_add_value(r, e->out, call(e, callee, &a));
}

static int run_with(Evaluator *e, const JinjaNode *n)
{
    Frame *outer = e->frame, *inner = push_frame(e, outer);
    for (uint32_t i = 0; i + 1 < n->list.count; i += 2) { // values know nothing of their neighbours
        e->frame = outer;
        Value v = evaluate(e, link_at(e, n, i + 1));
        e->frame = inner;
        assign(e, link_at(e, n, i), v);
    }
    int end = execute(e, n->b);
    e->frame = outer;
    return end;
}

static int execute_node(Evaluator *e, const JinjaNode *n)
{
    Render *r = &e->render;
    Frame *frame = e->frame;
    int end = GO_ON;
    switch (n->kind) {
    case JINJA_TEXT:
        text_add(r, e->out, e->t->text + n->text.at, n->text.count);
        return GO_ON;
    case JINJA_OUTPUT:
        text_add_value(r, e->out, evaluate(e, n->a));
        return GO_ON;
    case JINJA_BODY:
        for (uint32_t i = 0; i < n->list.count && end == GO_ON; i++)
            end = execute(e, link_at(e, n, i));
        return end;
    case JINJA_IF:
        if (value_true(evaluate(e, n->a))) return execute(e, n->b);
        return n->c ? execute(e, n->c) : GO_ON;
    case JINJA_FOR: {
        Value walked = evaluate(e, n->b);
        return run_loop(e, n, frame, walked, 0);
    }
    case JINJA_SET:
        assign(e, n->a, evaluate(e, n->b));
        return GO_ON;
    case JINJA_SET_BLOCK:
    case JINJA_FILTER_BLOCK:
        return run_set_block(e, n);
    case JINJA_MACRO:
        set_variable(e, n->text.at, make_macro(e, n));
        return GO_ON;
    case JINJA_CALL_BLOCK:
        run_call_block(e, n);
        return GO_ON;
    case JINJA_WITH:
        return run_with(e, n);
    case JINJA_SCOPE:
        push_frame(e, frame);
        end = execute(e, n->b);
        e->frame = frame;
        return end;
    case JINJA_BREAK:
        return BREAK;
    case JINJA_CONTINUE:
        return CONTINUE;
    }
    fail_damaged(e);
}

static int execute(Evaluator *e, uint32_t node)
{
    const JinjaNode *n = node_at(e, node);
    render_enter(&e->render);
    render_step(&e->render, 1);
    e->render.line = n->line;
    int end = execute_node(e, n);
    render_leave(&e->render);
    return end;
}

// --- the request ---------------------------------------------------------------------------------

// The text by which the end of the last message is found again, if templates keep its space or not.
static const char continue_mark[] = "CONTINUE_FINAL_MESSAGE_TAG ";

// Puts the mark behind the content of the last message.
static void mark_last_message(Render *r, Dict *context)
{
    const Value *messages = dict_find(context, "messages");
    if (!messages || messages->kind != VALUE_LIST || !messages->list->count)
        render_fail(r, "continue_final_message is set but the conversation is empty!");
    Value last = messages->list->item[messages->list->count - 1];
    Value *content = last.kind == VALUE_DICT ? (Value *)dict_find(last.dict, "content") : NULL;
    if (content && content->kind == VALUE_LIST) { // parts: the last one with text
        List *parts = content->list;
        content = NULL;
        for (uint32_t i = parts->count; i > 0 && !content; i--)
            if (parts->item[i - 1].kind == VALUE_DICT)
                content = (Value *)dict_find(parts->item[i - 1].dict, "text");
    }
    if (!content || content->kind != VALUE_STRING)
        render_fail(r,
                    "continue_final_message is set but the final message has no text to continue");
    *content = value_concat(r, *content, value_literal(continue_mark));
}

static void cut_at_mark(Render *r, Text *text)
{
    size_t whole = sizeof continue_mark - 1, length = whole - 1; // without the space
    for (size_t at = text->bytes < length ? 0 : text->bytes - length + 1; at > 0; at--) {
        if (memcmp(text->data + at - 1, continue_mark, length) != 0) continue;
        int kept = at - 1 + whole <= text->bytes && text->data[at - 1 + length] == ' ';
        text->bytes = at - 1;
        if (!kept) text->bytes = string_strip(r, text_value(text), value_none(), 0, 1).bytes;
        return;
    }
    render_fail(r,
                "continue_final_message is set but the final message does not appear in the chat");
}

static void make_context(Evaluator *e, const json_t *request)
{
    Render *r = &e->render;
    const char *key;
    json_t *value;
    Dict *context = e->context = value_dict(r).dict;
    dict_set(r, context, value_literal("tools"), value_none());
    dict_set(r, context, value_literal("documents"), value_none());
    dict_set(r, context, value_literal("add_generation_prompt"), value_bool(0));
    json_object_foreach(e->t->tokens, key, value)
        dict_set(r, context, value_literal(key), value_from_json(r, value));
    json_object_foreach((json_t *)request, key,
                        value) if (strcmp(key, "continue_final_message") != 0)
        dict_set(r, context, value_literal(key), value_from_json(r, value));
}

static int render(Evaluator *e, uint32_t body, const json_t *request, Text *text)
{
    int resumes = json_is_true(json_object_get(request, "continue_final_message"));
    if (setjmp(e->render.failed)) return -1;
    make_context(e, request);
    if (resumes) mark_last_message(&e->render, e->context);
    e->out = text;
    push_frame(e, NULL);
    execute(e, body);
    if (resumes) cut_at_mark(&e->render, text);
    return 0;
}

int template_render(const Templates *t, int i, const json_t *request, time_t now, char **text,
                    size_t *bytes, Error *err)
{
    *text = NULL;
    *bytes = 0;
    if (i < 0 || i >= templates_count(t)) return error_set(err, "there is no chat template %d", i);
    if (templates_problem(t, i)) return error_set(err, "%s", templates_problem(t, i));
    if (!json_is_object(request)) return error_set(err, "the request is not a JSON object");
    Evaluator e = {.render = {.err = err}, .t = t};
    clock_gettime(CLOCK_REALTIME, &e.now);
    if (now) e.now = (struct timespec){.tv_sec = now};
    Text out = {0};
    int status = render(&e, t->templates[i].body, request, &out);
    if (status == 0 && !(*text = malloc(out.bytes + 1))) status = error_set(err, "out of memory");
    if (status == 0) {
        if (out.bytes) memcpy(*text, out.data, out.bytes);
        (*text)[out.bytes] = 0;
        *bytes = out.bytes;
    }
    render_release(&e.render);
    return status;
}
