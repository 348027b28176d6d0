// Device code to cubins and PTX through NVRTC, the compiler library of CUDA, opened with dlopen.
// Its few functions are declared here by hand, so that no toolkit header is needed. The sources see
// no file of this machine: every #include is answered from the list the caller passes.
#include "exlc.h"
#include <dlfcn.h>
#include <glob.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// --- the library ---------------------------------------------------------------------------------

#define NVRTC_LEAST 12 // the first major version that knows sm_90a

typedef void *Program;

#define NVRTC_FUNCTIONS(F)                                                                         \
    F(nvrtcVersion, (int *, int *))                                                                \
    F(nvrtcGetNumSupportedArchs, (int *))                                                          \
    F(nvrtcGetSupportedArchs, (int *))                                                             \
    F(nvrtcCreateProgram,                                                                          \
      (Program *, const char *, const char *, int, const char *const *, const char *const *))      \
    F(nvrtcCompileProgram, (Program, int, const char *const *))                                    \
    F(nvrtcGetProgramLogSize, (Program, size_t *))                                                 \
    F(nvrtcGetProgramLog, (Program, char *))                                                       \
    F(nvrtcGetCUBINSize, (Program, size_t *))                                                      \
    F(nvrtcGetCUBIN, (Program, char *))                                                            \
    F(nvrtcGetPTXSize, (Program, size_t *))                                                        \
    F(nvrtcGetPTX, (Program, char *))                                                              \
    F(nvrtcDestroyProgram, (Program *))

#define NVRTC_FIELD(name, parameters) int(*name) parameters;
static struct {
    NVRTC_FUNCTIONS(NVRTC_FIELD)
    int major, minor;
    char path[PATH_MAX];         // of the open library; empty when none was found
    char reason[PATH_MAX + 256]; // why the last one tried was not taken
} nvrtc;

__attribute__((format(printf, 1, 2))) static int refuse(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(nvrtc.reason, sizeof nvrtc.reason, fmt, args);
    va_end(args);
    return 0;
}

// 1 when the library of that path or name can be used.
static int open_library(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) return refuse("%s", dlerror());
#define NVRTC_RESOLVE(name, parameters)                                                            \
    nvrtc.name = (__typeof__(nvrtc.name))dlsym(library, #name);                                    \
    if (!nvrtc.name) return refuse("%s lacks %s", path, #name);
    NVRTC_FUNCTIONS(NVRTC_RESOLVE)
    if (nvrtc.nvrtcVersion(&nvrtc.major, &nvrtc.minor)) return refuse("%s does not start", path);
    if (nvrtc.major < NVRTC_LEAST)
        return refuse("%s is NVRTC %d.%d, needed is %d.0", path, nvrtc.major, nvrtc.minor,
                      NVRTC_LEAST);
    snprintf(nvrtc.path, sizeof nvrtc.path, "%s", path);

    // The library opens its second half by name alone; from its own folder it is open already.
    char builtins[PATH_MAX + 64];
    const char *slash = strrchr(path, '/');
    snprintf(builtins, sizeof builtins, "%.*slibnvrtc-builtins.so.%d.%d",
             slash ? (int)(slash + 1 - path) : 0, path, nvrtc.major, nvrtc.minor);
    dlopen(builtins, RTLD_NOW | RTLD_GLOBAL);
    return 1;
}

static int newer_first(const void *a, const void *b)
{
    return strverscmp(*(char *const *)b, *(char *const *)a);
}

// Opens the newest usable library in any folder that matches prefix + folders.
static int open_in(const char *prefix, const char *folders)
{
    if (!prefix || !*prefix) return 0;
    char pattern[PATH_MAX];
    snprintf(pattern, sizeof pattern, "%s/%s/libnvrtc.so.[0-9]*", prefix, folders);
    glob_t found = {0};
    int opened = 0;
    if (glob(pattern, GLOB_BRACE | GLOB_NOSORT, NULL, &found) == 0) {
        qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, newer_first);
        for (size_t i = 0; i < found.gl_pathc && !opened; i++)
            opened = open_library(found.gl_pathv[i]);
    }
    globfree(&found);
    return opened;
}

#define TOOLKIT_FOLDERS "{lib64,lib,targets/*/lib}"
#define PYTHON_FOLDERS "lib/python3*/{site,dist}-packages/nvidia/*/lib"

// What pip installed for any python3 on the PATH: PREFIX/bin/python3 has its packages in
// PREFIX/lib.
static int open_beside_python(void)
{
    const char *path = getenv("PATH");
    while (path && *path) {
        int bytes = (int)strcspn(path, ":");
        char python[PATH_MAX], prefix[PATH_MAX];
        snprintf(python, sizeof python, "%.*s/python3", bytes, path);
        snprintf(prefix, sizeof prefix, "%.*s/..", bytes, path);
        if (access(python, X_OK) == 0 && open_in(prefix, PYTHON_FOLDERS)) return 1;
        path += bytes + (path[bytes] == ':');
    }
    return 0;
}

static void find_library(void)
{
    const char *named = getenv("EXLC_NVRTC");
    if (named && *named) {
        open_library(named);
        return;
    }
    char home[PATH_MAX] = "";
    if (getenv("HOME")) snprintf(home, sizeof home, "%s/.local", getenv("HOME"));
    (void)(open_in(getenv("CUDA_HOME"), TOOLKIT_FOLDERS) ||
           open_in(getenv("CUDA_PATH"), TOOLKIT_FOLDERS) || open_library("libnvrtc.so.13") ||
           open_library("libnvrtc.so.12") || open_library("libnvrtc.so") ||
           open_in("/usr/local", "cuda*/" TOOLKIT_FOLDERS) ||
           open_in("/opt", "cuda*/" TOOLKIT_FOLDERS) ||
           open_in(getenv("VIRTUAL_ENV"), PYTHON_FOLDERS) ||
           open_in(getenv("CONDA_PREFIX"), "{lib,targets/*/lib}") ||
           open_in(getenv("CONDA_PREFIX"), PYTHON_FOLDERS) || open_beside_python() ||
           open_in(home, PYTHON_FOLDERS) || open_in("/usr", PYTHON_FOLDERS) ||
           open_in("/usr/local", PYTHON_FOLDERS));
}

int nvrtc_present(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_library);
    return nvrtc.path[0] != 0;
}

const char *nvrtc_driver(void)
{
    return !nvrtc_present() ? NULL : nvrtc.major >= 13 ? "580" : "525";
}

// --- includes ------------------------------------------------------------------------------------

static int is_source(const SourceFile *files, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(files[i].name, name) == 0) return 1;
    return 0;
}

// "kernels/cuda/qkv.cuh" includes "../types.h": "kernels/types.h". 0 when it leads out of the tree.
static int join_names(const char *includer, const char *name, char *joined, size_t room)
{
    const char *slash = strrchr(includer, '/');
    size_t bytes = slash ? (size_t)(slash - includer) : 0; // of the folder so far
    snprintf(joined, room, "%.*s", (int)bytes, includer);
    while (*name) {
        size_t part = strcspn(name, "/");
        if (part == 2 && memcmp(name, "..", 2) == 0) {
            if (bytes == 0) return 0;
            slash = memrchr(joined, '/', bytes);
            bytes = slash ? (size_t)(slash - joined) : 0;
        } else if (part > 1 || (part == 1 && *name != '.')) {
            if (bytes + part + 2 > room) return 0;
            if (bytes) joined[bytes++] = '/';
            memcpy(joined + bytes, name, part);
            bytes += part;
        }
        joined[bytes] = 0;
        name += part + (name[part] == '/');
    }
    return 1;
}

// Where the name of an #include "..." begins in the line, or NULL.
static const char *quoted_name(const char *line)
{
    line += strspn(line, " \t");
    if (*line++ != '#') return NULL;
    line += strspn(line, " \t");
    if (strncmp(line, "include", 7) != 0) return NULL;
    line += 7 + strspn(line + 7, " \t");
    return *line == '"' ? line + 1 : NULL;
}

// NVRTC knows headers by one exact name and "#pragma once" by that name too. So every name that is
// relative to its own file becomes the name in the list; names from the root stay as they are.
static char *resolve_includes(const SourceFile *files, int count, const SourceFile *file)
{
    Buffer text = {0};
    buffer_add(&text, "", 0);
    for (const char *line = file->text; *line;) {
        size_t bytes = strcspn(line, "\n");
        bytes += line[bytes] == '\n';
        const char *name = quoted_name(line);
        size_t length = name ? strcspn(name, "\"\n") : 0;
        char copy[PATH_MAX], joined[PATH_MAX];
        if (length && length < sizeof copy && name[length] == '"') {
            memcpy(copy, name, length);
            copy[length] = 0;
            if (join_names(file->name, copy, joined, sizeof joined) &&
                is_source(files, count, joined)) {
                buffer_add(&text, line, (size_t)(name - line));
                buffer_add(&text, joined, strlen(joined));
                bytes -= (size_t)(name + length - line);
                line = name + length;
            }
        }
        buffer_add(&text, line, bytes);
        line += bytes;
    }
    return text.data;
}

// --- compiling -----------------------------------------------------------------------------------

// Dies with the first error of a log, whose lines read "FILE(LINE): error: MESSAGE", with or
// without a number after "error", or, from the assembler, "ptxas ...; error : MESSAGE".
_Noreturn static void die_of_log(const char *main, const char *arch, char *log)
{
    char *first = NULL; // an error without file and line
    for (char *next, *line = strtok_r(log, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
        char *close = strstr(line, "): ");
        if (!close) {
            if (!first && (strstr(line, "error") || strstr(line, "fatal"))) first = line;
            continue;
        }
        int is_error = strncmp(close + 3, "error", 5) == 0 ||
                       strncmp(close + 3, "catastrophic error", 18) == 0;
        *close = 0;
        char *open = strrchr(line, '('), *message = strstr(close + 3, ": ");
        if (!is_error || !open || !message) continue; // a warning, a remark
        *open = 0;
        char where[PATH_MAX];
        snprintf(where, sizeof where, "%s:%s", line, open + 1);
        die(where, "%s (%s)", message + 2, arch);
    }
    die(main, "%s (%s)", first ? first : "NVRTC failed without a message", arch);
}

// "sm_90a": the chips whose special instructions the kernels use have a target of their own.
static void print_arch(int sm, char *arch, size_t room)
{
    if (sm == 0)
        snprintf(arch, room, "compute_80");
    else
        snprintf(arch, room, "sm_%d%s", sm, sm == 90 || sm == 100 ? "a" : "");
}

int nvrtc_knows(int sm)
{
    if (!nvrtc_present()) return 0;
    int count = 0, *known;
    nvrtc.nvrtcGetNumSupportedArchs(&count);
    known = calloc((size_t)count + 1, sizeof *known);
    if (known) nvrtc.nvrtcGetSupportedArchs(known);
    int found = 0;
    for (int i = 0; known && i < count; i++) found |= known[i] == (sm ? sm : 80);
    free(known);
    return found;
}

void compile_device(const SourceFile *files, int file_count, const char *main, int sm,
                    const char *const *defines, Buffer *out)
{
    if (!nvrtc_present())
        die("libnvrtc", "not found (%s); install NVRTC %d or newer or name it in EXLC_NVRTC",
            nvrtc.reason, NVRTC_LEAST);
    char arch[32], arch_option[64];
    print_arch(sm, arch, sizeof arch);
    if (!nvrtc_knows(sm))
        die(nvrtc.path, "NVRTC %d.%d does not know %s%s", nvrtc.major, nvrtc.minor, arch,
            sm == 100 || sm == 120 ? ", 12.8 and newer do" : "");
    snprintf(arch_option, sizeof arch_option, "--gpu-architecture=%s", arch);

    char *main_text = NULL;
    const char **names = NULL, **texts = NULL, **options = NULL;
    size_t name_count = 0, text_count = 0, option_count = 0;
    size_t name_room = 0, text_room = 0, option_room = 0;
    for (int i = 0; i < file_count; i++) {
        char *text = resolve_includes(files, file_count, &files[i]);
        if (strcmp(files[i].name, main) == 0) {
            main_text = text;
            continue;
        }
        APPEND(names, name_count, name_room, files[i].name);
        APPEND(texts, text_count, text_room, text);
    }
    if (!main_text) die(main, "not among the device sources");
    APPEND(options, option_count, option_room, arch_option);
    APPEND(options, option_count, option_room, "--std=c++17");
    APPEND(options, option_count, option_room, "--no-source-include"); // not the current folder
    // A step gives the same bits in every kernel it is a part of.
    APPEND(options, option_count, option_room, "--fmad=false");
    for (; *defines; defines++) {
        APPEND(options, option_count, option_room, "-D");
        APPEND(options, option_count, option_room, *defines);
    }

    Program program = NULL;
    int status = nvrtc.nvrtcCreateProgram(&program, main_text, main, (int)name_count, texts, names);
    if (status) die(main, "nvrtcCreateProgram failed with status %d", status);
    size_t bytes = 0;
    if (nvrtc.nvrtcCompileProgram(program, (int)option_count, options)) {
        nvrtc.nvrtcGetProgramLogSize(program, &bytes);
        char *log = calloc(1, bytes + 1);
        if (log && bytes) nvrtc.nvrtcGetProgramLog(program, log);
        die_of_log(main, arch, log ? log : (char[]){""});
    }
    status = sm ? nvrtc.nvrtcGetCUBINSize(program, &bytes) : nvrtc.nvrtcGetPTXSize(program, &bytes);
    char *image = malloc(bytes + 1);
    if (!image) die(main, "out of memory for an image of %zu bytes", bytes);
    if (!status)
        status = sm ? nvrtc.nvrtcGetCUBIN(program, image) : nvrtc.nvrtcGetPTX(program, image);
    if (status || bytes == 0) die(main, "NVRTC gives no code for %s (status %d)", arch, status);
    buffer_add(out, image, bytes); // PTX: its text and a zero byte

    nvrtc.nvrtcDestroyProgram(&program);
    free(image);
    free(main_text);
    for (size_t i = 0; i < text_count; i++) free((char *)texts[i]);
    free(texts);
    free(names);
    free(options);
}
