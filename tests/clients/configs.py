"""exlc reads a config.json as transformers does. Of each architecture among the cases of
../models/cases.txt, the config as transformers saves it, with every default stated, must be traced
to the same graph as the config itself; and so must the config without any one of its keys, or of
those of its rope, unless exlc refuses that.

    python tests/clients/configs.py EXLC
"""

import copy
import json
import pathlib
import subprocess
import sys
import tempfile

# Not this folder, whose tokenizers.py is no library.
sys.path[0] = str(pathlib.Path(__file__).parent.parent / "oracle")
import checkpoints
import transformers

# Classes of other families stand in for these (tests/oracle/record_logits.py).
NOT_THERE = ("MiMoForCausalLM", "DeciLMForCausalLM")
# A pattern of letters, which transformers 5 fails on without layer_types.
TOLERATED = {("Exaone4ForCausalLM", "layer_types")}


def trace(exlc, values):
    """The graph of a model of this config, or None where exlc refuses it, and why."""
    with tempfile.TemporaryDirectory() as directory:
        (pathlib.Path(directory) / "config.json").write_text(json.dumps(values))
        done = subprocess.run([exlc, "build", directory, "--random-weights", "1", "--bits", "4",
                               "--dump", "graph"], capture_output=True, text=True)
    return (done.stdout, "") if done.returncode == 0 else (None, done.stderr.strip())


def saved(values):
    config = transformers.CONFIG_MAPPING[values["model_type"]].from_dict(copy.deepcopy(values))
    stated = json.loads(config.to_json_string(use_diff=False))
    return {**stated, "architectures": values["architectures"]}


def compare(exlc, values, what):
    """1 when a config and what transformers makes of it are the same model."""
    graph, _ = trace(exlc, values)
    if graph is None:
        return 1
    try:
        other, why = trace(exlc, saved(values))
    except Exception as error:
        other, why = None, f"transformers: {str(error).strip().splitlines()[-1]}"
    if graph == other:
        return 1
    print(f"{what}: {why or 'another graph'}")
    for ours, theirs in zip(graph.splitlines(), (other or "").splitlines()):
        if ours != theirs:
            print(f"  exlc          {ours}\n  transformers  {theirs}")
            break
    return 0


def variants_of(values, name):
    """(config, what it is): the config itself, and without each of its keys."""
    yield values, name
    for key in values.get("text_config", values):
        if key in ("architectures", "model_type", "text_config") or (name, key) in TOLERATED:
            continue
        less = copy.deepcopy(values)
        del less.get("text_config", less)[key]
        yield less, f"{name} without {key}"


def ropes_of(values, name):
    for rope in ("rope_scaling", "rope_parameters"):
        for key in values.get("text_config", values).get(rope) or {}:
            less = copy.deepcopy(values)
            del less.get("text_config", less)[rope][key]
            yield less, f"{name} without {rope}.{key}"


def main():
    transformers.logging.set_verbosity_error()
    exlc, seen, passed, failed = sys.argv[1], set(), 0, 0
    for case in checkpoints.read_cases().values():
        values = json.loads(case.config_text())
        values.pop("quantization_config", None)
        name = values["architectures"][0]
        if name in NOT_THERE or values["model_type"] not in transformers.CONFIG_MAPPING:
            continue
        variants = [*ropes_of(values, f"{name} ({case.name})")]
        if name not in seen:
            seen.add(name)
            assert trace(exlc, values)[0], f"{name}: {trace(exlc, values)[1]}"
            variants += variants_of(values, name)
        for variant in variants:
            fine = compare(exlc, *variant)
            passed, failed = passed + fine, failed + 1 - fine
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
