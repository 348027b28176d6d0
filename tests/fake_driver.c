// A CUDA driver for machines without a GPU: its memory is the host's, its copies are done at once,
// its kernels do nothing. tests/unit/driver.c loads it in place of the real one.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void *Handle;
typedef uint64_t Pointer;

// What needs no more than to be there.
#define FINE(name, ...)                                                                            \
    int name(__VA_ARGS__)                                                                          \
    {                                                                                              \
        return 0;                                                                                  \
    }
// What hands something out.
#define GIVES(name, type, value, ...)                                                              \
    int name(type *out, ##__VA_ARGS__)                                                             \
    {                                                                                              \
        *out = (type)(value);                                                                      \
        return 0;                                                                                  \
    }

#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wint-conversion"
GIVES(cuDriverGetVersion, int, 13000)
FINE(cuInit, unsigned flags)
int cuGetErrorName(int status, const char **out)
{
    *out = "CUDA_ERROR_OF_NO_DRIVER";
    return 0;
}
int cuGetErrorString(int status, const char **out)
{
    *out = "no description";
    return 0;
}
GIVES(cuDeviceGetCount, int, 1)
GIVES(cuDeviceGet, int, 0, int ordinal)
GIVES(cuDeviceTotalMem_v2, size_t, (size_t)16 << 30, int device)
int cuDeviceGetName(char *name, int bytes, int device)
{
    strncpy(name, "no GPU", (size_t)bytes);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    *value = attribute == 16   ? 4        // multiprocessors
             : attribute == 38 ? 50 << 20 // bytes of the L2 cache
             : attribute == 75 ? 9        // compute capability 9.0
             : attribute == 81 ? 228 << 10
             : attribute == 95 ? 1 // cooperative launch
             : attribute == 97 ? 227 << 10
                               : 0;
    return 0;
}

GIVES(cuDevicePrimaryCtxRetain, Handle, 1, int device)
FINE(cuDevicePrimaryCtxRelease_v2, int device)
FINE(cuCtxSetCurrent, Handle context)
GIVES(cuModuleLoadDataEx, Handle, 1, const void *image, unsigned n, int *options, void **values)
FINE(cuModuleUnload, Handle module)
GIVES(cuModuleGetFunction, Handle, 1, Handle module, const char *name)
GIVES(cuFuncGetAttribute, int, 0, int attribute, Handle function)
FINE(cuFuncSetAttribute, Handle function, int attribute, int value)
GIVES(cuOccupancyMaxActiveBlocksPerMultiprocessor, int, 1, Handle function, int block, size_t bytes)
FINE(cuLaunchKernelEx, const void *config, Handle function, void **arguments, void **extra)

// --- memory --------------------------------------------------------------------------------------

static int take(void **out, size_t bytes)
{
    *out = bytes > (size_t)16 << 30 ? NULL : aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    return *out ? 0 : 2; // out of memory
}
int cuMemGetInfo_v2(size_t *left, size_t *all)
{
    const char *megabytes = getenv("GPU_FREE");
    *left = megabytes ? (size_t)atoi(megabytes) << 20 : (size_t)8 << 30;
    *all = (size_t)16 << 30;
    return 0;
}
int cuMemAlloc_v2(Pointer *out, size_t bytes)
{
    return take((void **)out, bytes);
}
int cuMemFree_v2(Pointer p)
{
    free((void *)p);
    return 0;
}
int cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
    return take(out, bytes);
}
int cuMemFreeHost(void *p)
{
    free(p);
    return 0;
}
static int copy(void *to, const void *from, size_t bytes)
{
    memmove(to, from, bytes);
    return 0;
}
int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Handle stream)
{
    return copy((void *)to, from, bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Handle stream)
{
    return copy(to, (void *)from, bytes);
}
int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Handle stream)
{
    return copy((void *)to, (void *)from, bytes);
}
int cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Handle stream)
{
    memset((void *)to, value, bytes);
    return 0;
}

// --- streams, graphs, events ---------------------------------------------------------------------

GIVES(cuStreamCreate, Handle, 1, unsigned flags)
FINE(cuStreamDestroy_v2, Handle stream)
FINE(cuStreamSynchronize, Handle stream)
FINE(cuStreamBeginCapture_v2, Handle stream, int mode)
int cuStreamEndCapture(Handle stream, Handle *graph)
{
    *graph = (Handle)1;
    return 0;
}
GIVES(cuGraphInstantiateWithFlags, Handle, 1, Handle graph, unsigned long long flags)
FINE(cuGraphUpload, Handle graph, Handle stream)
FINE(cuGraphLaunch, Handle graph, Handle stream)
FINE(cuGraphDestroy, Handle graph)
FINE(cuGraphExecDestroy, Handle graph)

int cuEventCreate(Handle *out, unsigned flags)
{
    *out = calloc(1, sizeof(struct timespec));
    return *out ? 0 : 2;
}
int cuEventDestroy_v2(Handle event)
{
    free(event);
    return 0;
}
int cuEventRecord(Handle event, Handle stream)
{
    return clock_gettime(CLOCK_MONOTONIC, event);
}
FINE(cuEventSynchronize, Handle event)
int cuEventElapsedTime(float *milliseconds, Handle from, Handle to)
{
    const struct timespec *a = from, *b = to;
    *milliseconds =
        (float)(b->tv_sec - a->tv_sec) * 1e3f + (float)(b->tv_nsec - a->tv_nsec) * 1e-6f;
    return 0;
}
