// A pass of the decode form: its steps, what each reads and leaves, one after the other.
#pragma once
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/embed.cuh"
#include "kernels/cuda/head.cuh"
#include "kernels/cuda/latent.cuh"
#include "kernels/cuda/skips.cuh"
#include "kernels/cuda/up.cuh"

// --- inputs --------------------------------------------------------------------------------------
// `qkv`, `up` and `head` read the residual stream: x, to which products of the step before are
// still to be added, unless attention and feed-forward are parallel and a step of its own does
// that. x lies in s.x before attention and in `middle` after it. They multiply with the norm's
// weights but not with its factor, which is applied to their products: the sums of squares are
// complete only then. Who owns a block stores the new x and its square.

DEVICE bool reads_stream(const Plan &p)
{
    return p.step.kind == STEP_QKV || p.step.kind == STEP_UP || p.step.kind == STEP_UP_ALONE ||
           p.step.kind == STEP_HEAD || p.step.kind == STEP_ROUTE ||
           p.step.kind == STEP_EXPERTS_UP || (DELTA_HEADS && p.step.kind == STEP_DELTA_IN);
}

// The columns of a row of the sums that a layer adds to in `up` and in `down`.
DEVICE int up_sums(const Layer *layer)
{
    return EXPERTS && layer->router ? ACTIVE_EXPERTS * UP_COLUMNS(EXPERT_DIM) : UP_COLUMNS(FFN_DIM);
}

DEVICE int down_sums(const Layer *layer)
{
    return EXPERTS && layer->router ? DOWN_SUMS : PADDED(DIM);
}

// The layer before one; before the first, the last one of the pass before.
DEVICE const Layer *layer_before(const State &s, int layer)
{
    return s.layers + (layer + LAYERS - 1) % LAYERS;
}

// Routed layers (experts.cuh).
#if EXPERTS
DEVICE Linear expert_pending(const Plan &p, const Part &part, int i);
DEVICE void load_expert(const Plan &p, const Part &part, int row, int block, const Constants &c,
                        float v[4]);
DEVICE void plan_routed(const Decoder &d, Plan *p);
DEVICE void expect_router(const Layer *layer);
DEVICE void copy_experts(Decoder &d, const Step &step);
DEVICE bool begin_routed(Decoder &d, const Step &step, const Plan &plan);
#endif

// Gated delta nets (delta.cuh).
#if DELTA_HEADS
DEVICE void expect_gates(const Layer *layer);
DEVICE void expect_delta(const Layer *layer);
DEVICE void score_gates(const Plan &p);
DEVICE void keep_tokens(const Plan &p);
DEVICE void load_delta(const Plan &p, int row, int block, float v[4]);
FUNCTION void decode_delta(int together, int steps, const Plan &p);
#endif

// Whether a step after STEP_ROUTE, or that one, is of a routed layer.
DEVICE bool is_routed(const Step &step)
{
    return !DELTA_HEADS || step.kind < STEP_DELTA_IN;
}

DEVICE void step_begun(const Plan &p)
{
#if DELTA_HEADS
    if (p.step.kind == STEP_DELTA_IN) score_gates(p);
    if (p.step.kind == STEP_DELTA_OUT) keep_tokens(p);
#endif
}

// The layer whose sums a part's input is made of.
#if EXPERTS
DEVICE Linear pending_of(const Plan &p, const Part &part, int i)
{
    return p.step.kind == STEP_EXPERTS_DOWN ? expert_pending(p, part, i) : p.pending[i];
}
#else
DEVICE const Linear &pending_of(const Plan &p, const Part &, int i)
{
    return p.pending[i];
}
#endif

DEVICE void load_constants(const Plan &p, const Part &part, int block, Constants *c)
{
    const State &s = decode_state();
    int channel = block * BLOCK + 4 * (threadIdx.x % WARP);
    if (block >= BLOCKS(p.in)) return;
    c->in[0] = c->in[1] = c->in[2] = c->in[3] = 1;
    if (part.linear.suh) {
        load4_half(weights_at<uint16_t>(s, part.linear.suh) + channel, c->in);
#pragma unroll
        for (int i = 0; i < 4; i++) c->in[i] *= HADAMARD_SCALE;
    }
    if (reads_stream(p) && p.norm) {
        float norm[4];
        load4<DIM>(weights_at<float>(s, p.norm), channel, norm);
#pragma unroll
        for (int i = 0; i < 4; i++) c->in[i] *= norm[i];
    }
    if (p.pending_count > 0) c->svh[0] = load_svh(s, pending_of(p, part, 0), block);
    if (p.pending_count > 1) c->svh[1] = load_svh(s, pending_of(p, part, 1), block);
}

DEVICE void load_stream(const Plan &p, int row, int block, bool own, const Constants &c, float v[4])
{
    const State &s = decode_state();
    if (p.step.kind == STEP_HEAD) row = decode_batch().output[row];
    load4_fresh<DIM>(p.x + (uint64_t)row * DIM, block * BLOCK + 4 * (threadIdx.x % WARP), v);
    if (p.pending_count) {
        float y[4];
        read_sums(sums_at(s, p.pending_sums) + (uint64_t)row * PADDED(DIM), block, 1, y);
        finish_columns(s, p.pending[0], c.svh[0], block, y);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] = y[i] * RESIDUAL_SCALE + v[i];
    }
    if (PARALLEL) { // x is complete
        const float *squares = work_at<const float>(s, work_of(s).squares);
        float mean = 0;
        if (LAYER_NORM && p.norm) mean = row_moments(squares, row, threadIdx.x % WARP).mean;
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] -= mean;
    } else if (own) {
        store_x(s, p.new_x, row, block, v);
    }
}

// The attention output, where its splits are still to be added.
template <bool QUANTIZED> DEVICE void load_attended(const Plan &p, int row, int block, float v[4])
{
    const State &s = decode_state();
    int position = decode_batch().position[row], channel = block * BLOCK + 4 * (threadIdx.x % WARP);
    int splits = position / SPLIT - first_key(p.layer->window, position) / SPLIT + 1;
    if (KV_LATENT) {
        load4_fresh<ATTENDED>(s.y + (uint64_t)row * ATTENDED, channel, v);
        return;
    }
    if (splits == 1)
        load4_fresh<Q_DIM>(s.a + (uint64_t)row * Q_DIM, channel, v);
    else
        add_splits(s, p.layer, row, channel, splits, v);
    if (QUANTIZED && VALUE_BITS(&s) < 16) turn_channels(v);
    if (GATED_ATTENTION) {
        float gate[4];
        load4_fresh<Q_DIM>(s.y + (uint64_t)row * Q_DIM, channel, gate);
#pragma unroll
        for (int i = 0; i < 4; i++) v[i] *= gate[i];
    }
}

// What gate and up of `width` channels, of WIDTH in their sums, left of a row: act(gate) * up, or
// without a gate act(up).
template <int WIDTH>
DEVICE void load_activated(const Plan &p, const Part &part, const uint64_t *sums, int row,
                           int block, const Constants &c, float v[4], int width = WIDTH)
{
    const State &s = decode_state();
    int lane = threadIdx.x % WARP;
    float factor = 1, y[4] = {1, 1, 1, 1};
    bool gated = p.pending_count > 1;
    // All is asked for before anything is waited for.
    read_sums(sums, block, 1, v);
    if (gated) read_sums(sums + PADDED(WIDTH), block, 1, y);
    if (p.norm) factor = norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= factor, y[i] *= gated ? factor : 1;
    finish_columns(s, pending_of(p, part, 0), c.svh[0], block, v);
    if (gated) finish_columns(s, pending_of(p, part, 1), c.svh[1], block, y);
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = block * BLOCK + 4 * lane + i < width
                   ? activate(p.layer, v[i]) * (gated ? lifted(y[i]) : 1)
                   : 0;
}

template <bool QUANTIZED>
DEVICE void load_block(const Plan &p, const Part &part, int row, int block, bool own,
                       const Constants &c, float v[4])
{
    const State &s = decode_state();
    if (p.step.kind == STEP_OUT)
        load_attended<QUANTIZED>(p, row, block, v);
    else if (p.step.kind == STEP_DOWN)
        load_activated<FFN_DIM>(p, part,
                                sums_at(s, p.pending_sums) + (uint64_t)row * UP_COLUMNS(FFN_DIM),
                                row, block, c, v, LAYER_FFN_DIM(p.layer));
#if Q_LATENT
    else if (p.step.kind == STEP_LATENT_QUERIES)
        load_queries(p, row, block, v);
#endif
#if DELTA_HEADS
    else if (p.step.kind == STEP_DELTA_OUT)
        load_delta(p, row, block, v);
#endif
#if EXPERTS
    else if (p.step.kind > STEP_ROUTE && is_routed(p.step))
        load_expert(p, part, row, block, c, v);
#endif
    else
        load_stream(p, row, block, own, c, v);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= c.in[i];
}

DEVICE void expect_block(const Plan &p, const Part &part, int block)
{
    const State &s = decode_state();
    if (reads_stream(p)) expect_floats<DIM>(s, p.norm, block);
    for (int i = 0; i < p.pending_count; i++) expect_halves(s, pending_of(p, part, i).svh, block);
}

// --- steps ---------------------------------------------------------------------------------------

// By one thread.
DEVICE void plan_step(const Decoder &d, const Step &step, Plan *p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    uint64_t rows = decode_batch().rows;
    const Layer *layer = s.layers + step.layer;
    float *middle = work_at<float>(s, w.middle);
    p->step = step;
    p->layer = layer;
    p->count = p->pending_count = 0;
    p->rows = step.kind == STEP_HEAD ? decode_batch().outputs : (int)rows;
    p->old_count = 0;
    p->started = 0;
    plan_held(d, p);
    switch (step.kind) {
#if DELTA_HEADS
    case STEP_DELTA_IN:
#endif
    case STEP_QKV:
        p->in = DIM, p->sums = w.sums_qkv, p->width = RAW_DIM;
        if (DELTA_HEADS && step.kind == STEP_DELTA_IN) {
            p->width = DELTA_SUMS;
            plan_part(p, layer->delta_in, DELTA_IN, 0);
            if (!DELTA_BY_KEYS) plan_part(p, layer->delta_z, DELTA_VALUES, DELTA_Z_AT);
        } else if (KV_LATENT) {
            if (Q_LATENT)
                plan_part(p, layer->q_a, Q_LATENT, 0);
            else
                plan_part(p, layer->q_b, HEADS * QUERY_DIM, QUERIES_AT);
            plan_part(p, layer->kv_a, LATENT_ROW, PADDED(Q_LATENT));
        } else {
            plan_part(p, layer->q, Q_WIDE, 0);
            plan_part(p, layer->k, kv_dim_of(layer), PADDED(Q_WIDE));
            plan_part(p, layer->v, kv_dim_of(layer), PADDED(Q_WIDE) + PADDED(KV_DIM));
        }
        p->old_sums = w.sums_up, p->old_count = rows * up_sums(layer_before(s, step.layer));
        p->x = s.x, p->new_x = middle, p->norm = layer->attn_norm;
        if (step.layer > 0 && leaves_down(layer - 1))
            p->pending[p->pending_count++] = layer[-1].down;
        p->pending_sums = w.sums_down;
        break;
#if DELTA_HEADS
    case STEP_DELTA:
        p->old_sums = w.sums_down, p->old_count = rows * down_sums(layer_before(s, step.layer));
        break;
    case STEP_DELTA_OUT:
        p->in = DELTA_VALUES, p->sums = w.sums_out, p->width = PADDED(DIM);
        plan_part(p, layer->o, DIM, 0);
        p->old_sums = w.sums_qkv, p->old_count = rows * DELTA_SUMS;
        break;
#endif
    case STEP_HEADS:
    case STEP_ATTEND: // nothing to multiply, but the layers that are finished
        p->part[0].linear = layer->q, p->part[1].linear = layer->k, p->part[2].linear = layer->v;
        p->norm = layer->attn_norm;
        if (step.kind == STEP_ATTEND)
            p->old_sums = w.sums_down, p->old_count = rows * down_sums(layer_before(s, step.layer));
        break;
#if Q_LATENT
    case STEP_LATENT_QUERIES:
        p->in = Q_LATENT, p->sums = w.sums_qkv, p->width = RAW_DIM;
        plan_part(p, layer->q_b, HEADS * QUERY_DIM, QUERIES_AT);
        p->started = 1;
        break;
#endif
    case STEP_OUT:
        p->in = ATTENDED, p->sums = w.sums_out, p->width = PADDED(DIM);
        plan_part(p, layer->o, DIM, 0);
        p->old_sums = w.sums_qkv, p->old_count = rows * RAW_DIM;
        break;
    case STEP_UP:
    case STEP_UP_ALONE:
        p->in = DIM, p->sums = w.sums_up, p->width = 2 * PADDED(FFN_DIM);
        if (step.kind == STEP_UP) plan_part(p, layer->gate, LAYER_FFN_DIM(layer), 0);
        plan_part(p, layer->up, LAYER_FFN_DIM(layer), p->count ? PADDED(FFN_DIM) : 0);
        p->x = PARALLEL ? s.x : middle, p->new_x = s.x, p->norm = layer->ffn_norm;
        if (!PARALLEL && !layer->attn_post) p->pending[p->pending_count++] = layer->o;
        p->pending_sums = w.sums_out;
        break;
    case STEP_DOWN:
        p->in = LAYER_FFN_DIM(layer), p->sums = w.sums_down, p->width = PADDED(DIM);
        p->norm = layer->ffn_norm;
        plan_part(p, layer->down, DIM, 0);
        p->old_sums = w.sums_out, p->old_count = PARALLEL ? 0 : rows * PADDED(DIM);
        if (layer->gate.weights) p->pending[p->pending_count++] = layer->gate;
        p->pending[p->pending_count++] = layer->up;
        p->pending_sums = w.sums_up;
        break;
    case STEP_HEAD:
        p->in = DIM, p->sums = w.sums_head, p->width = PADDED(VOCAB);
        plan_part(p, s.ends.head, VOCAB, 0);
        p->x = p->new_x = s.x, p->norm = s.ends.norm;
        if (!step.pending) break;
        p->old_sums = w.sums_up, p->old_count = rows * up_sums(layer_before(s, 0));
        p->new_x = middle;
        if (leaves_down(&s.layers[LAYERS - 1]))
            p->pending[p->pending_count++] = s.layers[LAYERS - 1].down;
        p->pending_sums = w.sums_down;
        break;
    case STEP_OUT_POST:
    case STEP_DOWN_POST:
        p->part[0].linear = step.kind == STEP_OUT_POST ? layer->o : layer->down;
        break;
    case STEP_JOIN:
        p->part[0].linear = layer->o, p->part[1].linear = layer->down;
        break;
    case STEP_LOGITS:
        if (step.pending)
            p->old_sums = w.sums_down, p->old_count = rows * down_sums(layer_before(s, 0));
        break;
#if EXPERTS
    default:
        plan_routed(d, p);
#endif
    }
#if SKIPS_PARTS
    plan_skips(p);
#endif
    if (step.phase == PHASE_MULTIPLY) p->old_count = 0;
    if (step.phase != PHASE_PREPARE) plan_ranges(p);
}

// By the copying warps: what finish_heads will read, each a share.
DEVICE void expect_heads(const Plan &p)
{
    const State &s = decode_state();
    int kv = BLOCKS(kv_dim_of(p.layer));
    for (int block = blockIdx.x; block < BLOCKS(Q_WIDE) + 2 * kv; block += gridDim.x) {
        int k = block - BLOCKS(Q_WIDE), v = k - kv;
        expect_halves(s,
                      p.part[k < 0   ? 0
                             : v < 0 ? 1
                                     : 2]
                          .linear.svh,
                      k < 0   ? block
                      : v < 0 ? k
                              : v);
    }
}

// x += norm(what out or down left). A row a block of threads.
DEVICE void decode_post(const Plan &p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    bool out = p.step.kind == STEP_OUT_POST;
    float *x = out ? work_at<float>(s, w.middle) : s.x, *squares = (float *)room();
    const float *norm = weights_at<float>(s, out ? p.layer->attn_post : p.layer->ffn_post);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    for (int row = blockIdx.x; row < decode_batch().rows; row += gridDim.x) {
        const uint64_t *sums =
            sums_at(s, out ? w.sums_out : w.sums_down) + (uint64_t)row * PADDED(DIM);
        float factor = 0;
        for (int round = 0; round < 2; round++) {
            for (int block = warp; block < BLOCKS(DIM); block += MULTIPLIERS / WARP) {
                float v[4], old[4], weight[4], sum = 0;
                read_sums(sums, block, 1, v);
                finish_columns(s, p.part[0].linear, block, v);
                for (int i = 0; i < 4; i++)
                    if (block * BLOCK + 4 * lane + i < DIM) sum += v[i] * v[i];
                if (round == 0) {
                    sum = warp_sum(sum);
                    if (lane == 0) squares[block] = sum;
                    continue;
                }
                load4_fresh<DIM>(x + (uint64_t)row * DIM, block * BLOCK + 4 * lane, old);
                load4<DIM>(norm, block * BLOCK + 4 * lane, weight);
                for (int i = 0; i < 4; i++) v[i] = v[i] * factor * weight[i] + old[i];
                store_x(s, x, row, block, v);
            }
            multipliers_sync();
            factor = 0;
            for (int i = 0; i < BLOCKS(DIM); i++) factor += squares[i];
            factor = RESIDUAL_SCALE / sqrtf(factor / DIM + NORM_EPS);
            multipliers_sync();
        }
    }
}

// x += what out and down left, which both began with the same x. Clears it.
DEVICE void decode_join(const Plan &p)
{
    const State &s = decode_state();
    const uint64_t places[2] = {work_of(s).sums_out, work_of(s).sums_down};
    int lane = threadIdx.x % WARP;
    for (int task = threadIdx.x / WARP * gridDim.x + blockIdx.x;
         task < decode_batch().rows * BLOCKS(DIM); task += MULTIPLIERS / WARP * gridDim.x) {
        int row = task / BLOCKS(DIM), block = task % BLOCKS(DIM);
        float x[4], v[4];
        load4_fresh<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * lane, x);
        for (int i = 0; i < 2; i++) {
            uint64_t *sums = sums_at(s, places[i]) + (uint64_t)row * PADDED(DIM);
            read_sums(sums, block, 1, v);
            uint4 *place = (uint4 *)(sums + block * BLOCK + 4 * lane);
            place[0] = place[1] = make_uint4(0, 0, 0, 0);
            finish_columns(s, p.part[i].linear, block, v);
            for (int j = 0; j < 4; j++) x[j] = v[j] * RESIDUAL_SCALE + x[j];
        }
        store_x(s, s.x, row, block, x);
    }
}

// The copying warp's side of a step.
DEVICE void copy_step(Decoder &d, const Step &step)
{
    Plan *plan = plan_slot(d);
    plan_begin(d);
    if (threadIdx.x % WARP == 0) plan_step(d, step, plan);
    plan_ready(d);
#if EXPERTS
    if (step.kind == STEP_ROUTE) expect_router(plan->layer);
#endif
#if DELTA_HEADS
    if (step.kind == STEP_DELTA_IN) expect_gates(plan->layer);
    if (step.kind == STEP_DELTA) expect_delta(plan->layer);
#endif
    if (!KV_LATENT && step.kind == STEP_ATTEND)
        expect_heads(*plan);
    else if (step.phase == PHASE_PREPARE)
        expect_inputs(*plan);
    else
        copy_parts(d, *plan);
#if KV_LATENT
    if (step.kind == STEP_LATENT_HEADS || step.kind == STEP_LATENT_VALUES)
        expect_expansion(plan->layer, step.kind == STEP_LATENT_VALUES);
#endif
    d.plans++;
#if EXPERTS
    if (step.kind > STEP_ROUTE && is_routed(step)) copy_experts(d, step);
#endif
}

// Which items of attention a block of threads has.
template <bool QUANTIZED> DEVICE void plan_attending(const Layer *layer)
{
#if KV_LATENT
    plan_latents(layer);
#else
    plan_attend<QUANTIZED>(layer);
#endif
}

// The multiplying warps'.
template <bool WIDE, bool QUANTIZED> DEVICE void work_step(Decoder &d, const Step &step)
{
    const Plan *plan = plan_slot(d);
    const Layer *layer = decode_state().layers + step.layer;
    bool more = false; // another plan of the step follows
    plan_wait(d);
    if (WIDE && step.phase == PHASE_PREPARE) {
        prepare_step<QUANTIZED>(d, *plan);
        step_end(d);
        return;
    }
    if (step.kind == STEP_ATTEND && d.together) plan_attending<QUANTIZED>(layer);
#if Q_LATENT
    if (step.kind == STEP_LATENT_QUERIES) begin_queries(d, *plan);
#endif
#if EXPERTS
    if (step.kind >= STEP_ROUTE && is_routed(step)) more = begin_routed(d, step, *plan);
#endif
    while (plan->count || more) {
        if (plan->count) multiply_step<WIDE, QUANTIZED>(d, *plan);
        if (!more) break;
        plan_over(d);
        plan = plan_slot(d);
        plan_wait(d);
        more = plan->more;
    }
#if DELTA_HEADS
    if (step.kind == STEP_DELTA) decode_delta(d.together, d.steps, *plan);
#endif
    if (plan->count || step.kind >= STEP_ROUTE) {
        step_end(d);
        return;
    }
    step_start(d, step.kind);
    if (step.kind == STEP_ATTEND && !d.together) {
        plan_attending<QUANTIZED>(layer); // the positions may just have come
        multipliers_sync();
    }
    clear_sums(plan->old_sums, plan->old_count);
    if (step.kind == STEP_ATTEND) {
#if KV_LATENT
        latent_attend<QUANTIZED>(d, *plan);
    } else if (step.kind == STEP_LATENT_HEADS) {
        latent_heads<QUANTIZED>(*plan);
    } else if (step.kind == STEP_LATENT_VALUES) {
        latent_values<QUANTIZED>(*plan);
#else
        decode_attend<QUANTIZED>(d, *plan);
#endif
    } else if (step.kind == STEP_EMBED) {
        for (int row = blockIdx.x; row < decode_batch().rows; row += gridDim.x)
            embed_row<EMBED_FORMAT>(decode_state(), decode_batch(), row, MULTIPLIERS);
    } else if (POST_NORMS && (step.kind == STEP_OUT_POST || step.kind == STEP_DOWN_POST)) {
        decode_post(*plan);
    } else if (PARALLEL && step.kind == STEP_JOIN) {
        decode_join(*plan);
#if !KV_LATENT
    } else if (step.kind == STEP_HEADS) {
        decode_heads<QUANTIZED>(*plan);
#endif
    } else {
        decode_logits();
    }
    step_end(d);
}

// Where a warp is in the steps, and the phase that the last step with phases came in.
typedef struct {
    int index, phase;
} StepCounter;

// The next step, or phase of one; a launch of one step is given its phase.
template <bool WIDE> DEVICE Step next_step(const Step *steps, int together, StepCounter *at)
{
    Step step = steps[at->index];
    if (WIDE && together && prepared_apart(step.kind)) {
        step.phase = at->phase == PHASE_PREPARE ? PHASE_MULTIPLY : PHASE_PREPARE;
        at->phase = step.phase;
    }
    if (step.phase != PHASE_PREPARE || !together) at->index++;
    return step;
}

// `count` steps from `steps` on, by all threads.
template <bool WIDE, bool QUANTIZED>
DEVICE void run_steps(const State &s, const Batch &b, const Step *steps, int count, int together,
                      int room_bytes)
{
    Decoder d = decoder_open(s, b, together, room_bytes);
    StepCounter at = {0, PHASE_ALL};
    if (multiplies()) {
        multiplier_registers();
#pragma unroll 1
        while (at.index < count)
            work_step<WIDE, QUANTIZED>(d, next_step<WIDE>(steps, together, &at));
        return;
    }
    other_registers();
    if (copies()) {
#pragma unroll 1
        while (at.index < count) copy_step(d, next_step<WIDE>(steps, together, &at));
    } else if (meets() && together) {
#pragma unroll 1
        while (at.index < count) {
            next_step<WIDE>(steps, together, &at);
            meet_others(d, at.index == count);
        }
        meetings_close();
    }
}

// The steps of a pass; forward.cu fills it in from forward.inc.
typedef struct {
    int count;
    Step step[(KV_LATENT ? 11 : 8) * LAYERS + 4];
} StepTable;

#define TABLE_embed(f) t.step[t.count++] = Step{STEP_EMBED, 0, {f}, 0};
#define TABLE_keep(l)
#define TABLE_qkv(q, k, v, l) t.step[t.count++] = Step{STEP_QKV, l, {q, k, v}, 0};
#define TABLE_qkv_gated(q, k, v, l) TABLE_qkv(q, k, v, l)
#define TABLE_latent(qa, kv, qb, l)                                                                \
    t.step[t.count++] = Step{STEP_QKV, l, {qa, kv}, 0};                                            \
    t.step[t.count++] = Step{STEP_LATENT_QUERIES, l, {qb}, 0};                                     \
    t.step[t.count++] = Step{STEP_LATENT_HEADS, l, {}, 0};
#define TABLE_latent_direct(q, kv, l)                                                              \
    t.step[t.count++] = Step{STEP_QKV, l, {q, kv}, 0};                                             \
    t.step[t.count++] = Step{STEP_LATENT_HEADS, l, {}, 0};
#define TABLE_latent_out(f, l)                                                                     \
    t.step[t.count++] = Step{STEP_LATENT_VALUES, l, {}, 0};                                        \
    TABLE_out(f, l)
#define TABLE_attend(l) t.step[t.count++] = Step{STEP_ATTEND, l, {}, 0};
#define TABLE_out(f, l) t.step[t.count++] = Step{STEP_OUT, l, {f}, 0};
#define TABLE_out_gated(f, l) TABLE_out(f, l)
#define TABLE_up(g, u, l) t.step[t.count++] = Step{STEP_UP, l, {g, u}, 0};
#define TABLE_delta(f, z, l)                                                                       \
    t.step[t.count++] = Step{STEP_DELTA_IN, l, {f, z}, 0};                                         \
    t.step[t.count++] = Step{STEP_DELTA, l, {}, 0};
#define TABLE_delta_grouped(f, l) TABLE_delta(f, 0, l)
#define TABLE_delta_out(f, l) t.step[t.count++] = Step{STEP_DELTA_OUT, l, {f}, 0};
#define TABLE_out_norm(f, l) TABLE_out(f, l) t.step[t.count++] = Step{STEP_OUT_POST, l, {}, 0};
#define TABLE_up_alone(u, l) t.step[t.count++] = Step{STEP_UP_ALONE, l, {u}, 0};
#define TABLE_down(f, l)                                                                           \
    t.step[t.count++] = Step{STEP_DOWN, l, {f}, 0};                                                \
    if (PARALLEL) t.step[t.count++] = Step{STEP_JOIN, l, {}, 0};
#define TABLE_down_norm(f, l) TABLE_down(f, l) t.step[t.count++] = Step{STEP_DOWN_POST, l, {}, 0};
#define TABLE_moe_shared(g, u, d, sg, su, sd, l)                                                   \
    t.step[t.count++] = Step{STEP_ROUTE, l, {sg, su}, 0};                                          \
    t.step[t.count++] = Step{STEP_EXPERTS_UP, l, {g, u, sd}, 0};                                   \
    t.step[t.count++] = Step{STEP_EXPERTS_DOWN, l, {d}, 0};                                        \
    t.step[t.count++] = Step{STEP_COMBINE, l, {}, 0};
#define TABLE_moe(g, u, d, l) TABLE_moe_shared(g, u, d, 0, 0, 0, l)
#define TABLE_head(f)                                                                              \
    t.step[t.count++] = Step{STEP_HEAD, 0, {f}, 1};                                                \
    t.step[t.count++] = Step{STEP_LOGITS, 0, {}, 1};
