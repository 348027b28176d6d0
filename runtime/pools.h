// How the cache is divided between layers that see all tokens and layers with a window.
#pragma once
#include "program.h"

// Layers whose keys and values are in a pool; *window is the most that one of them sees.
int pool_layers(const ModelInfo *m, int pool, int *window);
// What a token takes in the layers of a pool.
uint64_t cache_token_bytes(const ModelInfo *m, int pool, int key_bits, int value_bits);
uint64_t page_bytes(const ModelInfo *m, int pool, int key_bits, int value_bits);
// The pages of POOL_WINDOW that a sequence with `computed` tokens needs no more: those before the
// result. One that takes back the last REWIND_TOKENS needs them still.
int first_window_page(int window, int computed);
