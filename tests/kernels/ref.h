// Every operation of a forward pass in plain C and doubles, straight from the definitions: what the
// kernels are compared with. Knows the checkpoint's layout of EXL3 tensors, and packs from it.
#pragma once
#include "../../kernels/types.h"
#include <stddef.h>

// A linear layer as a checkpoint stores it.
typedef struct {
    int format, in, out; // kernels/types.h; widths before padding
    uint16_t *trellis;   // EXL3: (PADDED(in) / 16, PADDED(out) / 16, 16 * bits)
    uint16_t *suh, *svh; // EXL3: fp16 (PADDED(in)), (PADDED(out))
    uint16_t *plain;     // f16, b16: (PADDED(out), PADDED(in))
    float *bias;         // (PADDED(out)) or NULL
    double *dense;       // (in, out): W, from ref_dense
} RefLinear;

double ref_half(uint16_t bits);   // value of an fp16
uint16_t ref_round(double value); // nearest fp16, ties to even
double ref_bf16(uint16_t bits);

uint16_t ref_codebook(int codebook, uint16_t state);               // fp16 bits
void ref_states(const uint16_t *tile, int bits, uint16_t *states); // 256, in trellis order
void ref_place(int p, int *row, int *column);                      // of weight p of a tile

// Wq[row][column] of an EXL3 tensor as fp16 bits.
uint16_t ref_weight(const RefLinear *linear, int row, int column);
// Fills in linear->dense.
void ref_dense(RefLinear *linear);
// The packed layout of kernels/types.h: a new block of column blocks, *bytes long.
uint8_t *ref_pack(const RefLinear *linear, size_t *bytes);

// y (rows, out) = x (rows, in) W + bias.
void ref_linear(const RefLinear *linear, const double *x, int rows, double *y);
void ref_norm(const double *x, const float *weight, int width, double eps, double *y);
// Rotates the first `dim` channels; `interleaved` pairs are (2j, 2j + 1), else (j, j + dim / 2).
void ref_rope(double *head, const float *inverse, int dim, int interleaved, double factor,
              int position);
double ref_silu(double x);
// One query against keys first .. last: `at` gives the `dim` channels of a key (which 0) or value.
void ref_attend(const double *q, int dim, double scale, int first, int last,
                void (*at)(void *context, int which, int position, double *v), void *context,
                double *a);

// A random layer of a format; the values of its inputs and outputs stay near 1.
RefLinear ref_random(int format, int in, int out, int bias);
void ref_free(RefLinear *linear);
uint32_t ref_random_bits(void);
double ref_random_normal(void);
// ||a - b|| / ||b||; NaN counts as infinite.
double ref_error(const float *a, const double *b, size_t count);
