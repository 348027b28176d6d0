// Constants of one test of tests/kernels/cuda.c: latent attention, of more heads than go at a time,
// in layers with experts.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 1
#define DIM 320
#define HEADS 34
#define KV_HEADS 1
#define HEAD_DIM 96
#define Q_LATENT 136
#define KV_LATENT 64
#define NOPE_DIM 32
#define VALUE_DIM 20
#define FFN_DIM 128
#define VOCAB 200
#define SOFTMAX_SCALE 0.14f
#define EMBED_FORMAT f16
#define ROPE_DIM 32
#define MAX_CONTEXT 340
#define MAX_BATCH 32
#define QUANTIZED_CACHE 1
#define LATENT_SPLITS 3
#define EXPERTS 12
#define ACTIVE_EXPERTS 3
#define EXPERT_DIM 128
#define SHARED_DIM 128
#define ROUTER_SIGMOID 1
#define ROUTER_SCALE 2.5f
#define ROUTER_GROUPS 4
#define ROUTER_TOP_GROUPS 2
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.7f, 0.5f, 0.3f, 0.2f, 0.14f, 0.1f, 0.07f, 0.05f, 0.03f, 0.02f, 0.014f, 0.01f,      \
            0.007f, 0.005f, 0.003f                                                                 \
    }

// Variants: what forward.cu of a model would name. Of q, k and v: q_a, kv_a and q_b.
#define TEST_QKV(F) F(m4, c3, f16)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, m4)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m4)
#define TEST_EXPERTS(F) F(m4, m4, c3, m4, m4, m4)
#define TEST_EXPERT_FORMATS(F, layer) F(m4, m4, c3, m4, m4, m4, layer)
#define TEST_ROUTED(l) (l == 1)
#define TEST_SHARED_WEIGHT 0
#define MODEL_FORMATS(F) F(m4) F(c3) F(f16)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, c3, f16, m4, m4, m4, m4, m4) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m4
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 150
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(LATENT) TEST_OUT(LATENT_OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)              \
    MOE(m4, m4, c3) SHARED(m4, m4, m4)
