"""Compares runtime/tokens.c with the tokenizers package (0.22) on random Unicode.

    python tests/clients/tokenizers.py --driver build/tests/tokens_driver DIR...

Each DIR holds a tokenizer.json. Encoding is compared with and without special tokens around the
text and with special tokens taken as text; decoding on the same ids and on random ones. Prints the
first differences and exits 1 when there are any.
"""
import argparse
import random
import subprocess
import sys
import unicodedata

sys.path.pop(0)  # this directory, where this file would hide the package
from tokenizers import Tokenizer  # noqa: E402

WORDS = """the The THE and don't I'll we've it's HELLO'S 'Tis 'ſ straße naïve café Ωmega привет мир
שלום سلام नमस्ते ภาษาไทย 你好世界 こんにちは カタカナ 한국어 각 ﬁne ２０２４ ½ ⅷ x² 12345 3.14 1,000,000 0x1F
http://a.b/c?d=e&f foo_bar fooBar for(i=0;i<n;i++){} <s> </s> <0x41> ▁ ▁▁ Ġ İstanbul K ſ""".split()
RANGES = [(0x20, 0x7e), (0x20, 0x7e), (0x1, 0x1f), (0x7f, 0xff), (0x100, 0x24f), (0x300, 0x36f),
          (0x370, 0x3ff), (0x400, 0x4ff), (0x590, 0x5f4), (0x600, 0x6ff), (0x900, 0x97f),
          (0xe00, 0xe5b), (0x1100, 0x11ff), (0x1e00, 0x1eff), (0x2000, 0x206f), (0x2070, 0x218f),
          (0x2190, 0x23ff), (0x2460, 0x24ff), (0x2500, 0x27bf), (0x3000, 0x30ff), (0x4e00, 0x9fff),
          (0xac00, 0xd7a3), (0xe000, 0xe010), (0xfb00, 0xfb4f), (0xfe00, 0xfe0f), (0xff00, 0xffef),
          (0x1d400, 0x1d7ff), (0x1f100, 0x1f1ff), (0x1f300, 0x1faff), (0x20000, 0x20100),
          (0xe0000, 0xe007f), (0x10fff0, 0x10ffff)]
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028",
          "\u0085", "\u180e", "\u200b", "\u200d", "\v", "\f", "        ", "\x1c"]


def assigned(c):
    # Code points newer than the oldest of the Unicode tables involved would only compare those.
    return unicodedata.ucd_3_2_0.category(chr(c)) != "Cn" or (
        unicodedata.category(chr(c)) != "Cn" and c >= 0x1f000)


def random_text(rng, added):
    parts = []
    for _ in range(rng.randint(0, 12)):
        kind = rng.random()
        if kind < 0.3:
            parts.append(rng.choice(WORDS))
        elif kind < 0.5:
            parts.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 5]))
        elif kind < 0.6 and added:
            parts.append(rng.choice(added))
        elif kind < 0.65:
            parts.append(rng.choice("aA1!'. \n") * rng.randint(1, 40))
        else:
            low, high = rng.choice(RANGES)
            for _ in range(rng.randint(1, 6)):
                c = rng.randint(low, high)
                if assigned(c) and not 0xd800 <= c < 0xe000:
                    parts.append(chr(c))
                if rng.random() < 0.1:
                    parts.append(chr(rng.randint(0x300, 0x345)))
        if rng.random() < 0.5:
            parts.append(" ")
    return "".join(parts)


def ask(driver, directory, requests):
    run = subprocess.run([driver, directory], input="\n".join(requests) + "\n",
                         capture_output=True, text=True)
    answers = run.stdout.split("\n")[:-1]
    if run.returncode or len(answers) != len(requests):
        sys.exit(f"{directory}: driver exited {run.returncode} after {len(answers)} of "
                 f"{len(requests)} requests: {run.stderr.strip()}")
    return answers


def compare(driver, directory, count, seed):
    package = Tokenizer.from_file(f"{directory}/tokenizer.json")
    package.no_truncation()
    package.no_padding()
    rng = random.Random(seed)
    added = [t.content for t in package.get_added_tokens_decoder().values()]
    requests, expected, shown = [], [], []

    def add(request, answer, what):
        requests.append(request)
        expected.append(answer)
        shown.append(what)

    def add_decode(ids):
        for skip in (0, 1):
            text = package.decode(ids, skip_special_tokens=bool(skip))
            add(f"d {skip} " + " ".join(map(str, ids)), text.encode().hex(), f"decode {ids}")

    for i in range(count):
        text = random_text(rng, added)
        code = text.encode().hex()
        ids = package.encode(text, add_special_tokens=False).ids
        add("e " + code, " ".join(map(str, ids)), f"encode {text!r}")
        special = package.encode(text, add_special_tokens=True).ids
        add("s " + code, " ".join(map(str, special)), f"encode with special {text!r}")
        package.encode_special_tokens = True
        plain = package.encode(text, add_special_tokens=False).ids
        package.encode_special_tokens = False
        add("p " + code, " ".join(map(str, plain)), f"encode as text {text!r}")
        add_decode(ids)
        top = max(package.get_vocab(with_added_tokens=True).values()) if i == 0 else top
        add_decode([rng.randint(0, top + 2 if rng.random() < 0.1 else top)
                    for _ in range(rng.randint(0, 12))])
        low = min(top, 600) # where the tokens of single bytes usually are
        add_decode([rng.randint(0, low) for _ in range(rng.randint(0, 12))])

    different = 0
    for request, found, wanted, what in zip(requests, ask(driver, directory, requests), expected,
                                            shown):
        if found != wanted:
            different += 1
            if different <= 5:
                print(f"{directory}: {what}\n  expected {wanted[:300]}\n  found    {found[:300]}")
    print(f"{directory}: {len(requests)} compared, {different} different")
    return different


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--driver", required=True)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("dirs", nargs="+")
    args = parser.parse_args()
    failed = sum(compare(args.driver, d, args.count, args.seed) > 0 for d in args.dirs)
    print(f"{len(args.dirs) - failed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


main()
