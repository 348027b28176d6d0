// The decode form of a linear layer: few rows, so every weight is read once and everything else has
// to hide behind that.
//
// A step is a list of linear layers with one input. Its work is cut into chunks: a slice of k by a
// block of 128 columns, contiguous in memory. Every block of threads takes an equal, contiguous
// range of the step's chunks. One warp copies them, in order, through a ring in shared memory; it
// runs ahead of everything else, across steps and layers, since weights wait for nothing, and
// leaves with each chunk a note of where its activations and sums are. Sixteen warps
//   1. finish what the step before left as sums, for the slices of k they need, and make
//      activations of it: suh, Hadamard, one scale a slice;
//   2. multiply on matrix units, weights as the A operand, up to 8 columns of activations B: eight
//      warps take a chunk, 16 columns each, and two chunks go at a time;
//   3. add their sums in fixed point to global memory.
// With more than NARROW_ROWS rows, 1 would take longer than 2: then every slice is made by one
// block, kept in global memory, and copied from there by those that multiply with it, after a
// meeting. Nothing else is exchanged between blocks: the next step finishes the columns.
// Fixed-point sums are the same in any order, so the result depends neither on the number of blocks
// nor on the other rows, and a step is the same whether it is a launch of its own or a part of one
// launch a token, where the blocks meet between steps; one warp of each does nothing else.
#pragma once
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/wgmma.cuh"

typedef struct {
    int together;               // one launch of all steps: blocks meet between them
    int room_bytes, ring_bytes; // of shared memory
    int ring_at;                // copying warp: end of the last chunk
    uint32_t oldest;            // copying warp: number of the oldest chunk whose place is taken
    uint32_t chunk;             // number of the next chunk in this launch, or of the plan's first
    int steps, plans;           // that are over
    int routings;               // copying warp: routed layers it has come to
    int copies;                 // multiplying warps: times that inputs were copied
} Decoder;

// A step of a pass: what, where, of which weight formats.
typedef struct {
    int kind, layer;
    int format[3];
    int pending; // head, logits: what the last `down` left is still to be added to x
    int phase;
} Step;

// A linear layer of a step, and what of it this block of threads multiplies.
typedef struct {
    Linear linear;
    int format, blocks, column;   // column blocks, and where they begin in the sums of a row
    int slices;                   // of k
    int from, to;                 // chunks of this block of threads
    int first_unit, last_unit;    // that they belong to
    int begin_block, begin_slice; // of the first one, in its unit
    int last_steps;               // k-steps of the last slice
    int expert, first;            // of an expert: which, and the place of its first row
} Part;

// A chunk in the ring or on its way there: all that the multiplying warps need to know of it.
typedef struct {
    int32_t begin, end;     // in the ring
    int32_t columns, facts; // of its slice's activations of row 0, in the room
    int16_t steps, format;
    uint64_t sums; // place of its first column's sum of row 0
} Chunk;

#if EXPERTS
// What the steps of a routed layer read of it once their inputs are there.
typedef struct {
    Linear gate, up, down, shared_down; // of expert 0, and the shared one's
    uint64_t stride, router_bias, choice_bias, shared_weight;
} Routed;
#endif

// A step as planned by each block of threads, ahead of its inputs.
typedef struct {
    Step step;
    const Layer *layer;
    Part part[3];
    int count, in, rows, width;   // parts; input channels; rows; columns of a row of sums
    int held;                     // units whose activations are held at a time
    int chunks, units;            // of this block of threads, through all parts
    uint64_t sums;                // place of the sums it adds to
    uint64_t old_sums, old_count; // sums of an earlier step to clear
    // The input: pending products and a norm; or gate and up.
    Linear pending[2];
    int pending_count;
    uint64_t pending_sums, norm;
    const float *x;
    float *new_x;
    int started; // the step's inputs are there when this is multiplied: a part of a step
    int more;    // another plan of the same step follows
} Plan;

// At the start of shared memory.
typedef struct {
    State s;
    Batch b;
    uint64_t full[RING_CHUNKS], empty[RING_CHUNKS]; // barriers of chunks n, n + RING_CHUNKS, ...
    Chunk chunk[RING_CHUNKS];
    uint64_t planned[PLANS], done[PLANS];                     // barriers of plans
    uint64_t copied;                                          // barrier of inputs
    uint64_t routed;                                          // barrier of Routing
    int last_plan;                                            // of the step that is over
    Plan plan[PLANS];                                         // n, n + PLANS, ...
    uint32_t most[MULTIPLIERS / WARP / 4][2][UNIT_BLOCKS];    // of blocks that four warps prepare
    int32_t first_split[DECODE_ROWS], items[DECODE_ROWS + 1]; // of attend
#if EXPERTS
    Routed layer[2]; // of even and odd ones
#endif
} DecodeShared;
static_assert(sizeof(DecodeShared) <= DECODE_SHARED_BYTES - ROUTING_BYTES, "room of DecodeShared");

DEVICE DecodeShared *decode_shared(void)
{
    return (DecodeShared *)shared_memory();
}

DEVICE const State &decode_state(void)
{
    return decode_shared()->s;
}

DEVICE const Batch &decode_batch(void)
{
    return decode_shared()->b;
}

DEVICE uint64_t *full_barrier(uint32_t chunk)
{
    return decode_shared()->full + chunk % RING_CHUNKS;
}

DEVICE uint64_t *empty_barrier(uint32_t chunk)
{
    return decode_shared()->empty + chunk % RING_CHUNKS;
}

DEVICE int chunk_parity(uint32_t chunk)
{
    return chunk / RING_CHUNKS % 2;
}

DEVICE uint8_t *room(void)
{
    return shared_memory() + DECODE_SHARED_BYTES;
}

DEVICE bool multiplies(void)
{
    return threadIdx.x < MULTIPLIERS;
}

DEVICE bool copies(void)
{
    return threadIdx.x / WARP == MULTIPLIERS / WARP;
}

DEVICE bool meets(void)
{
    return threadIdx.x / WARP == MULTIPLIERS / WARP + 1;
}

// By all threads. room_bytes: of activations or attention; the rest of shared memory is the ring.
DEVICE Decoder decoder_open(const State &s, const Batch &b, int together, int room_bytes)
{
    Decoder d = {together, room_bytes, 0, 0, 0, 0, 0, 0, 0, 0};
    d.ring_bytes = dynamic_shared_bytes() - DECODE_SHARED_BYTES - room_bytes;
    if (threadIdx.x == 0) {
        decode_shared()->s = s, decode_shared()->b = b;
        for (int i = 0; i < RING_CHUNKS; i++) {
            barrier_init(full_barrier(i), COPY_ARRIVALS);
            barrier_init(empty_barrier(i), MULTIPLIERS / WARP / 2);
        }
        for (int i = 0; i < PLANS; i++) {
            barrier_init(&decode_shared()->planned[i], 1);
            barrier_init(&decode_shared()->done[i], 1);
        }
        barrier_init(&decode_shared()->copied, COPY_ARRIVALS);
        barrier_init(&decode_shared()->routed, 1);
        barrier_init_done();
    }
    block_sync();
    grid_release();
    return d;
}

// The launch gives every thread 96 registers; where the chip can move some (sm_90a), those that
// multiply get more, the others need few.
DEVICE void multiplier_registers(void)
{
    registers_more<112>();
}

DEVICE void other_registers(void)
{
    registers_less<32>();
}

// --- plans ---------------------------------------------------------------------------------------
// The copying warp plans every step, for itself and for the others, so that those find their work
// ready when they come. A step with experts has several plans.

DEVICE Plan *plan_slot(const Decoder &d)
{
    return &decode_shared()->plan[d.plans % PLANS];
}

// Before the copying warp writes a plan.
DEVICE void plan_begin(const Decoder &d)
{
    if (d.plans >= PLANS)
        barrier_wait(&decode_shared()->done[d.plans % PLANS], d.plans / PLANS % 2 ^ 1);
}

DEVICE void plan_ready(const Decoder &d)
{
    warp_sync();
    if (threadIdx.x % WARP == 0) barrier_arrive(&decode_shared()->planned[d.plans % PLANS]);
}

// Before the others use it.
DEVICE void plan_wait(const Decoder &d)
{
    barrier_wait(&decode_shared()->planned[d.plans % PLANS], d.plans / PLANS % 2);
}

// After them, where another plan of the same step follows: its activations go to the same room.
DEVICE void plan_over(Decoder &d)
{
    multipliers_sync();
    if (threadIdx.x == 0) barrier_arrive(&decode_shared()->done[d.plans % PLANS]);
    d.plans++;
}

// --- meetings ------------------------------------------------------------------------------------
// Between two steps of a launch of all steps, all blocks meet. The multiplying warps announce that
// they have written what a step writes and go on with what does not depend on it; the meeting warp
// tells the other blocks, waits for them, and lets its own warps begin.

enum { STEP_OVER, STEP_BEGINS };

DEVICE void stamp(const Decoder &d, int word, int kind)
{
    if (d.together && decode_state().trace && threadIdx.x % WARP == 0)
        decode_state().trace[((uint64_t)d.steps * gridDim.x + blockIdx.x) * TRACE_WORDS + word] =
            word == 0 ? (uint64_t)kind : nanoseconds();
}

// Before the multiplying warps read what earlier steps wrote.
DEVICE void step_start(const Decoder &d, int kind)
{
    bool first = threadIdx.x < WARP;
    if (first) stamp(d, 0, kind), stamp(d, 1, 0);
    if (d.steps == 0)
        grid_wait();
    else
        meeting_wait(STEP_BEGINS);
    if (first) stamp(d, 2, 0);
}

// After they have written.
DEVICE void step_end(Decoder &d)
{
    if (EXPERTS && threadIdx.x == 0) decode_shared()->last_plan = d.plans;
    if (d.together) meeting_arrive(STEP_OVER);
    d.steps++;
    d.plans++;
}

// The meeting warp's side.
DEVICE void meet_others(Decoder &d, bool last)
{
    int32_t *count = work_at<int32_t>(decode_state(), work_of(decode_state()).counters);
    meeting_wait(STEP_OVER);
    stamp(d, 4, 0);
    if (threadIdx.x % WARP == 0) {
        int plan = EXPERTS ? decode_shared()->last_plan : d.steps;
        count_release(count);
        barrier_arrive(&decode_shared()->done[plan % PLANS]);
    }
    d.steps++;
    if (last) return;
    if (threadIdx.x % WARP == 0) wait_count(count, d.steps * gridDim.x);
    warp_sync();
    meeting_arrive(STEP_BEGINS);
}

// After the last step, by the meeting warp: the counters are zero for the next launch.
DEVICE void meetings_close(void)
{
    if (threadIdx.x % WARP != 0) return;
    int32_t *counters = work_at<int32_t>(decode_state(), work_of(decode_state()).counters);
    memory_fence(); // between the last wait, which the zero below would undo, and the arrival
    if (atomic_add(counters + 1, 1) != (int)gridDim.x - 1) return;
    memory_fence();
    counters[0] = counters[1] = 0;
}

// --- the ring ------------------------------------------------------------------------------------

// By the copying warp: `chunk`, whose place is found here, and `bytes` of weights.
DEVICE void copy_chunk(Decoder &d, Chunk chunk, const uint8_t *from, int bytes)
{
    Chunk *chunks = decode_shared()->chunk;
    chunk.begin = d.ring_at + bytes > d.ring_bytes ? 0 : d.ring_at;
    chunk.end = chunk.begin + bytes;
    while (d.oldest != d.chunk) {
        const Chunk *old = chunks + d.oldest % RING_CHUNKS;
        // Chunks lie in the ring in the order of their numbers, so the oldest is met first: behind
        // the last one, or where this one starts over at 0.
        bool passed = chunk.begin == 0 && old->begin >= d.ring_at;
        bool taken = old->begin < chunk.end && chunk.begin < old->end;
        if (!passed && !taken && d.chunk - d.oldest < RING_CHUNKS) break;
        barrier_wait(empty_barrier(d.oldest), chunk_parity(d.oldest));
        d.oldest++;
    }
    warp_sync();
    if (threadIdx.x % WARP == 0) chunks[d.chunk % RING_CHUNKS] = chunk;
    warp_sync();
    // Not more than a chunk and a half is under way: other reads wait behind what is.
    uint8_t *place = room() + d.room_bytes + chunk.begin;
    int half = bytes / 2;
    copy_weights_begin(bytes, full_barrier(d.chunk));
    copy_weights(place, from, half, full_barrier(d.chunk));
    if (d.chunk > 0) barrier_wait(full_barrier(d.chunk - 1), chunk_parity(d.chunk - 1));
    copy_weights(place + half, from + half, bytes - half, full_barrier(d.chunk));
    copy_weights_end(full_barrier(d.chunk));
    d.ring_at = chunk.end;
    d.chunk++;
}

// Asks the second-level cache for a block of 128 numbers, by a whole warp.
DEVICE void expect_halves(const State &s, uint64_t place, int block)
{
    if (place && threadIdx.x % WARP < 2)
        prefetch(s.weights + place + block * BLOCK * 2 + threadIdx.x % WARP * 128);
}

template <int IN> DEVICE void expect_floats(const State &s, uint64_t place, int block)
{
    int lane = threadIdx.x % WARP;
    if (place && lane < 4 && block * BLOCK + lane * 32 < IN)
        prefetch(s.weights + place + block * BLOCK * 4 + lane * 128);
}

// Has the constants of a block of a step's input come nearer. By a whole warp.
DEVICE void expect_block(const Plan &p, const Part &part, int block);

// By the copying warp, which is ahead of the others: what the channels that a part's chunks
// multiply will be prepared with.
DEVICE void expect_part(const Plan &plan, const Part &p)
{
    int end = (p.last_unit + 1) * UNIT_BLOCKS;
#pragma unroll 1
    for (int block = p.first_unit * UNIT_BLOCKS; block < end && block < BLOCKS(plan.in); block++) {
        expect_halves(decode_state(), p.linear.suh, block);
        expect_block(plan, p, block);
    }
}

// --- activations ---------------------------------------------------------------------------------

// Sums are fixed-point numbers of 2^-22. A slice whose activations are too large for them, infinite
// or no numbers adds NOT_A_SUM once; a sum beyond MOST_SUM, such as that makes of it, becomes NaN.
// So many of 512 slices that are all so cannot wrap.
#define FIXED_ONE 4194304.0f
#define NOT_A_SUM 18014398509481984.0f // 2^54
#define MOST_SUM ((int64_t)1 << 53)    // 2^31
#define MOST_ACTIVATION 0x4c000000u    // bits of 2^25

// Of the largest magnitude of a slice, its bits: scale and reciprocal. Bytes: 32512 steps, which
// two planes of signed bytes hold; fp16: the power of two that brings it into [512, 1024).
template <int FORMAT> DEVICE float activation_scale(uint32_t most)
{
    if (PLANES(FORMAT) == 2) return most < 0x0da24260u ? 0 : bits_float(most) * (1.0f / 32512);
    uint32_t exponent = most & 0x7f800000u;
    return exponent < 20u << 23 ? 0 : bits_float(exponent - (9u << 23));
}

template <int FORMAT> DEVICE float activation_inverse(uint32_t most)
{
    if (most >= MOST_ACTIVATION) return 0;
    if (PLANES(FORMAT) == 2) return most < 0x0da24260u ? 0 : 32512 / bits_float(most);
    uint32_t exponent = most & 0x7f800000u;
    return exponent < 20u << 23 ? 0 : bits_float((254u << 23) - (exponent - (9u << 23)));
}

// A slice's sums are scale * products + offsets, in fixed point; one offset a 128-channel block.
typedef union {
    struct {
        float scale, unused[3], offset[UNIT_BLOCKS];
    } trellis; // of the only slice of a unit
    struct {
        float scale, offset;
    } plain[UNIT_ROWS / PASS_ROWS];
} Facts;
static_assert(sizeof(Facts) == FACTS_BYTES, "room of Facts");

// The first column of row `row` of a unit at `unit`.
DEVICE uint8_t *row_column(uint8_t *unit, int format, int row)
{
    int planes = PLANES(format), a_group = COLUMN_ROWS(format);
    return unit + row / a_group * GROUP_BYTES + row % a_group * planes * 16;
}

// The unit of `rows` rows in place `place` of the room. Facts lie at the room's end, downwards.
DEVICE uint8_t *unit_place(int place, int rows)
{
    return room() + place * UNIT_GROUPS(rows) * GROUP_BYTES;
}

DEVICE Facts *unit_facts(const Decoder &d, int place, int rows, int row)
{
    return (Facts *)(room() + d.room_bytes) - 1 - (place * rows + row);
}

// Bits of the largest of four magnitudes.
DEVICE uint32_t largest_bits(const float v[4])
{
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t size = float_bits(v[i]) & 0x7fffffffu;
        most = most > size ? most : size;
    }
    return most;
}

// Block `block` of a unit of one row, channels 4 l .. in lane l, as activations. Of a k-step, the
// register r of k-tile c is word c of the column's 16 bytes in pair r / 2, first or second half.
// `most` is of the whole slice. By a whole warp.
template <int FORMAT>
DEVICE void make_activations(const float v[4], uint32_t most, int block, uint8_t *column,
                             Facts *facts)
{
    int lane = threadIdx.x % WARP, step = 2 * block + lane / 16, c = lane >> 2 & 3, a = lane & 3;
    bool fits = most < MOST_ACTIVATION;
    float inverse = activation_inverse<FORMAT>(most);
    float scale = fits ? activation_scale<FORMAT>(most) * FIXED_ONE : 0;
    float offset = fits || (FORMAT_IS_EXL3(FORMAT) && block > 0) ? 0 : NOT_A_SUM;
    uint8_t *to = column + step * STEP_BYTES(FORMAT) + c * 4;
    if (PLANES(FORMAT) == 2) {
        // Rounding to an integer by adding 1.5 * 2^23; 128 more makes byte 1 the balanced high
        // plane and byte 0 the low plane with its sign bit flipped.
        uint32_t u[4];
        int32_t sum = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u[i] = float_bits(fmaf(v[i], inverse, 12582912.0f + 128));
            sum += (int32_t)(u[i] - 0x4b400000u) - 128;
        }
        to += (4 * (a & 1) + (a >> 1)) * PAIR_BYTES;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint8_t *at = to + i / 2 * 2 * PAIR_BYTES + i % 2 * 128;
            *(uint32_t *)at = permute(u[i], 0, 0x1111);
            *(uint32_t *)(at + 16) = permute(u[i] ^ 0x80, 0, 0x0000);
        }
        sum = warp_add(sum);
        offset += scale * MUL1_OFFSET * (float)sum;
        scale *= MUL1_SCALE;
    } else if (FORMAT_IS_EXL3(FORMAT)) {
        to += (4 * (a & 1) + (a >> 1)) * PAIR_BYTES;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float scaled = fits ? v[i] * inverse : 0;
            *(uint32_t *)(to + i / 2 * 2 * PAIR_BYTES + i % 2 * 128) = pack_half(scaled, scaled);
        }
    } else {
        to += 2 * (a & 1) * PAIR_BYTES + (a >> 1) * 128;
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(uint32_t *)(to + i * PAIR_BYTES) =
                pack_half(fits ? v[2 * i] * inverse : 0, fits ? v[2 * i + 1] * inverse : 0);
        if (lane % 16 == 0) facts->plain[step].scale = scale, facts->plain[step].offset = offset;
        return;
    }
    if (lane == 0) {
        facts->trellis.offset[block] = offset;
        if (block == 0) facts->trellis.scale = scale;
    }
}

// Which kinds of formats this model has: code for others is left out.
#define IS_BYTES(f) || PLANES(f) == 2
#define IS_HALVES(f) || (FORMAT_IS_EXL3(f) && PLANES(f) == 1)
#define IS_PLAIN(f) || !FORMAT_IS_EXL3(f)
constexpr bool HAS_BYTES = 0 MODEL_FORMATS(IS_BYTES), HAS_HALVES = 0 MODEL_FORMATS(IS_HALVES);
constexpr bool HAS_PLAIN = 0 MODEL_FORMATS(IS_PLAIN);

// Four warps prepare a unit of a row. The units of a plan in order: parts, units, rows.
typedef struct {
    int part, unit, row; // part == plan.count: none
    int number;          // of the unit, counted through all parts
} Task;

DEVICE void task_part(const Plan &p, Task *t)
{
    while (t->part < p.count && p.part[t->part].from >= p.part[t->part].to) t->part++;
    if (t->part < p.count) t->unit = p.part[t->part].first_unit;
}

DEVICE void task_next(const Plan &p, Task *t)
{
    if (t->part == p.count || ++t->row < p.rows) return;
    t->row = 0;
    t->number++;
    if (++t->unit <= p.part[t->part].last_unit) return;
    t->part++;
    task_part(p, t);
}

// Constants of a channel block, of four channels of a lane: on the way in, and of pending products.
typedef struct {
    float in[4];
    uint2 svh[2];
} Constants;

// By a whole warp, before the step's inputs are there.
DEVICE void load_constants(const Plan &p, const Part &part, int block, Constants *c);

// 128 channels of a row of a step's input, times c.in. Exactly one block of threads in the grid has
// `own` for them. By a whole warp.
template <bool QUANTIZED>
DEVICE void load_block(const Plan &p, const Part &part, int row, int block, bool own,
                       const Constants &c, float v[4]);

// Activations of unit `unit` of a row of a part's input, by four warps.
template <bool QUANTIZED>
DEVICE void prepare(const Plan &plan, const Part &p, int unit, int row, bool own,
                    const Constants &c, int parity, uint8_t *column, Facts *facts)
{
    int four = threadIdx.x / WARP / 4, own_block = threadIdx.x / WARP % 4;
    bool exl3 = HAS_BYTES || HAS_HALVES ? FORMAT_IS_EXL3(p.format) : false;
    int block = unit * UNIT_BLOCKS + own_block;
    float v[4] = {0, 0, 0, 0};
    if (block < BLOCKS(plan.in)) {
        load_block<QUANTIZED>(plan, p, row, block, own, c, v);
        if (exl3) hadamard(v, threadIdx.x % WARP);
    }
    uint32_t most = largest_bits(v);
    if (exl3) {
        uint32_t *all = decode_shared()->most[four][parity];
        most = warp_max(most);
        if (threadIdx.x % WARP == 0) all[own_block] = most;
        four_warps_sync(four);
#pragma unroll
        for (int j = 0; j < UNIT_BLOCKS; j++) most = most > all[j] ? most : all[j];
    } else if (HAS_PLAIN) { // a slice is half a block
#pragma unroll
        for (int bit = 8; bit; bit /= 2) {
            uint32_t other = shuffle_xor(most, bit);
            most = most > other ? most : other;
        }
    }
    if (HAS_BYTES && PLANES(p.format) == 2)
        make_activations<m4>(v, most, own_block, column, facts);
    else if (HAS_HALVES && exl3)
        make_activations<c4>(v, most, own_block, column, facts);
    else if (HAS_PLAIN)
        make_activations<f16>(v, most, own_block, column, facts);
}

// --- products ------------------------------------------------------------------------------------

#define WEIGHTS_STEP(bits) (2 * PASS_BYTES(bits)) // bytes of a k-step of a chunk

template <int FORMAT>
DEVICE void mma(int32_t c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                uint32_t b1)
{
    if constexpr (PLANES(FORMAT) == 2)
        mma_bytes(c, a0, a1, a2, a3, b0, b1);
    else
        mma_half((float *)c, a0, a1, a2, a3, b0, b1);
}

// The inner loop: on sm_90 2.9 instructions a weight for MUL1 at 4 bits, 3.7 at 6; what surrounds
// it adds about 0.6.
//
// One k-step of 64 rows times 16 columns, whose words are in `run`, and a group of 8 columns of
// activations, with WIDE the next 8 as well where these are not ROW_GROUP rows. `columns` is this
// lane's row of the matrices that a warp loads.
template <int FORMAT, bool WIDE>
DEVICE void multiply_run(const uint32_t *run, const uint8_t *columns, int32_t (*sums)[4])
{
    constexpr int WORDS = 2 * STEP_PAIRS(FORMAT);
    uint32_t b0[WORDS], b1[WORDS];
#pragma unroll
    for (int i = 0; i < WORDS; i += 4) {
        load_matrices(b0 + i, columns + i / 2 * PAIR_BYTES);
        if (WIDE && PLANES(FORMAT) == 2)
            load_matrices(b1 + i, columns + GROUP_BYTES + i / 2 * PAIR_BYTES);
    }
    if constexpr (FORMAT_IS_EXL3(FORMAT)) {
        uint32_t product[32];
        run_products<FORMAT>(run, product);
        if (PLANES(FORMAT) == 1) {
#pragma unroll
            for (int i = 0; i < 32; i++) product[i] = summands(product[i]);
        }
#pragma unroll
        for (int m = 0; m < 8; m++) {
            int j = 31 - (8 * (m / 2) + 2 * (m % 2));
            mma<FORMAT>(sums[0], product[j], product[j - 4], product[j - 1], product[j - 5],
                        b0[2 * m], b0[2 * m + 1]);
            if (WIDE && PLANES(FORMAT) == 2)
                mma<FORMAT>(sums[1], product[j], product[j - 4], product[j - 1], product[j - 5],
                            b1[2 * m], b1[2 * m + 1]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            mma<FORMAT>(sums[0], plain_pair<FORMAT>(run[4 * i]), plain_pair<FORMAT>(run[4 * i + 2]),
                        plain_pair<FORMAT>(run[4 * i + 1]), plain_pair<FORMAT>(run[4 * i + 3]),
                        b0[2 * i], b0[2 * i + 1]);
    }
}

// The rows of which a lane has results of a chunk, one or two, each for columns g and g + 8 of the
// tile, lane = 4 g + c: row result_row(i) of its group of rows.
template <int FORMAT> DEVICE int result_row(int i)
{
    int c = threadIdx.x % 4;
    return PLANES(FORMAT) == 2 ? c + 4 * i : 2 * c + i;
}
template <int FORMAT, bool WIDE> DEVICE constexpr int result_count(void)
{
    return PLANES(FORMAT) == 2 && !WIDE ? 1 : 2;
}

// Of the planes of high and of low bytes.
DEVICE float planes_sum(int32_t high, int32_t low)
{
    return fmaf(256.0f, (float)high, (float)low);
}

DEVICE float from_fixed(uint64_t sum)
{
    int64_t v = (int64_t)sum;
    return v >= MOST_SUM || v <= -MOST_SUM ? bits_float(0x7fc00000u)
                                           : (float)v * (1.0f / FIXED_ONE);
}

// Two products of one row and chunk, of columns 16 w + g and + 8, to be added to `sums` of the
// first of them. `facts` are of the chunk's first row.
template <int FORMAT>
DEVICE void add_products(const float product[2], int row, const uint8_t *facts, uint64_t *sums,
                         int width)
{
    const float *f = (const float *)(facts - row * (int)sizeof(Facts));
    float scale = f[0], offset = f[1];
    if (FORMAT_IS_EXL3(FORMAT)) {
        float4 t = *(const float4 *)(f + 4);
        offset = (t.x + t.y) + (t.z + t.w);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        atomic_add64(sums + (uint64_t)row * width + 8 * i,
                     round_float(fmaf(scale, product[i], offset)));
}

// Where this lane's results of a chunk go, of row 0.
DEVICE uint64_t *own_sums(uint64_t *sums)
{
    return sums + 16 * (threadIdx.x / WARP % 8) + threadIdx.x % WARP / 4;
}

// The products of a chunk with at most ROW_GROUP rows, of this warp's 16 columns, added to the sums
// in global memory. Activations, facts and sums are those of the first of these rows.
template <int FORMAT, bool WIDE>
DEVICE void multiply_rows(const uint8_t *weights, int steps, const uint8_t *columns, int rows,
                          const uint8_t *facts, uint64_t *sums, int width)
{
    int lane = threadIdx.x % WARP, tile = threadIdx.x / WARP % 4;
    constexpr int K = FORMAT_BITS(FORMAT), STEP = STEP_BYTES(FORMAT);
    uint32_t run[K + 1], run1[K + 1];
    int32_t products[4][4] = {}; // of even and odd steps, which need not wait for each other
    load_run<K>(weights, tile, run);
    // What stands in columns without a row is of no consequence.
    columns += lane / 16 * PAIR_BYTES + lane / 8 % 2 * 128 + lane % 8 * 16;
    if (FORMAT_IS_EXL3(FORMAT)) {
        // Two steps at a time, whose words are loaded while the others' are multiplied.
        load_run<K>(weights + WEIGHTS_STEP(K), tile, run1);
#pragma unroll 1
        for (int step = 0; step < steps; step += 2) { // an even number of them
            weights += step + 2 < steps ? 2 * WEIGHTS_STEP(K) : 0;
            multiply_run<FORMAT, WIDE>(run, columns, products);
            load_run<K>(weights, tile, run);
            multiply_run<FORMAT, WIDE>(run1, columns + STEP, products + 2);
            load_run<K>(weights + WEIGHTS_STEP(K), tile, run1);
            columns += 2 * STEP;
        }
    } else {
        multiply_run<FORMAT, WIDE>(run, columns, products);
    }
    sums = own_sums(sums);
#pragma unroll
    for (int i = 0; i < result_count<FORMAT, WIDE>(); i++) {
        int row = result_row<FORMAT>(i);
        if (row >= rows) continue;
        float product[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            if (PLANES(FORMAT) == 2)
                product[h] = planes_sum(products[i][2 * h] + products[2 + i][2 * h],
                                        products[i][2 * h + 1] + products[2 + i][2 * h + 1]);
            else
                product[h] =
                    bits_float(products[0][2 * h + i]) + bits_float(products[2][2 * h + i]);
        add_products<FORMAT>(product, row, facts, sums, width);
    }
}

#if WGMMA
// The same for all rows at once where activations are bytes, N of their columns. The four warps of
// a half of the chunk's columns multiply together.
template <int FORMAT, int N>
DEVICE void multiply_wide(const uint8_t *weights, int steps, const uint8_t *columns, int rows,
                          const uint8_t *facts, uint64_t *sums, int width)
{
    constexpr int K = FORMAT_BITS(FORMAT);
    int tile = threadIdx.x / WARP % 4;
    int32_t products[N / 2];
    uint32_t run[K + 1];
    uint64_t b = matrix_descriptor(columns, 128, GROUP_BYTES);
#pragma unroll
    for (int i = 0; i < N / 2; i++) products[i] = 0;
    load_run<K>(weights, tile, run);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        uint32_t product[32], next[K + 1];
        weights += step + 1 < steps ? WEIGHTS_STEP(K) : 0;
        load_run<K>(weights, tile, next);
        run_products<FORMAT>(run, product);
#pragma unroll
        for (int i = 0; i <= K; i++) run[i] = next[i];
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < 8; m++) {
            int j = 31 - (8 * (m / 2) + 2 * (m % 2));
            wgmma_bytes<N>(products, product[j], product[j - 4], product[j - 1], product[j - 5],
                           b + m * (PAIR_BYTES / 16));
        }
        wgmma_commit();
        wgmma_wait<0>();
        b += STEP_BYTES(FORMAT) / 16;
    }
    wgmma_results<N / 2>(products);
    sums = own_sums(sums);
#pragma unroll
    for (int i = 0; i < N / 8; i++) {
        int row = NARROW_ROWS * i + threadIdx.x % 4;
        if (row >= rows) continue;
        const int32_t *p = products + 4 * i;
        float product[2] = {planes_sum(p[0], p[1]), planes_sum(p[2], p[3])};
        add_products<FORMAT>(product, row, facts, sums, width);
    }
}
#endif

template <int FORMAT, bool WIDE>
DEVICE void multiply_chunk(const Decoder &d, const Plan &plan, const Chunk &chunk)
{
    const uint8_t *weights = room() + d.room_bytes + chunk.begin +
                             threadIdx.x / WARP % 8 / 4 * PASS_BYTES(FORMAT_BITS(FORMAT));
    const uint8_t *columns = room() + chunk.columns, *facts = room() + chunk.facts;
    uint64_t *sums = work_at<uint64_t>(decode_state(), chunk.sums);
    int rows = plan.rows, n = rows;
#if WGMMA
    if constexpr (WIDE && PLANES(FORMAT) == 2) {
        if (EXPERTS && rows <= NARROW_ROWS) // of an expert
            multiply_rows<FORMAT, false>(weights, chunk.steps, columns, rows, facts, sums,
                                         plan.width);
        else if (rows <= 8)
            multiply_wide<FORMAT, 16>(weights, chunk.steps, columns, rows, facts, sums, plan.width);
        else if (rows <= 16)
            multiply_wide<FORMAT, 32>(weights, chunk.steps, columns, rows, facts, sums, plan.width);
        else
            multiply_wide<FORMAT, 64>(weights, chunk.steps, columns, rows, facts, sums, plan.width);
    } else
#endif
    {
#pragma unroll 1
        for (int row = 0; row < rows; row += ROW_GROUP) {
            if (WIDE) n = rows - row < ROW_GROUP ? rows - row : ROW_GROUP;
            multiply_rows<FORMAT, WIDE>(
                weights, chunk.steps, columns + row / COLUMN_ROWS(FORMAT) * GROUP_BYTES, n,
                facts - row * (int)sizeof(Facts), sums + (uint64_t)row * plan.width, plan.width);
            if (!WIDE) break;
        }
    }
}

// How many of a plan's chunks belong to its first `units` units.
DEVICE int chunks_of(const Plan &plan, int units)
{
    if (units >= plan.units) return plan.chunks;
    int chunks = 0;
    for (int i = 0; i < plan.count && units > 0; i++) {
        const Part &p = plan.part[i];
        if (p.from >= p.to) continue;
        int a_unit = UNIT_ROWS / SLICE_ROWS(p.format);
        int end = (p.first_unit + units) * a_unit * p.blocks;
        chunks += (end < p.to ? end : p.to) - p.from;
        units -= p.last_unit - p.first_unit + 1;
    }
    return chunks;
}

// The chunks of this warp, every other one from *next on, before the one with number `end`. It
// waits for no later one: that may come only when those before it are multiplied.
template <bool WIDE>
DEVICE void multiply_chunks(const Decoder &d, const Plan &plan, uint32_t end, uint32_t *next)
{
#pragma unroll 1
    for (; (int32_t)(end - *next) > 0; *next += 2) {
        barrier_wait(full_barrier(*next), chunk_parity(*next));
        const Chunk &chunk = decode_shared()->chunk[*next % RING_CHUNKS];
        // clang-format off
        switch (chunk.format) {
#define MULTIPLY(f) case f: multiply_chunk<f, WIDE>(d, plan, chunk); break;
        MODEL_FORMATS(MULTIPLY)
        }
        // clang-format on
        warp_sync();
        if (threadIdx.x % WARP == 0) barrier_arrive(empty_barrier(*next));
    }
}

// --- steps ---------------------------------------------------------------------------------------

// The chunks of this block of threads of a part, by the copying warp: units of k, in a unit column
// blocks, in a block the slices. `units` are those of parts before it.
DEVICE void copy_part(Decoder &d, const Plan &plan, const Part &p, int units)
{
    int bits = FORMAT_BITS(p.format), a_unit = UNIT_ROWS / SLICE_ROWS(p.format);
    int unit = p.first_unit, block = p.begin_block, slice = p.begin_slice;
    const uint8_t *weights = decode_state().weights + p.linear.weights;
#pragma unroll 1
    for (int i = p.from; i < p.to; i++) {
        int number = unit * a_unit + slice, place = (units + unit - p.first_unit) % plan.held;
        const uint8_t *facts = (const uint8_t *)unit_facts(d, place, plan.rows, 0);
        Chunk chunk;
        chunk.steps = number == p.slices - 1 ? p.last_steps : SLICE_ROWS(p.format) / PASS_ROWS;
        chunk.format = p.format;
        chunk.columns = unit_place(place, plan.rows) +
                        slice * SLICE_ROWS(p.format) / PASS_ROWS * STEP_BYTES(p.format) - room();
        chunk.facts = facts + slice * (int)sizeof(Facts().plain[0]) - room();
        chunk.sums = plan.sums + (p.column + block * BLOCK) * sizeof(uint64_t);
        copy_chunk(d, chunk,
                   weights + block * COLUMN_BLOCK_BYTES(bits, plan.in) +
                       (uint64_t)number * CHUNK_BYTES(p.format),
                   chunk.steps * 2 * PASS_BYTES(bits));
        if (++slice < a_unit && number + 1 < p.slices) continue;
        slice = 0;
        if (++block < p.blocks) continue;
        block = 0;
        unit++;
    }
}

DEVICE int clip(int v, int most)
{
    return v < 0 ? 0 : v > most ? most : v;
}

// Clears sums that the step before read: it is complete, and nobody adds to them before a later
// one.
DEVICE void clear_sums(uint64_t place, uint64_t count)
{
    uint4 *sums = work_at<uint4>(decode_state(), place);
    for (uint64_t i = blockIdx.x * MULTIPLIERS + threadIdx.x; i < count / 2;
         i += (uint64_t)gridDim.x * MULTIPLIERS)
        sums[i] = make_uint4(0, 0, 0, 0);
}

// Adds a linear layer to a plan.
DEVICE void plan_part(Plan *p, const Linear &linear, int out, int column)
{
    Part part;
    part.linear = linear;
    part.format = p->step.format[p->count];
    part.blocks = BLOCKS(out);
    part.column = column;
    part.slices = SLICES(part.format, p->in);
    int steps = SLICE_ROWS(part.format) / PASS_ROWS;
    part.last_steps = PADDED(p->in) / PASS_ROWS - (part.slices - 1) * steps;
    p->part[p->count++] = part;
}

// The range of `chunks` chunks that block `block` of threads takes: equal ones.
DEVICE int share_of(int chunks, int block)
{
    return (uint32_t)(chunks * block) / gridDim.x;
}

// Chunks from .. to - 1 of a part are this block's.
DEVICE void plan_share(Plan *p, Part *part, int from, int to)
{
    part->from = from;
    part->to = to;
    if (from >= to) return;
    int a_unit = UNIT_ROWS / SLICE_ROWS(part->format), whole = a_unit * part->blocks;
    part->first_unit = from / whole;
    part->last_unit = (to - 1) / whole;
    int slices = part->slices - part->first_unit * a_unit;
    if (slices > a_unit) slices = a_unit;
    int within = from - part->first_unit * whole;
    part->begin_block = within / slices;
    part->begin_slice = within - part->begin_block * slices;
    p->chunks += to - from;
    p->units += part->last_unit - part->first_unit + 1;
}

// Gives every block of threads an equal range of a plan's chunks.
DEVICE void plan_ranges(Plan *p)
{
    int chunks = 0;
    for (int i = 0; i < p->count; i++) chunks += p->part[i].blocks * p->part[i].slices;
    int from = share_of(chunks, blockIdx.x), to = share_of(chunks, blockIdx.x + 1);
    p->chunks = p->units = 0;
    for (int i = 0; i < p->count; i++) {
        int most = p->part[i].blocks * p->part[i].slices;
        plan_share(p, &p->part[i], clip(from, most), clip(to, most));
        from -= most, to -= most;
    }
}

// How many units of activations the room holds.
DEVICE void plan_held(const Decoder &d, Plan *p)
{
    p->held = d.room_bytes / UNIT_BYTES(p->rows);
    if (p->held < 1) p->held = 1;
}

// The copying warp's side of a planned step.
DEVICE void copy_parts(Decoder &d, const Plan &plan)
{
#pragma unroll 1
    for (int i = 0; i < plan.count; i++)
        if (plan.part[i].from < plan.part[i].to) expect_part(plan, plan.part[i]);
    int units = 0;
#pragma unroll 1
    for (int i = 0; i < plan.count; i++) {
        const Part &p = plan.part[i];
        if (p.from >= p.to) continue;
        copy_part(d, plan, p, units);
        units += p.last_unit - p.first_unit + 1;
    }
}

// By the multiplying warps: what a step does beside its products, once its inputs are there.
DEVICE void step_begun(const Plan &plan);

// The inputs of a step that are prepared apart, row by row in every unit of every part; block b
// takes those numbered b + i * gridDim.x.
typedef struct {
    int units, count;
} Inputs;

DEVICE Inputs inputs_of(const Plan &plan)
{
    int units = UNITS(plan.in);
    Inputs in = {units, units * plan.count * plan.rows};
    return in;
}

// Unit `unit`, counted through all parts, and Facts of `row`, as they lie in global memory.
DEVICE uint8_t *input_unit(int unit, int rows)
{
    const State &s = decode_state();
    return work_at<uint8_t>(s, work_of(s).inputs) +
           (uint64_t)unit * UNIT_GROUPS(rows) * GROUP_BYTES;
}

DEVICE Facts *input_facts(int unit, int rows, int row)
{
    const State &s = decode_state();
    return work_at<Facts>(s, work_of(s).facts) + unit * rows + rows - 1 - row;
}

// By the copying warp: what this block's inputs will be prepared with.
DEVICE void expect_inputs(const Plan &plan)
{
    Inputs in = inputs_of(plan);
#pragma unroll 1
    for (int t = blockIdx.x; t < in.count; t += gridDim.x) {
        int unit = t / plan.rows;
        const Part &part = plan.part[unit / in.units];
        for (int i = 0; i < UNIT_BLOCKS; i++) {
            int block = unit % in.units * UNIT_BLOCKS + i;
            if (block >= BLOCKS(plan.in)) break;
            expect_halves(decode_state(), part.linear.suh, block);
            expect_block(plan, part, block);
        }
    }
}

// By a whole warp: the constants of its block of input t, if that is one.
DEVICE void load_input_constants(const Plan &plan, const Inputs &in, int t, Constants *c)
{
    int unit = t / plan.rows, own_block = threadIdx.x / WARP % 4;
    if (t < in.count)
        load_constants(plan, plan.part[unit / in.units], unit % in.units * UNIT_BLOCKS + own_block,
                       c);
}

// PHASE_PREPARE, by the multiplying warps.
template <bool QUANTIZED> DEVICE void prepare_step(Decoder &d, const Plan &plan)
{
    Inputs in = inputs_of(plan);
    Constants constants;
    int t = blockIdx.x + threadIdx.x / WARP / 4 * gridDim.x, parity = 0;
    load_input_constants(plan, in, t, &constants);
    step_start(d, plan.step.kind + STEP_KINDS);
    clear_sums(plan.old_sums, plan.old_count);
    step_begun(plan);
#pragma unroll 1
    while (t < in.count) {
        int unit = t / plan.rows, row = t - unit * plan.rows;
        const Part &part = plan.part[unit / in.units];
        prepare<QUANTIZED>(plan, part, unit % in.units, row, unit < in.units, constants, parity,
                           row_column(input_unit(unit, plan.rows), part.format, row),
                           input_facts(unit, plan.rows, row));
        if (FORMAT_IS_EXL3(part.format)) parity ^= 1;
        t += MULTIPLIERS / WARP / 4 * gridDim.x;
        load_input_constants(plan, in, t, &constants);
    }
    global_written();
}

// By one warp: the units `first` .. of this block of threads, as many as are held.
DEVICE void copy_inputs(const Decoder &d, const Plan &plan, int first)
{
    uint64_t *copied = &decode_shared()->copied;
    int units = UNITS(plan.in), end = first + plan.held;
    if (end > plan.units) end = plan.units;
    int unit_bytes = UNIT_GROUPS(plan.rows) * GROUP_BYTES, number = 0;
    global_written();
    copy_weights_begin((end - first) * UNIT_BYTES(plan.rows), copied);
#pragma unroll 1
    for (int i = 0; i < plan.count; i++) {
        const Part &p = plan.part[i];
        if (p.from >= p.to) continue;
#pragma unroll 1
        for (int unit = p.first_unit; unit <= p.last_unit; unit++, number++) {
            if (number < first || number >= end) continue;
            int from = i * units + unit, last = plan.rows - 1;
            copy_weights(unit_place(number - first, plan.rows), input_unit(from, plan.rows),
                         unit_bytes, copied);
            copy_weights((uint8_t *)unit_facts(d, number - first, plan.rows, last),
                         (const uint8_t *)input_facts(from, plan.rows, last),
                         plan.rows * FACTS_BYTES, copied);
        }
    }
    copy_weights_end(copied);
}

// The multiplying warps' side of a planned step, or of its PHASE_MULTIPLY. The plan is there, the
// inputs are not.
template <bool WIDE, bool QUANTIZED> DEVICE void multiply_step(Decoder &d, const Plan &plan)
{
    // Without experts and latents no step of WIDE has inputs of its own, nor code for them.
    constexpr bool ALL_APART = !EXPERTS && !KV_LATENT;
    bool apart = WIDE && (ALL_APART || plan.step.phase == PHASE_MULTIPLY);
    Task t = {0, 0, 0, 0};
    Constants constants;
    int four = threadIdx.x / WARP / 4, own_block = threadIdx.x / WARP % 4, parity = 0;
    if (apart) {
        shared_written(); // what is in the room, before copies to it
    } else {
        task_part(plan, &t);
        for (int i = 0; i < four; i++) task_next(plan, &t);
        if (t.part < plan.count)
            load_constants(plan, plan.part[t.part], t.unit * UNIT_BLOCKS + own_block, &constants);
    }
    if (!plan.started) {
        step_start(d, plan.step.kind);
        clear_sums(plan.old_sums, plan.old_count);
        if (!apart) step_begun(plan);
    }
    uint32_t next = d.chunk + ((threadIdx.x / WARP / 8 + d.chunk) & 1);
#pragma unroll 1
    for (int first = 0;; first += plan.held) {
        if (apart) {
            if (threadIdx.x < WARP) copy_inputs(d, plan, first);
            barrier_wait(&decode_shared()->copied, d.copies++ % 2);
        } else {
#pragma unroll 1
            while (t.part < plan.count && t.number < first + plan.held) {
                const Part &p = plan.part[t.part];
                bool own =
                    t.part == 0 && (t.unit > p.first_unit || p.begin_block + p.begin_slice == 0);
                uint8_t *unit = unit_place(t.number - first, plan.rows);
                prepare<QUANTIZED>(plan, p, t.unit, t.row, own, constants, parity,
                                   row_column(unit, p.format, t.row),
                                   unit_facts(d, t.number - first, plan.rows, t.row));
                // Only these exchange what the parity tells apart.
                if (FORMAT_IS_EXL3(p.format)) parity ^= 1;
                for (int i = 0; i < MULTIPLIERS / WARP / 4; i++) task_next(plan, &t);
                if (t.part < plan.count)
                    load_constants(plan, plan.part[t.part], t.unit * UNIT_BLOCKS + own_block,
                                   &constants);
            }
            if (WIDE && HAS_BYTES) shared_written();
            multipliers_sync();
        }
        if (first == 0 && threadIdx.x < WARP) stamp(d, 3, 0);
        multiply_chunks<WIDE>(d, plan, d.chunk + chunks_of(plan, first + plan.held), &next);
        if (first + plan.held >= plan.units) break;
        multipliers_sync();
    }
    d.chunk += plan.chunks;
}

DEVICE uint64_t *sums_at(const State &s, uint64_t place)
{
    return work_at<uint64_t>(s, place);
}

// Columns 4 * lane .. + 3 of block `block` of a row's sums, times `factor`.
DEVICE void read_sums(const uint64_t *row, int block, float factor, float v[4])
{
    uint64_t sum[4];
    load_fresh4(row + block * BLOCK + 4 * (threadIdx.x % WARP), sum);
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = from_fixed(sum[i]) * factor;
}
