// The methods of Python's strings, dicts and lists, and what filters share with them.
#pragma once
#include "value.h"

// The method `name` of a value; 0 when there is none.
int find_method(Render *r, Value v, const char *name, size_t bytes, Value *method);
// Sorts arguments by parameter: `names` with spaces between, the first `required` of them needed,
// out[i] MISSING for those not given.
void bind_arguments(Render *r, const Arguments *a, const char *function, const char *names,
                    int required, Value *out);
int64_t argument_int(Render *r, const char *function, Value v);
Value format_percent(Render *r, Value format, Value values);
// Methods that filters share.
Value string_case(Render *r, Value s, char how); // 'u'pper, 'l'ower, 'c'apitalize, 't'itle, 's'wap
Value string_strip(Render *r, Value s, Value chars, int left, int right);
Value string_replace(Render *r, Value s, Value old, Value new, int64_t count);
Value string_lines(Render *r, Value s, int keep);
// To a width in characters; align is '<', '>', '^' as format() has it, or 'c' as str.center.
Value string_pad(Render *r, Value s, int64_t width, int32_t fill, char align);
int string_is(Value s, const char *what); // "lower", "upper", "digit", ...
