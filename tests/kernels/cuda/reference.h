// The steps in double precision on the host, from the packed weights; only for the shapes of
// constants.h. Matrices are decoded bit by bit from the layout drawn in kernels/types.h.
#pragma once
#include "constants.h"
#include "kernels/cuda/work.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double reference_half(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    double v = e == 31 ? NAN : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h >> 15 ? -v : v;
}

// Nearest fp16 value of v.
static double reference_round_half(double v)
{
    if (v == 0) return 0;
    int e;
    frexp(fabs(v), &e);
    double ulp = ldexp(1, (e < -13 ? -13 : e) - 11);
    return nearbyint(v / ulp) * ulp;
}

static double reference_codebook(int codebook, uint32_t window)
{
    uint32_t p = codebook == CODEBOOK_3INST ? window * 89226354u + 64248484u
                 : codebook == CODEBOOK_MCG ? window * 0xCBAC1FEDu
                                            : window * 0x83DCD12Du;
    if (codebook == CODEBOOK_MUL1) {
        uint32_t sum = (p & 255) + (p >> 8 & 255) + (p >> 16 & 255) + (p >> 24);
        return reference_round_half((1024.0 + sum) * reference_half(0x1eee) +
                                    reference_half(0xc931));
    }
    p = (p & 0x8fff8fffu) ^ 0x3b603b60u;
    return reference_round_half(reference_half(p & 0xffff) + reference_half(p >> 16));
}

// Weight (k, n) of a packed matrix.
static double reference_weight(const uint8_t *packed, int format, int in, int k, int n)
{
    int bits = FORMAT_BITS(format), codebook = FORMAT_CODEBOOK(format);
    const uint8_t *pass = packed + n / 128 * COLUMN_BLOCK_BYTES(bits, in) +
                          ((uint64_t)(k / 64) * 2 + n % 128 / 64) * PASS_BYTES(bits);
    int c = k % 64 / 16, t = n % 64 / 16, row = k % 16, column = n % 16;
    int l = 4 * (column % 8) + row % 8 / 2, j = row % 2 + 2 * (row / 8) + 4 * (column / 8);
    int p = 8 * l + j, g = p / 32, u = p % 32;
#define RUN_WORD(run, i)                                                                           \
    (((const uint32_t *)                                                                           \
          pass)[((t * bits + (i)) / 4 * 32 + 4 * (run) + c) * 4 + (t * bits + (i)) % 4])
    if (bits == 16) {
        uint32_t h = RUN_WORD(g, u / 2) >> 16 * (u % 2) & 0xffff;
        if (codebook == CODEBOOK_F16) return reference_half(h);
        h <<= 16;
        float f;
        memcpy(&f, &h, 4);
        return f;
    }
    uint32_t window = 0;
    for (int i = 0; i < 16; i++) { // bit i of the window, 0 the newest
        int at = bits * (31 - u) + i, word = at / 32;
        uint32_t w = word < bits ? RUN_WORD(g, word) : RUN_WORD((g + 7) % 8, 0);
        window |= (w >> at % 32 & 1) << i;
    }
    return reference_codebook(codebook, window);
}

static void reference_hadamard(double *v)
{
    for (int step = 1; step < 128; step *= 2)
        for (int i = 0; i < 128; i++)
            if (!(i & step)) {
                double a = v[i], b = v[i + step];
                v[i] = a + b, v[i + step] = a - b;
            }
    for (int i = 0; i < 128; i++) v[i] /= sqrt(128);
}

// y (rows, out) = linear(x (rows, in)).
static void reference_linear(const uint8_t *weights, const Linear *l, int format, int in, int out,
                             int rows, const double *x, double *y)
{
    int inP = PADDED(in), outP = PADDED(out), exl3 = FORMAT_IS_EXL3(format);
    const uint16_t *suh = (const uint16_t *)(weights + l->suh),
                   *svh = (const uint16_t *)(weights + l->svh);
    double *xh = calloc((size_t)rows * inP, sizeof *xh),
           *z = calloc((size_t)rows * outP, sizeof *z);
    for (int r = 0; r < rows; r++) {
        for (int k = 0; k < in; k++)
            xh[r * inP + k] = x[(size_t)r * in + k] * (exl3 ? reference_half(suh[k]) : 1);
        for (int k = 0; exl3 && k < inP; k += 128) reference_hadamard(xh + (size_t)r * inP + k);
    }
    for (int k = 0; k < inP; k++)
        for (int n = 0; n < outP; n++) {
            double w = reference_weight(weights + l->weights, format, in, k, n);
            for (int r = 0; r < rows; r++) z[(size_t)r * outP + n] += w * xh[(size_t)r * inP + k];
        }
    for (int r = 0; r < rows; r++) {
        for (int n = 0; exl3 && n < outP; n += 128) reference_hadamard(z + (size_t)r * outP + n);
        for (int n = 0; n < out; n++)
            y[(size_t)r * out + n] = z[(size_t)r * outP + n] * (exl3 ? reference_half(svh[n]) : 1) +
                                     (l->bias ? ((const float *)(weights + l->bias))[n] : 0);
    }
    free(xh);
    free(z);
}

// c tanh(x / c), x where c is 0.
static double reference_softcap(double x, double c)
{
    return c != 0 ? c * tanh(x / c) : x;
}

static double reference_activation(double x)
{
    if (ACTIVATION == GELU_TANH)
        return x / 2 * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    if (ACTIVATION == RELU2) return x > 0 ? x * x : 0;
    if (ACTIVATION == XIELU) // with the parameters of cuda.c
        return (x > 0 ? 0.7 * x * x : (expm1(fmin(x, -1e-6)) - x) * 1.1) + 0.5 * x;
    if (ACTIVATION == CLAMPED_SILU) {
        x = fmin(x, ACT_LIMIT);
        return x / (1 + exp(-1.702 * x));
    }
    return x / (1 + exp(-x));
}

// What an activation of gate is multiplied with.
static double reference_lifted(double up)
{
    return ACTIVATION == CLAMPED_SILU ? fmax(-ACT_LIMIT, fmin(up, ACT_LIMIT)) + 1 : up;
}

#if EXPERTS
// The experts of a row, best first, and their weights, from its scores and biases (or NULL).
static void reference_route(const double *score, const float *choice_bias, int *chosen,
                            double *weight)
{
    double value[EXPERTS], choice[EXPERTS], total = 0, sum = 0;
    int size = EXPERTS / ROUTER_GROUPS;
    for (int e = 0; e < EXPERTS; e++) total += exp(score[e]);
    for (int e = 0; e < EXPERTS; e++) {
        value[e] = ROUTER_SIGMOID ? 1 / (1 + exp(-score[e])) : exp(score[e]) / total;
        choice[e] = value[e] + (choice_bias ? choice_bias[e] : 0);
    }
    double worth[ROUTER_GROUPS];
    for (int g = 0; g < ROUTER_GROUPS; g++) {
        double best = -INFINITY, second = -INFINITY;
        for (int e = g * size; e < (g + 1) * size; e++) {
            second = fmax(second, fmin(best, choice[e]));
            best = fmax(best, choice[e]);
        }
        worth[g] = best + second;
    }
    for (int g = 0; g < ROUTER_GROUPS && ROUTER_GROUPS > 1; g++) {
        int better = 0;
        for (int i = 0; i < ROUTER_GROUPS; i++) better += worth[i] > worth[g];
        for (int e = g * size; better >= ROUTER_TOP_GROUPS && e < (g + 1) * size; e++)
            choice[e] = -INFINITY;
    }
    for (int i = 0; i < ACTIVE_EXPERTS; i++) {
        chosen[i] = 0;
        for (int e = 0; e < EXPERTS; e++)
            if (choice[e] > choice[chosen[i]]) chosen[i] = e;
        choice[chosen[i]] = -INFINITY;
        sum += weight[i] = value[chosen[i]];
    }
    for (int i = 0; i < ACTIVE_EXPERTS; i++)
        weight[i] *= ROUTER_SCALE / (ROUTER_NORMALIZE ? sum : 1);
}
#endif

static void reference_norm(const float *x, const float *weight, int count, double *y)
{
    double sum = 0, mean = 0;
    for (int i = 0; i < count && LAYER_NORM; i++) mean += (double)x[i] / count;
    for (int i = 0; i < count; i++) sum += (x[i] - mean) * (x[i] - mean);
    for (int i = 0; i < count; i++)
        y[i] = (x[i] - mean) / sqrt(sum / count + NORM_EPS) * weight[i];
}

// Norm and rope of one head, in place. A norm over all heads is done beforehand.
static void reference_head(double *v, const float *weight, const float *rope)
{
    if (weight && HEAD_NORMS != HEAD_NORM_ALL) {
        double sum = 0, mean = 0;
        for (int i = 0; i < HEAD_DIM && HEAD_NORMS == HEAD_NORM_EACH; i++) mean += v[i] / HEAD_DIM;
        for (int i = 0; i < HEAD_DIM; i++) sum += (v[i] - mean) * (v[i] - mean);
        for (int i = 0; i < HEAD_DIM; i++)
            v[i] = (v[i] - mean) * weight[i] / sqrt(sum / HEAD_DIM + NORM_EPS);
    }
    for (int j = 0; rope && j < ROPE_DIM / 2; j++) {
        int a = ROPE_INTERLEAVED ? 2 * j : j, b = ROPE_INTERLEAVED ? 2 * j + 1 : j + ROPE_DIM / 2;
        double x = v[a], y = v[b];
        v[a] = x * rope[2 * j] - y * rope[2 * j + 1];
        v[b] = y * rope[2 * j] + x * rope[2 * j + 1];
    }
}
