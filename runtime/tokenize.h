// The tokenize command, of the emitted program and of exlc itself.
#pragma once
#include "error.h"
#include <stddef.h>

// Reads standard input to its end and prints token ids, separated by spaces and ended by a newline;
// with `decode`, reads ids (separated by spaces or commas) and prints their text, nothing added.
// no_special: no tokens around a text; special tokens left out of a decoded one.
int tokenize_input(const void *tables, size_t bytes, int decode, int no_special, Error *err);
