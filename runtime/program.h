// The contract between the runtime and one generated program. The generated model.c defines
// `model_info`; the runtime sees the model through it alone.
#pragma once
#include "../kernels/sampling.h"
#include <stddef.h>
#include <stdint.h>

// One of the threads that together run a forward pass on the CPU. All of them execute the whole
// pass; a step divides its units by (index, count) and ends in worker_barrier.
typedef struct Worker {
    int index, count;
    void *local;                  // this thread's working memory, cpu_local_bytes, 64-byte aligned
    struct Barrier *barrier;
} Worker;
void worker_barrier(Worker *w);

// The pass on one instruction set. The runtime takes the first that the processor supports.
typedef struct {
    const char *name; // "avx512", "avx2", "generic"
    void (*forward)(Worker *w, State *s, const Batch *b);
    size_t local_bytes;                                  // of Worker.local
    size_t (*work_bytes)(int max_rows, int max_outputs); // of State.work
    int decode_rows; // up to so many rows are computed in one form; more in another, rounded differently
} CpuTarget;

// Device code for one compute capability; sm 0 is PTX.
typedef struct {
    int sm;
    const char *image, *end;
} GpuImage;

typedef struct Gpu Gpu; // runtime/gpu.h

// A weight tensor as `inspect` and `info` list it.
typedef struct {
    const char *name;
    int32_t format; // kernels/types.h
    int32_t in, out;
} TensorInfo;

// How the states of a text behind the final norm become one vector.
typedef enum {
    EMBEDDING_NONE, // the model is not made for that
    EMBEDDING_LAST, // that of the last token
    EMBEDDING_FIRST,
    EMBEDDING_MEAN,
} EmbeddingKind;

typedef struct {
    const char *name;         // of the model: the directory's base name
    const char *architecture; // Hugging Face architecture string
    const char *exlc_version;
    const char *build_id; // 32 hex digits over the packed weights' description
    int layers, dim, heads, kv_heads, head_dim, ffn_dim, vocab, rope_dim;
    int ropes;           // tables of angles
    int y_dim;           // values of a row of State.y; 0: it is not needed
    int wide_head_norms; // 1: q_norm and k_norm hold a value for every channel of all heads
    int q_latent, kv_latent, nope_dim, value_dim;        // 0: no latent attention
    int cache_layers;     // with keys and values
    uint64_t state_bytes; // what recurrent layers keep of a sequence; 0: there are none
    int delta_key_heads, delta_heads, delta_key_dim, delta_value_dim, delta_taps; // 0: no delta net
    int gated_attention;  // 1: the product of q also gives gates
    int experts, active_experts, expert_dim, shared_dim; // 0 experts: no routed layer
    int max_context, max_batch; // the build's upper limits
    int reach; // tokens that the model was made for, where max_context is more; else 0
    int window_layers;          // those in POOL_WINDOW
    EmbeddingKind embedding;
    int embedding_normal; // 1: vectors have length 1
    uint32_t cache_bits;        // bit b: keys and values can be stored in b bits
    uint64_t parameters;
    double bits; // per weight, over the decoder's linear layers
    uint64_t weights_bytes;
    const char *weights_hash; // XXH3-128, 32 hex digits; empty for random weights
    uint64_t random_seed;     // non-zero: weights are made at start
    const Layer *layer_table;
    Ends ends;
    const TensorInfo *tensors;
    int tensor_count;
    const void *tokenizer; // blob of runtime/tokens.h, or NULL
    size_t tokenizer_bytes;
    const void *templates; // blob of runtime/template.h
    size_t templates_bytes;
    const int32_t *eos;        // every id that ends a text
    int eos_count;
    int bos;                                // -1: none
    double temperature, top_p, min_p;       // defaults of generation_config.json; temperature 0 is greedy
    int top_k;                              // 0: off
    const CpuTarget *const *cpu; // best first, ends with NULL; NULL when not built for the CPU
    const char *driver_min;      // NVIDIA driver version, or NULL
    const GpuImage *images;      // ends with a NULL image; NULL when not built for CUDA
    // Launches the pass on the GPU's stream, `together`: a decode pass as one kernel where that is
    // possible; the batch's arrays and the state are device memory.
    void (*forward_gpu)(Gpu *gpu, const State *s, const Batch *b, int together);
    // Draws a token for every output row from the logits; device memory too.
    void (*sample_gpu)(Gpu *gpu, const State *s, const Batch *b, const Sampling *sampling,
                       int32_t *tokens);
    int (*gpu_decode_rows)(const Gpu *gpu); // as CpuTarget.decode_rows
    size_t (*gpu_work_bytes)(int max_rows, int max_outputs); // of State.work
} ModelInfo;

extern const ModelInfo model_info;

// Makes the bytes of a file at build time the array `symbol`, which ends at symbol_end.
#define EMBED_FILE(symbol, path)                                                                   \
    __asm__(".section .rodata\n.balign 64\n.globl " #symbol "\n" #symbol ":\n.incbin \"" path    \
            "\"\n.globl " #symbol "_end\n" #symbol "_end:\n.byte 0\n.previous\n");                \
    extern const char symbol[], symbol##_end[]
