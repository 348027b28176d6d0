// Jinja chat templates -> the tables of runtime/jinja.h. Reads the language as Jinja 3.1 does with
// the settings that Hugging Face's transformers gives it (trim_blocks, lstrip_blocks, loop
// controls, generation blocks); what a template means when it runs is the runtime's business.
#include "template.h"
#include "../runtime/jinja.h"
#include "json.h"
#include "lexer.h"
#include "tokenizer.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

// The sections of the tables, which all templates of a model share.
typedef struct {
    JinjaTemplate *templates;
    size_t template_count, template_room;
    JinjaNode *nodes;
    size_t node_count, node_room;
    uint32_t *links;
    size_t link_count, link_room;
    Buffer text;
    JinjaSpan *slots; // of interned texts, by hash
    size_t slot_count, slots_used;
} Tables;

typedef struct {
    Syntax syntax;
    Tables *tables;
    Token *token; // the current one
    int nesting, loops;
} Parser;

// --- tables --------------------------------------------------------------------------------------

static JinjaSpan add_text(Tables *t, const char *text, size_t bytes)
{
    JinjaSpan span = {(uint32_t)t->text.bytes, (uint32_t)bytes};
    buffer_add(&t->text, text, bytes);
    buffer_add(&t->text, "", 1);
    return span;
}

static JinjaSpan *find_slot(Tables *t, const char *text, size_t bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)text[i]) * 16777619u;
    for (;; h++) {
        JinjaSpan *s = &t->slots[h & (t->slot_count - 1)];
        if (!s->at) return s;
        if (s->count == bytes && memcmp(t->text.data + s->at, text, bytes) == 0) return s;
    }
}

static JinjaSpan intern(Tables *t, const char *text, size_t bytes)
{
    if (2 * t->slots_used >= t->slot_count) {
        JinjaSpan *old = t->slots;
        size_t count = t->slot_count;
        t->slot_count = count ? 2 * count : 1024;
        t->slots = arena_alloc(t->slot_count * sizeof *t->slots);
        for (size_t i = 0; i < count; i++)
            if (old[i].at) *find_slot(t, t->text.data + old[i].at, old[i].count) = old[i];
    }
    JinjaSpan *slot = find_slot(t, text, bytes);
    if (!slot->at) {
        *slot = add_text(t, text, bytes);
        t->slots_used++;
    }
    return *slot;
}

// Child nodes on their way into the links.
typedef struct {
    uint32_t *node;
    size_t count, room;
} NodeList;

static void add_to_list(NodeList *list, uint32_t node)
{
    APPEND(list->node, list->count, list->room, node);
}

static JinjaSpan add_links(Parser *p, NodeList *list)
{
    Tables *t = p->tables;
    JinjaSpan span = {(uint32_t)t->link_count, (uint32_t)list->count};
    for (size_t i = 0; i < list->count; i++)
        APPEND(t->links, t->link_count, t->link_room, list->node[i]);
    return span;
}

static uint32_t add_node(Parser *p, JinjaNode node)
{
    Tables *t = p->tables;
    APPEND(t->nodes, t->node_count, t->node_room, node);
    return (uint32_t)t->node_count - 1;
}

static uint32_t add_list(Parser *p, int kind, uint32_t line, NodeList *list)
{
    return add_node(p,
                    (JinjaNode){.kind = (uint16_t)kind, .line = line, .list = add_links(p, list)});
}

static uint32_t add_unary(Parser *p, int kind, uint32_t line, uint32_t a)
{
    return add_node(p, (JinjaNode){.kind = (uint16_t)kind, .line = line, .a = a});
}

static uint32_t add_binary(Parser *p, int kind, int op, uint32_t line, uint32_t a, uint32_t b)
{
    return add_node(
        p, (JinjaNode){.kind = (uint16_t)kind, .op = (uint16_t)op, .line = line, .a = a, .b = b});
}

static uint32_t add_named(Parser *p, int kind, const Token *name, uint32_t a)
{
    return add_node(p, (JinjaNode){.kind = (uint16_t)kind,
                                   .line = name->line,
                                   .a = a,
                                   .text = intern(p->tables, name->text, name->bytes)});
}

// --- parser: tokens ------------------------------------------------------------------------------

static void next(Parser *p)
{
    if (p->token->kind != TOKEN_END) p->token++;
}

static int is_text(const Token *t, TokenKind kind, const char *text)
{
    return t->kind == kind && strlen(text) == t->bytes && memcmp(t->text, text, t->bytes) == 0;
}

static int is_operator(const Parser *p, const char *text)
{
    return is_text(p->token, TOKEN_OPERATOR, text);
}

static int is_name(const Parser *p, const char *text)
{
    return is_text(p->token, TOKEN_NAME, text);
}

static int skip_operator(Parser *p, const char *text)
{
    if (!is_operator(p, text)) return 0;
    next(p);
    return 1;
}

static int skip_name(Parser *p, const char *text)
{
    if (!is_name(p, text)) return 0;
    next(p);
    return 1;
}

static _Noreturn void fail_unexpected(Parser *p, const char *expected)
{
    const char *found = p->token->kind == TOKEN_DATA ? "template text" : p->token->text;
    int bytes = p->token->kind == TOKEN_DATA ? 13
                : p->token->bytes > 60       ? 60
                                             : (int)p->token->bytes;
    fail_syntax(&p->syntax, p->token->line, "expected %s, got '%.*s'", expected, bytes, found);
}

static void expect_operator(Parser *p, const char *text)
{
    if (!skip_operator(p, text)) fail_unexpected(p, arena_format("'%s'", text));
}

static void expect(Parser *p, TokenKind kind, const char *what)
{
    if (p->token->kind != kind) fail_unexpected(p, what);
    next(p);
}

static Token expect_name(Parser *p)
{
    Token t = *p->token;
    expect(p, TOKEN_NAME, "a name");
    return t;
}

static void enter(Parser *p)
{
    if (++p->nesting > JINJA_MAX_NESTING)
        fail_syntax(&p->syntax, p->token->line, "nested deeper than %d", JINJA_MAX_NESTING);
}

static void leave(Parser *p)
{
    p->nesting--;
}

// --- parser: expressions -------------------------------------------------------------------------

static uint32_t parse_expression(Parser *p);
static uint32_t parse_or(Parser *p);
static uint32_t parse_unary(Parser *p, int with_filter);
static uint32_t parse_postfix(Parser *p, uint32_t node);

static uint32_t parse_literal(Parser *p)
{
    Token t = *p->token;
    next(p);
    if (t.kind != TOKEN_STRING)
        return add_node(p, (JinjaNode){.kind = t.kind == TOKEN_FLOAT ? JINJA_FLOAT : JINJA_INTEGER,
                                       .line = t.line,
                                       .a = (uint32_t)t.bits,
                                       .b = (uint32_t)(t.bits >> 32)});
    while (p->token->kind == TOKEN_STRING) { // strings side by side are one
        char *joined = arena_alloc(t.bytes + p->token->bytes + 1);
        memcpy(joined, t.text, t.bytes);
        memcpy(joined + t.bytes, p->token->text, p->token->bytes);
        t.text = joined;
        t.bytes += p->token->bytes;
        next(p);
    }
    return add_named(p, JINJA_STRING, &t, 0);
}

typedef struct {
    int without_condition; // no "a if b else c" at the top
    int empty;             // nothing at all is the empty tuple
    const char *stop;      // a name that ends it beside the usual ends
} TupleOptions;

static int at_tuple_end(const Parser *p, const TupleOptions *o)
{
    return p->token->kind == TOKEN_VARIABLE_END || p->token->kind == TOKEN_BLOCK_END ||
           is_operator(p, ")") || (o->stop && is_name(p, o->stop));
}

// One expression, or several with commas: a tuple.
static uint32_t parse_tuple(Parser *p, TupleOptions o)
{
    uint32_t line = p->token->line;
    NodeList list = {0};
    int is_tuple = 0;
    for (;;) {
        if (at_tuple_end(p, &o)) break;
        add_to_list(&list, o.without_condition ? parse_or(p) : parse_expression(p));
        if (!skip_operator(p, ",")) break;
        is_tuple = 1;
    }
    if (!is_tuple && list.count) return list.node[0];
    if (!is_tuple && !o.empty) fail_unexpected(p, "an expression");
    return add_list(p, JINJA_TUPLE, line, &list);
}

static uint32_t parse_list_or_dict(Parser *p)
{
    uint32_t line = p->token->line;
    int dict = is_operator(p, "{");
    const char *close = dict ? "}" : "]";
    NodeList list = {0};
    next(p);
    while (!is_operator(p, close)) {
        if (list.count) expect_operator(p, ",");
        if (is_operator(p, close)) break;
        add_to_list(&list, parse_expression(p));
        if (!dict) continue;
        expect_operator(p, ":");
        add_to_list(&list, parse_expression(p));
    }
    next(p);
    return add_list(p, dict ? JINJA_DICT : JINJA_LIST, line, &list);
}

static uint32_t parse_primary(Parser *p)
{
    Token t = *p->token;
    static const struct {
        const char *name;
        int kind;
    } constants[] = {{"true", JINJA_TRUE},   {"True", JINJA_TRUE}, {"false", JINJA_FALSE},
                     {"False", JINJA_FALSE}, {"none", JINJA_NONE}, {"None", JINJA_NONE}};
    if (t.kind == TOKEN_NAME) {
        next(p);
        for (int i = 0; i < 6; i++)
            if (is_text(&t, TOKEN_NAME, constants[i].name))
                return add_unary(p, constants[i].kind, t.line, 0);
        return add_named(p, JINJA_NAME, &t, 0);
    }
    if (t.kind == TOKEN_STRING || t.kind == TOKEN_INTEGER || t.kind == TOKEN_FLOAT)
        return parse_literal(p);
    if (is_operator(p, "[") || is_operator(p, "{")) return parse_list_or_dict(p);
    if (skip_operator(p, "(")) {
        uint32_t node = parse_tuple(p, (TupleOptions){.empty = 1});
        expect_operator(p, ")");
        return node;
    }
    fail_unexpected(p, "an expression");
}

static uint32_t parse_subscribed(Parser *p)
{
    uint32_t line = p->token->line, part[3] = {0};
    if (!is_operator(p, ":")) {
        part[0] = parse_expression(p);
        if (!is_operator(p, ":")) return part[0];
    }
    for (int i = 1; i < 3 && skip_operator(p, ":"); i++)
        if (!is_operator(p, "]") && !is_operator(p, ",") && !is_operator(p, ":"))
            part[i] = parse_expression(p);
    return add_node(
        p,
        (JinjaNode){.kind = JINJA_SLICE, .line = line, .a = part[0], .b = part[1], .c = part[2]});
}

static uint32_t parse_subscript(Parser *p, uint32_t node)
{
    uint32_t line = p->token->line;
    if (skip_operator(p, ".")) {
        Token t = *p->token;
        if (t.kind == TOKEN_INTEGER)
            return add_binary(p, JINJA_GETITEM, 0, line, node, parse_literal(p));
        if (t.kind != TOKEN_NAME) fail_unexpected(p, "a name or number");
        next(p);
        return add_named(p, JINJA_GETATTR, &t, node);
    }
    expect_operator(p, "[");
    NodeList list = {0};
    while (!is_operator(p, "]")) {
        if (list.count) expect_operator(p, ",");
        add_to_list(&list, parse_subscribed(p));
    }
    next(p);
    uint32_t index = list.count == 1 ? list.node[0] : add_list(p, JINJA_TUPLE, line, &list);
    return add_binary(p, JINJA_GETITEM, 0, line, node, index);
}

// (a, *b, c=d, **e)
static void parse_arguments(Parser *p, NodeList *list)
{
    uint32_t line = p->token->line;
    int last = 0; // arguments come in the order: positional, *, keywords, **
    expect_operator(p, "(");
    while (!is_operator(p, ")")) {
        if (list->count) expect_operator(p, ",");
        if (is_operator(p, ")")) break;
        Token t = *p->token;
        int kind = 0, keyword = t.kind == TOKEN_NAME && is_text(p->token + 1, TOKEN_OPERATOR, "=");
        uint32_t node;
        if (skip_operator(p, "*")) {
            kind = 1;
            if (last >= 1)
                fail_syntax(&p->syntax, line, "invalid syntax for function call expression");
            node = add_unary(p, JINJA_SPREAD, t.line, parse_expression(p));
        } else if (skip_operator(p, "**")) {
            kind = 3;
            node = add_unary(p, JINJA_KEYWORDS, t.line, parse_expression(p));
        } else if (keyword) {
            kind = 2;
            next(p);
            next(p);
            node = add_named(p, JINJA_KEYWORD, &t, parse_expression(p));
        } else {
            node = parse_expression(p);
        }
        if (kind < last || last == 3)
            fail_syntax(&p->syntax, line, "invalid syntax for function call expression");
        last = kind;
        add_to_list(list, node);
    }
    next(p);
}

static uint32_t parse_call(Parser *p, uint32_t node)
{
    uint32_t line = p->token->line;
    NodeList list = {0};
    parse_arguments(p, &list);
    return add_node(
        p, (JinjaNode){.kind = JINJA_CALL, .line = line, .a = node, .list = add_links(p, &list)});
}

// A name with dots, as those of filters and tests may be: "a.b".
static Token parse_dotted_name(Parser *p)
{
    Token t = expect_name(p);
    while (skip_operator(p, ".")) {
        Token part = expect_name(p);
        t.text = arena_format("%.*s.%.*s", (int)t.bytes, t.text, (int)part.bytes, part.text);
        t.bytes = strlen(t.text);
    }
    return t;
}

static const char *const filter_names[] = {
#define NAME(function, name) name,
    JINJA_FILTERS(NAME)};
static const char *const test_names[] = {JINJA_TESTS(NAME)};
#undef NAME

static uint16_t find_name(Parser *p, const Token *t, const char *const *names, size_t count,
                          const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (is_text(t, t->kind, names[i])) return (uint16_t)i;
    fail_syntax(&p->syntax, t->line, "no %s named '%.*s'", what,
                (int)(t->bytes > 60 ? 60 : t->bytes), t->text);
}

// "| a | b(c)" behind the pipe of the first.
static uint32_t parse_filters(Parser *p, uint32_t node)
{
    do {
        Token t = parse_dotted_name(p);
        NodeList list = {0};
        if (is_operator(p, "(")) parse_arguments(p, &list);
        uint16_t op =
            find_name(p, &t, filter_names, sizeof filter_names / sizeof *filter_names, "filter");
        node = add_node(p, (JinjaNode){.kind = JINJA_FILTER,
                                       .op = op,
                                       .line = t.line,
                                       .a = node,
                                       .list = add_links(p, &list)});
    } while (skip_operator(p, "|"));
    return node;
}

// Behind "is".
static uint32_t parse_test(Parser *p, uint32_t node, uint32_t line)
{
    int negated = skip_name(p, "not");
    Token t = parse_dotted_name(p);
    NodeList list = {0};
    TokenKind kind = p->token->kind;
    if (is_operator(p, "(")) {
        parse_arguments(p, &list);
    } else if ((kind == TOKEN_NAME || kind == TOKEN_STRING || kind == TOKEN_INTEGER ||
                kind == TOKEN_FLOAT || is_operator(p, "[") || is_operator(p, "{")) &&
               !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and")) {
        if (is_name(p, "is"))
            fail_syntax(&p->syntax, p->token->line, "You cannot chain multiple tests with is");
        add_to_list(&list, parse_postfix(p, parse_primary(p)));
    }
    uint16_t op = find_name(p, &t, test_names, sizeof test_names / sizeof *test_names, "test");
    node = add_node(
        p, (JinjaNode){
               .kind = JINJA_TEST, .op = op, .line = line, .a = node, .list = add_links(p, &list)});
    return negated ? add_unary(p, JINJA_NOT, line, node) : node;
}

static uint32_t parse_postfix(Parser *p, uint32_t node)
{
    for (;;) {
        if (is_operator(p, ".") || is_operator(p, "["))
            node = parse_subscript(p, node);
        else if (is_operator(p, "("))
            node = parse_call(p, node);
        else
            return node;
    }
}

static uint32_t parse_unary(Parser *p, int with_filter)
{
    uint32_t line = p->token->line, node;
    enter(p);
    if (skip_operator(p, "-"))
        node = add_unary(p, JINJA_NEGATIVE, line, parse_unary(p, 0));
    else if (skip_operator(p, "+"))
        node = add_unary(p, JINJA_POSITIVE, line, parse_unary(p, 0));
    else
        node = parse_primary(p);
    node = parse_postfix(p, node);
    while (with_filter) {
        line = p->token->line;
        if (skip_operator(p, "|"))
            node = parse_filters(p, node);
        else if (skip_name(p, "is"))
            node = parse_test(p, node, line);
        else if (is_operator(p, "("))
            node = parse_call(p, node);
        else
            break;
    }
    leave(p);
    return node;
}

static uint32_t parse_pow(Parser *p)
{
    uint32_t line = p->token->line, node = parse_unary(p, 1);
    while (skip_operator(p, "**"))
        node = add_binary(p, JINJA_BINARY, JINJA_POW, line, node, parse_unary(p, 1));
    return node;
}

static uint32_t parse_product(Parser *p)
{
    static const struct {
        const char *text;
        int op;
    } operators[] = {{"*", JINJA_MUL}, {"/", JINJA_DIV}, {"//", JINJA_FLOORDIV}, {"%", JINJA_MOD}};
    uint32_t line = p->token->line, node = parse_pow(p);
    for (int i = 0; i < 4; i++) {
        if (!skip_operator(p, operators[i].text)) continue;
        node = add_binary(p, JINJA_BINARY, operators[i].op, line, node, parse_pow(p));
        i = -1;
    }
    return node;
}

static uint32_t parse_concat(Parser *p)
{
    uint32_t line = p->token->line, node = parse_product(p);
    if (!is_operator(p, "~")) return node;
    NodeList list = {0};
    add_to_list(&list, node);
    while (skip_operator(p, "~")) add_to_list(&list, parse_product(p));
    return add_list(p, JINJA_CONCAT, line, &list);
}

static uint32_t parse_sum(Parser *p)
{
    uint32_t line = p->token->line, node = parse_concat(p);
    for (;;) {
        int op = is_operator(p, "+") ? JINJA_ADD : is_operator(p, "-") ? JINJA_SUB : -1;
        if (op < 0) return node;
        next(p);
        node = add_binary(p, JINJA_BINARY, op, line, node, parse_concat(p));
    }
}

// The comparison at the current token, behind which the parser then stands; -1 for none.
static int parse_comparison(Parser *p)
{
    static const char *const operators[] = {"==", "!=", "<", "<=", ">", ">="};
    for (int i = 0; i < 6; i++)
        if (skip_operator(p, operators[i])) return JINJA_EQ + i;
    if (skip_name(p, "in")) return JINJA_IN;
    if (!is_name(p, "not") || !is_text(p->token + 1, TOKEN_NAME, "in")) return -1;
    next(p);
    next(p);
    return JINJA_NOTIN;
}

static uint32_t parse_compare(Parser *p)
{
    uint32_t line = p->token->line, node = parse_sum(p);
    NodeList list = {0};
    for (int op; (op = parse_comparison(p)) >= 0;)
        add_to_list(&list, add_binary(p, JINJA_OPERAND, op, p->token->line, parse_sum(p), 0));
    if (!list.count) return node;
    return add_node(
        p,
        (JinjaNode){.kind = JINJA_COMPARE, .line = line, .a = node, .list = add_links(p, &list)});
}

static uint32_t parse_not(Parser *p)
{
    uint32_t line = p->token->line;
    if (!skip_name(p, "not")) return parse_compare(p);
    enter(p);
    uint32_t node = parse_not(p);
    leave(p);
    return add_unary(p, JINJA_NOT, line, node);
}

static uint32_t parse_and(Parser *p)
{
    uint32_t line = p->token->line, node = parse_not(p);
    while (skip_name(p, "and")) node = add_binary(p, JINJA_AND, 0, line, node, parse_not(p));
    return node;
}

static uint32_t parse_or(Parser *p)
{
    uint32_t line = p->token->line, node = parse_and(p);
    while (skip_name(p, "or")) node = add_binary(p, JINJA_OR, 0, line, node, parse_and(p));
    return node;
}

static uint32_t parse_expression(Parser *p)
{
    enter(p);
    uint32_t line = p->token->line, node = parse_or(p);
    while (skip_name(p, "if")) {
        uint32_t test = parse_or(p), other = skip_name(p, "else") ? parse_expression(p) : 0;
        node = add_node(
            p,
            (JinjaNode){.kind = JINJA_CONDITIONAL, .line = line, .a = test, .b = node, .c = other});
    }
    leave(p);
    return node;
}

// --- parser: statements --------------------------------------------------------------------------

static uint32_t parse_statement(Parser *p);

static int is_any_name(const Parser *p, const char *const *names)
{
    for (; *names; names++)
        if (is_name(p, *names)) return 1;
    return 0;
}

// Statements up to a block whose first word is one of `ends` (NULL: the end of the template), which
// becomes the current token.
static uint32_t parse_until(Parser *p, const char *const *ends)
{
    uint32_t line = p->token->line;
    NodeList list = {0};
    enter(p);
    while (p->token->kind != TOKEN_END) {
        Token t = *p->token;
        next(p);
        if (t.kind == TOKEN_DATA) {
            add_to_list(&list, add_named(p, JINJA_TEXT, &t, 0));
        } else if (t.kind == TOKEN_VARIABLE_BEGIN) {
            uint32_t value = parse_tuple(p, (TupleOptions){0});
            add_to_list(&list, add_unary(p, JINJA_OUTPUT, t.line, value));
            expect(p, TOKEN_VARIABLE_END, "end of print statement");
        } else {
            if (ends && is_any_name(p, ends)) {
                leave(p);
                return add_list(p, JINJA_BODY, line, &list);
            }
            uint32_t statement = parse_statement(p);
            if (statement) add_to_list(&list, statement);
            expect(p, TOKEN_BLOCK_END, "end of statement block");
        }
    }
    if (ends)
        fail_syntax(&p->syntax, p->token->line, "unexpected end of template, expected '%s'",
                    ends[0]);
    leave(p);
    return add_list(p, JINJA_BODY, line, &list);
}

// The body of a statement whose tag ends here.
static uint32_t parse_body(Parser *p, const char *const *ends)
{
    skip_operator(p, ":");
    expect(p, TOKEN_BLOCK_END, "end of statement block");
    return parse_until(p, ends);
}

// The same for a body with one possible end, which is skipped.
static uint32_t parse_body_to(Parser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    uint32_t body = parse_body(p, ends);
    next(p);
    return body;
}

// A body that Jinja makes a function of: a loop around it cannot be left from inside.
static uint32_t parse_function_body(Parser *p, const char *end)
{
    int loops = p->loops;
    p->loops = 0;
    uint32_t body = parse_body_to(p, end);
    p->loops = loops;
    return body;
}

// A name, ns.attribute or (where `one` is 0) several of them.
static uint32_t parse_target(Parser *p, int one, const char *stop)
{
    uint32_t line = p->token->line;
    NodeList list = {0};
    int is_tuple = 0;
    enter(p);
    do {
        if (list.count && (is_operator(p, "=") || is_operator(p, ")") ||
                           (stop && is_name(p, stop)) || p->token->kind == TOKEN_BLOCK_END))
            break;
        uint32_t node;
        if (skip_operator(p, "(")) {
            node = parse_target(p, 0, NULL);
            expect_operator(p, ")");
        } else {
            Token name = *p->token;
            node = parse_primary(p);
            if (p->tables->nodes[node].kind != JINJA_NAME)
                fail_syntax(&p->syntax, name.line, "can't assign to '%.*s'",
                            (int)(name.bytes > 60 ? 60 : name.bytes), name.text);
            if (skip_operator(p, ".")) {
                Token attribute = expect_name(p);
                node = add_named(p, JINJA_ATTRIBUTE, &attribute, node);
            }
        }
        add_to_list(&list, node);
        if (!one && is_operator(p, ",")) is_tuple = 1;
    } while (!one && skip_operator(p, ","));
    leave(p);
    return is_tuple ? add_list(p, JINJA_TUPLE, line, &list) : list.node[0];
}

static uint32_t parse_if(Parser *p, uint32_t line)
{
    static const char *const ends[] = {"endif", "elif", "else", NULL};
    uint32_t test = parse_tuple(p, (TupleOptions){.without_condition = 1});
    uint32_t body = parse_body(p, ends), other = 0, other_line = p->token->line;
    if (skip_name(p, "elif")) {
        enter(p);
        other = parse_if(p, other_line);
        leave(p);
    } else if (skip_name(p, "else")) {
        other = parse_body_to(p, "endif");
    } else {
        next(p);
    }
    return add_node(p,
                    (JinjaNode){.kind = JINJA_IF, .line = line, .a = test, .b = body, .c = other});
}

static uint32_t parse_for(Parser *p, uint32_t line)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    if (is_name(p, "loop"))
        fail_syntax(&p->syntax, line, "Can't assign to special loop variable in for-loop target");
    uint32_t target = parse_target(p, 0, "in");
    if (!skip_name(p, "in")) fail_unexpected(p, "'in'");
    uint32_t walked = parse_tuple(p, (TupleOptions){.without_condition = 1, .stop = "recursive"});
    uint32_t test = skip_name(p, "if") ? parse_expression(p) : 0, other = 0;
    int recursive = skip_name(p, "recursive");
    p->loops++;
    uint32_t body = parse_body(p, ends);
    p->loops--;
    if (skip_name(p, "else"))
        other = parse_body_to(p, "endfor");
    else
        next(p);
    NodeList list = {0};
    add_to_list(&list, body);
    add_to_list(&list, other);
    add_to_list(&list, test);
    return add_node(p, (JinjaNode){.kind = JINJA_FOR,
                                   .op = (uint16_t)recursive,
                                   .line = line,
                                   .a = target,
                                   .b = walked,
                                   .list = add_links(p, &list)});
}

static uint32_t parse_set(Parser *p, uint32_t line)
{
    uint32_t target = parse_target(p, 0, NULL);
    if (skip_operator(p, "="))
        return add_binary(p, JINJA_SET, 0, line, target, parse_tuple(p, (TupleOptions){0}));
    uint32_t filters = 0;
    if (skip_operator(p, "|")) filters = parse_filters(p, add_unary(p, JINJA_CAPTURED, line, 0));
    uint32_t body = parse_body_to(p, "endset");
    return add_node(
        p,
        (JinjaNode){.kind = JINJA_SET_BLOCK, .line = line, .a = target, .b = body, .c = filters});
}

static JinjaSpan parse_parameters(Parser *p)
{
    NodeList list = {0};
    int defaults = 0;
    expect_operator(p, "(");
    while (!is_operator(p, ")")) {
        if (list.count) expect_operator(p, ",");
        Token name = expect_name(p);
        uint32_t value = 0;
        if (skip_operator(p, "="))
            value = parse_expression(p), defaults = 1;
        else if (defaults)
            fail_syntax(&p->syntax, name.line, "non-default argument follows default argument");
        add_to_list(&list, add_named(p, JINJA_PARAMETER, &name, value));
    }
    next(p);
    return add_links(p, &list);
}

// Which of caller, varargs and kwargs the nodes behind the first `from` mention.
static uint16_t find_specials(const Parser *p, size_t from)
{
    static const char *const names[] = {"caller", "varargs", "kwargs"};
    uint16_t flags = 0;
    for (size_t i = from; i < p->tables->node_count; i++) {
        const JinjaNode *n = &p->tables->nodes[i];
        for (int k = 0; k < 3 && n->kind == JINJA_NAME; k++)
            if (strcmp(p->tables->text.data + n->text.at, names[k]) == 0)
                flags |= (uint16_t)(1 << k);
    }
    return flags;
}

static uint32_t parse_macro(Parser *p, uint32_t line)
{
    Token name = expect_name(p);
    JinjaSpan parameters = parse_parameters(p);
    size_t from = p->tables->node_count;
    uint32_t body = parse_function_body(p, "endmacro");
    return add_node(p, (JinjaNode){.kind = JINJA_MACRO,
                                   .op = find_specials(p, from),
                                   .line = line,
                                   .b = body,
                                   .list = parameters,
                                   .text = intern(p->tables, name.text, name.bytes)});
}

static uint32_t parse_call_block(Parser *p, uint32_t line)
{
    JinjaSpan parameters = {0, 0};
    if (is_operator(p, "(")) parameters = parse_parameters(p);
    uint32_t call = parse_expression(p);
    if (p->tables->nodes[call].kind != JINJA_CALL) fail_syntax(&p->syntax, line, "expected call");
    size_t from = p->tables->node_count;
    uint32_t body = parse_function_body(p, "endcall");
    return add_node(p, (JinjaNode){.kind = JINJA_CALL_BLOCK,
                                   .op = find_specials(p, from),
                                   .line = line,
                                   .a = call,
                                   .b = body,
                                   .list = parameters,
                                   .text = intern(p->tables, "caller", 6)});
}

static uint32_t parse_with(Parser *p, uint32_t line)
{
    NodeList list = {0};
    while (p->token->kind != TOKEN_BLOCK_END) {
        if (list.count) expect_operator(p, ",");
        add_to_list(&list, parse_target(p, 1, NULL));
        expect_operator(p, "=");
        add_to_list(&list, parse_expression(p));
    }
    uint32_t body = parse_body_to(p, "endwith");
    return add_node(
        p, (JinjaNode){.kind = JINJA_WITH, .line = line, .b = body, .list = add_links(p, &list)});
}

static uint32_t parse_print(Parser *p, uint32_t line)
{
    NodeList list = {0};
    while (p->token->kind != TOKEN_BLOCK_END) {
        if (list.count) expect_operator(p, ",");
        add_to_list(&list, add_unary(p, JINJA_OUTPUT, line, parse_expression(p)));
    }
    return add_list(p, JINJA_BODY, line, &list);
}

// Behind "{%". A statement that leaves nothing gives 0.
static uint32_t parse_statement(Parser *p)
{
    Token t = *p->token;
    if (t.kind != TOKEN_NAME) fail_unexpected(p, "the name of a tag");
    next(p);
    if (is_text(&t, TOKEN_NAME, "if")) return parse_if(p, t.line);
    if (is_text(&t, TOKEN_NAME, "for")) return parse_for(p, t.line);
    if (is_text(&t, TOKEN_NAME, "set")) return parse_set(p, t.line);
    if (is_text(&t, TOKEN_NAME, "macro")) return parse_macro(p, t.line);
    if (is_text(&t, TOKEN_NAME, "call")) return parse_call_block(p, t.line);
    if (is_text(&t, TOKEN_NAME, "with")) return parse_with(p, t.line);
    if (is_text(&t, TOKEN_NAME, "print")) return parse_print(p, t.line);
    if (is_text(&t, TOKEN_NAME, "filter")) {
        uint32_t filters = parse_filters(p, add_unary(p, JINJA_CAPTURED, t.line, 0));
        uint32_t body = parse_body_to(p, "endfilter");
        return add_node(
            p, (JinjaNode){.kind = JINJA_FILTER_BLOCK, .line = t.line, .b = body, .c = filters});
    }
    if (is_text(&t, TOKEN_NAME, "generation")) {
        uint32_t body = parse_function_body(p, "endgeneration");
        return add_node(p, (JinjaNode){.kind = JINJA_SCOPE, .line = t.line, .b = body});
    }
    if (is_text(&t, TOKEN_NAME, "break") || is_text(&t, TOKEN_NAME, "continue")) {
        if (!p->loops) fail_syntax(&p->syntax, t.line, "'%.*s' outside loop", (int)t.bytes, t.text);
        return add_unary(p, *t.text == 'b' ? JINJA_BREAK : JINJA_CONTINUE, t.line, 0);
    }
    static const char *const others[] = {"extends", "include", "import",
                                         "from",    "block",   "autoescape"};
    for (int i = 0; i < 6; i++)
        if (is_text(&t, TOKEN_NAME, others[i]))
            fail_syntax(&p->syntax, t.line, "'%s' is not supported", others[i]);
    fail_syntax(&p->syntax, t.line, "Encountered unknown tag '%.*s'.",
                (int)(t.bytes > 60 ? 60 : t.bytes), t.text);
}

// --- templates -----------------------------------------------------------------------------------

static Tables *make_tables(void)
{
    Tables *t = arena_alloc(sizeof *t);
    APPEND(t->nodes, t->node_count, t->node_room, (JinjaNode){0}); // node 0 means none
    buffer_add(&t->text, "", 1);                                   // no text is at 0
    return t;
}

static void add_problem(Tables *t, const char *name, const char *problem)
{
    JinjaTemplate empty = {.name = add_text(t, name, strlen(name)),
                           .source = add_text(t, "", 0),
                           .problem = add_text(t, problem, strlen(problem))};
    APPEND(t->templates, t->template_count, t->template_room, empty);
}

static void add_template(Tables *t, const char *where, const char *name, const char *text,
                         size_t bytes)
{
    if (!utf8_valid(text, bytes)) {
        add_problem(t, name, arena_format("%s: line 1: not valid UTF-8", where));
        return;
    }
    Parser *p = arena_alloc(sizeof *p);
    JinjaTemplate template = {.name = add_text(t, name, strlen(name)),
                              .source = add_text(t, text, bytes)};
    size_t nodes = t->node_count, links = t->link_count;
    p->tables = t;
    p->syntax.where = where;
    if (setjmp(p->syntax.failed) == 0) {
        p->token = lex_template(&p->syntax, text, bytes);
        template.body = parse_until(p, NULL);
    } else {
        t->node_count = nodes; // of what was read there is no use
        t->link_count = links;
        template.problem = add_text(t, p->syntax.problem, strlen(p->syntax.problem));
    }
    APPEND(t->templates, t->template_count, t->template_room, template);
}

// An element of chat_template's list: {"name": ..., "template": ...}.
static void add_named_template(Tables *t, const char *where, const cJSON *entry)
{
    const cJSON *name = json_get(entry, "name"), *text = json_get(entry, "template");
    const char *known = cJSON_IsString(name) ? name->valuestring : "default";
    if (!cJSON_IsString(name) || !cJSON_IsString(text))
        add_problem(t, known,
                    arena_format("%s: chat_template has an entry without name or template", where));
    else
        add_template(t, arena_format("%s: template \"%.60s\"", where, known), known,
                     text->valuestring, strlen(text->valuestring));
}

static void add_config_templates(Tables *t, const char *where, const cJSON *value)
{
    const cJSON *entry;
    if (!value || cJSON_IsNull(value)) return;
    if (cJSON_IsString(value)) {
        add_template(t, where, "default", value->valuestring, strlen(value->valuestring));
    } else if (cJSON_IsArray(value)) {
        cJSON_ArrayForEach(entry, value) add_named_template(t, where, entry);
    } else if (cJSON_IsObject(value)) { // as chat_template.json may have it: name to text
        cJSON_ArrayForEach(entry, value) if (cJSON_IsString(entry))
            add_template(t, where, entry->string, entry->valuestring, strlen(entry->valuestring));
    } else {
        add_problem(
            t, "default",
            arena_format("%s: chat_template is neither a text nor a list of named ones", where));
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// DIR/additional_chat_templates/NAME.jinja, in the order of their names.
static void add_additional_templates(Tables *t, const char *dir)
{
    char *folder = arena_format("%s/additional_chat_templates", dir);
    DIR *d = opendir(folder);
    if (!d) return;
    char **names = NULL;
    size_t count = 0, room = 0;
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n > 6 && strcmp(e->d_name + n - 6, ".jinja") == 0)
            APPEND(names, count, room, arena_copy(e->d_name, n - 6));
    }
    closedir(d);
    if (count) qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        char *path = arena_format("%s/%s.jinja", folder, names[i]);
        Buffer text = read_file(path);
        add_template(t, path, names[i], text.data, text.bytes);
        buffer_free(&text);
    }
}

// The members of tokenizer_config.json that are variables of a template: "bos_token": "<s>" or
// {"content": "<s>", ...}.
static void add_tokens(const cJSON *config, cJSON *tokens)
{
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                       "pad_token", "cls_token", "mask_token"};
    for (int i = 0; i < 7; i++) {
        const cJSON *v = json_get(config, keys[i]);
        if (cJSON_IsObject(v)) v = json_get(v, "content");
        if (cJSON_IsString(v)) cJSON_AddStringToObject(tokens, keys[i], v->valuestring);
    }
}

static JinjaSpan add_section(Buffer *out, size_t base, const void *data, size_t count, size_t size)
{
    while ((out->bytes - base) % 8) buffer_add(out, "", 1);
    JinjaSpan span = {(uint32_t)(out->bytes - base), (uint32_t)count};
    if (count) buffer_add(out, data, count * size);
    return span;
}

static void write_tables(Tables *t, const cJSON *tokens, Buffer *out)
{
    JinjaHeader header = {.magic = JINJA_MAGIC, .version = JINJA_VERSION};
    char *text = cJSON_PrintUnformatted(tokens);
    if (!text) die("memory", "cannot print the special tokens");
    header.tokens = add_text(t, text, strlen(text));
    cJSON_free(text);
    buffer_align(out, 8);
    size_t base = out->bytes;
    buffer_add(out, &header, sizeof header);
    header.templates =
        add_section(out, base, t->templates, t->template_count, sizeof *t->templates);
    header.nodes = add_section(out, base, t->nodes, t->node_count, sizeof *t->nodes);
    header.links = add_section(out, base, t->links, t->link_count, sizeof *t->links);
    header.text = add_section(out, base, t->text.data, t->text.bytes, 1);
    buffer_align(out, 8);
    if (out->bytes - base > UINT32_MAX) die("chat template", "the tables are larger than 4 GiB");
    header.bytes = out->bytes - base;
    memcpy(out->data + base, &header, sizeof header);
    buffer_free(&t->text);
}

void compile_template_text(const char *where, const char *text, size_t bytes, Buffer *out)
{
    Tables *t = make_tables();
    cJSON *tokens = cJSON_CreateObject();
    add_template(t, where, "default", text, bytes);
    write_tables(t, tokens, out);
    cJSON_Delete(tokens);
}

void compile_templates(const char *dir, Buffer *out)
{
    Tables *t = make_tables();
    Buffer text;
    cJSON *tokens = cJSON_CreateObject();
    char *path = arena_format("%s/tokenizer_config.json", dir);
    cJSON *config = read_tokenizer_config(path), *processor = NULL;
    add_tokens(config, tokens);
    char *jinja = arena_format("%s/chat_template.jinja", dir);
    char *legacy = arena_format("%s/chat_template.json", dir);
    if (read_file_if_present(jinja, &text)) {
        add_template(t, jinja, "default", text.data, text.bytes);
        buffer_free(&text);
    } else if ((processor = read_tokenizer_config(legacy))) {
        add_config_templates(t, legacy, json_get(processor, "chat_template"));
    } else {
        add_config_templates(t, path, json_get(config, "chat_template"));
    }
    add_additional_templates(t, dir);
    write_tables(t, tokens, out);
    cJSON_Delete(tokens);
    cJSON_Delete(config);
    cJSON_Delete(processor);
}
