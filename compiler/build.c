// Turns what emit_program wrote into one executable: device code through NVRTC, host code through
// the system's C compiler, weights behind it. The result appears in one rename or not at all.
#include "exlc.h"
#include "../runtime/trailer.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

// --- device code ---------------------------------------------------------------------------------

static char *text_of(const char *dir, const char *name)
{
    return read_file(arena_format("%s/%s", dir, name)).data;
}

static void build_images(const BuildOptions *options, const char *dir, int verbose)
{
    SourceFile files[64];
    int count = 0;
    files[count++] = (SourceFile){"forward.cu", text_of(dir, "forward.cu")};
    files[count++] = (SourceFile){"constants.h", text_of(dir, "constants.h")};
    files[count++] = (SourceFile){"forward.inc", text_of(dir, "forward.inc")};
    for (const char *const *name = embedded_names(); *name; name++) {
        size_t bytes;
        int device = strncmp(*name, "kernels/", 8) == 0 && strncmp(*name, "kernels/cpu/", 12) != 0;
        if (device && count < 64) files[count++] = (SourceFile){*name, embedded_text(*name, &bytes)};
    }
    // One process per image: NVRTC is single-threaded per program and images are independent.
    double start = seconds();
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int running = 0, failed = 0;
    for (int i = 0; i < options->sm_count; i++) {
        if (running >= processors) {
            int status;
            if (wait(&status) > 0) running--, failed |= status != 0;
        }
        if (failed) break;
        fflush(NULL);
        pid_t child = fork();
        if (child < 0) die("fork", "%s", strerror(errno));
        if (child == 0) {
            leave_files_to_parent();
            if (i != 0) { // all fail alike: one line is enough
                int log = open(arena_format("%s/log", dir), O_WRONLY | O_CREAT | O_APPEND, 0666);
                if (log >= 0) dup2(log, 2);
            }
            Buffer image = {0};
            compile_device(files, count, "forward.cu", options->sms[i], (const char *[]){NULL},
                           &image);
            write_file(arena_format("%s/sm_%d.cubin", dir, options->sms[i]), image.data,
                       image.bytes);
            fflush(NULL);
            _exit(0);
        }
        running++;
    }
    for (int status; running > 0 && wait(&status) > 0; running--) failed |= status != 0;
    if (failed) {
        remove_work_directories();
        exit(1);
    }
    if (verbose)
        fprintf(stderr, "device code for %d targets: %.1f s\n", options->sm_count,
                seconds() - start);
}

// --- host code -----------------------------------------------------------------------------------

// Starts a command in dir; its messages go to dir/log.
static pid_t start_command(const char *dir, char *const *argv, int verbose)
{
    if (verbose) {
        for (int i = 0; argv[i]; i++) fprintf(stderr, "%s%s", i ? " " : "", argv[i]);
        fprintf(stderr, "\n");
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) die("fork", "%s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); // a killed build leaves no compilers running
        int log = open(arena_format("%s/log", dir), O_WRONLY | O_CREAT | O_APPEND, 0666);
        if (chdir(dir) != 0 || log < 0) _exit(127);
        dup2(log, 1);
        dup2(log, 2);
        execvp(argv[0], argv);
        dprintf(2, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    return pid;
}

static void finish_command(const char *dir, pid_t pid, const char *what)
{
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    Buffer log;
    char *line = "no message";
    if (read_file_if_present(arena_format("%s/log", dir), &log) && log.bytes) {
        line = strstr(log.data, "error");
        while (line && line > log.data && line[-1] != '\n') line--;
        if (!line) line = log.data;
        line[strcspn(line, "\n")] = 0;
    }
    die(what, "the C compiler failed: %s", line);
}

static void compile_host(const BuildOptions *options, const char *dir, int verbose)
{
    const char *cc = getenv("CC") && *getenv("CC") ? getenv("CC") : "cc";
    const char *level = getenv("EXLC_OPTIMIZE"); // tests build many programs and run them little
    const char *optimize = level && *level ? level : "-O2";
    static const char *const flags[3] = {"-march=x86-64-v4", "-march=x86-64-v3", "-march=x86-64"};
    static const char *const names[3] = {"avx512", "avx2", "generic"};
    pid_t pids[8];
    const char *whats[8];
    int n = 0;
    double start = seconds();
    for (int i = 0; options->cpu && i < 3; i++) {
        char *argv[] = {(char *)cc, "-std=gnu11", (char *)optimize, "-I.", (char *)flags[i],
                        arena_format("-DTARGET=%s", names[i]), "-c", "cpu.c", "-o",
                        arena_format("cpu_%s.o", names[i]),
                        i == 0 ? "-mavx512vnni" : NULL, "-mavx512vbmi2", NULL};
        whats[n] = arena_format("cpu.c for %s", names[i]);
        pids[n++] = start_command(dir, argv, verbose);
    }
    static const char *const others[2] = {"model", "forward"};
    for (int i = 0; i < 1 + options->cuda; i++) {
        char *argv[] = {(char *)cc, "-std=gnu11", "-O2", "-I.", "-c",
                        arena_format("%s.c", others[i]), "-o", arena_format("%s.o", others[i]),
                        NULL};
        whats[n] = arena_format("%s.c", others[i]);
        pids[n++] = start_command(dir, argv, verbose);
    }
    for (int i = 0; i < n; i++) finish_command(dir, pids[i], whats[i]);

    char *argv[24] = {(char *)cc, "-o", "program"};
    int a = 3;
    for (int i = 0; i < 1 + options->cuda; i++) argv[a++] = arena_format("%s.o", others[i]);
    for (int i = 0; options->cpu && i < 3; i++) argv[a++] = arena_format("cpu_%s.o", names[i]);
    argv[a++] = "libruntime.a";
    argv[a++] = "-lm";
    argv[a++] = "-ldl";
    argv[a++] = "-lpthread";
    argv[a] = NULL;
    finish_command(dir, start_command(dir, argv, verbose), "link");
    if (verbose) fprintf(stderr, "host code: %.1f s\n", seconds() - start);
}

// --- the finished file ---------------------------------------------------------------------------

// Appends a whole file, inside the kernel where the file system can (no second copy on some).
static void append_file(FILE *to, const char *to_path, const char *from_path)
{
    int from = open(from_path, O_RDONLY | O_CLOEXEC);
    if (from < 0) die(from_path, "%s", strerror(errno));
    if (fflush(to) != 0) die(to_path, "%s", strerror(errno));
    for (;;) {
        ssize_t n = copy_file_range(from, NULL, fileno(to), NULL, 1 << 30, 0);
        if (n == 0) break;
        if (n < 0 && errno != EINTR && errno != ENOSPC && errno != EIO && errno != EDQUOT) {
            static char block[1 << 20];
            while ((n = read(from, block, sizeof block)) > 0)
                if (fwrite(block, 1, (size_t)n, to) != (size_t)n) break;
            if (n == 0) break;
        }
        if (n < 0 && errno != EINTR) die(to_path, "%s", strerror(errno));
    }
    close(from);
    if (fseek(to, 0, SEEK_END) != 0) die(to_path, "%s", strerror(errno));
}

// A file that is to become `path`, in the work directory of the build.
typedef struct {
    FILE *file;
    char *temporary;
    const char *path;
    int mode;
} Output;

static Output create_output(const char *work, const char *path, int mode)
{
    Output o = {.path = path, .mode = mode};
    o.temporary = arena_format("%s/%s", work, mode & 0100 ? "executable" : "side");
    o.file = fopen(o.temporary, "wb");
    if (!o.file) die(o.temporary, "%s", strerror(errno));
    return o;
}

static void finish_output(Output *o)
{
    mode_t mask = umask(0);
    umask(mask);
    if (ferror(o->file)) die(o->path, "cannot write");
    if (fflush(o->file) != 0 || fsync(fileno(o->file)) != 0 ||
        fchmod(fileno(o->file), (mode_t)o->mode & ~mask) != 0 || fclose(o->file) != 0 ||
        rename(o->temporary, o->path) != 0)
        die(o->path, "%s", strerror(errno));
}

void build_program(const Plan *plan, const Packed *packed, const BuildOptions *options,
                   const char *dir, const char *work, const char *path, int verbose)
{
    if (options->cuda) build_images(options, dir, verbose);
    compile_host(options, dir, verbose);

    int random = plan->graph->checkpoint->random_seed != 0;
    Trailer trailer = {.magic = TRAILER_MAGIC, .bytes = packed->bytes};
    memcpy(trailer.build_id, build_identity(plan, packed), sizeof trailer.build_id);
    write_file(arena_format("%s/trailer.bin", dir), &trailer, sizeof trailer);

    unlink(arena_format("%s/log", dir));
    if (!path) return; // --emit alone: the program stays in parts

    Output side = {0};
    if (!options->embed_weights && !random) {
        side = create_output(work, arena_format("%s.weights", path), 0666);
        append_file(side.file, side.path, arena_format("%s/weights.bin", dir));
        fwrite(&trailer, 1, sizeof trailer, side.file);
    }
    Output program = create_output(work, path, 0777);
    append_file(program.file, path, arena_format("%s/program", dir));
    if (options->embed_weights && !random) {
        static const char zeros[4096];
        long at = ftell(program.file);
        fwrite(zeros, 1, (size_t)((4096 - at % 4096) % 4096), program.file);
        append_file(program.file, path, arena_format("%s/weights.bin", dir));
        fwrite(&trailer, 1, sizeof trailer, program.file);
    }
    if (side.file) finish_output(&side);
    finish_output(&program);
}
