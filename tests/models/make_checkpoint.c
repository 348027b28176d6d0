// Makes small test checkpoints from a name: make_checkpoint CASE DIR writes config.json and
// safetensors of a case of cases.txt into DIR (made if missing); make_checkpoint list [TAG] prints
// the cases' names. cases.txt lies in the current directory or where -c FILE says.
//
// All numbers come from integers. Element i of the tensor T of case C takes the 64-bit word
//     r(i) = splitmix64(key + (i + 1) * GAMMA),   key = 64-bit FNV-1a of the text "C/T"
// and becomes one of
//     BITS    the low 16 bits of r: trellis, packed signs (any bit pattern is valid)
//     ONES    0.75 <= v < 1.5, uniform in its encoding: norm weights
//     SIGNED  +-ONES, sign from bit 63: an svh
//     SCALE   +-2^e (1 + m): a suh; sign from bit 63, mantissa m from the low bits
//     SPREAD  +-2^(e - k) (1 + m), k = bits 32..33: embeddings, plain weights, biases
// in F16, BF16 or F32. e keeps activations near rms 1. i counts over the padded shape; elements of
// padding that must be 0 are 0.

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GAMMA 0x9E3779B97F4A7C15u
#define MCG 0xCBAC1FEDu
#define MUL1 0x83DCD12Du

enum { MAX_LINES = 256, MAX_TENSORS = 4096, LINE = 2048 };

typedef struct {
    char pattern[64], name[32], value[32];
} Setting;

// "model.layers.{l}.mlp.up_proj", "linear", "hidden", "middle"
typedef struct {
    char name[96], kind[16], a[16], b[16], c[16];
} Line;

typedef struct {
    char name[64], tags[64];
    char *members[MAX_LINES]; // "key": value
    int member_count;
    Setting settings[MAX_LINES];
    int setting_count;
    Line lines[MAX_LINES];
    int line_count;
} Case;

typedef enum { BITS, ONES, SIGNED, SCALE, SPREAD, WORD } Kind;

typedef struct {
    char name[96];
    const char *dtype;
    int rank;
    long shape[3];
    long valid[2]; // of the last two dimensions; beyond it zeros
    Kind kind;
    int exponent;  // SCALE, SPREAD
    bool twins;    // of each two rows the second is the first
    uint32_t word; // WORD
} Tensor;

static Tensor tensors[MAX_TENSORS];
static int tensor_count;

static _Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("make_checkpoint: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void print_to(char *to, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(to, size, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= size) die("'%.60s...' is too long", to);
}

// ---- cases.txt ---------------------------------------------------------------------------------

// Length of the quoted key that a member starts with, quotes included.
static size_t key_length(const char *member)
{
    const char *end = member[0] == '"' ? strchr(member + 1, '"') : NULL;
    if (!end) die("no key in '%s'", member);
    return (size_t)(end - member) + 1;
}

static int member_index(const Case *c, const char *key)
{
    size_t length = key_length(key);
    for (int i = 0; i < c->member_count; i++)
        if (key_length(c->members[i]) == length && !strncmp(c->members[i], key, length)) return i;
    return -1;
}

static void parse_line(Case *cases, int *count, char *line)
{
    char *word = strtok(line, " ");
    char *rest = strtok(NULL, "");
    if (!word || word[0] == '#') return;
    if (!rest) die("cases.txt: '%s' without arguments", word);
    if (!strcmp(word, "case")) {
        if (*count == MAX_LINES) die("cases.txt: too many cases");
        Case *c = &cases[(*count)++];
        char *name = strtok(rest, " "), *tags = strtok(NULL, "");
        print_to(c->name, sizeof c->name, "%s", name);
        print_to(c->tags, sizeof c->tags, " %s ", tags ? tags : "");
        return;
    }
    if (!*count) die("cases.txt: '%s' before the first case", word);
    Case *c = &cases[*count - 1];
    if (!strcmp(word, "like")) {
        int i = 0;
        while (i < *count - 1 && strcmp(cases[i].name, rest)) i++;
        if (i == *count - 1) die("cases.txt: no case %s before %s", rest, c->name);
        memcpy(c->members, cases[i].members, sizeof c->members);
        memcpy(c->settings, cases[i].settings, sizeof c->settings);
        c->member_count = cases[i].member_count;
        c->setting_count = cases[i].setting_count;
        memcpy(c->lines, cases[i].lines, sizeof c->lines);
        c->line_count = cases[i].line_count;
    } else if (!strcmp(word, "config")) {
        int i = member_index(c, rest);
        if (i < 0) i = c->member_count++;
        if (i == MAX_LINES) die("cases.txt: %s: too many members", c->name);
        c->members[i] = strdup(rest);
    } else if (!strcmp(word, "without")) {
        int i = member_index(c, rest);
        if (i < 0) die("cases.txt: %s: no member %s", c->name, rest);
        for (c->member_count--; i < c->member_count; i++) c->members[i] = c->members[i + 1];
    } else if (!strcmp(word, "tensor")) {
        if (c->line_count == MAX_LINES) die("cases.txt: %s: too many tensors", c->name);
        Line *l = &c->lines[c->line_count++];
        memset(l, 0, sizeof *l);
        if (sscanf(rest, "%95s %15s %15s %15s %15s", l->name, l->kind, l->a, l->b, l->c) < 3)
            die("cases.txt: %s: bad tensor '%s'", c->name, rest);
    } else if (!strcmp(word, "drop")) {
        int kept = 0;
        for (int i = 0; i < c->line_count; i++)
            if (!strstr(c->lines[i].name, rest)) c->lines[kept++] = c->lines[i];
        if (kept == c->line_count) die("cases.txt: %s: nothing to drop: %s", c->name, rest);
        c->line_count = kept;
    } else if (!strcmp(word, "for")) {
        char *pattern = strtok(rest, " "), *pair;
        while ((pair = strtok(NULL, " "))) {
            char *equals = strchr(pair, '=');
            if (!equals || c->setting_count == MAX_LINES) die("cases.txt: bad setting '%s'", pair);
            *equals = 0;
            Setting *s = &c->settings[c->setting_count++];
            print_to(s->pattern, sizeof s->pattern, "%s", pattern);
            print_to(s->name, sizeof s->name, "%s", pair);
            print_to(s->value, sizeof s->value, "%s", equals + 1);
        }
    } else {
        die("cases.txt: unknown word '%s'", word);
    }
}

static int read_cases(const char *path, Case *cases)
{
    FILE *f = fopen(path, "r");
    if (!f) die("%s: %s", path, strerror(errno));
    char line[LINE];
    int count = 0;
    while (fgets(line, sizeof line, f)) {
        size_t end = strcspn(line, "\n");
        if (!line[end] && !feof(f)) die("%s: a line of more than %d bytes", path, LINE - 2);
        line[end] = 0;
        parse_line(cases, &count, line);
    }
    fclose(f);
    return count;
}

// The number or flag under a key of the config, or the default where it is missing or null.
static long number(const Case *c, const char *key, long missing)
{
    int i = member_index(c, key);
    if (i < 0) return missing;
    const char *value = c->members[i] + key_length(key) + 1;
    while (*value == ' ') value++;
    return isdigit((unsigned char)*value) ? strtol(value, NULL, 10) : missing;
}

static const char *setting(const Case *c, const char *tensor, const char *name)
{
    for (int i = c->setting_count - 1; i >= 0; i--) {
        const Setting *s = &c->settings[i];
        if (strcmp(s->name, name)) continue;
        if (!strcmp(s->pattern, "*") || strstr(tensor, s->pattern)) return s->value;
    }
    die("%s: %s: no setting %s", c->name, tensor, name);
}

static bool is(const Case *c, const char *tensor, const char *name, const char *value)
{
    return !strcmp(setting(c, tensor, name), value);
}

// ---- the list of tensors -----------------------------------------------------------------------

static long padded(long n)
{
    return (n + 127) / 128 * 128;
}

// rows = 0 makes a vector, depth = 0 a matrix.
static Tensor *add(const char *key, const char *suffix, const char *dtype, Kind kind, long rows,
                   long columns, long depth)
{
    if (tensor_count == MAX_TENSORS) die("too many tensors");
    Tensor *t = &tensors[tensor_count++];
    memset(t, 0, sizeof *t);
    print_to(t->name, sizeof t->name, "%s.%s", key, suffix);
    t->dtype = dtype;
    t->kind = kind;
    long shape[3] = {rows, columns, depth};
    for (int i = 0; i < 3; i++)
        if (shape[i]) t->shape[t->rank++] = shape[i];
    t->valid[0] = rows;
    t->valid[1] = depth ? depth : columns;
    return t;
}

static int scale_exponent(long inputs)
{
    return inputs < 192 ? -4 : inputs < 768 ? -5 : -6;
}

static void add_scales(const Case *c, const char *key, long inputs, long outputs)
{
    const char *form = setting(c, key, "scales");
    bool full_in = !strcmp(form, "full") || !strcmp(form, "out");
    bool full_out = !strcmp(form, "full") || !strcmp(form, "in");
    long rows = padded(inputs), columns = padded(outputs);
    if (full_in)
        add(key, "suh", "F16", SCALE, 0, rows, 0)->exponent = scale_exponent(inputs);
    else
        add(key, "su", "I16", BITS, 0, rows / 16, 0);
    if (!full_out) {
        add(key, "sv", "I16", BITS, 0, columns / 16, 0);
        return;
    }
    Tensor *svh = add(key, "svh", "F16", full_in ? SIGNED : SCALE, 0, columns, 0);
    svh->exponent = scale_exponent(inputs);
    if (is(c, key, "padding", "zero")) svh->valid[1] = outputs;
}

static void add_linear(const Case *c, const char *key, long inputs, long outputs)
{
    const char *form = setting(c, key, "form"), *bias = setting(c, key, "bias");
    bool exl3 = !strcmp(form, "exl3"), pads = exl3 || !strcmp(form, "padded");
    long rows = pads ? padded(inputs) : inputs, columns = pads ? padded(outputs) : outputs;
    if (!strcmp(form, "absent")) return;
    if (exl3) {
        long bits = atol(setting(c, key, "bits"));
        add(key, "trellis", "I16", BITS, rows / 16, columns / 16, 16 * bits);
        add_scales(c, key, inputs, outputs);
        const char *book = setting(c, key, "codebook");
        if (!strcmp(book, "mcg")) add(key, "mcg", "I32", WORD, 0, 0, 0)->word = MCG;
        if (!strcmp(book, "mul1")) add(key, "mul1", "I32", WORD, 0, 0, 0)->word = MUL1;
    } else {
        const char *dtype = pads ? "F16" : setting(c, key, "dtype");
        Tensor *t = add(key, "weight", dtype, SPREAD, columns, rows, 0);
        t->exponent = scale_exponent(inputs) + 1;
        t->valid[0] = outputs;
        t->valid[1] = inputs;
    }
    if (strcmp(bias, "none")) {
        bool narrow = !strcmp(bias, "short");
        const char *dtype = narrow ? "F16" : bias;
        Tensor *t = add(key, "bias", dtype, SPREAD, 0, narrow ? outputs : columns, 0);
        t->exponent = -1;
        t->valid[1] = outputs;
    }
}

static void add_norm(const Case *c, const char *key, long width)
{
    add(key, "weight", setting(c, key, "dtype"), ONES, 0, width, 0);
}

// What a width stands for.
static long width_of(const Case *c, const char *word)
{
    long hidden = number(c, "\"hidden_size\"", 0), heads = number(c, "\"num_attention_heads\"", 1);
    long kv_heads = number(c, "\"num_key_value_heads\"", heads);
    long head = number(c, "\"head_dim\"", hidden / heads);
    const struct {
        const char *word;
        long width;
    } widths[] = {{"hidden", hidden},
                  {"heads", heads},
                  {"head", head},
                  {"q", heads * head},
                  {"kv", kv_heads * head},
                  {"middle", number(c, "\"intermediate_size\"", 0)},
                  {"vocab", number(c, "\"vocab_size\"", 0)}};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (!strcmp(widths[i].word, word)) return widths[i].width;
    return atol(word);
}

static void add_line(const Case *c, const Line *l, const char *key)
{
    long a = width_of(c, l->a), b = width_of(c, l->b), last = width_of(c, l->c);
    if (!strcmp(l->kind, "linear")) {
        add_linear(c, key, a, b);
    } else if (!strcmp(l->kind, "norm")) {
        add_norm(c, key, a);
    } else if (!strcmp(l->kind, "norms")) {
        add(key, "weight", setting(c, key, "dtype"), ONES, a, b, 0);
    } else if (!strcmp(l->kind, "offset")) {
        add(key, "weight", setting(c, key, "dtype"), SPREAD, 0, a, 0)->exponent = -3;
    } else if (!strcmp(l->kind, "plain") || !strcmp(l->kind, "twins")) {
        Tensor *t = add(key, "weight", setting(c, key, "dtype"), SPREAD, b, a, 0);
        t->exponent = scale_exponent(a) + 1;
        t->twins = !strcmp(l->kind, "twins");
    } else if (!strcmp(l->kind, "conv")) {
        Tensor *t = add(key, "weight", setting(c, key, "dtype"), SPREAD, a, 1, b);
        t->exponent = -1;
        t->valid[1] = b;
    } else if (!strcmp(l->kind, "table")) {
        add(key, "weight", setting(c, key, "dtype"), SPREAD, a, b, 0)->exponent = -1;
    } else if (!strcmp(l->kind, "values") || !strcmp(l->kind, "stack")) {
        const char *dot = strrchr(key, '.');
        char under[96];
        print_to(under, sizeof under, "%.*s", (int)(dot - key), key);
        Tensor *t = *l->b ? add(under, dot + 1, setting(c, key, "dtype"), SPREAD, a, b, last)
                          : add(under, dot + 1, setting(c, key, "dtype"), SPREAD, 0, a, 0);
        t->exponent = last ? scale_exponent(last) + 1 : -1;
    } else {
        die("%s: %s: no kind %s", c->name, key, l->kind);
    }
}

// Replaces the first {l} or {a..b} of a name by each of its numbers, and goes on.
static void expand_line(const Case *c, const Line *l, const char *name)
{
    const char *open = strchr(name, '{'), *close = open ? strchr(open, '}') : NULL;
    if (!close) {
        add_line(c, l, name);
        return;
    }
    int first = 0, last = (int)number(c, "\"num_hidden_layers\"", 0) - 1;
    if (strncmp(open, "{l}", 3) && sscanf(open, "{%d..%d}", &first, &last) != 2)
        die("%s: '%s' has no range", c->name, name);
    for (int i = first; i <= last; i++) {
        char key[96];
        print_to(key, sizeof key, "%.*s%d%s", (int)(open - name), name, i, close + 1);
        expand_line(c, l, key);
    }
}

static void add_model(const Case *c)
{
    for (int i = 0; i < c->line_count; i++) expand_line(c, &c->lines[i], c->lines[i].name);
}

// ---- contents ----------------------------------------------------------------------------------

static uint64_t hash_text(uint64_t hash, const char *s)
{
    for (; *s; s++) hash = (hash ^ (unsigned char)*s) * 0x100000001B3u;
    return hash;
}

static uint64_t random_word(uint64_t key, uint64_t i)
{
    uint64_t z = key + (i + 1) * GAMMA;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// The encoding of a number of the given kind in a float format of so many mantissa bits.
static uint32_t float_bits(const Tensor *t, uint64_t r, int mantissa, int bias, int size)
{
    uint32_t sign = (uint32_t)(r >> 63) << (8 * size - 1);
    uint32_t fraction = (uint32_t)r & ((1u << mantissa) - 1);
    int exponent = t->exponent - (t->kind == SPREAD ? (int)((r >> 32) & 3) : 0);
    if (t->kind == SCALE || t->kind == SPREAD)
        return sign | ((uint32_t)(exponent + bias) << mantissa) | fraction;
    uint32_t one = (uint32_t)bias << mantissa; // 0.75 lies half a binade, in encodings, below 1
    return (t->kind == SIGNED ? sign : 0) | (one - (1u << (mantissa - 1)) + fraction);
}

static int element_bytes(const char *dtype)
{
    return !strcmp(dtype, "F32") || !strcmp(dtype, "I32") ? 4 : 2;
}

static long element_count(const Tensor *t)
{
    long n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

static void write_tensor(FILE *f, const Case *c, const Tensor *t)
{
    uint64_t key = hash_text(hash_text(hash_text(0xCBF29CE484222325u, c->name), "/"), t->name);
    long columns = t->rank ? t->shape[t->rank - 1] : 1;
    int size = element_bytes(t->dtype);
    for (long i = 0; i < element_count(t); i++) {
        uint64_t r = random_word(key, (uint64_t)(i - (t->twins ? i / columns % 2 * columns : 0)));
        uint32_t value;
        if (t->kind == WORD)
            value = t->word;
        else if (t->kind == BITS)
            value = r & 0xFFFF;
        else if (i % columns >= t->valid[1] || (t->rank == 2 && i / columns >= t->valid[0]))
            value = 0;
        else if (!strcmp(t->dtype, "F16"))
            value = float_bits(t, r, 10, 15, 2);
        else if (!strcmp(t->dtype, "BF16"))
            value = float_bits(t, r, 7, 127, 2);
        else
            value = float_bits(t, r, 23, 127, 4);
        for (int b = 0; b < size; b++) putc((int)(value >> 8 * b & 255), f);
    }
}

// ---- files -------------------------------------------------------------------------------------

static FILE *create(const char *directory, const char *name)
{
    char path[4096];
    print_to(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    if (!f) die("%s: %s", path, strerror(errno));
    return f;
}

static void finish(FILE *f, const char *name)
{
    if (ferror(f) | fclose(f)) die("%s: cannot write", name);
}

static void write_config(const Case *c, const char *directory)
{
    FILE *f = create(directory, "config.json");
    for (int i = 0; i < c->member_count; i++)
        fprintf(f, "%s\n    %s", i ? "," : "{", c->members[i]);
    fputs("\n}\n", f);
    finish(f, "config.json");
}

// The tensors number shard, shard + shards, ... in one file.
static void write_shard(const Case *c, const char *directory, const char *name, int shard,
                        int shards)
{
    char *header;
    size_t length;
    FILE *h = open_memstream(&header, &length);
    if (!h) die("out of memory");
    long offset = 0;
    for (int i = shard; i < tensor_count; i += shards) {
        Tensor *t = &tensors[i];
        long bytes = element_count(t) * element_bytes(t->dtype);
        fprintf(h, "%s\"%s\":", i == shard ? "{" : ",", t->name);
        fprintf(h, "{\"dtype\":\"%s\",\"shape\":[", t->dtype);
        for (int d = 0; d < t->rank; d++) fprintf(h, "%s%ld", d ? "," : "", t->shape[d]);
        fprintf(h, "],\"data_offsets\":[%ld,%ld]}", offset, offset + bytes);
        offset += bytes;
    }
    putc('}', h);
    fflush(h);
    bool odd = is(c, "", "header", "odd");
    while (odd ? length % 2 == 0 : length % 8 != 0) {
        putc(' ', h);
        fflush(h);
    }
    fclose(h);
    FILE *f = create(directory, name);
    for (int b = 0; b < 8; b++) putc((int)((uint64_t)length >> 8 * b & 255), f);
    fwrite(header, 1, length, f);
    for (int i = shard; i < tensor_count; i += shards) write_tensor(f, c, &tensors[i]);
    finish(f, name);
    free(header);
}

static void write_checkpoint(const Case *c, const char *directory)
{
    if (mkdir(directory, 0777) && errno != EEXIST) die("%s: %s", directory, strerror(errno));
    add_model(c);
    write_config(c, directory);
    int shards = atoi(setting(c, "", "shards"));
    if (shards == 1) {
        write_shard(c, directory, "model.safetensors", 0, 1);
        return;
    }
    char names[9][64];
    long total = 0;
    for (int s = 0; s < shards && s < 9; s++) {
        print_to(names[s], sizeof names[s], "model-%05d-of-%05d.safetensors", s + 1, shards);
        write_shard(c, directory, names[s], s, shards);
    }
    for (int i = 0; i < tensor_count; i++)
        total += element_count(&tensors[i]) * element_bytes(tensors[i].dtype);
    const char *name = "model.safetensors.index.json";
    FILE *f = create(directory, name);
    fprintf(f, "{\"metadata\":{\"total_size\":%ld},\"weight_map\":", total);
    for (int i = 0; i < tensor_count; i++)
        fprintf(f, "%s\"%s\":\"%s\"", i ? "," : "{", tensors[i].name, names[i % shards]);
    fputs("}}\n", f);
    finish(f, name);
}

static const char usage[] = "usage: make_checkpoint [-c cases.txt] CASE DIR | list [TAG]\n";

int main(int argc, char **argv)
{
    static Case cases[MAX_LINES];
    const char *path = "cases.txt";
    if (argc > 2 && !strcmp(argv[1], "-c")) {
        path = argv[2];
        argc -= 2;
        argv += 2;
    }
    if (argc < 2 || argc > 3 || (strcmp(argv[1], "list") && argc != 3)) {
        fputs(usage, stderr);
        return 2;
    }
    int count = read_cases(path, cases);
    if (!strcmp(argv[1], "list")) {
        char tag[64];
        print_to(tag, sizeof tag, " %s ", argc == 3 ? argv[2] : "");
        for (int i = 0; i < count; i++)
            if (strncmp(cases[i].name, "base", 4) && (argc == 2 || strstr(cases[i].tags, tag)))
                puts(cases[i].name);
        return 0;
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(cases[i].name, argv[1])) continue;
        write_checkpoint(&cases[i], argv[2]);
        return 0;
    }
    die("no case %s in %s", argv[1], path);
}
