// The CUDA driver behind dlopen. The types, numbers and functions of the driver API that the
// runtime needs are declared here by hand, so that no toolkit header is; nothing else calls the
// driver.
#include "gpu.h"
#include "start.h"
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// --- the driver API ------------------------------------------------------------------------------

// The least driver: launch attributes and what images of NVRTC 12 need. 12.0 came with 525.60.
#define DRIVER_LEAST 12000
// The first driver whose stream capture keeps programmatic dependencies, as edges of the graph.
#define DRIVER_PROGRAMMATIC_EDGES 12030

typedef void *Handle; // context, module, function, stream, event, graph

// CUresult
enum { OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500 };

// CUdevice_attribute
enum {
    MULTIPROCESSOR_COUNT = 16,
    L2_CACHE_SIZE = 38,
    COMPUTE_CAPABILITY_MAJOR = 75,
    COMPUTE_CAPABILITY_MINOR = 76,
    MAX_SHARED_MEMORY_PER_MULTIPROCESSOR = 81,
    COOPERATIVE_LAUNCH = 95,
    MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
};

// CUfunction_attribute
enum {
    SHARED_SIZE_BYTES = 1,
    MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    PREFERRED_SHARED_MEMORY_CARVEOUT = 9, // in percent
};

enum { JIT_ERROR_LOG_BUFFER = 5, JIT_ERROR_LOG_BUFFER_SIZE_BYTES = 6 }; // CUjit_option
enum { STREAM_NON_BLOCKING = 1 };                                       // CUstream_flags
enum { EVENT_BLOCKING_SYNC = 1, EVENT_DISABLE_TIMING = 2 };             // CUevent_flags
enum { MEMHOSTALLOC_PORTABLE = 1 };                                     // pinned for every context
enum { CAPTURE_THREAD_LOCAL = 1 };                                      // CUstreamCaptureMode
enum { COOPERATIVE = 2, PROGRAMMATIC_STREAM_SERIALIZATION = 6 };        // CUlaunchAttributeID

typedef struct {
    int id;
    char pad[4];
    union {
        int32_t allowed; // of both
        uint64_t room[8];
    } value;
} LaunchAttribute;

typedef struct {
    uint32_t grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    Handle stream;
    LaunchAttribute *attributes;
    uint32_t attribute_count;
} LaunchConfig;

_Static_assert(sizeof(LaunchAttribute) == 72 && sizeof(LaunchConfig) == 56, "layout of the driver");

// Name here, name in the library (whose plain names are often a retired form), parameters.
#define DRIVER_FUNCTIONS(F)                                                                        \
    F(cuDriverGetVersion, cuDriverGetVersion, (int *))                                             \
    F(cuInit, cuInit, (unsigned))                                                                  \
    F(cuGetErrorName, cuGetErrorName, (int, const char **))                                        \
    F(cuGetErrorString, cuGetErrorString, (int, const char **))                                    \
    F(cuDeviceGetCount, cuDeviceGetCount, (int *))                                                 \
    F(cuDeviceGet, cuDeviceGet, (int *, int))                                                      \
    F(cuDeviceGetName, cuDeviceGetName, (char *, int, int))                                        \
    F(cuDeviceGetAttribute, cuDeviceGetAttribute, (int *, int, int))                               \
    F(cuDeviceTotalMem, cuDeviceTotalMem_v2, (size_t *, int))                                      \
    F(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (Handle *, int))                         \
    F(cuDevicePrimaryCtxRelease, cuDevicePrimaryCtxRelease_v2, (int))                              \
    F(cuCtxSetCurrent, cuCtxSetCurrent, (Handle))                                                  \
    F(cuModuleLoadDataEx, cuModuleLoadDataEx, (Handle *, const void *, unsigned, int *, void **))  \
    F(cuModuleUnload, cuModuleUnload, (Handle))                                                    \
    F(cuModuleGetFunction, cuModuleGetFunction, (Handle *, Handle, const char *))                  \
    F(cuFuncGetAttribute, cuFuncGetAttribute, (int *, int, Handle))                                \
    F(cuFuncSetAttribute, cuFuncSetAttribute, (Handle, int, int))                                  \
    F(cuOccupancyMaxActiveBlocksPerMultiprocessor, cuOccupancyMaxActiveBlocksPerMultiprocessor,    \
      (int *, Handle, int, size_t))                                                                \
    F(cuLaunchKernelEx, cuLaunchKernelEx, (const LaunchConfig *, Handle, void **, void **))        \
    F(cuMemGetInfo, cuMemGetInfo_v2, (size_t *, size_t *))                                         \
    F(cuMemAlloc, cuMemAlloc_v2, (GpuPointer *, size_t))                                           \
    F(cuMemFree, cuMemFree_v2, (GpuPointer))                                                       \
    F(cuMemHostAlloc, cuMemHostAlloc, (void **, size_t, unsigned))                                 \
    F(cuMemFreeHost, cuMemFreeHost, (void *))                                                      \
    F(cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (GpuPointer, const void *, size_t, Handle))         \
    F(cuMemcpyDtoHAsync, cuMemcpyDtoHAsync_v2, (void *, GpuPointer, size_t, Handle))               \
    F(cuMemcpyDtoDAsync, cuMemcpyDtoDAsync_v2, (GpuPointer, GpuPointer, size_t, Handle))           \
    F(cuMemsetD8Async, cuMemsetD8Async, (GpuPointer, unsigned char, size_t, Handle))               \
    F(cuStreamCreate, cuStreamCreate, (Handle *, unsigned))                                        \
    F(cuStreamDestroy, cuStreamDestroy_v2, (Handle))                                               \
    F(cuStreamSynchronize, cuStreamSynchronize, (Handle))                                          \
    F(cuStreamBeginCapture, cuStreamBeginCapture_v2, (Handle, int))                                \
    F(cuStreamEndCapture, cuStreamEndCapture, (Handle, Handle *))                                  \
    F(cuGraphInstantiate, cuGraphInstantiateWithFlags, (Handle *, Handle, unsigned long long))     \
    F(cuGraphUpload, cuGraphUpload, (Handle, Handle))                                              \
    F(cuGraphLaunch, cuGraphLaunch, (Handle, Handle))                                              \
    F(cuGraphDestroy, cuGraphDestroy, (Handle))                                                    \
    F(cuGraphExecDestroy, cuGraphExecDestroy, (Handle))                                            \
    F(cuEventCreate, cuEventCreate, (Handle *, unsigned))                                          \
    F(cuEventDestroy, cuEventDestroy_v2, (Handle))                                                 \
    F(cuEventRecord, cuEventRecord, (Handle, Handle))                                              \
    F(cuEventSynchronize, cuEventSynchronize, (Handle))                                            \
    F(cuEventElapsedTime, cuEventElapsedTime, (float *, Handle, Handle))

#define DRIVER_FIELD(name, symbol, parameters) int(*name) parameters;
static struct {
    DRIVER_FUNCTIONS(DRIVER_FIELD)
    int version, count;
    Error error; // why there are no GPUs to use; empty when there are
} driver;

static const char *error_name(int status)
{
    const char *name = NULL;
    driver.cuGetErrorName(status, &name);
    return name ? name : "unknown error";
}

static const char *error_string(int status)
{
    const char *text = NULL;
    driver.cuGetErrorString(status, &text);
    return text ? text : "no description";
}

static void load_driver(void)
{
    Error *err = &driver.error;
    start_part("program");
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        error_set(err, "no NVIDIA driver: %s", dlerror());
        return;
    }
    const char *missing = NULL;
#define DRIVER_RESOLVE(name, symbol, parameters)                                                   \
    driver.name = (__typeof__(driver.name))dlsym(library, #symbol);                                \
    if (!driver.name && !missing) missing = #symbol;
    DRIVER_FUNCTIONS(DRIVER_RESOLVE)

    if (driver.cuDriverGetVersion && driver.cuDriverGetVersion(&driver.version) == 0 &&
        driver.version < DRIVER_LEAST) {
        error_set(err, "the NVIDIA driver is too old: it supports CUDA %d.%d, needed is %d.%d",
                  driver.version / 1000, driver.version % 1000 / 10, DRIVER_LEAST / 1000,
                  DRIVER_LEAST % 1000 / 10);
        return;
    }
    if (missing) {
        error_set(err, "libcuda.so.1 is no NVIDIA driver for CUDA %d.%d or newer: it lacks %s",
                  DRIVER_LEAST / 1000, DRIVER_LEAST % 1000 / 10, missing);
        return;
    }
    // Kernels are loaded with their image: none may load on first use, inside a capture.
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    int status = driver.cuInit(0);
    if (status == 0) status = driver.cuDeviceGetCount(&driver.count);
    if (status == NO_DEVICE || (status == 0 && driver.count == 0))
        error_set(err, "the NVIDIA driver finds no GPU");
    else if (status)
        error_set(err, "the NVIDIA driver does not start: cuInit: %s, %s", error_name(status),
                  error_string(status));
    start_part("driver");
}

int gpu_count(Error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load_driver);
    return driver.error.text[0] ? error_set(err, "%s", driver.error.text) : driver.count;
}

// The end of the process: no call can be trusted after this one, not even those of a clean exit.
_Noreturn static void fail(const Gpu *gpu, int status, const char *call, const char *file, int line)
{
    fprintf(stderr, "GPU %d (%s): %s: %s, %s (%s:%d, last kernel: %s)\n", gpu->ordinal, gpu->name,
            call, error_name(status), error_string(status), file, line,
            gpu->last_kernel ? gpu->last_kernel : "none");
    fflush(stdout);
    _exit(1);
}

// GPU_CHECK(gpu, cuFunction(...)): the call must succeed.
#define GPU_CHECK(gpu, call)                                                                       \
    do {                                                                                           \
        int gpu_status = driver.call;                                                              \
        if (gpu_status) fail(gpu, gpu_status, #call, __FILE__, __LINE__);                          \
    } while (0)

// As GPU_CHECK where the caller can still be told; `call` becomes part of the message.
#define GPU_TRY(gpu, call)                                                                         \
    do {                                                                                           \
        int gpu_status = driver.call;                                                              \
        if (gpu_status)                                                                            \
            return error_set(err, "GPU %d (%s): %s: %s, %s", gpu->ordinal, gpu->name, #call,       \
                             error_name(gpu_status), error_string(gpu_status));                    \
    } while (0)

// Every public function begins so: the driver works on the calling thread's current context.
static void make_current(Gpu *gpu)
{
    GPU_CHECK(gpu, cuCtxSetCurrent(gpu->context));
}

// --- opening -------------------------------------------------------------------------------------

// Whether code for compute capability `image` runs on a chip of capability sm.
static int image_runs(int image, int sm)
{
    if (image == sm) return 1;
    if (image / 10 != sm / 10 || image > sm) return 0;
    if (sm == 87 || sm == 88) return image == 80; // Tegra chips stand outside the row 80, 86, 89
    return sm / 10 == 8 || sm / 10 == 12;
}

const GpuImage *gpu_choose_image(const GpuImage *images, int sm)
{
    const GpuImage *best = NULL;
    for (const GpuImage *i = images; i->image; i++) {
        int runs = i->sm == 0 ? sm >= 80 : image_runs(i->sm, sm);
        if (runs && (!best || i->sm > best->sm)) best = i;
    }
    return best;
}

static int read_properties(Gpu *gpu, Error *err)
{
    snprintf(gpu->name, sizeof gpu->name, "not opened");
    gpu->driver_version = driver.version;
    GPU_TRY(gpu, cuDeviceGet(&gpu->device, gpu->ordinal));
    GPU_TRY(gpu, cuDeviceGetName(gpu->name, sizeof gpu->name, gpu->device));
    GPU_TRY(gpu, cuDeviceTotalMem(&gpu->memory_bytes, gpu->device));

    int major, minor, block, sm, l2, d = gpu->device;
    GPU_TRY(gpu, cuDeviceGetAttribute(&major, COMPUTE_CAPABILITY_MAJOR, d));
    GPU_TRY(gpu, cuDeviceGetAttribute(&minor, COMPUTE_CAPABILITY_MINOR, d));
    GPU_TRY(gpu, cuDeviceGetAttribute(&gpu->sm_count, MULTIPROCESSOR_COUNT, d));
    GPU_TRY(gpu, cuDeviceGetAttribute(&gpu->cooperative, COOPERATIVE_LAUNCH, d));
    GPU_TRY(gpu, cuDeviceGetAttribute(&block, MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, d));
    GPU_TRY(gpu, cuDeviceGetAttribute(&sm, MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, d));
    GPU_TRY(gpu, cuDeviceGetAttribute(&l2, L2_CACHE_SIZE, d));
    gpu->sm = major * 10 + minor;
    gpu->shared_bytes_per_block = (size_t)block;
    gpu->shared_bytes_per_sm = (size_t)sm;
    gpu->l2_bytes = (size_t)l2;
    return 0;
}

// The primary context, which libraries built on the CUDA runtime share.
static int open_context(Gpu *gpu, Error *err)
{
    GPU_TRY(gpu, cuDevicePrimaryCtxRetain(&gpu->context, gpu->device));
    GPU_TRY(gpu, cuCtxSetCurrent(gpu->context));
    GPU_TRY(gpu, cuStreamCreate(&gpu->stream, STREAM_NON_BLOCKING));
    GPU_TRY(gpu, cuStreamCreate(&gpu->copy_stream, STREAM_NON_BLOCKING));
    for (int i = 0; i < GPU_MARKS; i++) GPU_TRY(gpu, cuEventCreate(&gpu->marks[i], 0));
    for (int i = 0; i < 2; i++)
        GPU_TRY(gpu, cuEventCreate(&gpu->copied[i], EVENT_BLOCKING_SYNC | EVENT_DISABLE_TIMING));
    return 0;
}

// "sm_80, sm_90, PTX": what the program was built for.
static void list_images(const GpuImage *images, char *text, size_t room)
{
    size_t n = 0;
    text[0] = 0;
    for (const GpuImage *i = images; i->image && n < room; i++) {
        const char *comma = i == images ? "" : ", ";
        if (i->sm)
            n += (size_t)snprintf(text + n, room - n, "%ssm_%d", comma, i->sm);
        else
            n += (size_t)snprintf(text + n, room - n, "%sPTX", comma);
    }
}

static int load_image(Gpu *gpu, const GpuImage *images, Error *err)
{
    char built_for[256], name[16] = "PTX", log[2048] = "";
    list_images(images, built_for, sizeof built_for);
    const GpuImage *image = gpu_choose_image(images, gpu->sm);
    if (!image)
        return error_set(err, "GPU %d (%s) is sm_%d; this program was built for %s", gpu->ordinal,
                         gpu->name, gpu->sm, built_for[0] ? built_for : "no GPU");
    if (image->sm) {
        snprintf(name, sizeof name, "sm_%d", image->sm);
    } else {
        fprintf(stderr,
                "GPU %d (%s) is sm_%d, this program was built for %s: compiling its PTX, once for "
                "this driver\n",
                gpu->ordinal, gpu->name, gpu->sm, built_for);
    }
    gpu->image_sm = image->sm;
    gpu->overlap = gpu->sm >= 90 && image->sm >= 90;

    int options[2] = {JIT_ERROR_LOG_BUFFER, JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
    void *values[2] = {log, (void *)(sizeof log - 1)};
    int status = driver.cuModuleLoadDataEx(&gpu->module, image->image, 2, options, values);
    if (status) {
        log[strcspn(log, "\n")] = 0;
        return error_set(err,
                         "GPU %d (%s): the %s code does not load on this driver for CUDA %d.%d: "
                         "%s, %s%s%s",
                         gpu->ordinal, gpu->name, name, driver.version / 1000,
                         driver.version % 1000 / 10, error_name(status), error_string(status),
                         log[0] ? ": " : "", log);
    }
    return 0;
}

// Kernels by name. A slot without a function remembers that the image has none of that name.
#define KERNEL_SLOTS 4096 // a power of two
struct GpuKernel {
    char *name;
    Handle function;
    uint32_t shared_room; // dynamic shared memory allowed so far
};

int gpu_open(Gpu **out, int ordinal, const GpuImage *images, Error *err)
{
    *out = NULL;
    int count = gpu_count(err);
    if (count < 0) return -1;
    if (ordinal < 0 || ordinal >= count)
        return error_set(err, "no GPU %d: the NVIDIA driver finds %d, the first is GPU 0", ordinal,
                         count);
    Gpu *gpu = calloc(1, sizeof *gpu);
    if (!gpu) return error_set(err, "out of memory");
    gpu->ordinal = ordinal;
    gpu->kernels = calloc(KERNEL_SLOTS, sizeof *gpu->kernels);
    int failed = gpu->kernels ? 0 : error_set(err, "out of memory");
    if (!failed) failed = read_properties(gpu, err);
    if (!failed) failed = open_context(gpu, err);
    start_part("context");
    if (!failed && images) failed = load_image(gpu, images, err);
    start_part("code");
    if (failed) {
        gpu_close(gpu);
        return -1;
    }
    *out = gpu;
    return 0;
}

// Undoes what gpu_open has done so far; statuses no longer matter.
void gpu_close(Gpu *gpu)
{
    if (!gpu) return;
    if (gpu->context) {
        driver.cuCtxSetCurrent(gpu->context);
        if (gpu->stream) driver.cuStreamSynchronize(gpu->stream);
        if (gpu->ring) driver.cuMemFreeHost(gpu->ring);
        for (int i = 0; i < GPU_MARKS; i++)
            if (gpu->marks[i]) driver.cuEventDestroy(gpu->marks[i]);
        for (int i = 0; i < 2; i++)
            if (gpu->copied[i]) driver.cuEventDestroy(gpu->copied[i]);
        if (gpu->copy_stream) driver.cuStreamDestroy(gpu->copy_stream);
        if (gpu->stream) driver.cuStreamDestroy(gpu->stream);
        if (gpu->module) driver.cuModuleUnload(gpu->module);
        driver.cuCtxSetCurrent(NULL);
        driver.cuDevicePrimaryCtxRelease(gpu->device);
    }
    for (int i = 0; gpu->kernels && i < KERNEL_SLOTS; i++) free(gpu->kernels[i].name);
    free(gpu->kernels);
    free(gpu);
}

// --- memory --------------------------------------------------------------------------------------

typedef struct {
    char text[32];
} Size;

// "1.50 GiB"
static Size print_size(size_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    Size size;
    double value = (double)bytes;
    int unit = 0;
    for (; value >= 1024 && unit < 6; unit++) value /= 1024;
    snprintf(size.text, sizeof size.text, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return size;
}

int gpu_alloc(Gpu *gpu, size_t bytes, GpuPointer *out, Error *err)
{
    make_current(gpu);
    *out = 0;
    int status = driver.cuMemAlloc(out, bytes ? bytes : 1);
    if (status == OUT_OF_MEMORY)
        return error_set(err, "GPU %d (%s): %s do not fit: %s of %s are free", gpu->ordinal,
                         gpu->name, print_size(bytes).text, print_size(gpu_free_bytes(gpu)).text,
                         print_size(gpu->memory_bytes).text);
    if (status)
        return error_set(err, "GPU %d (%s): cuMemAlloc of %s: %s, %s", gpu->ordinal, gpu->name,
                         print_size(bytes).text, error_name(status), error_string(status));
    gpu_clear_async(gpu, *out, bytes);
    gpu_wait(gpu);
    return 0;
}

void gpu_free(Gpu *gpu, GpuPointer p)
{
    make_current(gpu);
    if (p) GPU_CHECK(gpu, cuMemFree(p));
}

size_t gpu_free_bytes(Gpu *gpu)
{
    size_t free_bytes, total_bytes;
    make_current(gpu);
    GPU_CHECK(gpu, cuMemGetInfo(&free_bytes, &total_bytes));
    return free_bytes;
}

int gpu_alloc_host(Gpu *gpu, size_t bytes, void **out, Error *err)
{
    make_current(gpu);
    *out = NULL;
    int status = driver.cuMemHostAlloc(out, bytes ? bytes : 1, MEMHOSTALLOC_PORTABLE);
    if (status)
        return error_set(err, "%s of page-locked memory: %s, %s", print_size(bytes).text,
                         error_name(status), error_string(status));
    return 0;
}

void gpu_free_host(Gpu *gpu, void *p)
{
    make_current(gpu);
    if (p) GPU_CHECK(gpu, cuMemFreeHost(p));
}

void gpu_write(Gpu *gpu, GpuPointer to, const void *from, size_t bytes)
{
    gpu_write_async(gpu, to, from, bytes);
    gpu_wait(gpu);
}

void gpu_read(Gpu *gpu, void *to, GpuPointer from, size_t bytes)
{
    gpu_read_async(gpu, to, from, bytes);
    gpu_wait(gpu);
}

void gpu_write_async(Gpu *gpu, GpuPointer to, const void *from, size_t bytes)
{
    make_current(gpu);
    if (bytes) GPU_CHECK(gpu, cuMemcpyHtoDAsync(to, from, bytes, gpu->stream));
}

void gpu_read_async(Gpu *gpu, void *to, GpuPointer from, size_t bytes)
{
    make_current(gpu);
    if (bytes) GPU_CHECK(gpu, cuMemcpyDtoHAsync(to, from, bytes, gpu->stream));
}

void gpu_copy_async(Gpu *gpu, GpuPointer to, GpuPointer from, size_t bytes)
{
    make_current(gpu);
    if (bytes) GPU_CHECK(gpu, cuMemcpyDtoDAsync(to, from, bytes, gpu->stream));
}

void gpu_clear_async(Gpu *gpu, GpuPointer to, size_t bytes)
{
    make_current(gpu);
    if (bytes) GPU_CHECK(gpu, cuMemsetD8Async(to, 0, bytes, gpu->stream));
}

void gpu_wait(Gpu *gpu)
{
    make_current(gpu);
    GPU_CHECK(gpu, cuStreamSynchronize(gpu->stream));
}

// --- upload --------------------------------------------------------------------------------------

// Reader threads fill the slots of a ring, the caller's thread sends them in order.
#define CHUNK_BYTES ((size_t)8 << 20)
#define RING_SLOTS 12
// One reaches 18 GB/s from the page cache (8 GB/s through a mapping, whose pages have to be found
// first); a PCIe 5 bus takes 55.
#define READERS_MOST 8

typedef struct {
    Gpu *gpu;
    GpuSource from;
    uint8_t *ring; // (RING_SLOTS, CHUNK_BYTES)
    size_t bytes, chunks;
    pthread_mutex_t lock; // of everything below
    pthread_cond_t changed;
    size_t claimed, sent;   // chunks taken by readers; chunks that have left the ring
    int filled[RING_SLOTS]; // chunk c, in slot c % RING_SLOTS, waits to be sent
} Upload;

static size_t chunk_bytes(const Upload *u, size_t chunk)
{
    size_t left = u->bytes - chunk * CHUNK_BYTES;
    return left < CHUNK_BYTES ? left : CHUNK_BYTES;
}

static void read_source(const Gpu *gpu, const GpuSource *from, size_t at, void *to, size_t bytes)
{
    if (from->memory) {
        memcpy(to, (const uint8_t *)from->memory + at, bytes);
        return;
    }
    // One request for all of it: piece by piece a disk would see requests of 128 KB.
    posix_fadvise(from->fd, (off_t)(from->offset + at), (off_t)bytes, POSIX_FADV_WILLNEED);
    for (size_t done = 0; done < bytes;) {
        ssize_t n =
            pread(from->fd, (uint8_t *)to + done, bytes - done, (off_t)(from->offset + at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            fprintf(stderr, "GPU %d (%s): the weights cannot be read: %s\n", gpu->ordinal,
                    gpu->name, n ? strerror(errno) : "the file has become shorter");
            _exit(1);
        }
        done += (size_t)n;
    }
}

static void *read_chunks(void *argument)
{
    Upload *u = argument;
    pthread_mutex_lock(&u->lock);
    while (u->claimed < u->chunks) {
        size_t chunk = u->claimed++, bytes = chunk_bytes(u, chunk);
        while (chunk >= u->sent + RING_SLOTS) pthread_cond_wait(&u->changed, &u->lock);
        pthread_mutex_unlock(&u->lock);

        read_source(u->gpu, &u->from, chunk * CHUNK_BYTES,
                    u->ring + chunk % RING_SLOTS * CHUNK_BYTES, bytes);

        pthread_mutex_lock(&u->lock);
        u->filled[chunk % RING_SLOTS] = 1;
        pthread_cond_broadcast(&u->changed);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

static void wait_for_chunk(Upload *u, size_t chunk)
{
    pthread_mutex_lock(&u->lock);
    while (!u->filled[chunk % RING_SLOTS]) pthread_cond_wait(&u->changed, &u->lock);
    u->filled[chunk % RING_SLOTS] = 0;
    pthread_mutex_unlock(&u->lock);
}

static void free_chunk(Upload *u)
{
    pthread_mutex_lock(&u->lock);
    u->sent++;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

static void upload_chunk(Gpu *gpu, GpuPointer to, const GpuSource *from, size_t bytes)
{
    void *copy = malloc(bytes ? bytes : 1);
    if (!copy) {
        fprintf(stderr, "GPU %d (%s): out of memory for an upload\n", gpu->ordinal, gpu->name);
        _exit(1);
    }
    read_source(gpu, from, 0, copy, bytes);
    gpu_write(gpu, to, copy, bytes);
    free(copy);
}

void gpu_upload(Gpu *gpu, GpuPointer to, GpuSource from, size_t bytes)
{
    gpu_wait(gpu);
    if (bytes <= CHUNK_BYTES) {
        upload_chunk(gpu, to, &from, bytes);
        return;
    }
    if (!gpu->ring)
        GPU_CHECK(gpu, cuMemHostAlloc(&gpu->ring, RING_SLOTS * CHUNK_BYTES, MEMHOSTALLOC_PORTABLE));
    start_part("staging");
    Upload u = {.gpu = gpu, .from = from, .ring = gpu->ring, .bytes = bytes};
    u.chunks = (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    pthread_mutex_init(&u.lock, NULL);
    pthread_cond_init(&u.changed, NULL);
    pthread_t readers[READERS_MOST];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int wanted = processors < 2 ? 2 : processors > READERS_MOST ? READERS_MOST : (int)processors;
    int reader_count = 0;
    while (reader_count < wanted &&
           pthread_create(&readers[reader_count], NULL, read_chunks, &u) == 0)
        reader_count++;
    if (reader_count == 0) {
        fprintf(stderr, "GPU %d (%s): gpu_upload cannot start a thread\n", gpu->ordinal, gpu->name);
        _exit(1);
    }

    // Two chunks are under way at any time, so that the bus never waits for this thread.
    for (size_t c = 0; c < u.chunks; c++) {
        wait_for_chunk(&u, c);
        GPU_CHECK(gpu,
                  cuMemcpyHtoDAsync(to + c * CHUNK_BYTES, u.ring + c % RING_SLOTS * CHUNK_BYTES,
                                    chunk_bytes(&u, c), gpu->copy_stream));
        GPU_CHECK(gpu, cuEventRecord(gpu->copied[c % 2], gpu->copy_stream));
        if (c == 0) continue;
        GPU_CHECK(gpu, cuEventSynchronize(gpu->copied[(c - 1) % 2]));
        free_chunk(&u);
    }
    GPU_CHECK(gpu, cuStreamSynchronize(gpu->copy_stream));
    for (int i = 0; i < reader_count; i++) pthread_join(readers[i], NULL);
    pthread_cond_destroy(&u.changed);
    pthread_mutex_destroy(&u.lock);
}

// --- kernels -------------------------------------------------------------------------------------

// Every kernel may use this much shared memory, static and dynamic, without asking.
#define SHARED_BYTES_GRANTED (48 << 10)

static void find_kernel(Gpu *gpu, struct GpuKernel *kernel, const char *name)
{
    if (gpu->kernel_count++ == KERNEL_SLOTS / 2 || !(kernel->name = strdup(name))) {
        fprintf(stderr, "GPU %d (%s): no room for kernel %s\n", gpu->ordinal, gpu->name, name);
        _exit(1);
    }
    if (!gpu->module || !*name) return; // the driver calls an empty name an invalid value
    int status = driver.cuModuleGetFunction(&kernel->function, gpu->module, name);
    if (status == NOT_FOUND) {
        kernel->function = NULL;
        return;
    }
    if (status) fail(gpu, status, "cuModuleGetFunction", name, 0);
    int shared;
    GPU_CHECK(gpu, cuFuncGetAttribute(&shared, SHARED_SIZE_BYTES, kernel->function));
    if (shared < SHARED_BYTES_GRANTED)
        kernel->shared_room = SHARED_BYTES_GRANTED - (uint32_t)shared;
}

int gpu_kernel(Gpu *gpu, const char *name)
{
    uint32_t hash = 2166136261u; // FNV-1a
    for (const char *p = name; *p; p++) hash = (hash ^ (uint8_t)*p) * 16777619u;
    uint32_t slot = hash % KERNEL_SLOTS;
    while (gpu->kernels[slot].name && strcmp(gpu->kernels[slot].name, name) != 0)
        slot = (slot + 1) % KERNEL_SLOTS;
    if (!gpu->kernels[slot].name) {
        make_current(gpu);
        find_kernel(gpu, &gpu->kernels[slot], name);
    }
    return gpu->kernels[slot].function ? (int)slot : -1;
}

// The kernel to launch, allowed that much shared memory.
static struct GpuKernel *launched(Gpu *gpu, int kernel, uint32_t shared_bytes)
{
    assert(kernel >= 0 && kernel < KERNEL_SLOTS && gpu->kernels[kernel].function);
    struct GpuKernel *k = &gpu->kernels[kernel];
    make_current(gpu);
    gpu->last_kernel = k->name;
    if (shared_bytes > k->shared_room) {
        Handle f = k->function;
        GPU_CHECK(gpu, cuFuncSetAttribute(f, MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)shared_bytes));
        GPU_CHECK(gpu, cuFuncSetAttribute(f, PREFERRED_SHARED_MEMORY_CARVEOUT, 100));
        k->shared_room = shared_bytes;
    }
    return k;
}

void gpu_launch(Gpu *gpu, int kernel, uint32_t grid, uint32_t grid_y, uint32_t block,
                uint32_t shared_bytes, int overlap, void **arguments)
{
    struct GpuKernel *k = launched(gpu, kernel, shared_bytes);
    LaunchAttribute attribute = {.id = PROGRAMMATIC_STREAM_SERIALIZATION, .value.allowed = 1};
    LaunchConfig config = {grid, grid_y, 1, block, 1, 1, shared_bytes, gpu->stream, &attribute, 0};
    if (overlap && gpu->overlap &&
        (!gpu->capturing || gpu->driver_version >= DRIVER_PROGRAMMATIC_EDGES))
        config.attribute_count = 1;
    GPU_CHECK(gpu, cuLaunchKernelEx(&config, k->function, arguments, NULL));
}

int gpu_launch_together(Gpu *gpu, int kernel, uint32_t block, uint32_t shared_bytes,
                        void **arguments)
{
    if (!gpu->cooperative) return 0;
    struct GpuKernel *k = launched(gpu, kernel, shared_bytes);
    int resident = 0;
    GPU_CHECK(gpu, cuOccupancyMaxActiveBlocksPerMultiprocessor(&resident, k->function, (int)block,
                                                               shared_bytes));
    if (resident == 0) return 0;
    LaunchAttribute attribute = {.id = COOPERATIVE, .value.allowed = 1};
    LaunchConfig config = {
        (uint32_t)gpu->sm_count, 1, 1, block, 1, 1, shared_bytes, gpu->stream, &attribute, 1};
    GPU_CHECK(gpu, cuLaunchKernelEx(&config, k->function, arguments, NULL));
    return 1;
}

// --- graphs --------------------------------------------------------------------------------------

struct GpuGraph {
    Handle executable;
};

void gpu_capture_begin(Gpu *gpu)
{
    make_current(gpu);
    GPU_CHECK(gpu, cuStreamBeginCapture(gpu->stream, CAPTURE_THREAD_LOCAL));
    gpu->capturing = 1;
}

GpuGraph *gpu_capture_end(Gpu *gpu)
{
    Handle captured = NULL;
    GpuGraph *graph = calloc(1, sizeof *graph);
    if (!graph) {
        fprintf(stderr, "GPU %d (%s): out of memory for a graph\n", gpu->ordinal, gpu->name);
        _exit(1);
    }
    make_current(gpu);
    gpu->capturing = 0;
    GPU_CHECK(gpu, cuStreamEndCapture(gpu->stream, &captured));
    GPU_CHECK(gpu, cuGraphInstantiate(&graph->executable, captured, 0));
    GPU_CHECK(gpu, cuGraphDestroy(captured));
    GPU_CHECK(gpu, cuGraphUpload(graph->executable, gpu->stream)); // the first launch is as fast
    return graph;
}

void gpu_graph_launch(Gpu *gpu, GpuGraph *graph)
{
    make_current(gpu);
    GPU_CHECK(gpu, cuGraphLaunch(graph->executable, gpu->stream));
}

void gpu_graph_free(Gpu *gpu, GpuGraph *graph)
{
    if (!graph) return;
    make_current(gpu);
    GPU_CHECK(gpu, cuStreamSynchronize(gpu->stream));
    GPU_CHECK(gpu, cuGraphExecDestroy(graph->executable));
    free(graph);
}

// --- time ----------------------------------------------------------------------------------------

void gpu_mark(Gpu *gpu, int slot)
{
    assert(slot >= 0 && slot < GPU_MARKS && !gpu->capturing);
    make_current(gpu);
    GPU_CHECK(gpu, cuEventRecord(gpu->marks[slot], gpu->stream));
}

double gpu_elapsed(Gpu *gpu, int from, int to)
{
    float milliseconds = 0;
    assert(from >= 0 && from < GPU_MARKS && to >= 0 && to < GPU_MARKS);
    make_current(gpu);
    GPU_CHECK(gpu, cuEventSynchronize(gpu->marks[from]));
    GPU_CHECK(gpu, cuEventSynchronize(gpu->marks[to]));
    GPU_CHECK(gpu, cuEventElapsedTime(&milliseconds, gpu->marks[from], gpu->marks[to]));
    return milliseconds * 1e-3;
}
