// The entry points of every step, one macro a step: forward.cu names the variants a model needs.
// All but sample and the decode form take the same parameters; `n` is the rows of a tile of the
// prefill form, a wave of experts' places, or keep's layer.
#pragma once
#include "kernels/cuda/absorb.cuh"
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/delta_chunk.cuh"
#include "kernels/cuda/embed.cuh"
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/head.cuh"
#include "kernels/cuda/moe.cuh"
#include "kernels/cuda/out.cuh"
#include "kernels/cuda/pass.cuh"
#include "kernels/cuda/qkv.cuh"
#include "kernels/cuda/read.cuh"
#include "kernels/cuda/sample.cuh"
#include "kernels/cuda/up.cuh"

#define ENTRY(name, threads, blocks)                                                               \
    KERNEL __launch_bounds__(threads, blocks)                                                      \
        name(const __grid_constant__ State s, const __grid_constant__ Batch b, const Layer *layer, \
             int n)

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

#if POST_NORMS
#define POST_NORM_ENTRIES                                                                          \
    ENTRY(attn_post_kernel, PREFILL_THREADS, 2) { add_normed(s, layer->attn_post); }               \
    ENTRY(ffn_post_kernel, PREFILL_THREADS, 2) { add_normed(s, layer->ffn_post); }
#else
#define POST_NORM_ENTRIES
#endif

#define KEEP()                                                                                     \
    ENTRY(keep_kernel, PREFILL_THREADS, 2) { keep(s, b, n, false); }                               \
    ENTRY(keep_pending_kernel, PREFILL_THREADS, 2) { keep(s, b, n, true); }                        \
    POST_NORM_ENTRIES                                                                              \
    DELTA_ENTRIES                                                                                  \
    ROUTED_ENTRIES

#if DELTA_HEADS
#define DELTA_ENTRIES                                                                              \
    ENTRY(delta_score_kernel, PREFILL_THREADS, 2) { delta_score_prefill(s, b, layer); }            \
    ENTRY(delta_gates_kernel, PREFILL_THREADS, 2) { delta_gates_prefill(s, b, layer); }            \
    ENTRY(delta_mix_kernel, PREFILL_THREADS, 2) { delta_mix_prefill(s, b, layer); }                \
    ENTRY(delta_chunk_kernel, DELTA_CHUNK_THREADS, 4) { delta_chunk_prefill(s, b); }               \
    ENTRY(delta_rule_kernel, DELTA_THREADS, 1) { delta_rule_prefill(s, b, layer); }
#else
#define DELTA_ENTRIES
#endif

#define PROJECTION(name, linear, f, out, place)                                                    \
    ENTRY(name##_prepare, PREFILL_THREADS, 2) { normed_prepare<f>(s, b, layer, &layer->linear); }   \
    PREFILL_ENTRY(name##_prefill) { out_prefill<f, DIM, true, out>(s, b, &layer->linear, delta_rows(s, b.rows).place, n); }
#define DELTA(f, g)                                                                                \
    PROJECTION(delta_##f##_##g##_in, delta_in, f, DELTA_IN, in)                                    \
    PROJECTION(delta_##f##_##g##_z, delta_z, g, DELTA_VALUES, z)
#define DELTA_GROUPED(f) PROJECTION(delta_##f##_in, delta_in, f, DELTA_IN, in)
#define DELTA_OUT(f)                                                                               \
    ENTRY(delta_out_##f##_prepare, PREFILL_THREADS, 2) { delta_out_prepare<f>(s, b, layer); }      \
    PREFILL_ENTRY(delta_out_##f##_prefill) { out_prefill<f, DELTA_VALUES, false, DIM>(s, b, &layer->o, s.y, n); }

#define QKV_GATED(q, k, v) QKV(q, k, v)
#define QKV(q, k, v)                                                                               \
    ENTRY(qkv_##q##_##k##_##v##_prepare, PREFILL_THREADS, 2) { qkv_prepare<q, k, v>(s, b, layer); } \
    PREFILL_ENTRY(qkv_##q##_##k##_##v##_prefill) { qkv_prefill<q, k, v>(s, b, layer, n); }

#if KV_LATENT
// A linear layer of latent attention, from `from` or the normed x to OUT columns of `to`.
#define LATENT_ENTRIES(name, f, prepare, IN, OUT, linear, to)                                      \
    ENTRY(latent_##name##_prepare, PREFILL_THREADS, 2) { prepare; }                                \
    PREFILL_ENTRY(latent_##name##_prefill) { out_prefill<f, IN, true, OUT>(s, b, linear, to, n); }
#define LATENT(qa, kv, qb)                                                                         \
    LATENT_ENTRIES(qa##_##kv##_##qb##_q_a, qa, normed_prepare<qa>(s, b, layer, &layer->q_a), DIM, Q_LATENT, &layer->q_a, s.y) \
    LATENT_ENTRIES(qa##_##kv##_##qb##_kv_a, kv, normed_prepare<kv>(s, b, layer, &layer->kv_a), DIM, LATENT_ROW, &layer->kv_a, latent_rows(s, b)) \
    LATENT_ENTRIES(qa##_##kv##_##qb##_q_b, qb, (out_prepare<qb, Q_LATENT>(s, b, &layer->q_b, s.y)), Q_LATENT, HEADS * QUERY_DIM, &layer->q_b, query_rows(s, b))
#define LATENT_DIRECT(q, kv)                                                                       \
    LATENT_ENTRIES(direct_##q##_##kv##_q_b, q, normed_prepare<q>(s, b, layer, &layer->q_b), DIM, HEADS * QUERY_DIM, &layer->q_b, query_rows(s, b)) \
    LATENT_ENTRIES(direct_##q##_##kv##_kv_a, kv, normed_prepare<kv>(s, b, layer, &layer->kv_a), DIM, LATENT_ROW, &layer->kv_a, latent_rows(s, b))
#define LATENT_OUT(f)                                                                              \
    ENTRY(latent_out_##f##_prepare, PREFILL_THREADS, 2) { out_prepare<f, ATTENDED>(s, b, &layer->o, s.y); } \
    PREFILL_ENTRY(latent_out_##f##_prefill) { out_prefill<f, ATTENDED, false, DIM>(s, b, &layer->o, s.y, n); }

#if QUANTIZED_CACHE
#define QUANTIZED_ENTRIES                                                                          \
    ENTRY(latent_quantized_16_kernel, 256, 1) { latent_prefill<true, 16>(s, b, layer); }           \
    ENTRY(latent_quantized_32_kernel, 256, 1) { latent_prefill<true, 32>(s, b, layer); }
#else
#define QUANTIZED_ENTRIES
#endif

#define ATTEND()                                                                                   \
    ENTRY(latent_norm_kernel, PREFILL_THREADS, 2) { latent_norm(s, b, layer); }                    \
    ENTRY(latent_queries_kernel, 128, 3) { map_latents<false>(s, b, layer); }                      \
    ENTRY(latent_values_kernel, 128, 3) { map_latents<true>(s, b, layer); }                        \
    ENTRY(latent_attend_16_kernel, 256, 1) { latent_prefill<false, 16>(s, b, layer); }             \
    ENTRY(latent_attend_32_kernel, 256, 1) { latent_prefill<false, 32>(s, b, layer); }             \
    QUANTIZED_ENTRIES
#else
#if QUANTIZED_CACHE
#define QUANTIZED_ENTRIES                                                                          \
    ENTRY(attend_quantized_kernel, 128, HEAD_DIM > 128 ? 1 : 3) { attend_prefill<true>(s, b, layer); }
#else
#define QUANTIZED_ENTRIES
#endif

#define ATTEND()                                                                                   \
    ENTRY(attend_prefill_kernel, 128, HEAD_DIM > 128 ? 1 : 3) { attend_prefill<false>(s, b, layer); } \
    QUANTIZED_ENTRIES                                                                              \
    ENTRY(qkv_finish_kernel, PREFILL_THREADS, 2) { qkv_finish(s, b, layer); }
#endif

#define OUT_ENTRIES(name, f, post)                                                                 \
    ENTRY(name##_##f##_prepare, PREFILL_THREADS, 2) { out_prepare<f, Q_DIM>(s, b, &layer->o, s.a); } \
    PREFILL_ENTRY(name##_##f##_prefill) { out_prefill<f, Q_DIM, post, DIM>(s, b, &layer->o, s.y, n); }
#define OUT(f) OUT_ENTRIES(out, f, false)
#define OUT_NORM(f) OUT_ENTRIES(out_norm, f, true)
#define OUT_GATED(f)                                                                               \
    ENTRY(out_gated_##f##_prepare, PREFILL_THREADS, 2) { out_gated_prepare<f>(s, b, &layer->o); }  \
    PREFILL_ENTRY(out_gated_##f##_prefill) { out_prefill<f, Q_DIM, false, DIM>(s, b, &layer->o, s.y, n); }

#define UP(g, u)                                                                                   \
    ENTRY(up_##g##_##u##_prepare, PREFILL_THREADS, 2) { up_prepare<g, u>(s, b, layer, &layer->gate); } \
    PREFILL_ENTRY(up_##g##_##u##_prefill) { up_prefill<g, u, FFN_DIM>(s, b, layer, &layer->gate, n, LAYER_FFN_DIM(layer)); }

#define UP_ALONE(u)                                                                                \
    ENTRY(up_alone_##u##_prepare, PREFILL_THREADS, 2) { up_alone_prepare<u>(s, b, layer); }        \
    PREFILL_ENTRY(up_alone_##u##_prefill) { up_alone_prefill<u>(s, b, layer, n); }

#define DOWN_ENTRIES(name, f, post)                                                                \
    ENTRY(name##_##f##_prepare, PREFILL_THREADS, 2) { out_prepare<f, FFN_DIM>(s, b, &layer->down, s.h, LAYER_FFN_DIM(layer)); } \
    PREFILL_ENTRY(name##_##f##_prefill) { out_prefill<f, FFN_DIM, post, DIM>(s, b, &layer->down, s.y, n, LAYER_FFN_DIM(layer)); }
#define DOWN(f) DOWN_ENTRIES(down, f, false)
#define DOWN_NORM(f) DOWN_ENTRIES(down_norm, f, true)

#if EXPERTS
#define ROUTED_ENTRIES                                                                             \
    ENTRY(score_kernel, PREFILL_THREADS, 2) { score_prefill(s, b, layer); }                        \
    ENTRY(choose_kernel, PREFILL_THREADS, 2) { choose_prefill(s, b, layer); }                      \
    ENTRY(group_kernel, PREFILL_THREADS, 2) { group_prefill(s, b); }                               \
    ENTRY(combine_kernel, PREFILL_THREADS, 2) { combine_prefill(s, b, layer, n); }
#else
#define ROUTED_ENTRIES
#endif

// Gate, up and down of experts; n: the wave.
#define MOE(g, u, d)                                                                               \
    ENTRY(experts_##g##_##u##_##d##_up_prepare, PREFILL_THREADS, 2) { experts_up_prepare<g, u>(s, b, layer, n); } \
    PREFILL_ENTRY(experts_##g##_##u##_##d##_up_prefill) { experts_up_prefill<g, u>(s, b, layer, n); } \
    ENTRY(experts_##g##_##u##_##d##_down_prepare, PREFILL_THREADS, 2) { experts_down_prepare<d>(s, b, layer, n); } \
    PREFILL_ENTRY(experts_##g##_##u##_##d##_down_prefill) { experts_down_prefill<d>(s, b, layer, n); }

// Of the shared expert.
#define SHARED(g, u, d)                                                                            \
    ENTRY(shared_##g##_##u##_##d##_up_prepare, PREFILL_THREADS, 2) { up_prepare<g, u>(s, b, layer, &layer->shared_gate); } \
    PREFILL_ENTRY(shared_##g##_##u##_##d##_up_prefill) { up_prefill<g, u, SHARED_DIM>(s, b, layer, &layer->shared_gate, n, SHARED_DIM); } \
    ENTRY(shared_##g##_##u##_##d##_down_prepare, PREFILL_THREADS, 2) { out_prepare<d, SHARED_DIM>(s, b, &layer->shared_down, s.h); } \
    PREFILL_ENTRY(shared_##g##_##u##_##d##_down_prefill) { out_prefill<d, SHARED_DIM, true, DIM>(s, b, &layer->shared_down, s.y, n); }

#define HEAD(f)                                                                                    \
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

// The decode form: one step, or all of STEP_TABLE; for up to NARROW_ROWS rows, and for more; for
// keys and values of 16 bits, and of fewer. `room` is shared memory besides the ring's.
#define DECODE_FORM(ending, wide, quantized)                                                       \
    KERNEL __launch_bounds__(DECODE_THREADS, 1)                                                    \
        decode_step##ending(const __grid_constant__ State s, const __grid_constant__ Batch b,      \
                            const __grid_constant__ Step step, int room)                           \
    {                                                                                              \
        run_steps<wide, quantized>(s, b, &step, 1, 0, room);                                       \
    }                                                                                              \
    KERNEL __launch_bounds__(DECODE_THREADS, 1) decode_pass##ending(                               \
        const __grid_constant__ State s, const __grid_constant__ Batch b, int room)                \
    {                                                                                              \
        run_steps<wide, quantized>(s, b, STEP_TABLE.step, STEP_TABLE.count, 1, room);              \
    }
#if QUANTIZED_CACHE
#define QUANTIZED_FORMS                                                                            \
    DECODE_FORM(_quantized, false, true) DECODE_FORM(_quantized_wide, true, true)
#else
#define QUANTIZED_FORMS
#endif
#define DECODE() DECODE_FORM(, false, false) DECODE_FORM(_wide, true, false) QUANTIZED_FORMS
