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

// Sets the bits (BIT_WORDS(count)) of the tokens that may come next, and clears the others. With a
// prefix, of tokens that begin with it, and it counts as read. -1: the grammar is beyond its
// bounds.
int mask_fill(Matcher *m, const Vocabulary *v, const Place *place, const char *prefix,
              size_t prefix_bytes, uint32_t *mask);
// Reads a token, without its first `skip` bytes: as place_read.
int mask_read(Matcher *m, Place *place, const Tokens *t, int32_t id, size_t skip);
