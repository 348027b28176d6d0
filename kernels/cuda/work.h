// State.work on a GPU, carved up once for host and device, and the shapes of the decode form that
// decide its size. Plain C; sizes depend on constants.h and the State's limits alone.
#pragma once
#include "constants.h"
#include "kernels/cache.h"
#include "kernels/features.h"
#include "kernels/types.h"

#ifdef __CUDACC__
#define WORK_INLINE __device__ static __forceinline__
#else
#define WORK_INLINE static inline
#endif

#define Q_DIM (HEADS * HEAD_DIM)
#define KV_DIM (KV_HEADS * HEAD_DIM)
#define GROUP (HEADS / KV_HEADS) // query heads that share a key head, the fewest of any layer
#define Q_PARTS (GATED_ATTENTION ? 2 : 1) // of a head in the product for q: queries, gates
#define Q_WIDE (Q_PARTS * Q_DIM)
#define BLOCKS(n) (PADDED(n) / BLOCK)
#define PAIRS(n) ((BLOCKS(n) + 1) / 2)

// The decode form takes at most DECODE_ROWS rows; its matrix instructions take them by ROW_GROUP.
// Sums over k are cut into slices, each with activations of one scale; a unit is 512 channels, one
// slice of trellis weights or eight of 16-bit ones.
#define DECODE_ROWS 32
#define ROW_GROUP 8
#define NARROW_ROWS 4 // that fit eight columns in any format
#define UNIT_ROWS 512
#define UNITS(in) ((PADDED(in) + UNIT_ROWS - 1) / UNIT_ROWS)
#define SLICE_ROWS(format) (FORMAT_IS_EXL3(format) ? UNIT_ROWS : PASS_ROWS)
#define SLICES(format, in) ((PADDED(in) + SLICE_ROWS(format) - 1) / SLICE_ROWS(format))

// Attention of the decode form goes over the keys in splits of this many.
#define SPLIT (HEAD_DIM <= 128 ? PAGE : PAGE / 2)
#define MOST_SPLITS ((MAX_CONTEXT + SPLIT - 1) / SPLIT + 1)
#define SPLIT_FLOATS (GROUP * (HEAD_DIM + 2)) // sums, then largest and weight of each head

// Latent attention takes the heads of a row by LATENT_HEADS and the keys by LATENT_KEYS, in at most
// LATENT_SPLITS splits of at least LATENT_SPLIT keys.
#define LATENT_HEADS (HEADS <= 16 ? 16 : 32)
#define LATENT_TILES ((HEADS + LATENT_HEADS - 1) / LATENT_HEADS)
#define LATENT_KEYS 32
#define LATENT_SPLIT 64
#ifndef LATENT_SPLITS
#define LATENT_SPLITS 64
#endif
#define LATENT_SPLIT_FLOATS ((HEADS * (KV_LATENT + 2) + 3) / 4 * 4) // sums, then as SPLIT_FLOATS
#define ATTENDED (KV_LATENT ? HEADS * VALUE_DIM : Q_DIM)            // channels that go into o

// A head that a 128-column block does not contain is finished by a kernel of its own, and so are
// heads of which a norm needs all, and those with gates.
#define HEADS_IN_BLOCKS (BLOCK % HEAD_DIM == 0 && HEAD_NORMS != HEAD_NORM_ALL && !GATED_ATTENTION)
#define QUERIES_AT (PADDED(Q_LATENT) + PADDED(LATENT_ROW)) // q_b's columns, behind q_a and kv_a
#define RAW_DIM                                                                                    \
    (KV_LATENT ? QUERIES_AT + PADDED(HEADS * QUERY_DIM) : PADDED(Q_WIDE) + 2 * PADDED(KV_DIM))
// So are those of prompts where the cache has less than 16 bits; their columns lie in State.h,
// where that is wide enough.
#define RAW_IN_H (HEADS_IN_BLOCKS && H_DIM >= RAW_DIM)
#define NO_RAW (KV_LATENT || (HEADS_IN_BLOCKS && (!QUANTIZED_CACHE || RAW_IN_H)))
#define IS_QUANTIZED(s) (QUANTIZED_CACHE && ((s)->key_bits < 16 || (s)->value_bits < 16))

// Activations of the prefill form are stored in groups of 8 rows.
#define ROWS_UP(rows) (((rows) + 7) / 8 * 8)

// A routed layer. A route is row * ACTIVE_EXPERTS + which of the row's experts, ascending; places
// are routes sorted by expert, then by row.
#define SCORES ((EXPERTS + 2) / 2 * 2)        // of a row, and of its shared expert; an even number
#define DOWN_WIDTH (ACTIVE_EXPERTS + 1)       // products of a row that are added to x
#define UP_COLUMNS(width) (2 * PADDED(width)) // of gate and up
#define ROUTING_BYTES                                                                              \
    (EXPERTS ? WORK_UP(128 + 12 * DECODE_ROWS * ACTIVE_EXPERTS + 4 * DECODE_ROWS) : 0)
// The prefill form takes places in waves of at most so many.
#ifndef WAVE_PLACES
#define WAVE_PLACES(rows) (2 * (rows) + 8 * EXPERTS)
#endif

#define WORK_MOST(a, b) ((a) > (b) ? (a) : (b))
#define WORK_UP(n) (((n) + 255) / 256 * 256)

// The largest logit of a 128-column block of one output row: id -1 when one of them is NaN.
typedef struct {
    float logit;
    int32_t id;
} Best;

// The places of an expert: first .. end - 1.
typedef struct {
    int32_t first, end;
} Places;

typedef struct {
    uint64_t counters; // int32 (COUNTERS): arrivals of the blocks of a launch; left at zero
    uint64_t squares;  // f32 (rows, MOMENTS)
    // Decode form. Sums of linear layers in fixed point (decode.cuh), left at zero; x after
    // attention.
    uint64_t sums_qkv, sums_out, sums_up, sums_down, sums_head;
    uint64_t sums_route, sums_shared; // scores of experts; the shared one's gate and up
    uint64_t middle;                  // f32 (rows, DIM)
    uint64_t best;                    // Best (outputs, BLOCKS(VOCAB))
    uint64_t scales; // f32 (3, rows), or (2, places of a wave): of the prefill form's activations
    uint64_t raw;    // f32 (rows, RAW_DIM): q, k, v before norm and rope
    uint64_t large;  // one of: attention partials, fp16 activations, parts of scores (scores.cuh)
    uint64_t experts, weights; // uint16, f32 (routes)
    uint64_t shared;           // f32 (rows): weights of the shared expert
    // Prefill form of a routed layer, where each expert's places begin at a multiple of 8.
    uint64_t first;    // Places (EXPERTS)
    uint64_t route;    // int32 (places); -1: none
    uint64_t place;    // int32 (routes)
    uint64_t products; // f32 (a wave's places, DIM)
    // Inputs of a decode step of more than NARROW_ROWS rows: units as they lie in shared memory, of
    // one linear layer after the other, and Facts of each, of the last row first.
    uint64_t inputs, facts;
    uint64_t bytes;
} Work;

#define COUNTERS 2
// Of a row of x, by 128-column blocks: sums of squares, with LAYER_NORM of deviations from the
// block's mean, and then sums.
#define MOMENTS ((LAYER_NORM ? 2 : 1) * BLOCKS(DIM))
// A gated delta net. Columns of a head's matrix go by parts of DELTA_PART; a warp has eight.
#define DELTA_PART (DELTA_COLUMNS % 32 ? 16 : 32)
#define DELTA_PARTS (DELTA_COLUMNS / DELTA_PART)
#define DELTA_EIGHTHS (DELTA_COLUMNS / 8) // of a head: groups of eight columns
#define DELTA_KEY_UP ((DELTA_KEY_DIM + 31) / 32 * 32)
#define DELTA_GATES (2 * DELTA_HEADS) // of a row: strengths, then decays
// Tokens of a chunk of the prefill form; of each, fp16 q and k of a key head, and of a head two
// rows in two halves each, and two factors.
#define DELTA_CHUNK 64
#define DELTA_KEY_BYTES (2 * DELTA_KEY_UP * 2)
#define DELTA_LINK_BYTES (4 * DELTA_CHUNK * 2 + 16)
// Of a row of sums in sums_qkv: the first projection, that of z, the gates.
#define DELTA_Z_AT PADDED(DELTA_IN)
#define DELTA_GATES_AT (DELTA_Z_AT + (DELTA_BY_KEYS ? 0 : PADDED(DELTA_VALUES)))
#define DELTA_SUMS (DELTA_HEADS ? DELTA_GATES_AT + PADDED(DELTA_GATES) : 0)
#define QKV_SUMS WORK_MOST(RAW_DIM, DELTA_SUMS) // room of a row in sums_qkv

#define UP_SUMS /* of a row, in sums_up and sums_down */                                           \
    WORK_MOST(UP_COLUMNS(FFN_DIM), ACTIVE_EXPERTS *UP_COLUMNS(EXPERT_DIM))
#define DOWN_SUMS (DOWN_WIDTH * PADDED(DIM))
#define SUM_SETS (SKIPS_PARTS ? 2 : 1) // of these sums (skips.cuh)

// Columns of the matrix instruction that one row takes: MUL1's activations are two planes of bytes.
#define PLANES(format) (FORMAT_CODEBOOK(format) == CODEBOOK_MUL1 ? 2 : 1)
#define COLUMN_ROWS(format) (8 / PLANES(format)) // of a group of eight columns
// Activations, the matrix instruction's B, in shared memory: groups of eight columns, in a group
// the k-steps of a unit, in a step pairs of 16 bytes of k of all eight columns; a pair is the k of
// one instruction. A step has a register a weight, or one for two where they are exact fp16. What
// is added against bank conflicts lets lanes of different k write at once.
#define PAIR_BYTES 272
#define STEP_PAIRS(format) (FORMAT_IS_EXL3(format) ? 8 : 4)
#define STEP_BYTES(format) (STEP_PAIRS(format) * PAIR_BYTES + 32)
#define GROUP_BYTES (UNIT_ROWS / PASS_ROWS * STEP_BYTES(m4)) // the most of all formats
#define UNIT_BLOCKS (UNIT_ROWS / BLOCK)
#define FACTS_BYTES 64 // of a unit of one row: scales and offsets of its slices
#define UNIT_GROUPS(rows) (((rows) + NARROW_ROWS - 1) / NARROW_ROWS)
#define UNIT_BYTES(rows) (UNIT_GROUPS(rows) * GROUP_BYTES + (rows)*FACTS_BYTES)
// Units of the inputs of all linear layers of a step.
#define MOST_INPUTS                                                                                \
    (uint64_t) WORK_MOST(WORK_MOST(3 * UNITS(DIM), UNITS(ATTENDED)),                               \
                         WORK_MOST(UNITS(FFN_DIM), UNITS(DELTA_VALUES)))

// The decode rows a pass can have.
WORK_INLINE uint64_t work_decode_rows(int max_rows)
{
    int most = MAX_BATCH < ROW_GROUP     ? ROW_GROUP
               : MAX_BATCH < DECODE_ROWS ? MAX_BATCH
                                         : DECODE_ROWS;
    return max_rows < most ? max_rows : most;
}

// The most places that rows can have in the prefill form, and those of a wave.
WORK_INLINE uint64_t work_most_places(int max_rows)
{
    uint64_t routes = (uint64_t)max_rows * ACTIVE_EXPERTS;
    return ROWS_UP(routes + 7 * (routes > EXPERTS ? EXPERTS : routes));
}

WORK_INLINE uint64_t work_wave(int max_rows)
{
    uint64_t most = work_most_places(max_rows), wave = ROWS_UP(WAVE_PLACES((uint64_t)max_rows));
    return wave < most ? wave : most;
}

WORK_INLINE uint64_t work_large_bytes(int max_rows, int max_outputs)
{
    uint64_t rows = work_decode_rows(max_rows);
    uint64_t attend = KV_LATENT ? rows * LATENT_SPLITS * LATENT_SPLIT_FLOATS
                                : rows * KV_HEADS * MOST_SPLITS * SPLIT_FLOATS;
    uint64_t most_rows = WORK_MOST(max_rows, max_outputs);
    uint64_t prepared =
        WORK_MOST(WORK_MOST(WORK_MOST(3 * PADDED(DIM), PADDED(Q_LATENT)), PADDED(DELTA_VALUES)),
                  WORK_MOST(PADDED(ATTENDED), PADDED(FFN_DIM))) *
        ROWS_UP(most_rows) * 2;
    uint64_t gates = most_rows * UNITS(DIM) * DELTA_GATES * 4;
    uint64_t chunks =
        most_rows * (DELTA_KEY_HEADS * DELTA_KEY_BYTES + DELTA_HEADS * DELTA_LINK_BYTES);
    uint64_t wave = work_wave(max_rows), scores = most_rows * UNITS(DIM) * SCORES * 4;
    uint64_t experts = WORK_MOST(wave * WORK_MOST(2 * PADDED(DIM), PADDED(EXPERT_DIM)),
                                 PADDED(SHARED_DIM) * ROWS_UP(most_rows)) *
                       2;
    return WORK_MOST(WORK_MOST(attend * 4, WORK_MOST(prepared, WORK_MOST(gates, chunks))),
                     EXPERTS ? WORK_MOST(experts, scores) : 0);
}

// The rows for which inputs of decode steps are prepared apart: none, or all that a step can have.
WORK_INLINE uint64_t work_input_rows(int max_rows, int max_outputs)
{
    uint64_t rows = work_decode_rows(max_rows);
    uint64_t outputs = max_outputs < DECODE_ROWS ? max_outputs : DECODE_ROWS;
    rows = WORK_MOST(rows, outputs);
    return rows > NARROW_ROWS ? rows : 0;
}

WORK_INLINE Work work_places(int max_rows, int max_outputs)
{
    uint64_t most_rows = WORK_MOST(max_rows, max_outputs);
    Work w;
    uint64_t rows = work_decode_rows(max_rows);
    uint64_t outputs = max_outputs < DECODE_ROWS ? max_outputs : DECODE_ROWS;
    uint64_t wave = work_wave(max_rows);
    w.counters = 0;
    w.squares = w.counters + WORK_UP(COUNTERS * 4);
    w.sums_qkv = w.squares + WORK_UP((uint64_t)max_rows * MOMENTS * 4);
    w.sums_out = w.sums_qkv + WORK_UP(rows * QKV_SUMS * 8);
    w.sums_up = w.sums_out + WORK_UP(rows * PADDED(DIM) * 8);
    w.sums_down = w.sums_up + SUM_SETS * WORK_UP(rows * UP_SUMS * 8);
    w.sums_head = w.sums_down + SUM_SETS * WORK_UP(rows * DOWN_SUMS * 8);
    w.sums_route = w.sums_head + WORK_UP(outputs * PADDED(VOCAB) * 8);
    w.sums_shared = w.sums_route + (EXPERTS ? WORK_UP(rows * SCORES * 8) : 0);
    w.middle = w.sums_shared + WORK_UP(rows * UP_COLUMNS(SHARED_DIM) * 8);
    w.best = w.middle + WORK_UP(rows * DIM * 4);
    w.scales = w.best + WORK_UP((uint64_t)max_outputs * BLOCKS(VOCAB) * sizeof(Best));
    w.raw = w.scales + WORK_UP(WORK_MOST(3 * most_rows, 2 * wave) * 4);
    w.large = w.raw + (NO_RAW ? 0 : WORK_UP((uint64_t)max_rows * RAW_DIM * 4));
    w.experts = w.large + WORK_UP(work_large_bytes(max_rows, max_outputs));
    w.weights = w.experts + WORK_UP((uint64_t)max_rows * ACTIVE_EXPERTS * 2);
    w.shared = w.weights + WORK_UP((uint64_t)max_rows * ACTIVE_EXPERTS * 4);
    w.first = w.shared + (EXPERTS ? WORK_UP((uint64_t)max_rows * 4) : 0);
    w.route = w.first + WORK_UP(EXPERTS * sizeof(Places));
    w.place = w.route + WORK_UP(work_most_places(max_rows) * 4);
    w.products = w.place + WORK_UP((uint64_t)max_rows * ACTIVE_EXPERTS * 4);
    w.inputs = w.products + WORK_UP(wave * DIM * 4);
    rows = work_input_rows(max_rows, max_outputs);
    w.facts = w.inputs + WORK_UP(MOST_INPUTS * UNIT_GROUPS(rows) * GROUP_BYTES);
    w.bytes = w.facts + WORK_UP(MOST_INPUTS * rows * FACTS_BYTES);
    return w;
}

// A block of the decode form: 16 warps that multiply, one that copies, one that meets the other
// blocks; two more complete a group of four, by which the chip hands out registers.
#define MULTIPLIERS 512
#define DECODE_THREADS (MULTIPLIERS + 128)
#define PREFILL_THREADS 256 // of a block of the prefill form

// Shared memory of the decode form: DecodeShared, the room of activations or of attention, the ring
// of weights. A chunk of the ring is one slice of one column block.
#define CHUNK_BYTES(format) (SLICE_ROWS(format) / PASS_ROWS * 2 * PASS_BYTES(FORMAT_BITS(format)))
#define HAS_BITS_8(f) || f == m8 || f == c8 || f == t8
#define HAS_BITS_7(f) || f == m7 || f == c7 || f == t7
#define HAS_BITS_6(f) || f == m6 || f == c6 || f == t6
#define HAS_BITS_5(f) || f == m5 || f == c5 || f == t5
#define MOST_BITS                                                                                  \
    (0 MODEL_FORMATS(HAS_BITS_8)   ? 8                                                             \
     : 0 MODEL_FORMATS(HAS_BITS_7) ? 7                                                             \
     : 0 MODEL_FORMATS(HAS_BITS_6) ? 6                                                             \
     : 0 MODEL_FORMATS(HAS_BITS_5) ? 5                                                             \
                                   : 4)
#define MOST_CHUNK_BYTES CHUNK_BYTES(MOST_BITS)
#define RING_CHUNKS 16 // under way at a time
#define PLANS 4        // steps planned ahead
#define LATENT_BYTES (KV_LATENT ? 8 * DECODE_ROWS : 0)
// DecodeShared of decode.cuh, factors of latent.cuh, Routing of route.cuh
#define DECODE_SHARED_BYTES (4096 + (EXPERTS ? 384 : 0) + LATENT_BYTES + ROUTING_BYTES)
#define UNITS_ROOM (72 * 1024) // what activations may take where it is enough for one unit
// Rows whose activations and a chunk of weights fit.
WORK_INLINE int decode_rows_that_fit(int shared_bytes)
{
    int rows = (shared_bytes - DECODE_SHARED_BYTES - MOST_CHUNK_BYTES) / UNIT_BYTES(NARROW_ROWS) *
               NARROW_ROWS;
    return rows < DECODE_ROWS ? rows : DECODE_ROWS;
}

// A decode step of more than NARROW_ROWS rows comes in two phases, where its inputs do not differ
// by expert: each input is prepared once, by one block of threads; then all multiply.
enum { PHASE_ALL, PHASE_PREPARE, PHASE_MULTIPLY };

WORK_INLINE int prepared_apart(int kind)
{
    return kind == STEP_QKV || kind == STEP_OUT || kind == STEP_UP || kind == STEP_UP_ALONE ||
           kind == STEP_DOWN || kind == STEP_HEAD || kind == STEP_DELTA_IN ||
           kind == STEP_DELTA_OUT;
}

// Where the decode form adds up a row's products.
#define COMBINE_ROOM (EXPERTS ? WORK_UP(DOWN_WIDTH * BLOCK * 4) : 0)

// Units of activations that a block holds at a time: at least one, else what leaves the ring three
// chunks. Few steps have more than four.
WORK_INLINE int held_units(int rows, int shared_bytes)
{
    int room = shared_bytes - DECODE_SHARED_BYTES - 3 * MOST_CHUNK_BYTES;
    room = room < UNITS_ROOM ? room : UNITS_ROOM;
    int units = room / UNIT_BYTES(rows);
    return units > 4 ? 4 : units < 1 ? 1 : units;
}

// The prefill form: tiles of 128 columns by 128 rows, k in stages of 64.
#define TILE_ROWS 128
#define TILE_STRIDE (BLOCK + 4) // floats of a row of the finished tile
#define ACTIVATION_STRIDE                                                                          \
    (PASS_ROWS * 2 + 16) // bytes of a row of a stage, padded against conflicts
#define STAGE_BYTES(format) (2 * PASS_BYTES(FORMAT_BITS(format)) + TILE_ROWS * ACTIVATION_STRIDE)
#define STAGES(format) (FORMAT_IS_EXL3(format) ? 3 : 2)
#define PREFILL_SHARED_BYTES(format)                                                               \
    WORK_MOST(STAGES(format) * STAGE_BYTES(format), TILE_ROWS * TILE_STRIDE * 4)

// Scores of experts and gates of delta nets in the prefill form: tiles of rows by scores.
#define SCORE_ROWS 32
#define SCORE_TILE 64

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
#define WIDE_LIST_BYTES (EXPERTS ? WORK_UP((EXPERTS + 1) * 4) : 0) // tiles of experts
#define WIDE_ENDS (1024 + WIDE_PART_BYTES + WIDE_BARRIER_BYTES + WIDE_LIST_BYTES) // 1024: to align
#define WIDE_ROOM (227 * 1024 - WIDE_ENDS)
#define WIDE_STAGES(bits) (WIDE_ROOM / WIDE_STAGE_BYTES(bits))
#define WIDE_SHARED_BYTES(bits) (WIDE_STAGES(bits) * WIDE_STAGE_BYTES(bits) + WIDE_ENDS)

// Attention of the decode form: the values of a split, scores (f32), weights (fp16), per-head
// values.
#define VALUE_STRIDE (HEAD_DIM * 2 + 16) // bytes of a row, padded against conflicts
#define HEAD_TILES ((GROUP + 7) / 8)     // query heads go by 8
#define QUERY_FLOATS (GROUP * HEAD_DIM)
#define COVER(n)                                                                                   \
    (((n) + 2 * (BLOCK - 1)) / BLOCK * BLOCK)         // blocks that hold any n columns in a row
#define HEADS_COVER(n) ((n) % BLOCK ? COVER(n) : (n)) // a group's columns begin at a multiple of n
#define HEADS_COLUMNS (HEADS_COVER(Q_PARTS * QUERY_FLOATS) + 2 * HEADS_COVER(HEAD_DIM))
#define HEADS_ROOM                                                                                 \
    (HEADS_COLUMNS +                                                                               \
     (HEAD_NORMS == HEAD_NORM_ALL ? (BLOCKS(Q_DIM) + BLOCKS(KV_DIM) + 3) / 4 * 4 : 0)) // floats
#define VALUES_ROOM (SPLIT * VALUE_STRIDE + HEAD_TILES * 8 * (SPLIT * 4 + 16 + SPLIT * 2 + 16 + 8))
// What is known of heads ahead of their sums (qkv.cuh), and of how many items of attention.
#ifndef SPLITS_AHEAD
#define SPLITS_AHEAD 32
#endif
#define AHEAD_BYTES                                                                                \
    (48 + (ROPE_DIM + (HEAD_NORMS == HEAD_NORM_SHARED ? 2 : 1) * HEAD_DIM + 3) / 4 * 16)
// Heads are finished where the values come later.
#define PLAIN_SHARED_BYTES                                                                         \
    (AHEAD_BYTES + SPLITS_AHEAD * 16 + QUERY_FLOATS * 4 + WORK_MOST(VALUES_ROOM, HEADS_ROOM * 4))

// Of latent attention: queries, keys, scores of parts of the channels, weights, factors; or queries
// of a head and its sums by parts of the depth; or latents of a head.
#define QUERY_PARTS (MULTIPLIERS / 64)
#define LATENT_K_PARTS (MULTIPLIERS / 32 / (LATENT_HEADS / 16 * LATENT_KEYS / 8))
#define LATENT_SCORE_STRIDE (LATENT_KEYS + 4)
#define LATENT_WEIGHT_STRIDE (LATENT_KEYS + 8)
#define LATENT_SHARED_BYTES                                                                        \
    WORK_MOST((LATENT_HEADS + LATENT_KEYS) * VALUE_STRIDE +                                        \
                  LATENT_HEADS *                                                                   \
                      (4 * LATENT_K_PARTS * LATENT_SCORE_STRIDE + 2 * LATENT_WEIGHT_STRIDE + 4),   \
              4 * ROW_GROUP *                                                                      \
                  WORK_MOST(COVER(QUERY_DIM) + QUERY_PARTS * BLOCK, PADDED(LATENT_ROW)))
#define ATTEND_SHARED_BYTES (KV_LATENT ? LATENT_SHARED_BYTES : PLAIN_SHARED_BYTES)

#define ATTEND_ROOM WORK_UP(ATTEND_SHARED_BYTES)

// A delta net in the decode form: of four warps the finished columns of q, k, v and z, and what the
// convolution makes of them.
#define DELTA_MIXED (2 * DELTA_KEY_UP + DELTA_PART) // q, k, v of a part
#define DELTA_RAW (2 * COVER(DELTA_KEY_DIM) + 2 * COVER(DELTA_PART))
#define DELTA_FOUR (DELTA_RAW + DELTA_MIXED + DELTA_PART) // floats
#define DELTA_ROOM (DELTA_HEADS ? WORK_UP(MULTIPLIERS / 128 * DELTA_FOUR * 4) : 0)
// In the prefill form (delta_chunk.cuh): in shared memory a chunk's keys, of which rows are padded
// against conflicts, then tables of two heads; or links, and keys in two stages.
#define DELTA_MIX_ROWS 8 // of a block of the convolution
#define DELTA_KEY_STRIDE (DELTA_KEY_BYTES + 16)
#define DELTA_TABLE_STRIDE (DELTA_CHUNK + 4)
#define DELTA_PAIRS ((DELTA_HEADS / DELTA_KEY_HEADS + 1) / 2) // of heads to one of keys
#define DELTA_CHUNK_THREADS (2 * DELTA_CHUNK)
#define DELTA_CHUNK_SHARED_BYTES                                                                   \
    (DELTA_CHUNK * WORK_MOST(DELTA_KEY_STRIDE, 2 * DELTA_TABLE_STRIDE * 4))
#define DELTA_THREADS (DELTA_PART / 16 * 32)
#define DELTA_SHARED_BYTES (DELTA_CHUNK * (DELTA_LINK_BYTES + 2 * DELTA_KEY_STRIDE))

// Attention of the prefill form: 64 queries by tiles of 64 keys, two stages.
#define QUERY_ROWS 64
#define KEY_ROWS (HEAD_DIM <= 128 ? 64 : 32)
#define ATTEND_PREFILL_SHARED_BYTES ((QUERY_ROWS + 4 * KEY_ROWS) * VALUE_STRIDE)

// Of latents: tiles of so many keys, in stages, and their scores.
#define LATENT_STAGES(keys) ((keys) > 16 ? 2 : 1)
#define LATENT_PREFILL_SHARED_BYTES(keys)                                                          \
    ((QUERY_ROWS + LATENT_STAGES(keys) * (keys)) * VALUE_STRIDE + QUERY_ROWS * ((keys) + 4) * 4)
