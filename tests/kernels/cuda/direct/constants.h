// Constants of one test of tests/kernels/cuda.c: latent attention whose queries come from x, with an
// epsilon of its own and a depth of keys that is no multiple of 32; kv_b in bf16.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define LATENT_EPS 0.1f
#define KV_B_FORMAT b16
#define ROPE_FACTOR 1.25f
#define ROPE_INTERLEAVED 1
#define DIM 320
#define HEADS 5
#define KV_HEADS 1
#define HEAD_DIM 128
#define Q_LATENT 0
#define KV_LATENT 96
#define NOPE_DIM 48
#define VALUE_DIM 36
#define FFN_DIM 128
#define VOCAB 200
#define SOFTMAX_SCALE 0.11f
#define EMBED_FORMAT f16
#define ROPE_DIM 32
#define MAX_CONTEXT 300
#define MAX_BATCH 20
#define QUANTIZED_CACHE 0
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.7f, 0.5f, 0.3f, 0.2f, 0.14f, 0.1f, 0.07f, 0.05f, 0.03f, 0.02f, 0.014f, 0.01f,      \
            0.007f, 0.005f, 0.003f                                                                 \
    }

// Variants: what forward.cu of a model would name. Of q, k and v: none, kv_a and q.
#define TEST_DIRECT(none, kv, q) LATENT_DIRECT(q, kv)
#define TEST_QKV(F) F(m4, c3, m4) F(m4, m4, f16)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, m4)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m4)
#define MODEL_FORMATS(F) F(m4) F(c3) F(f16)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, c3, m4, m4, m4, m4, m4, m4) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m4
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 0
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(TEST_DIRECT) TEST_OUT(LATENT_OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)
