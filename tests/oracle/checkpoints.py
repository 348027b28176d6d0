"""Makes the test checkpoints of tests/models/cases.txt; byte for byte what make_checkpoint.c makes.

The rules (case table, random numbers, sizes) are written down at the head of cases.txt and of
make_checkpoint.c; this is their second reading, so that a slip in one of them shows.

    python checkpoints.py CASE DIR      writes one case
    python checkpoints.py list [TAG]    names the cases
"""

import json
import pathlib
import struct
import sys

import numpy as np

CASES = pathlib.Path(__file__).resolve().parent.parent / "models" / "cases.txt"
GAMMA = 0x9E3779B97F4A7C15
MARKERS = {"mcg": 0xCBAC1FED, "mul1": 0x83DCD12D}
# dtype: numpy type, mantissa bits, exponent bias
FLOATS = {"F16": ("<u2", 10, 15), "BF16": ("<u2", 7, 127), "F32": ("<u4", 23, 127)}


class Case:
    def __init__(self, name, tags):
        self.name, self.tags = name, tags
        self.members = {}  # quoted key -> the member's text
        self.settings = []  # (pattern, name, value)
        self.lines = []  # (name, kind, widths)

    def setting(self, tensor, name):
        for pattern, key, value in reversed(self.settings):
            if key == name and (pattern == "*" or pattern in tensor):
                return value
        raise KeyError(f"{self.name}: {tensor}: no setting {name}")

    def config_text(self):
        return "{\n    " + ",\n    ".join(self.members.values()) + "\n}\n"

    def config(self):
        """config.json, the keys of a text model inside it at the top."""
        config = json.loads(self.config_text())
        return {**config, **config.get("text_config", {})}


def read_cases(path=CASES):
    cases = {}
    case = None
    for line in pathlib.Path(path).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        word, rest = line.split(" ", 1)
        if word == "case":
            name, *tags = rest.split()
            case = cases[name] = Case(name, tags)
        elif word == "like":
            case.members = dict(cases[rest].members)
            case.settings = list(cases[rest].settings)
            case.lines = list(cases[rest].lines)
        elif word == "config":
            case.members[rest[: rest.index('"', 1) + 1]] = rest
        elif word == "without":
            del case.members[rest]
        elif word == "tensor":
            name, kind, *widths = rest.split()
            case.lines.append((name, kind, widths))
        elif word == "drop":
            case.lines = [line for line in case.lines if rest not in line[0]]
        elif word == "for":
            pattern, *pairs = rest.split()
            case.settings += [(pattern, *pair.split("=")) for pair in pairs]
        else:
            raise ValueError(f"{path}: unknown word '{word}'")
    return {name: case for name, case in cases.items() if not name.startswith("base")}


# ---- random numbers -----------------------------------------------------------------------------


def random_words(text, count):
    """r(0) .. r(count - 1) of the stream that belongs to a text."""
    key = 0xCBF29CE484222325
    for byte in text.encode():
        key = (key ^ byte) * 0x100000001B3 % 2**64
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_floats(r, dtype, kind, exponent=0):
    """Encodings of kind ones, signed, scale or spread."""
    element, mantissa, bias = FLOATS[dtype]
    bits = np.dtype(element).itemsize * 8
    sign = (r >> np.uint64(63)).astype(np.int64) << (bits - 1)
    fraction = (r & np.uint64(2**mantissa - 1)).astype(np.int64)
    if kind in ("ones", "signed"):
        value = (bias << mantissa) - (1 << mantissa - 1) + fraction
        return (value | sign if kind == "signed" else value).astype(element)
    if kind == "spread":
        exponent = exponent - ((r >> np.uint64(32)) & np.uint64(3)).astype(np.int64)
    return (sign | (exponent + bias) << mantissa | fraction).astype(element)


def padded(n):
    return (n + 127) // 128 * 128


def scale_exponent(inputs):
    return -4 if inputs < 192 else -5 if inputs < 768 else -6


# ---- tensors ------------------------------------------------------------------------------------


class Maker:
    """Collects (name, dtype, shape, bytes) of one case."""

    def __init__(self, case):
        self.case, self.tensors = case, []

    def add(self, name, dtype, array):
        self.tensors.append((name, dtype, array.shape, array.tobytes()))

    def bits(self, name, *shape):
        r = random_words(f"{self.case.name}/{name}", int(np.prod(shape)))
        self.add(name, "I16", (r & np.uint64(0xFFFF)).astype("<u2").reshape(shape))

    def floats(self, name, dtype, kind, shape, valid, exponent=0):
        r = random_words(f"{self.case.name}/{name}", int(np.prod(shape)))
        array = random_floats(r, dtype, kind, exponent).reshape(shape)
        kept = np.zeros_like(array)
        inside = tuple(slice(n) for n in valid)
        kept[inside] = array[inside]
        self.add(name, dtype, kept)

    def values(self, name, kind, shape, exponent=0):
        self.floats(name, self.case.setting(name.removesuffix(".weight"), "dtype"), kind, shape, shape,
                    exponent)

    def scales(self, key, inputs, outputs):
        form = self.case.setting(key, "scales")
        rows, columns = padded(inputs), padded(outputs)
        small = scale_exponent(inputs)
        if form in ("full", "out"):
            self.floats(key + ".suh", "F16", "scale", (rows,), (rows,), small)
        else:
            self.bits(key + ".su", rows // 16)
        if form in ("full", "in"):
            kind = "signed" if form == "full" else "scale"
            valid = outputs if self.case.setting(key, "padding") == "zero" else columns
            self.floats(key + ".svh", "F16", kind, (columns,), (valid,), small)
        else:
            self.bits(key + ".sv", columns // 16)

    def linear(self, key, inputs, outputs):
        form = self.case.setting(key, "form")
        if form == "absent":
            return
        pads = form in ("exl3", "padded")
        rows, columns = (padded(inputs), padded(outputs)) if pads else (inputs, outputs)
        if form == "exl3":
            width = 16 * int(self.case.setting(key, "bits"))
            self.bits(key + ".trellis", rows // 16, columns // 16, width)
            self.scales(key, inputs, outputs)
            book = self.case.setting(key, "codebook")
            if book in MARKERS:
                self.add(f"{key}.{book}", "I32", np.array(MARKERS[book], dtype="<u4"))
        else:
            dtype = "F16" if pads else self.case.setting(key, "dtype")
            self.floats(key + ".weight", dtype, "spread", (columns, rows), (outputs, inputs),
                        scale_exponent(inputs) + 1)
        bias = self.case.setting(key, "bias")
        if bias == "short":
            self.floats(key + ".bias", "F16", "spread", (outputs,), (outputs,), -1)
        elif bias != "none":
            self.floats(key + ".bias", bias, "spread", (columns,), (outputs,), -1)

    def line(self, key, kind, a, b=0, c=0):
        if kind == "linear":
            self.linear(key, a, b)
        elif kind in ("norm", "norms"):
            self.values(key + ".weight", "ones", (a, b) if kind == "norms" else (a,))
        elif kind == "offset":
            self.values(key + ".weight", "spread", (a,), -3)
        elif kind == "plain":
            self.values(key + ".weight", "spread", (b, a), scale_exponent(a) + 1)
        elif kind == "twins":
            self.values(key + ".weight", "spread", (b, a), scale_exponent(a) + 1)
            name, dtype, shape, data = self.tensors.pop()
            rows = np.frombuffer(data, dtype=FLOATS[dtype][0]).reshape(shape)
            self.add(name, dtype, rows[np.arange(b) // 2 * 2])
        elif kind == "conv":
            self.values(key + ".weight", "spread", (a, 1, b), -1)
        elif kind == "table":
            self.values(key + ".weight", "spread", (a, b), -1)
        elif kind == "values":
            self.values(key, "spread", (a,), -1)
        elif kind == "stack":
            shape = (a, b, c) if c else (a, b)
            self.values(key, "spread", shape, scale_exponent(c) + 1 if c else -1)
        else:
            raise ValueError(f"{self.case.name}: {key}: no kind {kind}")

    def model(self):
        config = self.case.config()
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head = config.get("head_dim") or hidden // heads
        widths = {"hidden": hidden, "heads": heads, "head": head, "q": heads * head,
                  "kv": kv_heads * head, "middle": config.get("intermediate_size"),
                  "vocab": config["vocab_size"]}
        for name, kind, words in self.case.lines:
            sizes = [widths[w] if w in widths else int(w) for w in words]
            for key in expand(name, config["num_hidden_layers"]):
                self.line(key, kind, *sizes)
        return self.tensors


def expand(name, layers):
    """The names that {l} and {a..b} stand for."""
    if "{" not in name:
        return [name]
    before, _, rest = name.partition("{")
    inside, _, after = rest.partition("}")
    first, last = (0, layers - 1) if inside == "l" else map(int, inside.split(".."))
    return [key for i in range(first, last + 1) for key in expand(f"{before}{i}{after}", layers)]


# ---- files --------------------------------------------------------------------------------------


def safetensors_bytes(tensors, header="aligned"):
    """tensors: (name, dtype, shape, bytes) each, stored in that order."""
    entries, offset = {}, 0
    for name, dtype, shape, data in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape),
                         "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(entries, separators=(",", ":")).encode()
    if header == "odd":
        text += b" " * (1 - len(text) % 2)
    else:
        text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors)


def make_checkpoint(case, directory):
    directory = pathlib.Path(directory)
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(case.config_text())
    tensors = Maker(case).model()
    header, shards = case.setting("", "header"), int(case.setting("", "shards"))
    if shards == 1:
        (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors, header))
        return
    names = [f"model-{s + 1:05d}-of-{shards:05d}.safetensors" for s in range(shards)]
    for s, name in enumerate(names):
        (directory / name).write_bytes(safetensors_bytes(tensors[s::shards], header))
    index = {"metadata": {"total_size": sum(len(t[3]) for t in tensors)},
             "weight_map": {t[0]: names[i % shards] for i, t in enumerate(tensors)}}
    text = json.dumps(index, separators=(",", ":")) + "\n"
    (directory / "model.safetensors.index.json").write_text(text)


def input_ids(case, rows=2):
    vocab, tokens = case.config()["vocab_size"], int(case.setting("", "tokens"))
    r = random_words(f"{case.name}/input_ids", rows * tokens)
    return (r % np.uint64(vocab)).astype("<i4").reshape(rows, tokens)


def main(arguments):
    cases = read_cases()
    if arguments[:1] == ["list"] and len(arguments) < 3:
        for case in cases.values():
            if not arguments[1:] or arguments[1] in case.tags:
                print(case.name)
    elif len(arguments) == 2 and arguments[0] in cases:
        make_checkpoint(cases[arguments[0]], arguments[1])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
