// Finds the packed weights: at the end of this very executable, else in FILE.weights beside it.
#include "load.h"
#include "start.h"
#include "trailer.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

// Returns 1 when the file ends in a trailer, 0 when it does not, -1 on errors.
static int read_trailer(const char *path, int *fd, uint64_t *size, Trailer *trailer, Error *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0) return errno == ENOENT ? 0 : error_set(err, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(*fd, &st) != 0) return error_set(err, "%s: %s", path, strerror(errno));
    *size = (uint64_t)st.st_size;
    if (*size < sizeof *trailer ||
        pread(*fd, trailer, sizeof *trailer, (off_t)(*size - sizeof *trailer)) != sizeof *trailer ||
        memcmp(trailer->magic, TRAILER_MAGIC, sizeof trailer->magic) != 0) {
        close(*fd);
        return 0;
    }
    return 1;
}

static int map_file(Weights *w, int fd, uint64_t size, const Trailer *t, Error *err)
{
    if (t->bytes != model_info.weights_bytes || t->bytes > size - sizeof *t)
        return error_set(err, "%s: %llu bytes of weights, expected %llu: the file is damaged",
                         w->path, (unsigned long long)t->bytes,
                         (unsigned long long)model_info.weights_bytes);
    if (memcmp(t->build_id, model_info.build_id, sizeof t->build_id) != 0)
        return error_set(err, "%s: weights of build %.32s, expected %.32s", w->path, t->build_id,
                         model_info.build_id);
    uint64_t offset = size - sizeof *t - t->bytes;
    if (offset % 4096)
        return error_set(err, "%s: the weights do not start at a page: the file is damaged",
                         w->path);
    w->map_bytes = t->bytes;
    w->map = mmap(NULL, w->map_bytes, PROT_READ, MAP_PRIVATE, fd, (off_t)offset);
    if (w->map == MAP_FAILED) {
        w->map = NULL;
        return error_set(err, "%s: %s", w->path, strerror(errno));
    }
    w->data = w->map;
    w->fd = fd;
    w->offset = offset;
    return 0;
}

// --- random weights: the geometry of a real model without its bytes ------------------------------

typedef struct {
    uint8_t *data;
    uint64_t from, to; // multiples of 8
    uint64_t seed;
} Fill;

static void *fill_bits(void *argument)
{
    Fill *f = argument;
    for (uint64_t at = f->from; at < f->to; at += 8) {
        uint64_t z = f->seed + at * 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z ^= z >> 31;
        memcpy(f->data + at, &z, 8);
    }
    return NULL;
}

static uint16_t small_half(double value) // a positive normal fp16, rounded down
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)((bits - 0x38000000) >> 13);
}

// Random signs and a magnitude such that inputs of rms 1 give outputs of rms `gain`: trellis values
// have rms 1.24 in every codebook.
static void make_linear(uint8_t *data, const Linear *l, int in, int out, double gain)
{
    if (!l->weights) return;
    double root = 1;
    while (root * root < in) root += 1;
    uint16_t scale = small_half(gain / (1.24 * root));
    uint16_t *suh = (uint16_t *)(data + l->suh), *svh = (uint16_t *)(data + l->svh);
    for (int i = 0; i < PADDED(in); i++) suh[i] = (uint16_t)((suh[i] & 0x8000) | scale);
    for (int i = 0; i < PADDED(out); i++) svh[i] = (uint16_t)((svh[i] & 0x8000) | 0x3c00);
    if (l->bias) memset(data + l->bias, 0, 4 * (size_t)PADDED(out));
}

static void make_ones(uint8_t *data, uint64_t at, int count)
{
    float *f = (float *)(data + at);
    for (int i = 0; at && i < count; i++) f[i] = 1;
}

// Random bits become values between -1/16 and 1/16.
static void make_values(uint8_t *data, uint64_t at, int64_t count)
{
    float *f = (float *)(data + at);
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &f[i], 4);
        f[i] = ((float)(bits & 0xffff) - 32767.5f) / 32768.0f / 16.0f;
    }
}

// Random bits become fp16 values between 1/32 and 1/16 in magnitude.
static void make_halves(uint8_t *data, uint64_t at, int64_t count)
{
    uint16_t *h = (uint16_t *)(data + at);
    for (int64_t i = 0; i < count; i++) h[i] = (uint16_t)((h[i] & 0x83ff) | 10 << 10);
}

// Random matrices that keep what they are applied to about as large as it is.
static void make_latent(uint8_t *data, const ModelInfo *m, const Layer *l)
{
    make_linear(data, &l->q_a, m->dim, m->q_latent, 1);
    make_linear(data, &l->q_b, m->q_latent ? m->q_latent : m->dim,
                m->heads * (m->nope_dim + m->rope_dim), 1);
    make_linear(data, &l->kv_a, m->dim, m->kv_latent + m->rope_dim, 1);
    make_ones(data, l->q_a_norm, m->q_latent);
    make_ones(data, l->kv_a_norm, m->kv_latent);
    make_halves(data, l->kv_b, (int64_t)m->heads * (m->nope_dim + m->value_dim) * m->kv_latent);
}

static void make_delta(uint8_t *data, const ModelInfo *m, const Layer *l)
{
    int values = m->delta_heads * m->delta_value_dim;
    int qkv = 2 * m->delta_key_heads * m->delta_key_dim + values;
    int grouped = l->delta_b == l->delta_a;
    make_linear(data, &l->delta_in, m->dim, grouped ? qkv + values : qkv, 1);
    make_linear(data, &l->delta_z, m->dim, values, 1);
    make_linear(data, &l->o, values, m->dim, 0.2);
    make_values(data, l->delta_b, (int64_t)m->delta_heads * m->dim * (grouped ? 2 : 1));
    if (!grouped) make_values(data, l->delta_a, (int64_t)m->delta_heads * m->dim);
    make_values(data, l->a_log, m->delta_heads);
    make_values(data, l->dt_bias, m->delta_heads);
    make_values(data, l->conv, (int64_t)qkv * m->delta_taps);
    make_ones(data, l->delta_norm, m->delta_value_dim);
}

// Random scores of experts, so that tokens spread over all of them.
static void make_experts(uint8_t *data, const ModelInfo *m, const Layer *l)
{
    make_values(data, l->router, (int64_t)m->experts * m->dim);
    if (l->router_bias) memset(data + l->router_bias, 0, 4 * (size_t)m->experts);
    if (l->choice_bias) memset(data + l->choice_bias, 0, 4 * (size_t)m->experts);
    for (int e = 0; e < m->experts; e++) {
        uint8_t *at = data + (uint64_t)e * l->expert_stride;
        make_linear(at, &l->gate, m->dim, m->expert_dim, 1);
        make_linear(at, &l->up, m->dim, m->expert_dim, 1);
        make_linear(at, &l->down, m->expert_dim, m->dim, 0.2);
    }
    make_linear(data, &l->shared_gate, m->dim, m->shared_dim, 1);
    make_linear(data, &l->shared_up, m->dim, m->shared_dim, 1);
    make_linear(data, &l->shared_down, m->shared_dim, m->dim, 0.2);
    make_ones(data, l->shared_weight, m->dim);
}

static int make_weights(Weights *w, int threads, Error *err)
{
    const ModelInfo *m = &model_info;
    w->map_bytes = m->weights_bytes;
    w->map = mmap(NULL, w->map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w->map == MAP_FAILED) {
        w->map = NULL;
        return error_set(err, "%llu bytes of random weights: %s",
                         (unsigned long long)m->weights_bytes, strerror(errno));
    }
    uint8_t *data = w->map;
    pthread_t thread[64];
    Fill fill[64];
    if (threads > 64) threads = 64;
    if (threads < 1) threads = 1;
    uint64_t part = (w->map_bytes / (uint64_t)threads + 4095) & ~(uint64_t)4095;
    for (int i = 0; i < threads; i++) {
        uint64_t from = part * (uint64_t)i, to = from + part;
        if (from > w->map_bytes) from = w->map_bytes;
        if (to > w->map_bytes) to = w->map_bytes;
        fill[i] = (Fill){data, from, to, m->random_seed};
        if (i && pthread_create(&thread[i], NULL, fill_bits, &fill[i]) != 0)
            return error_set(err, "cannot start a thread");
    }
    fill_bits(&fill[0]);
    for (int i = 1; i < threads; i++) pthread_join(thread[i], NULL);

    // Embeddings in (-2, -1] and [1, 2): exponent 0, random sign and mantissa.
    uint16_t *embed = (uint16_t *)(data + m->ends.embed);
    for (uint64_t i = 0; i < (uint64_t)m->vocab * (uint64_t)m->dim; i++)
        embed[i] = (uint16_t)((embed[i] & 0x83ff) | 0x3c00);
    int q_dim = m->heads * m->head_dim;
    for (int i = 0; i < m->layers; i++) {
        const Layer *l = &m->layer_table[i];
        int kv_dim = l->kv_heads * m->head_dim;
        make_ones(data, l->attn_norm, m->dim);
        make_ones(data, l->attn_post, m->dim);
        make_ones(data, l->ffn_norm, m->dim);
        make_ones(data, l->ffn_post, m->dim);
        make_ones(data, l->q_norm, m->wide_head_norms ? q_dim : m->head_dim);
        make_ones(data, l->k_norm, m->wide_head_norms ? kv_dim : m->head_dim);
        make_ones(data, l->sinks, m->heads);
        if (l->kv_b) make_latent(data, m, l);
        if (l->delta_norm) make_delta(data, m, l);
        make_linear(data, &l->q, m->dim, m->gated_attention ? 2 * q_dim : q_dim, 1);
        make_linear(data, &l->k, m->dim, kv_dim, 1);
        make_linear(data, &l->v, m->dim, kv_dim, 1);
        if (!l->delta_norm)
            make_linear(data, &l->o, l->kv_b ? m->heads * m->value_dim : q_dim, m->dim, 0.2);
        if (!l->router) make_linear(data, &l->gate, m->dim, l->ffn_dim, 1);
        if (!l->router) make_linear(data, &l->up, m->dim, l->ffn_dim, 1);
        if (!l->router) make_linear(data, &l->down, l->ffn_dim, m->dim, 0.2);
        if (l->router) make_experts(data, m, l);
    }
    make_ones(data, m->ends.norm, m->dim);
    make_linear(data, &m->ends.head, m->dim, m->vocab, 1);
    w->data = data;
    start_part("random_weights");
    return 0;
}

int weights_open(Weights *w, int threads, Error *err)
{
    *w = (Weights){.fd = -1};
    start_part("program");
    if (model_info.random_seed) return make_weights(w, threads, err);
    ssize_t n = readlink("/proc/self/exe", w->path, sizeof w->path - 16);
    if (n <= 0) return error_set(err, "/proc/self/exe: %s", strerror(errno));
    int fd;
    uint64_t size;
    Trailer trailer;
    int found = read_trailer(w->path, &fd, &size, &trailer, err);
    char program[4096];
    strcpy(program, w->path);
    if (found == 0) {
        strcat(w->path, ".weights");
        found = read_trailer(w->path, &fd, &size, &trailer, err);
    }
    if (found < 0) return -1;
    if (found == 0)
        return error_set(err,
                         "%.200s: no weights at its end (stripped or truncated?) and none in "
                         "%.200s.weights",
                         program, program);
    if (map_file(w, fd, size, &trailer, err) == 0) return 0;
    close(fd);
    return -1;
}

static void *read_ahead(void *argument)
{
    Weights *w = argument;
    const uint64_t step = 8 << 20; // a larger request would be cut short
    for (uint64_t at = 0; at < w->map_bytes; at += step) {
        if (__atomic_load_n(&w->enough, __ATOMIC_RELAXED)) break;
        posix_fadvise(w->fd, (off_t)(w->offset + at), (off_t)step, POSIX_FADV_WILLNEED);
    }
    return NULL;
}

void weights_read_ahead(Weights *w)
{
    w->enough = 0;
    w->reading = w->fd >= 0 && pthread_create(&w->ahead, NULL, read_ahead, w) == 0;
}

void weights_read_on(Weights *w)
{
    __atomic_store_n(&w->enough, 1, __ATOMIC_RELAXED);
    if (w->reading) pthread_join(w->ahead, NULL);
    w->reading = 0;
}

void weights_close(Weights *w)
{
    if (w->map) munmap(w->map, w->map_bytes);
    if (w->map && w->fd >= 0) close(w->fd);
    *w = (Weights){.fd = -1};
}

int weights_verify(const Weights *w, Error *err)
{
    if (model_info.random_seed) return 0;
    XXH128_hash_t h = XXH3_128bits(w->data, model_info.weights_bytes);
    char text[33];
    snprintf(text, sizeof text, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
    if (strcmp(text, model_info.weights_hash) != 0)
        return error_set(err, "%s: hash %s, expected %s", w->path, text, model_info.weights_hash);
    return 0;
}
