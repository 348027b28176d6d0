// runtime/gpu.c over a driver without a GPU (tests/fake_driver.c): uploads through the ring, from
// files and memory, files that end early, and steps that are left out of a pass.
#include "../../compiler/exlc.h"
#include "../../runtime/gpu.h"
#include "../check.h"
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static FILE *make_file(uint8_t *bytes, size_t count)
{
    FILE *f = tmpfile();
    for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)((i * 2654435761u >> 13) ^ i >> 22);
    if (!f || fwrite(bytes, 1, count, f) != count || fflush(f) != 0) exit(1);
    return f;
}

static void check_upload(Gpu *gpu, const char *what, GpuSource from, const uint8_t *want,
                         size_t bytes)
{
    GpuPointer p;
    Error err;
    CHECK(gpu_alloc(gpu, bytes + 2, &p, &err) == 0);
    gpu_upload(gpu, p + 1, from, bytes);
    const uint8_t *got = (const uint8_t *)p; // its memory is ours
    CHECK_MSG(got[0] == 0 && got[bytes + 1] == 0 && memcmp(got + 1, want, bytes) == 0,
              "%zu bytes from %s", bytes, what);
    gpu_free(gpu, p);
}

// From odd places; one goes round the ring of 96 MB.
static void test_upload(Gpu *gpu)
{
    size_t all = (size_t)120 << 20;
    uint8_t *bytes = malloc(all);
    if (!bytes) exit(1);
    FILE *f = make_file(bytes, all);
    const size_t counts[] = {
        all - 3, (size_t)16 << 20, ((size_t)8 << 20) + 1, (size_t)8 << 20, 1000, 0};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        check_upload(gpu, "a file", (GpuSource){NULL, fileno(f), 3}, bytes + 3, counts[i]);
        check_upload(gpu, "memory", (GpuSource){bytes + 3, -1, 0}, bytes + 3, counts[i]);
    }

    // A file that has become shorter is the end of the process, said in one line.
    for (int large = 0; large < 2; large++) {
        FILE *errors = tmpfile();
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) {
            GpuPointer p;
            Error err;
            dup2(fileno(errors), 2);
            if (gpu_alloc(gpu, all, &p, &err) == 0)
                gpu_upload(gpu, p,
                           (GpuSource){NULL, fileno(f), all - 1000 - (size_t)large * (9 << 20)},
                           1001 + (size_t)large * (9 << 20));
            _exit(0);
        }
        int status = 0;
        char line[4096];
        waitpid(child, &status, 0);
        rewind(errors);
        line[fread(line, 1, sizeof line - 1, errors)] = 0;
        fclose(errors);
        CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 1 &&
                      strstr(line, "has become shorter") &&
                      strchr(line, '\n') == line + strlen(line) - 1,
                  "status %d, '%s'", status, line);
    }
    fclose(f);
    free(bytes);
}

static int is_up(void *taker, const char *step)
{
    ++*(int *)taker;
    return strncmp(step, "up, ", 4) == 0;
}

static void test_steps(Gpu *gpu)
{
    int asked = 0;
    CHECK(gpu_takes(gpu, "down, m4, LAYER(l)"));
    gpu->takes = is_up;
    gpu->taker = &asked;
    CHECK(gpu_takes(gpu, "up, m4, m4, LAYER(l)") && !gpu_takes(gpu, "up_alone, m4, LAYER(l)"));
    CHECK(asked == 2);
    gpu->takes = NULL;
}

// What a build is for when nobody says.
static void test_choice(void)
{
    int sms[MAX_GPUS];
    const char *why;
    CHECK(present_sms(sms, &why) == 1 && sms[0] == 90);
    CHECK(choose_sms((const int[]){80, 90, 100}, 3, sms) == 1 && sms[0] == 90);
    CHECK(choose_sms((const int[]){80, 100}, 2, sms) == 2 && sms[0] == 80 && sms[1] == 100);
}

int main(int argc, char **argv)
{
    char path[4096];
    (void)argc;
    const char *slash = strrchr(argv[0], '/');
    snprintf(path, sizeof path, "%.*s/../libcuda.so.1", slash ? (int)(slash - argv[0]) : 0,
             argv[0]);
    // The name by which gpu.c asks for a driver is then taken.
    if (!dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    test_choice();
    Gpu *gpu;
    Error err;
    const GpuImage images[] = {{90, "no code", NULL}, {0}};
    CHECK(gpu_count(&err) == 1);
    CHECK(gpu_open(&gpu, 0, images, &err) == 0 && gpu->sm == 90 && gpu->image_sm == 90);
    test_upload(gpu);
    test_steps(gpu);
    gpu_close(gpu);
    return check_done();
}
