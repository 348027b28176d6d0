// Building and compiling grammars. Expressions are nodes in one array, lists of them are chained.
#include "grammar.h"
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define MOST_NODES 1000000 // and bytes of text, ranges, rules
#define MOST_STEPS 500000
#define MOST_NESTING 500
#define MOST_OPEN 4000 // rules that begin with one another
#define MOST_LEAF 48   // nodes of a rule that is laid where it is called

typedef enum { TEXT, CLASS, CALL, REPEAT, SEQUENCE, CHOICE } NodeKind;
typedef struct {
    NodeKind kind;
    int32_t first, last, next; // children of a list, the child of a repetition; the next in a list
    int32_t at, count;         // TEXT: bytes; CLASS: ranges; CALL: rule; REPEAT: min and max
} Node;

typedef struct {
    char *name; // or NULL
    Expr body;  // or -1
} Rule;

struct Grammar {
    Node *node;
    char *text;
    Range *range;
    Rule *rule;
    int32_t *slot; // rule + 1 by the hash of its name
    size_t node_count, node_room, text_count, text_room, range_count, range_room, rule_count,
        rule_room, slot_room, slot_used;
    int failed;
    Error error;
};

Grammar *grammar_open(void)
{
    return calloc(1, sizeof(Grammar));
}

void grammar_close(Grammar *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->rule_count; i++) free(g->rule[i].name);
    free(g->node);
    free(g->text);
    free(g->range);
    free(g->rule);
    free(g->slot);
    free(g);
}

int grammar_fail(Grammar *g, const char *fmt, ...)
{
    va_list args;
    if (g->failed) return -1;
    g->failed = 1;
    va_start(args, fmt);
    vsnprintf(g->error.text, sizeof g->error.text, fmt, args);
    va_end(args);
    return -1;
}

int grammar_error(const Grammar *g, Error *err)
{
    if (g->failed) *err = g->error;
    return g->failed ? -1 : 0;
}

// Room for `more` elements behind *count; NULL after a failure.
static void *grow(Grammar *g, void *list, size_t *room, size_t count, size_t more, size_t size)
{
    void **at = list;
    if (count + more > MOST_NODES) {
        grammar_fail(g, "it is too large");
        return NULL;
    }
    if (count + more > *room) {
        size_t wanted = 2 * (count + more) + 64;
        void *larger = realloc(*at, wanted * size);
        if (!larger) {
            grammar_fail(g, "out of memory");
            return NULL;
        }
        *at = larger;
        *room = wanted;
    }
    return *at;
}

// --- rules ---------------------------------------------------------------------------------------

static int32_t *find_slot(const Grammar *g, const char *name, size_t bytes)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < bytes; i++) h = (h ^ (unsigned char)name[i]) * 16777619u;
    for (size_t i = h;; i++) {
        int32_t *slot = &g->slot[i & (g->slot_room - 1)];
        if (!*slot) return slot;
        const char *other = g->rule[*slot - 1].name;
        if (strlen(other) == bytes && memcmp(other, name, bytes) == 0) return slot;
    }
}

static int grow_slots(Grammar *g)
{
    if (2 * g->slot_used < g->slot_room) return 0;
    size_t room = g->slot_room ? 2 * g->slot_room : 64;
    int32_t *slots = calloc(room, sizeof *slots);
    if (!slots) return grammar_fail(g, "out of memory");
    free(g->slot);
    g->slot = slots;
    g->slot_room = room;
    for (size_t i = 0; i < g->rule_count; i++)
        if (g->rule[i].name)
            *find_slot(g, g->rule[i].name, strlen(g->rule[i].name)) = (int32_t)i + 1;
    return 0;
}

int grammar_fresh(Grammar *g)
{
    if (!grow(g, &g->rule, &g->rule_room, g->rule_count, 1, sizeof *g->rule)) return -1;
    g->rule[g->rule_count] = (Rule){NULL, -1};
    return (int)g->rule_count++;
}

int grammar_rule(Grammar *g, const char *name, size_t bytes)
{
    if (grow_slots(g) != 0) return -1;
    int32_t *slot = find_slot(g, name, bytes);
    if (*slot) return *slot - 1;
    int rule = grammar_fresh(g);
    char *copy = rule < 0 ? NULL : strndup(name, bytes);
    if (!copy) return grammar_fail(g, "out of memory");
    g->rule[rule].name = copy;
    *slot = rule + 1;
    g->slot_used++;
    return rule;
}

int grammar_defined(const Grammar *g, int rule)
{
    return rule >= 0 && g->rule[rule].body >= 0;
}

void grammar_define(Grammar *g, int rule, Expr e)
{
    if (rule >= 0) g->rule[rule].body = e;
}

// --- expressions ---------------------------------------------------------------------------------

static Expr add_node(Grammar *g, Node node)
{
    if (!grow(g, &g->node, &g->node_room, g->node_count, 1, sizeof *g->node)) return -1;
    node.next = -1;
    g->node[g->node_count] = node;
    return (Expr)g->node_count++;
}

static Expr add_text(Grammar *g, int token, const char *text, size_t bytes)
{
    if (bytes > MOST_NODES) return grammar_fail(g, "it is too large");
    if (!grow(g, &g->text, &g->text_room, g->text_count, bytes + 1, 1)) return -1;
    int32_t at = (int32_t)g->text_count;
    if (token) g->text[g->text_count++] = (char)GRAMMAR_TOKEN;
    if (bytes) memcpy(g->text + g->text_count, text, bytes);
    g->text_count += bytes;
    return add_node(g, (Node){.kind = TEXT, .at = at, .count = (int32_t)g->text_count - at});
}

Expr grammar_text(Grammar *g, const char *text, size_t bytes)
{
    return add_text(g, 0, text, bytes);
}

Expr grammar_word(Grammar *g, const char *text)
{
    return add_text(g, 0, text, strlen(text));
}

Expr grammar_token(Grammar *g, const char *text, size_t bytes)
{
    return add_text(g, 1, text, bytes);
}

static int by_low(const void *a, const void *b)
{
    const Range *x = a, *y = b;
    return x->low < y->low ? -1 : x->low > y->low;
}

int range_unite(Range *r, int count)
{
    int n = 0;
    if (count) qsort(r, (size_t)count, sizeof *r, by_low);
    for (int i = 0; i < count; i++) {
        if (n && r[i].low <= r[n - 1].high + 1) {
            if (r[i].high > r[n - 1].high) r[n - 1].high = r[i].high;
        } else {
            r[n++] = r[i];
        }
    }
    return n;
}

int range_complement(const Range *r, int count, Range *out)
{
    int n = 0;
    uint32_t next = 0;
    for (int i = 0; i < count; i++) {
        if (r[i].low > next) out[n++] = (Range){next, r[i].low - 1};
        next = r[i].high + 1;
    }
    if (next <= 0x10ffff) out[n++] = (Range){next, 0x10ffff};
    return n;
}

Expr grammar_class(Grammar *g, const Range *ranges, int count, int negated)
{
    size_t room = 2 * (size_t)count + 1;
    if (count < 0 || !grow(g, &g->range, &g->range_room, g->range_count, room, sizeof *ranges))
        return -1;
    Range *at = g->range + g->range_count, *sorted = negated ? at + count + 1 : at;
    if (count) memcpy(sorted, ranges, (size_t)count * sizeof *ranges);
    count = range_unite(sorted, count);
    if (negated) count = range_complement(sorted, count, at);
    int32_t first = (int32_t)g->range_count;
    g->range_count += (size_t)count;
    if (!count) return grammar_fail(g, "a class has no characters");
    return add_node(g, (Node){.kind = CLASS, .at = first, .count = count});
}

Expr grammar_call(Grammar *g, int rule)
{
    return rule < 0 ? -1 : add_node(g, (Node){.kind = CALL, .at = rule});
}

Expr grammar_repeat(Grammar *g, Expr e, int32_t min, int32_t max)
{
    if (e < 0) return -1;
    return add_node(g, (Node){.kind = REPEAT, .first = e, .at = min, .count = max});
}

Expr grammar_sequence(Grammar *g)
{
    return add_node(g, (Node){.kind = SEQUENCE, .first = -1, .last = -1});
}

Expr grammar_choice(Grammar *g)
{
    return add_node(g, (Node){.kind = CHOICE, .first = -1, .last = -1});
}

void grammar_add(Grammar *g, Expr list, Expr e)
{
    if (list < 0 || e < 0) return;
    Node *l = &g->node[list];
    if (l->first < 0)
        l->first = e;
    else
        g->node[l->last].next = e;
    l->last = e;
}

static Expr add_all(Grammar *g, Expr list, int count, va_list parts)
{
    for (int i = 0; i < count; i++) grammar_add(g, list, va_arg(parts, Expr));
    return list;
}

Expr grammar_join(Grammar *g, int count, ...)
{
    va_list parts;
    va_start(parts, count);
    Expr list = add_all(g, grammar_sequence(g), count, parts);
    va_end(parts);
    return list;
}

Expr grammar_either(Grammar *g, int count, ...)
{
    va_list parts;
    va_start(parts, count);
    Expr list = add_all(g, grammar_choice(g), count, parts);
    va_end(parts);
    return list;
}

// --- compiling -----------------------------------------------------------------------------------

// Code is laid from behind: every part knows the place that follows it.
typedef struct {
    Grammar *g;
    Program *p;
    size_t step_room, source_room;
    int32_t *number; // (rules of g) of the program + 1
    int32_t *source; // (rules of p) expressions
    int depth;
} Compiler;

static int32_t lay(Compiler *c, Step step)
{
    Program *p = c->p;
    if (p->step_count >= MOST_STEPS)
        return grammar_fail(c->g, "it has more than %d steps", MOST_STEPS);
    if (!grow(c->g, &p->steps, &c->step_room, (size_t)p->step_count, 1, sizeof step)) return -1;
    p->steps[p->step_count] = step;
    return p->step_count++;
}

static int32_t lay_byte(Compiler *c, uint32_t low, uint32_t high, int32_t next)
{
    return next < 0 ? -1
                    : lay(c, (Step){.kind = STEP_BYTE,
                                    .low = (uint8_t)low,
                                    .high = (uint8_t)high,
                                    .next = next});
}

// Either of two places; -1 for the first is none.
static int32_t lay_split(Compiler *c, int32_t other, int32_t place)
{
    if (place < 0 || other < 0) return place;
    return lay(c, (Step){.kind = STEP_SPLIT, .next = place, .other = other});
}

static int32_t lay_text(Compiler *c, const Node *n, int32_t next)
{
    for (int32_t i = n->count - 1; i >= 0; i--) {
        uint8_t byte = (uint8_t)c->g->text[n->at + i];
        next = lay_byte(c, byte, byte, next);
    }
    return next;
}

// Any number of continuation bytes, shared by the ranges of a class.
typedef struct {
    int32_t next, any[3];
} Tails;

static int32_t any_tail(Compiler *c, Tails *t, int bytes)
{
    if (bytes == 0) return t->next;
    if (t->any[bytes - 1] < 0)
        t->any[bytes - 1] = lay_byte(c, 0x80, 0xbf, any_tail(c, t, bytes - 1));
    return t->any[bytes - 1];
}

// Either `all` or the characters low .. high, of `tail` continuation bytes behind one of six bits
// or less with `lead` above them.
static int32_t lay_span(Compiler *c, Tails *t, uint32_t low, uint32_t high, int tail, uint32_t lead,
                        int32_t all)
{
    int shift = 6 * tail;
    uint32_t rest = (1u << shift) - 1, first = low >> shift, last = high >> shift;
    if (tail == 0) return lay_split(c, all, lay_byte(c, lead | low, lead | high, t->next));
    if (first == last && ((low & rest) != 0 || (high & rest) != rest)) {
        int32_t next = lay_span(c, t, low & rest, high & rest, tail - 1, 0x80, -1);
        return lay_split(c, all, lay_byte(c, lead | first, lead | first, next));
    }
    if (low & rest) {
        all = lay_span(c, t, low, low | rest, tail, lead, all);
        first++;
    }
    if ((high & rest) != rest) {
        all = lay_span(c, t, high & ~rest, high, tail, lead, all);
        last--;
    }
    if (first > last) return all;
    return lay_split(c, all, lay_byte(c, lead | first, lead | last, any_tail(c, t, tail)));
}

static int32_t lay_class(Compiler *c, const Node *n, int32_t next)
{
    // Characters of equal length, surrogates left out, and the marks of their first bytes.
    static const struct {
        uint32_t low, high, lead;
        int tail;
    } lengths[] = {{0, 0x7f, 0, 0},
                   {0x80, 0x7ff, 0xc0, 1},
                   {0x800, 0xd7ff, 0xe0, 2},
                   {0xe000, 0xffff, 0xe0, 2},
                   {0x10000, 0x10ffff, 0xf0, 3}};
    Tails tails = {next, {-1, -1, -1}};
    int32_t all = -1;
    for (int32_t i = 0; i < n->count; i++) {
        Range r = c->g->range[n->at + i];
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            uint32_t low = r.low > lengths[k].low ? r.low : lengths[k].low;
            uint32_t high = r.high < lengths[k].high ? r.high : lengths[k].high;
            if (low <= high)
                all = lay_span(c, &tails, low, high, lengths[k].tail, lengths[k].lead, all);
        }
    }
    return all < 0 ? grammar_fail(c->g, "a class has no characters") : all;
}

// The program's number of a rule that calls `e`.
static int32_t add_rule(Compiler *c, Expr e)
{
    Program *p = c->p;
    if (!grow(c->g, &c->source, &c->source_room, (size_t)p->rules, 1, sizeof e)) return -1;
    c->source[p->rules] = e;
    return p->rules++;
}

static int32_t rule_number(Compiler *c, int rule)
{
    if (!grammar_defined(c->g, rule))
        return grammar_fail(c->g, "the rule %s is not there",
                            c->g->rule[rule].name ? c->g->rule[rule].name : "?");
    if (!c->number[rule]) c->number[rule] = add_rule(c, c->g->rule[rule].body) + 1;
    return c->number[rule] - 1;
}

static int32_t lay_expr(Compiler *c, Expr e, int32_t next);

static int32_t lay_repeat(Compiler *c, const Node *n, int32_t next)
{
    int32_t min = n->at, max = n->count;
    if (max == 0) return next;
    if (min == 1 && max == 1) return lay_expr(c, n->first, next);
    if (min == 0 && max == 1) return lay_split(c, next, lay_expr(c, n->first, next));
    if (min <= 1 && max == GRAMMAR_MANY) {
        int32_t loop = lay(c, (Step){.kind = STEP_SPLIT, .other = next});
        int32_t body = loop < 0 ? -1 : lay_expr(c, n->first, loop);
        if (body < 0) return -1;
        c->p->steps[loop].next = body;
        return min ? body : loop;
    }
    int32_t rule = add_rule(c, n->first);
    return rule < 0
               ? -1
               : lay(c,
                     (Step){
                         .kind = STEP_REPEAT, .next = next, .other = rule, .min = min, .max = max});
}

// From the last part to the first, so the list is turned round on the way down.
static int32_t lay_sequence(Compiler *c, Expr first, int32_t next)
{
    Node *node = c->g->node;
    int32_t count = 0, place = next;
    for (Expr e = first; e >= 0; e = node[e].next) count++;
    Expr *parts = malloc(((size_t)count + 1) * sizeof *parts);
    if (!parts) return grammar_fail(c->g, "out of memory");
    count = 0;
    for (Expr e = first; e >= 0; e = node[e].next) parts[count++] = e;
    while (count > 0 && place >= 0) place = lay_expr(c, parts[--count], place);
    free(parts);
    return place;
}

static int32_t lay_choice(Compiler *c, Expr first, int32_t next)
{
    int32_t all = -1;
    for (Expr e = first; e >= 0; e = c->g->node[e].next) {
        int32_t place = lay_expr(c, e, next);
        if (place < 0) return -1;
        all = lay_split(c, all, place);
    }
    return all < 0 ? grammar_fail(c->g, "a choice of nothing") : all;
}

// The nodes of an expression that calls nothing, long texts and classes counted as several; more
// than `most` for others.
static int leaf_size(const Grammar *g, Expr e, int most)
{
    const Node *n = &g->node[e];
    int size = n->kind == CALL ? most + 1 : n->kind <= CLASS ? 1 + n->count / 4 : 1;
    for (Expr part = n->kind > CALL ? n->first : -1; part >= 0 && size <= most;
         part = g->node[part].next)
        size += leaf_size(g, part, most - size);
    return size;
}

// Rules that are small and call nothing are laid where they are called: a state then says more by
// itself.
static int32_t lay_call(Compiler *c, int rule, int32_t next)
{
    if (grammar_defined(c->g, rule) &&
        leaf_size(c->g, c->g->rule[rule].body, MOST_LEAF) <= MOST_LEAF)
        return lay_expr(c, c->g->rule[rule].body, next);
    int32_t number = rule_number(c, rule);
    return number < 0 ? -1 : lay(c, (Step){.kind = STEP_CALL, .next = next, .other = number});
}

static int32_t lay_expr(Compiler *c, Expr e, int32_t next)
{
    if (next < 0) return -1;
    if (c->depth > MOST_NESTING) return grammar_fail(c->g, "it is nested too deeply");
    const Node *n = &c->g->node[e];
    int32_t place = -1;
    c->depth++;
    if (n->kind == TEXT) place = lay_text(c, n, next);
    if (n->kind == CLASS) place = lay_class(c, n, next);
    if (n->kind == REPEAT) place = lay_repeat(c, n, next);
    if (n->kind == SEQUENCE) place = lay_sequence(c, n->first, next);
    if (n->kind == CHOICE) place = lay_choice(c, n->first, next);
    if (n->kind == CALL) place = lay_call(c, n->at, next);
    c->depth--;
    return place;
}

static int lay_rules(Compiler *c, int root)
{
    Program *p = c->p;
    size_t room = 0;
    p->root = rule_number(c, root);
    for (int32_t i = 0; i < p->rules; i++) { // laying one finds more
        if (!grow(c->g, &p->entry, &room, (size_t)i, 1, sizeof *p->entry)) return -1;
        int32_t end = lay(c, (Step){.kind = STEP_END});
        p->entry[i] = end < 0 ? -1 : lay_expr(c, c->source[i], end);
        if (p->entry[i] < 0) return -1;
    }
    return p->root < 0 ? -1 : 0;
}

// --- what is called first ------------------------------------------------------------------------

enum { UNSEEN, OPEN, SOLID, EMPTY }; // a rule: EMPTY may take no byte at all

typedef struct {
    Grammar *g;
    Program *p;
    uint8_t *state; // (rules)
    int32_t *seen;  // (steps) the rule that looked at it last, + 1
    int32_t *place; // working stack, shared by the rules that are open
    size_t count, room;
    int32_t finished;
    int depth;
} Looker;

static int look_at(Looker *k, int32_t rule, int32_t place)
{
    if (k->seen[place] == rule + 1) return 0;
    k->seen[place] = rule + 1;
    if (!grow(k->g, &k->place, &k->room, k->count, 1, sizeof place)) return -1;
    k->place[k->count++] = place;
    return 0;
}

static int look(Looker *k, int32_t rule);

// A call where nothing has been taken yet.
static int look_at_call(Looker *k, int32_t rule, Step *s)
{
    if (k->state[s->other] == OPEN)
        return grammar_fail(k->g, "a rule begins with itself (left recursion)");
    if (k->state[s->other] == UNSEEN && look(k, s->other) != 0) return -1;
    s->skips = k->state[s->other] == EMPTY || (s->kind == STEP_REPEAT && s->min == 0);
    return s->skips ? look_at(k, rule, s->next) : 0;
}

// Which rules a rule may call before it takes a byte, and whether it need take one.
static int look(Looker *k, int32_t rule)
{
    if (k->depth++ > MOST_OPEN) return grammar_fail(k->g, "its rules are nested too deeply");
    size_t base = k->count;
    int empty = 0;
    k->state[rule] = OPEN;
    if (look_at(k, rule, k->p->entry[rule]) != 0) return -1;
    while (k->count > base) {
        Step *s = &k->p->steps[k->place[--k->count]];
        int status = 0;
        if (s->kind == STEP_END) empty = 1;
        if (s->kind == STEP_SPLIT) status = look_at(k, rule, s->other) | look_at(k, rule, s->next);
        if (s->kind == STEP_CALL || s->kind == STEP_REPEAT) status = look_at_call(k, rule, s);
        if (status != 0) return -1;
    }
    k->state[rule] = empty ? EMPTY : SOLID;
    k->p->rank[rule] = k->p->rules - ++k->finished;
    k->depth--;
    return 0;
}

static int rank_rules(Grammar *g, Program *p)
{
    Looker k = {.g = g, .p = p};
    p->rank = calloc((size_t)p->rules, sizeof *p->rank);
    k.state = calloc((size_t)p->rules, 1);
    k.seen = calloc((size_t)p->step_count, sizeof *k.seen);
    int status = p->rank && k.state && k.seen ? 0 : grammar_fail(g, "out of memory");
    for (int32_t i = 0; status == 0 && i < p->rules; i++)
        if (k.state[i] == UNSEEN) status = look(&k, i);
    for (int32_t i = 0; status == 0 && i < p->step_count; i++) {
        Step *s = &p->steps[i];
        if (s->kind != STEP_CALL && s->kind != STEP_REPEAT) continue;
        s->skips = k.state[s->other] == EMPTY || (s->kind == STEP_REPEAT && s->min == 0);
        s->tail = s->kind == STEP_CALL && p->steps[s->next].kind == STEP_END;
        if (s->kind == STEP_REPEAT && k.state[s->other] == EMPTY) s->min = 0;
    }
    free(k.state);
    free(k.seen);
    free(k.place);
    return status;
}

// --- what ends -----------------------------------------------------------------------------------

// From every place to those that go on there, so that what can end is found from the ends.
typedef struct {
    int32_t *before; // (steps) of from[], + 1
    struct {
        int32_t place, next;
    } * from; // (3 a step)
    int32_t count;
    int32_t *found; // (steps) that end, in the order in which that is known
    int32_t founds;
    uint8_t *needs; // (steps) how many others must end for it to
} Ends;

static void add_need(Ends *e, int32_t place, int32_t other)
{
    e->from[e->count].place = place;
    e->from[e->count].next = e->before[other];
    e->before[other] = ++e->count;
}

static void add_needs(Ends *e, const Program *p, int32_t i)
{
    const Step *s = &p->steps[i];
    int calls = s->kind == STEP_CALL || (s->kind == STEP_REPEAT && s->min > 0);
    e->needs[i] = (uint8_t)(1 + calls);
    if (s->kind == STEP_END) {
        e->needs[i] = 0;
        e->found[e->founds++] = i;
        return;
    }
    add_need(e, i, s->next);
    if (s->kind == STEP_SPLIT) add_need(e, i, s->other);
    if (calls) add_need(e, i, p->entry[s->other]);
}

// Marks the places from which no text comes to an end: they are never gone to.
static int mark_endless(Grammar *g, Program *p)
{
    size_t steps = (size_t)p->step_count;
    Ends e = {.before = calloc(steps, sizeof *e.before),
              .from = malloc(3 * steps * sizeof *e.from),
              .found = malloc(steps * sizeof *e.found),
              .needs = malloc(steps)};
    int status = e.before && e.from && e.found && e.needs ? 0 : grammar_fail(g, "out of memory");
    for (int32_t i = 0; status == 0 && i < p->step_count; i++) {
        p->steps[i].endless = 1;
        add_needs(&e, p, i);
    }
    for (int32_t i = 0; status == 0 && i < e.founds; i++) {
        p->steps[e.found[i]].endless = 0;
        for (int32_t k = e.before[e.found[i]]; k; k = e.from[k - 1].next) {
            int32_t place = e.from[k - 1].place;
            if (e.needs[place] && --e.needs[place] == 0) e.found[e.founds++] = place;
        }
    }
    free(e.before);
    free(e.from);
    free(e.found);
    free(e.needs);
    return status;
}

static void class_bytes(Program *p)
{
    uint8_t border[257] = {1};
    for (int32_t i = 0; i < p->step_count; i++)
        if (p->steps[i].kind == STEP_BYTE)
            border[p->steps[i].low] = border[p->steps[i].high + 1] = 1;
    p->classes = 0;
    for (int i = 0; i < 256; i++) {
        p->classes += border[i];
        p->class_of[i] = (uint8_t)(p->classes - 1);
    }
}

int grammar_compile(Grammar *g, int root, Program *p, Error *err)
{
    Compiler c = {.g = g, .p = p};
    *p = (Program){0};
    if (!g->failed && root >= 0) {
        c.number = calloc(g->rule_count, sizeof *c.number);
        if (!c.number)
            grammar_fail(g, "out of memory");
        else if (lay_rules(&c, root) == 0 && rank_rules(g, p) == 0 && mark_endless(g, p) == 0)
            class_bytes(p);
    }
    free(c.number);
    free(c.source);
    if (grammar_error(g, err) == 0) return 0;
    program_close(p);
    return -1;
}

void program_close(Program *p)
{
    free(p->steps);
    free(p->entry);
    free(p->rank);
    *p = (Program){0};
}
