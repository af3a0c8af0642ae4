"""Why a resized model does not, or need not, compute what the model did in evaluation.

Knows both configs and what was asked. Must not know weights.
"""

from __future__ import annotations

from collections.abc import Iterator

from moecli.convert.resize.options import ResizeOptions
from moecli.convert.resize.shape import MoEConfig, num_experts_after
from moecli.convert.start import changed_fields, changes_function
from moecli.model.config import GPTConfig
from moecli.moe.layers import SparseMoEConfig
from moecli.moe.routers import SigmoidTopKConfig
from moecli.moe.routers.base import TokenChoiceConfig


def departures(source: GPTConfig, expected: GPTConfig, found: GPTConfig, options: ResizeOptions) -> list[str]:
    """A sentence for each reason; empty where the function stays.

    Args:
        source: what the model was.
        expected: what the operation alone makes of it.
        found: the same with a user's settings laid over it.
        options: what was asked.
    """
    ffn = source.ffn
    assert isinstance(ffn, MoEConfig)
    reasons = []
    before, after = ffn.num_experts, num_experts_after(ffn, options)
    if options.operation == "prune" and after < before:
        reasons.append(f"{before - after} of {before} experts of each layer are gone")
    elif options.operation == "merge":
        reasons.append(f"{before} experts of each layer have become {after}")
    elif options.operation == "add":
        reasons.append(f"copies with noise, {after - before} in each layer, take tokens from its {before} experts")
    elif options.operation == "split":
        reasons += _split_departures(ffn)
    elif options.operation == "dense":
        reasons.append("one network stands for experts that each had tokens of their own")
    elif options.operation == "regate":
        return ["the gate begins anew"]
    if changes_function(changed_fields(expected, found)):
        reasons.append("settings of the model were changed beside the shape")
    return reasons


def _split_departures(ffn: MoEConfig) -> Iterator[str]:
    assert isinstance(ffn, SparseMoEConfig)
    router, capacity = ffn.router, ffn.capacity
    factor = None if capacity is None else capacity.eval_factor
    if factor is not None and isinstance(router, TokenChoiceConfig) and factor * router.top_k < ffn.num_experts:
        yield "the capacity may drop tokens in evaluation, and not the same for all shards of an expert"
    if isinstance(router, SigmoidTopKConfig) and router.top_groups < router.num_groups and router.group_score == "top2_sum":
        yield "a group is judged by its best two experts, which are shards of one now"
