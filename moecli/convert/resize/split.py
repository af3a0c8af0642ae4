"""Narrower experts: each becomes G experts of 1 / G of its hidden units, and a token takes all G where it took the one.

An activation acts on each hidden unit by itself, so the shards of an expert add up to it (moe/experts.py has no biases):
sum_g shard_g(x) = expert(x). The G shards share a router row, so they tie, and top_k * G choices are the top_k experts of before. What
changes is their weight: from w to w' = w s' / (G s), where s and s' are what a token's weights sum to with the old and the new router
(moe/weight_sum.py): a softmax over G times as many experts gives each 1 / G, weights that are divided by their sum likewise; sigmoid
scores as they are stay, and s' = G s. So output projections are multiplied by G s / s', and the function stays.

A selection bias that is added to softmax probabilities is divided by G as they are.

Knows one layer before and after. Must not know whether the router keeps shards together: that is check.py's.
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

import torch

from moecli.convert.resize.layers import copy_what_all_share, gate_tensors
from moecli.convert.upcycle import MoE, cut
from moecli.model.config import GPTConfig
from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig


def split(source: MoE, target: MoE, shards: int, factor: float, bias_factor: float) -> None:
    """Fills the target: expert e * G + g is shard g of expert e."""
    copy_what_all_share(source, target)
    theirs = gate_tensors(source)
    for name, tensor in gate_tensors(target).items():
        tensor.copy_(theirs[name].repeat_interleave(shards, dim=0))
        if name == "router.selection_bias_E":
            tensor.mul_(bias_factor)
    old, new = source.experts, target.experts
    for expert in range(old.num_experts):
        in_GFD, out_GDH = cut(old.in_proj[expert], old.out_proj[expert], shards, is_gated=old.activation.is_gated)
        new.in_proj[expert * shards : (expert + 1) * shards] = in_GFD
        new.out_proj[expert * shards : (expert + 1) * shards] = out_GDH * factor


def split_factor(old: GPTConfig, new: GPTConfig, shards: int) -> float:
    """G s / s'."""
    return shards * old.ffn.weight_sum.value / new.ffn.weight_sum.value


def bias_factor(config: GPTConfig, shards: int) -> float:
    """What happens to the scores that a selection bias is added to."""
    ffn = config.ffn
    scores_stay = isinstance(ffn, SparseMoEConfig) and isinstance(ffn.router, SigmoidTopKConfig)
    return 1.0 if scores_stay else 1 / shards


def has_ties(source: MoE) -> bool:
    """Whether two experts always score the same: then shards of one can be chosen with shards of the other. Noise is of training alone."""
    scores = [tensor for name, tensor in gate_tensors(source).items() if "noise" not in name]
    gates = [tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None] for tensor in scores]
    rows_EN = torch.cat([gate.float() for gate in gates], dim=1)
    return len(rows_EN.unique(dim=0)) < len(rows_EN)
