// Decimal numbers between bounds, as grammars.
#pragma once
#include "grammar.h"

typedef struct {
    int set, open; // open: the bound itself is not in
    double value;
} Bound;

// JSON numbers without exponents, or whole ones. Up to 15 digits stand before the point, unless the
// bounds ask for more, and a dozen or two behind it. Whoever reads them as doubles finds them
// within the bounds too. Negative when there are none, or a bound is 2^53 or beyond.
Expr ranges_whole(Grammar *g, Bound low, Bound high);
Expr ranges_real(Grammar *g, Bound low, Bound high);
