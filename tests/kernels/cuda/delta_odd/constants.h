// Constants of one test of tests/kernels/cuda.c: a gated delta net with parts of a key head side by
// side, and widths that nothing divides; gated attention of wide heads.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 320
#define HEADS 3
#define KV_HEADS 1
#define HEAD_DIM 80
#define FFN_DIM 192
#define VOCAB 200
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT f16
#define ROPE_DIM 8
#define MAX_CONTEXT 600
#define MAX_BATCH 32
#define TEST_ROWS 230 // three chunks of a delta net, and a rest
#define RESIDUAL_SCALE 0.75f
#define GATED_ATTENTION 1
#define CACHE_LAYERS LAYERS
#define STATE_LAYERS 2
#define DELTA_HEADS 6
#define DELTA_KEY_HEADS 2
#define DELTA_KEY_DIM 45
#define DELTA_VALUE_DIM 37
#define DELTA_TAPS 3
#define DELTA_BY_KEYS 1
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.1f, 0.01f, 0.001f                                                                  \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, c3)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, c3)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m6)
#define TEST_DELTAS(F) F(m4, 0, c3) F(f16, 0, b16)
#define TEST_DELTA_FORMATS(F, layer) F(m4, 0, c3, layer)
#define TEST_DELTA(l) ((l) == 0)
#define MODEL_FORMATS(F) F(m4) F(c3) F(m6) F(b16) F(f16)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, m4, c3, m4, m4, c3, m4, m6) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m6
#define TEST_HEAD_NORM 1
#define TEST_WINDOW 0
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(QKV) TEST_OUT(OUT_GATED) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)                  \
    DELTA_GROUPED(m4) DELTA_OUT(c3) DELTA_GROUPED(f16) DELTA_OUT(b16)
