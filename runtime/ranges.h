// Decimal numbers between bounds, as grammars.
#pragma once
#include "grammar.h"

typedef struct {
    int set, open; // open: the bound itself is not in
    double value;
} Bound;

// JSON numbers without exponents, or whole ones. Up to 15 digits stand before the point, unless the
// lower bound needs more, and up to 16 behind it. Negative when there are none, or a bound has more
// digits than that.
Expr ranges_whole(Grammar *g, Bound low, Bound high);
Expr ranges_real(Grammar *g, Bound low, Bound high);
