// States of a grammar's text. A node is a list of callers: places that go on once what they called
// has ended, each with its own node; so all chains of callers are one graph without cycles. A call
// made at one place of the text by several callers has one node for all, which is why all of them
// must be known before the called rule is entered: rules are entered in the order of their ranks.
#include "match.h"
#include <stdlib.h>
#include <string.h>

#define KEPT_BYTES (16 << 20) // cleared away between tokens
#define MOST_BYTES (64 << 20) // the end
#define REST_BYTES (4 << 20)  // kept while nobody uses it
#define MOST_WORK 8000000     // items that may be looked at, and how many more with every grant
#define MORE_WORK 300000
#define MOST_ITEMS 20000 // of one set
#define MOST_CALLS 50000 // of one set, before equal ones are one
#define MOST_CHAIN 16    // of repetitions that are parts of a state

enum {
    BOTTOM, // the node of the root, without callers
    HOLE    // stands for any caller
};

typedef struct {
    int32_t place, node;
} Item;

// A call or repetition to go on with; of a repetition, how many times it has been passed.
typedef struct {
    int32_t place, count, node;
} Caller;

// A caller of a rule that is to be entered, in a chain of them.
typedef struct {
    Caller caller;
    int32_t next; // of calls[], + 1
} Call;

// Part of the set that is being made, while `set` is its number.
typedef struct {
    Item item;
    uint32_t set;
} Seen;

typedef struct {
    int32_t first, count; // of caller[]
    uint32_t hash;
} Node;

typedef struct {
    int32_t first, count; // of item[]
    uint32_t hash;
    int32_t next; // of next[]: by class of bytes
    uint32_t *kept;
    uint8_t accepts, leaves; // the text may end here; HOLE was returned to
} State;

typedef struct {
    int32_t *slot; // number + 1
    uint32_t room, used;
} Table;

typedef struct {
    void *data;
    size_t count, room;
} List;

struct Matcher {
    Program p;
    List nodes, callers, states, items, nexts; // of Node, Caller, State, Item, int32_t
    Table node_table, state_table;
    size_t kept_bytes;
    int64_t work, least; // left; below `least` steps wait, unless that is 0
    int held;            // how many need the numbers of states
    Place *places;
    int32_t start;
    _Atomic int failed; // others ask for it too
    // the set that is being made
    List work_items, set; // of Item
    List seen;            // of Seen: a hash table
    uint32_t set_number, seen_count;
    List calls, callers_of; // of Call; of Caller: those of one rule
    int32_t *waiting;       // (rules) of calls[], + 1
    List waiting_rules;     // of int32_t: those that are to be entered, a heap by their ranks
    int accepts, leaves, entering;
};

#define AT(list, type, i) (((type *)(list).data)[i])
#define NODE(m, i) AT((m)->nodes, Node, i)
#define STATE(m, i) AT((m)->states, State, i)
#define UNKNOWN (-3) // of next[]

static uint32_t hash_bytes(const void *data, size_t words)
{
    const uint32_t *w = data;
    uint32_t h = (uint32_t)words * 0x9e3779b9u;
    for (size_t i = 0; i < words; i++) {
        h = (h ^ w[i]) * 0x85ebca6bu;
        h ^= h >> 15;
    }
    return h;
}

// Room for `more` elements at the end; NULL and m->failed without.
static void *extend(Matcher *m, List *l, size_t more, size_t size)
{
    if (l->count + more >= l->room) {
        size_t room = l->room * 2 < l->count + more ? l->count + more + 64 : l->room * 2;
        void *larger = realloc(l->data, room * size);
        if (!larger) {
            m->failed = 1;
            return NULL;
        }
        l->data = larger;
        l->room = room;
    }
    return (char *)l->data + l->count * size;
}

static size_t bytes_used(const Matcher *m)
{
    return m->nodes.count * sizeof(Node) + m->callers.count * sizeof(Caller) +
           m->states.count * sizeof(State) + m->items.count * sizeof(Item) + m->nexts.count * 4 +
           (m->node_table.room + m->state_table.room) * 4 + m->kept_bytes;
}

// --- nodes and states ----------------------------------------------------------------------------

static int grow_table(Matcher *m, Table *t, const List *elements, size_t size, size_t hash_at)
{
    if (2 * (t->used + 1) < t->room) return 0;
    uint32_t room = t->room ? 2 * t->room : 256;
    int32_t *slot = calloc(room, sizeof *slot);
    if (!slot) {
        m->failed = 1;
        return -1;
    }
    for (uint32_t i = 0; i < t->used; i++) {
        uint32_t hash, at;
        memcpy(&hash, (char *)elements->data + i * size + hash_at, 4);
        for (at = hash & (room - 1); slot[at];) at = (at + 1) & (room - 1);
        slot[at] = (int32_t)i + 1;
    }
    free(t->slot);
    t->slot = slot;
    t->room = room;
    return 0;
}

static int by_caller(const void *a, const void *b)
{
    const Caller *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    if (x->count != y->count) return x->count < y->count ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

// Sorts them; of equal ones one is left. Returns how many are left.
static size_t unite_callers(Caller *callers, size_t count)
{
    size_t n = 0;
    if (count > 1) qsort(callers, count, sizeof *callers, by_caller);
    for (size_t i = 0; i < count; i++)
        if (!n || by_caller(&callers[n - 1], &callers[i]) != 0) callers[n++] = callers[i];
    return n;
}

// The node with these callers, which are put in order for it.
static int32_t find_node(Matcher *m, Caller *callers, size_t count)
{
    count = unite_callers(callers, count);
    uint32_t hash = hash_bytes(callers, count * sizeof *callers / 4);
    Table *t = &m->node_table;
    if (grow_table(m, t, &m->nodes, sizeof(Node), offsetof(Node, hash)) != 0) return BOTTOM;
    uint32_t at = hash & (t->room - 1);
    for (; t->slot[at]; at = (at + 1) & (t->room - 1)) {
        const Node *n = &NODE(m, t->slot[at] - 1);
        if (n->hash == hash && (size_t)n->count == count &&
            memcmp(&AT(m->callers, Caller, n->first), callers, count * sizeof *callers) == 0)
            return t->slot[at] - 1;
    }
    Node *node = extend(m, &m->nodes, 1, sizeof *node);
    Caller *copy = node ? extend(m, &m->callers, count, sizeof *copy) : NULL;
    if (!copy) return BOTTOM;
    if (count) memcpy(copy, callers, count * sizeof *copy);
    *node = (Node){(int32_t)m->callers.count, (int32_t)count, hash};
    m->callers.count += count;
    t->slot[at] = (int32_t)++m->nodes.count;
    t->used++;
    return t->slot[at] - 1;
}

static void add_first_nodes(Matcher *m)
{
    find_node(m, NULL, 0);
    find_node(m, &(Caller){-1, 0, HOLE}, 1); // like no other
}

static int by_item(const void *a, const void *b)
{
    const Item *x = a, *y = b;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

// The state of a set of items, which are sorted for it.
static int32_t find_state(Matcher *m, Item *items, size_t count, int accepts, int leaves)
{
    if (!count && !accepts && !leaves) return MATCH_DEAD;
    if (count > 1) qsort(items, count, sizeof *items, by_item);
    uint32_t hash = hash_bytes(items, count * sizeof *items / 4) ^ (uint32_t)(2 * leaves + accepts);
    Table *t = &m->state_table;
    if (grow_table(m, t, &m->states, sizeof(State), offsetof(State, hash)) != 0)
        return MATCH_FAILED;
    uint32_t at = hash & (t->room - 1);
    for (; t->slot[at]; at = (at + 1) & (t->room - 1)) {
        const State *s = &STATE(m, t->slot[at] - 1);
        if (s->hash == hash && (size_t)s->count == count && s->accepts == accepts &&
            s->leaves == leaves &&
            memcmp(&AT(m->items, Item, s->first), items, count * sizeof *items) == 0)
            return t->slot[at] - 1;
    }
    size_t classes = (size_t)m->p.classes;
    State *state = extend(m, &m->states, 1, sizeof *state);
    Item *copy = state ? extend(m, &m->items, count, sizeof *copy) : NULL;
    int32_t *next = copy ? extend(m, &m->nexts, classes, sizeof *next) : NULL;
    if (!next) return MATCH_FAILED;
    if (count) memcpy(copy, items, count * sizeof *copy);
    for (size_t i = 0; i < classes; i++) next[i] = UNKNOWN;
    *state = (State){(int32_t)m->items.count, (int32_t)count, hash, (int32_t)m->nexts.count, NULL,
                     (uint8_t)accepts,        (uint8_t)leaves};
    m->items.count += count;
    m->nexts.count += classes;
    t->slot[at] = (int32_t)++m->states.count;
    t->used++;
    return t->slot[at] - 1;
}

// --- one step ------------------------------------------------------------------------------------

static int grow_seen(Matcher *m)
{
    Seen *old = m->seen.data, *slot;
    size_t old_room = m->seen.room, room = old_room ? 2 * old_room : 256;
    if (!(slot = calloc(room, sizeof *slot))) {
        m->failed = 1;
        return -1;
    }
    for (size_t i = 0; i < old_room; i++) {
        if (old[i].set != m->set_number) continue;
        size_t at = hash_bytes(&old[i].item, 2) & (room - 1);
        while (slot[at].set == m->set_number) at = (at + 1) & (room - 1);
        slot[at] = old[i];
    }
    free(old);
    m->seen = (List){slot, 0, room};
    return 0;
}

// Whether an item is new in the set that is being made.
static int is_new(Matcher *m, Item item)
{
    if (2 * ((size_t)m->seen_count + 1) > m->seen.room && grow_seen(m) != 0) return 0;
    Seen *slot = m->seen.data;
    size_t mask = m->seen.room - 1, at = hash_bytes(&item, 2) & mask;
    for (; slot[at].set == m->set_number; at = (at + 1) & mask)
        if (slot[at].item.place == item.place && slot[at].item.node == item.node) return 0;
    slot[at] = (Seen){item, m->set_number};
    m->seen_count++;
    return 1;
}

static void add_item(Matcher *m, int32_t place, int32_t node)
{
    Item item = {place, node};
    if (m->failed || m->p.steps[place].endless || !is_new(m, item)) return;
    if (--m->work < 0 || m->seen_count > 4 * MOST_ITEMS) m->failed = 1;
    Item *at = extend(m, &m->work_items, 1, sizeof *at);
    if (!at) return;
    *at = item;
    m->work_items.count++;
}

// The heap of rules that are to be entered: none comes before the one at half its place.
static int comes_before(const Matcher *m, int32_t rule, int32_t other)
{
    return m->p.rank[rule] < m->p.rank[other];
}

static void push_rule(Matcher *m, int32_t rule)
{
    if (!extend(m, &m->waiting_rules, 1, sizeof rule)) return;
    int32_t *heap = m->waiting_rules.data;
    size_t at = m->waiting_rules.count++;
    for (; at && comes_before(m, rule, heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = rule;
}

// The one of the lowest rank; there is one.
static int32_t pop_rule(Matcher *m)
{
    int32_t *heap = m->waiting_rules.data, first = heap[0];
    size_t count = --m->waiting_rules.count, at = 0;
    int32_t last = heap[count];
    for (size_t below; (below = 2 * at + 1) < count; at = below) {
        if (below + 1 < count && comes_before(m, heap[below + 1], heap[below])) below++;
        if (!comes_before(m, heap[below], last)) break;
        heap[at] = heap[below];
    }
    heap[at] = last;
    return first;
}

// A rule is to be entered for this caller.
static void add_call(Matcher *m, int32_t rule, Caller caller)
{
    if (m->p.steps[m->p.entry[rule]].endless) return;
    Call *call = extend(m, &m->calls, 1, sizeof *call);
    if (!call) return;
    if (m->calls.count == MOST_CALLS) m->failed = 1;
    if (!m->waiting[rule]) push_rule(m, rule);
    *call = (Call){caller, m->waiting[rule]};
    m->waiting[rule] = (int32_t)++m->calls.count;
}

// The node of all that have called a rule, which is then entered.
static int32_t node_of_calls(Matcher *m, int32_t rule)
{
    m->callers_of.count = 0;
    for (int32_t i = m->waiting[rule]; i; i = AT(m->calls, Call, i - 1).next) {
        Caller *at = extend(m, &m->callers_of, 1, sizeof *at);
        if (!at) return BOTTOM;
        *at = AT(m->calls, Call, i - 1).caller;
        m->callers_of.count++;
    }
    m->work -= 4 * (int64_t)m->callers_of.count; // to put them in order
    m->waiting[rule] = 0;
    return find_node(m, m->callers_of.data, m->callers_of.count);
}

// A repetition that has been passed `count` times.
static void repeat(Matcher *m, int32_t place, int32_t count, int32_t node)
{
    const Step *s = &m->p.steps[place];
    if (s->max == GRAMMAR_MANY && count > s->min) count = s->min; // all the same from here on
    if (count >= s->min) add_item(m, s->next, node);
    if (count < s->max) add_call(m, s->other, (Caller){place, count, node});
}

// What called the rule that has ended goes on.
static void end_rule(Matcher *m, int32_t node)
{
    // A rule that ends where it was entered has been passed over already.
    if (m->entering) return;
    if (node == BOTTOM) m->accepts = 1;
    if (node == HOLE) m->leaves = 1;
    for (int32_t i = 0; node != HOLE && i < NODE(m, node).count && !m->failed; i++) {
        Caller c = AT(m->callers, Caller, NODE(m, node).first + i);
        const Step *s = &m->p.steps[c.place];
        m->work--;
        if (s->kind == STEP_REPEAT)
            repeat(m, c.place, c.count + 1, c.node);
        else
            add_item(m, s->next, c.node);
    }
}

static void follow(Matcher *m, Item item)
{
    const Step *s = &m->p.steps[item.place];
    switch ((StepKind)s->kind) {
    case STEP_BYTE: {
        Item *at = extend(m, &m->set, 1, sizeof *at);
        if (at) *at = item, m->set.count++;
        if (m->set.count > MOST_ITEMS) m->failed = 1;
        break;
    }
    case STEP_SPLIT:
        add_item(m, s->other, item.node);
        add_item(m, s->next, item.node);
        break;
    case STEP_CALL:
        if (s->skips) add_item(m, s->next, item.node);
        if (s->tail)
            add_item(m, m->p.entry[s->other], item.node);
        else
            add_call(m, s->other, (Caller){item.place, 0, item.node});
        break;
    case STEP_REPEAT:
        repeat(m, item.place, 0, item.node);
        break;
    case STEP_END:
        end_rule(m, item.node);
        break;
    }
}

static void follow_all(Matcher *m)
{
    while (m->work_items.count && !m->failed)
        follow(m, AT(m->work_items, Item, --m->work_items.count));
}

// Enters the waiting rules, the lowest rank first: nobody calls it any more.
static void enter_rules(Matcher *m)
{
    m->entering = 1;
    while (m->waiting_rules.count && !m->failed) {
        int32_t rule = pop_rule(m);
        add_item(m, m->p.entry[rule], node_of_calls(m, rule));
        follow_all(m);
    }
    m->entering = 0;
}

static void begin_set(Matcher *m)
{
    if (!++m->set_number) { // numbers begin anew
        if (m->seen.data) memset(m->seen.data, 0, m->seen.room * sizeof(Seen));
        m->set_number = 1;
    }
    for (size_t i = 0; i < m->waiting_rules.count; i++)
        m->waiting[AT(m->waiting_rules, int32_t, i)] = 0;
    m->work_items.count = m->set.count = m->calls.count = m->waiting_rules.count = 0;
    m->seen_count = 0;
    m->accepts = m->leaves = 0;
}

static int32_t end_set(Matcher *m)
{
    follow_all(m);
    enter_rules(m);
    m->work -= 2 * (int64_t)m->set.count;
    if (m->work < 0 || bytes_used(m) > MOST_BYTES) m->failed = 1;
    if (m->failed) return MATCH_FAILED;
    int32_t state = find_state(m, m->set.data, m->set.count, m->accepts, m->leaves);
    return m->failed ? MATCH_FAILED : state;
}

static int32_t find_next(Matcher *m, int32_t state, uint8_t byte)
{
    begin_set(m);
    for (int32_t i = 0; i < STATE(m, state).count; i++) {
        Item item = AT(m->items, Item, STATE(m, state).first + i);
        const Step *s = &m->p.steps[item.place];
        if (byte >= s->low && byte <= s->high) add_item(m, s->next, item.node);
    }
    m->work -= STATE(m, state).count;
    return end_set(m);
}

int32_t matcher_step(Matcher *m, int32_t state, uint8_t byte)
{
    int32_t at = STATE(m, state).next + m->p.class_of[byte];
    int32_t next = AT(m->nexts, int32_t, at);
    if (next != UNKNOWN) return next;
    if (!m->failed && m->least && m->work < m->least) return MATCH_LATER;
    next = m->failed ? MATCH_FAILED : find_next(m, state, byte);
    if (next != MATCH_FAILED) AT(m->nexts, int32_t, at) = next;
    return next;
}

static int32_t start_state(Matcher *m)
{
    if (m->start >= 0 || m->failed) return m->failed ? MATCH_FAILED : m->start;
    begin_set(m);
    add_item(m, m->p.entry[m->p.root], BOTTOM);
    return m->start = end_set(m);
}

// --- parts ---------------------------------------------------------------------------------------

// The node itself, or of repetitions the one that they return to.
static int32_t caller_of(const Matcher *m, int32_t node)
{
    for (int i = 0; i < MOST_CHAIN && node > HOLE && NODE(m, node).count == 1; i++) {
        const Caller *c = &AT(m->callers, Caller, NODE(m, node).first);
        if (m->p.steps[c->place].kind != STEP_REPEAT) break;
        node = c->node;
    }
    return node;
}

// The smallest count of a repetition from which `reach` bytes lead to the same.
static int32_t least_count(const Step *s, int32_t count, int32_t reach)
{
    if (count < s->min) return s->min - count > reach ? 0 : count;
    return s->max - count > reach ? s->min : count;
}

// The repetitions from a node on to `caller`, above the hole.
static int32_t above_hole(Matcher *m, int32_t node, int32_t caller, int32_t reach)
{
    if (node == caller) return HOLE;
    Caller c = AT(m->callers, Caller, NODE(m, node).first);
    c.count = least_count(&m->p.steps[c.place], c.count, reach);
    c.node = above_hole(m, c.node, caller, reach);
    return find_node(m, &c, 1);
}

// The state of what has `caller` in common.
static int32_t local_state(Matcher *m, int32_t state, int32_t caller, int32_t reach)
{
    m->set.count = 0;
    for (int32_t i = 0; i < STATE(m, state).count; i++) {
        Item item = AT(m->items, Item, STATE(m, state).first + i);
        if (caller_of(m, item.node) != caller) continue;
        item.node = above_hole(m, item.node, caller, reach);
        Item *at = extend(m, &m->set, 1, sizeof *at);
        if (!at) return MATCH_FAILED;
        *at = item;
        m->set.count++;
    }
    return find_state(m, m->set.data, m->set.count, 0, 0);
}

static int32_t state_behind(Matcher *m, int32_t node)
{
    begin_set(m);
    end_rule(m, node);
    return end_set(m);
}

int matcher_pieces(Matcher *m, int32_t state, int32_t reach, Piece *pieces)
{
    int32_t callers[MATCH_PIECES];
    int count = 0;
    for (int32_t i = 0; i < STATE(m, state).count; i++) {
        int32_t caller = caller_of(m, AT(m->items, Item, STATE(m, state).first + i).node);
        int k = 0;
        while (k < count && callers[k] != caller) k++;
        if (k == MATCH_PIECES) return 0;
        callers[k] = caller;
        if (k == count) count++;
    }
    for (int k = 0; k < count; k++) {
        pieces[k].local = local_state(m, state, callers[k], reach);
        pieces[k].caller = state_behind(m, callers[k]);
        if (m->failed) return 0;
    }
    return count;
}

int match_leaves(const Matcher *m, int32_t local)
{
    return STATE(m, local).leaves;
}

// --- keeping and clearing away -------------------------------------------------------------------

const uint32_t *matcher_kept(const Matcher *m, int32_t state)
{
    return STATE(m, state).kept;
}

const uint32_t *matcher_keep(Matcher *m, int32_t state, const uint32_t *words, size_t count)
{
    uint32_t *copy = malloc(count * sizeof *copy);
    if (!copy) return NULL;
    memcpy(copy, words, count * sizeof *copy);
    free(STATE(m, state).kept);
    STATE(m, state).kept = copy;
    m->kept_bytes += count * sizeof *copy;
    return copy;
}

static void drop_kept(Matcher *m)
{
    for (size_t i = 0; i < m->states.count; i++) free(STATE(m, i).kept);
    m->kept_bytes = 0;
}

static void free_lists(List *const *lists)
{
    for (; *lists; lists++) {
        free((*lists)->data);
        **lists = (List){0};
    }
}

// What is only used while a set is made.
static void drop_workspace(Matcher *m)
{
    free_lists((List *const[]){&m->work_items, &m->set, &m->seen, &m->calls, &m->callers_of,
                               &m->waiting_rules, NULL});
}

static void forget(Matcher *m)
{
    drop_kept(m);
    free_lists((List *const[]){&m->nodes, &m->callers, &m->states, &m->items, &m->nexts, NULL});
    free(m->node_table.slot);
    free(m->state_table.slot);
    m->node_table = m->state_table = (Table){0};
    m->start = -1;
}

// Marks the nodes that the places need; callers have lower numbers than who they called.
static void mark_nodes(const Matcher *m, int32_t *number)
{
    for (const Place *p = m->places; p; p = p->next)
        for (int32_t i = 0; i < STATE(m, p->state).count; i++)
            number[AT(m->items, Item, STATE(m, p->state).first + i).node] = 1;
    for (size_t i = m->nodes.count; i-- > HOLE + 1;)
        for (int32_t k = 0; number[i] && k < NODE(m, i).count; k++)
            number[AT(m->callers, Caller, NODE(m, i).first + k).node] = 1;
}

static int32_t copy_node(Matcher *m, const Matcher *old, size_t i, const int32_t *number)
{
    size_t count = (size_t)NODE(old, i).count;
    Caller *callers = malloc((count + 1) * sizeof *callers);
    if (!callers) {
        m->failed = 1;
        return BOTTOM;
    }
    for (size_t k = 0; k < count; k++) {
        callers[k] = AT(old->callers, Caller, (size_t)NODE(old, i).first + k);
        callers[k].node = number[callers[k].node];
    }
    int32_t node = find_node(m, callers, count);
    free(callers);
    return node;
}

static int32_t copy_state(Matcher *m, const Matcher *old, int32_t state, const int32_t *number)
{
    const State *s = &STATE(old, state);
    Item *items = malloc(((size_t)s->count + 1) * sizeof *items);
    if (!items) return MATCH_FAILED;
    for (int32_t i = 0; i < s->count; i++) {
        items[i] = AT(old->items, Item, s->first + i);
        items[i].node = number[items[i].node];
    }
    int32_t copy = find_state(m, items, (size_t)s->count, s->accepts, s->leaves);
    free(items);
    return copy;
}

// Everything goes but the states of the places.
static void clear_away(Matcher *m)
{
    Matcher old = *m;
    int32_t *number = calloc(m->nodes.count + 1, sizeof *number);
    if (!number) {
        m->failed = 1;
        return;
    }
    mark_nodes(&old, number);
    number[BOTTOM] = BOTTOM;
    number[HOLE] = HOLE;
    m->nodes = m->callers = m->states = m->items = m->nexts = (List){0};
    m->node_table = m->state_table = (Table){0};
    m->kept_bytes = 0;
    m->start = -1;
    add_first_nodes(m);
    for (size_t i = HOLE + 1; i < old.nodes.count; i++)
        if (number[i]) number[i] = copy_node(m, &old, i, number);
    for (Place *p = m->places; p; p = p->next) {
        p->state = copy_state(m, &old, p->state, number);
        if (p->state < 0) m->failed = 1;
    }
    free(number);
    forget(&old);
}

void matcher_grant(Matcher *m)
{
    m->work = m->work + MORE_WORK < MOST_WORK ? m->work + MORE_WORK : MOST_WORK;
}

int64_t matcher_limit(Matcher *m, int64_t work)
{
    m->least = work < m->work ? m->work - work : 0;
    return m->work;
}

void matcher_hold(Matcher *m, int more)
{
    m->held += more;
}

void matcher_begin(Matcher *m)
{
    if (m->held) return;
    if (bytes_used(m) > KEPT_BYTES && !m->failed) clear_away(m);
}

// Of a program that has been compiled.
static int start_matcher(Matcher *m, Error *err)
{
    m->start = -1;
    m->work = MOST_WORK;
    m->waiting = calloc((size_t)m->p.rules, sizeof *m->waiting);
    if (!m->waiting) return error_set(err, "out of memory");
    add_first_nodes(m);
    if (start_state(m) >= 0) return 0;
    return error_set(err, m->start == MATCH_DEAD ? "it allows no text"
                                                 : "too much may stand at one place");
}

Matcher *matcher_open(Grammar *g, int rule, Error *err)
{
    Matcher *m = calloc(1, sizeof *m);
    int status = m ? grammar_compile(g, rule, &m->p, err) : error_set(err, "out of memory");
    grammar_close(g);
    if (status != 0) {
        free(m);
        return NULL;
    }
    if (start_matcher(m, err) == 0) return m;
    matcher_close(m);
    return NULL;
}

void matcher_close(Matcher *m)
{
    if (!m) return;
    forget(m);
    drop_workspace(m);
    free(m->waiting);
    program_close(&m->p);
    free(m);
}

void matcher_rest(Matcher *m)
{
    if (m->places) return;
    if (bytes_used(m) > REST_BYTES) clear_away(m);
    begin_set(m); // which forgets what waited
    drop_workspace(m);
}

int matcher_failed(const Matcher *m)
{
    return m->failed;
}

// --- places --------------------------------------------------------------------------------------

void place_enter(Matcher *m, Place *place)
{
    matcher_begin(m);
    *place = (Place){.state = start_state(m), .next = m->places, .link = &m->places};
    if (place->next) place->next->link = &place->next;
    m->places = place;
}

void place_leave(Place *place)
{
    if (!place->link) return;
    *place->link = place->next;
    if (place->next) place->next->link = place->link;
    *place = (Place){0};
}

int place_entered(const Place *place)
{
    return place->link != NULL;
}

int place_read(Matcher *m, Place *place, const char *bytes, size_t count)
{
    matcher_begin(m);
    int32_t state = place->state;
    for (size_t i = 0; i < count && state >= 0; i++)
        state = matcher_step(m, state, (uint8_t)bytes[i]);
    if (state < 0) return state;
    place->state = state;
    return 0;
}

int match_accepts(const Matcher *m, int32_t state)
{
    return STATE(m, state).accepts;
}

int match_ends(const Matcher *m, int32_t state)
{
    return STATE(m, state).accepts && STATE(m, state).count == 0;
}
