// The entry points of every step, one macro a step: forward.cu names the variants a model needs.
// All but sample take the same parameters. `n` is the room in shared memory of a step of the decode
// form, the rows of a tile of the prefill form, or keep's layer.
#pragma once
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/embed.cuh"
#include "kernels/cuda/head.cuh"
#include "kernels/cuda/out.cuh"
#include "kernels/cuda/qkv.cuh"
#include "kernels/cuda/read.cuh"
#include "kernels/cuda/sample.cuh"
#include "kernels/cuda/up.cuh"

#define ENTRY(name, threads, blocks)                                                               \
    KERNEL __launch_bounds__(threads, blocks)                                                      \
        name(const __grid_constant__ State s, const __grid_constant__ Batch b, const Layer *layer, \
             int n)

// A step of the decode form as a launch of its own. `layer` NULL says that x is complete.
#define DECODE_ENTRY(name, call)                                                                   \
    ENTRY(name, DECODE_THREADS, 1)                                                                 \
    {                                                                                              \
        Decoder d = decoder_open(s, b, 0, n);                                                      \
        call;                                                                                      \
    }

#if WGMMA
#define PREFILL_ENTRY(name)                                                                        \
    KERNEL CLUSTER_OF_2 __launch_bounds__(WIDE_THREADS, 1)                                         \
        name(const __grid_constant__ State s, const __grid_constant__ Batch b, const Layer *layer, \
             int n)
#else
#define PREFILL_ENTRY(name) ENTRY(name, PREFILL_THREADS, 2)
#endif

// clang-format off
#define EMBED(f)                                                                                   \
    ENTRY(embed_##f, PREFILL_THREADS, 2) { embed<f>(s, b); }

#define KEEP()                                                                                     \
    ENTRY(keep_kernel, PREFILL_THREADS, 2) { keep(s, b, n, false); }                               \
    ENTRY(keep_pending_kernel, PREFILL_THREADS, 2) { keep(s, b, n, true); }

#define QKV(q, k, v)                                                                               \
    DECODE_ENTRY(qkv_##q##_##k##_##v, (decode_qkv<q, k, v>(&d, layer)))                             \
    ENTRY(qkv_##q##_##k##_##v##_prepare, PREFILL_THREADS, 2) { qkv_prepare<q, k, v>(s, b, layer); } \
    PREFILL_ENTRY(qkv_##q##_##k##_##v##_prefill) { qkv_prefill<q, k, v>(s, b, layer, n); }

#define ATTEND()                                                                                   \
    DECODE_ENTRY(heads_kernel, decode_heads(&d, layer))                                             \
    DECODE_ENTRY(attend_kernel, decode_attend(&d, layer))                                           \
    ENTRY(attend_prefill_kernel, 128, HEAD_DIM > 128 ? 1 : 3) { attend_prefill(s, b, layer); }     \
    ENTRY(qkv_finish_kernel, PREFILL_THREADS, 2) { qkv_finish(s, b, layer); }

#define OUT(f)                                                                                     \
    DECODE_ENTRY(out_##f, decode_out<f>(&d, layer))                                                 \
    ENTRY(out_##f##_prepare, PREFILL_THREADS, 2) { out_prepare<f, Q_DIM>(s, b, &layer->o, s.a); }  \
    PREFILL_ENTRY(out_##f##_prefill) { out_prefill<f, Q_DIM>(s, b, &layer->o, n); }

#define UP(g, u)                                                                                   \
    DECODE_ENTRY(up_##g##_##u, (decode_up<g, u>(&d, layer)))                                        \
    ENTRY(up_##g##_##u##_prepare, PREFILL_THREADS, 2) { up_prepare<g, u>(s, b, layer); }           \
    PREFILL_ENTRY(up_##g##_##u##_prefill) { up_prefill<g, u>(s, b, layer, n); }

#define DOWN(f)                                                                                    \
    DECODE_ENTRY(down_##f, decode_down<f>(&d, layer))                                               \
    ENTRY(down_##f##_prepare, PREFILL_THREADS, 2) { out_prepare<f, FFN_DIM>(s, b, &layer->down, s.h); } \
    PREFILL_ENTRY(down_##f##_prefill) { out_prefill<f, FFN_DIM>(s, b, &layer->down, n); }

#define HEAD(f)                                                                                    \
    DECODE_ENTRY(head_##f, decode_head<f>(&d, layer != nullptr))                                    \
    DECODE_ENTRY(logits_##f, decode_logits(&d, layer != nullptr))                                   \
    ENTRY(head_##f##_prepare, PREFILL_THREADS, 2) { head_prepare<f>(s, b); }                       \
    PREFILL_ENTRY(head_##f##_prefill) { head_prefill<f>(s, b, n); }

#define SAMPLE()                                                                                   \
    KERNEL __launch_bounds__(SAMPLE_THREADS)                                                       \
        sample_kernel(const __grid_constant__ State s, const __grid_constant__ Batch b,            \
                      const Sampling *sampling, int32_t *tokens)                                   \
    {                                                                                              \
        sample(s, b, sampling, tokens);                                                            \
    }
// clang-format on

// All steps of the decode form in one launch: forward.cu includes forward.inc with these, the rows of
// every sequence being one.
#define DECODER_embed(f) decode_embed<f>(&d);
#define DECODER_keep(l)
#define DECODER_qkv(q, k, v, layer) decode_qkv<q, k, v>(&d, layer);
#define DECODER_attend(layer) decode_attend(&d, layer);
#define DECODER_out(f, layer) decode_out<f>(&d, layer);
#define DECODER_up(g, u, layer) decode_up<g, u>(&d, layer);
#define DECODER_down(f, layer) decode_down<f>(&d, layer);
#define DECODER_head(f) decode_head<f>(&d, true); decode_logits(&d, true);
