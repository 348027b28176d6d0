// Constants of one test of tests/kernels/cuda.c: the shapes of Llama 3.1 8B, for timing.
#pragma once

#define LAYERS 2
#define NORM_EPS 1e-05f
#define ROPE_FACTOR 1.0f
#define ROPE_INTERLEAVED 0
#define DIM 4096
#define HEADS 32
#define KV_HEADS 8
#define HEAD_DIM 128
#define FFN_DIM 14336
#define VOCAB 1024
#define SOFTMAX_SCALE 0.0883883476f
#define EMBED_FORMAT f16
#define ROPE_DIM 128
#define MAX_CONTEXT 4096
#define MAX_BATCH 16
#define QUANTIZED_CACHE 1
#define ROPE_INVERSE \
    { \
        1.0f, 0.86596432f, 0.74989421f, 0.64938163f, 0.56234133f, 0.48696753f, 0.4216965f, \
        0.36517413f, 0.31622777f, 0.27384196f, 0.23713737f, 0.2053525f, 0.17782794f, \
        0.15399265f, 0.13335214f, 0.1154782f, 0.1f, 0.086596432f, 0.074989421f, \
        0.064938163f, 0.056234133f, 0.048696753f, 0.04216965f, 0.036517413f, 0.031622777f, \
        0.027384196f, 0.023713737f, 0.02053525f, 0.017782794f, 0.015399265f, 0.013335214f, \
        0.01154782f, 0.01f, 0.0086596432f, 0.0074989421f, 0.0064938163f, 0.0056234133f, \
        0.0048696753f, 0.004216965f, 0.0036517413f, 0.0031622777f, 0.0027384196f, \
        0.0023713737f, 0.002053525f, 0.0017782794f, 0.0015399265f, 0.0013335214f, \
        0.001154782f, 0.001f, 0.00086596432f, 0.00074989421f, 0.00064938163f, \
        0.00056234133f, 0.00048696753f, 0.0004216965f, 0.00036517413f, 0.00031622777f, \
        0.00027384196f, 0.00023713737f, 0.0002053525f, 0.00017782794f, 0.00015399265f, \
        0.00013335214f, 0.0001154782f \
    }

// Variants: what forward.cu of a model would name.
#define TEST_QKV(F) F(m4, m4, m4)
#define TEST_OUT(F) F(m2) F(m3) F(m4) F(m6) F(m8) F(c2) F(c3) F(c4)
#define TEST_UP(F) F(m2, m2) F(m3, m3) F(m4, m4) F(m6, m6) F(m8, m8) F(c2, c2) F(c3, c3) F(c4, c4)
#define TEST_DOWN(F) F(m2) F(m3) F(m4) F(m6) F(m8) F(c2) F(c3) F(c4)
#define TEST_HEAD(F) F(m6)
#define MODEL_FORMATS(F) F(m2) F(m3) F(m4) F(m6) F(m8) F(c2) F(c3) F(c4)
#define TEST_DOWN_FORMAT m4
#define TEST_STEP_FORMATS(F) F(m4, m4, m4, m4, m4, m4, m4, m6) // q k v o gate up down head, one of each above
#define TEST_HEAD_FORMAT m6
#define TEST_HEAD_NORM 0
#define TEST_WINDOW 300
#define TEST_TIMING 1
#define TEST_LAYERS 8
#define TEST_KERNELS                                                                               \
    EMBED(f16)                                                                                     \
    KEEP() ATTEND() SAMPLE()                                                                       \
    TEST_QKV(QKV) TEST_OUT(OUT) TEST_UP(UP) TEST_DOWN(DOWN) TEST_HEAD(HEAD)
