"""Records how many parameters Hugging Face's models have, and how it saves their configs:
../data/parameters.jsonl.

    python record_parameters.py             writes it
    python record_parameters.py DIR...      prints the count of each directory's config.json

One case of cases.txt for each architecture, as it is and with each key about biases that its class
knows set to true; {"parameters", "config", "saved"} a line, the last as save_pretrained writes it
where the class is not another family's. Models are built without memory (device meta). Buffers that
files hold, the biases of choosing experts, count as parameters.
"""

import copy
import json
import pathlib
import sys
import tempfile

import torch
import transformers

import checkpoints
import record_logits

OUTPUT = pathlib.Path(__file__).parent.parent / "data" / "parameters.jsonl"
BIASES = ("attention_bias", "attention_out_bias", "mlp_bias", "use_bias")


def tie(values, config):
    """The flag of a model around the text model goes before that of the text model."""
    if "text_config" in values and values["model_type"] in transformers.CONFIG_MAPPING:
        config.tie_word_embeddings = transformers.AutoConfig.for_model(
            values["model_type"]).tie_word_embeddings
    config.tie_word_embeddings = values.get("tie_word_embeddings", config.tie_word_embeddings)


def count(directory):
    """The parameters of the model that DIRECTORY/config.json describes, and its config."""
    model_class, config = record_logits.build_config(directory, False)
    tie(json.loads((pathlib.Path(directory) / "config.json").read_text()), config)
    with torch.device("meta"):
        model = model_class(config)
        if hasattr(config, "block_configs"):
            record_logits.shape_layers(model, config)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    tensors = {id(t): t for t in model.parameters()}
    tensors |= {id(t): t for name, t in model.named_buffers() if name.endswith("correction_bias")}
    return sum(t.numel() for t in tensors.values()), config


def count_values(values):
    with tempfile.TemporaryDirectory() as directory:
        (pathlib.Path(directory) / "config.json").write_text(json.dumps(values))
        return count(directory)


def saved(values):
    """The config as transformers writes it."""
    name, kind = values["architectures"][0], values["model_type"]
    if name in ("MiMoForCausalLM", "DeciLMForCausalLM") or kind not in transformers.CONFIG_MAPPING:
        return None
    config = transformers.CONFIG_MAPPING[kind].from_dict(copy.deepcopy(values))
    return {**json.loads(config.to_json_string()), "architectures": [name]}


def line_of(values):
    return {"parameters": count_values(values)[0], "config": values, "saved": saved(values)}


def config_of(case):
    with tempfile.TemporaryDirectory() as directory:
        checkpoints.make_checkpoint(case, directory)
        values = json.loads((pathlib.Path(directory) / "config.json").read_text())
    values.pop("quantization_config", None)
    return values


def main():
    transformers.logging.set_verbosity_error()
    for directory in sys.argv[1:]:
        print(count(directory)[0], directory)
    if sys.argv[1:]:
        return
    seen, lines = set(), []
    for case in checkpoints.read_cases().values():
        values = config_of(case)
        if values["architectures"][0] in seen:
            continue
        seen.add(values["architectures"][0])
        config = count_values(values)[1]
        lines.append(line_of(values))
        for key in BIASES:
            if hasattr(type(config), key):
                changed = copy.deepcopy(values)
                changed.get("text_config", changed)[key] = True
                lines.append(line_of(changed))
    OUTPUT.write_text("".join(json.dumps(line) + "\n" for line in lines))
    print(f"{len(seen)} architectures, {len(lines)} configs")


if __name__ == "__main__":
    main()
