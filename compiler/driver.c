// The GPUs of this machine, as the NVIDIA driver tells them. It is opened in a process of its own:
// drivers do not outlive a fork, and NVRTC looks for one in its process.
#include "exlc.h"
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct {
    int count, sms[MAX_GPUS];
    char why[256]; // there are none
} Found;

static void ask_driver(Found *f)
{
    enum { MAJOR = 75, MINOR = 76 }; // CUdevice_attribute
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(f->why, sizeof f->why, "no NVIDIA driver: %s", dlerror());
        return;
    }
    int (*init)(unsigned) = (int (*)(unsigned))dlsym(library, "cuInit");
    int (*count)(int *) = (int (*)(int *))dlsym(library, "cuDeviceGetCount");
    int (*attribute)(int *, int, int) =
        (int (*)(int *, int, int))dlsym(library, "cuDeviceGetAttribute");
    int gpus = 0;
    if (!init || !count || !attribute || init(0) != 0 || count(&gpus) != 0) return;
    if (gpus > MAX_GPUS) gpus = MAX_GPUS;
    for (int i = 0; i < gpus; i++) {
        int major, minor; // a device is its number
        if (attribute(&major, MAJOR, i) != 0 || attribute(&minor, MINOR, i) != 0) return;
        f->sms[i] = 10 * major + minor;
    }
    f->count = gpus;
}

int present_sms(int *sms, const char **why)
{
    int ends[2], status;
    if (pipe(ends) != 0) die("pipe", "%s", strerror(errno));
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) die("fork", "%s", strerror(errno));
    if (pid == 0) {
        Found f = {.why = "the NVIDIA driver finds no GPU"};
        ask_driver(&f);
        _exit(write(ends[1], &f, sizeof f) != sizeof f);
    }
    Found f;
    close(ends[1]);
    ssize_t got = read(ends[0], &f, sizeof f);
    close(ends[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (got != sizeof f) f = (Found){.why = "the NVIDIA driver does not start"};
    memcpy(sms, f.sms, (size_t)f.count * sizeof *sms);
    *why = arena_copy(f.why, strlen(f.why));
    return f.count;
}

int choose_sms(const int *all, int count, int *sms)
{
    int present[MAX_GPUS], chosen = 0, known = 0;
    const char *why;
    int gpus = present_sms(present, &why);
    for (int i = 0; i < count; i++) {
        int here = 0;
        for (int g = 0; g < gpus; g++) here += present[g] == all[i];
        if (here) sms[chosen++] = all[i];
        known += here;
    }
    if (chosen && known == gpus) return chosen;
    for (int i = 0; i < count; i++) sms[i] = all[i];
    return count;
}
