// Sizes of the pools, from the model's table of layers.
#include "pools.h"

int pool_layers(const ModelInfo *m, int pool, int *window)
{
    *window = 0;
    if (pool == POOL_ALL) return m->cache_layers - m->window_layers;
    for (int l = 0; m->window_layers && l < m->layers; l++)
        if (m->layer_table[l].window > *window) *window = m->layer_table[l].window;
    return m->window_layers;
}

int first_window_page(int window, int computed)
{
    int seen = computed - REWIND_TOKENS - window + 1; // first token, by the next one
    return seen > 0 ? seen / PAGE : 0;
}

uint64_t cache_token_bytes(const ModelInfo *m, int pool, int key_bits, int value_bits)
{
    int window;
    return (uint64_t)pool_layers(m, pool, &window) * (uint64_t)m->kv_heads *
           (CACHE_ROW_BYTES(m->head_dim, key_bits) + CACHE_ROW_BYTES(m->head_dim, value_bits));
}

uint64_t page_bytes(const ModelInfo *m, int pool, int key_bits, int value_bits)
{
    return PAGE * cache_token_bytes(m, pool, key_bits, value_bits);
}
