"""Writes ../data/samplers.json: distributions of the next token after single stages and chains.

    python tests/oracle/record_samplers.py

Slow definitions in float64 over plain lists, one function a stage, written from docs/samplers.md and
not from the C code. A case holds options as SamplerOptions names them, logits, a history, and the
probability of every id. Needs Python alone.
"""
import json
import math
import os
import random

VOCAB = 48
rng = random.Random(20)
LOGITS = [round(rng.gauss(0, 2.5), 3) for _ in range(VOCAB)]
LOGITS[7] = LOGITS[3]  # a tie
LOGITS[5] = max(LOGITS) + 0.25
HISTORY = [rng.randrange(VOCAB) for _ in range(30)] + [9, 4, 17, 22, 9, 4, 17, 30, 1, 9, 4, 17]


def softmax(l, t=1.0):
    m = max(l.values())
    e = {i: math.exp((v - m) / t) for i, v in l.items()}
    s = sum(e.values())
    return {i: v / s for i, v in e.items()}


def ranked(p):
    return sorted(p, key=lambda i: (-p[i], i))


class Chain:
    """Logits by id, and the temperature that turns them into probabilities."""

    def __init__(self, o):
        self.o, self.l, self.t = o, dict(enumerate(LOGITS)), 1.0

    def p(self):
        return softmax(self.l, self.t)

    def keep(self, ids):
        self.l = {i: self.l[i] for i in sorted(ids)}

    def first_of_mass(self, order, p, mass):
        kept, total = [], 0.0
        for i in order:
            if kept and total >= mass:
                break
            kept.append(i)
            total += p[i]
        self.keep(kept)

    def penalties(self):
        o = self.o
        reach, decay = o.get("penalty_range", -1), o.get("penalty_decay", 0)
        strongest, total = {}, {}
        for distance, i in enumerate(reversed(HISTORY)):
            if reach < 0 or distance < reach:
                s = 1.0
            else:
                s = max(0.0, 1 - (distance - reach + 1) / (decay + 1)) if distance < reach + decay else 0.0
            strongest[i] = max(strongest.get(i, 0.0), s)
            total[i] = total.get(i, 0.0) + s
        rep = o.get("repetition", 1.0)
        for i in self.l:
            if strongest.get(i, 0) > 0:
                v = self.l[i]
                full = v / rep if v > 0 else v * rep
                v = v * (1 - strongest[i]) + full * strongest[i]
                self.l[i] = v - o.get("presence", 0) * strongest[i] - o.get("frequency", 0) * total[i]

    def dry(self):
        o = self.o
        if not o.get("dry_multiplier"):
            return
        reach = o.get("dry_range", -1)
        h = HISTORY if reach < 0 else HISTORY[max(0, len(HISTORY) - reach):]
        breakers, longest = set(o.get("breakers", [])), {}
        for end in range(1, len(h)):  # h[end] would follow a match that ends before it
            n = 0
            while n < end and h[end - 1 - n] == h[len(h) - 1 - n] and h[len(h) - 1 - n] not in breakers:
                n += 1
            if n >= o.get("dry_allowed_length", 2):
                longest[h[end]] = max(longest.get(h[end], 0), n)
        for i, n in longest.items():
            if i in self.l and i not in breakers:
                self.l[i] -= o["dry_multiplier"] * o.get("dry_base", 1.75) ** (n - o.get("dry_allowed_length", 2))

    def temperature(self):
        o = self.o
        t = o.get("temperature", 1.0)
        low, high = o.get("dynatemp_min", 0), o.get("dynatemp_max", 0)
        if high > low:
            p = self.p().values()
            h = -sum(v * math.log(v) for v in p if v > 0)
            t = low + (high - low) * (h / math.log(len(self.l))) ** o.get("dynatemp_exponent", 1.0)
        self.t *= t

    def smoothing(self):
        s = self.o.get("smoothing", 0)
        if s:
            m = max(self.l.values())
            self.l = {i: m - s * (m - v) ** 2 for i, v in self.l.items()}

    def top_n_sigma(self):
        n = self.o.get("top_n_sigma", 0)
        if n:
            v = list(self.l.values())
            mean = sum(v) / len(v)
            sigma = math.sqrt(sum((x - mean) ** 2 for x in v) / len(v))
            self.keep([i for i in self.l if self.l[i] >= max(v) - n * sigma])

    def top_k(self):
        k = self.o.get("top_k", 0)
        if k:
            self.keep(ranked(self.l)[:k])

    def top_p(self):
        p = self.p()
        if self.o.get("top_p", 1) < 1:
            self.first_of_mass(ranked(p), p, self.o["top_p"])

    def min_p(self):
        p = self.p()
        self.keep([i for i in p if p[i] >= self.o.get("min_p", 0) * max(p.values())])

    def top_a(self):
        p = self.p()
        self.keep([i for i in p if p[i] >= self.o.get("top_a", 0) * max(p.values()) ** 2])

    def tfs(self):
        z = self.o.get("tfs", 1)
        if z >= 1 or len(self.l) < 3:
            return
        p = self.p()
        order = ranked(p)
        first = [p[a] - p[b] for a, b in zip(order, order[1:])]
        second = [abs(a - b) for a, b in zip(first, first[1:])]
        total, seen, kept = sum(second), 0.0, 0
        for s in second:
            seen += s / total
            if seen > z:
                break
            kept += 1
        self.keep(order[:max(kept, 1)])

    def typical(self):
        mass = self.o.get("typical", 1)
        if mass < 1:
            p = self.p()
            h = -sum(v * math.log(v) for v in p.values() if v > 0)
            self.first_of_mass(sorted(p, key=lambda i: (abs(-math.log(p[i]) - h), i)), p, mass)

    def xtc(self):
        q, threshold = self.o.get("xtc_probability", 0), self.o.get("xtc_threshold", 0.1)
        p = self.p()
        likely = [i for i in p if p[i] >= threshold and i not in self.o.get("protected", [])]
        if not q or len(likely) < 2 or threshold > 0.5:
            return p
        least = min(likely, key=lambda i: (p[i], i))
        # What is left on average when the others go with probability q.
        gone = {i: p[i] for i in p if i not in likely or i == least}
        rest = sum(gone.values())
        return {i: (1 - q) * p[i] + q * (gone[i] / rest if i in gone else 0) for i in p}


STAGES = ["penalties", "dry", "temperature", "smoothing", "top_n_sigma", "top_k", "top_p", "min_p",
          "top_a", "tfs", "typical", "xtc"]


def distribution(o):
    c = Chain(o)
    for i, b in o.get("bias", {}).items():
        c.l[int(i)] += b
    if "allowed" in o:
        c.keep(o["allowed"])
    p = None
    for stage in o.get("order", STAGES):
        p = getattr(c, stage)()
    p = p or c.p()  # of xtc, when it comes last
    if o.get("mirostat") == 2:  # the first draw: mu is twice tau
        kept = [i for i in p if p[i] >= 2 ** (-2 * o["mirostat_tau"])] or ranked(p)[:1]
        total = sum(p[i] for i in kept)
        p = {i: p[i] / total for i in kept}
    if o.get("mirostat") == 1:
        order = ranked(p)
        steps = range(min(99, len(order) - 1))
        t = [math.log((i + 2) / (i + 1)) for i in steps]
        b = [math.log(p[order[i]] / p[order[i + 1]]) for i in steps]
        s = sum(x * y for x, y in zip(t, b)) / sum(x * x for x in t)
        e = s - 1
        k = (e * 2 ** (2 * o["mirostat_tau"]) / (1 - len(order) ** -e)) ** (1 / s)
        kept = order[:min(max(round(k), 1), len(order))]
        total = sum(p[i] for i in kept)
        p = {i: p[i] / total for i in kept}
    if o.get("adaptive_target", 1) < 1:  # the first draw: the average is the target
        x = {i: abs(v - o["adaptive_target"]) / 0.3 for i, v in p.items() if v >= 1e-8}
        p = softmax({i: 5 - 10 * v * v / (1 + v) for i, v in x.items()})
    if o.get("skew"):
        # The uniform draw u becomes u ^ exp(-skew) over the likeliest first.
        edges, total = [0.0], 0.0
        order = ranked(p)
        for i in order:
            total += p[i]
            edges.append(min(total, 1.0) ** math.exp(o["skew"]))
        p = {i: edges[n + 1] - edges[n] for n, i in enumerate(order)}
    return [p.get(i, 0.0) for i in range(VOCAB)]


CASES = {
    "plain": {},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top-k": {"top_k": 5},
    "top-k at a tie": {"top_k": ranked(dict(enumerate(LOGITS))).index(3) + 1},
    "top-p": {"top_p": 0.8},
    "top-p at once": {"top_p": 0.01},
    "min-p": {"min_p": 0.1},
    "four together": {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.05},
    "temperature last": {"temperature": 2.5, "top_p": 0.7, "order": [s for s in STAGES if s not in ("temperature", "xtc")] + ["temperature"]},
    "top-a": {"top_a": 0.3},
    "tfs": {"tfs": 0.9},
    "typical": {"typical": 0.6},
    "top-n-sigma": {"top_n_sigma": 1.0},
    "smoothing": {"smoothing": 0.2},
    "dynamic temperature": {"dynatemp_min": 0.5, "dynatemp_max": 2.0, "dynatemp_exponent": 1.5},
    "repetition": {"repetition": 1.4},
    "repetition in a range": {"repetition": 1.4, "penalty_range": 6, "penalty_decay": 10},
    "presence": {"presence": 0.7},
    "frequency": {"frequency": 0.4},
    "frequency in a range": {"frequency": 0.4, "presence": -0.5, "penalty_range": 3, "penalty_decay": 20},
    "dry": {"dry_multiplier": 1.5, "dry_allowed_length": 2},
    "dry long": {"dry_multiplier": 0.8, "dry_allowed_length": 3, "dry_base": 2.0, "dry_range": 9},
    "dry broken": {"dry_multiplier": 1.5, "dry_allowed_length": 1, "breakers": [4]},
    "xtc": {"xtc_probability": 0.6, "xtc_threshold": 0.05},
    "xtc always": {"xtc_probability": 1.0, "xtc_threshold": 0.05},
    "xtc protected": {"xtc_probability": 0.6, "xtc_threshold": 0.05, "protected": [5]},
    "xtc random": {"xtc_probability": 0.6, "xtc_threshold": 0.05, "xtc_random": 1},
    "bias": {"bias": {"2": 5.0, "5": -3.0}},
    "allowed": {"allowed": [1, 3, 7, 9, 40]},
    "mirostat 2": {"mirostat": 2, "mirostat_tau": 1.5},
    "mirostat 1": {"mirostat": 1, "mirostat_tau": 1.5},
    "adaptive": {"adaptive_target": 0.3},
    "skew": {"skew": 0.5},
    "skew back": {"skew": -0.7, "top_k": 10},
    "all": {"repetition": 1.2, "dry_multiplier": 0.8, "temperature": 1.4, "top_n_sigma": 2.5, "top_k": 30,
            "top_p": 0.97, "min_p": 0.01, "typical": 0.95, "tfs": 0.99, "xtc_probability": 0.4,
            "xtc_threshold": 0.1},
    "another order": {"order": ["top_k", "temperature", "top_p", "penalties"], "top_k": 12,
                      "temperature": 0.8, "top_p": 0.95, "repetition": 1.5},
}

if __name__ == "__main__":
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "samplers.json")
    with open(path, "w") as f:
        json.dump({"logits": LOGITS, "history": HISTORY,
                   "cases": [{"name": n, "options": o, "p": [float(f"{x:.9g}") for x in distribution(o)]}
                             for n, o in CASES.items()]}, f, indent=None, separators=(",", ":"))
        f.write("\n")
