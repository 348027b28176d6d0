"""Records what Hugging Face transformers computes for the test checkpoints, in float64.

    python record_logits.py [-o DIR] [CASE...]    writes DIR/CASE.safetensors, all cases by default
    python record_logits.py --check DIR...        model directories with an expected.safetensors:
                                                  prints how far our computation is from theirs

The weights come from exl3.py; the model is the class that config.json names, in float64 with eager
attention. Where transformers itself goes down to float32 (norms, softmax, rotary angles) it stays.
"""

import argparse
import copy
import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers

import checkpoints
import exl3

# Of hidden.* only these positions are kept, to keep the files small.
HIDDEN_POSITIONS = (0, 16, 47)


def build_config(directory, stored_head):
    values = json.loads((pathlib.Path(directory) / "config.json").read_text())
    values.pop("quantization_config", None)
    model_class = getattr(transformers, values["architectures"][0])
    if stored_head:
        values["tie_word_embeddings"] = False  # a stored head wins over the flag
    config = model_class.config_class.from_dict(copy.deepcopy(values))
    config._attn_implementation = "eager"
    return model_class, config


def load_model(directory):
    """The model of a directory in float64, every parameter set from a stored tensor."""
    files = exl3.Directory(directory)
    model_class, config = build_config(directory, files.has_linear("lm_head"))
    model = model_class(config).double().eval()
    assert model.config._attn_implementation == "eager"
    missing = {name for name, _ in model.named_parameters()}

    def put(name, parameter, values):
        assert tuple(parameter.shape) == values.shape, (name, parameter.shape, values.shape)
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(values)))
        missing.discard(name)

    for key, module in model.named_modules():
        own = dict(module.named_parameters(prefix=key, recurse=False))
        if isinstance(module, torch.nn.Linear):
            if key == "lm_head" and not files.has_linear(key):
                assert config.tie_word_embeddings
                assert module.weight is model.model.embed_tokens.weight
                continue
            weight, bias = files.linear(key, module.in_features, module.out_features)
            put(key + ".weight", module.weight, weight.T)
            assert (bias is None) == (module.bias is None), f"{key}: bias"
            if bias is not None:
                put(key + ".bias", module.bias, bias)
        else:
            for name, parameter in own.items():
                put(name, parameter, files.take(name).float64())
    assert not missing, f"{directory}: not stored: {sorted(missing)}"
    unused = set(files.tensors) - files.used
    assert not unused, f"{directory}: not used: {sorted(unused)}"
    return model


def forward(model, ids):
    """logits (rows, tokens, vocab) and the list of hidden states: the embedding's output, every
    layer's output but the last, and the last after the final norm."""
    seen = []
    hooks = []
    inner = model.model
    for module in [inner.embed_tokens, *inner.layers[:-1], inner.norm]:
        hooks.append(module.register_forward_hook(
            lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out)))
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids.astype(np.int64)), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits.numpy(), [hidden.numpy() for hidden in seen]


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def record(case, output):
    ids = checkpoints.input_ids(case)
    with tempfile.TemporaryDirectory() as directory:
        checkpoints.make_checkpoint(case, directory)
        logits, hidden = forward(load_model(directory), ids)
    assert np.isfinite(logits).all()
    at = list(HIDDEN_POSITIONS)
    arrays = [("input_ids", "I32", ids), ("hidden_positions", "I32", np.array(at)),
              ("logits", "F32", logits[:1]), ("logits_last", "F32", logits[:, -1])]
    arrays += [(f"hidden.{i}", "F32", h[:1, at]) for i, h in enumerate(hidden)]
    tensors = [(name, dtype, array.shape, array.astype(exl3.DTYPES[dtype]).tobytes())
               for name, dtype, array in arrays]
    (output / f"{case.name}.safetensors").write_bytes(checkpoints.safetensors_bytes(tensors))
    rms = [float(np.sqrt((h**2).mean())) for h in (*hidden, logits)]
    print(f"{case.name}: rms of hidden states and logits", " ".join(f"{v:.2f}" for v in rms))


def check(directory):
    expected = exl3.read_safetensors(pathlib.Path(directory) / "expected.safetensors")
    want = {name: tensor.float64() for name, tensor in expected.items()}
    logits, hidden = forward(load_model(directory), expected["input_ids"].data)
    logits = logits[: len(want["logits"])]
    each = max(relative(a, b) for a, b in zip(logits.reshape(-1, logits.shape[-1]),
                                              want["logits"].reshape(-1, logits.shape[-1])))
    at = list(expected["hidden_positions"].data) if "hidden_positions" in expected else slice(None)
    worst = max(relative(h[:1, at], want[f"hidden.{i}"]) for i, h in enumerate(hidden))
    assert f"hidden.{len(hidden)}" not in want
    print(f"{pathlib.Path(directory).name}: logits {relative(logits, want['logits']):.2e}, "
          f"worst position {each:.2e}, worst hidden state {worst:.2e}")


def main():
    parser = argparse.ArgumentParser(description="records or checks reference logits")
    parser.add_argument("--check", action="store_true", help="compare with expected.safetensors")
    parser.add_argument("-o", metavar="DIR", default=checkpoints.CASES.parent / "expected")
    parser.add_argument("names", nargs="*", metavar="CASE|DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if arguments.check:
        for directory in arguments.names:
            check(directory)
        return
    cases = checkpoints.read_cases()
    unknown = set(arguments.names) - set(cases)
    if unknown:
        sys.exit(f"no such case: {' '.join(sorted(unknown))}")
    output = pathlib.Path(arguments.o)
    output.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or cases:
        record(cases[name], output)


if __name__ == "__main__":
    main()
