// A pass of the decode form: its steps, what each reads and leaves, one after the other.
#pragma once
#include "kernels/cuda/attend.cuh"
#include "kernels/cuda/embed.cuh"
#include "kernels/cuda/head.cuh"
#include "kernels/cuda/up.cuh"

// --- inputs --------------------------------------------------------------------------------------

// What `qkv`, `up` and `head` read of the residual stream: x, and what the step before has left to be
// added. x lies in s.x before attention and in `middle` after it.
typedef struct {
    const float *x;
    float *new_x;
    const Linear *pending; // or NULL
    uint64_t sums, norm;
} Stream;

DEVICE Stream stream_of(const Plan &p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    float *middle = work_at<float>(s, w.middle);
    if (p.step.kind == STEP_UP) {
        Stream after = {middle, s.x, &p.layer->o, w.sums_out, p.layer->ffn_norm};
        return after;
    }
    bool head = p.step.kind == STEP_HEAD;
    const Linear *down = head ? &s.layers[LAYERS - 1].down : &p.layer[-1].down;
    Stream before = {s.x, head && !p.step.pending ? s.x : middle, p.step.pending ? down : nullptr,
                     w.sums_down, head ? s.ends.norm : p.layer->attn_norm};
    return before;
}

// The residual stream times a norm's weights, but not its factor, which is applied to the products:
// the sums of squares are complete only then. Who owns a block stores the new x and its square.
DEVICE void load_stream(const Plan &p, int row, int block, bool own, float v[4])
{
    const State &s = decode_state();
    Stream from = stream_of(p);
    float weight[4];
    if (p.step.kind == STEP_HEAD) row = decode_batch().output[row];
    load4<DIM>((const float *)(s.weights + from.norm), block * BLOCK + 4 * (threadIdx.x % WARP), weight);
    add_pending(s, from.pending, sums_at(s, from.sums), from.x, row, block, v);
    if (own) store_x(s, from.new_x, row, block, v);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] *= weight[i];
}

// The attention output, where its splits are still to be added.
DEVICE void load_attended(const Plan &p, int row, int block, float v[4])
{
    const State &s = decode_state();
    int position = decode_batch().position[row], channel = block * BLOCK + 4 * (threadIdx.x % WARP);
    int splits = position / SPLIT - first_key(p.layer->window, position) / SPLIT + 1;
    if (splits == 1)
        load4_fresh<Q_DIM>(s.a + (uint64_t)row * Q_DIM, channel, v);
    else
        add_splits(s, row, channel, splits, v);
}

// What gate and up left: silu(gate) * up.
DEVICE void load_activated(const Plan &p, int row, int block, float v[4])
{
    const State &s = decode_state();
    const uint64_t *sums = sums_at(s, work_of(s).sums_up) + (uint64_t)row * 2 * PADDED(FFN_DIM);
    int lane = threadIdx.x % WARP;
    float factor = norm_factor<DIM>(work_at<const float>(s, work_of(s).squares), row, lane), y[4];
    read_sums(sums, block, factor, v);
    read_sums(sums + PADDED(FFN_DIM), block, factor, y);
    finish_columns(s, p.layer->gate, block, v);
    finish_columns(s, p.layer->up, block, y);
#pragma unroll
    for (int i = 0; i < 4; i++)
        v[i] = block * BLOCK + 4 * lane + i < FFN_DIM ? silu(v[i]) * y[i] : 0;
}

DEVICE void load_block(const Plan &p, int row, int block, bool own, float v[4])
{
    if (p.step.kind == STEP_OUT)
        load_attended(p, row, block, v);
    else if (p.step.kind == STEP_DOWN)
        load_activated(p, row, block, v);
    else
        load_stream(p, row, block, own, v);
}

DEVICE void expect_block(const Plan &p, int block)
{
    const State &s = decode_state();
    if (p.step.kind == STEP_OUT) return;
    if (p.step.kind == STEP_DOWN) {
        expect_halves(s, p.layer->gate.svh, block);
        expect_halves(s, p.layer->up.svh, block);
        return;
    }
    Stream from = stream_of(p);
    expect_floats<DIM>(s, from.norm, block);
    if (from.pending) expect_halves(s, from.pending->svh, block);
}

// --- steps ---------------------------------------------------------------------------------------

// By one thread.
DEVICE void plan_step(const Decoder &d, const Step &step, Plan *p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    uint64_t rows = decode_batch().rows;
    const Layer *layer = s.layers + step.layer;
    p->step = step;
    p->layer = layer;
    p->count = 0;
    p->rows = step.kind == STEP_HEAD ? decode_batch().outputs : (int)rows;
    p->old_count = 0;
    plan_units(d, p);
    switch (step.kind) {
    case STEP_QKV:
        p->in = DIM, p->sums = w.sums_qkv, p->width = RAW_DIM;
        plan_part(p, &layer->q, Q_DIM, 0);
        plan_part(p, &layer->k, KV_DIM, PADDED(Q_DIM));
        plan_part(p, &layer->v, KV_DIM, PADDED(Q_DIM) + PADDED(KV_DIM));
        p->old_sums = w.sums_up, p->old_count = rows * 2 * PADDED(FFN_DIM);
        break;
    case STEP_ATTEND:
        p->old_sums = w.sums_down, p->old_count = rows * PADDED(DIM);
        break;
    case STEP_OUT:
        p->in = Q_DIM, p->sums = w.sums_out, p->width = PADDED(DIM);
        plan_part(p, &layer->o, DIM, 0);
        p->old_sums = w.sums_qkv, p->old_count = rows * RAW_DIM;
        break;
    case STEP_UP:
        p->in = DIM, p->sums = w.sums_up, p->width = 2 * PADDED(FFN_DIM);
        plan_part(p, &layer->gate, FFN_DIM, 0);
        plan_part(p, &layer->up, FFN_DIM, PADDED(FFN_DIM));
        break;
    case STEP_DOWN:
        p->in = FFN_DIM, p->sums = w.sums_down, p->width = PADDED(DIM);
        plan_part(p, &layer->down, DIM, 0);
        p->old_sums = w.sums_out, p->old_count = rows * PADDED(DIM);
        break;
    case STEP_HEAD:
        p->in = DIM, p->sums = w.sums_head, p->width = PADDED(VOCAB);
        plan_part(p, &s.ends.head, VOCAB, 0);
        if (step.pending) p->old_sums = w.sums_up, p->old_count = rows * 2 * PADDED(FFN_DIM);
        break;
    case STEP_LOGITS:
        if (step.pending) p->old_sums = w.sums_down, p->old_count = rows * PADDED(DIM);
        break;
    }
    plan_ranges(p);
}

DEVICE void run_step(Decoder &d, const Step &step)
{
    Plan *plan = &decode_shared()->plan[copies()];
    if (threadIdx.x % MULTIPLIERS == 0) plan_step(d, step, plan);
    if (copies()) {
        warp_sync();
        copy_step(d, *plan);
        warp_sync(); // before the plan changes
        return;
    }
    const Layer *layer = decode_state().layers + step.layer;
    if (step.kind == STEP_ATTEND && d.together) plan_attend(layer);
    step_start(d, step.kind);
    if (step.kind == STEP_ATTEND && !d.together) {
        plan_attend(layer); // the positions may just have come
        multipliers_sync();
    }
    clear_sums(plan->old_sums, plan->old_count);
    switch (step.kind) {
    case STEP_EMBED:
        for (int row = blockIdx.x; row < decode_batch().rows; row += gridDim.x)
            embed_row<EMBED_FORMAT>(decode_state(), decode_batch(), row, MULTIPLIERS);
        break;
    case STEP_HEADS: decode_heads(layer); break;
    case STEP_ATTEND: decode_attend(d, layer); break;
    case STEP_LOGITS: decode_logits(); break;
    default: multiply_step(d, *plan);
    }
    step_end(d);
}

// The steps of a pass; forward.cu fills it in from forward.inc.
typedef struct {
    int count;
    Step step[6 * LAYERS + 4];
} StepTable;

#define TABLE_embed(f) t.step[t.count++] = Step{STEP_EMBED, 0, {f}, 0};
#define TABLE_keep(l)
#define TABLE_qkv(q, k, v, l) t.step[t.count++] = Step{STEP_QKV, l, {q, k, v}, l > 0};
#define TABLE_attend(l) t.step[t.count++] = Step{STEP_ATTEND, l, {}, 0};
#define TABLE_out(f, l) t.step[t.count++] = Step{STEP_OUT, l, {f}, 0};
#define TABLE_up(g, u, l) t.step[t.count++] = Step{STEP_UP, l, {g, u}, 1};
#define TABLE_down(f, l) t.step[t.count++] = Step{STEP_DOWN, l, {f}, 0};
#define TABLE_head(f)                                                                              \
    t.step[t.count++] = Step{STEP_HEAD, 0, {f}, 1};                                                \
    t.step[t.count++] = Step{STEP_LOGITS, 0, {}, 1};
