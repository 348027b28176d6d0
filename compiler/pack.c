// Lays out the weights in the order the program reads them (kernels/types.h draws the layout) and
// writes them as one file: a page of header, then every tensor at a multiple of 256 bytes. The file
// is written once, front to back, so models larger than memory pass through.
#include "exlc.h"
#include "half.h"
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define ALIGNMENT 256
#define HEADER_BYTES 4096

typedef struct {
    const char *path; // NULL: offsets only
    FILE *file;
    uint64_t at;
    XXH3_state_t *hash;
} Writer;

static void put(Writer *w, const void *data, uint64_t bytes)
{
    w->at += bytes;
    if (!w->path) return;
    XXH3_128bits_update(w->hash, data, bytes);
    if (fwrite(data, 1, bytes, w->file) != bytes) die(w->path, "%s", strerror(errno));
}

// Starts a tensor: pads to the alignment and returns its offset.
static uint64_t begin(Writer *w)
{
    static const char zeros[ALIGNMENT];
    put(w, zeros, (ALIGNMENT - w->at % ALIGNMENT) % ALIGNMENT);
    return w->at;
}

// Value i of a floating-point tensor.
static float value_at(const Tensor *t, uint64_t i)
{
    uint16_t h;
    float f;
    switch (t->dtype) {
    case DTYPE_F16: memcpy(&h, t->data + 2 * i, 2); return half_to_float(h);
    case DTYPE_BF16: memcpy(&h, t->data + 2 * i, 2); return bfloat_to_float(h);
    case DTYPE_F32: memcpy(&f, t->data + 4 * i, 4); return f;
    default: die(t->name, "dtype %s, expected F16, BF16 or F32", t->dtype_tag);
    }
}

static uint64_t elements(const Tensor *t)
{
    uint64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= (uint64_t)t->shape[i];
    return n;
}

// The 16 bits that stand for value i in a format; an F32 value too large for fp16 is refused.
static uint16_t narrow(const Tensor *t, uint64_t i, int format)
{
    uint16_t h;
    if (t->dtype != DTYPE_F32) {
        memcpy(&h, t->data + 2 * i, 2);
        return h;
    }
    float f = value_at(t, i);
    h = float_to_half(f);
    if (format != f16 || ((h & 0x7c00) == 0x7c00 && isfinite(f)))
        die(t->name, "value %g at index %llu does not fit fp16", (double)f, (unsigned long long)i);
    return h;
}

// A float vector of `count` values, `offset` added, zero-padded to `padded`. Returns its place.
static uint64_t put_floats(Writer *w, const Tensor *t, int count, int padded, double offset)
{
    if (!t) return 0;
    uint64_t at = begin(w);
    if (!w->path) {
        w->at += 4 * (uint64_t)padded;
        return at;
    }
    if (t->data && elements(t) < (uint64_t)count)
        die(t->name, "%llu values, expected %d", (unsigned long long)elements(t), count);
    float *values = calloc((size_t)padded, 4);
    if (!values) die("memory", "cannot allocate %d floats", padded);
    uint64_t step = t->stride[0] ? (uint64_t)t->stride[0] : 1;
    for (int i = 0; i < count; i++)
        values[i] = t->data ? (float)(value_at(t, (uint64_t)i * step) + offset) : 0;
    put(w, values, 4 * (uint64_t)padded);
    free(values);
    return at;
}

// fp16 channel scales (padded); legacy packed signs: bit 1 means -1.
static uint64_t put_scales(Writer *w, const Tensor *scales, const Tensor *signs, int padded)
{
    uint64_t at = begin(w);
    if (!w->path) {
        w->at += 2 * (uint64_t)padded;
        return at;
    }
    if (scales) {
        put(w, scales->data, 2 * (uint64_t)padded);
        return at;
    }
    uint16_t *out = malloc(2 * (size_t)padded);
    if (!out) die("memory", "cannot allocate %d scales", padded);
    for (int i = 0; i < padded; i++)
        out[i] = signs->data[i / 8] >> (i % 8) & 1 ? 0xbc00 : 0x3c00;
    put(w, out, 2 * (uint64_t)padded);
    free(out);
    return at;
}

// Trellis words of one column block, out[] of COLUMN_BLOCK_BYTES: stream words newest first.
static void pack_trellis(const uint8_t *trellis, int bits, int in_padded, int out_padded, int block,
                         uint8_t *out)
{
    uint64_t tile_bytes = 32 * (uint64_t)bits, row_bytes = tile_bytes * (uint64_t)(out_padded / 16);
    for (int step = 0; step < in_padded / PASS_ROWS; step++) {
        for (int half = 0; half < 2; half++, out += PASS_BYTES(bits)) {
            for (int c = 0; c < 4; c++) {
                const uint8_t *tiles = trellis + (uint64_t)(4 * step + c) * row_bytes +
                                       (uint64_t)(8 * block + 4 * half) * tile_bytes;
                for (int g = 0; g < 8; g++) {
                    int lane = 4 * g + c;
                    for (int t = 0; t < 4; t++) {
                        const uint8_t *run = tiles + (uint64_t)t * tile_bytes + 4 * g * bits;
                        for (int i = 0; i < bits; i++) {
                            int word = t * bits + i;
                            memcpy(out + (word / 4) * 512 + lane * 16 + (word % 4) * 4,
                                   run + 4 * (bits - 1 - i), 4);
                        }
                    }
                }
            }
        }
    }
}

// The same for a plain weight (out, in) of 16 bits; cells outside the tensor become zero.
static void pack_plain(const Tensor *t, int format, int in, int in_padded, int out, int block,
                       uint8_t *packed)
{
    static const int row_of[4] = {0, 1, 8, 9};
    uint64_t across = (uint64_t)(t->stride[0] ? t->stride[0] : t->shape[1]);
    uint64_t down = (uint64_t)(t->stride[0] ? t->stride[1] : 1);
    for (int step = 0; step < in_padded / PASS_ROWS; step++) {
        for (int half = 0; half < 2; half++, packed += PASS_BYTES(16)) {
            for (int lane = 0; lane < 32; lane++) {
                int g = lane / 4, c = lane % 4;
                for (int word = 0; word < 64; word++) {
                    int tile = word / 16;
                    uint32_t value = 0;
                    for (int e = 0; e < 2; e++) {
                        int p = 32 * g + 2 * (word % 16) + e, l = p / 8, j = p % 8;
                        int column = 128 * block + 64 * half + 16 * tile + l / 4 + 8 * (j >= 4);
                        int row = 64 * step + 16 * c + 2 * (l % 4) + row_of[j % 4];
                        if (row < in && column < out)
                            value |= (uint32_t)narrow(t, (uint64_t)column * across +
                                                             (uint64_t)row * down, format)
                                     << (16 * e);
                    }
                    memcpy(packed + (word / 4) * 512 + lane * 16 + (word % 4) * 4, &value, 4);
                }
            }
        }
    }
}

static Linear put_linear(Writer *w, const LinearWeights *l)
{
    Linear place = {0};
    if (!l) return place;
    int bits = FORMAT_BITS(l->format), in_padded = PADDED(l->in), out_padded = PADDED(l->out);
    uint64_t block_bytes = COLUMN_BLOCK_BYTES(bits, l->in);
    place.weights = begin(w);
    if (!w->path) {
        w->at += block_bytes * (uint64_t)(out_padded / BLOCK);
    } else {
        uint8_t *packed = malloc(block_bytes);
        if (!packed) die("memory", "cannot allocate %llu bytes", (unsigned long long)block_bytes);
        for (int block = 0; block < out_padded / BLOCK; block++) {
            if (FORMAT_IS_EXL3(l->format))
                pack_trellis(l->trellis->data, bits, in_padded, out_padded, block, packed);
            else
                pack_plain(l->weight, l->format, l->in, in_padded, l->out, block, packed);
            put(w, packed, block_bytes);
        }
        free(packed);
    }
    if (FORMAT_IS_EXL3(l->format)) {
        place.suh = put_scales(w, l->suh, l->su, in_padded);
        place.svh = put_scales(w, l->svh, l->sv, out_padded);
    }
    if (l->bias) place.bias = put_floats(w, l->bias, l->out, out_padded, 0);
    return place;
}

// The values of an op's tensor as floats, as many as it has; 0 without the op.
static uint64_t put_values(Writer *w, const Op *op)
{
    if (!op) return 0;
    int count = (int)elements(op->tensor);
    return put_floats(w, op->tensor, count, count, op->tensor_offset);
}

// The same of a table, columns first.
static uint64_t put_transposed(Writer *w, const Op *op)
{
    if (!op) return 0;
    const Tensor *t = op->tensor;
    uint64_t rows = (uint64_t)t->shape[0], columns = elements(t) / rows, at = begin(w);
    if (!w->path) {
        w->at += 4 * rows * columns;
        return at;
    }
    for (uint64_t c = 0; c < columns; c++)
        for (uint64_t r = 0; r < rows; r++) {
            float value = t->data ? value_at(t, r * columns + c) : 0;
            put(w, &value, 4);
        }
    return at;
}

// The router and the experts, one after the other, each as long as the first.
static void put_experts(Writer *w, const LayerWeights *from, Layer *to)
{
    if (!from->router) return;
    to->router = put_values(w, from->router);
    to->router_bias = put_values(w, from->router_bias);
    to->choice_bias = put_values(w, from->choice_bias);
    for (int e = 0; e < from->expert_gate->expert_count; e++) {
        uint64_t first = begin(w);
        Linear gate = put_linear(w, from->expert_gate->experts[e]);
        Linear up = put_linear(w, from->expert_up->experts[e]);
        Linear down = put_linear(w, from->expert_down->experts[e]);
        uint64_t bytes = begin(w) - first;
        if (e == 0) to->gate = gate, to->up = up, to->down = down, to->expert_stride = bytes;
        assert(bytes == to->expert_stride);
        assert(gate.weights == to->gate.weights + (uint64_t)e * bytes);
    }
    to->shared_gate = put_linear(w, from->shared_gate);
    to->shared_up = put_linear(w, from->shared_up);
    to->shared_down = put_linear(w, from->shared_down);
    to->shared_weight = put_values(w, from->shared_weight);
}

// Where b and a of the heads are one tensor, it is there once.
static void put_delta(Writer *w, const LayerWeights *from, Layer *to)
{
    if (!from->delta_in) return;
    int is_one = strcmp(from->delta_b->tensor->name, from->delta_a->tensor->name) == 0;
    to->delta_in = put_linear(w, from->delta_in);
    to->delta_z = put_linear(w, from->delta_z);
    to->delta_b = put_values(w, from->delta_b);
    to->delta_a = is_one ? to->delta_b : put_values(w, from->delta_a);
    to->a_log = put_values(w, from->a_log);
    to->dt_bias = put_values(w, from->dt_bias);
    to->conv = put_transposed(w, from->conv);
    to->delta_norm = put_values(w, from->delta_norm);
}

// log(1 + e^x) of the one value of an op's tensor; of 0.8, as training begins, with random weights.
static double softplus_of(const Op *op)
{
    double x = op->tensor->data ? (double)value_at(op->tensor, 0) : 0.8;
    return x > 20 ? x : log1p(exp(x));
}

// A table in 16 bits a value.
static uint64_t put_table(Writer *w, const Tensor *t, int format)
{
    uint64_t rows = (uint64_t)t->shape[0], columns = elements(t) / rows, at = begin(w);
    if (!w->path) {
        w->at += 2 * rows * columns;
        return at;
    }
    if (t->coded) {
        uint16_t *values = decode_linear(t->coded);
        put(w, values, 2 * rows * columns);
        free(values);
        return at;
    }
    uint16_t *row = malloc(2 * columns);
    if (!row) die("memory", "cannot allocate %llu values", (unsigned long long)columns);
    for (uint64_t r = 0; r < rows; r++) {
        for (uint64_t i = 0; i < columns; i++) row[i] = narrow(t, r * columns + i, format);
        put(w, row, 2 * columns);
    }
    free(row);
    return at;
}

Packed *pack_weights(const Plan *plan, const char *path)
{
    const Facts *facts = &plan->graph->facts;
    Packed *packed = arena_alloc(sizeof *packed);
    packed->layers = arena_alloc(sizeof(Layer) * (size_t)facts->layers);
    Writer w = {.path = path};
    if (path) {
        remember_file(path);
        w.file = fopen(path, "wb");
        if (!w.file) die(path, "%s", strerror(errno));
        setvbuf(w.file, NULL, _IOFBF, 1 << 20);
        w.hash = XXH3_createState();
        if (!w.hash) die("memory", "cannot allocate a hash state");
        XXH3_128bits_reset(w.hash);
    }
    static const char header[HEADER_BYTES] = "exlc weights 1\n";
    put(&w, header, HEADER_BYTES);
    packed->ends.embed = put_table(&w, plan->embed, plan->embed_format);
    for (int l = 0; l < facts->layers; l++) {
        if (path) show_progress("packing layers", (uint64_t)l, (uint64_t)facts->layers);
        const LayerWeights *from = &plan->layers[l];
        Layer *to = &packed->layers[l];
        to->attn_norm = put_values(&w, from->attn_norm);
        to->q_a = put_linear(&w, from->q_a);
        to->q_a_norm = put_values(&w, from->q_a_norm);
        to->q_b = put_linear(&w, from->q_b);
        to->kv_a = put_linear(&w, from->kv_a);
        to->kv_a_norm = put_values(&w, from->latent_k);
        if (from->latent_q) to->kv_b = put_table(&w, from->latent_q->tensor, plan->kv_b_format);
        put_delta(&w, from, to);
        to->q = put_linear(&w, from->q);
        to->k = put_linear(&w, from->k);
        to->v = put_linear(&w, from->v);
        to->q_norm = put_values(&w, from->q_norm);
        to->k_norm = put_values(&w, from->k_norm);
        to->sinks = put_values(&w, from->sinks);
        to->o = put_linear(&w, from->o);
        to->attn_post = put_values(&w, from->attn_post);
        to->ffn_norm = put_values(&w, from->ffn_norm);
        to->gate = put_linear(&w, from->gate);
        to->up = put_linear(&w, from->up);
        to->down = put_linear(&w, from->down);
        to->ffn_post = put_values(&w, from->ffn_post);
        put_experts(&w, from, to);
        to->window = from->window;
        to->rope = from->rope;
        to->kv_heads = from->kv_heads;
        to->ffn_dim = from->ffn_dim;
        to->kept = from->kept;
        to->parts = from->parts;
        to->before = from->before;
        if (from->alpha_p) to->act[0] = (float)softplus_of(from->alpha_p);
        if (from->alpha_n) to->act[1] = (float)(softplus_of(from->alpha_n) + 0.5);
    }
    if (path) show_progress("packing layers", 1, 1);
    packed->ends.norm = put_values(&w, plan->norm);
    packed->ends.head = put_linear(&w, plan->head);
    begin(&w);
    packed->bytes = w.at;
    if (path) {
        XXH128_hash_t h = XXH3_128bits_digest(w.hash);
        snprintf(packed->hash, sizeof packed->hash, "%016llx%016llx", (unsigned long long)h.high64,
                 (unsigned long long)h.low64);
        XXH3_freeState(w.hash);
        if (fflush(w.file) != 0 || fclose(w.file) != 0) die(path, "%s", strerror(errno));
        forget_file(path);
    }
    return packed;
}
