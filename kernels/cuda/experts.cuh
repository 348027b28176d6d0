// A routed layer in the decode form, four steps after attention:
//   route         scores of the experts for every row; gate and up of the shared expert
//   experts_up    experts of the rows; down of the shared expert; gate and up of the chosen experts
//   experts_down  down of the chosen experts
//   combine       x += the experts' outputs, weighted
// The chunks of all chosen experts together are cut into equal ranges, one for each block of
// threads, which takes its range in plans of a few linear layers with equally many rows. Until a
// row's experts are known the copying warp can only fetch the shared expert; experts_down it plans
// ahead like any other step.
#pragma once
#include "kernels/cuda/route.cuh"

#if EXPERTS

// --- route ---------------------------------------------------------------------------------------

// By the copying warp: has the router's weights come nearer.
DEVICE void expect_router(const Layer *layer)
{
    expect_scores(score_count(layer),
                  [&](int number) { return router_row(decode_state(), layer, number); });
}

// Adds the scores of all rows to their sums. Stores the new x, unless a linear layer of this step
// does that.
DEVICE void score_rows(const Plan &p)
{
    const State &s = decode_state();
    add_scores<SCORES>(p, threadIdx.x / WARP, score_count(p.layer),
                       work_at<uint64_t>(s, work_of(s).sums_route), p.count == 0,
                       [&](int number) { return router_row(s, p.layer, number); });
}

// --- inputs --------------------------------------------------------------------------------------

DEVICE const Routed &routed_layer(const Plan &p)
{
    return decode_shared()->layer[p.step.layer % 2];
}

// Gate or up of a part's expert.
DEVICE Linear expert_pending(const Plan &p, const Part &part, int i)
{
    return of_expert(i ? routed_layer(p).up : routed_layer(p).gate, routed_layer(p).stride,
                     part.expert);
}

DEVICE void load_expert(const Plan &p, const Part &part, int row, int block, const Constants &c,
                        float v[4])
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    if (p.step.kind == STEP_SHARED_DOWN) {
        load_activated<SHARED_DIM>(
            p, part, sums_at(s, w.sums_shared) + (uint64_t)row * UP_COLUMNS(SHARED_DIM), row, block,
            c, v);
        return;
    }
    int place = part.first + row;
    row = row_of_place(place);
    if (p.step.kind == STEP_EXPERTS_UP)
        load4_fresh<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * (threadIdx.x % WARP), v);
    else
        load_activated<EXPERT_DIM>(p, part,
                                   sums_at(s, w.sums_up) + (uint64_t)place * UP_COLUMNS(EXPERT_DIM),
                                   row, block, c, v);
}

// --- plans ---------------------------------------------------------------------------------------

// By one thread, a step ahead: what the steps of a routed layer read of it.
DEVICE void plan_layer(const Step &step)
{
    const Layer *layer = decode_state().layers + step.layer;
    Routed *r = &decode_shared()->layer[step.layer % 2];
    r->gate = layer->gate, r->up = layer->up, r->down = layer->down;
    r->shared_down = layer->shared_down;
    r->stride = layer->expert_stride;
    r->router_bias = layer->router_bias, r->choice_bias = layer->choice_bias;
    r->shared_weight = layer->shared_weight;
}

// What of a step is known before the experts are: the shared one's layers.
DEVICE void plan_routed(const Decoder &d, Plan *p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    const Layer *layer = p->layer;
    p->started = 1;
    // There are more plans between two even layers than are made ahead.
    if (p->step.kind == STEP_ROUTE || !d.together) plan_layer(p->step);
    switch (p->step.kind) {
    case STEP_ROUTE:
        p->in = DIM, p->sums = w.sums_shared, p->width = UP_COLUMNS(SHARED_DIM);
        if (p->step.format[0]) {
            plan_part(p, layer->shared_gate, SHARED_DIM, 0);
            plan_part(p, layer->shared_up, SHARED_DIM, PADDED(SHARED_DIM));
        }
        p->x = work_at<float>(s, w.middle), p->new_x = s.x, p->norm = layer->ffn_norm;
        if (!layer->attn_post) p->pending[p->pending_count++] = layer->o;
        p->pending_sums = w.sums_out;
        break;
    case STEP_EXPERTS_UP:
        p->step.kind = STEP_SHARED_DOWN;
        p->old_sums = w.sums_out, p->old_count = p->rows * PADDED(DIM);
        p->in = SHARED_DIM, p->width = PADDED(DIM), p->norm = layer->ffn_norm;
        p->sums = w.sums_down + (uint64_t)p->rows * ACTIVE_EXPERTS * PADDED(DIM) * 8;
        if (!p->step.format[2]) break;
        p->step.format[0] = p->step.format[2];
        plan_part(p, layer->shared_down, DIM, 0);
        p->pending[0] = layer->shared_gate, p->pending[1] = layer->shared_up;
        p->pending_count = 2;
        break;
    case STEP_EXPERTS_DOWN:
        p->old_sums = w.sums_route;
        p->old_count =
            (w.sums_shared - w.sums_route) / 8 + (uint64_t)p->rows * UP_COLUMNS(SHARED_DIM);
        break;
    }
}

// Chunks of one expert in experts_up or experts_down, and how many of them are gate's or down's.
typedef struct {
    int all, first;
} ExpertChunks;

DEVICE ExpertChunks expert_chunks(const Step &step)
{
    bool up = step.kind == STEP_EXPERTS_UP;
    ExpertChunks c;
    c.first = up ? BLOCKS(EXPERT_DIM) * SLICES(step.format[0], DIM)
                 : BLOCKS(DIM) * SLICES(step.format[0], EXPERT_DIM);
    c.all = c.first + (up ? BLOCKS(EXPERT_DIM) * SLICES(step.format[1], DIM) : 0);
    return c;
}

// Where this block's share of the chunks of `experts` chosen ones begins, or that of the next one.
DEVICE int share_begin(const Step &step, int experts, int block)
{
    return share_of(expert_chunks(step).all * experts, block);
}

// By one thread: plans chunks from `at` on, up to `end`, of as many experts as have equally many
// rows and fit in a plan; which experts those are is left to name_experts. A single row's plan can
// so be made before its experts are known. Returns where the next plan begins.
DEVICE int plan_experts(const Decoder &d, const Step &step, int at, int end, Plan *p)
{
    const State &s = decode_state();
    const Work &w = work_of(s);
    const uint16_t *places = routing()->first;
    bool alone = decode_batch().rows == 1; // its places are its experts' numbers
    const ExpertChunks chunks = expert_chunks(step);
    const Layer *layer = s.layers + step.layer;
    bool up = step.kind == STEP_EXPERTS_UP;
    p->step = step;
    p->layer = layer;
    p->count = p->chunks = p->units = 0;
    p->started = 1;
    p->in = up ? DIM : EXPERT_DIM;
    p->width = up ? UP_COLUMNS(EXPERT_DIM) : PADDED(DIM);
    p->sums = up ? w.sums_up : w.sums_down;
    p->norm = layer->ffn_norm;
    p->pending_count = up ? 0 : 2; // expert_pending
    while (at < end && p->count < 3) {
        int index = at / chunks.all, within = at - index * chunks.all;
        int first = alone ? index : places[index], rows = alone ? 1 : places[index + 1] - first;
        if (p->count && rows != p->rows) break;
        p->rows = rows;
        bool second = within >= chunks.first;
        int from = second ? within - chunks.first : within;
        int most = second ? chunks.all - chunks.first : chunks.first;
        int to = end - at < most - from ? from + end - at : most;
        const Linear &linear = !up ? layer->down : second ? layer->up : layer->gate;
        Part *part = &p->part[p->count];
        p->step.format[p->count] = step.format[second];
        plan_part(p, linear, up ? EXPERT_DIM : DIM,
                  first * p->width + (second ? PADDED(EXPERT_DIM) : 0));
        part->first = first;
        plan_share(p, part, from, to);
        at += to - from;
    }
    plan_held(d, p);
    p->more = at < end;
    return at;
}

// By one thread: the experts of a plan's parts.
DEVICE void name_experts(Plan *p)
{
    const Routing *r = routing();
    for (int i = 0; i < p->count; i++) {
        Part *part = &p->part[i];
        part->expert = r->expert[r->route[part->first]];
        part->linear = of_expert(part->linear, routed_layer(*p).stride, part->expert);
    }
}

// Until the rows' experts are listed.
DEVICE void wait_routed(Decoder &d)
{
    barrier_wait(&decode_shared()->routed, d.routings++ % 2);
}

// By the copying warp, after what plan_routed planned.
DEVICE void copy_experts(Decoder &d, const Step &step)
{
    if (step.kind == STEP_COMBINE) return;
    // Within one launch of all steps, experts_up's list is still there for experts_down. A single
    // row's first plan is made before the list is there.
    bool waits = step.kind == STEP_EXPERTS_UP || !d.together, alone = decode_batch().rows == 1;
    if (waits && !alone) waits = false, wait_routed(d);
    int experts = alone ? ACTIVE_EXPERTS : routing()->experts;
    int at = share_begin(step, experts, blockIdx.x),
        end = share_begin(step, experts, blockIdx.x + 1);
    bool any = at < end;
    do {
        Plan *plan = plan_slot(d);
        if (any) {
            plan_begin(d);
            if (threadIdx.x % WARP == 0) at = plan_experts(d, step, at, end, plan);
            at = (int)shuffle((uint32_t)at, 0);
        }
        if (waits) waits = false, wait_routed(d);
        if (!any) break;
        if (threadIdx.x % WARP == 0) name_experts(plan);
        plan_ready(d);
        copy_parts(d, *plan);
        d.plans++;
    } while (at < end);
}

// --- steps ---------------------------------------------------------------------------------------

// x += the products of the row's experts, by weight, in the order of the experts; then the shared
// one's. A block of threads takes 128 channels of a row, a warp an expert.
DEVICE void combine(const Plan &p)
{
    const State &s = decode_state();
    const Routing *r = routing();
    const uint64_t *sums = sums_at(s, work_of(s).sums_down);
    int rows = decode_batch().rows, lane = threadIdx.x % WARP;
    int products = ACTIVE_EXPERTS + (routed_layer(p).shared_down.weights != 0);
    float *weighted = (float *)room(); // (products, BLOCK)
    for (int item = blockIdx.x; item < rows * BLOCKS(DIM); item += gridDim.x) {
        int row = item / BLOCKS(DIM), block = item % BLOCKS(DIM);
        for (int i = threadIdx.x / WARP; i < products; i += MULTIPLIERS / WARP) {
            bool routed = i < ACTIVE_EXPERTS;
            int route = row * ACTIVE_EXPERTS + i;
            int place = routed ? r->place[route] : rows * ACTIVE_EXPERTS + row;
            float weight = routed ? r->weight[route] : r->shared[row], v[4];
            Linear down =
                routed ? of_expert(routed_layer(p).down, routed_layer(p).stride, r->expert[route])
                       : routed_layer(p).shared_down;
            uint2 svh = load_svh(s, down, block);
            read_sums(sums + (uint64_t)place * PADDED(DIM), block, 1, v);
            finish_columns(s, down, svh, block, v);
            *(float4 *)(weighted + i * BLOCK + 4 * lane) =
                make_float4(v[0] * weight, v[1] * weight, v[2] * weight, v[3] * weight);
        }
        multipliers_sync();
        if (threadIdx.x < WARP) {
            float x[4], sum[4] = {0, 0, 0, 0};
            load4_fresh<DIM>(s.x + (uint64_t)row * DIM, block * BLOCK + 4 * lane, x);
            for (int i = 0; i < products; i++) {
                float4 t = *(const float4 *)(weighted + i * BLOCK + 4 * lane);
                sum[0] += t.x, sum[1] += t.y, sum[2] += t.z, sum[3] += t.w;
            }
            for (int i = 0; i < 4; i++) x[i] = sum[i] * RESIDUAL_SCALE + x[i];
            store_x(s, s.x, row, block, x);
        }
        multipliers_sync();
    }
}

// By the multiplying warps: what a step does before its products, and whether plans of experts
// follow that of the step itself.
DEVICE bool begin_routed(Decoder &d, const Step &step, const Plan &plan)
{
    step_start(d, step.kind);
    clear_sums(plan.old_sums, plan.old_count);
    if (step.kind == STEP_ROUTE) {
        score_rows(plan);
        return false;
    }
    if (step.kind == STEP_EXPERTS_UP) {
        choose_rows(routed_layer(plan));
        group_routes();
        if (!d.together && blockIdx.x == 0) keep_routes();
    } else if (!d.together) {
        recall_routes();
        group_routes();
    }
    if (step.kind == STEP_COMBINE) {
        combine(plan);
        return false;
    }
    int experts = routing()->experts;
    return share_begin(step, experts, blockIdx.x) < share_begin(step, experts, blockIdx.x + 1);
}
#endif
