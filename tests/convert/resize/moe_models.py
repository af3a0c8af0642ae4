"""MoEs whose experts and routers matter, and what they compute."""

from __future__ import annotations

import torch
from torch import Tensor

from moecli.convert.resize.operations import Measured, resize
from moecli.convert.resize.options import LayerChange, ResizeOptions
from moecli.convert.resize.shape import resized_feed_forward
from moecli.convert.resize.statistics import measure
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt

VOCAB, D_EXPERT, SEQ_LEN = 30, 8, 12
TOPK = {"kind": "topk", "top_k": 2}
SIGMOID = {"kind": "sigmoid_topk", "top_k": 2}


def moe_config(ffn: dict, **options) -> GPTConfig:
    ffn = {"kind": "sparse", "num_experts": 4, "d_expert": D_EXPERT} | ffn
    return GPTConfig.model_validate(
        {"d_model": 8, "num_layers": 2, "num_heads": 2, "init_std": 0.4, "dense_d_ff": 16, "ffn": ffn} | options
    )


def moe_model(ffn: dict, **options) -> GPT:
    """As after training: nothing is zero, neither noise rows nor selection biases."""
    model = build_gpt(moe_config(ffn, **options), VOCAB, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif not parameter.any():
                parameter.normal_(std=0.4, generator=generator)
        for block in model.feed_forwards():
            if block.selection_bias_E is not None:
                block.selection_bias_E.normal_(std=0.2, generator=generator)
    return model.eval()


def random_ids(seed: int = 0, rows: int = 4) -> Tensor:
    return torch.randint(VOCAB, (rows, SEQ_LEN), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model: GPT) -> Tensor:
    return model(random_ids())[0]


def resized(model: GPT, options: ResizeOptions, costs: dict[int, list[float]] | None = None, **ffn) -> tuple[GPT, list[LayerChange]]:
    """The whole operation on statistics of random ids. `ffn` is laid over the config that the operation makes."""
    tree, _ = resized_feed_forward(model.config, options)
    config = GPTConfig.model_validate(model.config.model_dump() | {"ffn": tree | ffn})
    return resize(model, config, options, Measured(measure(model, [random_ids(1), random_ids(2)]), costs or {}))


def same_experts(model: GPT) -> GPT:
    """Every expert of a layer is that layer's first, each with its hidden units in an order of its own."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for block in model.feed_forwards():
            if not hasattr(block, "experts"):
                continue
            experts = block.experts
            for expert in range(1, experts.num_experts):
                units = torch.randperm(experts.out_proj.shape[2], generator=generator)
                parts = experts.in_proj[0].unflatten(0, (-1, len(units)))
                experts.in_proj[expert] = parts[:, units].flatten(0, 1)
                experts.out_proj[expert] = experts.out_proj[0][:, units]
    return model
