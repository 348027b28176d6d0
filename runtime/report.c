// The commands about the program itself: info, verify, selftest.
#include "options.h"
#include "pools.h"
#include <elf.h>
#include <jansson.h>
#include <link.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// The least glibc this executable can run with: the highest GLIBC_ version its dynamic section
// asks for (ELF gABI, symbol versions needed).
static void glibc_min(char *out, size_t room)
{
    const char *strings = NULL;
    const char *base = NULL;
    const ElfW(Verneed) *need = NULL;
    snprintf(out, room, "unknown");
    for (const struct link_map *map = _r_debug.r_map; map; map = map->l_next) {
        base = (const char *)map->l_addr; // the first one is the program
        for (const ElfW(Dyn) *d = map->l_ld; d->d_tag != DT_NULL; d++) {
            if (d->d_tag == DT_STRTAB) strings = (const char *)d->d_un.d_ptr;
            if (d->d_tag == DT_VERNEED) need = (const void *)(base + d->d_un.d_ptr);
        }
        break;
    }
    if (!strings || !need) return;
    int best = 0;
    for (;; need = (const void *)((const char *)need + need->vn_next)) {
        const ElfW(Vernaux) *aux = (const void *)((const char *)need + need->vn_aux);
        for (;; aux = (const void *)((const char *)aux + aux->vna_next)) {
            int major, minor;
            if (sscanf(strings + aux->vna_name, "GLIBC_%d.%d", &major, &minor) == 2 &&
                major * 1000 + minor > best) {
                best = major * 1000 + minor;
                snprintf(out, room, "%d.%d", major, minor);
            }
            if (!aux->vna_next) break;
        }
        if (!need->vn_next) break;
    }
}

static void print_bytes(const char *what, uint64_t bytes)
{
    if (bytes >= 1u << 30)
        printf("%-22s %.2f GiB\n", what, (double)bytes / (1u << 30));
    else if (bytes >= 1u << 20)
        printf("%-22s %.1f MiB\n", what, (double)bytes / (1u << 20));
    else
        printf("%-22s %llu bytes\n", what, (unsigned long long)bytes);
}

// What info prints, for programs.
static void print_info_json(const DeviceOptions *sizes, uint64_t cache, uint64_t windows,
                            uint64_t host, const char *glibc)
{
    const ModelInfo *m = &model_info;
    json_t *sm = json_array(), *targets = json_array();
    for (const GpuImage *i = m->images; i && i->image; i++)
        if (i->sm) json_array_append_new(sm, json_integer(i->sm));
    if (m->cpu) json_array_append_new(targets, json_string("cpu"));
    if (m->images) json_array_append_new(targets, json_string("cuda"));
    json_t *info =
        json_pack("{s:s, s:s, s:s, s:s, s:I, s:f, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "model",
                  m->name, "architecture", m->architecture, "build", m->build_id, "exlc",
                  m->exlc_version, "parameters", (json_int_t)m->parameters, "bits", m->bits,
                  "layers", m->layers, "dim", m->dim, "heads", m->heads, "kv_heads", m->kv_heads,
                  "head_dim", m->head_dim, "ffn_dim", m->ffn_dim, "vocab", m->vocab);
    json_t *needs = json_pack(
        "{s:o, s:o, s:i, s:i, s:I, s:I, s:i, s:i, s:I, s:I, s:I, s:i, s:i, s:I, s:I, s:s?, s:s}",
        "targets", targets, "sm", sm, "max_context", m->max_context, "max_batch", m->max_batch,
        "weights_bytes", (json_int_t)m->weights_bytes, "cache_bytes_per_token", (json_int_t)cache,
        "key_bits", sizes->key_bits, "value_bits", sizes->value_bits, "window_bytes",
        (json_int_t)windows, "state_bytes_per_sequence", (json_int_t)m->state_bytes,
        "host_cache_bytes", (json_int_t)host, "context", sizes->max_context, "batch",
        sizes->max_sequences, "cache_tokens", (json_int_t)sizes->pages[POOL_ALL] * PAGE,
        "memory_bytes", (json_int_t)memory_bytes(sizes), "driver_min", m->driver_min, "glibc_min",
        glibc);
    json_object_update(info, needs);
    if (json_dumpf(info, stdout, JSON_REAL_PRECISION(4)) != 0) fail("out of memory");
    putchar('\n');
    json_decref(needs);
    json_decref(info);
}

int command_info(const Options *o)
{
    const ModelInfo *m = &model_info;
    int cuda = o->device_given ? o->cuda : m->images != NULL;
    if (cuda && !m->images) fail("this program was built without the CUDA target");
    DeviceOptions sizes = choose_sizes(o, cuda, 0, 0, m->embedding != EMBEDDING_NONE);
    if (o->gpu_memory &&
        fit_memory(&sizes, o->gpu_memory, o->max_context ? o->max_context : PAGE) != 0)
        fail("%llu bytes, less 256 MiB, do not hold this model: with %d tokens of cache it takes "
             "%llu",
             (unsigned long long)o->gpu_memory, sizes.pages[POOL_ALL] * PAGE,
             (unsigned long long)memory_bytes(&sizes));
    uint64_t cache = cache_token_bytes(m, POOL_ALL, sizes.key_bits, sizes.value_bits);
    int window, windowed = pool_layers(m, POOL_WINDOW, &window);
    uint64_t windows = (uint64_t)sizes.pages[POOL_WINDOW] *
                       page_bytes(m, POOL_WINDOW, sizes.key_bits, sizes.value_bits),
             host = 0;
    for (int pool = 0; pool < POOLS; pool++)
        host += (uint64_t)sizes.host_pages[pool] *
                page_bytes(m, pool, sizes.key_bits, sizes.value_bits);
    uint64_t memory = memory_bytes(&sizes);
    char glibc[32], sms[128] = "", *p = sms;
    glibc_min(glibc, sizeof glibc);
    if (o->json) {
        print_info_json(&sizes, cache, windows, host, glibc);
        return 0;
    }
    for (const GpuImage *i = m->images; i && i->image; i++)
        if (i->sm) p += sprintf(p, "%s%d", p > sms ? ", " : "", i->sm);
    printf("%-22s %s (%s), build %s\n", "model", m->name, m->architecture, m->build_id);
    printf("%-22s %.3f billion, %.2f bits per weight in the layers\n", "parameters",
           (double)m->parameters / 1e9, m->bits);
    printf("%-22s %d layers, %d wide, %d heads of %d over %d key/value heads, feed-forward %d, "
           "vocabulary %d\n",
           "shape", m->layers, m->dim, m->heads, m->head_dim, m->kv_heads, m->ffn_dim, m->vocab);
    printf("%-22s %d tokens, %d sequences\n", "limits", m->max_context, m->max_batch);
    if (m->embedding)
        printf("%-22s %s%s\n", "embeddings",
               m->embedding == EMBEDDING_LAST    ? "of the last token"
               : m->embedding == EMBEDDING_FIRST ? "of the first token"
                                                 : "mean of all tokens",
               m->embedding_normal ? ", of length 1" : "");
    print_bytes("weights", m->weights_bytes);
    printf("%-22s %llu bytes, keys in %d bits, values in %d\n", "cache per token",
           (unsigned long long)cache, sizes.key_bits, sizes.value_bits);
    if (m->state_bytes) {
        print_bytes("state per sequence", m->state_bytes);
        printf("%-22s %d for sequences, %d saved\n", "states", sizes.max_sequences,
               sizes.states - sizes.max_sequences);
    }
    printf("%-22s %lld tokens for %d sequences of up to %d\n", "cache",
           (long long)sizes.pages[POOL_ALL] * PAGE, sizes.max_sequences, sizes.max_context);
    if (windowed) {
        printf("%-22s of %d tokens in %d layers, %lld tokens are kept for all\n", "windows", window,
               windowed, (long long)sizes.pages[POOL_WINDOW] * PAGE);
        print_bytes("", windows);
    }
    if (host) {
        printf("%-22s %lld tokens in host memory\n", "second level",
               (long long)sizes.host_pages[POOL_ALL] * PAGE);
        print_bytes("host memory", host);
    }
    print_bytes(cuda ? "GPU memory" : "memory", memory);
    printf("%-22s %s%s%s\n", "targets", m->cpu ? "cpu" : "", m->cpu && m->images ? ", " : "",
           m->images ? "cuda" : "");
    if (m->images)
        printf("%-22s %s; driver %s or later\n", "compute capabilities", sms, m->driver_min);
    printf("%-22s glibc %s or later\n", "needs", glibc);
    return 0;
}

int command_verify(const Options *o)
{
    (void)o;
    Weights w;
    Error err;
    if (weights_open(&w, 16, &err) != 0 || weights_verify(&w, &err) != 0) fail("%s", err.text);
    printf("%s: %llu bytes of weights are as built\n", model_info.name,
           (unsigned long long)model_info.weights_bytes);
    weights_close(&w);
    return 0;
}

// What must hold for any weights: finite logits, the same ones again, and the same ones when the
// tokens come one by one (within the accuracy that the targets promise).
int command_selftest(const Options *o)
{
    enum { ROWS = 24 };
    const ModelInfo *m = &model_info;
    Options sized = *o;
    int rows = m->max_context < ROWS ? m->max_context : ROWS;
    sized.max_context = rows;
    Model model = open_model(&sized, rows, rows, 0);
    device_map_pages(model.device);
    int32_t token[ROWS], position[ROWS], sequence[ROWS] = {0}, output[ROWS];
    for (int i = 0; i < rows; i++) {
        token[i] = (int32_t)((1 + 7919LL * i) % m->vocab);
        position[i] = output[i] = i;
    }
    size_t count = (size_t)rows * (size_t)m->vocab;
    float *first = malloc(4 * count);
    if (!first) fail("out of memory");
    double worst = 0;
    for (int round = 0; round < 3; round++) {
        double difference = 0, norm = 0;
        for (int from = 0, n; from < rows; from += n) {
            n = round < 2 ? rows : 1;
            Segment segment = {0, n, 0, from};
            Batch b = {.rows = n,
                       .segments = 1,
                       .outputs = n,
                       .token = token + from,
                       .position = position + from,
                       .sequence = sequence,
                       .output = output,
                       .segment = &segment};
            // Single rows draw, so that on a GPU they are replayed from a graph, greedily and not.
            Sampling draw = {.temperature = from % 2 ? 1.0f : 0,
                             .top_k = 20,
                             .top_p = 0.9f,
                             .min_p = 0.01f,
                             .seed = 1,
                             .draw = (uint64_t)from};
            device_forward(model.device, &b, n == 1 ? &draw : NULL);
            if (n == 1 && device_tokens(model.device)[0] < 0)
                fail("selftest: a drawn token is not in the vocabulary");
            const float *logits = device_logits(model.device);
            float *kept = first + (size_t)from * (size_t)m->vocab;
            size_t values = (size_t)n * (size_t)m->vocab;
            for (size_t i = 0; i < values; i++) {
                if (!isfinite(logits[i])) fail("selftest: a logit is not a number");
                if (round == 0) kept[i] = logits[i];
                if (round == 1 && kept[i] != logits[i]) fail("selftest: two equal passes differ");
                difference += (double)(kept[i] - logits[i]) * (kept[i] - logits[i]);
                norm += (double)kept[i] * kept[i];
            }
        }
        if (norm > 0 && sqrt(difference / norm) > worst) worst = sqrt(difference / norm);
    }
    if (worst > 2e-2) fail("selftest: tokens one by one differ by %.2g from all at once", worst);
    printf("%s on %s: %d rows, equal when repeated, within %.1e one by one\n", m->name,
           device_name(model.device), rows, worst);
    free(first);
    close_model(&model);
    return 0;
}
