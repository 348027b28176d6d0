// runtime/gpu.h on the CPU: the device's memory is the host's, a launch runs its blocks one after
// the other in a random order, the threads of a block (or of blocks that work together) as fibers
// (emulated/kernels/cuda/common.cuh). For x86-64. The kernels are those of a test, or of a generated
// program, whose forward.cu EMULATED_MODEL then names.
#ifdef EMULATED_MODEL
#include EMULATED_MODEL
#undef STEP
#else
#include "kernels/cuda/steps.cuh"
#include "tests/kernels/cuda/kernels.h"
#endif
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <vector>
extern "C" {
#include "runtime/gpu.h"
}

enum { STACK = 96 * 1024, MOST_BLOCKS = 7, MOST_THREADS = MOST_BLOCKS * 1024 };

struct Copy {
    void *to;
    const void *from;
    int bytes, real;
};

struct Meeting {
    int arrived, generation;
};

struct Block {
    Index index;
    uint8_t *shared;
    Meeting all, consumers, fours[4], meetings[2];
    int alive;
};

struct Barrier { // what a uint64_t in shared memory holds
    int32_t bytes;
    int16_t pending;
    uint8_t arrivals, parity;
};

struct Bulk {
    Copy copy;
    Barrier *barrier;
};

struct Product { // one wgmma of one thread
    void *c;
    int columns, bytes; // of B; whether of bytes, else of halves
    uint32_t a[4][4]; // of the lanes of its quad
    uint64_t b;
};

struct Fiber {
    Index index;
    Block *block;
    void *stack_pointer;
    bool done;
    const int *waits_for; // until *waits_for differs from `seen`
    int seen, parity;
    const Barrier *barrier; // until its phase `seen` is complete
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
    std::vector<Product> open_products;
    std::vector<std::vector<Product>> products;
};

struct WarpRoom {
    Meeting meeting;
    uint32_t words[2][WARP][16];
};

Index blockIdx, gridDim, blockDim, *current_thread;
static Fiber fibers[MOST_THREADS];
static uint8_t *stacks;
static WarpRoom warps[MOST_THREADS / WARP];
static Block blocks[MOST_BLOCKS];
static int cluster, shared_bytes; // blocks at a time
static Meeting cluster_meeting;
static std::vector<Bulk> bulks;
static void *scheduler_stack;
static void **launch_arguments;
static void *launch_function;
enum Signature { COMMON, SAMPLING, STEP, PASS };
static Signature launch_signature;

static Fiber *me(void)
{
    return (Fiber *)current_thread;
}

static uint32_t random_state = 1;
static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

// Saves the callee's registers on this stack, its pointer in *save, and goes on with another stack.
extern "C" void fiber_switch(void **save, void *to);
asm(".text\n.globl fiber_switch\nfiber_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp, (%rdi)\nmov %rsi, %rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

static void meet(Meeting *m, int expected, int waits = 1)
{
    if (++m->arrived == expected) {
        m->arrived = 0;
        m->generation++;
        return;
    }
    if (!waits) return;
    me()->waits_for = &m->generation;
    me()->seen = m->generation;
    fiber_switch(&me()->stack_pointer, scheduler_stack);
}

void emulate_block_sync(void)
{
    meet(&me()->block->all, me()->block->alive);
}

const uint32_t *emulate_exchange(const uint32_t *mine, int count)
{
    WarpRoom *w = &warps[(me() - fibers) / WARP];
    int parity = me()->parity ^= 1;
    memcpy(w->words[parity][threadIdx.x % WARP], mine, count * 4);
    meet(&w->meeting, WARP);
    return w->words[parity][0];
}

static void perform(const Copy &c)
{
    if (c.real)
        memcpy(c.to, c.from, c.bytes);
    else
        memset(c.to, 0, c.bytes);
}

void emulate_copy(void *to, const void *from, int real)
{
    assert((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0);
    memset(to, 0xff, 16);
    me()->open.push_back({to, from, 16, real});
}

void emulate_commit(void)
{
    me()->groups.push_back(me()->open);
    me()->open.clear();
}

void emulate_copy_wait(int left)
{
    auto &groups = me()->groups;
    while ((int)groups.size() > left) {
        for (auto &c : groups[0]) perform(c);
        groups.erase(groups.begin());
    }
}

uint8_t *emulate_shared(void)
{
    return me()->block->shared;
}

void emulate_four_warps_sync(int i)
{
    assert(threadIdx.x / 128 == i);
    meet(&me()->block->fours[i], 128);
}

void emulate_meeting(int meeting, int waits)
{
    meet(&me()->block->meetings[meeting], 544, waits);
}

// Fails where p is not in global memory.
void emulate_global(const void *p)
{
    const uint8_t *at = (const uint8_t *)p;
    assert(at < me()->block->shared || at >= me()->block->shared + shared_bytes);
}

int emulate_shared_bytes(void)
{
    return shared_bytes;
}

void emulate_yield(void)
{
    fiber_switch(&me()->stack_pointer, scheduler_stack);
}

// --- copies in the background, sm_90a --------------------------------------------------------------------------------------

static void complete(Barrier *b)
{
    if (b->pending || b->bytes) return;
    b->parity ^= 1;
    b->pending = b->arrivals;
}

// The same place in block `rank` of the cluster.
template <typename T> static T *there(T *p, int rank)
{
    return (T *)((uint8_t *)p - me()->block->shared + blocks[rank].shared);
}

void emulate_barrier_init(uint64_t *barrier, int arrivals)
{
    *(Barrier *)barrier = {0, (int16_t)arrivals, (uint8_t)arrivals, 0};
}

void emulate_barrier_arrive(uint64_t *barrier, int bytes, int rank)
{
    Barrier *b = (Barrier *)there(barrier, rank);
    assert(b->pending > 0);
    b->bytes += bytes;
    b->pending--;
    complete(b);
}

void emulate_barrier_wait(uint64_t *barrier, int parity)
{
    me()->barrier = (Barrier *)barrier;
    me()->seen = parity;
    fiber_switch(&me()->stack_pointer, scheduler_stack);
}

void emulate_bulk(void *to, const void *from, int bytes, uint64_t *barrier, int both)
{
    assert((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0 && bytes % 16 == 0 && bytes > 0);
    for (int rank = 0; rank < cluster; rank++)
        if (both || me()->block == &blocks[rank]) {
            memset(there((uint8_t *)to, rank), 0xff, bytes);
            bulks.push_back(
                {{there((uint8_t *)to, rank), from, bytes, 1}, (Barrier *)there(barrier, rank)});
        }
}

static void perform_a_bulk(void)
{
    size_t i = next_random() % bulks.size();
    Bulk b = bulks[i];
    bulks.erase(bulks.begin() + i);
    perform(b.copy);
    b.barrier->bytes -= b.copy.bytes;
    complete(b.barrier);
}

int emulate_rank(void)
{
    return me()->block - blocks;
}

void emulate_cluster_sync(void)
{
    meet(&cluster_meeting, cluster * blockDim.x);
}

void emulate_multipliers_sync(int threads)
{
    assert(threadIdx.x < threads);
    meet(&me()->block->consumers, threads);
}

void emulate_wgmma(void *c, int columns, int bytes, const uint32_t *quad, uint64_t b)
{
    Product p = {c, columns, bytes, {}, b};
    for (int i = 0; i < 4; i++) memcpy(p.a[i], quad + 16 * i, 16);
    me()->open_products.push_back(p);
}

void emulate_wgmma_commit(void)
{
    me()->products.push_back(me()->open_products);
    me()->open_products.clear();
}

static float halves[65536];

// B: K-major with the 128-byte swizzle, which exchanges bits 4..6 of an address with bits 7..9.
static void perform_product(const Product &p)
{
    int own = threadIdx.x % 4;
    float *c = (float *)p.c;
    uint32_t start = (p.b & 0x3fff) << 4, stride = (p.b >> 32 & 0x3fff) << 4;
    assert(p.b >> 62 == 1 && (p.b >> 49 & 7) == 0);
    const uint8_t *shared = me()->block->shared - 1024; // address 0
    float a[2][16];
    for (int k = 0; k < 16; k++)
        for (int high = 0; high < 2; high++)
            a[high][k] = halves[p.a[k % 8 / 2][high + k / 8 * 2] >> 16 * (k % 2) & 0xffff];
    for (int j = 0; j < p.columns / 8; j++)
        for (int e = 0; e < 2; e++) {
            uint32_t row = start + j * stride + (2 * own + e) * 128;
            double sum[2] = {c[4 * j + e], c[4 * j + 2 + e]};
            for (int k = 0; k < 16; k++) {
                uint32_t at = row + 2 * k;
                float v = halves[*(const uint16_t *)(shared + (at ^ (at >> 7 & 7) << 4))];
                sum[0] += (double)a[0][k] * v;
                sum[1] += (double)a[1][k] * v;
            }
            c[4 * j + e] = sum[0];
            c[4 * j + 2 + e] = sum[1];
        }
}

// B: K-major without a swizzle, matrices of eight columns by 16 bytes.
static void perform_byte_product(const Product &p)
{
    int own = threadIdx.x % 4;
    uint32_t start = (p.b & 0x3fff) << 4;
    uint32_t k_bytes = (p.b >> 16 & 0x3fff) << 4, column_bytes = (p.b >> 32 & 0x3fff) << 4;
    assert(p.b >> 46 == 0);
    const uint8_t *shared = me()->block->shared - 1024; // address 0
    int32_t *c = (int32_t *)p.c;
    for (int i = 0; i < p.columns / 2; i++) {
        int high = i % 4 / 2, column = 2 * own + i % 2;
        const uint8_t *b = shared + start + i / 4 * column_bytes + column * 16;
        for (int k = 0; k < 32; k++) {
            uint8_t a = p.a[k % 16 / 4][high + k / 16 * 2] >> 8 * (k % 4);
            c[i] += (int)a * (int8_t)b[k / 16 * k_bytes + k % 16];
        }
    }
}

void emulate_wgmma_wait(int left)
{
    auto &groups = me()->products;
    while ((int)groups.size() > left) {
        for (auto &p : groups[0]) p.bytes ? perform_byte_product(p) : perform_product(p);
        groups.erase(groups.begin());
    }
}

// --- running -------------------------------------------------------------------------------------

static void fiber_main(void)
{
    void **a = launch_arguments;
    const State &state = *(State *)a[0];
    const Batch &batch = *(Batch *)a[1];
    if (launch_signature == SAMPLING)
        ((void (*)(State, Batch, const Sampling *, int32_t *))launch_function)(
            state, batch, *(const Sampling **)a[2], *(int32_t **)a[3]);
    else if (launch_signature == STEP)
        ((void (*)(State, Batch, Step, int))launch_function)(state, batch, *(Step *)a[2], *(int *)a[3]);
    else if (launch_signature == PASS)
        ((void (*)(State, Batch, int))launch_function)(state, batch, *(int *)a[2]);
    else
        ((void (*)(State, Batch, const Layer *, int))launch_function)(
            state, batch, *(const Layer **)a[2], *(int *)a[3]);
    Block *block = me()->block;
    me()->done = true;
    block->alive--;
    if (block->alive && block->all.arrived == block->alive) {
        block->all.arrived = 0;
        block->all.generation++;
    }
    fiber_switch(&me()->stack_pointer, scheduler_stack);
}

// The blocks of a cluster, whose index and shared memory are set.
static void run_blocks(void)
{
    int threads = blockDim.x * cluster;
    for (int i = 0; i < cluster; i++) {
        blocks[i].alive = blockDim.x;
        blocks[i].all.arrived = blocks[i].consumers.arrived = 0;
        for (int j = 0; j < 4; j++) blocks[i].fours[j].arrived = 0;
    }
    cluster_meeting.arrived = 0;
    for (int i = 0; i < threads / WARP; i++) warps[i].meeting.arrived = 0;
    for (int i = 0; i < threads; i++) {
        Fiber *f = &fibers[i];
        f->index = {i % blockDim.x, 0};
        f->block = &blocks[i / blockDim.x];
        f->done = false;
        f->waits_for = NULL;
        f->barrier = NULL;
        f->open.clear();
        f->groups.clear();
        f->products.clear();
        void **top = (void **)(stacks + (size_t)(i + 1) * STACK - 64);
        *--top = NULL; // keeps the stack aligned as after a call
        *--top = (void *)fiber_main;
        top -= 6;
        f->stack_pointer = top;
    }
    int left = threads;
    while (left) {
        int start = next_random() % threads, ran = 0;
        for (int i = 0; i < threads; i++) {
            Fiber *f = &fibers[(start + i) % threads];
            if (f->done || (f->waits_for && *f->waits_for == f->seen)) continue;
            if (f->barrier && f->barrier->parity == f->seen) continue;
            f->waits_for = NULL;
            f->barrier = NULL;
            current_thread = &f->index;
            blockIdx = f->block->index;
            fiber_switch(&scheduler_stack, f->stack_pointer);
            left -= f->done;
            ran++;
        }
        if (!bulks.empty() && (!ran || next_random() % 8 == 0)) {
            perform_a_bulk();
        } else if (!ran) {
            fprintf(stderr, "emulated block is stuck\n");
            abort();
        }
    }
    assert(bulks.empty());
}

extern "C" {
int gpu_open(Gpu **out, int, const GpuImage *, Error *)
{
    Gpu *gpu = (Gpu *)calloc(1, sizeof *gpu);
    strcpy(gpu->name, "emulated");
    gpu->sm_count = MOST_BLOCKS;
    gpu->image_sm = EMULATED_WGMMA ? 90 : 80;
    for (int i = 0; i < 65536; i++) halves[i] = half_float(i);
    gpu->shared_bytes_per_block =
        getenv("EMULATE_SHARED") ? atoi(getenv("EMULATE_SHARED")) : 232448;
    stacks = (uint8_t *)aligned_alloc(64, (size_t)MOST_THREADS * STACK);
    random_state = getenv("EMULATE_SEED") ? atoi(getenv("EMULATE_SEED")) * 2 + 1 : 1;
    *out = gpu;
    return 0;
}
void gpu_close(Gpu *gpu)
{
    free(gpu);
}
int gpu_alloc(Gpu *, size_t bytes, GpuPointer *out, Error *)
{
    void *p = aligned_alloc(256, (bytes + 511) / 256 * 256);
    memset(p, 0, bytes);
    *out = (GpuPointer)p;
    return 0;
}
void gpu_free(Gpu *, GpuPointer p)
{
    free((void *)p);
}
void gpu_write(Gpu *, GpuPointer to, const void *from, size_t bytes)
{
    memcpy((void *)to, from, bytes);
}
void gpu_read(Gpu *, void *to, GpuPointer from, size_t bytes)
{
    memcpy(to, (void *)from, bytes);
}
void gpu_wait(Gpu *) {}

// What only a whole program calls.
int gpu_count(Error *)
{
    return 1;
}
size_t gpu_free_bytes(Gpu *)
{
    return (size_t)1 << 30;
}
int gpu_alloc_host(Gpu *gpu, size_t bytes, void **out, Error *err)
{
    return gpu_alloc(gpu, bytes, (GpuPointer *)out, err);
}
void gpu_free_host(Gpu *, void *p)
{
    free(p);
}
void gpu_write_async(Gpu *, GpuPointer to, const void *from, size_t bytes)
{
    memcpy((void *)to, from, bytes);
}
void gpu_read_async(Gpu *, void *to, GpuPointer from, size_t bytes)
{
    memcpy(to, (void *)from, bytes);
}
void gpu_copy_async(Gpu *, GpuPointer to, GpuPointer from, size_t bytes)
{
    memcpy((void *)to, (void *)from, bytes);
}
void gpu_clear_async(Gpu *, GpuPointer to, size_t bytes)
{
    memset((void *)to, 0, bytes);
}
void gpu_upload(Gpu *, GpuPointer to, GpuSource from, size_t bytes)
{
    if (from.memory) {
        memcpy((void *)to, from.memory, bytes);
        return;
    }
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(from.fd, (char *)to + done, bytes - done, from.offset + done);
        if (n <= 0) abort();
        done += n;
    }
}
void gpu_mark(Gpu *, int) {}
double gpu_elapsed(Gpu *, int, int)
{
    return 1;
}
const GpuImage *gpu_choose_image(const GpuImage *images, int)
{
    return images;
}
static void *functions[512];
static Signature signatures[512];
static int function_count;
int gpu_kernel(Gpu *, const char *name)
{
    void *f = dlsym(RTLD_DEFAULT, name);
    if (!f) return -1;
    signatures[function_count] = strcmp(name, "sample_kernel") == 0 ? SAMPLING
                                 : strncmp(name, "decode_step", 11) == 0 ? STEP
                                 : strncmp(name, "decode_pass", 11) == 0 ? PASS
                                                                    : COMMON;
    functions[function_count] = f;
    return function_count++;
}

// A launch of a graph, with copies of its arguments.
struct Recorded {
    int kernel, at_a_time;
    uint32_t grid, grid_y, block, shared;
    std::vector<char> arguments[4];
};
struct GpuGraph : std::vector<Recorded> {};
static GpuGraph *captured; // a graph that is being made

static Recorded record(int kernel, uint32_t grid, uint32_t grid_y, uint32_t block, uint32_t shared,
                       int at_a_time, void **arguments)
{
    Recorded r = {kernel, at_a_time, grid, grid_y, block, shared, {}};
    Signature kind = signatures[kernel];
    size_t bytes[4] = {sizeof(State), sizeof(Batch),
                       kind == STEP   ? sizeof(Step)
                       : kind == PASS ? sizeof(int)
                                      : sizeof(void *),
                       kind == PASS       ? 0
                       : kind == SAMPLING ? sizeof(void *)
                                          : sizeof(int)};
    for (int i = 0; i < 4 && bytes[i]; i++)
        r.arguments[i].assign((char *)arguments[i], (char *)arguments[i] + bytes[i]);
    return r;
}

static void run_grid(Gpu *gpu, int kernel, uint32_t grid, uint32_t grid_y, uint32_t block,
                     uint32_t shared, int at_a_time, void **arguments)
{
    if (captured) {
        captured->push_back(
            record(kernel, grid, grid_y, block, shared, at_a_time, arguments));
        return;
    }
    launch_function = functions[kernel];
    launch_signature = signatures[kernel];
    launch_arguments = arguments;
    gridDim = {(int)grid, (int)grid_y};
    blockDim = {(int)block, 1};
    assert(shared <= gpu->shared_bytes_per_block && at_a_time <= MOST_BLOCKS);
    cluster = at_a_time;
    shared_bytes = shared;
    assert(grid % cluster == 0);
    for (int i = 0; i < cluster; i++)
        blocks[i].shared = (uint8_t *)aligned_alloc(1024, shared / 1024 * 1024 + 2048);
    uint32_t count = grid * grid_y / cluster, first = next_random() % count;
    for (uint32_t i = 0; i < count; i++) { // a rotated order of blocks
        for (int j = 0; j < cluster; j++) {
            uint32_t at = (first + i) % count * cluster + j;
            memset(blocks[j].shared, 0xff, shared);
            memset(blocks[j].shared + shared, 0x5a, 256);
            blocks[j].index = {(int)(at % grid), (int)(at / grid)};
        }
        run_blocks();
        for (int j = 0; j < 256 * cluster; j++)
            if (blocks[j / 256].shared[shared + j % 256] != 0x5a) {
                fprintf(stderr, "shared memory overrun\n");
                abort();
            }
    }
    for (int i = 0; i < cluster; i++) free(blocks[i].shared);
}

void gpu_launch(Gpu *gpu, int kernel, uint32_t grid, uint32_t grid_y, uint32_t block,
                uint32_t shared, int, void **arguments)
{
    run_grid(gpu, kernel, grid, grid_y, block, shared,
             EMULATED_WGMMA && block == WIDE_THREADS ? 2 : 1, arguments);
}

void gpu_capture_begin(Gpu *)
{
    captured = new GpuGraph;
}
GpuGraph *gpu_capture_end(Gpu *)
{
    GpuGraph *graph = captured;
    captured = NULL;
    return graph;
}
void gpu_graph_launch(Gpu *gpu, GpuGraph *graph)
{
    for (Recorded &r : *graph) {
        void *arguments[4];
        for (int i = 0; i < 4; i++) arguments[i] = r.arguments[i].data();
        run_grid(gpu, r.kernel, r.grid, r.grid_y, r.block, r.shared, r.at_a_time, arguments);
    }
}
void gpu_graph_free(Gpu *, GpuGraph *graph)
{
    delete graph;
}

int gpu_launch_together(Gpu *gpu, int kernel, uint32_t block, uint32_t shared, void **arguments)
{
    run_grid(gpu, kernel, gpu->sm_count, 1, block, shared, gpu->sm_count, arguments);
    return 1;
}
}
