// Alternatives of which only one may hold. Part of merging schemas.
#pragma once
#include "merge.h"

// oneOf as a schema with anyOf: its alternatives, narrowed where they could hold together. NULL and
// an error where that cannot be told. `depth` is as in merge_flat_at.
const json_t *apart_alternatives(Merger *m, const json_t *list, int depth);
