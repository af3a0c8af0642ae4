"""What a resizing makes of the feed-forward config of a recipe.

Knows configs. Must not know weights, nor whether the operation is possible (check.py).
"""

from __future__ import annotations

from typing import Any

from moecli.convert.resize.options import ResizeOptions
from moecli.model.config import GPTConfig
from moecli.moe.layers import DenseMoEConfig, MLPConfig, SoftMoEConfig, SparseMoEConfig
from moecli.moe.routers import ExpertChoiceConfig, SigmoidTopKConfig
from moecli.moe.routers.base import RouterConfig, ScoredChoiceConfig, TokenChoiceConfig

MoEConfig = SparseMoEConfig | DenseMoEConfig | SoftMoEConfig


def num_groups(ffn: MoEConfig) -> int:
    """Groups that the router divides the experts into, in order; 1 for most."""
    grouped = isinstance(ffn, SparseMoEConfig) and isinstance(ffn.router, SigmoidTopKConfig)
    return ffn.router.num_groups if grouped else 1  # type: ignore[union-attr] # mypy does not see through `grouped`


def num_experts_after(ffn: MoEConfig, options: ResizeOptions) -> int:
    """Experts per layer of the resized model; of an mlp that many were there before."""
    if options.drop_experts is not None:
        lists = options.drop_experts
        dropped = lists if isinstance(lists, tuple) else next(iter(lists.values()))
        return ffn.num_experts - len(dropped)
    return ffn.num_experts * options.shards if options.shards else options.num_experts or ffn.num_experts


def resized_feed_forward(config: GPTConfig, options: ResizeOptions) -> tuple[dict[str, Any], list[str]]:
    """`model.ffn` of the resized model as plain data, and a note for each setting that had to change beside the shape."""
    ffn = config.ffn
    assert isinstance(ffn, MoEConfig) and ffn.d_expert is not None
    if options.operation == "regate":
        return ffn.model_dump(mode="json"), []
    if options.operation == "dense":
        return MLPConfig(d_ff=width_of_mlp(ffn, options)).model_dump(mode="json"), []
    tree = ffn.model_dump(mode="json") | {"num_experts": num_experts_after(ffn, options)}
    if options.shards is not None:
        tree["d_expert"] = ffn.d_expert // options.shards
    notes: list[str] = []
    if isinstance(ffn, SparseMoEConfig):
        if options.shards is None:
            changes, notes = _fewer_choices(ffn.router, tree["num_experts"])
        else:
            changes = _more_choices(ffn.router, options.shards)
        tree["router"] = tree["router"] | changes
    return tree, notes


def width_of_mlp(ffn: MoEConfig, options: ResizeOptions) -> int:
    """Hidden units of the mlp that stands for one layer's experts, shared ones beside them."""
    assert ffn.d_expert is not None
    width = ffn.d_expert * (num_beside(ffn) if options.merge_by == "concatenate" else 1)
    if not isinstance(ffn, SparseMoEConfig) or not ffn.num_shared_experts:
        return width
    assert ffn.d_shared_expert is not None
    return width + ffn.num_shared_experts * ffn.d_shared_expert


def num_beside(ffn: MoEConfig) -> int:
    """How many experts a token uses, as a whole number."""
    if not isinstance(ffn, SparseMoEConfig):
        return ffn.num_experts
    router = ffn.router
    if isinstance(router, TokenChoiceConfig):
        return router.top_k
    assert isinstance(router, ExpertChoiceConfig)
    return max(1, round(router.experts_per_token))


def _fewer_choices(router: RouterConfig, num_experts: int) -> tuple[dict[str, Any], list[str]]:
    """What is left of the choice where fewer experts are left, and why."""
    if isinstance(router, ExpertChoiceConfig) and router.experts_per_token > num_experts:
        return {"experts_per_token": float(num_experts)}, [f"experts_per_token: {router.experts_per_token:g} -> {num_experts}"]
    if not isinstance(router, TokenChoiceConfig):
        return {}, []
    most = num_experts
    if isinstance(router, SigmoidTopKConfig):
        most = num_experts // router.num_groups * router.top_groups
    if router.top_k <= most:
        return {}, []
    changes: dict[str, Any] = {"top_k": most}
    notes = [f"top_k: {router.top_k} -> {most}, as there are no more experts to choose from"]
    if most == 1 and isinstance(router, ScoredChoiceConfig) and router.normalize_weights:
        changes["normalize_weights"] = False
        notes.append("normalize_weights: true -> false, as the weight of a single choice would be 1 for all")
    if most == 1 and "keep_threshold" in type(router).model_fields:
        changes["keep_threshold"] = None
    return changes, notes


def _more_choices(router: RouterConfig, shards: int) -> dict[str, Any]:
    """A token takes all shards of what it took."""
    if isinstance(router, TokenChoiceConfig):
        return {"top_k": router.top_k * shards}
    assert isinstance(router, ExpertChoiceConfig)
    return {"experts_per_token": router.experts_per_token * shards}
