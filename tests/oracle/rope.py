# Inverse frequencies of rotary position embedding by the formulas of Hugging Face transformers, in
# double precision: prints tests/data/rope.json. With --check it compares them with the float32 tables
# of an installed transformers instead (agreed within 1e-6 with 5.23).
import json, math, sys

CASES = {
    "default": {"rope_theta": 10000.0},
    "linear": {"rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "llama3": {"rope_theta": 500000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}},
    "llama3_1b": {"head_dim": 64, "rope_theta": 500000.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192}},
    "yarn": {"rope_theta": 1000000.0, "rope_scaling": {
        "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
    "yarn_mscale": {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 100000.0, "factor": 40.0, "mscale": 0.707,
        "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "beta_fast": 16.0,
        "beta_slow": 2.0, "truncate": False}},
    "yarn_factor": {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "attention_factor": 1.25,
        "original_max_position_embeddings": 8192}},
    "longrope": {"head_dim": 16, "max_position_embeddings": 4096, "rope_scaling": {
        "type": "longrope", "short_factor": [1.0 + j / 8 for j in range(8)],
        "long_factor": [2.0 + j / 4 for j in range(8)],
        "original_max_position_embeddings": 4096}},
}


def tables(config):
    config = {"head_dim": 128, "max_position_embeddings": 131072, **config}
    d = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = d.get("rope_type", d.get("type", "default"))
    base = d.get("rope_theta", config.get("rope_theta", 10000.0))
    dim, original = config["head_dim"], d.get("original_max_position_embeddings")
    inverse = [base ** (-2 * j / dim) for j in range(dim // 2)]
    factor = 1.0
    if kind == "linear":
        inverse = [f / d["factor"] for f in inverse]
    elif kind == "llama3":
        low, high = d["low_freq_factor"], d["high_freq_factor"]
        for j, f in enumerate(inverse):
            length = 2 * math.pi / f
            smooth = (original / length - low) / (high - low)
            smooth = min(max(smooth, 0), 1)
            inverse[j] = (1 - smooth) * f / d["factor"] + smooth * f
    elif kind == "yarn":
        s = d["factor"]
        scale = lambda m: 0.1 * m * math.log(s) + 1
        factor = scale(1)
        if "mscale" in d: factor = scale(d["mscale"]) / scale(d["mscale_all_dim"])
        factor = d.get("attention_factor", factor)
        pair = lambda turns: dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))
        low, high = pair(d.get("beta_fast", 32)), pair(d.get("beta_slow", 1))
        if d.get("truncate", True): low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        for j, f in enumerate(inverse):
            slowed = min(max((j - low) / (high - low), 0), 1)
            inverse[j] = f / s * slowed + f * (1 - slowed)
    elif kind == "longrope":
        inverse = [f / d["short_factor"][j] for j, f in enumerate(inverse)]
    return inverse, factor


def check():
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
    for name, config in CASES.items():
        full = {"hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128,
                "max_position_embeddings": 131072, **json.loads(json.dumps(config))}
        rope = LlamaRotaryEmbedding(LlamaConfig(**full))
        inverse, factor = tables(config)
        expected = torch.tensor(inverse, dtype=torch.float64)
        error = ((rope.inv_freq.double() - expected).abs() / expected).max().item()
        print(name, error, rope.attention_scaling, factor)
        assert error < 2e-6 and abs(rope.attention_scaling - factor) < 1e-9


if "--check" in sys.argv:
    check()
else:
    cases = []
    for name, config in CASES.items():
        inverse, factor = tables(config)
        cases.append({"name": name, "config": config, "factor": factor, "inverse": inverse})
    print("[" + ",\n ".join(json.dumps(c) for c in cases) + "]")
