// One model on one device: memory, passes, results.
#include "device.h"
#include "gpu.h"
#include "pools.h"
#include "sample.h"
#include "start.h"
#include "threads.h"
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

// The arrays of a batch, in one block so that one copy moves them to a GPU.
typedef struct {
    int32_t *token, *position, *sequence, *output;
    Segment *segment;
    Sampling *sampling;
} Rows;

struct Device {
    DeviceOptions options;
    char name[192];
    uint64_t bytes;
    State state; // pointers of the device
    Batch batch; // of the last pass, pointers of the device
    int sampled;

    // host side
    Pool *pool;
    const CpuTarget *cpu;
    void *blocks[16];
    size_t block_bytes[16];
    int block_count;
    SampleRoom *room;
    int32_t *page_table, *tokens; // page_table (POOLS, max_sequences, pages_per_sequence)
    float *logits, *hidden; // host copies when on a GPU
    uint8_t *host_pages[POOLS];

    // GPU
    Gpu *gpu;
    size_t rows_bytes;
    void *rows_host;      // page-locked
    GpuPointer rows_gpu, pages_gpu, tokens_gpu, masks_gpu;
    uint32_t *masks; // (max_outputs, BIT_WORDS(vocab)), page-locked
    int pages_dirty_from, pages_dirty_to; // entries of page_table not yet on the GPU
    int running, logits_read, hidden_read, tokens_read;
    uint64_t *trace; // host copy
    GpuGraph **graphs; // by rows
};

// --- memory --------------------------------------------------------------------------------------

static void *take(Device *d, size_t bytes, Error *err)
{
    bytes = (bytes + 4095) & ~(size_t)4095;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        error_set(err, "cannot allocate %zu bytes", bytes);
        return NULL;
    }
    assert(d->block_count < (int)(sizeof d->blocks / sizeof *d->blocks));
    d->blocks[d->block_count] = p;
    d->block_bytes[d->block_count++] = bytes;
    d->bytes += bytes;
    return p;
}

static void *take_gpu(Device *d, size_t bytes, Error *err)
{
    GpuPointer p;
    if (gpu_alloc(d->gpu, bytes, &p, err) != 0) return NULL;
    d->bytes += bytes;
    return (void *)p;
}

// Host memory that the device copies to and from in the background.
static int take_host(Device *d, size_t bytes, uint8_t **out, Error *err)
{
    if (d->gpu) return gpu_alloc_host(d->gpu, bytes, (void **)out, err);
    *out = take(d, bytes, err);
    return *out ? 0 : -1;
}

// More steps than any pass has.
static int trace_steps(void)
{
    return 16 * model_info.layers + 8;
}

static size_t trace_bytes(const Device *d)
{
    return 8 * TRACE_WORDS * (size_t)trace_steps() * (size_t)d->gpu->sm_count;
}

int hidden_width(const ModelInfo *m)
{
    int width = m->active_experts * m->expert_dim;
    if (m->ffn_dim > width) width = m->ffn_dim;
    return m->shared_dim > width ? m->shared_dim : width;
}

static int allocate_state(Device *d, const Weights *w, size_t work_bytes, Error *err)
{
    void *(*get)(Device *, size_t, Error *) = d->gpu ? take_gpu : take;
    const ModelInfo *m = &model_info;
    const DeviceOptions *o = &d->options;
    State *s = &d->state;
    size_t rows = (size_t)o->max_rows, outputs = (size_t)o->max_outputs;
    size_t q_dim = (size_t)m->heads * (size_t)m->head_dim;
    s->key_bits = o->key_bits;
    s->value_bits = o->value_bits;
    for (int pool = 0; pool < POOLS; pool++) {
        s->page_bytes[pool] = page_bytes(m, pool, o->key_bits, o->value_bits);
        size_t bytes = s->page_bytes[pool] * (size_t)o->pages[pool];
        if (bytes && !(s->cache[pool] = get(d, bytes, err))) return -1;
        bytes = s->page_bytes[pool] * (size_t)o->host_pages[pool];
        if (bytes && take_host(d, bytes, &d->host_pages[pool], err) != 0) return -1;
    }
    if ((m->state_bytes && !(s->states = get(d, m->state_bytes * (size_t)o->states, err))) ||
        !(s->x = get(d, 4 * rows * (size_t)m->dim, err)) ||
        !(s->q = get(d, 4 * rows * q_dim, err)) || !(s->a = get(d, 4 * rows * q_dim, err)) ||
        !(s->h = get(d, 4 * rows * (size_t)hidden_width(m), err)) ||
        (m->y_dim && !(s->y = get(d, 4 * rows * (size_t)m->y_dim, err))) ||
        !(s->rope = get(d, 4 * rows * (size_t)(m->ropes * m->rope_dim) + 16, err)) ||
        !(s->logits = get(d, 4 * outputs * (size_t)m->vocab, err)) ||
        !(s->work = get(d, work_bytes, err)))
        return -1;
    size_t hidden_bytes = 4 * rows * (size_t)(m->layers + 1) * (size_t)m->dim;
    if (o->keep_hidden && !(s->hidden = get(d, hidden_bytes, err))) return -1;
    if (o->trace && d->gpu && (!(s->trace = get(d, trace_bytes(d), err)) ||
                               !(d->trace = take(d, trace_bytes(d), err))))
        return -1;
    s->max_rows = o->max_rows;
    s->max_outputs = o->max_outputs;
    s->ends = m->ends;
    if (d->gpu) {
        uint8_t *weights = get(d, m->weights_bytes, err);
        Layer *layers = weights ? get(d, sizeof(Layer) * (size_t)m->layers, err) : NULL;
        if (!layers) return -1;
        start_part("memory");
        gpu_upload(d->gpu, (GpuPointer)weights,
                   (GpuSource){w->fd < 0 ? w->data : NULL, w->fd, w->offset}, m->weights_bytes);
        start_part("weights");
        gpu_write(d->gpu, (GpuPointer)layers, m->layer_table, sizeof(Layer) * (size_t)m->layers);
        s->weights = weights;
        s->layers = layers;
        if (!(d->logits = take(d, 4 * outputs * (size_t)m->vocab, err))) return -1;
        if (o->keep_hidden && !(d->hidden = take(d, hidden_bytes, err))) return -1;
    } else {
        s->weights = w->data;
        s->layers = m->layer_table;
        d->bytes += m->weights_bytes;
    }
    return 0;
}

// Of the page table of a pool.
static size_t table_entries(const DeviceOptions *o)
{
    return (size_t)o->max_sequences * (size_t)o->pages_per_sequence;
}

static size_t masks_bytes(const DeviceOptions *o)
{
    return 4 * BIT_WORDS(model_info.vocab) * (size_t)o->max_outputs;
}

static size_t rows_layout(const DeviceOptions *o, void *base, Rows *r)
{
    size_t rows = (size_t)o->max_rows, outputs = (size_t)o->max_outputs;
    char *p = base;
    r->sampling = (Sampling *)p;
    p += sizeof(Sampling) * outputs;
    r->segment = (Segment *)p;
    p += sizeof(Segment) * rows;
    r->token = (int32_t *)p;
    r->position = r->token + rows;
    r->sequence = r->position + rows;
    r->output = r->sequence + rows;
    return (size_t)((char *)(r->output + outputs) - (char *)base);
}

// --- open and close ------------------------------------------------------------------------------

// `name` is one of the sets that the compiler's driver builds for.
static int cpu_has(const char *name)
{
    __builtin_cpu_init();
    if (strcmp(name, "avx512") == 0)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi2");
    if (strcmp(name, "avx2") == 0)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
               __builtin_cpu_supports("bmi2");
    return 1;
}

static int open_cpu(Device *d, const Weights *w, Error *err)
{
    if (!model_info.cpu) return error_set(err, "this program was built without the CPU target");
    const char *wish = getenv("EXLC_CPU"); // a lower set, for tests and comparisons
    for (const CpuTarget *const *t = model_info.cpu; *t && !d->cpu; t++)
        if (cpu_has((*t)->name) && (!wish || strcmp(wish, (*t)->name) == 0)) d->cpu = *t;
    if (!d->cpu) return error_set(err, "EXLC_CPU=%s: no such instruction set here", wish);
    if (pool_open(&d->pool, d->options.threads, d->cpu->local_bytes, err) != 0) return -1;
    snprintf(d->name, sizeof d->name, "cpu (%s, %d threads)", d->cpu->name, pool_count(d->pool));
    return allocate_state(d, w, d->cpu->work_bytes(d->options.max_rows, d->options.max_outputs),
                          err);
}

static int open_gpu(Device *d, const Weights *w, Error *err)
{
    if (!model_info.images) return error_set(err, "this program was built without the CUDA target");
    if (gpu_open(&d->gpu, d->options.ordinal, model_info.images, err) != 0) return -1;
    snprintf(d->name, sizeof d->name, "cuda:%d (%s, sm_%d)", d->gpu->ordinal, d->gpu->name,
             d->gpu->sm);
    if (d->options.fit) d->options.fit(&d->options, gpu_free_bytes(d->gpu), d->name);
    const DeviceOptions *o = &d->options;
    if (allocate_state(d, w, model_info.gpu_work_bytes(o->max_rows, o->max_outputs), err) != 0)
        return -1;
    Rows r;
    d->rows_bytes = rows_layout(o, NULL, &r);
    size_t table = POOLS * table_entries(o) * sizeof *d->page_table;
    d->graphs = calloc((size_t)o->max_outputs + 1, sizeof *d->graphs);
    if (!d->graphs) return error_set(err, "out of memory");
    if (gpu_alloc_host(d->gpu, d->rows_bytes, &d->rows_host, err) != 0 ||
        gpu_alloc_host(d->gpu, table, (void **)&d->page_table, err) != 0 ||
        gpu_alloc_host(d->gpu, 4 * (size_t)o->max_outputs, (void **)&d->tokens, err) != 0 ||
        gpu_alloc_host(d->gpu, masks_bytes(o), (void **)&d->masks, err) != 0 ||
        !memset(d->page_table, 0, table) ||
        !(d->rows_gpu = (GpuPointer)take_gpu(d, d->rows_bytes, err)) ||
        !(d->pages_gpu = (GpuPointer)take_gpu(d, table, err)) ||
        !(d->masks_gpu = (GpuPointer)take_gpu(d, masks_bytes(o), err)) ||
        !(d->tokens_gpu = (GpuPointer)take_gpu(d, 4 * (size_t)o->max_outputs, err)))
        return -1;
    return 0;
}

int device_open(Device **out, const DeviceOptions *o, const Weights *w, Error *err)
{
    Device *d = calloc(1, sizeof *d);
    *out = d;
    if (!d) return error_set(err, "out of memory");
    d->options = *o;
    if (o->cuda) return open_gpu(d, w, err);
    Rows r;
    if (!(d->page_table = take(d, POOLS * table_entries(o) * sizeof *d->page_table, err)) ||
        !(d->tokens = take(d, 4 * (size_t)o->max_outputs, err)) ||
        !(d->rows_host = take(d, rows_layout(o, NULL, &r), err)) ||
        sample_open(&d->room, model_info.vocab, o->max_context, err) != 0)
        return -1;
    return open_cpu(d, w, err);
}

const DeviceOptions *device_options(const Device *d)
{
    return &d->options;
}

void device_close(Device *d)
{
    if (!d) return;
    for (int i = 0; i < d->block_count; i++) munmap(d->blocks[i], d->block_bytes[i]);
    sample_close(d->room);
    pool_close(d->pool);
    if (d->gpu) gpu_close(d->gpu); // frees what was allocated in its context
    free(d->graphs);
    free(d);
}

const char *device_name(const Device *d)
{
    return d->name;
}

uint64_t device_memory(const Device *d)
{
    return d->bytes;
}

// --- passes --------------------------------------------------------------------------------------

void device_set_page(Device *d, int pool, int sequence, int index, int page)
{
    int at =
        pool * (int)table_entries(&d->options) + sequence * d->options.pages_per_sequence + index;
    if (d->page_table[at] == page) return;
    if (d->gpu && d->running) device_wait(d); // the copy of an earlier change may be under way
    d->page_table[at] = page;
    if (d->pages_dirty_from == d->pages_dirty_to) d->pages_dirty_from = d->pages_dirty_to = at;
    if (at < d->pages_dirty_from) d->pages_dirty_from = at;
    if (at >= d->pages_dirty_to) d->pages_dirty_to = at + 1;
}

int device_map_pages(Device *d)
{
    const DeviceOptions *o = &d->options;
    if (o->pages[POOL_ALL] < o->pages_per_sequence) return -1;
    for (int i = 0; i < o->pages_per_sequence; i++) {
        device_set_page(d, POOL_ALL, 0, i, i);
        if (o->pages[POOL_WINDOW]) device_set_page(d, POOL_WINDOW, 0, i, i % o->pages[POOL_WINDOW]);
    }
    return 0;
}

void device_copy_page(Device *d, int pool, int to, int from)
{
    size_t bytes = d->state.page_bytes[pool];
    uint8_t *target = d->state.cache[pool] + bytes * (size_t)to;
    const uint8_t *source = d->state.cache[pool] + bytes * (size_t)from;
    if (!bytes) return;
    if (d->gpu)
        gpu_copy_async(d->gpu, (GpuPointer)target, (GpuPointer)source, bytes);
    else
        memcpy(target, source, bytes);
}

void device_save_page(Device *d, int pool, int host, int page)
{
    size_t bytes = d->state.page_bytes[pool];
    uint8_t *to = d->host_pages[pool] + bytes * (size_t)host;
    const uint8_t *from = d->state.cache[pool] + bytes * (size_t)page;
    if (!bytes) return;
    if (d->gpu)
        gpu_read_async(d->gpu, to, (GpuPointer)from, bytes);
    else
        memcpy(to, from, bytes);
}

void device_load_page(Device *d, int pool, int page, int host)
{
    size_t bytes = d->state.page_bytes[pool];
    uint8_t *to = d->state.cache[pool] + bytes * (size_t)page;
    const uint8_t *from = d->host_pages[pool] + bytes * (size_t)host;
    if (!bytes) return;
    if (d->gpu)
        gpu_write_async(d->gpu, (GpuPointer)to, from, bytes);
    else
        memcpy(to, from, bytes);
}

void device_copy_state(Device *d, int to, int from)
{
    size_t bytes = model_info.state_bytes;
    uint8_t *states = (uint8_t *)d->state.states;
    uint8_t *target = states + bytes * (size_t)to, *source = states + bytes * (size_t)from;
    if (d->gpu) gpu_copy_async(d->gpu, (GpuPointer)target, (GpuPointer)source, bytes);
    else memcpy(target, source, bytes);
}

int device_decode_rows(const Device *d)
{
    int rows = d->options.max_outputs < d->options.max_rows ? d->options.max_outputs
                                                            : d->options.max_rows;
    int one_form = d->gpu ? model_info.gpu_decode_rows(d->gpu) : d->cpu->decode_rows;
    return one_form < rows ? one_form : rows;
}

static void cpu_pass(Worker *w, void *argument)
{
    Device *d = argument;
    d->cpu->forward(w, &d->state, &d->batch);
}

// A pass in which every sequence adds one row and gets logits: its launches can be replayed.
static int is_decode(const Batch *b)
{
    return b->segments == b->rows && b->outputs == b->rows;
}

static void launch(Device *d, const Rows *on_gpu)
{
    model_info.forward_gpu(d->gpu, &d->state, &d->batch, d->options.mode == MODE_PERSISTENT);
    if (d->sampled)
        model_info.sample_gpu(d->gpu, &d->state, &d->batch, on_gpu->sampling,
                              (int32_t *)d->tokens_gpu);
}

static void gpu_pass(Device *d, const Rows *on_gpu)
{
    gpu_write_async(d->gpu, d->rows_gpu, d->rows_host, d->rows_bytes);
    if (d->pages_dirty_to > d->pages_dirty_from)
        gpu_write_async(d->gpu, d->pages_gpu + 4 * (GpuPointer)d->pages_dirty_from,
                        d->page_table + d->pages_dirty_from,
                        4 * (size_t)(d->pages_dirty_to - d->pages_dirty_from));
    d->pages_dirty_from = d->pages_dirty_to = 0;
    if (d->options.mode != MODE_STEPS && d->sampled && is_decode(&d->batch)) {
        GpuGraph **graph = &d->graphs[d->batch.rows];
        if (!*graph) {
            gpu_capture_begin(d->gpu);
            launch(d, on_gpu);
            *graph = gpu_capture_end(d->gpu);
        }
        gpu_graph_launch(d->gpu, *graph);
    } else {
        launch(d, on_gpu);
    }
    if (d->sampled)
        gpu_read_async(d->gpu, d->tokens, d->tokens_gpu, 4 * (size_t)d->batch.outputs);
    d->running = 1;
}

// Copies the masks of a pass to the GPU, where its rows find them.
static void send_masks(Device *d, Sampling *sampling, int outputs)
{
    size_t words = BIT_WORDS(model_info.vocab);
    for (int i = 0; i < outputs; i++) {
        uint32_t *mask = d->masks + (size_t)i * words;
        GpuPointer there = d->masks_gpu + 4 * words * (size_t)i;
        if (!sampling[i].mask) continue;
        memcpy(mask, sampling[i].mask, 4 * words);
        gpu_write_async(d->gpu, there, mask, 4 * words);
        sampling[i].mask = (const uint32_t *)there;
    }
}

void device_forward(Device *d, const Batch *b, const Sampling *sampling)
{
    if (d->gpu) device_wait(d);
    Rows r;
    rows_layout(&d->options, d->rows_host, &r);
    memcpy(r.token, b->token, 4 * (size_t)b->rows);
    memcpy(r.position, b->position, 4 * (size_t)b->rows);
    memcpy(r.sequence, b->sequence, 4 * (size_t)b->rows);
    memcpy(r.output, b->output, 4 * (size_t)b->outputs);
    memcpy(r.segment, b->segment, sizeof(Segment) * (size_t)b->segments);
    if (sampling) memcpy(r.sampling, sampling, sizeof(Sampling) * (size_t)b->outputs);
    d->sampled = sampling != NULL;
    d->logits_read = d->hidden_read = 0;

    Rows on_device = r;
    if (d->gpu) rows_layout(&d->options, (void *)d->rows_gpu, &on_device);
    d->batch = (Batch){
        .rows = b->rows,
        .segments = b->segments,
        .outputs = b->outputs,
        .pages_per_sequence = d->options.pages_per_sequence,
        .token = on_device.token,
        .position = on_device.position,
        .sequence = on_device.sequence,
        .output = on_device.output,
        .segment = on_device.segment,
    };
    for (int pool = 0; pool < POOLS; pool++)
        d->batch.page_table[pool] = (d->gpu ? (int32_t *)d->pages_gpu : d->page_table) +
                                    (size_t)pool * table_entries(&d->options);
    if (d->gpu) {
        if (sampling) send_masks(d, r.sampling, b->outputs);
        gpu_pass(d, &on_device);
        return;
    }
    pool_run(d->pool, cpu_pass, d);
    for (int i = 0; sampling && i < b->outputs; i++)
        d->tokens[i] = sample_plain(
            d->room, d->state.logits + (size_t)i * (size_t)model_info.vocab, &sampling[i]);
}

void device_wait(Device *d)
{
    if (d->running) gpu_wait(d->gpu);
    d->running = 0;
}

const int32_t *device_tokens(Device *d)
{
    device_wait(d);
    return d->tokens;
}

const float *device_logits(Device *d)
{
    device_wait(d);
    if (!d->gpu) return d->state.logits;
    if (!d->logits_read)
        gpu_read(d->gpu, d->logits, (GpuPointer)d->state.logits,
                 4 * (size_t)d->batch.outputs * (size_t)model_info.vocab);
    d->logits_read = 1;
    return d->logits;
}

const float *device_hidden(Device *d)
{
    device_wait(d);
    if (!d->gpu) return d->state.hidden;
    if (!d->hidden_read)
        gpu_read(d->gpu, d->hidden, (GpuPointer)d->state.hidden,
                 4 * (size_t)d->batch.rows * (size_t)(model_info.layers + 1) *
                     (size_t)model_info.dim);
    d->hidden_read = 1;
    return d->hidden;
}

const float *device_final(Device *d)
{
    device_wait(d);
    size_t values = (size_t)d->batch.rows * (size_t)model_info.dim,
           before = values * (size_t)model_info.layers;
    if (!d->gpu) return d->state.hidden + before;
    gpu_read(d->gpu, d->hidden + before, (GpuPointer)(d->state.hidden + before), 4 * values);
    return d->hidden + before;
}

const uint64_t *device_trace(Device *d, int *steps, int *blocks)
{
    device_wait(d);
    if (!d->state.trace) return NULL;
    gpu_read(d->gpu, d->trace, (GpuPointer)d->state.trace, trace_bytes(d));
    *blocks = d->gpu->sm_count;
    for (*steps = 0; *steps < trace_steps(); ++*steps)
        if (!d->trace[(size_t)*steps * (size_t)*blocks * TRACE_WORDS + TRACE_WORDS - 1]) break;
    return *steps ? d->trace : NULL;
}

// --- steps one by one ----------------------------------------------------------------------------

typedef struct {
    StepTime *times;
    int count, room;
} StepList;

// Takes none. `keep` launches nothing unless the residual stream is kept.
static int list_step(void *taker, const char *step)
{
    StepList *list = taker;
    int i = 0;
    if (strncmp(step, "keep,", 5) == 0) return 0;
    while (i < list->count && strcmp(list->times[i].step, step) != 0) i++;
    if (i == list->room) return 0;
    if (i == list->count) {
        list->times[i] = (StepTime){.count = 0};
        snprintf(list->times[i].step, sizeof list->times[i].step, "%s", step);
        list->count++;
    }
    list->times[i].count++;
    return 0;
}

static int is_step(void *taker, const char *step)
{
    return strcmp(taker, step) == 0;
}

static void launch_steps(Device *d, int (*takes)(void *taker, const char *step), void *taker)
{
    d->gpu->takes = takes;
    d->gpu->taker = taker;
    model_info.forward_gpu(d->gpu, &d->state, &d->batch, 0);
    d->gpu->takes = NULL;
    Rows r;
    rows_layout(&d->options, (void *)d->rows_gpu, &r);
    if (d->sampled && takes(taker, "sample"))
        model_info.sample_gpu(d->gpu, &d->state, &d->batch, r.sampling, (int32_t *)d->tokens_gpu);
}

// Seconds of the launches of a step in one pass, from as many passes as take 20 ms.
static double time_step(Device *d, char *step)
{
    GpuGraph *graph = NULL;
    if (d->options.mode != MODE_STEPS) {
        gpu_capture_begin(d->gpu);
        launch_steps(d, is_step, step);
        graph = gpu_capture_end(d->gpu);
    }
    double seconds = 0;
    int passes = 1;
    for (;; passes *= 2) {
        gpu_mark(d->gpu, 0);
        for (int i = 0; i < passes; i++) {
            if (graph)
                gpu_graph_launch(d->gpu, graph);
            else
                launch_steps(d, is_step, step);
        }
        gpu_mark(d->gpu, 1);
        seconds = gpu_elapsed(d->gpu, 0, 1);
        if (seconds > 20e-3 || passes == 1 << 16) break;
    }
    gpu_graph_free(d->gpu, graph);
    return seconds / passes;
}

int device_time_steps(Device *d, Batch *pass, StepTime *times, int room)
{
    if (!d->gpu) return 0;
    device_wait(d);
    *pass = d->batch;
    StepList list = {times, 0, room};
    launch_steps(d, list_step, &list);
    for (int i = 0; i < list.count; i++)
        times[i].seconds = time_step(d, times[i].step) / times[i].count;
    // Kernels leave their sums at zero for those that follow, which did not.
    gpu_clear_async(d->gpu, (GpuPointer)d->state.work,
                    model_info.gpu_work_bytes(d->options.max_rows, d->options.max_outputs));
    gpu_wait(d->gpu);
    return list.count;
}

// --- the memory's own rate -----------------------------------------------------------------------

#define READ_BYTES ((size_t)1 << 30)

typedef struct {
    const uint64_t *data;
    uint64_t sum; // keeps the reads alive
} Read;

static void read_part(Worker *w, void *argument)
{
    Read *r = argument;
    size_t part = READ_BYTES / 8 / (size_t)w->count & ~(size_t)31;
    const uint64_t *p = r->data + part * (size_t)w->index;
    uint64_t s[32] = {0};
    for (size_t i = 0; i < part; i += 32)
        for (int j = 0; j < 32; j++) s[j] += p[i + (size_t)j];
    for (int j = 1; j < 32; j++) s[0] += s[j];
    __atomic_fetch_add(&r->sum, s[0], __ATOMIC_RELAXED);
}

static double clock_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_read_rate(Device *d)
{
    void *data = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (data == MAP_FAILED) return 0;
    memset(data, 1, READ_BYTES);
    Read r = {.data = data};
    double best = 0;
    for (int i = 0; i < 3; i++) {
        double start = clock_seconds();
        pool_run(d->pool, read_part, &r);
        double rate = (double)READ_BYTES / (clock_seconds() - start);
        if (rate > best) best = rate;
    }
    munmap(data, READ_BYTES);
    return best;
}

static double gpu_read_rate(Device *d)
{
    Error err;
    size_t bytes = 2 * READ_BYTES;
    GpuPointer data;
    if (gpu_free_bytes(d->gpu) < 2 * bytes || gpu_alloc(d->gpu, bytes, &data, &err) != 0) return 0;
    int kernel = gpu_kernel(d->gpu, "read_bytes");
    uint64_t vectors = bytes / 16;
    void *arguments[] = {&data, &vectors, &d->tokens_gpu};
    double best = 0;
    for (int i = 0; i < 5; i++) {
        gpu_mark(d->gpu, 0);
        gpu_launch(d->gpu, kernel, (uint32_t)d->gpu->sm_count * 8, 1, 512, 0, 0, arguments);
        gpu_mark(d->gpu, 1);
        double rate = (double)bytes / gpu_elapsed(d->gpu, 0, 1);
        if (rate > best) best = rate;
    }
    gpu_free(d->gpu, data);
    return best;
}

double device_read_rate(Device *d)
{
    return d->gpu ? gpu_read_rate(d) : cpu_read_rate(d);
}
