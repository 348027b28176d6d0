// Constants of one test of tests/kernels/cuda.c: layers of different widths, some without attention
// or a feed-forward. Layer 1, whose steps are tested one by one, is narrower than others.
#pragma once

#define LAYERS 6
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 256
#define HEADS 8
#define KV_HEADS 4
#define HEAD_DIM 64
#define FFN_DIM 448
#define VOCAB 200
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT f16
#define ROPE_DIM 8
#define MAX_CONTEXT 600
#define MAX_BATCH 16
#define QUANTIZED_CACHE 1
#define LAYER_KV_HEADS(layer) ((layer)->kv_heads)
#define LAYER_FFN_DIM(layer) ((layer)->ffn_dim)
#define SKIPS_PARTS 1
#define CACHE_LAYERS 3
#define STATE_LAYERS 0
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.1f, 0.01f, 0.001f                                                                  \
    }

#define TEST_WIDTHS {{4, 192}, {2, 200}, {0, 448}, {1, 0}, {0, 0}, {0, 64}}
#define TEST_ATTENDS(l) (l < 2 || l == 3)
#define TEST_FEEDS(l) (l < 3 || l == 5)

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, c3, m4)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, f16)
#define TEST_UP_ALONE(F) F(c3)
#define TEST_DOWN(F) F(m4) F(f16)
#define TEST_HEAD(F) F(m4)
#define MODEL_FORMATS(F) F(m4) F(c3) F(f16)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, c3, m4, m4, 0, c3, m4, m4) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m4
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 0
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP()                                                                                         \
    ATTEND()                                                                                       \
    SAMPLE() TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_UP_ALONE(UP_ALONE) TEST_DOWN(DOWN)       \
        TEST_HEAD(HEAD)
