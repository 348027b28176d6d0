// Constants of one test of tests/kernels/cuda.c: heads of 80 channels, interleaved rope, more items
// of attention than are listed at a time.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 1
#define DIM 320
#define HEADS 6
#define KV_HEADS 3
#define HEAD_DIM 80
#define FFN_DIM 384
#define VOCAB 260
#define SOFTMAX_SCALE 0.111803399f
#define EMBED_FORMAT f16
#define ROPE_DIM 32
#define MAX_CONTEXT 600
#define MAX_BATCH 16
#define SPLITS_AHEAD 2
#define ROPE_INVERSE \
    { \
        1.0f, 0.56234133f, 0.31622777f, 0.17782794f, 0.1f, 0.056234133f, 0.031622777f, \
        0.017782794f, 0.01f, 0.0056234133f, 0.0031622777f, 0.0017782794f, 0.001f, \
        0.00056234133f, 0.00031622777f, 0.00017782794f \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, m4)
#define TEST_OUT(F) F(m2)
#define TEST_UP(F) F(c4, c4)
#define TEST_DOWN(F) F(m5)
#define TEST_HEAD(F) F(m8)
#define MODEL_FORMATS(F) F(m4) F(m2) F(c4) F(m5) F(m8)
#define TEST_DOWN_FORMAT m5
#define TEST_STEP_FORMATS(F) F(m4, m4, m4, m2, c4, c4, m5, m8) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m8
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 65
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)
