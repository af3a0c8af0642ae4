"""Tiny models of each class of Hugging Face, with every number random, and folders of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from moecli.convert.formats import FORMATS, ModelFacts, pick_format
from moecli.convert.hf_folder import config_files, tensors_of
from moecli.convert.tensor_files import plan_shards, write_shards
from moecli.data.config import DataConfig
from moecli.data.tokenizer_config import ByteTokenizerConfig
from moecli.model.checkpoint import save_model
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.recipe.load import dump_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.run_dir import RunDir, point_latest

VOCAB, SEQ_LEN, END_OF_TEXT = 64, 32, 3
SIZES = {"d_model": 16, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "dense_d_ff": 20}
MLP = {"kind": "mlp", "d_ff": 24}
SPARSE = {"kind": "sparse", "num_experts": 8, "d_expert": 12, "router": {"kind": "topk", "top_k": 2}}
SWITCH = {"kind": "topk", "top_k": 1}
RAW = {"kind": "topk", "top_k": 3, "normalize_weights": False}
SIGMOID = {"kind": "sigmoid_topk", "top_k": 2, "scale": 2.5}
ONE_SHARED, TWO_SHARED = {"num_shared_experts": 1, "d_shared_expert": 10}, {"num_shared_experts": 2}

# name: (class that `auto` picks, what differs from SIZES)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"ffn": MLP, "norm_eps": 1e-3, "rope_theta": 100.0}),
    "llama, tied, biases, all heads": ("llama", {"ffn": MLP, "tie_embeddings": True, "qkv_bias": True, "num_kv_heads": 4}),
    "llama, widths that are the same by chance": ("llama", {"ffn": MLP, "moe_layers": {"every": 2}, "dense_d_ff": 24}),
    "qwen3, wide heads": ("qwen3", {"ffn": MLP, "qk_norm": "head", "head_dim": 6, "norm_eps": 1e-3}),
    "qwen3, tied, one head": ("qwen3", {"ffn": MLP, "qk_norm": "head", "tie_embeddings": True, "qkv_bias": True, "num_kv_heads": 1}),
    "mixtral": ("mixtral", {"ffn": SPARSE, "rope_theta": 100.0}),
    "mixtral, tied, wide heads": ("mixtral", {"ffn": SPARSE, "tie_embeddings": True, "head_dim": 6, "norm_eps": 1e-3}),
    "olmoe": ("olmoe", {"ffn": SPARSE | {"router": RAW}, "qk_norm": "full"}),
    "olmoe, normalised, tied, biases": ("olmoe", {"ffn": SPARSE, "qk_norm": "full", "tie_embeddings": True, "qkv_bias": True}),
    "qwen2_moe, switch, mixed layers": ("qwen2_moe", {"ffn": SPARSE | {"router": SWITCH}, "moe_layers": {"every": 2}}),
    "qwen2_moe, v-moe": ("qwen2_moe", {"ffn": SPARSE | {"router": {"kind": "vmoe_topk", "top_k": 2}}}),
    "qwen2_moe, gated": ("qwen2_moe", {"ffn": SPARSE | ONE_SHARED | {"shared_gate": True}, "qkv_bias": True}),
    "qwen2_moe, ungated, mixed": ("qwen2_moe", {"ffn": SPARSE | TWO_SHARED, "moe_layers": {"indices": [1]}, "tie_embeddings": True}),
    "qwen3_moe": ("qwen3_moe", {"ffn": SPARSE, "qk_norm": "head"}),
    "qwen3_moe, raw, mixed, tied": (
        "qwen3_moe",
        {"ffn": SPARSE | {"router": RAW}, "qk_norm": "head", "moe_layers": {"indices": [0, 2]}, "tie_embeddings": True, "qkv_bias": True},
    ),
    "glm4_moe": ("glm4_moe", {"ffn": SPARSE | {"router": SIGMOID}, "qkv_bias": True}),
    "glm4_moe, groups, shared, dense first, norms": (
        "glm4_moe",
        {
            "ffn": SPARSE | TWO_SHARED | {"router": SIGMOID | {"num_groups": 4, "top_groups": 2, "normalize_weights": False}},
            "moe_layers": {"first_dense": 1}, "qk_norm": "head", "tie_embeddings": True,
        },
    ),
}  # fmt: skip
# The first case of each class.
PLAIN = {fmt: next(name for name, (its_format, _) in CASES.items() if its_format == fmt) for fmt in FORMATS}


def config_of(name: str) -> GPTConfig:
    return GPTConfig.model_validate(SIZES | CASES[name][1])


def random_model(config: GPTConfig, std: float = 0.3, vocab_size: int = VOCAB) -> GPT:
    """No tensor is left at a number by which an error would not show, biases and norms included."""
    model = build_gpt(config, vocab_size, seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.normal_(mean=1.0 if "norm" in name else 0.0, std=std, generator=generator)
    return model


def write_run(path: Path, config: GPTConfig, *, seq_len: int = SEQ_LEN, std: float = 0.3) -> RunDir:
    """A run folder with a tokenizer of bytes and the model at step 7, as after a training."""
    run = RunDir(path)
    recipe = Recipe(name="tiny", data=DataConfig(tokenizer=ByteTokenizerConfig(), seq_len=seq_len), model=config)
    tokenizer = ByteTokenizerConfig().build(iter(()))
    run.checkpoint(7).mkdir(parents=True)
    run.recipe.write_text(dump_recipe(recipe), encoding="utf-8")
    tokenizer.save(run.tokenizer)
    save_model(random_model(config, std, tokenizer.vocab_size), run.checkpoint(7))
    point_latest(run, run.checkpoint(7))
    return run


def write_folder(model: GPT, folder: Path, to: str = "auto", *, max_bytes: int = 10**9, dtype: torch.dtype = torch.float32) -> Path:
    """The Hugging Face folder of a model, without a tokenizer."""
    fmt = pick_format(to, model.config, "test")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors_of(fmt, model.config, VOCAB, model.state_dict().__getitem__)
    assert list(write_shards(plan_shards(tensors, dtype, max_bytes), folder, dtype))
    facts = ModelFacts(VOCAB, SEQ_LEN, END_OF_TEXT, str(dtype).removeprefix("torch."))
    for name, text in config_files(fmt, model.config, facts).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder
