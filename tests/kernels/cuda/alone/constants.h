// Constants of one test of tests/kernels/cuda.c: a norm over all heads, a feed-forward without a
// gate.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 256
#define HEADS 4
#define KV_HEADS 2
#define HEAD_DIM 64
#define FFN_DIM 640
#define VOCAB 512
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT b16
#define ROPE_DIM 48
#define MAX_CONTEXT 1100
#define MAX_BATCH 16
#define QUANTIZED_CACHE 1
#define HEAD_NORMS HEAD_NORM_ALL
#define ACTIVATION XIELU
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.68129207f, 0.46415888f, 0.31622777f, 0.21544347f, 0.14677993f, 0.1f, 0.068129207f, \
            0.046415888f, 0.031622777f, 0.021544347f, 0.014677993f, 0.01f, 0.0068129207f,          \
            0.0046415888f, 0.0031622777f, 0.0021544347f, 0.0014677993f, 0.001f, 0.00068129207f,    \
            0.00046415888f, 0.00031622777f, 0.00021544347f, 0.00014677993f                         \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, c3, f16)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m3, t5)
#define TEST_UP_ALONE(F) F(m4) F(t3) F(b16)
#define TEST_DOWN(F) F(c6)
#define TEST_HEAD(F) F(m6)
#define MODEL_FORMATS(F) F(m4) F(c3) F(f16) F(m3) F(t5) F(t3) F(b16) F(c6) F(m6)
#define TEST_DOWN_FORMAT c6
#define TEST_STEP_FORMATS(F) F(m4, c3, f16, m4, 0, t3, c6, m6) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m6
#define TEST_HEAD_NORM 1
#define TEST_WINDOW 300
#define TEST_KERNELS                                                                               \
    EMBED(b16)                                                                                     \
    KEEP()                                                                                         \
    ATTEND()                                                                                       \
    SAMPLE() TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_UP_ALONE(UP_ALONE) TEST_DOWN(DOWN)       \
        TEST_HEAD(HEAD)
