// Turns what emit_program wrote into one executable: device code through NVRTC, host code through
// the system's C compiler, weights behind it. The result appears in one rename or not at all.
#include "exlc.h"
#include "../runtime/trailer.h"
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
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

// --- jobs ----------------------------------------------------------------------------------------

// One object or image, made by a process of its own. Its messages are in dir/`log`.
typedef struct {
    const char *what; // "cpu.c for avx2", "sm_90"
    char **argv;      // of the C compiler; NULL: device code, through NVRTC
    int sm;           // of device code
    const char *log;
    pid_t pid; // 0: not running
} Job;

typedef struct {
    SourceFile files[64]; // device code, and all it includes
    int file_count;
    Job jobs[32];
    int count;
    const char *dir;
    int verbose;
} Jobs;

static void add_job(Jobs *j, const char *what, char **argv, int sm)
{
    j->jobs[j->count] = (Job){what, argv, sm, arena_format("%s/log%d", j->dir, j->count), 0};
    j->count++;
}

static void compile_image(const Jobs *j, int sm)
{
    Buffer image = {0};
    leave_files_to_parent();
    compile_device(j->files, j->file_count, "forward.cu", sm, (const char *[]){NULL}, &image);
    write_file(arena_format("%s/sm_%d.cubin", j->dir, sm), image.data, image.bytes);
}

static void start_job(const Jobs *j, Job *job)
{
    if (j->verbose) {
        for (int i = 0; job->argv && job->argv[i]; i++)
            fprintf(stderr, "%s%s", i ? " " : "", job->argv[i]);
        fprintf(stderr, job->argv ? "\n" : "device code for %s\n", job->what);
    }
    fflush(NULL);
    job->pid = fork();
    if (job->pid < 0) die("fork", "%s", strerror(errno));
    if (job->pid > 0) return;
    prctl(PR_SET_PDEATHSIG, SIGTERM); // a killed build leaves no compilers running
    int log = open(job->log, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (log < 0) _exit(127);
    dup2(log, 1);
    dup2(log, 2);
    if (!job->argv) {
        compile_image(j, job->sm);
        fflush(NULL);
        _exit(0);
    }
    if (chdir(j->dir) == 0) execvp(job->argv[0], job->argv);
    dprintf(2, "%s: %s\n", job->argv[0], strerror(errno));
    _exit(127);
}

// Dies with the one line that tells why a job failed.
static _Noreturn void report_failure(Jobs *j, const Job *failed, int status)
{
    Buffer log;
    char *line = "no message";
    for (int i = 0; i < j->count; i++)
        if (j->jobs[i].pid > 0) kill(j->jobs[i].pid, SIGTERM);
    for (int i = 0; i < j->count; i++)
        if (j->jobs[i].pid > 0) waitpid(j->jobs[i].pid, NULL, 0);
    if (WIFSIGNALED(status))
        die(failed->what, "its compiler was ended by signal %d (%s)%s", WTERMSIG(status),
            strsignal(WTERMSIG(status)), WTERMSIG(status) == SIGKILL ? "; out of memory?" : "");
    if (read_file_if_present(failed->log, &log) && log.bytes) {
        line = strcasestr(log.data, "error");
        while (line && line > log.data && line[-1] != '\n') line--;
        if (!line) line = log.data;
        line[strcspn(line, "\n")] = 0;
    }
    if (failed->argv) die(failed->what, "the C compiler failed: %s", line);
    if (strncmp(line, "exlc: ", 6) == 0) line += 6; // its own die() has been there
    die("device code", "%s", line);
}

// Returns when all jobs are done, which are then forgotten; as many run at a time as there are processors.
static void run_jobs(Jobs *j)
{
    cpu_set_t ours;
    int processors = sched_getaffinity(0, sizeof ours, &ours) == 0 ? CPU_COUNT(&ours) : 1;
    for (int started = 0, done = 0; done < j->count;) {
        show_progress("compiling", (uint64_t)done, (uint64_t)j->count);
        if (started < j->count && started - done < processors) {
            start_job(j, &j->jobs[started++]);
            continue;
        }
        int status = 0;
        pid_t pid = wait(&status);
        if (pid < 0 && errno != EINTR) die("wait", "%s", strerror(errno));
        for (int i = 0; pid > 0 && i < started; i++) {
            if (j->jobs[i].pid != pid) continue;
            j->jobs[i].pid = 0;
            if (status != 0) report_failure(j, &j->jobs[i], status);
            unlink(j->jobs[i].log);
            done++;
        }
    }
    show_progress("compiling", 1, 1);
    j->count = 0;
}

// --- compiling -----------------------------------------------------------------------------------

static char *text_of(const char *dir, const char *name)
{
    return read_file(arena_format("%s/%s", dir, name)).data;
}

// One process per image: NVRTC is single-threaded per program and images are independent.
static void add_images(Jobs *j, const BuildOptions *options)
{
    static const char *const generated[] = {"forward.cu", "constants.h", "forward.inc"};
    for (int i = 0; i < 3; i++)
        j->files[j->file_count++] = (SourceFile){generated[i], text_of(j->dir, generated[i])};
    for (const char *const *name = embedded_names(); *name; name++) {
        size_t bytes;
        int device = strncmp(*name, "kernels/", 8) == 0 && strncmp(*name, "kernels/cpu/", 12) != 0;
        if (device && j->file_count < 64)
            j->files[j->file_count++] = (SourceFile){*name, embedded_text(*name, &bytes)};
    }
    for (int i = 0; i < options->sm_count; i++) {
        int sm = options->sms[i];
        add_job(j, sm ? arena_format("sm_%d", sm) : "PTX", NULL, sm);
    }
}

// The arguments live as long as the arena.
static char **command(char *const *argv)
{
    size_t n = 0;
    while (argv[n]) n++;
    return (char **)arena_copy((const char *)argv, (n + 1) * sizeof *argv);
}

static void add_object(Jobs *j, const char *cc, const char *name)
{
    char *argv[] = {(char *)cc, "-std=gnu11", "-O2", "-I.", "-c", arena_format("%s.c", name), "-o",
                    arena_format("%s.o", name), NULL};
    add_job(j, argv[5], command(argv), 0);
}

static void compile_program(const BuildOptions *options, const char *dir, int verbose)
{
    const char *cc = getenv("CC") && *getenv("CC") ? getenv("CC") : "cc";
    const char *level = getenv("EXLC_OPTIMIZE"); // tests build many programs and run them little
    const char *optimize = level && *level ? level : "-O2";
    static const char *const flags[3] = {"-march=x86-64-v4", "-march=x86-64-v3", "-march=x86-64"};
    static const char *const names[3] = {"avx512", "avx2", "generic"};
    double start = seconds();
    Jobs jobs = {.dir = dir, .verbose = verbose};
    if (options->cuda) add_images(&jobs, options); // first: they take longest
    for (int i = 0; options->cpu && i < 3; i++) {
        char *argv[] = {(char *)cc, "-std=gnu11", (char *)optimize, "-I.", (char *)flags[i],
                        arena_format("-DTARGET=%s", names[i]), "-c", "cpu.c", "-o",
                        arena_format("cpu_%s.o", names[i]),
                        i == 0 ? "-mavx512vnni" : NULL, "-mavx512vbmi2", NULL};
        add_job(&jobs, arena_format("cpu.c for %s", names[i]), command(argv), 0);
    }
    if (options->cuda) add_object(&jobs, cc, "forward");
    run_jobs(&jobs);
    add_object(&jobs, cc, "model"); // the images are in it
    run_jobs(&jobs);

    char *argv[24] = {(char *)cc, "-o", "program", "model.o"};
    int a = 4;
    if (options->cuda) argv[a++] = "forward.o";
    for (int i = 0; options->cpu && i < 3; i++) argv[a++] = arena_format("cpu_%s.o", names[i]);
    argv[a++] = "libruntime.a";
    argv[a++] = "-lm";
    argv[a++] = "-ldl";
    argv[a++] = "-lpthread";
    argv[a] = NULL;
    add_job(&jobs, "link", argv, 0);
    run_jobs(&jobs);
    if (verbose) fprintf(stderr, "compiled in %.1f s\n", seconds() - start);
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
    compile_program(options, dir, verbose);

    int random = plan->graph->checkpoint->random_seed != 0;
    Trailer trailer = {.magic = TRAILER_MAGIC, .bytes = packed->bytes};
    memcpy(trailer.build_id, build_identity(plan, packed), sizeof trailer.build_id);
    write_file(arena_format("%s/trailer.bin", dir), &trailer, sizeof trailer);

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
