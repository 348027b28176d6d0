// bench-kernels: compiles models of random weights for the GPU that is here and has each time its
// steps alone (bench --steps). Everything is done by the commands that a user would type.
#include "exlc.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// Runs a command, whose own line says what went wrong.
static void run(char *const *argv)
{
    int status;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) die("fork", "%s", strerror(errno));
    if (pid == 0) {
        leave_files_to_parent();
        execv(argv[0], argv);
        fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
    remove_work_directories();
    exit(1);
}

static void set_number(cJSON *config, const char *key, int value)
{
    cJSON_SetNumberValue(cJSON_GetObjectItemCaseSensitive(config, key), value);
}

// A directory with a config.json: a model as wide as the shape's input, with a feed-forward as wide
// as its output, and of so many layers that no step finds its weights in a cache when it comes round
// again.
static char *write_config(const char *work, const Shape *shape, int bits)
{
    const double enough = 256e6;
    int layers = (int)(enough / ((double)shape->in * shape->in * bits / 8)) + 1;
    int heads = shape->in / 128;
    size_t bytes;
    cJSON *config = cJSON_Parse(embedded_text("archs/bench-kernels.json", &bytes));
    set_number(config, "hidden_size", shape->in);
    set_number(config, "intermediate_size", shape->out);
    set_number(config, "num_hidden_layers", layers < 4 ? 4 : layers > 128 ? 128 : layers);
    set_number(config, "num_attention_heads", heads);
    set_number(config, "num_key_value_heads", heads % 4 ? heads : heads / 4);
    char *text = cJSON_Print(config), *dir = arena_format("%s/%dx%d", work, shape->in, shape->out);
    if (!text) die(dir, "out of memory");
    if (mkdir(dir, 0777) != 0 && errno != EEXIST) die(dir, "%s", strerror(errno));
    write_file(arena_format("%s/config.json", dir), text, strlen(text));
    cJSON_Delete(config);
    free(text);
    return dir;
}

static char *number(int n)
{
    return arena_format("%d", n);
}

static char *list_text(const NumberList *list)
{
    char *text = "";
    for (int i = 0; i < list->count; i++)
        text = arena_format("%s%s%d", text, i ? "," : "", list->value[i]);
    return text;
}

static int largest(const NumberList *list)
{
    int most = 0;
    for (int i = 0; i < list->count; i++)
        if (list->value[i] > most) most = list->value[i];
    return most;
}

static void bench_one(const KernelBench *k, char *self, const char *work, char *dir, char *codebook,
                      int bits, int sm)
{
    char *program = arena_format("%s/program", work);
    int batch = largest(&k->batches), prompt = largest(&k->prompts);
    int context = largest(&k->contexts), longest = context > prompt ? context : prompt;
    longest += 1024 + batch * (longest / 512 + 8); // while others read, the first ones draw
    char *build[] = {self, "build", dir, "-o", program, "--target", "cuda", "--sm", number(sm),
                     "--random-weights", "1", "--codebook", codebook, "--bits", number(bits),
                     "--head-bits", number(bits), "--max-batch", number(batch), "--max-context",
                     number(longest), NULL};
    char *bench[24] = {program, "bench", "--device", "cuda", "--steps", "--gen", "16"};
    int n = 7;
    bench[n++] = "--batch", bench[n++] = list_text(&k->batches);
    bench[n++] = "--context", bench[n++] = list_text(&k->contexts);
    if (prompt) bench[n++] = "--prompt", bench[n++] = list_text(&k->prompts);
    if (k->json) bench[n++] = "--json";
    const char *slash = strrchr(dir, '/');
    fprintf(stderr, "exlc: compiling %s: %s, %d bits, sm_%d\n", slash ? slash + 1 : dir, codebook,
            bits, sm);
    run(build);
    if (k->json)
        printf("{\"codebook\": \"%s\", \"bits\": %d, \"sm\": %d, \"bench\": ", codebook, bits,
               sm);
    else
        printf("%s, %d bits, sm_%d: ", codebook, bits, sm);
    run(bench);
    printf(k->json ? "}" : "\n");
}

void bench_kernels(const KernelBench *k)
{
    char self[4096];
    ssize_t bytes = readlink("/proc/self/exe", self, sizeof self - 1);
    if (bytes <= 0) die("/proc/self/exe", "%s", strerror(errno));
    self[bytes] = 0;
    int sms[MAX_GPUS], first = 1;
    const char *why;
    if (!present_sms(sms, &why)) die("bench-kernels", "%s", why);
    int sm = k->sm ? k->sm : sms[0];
    const char *folder = getenv("TMPDIR");
    const char *work =
        work_directory(arena_format("%s/exlc-kernels", folder && *folder ? folder : "/tmp"));
    if (k->json) printf("[");
    for (int s = 0; s < (k->dir ? 1 : k->shape_count); s++)
        for (int c = 0; c < k->codebook_count; c++)
            for (int b = 0; b < k->bits.count; b++) {
                int bits = k->bits.value[b];
                char *dir = k->dir ? (char *)k->dir : write_config(work, &k->shapes[s], bits);
                if (k->json && !first) printf(", ");
                first = 0;
                bench_one(k, self, work, dir, (char *)k->codebooks[c], bits, sm);
            }
    if (k->json) printf("]\n");
    remove_work_directories();
}
