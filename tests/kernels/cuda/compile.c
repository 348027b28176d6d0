// Compiles the device code of one test with NVRTC: compile SM CONSTANTS_FOLDER OUT. Run in the top
// folder; EXLC_NVRTC names the library where it is not found by itself.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(int count, char **arguments)
{
    if (count != 4) return fprintf(stderr, "usage: compile SM CONSTANTS_FOLDER OUT\n"), 2;
    const char *names[] = {getenv("EXLC_NVRTC"), "libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12",
                           "/usr/local/cuda/lib64/libnvrtc.so"};
    void *library = NULL;
    for (int i = 0; i < 5 && !library; i++)
        if (names[i]) library = dlopen(names[i], RTLD_NOW);
    if (!library) return fprintf(stderr, "no libnvrtc: %s\n", dlerror()), 1;
    int (*create)(void **, const char *, const char *, int, void *, void *) =
        dlsym(library, "nvrtcCreateProgram");
    int (*compile)(void *, int, const char **) = dlsym(library, "nvrtcCompileProgram");
    int (*log_size)(void *, size_t *) = dlsym(library, "nvrtcGetProgramLogSize");
    int (*log_text)(void *, char *) = dlsym(library, "nvrtcGetProgramLog");
    int (*size)(void *, size_t *) = dlsym(library, "nvrtcGetCUBINSize");
    int (*read)(void *, char *) = dlsym(library, "nvrtcGetCUBIN");

    char arch[64], constants[512];
    snprintf(arch, sizeof arch, "--gpu-architecture=sm_%s", arguments[1]);
    snprintf(constants, sizeof constants, "-I%s", arguments[2]);
    const char *options[] = {arch, constants, "-I.", "--std=c++17"};
    void *program;
    create(&program, "#include \"tests/kernels/cuda/kernels.cu\"\n", "test.cu", 0, NULL, NULL);
    int result = compile(program, 4, options);
    size_t bytes;
    log_size(program, &bytes);
    char *text = malloc(bytes + 1);
    log_text(program, text);
    if (bytes > 1) fprintf(stderr, "%s\n", text);
    if (result) return 1;
    size(program, &bytes);
    char *image = malloc(bytes);
    read(program, image);
    FILE *f = fopen(arguments[3], "wb");
    if (!f || fwrite(image, 1, bytes, f) != bytes || fclose(f)) return perror(arguments[3]), 1;
    return 0;
}
