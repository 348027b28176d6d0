// Linear layers: y = (x . suh) BH Wq BH . svh + bias for EXL3 formats, x W + bias for f16 and b16.
//
// Few rows (decode): inputs are prepared once (norm, scale, Hadamard; for MUL1 quantized to 16 bits
// per slice of 128), then each 128-column block is multiplied straight from the packed weights.
// Many rows (prefill): inputs are prepared as floats, weights decoded pass by pass into a panel of
// 64 x 64 floats, which all rows of a tile are multiplied with.
//
// One core of a Sapphire Rapids, m4, AVX-512: 13-16 G weights/s with one row, 6 G with eight; panels
// 6.7 G weights/s, products with them 62-67 G multiply-adds/s.
#pragma once
#include "../../runtime/program.h"
#include "memory.h"
#include "trellis.h"

// The rows that enter a product.
typedef struct {
    const float *x; // (.., width)
    int width;
    const int32_t *row; // which rows, or NULL for 0, 1, ..
    const float *norm;  // weights of a norm (width), or NULL
} Input;

// The norm of a row v is (v - mean) * factor * weights.
typedef struct {
    float mean, factor;
} Moments;

// Weights that may be absent.
ALWAYS const float *floats_at(const State *s, uint64_t at)
{
    return at ? (const float *)(s->weights + at) : NULL;
}

ALWAYS const float *input_row(const Input *in, int r)
{
    return in->x + (size_t)(in->row ? in->row[r] : r) * in->width;
}

ALWAYS float dot(const float *a, const float *b, int width)
{
    Floats sum = {0};
    int i = 0;
    for (; i + FLOATS <= width; i += FLOATS) sum += load(a + i) * load(b + i);
    float total = sum_lanes(sum);
    for (; i < width; i++) total += a[i] * b[i];
    return total;
}

// The sum of (x - mean)^2.
ALWAYS float sum_squares(const float *x, int width, float mean)
{
    Floats sums[4] = {{0}, {0}, {0}, {0}};
    int i = 0;
    for (; i + 4 * FLOATS <= width; i += 4 * FLOATS)
        for (int j = 0; j < 4; j++) {
            Floats v = load(x + i + j * FLOATS) - mean;
            sums[j] += v * v;
        }
    float sum = sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < width; i++) sum += (x[i] - mean) * (x[i] - mean);
    return sum;
}

ALWAYS float mean_of(const float *x, int width)
{
    Floats sums = {0};
    int i = 0;
    for (; i + FLOATS <= width; i += FLOATS) sums += load(x + i);
    float sum = sum_lanes(sums);
    for (; i < width; i++) sum += x[i];
    return sum / (float)width;
}

// Of RMSNorm, or of LayerNorm.
ALWAYS Moments moments_of(const float *x, int width, bool layer_norm)
{
    float mean = layer_norm ? mean_of(x, width) : 0.0f;
    float square = sum_squares(x, width, mean) / (float)width;
    return (Moments){mean, 1.0f / __builtin_sqrtf(square + NORM_EPS)};
}

ALWAYS void norm_rows(const Input *in, int first, int end, Moments *moments)
{
    for (int r = first; r < end; r++)
        moments[r] =
            in->norm ? moments_of(input_row(in, r), in->width, LAYER_NORM) : (Moments){0, 1};
}

// v = v H128, unscaled.
ALWAYS void hadamard(float *v)
{
    Floats x[BLOCK / FLOATS];
    UNROLL for (int i = 0; i < BLOCK / FLOATS; i++)
    {
        Floats y = load(v + i * FLOATS);
        y = SWAP_LANES(y, 1) + y * (Floats){LANES(LANE_SIGN, 1)};
        y = SWAP_LANES(y, 2) + y * (Floats){LANES(LANE_SIGN, 2)};
#if VECTOR >= 32
        y = SWAP_LANES(y, 4) + y * (Floats){LANES(LANE_SIGN, 4)};
#endif
#if VECTOR == 64
        y = SWAP_LANES(y, 8) + y * (Floats){LANES(LANE_SIGN, 8)};
#endif
        x[i] = y;
    }
    UNROLL for (int step = 1; step < BLOCK / FLOATS; step *= 2)
    {
        UNROLL for (int i = 0; i < BLOCK / FLOATS; i++)
        {
            if (i & step) continue;
            Floats a = x[i], b = x[i + step];
            x[i] = a + b;
            x[i + step] = a - b;
        }
    }
    UNROLL for (int i = 0; i < BLOCK / FLOATS; i++) store(v + i * FLOATS, x[i]);
}

#define HADAMARD_SCALE 0.08838834764831845f // 1 / sqrt(128)

// Block `block` of input row r: zero-extended, normed, and transformed for EXL3 formats.
ONCE void input_block(const Input *in, int r, Moments m, int block, const uint16_t *suh, float *v)
{
    const float *x = input_row(in, r) + block * BLOCK;
    int width = SMALLER(BLOCK, in->width - block * BLOCK);
    if (width < BLOCK) memset(v, 0, BLOCK * sizeof *v);
    if (in->norm) {
        const float *norm = in->norm + block * BLOCK;
        for (int i = 0; i < width; i++) v[i] = (x[i] - m.mean) * m.factor * norm[i];
    } else {
        memcpy(v, x, (size_t)width * sizeof *v);
    }
    if (!suh) return;
    suh += block * BLOCK;
    for (int i = 0; i < BLOCK; i += FLOATS)
        store(v + i, load(v + i) * (load_halves(suh + i) * HADAMARD_SCALE));
    hadamard(v);
}

ALWAYS const uint16_t *suh_of(int format, const State *s, const Linear *linear)
{
    return FORMAT_IS_EXL3(format) ? (const uint16_t *)(s->weights + linear->suh) : NULL;
}

// z -> y for one row of a block: output Hadamard, scales and bias; the first `width` columns, added
// to what is there (the residual stream) or not.
ONCE void finish_block(bool exl3, const State *s, const Linear *linear, int block, int width,
                       float *z, float *y, bool add)
{
    if (exl3) {
        const uint16_t *svh = (const uint16_t *)(s->weights + linear->svh) + block * BLOCK;
        hadamard(z);
        for (int i = 0; i < BLOCK; i += FLOATS)
            store(z + i, load(z + i) * (load_halves(svh + i) * HADAMARD_SCALE));
    }
    if (linear->bias) {
        const float *bias = (const float *)(s->weights + linear->bias) + block * BLOCK;
        for (int i = 0; i < BLOCK; i += FLOATS) store(z + i, load(z + i) + load(bias + i));
    }
    if (add)
        for (int i = 0; i < width; i++) y[i] += RESIDUAL_SCALE * z[i];
    else if (y != z)
        memcpy(y, z, (size_t)width * sizeof *y);
}

ALWAYS const uint8_t *block_weights(int format, const State *s, const Linear *linear, int in,
                                    int block)
{
    return s->weights + linear->weights + block * COLUMN_BLOCK_BYTES(FORMAT_BITS(format), in);
}

ALWAYS int blocks_of(int width)
{
    return PADDED(width) / BLOCK;
}

// Columns of block `block` that exist.
ALWAYS int width_of(int width, int block)
{
    return SMALLER(BLOCK, width - block * BLOCK);
}

// ---- few rows ----

// Rows go in rounds of ROUND_ROWS; the last one is rounded up to 1, 2, 4 or 8.
ALWAYS int rounded_rows(int rows)
{
    int rest = rows % ROUND_ROWS;
    return rows - rest + (rest <= 2 ? rest : rest <= 4 ? 4 : 8);
}

// Rows of the round that starts at `first`, rounded up.
ALWAYS int round_rows(int rows, int first)
{
    return rounded_rows(SMALLER(ROUND_ROWS, rows - first));
}

// The bytes that few_prepare fills: round after round.
ALWAYS size_t few_bytes(int format, int rows, int width)
{
    return blocks_of(width) * slice_bytes(format, rounded_rows(rows));
}

// Whether inputs are prepared once, by all workers, into State.work, or by every worker that needs
// them into Worker.local, which saves a barrier.
ALWAYS bool few_shared(int rows, int width)
{
    return rounded_rows(rows) * PADDED(width) > PRIVATE_VALUES;
}

// Prepares the slices in `slices` of all rows.
ALWAYS void few_prepare(int format, const State *s, const Linear *linear, const Input *in,
                        const Moments *moments, int rows, Range slices, char *act)
{
    for (int first = 0; first < rows; first += ROUND_ROWS) {
        const int R = round_rows(rows, first);
        for (int slice = slices.first; slice < slices.end; slice++)
            for (int r = 0; r < R; r++) {
                float v[BLOCK] __attribute__((aligned(64)));
                if (first + r < rows)
                    input_block(in, first + r, moments[first + r], slice, suh_of(format, s, linear),
                                v);
                else
                    memset(v, 0, sizeof v);
                prepare(format, act + slice * slice_bytes(format, R), R, r, v);
            }
        act += few_bytes(format, R, in->width);
    }
}

// One column block of all rows: y (rows, stride), its first column that of the block.
ALWAYS void few_block(int format, const State *s, const Linear *linear, int in, int out, int block,
                      const char *act, int rows, float *y, size_t stride, bool add)
{
    for (int first = 0; first < rows; first += ROUND_ROWS) {
        const int R = round_rows(rows, first);
        float z[ROUND_ROWS][BLOCK] __attribute__((aligned(64)));
        multiply(format, R, act, blocks_of(in), block_weights(format, s, linear, in, block), 0, 2,
                 z);
        for (int r = 0; r < R && first + r < rows; r++)
            finish_block(FORMAT_IS_EXL3(format), s, linear, block, width_of(out, block), z[r],
                         y + (first + r) * stride, add);
        act += few_bytes(format, R, in);
    }
}

// Where there are fewer blocks than keep all workers busy, units are halves of 64 columns: their
// sums go to memory first, and are finished block by block behind a barrier.
ALWAYS bool few_split(const Worker *w, int blocks)
{
    int whole = 2 * ((blocks + w->count - 1) / w->count);
    int split = (2 * blocks + w->count - 1) / w->count;
    return 5 * split <= 4 * whole;
}

// Half `half` (0 .. 2 * blocks - 1) of a product into sums (rows, stride), its first column that of
// the product.
ALWAYS void few_half(int format, const State *s, const Linear *linear, int in, int half,
                     const char *act, int rows, float *sums, size_t stride)
{
    for (int first = 0; first < rows; first += ROUND_ROWS) {
        const int R = round_rows(rows, first);
        float z[ROUND_ROWS][BLOCK] __attribute__((aligned(64)));
        multiply(format, R, act, blocks_of(in), block_weights(format, s, linear, in, half / 2),
                 half % 2, half % 2 + 1, z);
        for (int r = 0; r < R && first + r < rows; r++)
            memcpy(sums + (first + r) * stride + half * PASS_COLUMNS,
                   z[r] + half % 2 * PASS_COLUMNS, PASS_COLUMNS * sizeof **z);
        act += few_bytes(format, R, in);
    }
}

// The place of the sums in State.work.
ALWAYS float *few_sums(const State *s)
{
    const int rows = LARGER(s->max_rows, s->max_outputs);
    return (float *)((char *)s->work + INPUT_BYTES(rows) + KV_BYTES(rows));
}

// ---- many rows ----

// Inputs as floats: (PADDED(width) / 64, rows, 64).
ALWAYS void many_prepare(int format, const State *s, const Linear *linear, const Input *in,
                         const Moments *moments, int rows, Range share, float *act)
{
    for (int r = share.first; r < share.end; r++)
        for (int block = 0; block < blocks_of(in->width); block++) {
            float v[BLOCK] __attribute__((aligned(64)));
            input_block(in, r, moments[r], block, suh_of(format, s, linear), v);
            for (int half = 0; half < 2; half++)
                memcpy(act + ((size_t)(2 * block + half) * rows + r) * PASS_ROWS,
                       v + half * PASS_ROWS, PASS_ROWS * sizeof *v);
        }
}

// c[r][n] += sum over k < depth of a[r * row_step + k * k_step] * b[k][n], n < 64; `rows` rows.
ALWAYS void multiply_rows(int rows, const float *a, size_t row_step, size_t k_step, int depth,
                          const float (*b)[64], float *c, size_t c_step)
{
    enum { WIDE = VECTOR == 64 ? 4 : 2 };
    for (int n = 0; n < 64; n += WIDE * FLOATS) {
        Floats sum[6][WIDE];
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < WIDE; j++) sum[r][j] =
            load(c + r * c_step + n + j * FLOATS);
        for (int k = 0; k < depth; k++) {
            Floats column[WIDE];
            UNROLL for (int j = 0; j < WIDE; j++) column[j] = load(b[k] + n + j * FLOATS);
            UNROLL for (int r = 0; r < rows; r++)
            {
                Floats x = splat(a[r * row_step + k * k_step]);
                UNROLL for (int j = 0; j < WIDE; j++) sum[r][j] += x * column[j];
            }
        }
        UNROLL for (int r = 0; r < rows; r++) UNROLL for (int j = 0; j < WIDE; j++)
            store(c + r * c_step + n + j * FLOATS, sum[r][j]);
    }
}

// The same for any number of rows.
NEVER void multiply_panel(int rows, const float *a, size_t row_step, size_t k_step, int depth,
                          const float (*b)[64], float *c, size_t c_step)
{
    int r = 0;
    for (; r + 6 <= rows; r += 6)
        multiply_rows(6, a + r * row_step, row_step, k_step, depth, b, c + r * c_step, c_step);
    a += r * row_step, c += r * c_step;
    switch (rows - r) {
    case 5:
        multiply_rows(5, a, row_step, k_step, depth, b, c, c_step);
        break;
    case 4:
        multiply_rows(4, a, row_step, k_step, depth, b, c, c_step);
        break;
    case 3:
        multiply_rows(3, a, row_step, k_step, depth, b, c, c_step);
        break;
    case 2:
        multiply_rows(2, a, row_step, k_step, depth, b, c, c_step);
        break;
    case 1:
        multiply_rows(1, a, row_step, k_step, depth, b, c, c_step);
        break;
    }
}

// Working memory of products with many rows, in Worker.local.
typedef struct {
    float panel[PASS_ROWS][PASS_COLUMNS];
    float tile[2][TILE_ROWS * BLOCK];
} Tiles;

// How many tiles of rows each column block is divided into.
ALWAYS int row_tiles(int rows, int blocks, const Worker *w)
{
    int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    while (tiles * blocks < 4 * w->count && rows / tiles > 48) tiles++;
    return tiles;
}

// One column block of the rows in `tile`, out of `rows` prepared ones: y (.., stride), its first
// row that of the tile, its first column that of the block.
ALWAYS void many_block(int format, const State *s, const Linear *linear, int in, int out, int block,
                       const float *act, int rows, Range tile, Tiles *tiles, float *z, float *y,
                       size_t stride, bool add)
{
    const uint8_t *weights = block_weights(format, s, linear, in, block);
    const int n = tile.end - tile.first;
    memset(z, 0, (size_t)n * BLOCK * sizeof *z);
    for (int step = 0; step < 2 * blocks_of(in); step++)
        for (int half = 0; half < 2; half++) {
            decode_panel(format, weights, tiles->panel);
            weights += PASS_BYTES(FORMAT_BITS(format));
            multiply_panel(n, act + ((size_t)step * rows + tile.first) * PASS_ROWS, PASS_ROWS, 1,
                           PASS_ROWS, (const float(*)[64])tiles->panel, z + half * PASS_COLUMNS,
                           BLOCK);
        }
    for (int r = 0; r < n; r++)
        finish_block(FORMAT_IS_EXL3(format), s, linear, block, width_of(out, block), z + r * BLOCK,
                     y + r * stride, add);
}
