// runtime/gpu.h on the CPU: the device's memory is the host's, a launch runs its blocks one after
// the other in a random order, the threads of a block as fibers (emulated/kernels/cuda/common.cuh).
// For x86-64.
#include "kernels/cuda/steps.cuh"
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>
extern "C" {
#include "runtime/gpu.h"
}

TEST_KERNELS

enum { STACK = 96 * 1024, MOST_THREADS = 1024 };

struct Copy {
    void *to;
    const void *from;
    int bytes, real;
};

struct Fiber {
    Index index;
    void *stack_pointer;
    bool done;
    const int *waits_for; // until *waits_for differs from `seen`
    int seen, parity;
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Meeting {
    int arrived, generation;
};

struct WarpRoom {
    Meeting meeting;
    uint32_t words[2][WARP][16];
};

Index blockIdx, gridDim, blockDim, *current_thread;
static Fiber fibers[MOST_THREADS];
static uint8_t *stacks;
static WarpRoom warps[MOST_THREADS / WARP];
static Meeting block_meeting;
static int alive;
static void *scheduler_stack;
static uint8_t *shared_bytes_start;
static Copy fetches[16];
static bool fetch_pending[16];
static void **launch_arguments;
static void *launch_function;
static bool launch_is_sample;

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

static void meet(Meeting *m, int expected)
{
    if (++m->arrived == expected) {
        m->arrived = 0;
        m->generation++;
        return;
    }
    me()->waits_for = &m->generation;
    me()->seen = m->generation;
    fiber_switch(&me()->stack_pointer, scheduler_stack);
}

void emulate_block_sync(void)
{
    meet(&block_meeting, alive);
}

const uint32_t *emulate_exchange(const uint32_t *mine, int count)
{
    WarpRoom *w = &warps[threadIdx.x / WARP];
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

void emulate_fetch(int part, void *to, const void *from, int bytes)
{
    assert((uintptr_t)to % 16 == 0 && (uintptr_t)from % 16 == 0 && bytes % 16 == 0);
    memset(to, 0xff, bytes);
    fetches[part] = {to, from, bytes, 1};
    fetch_pending[part] = true;
}

void emulate_fetch_wait(int part)
{
    if (fetch_pending[part]) perform(fetches[part]);
    fetch_pending[part] = false;
}

uint8_t *emulate_shared(void)
{
    return shared_bytes_start;
}

static void fiber_main(void)
{
    void **a = launch_arguments;
    if (launch_is_sample)
        ((void (*)(State, Batch, const Sampling *, int32_t *))launch_function)(
            *(State *)a[0], *(Batch *)a[1], *(const Sampling **)a[2], *(int32_t **)a[3]);
    else
        ((void (*)(State, Batch, const Layer *, int))launch_function)(
            *(State *)a[0], *(Batch *)a[1], *(const Layer **)a[2], *(int *)a[3]);
    me()->done = true;
    alive--;
    if (alive && block_meeting.arrived == alive) {
        block_meeting.arrived = 0;
        block_meeting.generation++;
    }
    fiber_switch(&me()->stack_pointer, scheduler_stack);
}

static void run_block(int threads)
{
    alive = threads;
    block_meeting.arrived = 0;
    memset(fetch_pending, 0, sizeof fetch_pending);
    for (int i = 0; i < threads / WARP; i++) warps[i].meeting.arrived = 0;
    for (int i = 0; i < threads; i++) {
        Fiber *f = &fibers[i];
        f->index = {i, 0};
        f->done = false;
        f->waits_for = NULL;
        f->open.clear();
        f->groups.clear();
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
            f->waits_for = NULL;
            current_thread = &f->index;
            fiber_switch(&scheduler_stack, f->stack_pointer);
            left -= f->done;
            ran++;
        }
        if (!ran) {
            fprintf(stderr, "emulated block is stuck\n");
            abort();
        }
    }
}

extern "C" {
int gpu_open(Gpu **out, int, const GpuImage *, Error *)
{
    Gpu *gpu = (Gpu *)calloc(1, sizeof *gpu);
    strcpy(gpu->name, "emulated");
    gpu->sm_count = 3;
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
static void *functions[512];
static bool is_sample[512];
static int function_count;
int gpu_kernel(Gpu *, const char *name)
{
    void *f = dlsym(RTLD_DEFAULT, name);
    if (!f) return -1;
    is_sample[function_count] = strcmp(name, "sample_kernel") == 0;
    functions[function_count] = f;
    return function_count++;
}
void gpu_launch(Gpu *gpu, int kernel, uint32_t grid, uint32_t grid_y, uint32_t block,
                uint32_t shared, int, void **arguments)
{
    launch_function = functions[kernel];
    launch_is_sample = is_sample[kernel];
    launch_arguments = arguments;
    gridDim = {(int)grid, (int)grid_y};
    blockDim = {(int)block, 1};
    assert(shared <= gpu->shared_bytes_per_block);
    uint8_t *room = (uint8_t *)aligned_alloc(128, shared / 128 * 128 + 512);
    shared_bytes_start = room;
    uint32_t count = grid * grid_y, first = next_random() % count, stride = 1;
    for (uint32_t i = 0; i < count; i++) { // a rotated order of blocks
        uint32_t at = (first + i * stride) % count;
        memset(room, 0xff, shared);
        memset(room + shared, 0x5a, 256);
        blockIdx = {(int)(at % grid), (int)(at / grid)};
        run_block(block);
        for (int j = 0; j < 256; j++)
            if (room[shared + j] != 0x5a) {
                fprintf(stderr, "shared memory overrun\n");
                abort();
            }
    }
    free(room);
}
}
