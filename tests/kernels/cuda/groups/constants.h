// Constants of one test of tests/kernels/cuda.c: more experts than a warp has lanes, in groups, with
// independent scores; a head of whose chunks the ring holds one beside the most rows.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 1024
#define HEADS 2
#define KV_HEADS 1
#define HEAD_DIM 64
#define FFN_DIM 128
#define VOCAB 1792
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT f16
#define ROPE_DIM 8
#define MAX_CONTEXT 600
#define MAX_BATCH 32
#define EXPERTS 40
#define ACTIVE_EXPERTS 5
#define EXPERT_DIM 256
#define SHARED_DIM 128
#define ROUTER_SIGMOID 1
#define ROUTER_NORMALIZE 0
#define ROUTER_SCALE 2.5f
#define ROUTER_GROUPS 4
#define ROUTER_TOP_GROUPS 2
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.1f, 0.01f, 0.001f                                                                  \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, m4)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, m4)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m8)
#define TEST_EXPERTS(F) F(m4, m4, m3, m4, m4, m4)
#define TEST_EXPERT_FORMATS(F, layer) F(m4, m4, m3, m4, m4, m4, layer)
#define TEST_ROUTED(l) 1
#define TEST_SHARED_WEIGHT 0
#define MODEL_FORMATS(F) F(m4) F(m3) F(m8)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, m4, m4, m4, m4, m4, m4, m8) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m8
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 0
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)                        \
    MOE(m4, m4, m3) SHARED(m4, m4, m4)
