// The template command, of the emitted program and of exlc itself.
#pragma once
#include "error.h"
#include <stddef.h>

// Reads a JSON object {"messages": ..., "tools": ..., "add_generation_prompt": ...} from standard
// input and prints the text of the template called `name` (NULL: the one for such a request),
// nothing added.
int render_input(const void *tables, size_t bytes, const char *name, Error *err);
