// The fixed point: templates/ is the program of the sample model tests/models/converted/
// llama-mul1-4bpw, so compiling that model must give every template back, byte for byte, markers
// aside. With the argument "update" (make templates), the regions in templates/ are rewritten.
#include "compiler/exlc.h"
#include "tests/check.h"
#include <stdlib.h>
#include <unistd.h>

static const char *const names[] = {"constants.h", "model.c", "forward.inc", "forward.c",
                                    "forward.cu",  "cpu.c",   "Makefile"};

// The text without the lines of its markers.
static Buffer without_markers(const char *text)
{
    Buffer out = {0};
    for (const char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        n += line[n] == '\n';
        if (!memmem(line, n, "exlc: begin ", 12) && !memmem(line, n, "exlc: end ", 10))
            buffer_add(&out, line, n);
        line += n;
    }
    return out;
}

// The template with what stands between its markers taken from the emitted file. Between two regions
// both texts are the same, so each region of the emitted file ends where the next common part begins.
static Buffer updated(const char *template, const char *emitted)
{
    Buffer out = {0};
    int inside = 0;
    for (const char *line = template; *line;) {
        size_t n = strcspn(line, "\n");
        n += line[n] == '\n';
        if (memmem(line, n, "exlc: begin ", 12)) {
            inside = 1;
            buffer_add(&out, line, n);
        } else if (memmem(line, n, "exlc: end ", 10)) {
            const char *common = line + n;
            size_t length = strcspn(common, "\n") + 1;
            const char *next = emitted + strlen(emitted);
            if (*common) {
                char *first = arena_copy(common, length);
                next = strstr(emitted, first);
                if (!next) die("templates", "'%s' is not in the emitted file", first);
            }
            buffer_add(&out, emitted, (size_t)(next - emitted));
            emitted = next;
            inside = 0;
            buffer_add(&out, line, n);
        } else if (!inside) {
            buffer_add(&out, line, n);
            emitted += n;
        }
        line += n;
    }
    return out;
}

int main(int argc, char **argv)
{
    char dir[] = "build/tests/sample.XXXXXX";
    (void)argv;
    if (!mkdtemp(dir)) die(dir, "cannot create");
    Checkpoint *ck = read_checkpoint("tests/models/converted/llama-mul1-4bpw");
    ck->name = "sample";
    Graph *graph = trace_arch(ck);
    check_graph(graph);
    Plan *plan = fuse_ops(graph);
    choose_variants(plan);
    Packed *packed = pack_weights(plan, arena_format("%s/weights.bin", dir));
    BuildOptions options = {.cpu = 1,
                            .cuda = 1,
                            .sms = {90, 0},
                            .sm_count = 2,
                            .cache_bits = CACHE_BITS,
                            .max_context = graph->facts.max_position,
                            .max_batch = 16,
                            .embed_weights = 1,
                            .driver_min = "580"};
    Buffer tokenizer = {0}, chat = {0};
    compile_tokenizer(ck->dir, &tokenizer);
    compile_templates(ck->dir, &chat);
    emit_program(plan, packed, &tokenizer, &chat, &options, dir);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = arena_format("templates/%s", names[i]);
        Buffer template = read_file(path), emitted = read_file(arena_format("%s/%s", dir, names[i]));
        if (argc > 1) {
            Buffer text = updated(template.data, emitted.data);
            write_file(path, text.data, text.bytes);
            continue;
        }
        Buffer plain = without_markers(template.data);
        CHECK_MSG(plain.bytes == emitted.bytes &&
                      memcmp(plain.data, emitted.data, plain.bytes) == 0,
                  "%s differs from what exlc emits for the sample model (make templates)", path);
    }
    if (argc > 1) check_passed++;
    char *command = arena_format("rm -rf %s", dir);
    CHECK(system(command) == 0);
    return check_done();
}
