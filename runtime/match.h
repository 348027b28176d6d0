// Runs a compiled grammar over bytes. What has been read is a state: a set of places, each with the
// chain of callers that it returns to. Equal chains are one node and equal sets are one state, so
// that a state is known by its number, and transitions between states are found once and kept. A
// nondeterministic grammar costs what its sets cost; chains of equal ends are shared.
//
// One thread at a time uses a Matcher. Memory is bounded: what is kept for speed goes when there is
// too much of it, and a grammar whose sets grow beyond bounds fails.
#pragma once
#include "grammar.h"

typedef struct Matcher Matcher;

// Where one text is. Kept up to date while it is entered, however states are moved about.
typedef struct Place {
    int32_t state;
    // private
    struct Place *next, **link;
} Place;

// No text goes on so; beyond bounds; more work than there may be now.
enum { MATCH_DEAD = -1, MATCH_FAILED = -2, MATCH_LATER = -4 };

// For the texts of a rule, which it compiles; closes the grammar. NULL after a failure.
Matcher *matcher_open(Grammar *g, int rule, Error *err);
void matcher_close(Matcher *m);
// Nobody uses it for now: gives back memory beyond a few MiB.
void matcher_rest(Matcher *m);
int matcher_failed(const Matcher *m); // it went beyond its bounds, and will not go on

// At the beginning of a text, until it is left.
void place_enter(Matcher *m, Place *place);
void place_leave(Place *place);
int place_entered(const Place *place);
// Reads bytes: 0, MATCH_DEAD or MATCH_FAILED, and then the place is where it was.
int place_read(Matcher *m, Place *place, const char *bytes, size_t count);

// Clears away what is too much; then states have other numbers. Reading does it too. Not while
// somebody holds states: by 1 more, or by -1.
void matcher_begin(Matcher *m);
void matcher_hold(Matcher *m, int more);
// Allows some more work: with every mask that is asked for.
void matcher_grant(Matcher *m);

int match_accepts(const Matcher *m, int32_t state); // the text may end here
int match_ends(const Matcher *m, int32_t state);    // and must

// For masks: states of the matcher, which stay what they are until the next place is read or
// entered. The state behind a byte, MATCH_DEAD, MATCH_FAILED when work or memory is used up, or
// MATCH_LATER.
int32_t matcher_step(Matcher *m, int32_t state, uint8_t byte);
// How much work steps may take from now on before they answer MATCH_LATER; INT64_MAX: any. Returns
// how much there is in all.
int64_t matcher_limit(Matcher *m, int64_t work);

// What a state allows by itself does not depend on who called the rules that are open. A piece is
// what has one caller in common: the same without it, and the state once it has ended.
typedef struct {
    int32_t local, caller; // states; caller may be MATCH_DEAD
} Piece;
enum { MATCH_PIECES = 8 };
// Fills pieces and returns how many; 0: too many, or beyond bounds. Texts of up to `reach` bytes
// are told apart, no longer ones.
int matcher_pieces(Matcher *m, int32_t state, int32_t reach, Piece *pieces);
int match_leaves(const Matcher *m, int32_t local); // its caller may go on here

// Words that go with a state, at its own address, until states are cleared away; NULL: none yet.
const uint32_t *matcher_kept(const Matcher *m, int32_t state);
const uint32_t *matcher_keep(Matcher *m, int32_t state, const uint32_t *words, size_t count);
