// What most models do without. constants.h defines these for a model that has them; here are the
// values that mean nothing is done.
#pragma once

#ifndef EMBED_SCALE
#define EMBED_SCALE 1.0f // on rows of the embedding table
#endif
#ifndef RESIDUAL_SCALE
#define RESIDUAL_SCALE 1.0f // on what a step adds to the residual stream
#endif
#ifndef LOGIT_SCALE
#define LOGIT_SCALE 1.0f
#endif
#ifndef LOGIT_SOFTCAP
#define LOGIT_SOFTCAP 0.0f // c: logits become c tanh(logit / c)
#endif
#ifndef ATTN_SOFTCAP
#define ATTN_SOFTCAP 0.0f // the same for scores, before softmax
#endif
#ifndef ATTN_SINKS
#define ATTN_SINKS 0 // 1: every head has a score that counts in the softmax, Layer.sinks
#endif
#ifndef POST_NORMS
#define POST_NORMS 0 // 1: some steps norm what they add to the residual stream
#endif
#ifndef PARALLEL
#define PARALLEL 0 // 1: attention and feed-forward both read what their layer begins with
#endif
#ifndef LAYER_NORM
#define LAYER_NORM 0 // 1: norms of the residual stream subtract the mean
#endif

// Norms of the heads of q and k: one weight for every head, LayerNorms of a weight each, or one
// norm over all heads of a row.
enum { HEAD_NORM_SHARED, HEAD_NORM_EACH, HEAD_NORM_ALL };
#ifndef HEAD_NORMS
#define HEAD_NORMS HEAD_NORM_SHARED
#endif

#ifndef ROPES
#define ROPES 1 // tables of ROPE_INVERSE, factors of ROPE_FACTOR
#endif
#ifndef ROPE_EVERYWHERE
#define ROPE_EVERYWHERE 1 // 0: some layers do not turn q and k
#endif
#ifndef QUERY_BETA
#define QUERY_BETA 0.0f // queries grow by 1 + QUERY_BETA ln(1 + floor(position / QUERY_FROM))
#define QUERY_FROM 1
#endif

// Layers with a window, whose keys and values are in POOL_WINDOW; 0: all are in POOL_ALL.
#ifndef WINDOW_LAYERS
#define WINDOW_LAYERS 0
#endif

// Widths that differ between layers come from the layer; KV_HEADS and FFN_DIM are then the most.
#ifndef LAYER_KV_HEADS
#define LAYER_KV_HEADS(layer) KV_HEADS
#endif
#ifndef LAYER_FFN_DIM
#define LAYER_FFN_DIM(layer) FFN_DIM
#endif
#ifndef SKIPS_PARTS
#define SKIPS_PARTS 0 // 1: some layers have no attention, or no feed-forward
#endif

enum { SILU, GELU_TANH, RELU2, XIELU, CLAMPED_SILU };
#ifndef ACTIVATION
#define ACTIVATION SILU
#endif
#ifndef ACT_LIMIT
#define ACT_LIMIT 0.0f // of CLAMPED_SILU: the gate is at most this, up within it, and one is added
#endif

// Experts; those of a layer lie Layer.expert_stride bytes apart.
#ifndef EXPERTS
#define EXPERTS 0
#define ACTIVE_EXPERTS 0
#define EXPERT_DIM 0
#endif
#ifndef SHARED_DIM
#define SHARED_DIM 0 // of the expert that every row passes through
#endif
#ifndef ROUTER_SIGMOID
#define ROUTER_SIGMOID 0 // 1: scores are independent of each other; 0: softmax over all experts
#endif
#ifndef ROUTER_NORMALIZE
#define ROUTER_NORMALIZE 1 // weights of the chosen experts add up to one
#endif
#ifndef ROUTER_SCALE
#define ROUTER_SCALE 1.0f // on the weights
#endif
#ifndef ROUTER_GROUPS
#define ROUTER_GROUPS 1 // of equally many experts, of which only the best are chosen from
#define ROUTER_TOP_GROUPS 1
#endif
#ifndef ROUTER_GROUP_BEST
#define ROUTER_GROUP_BEST 2 // of a group's scores, 1 or 2, add up to what it is worth
#endif

// Latent attention: what is cached of a token are KV_LATENT channels, which stand for the keys and
// values of all heads, and ROPE_DIM turned ones. 0: there is none. Queries come through Q_LATENT
// channels; 0: from the normed x.
#ifndef KV_LATENT
#define Q_LATENT 0
#define KV_LATENT 0
#define NOPE_DIM 0  // key channels of a head that are not turned
#define VALUE_DIM 0 // values of a head
#endif
#ifndef KV_B_FORMAT
#define KV_B_FORMAT f16 // or b16: of what maps latents to keys and values
#endif
#ifndef LATENT_EPS
#define LATENT_EPS NORM_EPS // of the norms of latents
#endif
#define EXPANDED (NOPE_DIM + VALUE_DIM)   // rows of kv_b for one head
#define QUERY_DIM (NOPE_DIM + ROPE_DIM)   // of a head, before it is mapped to latents
#define LATENT_ROW (KV_LATENT + ROPE_DIM) // of kv_a; HEAD_DIM

#ifndef GATED_ATTENTION
#define GATED_ATTENTION 0 // 1: with the queries come gates for what attention gives
#endif

// Gated delta nets. A state is a matrix (KEY_DIM, VALUE_DIM, padded) for each head, and what the
// convolution needs of the last TAPS - 1 tokens.
#ifndef DELTA_HEADS
#define DELTA_HEADS 0 // of values; 0: there is none
#define DELTA_KEY_HEADS 0
#define DELTA_KEY_DIM 0
#define DELTA_VALUE_DIM 0
#define DELTA_TAPS 1
#endif
#ifndef DELTA_BY_KEYS
#define DELTA_BY_KEYS 0 // 1: in the projections, q, k, v and z of one key head lie together
#endif
#define DELTA_KEYS (DELTA_KEY_HEADS * DELTA_KEY_DIM)
#define DELTA_VALUES (DELTA_HEADS * DELTA_VALUE_DIM)
// Widths of the first projection, and of the part of it that goes through the convolution.
#define DELTA_IN (2 * DELTA_KEYS + (DELTA_BY_KEYS ? 2 : 1) * DELTA_VALUES)
#define CONV_DIM (2 * DELTA_KEYS + DELTA_VALUES)
#define DELTA_COLUMNS ((DELTA_VALUE_DIM + 15) / 16 * 16)
#define DELTA_MATRICES ((size_t)DELTA_HEADS * DELTA_KEY_DIM * DELTA_COLUMNS)

// Of the layers, those with keys and values, and those with a state, are numbered by Layer.kept.
#ifndef CACHE_LAYERS
#define CACHE_LAYERS LAYERS
#define STATE_LAYERS 0
#endif
#define LAYER_STATE (DELTA_MATRICES + (DELTA_TAPS - 1) * CONV_DIM) // floats

// What a row of State.h has room for.
#define WIDER(a, b) ((a) > (b) ? (a) : (b))
#define H_DIM WIDER(FFN_DIM, WIDER(ACTIVE_EXPERTS *EXPERT_DIM, SHARED_DIM))
