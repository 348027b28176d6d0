// The CUDA driver behind dlopen: one GPU, its memory, kernels, stream and captured graphs. Nothing
// of CUDA is linked. A failed call after gpu_open is fatal: one line names call, file and line.
// Any thread may call these functions, but for one Gpu only one at a time.
#pragma once
#include "error.h"
#include "program.h"
#include <stddef.h>
#include <stdint.h>

typedef uint64_t GpuPointer; // device address
#define GPU_MARKS 64         // slots of gpu_mark

struct Gpu {
    char name[128];
    int ordinal, sm, sm_count; // sm 90 means compute capability 9.0
    int driver_version;        // 13000 for 13.0
    size_t memory_bytes, shared_bytes_per_block, shared_bytes_per_sm, l2_bytes;
    int cooperative; // cooperative launch works
    int image_sm;    // compute capability the loaded image was built for; 0: PTX
    // For whoever launches a part of a pass: says of each step, as "up, m4, m4, LAYER(l)", whether it
    // goes. NULL: all do.
    int (*takes)(void *taker, const char *step);
    void *taker;
    // private
    int device, overlap, capturing; // overlap: kernels can wait for their predecessors themselves
    void *context, *module, *stream, *copy_stream;
    void *marks[GPU_MARKS], *copied[2]; // events of gpu_mark and of gpu_upload
    struct GpuKernel *kernels;          // hash table by name
    int kernel_count;
    const char *last_kernel; // launched, for the line of a failed call
    void *ring;              // page-locked staging of gpu_upload
};

static inline int gpu_takes(const Gpu *gpu, const char *step)
{
    return !gpu->takes || gpu->takes(gpu->taker, step);
}

// Number of GPUs (1 or more), or -1 with a line that says why none can be used (no driver, driver
// too old ...).
int gpu_count(Error *err);

// The image that a GPU of compute capability sm runs: the same one, else the highest lower one of
// the same major version (not for 90 and 100, whose images use features of that very chip), else
// the PTX, which a zero byte must end or follow; else NULL.
const GpuImage *gpu_choose_image(const GpuImage *images, int sm);

// Opens GPU `ordinal`: its context, streams and the image that gpu_choose_image gives, with a line
// on stderr when that is the PTX. Without images (NULL) it has memory but no kernels.
int gpu_open(Gpu **gpu, int ordinal, const GpuImage *images, Error *err);
void gpu_close(Gpu *gpu);

// Device memory, zeroed. -1 and a line with the sizes when it does not fit.
int gpu_alloc(Gpu *gpu, size_t bytes, GpuPointer *out, Error *err);
void gpu_free(Gpu *gpu, GpuPointer p);
size_t gpu_free_bytes(Gpu *gpu);

// Page-locked host memory.
int gpu_alloc_host(Gpu *gpu, size_t bytes, void **out, Error *err);
void gpu_free_host(Gpu *gpu, void *p);

// Copies in stream order. The host side of the asynchronous forms must be page-locked.
void gpu_write(Gpu *gpu, GpuPointer to, const void *from, size_t bytes); // waits
void gpu_read(Gpu *gpu, void *to, GpuPointer from, size_t bytes);        // waits
void gpu_write_async(Gpu *gpu, GpuPointer to, const void *from, size_t bytes);
void gpu_read_async(Gpu *gpu, void *to, GpuPointer from, size_t bytes);
void gpu_copy_async(Gpu *gpu, GpuPointer to, GpuPointer from, size_t bytes);
void gpu_clear_async(Gpu *gpu, GpuPointer to, size_t bytes);
void gpu_wait(Gpu *gpu); // until the stream is empty

// Copies much memory or a part of a file to the device through a page-locked ring that several
// threads fill; starts after what is in the stream and waits until the bytes are there.
typedef struct {
    const void *memory; // or NULL:
    int fd;
    uint64_t offset;
} GpuSource;
void gpu_upload(Gpu *gpu, GpuPointer to, GpuSource from, size_t bytes);

// Kernel of the loaded image by name; -1 when the image has none of that name.
int gpu_kernel(Gpu *gpu, const char *name);
// Launches on the stream. `arguments` are pointers to the parameters, as cuLaunchKernel takes them.
// shared_bytes is dynamic shared memory; the attribute for more than 48 KB is set on first use.
// With GPU_OVERLAP the kernel may start while its predecessor drains (programmatic dependent launch,
// sm_90 and later; elsewhere, and when running from PTX, ignored): the kernel must then wait by
// griddepcontrol before it reads what earlier kernels wrote.
enum { GPU_IN_ORDER, GPU_OVERLAP };
void gpu_launch(Gpu *gpu, int kernel, uint32_t grid, uint32_t grid_y, uint32_t block,
                uint32_t shared_bytes, int overlap, void **arguments);

// Launches one block a multiprocessor, all at the same time, so that they can wait for each other
// (cooperative launch). 0, and nothing is launched, where this GPU cannot.
int gpu_launch_together(Gpu *gpu, int kernel, uint32_t block, uint32_t shared_bytes,
                        void **arguments);

// Everything launched between begin and end (kernels, asynchronous copies and clears, nothing that
// waits or allocates) becomes a graph, replayed by gpu_graph_launch.
typedef struct GpuGraph GpuGraph;
void gpu_capture_begin(Gpu *gpu);
GpuGraph *gpu_capture_end(Gpu *gpu);
void gpu_graph_launch(Gpu *gpu, GpuGraph *graph);
void gpu_graph_free(Gpu *gpu, GpuGraph *graph);

// Stream time. gpu_mark records event `slot` (below GPU_MARKS; not inside a capture); gpu_elapsed
// waits and gives the seconds between two.
void gpu_mark(Gpu *gpu, int slot);
double gpu_elapsed(Gpu *gpu, int from, int to);
