"""Dense models whose feed-forward networks matter, and MoE configs that they can become."""

from __future__ import annotations

import torch

from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.layers import MLPConfig

VOCAB, D_FF, SEQ_LEN = 30, 16, 12


def dense_config(**options) -> GPTConfig:
    return GPTConfig.model_validate(
        {"d_model": 8, "num_layers": 2, "num_heads": 2, "init_std": 0.4, "dense_d_ff": D_FF, "ffn": MLPConfig(d_ff=D_FF)} | options
    )


def dense_model(**options) -> GPT:
    """With norm scales of its own too, as after training."""
    model = build_gpt(dense_config(**options), VOCAB, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def moe_config(ffn: dict, **options) -> GPTConfig:
    """The dense model's shape around another feed-forward block; experts of its width unless told otherwise."""
    return GPTConfig.model_validate(dense_config(**options).model_dump() | {"ffn": {"kind": "sparse", "d_expert": D_FF} | ffn})
