// exlc: the command line. `build` calls the passes one after another.
#include "exlc.h"
#include "../runtime/render.h"
#include "../runtime/template.h"
#include "../runtime/tokenize.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char usage_text[] =
    "exlc " EXLC_VERSION ": compiles an EXL3-quantized language model into one executable\n"
    "\n"
    "  exlc build DIR -o FILE [options]   compile the model directory DIR\n"
    "      --target cpu|cuda|cpu,cuda     default: both when libnvrtc is found, else cpu\n"
    "      --sm LIST|all                  of 80,86,89,90,100,120; default: those of the GPUs that\n"
    "                                     are here, else all; and PTX for later ones\n"
    "      --weights embed|side           inside FILE (default) or beside it as FILE.weights\n"
    "      --max-batch N                  most sequences at once (default 16)\n"
    "      --max-context N                most tokens of one sequence (default: the model's)\n"
    "      --cache-bits LIST              of 16,8,7,6,5,4,3,2: bits of cached keys and values\n"
    "                                     (default: all, where heads are multiples of 32 wide)\n"
    "      --emit DIR                     keep the generated program in DIR, which is new or empty\n"
    "      --dump graph|steps|variants|memory   print a stage and stop\n"
    "      -v                             say what is done\n"
    "      --random-weights SEED --bits K [--codebook mul1|mcg|3inst] [--head-bits K]\n"
    "                                     weights made at start; DIR needs only config.json\n"
    "  exlc inspect DIR [--json]          what the model is, and what is unsupported\n"
    "  exlc tokenize DIR [--no-special] [--decode]   text on stdin to ids, or the other way\n"
    "  exlc template DIR [--name NAME]    JSON {messages, tools, ...} on stdin to the prompt's text\n"
    "  exlc bench-kernels [DIR] [options] each step of a model with random weights alone, on the GPU\n"
    "      --shape KxN,...                instead of DIR: hidden K wide, feed-forward N (4096x14336)\n"
    "      --bits LIST --codebook LIST    default 4 and mul1\n"
    "      --batch LIST --context LIST    of decode passes; default 1 and 2048\n"
    "      --prompt LIST                  and passes that read prompts; default none\n"
    "      --sm N                         default: the GPU's\n"
    "      --json\n"
    "  exlc --version | --help | --licenses\n"
    "\n"
    "Exit status: 0 fine, 1 failed (one line on stderr), 2 wrong usage.\n";

static _Noreturn void usage(const char *fmt, const char *what)
{
    fprintf(stderr, "exlc: ");
    fprintf(stderr, fmt, what);
    fprintf(stderr, " (see exlc --help)\n");
    exit(2);
}

// --- options -------------------------------------------------------------------------------------

typedef struct {
    int argc;
    char **argv;
    int at;
} Arguments;

static const char *value_of(Arguments *a)
{
    if (a->at + 1 >= a->argc) usage("%s needs a value", a->argv[a->at]);
    return a->argv[++a->at];
}

static long long integer_of(Arguments *a, long long low, long long high)
{
    const char *option = a->argv[a->at], *text = value_of(a);
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (errno || end == text || *end || value < low || value > high) {
        fprintf(stderr, "exlc: %s %s: expected a whole number from %lld to %lld\n", option, text,
                low, high);
        exit(2);
    }
    return value;
}

static const int all_sms[] = {80, 86, 89, 90, 100, 120};
#define SM_COUNT ((int)(sizeof all_sms / sizeof *all_sms))

static void parse_sms(BuildOptions *o, const char *text)
{
    o->sm_count = 0;
    int chosen[SM_COUNT] = {0};
    char *copy = strdup(text);
    for (char *word = strtok(copy, ","); word; word = strtok(NULL, ",")) {
        int known = 0;
        for (int i = 0; i < SM_COUNT; i++) {
            char name[8];
            snprintf(name, sizeof name, "%d", all_sms[i]);
            if (strcmp(word, "all") == 0 || strcmp(word, name) == 0) chosen[i] = known = 1;
        }
        if (!known) usage("--sm %s: expected all or a list of 80,86,89,90,100,120", word);
    }
    free(copy);
    for (int i = 0; i < SM_COUNT; i++)
        if (chosen[i]) o->sms[o->sm_count++] = all_sms[i];
    if (!o->sm_count) usage("--sm %s: empty list", text);
}

static int codebook_of(const char *name)
{
    if (strcmp(name, "mul1") == 0) return CODEBOOK_MUL1;
    if (strcmp(name, "mcg") == 0) return CODEBOOK_MCG;
    if (strcmp(name, "3inst") == 0) return CODEBOOK_3INST;
    usage("--codebook %s: expected mul1, mcg or 3inst", name);
}

// --- build ---------------------------------------------------------------------------------------

// Widths as a set of bits.
static unsigned parse_cache_bits(const char *text)
{
    unsigned set = 0;
    char *copy = strdup(text), *rest;
    for (char *word = strtok_r(copy, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        char *end;
        long bits = strtol(word, &end, 10);
        if (*end || bits < 2 || bits > 16 || !(CACHE_BITS >> bits & 1))
            usage("--cache-bits %s: expected a list of 16 and 2 to 8", text);
        set |= 1u << bits;
    }
    if (!set) usage("--cache-bits %s: empty list", text);
    free(copy);
    return set;
}

typedef struct {
    const char *dir, *output, *emit, *dump;
    BuildOptions options;
    int target_given, sm_given, verbose, bits, head_bits;
    long long seed;
    int codebook;
} BuildArguments;

static BuildArguments parse_build(int argc, char **argv)
{
    BuildArguments b = {.options = {.embed_weights = 1}, .head_bits = 6, .codebook = CODEBOOK_MUL1};
    Arguments a = {argc, argv, 2};
    for (; a.at < argc; a.at++) {
        const char *o = argv[a.at];
        if (strcmp(o, "-o") == 0) b.output = value_of(&a);
        else if (strcmp(o, "--emit") == 0) b.emit = value_of(&a);
        else if (strcmp(o, "-v") == 0) b.verbose = 1;
        else if (strcmp(o, "--max-batch") == 0) b.options.max_batch = (int)integer_of(&a, 1, 1024);
        else if (strcmp(o, "--max-context") == 0)
            b.options.max_context = (int)integer_of(&a, 1, 1 << 24);
        else if (strcmp(o, "--bits") == 0) b.bits = (int)integer_of(&a, 1, 8);
        else if (strcmp(o, "--head-bits") == 0) b.head_bits = (int)integer_of(&a, 1, 8);
        else if (strcmp(o, "--random-weights") == 0) b.seed = integer_of(&a, 1, INT32_MAX);
        else if (strcmp(o, "--dump") == 0 || strncmp(o, "--dump=", 7) == 0) {
            b.dump = o[6] == '=' ? o + 7 : value_of(&a);
            if (strcmp(b.dump, "graph") && strcmp(b.dump, "steps") && strcmp(b.dump, "variants") &&
                strcmp(b.dump, "memory"))
                usage("--dump %s: expected graph, steps, variants or memory", b.dump);
        } else if (strcmp(o, "--target") == 0) {
            const char *v = value_of(&a);
            b.target_given = 1;
            b.options.cpu = strcmp(v, "cpu") == 0 || strcmp(v, "cpu,cuda") == 0 ||
                            strcmp(v, "cuda,cpu") == 0;
            b.options.cuda = strcmp(v, "cuda") == 0 || strcmp(v, "cpu,cuda") == 0 ||
                             strcmp(v, "cuda,cpu") == 0;
            if (!b.options.cpu && !b.options.cuda)
                usage("--target %s: expected cpu, cuda or cpu,cuda", v);
        } else if (strcmp(o, "--sm") == 0) {
            parse_sms(&b.options, value_of(&a));
            b.sm_given = 1;
        } else if (strcmp(o, "--weights") == 0) {
            const char *v = value_of(&a);
            if (strcmp(v, "embed") && strcmp(v, "side"))
                usage("--weights %s: expected embed or side", v);
            b.options.embed_weights = strcmp(v, "embed") == 0;
        } else if (strcmp(o, "--cache-bits") == 0) {
            b.options.cache_bits = parse_cache_bits(value_of(&a));
        } else if (strcmp(o, "--codebook") == 0) {
            b.codebook = codebook_of(value_of(&a));
        } else if (*o == '-') {
            usage("unknown option %s", o);
        } else if (b.dir) {
            usage("a second directory: %s", o);
        } else {
            b.dir = o;
        }
    }
    if (!b.dir) usage("build needs a model directory%s", "");
    if (!b.output && !b.dump && !b.emit) usage("build needs -o FILE%s", "");
    if (b.output && (!*b.output || b.output[strlen(b.output) - 1] == '/'))
        usage("-o '%s': expected the name of a file", b.output);
    if (b.emit) {
        char *plain = strdup(b.emit);
        for (size_t n = strlen(plain); n > 1 && plain[n - 1] == '/'; n--) plain[n - 1] = 0;
        if (!*plain) usage("--emit '%s': expected the name of a directory", plain);
        b.emit = plain;
    }
    if (b.sm_given && b.target_given && !b.options.cuda) usage("--sm goes with --target cuda%s", "");
    if (!!b.seed != !!b.bits) usage("--random-weights and --bits go together%s", "");
    return b;
}

// A template that cannot be compiled is no reason to do without the model.
static void warn_of_templates(const char *dir, const Buffer *tables)
{
    Templates *t;
    Error err;
    if (templates_open(&t, tables->data, tables->bytes, &err) != 0) die(dir, "%s", err.text);
    for (int i = 0; i < templates_count(t); i++)
        if (templates_problem(t, i)) warn("chat template", "%s", templates_problem(t, i));
    templates_close(t);
}

static int build(int argc, char **argv)
{
    BuildArguments b = parse_build(argc, argv);
    BuildOptions *options = &b.options;
    if (!b.target_given) options->cpu = 1, options->cuda = nvrtc_present();
    if (options->cuda && !nvrtc_present())
        die("libnvrtc", "not found; --target cuda needs it (CUDA_HOME or the loader's path names it)");
    if (options->cuda) options->driver_min = nvrtc_driver();
    if (options->cuda && !b.sm_given) {
        options->sm_count = choose_sms(all_sms, SM_COUNT, options->sms);
        options->sms[options->sm_count++] = 0; // PTX for later GPUs
    }
    if (!options->cuda) options->sm_count = 0;
    int known = 0;
    for (int i = 0; i < options->sm_count; i++) {
        if (nvrtc_knows(options->sms[i])) options->sms[known++] = options->sms[i];
        else if (b.sm_given) die("libnvrtc", "this version does not know sm_%d", options->sms[i]);
        else warn("libnvrtc", "this version does not know sm_%d, which is left out", options->sms[i]);
    }
    options->sm_count = known;

    if (b.output) { // fail before the work, not after it
        struct stat st;
        if (lstat(b.output, &st) == 0 && !S_ISREG(st.st_mode))
            die(b.output, S_ISDIR(st.st_mode) ? "is a directory" : "exists and is no regular file");
    }
    Checkpoint *ck = b.seed ? random_checkpoint(b.dir, (uint64_t)b.seed, b.codebook << 8 | b.bits,
                                                b.codebook << 8 | b.head_bits)
                            : read_checkpoint(b.dir);
    Graph *graph = trace_arch(ck);
    check_graph(graph);
    if (b.dump && strcmp(b.dump, "graph") == 0) return print_graph(graph, stdout), 0;
    Plan *plan = fuse_ops(graph);
    if (b.dump && strcmp(b.dump, "steps") == 0) return print_plan(plan, stdout, 0), 0;
    choose_variants(plan);
    if (b.dump && strcmp(b.dump, "variants") == 0) return print_plan(plan, stdout, 1), 0;
    if (b.dump) return print_memory(plan, stdout), 0;

    const char *missing = missing_on_cuda(plan);
    if (options->cuda && missing) {
        if (b.target_given) die("config.json", "%s", missing);
        warn("config.json", "%s: for the CPU alone", missing);
        options->cuda = options->sm_count = 0;
    }
    int narrow = graph->facts.head_dim % CACHE_GROUP == 0;
    if (!narrow && options->cache_bits & ~(1u << 16))
        die("config.json", "head_dim %d: --cache-bits below 16 needs a multiple of %d",
            graph->facts.head_dim, CACHE_GROUP);
    if (!options->cache_bits) options->cache_bits = narrow ? CACHE_BITS : 1u << 16;
    if (!options->max_batch) options->max_batch = 16;
    if (!options->max_context) options->max_context = graph->facts.max_position;
    if (options->max_context > graph->facts.reach)
        warn("--max-context", "%d: the model was made for %d tokens; what lies beyond may make no sense",
             options->max_context, graph->facts.reach);
    if (b.emit && mkdir(b.emit, 0777) == 0) rmdir(b.emit); // it must be possible
    else if (b.emit && rmdir(b.emit) != 0)
        die(b.emit, "%s; expected a directory that is empty or not there", strerror(errno));
    const char *work = b.output ? work_directory(b.output) : NULL;
    const char *dir = b.emit ? work_directory(b.emit) : work;
    Buffer tokenizer = {0}, templates = {0};
    compile_tokenizer(ck->dir, &tokenizer);
    if (!tokenizer.bytes && !b.seed)
        warn(ck->dir, "no tokenizer.json: the program will take and give token ids alone");
    compile_templates(ck->dir, &templates);
    warn_of_templates(ck->dir, &templates);
    options->embedding = read_embedding(ck->dir);
    Packed *packed = pack_weights(plan, ck->random_seed ? NULL : arena_format("%s/weights.bin", dir));
    emit_program(plan, packed, &tokenizer, &templates, options, dir);
    build_program(plan, packed, options, dir, work, b.output, b.verbose);
    if (b.emit && (chmod(dir, 0755) != 0 || rename(dir, b.emit) != 0))
        die(b.emit, "%s", strerror(errno));
    remove_work_directories();
    return 0;
}

// --- the other commands --------------------------------------------------------------------------

static int inspect(int argc, char **argv)
{
    const char *dir = NULL;
    int json = 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) json = 1;
        else if (*argv[i] == '-') usage("unknown option %s", argv[i]);
        else if (dir) usage("a second directory: %s", argv[i]);
        else dir = argv[i];
    }
    if (!dir) usage("inspect needs a model directory%s", "");
    inspect_model(dir, json);
    return 0;
}

static int tokenize(int argc, char **argv)
{
    const char *dir = NULL;
    int decode = 0, no_special = 0;
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--decode") == 0) decode = 1;
        else if (strcmp(argv[i], "--no-special") == 0) no_special = 1;
        else if (*argv[i] == '-') usage("unknown option %s", argv[i]);
        else if (dir) usage("a second directory: %s", argv[i]);
        else dir = argv[i];
    }
    if (!dir) usage("tokenize needs a model directory%s", "");
    Buffer tables = {0};
    compile_tokenizer(dir, &tables);
    if (!tables.bytes) die(dir, "no tokenizer.json");
    Error err;
    if (tokenize_input(tables.data, tables.bytes, decode, no_special, &err) != 0)
        die(dir, "%s", err.text);
    return 0;
}

static int render(int argc, char **argv)
{
    const char *dir = NULL, *name = NULL;
    Arguments a = {argc, argv, 2};
    for (; a.at < argc; a.at++) {
        const char *word = argv[a.at];
        if (strcmp(word, "--name") == 0) name = value_of(&a);
        else if (*word == '-') usage("unknown option %s", word);
        else if (dir) usage("a second directory: %s", word);
        else dir = word;
    }
    if (!dir) usage("template needs a model directory%s", "");
    Buffer tables = {0};
    compile_templates(dir, &tables);
    Error err;
    if (render_input(tables.data, tables.bytes, name, &err) != 0) die(dir, "%s", err.text);
    return 0;
}

static NumberList numbers_of(Arguments *a, int low, int high)
{
    NumberList list = {.count = 0};
    const char *option = a->argv[a->at], *text = value_of(a);
    for (const char *p = text;; p++) {
        char *end;
        long value = strtol(p, &end, 10);
        if (end == p || (*end && *end != ',') || value < low || value > high || list.count == 32) {
            fprintf(stderr, "exlc: %s %s: expected up to 32 numbers from %d to %d\n", option, text,
                    low, high);
            exit(2);
        }
        list.value[list.count++] = (int)value;
        p = end;
        if (!*p) return list;
    }
}

static void parse_shapes(KernelBench *k, const char *text)
{
    for (const char *p = text;; p++) {
        Shape s;
        int n = 0;
        if (sscanf(p, "%dx%d%n", &s.in, &s.out, &n) != 2 || s.in < 128 || s.in % 128 ||
            s.in > 1 << 16 || s.out < 1 || s.out > 1 << 18 || k->shape_count == 16)
            usage("--shape %s: expected up to 16 as 4096x14336, the first a multiple of 128", text);
        k->shapes[k->shape_count++] = s;
        p += n;
        if (!*p) return;
        if (*p != ',') usage("--shape %s: expected a comma between shapes", text);
    }
}

static int bench(int argc, char **argv)
{
    KernelBench k = {.shape_count = 0,
                     .bits = {{4}, 1},
                     .batches = {{1}, 1},
                     .contexts = {{2048}, 1}};
    Arguments a = {argc, argv, 2};
    for (; a.at < argc; a.at++) {
        const char *o = argv[a.at];
        if (strcmp(o, "--json") == 0) k.json = 1;
        else if (strcmp(o, "--sm") == 0) k.sm = (int)integer_of(&a, 80, 999);
        else if (strcmp(o, "--bits") == 0) k.bits = numbers_of(&a, 1, 8);
        else if (strcmp(o, "--batch") == 0) k.batches = numbers_of(&a, 1, 1024);
        else if (strcmp(o, "--context") == 0) k.contexts = numbers_of(&a, 0, 1 << 20);
        else if (strcmp(o, "--prompt") == 0) k.prompts = numbers_of(&a, 1, 1 << 20);
        else if (strcmp(o, "--shape") == 0) parse_shapes(&k, value_of(&a));
        else if (strcmp(o, "--codebook") == 0) {
            char *copy = strdup(value_of(&a));
            for (char *word = strtok(copy, ","); word; word = strtok(NULL, ",")) {
                codebook_of(word);
                if (k.codebook_count == 3) usage("--codebook: one more than there are: %s", word);
                k.codebooks[k.codebook_count++] = word;
            }
        } else if (*o == '-') usage("unknown option %s", o);
        else if (k.dir) usage("a second directory: %s", o);
        else k.dir = o;
    }
    if (k.dir && k.shape_count) usage("--shape goes without a directory%s", "");
    if (!k.shape_count) k.shapes[k.shape_count++] = (Shape){4096, 14336};
    if (!k.codebook_count) k.codebooks[k.codebook_count++] = "mul1";
    bench_kernels(&k);
    return 0;
}

// Results that could not be written are no results.
static int finish(int status)
{
    if (fflush(stdout) != 0 || ferror(stdout)) die("standard output", "cannot write");
    return status;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "--help";
    signal(SIGXFSZ, SIG_IGN); // a file that may grow no more is an error like others
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) command = "--help";
    if (strcmp(command, "--help") == 0) return fputs(usage_text, stdout), finish(argc > 1 ? 0 : 2);
    if (strcmp(command, "--version") == 0) return puts("exlc " EXLC_VERSION), 0;
    if (strcmp(command, "--licenses") == 0) {
        size_t bytes;
        const char *text = embedded_text("licenses.txt", &bytes);
        return text && fwrite(text, 1, bytes, stdout) == bytes ? 0 : 1;
    }
    if (strcmp(command, "build") == 0) return finish(build(argc, argv));
    if (strcmp(command, "inspect") == 0) return finish(inspect(argc, argv));
    if (strcmp(command, "tokenize") == 0) return finish(tokenize(argc, argv));
    if (strcmp(command, "template") == 0) return finish(render(argc, argv));
    if (strcmp(command, "bench-kernels") == 0) return finish(bench(argc, argv));
    if (strcmp(command, "quantize") == 0) die(command, "not there yet");
    usage("unknown command %s", command);
}
