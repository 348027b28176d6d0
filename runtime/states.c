// A short list of slots, looked through from end to end.
#include "states.h"
#include <stdlib.h>

typedef struct {
    int held;
    Chain chain;   // 0: nothing to find
    uint64_t used; // when
} Slot;

struct States {
    int first, count;
    uint64_t clock;
    Slot slot[];
};

int states_open(States **out, int first, int count, Error *err)
{
    States *s = *out = calloc(1, sizeof *s + (size_t)count * sizeof *s->slot);
    if (!s) return error_set(err, "out of memory");
    s->first = first;
    s->count = count;
    return 0;
}

void states_close(States *s)
{
    free(s);
}

int states_unheld(const States *s)
{
    int unheld = 0;
    for (int i = 0; i < s->count; i++) unheld += !s->slot[i].held;
    return unheld;
}

int states_take(States *s)
{
    Slot *oldest = NULL;
    for (int i = 0; i < s->count; i++)
        if (!s->slot[i].held && (!oldest || s->slot[i].used < oldest->used)) oldest = &s->slot[i];
    if (!oldest) return -1;
    *oldest = (Slot){.held = 1};
    return s->first + (int)(oldest - s->slot);
}

void states_enter(States *s, int slot, Chain chain)
{
    s->slot[slot - s->first] = (Slot){.chain = chain, .used = ++s->clock};
}

void states_drop(States *s, int slot)
{
    s->slot[slot - s->first] = (Slot){0};
}

int states_find(const States *s, Chain chain)
{
    for (int i = 0; chain && i < s->count; i++)
        if (s->slot[i].chain == chain) return s->first + i;
    return -1;
}

void states_touch(States *s, int slot)
{
    s->slot[slot - s->first].used = ++s->clock;
}
