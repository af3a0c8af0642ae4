"""What a user asks of a resizing, what is measured for it, and what became of each layer.

Knows numbers and names. Must not know models.
Shape letters: see moe/routing.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

Operation = Literal["prune", "merge", "add", "split", "dense", "regate"]
PruneBy = Literal["load", "ablation", "random"]
MergeBy = Literal["average", "load", "heaviest", "concatenate"]

# The fields that an operation goes by, beside itself.
USED: dict[Operation, tuple[str, ...]] = {
    "prune": ("num_experts", "by", "drop_experts", "seed"),
    "merge": ("num_experts",),
    "add": ("num_experts", "noise_std", "seed"),
    "split": ("shards",),
    "dense": ("merge_by",),
    "regate": ("seed",),
}


@dataclass(frozen=True, slots=True)
class ResizeOptions:
    """How an MoE is to change. What an operation does not use stays at its default."""

    operation: Operation
    num_experts: int | None = None
    """With prune, merge and add: experts per layer afterwards. None with prune: `drop_experts` says which go."""
    by: PruneBy = "load"
    """With prune: which experts stay, those with the most tokens, those that cost most to do without, or any."""
    drop_experts: tuple[int, ...] | Mapping[int, tuple[int, ...]] | None = None
    """With prune: the experts that go, of every MoE layer, or by layer."""
    shards: int | None = None
    """With split: experts that each expert becomes."""
    merge_by: MergeBy = "load"
    """With dense: what of the experts makes the mlp."""
    noise_std: float = 0.01
    """With add: spread of the noise on the new experts and their router rows, in standard deviations of the matrix it is added to."""
    seed: int = 0
    """Of the experts that are drawn, of the noise, and of a new gate's first weights."""

    def to_json(self) -> dict[str, Any]:
        """What the operation goes by, without what is not for it."""
        names = USED[self.operation]
        if self.operation == "prune":
            names = (
                ("drop_experts",) if self.drop_experts is not None else ("num_experts", "by", *(("seed",) if self.by == "random" else ()))
            )
        return {"operation": self.operation} | {name: getattr(self, name) for name in names}

    @property
    def measures(self) -> bool:
        """Whether the operation goes by what the model does with a text."""
        by_text = self.operation == "prune" and self.drop_experts is None and self.by != "random"
        return by_text or self.operation in ("merge", "add", "dense")


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """What one MoE layer did with a text."""

    load_E: Tensor
    """float64: share of the assignments; sums to 1. Where each expert has the same number by construction, share of the router's
    probability."""
    weight_E: Tensor
    """float64: mean over tokens of the combine weight that an expert's output got; what they sum to is the mean weight sum."""
    logit_products_EE: Tensor
    """float64: mean over tokens of the products of two experts' router logits, less their mean over experts, which no softmax sees."""
    shared_gate: float
    """Mean factor of the shared experts' output; 1 without a gate."""


@dataclass(frozen=True, slots=True)
class LayerChange:
    """What became of one MoE layer."""

    layer: int
    made_of: list[list[int]]
    """For each new expert, or each part of an mlp's width, the source's experts that it was made of."""
    scores: list[float] | None = None
    """What the source's experts were judged by: share of the load, or nats per token that it costs to switch one off; None: by nothing."""
    output_factors: list[float] = field(default_factory=list)
    """What the outputs of each new expert or part were multiplied by; empty where by 1."""
