// What a model needs in memory: weights, the arrays of State for each row, the cache for each
// token.
#include "exlc.h"

int window_layers(const Plan *plan, int *window)
{
    const Facts *f = &plan->graph->facts;
    int count = 0;
    *window = 0;
    if (f->state_layers) return 0; // going back to a state needs no other pages than POOL_ALL's
    for (int l = 0; l < f->layers; l++) {
        count += plan->layers[l].window > 0;
        if (plan->layers[l].window > *window) *window = plan->layers[l].window;
    }
    return count;
}

static uint64_t layer_bytes(const Facts *f, int key_bits, int value_bits)
{
    return (uint64_t)f->kv_heads *
           (CACHE_ROW_BYTES(f->head_dim, key_bits) + CACHE_ROW_BYTES(f->head_dim, value_bits));
}

uint64_t cache_bytes_per_token(const Plan *plan, int key_bits, int value_bits)
{
    const Facts *f = &plan->graph->facts;
    int window, layers = f->cache_layers - window_layers(plan, &window);
    return (uint64_t)layers * layer_bytes(f, key_bits, value_bits);
}

uint64_t window_bytes(const Plan *plan, int tokens, int key_bits, int value_bits)
{
    const Facts *f = &plan->graph->facts;
    int window, layers = window_layers(plan, &window);
    int pages = WINDOW_PAGES(window, 1, DEFAULT_CHUNK), all = (tokens + PAGE - 1) / PAGE;
    return (uint64_t)layers * layer_bytes(f, key_bits, value_bits) *
           (uint64_t)(pages < all ? pages : all) * PAGE;
}

// As kernels/features.h has it.
uint64_t state_bytes(const Facts *f)
{
    uint64_t keys = (uint64_t)f->delta_key_heads * (uint64_t)f->delta_key_dim;
    uint64_t values = (uint64_t)f->delta_heads * (uint64_t)f->delta_value_dim;
    uint64_t matrices = (uint64_t)f->delta_heads * (uint64_t)f->delta_key_dim *
                        (((uint64_t)f->delta_value_dim + 15) / 16 * 16);
    uint64_t tail = f->delta_taps ? (uint64_t)(f->delta_taps - 1) * (2 * keys + values) : 0;
    return 4 * (uint64_t)f->state_layers * (matrices + tail);
}

static uint64_t cache_bytes(const Plan *plan, int tokens)
{
    uint64_t pages = ((uint64_t)tokens + PAGE - 1) / PAGE;
    return pages * PAGE * cache_bytes_per_token(plan, 16, 16) + window_bytes(plan, tokens, 16, 16);
}

static void print_bytes(const char *what, const char *of, uint64_t bytes, FILE *out)
{
    fprintf(out, "%-10s %14llu bytes %10.1f MiB  %s\n", what, (unsigned long long)bytes,
            (double)bytes / (1 << 20), of);
}

// Of State.h, as kernels/features.h has it.
static uint64_t hidden_width(const Facts *f)
{
    int width = f->active * f->expert_dim;
    if (f->ffn_dim > width) width = f->ffn_dim;
    return (uint64_t)(f->shared_dim > width ? f->shared_dim : width);
}

void print_memory(const Plan *plan, FILE *out)
{
    const Facts *f = &plan->graph->facts;
    uint64_t wide = (uint64_t)f->heads * (uint64_t)f->head_dim;
    uint64_t turns = (uint64_t)f->rope_count * (uint64_t)f->rope_dim;
    uint64_t row =
        4 * ((uint64_t)(f->dim + plan->y_dim) + 2 * wide + hidden_width(f) + turns);
    print_bytes("weights", "as packed", pack_weights(plan, NULL)->bytes, out);
    print_bytes("row",
                plan->y_dim ? "x, q, a, h, y and rope of one row of a batch"
                            : "x, q, a, h and rope of one row of a batch",
                row, out);
    print_bytes("output", "logits of one output row", 4 * (uint64_t)f->vocab, out);
    for (int bits = 16; bits >= 4 && (bits == 16 || f->head_dim % CACHE_GROUP == 0); bits /= 2)
        print_bytes("token",
                    arena_format("keys and values of one token in the cache, in %d bits", bits),
                    cache_bytes_per_token(plan, bits, bits), out);
    int window, windows = window_layers(plan, &window);
    if (windows)
        print_bytes("windows",
                    arena_format("of %d tokens in %d layers, at most, in 16 bits", window, windows),
                    window_bytes(plan, f->max_position, 16, 16), out);
    if (f->state_layers)
        print_bytes("state", "of the recurrent layers, of one sequence", state_bytes(f), out);
    const int contexts[] = {2048, 8192, 32768, f->max_position};
    for (int i = 0; i < 4; i++) {
        if (i < 3 && contexts[i] >= f->max_position) continue;
        print_bytes("cache", arena_format("of a context of %d tokens, in 16 bits", contexts[i]),
                    cache_bytes(plan, contexts[i]), out);
    }
}
