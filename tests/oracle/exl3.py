"""Reads EXL3 model directories and rebuilds every linear layer in float64.

Written from the format's description alone, so that it can contradict the C code. A weight matrix W
has the shape (in, out), y = x W + bias, and

    W = diag(suh) BH(in) Wq BH(out) diag(svh)

where BH is the block diagonal of 128-point Hadamard matrices divided by sqrt(128) and Wq comes from
the trellis: 16x16 tiles, each a circular stream of 256 K bits; the 16 bits that end with a weight's
own K bits are its state, and a codebook turns a state into an fp16 value. Everything up to Wq is
exact, everything after it is float64.
"""

import json
import pathlib
import struct

import numpy as np

MCG = 0xCBAC1FED
MUL1 = 0x83DCD12D

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "<i1", "U8": "<u1", "BOOL": "<u1",
}


class FormatError(Exception):
    pass


# ---- safetensors --------------------------------------------------------------------------------


class Tensor:
    """A tensor as stored: its dtype tag, its shape, its elements (BF16 as u16)."""

    def __init__(self, dtype, shape, data):
        self.dtype, self.shape, self.data = dtype, tuple(shape), data

    def float64(self):
        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return self.data.astype(np.float64)


def read_safetensors(path):
    """All tensors of one file, by name. Data may start at any byte: every array is a copy."""
    blob = pathlib.Path(path).read_bytes()
    if len(blob) < 8:
        raise FormatError(f"{path}: shorter than a header length")
    (length,) = struct.unpack_from("<Q", blob)
    if length > len(blob) - 8:
        raise FormatError(f"{path}: header of {length} bytes in a file of {len(blob)}")
    header = json.loads(blob[8 : 8 + length].decode("utf-8"))
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind = np.dtype(DTYPES[entry["dtype"]])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        if not 0 <= begin <= end <= len(blob) - 8 - length or end - begin != count * kind.itemsize:
            raise FormatError(f"{path}: {name}: offsets {begin}..{end} do not hold its shape")
        raw = blob[8 + length + begin : 8 + length + end]
        data = np.frombuffer(raw, dtype=kind).reshape(entry["shape"])
        tensors[name] = Tensor(entry["dtype"], entry["shape"], data)
    return tensors


def read_directory(directory):
    """The union of all *.safetensors files; the index file plays no part."""
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        if path.name == "expected.safetensors":
            continue
        for name, tensor in read_safetensors(path).items():
            if name in tensors:
                raise FormatError(f"{path}: {name} occurs twice")
            tensors[name] = tensor
    return tensors


# ---- trellis and codebooks ----------------------------------------------------------------------


def codebook(name):
    """The 65536 fp16 values of a codebook, indexed by state."""
    s = np.arange(65536, dtype=np.uint32)
    if name == "mul1":
        x = s * np.uint32(MUL1)
        b = (x & 255) + ((x >> 8) & 255) + ((x >> 16) & 255) + (x >> 24)
        a, c = np.array([0x1EEE, 0xC931], dtype=np.uint16).view(np.float16).astype(np.float64)
        return ((1024 + b.astype(np.float64)) * a + c).astype(np.float16)
    x = s * np.uint32(MCG) if name == "mcg" else s * np.uint32(89226354) + np.uint32(64248484)
    y = (x & np.uint32(0x8FFF8FFF)) ^ np.uint32(0x3B603B60)
    low = (y & 0xFFFF).astype(np.uint16).view(np.float16)
    high = (y >> 16).astype(np.uint16).view(np.float16)
    return (low.astype(np.float64) + high.astype(np.float64)).astype(np.float16)


CODEBOOKS = {name: codebook(name) for name in ("3inst", "mcg", "mul1")}


def states(trellis):
    """(..., 16 K) stored u16 elements to (..., 256) states by position."""
    elements = np.ascontiguousarray(trellis).view(np.uint16)
    bits_per_weight = elements.shape[-1] // 16
    stream = elements.reshape(*elements.shape[:-1], -1, 2)[..., ::-1]  # group m lies in e[m ^ 1]
    stream = np.ascontiguousarray(stream, dtype=">u2").view(np.uint8)
    bits = np.unpackbits(stream.reshape(*elements.shape[:-1], -1), axis=-1)  # MSB first
    total = 256 * bits_per_weight
    position = np.arange(256)
    result = np.zeros(bits.shape[:-1] + (256,), dtype=np.uint16)
    for m in range(16):
        where = ((position + 1) * bits_per_weight - 16 + m) % total
        result |= bits[..., where].astype(np.uint16) << np.uint16(15 - m)
    return result


def tile_places():
    """Row and column inside a tile of each position."""
    p = np.arange(256)
    lane, j = p >> 3, p & 7
    return 2 * (lane & 3) + (j & 1) + 8 * ((j >> 1) & 1), (lane >> 2) + 8 * (j >> 2)


def quantized_weight(trellis, book):
    """(in/16, out/16, 16 K) to Wq (in, out), fp16."""
    values = CODEBOOKS[book][states(trellis)]
    rows, columns = trellis.shape[:2]
    tiles = np.empty((rows, columns, 16, 16), dtype=np.float16)
    r, c = tile_places()
    tiles[:, :, r, c] = values
    return tiles.transpose(0, 2, 1, 3).reshape(16 * rows, 16 * columns)


# ---- whole layers -------------------------------------------------------------------------------


def hadamard(n=128):
    """The orthogonal Sylvester matrix: (-1)^popcount(i & j) / sqrt(n)."""
    h = np.ones((1, 1))
    while h.shape[0] < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


H128 = hadamard()


def rotate_columns(w):
    """w BH for a w whose last dimension is a multiple of 128."""
    return (w.reshape(w.shape[0], -1, 128) @ H128).reshape(w.shape)


def reconstruct(trellis, book, suh, svh):
    """The weight (in, out) that the tensors of one layer stand for, float64, padding included."""
    w = quantized_weight(trellis, book).astype(np.float64)
    w = rotate_columns(rotate_columns(w).T).T
    return suh[:, None] * w * svh[None, :]


def unpack_signs(packed):
    """Legacy su/sv: bit b of element w is channel 16 w + b; 1 means -1."""
    words = np.ascontiguousarray(packed).view(np.uint16)
    bits = (words[:, None] >> np.arange(16, dtype=np.uint16)) & 1
    return 1.0 - 2.0 * bits.reshape(-1).astype(np.float64)


def padded(n):
    return (n + 127) // 128 * 128


class Directory:
    """The tensors of a model directory; remembers which ones were used."""

    def __init__(self, directory):
        self.tensors = read_directory(directory)
        self.used = set()

    def take(self, name):
        self.used.add(name)
        return self.tensors[name]

    def has(self, name):
        return name in self.tensors

    def is_exl3(self, key):
        sides = [self.has(key + ".suh") or self.has(key + ".su"),
                 self.has(key + ".svh") or self.has(key + ".sv")]
        return self.has(key + ".trellis") and all(sides)

    def has_linear(self, key):
        return self.is_exl3(key) or self.has(key + ".weight")

    def scale(self, full, packed, channels):
        if self.has(full):
            tensor = self.take(full)
            if tensor.dtype != "F16":
                raise FormatError(f"{full}: {tensor.dtype}, expected F16")
            scale = tensor.float64()
        else:
            scale = unpack_signs(self.take(packed).data)
        if scale.shape != (channels,):
            raise FormatError(f"{full}: shape {scale.shape}, expected ({channels},)")
        return scale

    def book(self, key):
        marks = [m for m in ("mcg", "mul1") if self.has(f"{key}.{m}")]
        if len(marks) > 1:
            raise FormatError(f"{key}: two codebook markers")
        for mark in marks:
            value = int(self.take(f"{key}.{mark}").data) & 0xFFFFFFFF
            if value != {"mcg": MCG, "mul1": MUL1}[mark]:
                raise FormatError(f"{key}.{mark}: unknown multiplier {value:#x}")
        return marks[0] if marks else "3inst"

    def linear(self, key, inputs, outputs):
        """(W, bias): W float64 (inputs, outputs), bias float64 (outputs,) or None."""
        if self.is_exl3(key):
            trellis = self.take(key + ".trellis")
            if trellis.dtype != "I16" or len(trellis.shape) != 3 or trellis.shape[2] % 16:
                raise FormatError(f"{key}.trellis: {trellis.dtype} {trellis.shape}")
            if not 1 <= trellis.shape[2] // 16 <= 8:
                raise FormatError(f"{key}.trellis: {trellis.shape[2] // 16} bits")
            rows, columns = 16 * trellis.shape[0], 16 * trellis.shape[1]
            suh = self.scale(key + ".suh", key + ".su", rows)
            svh = self.scale(key + ".svh", key + ".sv", columns)
            weight = reconstruct(trellis.data, self.book(key), suh, svh)
        else:
            weight = self.take(key + ".weight").float64().T
        for have, want in zip(weight.shape, (inputs, outputs)):
            if have != want and have != padded(want):
                raise FormatError(f"{key}: {weight.shape}, expected ({inputs}, {outputs})")
        weight = weight[:inputs, :outputs]
        bias = None
        if self.has(key + ".bias"):
            bias = self.take(key + ".bias").float64()
            if bias.shape not in ((outputs,), (padded(outputs),)):
                raise FormatError(f"{key}.bias: shape {bias.shape}")
            bias = bias[:outputs]
        return weight, bias
