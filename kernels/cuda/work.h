// State.work on a GPU, carved up once for host and device, and the shapes of the decode form that
// decide its size. Plain C; sizes depend on constants.h and the State's limits alone.
#pragma once
#include "constants.h"
#include "kernels/features.h"
#include "kernels/types.h"

#ifdef __CUDACC__
#define WORK_INLINE __device__ static __forceinline__
#else
#define WORK_INLINE static inline
#endif

#define Q_DIM (HEADS * HEAD_DIM)
#define KV_DIM (KV_HEADS * HEAD_DIM)
#define GROUP (HEADS / KV_HEADS) // query heads that share a key head
#define BLOCKS(n) (PADDED(n) / BLOCK)
#define PAIRS(n) ((BLOCKS(n) + 1) / 2)

// The decode form takes at most DECODE_ROWS rows, in groups of ROW_GROUP. A slice of k belongs to
// one block of threads; its length depends on the format alone, because the order of sums does.
#define DECODE_ROWS 64
#define ROW_GROUP 8
#define SLICE_ROWS(format) (FORMAT_BITS(format) > 4 && FORMAT_BITS(format) <= 8 ? 512 : 1024)
#define SLICES(format, in) ((PADDED(in) + SLICE_ROWS(format) - 1) / SLICE_ROWS(format))
#define MOST_SLICES(in) ((PADDED(in) + 511) / 512)

// Attention of the decode form goes over the keys in splits of this many.
#define SPLIT (HEAD_DIM <= 128 ? PAGE : PAGE / 2)
#define MOST_SPLITS ((MAX_CONTEXT + SPLIT - 1) / SPLIT + 1)
#define SPLIT_FLOATS (GROUP * (HEAD_DIM + 2)) // sums, then largest and weight of each head

// A head that a 128-column block does not contain is finished by a kernel of its own, and so are
// heads of which a norm needs all.
#define HEADS_IN_BLOCKS (BLOCK % HEAD_DIM == 0 && HEAD_NORMS != HEAD_NORM_ALL)
#define RAW_DIM (PADDED(Q_DIM) + 2 * PADDED(KV_DIM))

// Activations of the prefill form are stored in groups of 8 rows.
#define ROWS_UP(rows) (((rows) + 7) / 8 * 8)

#define WORK_MOST(a, b) ((a) > (b) ? (a) : (b))
#define WORK_UP(n) (((n) + 255) / 256 * 256)

// The largest logit of a 128-column block of one output row: id -1 when one of them is NaN.
typedef struct {
    float logit;
    int32_t id;
} Best;

typedef struct {
    uint64_t counters; // int32: arrivals a column block (or row and key head); always left at zero
    uint64_t squares;  // f32 (rows, BLOCKS(DIM)): sums of squares of x
    uint64_t best;     // Best (outputs, BLOCKS(VOCAB))
    uint64_t scales;   // f32 (3, rows): of the prefill form's fp16 activations
    uint64_t raw;      // f32 (rows, RAW_DIM): q, k, v before norm and rope
    uint64_t large;    // one of: partial sums, attention partials, fp16 activations
    uint64_t bytes;
} Work;

#define WORK_COUNTERS                                                                              \
    WORK_MOST(DECODE_ROWS *KV_HEADS,                                                               \
              WORK_MOST(BLOCKS(VOCAB),                                                             \
                        WORK_MOST(BLOCKS(FFN_DIM),                                                 \
                                  WORK_MOST(BLOCKS(DIM), BLOCKS(Q_DIM) + 2 * BLOCKS(KV_DIM)))))

// The decode rows a pass can have.
WORK_INLINE uint64_t work_decode_rows(int max_rows)
{
    int most = MAX_BATCH < ROW_GROUP     ? ROW_GROUP
               : MAX_BATCH < DECODE_ROWS ? MAX_BATCH
                                         : DECODE_ROWS;
    return max_rows < most ? max_rows : most;
}

WORK_INLINE uint64_t work_large_bytes(int max_rows, int max_outputs)
{
    uint64_t rows = work_decode_rows(max_rows);
    uint64_t outputs = max_outputs < DECODE_ROWS ? max_outputs : DECODE_ROWS;
    uint64_t qkv = (BLOCKS(Q_DIM) + 2 * BLOCKS(KV_DIM)) * MOST_SLICES(DIM) * rows;
    uint64_t up = 2 * BLOCKS(FFN_DIM) * MOST_SLICES(DIM) * rows;
    uint64_t out = BLOCKS(DIM) * MOST_SLICES(Q_DIM) * rows;
    uint64_t down = BLOCKS(DIM) * MOST_SLICES(FFN_DIM) * rows;
    uint64_t head = BLOCKS(VOCAB) * MOST_SLICES(DIM) * outputs;
    uint64_t partial = WORK_MOST(head, WORK_MOST(WORK_MOST(qkv, up), WORK_MOST(out, down))) * BLOCK;
    uint64_t attend = rows * KV_HEADS * MOST_SPLITS * SPLIT_FLOATS;
    uint64_t most_rows = WORK_MOST(max_rows, max_outputs);
    uint64_t prepared = WORK_MOST(3 * PADDED(DIM), WORK_MOST(PADDED(Q_DIM), PADDED(FFN_DIM))) *
                        ROWS_UP(most_rows) * 2;
    return WORK_MOST(WORK_MOST(partial, attend) * 4, prepared);
}

WORK_INLINE Work work_places(int max_rows, int max_outputs)
{
    uint64_t most_rows = WORK_MOST(max_rows, max_outputs);
    Work w;
    w.counters = 0;
    w.squares = w.counters + WORK_UP(WORK_COUNTERS * 4);
    w.best = w.squares + WORK_UP((uint64_t)max_rows * BLOCKS(DIM) * 4);
    w.scales = w.best + WORK_UP((uint64_t)max_outputs * BLOCKS(VOCAB) * sizeof(Best));
    w.raw = w.scales + WORK_UP(3 * most_rows * 4);
    w.large = w.raw + (HEADS_IN_BLOCKS ? 0 : WORK_UP((uint64_t)max_rows * RAW_DIM * 4));
    w.bytes = w.large + WORK_UP(work_large_bytes(max_rows, max_outputs));
    return w;
}

// The block of threads a unit of the decode form belongs to: 8 warps, two halves of 64 columns
// times four phases of the k-steps.
#define DECODE_THREADS 256
#define PHASES 4

// Columns of the matrix instruction that one row takes: MUL1's activations are two planes of bytes.
#define PLANES(format) (FORMAT_CODEBOOK(format) == CODEBOOK_MUL1 ? 2 : 1)
// Activations of one k-step of one column: 16 registers of 4 lanes for one register a weight, 8 for
// exact fp16; columns are offset by half a 128-byte line against bank conflicts.
#define STEP_BYTES(format) (FORMAT_IS_EXL3(format) ? 256 : 128)
#define COLUMN_BYTES(format) (SLICE_ROWS(format) / PASS_ROWS * STEP_BYTES(format) + 64)
// 16-bit weights go from memory to registers; the others through shared memory.
#define SLICE_BYTES(format)                                                                        \
    (FORMAT_IS_EXL3(format) ? SLICE_ROWS(format) / PASS_ROWS * 2 * PASS_BYTES(FORMAT_BITS(format)) \
                            : 0)
// Shared memory of the decode form for groups of `rows` rows: the slice, then the activations,
// whose place the sums of the phases take afterwards.
#define SUM_STRIDE (BLOCK + 4) // numbers from one column to the next, padded against conflicts
#define DECODE_COLUMN_BYTES(format) WORK_MOST(COLUMN_BYTES(format), PHASES *SUM_STRIDE * 4)
#define DECODE_SHARED_BYTES(format, rows)                                                          \
    (SLICE_BYTES(format) + (rows)*PLANES(format) * DECODE_COLUMN_BYTES(format))

// The prefill form: tiles of 128 columns by 128 rows, k in stages of 64.
#define TILE_ROWS 128
#define TILE_STRIDE (BLOCK + 4) // floats of a row of the finished tile
#define ACTIVATION_STRIDE                                                                          \
    (PASS_ROWS * 2 + 16) // bytes of a row of a stage, padded against conflicts
#define STAGE_BYTES(format) (2 * PASS_BYTES(FORMAT_BITS(format)) + TILE_ROWS * ACTIVATION_STRIDE)
#define STAGES(format) (FORMAT_IS_EXL3(format) ? 3 : 2)
#define PREFILL_SHARED_BYTES(format)                                                               \
    WORK_MOST(STAGES(format) * STAGE_BYTES(format), TILE_ROWS * TILE_STRIDE * 4)

// The prefill form on sm_90a: a block of two warpgroups that multiply and one that copies; tiles of
// 128 columns by up to 256 rows, k in stages of 64, as many stages as fit; a part of the finished
// tile at a time. Two blocks of a cluster share the activations.
#define WIDE_THREADS 384
#define WIDE_ROWS 256
#define WIDE_PART_ROWS 64
#define WIDE_PARTS (WIDE_ROWS / WIDE_PART_ROWS)
#define WIDE_ACTIVATION_BYTES (WIDE_ROWS * PASS_ROWS * 2)
#define WIDE_PART_BYTES (WIDE_PART_ROWS * TILE_STRIDE * 4)
#define WIDE_STAGE_BYTES(bits) (WIDE_ACTIVATION_BYTES + 2 * PASS_BYTES(bits))
#define WIDE_BARRIER_BYTES 256
#define WIDE_ROOM (227 * 1024 - 1024 - WIDE_PART_BYTES - WIDE_BARRIER_BYTES) // 1024: to align it
#define WIDE_STAGES(bits) (WIDE_ROOM / WIDE_STAGE_BYTES(bits))
#define WIDE_SHARED_BYTES(bits)                                                                    \
    (1024 + WIDE_STAGES(bits) * WIDE_STAGE_BYTES(bits) + WIDE_PART_BYTES + WIDE_BARRIER_BYTES)

// Attention of the decode form: the values of a split, scores (f32), weights (fp16), per-head
// values.
#define VALUE_STRIDE (HEAD_DIM * 2 + 16) // bytes of a row, padded against conflicts
#define HEAD_TILES ((GROUP + 7) / 8)     // query heads go by 8
#define ATTEND_SHARED_BYTES                                                                        \
    (SPLIT * VALUE_STRIDE + HEAD_TILES * 8 * (SPLIT * 4 + 16 + SPLIT * 2 + 16))

// Attention of the prefill form: 64 queries by tiles of 64 keys, two stages.
#define QUERY_ROWS 64
#define KEY_ROWS (HEAD_DIM <= 128 ? 64 : 32)
#define ATTEND_PREFILL_SHARED_BYTES ((QUERY_ROWS + 4 * KEY_ROWS) * VALUE_STRIDE)
