// Runs the cases tests/archs/*.test, each a page: a config, the tensors of a checkpoint, and what
// the compiler must print for it.
//
//   # a comment                          -- config        JSON
//   -- tensors    one a line, {a..b} stands for a number of them:
//                 NAME FORMAT IN OUT [bias]   a linear layer; format as in generated code, m4, f16
//                 NAME F16|BF16|F32 ROWS [COLUMNS]
//   -- random M4 M6                      made-up weights of these formats in place of tensors
//   -- graph, -- steps, -- variants, -- memory      the expected text of a dump
//   -- refused                           words of the one line on stderr
//
// With --update the files are written anew with what the compiler prints now.
#include "../files.h"
#include <ctype.h>

typedef struct {
    const char *path, *dir;
    const char *config, *tensors, *random;
} Case;

// --- the checkpoint ------------------------------------------------------------------------------

static int read_format(const char *path, const char *name)
{
    static const char letters[] = "tcm";
    const char *letter = strchr(letters, tolower((unsigned char)*name));
    if (strcmp(name, "f16") == 0) return f16;
    if (strcmp(name, "b16") == 0) return b16;
    if (!*name || !letter || name[1] < '0' || name[1] > '9' || name[2])
        die(path, "no format %s", name);
    return (int)(letter - letters) << 8 | (name[1] - '0');
}

static void add_line(const char *path, Shard *s, const char *name, const char *line)
{
    char kind[16] = "", bias[16] = "";
    int a = 0, b = 0;
    sscanf(line, "%*s %15s %d %d %15s", kind, &a, &b, bias);
    if (isupper((unsigned char)*kind)) {
        add_values(s, name, kind, a, b);
        return;
    }
    add_linear(s, name, read_format(path, kind), a, b);
    if (*bias) add_values(s, arena_format("%s.bias", name), "F16", b, 0);
}

static void write_tensors(const Case *c)
{
    Shard s = {0};
    for (const char *next = c->tensors; next && *next;) {
        size_t length = strcspn(next, "\n");
        const char *line = arena_copy(next, length);
        next += length + (next[length] == '\n');
        char name[256];
        int first, last, at = 0, end = 0;
        if (sscanf(line, "%255s", name) != 1) continue;
        const char *range = strchr(name, '{');
        if (!range || sscanf(range, "{%d%n..%d}%n", &first, &at, &last, &end) != 2) {
            add_line(c->path, &s, name, line);
        } else {
            for (int i = first; i <= last; i++)
                add_line(c->path, &s,
                         arena_format("%.*s%d%s", (int)(range - name), name, i, range + end), line);
        }
    }
    put_text(c->dir, "config.json", c->config);
    write_shard(&s, c->dir, "model.safetensors");
}

// --- one section ---------------------------------------------------------------------------------

static const Checkpoint *open_case(const Case *c)
{
    if (!c->random) return read_checkpoint(c->dir);
    char layers[16], head[16];
    if (sscanf(c->random, "%15s %15s", layers, head) != 2) die(c->path, "random needs two formats");
    return random_checkpoint(c->dir, 1, read_format(c->path, layers), read_format(c->path, head));
}

static const char *print_dump(const Case *c, const char *dump)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    Graph *graph = trace_arch(open_case(c));
    Plan *plan = fuse_ops(graph);
    choose_variants(plan);
    if (strcmp(dump, "graph") == 0)
        print_graph(graph, out);
    else if (strcmp(dump, "memory") == 0)
        print_memory(plan, out);
    else
        print_plan(plan, out, strcmp(dump, "variants") == 0);
    fclose(out);
    return text;
}

static void trace_child(void *argument)
{
    choose_variants(fuse_ops(trace_arch(open_case(argument))));
}

static void compare(const Case *c, const char *dump, const char *expected, const char *found)
{
    int line = 1;
    const char *a = expected, *b = found;
    for (; *a && *a == *b; a++, b++) line += *a == '\n';
    CHECK_MSG(*a == *b, "%s: %s, line %d:\nexpected %.*s\nfound    %.*s", c->path, dump, line,
              (int)strcspn(a, "\n"), a, (int)strcspn(b, "\n"), b);
}

// --- files ---------------------------------------------------------------------------------------

// Runs a file's sections; with `updated`, collects it anew with the text found.
static void run_case(const char *path, Buffer *updated)
{
    Buffer file = read_file(path);
    Case c = {.path = path, .dir = make_directory()};
    char *next = file.data;
    while (next && *next) {
        char *head = next, *body = strchr(head, '\n');
        if (!body) die(path, "ends in the middle of a section");
        *body++ = 0;
        next = strstr(body, "\n-- ");
        char *end = strncmp(body, "-- ", 3) == 0 ? body : next ? next + 1 : body + strlen(body);
        char *text = arena_copy(body, (size_t)(end - body)), *name = head + 3;
        next = end;
        if (updated) buffer_print(updated, "%s\n", head);
        if (*head == '#') {
            // The comment lasts up to the next section.
        } else if (strcmp(head, "-- config") == 0) {
            c.config = text;
        } else if (strcmp(head, "-- tensors") == 0) {
            c.tensors = text;
        } else if (strncmp(head, "-- random ", 10) == 0) {
            c.random = arena_copy(head + 10, strlen(head + 10));
        } else if (strcmp(head, "-- refused") == 0) {
            write_tensors(&c);
            text[strcspn(text, "\n")] = 0;
            check_dies(path, trace_child, &c, text);
            text = arena_format("%s\n", text);
        } else if (strncmp(head, "-- ", 3) == 0) {
            write_tensors(&c);
            const char *found = print_dump(&c, name);
            if (!updated) compare(&c, name, text, found);
            text = (char *)(intptr_t)found;
        } else {
            die(path, "unknown section '%s'", head);
        }
        if (updated) buffer_print(updated, "%s", text);
    }
    remove_directory(c.dir);
    buffer_free(&file);
}

int main(int argc, char **argv)
{
    int update = argc > 1 && strcmp(argv[1], "--update") == 0;
    for (int i = 1 + update; i < argc; i++) {
        Buffer updated = {0};
        run_case(argv[i], update ? &updated : NULL);
        if (update) write_file(argv[i], updated.data, updated.bytes);
        buffer_free(&updated);
    }
    return check_done();
}
