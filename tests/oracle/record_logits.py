"""Records what Hugging Face transformers computes for the test checkpoints, in float64.

    python record_logits.py [-o DIR] [CASE...]    writes DIR/CASE.safetensors, all cases by default
    python record_logits.py --check DIR...        model directories with an expected.safetensors:
                                                  prints how far our computation is from theirs
    python record_logits.py --check --fp16-cache DIR...   with keys and values as a cache holds them
    python record_logits.py --tie DIR...          adds logits_tied: row 0 with its closest choice of
                                                  an expert made the other way

The weights come from exl3.py; the model is the class that config.json names, in float64 with eager
attention. Where transformers itself goes down to float32 (norms, softmax, rotary angles) it stays.
"""

import argparse
import contextlib
import copy
import json
import pathlib
import sys
import tempfile
import types

import numpy as np
import torch
import transformers

import checkpoints
import exl3

# Of hidden.* only these positions are kept, to keep the files small.
HIDDEN_POSITIONS = (0, 16, 47)
# Scores of experts that are closer than this change places within the accuracy limits, and the
# logits jump; keys and values in fp16 suffice.
LEAST_MARGIN = 2e-4


# Families whose class is not in transformers but computes as another one.
SAME_AS = {"MiMoForCausalLM": "Qwen2ForCausalLM", "DeciLMForCausalLM": "LlamaForCausalLM",
           "Ernie4_5_ForCausalLM": "Ernie4_5ForCausalLM"}
# Linear layers that the model has in one piece and the files in several.
PIECES = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
# Where the text model of a multimodal checkpoint is: its names here begin with "model.".
ROOTS = ("model.language_model.", "language_model.model.")
# Parts of a checkpoint that are no part of the text model.
NOT_READ = ("vision_", "multi_modal_projector.", "model.visual.", "visual.", "mtp.")


# Text models for which transformers has no class with a head.
TEXT_MODELS = {"glm4v_text": "Glm4vTextModel", "glm4v_moe_text": "Glm4vMoeTextModel",
               "qwen2_5_vl_text": "Qwen2_5_VLTextModel", "qwen3_vl_text": "Qwen3VLTextModel",
               "qwen3_vl_moe_text": "Qwen3VLMoeTextModel"}


# Configs that may have the text model's keys at the top.
FLAT = {"qwen2_5_vl": "qwen2_5_vl_text"}


class WithHead(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.model = getattr(transformers, TEXT_MODELS[config.model_type])(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.config = config
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids, use_cache):
        states = self.model(input_ids=input_ids, use_cache=use_cache).last_hidden_state
        return types.SimpleNamespace(logits=self.lm_head(states))


def build_config(directory, stored_head):
    values = json.loads((pathlib.Path(directory) / "config.json").read_text())
    values.pop("quantization_config", None)
    architecture = values["architectures"][0]
    if values["model_type"] in FLAT and "text_config" not in values:
        values["text_config"] = {**values, "model_type": FLAT[values["model_type"]]}
    if "text_config" in values:
        tied = values.get("tie_word_embeddings", False)
        values = {"tie_word_embeddings": tied, **values["text_config"]}
        values["model_type"] = values["model_type"].replace("kimi_k2", "deepseek_v3")
        config_class = transformers.CONFIG_MAPPING[values["model_type"]]
        known = values["model_type"] not in TEXT_MODELS
        model_class = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[config_class] if known else WithHead
    else:
        model_class = getattr(transformers, SAME_AS.get(architecture, architecture))
        config_class = model_class.config_class
    if stored_head:
        values["tie_word_embeddings"] = False  # a stored head wins over the flag
    if architecture == "DeciLMForCausalLM":
        del values["num_key_value_heads"], values["intermediate_size"]
    config = config_class.from_dict(copy.deepcopy(values))
    config._attn_implementation = config._experts_implementation = "eager"
    return model_class, config


def shape_layers(model, config):
    """DeciLM: Llama's layers with widths of their own, and without the parts that are left out."""
    for l, block in enumerate(config.block_configs):
        own, attention, ffn = copy.copy(config), block["attention"], block["ffn"]
        if not attention["no_op"]:
            own.num_key_value_heads = config.num_attention_heads // attention["n_heads_in_group"]
        if not ffn["no_op"]:
            width = int(2 * ffn["ffn_mult"] * config.hidden_size / 3)
            own.intermediate_size = (width + 255) // 256 * 256
        layer = model.model.layers[l] = type(model.model.layers[l])(own, l)
        if attention["no_op"]:
            layer.input_layernorm = torch.nn.Identity()
            layer.self_attn = torch.nn.Identity()
            layer.self_attn.forward = lambda hidden_states, **_: (hidden_states * 0, None)
        if ffn["no_op"]:
            layer.post_attention_layernorm = torch.nn.Identity()
            layer.mlp = torch.nn.Identity()
            layer.mlp.forward = lambda x: x * 0


def read_linear(files, key, module, config):
    """weight (in, out) and bias of a linear layer, put together from its pieces if need be."""
    parent, _, name = key.rpartition(".")
    if files.has_linear(key) or name not in PIECES:
        return files.linear(key, module.in_features, module.out_features)
    widths = [module.out_features // 2] * 2
    if name == "qkv_proj":
        heads = [config.num_attention_heads, *[config.num_key_value_heads] * 2]
        widths = [module.out_features * n // sum(heads) for n in heads]
    parts = [files.linear(f"{parent}.{piece}", module.in_features, width)
             for piece, width in zip(PIECES[name], widths)]
    return np.concatenate([weight for weight, _ in parts], axis=1), None


# Other names of an expert's parts, and where some families keep the tensors of their routers.
W_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
MOVED = {"gate.moe_statics.": "moe_statics.", ".mlp.e_score": ".block_sparse_moe.e_score",
         ".mlp.experts.": ".block_sparse_moe.experts.",
         ".mlp.gate.": ".block_sparse_moe.gate."}


STACKED = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")


def moved(files, name):
    for old, new in MOVED.items():
        if name not in files.tensors and name.replace(old, new) in files.tensors:
            return name.replace(old, new)
    return name


def read_values(files, name, parameter):
    return files.take(moved(files, name)).float64().reshape(tuple(parameter.shape))


def read_experts(files, key, config):
    """The stacked tensors of all experts, as the family's class has them."""
    stacked = [name for name in STACKED if f"{key}.{name}" in files.tensors]
    if stacked:
        turn = config.model_type == "qwen3_vl_moe_text"  # its files have inputs before outputs
        values = {name: files.take(f"{key}.{name}").float64() for name in stacked}
        return {name: v.transpose(0, 2, 1) if turn else v for name, v in values.items()}
    count = getattr(config, "num_local_experts", None) or config.num_experts
    width = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    hidden, names = config.hidden_size, {n: n for n in W_NAMES}
    if not files.has_linear(f"{key}.0.gate_proj"):
        key, names = key.replace(".mlp.", ".block_sparse_moe."), W_NAMES
    parts = [[files.linear(f"{key}.{e}.{names[name]}", inputs, outputs)
              for name, inputs, outputs in (("gate_proj", hidden, width), ("up_proj", hidden, width),
                                            ("down_proj", width, hidden))] for e in range(count)]
    gate, up, down = (np.stack([p[i][0] for p in parts]) for i in range(3))
    if parts[0][0][1] is None:
        both = np.concatenate([gate, up], axis=2).transpose(0, 2, 1)
        return {"gate_up_proj": both, "down_proj": down.transpose(0, 2, 1)}
    gate_bias, up_bias, down_bias = (np.stack([p[i][1] for p in parts]) for i in range(3))
    return {"gate_up_proj": np.stack([gate, up], axis=3).reshape(count, hidden, 2 * width),
            "gate_up_proj_bias": np.stack([gate_bias, up_bias], axis=2).reshape(count, 2 * width),
            "down_proj": down, "down_proj_bias": down_bias}


def load_model(directory):
    """The model of a directory in float64, every parameter set from a stored tensor."""
    files = exl3.Directory(directory)
    root = next((r for r in ROOTS if f"{r}embed_tokens.weight" in files.tensors), "model.")
    head = "language_model.lm_head" if root == "language_model.model." else "lm_head"
    model_class, config = build_config(directory, files.has_linear(head))
    model = model_class(config)
    if hasattr(config, "block_configs"):
        shape_layers(model, config)
    model = model.double().eval()
    assert model.config._attn_implementation == "eager"
    missing = {name for name, _ in model.named_parameters()}

    def stored(name):
        if name == "lm_head":
            return head
        return root + name.removeprefix("model.") if name.startswith("model.") else name

    def put(name, parameter, values):
        assert tuple(parameter.shape) == values.shape, (name, parameter.shape, values.shape)
        parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(values)))
        missing.discard(name)

    for key, module in model.named_modules():
        own = dict(module.named_parameters(prefix=key, recurse=False))
        if isinstance(module, torch.nn.Linear):
            if key == "lm_head" and not files.has_linear(head):
                assert config.tie_word_embeddings
                assert module.weight is model.model.embed_tokens.weight
                continue
            weight, bias = read_linear(files, stored(key), module, config)
            put(key + ".weight", module.weight, weight.T)
            assert (bias is None) == (module.bias is None), f"{key}: bias"
            if bias is not None:
                put(key + ".bias", module.bias, bias)
        elif key.endswith(".experts"):
            for name, values in read_experts(files, stored(key), config).items():
                put(f"{key}.{name}", own[f"{key}.{name}"], values)
        else:
            own.update(module.named_buffers(prefix=key, recurse=False))
            for name, parameter in own.items():
                if name.endswith("_bias") or name in missing:
                    put(name, parameter, read_values(files, stored(name), parameter))
    assert not missing, f"{directory}: not stored: {sorted(missing)}"
    unused = {name for name in set(files.tensors) - files.used if not name.startswith(NOT_READ)}
    assert not unused, f"{directory}: not used: {sorted(unused)}"
    return model


@contextlib.contextmanager
def watch_routers(shape):
    """For each token the least difference between the last score that a router chose and the first
    that it left; infinite without routers, and where the two are equal: then the first of them is
    chosen, as torch does on a GPU (on the CPU it takes either)."""
    least, topk = np.full(shape, np.inf), torch.topk

    def watch(scores, k, *args, **kwargs):
        if scores.shape[0] != least.size or scores.shape[-1] <= k:
            return topk(scores, k, *args, **kwargs)
        values, indices = scores.detach().sort(dim=-1, descending=True, stable=True)
        margin = (values[:, k - 1] - values[:, k]).double().reshape(shape).numpy()
        np.minimum(least, np.where(margin > 0, margin, np.inf), out=least)
        return torch.return_types.topk((scores.gather(-1, indices[:, :k]), indices[:, :k]))

    torch.topk = watch
    try:
        yield least
    finally:
        torch.topk = topk


@contextlib.contextmanager
def turn_choice(row, position, shape):
    """The routers' choices of that token that are closer than LEAST_MARGIN are made the other way."""
    topk = torch.topk

    def turn(scores, k, *args, **kwargs):
        chosen = topk(scores, k, *args, **kwargs)
        if scores.shape[0] != np.prod(shape) or scores.shape[-1] <= k:
            return chosen
        at = row * shape[1] + position
        values, indices = topk(scores[at], k + 1)
        if values[k - 1] - values[k] < LEAST_MARGIN:
            chosen.values[at, -1], chosen.indices[at, -1] = values[k], indices[k]
        return chosen

    torch.topk = turn
    try:
        yield
    finally:
        torch.topk = topk


@contextlib.contextmanager
def fp16_cache(model):
    """Keys and values pass through fp16 before attention reads them."""
    module = sys.modules[type(model).__module__]
    attend = module.eager_attention_forward

    def rounded(layer, query, key, value, *args, **kwargs):
        key, value = (x.half().to(x.dtype) for x in (key, value))
        return attend(layer, query, key, value, *args, **kwargs)

    module.eager_attention_forward = rounded
    try:
        yield
    finally:
        module.eager_attention_forward = attend


def forward(model, ids):
    """logits (rows, tokens, vocab) and the list of hidden states: the embedding's output, every
    layer's output but the last, and the last after the final norm."""
    seen = []
    inner = model.model

    def see(_, __, out):
        seen.append(out[0] if isinstance(out, tuple) else out)

    def see_input(_, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    hooks = [inner.layers[0].register_forward_pre_hook(see_input, with_kwargs=True)]
    for module in [*inner.layers[:-1], inner.norm]:
        hooks.append(module.register_forward_hook(see))
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids.astype(np.int64)), use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return logits.numpy(), [hidden.numpy() for hidden in seen]


def relative(a, b):
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def write_arrays(path, arrays):
    tensors = [(name, dtype, array.shape, array.astype(exl3.DTYPES[dtype]).tobytes())
               for name, dtype, array in arrays]
    path.write_bytes(checkpoints.safetensors_bytes(tensors))


def record(case, output):
    ids = checkpoints.input_ids(case)
    with tempfile.TemporaryDirectory() as directory:
        checkpoints.make_checkpoint(case, directory)
        with watch_routers(ids.shape) as margins:
            logits, hidden = forward(load_model(directory), ids)
    assert np.isfinite(logits).all()
    margin = min(margins[0].min(), margins[:, -1].min())  # of the positions that are compared
    assert margin > LEAST_MARGIN, f"{case.name}: a router is close to a tie, by {margin:.1e}"
    at = list(HIDDEN_POSITIONS)
    arrays = [("input_ids", "I32", ids), ("hidden_positions", "I32", np.array(at)),
              ("logits", "F32", logits[:1]), ("logits_last", "F32", logits[:, -1])]
    arrays += [(f"hidden.{i}", "F32", h[:1, at]) for i, h in enumerate(hidden)]
    write_arrays(output / f"{case.name}.safetensors", arrays)
    rms = [float(np.sqrt((h**2).mean())) for h in (*hidden, logits)]
    print(f"{case.name}: rms of hidden states and logits", " ".join(f"{v:.2f}" for v in rms))
    if np.isfinite(margin):
        print(f"  routers decide by {margin:.1e} or more")


def record_tie(directory):
    path = pathlib.Path(directory) / "expected.safetensors"
    expected = exl3.read_safetensors(path)
    ids = expected["input_ids"].data
    model = load_model(directory)
    with watch_routers(ids.shape) as margins:
        forward(model, ids)
    position = int(margins[0].argmin())
    assert margins[0, position] < LEAST_MARGIN, f"{directory}: no router is close to a tie"
    with turn_choice(0, position, ids.shape):
        logits, _ = forward(model, ids)
    expected.pop("logits_tied", None)
    arrays = [(name, tensor.dtype, tensor.data) for name, tensor in expected.items()]
    arrays.append(("logits_tied", "F32", logits[:1]))
    write_arrays(path, arrays)
    print(f"{path.parent.name}: the other way at position {position}, "
          f"decided by {margins[0, position]:.1e}")


def check(directory, fp16):
    expected = exl3.read_safetensors(pathlib.Path(directory) / "expected.safetensors")
    want = {name: tensor.float64() for name, tensor in expected.items()}
    ids = expected["input_ids"].data
    model = load_model(directory)
    with watch_routers(ids.shape) as margins, fp16_cache(model) if fp16 else contextlib.nullcontext():
        logits, hidden = forward(model, ids)
    if "logits_tied" in want:
        print(f"row 0 with the tie the other way: {relative(logits[:1], want['logits_tied']):.2e}")
    logits = logits[: len(want["logits"])]
    each = max(relative(a, b) for a, b in zip(logits.reshape(-1, logits.shape[-1]),
                                              want["logits"].reshape(-1, logits.shape[-1])))
    at = list(expected["hidden_positions"].data) if "hidden_positions" in expected else slice(None)
    worst = max(relative(h[:1, at], want[f"hidden.{i}"]) for i, h in enumerate(hidden))
    assert f"hidden.{len(hidden)}" not in want
    print(f"{pathlib.Path(directory).name}: logits {relative(logits, want['logits']):.2e}, "
          f"worst position {each:.2e}, worst hidden state {worst:.2e}")
    for row, position in np.argwhere(margins < LEAST_MARGIN):
        print(f"  row {row} position {position}: a router decides by {margins[row, position]:.1e}")


def main():
    parser = argparse.ArgumentParser(description="records or checks reference logits")
    parser.add_argument("--check", action="store_true", help="compare with expected.safetensors")
    parser.add_argument("--fp16-cache", action="store_true", help="with keys and values in fp16")
    parser.add_argument("--tie", action="store_true", help="add logits_tied to expected.safetensors")
    parser.add_argument("-o", metavar="DIR", default=checkpoints.CASES.parent / "expected")
    parser.add_argument("names", nargs="*", metavar="CASE|DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if arguments.check or arguments.tie:
        for directory in arguments.names:
            record_tie(directory) if arguments.tie else check(directory, arguments.fp16_cache)
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
