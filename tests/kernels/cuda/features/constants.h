// Constants of one test of tests/kernels/cuda.c: what most models do without (kernels/features.h).
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_INTERLEAVED 0
#define DIM 256
#define HEADS 4
#define KV_HEADS 2
#define HEAD_DIM 64
#define FFN_DIM 192
#define VOCAB 200
#define SOFTMAX_SCALE 0.125f
#define EMBED_FORMAT f16
#define ROPE_DIM 64
#define MAX_CONTEXT 1100
#define MAX_BATCH 16
#define QUANTIZED_CACHE 1
#define EMBED_SCALE 3.0f
#define RESIDUAL_SCALE 0.5f
#define LOGIT_SCALE 0.5f
#define LOGIT_SOFTCAP 1.5f
#define ATTN_SOFTCAP 1.25f
#define ATTN_SINKS 1
#define POST_NORMS 1
#define ROPES 2
#define ROPE_FACTOR 1.0f, 1.25f
#define ROPE_EVERYWHERE 0
#define QUERY_BETA 0.3f
#define QUERY_FROM 100
#define ACTIVATION GELU_TANH
#define ROPE_INVERSE                                                                               \
    {                                                                                              \
        1.0f, 0.7498942f, 0.56234133f, 0.4216965f, 0.31622777f, 0.23713737f, 0.17782794f,          \
            0.13335214f, 0.1f, 0.07498942f, 0.056234133f, 0.04216965f, 0.0316227766f,              \
            0.023713737f, 0.017782794f, 0.013335214f, 0.01f, 0.0074989421f, 0.0056234133f,         \
            0.004216965f, 0.0031622777f, 0.00237137371f, 0.0017782794f, 0.0013335214f, 0.001f,     \
            0.0007498942f, 0.0005623413f, 0.000421696503f, 0.00031622777f, 0.00023713737f,         \
            0.00017782794f, 0.000133352143f, 1.0f, 0.8234878f, 0.67813221f, 0.55843363f,           \
            0.4598633f, 0.37869183f, 0.3118481f, 0.25680313f, 0.21147425f, 0.17414647f,            \
            0.143407503f, 0.11809433f, 0.09724925f, 0.08008357f, 0.065947847f, 0.05430725f,        \
            0.04472136f, 0.036827496f, 0.030326995f, 0.02497391f, 0.0205657119f, 0.0169356135f,    \
            0.0139462717f, 0.011484585f, 0.009457416f, 0.007788067f, 0.0064133785f, 0.0052813392f, \
            0.0043491186f, 0.0035814462f, 0.0029492774f, 0.00242869405f                            \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, m4) F(t3, m4, c5)
#define TEST_OUT(F) F(m4)
#define TEST_UP(F) F(m4, c3)
#define TEST_DOWN(F) F(m4)
#define TEST_HEAD(F) F(m6)
#define MODEL_FORMATS(F) F(m4) F(t3) F(c5) F(c3) F(m6)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(t3, m4, c5, m4, m4, c3, m4, m6) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m6
#define TEST_HEAD_NORM 1
#define TEST_WINDOW 300
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP()                                                                                         \
    ATTEND()                                                                                       \
    SAMPLE() TEST_QKV(QKV) TEST_OUT(OUT) TEST_OUT(OUT_NORM) TEST_UP(UP) TEST_DOWN(DOWN)            \
        TEST_DOWN(DOWN_NORM) TEST_HEAD(HEAD)
