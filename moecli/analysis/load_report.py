"""How evenly the tokens of a text were spread over the experts of each layer.

Knows routing records. Must not know the model that made them, nor how the numbers are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from moecli.moe import load
from moecli.moe.routing import RoutingRecord


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One layer over a whole text."""

    layer: int
    """Counted from 0, layers that don't route included in the count."""
    num_experts: int
    top_k: float
    """Assignments per token as the router chose them; a mean where the router doesn't fix it."""
    load: list[float]
    """Share of the kept assignments per expert; sums to 1."""
    importance: list[float]
    """Share of the router's probability per expert; sums to 1."""
    cv_load: float
    cv_importance: float
    max_violation: float
    entropy: float
    """Of the load, in nats."""
    effective_experts: float
    dead_experts: int
    dropped_fraction: float
    moved_fraction: float
    """Of the assignments, those that ran on another expert than the router's choice, because that was full."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """All layers that route; empty where none does."""

    tokens: int
    layers: list[LayerLoad]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"mean": self.mean()}

    def mean(self) -> dict[str, float]:
        """Means over the layers of every figure that is one number per layer; dead experts are added up."""
        if not self.layers:
            return {}
        keys = ("cv_load", "cv_importance", "max_violation", "entropy", "effective_experts", "dropped_fraction", "moved_fraction")
        means = {key: sum(getattr(layer, key) for layer in self.layers) / len(self.layers) for key in keys}
        return means | {"dead_experts": sum(layer.dead_experts for layer in self.layers)}


class LoadCollector:
    """Adds up records batch by batch; memory does not grow with the text."""

    def __init__(self) -> None:
        self._tokens = 0
        self._layers: dict[int, _LayerSums] = {}

    def add(self, records: Sequence[RoutingRecord | None]) -> None:
        """Takes the records of all layers for one batch."""
        routed = [(layer, record) for layer, record in enumerate(records) if record is not None]
        for layer, record in routed:
            self._layers.setdefault(layer, _LayerSums(record.routing.num_experts)).add(record)
        if routed:
            self._tokens += routed[0][1].routing.probs_TE.shape[0]

    def report(self) -> LoadReport:
        return LoadReport(self._tokens, [sums.reduce(layer, self._tokens) for layer, sums in sorted(self._layers.items())])


class _LayerSums:
    """Running sums of one layer, all [E] and on the CPU."""

    def __init__(self, num_experts: int) -> None:
        self.chosen_load_E = torch.zeros(num_experts, dtype=torch.int64)
        self.load_E = torch.zeros(num_experts, dtype=torch.int64)
        self.num_moved = torch.zeros((), dtype=torch.int64)
        self.prob_E = torch.zeros(num_experts, dtype=torch.float64)

    def add(self, record: RoutingRecord) -> None:
        self.chosen_load_E += record.chosen_load_E.cpu()
        self.load_E += record.load_E.cpu()
        self.num_moved += record.num_moved.cpu()
        self.prob_E += record.routing.probs_TE.detach().sum(dim=0).cpu()

    def reduce(self, layer: int, tokens: int) -> LayerLoad:
        load_entropy = load.entropy(self.load_E)
        return LayerLoad(
            layer=layer,
            num_experts=len(self.load_E),
            top_k=self.chosen_load_E.sum().item() / tokens,
            load=load.load_shares(self.load_E).tolist(),
            importance=load.load_shares(self.prob_E).tolist(),
            cv_load=load.coefficient_of_variation(self.load_E).item(),
            cv_importance=load.coefficient_of_variation(self.prob_E).item(),
            max_violation=load.max_violation(self.load_E).item(),
            entropy=load_entropy.item(),
            effective_experts=load_entropy.exp().item(),
            dead_experts=int(load.dead_experts(self.load_E).item()),
            dropped_fraction=load.dropped_fraction(self.chosen_load_E, self.load_E).item(),
            moved_fraction=load.moved_fraction(self.chosen_load_E, self.num_moved).item(),
        )
