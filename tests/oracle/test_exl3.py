"""Holds exl3.py against the format's published test vectors. Run: python test_exl3.py"""

import zlib

import numpy as np

import exl3

BOOKS = ("3inst", "mcg", "mul1")

# CRC32 of the 65536-entry table, minimum and its state, maximum and its state, mean, RMS.
TABLES = {
    "3inst": (0x4C83D524, -3.95703125, 0x149D, 3.97265625, 0x3479, 0.00021044, 1.24371092),
    "mcg": (0xD2D13C52, -3.94921875, 0x2756, 3.94921875, 0x2C64, -0.00003693, 1.24411185),
    "mul1": (0x2BDF05C5, -3.453125, 0x0000, 3.34765625, 0x7B5B, -0.00193109, 1.00031207),
}

# state, 3inst bits, mcg bits, mul1 byte sum, mul1 bits
CODEBOOK_VALUES = """
0000 3A25 3F60 0 C2E8
0001 BB5B 304E 605 3921
0002 3B74 BA13 444 B72D
0003 34B6 3AB8 539 3239
0004 3924 3952 378 BB29
0005 2CB0 B75F 473 B409
0007 B906 BC71 407 B997
0008 392A 2FE0 501 AC04
000F BB6A B8FC 653 3BBA
0010 3C44 B840 492 AFEA
00FF 3CD1 BD26 634 3AB3
0100 3C3F BAF0 474 B3DB
1234 C066 3E0F 425 B89E
3FFF 3A28 3D85 607 393D
5555 C139 BCE6 563 35B6
7FFF BA96 4172 798 3FCA
8000 B7F8 B915 382 BAF2
8001 C05A B6EE 477 B334
AAAA BB35 BFBA 616 39B9
BEEF 424B C293 534 3124
C0DE C046 BA37 384 BAD6
CAFE C130 BFAA 233 BF81
FFFE 410A BCA2 575 3702
FFFF B110 3ACD 414 B936
"""

# Of the tile e[i] = (40503 (i + 1) + 257 K) mod 65536: K | first 8 stored | last 2 stored |
# states 0..7 | states 252..255 | CRC32 stored | CRC32 states
TILE_STATES = """
1 | 9F38 3D6F DBA6 79DD 1814 B64B 5482 F2B9 | 463A E471 | 8C74 18E8 31D1 63A3 C747 8E8F 1D1E 3A3D | 28C7 518E A31D 463A | C3FF0B36 | 3FB7E02B
2 | A039 3E70 DCA7 7ADE 1915 B74C 5583 F3BA | 2AAB C8E2 | AAAC AAB3 AACF AB3E ACF9 B3E7 CF9C 3E70 | 88AA 22AA 8AAA 2AAB | 98A35C20 | CF2B09F2
3 | A13A 3F71 DDA8 7BDF 1A16 B84D 5684 F4BB | 0F1C AD53 | 78E1 C70F 387E C3F7 1FB8 FDC6 EE34 71A1 | A987 4C3C 61E3 0F1C | 55C924FD | D3D729D6
4 | A23B 4072 DEA9 7CE0 1B17 B94E 5785 F5BC | F38D 91C4 | 38D4 8D40 D407 4072 072A 72A2 2A23 A23B | 1C4F C4F3 4F38 F38D | 2CDEB34B | AE6E8FBE
5 | A33C 4173 DFAA 7DE1 1C18 BA4F 5886 F6BD | D7FE 7635 | FFC8 F905 20B9 173A E746 E8CF 19E3 3C7D | EC6B 8D75 AEBF D7FE | 64F55A3A | 613DD809
6 | A43D 4274 E0AB 7EE2 1D19 BB50 5987 F7BE | BC6F 5AA6 | 1BD0 F427 09D2 74A4 290F 43D7 F5FB 7EE2 | 56A9 AA6B 9AF1 BC6F | 2427BD37 | FF79024A
7 | A53E 4375 E1AC 7FE3 1E1A BC51 5A88 F8BF | A0E0 3F17 | 7021 10DD 6EB4 5A53 29F3 F9FF FFC7 E3E1 | 91F8 FC5E 2F41 A0E0 | 189853A4 | A7977CA4
8 | A63F 4476 E2AD 80E4 1F1B BD52 5B89 F9C0 | 8551 2388 | 5144 4476 76A6 A63F 3F80 80E4 E4E2 E2AD | E323 2388 8885 8551 | 2C3C7CA8 | 2A3DAF79
"""

# K | codebook | values at positions 0..7 | CRC32 by position | row 0, columns 0..3 | CRC32 by row
TILE_VALUES = """
1 | 3INST | 3A80 B906 C311 B8DA BC82 3699 B7C9 BFF2 | E4340EC7 | 3A80 3AF7 3C03 3D65 | 65E069EF
1 | MCG | 3909 2280 38BF 3199 3FB9 37BC BBF8 B9B2 | 9A6BF9C9 | 3909 349C 3FE7 C0E9 | 793F5785
1 | MUL1 | B711 3ACF 38F7 30B5 3B75 BB7C B02C BD65 | 6C48FFEB | B711 BA67 3046 3702 | C7203399
2 | 3INST | B96E 36EB 2848 BFBA B9DC A1D0 3FDB 3AF7 | 5978E0D0 | B96E C040 B5DA BFAC | F8BE3740
2 | MCG | 3570 C2E2 3585 3873 AD2E BBB3 3CC6 349C | 554C53E5 | 3570 37B0 3A14 B982 | B41EC677
2 | MUL1 | BDD4 B6DA BE0B 3702 3982 B7D3 3E15 BA67 | 7DF23742 | BDD4 2F3F 2677 BBA6 | F738DB10
3 | 3INST | B83A 3648 3D94 3F3F BFD6 3EB9 B8B3 3B8C | 7514C056 | B83A 36BC 3CE6 B706 | 301DD6A6
3 | MCG | 33EC 2BF0 C022 3ECA BD9A BB18 3D22 A6C0 | 70FAE9C8 | 33EC 3DD3 AC48 38D2 | 11EC3F86
3 | MUL1 | 28F7 B5C5 B9A5 BC9C B82F B5C5 BFDB BCB1 | D19F9241 | 28F7 B72D 3F69 2B90 | 15793F27
4 | 3INST | 388F 3BFC BEA9 39B6 ADDC B840 3C6E 309C | 40B17209 | 388F 34FF BCC0 3CD3 | B892D7BB
4 | MCG | 3C58 C010 3BBE 3C32 BAC6 B8DE 3FA7 3D0F | 790052AB | 3C58 B526 3A5A 38D9 | D803ABFF
4 | MUL1 | BB7C BC9C ADBF A3DC 3B9E 3B91 B1B0 BBB4 | 1AF5950A | BB7C 399E 3BC8 3CF2 | 8E3C7336
5 | 3INST | 403E 39A6 AC82 B518 2948 35E8 C144 C1EB | AD7D2897 | 403E 3D00 3980 4157 | A63132E8
5 | MCG | 3CB5 42E6 BC92 BE6A BA9D B92F 4021 385F | 46727130 | 3CB5 2BE0 3A25 3C50 | E5DDC793
5 | MUL1 | 36CB 3DEC 3E62 34A0 BA4B 3485 3ADC 3C6F | CEA19408 | 36CB 40DB BBB4 BB29 | 1444679D
6 | 3INST | 2AD8 3212 3BFE 2C7E ABC0 C038 3E93 B478 | 7F45DAEE | 2AD8 4088 BC68 BA6B | 92B9A013
6 | MCG | BACF 3B11 B8E3 BB71 BDEA BB34 3A38 C292 | 294214AB | BACF 3EC2 AFBE 35D6 | F7DEC831
6 | MUL1 | 34A0 34F4 3B14 9770 B91A A890 B9B3 3B3D | 4948B01A | 34A0 3192 34D8 3888 | 971F84DC
7 | 3INST | 3F0B BB2E C2D2 B855 ACFC A200 BA03 BF30 | CA2592A4 | 3F0B BB8A 383C 3CFB | 66C71EA0
7 | MCG | B99A BDB8 36D1 B8E1 BAA7 3AAB C2AA 3863 | CCC47153 | B99A 2D60 2C1C 3996 | 5952C891
7 | MUL1 | 3F2B 3BF2 B5A9 B711 3239 BB0D B2FD 3BAC | 4761B340 | 3F2B B890 38E9 BC1F | 062D127B
8 | 3INST | 3F6A 3182 3C69 BCF4 BC0C 3D16 A170 3C3A | 2388911E | 3F6A 2D58 C294 3C50 | FDE067CC
8 | MCG | 3ACF B588 B901 B944 3C22 3D05 399B BE72 | 8A26E8A1 | 3ACF 291C B1C2 A834 | C57BD5A7
8 | MUL1 | 4124 B1E8 BB98 38CE 386D A890 B618 BBDD | 793C5282 | 4124 2DF2 BB0D BC0A | A1D9AE21
"""

# The layer in = 256, out = 384, K = 3 of test_layer: by codebook CRC32 of Wq, samples of Wq, W, y.
LAYER = {
    "3inst": {
        "crc": 0xA86BC8BC,
        "Wq": {(0, 0): -0.5283203125, (0, 1): 0.4208984375, (0, 2): 1.224609375,
               (0, 3): -0.43896484375, (1, 0): 0.392578125, (0, 16): -2.27734375,
               (16, 0): -0.285888671875, (255, 383): 1.58984375},
        "W": {(0, 0): -0.005016811, (0, 1): -0.015686552, (1, 0): 0.003836694,
              (0, 128): 0.003704414, (128, 0): 0.011223860, (127, 383): 0.018843439,
              (255, 383): -0.042101453, (200, 7): 0.019125914},
        "y": {0: -0.0033061, 1: -0.0846332, 2: -0.0455811, 3: 0.3636994, 128: -0.0384749,
              383: 0.2219982},
        "sum": 1.056317, "norm": 4.075852,
    },
    "mcg": {
        "crc": 0x2FDE1DF7,
        "Wq": {(0, 0): 0.24755859375, (0, 1): 1.4560546875, (0, 2): -0.06689453125,
               (0, 3): 0.6025390625, (1, 0): 0.06201171875, (0, 16): -0.7490234375,
               (16, 0): 0.283203125, (255, 383): 0.732421875},
        "W": {(0, 0): -0.024600074, (0, 1): 0.000167683, (1, 0): 0.030218638,
              (0, 128): 0.005200930, (128, 0): 0.021182321, (127, 383): 0.038014218,
              (255, 383): 0.025578015, (200, 7): 0.009489399},
        "y": {0: 0.2809740, 1: -0.1366059, 2: 0.0913975, 3: -0.0869786, 128: -0.0863120,
              383: -0.3838278},
        "sum": -3.502278, "norm": 4.076586,
    },
    "mul1": {
        "crc": 0x12ABDF10,
        "Wq": {(0, 0): 0.038787841796875, (0, 1): -0.448486328125, (0, 2): 1.8525390625,
               (0, 3): 0.05908203125, (1, 0): -0.360595703125, (0, 16): -0.31298828125,
               (16, 0): 1.4736328125, (255, 383): 1.3583984375},
        "W": {(0, 0): 0.006564697, (0, 1): 0.007869874, (1, 0): -0.005098341,
              (0, 128): 0.000570398, (128, 0): 0.011921566, (127, 383): 0.030537469,
              (255, 383): -0.044363051, (200, 7): -0.000220513},
        "y": {0: 0.0164880, 1: 0.0946909, 2: 0.0135075, 3: -0.1614348, 128: -0.1777316,
              383: -0.0636044},
        "sum": 4.332115, "norm": 3.094334,
    },
}


def crc(array):
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def words(text):
    return [int(word, 16) for word in text.split()]


def lines(table):
    return [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]


def trellis(bits, *shape):
    count = int(np.prod(shape))
    i = np.arange(1, count + 1, dtype=np.int64)
    return ((40503 * i + 257 * bits) % 65536).astype(np.uint16).reshape(shape).view(np.int16)


def test_tables():
    for book, (check, low, low_at, high, high_at, mean, rms) in TABLES.items():
        table = exl3.CODEBOOKS[book]
        assert crc(table) == check, book
        wide = table.astype(np.float64)
        assert (wide.min(), wide[low_at], wide.max(), wide[high_at]) == (low, low, high, high)
        assert abs(wide.mean() - mean) < 1e-8 and abs(np.sqrt((wide**2).mean()) - rms) < 1e-8
        assert not np.signbit(wide[wide == 0]).any()


def test_values():
    for line in CODEBOOK_VALUES.strip().splitlines():
        state, *bits = line.split()
        del bits[2]
        for book, want in zip(BOOKS, bits):
            table = exl3.CODEBOOKS[book].view(np.uint16)
            assert table[int(state, 16)] == int(want, 16), (book, state)


def test_places():
    r, c = exl3.tile_places()
    want = {0: (0, 0), 1: (1, 0), 2: (8, 0), 3: (9, 0), 4: (0, 8), 5: (1, 8), 6: (8, 8),
            7: (9, 8), 8: (2, 0), 16: (4, 0), 24: (6, 0), 32: (0, 1), 248: (6, 7), 255: (15, 15)}
    assert all((r[p], c[p]) == place for p, place in want.items())
    assert (8 * (4 * (c & 7) + ((r & 7) >> 1)) + (r & 1) + 2 * (r >> 3) + 4 * (c >> 3)
            == np.arange(256)).all()


def test_tiles():
    for bits, first, last, head, tail, stored_crc, states_crc in lines(TILE_STATES):
        stored = trellis(int(bits), 16 * int(bits))
        unsigned = stored.view(np.uint16)
        assert list(unsigned[:8]) == words(first) and list(unsigned[-2:]) == words(last)
        s = exl3.states(stored)
        assert list(s[:8]) == words(head) and list(s[252:]) == words(tail), bits
        assert crc(stored) == int(stored_crc, 16) and crc(s) == int(states_crc, 16), bits
    for bits, book, first, position_crc, row, tile_crc in lines(TILE_VALUES):
        stored = trellis(int(bits), 1, 1, 16 * int(bits))
        values = exl3.CODEBOOKS[book.lower()][exl3.states(stored[0, 0])]
        assert list(values[:8].view(np.uint16)) == words(first)
        assert crc(values) == int(position_crc, 16), (bits, book)
        tile = exl3.quantized_weight(stored, book.lower())
        assert list(tile[0, :4].view(np.uint16)) == words(row)
        assert crc(tile) == int(tile_crc, 16), (bits, book)


def test_layer():
    i, j = np.arange(256), np.arange(384)
    suh = np.where((i * 40503 >> 13) & 1, -1, 1) * (16 + i % 16) / 1024
    svh = np.where(j % 5 == 0, -1, 1) * (32 + j % 32) / 64
    x = ((((i * 25173 + 13849) % 65536) >> 10) - 32) / 32
    stored = trellis(3, 16, 24, 48)
    for book, want in LAYER.items():
        wq = exl3.quantized_weight(stored, book)
        assert crc(wq) == want["crc"], book
        assert all(wq[at] == value for at, value in want["Wq"].items()), book
        w = exl3.reconstruct(stored, book, suh, svh)
        assert all(abs(w[at] - value) < 1e-9 for at, value in want["W"].items()), book
        y = x @ w
        assert all(abs(y[at] - value) < 1e-7 for at, value in want["y"].items()), book
        assert abs(y.sum() - want["sum"]) < 1e-6 and abs(np.linalg.norm(y) - want["norm"]) < 1e-6


def test_signs():
    signs = exl3.unpack_signs(np.array([0, 0x8001], dtype=np.uint16).view(np.int16))
    assert list(np.flatnonzero(signs < 0)) == [16, 31] and (np.abs(signs) == 1).all()


if __name__ == "__main__":
    tests = [f for name, f in sorted(globals().items()) if name.startswith("test_")]
    for test in tests:
        test()
    print(f"{len(tests)} passed, 0 failed, 0 skipped")
