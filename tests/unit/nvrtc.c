// compiler/nvrtc.c: images for every compute capability, includes, and the one line of an error.
// die() ends a process, so every compilation that may fail runs in a child.
#include "../../compiler/exlc.h"
#include "../check.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char main_text[] = "// a comment, so that line numbers count\n"
                                "#include \"kernels/types.h\"\n"
                                "#include \"kernels/cuda/scale.cuh\"\n"
                                "extern \"C\" __global__ void scale_kernel(Pair *pairs)\n"
                                "{\n"
                                "    pairs[threadIdx.x].x = scale<FACTOR>(pairs[threadIdx.x].x);\n"
                                "}\n";
// Relative names, names from the root, and the same file under both.
static const char scale_text[] = "#pragma once\n"
                                 "#include \"helper.cuh\"\n"
                                 "  #  include\t\"../types.h\" // again\n"
                                 "#include \"kernels/types.h\"\n"
                                 "template <int F> static __device__ int scale(int x)\n"
                                 "{\n"
                                 "    return helper(x) * F;\n"
                                 "}\n";
static const char helper_text[] = "#pragma once\n"
                                  "#include \"../types.h\"\n"
                                  "static __device__ int helper(int x)\n"
                                  "{\n"
                                  "    return x + (int)sizeof(Pair);\n"
                                  "}\n";
static const char types_text[] = "#pragma once\n"
                                 "typedef struct { int x, y; } Pair;\n";

#define FILES(main, helper)                                                                        \
    {                                                                                              \
        {"kernels/types.h", types_text}, {"forward.cu", main},                                     \
            {"kernels/cuda/scale.cuh", scale_text},                                                \
        {                                                                                          \
            "kernels/cuda/helper.cuh", helper                                                      \
        }                                                                                          \
    }

static const char *const defines[] = {"FACTOR=3", "UNUSED", NULL};

// Compiles in a child. Returns its exit status, its stderr in `line` and its image in *image.
static int compile(const SourceFile *files, int count, int sm, char *line, size_t room,
                   Buffer *image)
{
    FILE *errors = tmpfile(), *bytes = tmpfile();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(fileno(errors), 2);
        Buffer out = {0};
        compile_device(files, count, "forward.cu", sm, defines, &out);
        fwrite(out.data, 1, out.bytes, bytes);
        fflush(bytes);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    rewind(errors);
    rewind(bytes);
    line[fread(line, 1, room - 1, errors)] = 0;
    char block[4096];
    for (size_t n; (n = fread(block, 1, sizeof block, bytes)) > 0;)
        if (image) buffer_add(image, block, n);
    fclose(errors);
    fclose(bytes);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int line_count(const char *text)
{
    int lines = 0;
    for (; *text; text++) lines += *text == '\n';
    return lines;
}

static void test_images(void)
{
    const SourceFile files[] = FILES(main_text, helper_text);
    const int sms[] = {80, 86, 89, 90, 100, 120};
    for (size_t i = 0; i < sizeof sms / sizeof *sms; i++) {
        char line[4096];
        Buffer image = {0};
        int status = compile(files, 4, sms[i], line, sizeof line, &image);
        if (status == 1 && strstr(line, "does not know sm_")) {
            CHECK_MSG(line_count(line) == 1, "%s", line);
            line[strcspn(line, "\n")] = 0;
            SKIP(line);
            continue;
        }
        CHECK_MSG(status == 0, "sm %d: status %d: %s", sms[i], status, line);
        int elf = image.bytes > 64 && memcmp(image.data, "\177ELF", 4) == 0;
        CHECK_MSG(elf, "sm %d: %zu bytes", sms[i], image.bytes);
        CHECK(elf && image.data[18] == (char)190 && image.data[19] == 0); // EM_CUDA
        CHECK(image.bytes && memmem(image.data, image.bytes, "scale_kernel", 12));
        buffer_free(&image);
    }

    char line[4096];
    Buffer ptx = {0};
    int status = compile(files, 4, 0, line, sizeof line, &ptx);
    CHECK_MSG(status == 0, "PTX: status %d: %s", status, line);
    CHECK(ptx.bytes && strlen(ptx.data) == ptx.bytes - 1); // the zero byte belongs to the image
    CHECK(ptx.bytes && strstr(ptx.data, ".target sm_80"));
    CHECK(ptx.bytes && strstr(ptx.data, ".entry scale_kernel("));
    buffer_free(&ptx);

    status = compile(files, 4, 35, line, sizeof line, NULL);
    CHECK_MSG(status == 1 && strstr(line, "does not know sm_35") && line_count(line) == 1,
              "status %d: %s", status, line);
}

static void expect_error(const char *main, const char *helper, const char *expected)
{
    const SourceFile files[] = FILES(main, helper);
    char line[4096];
    int status = compile(files, 4, 80, line, sizeof line, NULL);
    CHECK_MSG(status == 1, "status %d, wanted: %s", status, expected);
    CHECK_MSG(strncmp(line, expected, strlen(expected)) == 0, "\n  %s  wanted: %s", line, expected);
    CHECK_MSG(line_count(line) == 1, "%s", line);
}

static void test_errors(void)
{
    expect_error(main_text,
                 "#pragma once\nstatic __device__ int helper(int x)\n{\n    return y;\n}\n",
                 "exlc: kernels/cuda/helper.cuh:4: identifier \"y\" is undefined (sm_80)");
    expect_error(main_text,
                 "#pragma once\nstatic __device__ int helper(int x)\n{\n    int error = 1;\n"
                 "    return z;\n}\n",
                 "exlc: kernels/cuda/helper.cuh:5: identifier \"z\" is undefined (sm_80)");
    expect_error("\n#include \"kernels/absent.h\"\n", helper_text, "exlc: forward.cu:2: ");
    expect_error("#include <stdint.h>\n", helper_text, "exlc: forward.cu:1: ");
    expect_error("extern \"C\" __global__ void f(void)\n{\n", helper_text, "exlc: forward.cu: ");
    expect_error("extern \"C\" __global__ void f(void)\n{\n    asm volatile(\"foo.bar;\");\n}\n",
                 helper_text, "exlc: forward.cu: ptxas ");
}

// A file of that name on the disk must not be seen.
static void test_no_disk(void)
{
    char folder[] = "/tmp/exlc_nvrtc_XXXXXX", old[4096];
    if (!mkdtemp(folder) || !getcwd(old, sizeof old) || chdir(folder) != 0) {
        SKIP("no folder to work in");
        return;
    }
    FILE *f = fopen("local.h", "w");
    CHECK(f && fputs("#define LOCAL 1\n", f) >= 0 && fclose(f) == 0);
    expect_error("#include \"local.h\"\n", helper_text, "exlc: forward.cu:1: ");
    unlink("local.h");
    CHECK(chdir(old) == 0);
    rmdir(folder);
}

static void *compile_thread(void *argument)
{
    const SourceFile files[] = FILES(main_text, helper_text);
    compile_device(files, 4, "forward.cu", 80, defines, argument);
    return NULL;
}

// Several at once, into the same bytes.
static void test_threads(void)
{
    Buffer images[4] = {0};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        CHECK(pthread_create(&threads[i], NULL, compile_thread, &images[i]) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) {
        CHECK(images[i].bytes > 64 && images[i].bytes == images[0].bytes &&
              memcmp(images[i].data, images[0].data, images[0].bytes) == 0);
    }
    for (int i = 0; i < 4; i++) buffer_free(&images[i]);
}

// What EXLC_NVRTC names is the library, also when it is none. In a child, whose search is its own.
static void test_named_library(void)
{
    FILE *errors = tmpfile();
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const SourceFile files[] = FILES(main_text, helper_text);
        dup2(fileno(errors), 2);
        setenv("EXLC_NVRTC", "/nonexistent/libnvrtc.so", 1);
        if (nvrtc_present()) _exit(3);
        Buffer out = {0};
        compile_device(files, 4, "forward.cu", 80, defines, &out);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    char line[4096];
    rewind(errors);
    line[fread(line, 1, sizeof line - 1, errors)] = 0;
    fclose(errors);
    CHECK_MSG(WIFEXITED(status) && WEXITSTATUS(status) == 1, "status %d", status);
    CHECK_MSG(strstr(line, "/nonexistent/libnvrtc.so") && line_count(line) == 1, "%s", line);
}

int main(void)
{
    test_named_library(); // first: this process must not have searched yet
    if (!nvrtc_present()) {
        SKIP("libnvrtc not found");
        return check_done();
    }
    test_images();
    test_errors();
    test_no_disk();
    test_threads();
    return check_done();
}
