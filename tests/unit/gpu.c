// runtime/gpu.c. Without a GPU: the choice of images and the line that says why there is none. With
// one: memory, uploads, launches (plain, overlapping, in a graph), times and the line of a failure.
#include "../../compiler/exlc.h"
#include "../../runtime/gpu.h"
#include "../check.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// A chain of mix_kernel is wrong as soon as one element is read before its predecessor wrote it.
static const char source[] =
    "#if __CUDA_ARCH__ >= 900\n"
    "#define BEGIN asm volatile(\"griddepcontrol.launch_dependents;\\n\" \\\n"
    "                           \"griddepcontrol.wait;\" ::: \"memory\")\n"
    "#else\n"
    "#define BEGIN\n"
    "#endif\n"
    "extern \"C\" __global__ void mix_kernel(unsigned *to, const unsigned *from, unsigned n,\n"
    "                                      unsigned step)\n"
    "{\n"
    "    BEGIN;\n"
    "    unsigned i = (blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x;\n"
    "    to[i] = from[(i * 7919u + step) % n] * 3u + step;\n"
    "}\n"
    "extern \"C\" __global__ void reverse_kernel(unsigned *to, const unsigned *from, unsigned n)\n"
    "{\n"
    "    BEGIN;\n"
    "    extern __shared__ unsigned words[];\n"
    "    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) words[i] = from[i];\n"
    "    __syncthreads();\n"
    "    for (unsigned i = threadIdx.x; i < n; i += blockDim.x) to[i] = words[n - 1 - i];\n"
    "}\n";

#define N (1u << 18)
#define STEPS 200u // even, so that a chain ends where it began

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int is_line(const Error *err)
{
    return err->text[0] && !strchr(err->text, '\n');
}

// --- without a GPU -------------------------------------------------------------------------------

static int chosen(int sm, int a, int b, int c)
{
    const GpuImage all[] = {{a, "", NULL}, {b, "", NULL}, {c, "", NULL}, {0}};
    const GpuImage *image = gpu_choose_image(all, sm);
    return image ? image->sm : -1;
}

static void test_images(void)
{
    CHECK(chosen(80, 80, 86, 89) == 80 && chosen(86, 80, 86, 89) == 86);
    CHECK(chosen(89, 80, 86, 89) == 89 && chosen(89, 80, 86, 0) == 86);
    CHECK(chosen(86, 80, 89, 0) == 80 && chosen(87, 86, 80, 0) == 80 && chosen(87, 86, 89, 0) == 0);
    CHECK(chosen(90, 80, 90, 0) == 90 && chosen(90, 80, 89, 0) == 0 &&
          chosen(90, 80, 86, 89) == -1);
    CHECK(chosen(100, 100, 90, 0) == 100 && chosen(103, 100, 90, 0) == 0);
    CHECK(chosen(103, 100, 90, 120) == -1);
    CHECK(chosen(120, 120, 90, 0) == 120 && chosen(121, 120, 90, 0) == 120);
    CHECK(chosen(110, 100, 120, 0) == 0 && chosen(75, 80, 90, 0) == -1);
}

static void test_absent(void)
{
    Error count_error = {""}, open_error = {""};
    Gpu *gpu = (Gpu *)1;
    CHECK(gpu_count(&count_error) == -1 && is_line(&count_error));
    CHECK(gpu_open(&gpu, 0, NULL, &open_error) == -1 && is_line(&open_error));
    CHECK(gpu == NULL && strcmp(count_error.text, open_error.text) == 0);
    gpu_close(NULL);
}

// A failed call ends the process with one line. In a child, before this process uses the driver.
static void test_failure(void)
{
    FILE *errors = tmpfile();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        Gpu *gpu;
        Error err;
        char byte;
        if (gpu_open(&gpu, 0, NULL, &err)) _exit(3);
        dup2(fileno(errors), 2);
        gpu_read(gpu, &byte, 16, 1);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    char line[4096];
    rewind(errors);
    line[fread(line, 1, sizeof line - 1, errors)] = 0;
    fclose(errors);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 3) return;
    fputs(line, stdout);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %d", status);
    CHECK_MSG(strstr(line, "CUDA_ERROR_") && strstr(line, "gpu.c:"), "%s", line);
    CHECK_MSG(strchr(line, '\n') == line + strlen(line) - 1, "%s", line);
}

// --- memory --------------------------------------------------------------------------------------

static void test_open(int count)
{
    Gpu *gpu;
    Error err = {""};
    CHECK(gpu_open(&gpu, count, NULL, &err) == -1 && !gpu && is_line(&err));
    printf("%s\n", err.text);
    CHECK(gpu_open(&gpu, -1, NULL, &err) == -1 && !gpu && is_line(&err));

    const GpuImage other[] = {{75, "x", NULL}, {0}};
    err.text[0] = 0;
    CHECK(gpu_open(&gpu, 0, other, &err) == -1 && !gpu && is_line(&err));
    printf("%s\n", err.text);
}

static void test_memory(Gpu *gpu)
{
    Error err = {""};
    GpuPointer p;
    CHECK(gpu_alloc(gpu, (size_t)1 << 50, &p, &err) == -1 && p == 0 && is_line(&err));
    CHECK_MSG(strstr(err.text, "1.00 PiB"), "%s", err.text);
    printf("%s\n", err.text);

    size_t bytes = (size_t)64 << 20, before = gpu_free_bytes(gpu);
    uint8_t *host = malloc(bytes);
    CHECK(gpu_alloc(gpu, bytes, &p, &err) == 0 && p % 256 == 0);
    CHECK(gpu_free_bytes(gpu) <= before - bytes);
    memset(host, 1, bytes);
    gpu_read(gpu, host, p, bytes);
    CHECK(host[0] == 0 && memcmp(host, host + 1, bytes - 1) == 0);

    for (size_t i = 0; i < bytes; i++) host[i] = (uint8_t)(i * 31 + (i >> 11));
    gpu_write(gpu, p, host, bytes);
    gpu_copy_async(gpu, p + 1000, p, 1000);
    gpu_clear_async(gpu, p + 10, 5);
    uint8_t small[2000];
    gpu_read(gpu, small, p, sizeof small);
    CHECK(memcmp(small + 1000, host, 1000) == 0);
    CHECK(memcmp(small, host, 10) == 0 && memcmp(small + 10, "\0\0\0\0", 5) == 0 &&
          memcmp(small + 15, host + 15, 985) == 0);

    void *pinned;
    CHECK(gpu_alloc_host(gpu, 4096, &pinned, &err) == 0);
    memset(pinned, 7, 4096);
    gpu_write_async(gpu, p, pinned, 4096);
    gpu_read_async(gpu, (uint8_t *)pinned + 2048, p + 5000, 1000);
    gpu_wait(gpu);
    CHECK(memcmp((uint8_t *)pinned + 2048, host + 5000, 1000) == 0);
    gpu_free_host(gpu, pinned);
    gpu_free(gpu, p);
    gpu_free(gpu, 0);
    CHECK(gpu_alloc(gpu, 0, &p, &err) == 0 && p != 0);
    gpu_free(gpu, p);
    free(host);
}

// Uploads `bytes` from an odd place of a file, or of its mapping, to an odd place and compares all
// of them.
static void check_upload(Gpu *gpu, const uint8_t *file, int fd, size_t bytes)
{
    GpuSource from = fd < 0 ? (GpuSource){file + 3, -1, 0} : (GpuSource){NULL, fd, 3};
    GpuPointer p;
    Error err;
    uint8_t *back = malloc(bytes + 2);
    CHECK(gpu_alloc(gpu, bytes + 2, &p, &err) == 0);
    double best = 0;
    for (int i = 0; i < 3; i++) {
        gpu_clear_async(gpu, p, bytes + 2);
        gpu_wait(gpu);
        double start = seconds();
        gpu_upload(gpu, p + 1, from, bytes);
        double rate = (double)bytes / (seconds() - start) * 1e-9;
        if (i == 0)
            printf("upload of %zu bytes from %s: %.2f GB/s first, ", bytes,
                   fd < 0 ? "memory" : "a file", rate);
        if (rate > best) best = rate;
    }
    printf("%.2f GB/s best\n", best);
    gpu_read(gpu, back, p, bytes + 2);
    CHECK(back[0] == 0 && back[bytes + 1] == 0 && memcmp(back + 1, file + 3, bytes) == 0);
    gpu_free(gpu, p);
    free(back);
}

static void test_upload(Gpu *gpu)
{
    size_t bytes = 300u * 1000 * 1000;
    FILE *f = tmpfile();
    uint32_t *values = malloc(bytes);
    for (size_t i = 0; i < bytes / 4; i++) values[i] = (uint32_t)i * 2654435761u ^ (uint32_t)i >> 7;
    CHECK(f && fwrite(values, 1, bytes, f) == bytes && fflush(f) == 0);
    free(values);
    const uint8_t *file = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fileno(f), 0);
    CHECK(file != MAP_FAILED);
    if (file == MAP_FAILED) return;
    for (int fd = fileno(f);; fd = -1) {
        check_upload(gpu, file, fd, bytes - 3);
        check_upload(gpu, file, fd, (size_t)16 << 20);
        check_upload(gpu, file, fd, ((size_t)8 << 20) + 1);
        check_upload(gpu, file, fd, (size_t)8 << 20);
        check_upload(gpu, file, fd, 1000);
        if (fd < 0) break;
    }
    munmap((void *)file, bytes);
    fclose(f);
}

// --- kernels -------------------------------------------------------------------------------------

typedef struct {
    Gpu *gpu;
    int kernel;
    GpuPointer a, b, start; // (N): a begins and ends the chain, b is its other half
    uint32_t *expected, *result;
} Chain;

static void launch_chain(Chain *c, int overlap)
{
    GpuPointer from = c->a, to = c->b;
    for (uint32_t step = 0; step < STEPS; step++) {
        uint32_t n = N;
        void *arguments[] = {&to, &from, &n, &step};
        gpu_launch(c->gpu, c->kernel, N / 256 / 8, 8, 256, 0, overlap, arguments);
        GpuPointer other = from;
        from = to;
        to = other;
    }
}

static int chain_is_right(Chain *c)
{
    gpu_read(c->gpu, c->result, c->a, N * 4);
    return memcmp(c->result, c->expected, N * 4) == 0;
}

static void open_chain(Chain *c, Gpu *gpu)
{
    Error err;
    *c = (Chain){.gpu = gpu, .kernel = gpu_kernel(gpu, "mix_kernel")};
    c->expected = malloc(N * 4);
    c->result = malloc(N * 4);
    CHECK(gpu_alloc(gpu, N * 4, &c->a, &err) == 0 && gpu_alloc(gpu, N * 4, &c->b, &err) == 0 &&
          gpu_alloc(gpu, N * 4, &c->start, &err) == 0);
    for (uint32_t i = 0; i < N; i++) c->expected[i] = i * i + 17;
    gpu_write(gpu, c->start, c->expected, N * 4);
    for (uint32_t step = 0; step < STEPS; step++) {
        for (uint32_t i = 0; i < N; i++)
            c->result[i] = c->expected[(i * 7919u + step) % N] * 3u + step;
        uint32_t *other = c->expected;
        c->expected = c->result;
        c->result = other;
    }
}

static void close_chain(Chain *c)
{
    gpu_free(c->gpu, c->a);
    gpu_free(c->gpu, c->b);
    gpu_free(c->gpu, c->start);
    free(c->expected);
    free(c->result);
}

static void test_chain(Gpu *gpu)
{
    static const char *const names[] = {"plain", "overlap"};
    Chain c;
    open_chain(&c, gpu);
    for (int overlap = 0; overlap < 2; overlap++) {
        for (int repeat = 0; repeat < 3; repeat++) { // the last one, warm, is shown
            gpu_copy_async(gpu, c.a, c.start, N * 4);
            gpu_mark(gpu, 0);
            launch_chain(&c, overlap);
            gpu_mark(gpu, GPU_MARKS - 1);
            CHECK_MSG(chain_is_right(&c), "launched, %s", names[overlap]);
        }
        double launched = gpu_elapsed(gpu, 0, GPU_MARKS - 1);
        CHECK_MSG(launched > 0 && launched < 1, "%g s", launched);

        // Copies, clears and kernels; the graph starts anew from c.start each time.
        gpu_capture_begin(gpu);
        gpu_clear_async(gpu, c.b, N * 4);
        gpu_copy_async(gpu, c.a, c.start, N * 4);
        launch_chain(&c, overlap);
        GpuGraph *graph = gpu_capture_end(gpu);
        for (int repeat = 0; repeat < 3; repeat++) {
            gpu_clear_async(gpu, c.a, N * 4);
            gpu_mark(gpu, 1);
            gpu_graph_launch(gpu, graph);
            gpu_mark(gpu, 2);
            CHECK_MSG(chain_is_right(&c), "graph, %s", names[overlap]);
        }
        double replayed = gpu_elapsed(gpu, 1, 2);
        CHECK_MSG(replayed > 0 && replayed < 1, "%g s", replayed);
        gpu_graph_free(gpu, graph);
        printf("%s: %.2f us a kernel launched, %.2f us in a graph\n", names[overlap],
               launched / STEPS * 1e6, replayed / STEPS * 1e6);
    }
    gpu_graph_free(gpu, NULL);
    close_chain(&c);
}

// All the shared memory a block may have, then less of it again.
static void test_shared(Gpu *gpu)
{
    Error err;
    GpuPointer from, to;
    uint32_t most = (uint32_t)gpu->shared_bytes_per_block;
    uint32_t *host = malloc(most);
    int kernel = gpu_kernel(gpu, "reverse_kernel");
    CHECK(gpu_alloc(gpu, most, &from, &err) == 0 && gpu_alloc(gpu, most, &to, &err) == 0);
    for (uint32_t i = 0; i < most / 4; i++) host[i] = i * 5;
    gpu_write(gpu, from, host, most);
    const uint32_t sizes[] = {4096, 50000, most, 60000};
    for (int s = 0; s < 4; s++) {
        uint32_t n = sizes[s] / 4;
        void *arguments[] = {&to, &from, &n};
        gpu_launch(gpu, kernel, 1, 1, 1024, sizes[s], s % 2, arguments);
        gpu_read(gpu, host, to, sizes[s]);
        int right = 1;
        for (uint32_t i = 0; i < n; i++) right &= host[i] == (n - 1 - i) * 5;
        CHECK_MSG(right, "%u bytes of shared memory", sizes[s]);
    }
    gpu_free(gpu, from);
    gpu_free(gpu, to);
    free(host);
}

static void test_kernels(Gpu *gpu)
{
    int mix = gpu_kernel(gpu, "mix_kernel"), reverse = gpu_kernel(gpu, "reverse_kernel");
    char name[] = "mix_kernel"; // the same name in another place
    CHECK(mix >= 0 && reverse >= 0 && mix != reverse && gpu_kernel(gpu, name) == mix);
    CHECK(gpu_kernel(gpu, "absent") == -1 && gpu_kernel(gpu, "absent") == -1);
    CHECK(gpu_kernel(gpu, "") == -1 && gpu_kernel(gpu, "reverse_kernel") == reverse);
    if (mix < 0 || reverse < 0) return;
    test_chain(gpu);
    test_shared(gpu);
}

static void *kernels_thread(void *gpu)
{
    test_kernels(gpu);
    return NULL;
}

// Opens with one image; *lines becomes the number of lines that gpu_open wrote to stderr.
static Gpu *open_with(int sm, const Buffer *image, int *lines)
{
    const GpuImage images[] = {{sm, image->data, image->data + image->bytes}, {0}};
    FILE *errors = tmpfile();
    int kept = dup(2);
    fflush(stderr);
    dup2(fileno(errors), 2);
    Gpu *gpu;
    Error err = {""};
    int status = gpu_open(&gpu, 0, images, &err);
    fflush(stderr);
    dup2(kept, 2);
    close(kept);
    CHECK_MSG(status == 0, "%s", err.text);
    rewind(errors);
    *lines = 0;
    for (int c; (c = fgetc(errors)) != EOF; *lines += c == '\n') putchar(c);
    fclose(errors);
    return status == 0 ? gpu : NULL;
}

static void test_programs(int sm)
{
    if (!nvrtc_present()) {
        SKIP("kernels: libnvrtc not found");
        return;
    }
    const SourceFile file = {"test.cu", source};
    const char *const none[] = {NULL};
    int lines;
    Buffer cubin = {0}, ptx = {0};
    compile_device(&file, 1, "test.cu", sm, none, &cubin);
    compile_device(&file, 1, "test.cu", 0, none, &ptx);

    Gpu *gpu = open_with(sm, &cubin, &lines);
    if (gpu) {
        CHECK(lines == 0);
        test_kernels(gpu);
        pthread_t thread; // any thread may call, one at a time
        int status = pthread_create(&thread, NULL, kernels_thread, gpu);
        if (status == 0) pthread_join(thread, NULL);
        CHECK(status == 0);
        gpu_close(gpu);
    }
    printf("from PTX:\n");
    gpu = open_with(0, &ptx, &lines);
    if (gpu) {
        CHECK_MSG(lines == 1, "%d lines", lines);
        test_kernels(gpu);
        gpu_close(gpu);
    }

    // Broken images are an answer, not the end.
    Error err = {""};
    const GpuImage broken[] = {{sm, ptx.data + 1, ptx.data + 1}, {0}};
    CHECK(gpu_open(&gpu, 0, broken, &err) == -1 && is_line(&err));
    printf("%s\n", err.text);
    buffer_free(&cubin);
    buffer_free(&ptx);
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_images();
    test_failure();
    Error err = {""};
    int count = gpu_count(&err);
    if (count < 0) {
        test_absent();
        SKIP(err.text);
        return check_done();
    }
    test_open(count);
    Gpu *gpu;
    if (gpu_open(&gpu, 0, NULL, &err)) {
        CHECK_MSG(0, "%s", err.text);
        return check_done();
    }
    int sm = gpu->sm;
    printf("%d GPUs; GPU 0: %s, sm_%d, %d SMs, %.1f GiB, shared %zu a block %zu an SM, L2 %zu, "
           "cooperative %d, driver %d\n",
           count, gpu->name, sm, gpu->sm_count, (double)gpu->memory_bytes / (1 << 30),
           gpu->shared_bytes_per_block, gpu->shared_bytes_per_sm, gpu->l2_bytes, gpu->cooperative,
           gpu->driver_version);
    CHECK(sm >= 50 && gpu->sm_count > 0 && gpu->shared_bytes_per_block >= 48 << 10);
    CHECK(gpu->shared_bytes_per_sm >= gpu->shared_bytes_per_block && gpu->l2_bytes > 0);
    CHECK(gpu_kernel(gpu, "mix_kernel") == -1); // no image
    test_memory(gpu);
    test_upload(gpu);
    gpu_close(gpu);
    test_programs(sm);
    return check_done();
}
