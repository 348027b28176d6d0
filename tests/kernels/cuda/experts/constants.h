// Constants of one test of tests/kernels/cuda.c: experts of a softmax with biases, a clamped
// activation, a weighted shared expert, beside wider layers without experts; several waves.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 320
#define HEADS 2
#define KV_HEADS 1
#define HEAD_DIM 64
#define FFN_DIM 320
#define VOCAB 200
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT f16
#define ROPE_DIM 8
#define MAX_CONTEXT 600
#define MAX_BATCH 32
#define RESIDUAL_SCALE 0.75f
#define ACTIVATION CLAMPED_SILU
#define ACT_LIMIT 0.75f
#define EXPERTS 6
#define ACTIVE_EXPERTS 2
#define EXPERT_DIM 96
#define SHARED_DIM 160
#define WAVE_PLACES(rows) (0 * (rows) + 96)
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.1f, 0.01f, 0.001f                                                                  \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, m4)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, c3)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m6)
#define TEST_EXPERTS(F) F(m4, c3, t2, m5, m4, c3) F(b16, b16, f16, 0, 0, 0)
#define TEST_EXPERT_FORMATS(F, layer) F(m4, c3, t2, m5, m4, c3, layer)
#define TEST_ROUTED(l) ((l) == 1)
#define TEST_SHARED_WEIGHT 1
#define MODEL_FORMATS(F) F(m4) F(c3) F(m6) F(t2) F(m5) F(b16) F(f16)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, m4, m4, m4, m4, c3, m4, m6) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m6
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 0
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)                        \
    MOE(m4, c3, t2) SHARED(m5, m4, c3) MOE(b16, b16, f16)
