// Which tokens a grammar allows next: a tree of the vocabulary's bytes, walked together with the
// states of a matcher. What a state allows by itself, whoever called the rules that are open, is
// found once and kept; then only tokens that go on behind the end of those rules are walked.
#pragma once
#include "match.h"
#include "tokens.h"

typedef struct Vocabulary Vocabulary;

// Ids below `count`. Special tokens stand behind GRAMMAR_TOKEN; those without text are never
// allowed.
int vocabulary_open(Vocabulary **v, const Tokens *t, int count, Error *err);
void vocabulary_close(Vocabulary *v);

// A mask in the making. All zeros: none.
typedef struct {
    // private
    Matcher *matcher; // NULL: none
    const Vocabulary *vocabulary;
    int32_t state;
    uint32_t *mask, *local; // local: of the state that is walked by itself, while it is
    int32_t *states;        // (deepest + 1): along the way to the branch at hand
    uint32_t at, end;       // branches that are still to be walked
    Piece pieces[MATCH_PIECES];
    int piece_count, piece, prefixed;
    uint32_t exit;                          // of the piece at hand, that comes next
    uint32_t *exits, exit_count, exit_room; // branches where the local state leaves
} MaskWork;

// Begins to set the bits (BIT_WORDS(count)) of the tokens that may come next, and to clear the
// others. With a prefix, of tokens that begin with it, and it counts as read. -1: the grammar is
// beyond its bounds. The place stays where it is until the mask is made or dropped.
int mask_begin(MaskWork *w, Matcher *m, const Vocabulary *v, const Place *place, const char *prefix,
               size_t prefix_bytes, uint32_t *mask);
// Goes on with it: 0 when it is made, 1 when the budget was used up before, -1. The budget is of
// some 10 ns each, what is left of it comes back.
int mask_go_on(MaskWork *w, int64_t *budget);
void mask_drop(MaskWork *w);
// A whole mask at once.
int mask_fill(Matcher *m, const Vocabulary *v, const Place *place, const char *prefix,
              size_t prefix_bytes, uint32_t *mask);
// Reads a token, without its first `skip` bytes: as place_read.
int mask_read(Matcher *m, Place *place, const Tokens *t, int32_t id, size_t skip);
