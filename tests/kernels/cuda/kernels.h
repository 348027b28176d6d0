// The kernels of one test of tests/kernels/cuda.c, from its constants.h, and the table of their
// steps: compiled for a GPU by kernels.cu, for the CPU by emulate.cc.
#pragma once

TEST_KERNELS

#if KV_LATENT
#if Q_LATENT
#define TABLE_QKV TABLE_latent
#else
#define TABLE_QKV(none, kv, q, l) TABLE_latent_direct(q, kv, l)
#endif
#define TABLE_OUT TABLE_latent_out
#define TABLE_DOWN TABLE_down
#elif POST_NORMS
#define TABLE_OUT TABLE_out_norm
#define TABLE_DOWN TABLE_down_norm
#else
#define TABLE_OUT TABLE_out
#define TABLE_DOWN TABLE_down
#endif
#ifndef TABLE_QKV
#define TABLE_QKV TABLE_qkv
#endif
#ifdef TEST_UP_ALONE
#define TABLE_UP(g, u, l) TABLE_up_alone(u, l)
#else
#define TABLE_UP TABLE_up
#endif
#if EXPERTS
#define TABLE_ROUTED(g, u, d, sg, su, sd, l) TABLE_moe_shared(g, u, d, sg, su, sd, l)
#define TABLE_EXPERTS(l) TEST_EXPERT_FORMATS(TABLE_ROUTED, l)
#else
#define TEST_ROUTED(l) false
#define TABLE_EXPERTS(l)
#endif
#if DELTA_HEADS
#define TABLE_RECURRENT(in, z, o, l) TABLE_delta(in, z, l) TABLE_delta_out(o, l)
#define TABLE_DELTA(l) TEST_DELTA_FORMATS(TABLE_RECURRENT, l)
#else
#define TEST_DELTA(l) false
#define TABLE_DELTA(l)
#endif
#ifndef TEST_ATTENDS
#define TEST_ATTENDS(l) true
#define TEST_FEEDS(l) true
#endif
// clang-format off
#define ALL_STEPS(q, k, v, o, g, u, d, h)                                                          \
    TABLE_embed(EMBED_FORMAT)                                                                      \
    for (int l = 0; l < LAYERS; l++) {                                                             \
        if (TEST_DELTA(l)) {                                                                       \
            TABLE_DELTA(l)                                                                         \
        } else if (TEST_ATTENDS(l)) {                                                              \
            TABLE_QKV(q, k, v, l)                                                                  \
            TABLE_attend(l)                                                                        \
            if (!PARALLEL) { TABLE_OUT(o, l) }                                                     \
        }                                                                                          \
        if (TEST_ROUTED(l)) {                                                                      \
            TABLE_EXPERTS(l)                                                                       \
        } else if (TEST_FEEDS(l)) {                                                                \
            TABLE_UP(g, u, l)                                                                      \
            if (PARALLEL) { TABLE_OUT(o, l) }                                                      \
            TABLE_DOWN(d, l)                                                                       \
        }                                                                                          \
    }                                                                                              \
    TABLE_head(h)
// clang-format on
DEVICE constexpr StepTable make_steps(void)
{
    StepTable t = {};
    TEST_STEP_FORMATS(ALL_STEPS)
    return t;
}
__constant__ StepTable STEP_TABLE = make_steps();
DECODE()
