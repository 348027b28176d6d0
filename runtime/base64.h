// Bytes as text (RFC 4648).
#pragma once
#include <stddef.h>

// The caller's, to be freed; NULL: out of memory.
char *base64_text(const void *data, size_t bytes);
