// Saved states of recurrent layers: which slot has the state behind which beginning of whole pages,
// so that a later sequence with that beginning can go on from it. Knows numbers of slots and names
// of beginnings (cache.h); the memory is the device's. The least recently used ones go first.
#pragma once
#include "cache.h"

typedef struct States States;

// Slots first .. first+count-1.
int states_open(States **states, int first, int count, Error *err);
void states_close(States *s);

// Slots that nobody holds; states_take can give so many.
int states_unheld(const States *s);
// A slot for its taker alone, who holds it until states_enter or states_drop. -1 when all are held.
int states_take(States *s);
// It has the state behind `chain` from now on; others may find it, or take it.
void states_enter(States *s, int slot, Chain chain);
void states_drop(States *s, int slot);

// The slot with the state behind `chain`, or -1.
int states_find(const States *s, Chain chain);
// It has been used.
void states_touch(States *s, int slot);
