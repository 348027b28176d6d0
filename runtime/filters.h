// The filters and tests of Jinja by the numbers that jinja.h gives them.
#pragma once
#include "value.h"

Value apply_filter(Render *r, int filter, Value v, const Arguments *a);
int apply_test(Render *r, int test, Value v, const Arguments *a);
