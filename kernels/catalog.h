// One row per step: what it computes and where it runs. The compiler folds the ops of a model into
// steps by these rows (compiler/fuse.c); tests run every row against plain C.
//
//   STEP(name, formats, pattern, comment, targets, grid)
//
// name      of the step, its files and its functions
// formats   how many weight formats it takes, in the order of the linears in its pattern
// pattern   the ops it replaces, in an order in which they can run, separated by ';'
//             @x               a buffer of State (kernels/types.h), or the cache's @k and @v; the
//                              residual stream @x is a layer's input and must be its result
//             n = kind(a, b)   an op of that kind on those values; where n is a field of
//                              LayerWeights or Plan, the op's weights go there
//             n ?= kind(a)     the op may be missing; n is then a itself
//             kind:detail      only ops with that detail
//             @h = n           the step leaves n in a buffer
//           Values that are not left in a buffer must not be used by any later op.
// comment   follows the names of the tensors in generated code; {act} is the activation's name
// targets   where there is a kernel for it
// grid      blocks of a launch on a GPU; rows: of the batch
//
// A step without a pattern begins every layer.
#pragma once

#define CATALOG(STEP)                                                                              \
    STEP(embed, 1, "embed = embedding(); @x = embed", " -> x; cosines and sines of the positions", \
         "cpu,cuda", "rows")                                                                       \
    STEP(keep, 0, "", "x -> hidden[l], when it is asked for", "cpu,cuda", "rows")                  \
    STEP(qkv_gated, 3,                                                                             \
         "attn_norm = norm(@x); q = linear(attn_norm); k = linear(attn_norm);"                     \
         "v = linear(attn_norm); queries = half:first(q); gates = half:second(q);"                 \
         "q_norm ?= head_norm(queries); k_norm ?= head_norm(k);"                                   \
         "turned_q ?= rope(q_norm); turned_k ?= rope(k_norm);"                                     \
         "@q = turned_q; @k = turned_k; @v = v; @gates = gates",                                   \
         "{rope} -> q, gates, cache", "cpu,cuda", "column blocks of q, k, v; splits of dim")       \
    STEP(qkv, 3,                                                                                   \
         "attn_norm ?= norm(@x); q = linear(attn_norm); k = linear(attn_norm);"                    \
         "v = linear(attn_norm); q_norm ?= head_norm(q); k_norm ?= head_norm(k);"                  \
         "turned_q ?= rope(q_norm); turned_k ?= rope(k_norm);"                                     \
         "@q = turned_q; @k = turned_k; @v = v",                                                   \
         "{rope} -> q, cache", "cpu,cuda", "column blocks of q, k, v; splits of dim")              \
    STEP(latent, 3,                                                                                \
         "attn_norm = norm(@x); q_a = linear(attn_norm); kv_a = linear(attn_norm);"                \
         "q_a_norm = norm(q_a); q_b = linear(q_a_norm);"                                           \
         "latent_q = latent_q(q_b); latent_k = latent_k(kv_a);"                                    \
         "@q = latent_q; @k = latent_k; @v = latent_k",                                            \
         ", rope -> q, cache", "cpu,cuda", "column blocks; heads; splits of depths")                                                          \
    STEP(latent_direct, 2,                                                                         \
         "attn_norm = norm(@x); q_b = linear(attn_norm); kv_a = linear(attn_norm);"                \
         "latent_q = latent_q(q_b); latent_k = latent_k(kv_a);"                                    \
         "@q = latent_q; @k = latent_k; @v = latent_k",                                            \
         ", rope -> q, cache", "cpu,cuda", "column blocks; heads; splits of depths")               \
    STEP(latent_out, 1,                                                                            \
         "latent_v = latent_v(@a); o = linear(latent_v); sum = add(@x, o); @x = sum",              \
         ", + x -> x", "cpu,cuda", "heads, then as out")                                                                  \
    STEP(delta, 2,                                                                                 \
         "attn_norm = norm(@x); delta_in = linear(attn_norm); delta_z = linear(attn_norm);"        \
         "a_log = values(); dt_bias = values(); delta_b = strength(attn_norm);"                    \
         "delta_a = decay(attn_norm, a_log, dt_bias); conv = conv(delta_in);"                      \
         "delta = delta(conv, delta_b, delta_a); @delta = delta; @z = delta_z",                    \
         " -> state, y", "cpu,cuda",                                                               \
         "column blocks of q, k, v, z; heads by parts of their columns")                           \
    STEP(delta_grouped, 1,                                                                         \
         "attn_norm = norm(@x); delta_in = linear(attn_norm); z = delta_z(delta_in);"              \
         "a_log = values(); dt_bias = values(); delta_b = strength(attn_norm);"                    \
         "delta_a = decay(attn_norm, a_log, dt_bias); conv = conv(delta_in);"                      \
         "delta = delta(conv, delta_b, delta_a); @delta = delta; @z = z",                          \
         " -> state, y", "cpu,cuda",                                                               \
         "column blocks of q, k, v, z; heads by parts of their columns")                           \
    STEP(delta_out, 1,                                                                             \
         "delta_norm = gate_norm(@delta, @z); o = linear(delta_norm); sum = add(@x, o);"          \
         "@x = sum",                                                                               \
         ", silu of z, + x -> x", "cpu,cuda", "column blocks of o, splits of heads")               \
    STEP(attend, 0, "sinks ?= values(); a = attend(@q, @k, @v, sinks); @a = a",                    \
         "softmax(q k) v over the cache -> a", "cpu,cuda",                                         \
         "segments, kv heads, splits of the context")                                              \
    STEP(out, 1, "o = linear(@a); sum = add(@x, o); @x = sum", ", + x -> x", "cpu,cuda",           \
         "column blocks of o, splits of heads")                                                    \
    STEP(out_gated, 1,                                                                             \
         "gated = gated(@a, @gates); o = linear(gated); sum = add(@x, o); @x = sum",               \
         ", + x -> x", "cpu,cuda", "column blocks of o, splits of heads")                          \
    STEP(out_norm, 1, "o = linear(@a); attn_post = norm(o); sum = add(@x, attn_post); @x = sum",   \
         ", + x -> x", "cpu,cuda", "as out, then rows")                                            \
    STEP(up, 2,                                                                                    \
         "ffn_norm ?= norm(@x); gate = linear(ffn_norm); up = linear(ffn_norm);"                   \
         "active = act(gate); product = mul(active, up); @h = product",                            \
         ", {act} -> h", "cpu,cuda", "column blocks of gate and up, splits of dim")                \
    STEP(up_alone, 1,                                                                              \
         "ffn_norm ?= norm(@x); up = linear(ffn_norm); alpha_p ?= values(); alpha_n ?= values();"  \
         "active = act(up, alpha_p, alpha_n); @h = active",                                        \
         ", {act} -> h", "cpu,cuda", "column blocks of up, splits of dim")                         \
    STEP(down, 1, "down = linear(@h); sum = add(@x, down); @x = sum", ", + x -> x", "cpu,cuda",    \
         "column blocks of down, splits of ffn_dim")                                               \
    STEP(down_norm, 1,                                                                             \
         "down = linear(@h); ffn_post = norm(down); sum = add(@x, ffn_post); @x = sum",            \
         ", + x -> x", "cpu,cuda", "as down, then rows")                                           \
    STEP(moe, 3,                                                                                   \
         "ffn_norm = norm(@x); router_bias ?= values(); choice_bias ?= values();"                  \
         "router = route(ffn_norm, router_bias, choice_bias);"                                     \
         "expert_gate = experts(ffn_norm, router); expert_up = experts(ffn_norm, router);"         \
         "active = act(expert_gate); lifted ?= clamp(expert_up); product = mul(active, lifted);"   \
         "expert_down = experts(product, router); sum = add(@x, expert_down); @x = sum",           \
         ", {act}, + x -> x", "cpu,cuda", "waves of places of rows; splits of the chosen experts")                                                           \
    STEP(moe_shared, 6,                                                                            \
         "ffn_norm = norm(@x); router_bias ?= values(); choice_bias ?= values();"                  \
         "router = route(ffn_norm, router_bias, choice_bias);"                                     \
         "expert_gate = experts(ffn_norm, router); expert_up = experts(ffn_norm, router);"         \
         "active = act(expert_gate); lifted ?= clamp(expert_up); product = mul(active, lifted);"   \
         "expert_down = experts(product, router);"                                                 \
         "shared_gate = linear(ffn_norm); shared_up = linear(ffn_norm);"                           \
         "active_2 = act(shared_gate); lifted_2 ?= clamp(shared_up);"                              \
         "product_2 = mul(active_2, lifted_2); shared_down = linear(product_2);"                   \
         "shared_weight ?= gate(shared_down, ffn_norm); both = add(expert_down, shared_weight);"   \
         "sum = add(@x, both); @x = sum",                                                          \
         ", {act}, + x -> x", "cpu,cuda", "waves of places of rows; splits of the chosen experts")                                                           \
    STEP(head, 1, "norm = norm(@x); head = linear(norm); @logits = head",                          \
         " -> logits of the output rows", "cpu,cuda", "column blocks of head, splits of dim")

// The activations that the kernels know, by the words of the architecture files.
#define ACTIVATIONS(ACT) ACT(silu) ACT(gelu_tanh) ACT(relu2) ACT(xielu) ACT(clamped_silu)
