// The index of the weights: which tensors a directory holds, and which of them make up a linear
// layer. Knows the safetensors container and the names of EXL3 tensors, but no architecture.
#include "exlc.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_HEADER (100u << 20)

// --- one safetensors file ------------------------------------------------------------------------

static const struct {
    const char *tag;
    int bits; // of one value
    Dtype dtype;
} dtypes[] = {
    {"F16", 16, DTYPE_F16},      {"BF16", 16, DTYPE_BF16},    {"F32", 32, DTYPE_F32},
    {"I16", 16, DTYPE_I16},      {"I32", 32, DTYPE_I32},      {"BOOL", 8, DTYPE_OTHER},
    {"U8", 8, DTYPE_OTHER},      {"I8", 8, DTYPE_OTHER},      {"U16", 16, DTYPE_OTHER},
    {"U32", 32, DTYPE_OTHER},    {"I64", 64, DTYPE_OTHER},    {"U64", 64, DTYPE_OTHER},
    {"F64", 64, DTYPE_OTHER},    {"C64", 64, DTYPE_OTHER},    {"F8_E4M3", 8, DTYPE_OTHER},
    {"F8_E5M2", 8, DTYPE_OTHER}, {"F8_E8M0", 8, DTYPE_OTHER}, {"F6_E2M3", 6, DTYPE_OTHER},
    {"F6_E3M2", 6, DTYPE_OTHER}, {"F4", 4, DTYPE_OTHER},
};

// Reads dtype and shape of a header entry; returns the bytes they stand for.
static uint64_t read_shape(const char *where, const cJSON *entry, Tensor *t)
{
    const cJSON *dtype = json_get(entry, "dtype"), *shape = json_get(entry, "shape");
    if (!cJSON_IsString(dtype)) die(where, "tensor %s has no dtype", t->name);
    int bits = 0;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtype->valuestring, dtypes[i].tag) != 0) continue;
        t->dtype = dtypes[i].dtype;
        t->dtype_tag = dtypes[i].tag;
        bits = dtypes[i].bits;
    }
    if (!bits) die(where, "tensor %s has the unknown dtype \"%s\"", t->name, dtype->valuestring);
    if (!cJSON_IsArray(shape)) die(where, "tensor %s has no shape", t->name);
    uint64_t values = 1;
    for (const cJSON *n = shape->child; n; n = n->next) {
        if (t->rank == 8) die(where, "tensor %s has more than 8 dimensions", t->name);
        const char *key = arena_format("a dimension of tensor %s", t->name);
        t->shape[t->rank] = json_whole(where, key, n, 0, (int64_t)1 << 53);
        if (__builtin_mul_overflow(values, (uint64_t)t->shape[t->rank], &values))
            die(where, "tensor %s: its shape has too many values to count", t->name);
        t->rank++;
    }
    uint64_t total;
    if (__builtin_mul_overflow(values, (uint64_t)bits, &total) || total % 8)
        die(where, "tensor %s: its shape is not a whole number of bytes", t->name);
    return total / 8;
}

static int compare_places(const void *a, const void *b)
{
    const Tensor *s = a, *t = b;
    if (s->data != t->data) return s->data < t->data ? -1 : 1;
    return s->bytes < t->bytes ? -1 : s->bytes > t->bytes;
}

void parse_header(const char *where, const uint8_t *data, uint64_t bytes, Checkpoint *ck)
{
    uint64_t length = 0;
    if (bytes < 8) die(where, "%llu bytes is too short for safetensors", (unsigned long long)bytes);
    for (int i = 0; i < 8; i++) length |= (uint64_t)data[i] << 8 * i;
    if (length > MAX_HEADER || length > bytes - 8)
        die(where,
            "the header claims %llu bytes; the file has %llu after its first 8 and 100 MiB "
            "is the limit",
            (unsigned long long)length, (unsigned long long)(bytes - 8));
    const cJSON *header = parse_json(where, (const char *)data + 8, length);
    if (!cJSON_IsObject(header)) die(where, "the header is not a JSON object");
    const uint8_t *base = data + 8 + length;
    uint64_t room = bytes - 8 - length;
    size_t first = ck->count;
    for (const cJSON *entry = header->child; entry; entry = entry->next) {
        if (strcmp(entry->string, "__metadata__") == 0) {
            if (!cJSON_IsObject(entry)) die(where, "__metadata__ is not an object");
            continue;
        }
        Tensor t = {.name = entry->string, .file = where};
        if (!cJSON_IsObject(entry)) die(where, "tensor %s is not described by an object", t.name);
        uint64_t expected = read_shape(where, entry, &t);
        const cJSON *offsets = json_get(entry, "data_offsets");
        if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2)
            die(where, "tensor %s: data_offsets is not a pair", t.name);
        const char *key = arena_format("an offset of tensor %s", t.name);
        int64_t limit = (int64_t)1 << 53;
        uint64_t begin = (uint64_t)json_whole(where, key, offsets->child, 0, limit);
        uint64_t end = (uint64_t)json_whole(where, key, offsets->child->next, 0, limit);
        if (begin > end || end - begin != expected)
            die(where,
                "tensor %s spans bytes %llu to %llu, but its dtype and shape need %llu bytes",
                t.name, (unsigned long long)begin, (unsigned long long)end,
                (unsigned long long)expected);
        if (end > room)
            die(where, "tensor %s ends at byte %llu of %llu: the file is truncated", t.name,
                (unsigned long long)end, (unsigned long long)room);
        t.data = base + begin;
        t.bytes = expected;
        APPEND(ck->tensors, ck->count, ck->room, t);
    }
    if (ck->count == first) return;
    qsort(ck->tensors + first, ck->count - first, sizeof *ck->tensors, compare_places);
    const Tensor *before = NULL; // the last one that holds any bytes
    for (size_t i = first; i < ck->count; i++) {
        const Tensor *t = &ck->tensors[i];
        if (t->bytes == 0) continue;
        if (before && before->data + before->bytes > t->data)
            die(where, "tensors %s and %s overlap", before->name, t->name);
        before = t;
    }
}

// --- a directory ---------------------------------------------------------------------------------

static int compare_tensors(const void *a, const void *b)
{
    return strcmp(((const Tensor *)a)->name, ((const Tensor *)b)->name);
}

void sort_tensors(Checkpoint *ck)
{
    if (ck->count == 0) return;
    qsort(ck->tensors, ck->count, sizeof *ck->tensors, compare_tensors);
    for (size_t i = 1; i < ck->count; i++) {
        const Tensor *s = &ck->tensors[i - 1], *t = &ck->tensors[i];
        if (strcmp(s->name, t->name) == 0)
            die(s->file, "tensor %s is in %s as well", s->name, t->file);
    }
}

static void map_file(const char *path, Checkpoint *ck)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) die(path, "%s", strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0) die(path, "%s", strerror(errno));
    if (!S_ISREG(st.st_mode)) die(path, "not a regular file");
    if (st.st_size < 8) die(path, "%lld bytes is too short for safetensors", (long long)st.st_size);
    void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) die(path, "cannot map: %s", strerror(errno));
    close(fd);
    parse_header(path, data, (uint64_t)st.st_size, ck);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void map_files(Checkpoint *ck)
{
    DIR *d = opendir(ck->dir);
    if (!d) die(ck->dir, "cannot open the directory: %s", strerror(errno));
    const char **names = NULL;
    size_t count = 0, room = 0;
    for (const struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n > 12 && strcmp(e->d_name + n - 12, ".safetensors") == 0)
            APPEND(names, count, room, arena_copy(e->d_name, n));
    }
    closedir(d);
    if (count) qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) map_file(arena_format("%s/%s", ck->dir, names[i]), ck);
    free(names);
    sort_tensors(ck);
}

// The last component of the path, of the real one for "." and "..".
static const char *base_name(const char *dir)
{
    char *real = realpath(dir, NULL);
    if (!real) die(dir, "%s", strerror(errno));
    const char *slash = strrchr(real, '/');
    const char *name = arena_copy(slash + 1, strlen(slash + 1));
    free(real);
    return *name ? name : "model";
}

// NVIDIA's quantizer says what it did in a file of its own. Where config.json speaks of quantization
// too, that counts.
void check_quantization(const Checkpoint *ck)
{
    static const char only[] = "only \"exl3\" and unquantized weights are read";
    const cJSON *own = json_get(ck->config, "quantization_config");
    if (!own) own = json_get(json_get(ck->config, "text_config"), "quantization_config");
    if (own && !cJSON_IsNull(own)) {
        const cJSON *method = json_get(own, "quant_method");
        const char *name = cJSON_IsString(method) ? method->valuestring : NULL;
        if (name && strcmp(name, "exl3") == 0) return;
        die(arena_format("%s/config.json", ck->dir), "quantization_config.quant_method is %s; %s",
            name ? arena_format("\"%.40s\"", name) : "null", only);
    }
    const char *path = arena_format("%s/hf_quant_config.json", ck->dir);
    const cJSON *kind = json_get(json_get(read_json_if_present(path), "quantization"), "quant_algo");
    if (cJSON_IsString(kind) && !own)
        die(path, "quantization.quant_algo is \"%.40s\"; %s", kind->valuestring, only);
}

static Checkpoint *open_checkpoint(const char *dir)
{
    Checkpoint *ck = arena_alloc(sizeof *ck);
    size_t n = strlen(dir);
    while (n > 1 && dir[n - 1] == '/') n--;
    ck->dir = arena_copy(dir, n);
    ck->name = base_name(ck->dir);
    ck->config = read_json(arena_format("%s/config.json", ck->dir));
    ck->generation = read_json_if_present(arena_format("%s/generation_config.json", ck->dir));
    return ck;
}

Checkpoint *read_checkpoint(const char *dir)
{
    Checkpoint *ck = open_checkpoint(dir);
    map_files(ck);
    return ck;
}

Checkpoint *random_checkpoint(const char *dir, uint64_t seed, int format, int head_format)
{
    Checkpoint *ck = open_checkpoint(dir);
    ck->random_seed = seed ? seed : 1; // 0 would mean real weights
    ck->random_format = format;
    ck->random_head_format = head_format;
    return ck;
}

// --- tensors by name -----------------------------------------------------------------------------

static void check_present(const Checkpoint *ck)
{
    if (ck->count == 0) die(ck->dir, "holds no tensors: no *.safetensors file, or only empty ones");
}

const Tensor *find_tensor(const Checkpoint *ck, const char *name)
{
    if (ck->count == 0 || ck->random_seed) return NULL;
    Tensor key = {.name = name};
    return bsearch(&key, ck->tensors, ck->count, sizeof *ck->tensors, compare_tensors);
}

static const Tensor *find_part(const Checkpoint *ck, const char *name, const char *part)
{
    return find_tensor(ck, arena_format("%s.%s", name, part));
}

// A tensor without data, for random weights.
static const Tensor *make_tensor(const char *name, Dtype dtype, int64_t n0, int64_t n1, int64_t n2)
{
    Tensor *t = arena_alloc(sizeof *t);
    *t = (Tensor){.name = name, .file = "random weights", .dtype = dtype, .shape = {n0, n1, n2}};
    t->dtype_tag = dtype == DTYPE_I16 ? "I16" : dtype == DTYPE_BF16 ? "BF16" : "F16";
    t->rank = n2 ? 3 : n1 ? 2 : 1;
    t->bytes = 2;
    for (int i = 0; i < t->rank; i++) t->bytes *= (uint64_t)t->shape[i];
    return t;
}

static int is_float(const Tensor *t)
{
    return t->dtype == DTYPE_F16 || t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F32;
}

static const char *print_shape(const Tensor *t)
{
    Buffer b = {0};
    buffer_print(&b, "(");
    for (int i = 0; i < t->rank; i++)
        buffer_print(&b, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
    buffer_print(&b, ")");
    const char *s = arena_copy(b.data, b.bytes);
    buffer_free(&b);
    return s;
}

static void check_float(const Tensor *t)
{
    if (!is_float(t))
        die(t->file, "tensor %s has dtype %s, expected F16, BF16 or F32", t->name, t->dtype_tag);
}

const Tensor *find_values(const Checkpoint *ck, const char *name, int64_t rows, int64_t columns)
{
    if (ck->random_seed)
        return columns ? make_tensor(name, DTYPE_F16, rows, columns, 0)
                       : make_tensor(name, DTYPE_F16, rows, 0, 0);
    const Tensor *t = find_tensor(ck, name);
    check_present(ck);
    if (!t) die(ck->dir, "no tensor %s", name);
    check_float(t);
    int last = t->rank - 1, flat = t->rank == (columns ? 2 : 1);
    flat |= columns && t->rank == 3 && t->shape[1] == 1; // weights of a convolution
    if (!flat || t->shape[0] != rows || (columns && t->shape[last] != columns))
        die(t->file, "tensor %s has shape %s, expected %s", name, print_shape(t),
            print_shape(make_tensor(name, DTYPE_F16, rows, columns, 0)));
    return t;
}

// --- linear layers -------------------------------------------------------------------------------

// A copy of a tensor with rows first .. first+rows-1 of it.
static const Tensor *slice_rows(const Tensor *t, const char *name, int64_t first, int64_t rows)
{
    Tensor *slice = arena_alloc(sizeof *slice);
    *slice = *t;
    uint64_t row_bytes = t->bytes / (uint64_t)t->shape[0];
    slice->name = name;
    slice->shape[0] = rows;
    slice->data = t->data + (uint64_t)first * row_bytes;
    slice->bytes = (uint64_t)rows * row_bytes;
    return slice;
}

const Tensor *find_table(const Checkpoint *ck, const char *name, int64_t rows, int64_t columns)
{
    const char *weight = arena_format("%s.weight", name);
    if (!is_quantized(ck, name)) return find_values(ck, weight, rows, columns);
    LinearWeights *w = find_linear(ck, name, (int)columns, (int)rows, 0);
    if (w->bias) die(w->bias->file, "tensor %s: a bias is not supported here", w->bias->name);
    Tensor *t = arena_alloc(sizeof *t);
    *t = *make_tensor(weight, DTYPE_F16, rows, columns, 0);
    t->file = w->trellis->file;
    t->coded = w;
    return t;
}

LinearWeights *find_linear_rows(const Checkpoint *ck, const char *name, int in, int rows, int first,
                                int out)
{
    LinearWeights *w = find_linear(ck, name, in, rows, 0);
    if (!w->weight) die(ck->dir, "%s holds several layers, which is only read unquantized", name);
    w->name = arena_format("%s[%d..%d]", name, first, first + out - 1);
    w->out = out;
    w->weight = slice_rows(w->weight, w->name, first, out);
    if (w->bias) w->bias = slice_rows(w->bias, w->name, first, out);
    return w;
}

const LinearWeights **find_experts(const Checkpoint *ck, const char *name, int in, int out,
                                   int count, int made)
{
    const LinearWeights **experts = arena_alloc((size_t)count * sizeof *experts);
    const char *at = strstr(name, "{e}");
    if (!at) die(name, "has no {e}, the expert's number");
    for (int e = 0; e < count; e++) {
        const LinearWeights *w = find_linear(
            ck, arena_format("%.*s%d%s", (int)(at - name), name, e, at + 3), in, out, made);
        if (e && w->format != experts[0]->format)
            die(ck->dir, "%s and %s have different formats, which is not supported", w->name,
                experts[0]->name);
        if (e && !w->bias != !experts[0]->bias)
            die(ck->dir, "of %s and %s only one has a bias", w->name, experts[0]->name);
        experts[e] = w;
    }
    return experts;
}

// The part of a stacked tensor that belongs to one expert, from its row `first` on.
static const Tensor *slice_stack(const Tensor *t, const char *name, const Stack *stack, int expert,
                                 int out)
{
    Tensor *part = arena_alloc(sizeof *part);
    uint64_t each = t->bytes / (uint64_t)t->shape[0];
    int row = stack->transposed || t->rank == 2 ? 1 : (int)t->shape[2];
    *part = *t;
    part->name = name;
    part->data = t->data + (uint64_t)expert * each +
                 (uint64_t)stack->first * (uint64_t)row * (t->dtype == DTYPE_F32 ? 4 : 2);
    part->rank = t->rank - 1;
    part->shape[0] = out;
    part->shape[1] = t->shape[stack->transposed ? 1 : 2];
    part->stride[0] = (int64_t)stack->step * row;
    part->stride[1] = stack->transposed ? stack->rows : 1;
    return part;
}

static void check_stack(const Tensor *t, int64_t n0, int64_t n1, int64_t n2)
{
    check_float(t);
    if (t->rank != (n2 ? 3 : 2) || t->shape[0] != n0 || t->shape[1] != n1 ||
        (n2 && t->shape[2] != n2))
        die(t->file, "tensor %s has shape %s, expected %s", t->name, print_shape(t),
            print_shape(make_tensor(t->name, DTYPE_F16, n0, n1, n2)));
}

const LinearWeights **find_stacked(const Checkpoint *ck, const Stack *stack, int in, int out,
                                   int count)
{
    const LinearWeights **experts = arena_alloc((size_t)count * sizeof *experts);
    const Tensor *weight = find_tensor(ck, stack->weight), *bias = find_tensor(ck, stack->bias);
    check_stack(weight, count, stack->transposed ? in : stack->rows,
                stack->transposed ? stack->rows : in);
    if (bias) check_stack(bias, count, stack->rows, 0);
    for (int e = 0; e < count; e++) {
        LinearWeights *w = arena_alloc(sizeof *w);
        *w = (LinearWeights){.in = in, .out = out};
        w->name = arena_format("%s[%d]", stack->weight, e);
        w->format = weight->dtype == DTYPE_BF16 ? b16 : f16;
        w->weight = slice_stack(weight, w->name, stack, e, out);
        if (bias) w->bias = slice_stack(bias, stack->bias, stack, e, out);
        experts[e] = w;
    }
    return experts;
}

int has_linear(const Checkpoint *ck, const char *name)
{
    return find_part(ck, name, "trellis") || find_part(ck, name, "weight");
}

int is_quantized(const Checkpoint *ck, const char *name)
{
    return find_part(ck, name, "trellis") != NULL;
}

// The scales of one side: fp16 `full` if present, else the packed signs of the first releases.
static void find_scales(const Checkpoint *ck, const char *name, const char *full,
                        const char *packed, int width, const Tensor **scales, const Tensor **signs)
{
    const Tensor *t = find_part(ck, name, full);
    if (t) {
        if (t->dtype != DTYPE_F16 || t->rank != 1 || t->shape[0] != width)
            die(t->file, "tensor %s is %s %s, expected F16 (%d)", t->name, t->dtype_tag,
                print_shape(t), width);
        *scales = t;
        return;
    }
    t = find_part(ck, name, packed);
    if (!t)
        die(ck->dir, "no tensor %s.%s or %s.%s beside %s.trellis", name, full, name, packed, name);
    if (t->dtype != DTYPE_I16 || t->rank != 1 || t->shape[0] != width / 16)
        die(t->file, "tensor %s is %s %s, expected I16 (%d)", t->name, t->dtype_tag, print_shape(t),
            width / 16);
    *signs = t;
}

// 1 when the marker is there; its value must be the one constant that is known.
static int find_marker(const Checkpoint *ck, const char *name, const char *marker,
                       uint32_t expected)
{
    const Tensor *t = find_part(ck, name, marker);
    if (!t) return 0;
    if (t->dtype != DTYPE_I32 || t->bytes != 4)
        die(t->file, "tensor %s is %s %s, expected one I32", t->name, t->dtype_tag, print_shape(t));
    uint32_t value = (uint32_t)t->data[0] | (uint32_t)t->data[1] << 8 | (uint32_t)t->data[2] << 16 |
                     (uint32_t)t->data[3] << 24;
    if (value != expected)
        die(t->file, "tensor %s holds the multiplier 0x%08X, only 0x%08X is known", t->name, value,
            expected);
    return 1;
}

static void find_trellis(const Checkpoint *ck, LinearWeights *w)
{
    const Tensor *t = w->trellis;
    if (t->dtype != DTYPE_I16 || t->rank != 3)
        die(t->file, "tensor %s is %s %s, expected I16 (in / 16, out / 16, 16 * bits)", t->name,
            t->dtype_tag, print_shape(t));
    int in = PADDED(w->in), out = PADDED(w->out);
    if (t->shape[0] != in / 16 || t->shape[1] != out / 16)
        die(t->file,
            "tensor %s has shape %s, expected (%d, %d, 16 * bits) for %d inputs and %d "
            "outputs",
            t->name, print_shape(t), in / 16, out / 16, w->in, w->out);
    if (t->shape[2] % 16 || t->shape[2] < 16 || t->shape[2] > 128)
        die(t->file, "tensor %s has shape %s: its last dimension must be 16 * bits, bits 1 to 8",
            t->name, print_shape(t));
    find_scales(ck, w->name, "suh", "su", in, &w->suh, &w->su);
    find_scales(ck, w->name, "svh", "sv", out, &w->svh, &w->sv);
    int mcg = find_marker(ck, w->name, "mcg", MARKER_MCG);
    int mul1 = find_marker(ck, w->name, "mul1", MARKER_MUL1);
    if (mcg && mul1) die(t->file, "%s has both an mcg and a mul1 tensor", w->name);
    int codebook = mcg ? CODEBOOK_MCG : mul1 ? CODEBOOK_MUL1 : CODEBOOK_3INST;
    w->format = codebook << 8 | (int)(t->shape[2] / 16);
}

static void find_weight(LinearWeights *w)
{
    const Tensor *t = w->weight;
    check_float(t);
    if (t->rank != 2 || (t->shape[0] != w->out && t->shape[0] != PADDED(w->out)) ||
        (t->shape[1] != w->in && t->shape[1] != PADDED(w->in)))
        die(t->file, "tensor %s has shape %s, expected (%d, %d)", t->name, print_shape(t), w->out,
            w->in);
    w->format = t->dtype == DTYPE_BF16 ? b16 : f16;
}

static void find_bias(const Checkpoint *ck, LinearWeights *w)
{
    const Tensor *t = w->bias = find_part(ck, w->name, "bias");
    if (!t) return;
    check_float(t);
    if (t->rank != 1 || (t->shape[0] != w->out && t->shape[0] != PADDED(w->out)))
        die(t->file, "tensor %s has shape %s, expected (%d)", t->name, print_shape(t), w->out);
}

static void make_linear(LinearWeights *w, int format, int biased)
{
    int in = PADDED(w->in), out = PADDED(w->out);
    w->format = format;
    if (FORMAT_IS_EXL3(format)) {
        w->trellis = make_tensor(arena_format("%s.trellis", w->name), DTYPE_I16, in / 16, out / 16,
                                 16 * FORMAT_BITS(format));
        w->suh = make_tensor(arena_format("%s.suh", w->name), DTYPE_F16, in, 0, 0);
        w->svh = make_tensor(arena_format("%s.svh", w->name), DTYPE_F16, out, 0, 0);
    } else {
        w->weight = make_tensor(arena_format("%s.weight", w->name),
                                format == b16 ? DTYPE_BF16 : DTYPE_F16, w->out, w->in, 0);
    }
    if (biased) w->bias = make_tensor(arena_format("%s.bias", w->name), DTYPE_F16, w->out, 0, 0);
}

LinearWeights *find_linear(const Checkpoint *ck, const char *name, int in, int out, int made)
{
    LinearWeights *w = arena_alloc(sizeof *w);
    *w = (LinearWeights){.name = name, .in = in, .out = out};
    if (ck->random_seed) {
        make_linear(w, made & MADE_HEAD ? ck->random_head_format : ck->random_format,
                    made & MADE_BIASED);
        return w;
    }
    check_present(ck);
    w->trellis = find_part(ck, name, "trellis");
    if (!w->trellis) w->weight = find_part(ck, name, "weight");
    if (w->trellis)
        find_trellis(ck, w);
    else if (w->weight)
        find_weight(w);
    else if (find_part(ck, name, "slice.0.trellis") || find_part(ck, name, "slice.0.weight"))
        die(ck->dir, "%s is stored in slices, which are not supported", name);
    else
        die(ck->dir, "no tensor %s.trellis or %s.weight", name, name);
    find_bias(ck, w);
    return w;
}
