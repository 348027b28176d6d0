// /v1/embeddings of a model that is made for them, against the hidden states that Hugging Face gave
// in float64: tests/server/embed LAST MEAN EXPECTED, two programs of one recorded case that pool
// the last token's state, with length 1, and the mean of all, and the recorded file (tests/oracle).
#include "../check.h"
#include "client.h"
#include <math.h>
#include <stdint.h>

static unsigned char *file;

// The values of a tensor; its last dimension in *width.
static const void *tensor(const char *name, size_t *count, size_t *width)
{
    uint64_t bytes;
    memcpy(&bytes, file, 8);
    json_t *all = json_loadb((const char *)file + 8, bytes, 0, NULL),
           *t = json_object_get(all, name);
    const json_t *shape = json_object_get(t, "shape"), *at = json_object_get(t, "data_offsets");
    size_t from = (size_t)json_integer_value(json_array_get(at, 0));
    *count = ((size_t)json_integer_value(json_array_get(at, 1)) - from) / 4;
    *width = (size_t)json_integer_value(json_array_get(shape, json_array_size(shape) - 1));
    int there = t != NULL;
    json_decref(all);
    return there ? file + 8 + bytes + from : NULL;
}

// {"input": ids 0 .. count-1 of the recorded row, ...} to the vector; the caller frees.
static double *embed(int port, int count, const char *more, size_t *width)
{
    size_t all, columns;
    const int32_t *ids = tensor("input_ids", &all, &columns);
    char list[4096], *p = list;
    for (int i = 0; i < count; i++) p += sprintf(p, "%s%d", i ? "," : "", ids[i]);
    char *body = format("{\"input\": [%s]%s}", list, more);
    int status;
    char *text = request(port, "POST", "/v1/embeddings", "", body, &status);
    json_t *answer = json_loads(text, 0, NULL);
    const json_t *v =
        json_object_get(json_array_get(json_object_get(answer, "data"), 0), "embedding");
    CHECK_MSG(status == 200 && json_is_array(v) && usage_of(answer, "prompt_tokens") == count,
              "%d %.200s", status, text);
    *width = json_array_size(v);
    double *values = calloc(*width + 1, sizeof *values);
    for (size_t i = 0; i < *width; i++) values[i] = json_real_value(json_array_get(v, i));
    json_decref(answer);
    free(text);
    free(body);
    return values;
}

// More inputs than may wait go in when nobody waits.
static void test_many(int port)
{
    enum { MANY = 2048 };
    char *body = malloc(MANY * 4 + 64), *p = body + sprintf(body, "{\"input\": [[1]");
    for (int i = 1; i < MANY; i++) p += sprintf(p, ",[1]");
    strcpy(p, "], \"dimensions\": 1}");
    int status;
    char *text = request(port, "POST", "/v1/embeddings", "", body, &status);
    CHECK_MSG(status == 200 && strstr(text, "\"index\":2047"), "%d %.200s", status, text);
    free(text);
    free(body);
}

static double length_of(const double *v, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += v[i] * v[i];
    return sqrt(sum);
}

// Relative distance of a from b.
static double distance(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sqrt(sum) / length_of(b, n);
}

static void test_last(int port)
{
    size_t count, width, dim = 0, n;
    char name[32] = "hidden.0";
    for (int l = 0; tensor(name, &count, &width); l++) snprintf(name, sizeof name, "hidden.%d", l);
    for (int l = 99; l > 0 && !dim; l--) {
        snprintf(name, sizeof name, "hidden.%d", l);
        if (tensor(name, &count, &width)) dim = width;
    }
    const float *hidden = tensor(name, &count, &dim);
    const int32_t *position = tensor("hidden_positions", &count, &width);
    for (size_t i = 0; i < count; i++) {
        double *want = calloc(dim, sizeof *want);
        for (size_t k = 0; k < dim; k++) want[k] = (double)hidden[i * dim + k];
        double scale = length_of(want, dim);
        for (size_t k = 0; k < dim; k++) want[k] /= scale;
        double *got = embed(port, position[i] + 1, "", &n);
        CHECK_MSG(n == dim && distance(got, want, dim) < 1e-2 &&
                      fabs(length_of(got, dim) - 1) < 1e-5,
                  "position %d: %g", position[i], distance(got, want, dim));
        free(got);
        // Fewer dimensions are the first of them, at length 1 again.
        got = embed(port, position[i] + 1, ", \"dimensions\": 32", &n);
        scale = length_of(want, 32);
        for (size_t k = 0; k < 32; k++) want[k] /= scale;
        CHECK_MSG(n == 32 && distance(got, want, 32) < 2e-2, "%zu, %g", n, distance(got, want, 32));
        free(got);
        free(want);
    }
    CHECK(count > 1);
}

// By causality the mean of the last states of all beginnings.
static void test_mean(int last, int mean)
{
    enum { TOKENS = 9 };
    size_t n, dim;
    double *whole = embed(mean, TOKENS, "", &dim), *sum = calloc(dim, sizeof *sum);
    for (int count = 1; count <= TOKENS; count++) {
        double *one = embed(mean, count, "", &n), *direction = embed(last, count, "", &n);
        // Of one token the mean is its state; of more the newest is what is new in it.
        for (size_t k = 0; k < dim; k++) one[k] = one[k] * count - sum[k], sum[k] += one[k];
        double scale = length_of(one, dim);
        for (size_t k = 0; k < dim; k++) one[k] /= scale;
        CHECK_MSG(distance(one, direction, dim) < 2e-2, "%d tokens: %g", count,
                  distance(one, direction, dim));
        free(one);
        free(direction);
    }
    for (size_t k = 0; k < dim; k++) sum[k] /= TOKENS;
    CHECK_MSG(distance(sum, whole, dim) < 1e-4, "%g", distance(sum, whole, dim));
    // Again, when the cache has it all.
    double *again = embed(mean, TOKENS, "", &n);
    CHECK(distance(again, whole, dim) < 1e-6);
    free(again);
    free(whole);
    free(sum);
}

static void test_refusals(int port)
{
    const struct {
        const char *body, *words;
        int status;
    } cases[] = {{"{}", "input is missing", 400},
                 {"{\"input\": \"x\"}", "tokenizer", 400},
                 {"{\"input\": []}", "1 to 2048", 400},
                 {"{\"input\": [1], \"dimensions\": 0}", "dimensions", 400},
                 {"{\"input\": [1], \"encoding_format\": \"int8\"}", "base64", 400},
                 {"{\"input\": [1], \"temperature\": 1}", "Unrecognized", 400},
                 {"{\"input\": [999999]}", "input", 400}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status;
        char *text = request(port, "POST", "/v1/embeddings", "", cases[i].body, &status);
        CHECK_MSG(status == cases[i].status && strstr(text, cases[i].words), "%s: %d %s",
                  cases[i].body, status, text);
        free(text);
    }
    // Several at once, in the order asked, packed as clients ask for it: 0x3f800000 is AACAPw==.
    int status;
    char *text = request(
        port, "POST", "/v1/embeddings", "",
        "{\"input\": [[1, 2], [3]], \"encoding_format\": \"base64\", \"dimensions\": 1}", &status);
    CHECK_MSG(status == 200 && strstr(text, "\"index\":1") &&
                  (strstr(text, "\"AACAPw==\"") || strstr(text, "\"AACAvw==\"")),
              "%d %s", status, text);
    free(text);
}

int main(int argc, char **argv)
{
    if (argc != 4) return 2;
    FILE *f = fopen(argv[3], "rb");
    file = malloc(1 << 22);
    if (!f || fread(file, 1, 1 << 22, f) < 8) return 1;
    fclose(f);
    Server last = start_server(argv[1], (const char *[]){NULL}),
           mean = start_server(argv[2], (const char *[]){NULL});
    test_last(last.port);
    test_mean(last.port, mean.port);
    test_refusals(last.port);
    test_many(last.port);
    CHECK(stop_server(&last, SIGTERM) == 0 && stop_server(&mean, SIGTERM) == 0);
    free(file);
    return check_done();
}
