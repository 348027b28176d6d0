"""Makes the small tokenizers of tests/data/tokenizers and records what the tokenizers package
(0.22) answers for them.

    python tests/oracle/record_tokenizers.py [DIR]
"""
import json
import os
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

CORPUS = """The quick brown fox jumps over the lazy dog. It's a test, isn't it? We'll see what
they've done with the tokenizers in 2024, 1999 and 12345. Hello world! hello WORLD, Hello. def main():
return 0 naïve café, straße; привет мир, привет. 你好世界 你好 世界 こんにちは 한국어. the the the then there
  indented  lines   with    spaces\nand\n\nnewlines\tand tabs. the end of the test of the tokenizers
""" * 3
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEXTS = [
    "", " ", "  ", "\n", "Hello world", " Hello  world ", "hello\n\n  world\t!",
    "It's IT'S they'll 'ſ", "the tokenizers' tests: 12345 1999 ½ ⅷ ٣",
    "naïve nai\u0308ve café cafe\u0301 straße", "привет, мир", "你好世界！こんにちは 한국어",
    "👩‍👩‍👧‍👦 🇩🇪 ☃️ e\u0301\u0323", "\u00a0nbsp\u3000ideographic\u180emvs\u0085nel\u2028ls",
    "<s>Hello</s> <s> </s>", "a<unk>b <unk> c", "x <mask> y", "x  <mask>  <mask> y",
    "word words sword word", "word", " word", "wordword word,word",
    "ab<left>  <right>  <both>  cd", "  <left><right>  <both>", "▁underscore ▁▁", "Ġword Ċ",
    "<0x41><0x0A>", "\x01\x02\x7f", "a\rb\r\nc", "ABC abc ÀÉÎ İI ΑΣ", "ﬁne ² ① Å",
    "x-y--z---", "foo.bar,baz!?", "1a2bb33ccc444", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "q",
    "Q\u0300Z", "the the the the", " the", "newer: lowercase lowest", "...   ...",
    "日本語 と English を mix する 123 円",
]


def train(tokenizer, size, special, alphabet=()):
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=list(alphabet),
        show_progress=False))
    return tokenizer


def byte_level(pre_tokenizer, special, **options):
    t = Tokenizer(models.BPE(**options))
    t.pre_tokenizer = pre_tokenizer
    t.decoder = decoders.ByteLevel()
    return train(t, 400, special, pre_tokenizers.ByteLevel.alphabet())


def llama3():
    t = byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ["<s>", "</s>"], ignore_merges=True)
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                            processors.TemplateProcessing("<s> $A", None,
                                                                          [("<s>", 0)])])
    return t


def gpt2():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True), ["<s>", "</s>", "<unk>"])
    t.normalizer = normalizers.NFC()
    t.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    return t


def with_bytes(t):
    """The tokens <0x00> to <0xFF> after <unk>, <s> and </s>, as SentencePiece puts them."""
    state = json.loads(t.to_str())
    model = state["model"]
    special = ["<unk>", "<s>", "</s>"]
    pieces = [p for p in sorted(model["vocab"], key=model["vocab"].get) if p not in special]
    order = special + [f"<0x{b:02X}>" for b in range(256)] + pieces
    model["vocab"] = {p: i for i, p in enumerate(order)}
    model["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(state))


def sentencepiece():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never") # so that training sees words
    t = with_bytes(train(t, 300, ["<unk>", "<s>", "</s>"]))
    state = json.loads(t.to_str())
    state["pre_tokenizer"] = None
    for token in state["added_tokens"]:
        token["normalized"] = True
    t = Tokenizer.from_str(json.dumps(state))
    t.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return t


def metaspace(scheme, split):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=scheme == "first"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    t.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    return train(t, 200, ["<unk>", "<s>", "</s>"])


def options():
    """Everything less common at once: normalizers, splits, and added tokens of every kind."""
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(),
                                         normalizers.Strip(left=False, right=True),
                                         normalizers.Replace(Regex(r"\s{2,}"), " "),
                                         normalizers.Replace("ß", "ss")])
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Punctuation("contiguous"),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split(Regex(r"(?<=\d)[a-c&&[^b]]++|[\w&&[^\d]]{2,4}+?z"),
                             "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[-\]\[]|qu?"), "removed"),
        pre_tokenizers.Split(Regex(r"\b[jkx]\B|wor{1}d"), "contiguous", invert=True)])
    t = train(t, 260, ["<unk>", "<s>", "</s>"])
    t.add_tokens([AddedToken("word", single_word=True), AddedToken("Hello", normalized=True),
                  AddedToken("<left>", lstrip=True, normalized=False),
                  AddedToken("<right>", rstrip=True, normalized=False),
                  AddedToken("<both>", lstrip=True, rstrip=True, normalized=False)])
    return t


def record(name, t, root):
    rng = random.Random(name)
    top = max(t.get_vocab(with_added_tokens=True).values())
    cases, decodes = [], []
    for text in TEXTS + [" ".join(rng.sample(TEXTS, 3)) for _ in range(20)]:
        ids = t.encode(text, add_special_tokens=False).ids
        special = t.encode(text).ids
        t.encode_special_tokens = True
        plain = t.encode(text, add_special_tokens=False).ids
        t.encode_special_tokens = False
        cases.append({"text": text, "ids": ids, "special": special, "plain": plain})
    for ids in [c["special"] for c in cases] + [
            [rng.randint(0, top + 1) for _ in range(rng.randint(1, 9))] for _ in range(40)]:
        text = t.decode(ids, skip_special_tokens=False)
        if "\0" not in text:  # which the compiler's JSON refuses
            decodes.append({"ids": ids, "text": text,
                            "skipped": t.decode(ids, skip_special_tokens=True)})
    os.makedirs(f"{root}/{name}", exist_ok=True)
    with open(f"{root}/{name}/tokenizer.json", "w") as f:
        json.dump(json.loads(t.to_str()), f, ensure_ascii=False)
        f.write("\n")
    with open(f"{root}/{name}/vectors.json", "w") as f:
        f.write('{"cases": [\n' + ",\n".join(json.dumps(c) for c in cases))
        f.write('\n], "decodes": [\n' + ",\n".join(json.dumps(d) for d in decodes) + "\n]}\n")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "tests/data/tokenizers"
    for name, t in (("llama3", llama3()), ("gpt2", gpt2()), ("sentencepiece", sentencepiece()),
                    ("metaspace", metaspace("first", True)),
                    ("metaspace-always", metaspace("always", False)), ("options", options())):
        record(name, t, root)


main()
