// How much memory the steps need beside the state. Plain constants: the same for every instruction
// set, and usable where no step is compiled.
#pragma once
#include "../features.h"
#include "../types.h"

#define ROUND_ROWS 8        // rows that a product multiplies at once straight from packed weights
#define FEW_ROWS 24         // up to this many rows that is the faster way
#define MANY_ROWS 256       // beyond, rows are taken in blocks of at most this many
#define TILE_ROWS 128       // and products in tiles of this many rows and 128 columns
#define PRIVATE_VALUES 4096 // inputs that every worker prepares for itself rather than share
#define QUERIES 64          // query vectors that attention handles together
#define KEYS 64             // keys likewise; divides PAGE

#define LARGER(a, b) ((a) > (b) ? (a) : (b))
#define SMALLER(a, b) ((a) < (b) ? (a) : (b))
#define HEAD_DIM_PADDED ((HEAD_DIM + 15) / 16 * 16)
#define WIDEST_INPUT                                                                               \
    LARGER(LARGER(PADDED(DIM), PADDED(DELTA_VALUES)),                                              \
           LARGER(PADDED(HEADS *HEAD_DIM), PADDED(FFN_DIM)))

// Worker.local: prepared inputs of three products, or tiles of two, or the buffers of attention.
#define ATTEND_FLOATS                                                                              \
    (2 * QUERIES * HEAD_DIM_PADDED + 2 * KEYS * HEAD_DIM_PADDED + KEYS * QUERIES + 4 * QUERIES)
#define TILES_FLOATS (2 * TILE_ROWS * BLOCK + PASS_ROWS * PASS_COLUMNS)
#define CPU_LOCAL_BYTES LARGER(3 * 16 * PRIVATE_VALUES, 4 * LARGER(ATTEND_FLOATS, TILES_FLOATS))

// State.work: prepared inputs of three products from DIM or of one from the widest, then keys and
// values of the rows at hand, then sums of a step's products before they are finished.
#define WORK_ROWS(rows) SMALLER(LARGER((rows), FEW_ROWS), MANY_ROWS)
#define INPUT_BYTES(rows)                                                                          \
    LARGER(16 * FEW_ROWS * (size_t)LARGER(3 * PADDED(DIM), WIDEST_INPUT),                          \
           4 * WORK_ROWS(rows) * (size_t)LARGER(3 * PADDED(DIM), WIDEST_INPUT))
#define KV_BYTES(rows) (4 * WORK_ROWS(rows) * (size_t)(2 * KV_HEADS * HEAD_DIM))
#define DELTA_WIDTH (DELTA_HEADS ? LARGER(PADDED(DELTA_IN), PADDED(DELTA_VALUES)) : 0)
#define GATED_WIDTH (GATED_ATTENTION ? PADDED(2 * HEADS * HEAD_DIM) : 0)
#define LATENT_WIDTH (KV_LATENT ? PADDED(HEADS * (NOPE_DIM + ROPE_DIM)) + PADDED(Q_LATENT) : 0)
#define SUMS_BYTES                                                                                 \
    (4 * FEW_ROWS *                                                                                \
     (size_t)LARGER(                                                                               \
         LARGER(LATENT_WIDTH, PADDED(HEADS * HEAD_DIM) + 2 * PADDED(KV_HEADS * HEAD_DIM)),         \
         LARGER(LARGER(DELTA_WIDTH, GATED_WIDTH), LARGER(2 * PADDED(FFN_DIM), PADDED(DIM)))))
// A routed layer uses the same memory otherwise: scores and routes of the rows, the rows of each
// expert, prepared inputs of gate and up, or of down.
#define EXPERT_INPUT LARGER(2 * PADDED(DIM), LARGER(PADDED(EXPERT_DIM), PADDED(SHARED_DIM)))
#define ROUTE_BYTES(rows)                                                                          \
    (4 * (size_t)(rows) * (EXPERTS + 4 * ACTIVE_EXPERTS + 2) + 8 * (EXPERTS + 64))
#define MOE_BYTES(rows) (EXPERTS ? ROUTE_BYTES(rows) + 16 * MANY_ROWS * (size_t)EXPERT_INPUT : 0)
#define CPU_WORK_BYTES(max_rows, max_outputs)                                                      \
    LARGER(INPUT_BYTES(LARGER(max_rows, max_outputs)) + KV_BYTES(LARGER(max_rows, max_outputs)) +  \
               SUMS_BYTES,                                                                         \
           MOE_BYTES(max_rows))
