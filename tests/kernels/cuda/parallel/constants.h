// Constants of one test of tests/kernels/cuda.c: attention and feed-forward side by side, LayerNorms,
// of heads too.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 320
#define HEADS 4
#define KV_HEADS 2
#define HEAD_DIM 64
#define FFN_DIM 192
#define VOCAB 200
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT f16
#define ROPE_DIM 64
#define MAX_CONTEXT 600
#define MAX_BATCH 32
#define PARALLEL 1
#define LAYER_NORM 1
#define HEAD_NORMS HEAD_NORM_EACH
#define RESIDUAL_SCALE 0.75f
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.66360124f, 0.4403666f, 0.29222782f, 0.19392274f, 0.12868737f, 0.0853971f, \
        0.056669621f, 0.037606031f, 0.024955409f, 0.01656044f, 0.010989529f, 0.0072926647f, \
        0.0048394213f, 0.003211446f, 0.0021311195f, 0.0014142136f, 0.00093847387f, \
        0.00062277242f, 0.00041327255f, 0.00027424818f, 0.00018199143f, 0.00012076974f, \
        8.0142947e-05f, 5.3182959e-05f, 3.5292277e-05f, 2.3419999e-05f, 1.554154e-05f, \
        1.0313385e-05f, 6.8439753e-06f, 4.5416705e-06f, 3.0138582e-06f \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, m4)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, m4)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m4)
#define MODEL_FORMATS(F) F(m4)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, m4, m4, m4, m4, m4, m4, m4) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m4
#define TEST_HEAD_NORM 1
#define TEST_WINDOW 100
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)
