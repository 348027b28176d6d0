// The weights that an EXL3 linear layer stands for, for layers that kernels read as plain tables.
//
//     W (in, out) = diag(suh) H Wq H diag(svh)        H: Hadamard blocks of 128, over sqrt(128)
//
// Wq lies in tiles of 16 x 16. A tile is a ring of 256 * bits bits, the most significant of each
// element first, in u16 elements of which each two have changed places; position p has the 16 bits
// that end with the (p + 1) * bits th, and the codebook makes a number of them.
#include "exlc.h"
#include "half.h"
#include <stdlib.h>

static uint16_t element(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

// The number that 16 bits stand for.
static float codebook_value(int codebook, uint32_t state)
{
    if (codebook == CODEBOOK_MUL1) {
        uint32_t x = state * MARKER_MUL1;
        uint32_t sum = (x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24);
        float value = (float)(1024 + sum) * half_to_float(0x1eee) + half_to_float(0xc931);
        return half_to_float(float_to_half(value));
    }
    uint32_t x = codebook == CODEBOOK_MCG ? state * MARKER_MCG : state * 89226354u + 64248484u;
    x = (x & 0x8fff8fffu) ^ 0x3b603b60u;
    float value = half_to_float((uint16_t)x) + half_to_float((uint16_t)(x >> 16));
    return half_to_float(float_to_half(value));
}

static const float *codebook_table(int codebook)
{
    static float *tables[3];
    if (!tables[codebook]) {
        tables[codebook] = arena_alloc(65536 * sizeof(float));
        for (uint32_t s = 0; s < 65536; s++) tables[codebook][s] = codebook_value(codebook, s);
    }
    return tables[codebook];
}

// One tile into the square of 128 at `to`.
static void decode_tile(const uint8_t *tile, int bits, const float *table, float (*to)[BLOCK])
{
    const int elements = 16 * bits;
    for (int p = 0; p < 256; p++) {
        int end = (p + 1) * bits, last = (end + 15) / 16 - 1,
            before = (last + elements - 1) % elements;
        uint32_t two =
            (uint32_t)element(tile + 2 * (before ^ 1)) << 16 | element(tile + 2 * (last ^ 1));
        int lane = p / 8, j = p % 8;
        int row = 2 * (lane % 4) + j % 2 + 8 * (j / 2 % 2), column = lane / 4 + 8 * (j / 4);
        to[row][column] = table[two >> (16 * (last + 1) - end) & 0xffff];
    }
}

// The Hadamard transform of 128 values, `step` apart.
static void transform(float *x, int step)
{
    for (int half = 1; half < BLOCK; half *= 2)
        for (int i = 0; i < BLOCK; i++)
            if (!(i & half)) {
                float a = x[i * step], b = x[(i + half) * step];
                x[i * step] = a + b, x[(i + half) * step] = a - b;
            }
}

// Scale i of one side.
static float scale_of(const Tensor *scales, const Tensor *signs, int i)
{
    if (!scales) return signs->data[i / 8] >> (i % 8) & 1 ? -1 : 1;
    return half_to_float(element(scales->data + 2 * i));
}

// The weights of inputs 128 * row .. and outputs 128 * column .., before rounding.
static void decode_square(const LinearWeights *w, int row, int column, float (*square)[BLOCK])
{
    const int bits = FORMAT_BITS(w->format), across = PADDED(w->out) / 16;
    const float *table = codebook_table(FORMAT_CODEBOOK(w->format));
    for (int i = 0; i < 64; i++) {
        int64_t tile = (int64_t)(8 * row + i / 8) * across + 8 * column + i % 8;
        decode_tile(w->trellis->data + 32 * bits * tile, bits, table,
                    (float(*)[BLOCK])(&square[i / 8 * 16][i % 8 * 16]));
    }
    for (int i = 0; i < BLOCK; i++) transform(square[i], 1);
    for (int j = 0; j < BLOCK; j++) transform(&square[0][j], BLOCK);
    for (int i = 0; i < BLOCK; i++) {
        float scale = scale_of(w->suh, w->su, row * BLOCK + i) / BLOCK;
        for (int j = 0; j < BLOCK; j++)
            square[i][j] *= scale * scale_of(w->svh, w->sv, column * BLOCK + j);
    }
}

uint16_t *decode_linear(const LinearWeights *w)
{
    uint16_t *out = malloc(2 * (size_t)w->in * (size_t)w->out);
    float(*square)[BLOCK] = malloc(BLOCK * sizeof *square);
    if (!out || !square) die("memory", "cannot allocate the weights of %s", w->name);
    for (int column = 0; column < PADDED(w->out) / BLOCK; column++)
        for (int row = 0; row < PADDED(w->in) / BLOCK; row++) {
            decode_square(w, row, column, square);
            for (int j = 0; j < BLOCK && column * BLOCK + j < w->out; j++)
                for (int i = 0; i < BLOCK && row * BLOCK + i < w->in; i++) {
                    uint16_t value = float_to_half(square[i][j]);
                    if ((value & 0x7c00) == 0x7c00)
                        die(w->trellis->file, "tensor %s: weight %g does not fit fp16",
                            w->trellis->name, (double)square[i][j]);
                    out[(size_t)(column * BLOCK + j) * (size_t)w->in + (size_t)(row * BLOCK + i)] =
                        value;
                }
        }
    free(square);
    return out;
}
