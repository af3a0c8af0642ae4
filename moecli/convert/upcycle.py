"""A trained dense model to the first weights of an MoE: its feed-forward networks become experts, everything else is copied.

Knows the weights of both models. Must not know recipes, run folders, or whether the two fit: that is upcycle_check.py's.
Shape letters: see moe/routing.py; G is the number of shards that a dense network is cut into, N = E / G how often it is there.

Three methods:

copies    Every expert is the dense network (sparse upcycling, arXiv 2212.05055).
drop      The same, and in each expert a share of the hidden units begins anew (Drop-Upcycling, arXiv 2502.19261).
granular  The hidden units are cut into G shards, and each shard is N experts (arXiv 2410.07524; expert n * G + g is shard g).
          The G shards of one copy share a router row, so that a token which chooses a multiple of G experts takes whole copies.

Scaling. Let the combine weights of a token sum to s (moe/weight_sum.py). An activation acts on each hidden unit by itself, so the shards
add up to the network: sum_g shard_g(x) = ffn(x). A token that takes whole copies, copy n with weight w_n for each of its G shards, gets

    sum_n sum_g w_n shard_g(x) = sum_n w_n ffn(x) = (s / G) ffn(x),        as s = sum_n G w_n.

So the output projection of every expert is multiplied by G / s, which is linear whatever the activation, and the MoE computes ffn(x)
exactly where s is the same for all tokens and nothing is dropped. For softmax before top-k s is about T / (N G) for T chosen of N G
experts, and G / s = N G^2 / T is the paper's factor; for normalised weights s = 1, and G is its other one. Departures from the paper: it
spreads the factor over all matrices by its cube root, which is exact for squared ReLU and approximate for SwiGLU, while here the output
projection alone carries it, exactly for all. The price is that its weights are larger by that factor, and AdamW's steps relative to them
smaller. And outputs are multiplied by 1 / s for `copies` and `drop` too, where the papers scale nothing: `scale_outputs=False` is theirs.

Shared experts. Where the MoE has some, together they are the dense network (a gate begins at sigmoid(0) = 1/2, made up for by a factor
of 2), and the output projections of the routed experts begin at zero, as adapters do (arXiv 2106.09685, section 4.1): the function stays
as it is with any router, capacity or method, and the gradient moves the output projections from the first step on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.model.init import build_gpt
from moecli.moe.experts import Experts
from moecli.moe.layers import MLP, DenseMoE, DenseMoEConfig, MLPConfig, SoftMoE, SoftMoEConfig, SparseMoE, SparseMoEConfig

UpcycleMethod = Literal["copies", "drop", "granular"]
MoE = SparseMoE | DenseMoE | SoftMoE
MoEConfig = SparseMoEConfig | DenseMoEConfig | SoftMoEConfig

# Sets the draws of this file apart from those of the router's first weights, which have the same seed.
SEED_OFFSET = 2**32


@dataclass(frozen=True, slots=True)
class UpcycleOptions:
    """How a dense model becomes an MoE."""

    method: UpcycleMethod
    drop_ratio: float = 0.5
    """With `drop`: share of each expert's hidden units that begin anew, rounded down to whole units."""
    noise_std: float = 0.0
    """Spread of the noise added to the experts' weights, in standard deviations of the matrix that it is added to."""
    router_std: float | None = None
    """Spread of the router's first weights. None: as in a model that is trained from the start, `init_std` for most routers."""
    scale_outputs: bool = True
    """Multiply the experts' output projections by what the combine weights take away."""
    seed: int = 0
    """Of the router's first weights, of the units that begin anew, and of the noise."""


@dataclass(frozen=True, slots=True)
class Upcycled:
    """An MoE that was made from a dense model."""

    model: GPT
    """On the CPU, in evaluation mode."""
    new_units: dict[int, Tensor]
    """For each MoE layer, which hidden units of each expert begin anew, bool [E, H]."""


def upcycle(dense: GPT, config: GPTConfig, options: UpcycleOptions) -> Upcycled:
    """An MoE of this config; `dense` stays as it is. The two must fit (upcycle_check.py)."""
    model = build_gpt(config, dense.vocab_size, options.seed)
    layers = moe_layers(config)
    new = tuple(f"blocks.{layer}.ffn." for layer in layers)
    copied = {name: tensor for name, tensor in dense.state_dict().items() if not name.startswith(new)}
    missing, unexpected = model.load_state_dict(copied, strict=False)
    assert not unexpected and all(name.startswith(new) for name in missing)
    generator = torch.Generator().manual_seed(options.seed + SEED_OFFSET)
    new_units = {}
    with torch.no_grad():
        for layer in layers:
            mlp, moe = dense.feed_forwards()[layer], model.feed_forwards()[layer]
            assert isinstance(mlp, MLP) and isinstance(moe, MoE)
            _begin_router(moe, num_shards(dense.config, config), options, generator)
            new_units[layer] = _fill_experts(moe, mlp, options, generator)
            moe.experts.out_proj.mul_(output_factor(dense.config, config, options))
            if isinstance(moe, SparseMoE) and moe.shared is not None:
                _fill_shared(moe, moe.shared, mlp)
    return Upcycled(model.eval(), new_units)


def moe_layers(config: GPTConfig) -> list[int]:
    """The layers, counted from 0, whose networks become experts."""
    return [layer for layer in range(config.num_layers) if config.moe_layers.includes(layer)]


def width_of_layer(dense: GPTConfig, layer: int) -> int:
    """Hidden width of a dense model's network."""
    ffn = dense.ffn_of_layer(layer)
    assert isinstance(ffn, MLPConfig) and ffn.d_ff is not None
    return ffn.d_ff


def num_shards(dense: GPTConfig, config: GPTConfig) -> int:
    """G."""
    assert isinstance(config.ffn, MoEConfig) and config.ffn.d_expert is not None
    return width_of_layer(dense, moe_layers(config)[0]) // config.ffn.d_expert


def output_factor(dense: GPTConfig, config: GPTConfig, options: UpcycleOptions) -> float:
    """What the output projections of the routed experts are multiplied by: G / s; 0 beside shared experts; 1 unscaled."""
    ffn = config.ffn
    assert isinstance(ffn, MoEConfig)
    if isinstance(ffn, SparseMoEConfig) and ffn.num_shared_experts:
        return 0.0
    return num_shards(dense, config) / ffn.weight_sum.value if options.scale_outputs else 1.0


def _begin_router(moe: MoE, shards: int, options: UpcycleOptions, generator: Generator) -> None:
    for weight_ED in scoring_weights(moe):
        if options.router_std is not None:
            weight_ED.normal_(std=options.router_std, generator=generator)
        weight_ED.copy_(weight_ED[: len(weight_ED) // shards].repeat_interleave(shards, dim=0))


def scoring_weights(moe: nn.Module) -> list[Tensor]:
    """The matrices with a row for each expert; empty where tokens and experts find each other in another way."""
    if isinstance(moe, DenseMoE):
        return [moe.gate_weight]
    return list(moe.router.parameters()) if isinstance(moe, SparseMoE) else []


def _fill_experts(moe: MoE, mlp: MLP, options: UpcycleOptions, generator: Generator) -> Tensor:
    """Returns which hidden units of each expert begin anew, bool [E, H]."""
    in_EFD, out_EDH, is_gated = moe.experts.in_proj, moe.experts.out_proj, mlp.activation.is_gated
    copies = expert_copies(mlp.in_proj.weight, mlp.out_proj.weight, moe.experts, is_gated=is_gated)
    for weight, copy in zip((in_EFD, out_EDH), copies, strict=True):
        weight.copy_(copy)
    is_new_EH = torch.zeros(out_EDH.shape[0], out_EDH.shape[2], dtype=torch.bool)
    for in_FD, out_DH, is_new_H in zip(in_EFD, out_EDH, is_new_EH, strict=True):
        if options.method == "drop":
            is_new_H[begin_anew(in_FD, out_DH, options.drop_ratio, generator, is_gated=is_gated)] = True
        for weight in (in_FD, out_DH):
            if options.noise_std:
                weight += torch.empty_like(weight).normal_(generator=generator) * weight.std() * options.noise_std
    return is_new_EH


def expert_copies(in_FD: Tensor, out_DH: Tensor, experts: Experts, *, is_gated: bool) -> tuple[Tensor, Tensor]:
    """What belongs to a network's weights, for each of the experts that it becomes: [E, F / G, D] and [E, D, H / G]."""
    shards = out_DH.shape[1] // experts.out_proj.shape[2]
    in_GFD, out_GDH = cut(in_FD, out_DH, shards, is_gated=is_gated)
    copies = experts.num_experts // shards
    return in_GFD.repeat(copies, 1, 1), out_GDH.repeat(copies, 1, 1)


def _fill_shared(moe: SparseMoE, shared: MLP, mlp: MLP) -> None:
    shared.load_state_dict(mlp.state_dict())
    if moe.shared_gate is not None:
        moe.shared_gate.weight.zero_()
        shared.out_proj.weight.mul_(2)


def cut(in_FD: Tensor, out_DH: Tensor, shards: int, *, is_gated: bool) -> tuple[Tensor, Tensor]:
    """A network's weights as those of its shards, each of consecutive hidden units: [G, F / G, D] and [G, D, H / G]."""
    parts = 2 if is_gated else 1  # gate rows, then up rows
    in_GFD = in_FD.unflatten(0, (parts, shards, -1)).transpose(0, 1).flatten(1, 2)
    return in_GFD, out_DH.unflatten(1, (shards, -1)).transpose(0, 1)


def begin_anew(in_FD: Tensor, out_DH: Tensor, ratio: float, generator: Generator, *, is_gated: bool) -> Tensor:
    """Overwrites a share of one expert's hidden units, in place. Returns which, int64.

    One set of units for all matrices: their gate rows, up rows and output columns. Each part is drawn from the normal distribution with
    the mean and standard deviation of what it overwrites (arXiv 2502.19261, whose text has one set for all as well; its published code
    draws one for each matrix).
    """
    hidden = out_DH.shape[1]
    units = torch.randperm(hidden, generator=generator)[: int(ratio * hidden)]
    if len(units):
        for part_HD in in_FD.unflatten(0, (2 if is_gated else 1, hidden)):
            part_HD[units] = _redrawn(part_HD[units], generator)
        out_DH[:, units] = _redrawn(out_DH[:, units], generator)
    return units


def _redrawn(weight: Tensor, generator: Generator) -> Tensor:
    std, mean = torch.std_mean(weight)
    return torch.empty_like(weight).normal_(generator=generator) * std + mean
