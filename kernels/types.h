// What host and device share: weight formats, the tables a forward pass reads, the rows it works on.
// Plain C that also compiles as CUDA C++ under NVRTC, so no header is included on the device.
#pragma once

#ifdef __CUDACC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
typedef long int64_t;
#else
#include <stdint.h>
#endif

// A weight format is codebook << 8 | bits. Names as they appear in generated code: m4 is the MUL1
// codebook at 4 bits, c3 MCG at 3, t2 3INST at 2; f16 and b16 are unquantized fp16 and bf16.
enum {
    CODEBOOK_3INST, CODEBOOK_MCG, CODEBOOK_MUL1, CODEBOOK_F16, CODEBOOK_BF16
};
enum {
    t1 = CODEBOOK_3INST << 8 | 1, t2, t3, t4, t5, t6, t7, t8,
    c1 = CODEBOOK_MCG << 8 | 1, c2, c3, c4, c5, c6, c7, c8,
    m1 = CODEBOOK_MUL1 << 8 | 1, m2, m3, m4, m5, m6, m7, m8,
    f16 = CODEBOOK_F16 << 8 | 16, b16 = CODEBOOK_BF16 << 8 | 16
};
#define FORMAT_BITS(format) ((format) & 255)
#define FORMAT_CODEBOOK(format) ((format) >> 8)
#define FORMAT_IS_EXL3(format) (FORMAT_CODEBOOK(format) <= CODEBOOK_MUL1)

// Rows and columns of a weight are stored padded to whole Hadamard blocks.
#define BLOCK 128
#define PADDED(n) (((n) + BLOCK - 1) / BLOCK * BLOCK)

// The packed layout of a linear layer (drawn in docs/formats.md). W is (PADDED(in), PADDED(out)).
//   column block J of 128 columns, one after the other
//     k-step s of 64 rows
//       half h of 64 columns: one PASS of PASS_BYTES(bits)
//         vector v = 0 .. bits-1, lane = 4g + c = 0 .. 31: 16 bytes, words 4v .. 4v+3 of the lane
// A lane holds 4 * bits words: word t * bits + i is word i of run g of the 16 x 16 tile with rows
// 64s + 16c .. and columns 128J + 64h + 16t .. . A run is the 32 weights p = 32g .. 32g+31 of a
// tile in trellis order. For 1..8 bits, word 0 is the run's newest (last) stream word and word
// bits-1 its oldest; the 16 - bits older bits that its first windows need are in word 0 of run
// (g - 1) mod 8, that is of lane - 4 mod 32. For 16 bits word i is weight p = 32g + 2i in its low
// half and 32g + 2i + 1 in its high half.
// Weight p = 8l + j of a tile: column l / 4 + 8 * (j >= 4), row 2 * (l % 4) + {0, 1, 8, 9}[j % 4].
#define PASS_ROWS 64
#define PASS_COLUMNS 64
#define PASS_BYTES(bits) (512 * (bits))
#define COLUMN_BLOCK_BYTES(bits, in) ((uint64_t)(PADDED(in) / PASS_ROWS) * 2 * PASS_BYTES(bits))

// Places in the weights are byte offsets from State.weights, aligned to 256; 0 means absent.
typedef struct {
    uint64_t weights;
    uint64_t suh;  // fp16 (PADDED(in)): input scales; absent when unquantized
    uint64_t svh;  // fp16 (PADDED(out)): output scales; absent when unquantized
    uint64_t bias; // f32 (PADDED(out)) or absent
} Linear;

typedef struct {
    uint64_t attn_norm; // f32 (DIM) or absent, as every norm here
    Linear q, k, v;
    uint64_t q_norm, k_norm; // f32 (HEAD_DIM), or of all heads: HEAD_NORMS of features.h
    uint64_t sinks;          // f32 (HEADS) or absent
    Linear o;
    uint64_t attn_post; // of what attention gives
    uint64_t ffn_norm;
    Linear gate, up, down;
    uint64_t ffn_post;
    // Latent attention, instead of q, k and v; q_b is q's alone where there is no q_a.
    Linear q_a, q_b, kv_a;
    uint64_t q_a_norm;  // f32 (Q_LATENT) or absent
    uint64_t kv_a_norm; // f32 (KV_LATENT) or absent
    uint64_t kv_b;      // KV_B_FORMAT (HEADS, NOPE_DIM + VALUE_DIM, KV_LATENT) or absent
    // A gated delta net, instead of attention.
    Linear delta_in, delta_z;  // q, k, v and z; or all of them grouped, and none
    uint64_t delta_b, delta_a; // f32 (DELTA_HEADS, DIM); or one (2 * DELTA_HEADS, DIM), grouped
    uint64_t a_log, dt_bias;   // f32 (DELTA_HEADS)
    uint64_t conv;             // f32 (DELTA_TAPS, CONV_DIM), the newest token's last
    uint64_t delta_norm;       // f32 (DELTA_VALUE_DIM)
    int32_t kept;              // number among the layers of its pool, or those with a state
    int32_t window; // keys a query sees, itself included; 0 means all
    int32_t rope;   // the table that turns q and k; -1: they are not turned
    int32_t kv_heads, ffn_dim;
    int32_t parts;  // attention and feed-forwards of the layers before it, where some lack one
    int32_t before; // the last layer before it that has one of them, or -1
    float act[2]; // of an activation with parameters
    // A routed layer: gate, up and down are those of expert 0.
    uint64_t router;        // f32 (EXPERTS, DIM) or absent
    uint64_t router_bias;   // f32 (EXPERTS) or absent: on scores
    uint64_t choice_bias;   // f32 (EXPERTS) or absent: on scores while experts are chosen
    uint64_t expert_stride; // bytes from one expert to the next
    Linear shared_gate, shared_up, shared_down;
    uint64_t shared_weight; // f32 (DIM) or absent
} Layer;

// The tables outside the layers.
typedef struct {
    uint64_t embed; // EMBED_FORMAT (VOCAB, DIM)
    uint64_t norm;  // f32 (DIM): the final norm
    Linear head;
} Ends;

// The cache: two pools of pages of PAGE tokens, one for layers that see all, one for those with a
// window, of whose pages a sequence keeps only those it still sees (cache.h draws a page). Keys are
// stored after norm and rope. A key or value of one head takes CACHE_ROW_BYTES; in less than 16
// bits, groups of CACHE_GROUP channels have a scale in fp16. Layers with a recurrent state keep
// that instead, one a sequence; it is empty before position 0.
enum { POOL_ALL, POOL_WINDOW, POOLS };
#define PAGE 256
// Pages of POOL_WINDOW: what every sequence sees, as much again for texts that may come back, and a
// pass of `rows` rows. The last REWIND_TOKENS can be taken back.
#define REWIND_TOKENS 64
#define WINDOW_PAGES(window, sequences, rows)                                                      \
    (2 * ((window + REWIND_TOKENS) / PAGE + 2) * (sequences) + (rows) / PAGE + 1)
#define CACHE_GROUP 32
#define CACHE_ROW_BYTES(head_dim, bits)                                                            \
    ((uint64_t)((bits) == 16 ? 2 * (head_dim) : (head_dim) / CACHE_GROUP * (4 * (bits) + 2)))

// Rows of one sequence that follow each other in the batch and in position.
typedef struct {
    int32_t row, rows, sequence, position; // position of the first row
} Segment;

// One forward pass works on `rows` rows; a row is one token of one sequence at one position.
typedef struct {
    int32_t rows, segments, outputs;
    int32_t pages_per_sequence;  // width of the page tables
    const int32_t *token;        // (rows)
    const int32_t *position;     // (rows)
    const int32_t *sequence;     // (rows): row of page_table
    const int32_t *output;       // (outputs): rows whose logits are wanted, ascending
    const Segment *segment;      // (segments), in row order, covering all rows
    const int32_t *page_table[POOLS]; // (sequences, pages_per_sequence): physical pages
} Batch;

// What a block of threads did in a step of the decode form: which step, nanoseconds of its begin, of
// the inputs being there, of their being prepared, of its end.
#define TRACE_WORDS 5
enum {
    STEP_EMBED, STEP_QKV, STEP_HEADS, STEP_ATTEND, STEP_OUT, STEP_OUT_POST, STEP_UP, STEP_UP_ALONE,
    STEP_DOWN, STEP_DOWN_POST, STEP_JOIN, STEP_HEAD, STEP_LOGITS,
    STEP_LATENT_QUERIES, STEP_LATENT_HEADS, STEP_LATENT_VALUES, // of latent attention
    STEP_ROUTE, STEP_EXPERTS_UP, STEP_EXPERTS_DOWN, STEP_COMBINE, // of a routed layer
    STEP_SHARED_DOWN, // a part of STEP_EXPERTS_UP
    STEP_DELTA_IN, STEP_DELTA, STEP_DELTA_OUT, // of a gated delta net
    STEP_KINDS
};

// What a step reads and writes besides its batch. One on the CPU, one per GPU.
typedef struct {
    const uint8_t *weights;
    const Layer *layers;
    Ends ends;
    uint8_t *cache[POOLS]; // pages of page_bytes
    uint64_t page_bytes[POOLS];
    int32_t key_bits, value_bits; // 16, or 2 .. 8
    float *x;            // (rows, DIM) residual stream
    float *q;            // (rows, HEADS * HEAD_DIM) queries after norm and rope
    float *a;            // (rows, HEADS * HEAD_DIM) attention output
    float *h;            // (rows, H_DIM) activated feed-forward
    float *y;            // what some steps keep of a row between their parts, or NULL
    float *states;       // (slots, STATE_LAYERS, LAYER_STATE), sequences' slots first, or NULL
    float *rope;         // (rows, ROPES, ROPE_DIM / 2, 2) cosine and sine, factor applied
    float *logits;       // (outputs, VOCAB)
    float *hidden;       // (LAYERS + 1, rows, DIM) copies of x for inspection, or NULL
    void *work;          // per-target working memory, see catalog.h
    uint64_t *trace;     // (steps, blocks, TRACE_WORDS) of a decode pass in one launch, or NULL
    uint64_t places[24]; // of what lies in work, on a GPU
    int32_t max_rows, max_outputs;
} State;
