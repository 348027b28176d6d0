// The reference operations. Nothing here is fast, and nothing knows the packed layout but ref_pack.
#include "ref.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double ref_half(uint16_t bits)
{
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    double value = exponent == 0    ? ldexp(mantissa, -24)
                   : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                    : ldexp(1024 + mantissa, exponent - 25);
    return bits & 0x8000 ? -value : value;
}

uint16_t ref_round(double value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double x = fabs(value);
    if (isnan(x)) return sign | 0x7e00;
    if (x >= 65520) return sign | 0x7c00;
    int exponent = x < ldexp(1, -14) ? -14 : ilogb(x);
    double units = nearbyint(ldexp(x, 10 - exponent)); // 0 .. 2048
    return sign | (uint16_t)(units + (exponent + 14) * 1024);
}

double ref_bf16(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

uint16_t ref_codebook(int codebook, uint16_t state)
{
    uint32_t x = state;
    switch (codebook) {
    case CODEBOOK_3INST:
        x = x * 89226354u + 64248484u;
        break;
    case CODEBOOK_MCG:
        x *= 0xCBAC1FEDu;
        break;
    default: {
        x *= 0x83DCD12Du;
        uint32_t sum = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24);
        return ref_round((1024 + sum) * ref_half(0x1EEE) + ref_half(0xC931));
    }
    }
    uint32_t y = (x & 0x8FFF8FFFu) ^ 0x3B603B60u;
    uint16_t bits = ref_round(ref_half((uint16_t)y) + ref_half((uint16_t)(y >> 16)));
    return bits == 0x8000 ? 0 : bits;
}

static int stream_bit(const uint16_t *tile, int bits, int b)
{
    b = (b + 256 * bits) % (256 * bits);
    uint32_t word = tile[2 * (b / 32)] | (uint32_t)tile[2 * (b / 32) + 1] << 16;
    return word >> (31 - b % 32) & 1;
}

static uint16_t state_of(const uint16_t *tile, int bits, int p)
{
    uint16_t state = 0;
    for (int m = 0; m < 16; m++)
        state = (uint16_t)(state << 1 | stream_bit(tile, bits, (p + 1) * bits - 16 + m));
    return state;
}

void ref_states(const uint16_t *tile, int bits, uint16_t *states)
{
    for (int p = 0; p < 256; p++) states[p] = state_of(tile, bits, p);
}

void ref_place(int p, int *row, int *column)
{
    int lane = p >> 3, j = p & 7;
    *row = 2 * (lane & 3) + (j & 1) + 8 * (j >> 1 & 1);
    *column = (lane >> 2) + 8 * (j >> 2);
}

static int position_of(int row, int column)
{
    return 8 * (4 * (column & 7) + ((row & 7) >> 1)) + (row & 1) + 2 * (row >> 3) +
           4 * (column >> 3);
}

uint16_t ref_weight(const RefLinear *linear, int row, int column)
{
    int bits = FORMAT_BITS(linear->format);
    if (!FORMAT_IS_EXL3(linear->format))
        return linear->plain[(size_t)column * PADDED(linear->in) + row];
    const uint16_t *tile =
        linear->trellis +
        ((size_t)(row / 16) * (PADDED(linear->out) / 16) + column / 16) * 16 * bits;
    return ref_codebook(FORMAT_CODEBOOK(linear->format),
                        state_of(tile, bits, position_of(row % 16, column % 16)));
}

// v = v H128 / sqrt(128), elements `step` apart.
static void hadamard(double *v, size_t step)
{
    for (int h = 1; h < 128; h *= 2)
        for (int i = 0; i < 128; i++)
            if (!(i & h)) {
                double a = v[i * step], b = v[(i + h) * step];
                v[i * step] = a + b;
                v[(i + h) * step] = a - b;
            }
    for (int i = 0; i < 128; i++) v[i * step] /= sqrt(128);
}

void ref_dense(RefLinear *linear)
{
    const int rows = PADDED(linear->in), columns = PADDED(linear->out);
    double *w = malloc((size_t)rows * columns * sizeof *w);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j++) {
            uint16_t bits = ref_weight(linear, i, j);
            w[(size_t)i * columns + j] =
                FORMAT_CODEBOOK(linear->format) == CODEBOOK_BF16 ? ref_bf16(bits) : ref_half(bits);
        }
    if (FORMAT_IS_EXL3(linear->format)) {
        for (int i = 0; i < rows; i += 128)
            for (int j = 0; j < columns; j++) hadamard(w + (size_t)i * columns + j, columns);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j += 128) hadamard(w + (size_t)i * columns + j, 1);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++)
                w[(size_t)i * columns + j] *= ref_half(linear->suh[i]) * ref_half(linear->svh[j]);
    }
    linear->dense = malloc((size_t)linear->in * linear->out * sizeof *w);
    for (int i = 0; i < linear->in; i++)
        memcpy(linear->dense + (size_t)i * linear->out, w + (size_t)i * columns,
               (size_t)linear->out * sizeof *w);
    free(w);
}

uint8_t *ref_pack(const RefLinear *linear, size_t *bytes)
{
    const int bits = FORMAT_BITS(linear->format), blocks = PADDED(linear->out) / BLOCK;
    const int steps = PADDED(linear->in) / PASS_ROWS;
    *bytes = (size_t)blocks * COLUMN_BLOCK_BYTES(bits, linear->in);
    uint8_t *packed = aligned_alloc(256, *bytes), *to = packed;
    for (int block = 0; block < blocks; block++)
        for (int step = 0; step < steps; step++)
            for (int half = 0; half < 2; half++)
                for (int v = 0; v < bits; v++)
                    for (int lane = 0; lane < 32; lane++)
                        for (int n = 4 * v; n < 4 * v + 4; n++, to += 4) {
                            int g = lane / 4, c = lane % 4, t = n / bits, i = n % bits;
                            int row = 64 * step + 16 * c, column = 128 * block + 64 * half + 16 * t;
                            uint32_t word;
                            if (bits == 16) {
                                int r0, c0, r1, c1;
                                ref_place(32 * g + 2 * i, &r0, &c0);
                                ref_place(32 * g + 2 * i + 1, &r1, &c1);
                                word = ref_weight(linear, row + r0, column + c0) |
                                       (uint32_t)ref_weight(linear, row + r1, column + c1) << 16;
                            } else {
                                const uint16_t *tile =
                                    linear->trellis +
                                    ((size_t)(row / 16) * (PADDED(linear->out) / 16) +
                                     column / 16) *
                                        16 * bits;
                                const uint16_t *e = tile + 2 * (g * bits + bits - 1 - i);
                                word = e[0] | (uint32_t)e[1] << 16;
                            }
                            memcpy(to, &word, 4);
                        }
    return packed;
}

void ref_linear(const RefLinear *linear, const double *x, int rows, double *y)
{
    for (int r = 0; r < rows; r++) {
        double *to = y + (size_t)r * linear->out;
        for (int j = 0; j < linear->out; j++) to[j] = linear->bias ? linear->bias[j] : 0;
        for (int i = 0; i < linear->in; i++) {
            const double *w = linear->dense + (size_t)i * linear->out;
            double value = x[(size_t)r * linear->in + i];
            for (int j = 0; j < linear->out; j++) to[j] += value * w[j];
        }
    }
}

void ref_norm(const double *x, const float *weight, int width, double eps, double *y)
{
    double sum = 0;
    for (int i = 0; i < width; i++) sum += x[i] * x[i];
    for (int i = 0; i < width; i++) y[i] = x[i] / sqrt(sum / width + eps) * weight[i];
}

void ref_rope(double *head, const float *inverse, int dim, int interleaved, double factor,
              int position)
{
    for (int j = 0; j < dim / 2; j++) {
        double *a = head + (interleaved ? 2 * j : j),
               *b = head + (interleaved ? 2 * j + 1 : j + dim / 2);
        float angle = (float)position * inverse[j];
        double cosine = cos(angle) * factor, sine = sin(angle) * factor, u = *a, v = *b;
        *a = u * cosine - v * sine;
        *b = v * cosine + u * sine;
    }
}

double ref_silu(double x)
{
    return x / (1 + exp(-x));
}

void ref_attend(const double *q, int dim, double scale, int first, int last,
                void (*at)(void *context, int which, int position, double *v), void *context,
                double *a)
{
    double most = -INFINITY, total = 0, v[dim];
    double *score = malloc((size_t)(last - first + 1) * sizeof *score);
    for (int t = first; t <= last; t++) {
        double sum = 0;
        at(context, 0, t, v);
        for (int d = 0; d < dim; d++) sum += q[d] * v[d];
        score[t - first] = sum * scale;
        if (sum * scale > most) most = sum * scale;
    }
    for (int d = 0; d < dim; d++) a[d] = 0;
    for (int t = first; t <= last; t++) {
        double weight = exp(score[t - first] - most);
        at(context, 1, t, v);
        total += weight;
        for (int d = 0; d < dim; d++) a[d] += weight * v[d];
    }
    for (int d = 0; d < dim; d++) a[d] /= total;
    free(score);
}

uint32_t ref_random_bits(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16);
}

double ref_random_normal(void)
{
    double sum = 0; // of twelve uniform numbers: variance 1
    for (int i = 0; i < 12; i++) sum += ref_random_bits() * 0x1p-32;
    return sum - 6;
}

RefLinear ref_random(int format, int in, int out, int bias)
{
    RefLinear linear = {.format = format, .in = in, .out = out};
    size_t rows = PADDED(in), columns = PADDED(out);
    if (FORMAT_IS_EXL3(format)) {
        size_t count = rows / 16 * (columns / 16) * 16 * FORMAT_BITS(format);
        linear.trellis = malloc(count * 2);
        for (size_t i = 0; i < count; i++) linear.trellis[i] = (uint16_t)ref_random_bits();
        linear.suh = malloc(rows * 2);
        linear.svh = malloc(columns * 2);
        for (size_t i = 0; i < rows; i++) linear.suh[i] = ref_round(ref_random_normal() / sqrt(in));
        for (size_t i = 0; i < columns; i++)
            linear.svh[i] =
                ref_round((ref_random_bits() & 1 ? 1 : -1) * (0.5 + ref_random_bits() * 0x1p-32));
    } else {
        linear.plain = malloc(rows * columns * 2);
        for (size_t i = 0; i < rows * columns; i++) {
            float value = (float)(ref_random_normal() / sqrt(in));
            uint32_t wide;
            memcpy(&wide, &value, 4);
            linear.plain[i] = format == f16 ? ref_round(value) : (uint16_t)(wide >> 16);
        }
    }
    if (bias) {
        linear.bias = malloc(columns * sizeof *linear.bias);
        for (size_t i = 0; i < columns; i++) linear.bias[i] = (float)ref_random_normal();
    }
    return linear;
}

void ref_free(RefLinear *linear)
{
    free(linear->trellis);
    free(linear->suh);
    free(linear->svh);
    free(linear->plain);
    free(linear->bias);
    free(linear->dense);
}

double ref_error(const float *a, const double *b, size_t count)
{
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    double error = sqrt(difference / size);
    return isnan(error) ? INFINITY : error;
}
