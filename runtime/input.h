// Standard input as a whole.
#pragma once
#include "error.h"
#include <stddef.h>

// All of it, ended by a zero; NULL when it cannot be read or held. The caller frees it.
char *read_input(size_t *bytes, Error *err);
