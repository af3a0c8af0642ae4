"""A trained MoE to the first weights of a resized one: which experts go where in each layer, then layer by layer the operation itself.

Knows every operation by name. Must not know recipes, run folders, or whether the operation is possible (check.py).
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator

from moecli.convert.features import moe_layers
from moecli.convert.resize.add import add, with_copies
from moecli.convert.resize.layers import begin_model, moe_of
from moecli.convert.resize.merge import alike, merge
from moecli.convert.resize.options import LayerChange, LayerStatistics, ResizeOptions
from moecli.convert.resize.prune import drawn, highest, prune
from moecli.convert.resize.regate import regate
from moecli.convert.resize.shape import MoEConfig, num_beside, num_experts_after, num_groups
from moecli.convert.resize.split import bias_factor, split, split_factor
from moecli.convert.resize.to_mlp import fill_mlp, parts_of_mlp
from moecli.convert.upcycle import SEED_OFFSET
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT
from moecli.moe.layers import MLP


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model did with a text, by layer; empty where the operation does not ask."""

    statistics: Mapping[int, LayerStatistics] = field(default_factory=dict)
    costs: Mapping[int, Sequence[float]] = field(default_factory=dict)
    """Nats per token that the loss rises when an expert's output is zero."""


def resize(source: GPT, config: GPTConfig, options: ResizeOptions, measured: Measured) -> tuple[GPT, list[LayerChange]]:
    """A model of this config on the CPU, in evaluation mode, and what became of each MoE layer; `source` stays as it is."""
    layers = moe_layers(source.config)
    model = begin_model(source, config, layers, options.seed)
    generator = torch.Generator().manual_seed(options.seed + SEED_OFFSET)
    changes = [_planned(layer, source.config, config, options, measured, generator) for layer in layers]
    with torch.no_grad():
        for change in changes:
            _fill(source, model, change, options, measured.statistics.get(change.layer), generator)
    return model, changes


def _planned(layer: int, old: GPTConfig, new: GPTConfig, options: ResizeOptions, measured: Measured, generator: Generator) -> LayerChange:
    """Which experts of the source each new one is made of."""
    assert isinstance(old.ffn, MoEConfig)
    there, wanted, groups = old.ffn.num_experts, num_experts_after(old.ffn, options), num_groups(old.ffn)
    statistics = measured.statistics.get(layer)
    load = None if statistics is None else statistics.load_E.tolist()
    match options.operation:
        case "prune":
            return _planned_pruning(layer, old.ffn, options, measured, generator)
        case "merge":
            assert statistics is not None
            return LayerChange(layer, alike(statistics, wanted, groups), load)
        case "add":
            assert load is not None
            return LayerChange(layer, [[expert] for expert in with_copies(load, wanted, groups)], load)
        case "split":
            assert options.shards is not None
            made_of = [[expert] for expert in range(there) for _ in range(options.shards)]
            return LayerChange(layer, made_of, output_factors=[split_factor(old, new, options.shards)] * wanted)
        case "dense":
            assert statistics is not None
            return parts_of_mlp(layer, statistics, options.merge_by, num_beside(old.ffn))
        case "regate":
            return LayerChange(layer, [[expert] for expert in range(there)])


def _planned_pruning(layer: int, ffn: MoEConfig, options: ResizeOptions, measured: Measured, generator: Generator) -> LayerChange:
    if options.drop_experts is not None:
        lists = options.drop_experts
        dropped = lists if isinstance(lists, tuple) else lists[layer]
        return LayerChange(layer, [[expert] for expert in range(ffn.num_experts) if expert not in dropped])
    wanted, groups = num_experts_after(ffn, options), num_groups(ffn)
    if options.by == "random":
        return LayerChange(layer, [[expert] for expert in drawn(ffn.num_experts, wanted, generator, groups)])
    scores = list(measured.costs[layer]) if options.by == "ablation" else measured.statistics[layer].load_E.tolist()
    return LayerChange(layer, [[expert] for expert in highest(scores, wanted, groups)], scores)


def _fill(
    source: GPT, model: GPT, change: LayerChange, options: ResizeOptions, statistics: LayerStatistics | None, generator: Generator
) -> None:
    old, new = moe_of(source, change.layer), model.feed_forwards()[change.layer]
    if isinstance(new, MLP):
        assert statistics is not None
        return fill_mlp(old, new, change, statistics, options.merge_by)
    moe = moe_of(model, change.layer)
    match options.operation:
        case "merge":
            assert statistics is not None
            merge(old, moe, change, statistics.load_E.tolist())
        case "add":
            add(old, moe, change, options.noise_std, generator)
        case "split":
            assert options.shards is not None
            split(old, moe, options.shards, change.output_factors[0], bias_factor(source.config, options.shards))
        case "regate":
            regate(old, moe)
        case _:
            prune(old, moe, change)
