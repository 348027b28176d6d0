"""Negative log likelihood of a model directory on a text, by Hugging Face with exactly decoded
weights: windows of BOS and 511 tokens, the text tokenized once without special tokens.

    record_quality.py DIR TEXT [WINDOWS]
"""

import pathlib
import sys

import tokenizers
import torch

import record_logits

directory, text = sys.argv[1], pathlib.Path(sys.argv[2]).read_text()
tokenizer = tokenizers.Tokenizer.from_file(str(pathlib.Path(directory) / "tokenizer.json"))
ids = tokenizer.encode(text, add_special_tokens=False).ids
bos = tokenizer.encode("").ids[0]
windows = len(ids) // 511
if len(sys.argv) > 3:
    windows = min(windows, int(sys.argv[3]))
model = record_logits.load_model(directory).float()
total = 0.0
with torch.no_grad():
    for w in range(windows):
        window = torch.tensor([[bos] + ids[511 * w : 511 * (w + 1)]])
        logits = model(window).logits[0, :-1].double()
        total += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
print(f"nll {total / (511 * windows):.6f} over {511 * windows} tokens")
