// The safetensors reader and the rules by which tensors make up a linear layer: hostile headers,
// missing and misshapen tensors, every form of EXL3 that files have, and what they stand for.
#include "../files.h"
#include "../../compiler/half.h"
#include <math.h>
#include <stdlib.h>

// --- headers -------------------------------------------------------------------------------------

static void parse_buffer(void *argument)
{
    Buffer *b = argument;
    Checkpoint ck = {0};
    parse_header("test.safetensors", (uint8_t *)b->data, b->bytes, &ck);
    sort_tensors(&ck);
}

static void header_dies(const char *header, const char *words)
{
    Buffer b = raw_file(header, strlen(header), strlen(header), 64);
    check_dies(header, parse_buffer, &b, words);
    buffer_free(&b);
}

#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void check_headers(void)
{
    static const char good[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"b\":" ENTRY("F16", "[2,3]",
                       "[8,20]") ","
                                 "\"a\":" ENTRY(
                                     "F32", "[2]",
                                     "[0,8]") ","
                                              "\"empty\":" ENTRY(
                                                  "F32", "[0,5]",
                                                  "[4,4]") ","
                                                           "\"scalar\":" ENTRY(
                                                               "I32", "[]",
                                                               "[21,25]") ","
                                                                          "\"odd\":" ENTRY(
                                                                              "F8_E4M3", "[1]",
                                                                              "[20,21]") "}";
    Buffer b = raw_file(good, strlen(good), strlen(good), 64);
    Checkpoint ck = {0};
    parse_header("good.safetensors", (uint8_t *)b.data, b.bytes, &ck);
    sort_tensors(&ck);
    CHECK(ck.count == 5);
    const Tensor *t = find_tensor(&ck, "b");
    CHECK(t && t->dtype == DTYPE_F16 && t->rank == 2 && t->shape[0] == 2 && t->shape[1] == 3);
    CHECK(t && t->bytes == 12 && t->data == (uint8_t *)b.data + 8 + strlen(good) + 8);
    t = find_tensor(&ck, "odd");
    CHECK(t && t->dtype == DTYPE_OTHER && strcmp(t->dtype_tag, "F8_E4M3") == 0);
    t = find_tensor(&ck, "scalar");
    CHECK(t && t->rank == 0 && t->bytes == 4);
    CHECK(!find_tensor(&ck, "c") && !find_tensor(&ck, "__metadata__"));

    header_dies("", "unexpected end");
    header_dies("[]", "not a JSON object");
    header_dies("{\"a\":1}", "tensor a is not described by an object");
    header_dies("{\"a\":{}}", "tensor a has no dtype");
    header_dies("{\"__metadata__\":[]}", "__metadata__");
    header_dies("{\"a\":" ENTRY("F17", "[1]", "[0,2]") "}", "unknown dtype \"F17\"");
    header_dies("{\"a\":{\"dtype\":\"F16\",\"data_offsets\":[0,2]}}", "no shape");
    header_dies("{\"a\":{\"dtype\":\"F16\",\"shape\":[1]}}", "data_offsets");
    header_dies("{\"a\":" ENTRY("F16", "[-1]", "[0,2]") "}", "a dimension of tensor a is -1");
    header_dies("{\"a\":" ENTRY("F16", "[1.5]", "[0,3]") "}", "1.5");
    header_dies("{\"a\":" ENTRY("F16", "[\"1\"]", "[0,2]") "}", "whole number");
    header_dies("{\"a\":" ENTRY("F16", "[1e300]", "[0,2]") "}", "whole number");
    header_dies("{\"a\":" ENTRY("F16", "[1,1,1,1,1,1,1,1,1]", "[0,2]") "}", "8 dimensions");
    header_dies("{\"a\":" ENTRY("F16", "[4294967296,4294967296]", "[0,2]") "}", "too many values");
    header_dies("{\"a\":" ENTRY("F64", "[4503599627370496,4096]", "[0,0]") "}", "tensor a");
    header_dies("{\"a\":" ENTRY("F4", "[3]", "[0,2]") "}", "whole number of bytes");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[0,2]") "}", "need 4 bytes");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[4,0]") "}", "spans");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[0]") "}", "pair");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[-4,0]") "}", "an offset of tensor a is -4");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[62,66]") "}", "truncated");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[9007199254740990,9007199254740994]") "}", "2^53");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[0,4]") ",\"b\":" ENTRY("F16", "[2]", "[2,6]") "}",
                "tensors a and b overlap");
    header_dies("{\"a\":" ENTRY("F16", "[2]", "[0,4]") ",\"a\":" ENTRY("F16", "[2]", "[4,8]") "}",
                "key \"a\" twice");
    header_dies("{\"a\":" ENTRY("F16", "[1]", "[0,2]") "} x", "text after");
    header_dies("{\"\xff\":" ENTRY("F16", "[1]", "[0,2]") "}", "UTF-8");
    header_dies("{\"a\\u0000b\":" ENTRY("F16", "[1]", "[0,2]") "}", "\\u0000");
    // Lines and colours in a name must not reach the terminal.
    header_dies("{\"a\\n\\u001b[2J\":1}", "a??[2J");

    Buffer deep = {0};
    buffer_print(&deep, "{\"a\":");
    for (int i = 0; i < 100000; i++) buffer_add(&deep, "[", 1);
    header_dies(deep.data, "nested");
    buffer_free(&deep);

    const uint64_t claims[] = {65, 1 << 20, 101u << 20, (uint64_t)1 << 63, ~(uint64_t)0};
    for (int i = 0; i < 5; i++) {
        Buffer huge = raw_file("{}", 2, claims[i], 62);
        check_dies("huge header", parse_buffer, &huge, "header claims");
        buffer_free(&huge);
    }
    Buffer tiny = {(char[]){1, 0, 0}, 3, 3};
    check_dies("three bytes", parse_buffer, &tiny, "too short");
    // A file cut anywhere is refused, and nothing beyond its end is read.
    for (size_t n = 0; n < b.bytes - 39; n += 13) {
        Buffer cut = {malloc(n + 1), n, n};
        memcpy(cut.data, b.data, n);
        check_dies("cut file", parse_buffer, &cut, "test.safetensors");
        free(cut.data);
    }
    buffer_free(&b);
}

// --- linear layers -------------------------------------------------------------------------------

typedef struct {
    const char *dir, *name;
    int in, out;
} Wanted;

static LinearWeights *find_wanted(const Wanted *w)
{
    return find_linear(read_checkpoint(w->dir), w->name, w->in, w->out, 0);
}

static void find_child(void *argument)
{
    find_wanted(argument);
}

static const char *write_one(Shard *s)
{
    const char *dir = make_directory();
    put_text(dir, "config.json", "{}");
    write_shard(s, dir, "model.safetensors");
    return dir;
}

// Layer "p" of 200 inputs and 300 outputs, without the tensors of `missing`.
static Shard layer(int bits, const char *missing)
{
    Shard s = {0};
    add_tensor(&s, "unaligned", "U8", "[1]", 1);
    if (!strstr(missing, "trellis"))
        add_tensor(&s, "p.trellis", "I16", arena_format("[16,24,%d]", 16 * bits),
                   (size_t)bits * 12288);
    if (!strstr(missing, "suh")) add_values(&s, "p.suh", "F16", 256, 0);
    if (!strstr(missing, "svh")) add_values(&s, "p.svh", "F16", 384, 0);
    return s;
}

static void layer_dies(Shard s, const char *words)
{
    Wanted w = {write_one(&s), "p", 200, 300};
    check_dies(words, find_child, &w, words);
    remove_directory(w.dir);
}

static LinearWeights *layer_found(Shard s)
{
    Wanted w = {write_one(&s), "p", 200, 300};
    LinearWeights *found = find_wanted(&w);
    remove_directory(w.dir);
    return found;
}

static void check_linears(void)
{
    for (int bits = 1; bits <= 8; bits++) {
        LinearWeights *w = layer_found(layer(bits, ""));
        CHECK(w->format == (CODEBOOK_3INST << 8 | bits) && w->suh && w->svh && !w->su && !w->bias);
    }
    Shard s = layer(3, "");
    add_marker(&s, "p.mcg", 0xCBAC1FEDu);
    add_tensor(&s, "p.scale", "F16", "[]", 2);
    add_values(&s, "p.bias", "F16", 384, 0);
    add_values(&s, "p.weight", "F16", 300, 200); // EXL3 goes before it
    LinearWeights *w = layer_found(s);
    CHECK(w->format == c3 && w->trellis && !w->weight && w->bias);

    s = layer(5, "suh");
    add_values(&s, "p.su", "I16", 16, 0);
    add_marker(&s, "p.mul1", 0x83DCD12Du);
    add_values(&s, "p.bias", "F32", 300, 0);
    w = layer_found(s);
    CHECK(w->format == m5 && w->su && !w->suh && w->svh && w->bias->dtype == DTYPE_F32);
    s = layer(5, "suh svh");
    add_values(&s, "p.su", "I16", 16, 0);
    add_values(&s, "p.sv", "I16", 24, 0);
    w = layer_found(s);
    CHECK(w->su && w->sv && !w->suh && !w->svh);

    static const char *const dtypes[] = {"F16", "BF16", "F32"};
    for (int i = 0; i < 3; i++) {
        for (int padded = 0; padded < 2; padded++) {
            Shard plain = {0};
            add_values(&plain, "p.weight", dtypes[i], padded ? 384 : 300, padded ? 256 : 200);
            w = layer_found(plain);
            CHECK(w->format == (i == 1 ? b16 : f16) && w->weight && !w->trellis);
        }
    }

    layer_dies(layer(3, "suh"), "no tensor p.suh or p.su");
    layer_dies(layer(3, "svh"), "no tensor p.svh or p.sv");
    layer_dies(layer(3, "trellis"), "no tensor p.trellis or p.weight");
    layer_dies(layer(9, ""), "bits 1 to 8");
    layer_dies(layer(0, ""), "bits 1 to 8");
    s = layer(3, "trellis");
    add_tensor(&s, "p.trellis", "I16", "[16,24,40]", 30720);
    layer_dies(s, "bits 1 to 8");
    s = layer(3, "trellis");
    add_tensor(&s, "p.trellis", "I16", "[16,16,48]", 24576);
    layer_dies(s, "(16, 24, 16 * bits)");
    s = layer(3, "trellis");
    add_tensor(&s, "p.trellis", "I16", "[24,24,48]", 55296);
    layer_dies(s, "(16, 24, 16 * bits)");
    s = layer(3, "trellis");
    add_tensor(&s, "p.trellis", "I32", "[16,24,48]", 73728);
    layer_dies(s, "expected I16");
    s = layer(3, "suh");
    add_values(&s, "p.suh", "F32", 256, 0);
    layer_dies(s, "expected F16 (256)");
    s = layer(3, "svh");
    add_values(&s, "p.svh", "F16", 300, 0);
    layer_dies(s, "expected F16 (384)");
    s = layer(3, "suh");
    add_values(&s, "p.su", "I16", 256, 0);
    layer_dies(s, "expected I16 (16)");
    s = layer(3, "");
    add_marker(&s, "p.mcg", 0xCBAC1FECu);
    layer_dies(s, "0xCBAC1FEC");
    s = layer(3, "");
    add_marker(&s, "p.mul1", 0xCBAC1FEDu);
    layer_dies(s, "0x83DCD12D");
    s = layer(3, "");
    add_tensor(&s, "p.mul1", "I32", "[2]", 8);
    layer_dies(s, "expected one I32");
    s = layer(3, "");
    add_marker(&s, "p.mcg", 0xCBAC1FEDu);
    add_marker(&s, "p.mul1", 0x83DCD12Du);
    layer_dies(s, "both an mcg and a mul1");
    s = layer(3, "");
    add_values(&s, "p.bias", "F16", 301, 0);
    layer_dies(s, "shape (301), expected (300)");
    s = layer(3, "");
    add_tensor(&s, "p.bias", "I32", "[300]", 1200);
    layer_dies(s, "F16, BF16 or F32");
    s = (Shard){0};
    add_tensor(&s, "p.weight", "F8_E4M3", "[300,200]", 60000);
    layer_dies(s, "p.weight has dtype F8_E4M3");
    s = (Shard){0};
    add_values(&s, "p.weight", "F16", 200, 300);
    layer_dies(s, "shape (200, 300), expected (300, 200)");
    s = (Shard){0};
    add_values(&s, "p.slice.0.weight", "F16", 150, 200);
    layer_dies(s, "slices");
}

// --- directories ---------------------------------------------------------------------------------

static void read_child(void *argument)
{
    read_checkpoint(argument);
}

static void check_directories(void)
{
    const char *dir = make_directory();
    check_dies("no config", read_child, (void *)(intptr_t)dir, "config.json: no such file");
    put_text(dir, "config.json", "{}");
    Checkpoint *ck = read_checkpoint(arena_format("%s///", dir));
    CHECK(ck->count == 0 && strcmp(ck->dir, dir) == 0 &&
          strcmp(ck->name, strrchr(dir, '/') + 1) == 0);
    Wanted w = {dir, "p", 1, 1};
    check_dies("no tensors", find_child, &w, "holds no tensors");

    Shard a = {0}, b = {0};
    add_values(&a, "x", "F16", 4, 0);
    add_values(&b, "y", "F32", 4, 0);
    write_shard(&a, dir, "model-00001-of-00002.safetensors");
    write_shard(&b, dir, "model-00002-of-00002.safetensors");
    put_text(dir, "model.safetensors.index.json", "{\"weight_map\":{\"z\":\"nowhere\"}}");
    ck = read_checkpoint(dir);
    CHECK(ck->count == 2 && find_tensor(ck, "x") && find_tensor(ck, "y"));
    Shard again = {0};
    add_values(&again, "y", "F32", 4, 0);
    write_shard(&again, dir, "more.safetensors");
    check_dies("a name twice", read_child, (void *)(intptr_t)dir, "tensor y is in");
    put_text(dir, "more.safetensors", "");
    check_dies("an empty file", read_child, (void *)(intptr_t)dir, "too short");
    remove_directory(dir);
    check_dies("no directory", read_child, (void *)(intptr_t)dir, "No such file");
}

static const Stack turns = {"both", "both_bias", 6, 1, 2, 1}; // rows 1, 3, 5 of six, inputs first

static void find_turns(void *checkpoint)
{
    find_stacked(checkpoint, &turns, 4, 3, 2);
}

// Two experts of 4 inputs and 3 outputs in one tensor, of the given shape and type.
static Checkpoint *stacked(const char *dir, const char *shape, const char *dtype, int size)
{
    Shard s = {0};
    uint8_t *at = add_tensor(&s, "both", dtype, shape, (size_t)(48 * size));
    for (int i = 0; i < 48; i++) at[size * i] = (uint8_t)i;
    at = add_tensor(&s, "both_bias", "F16", "[2,6]", 24);
    for (int i = 0; i < 12; i++) at[2 * i] = (uint8_t)i;
    write_shard(&s, dir, "model.safetensors");
    return read_checkpoint(dir);
}

static void check_stacks(void)
{
    const char *dir = make_directory();
    put_text(dir, "config.json", "{}");
    const LinearWeights *w = find_stacked(stacked(dir, "[2,4,6]", "F32", 4), &turns, 4, 3, 2)[1];
    const Tensor *t = w->weight;
    CHECK(w->format == f16 && w->in == 4 && w->out == 3 && t->shape[0] == 3 && t->shape[1] == 4);
    for (int i = 0; i < 12; i++) // expert 1, input i % 4, output i / 4
        CHECK(t->data[4 * (i / 4 * t->stride[0] + i % 4 * t->stride[1])] ==
              24 + 6 * (i % 4) + 1 + 2 * (i / 4));
    CHECK(w->bias->data[0] == 7 && w->bias->stride[0] == 2 && w->bias->shape[0] == 3);
    check_dies("a stack of another shape", find_turns, stacked(dir, "[2,6,4]", "F16", 2),
               "tensor both has shape (2, 6, 4), expected (2, 4, 6)");
    check_dies("a flat stack", find_turns, stacked(dir, "[8,6]", "BF16", 2), "expected (2, 4, 6)");
    check_dies("a stack of integers", find_turns, stacked(dir, "[2,4,6]", "I16", 2),
               "tensor both has dtype I16");
    remove_directory(dir);
}

static void check_random(void)
{
    const char *dir = make_directory();
    put_text(dir, "config.json", "{}");
    Checkpoint *ck = random_checkpoint(dir, 7, c3, m6);
    LinearWeights *w = find_linear(ck, "p", 200, 300, 0), *head = find_linear(ck, "h", 200, 300, 1);
    CHECK(w->format == c3 && head->format == m6 && !w->trellis->data && !w->bias);
    CHECK(w->trellis->shape[0] == 16 && w->trellis->shape[1] == 24 && w->trellis->shape[2] == 48);
    CHECK(find_values(ck, "n", 5, 0)->bytes == 10 && find_values(ck, "n", 5, 7)->bytes == 70);
    w = find_linear(ck, "p", 200, 300, MADE_HEAD | MADE_BIASED);
    CHECK(w->format == m6 && w->bias && w->bias->shape[0] == 300);
    remove_directory(dir);
}

// The layer of 256 inputs and 384 outputs among the format's published test vectors: its weights of
// input 0 and output 0, and of input 200 and output 7, by codebook.
static void check_decoded(void)
{
    enum { IN = 256, OUT = 384, WORDS = 16 * 24 * 48 };
    static const float expected[3][2] = {{-0.005016811f, 0.019125914f},
                                         {-0.024600074f, 0.009489399f},
                                         {0.006564697f, -0.000220513f}};
    static uint16_t words[WORDS], suh[IN], svh[OUT];
    for (int i = 0; i < WORDS; i++) words[i] = (uint16_t)(40503u * (uint32_t)(i + 1) + 257 * 3);
    for (int i = 0; i < IN; i++)
        suh[i] = float_to_half((i * 40503 >> 13 & 1 ? -1.0f : 1.0f) * (float)(16 + i % 16) / 1024);
    for (int j = 0; j < OUT; j++)
        svh[j] = float_to_half((j % 5 == 0 ? -1.0f : 1.0f) * (float)(32 + j % 32) / 64);
    const Tensor trellis = {.name = "trellis", .data = (const uint8_t *)words},
                 in = {.name = "suh", .data = (const uint8_t *)suh},
                 out = {.name = "svh", .data = (const uint8_t *)svh};
    static const int formats[] = {t3, c3, m3};
    for (int c = 0; c < 3; c++) {
        LinearWeights w = {.name = "w",
                           .format = formats[c],
                           .in = IN,
                           .out = OUT,
                           .trellis = &trellis,
                           .suh = &in,
                           .svh = &out};
        uint16_t *weights = decode_linear(&w);
        float found[2] = {half_to_float(weights[0]), half_to_float(weights[7 * IN + 200])};
        for (int i = 0; i < 2; i++) // rounded to fp16
            CHECK(fabsf(found[i] - expected[c][i]) <= fabsf(expected[c][i]) / 2048 + 1e-8f);
        free(weights);
    }
}

int main(void)
{
    check_decoded();
    check_headers();
    check_linears();
    check_directories();
    check_stacks();
    check_random();
    return check_done();
}
