// exlc inspect: one page on a model directory, as text or JSON. A directory with only config.json
// is described with weights of 4 bits and a head of 6, the converter's defaults.
#include "exlc.h"
#include "../runtime/template.h"
#include <sys/wait.h>
#include <unistd.h>
#include <stdlib.h>
#include <string.h>

// --- bits by group -------------------------------------------------------------------------------

typedef struct {
    double bits, weights;
    Buffer formats; // those that occur: "m4, m5"
} Group;

static void add_linear(Group *g, const LinearWeights *w)
{
    if (!w) return;
    double values = (double)w->in * w->out;
    const char *name = format_text(w->format);
    g->bits += values * FORMAT_BITS(w->format);
    g->weights += values;
    if (!g->formats.data || !strstr(g->formats.data, name))
        buffer_print(&g->formats, "%s%s", g->formats.bytes ? ", " : "", name);
}

static double average(const Group *g)
{
    return g->weights > 0 ? g->bits / g->weights : 0;
}

typedef struct {
    Group attention, ffn, head, embedding;
} Groups;

static Groups group_weights(const Plan *plan)
{
    Groups g = {0};
    for (int l = 0; l < plan->graph->facts.layers; l++) {
        const LayerWeights *w = &plan->layers[l];
        const LinearWeights *attention[] = {w->q, w->k, w->v, w->o},
                            *ffn[] = {w->gate, w->up, w->down};
        for (int i = 0; i < 4; i++) add_linear(&g.attention, attention[i]);
        const LinearWeights *latent[] = {w->q_a, w->q_b, w->kv_a};
        for (int i = 0; i < 3; i++) add_linear(&g.attention, latent[i]);
        add_linear(&g.attention, w->delta_in);
        add_linear(&g.attention, w->delta_z);
        for (int i = 0; i < 3; i++) add_linear(&g.ffn, ffn[i]);
        const Op *experts[] = {w->expert_gate, w->expert_up, w->expert_down};
        for (int i = 0; i < 3 && w->router; i++)
            for (int e = 0; e < experts[i]->expert_count; e++)
                add_linear(&g.ffn, experts[i]->experts[e]);
        const LinearWeights *shared[] = {w->shared_gate, w->shared_up, w->shared_down};
        for (int i = 0; i < 3; i++) add_linear(&g.ffn, shared[i]);
    }
    add_linear(&g.head, plan->head);
    const Facts *f = &plan->graph->facts;
    add_linear(&g.embedding,
               &(LinearWeights){.format = plan->embed_format, .in = f->dim, .out = f->vocab});
    return g;
}

// --- tokenizer and chat templates ----------------------------------------------------------------

// Why something of the directory cannot be compiled, or NULL: a child process tries, and its last
// words are read.
static const char *refusal(const char *dir, void (*compile)(const char *dir, Buffer *out))
{
    int ends[2];
    if (pipe(ends) != 0) return NULL;
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) return NULL;
    if (pid == 0) {
        Buffer tables = {0};
        dup2(ends[1], 2);
        leave_files_to_parent();
        compile(dir, &tables);
        _exit(0);
    }
    close(ends[1]);
    char text[1024];
    size_t n = 0;
    for (ssize_t got; n < sizeof text - 1 && (got = read(ends[0], text + n, sizeof text - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    int status;
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return NULL;
    text[n] = 0;
    text[strcspn(text, "\n")] = 0;
    const char *message = strncmp(text, "exlc: ", 6) == 0 ? text + 6 : text;
    return *message ? arena_copy(message, strlen(message)) : "a part that cannot be compiled";
}

// What there is: "tokenizer.json, BPE"; *unsupported is set when it cannot be compiled.
static const char *describe_tokenizer(const char *dir, const char **unsupported)
{
    Buffer b;
    const char *path = arena_format("%s/tokenizer.json", dir);
    const cJSON *json = read_json_if_present(path);
    if (json) {
        const cJSON *type = json_get(json_get(json, "model"), "type");
        // Files of the first releases leave the type out.
        const char *name = cJSON_IsString(type)                          ? type->valuestring
                           : json_get(json_get(json, "model"), "merges") ? "BPE"
                                                                         : "unknown";
        *unsupported = refusal(dir, compile_tokenizer);
        return arena_format("tokenizer.json, %s", name);
    }
    static const char *const others[] = {"tokenizer.model", "vocab.json", "tekken.json"};
    for (int i = 0; i < 3; i++) {
        if (!read_file_if_present(arena_format("%s/%s", dir, others[i]), &b)) continue;
        buffer_free(&b);
        *unsupported = arena_format("%s without tokenizer.json", others[i]);
        return others[i];
    }
    *unsupported = "no tokenizer.json: the program reads and writes token ids only";
    return "none";
}

typedef struct {
    const char **line;
    size_t count, room;
} Lines;

static void add_line(Lines *lines, const char *line)
{
    APPEND(lines->line, lines->count, lines->room, line);
}

// The names of the chat templates; those that cannot be compiled go to `unsupported` too.
static Lines list_templates(const char *dir, Lines *unsupported)
{
    Lines names = {0};
    Buffer tables = {0};
    Templates *t;
    Error err;
    const char *why = refusal(dir, compile_templates);
    if (why) {
        add_line(unsupported, why);
        return names;
    }
    compile_templates(dir, &tables);
    if (templates_open(&t, tables.data, tables.bytes, &err) != 0) die(dir, "%s", err.text);
    for (int i = 0; i < templates_count(t); i++) {
        add_line(&names, templates_name(t, i));
        if (templates_problem(t, i)) add_line(unsupported, templates_problem(t, i));
    }
    templates_close(t); // the names stay in the tables
    return names;
}

// --- the page ------------------------------------------------------------------------------------

typedef struct {
    const Plan *plan;
    Groups groups;
    int real; // weights are there
    uint64_t weights_bytes, token_bytes;
    int sliding, window; // layers with a window, and the widest
    int contexts[4], context_count;
    const char *tokenizer;
    Lines templates, unsupported;
    const char *no_cuda; // why it cannot be compiled for CUDA, or NULL
} Page;

static void try_quantization(const char *dir, Buffer *out)
{
    (void)out;
    check_quantization(read_checkpoint(dir));
}

// Parts of a model besides the text's, which alone is compiled.
static void list_parts(const cJSON *config, Lines *unsupported)
{
    static const char *const parts[][2] = {
        {"vision_config", "images"}, {"audio_config", "sound"}, {"speech_config", "speech"}};
    for (int i = 0; i < 3; i++)
        if (cJSON_IsObject(json_get(config, parts[i][0])))
            add_line(unsupported, arena_format("%s: only the text part is compiled (%s is there)",
                                               parts[i][1], parts[i][0]));
}

static Page make_page(const char *dir)
{
    const Checkpoint *ck = read_checkpoint(dir);
    Page p = {.real = ck->count > 0};
    if (!p.real) ck = random_checkpoint(dir, 1, m4, m6);
    const Graph *graph = trace_arch(ck);
    // Of a config alone, what its own weights are is one line of the page.
    const char *quantized = p.real ? NULL : refusal(ck->dir, try_quantization);
    if (quantized) add_line(&p.unsupported, quantized);
    Plan *plan = fuse_ops(graph);
    choose_variants(plan);
    p.plan = plan;
    p.groups = group_weights(plan);
    const Facts *f = &plan->graph->facts;
    p.weights_bytes = pack_weights(plan, NULL)->bytes;
    p.token_bytes = cache_bytes_per_token(plan, 16, 16);
    p.sliding = window_layers(plan, &p.window);
    const int contexts[] = {2048, 8192, 32768};
    for (int i = 0; i < 3; i++)
        if (contexts[i] < f->max_position) p.contexts[p.context_count++] = contexts[i];
    p.contexts[p.context_count++] = f->max_position;
    const char *refused = NULL;
    list_parts(ck->config, &p.unsupported);
    p.no_cuda = missing_on_cuda(plan);
    p.tokenizer = describe_tokenizer(ck->dir, &refused);
    if (refused) add_line(&p.unsupported, refused);
    p.templates = list_templates(ck->dir, &p.unsupported);
    return p;
}

static uint64_t memory_bytes(const Page *p, int context)
{
    return p->weights_bytes + state_bytes(&p->plan->graph->facts) +
           p->token_bytes * (((uint64_t)context + PAGE - 1) / PAGE * PAGE) +
           window_bytes(p->plan, context, 16, 16);
}

static void print_group(const char *name, const Group *g)
{
    printf("  %-12s %.2f bits: %s\n", name, average(g), g->formats.data);
}

static void print_page(const Page *p)
{
    const Graph *g = p->plan->graph;
    const Facts *f = &g->facts;
    printf("%s: %s (archs/%s), %s\n", g->checkpoint->name, g->architecture, g->arch_file,
           p->real ? "with weights" : "no weights here: taken as 4 bits, the head as 6");
    printf("  layers       %d", f->layers);
    if (p->sliding) printf(", %d of them with a window of %d", p->sliding, p->window);
    printf(", in %d run%s of equal steps\n", p->plan->run_count,
           p->plan->run_count == 1 ? "" : "s");
    printf("  widths       dim %d, ffn %d, vocab %d\n", f->dim, f->ffn_dim, f->vocab);
    printf("  attention    %d heads of %d, %d for keys and values\n", f->heads, f->head_dim,
           f->kv_heads);
    if (f->state_layers)
        printf("  recurrent    %d layers: %d heads with states of %d x %d, %d heads of keys\n",
               f->state_layers, f->delta_heads, f->delta_key_dim, f->delta_value_dim,
               f->delta_key_heads);
    if (f->experts)
        printf("  experts      %d of %d channels, %d active, %d channels shared\n", f->experts,
               f->expert_dim, f->active, f->shared_dim);
    printf("  context      %d tokens\n", f->max_position);
    printf("  parameters   %llu\n", (unsigned long long)p->plan->parameters);
    print_group("attention", &p->groups.attention);
    print_group("ffn", &p->groups.ffn);
    print_group("head", &p->groups.head);
    print_group("embedding", &p->groups.embedding);
    printf("  weights      %.1f MiB, %.2f bits in the layers\n",
           (double)p->weights_bytes / (1 << 20), p->plan->bits);
    printf("  cache        %llu bytes per token", (unsigned long long)p->token_bytes);
    for (int bits = 8; bits >= 4 && f->head_dim % CACHE_GROUP == 0; bits /= 2)
        printf(", %llu in %d bits", (unsigned long long)cache_bytes_per_token(p->plan, bits, bits),
               bits);
    printf("%s\n", p->window ? " beyond windows" : "");
    if (f->state_layers)
        printf("  state        %llu bytes per sequence\n", (unsigned long long)state_bytes(f));
    for (int i = 0; i < p->context_count; i++)
        printf("  memory       %.1f MiB with %d tokens of context\n",
               (double)memory_bytes(p, p->contexts[i]) / (1 << 20), p->contexts[i]);
    if (p->no_cuda)
        printf("  targets      cpu (%s)\n", p->no_cuda);
    else
        printf("  targets      cpu, cuda\n");
    printf("  tokenizer    %s\n", p->tokenizer);
    printf("  templates    %s", p->templates.count ? "" : "none");
    for (size_t i = 0; i < p->templates.count; i++)
        printf("%s%s", i ? ", " : "", p->templates.line[i]);
    putchar('\n');
    for (size_t i = 0; i < p->unsupported.count; i++)
        printf("  unsupported  %s\n", p->unsupported.line[i]);
    if (!p->unsupported.count) printf("  unsupported  nothing\n");
}

static void print_json(const Page *p)
{
    const Graph *g = p->plan->graph;
    const Facts *f = &g->facts;
    cJSON *page = cJSON_CreateObject(), *bits, *memory;
    cJSON_AddStringToObject(page, "model", g->checkpoint->name);
    cJSON_AddStringToObject(page, "architecture", g->architecture);
    cJSON_AddBoolToObject(page, "weights", p->real);
    cJSON_AddNumberToObject(page, "layers", f->layers);
    cJSON_AddNumberToObject(page, "sliding_layers", p->sliding);
    cJSON_AddNumberToObject(page, "window", p->window);
    cJSON_AddNumberToObject(page, "dim", f->dim);
    cJSON_AddNumberToObject(page, "heads", f->heads);
    cJSON_AddNumberToObject(page, "kv_heads", f->kv_heads);
    cJSON_AddNumberToObject(page, "experts", f->experts);
    cJSON_AddNumberToObject(page, "active_experts", f->active);
    cJSON_AddNumberToObject(page, "head_dim", f->head_dim);
    cJSON_AddNumberToObject(page, "ffn_dim", f->ffn_dim);
    cJSON_AddNumberToObject(page, "vocab", f->vocab);
    cJSON_AddNumberToObject(page, "max_context", f->max_position);
    cJSON_AddNumberToObject(page, "parameters", (double)p->plan->parameters);
    bits = cJSON_AddObjectToObject(page, "bits");
    cJSON_AddNumberToObject(bits, "layers", p->plan->bits);
    cJSON_AddNumberToObject(bits, "attention", average(&p->groups.attention));
    cJSON_AddNumberToObject(bits, "ffn", average(&p->groups.ffn));
    cJSON_AddNumberToObject(bits, "head", average(&p->groups.head));
    cJSON_AddNumberToObject(bits, "embedding", average(&p->groups.embedding));
    cJSON_AddNumberToObject(page, "weights_bytes", (double)p->weights_bytes);
    cJSON_AddNumberToObject(page, "cache_bytes_per_token", (double)p->token_bytes);
    cJSON_AddNumberToObject(page, "state_layers", f->state_layers);
    cJSON_AddNumberToObject(page, "state_bytes_per_sequence", (double)state_bytes(f));
    memory = cJSON_AddArrayToObject(page, "memory");
    for (int i = 0; i < p->context_count; i++) {
        cJSON *row = cJSON_CreateObject();
        cJSON_AddNumberToObject(row, "context", p->contexts[i]);
        cJSON_AddNumberToObject(row, "bytes", (double)memory_bytes(p, p->contexts[i]));
        cJSON_AddItemToArray(memory, row);
    }
    cJSON *targets = cJSON_AddArrayToObject(page, "targets");
    cJSON_AddItemToArray(targets, cJSON_CreateString("cpu"));
    if (!p->no_cuda) cJSON_AddItemToArray(targets, cJSON_CreateString("cuda"));
    cJSON_AddStringToObject(page, "tokenizer", p->tokenizer);
    cJSON *list = cJSON_AddArrayToObject(page, "chat_templates");
    for (size_t i = 0; i < p->templates.count; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(p->templates.line[i]));
    list = cJSON_AddArrayToObject(page, "unsupported");
    for (size_t i = 0; i < p->unsupported.count; i++)
        cJSON_AddItemToArray(list, cJSON_CreateString(p->unsupported.line[i]));
    char *text = cJSON_Print(page);
    if (!text) die("memory", "cannot print the page");
    puts(text);
    cJSON_free(text);
    cJSON_Delete(page);
}

void inspect_model(const char *dir, int json)
{
    Page p = make_page(dir);
    if (json)
        print_json(&p);
    else
        print_page(&p);
    Group *groups[] = {&p.groups.attention, &p.groups.ffn, &p.groups.head, &p.groups.embedding};
    for (int i = 0; i < 4; i++) buffer_free(&groups[i]->formats);
}
