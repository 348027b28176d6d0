// Grammars as llama.cpp writes them (GBNF).
#pragma once
#include "grammar.h"

// Adds the rules of a text, which need not be UTF-8; returns the one called root, or -1 and the
// grammar's failure, which names the line.
int gbnf_read(Grammar *g, const char *text, size_t bytes);
