// ref.c against the published test vectors of the EXL3 format: codebooks, trellis, a whole layer.
#include "../check.h"
#include "ref.h"
#include <math.h>
#include <stdlib.h>

static uint32_t crc32(const uint16_t *data, size_t count)
{
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < 2 * count; i++) {
        crc ^= data[i / 2] >> (i % 2 * 8) & 255;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320 : 0);
    }
    return ~crc;
}

static void check_crc(const char *what, int bits, const uint16_t *data, size_t count,
                      uint32_t expected)
{
    uint32_t crc = crc32(data, count);
    CHECK_MSG(crc == expected, "%s, %d bits: %08X, expected %08X", what, bits, crc, expected);
}

static const int codebooks[3] = {CODEBOOK_3INST, CODEBOOK_MCG, CODEBOOK_MUL1};

static void test_codebooks(void)
{
    static const uint32_t expected[3] = {0x4C83D524, 0xD2D13C52, 0x2BDF05C5};
    static uint16_t table[65536];
    for (int c = 0; c < 3; c++) {
        for (int s = 0; s < 65536; s++) table[s] = ref_codebook(codebooks[c], (uint16_t)s);
        check_crc("codebook", 16, table, 65536, expected[c]);
    }
    CHECK(ref_codebook(CODEBOOK_3INST, 0x1234) == 0xC066);
    CHECK(ref_codebook(CODEBOOK_MCG, 0x1234) == 0x3E0F);
    CHECK(ref_codebook(CODEBOOK_MUL1, 0x1234) == 0xB89E);
}

// By bits: the stored elements, the states, and for each codebook the tile in position order and
// row by row.
static const uint32_t tiles[8][8] = {
    {0xC3FF0B36, 0x3FB7E02B, 0xE4340EC7, 0x65E069EF, 0x9A6BF9C9, 0x793F5785, 0x6C48FFEB,
     0xC7203399},
    {0x98A35C20, 0xCF2B09F2, 0x5978E0D0, 0xF8BE3740, 0x554C53E5, 0xB41EC677, 0x7DF23742,
     0xF738DB10},
    {0x55C924FD, 0xD3D729D6, 0x7514C056, 0x301DD6A6, 0x70FAE9C8, 0x11EC3F86, 0xD19F9241,
     0x15793F27},
    {0x2CDEB34B, 0xAE6E8FBE, 0x40B17209, 0xB892D7BB, 0x790052AB, 0xD803ABFF, 0x1AF5950A,
     0x8E3C7336},
    {0x64F55A3A, 0x613DD809, 0xAD7D2897, 0xA63132E8, 0x46727130, 0xE5DDC793, 0xCEA19408,
     0x1444679D},
    {0x2427BD37, 0xFF79024A, 0x7F45DAEE, 0x92B9A013, 0x294214AB, 0xF7DEC831, 0x4948B01A,
     0x971F84DC},
    {0x189853A4, 0xA7977CA4, 0xCA2592A4, 0x66C71EA0, 0xCCC47153, 0x5952C891, 0x4761B340,
     0x062D127B},
    {0x2C3C7CA8, 0x2A3DAF79, 0x2388911E, 0xFDE067CC, 0x8A26E8A1, 0xC57BD5A7, 0x793C5282,
     0xA1D9AE21},
};

static void test_tiles(void)
{
    for (int bits = 1; bits <= 8; bits++) {
        uint16_t tile[128], states[256], values[256], square[256];
        for (int i = 0; i < 16 * bits; i++) tile[i] = (uint16_t)(40503 * (i + 1) + 257 * bits);
        check_crc("stored", bits, tile, 16 * bits, tiles[bits - 1][0]);
        ref_states(tile, bits, states);
        check_crc("states", bits, states, 256, tiles[bits - 1][1]);
        for (int c = 0; c < 3; c++) {
            for (int p = 0; p < 256; p++) {
                int row, column;
                ref_place(p, &row, &column);
                values[p] = ref_codebook(codebooks[c], states[p]);
                square[row * 16 + column] = values[p];
            }
            check_crc("weights", bits, values, 256, tiles[bits - 1][2 + 2 * c]);
            check_crc("tile", bits, square, 256, tiles[bits - 1][3 + 2 * c]);
        }
    }
}

static void test_layer(void)
{
    enum { IN = 256, OUT = 384, BITS = 3 };
    static const uint32_t crc[3] = {0xA86BC8BC, 0x2FDE1DF7, 0x12ABDF10};
    static const double expected[3][6] = {
        // W[0][0], W[200][7], y[0], y[3], sum and norm of y
        {-0.005016811, 0.019125914, -0.0033061, 0.3636994, 1.056317, 4.075852},
        {-0.024600074, 0.009489399, 0.2809740, -0.0869786, -3.502278, 4.076586},
        {0.006564697, -0.000220513, 0.0164880, -0.1614348, 4.332115, 3.094334}};
    static uint16_t trellis[16 * 24 * 48], suh[IN], svh[OUT], weights[IN * OUT];
    double x[IN], y[OUT];
    for (int i = 0; i < 16 * 24 * 48; i++) trellis[i] = (uint16_t)(40503u * (i + 1) + 257 * 3);
    for (int i = 0; i < IN; i++) {
        suh[i] = ref_round((i * 40503 >> 13 & 1 ? -1 : 1) * (16 + i % 16) / 1024.0);
        x[i] = (((i * 25173 + 13849) % 65536 >> 10) - 32) / 32.0;
    }
    for (int j = 0; j < OUT; j++) svh[j] = ref_round((j % 5 == 0 ? -1 : 1) * (32 + j % 32) / 64.0);
    for (int c = 0; c < 3; c++) {
        RefLinear linear = {codebooks[c] << 8 | BITS, IN, OUT, trellis, suh, svh, NULL, NULL, NULL};
        for (int i = 0; i < IN * OUT; i++) weights[i] = ref_weight(&linear, i / OUT, i % OUT);
        check_crc("layer", BITS, weights, IN * OUT, crc[c]);
        ref_dense(&linear);
        ref_linear(&linear, x, 1, y);
        double sum = 0, square = 0;
        for (int j = 0; j < OUT; j++) sum += y[j], square += y[j] * y[j];
        double found[6] = {linear.dense[0], linear.dense[200 * OUT + 7], y[0], y[3], sum,
                           sqrt(square)};
        for (int i = 0; i < 6; i++)
            CHECK_MSG(fabs(found[i] - expected[c][i]) < 1e-6, "codebook %d, number %d: %.9f", c, i,
                      found[i]);
        free(linear.dense);
    }
}

int main(void)
{
    test_codebooks();
    test_tiles();
    test_layer();
    return check_done();
}
