"""A model of another config on a model's weights: whether it may be, and whether it then computes the same.

Knows both configs. Must not know recipes, nor what the weights are.
"""

from __future__ import annotations

from typing import Any

import torch

from moecli.errors import FieldProblem
from moecli.model.config import GPTConfig
from moecli.model.gpt import GPT

Changes = dict[str, tuple[Any, Any]]
"""Fields by their path in the recipe's `model`, each with its old and its new value."""

# What evaluation does not compute with: first weights, and noise and room in training alone.
TRAINING_FIELDS = {"init_std", "ffn.router.input_jitter", "ffn.router.keep_threshold", "ffn.router.noise_std", "ffn.capacity.factor"}
# How many experts a token gets, how their outputs are weighed, who comes first: weights mean with them what they meant before.
ROUTING_FIELDS = {
    "ffn.router.top_k",
    "ffn.router.normalize_weights",
    "ffn.router.scale",
    "ffn.router.num_groups",
    "ffn.router.top_groups",
    "ffn.router.group_score",
    "ffn.router.experts_per_token",
    "ffn.router.pool",
    "ffn.capacity",
    "ffn.capacity.eval_factor",
    "ffn.capacity.group",
    "ffn.capacity.order",
    "ffn.capacity.overflow",
}


def changed_fields(old: GPTConfig, new: GPTConfig) -> Changes:
    """The fields that differ.

    Of the widths of dense layers and the rule for MoE layers, only what the layers become of it counts.
    """
    before, after = _flat(old), _flat(new)
    return {name: (before.get(name), after.get(name)) for name in before | after if before.get(name) != after.get(name)}


def start_problems(changed: Changes) -> list[FieldProblem]:
    """What of `changed_fields` gives the weights another shape or another meaning."""
    refused = {name: values for name, values in changed.items() if name not in TRAINING_FIELDS | ROUTING_FIELDS}
    if "moe_layers" in refused:
        refused.pop("dense_d_ff", None)
    for kind in ("ffn.kind", "ffn.router.kind"):
        if kind in refused:  # that another kind has other fields is no news
            section = kind.removesuffix("kind")
            refused = {name: values for name, values in refused.items() if name == kind or not name.startswith(section)}
    return [FieldProblem(name, f"{new} is not that of the source", allowed=f"{old}") for name, (old, new) in refused.items()]


def changes_function(changed: Changes) -> bool:
    """Whether evaluation computes with one of these fields."""
    return not changed.keys() <= TRAINING_FIELDS


def change_lines(changed: Changes) -> list[str]:
    """For people: key: old -> new."""
    return [f"model.{name}: {_shown(old)} -> {_shown(new)}" for name, (old, new) in changed.items()]


def with_weights_of(model: GPT, config: GPTConfig) -> GPT:
    """A model of another config, without `start_problems`, on the same tensors, which are not copied. In evaluation mode."""
    with torch.device("meta"):
        other = GPT(config, model.vocab_size)
    other.load_state_dict(model.state_dict(), strict=True, assign=True)
    return other.eval()


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _flat(config: GPTConfig) -> dict[str, Any]:
    tree = config.model_dump(exclude={"moe_layers", "dense_d_ff", "causal"})
    layers = range(config.num_layers)
    moe_layers = [layer for layer in layers if config.moe_layers.includes(layer)]
    of_layers = {"moe_layers": moe_layers, "causal": config.is_causal}
    return _leaves(tree) | of_layers | ({"dense_d_ff": config.dense_d_ff} if len(moe_layers) < config.num_layers else {})


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves
