"""How evenly the tokens of a text were spread over the experts of each layer, and how sure the router was.

Knows routing records. Must not know the model that made them, nor how the numbers are shown.

Shape letters: see moe/routing.py; P parts of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from moecli.moe import load
from moecli.moe.routing import RoutingRecord

# Drops are counted by the part of the sequence in which they happen, of equal length, as far as the length divides.
MOST_PARTS = 16


@dataclass(frozen=True, slots=True)
class LayerLoad:
    """One layer over a whole text. What is taken from the router's probabilities is None where a model doesn't tell them."""

    layer: int
    """Counted from 0, layers that don't route included in the count."""
    num_experts: int
    top_k: float
    """Assignments per token as the router chose them; a mean where the router doesn't fix it."""
    load: list[float]
    """Share of the kept assignments per expert; sums to 1."""
    importance: list[float] | None
    """Share of the router's probability per expert; sums to 1."""
    cv_load: float
    cv_importance: float | None
    max_violation: float
    """Of the load over the whole text (MaxVio_global)."""
    max_violation_batch: float
    """Mean over batches of the MaxVio of each (MaxVio_batch), weighted by their assignments: the last batch may be a short one."""
    entropy: float
    """Of the load, in nats."""
    effective_experts: float
    dead_experts: int
    dropped_fraction: float
    moved_fraction: float
    """Of the assignments, those that ran on another expert than the router's choice, because that was full."""
    confidence: float | None
    """Mean over tokens of the largest router probability."""
    margin: float | None
    """Mean over tokens of the largest router probability less the second largest."""
    dropped_by_position: list[float]
    """Dropped share of the assignments in each part of the sequence, [P]."""


SCALARS = tuple(field.name for field in fields(LayerLoad) if field.type in ("float", "float | None"))
"""The figures of a layer that have a mean over layers."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """All layers that route; empty where none does."""

    tokens: int
    layers: list[LayerLoad]
    position_starts: list[int]
    """The first position of each part of the sequence, [P]."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"mean": self.mean()}

    def mean(self) -> dict[str, float | None]:
        """Means over the layers of every figure that is one number per layer; dead experts are added up."""
        if not self.layers:
            return {}
        means = {key: _mean([getattr(layer, key) for layer in self.layers]) for key in SCALARS}
        return means | {"dead_experts": sum(layer.dead_experts for layer in self.layers)}


def _of_this_process(sums: Sequence[Tensor]) -> list[Tensor]:
    return list(sums)


class LoadCollector:
    """Adds up records batch by batch; memory does not grow with the text.

    Args:
        add_up: the sums over all processes of tensors of one dtype, on the CPU, where each has records of its share of every batch.
    """

    def __init__(self, add_up: Callable[[Sequence[Tensor]], list[Tensor]] = _of_this_process) -> None:
        self._add_up = add_up
        self._tokens = 0
        self._layers: dict[int, _LayerSums] = {}

    def add(self, records: Sequence[RoutingRecord | None], *, counts: bool = True) -> None:
        """Takes the records of all layers for one batch. Those of a process that has no share of it don't count."""
        routed = [(layer, record) for layer, record in enumerate(records) if record is not None]
        for layer, record in routed:
            routing = record.routing
            sums = self._layers.setdefault(layer, _LayerSums(routing.num_experts, routing.seq_len))
            counted, summed = sums.counted(record), sums.summed(record)
            if not counts:
                counted, summed = [torch.zeros_like(count) for count in counted], [torch.zeros_like(part) for part in summed]
            sums.add(self._add_up(counted), self._add_up(summed))
        if routed:
            num_tokens = torch.tensor(counts * routed[0][1].routing.probs_TE.shape[0])
            self._tokens += int(self._add_up([num_tokens])[0])

    def report(self) -> LoadReport:
        layers = [sums.reduce(layer, self._tokens) for layer, sums in sorted(self._layers.items())]
        starts = next((sums.part_starts() for sums in self._layers.values()), [])
        return LoadReport(self._tokens, layers, starts)


class _LayerSums:
    """Running sums of one layer, on the CPU. The first batch decides the length of the parts; no later one has longer sequences."""

    def __init__(self, num_experts: int, seq_len: int) -> None:
        self.seq_len = seq_len
        self.num_parts = min(MOST_PARTS, seq_len)
        self.chosen_load_E = torch.zeros(num_experts, dtype=torch.int64)
        self.load_E = torch.zeros(num_experts, dtype=torch.int64)
        self.num_moved = torch.zeros((), dtype=torch.int64)
        self.batch_violation = torch.zeros((), dtype=torch.float64)
        self.prob_E = torch.zeros(num_experts, dtype=torch.float64)
        self.largest_probs_2 = torch.zeros(2, dtype=torch.float64)
        self.chosen_P = torch.zeros(self.num_parts, dtype=torch.int64)
        self.dropped_P = torch.zeros(self.num_parts, dtype=torch.int64)

    def counted(self, record: RoutingRecord) -> list[Tensor]:
        """What a record says in whole numbers: load before and after drops [E], moved, assignments and drops by part [P]; int64."""
        routing = record.routing
        part_A = routing.token_ids_A % routing.seq_len * self.num_parts // self.seq_len
        parts = (torch.bincount(part_A[which], minlength=self.num_parts) for which in (slice(None), ~record.kept_A))
        return [count.cpu() for count in (record.chosen_load_E, record.load_E, record.num_moved, *parts)]

    def summed(self, record: RoutingRecord) -> list[Tensor]:
        """The sums over tokens of probabilities [E], and of the two largest [2]; float64."""
        probs_TE = record.routing.probs_TE.detach()
        largest_TN = probs_TE.topk(min(2, probs_TE.shape[1]), dim=-1).values
        largest_probs_2 = torch.zeros(2, dtype=torch.float64)
        largest_probs_2[: largest_TN.shape[1]] = largest_TN.sum(dim=0).cpu()
        return [probs_TE.sum(dim=0).cpu().double(), largest_probs_2]

    def add(self, counted: Sequence[Tensor], summed: Sequence[Tensor]) -> None:
        """Takes those of a whole batch."""
        load_E = counted[1]
        self.batch_violation += load.max_violation(load_E) * load_E.sum()
        own_counts = (self.chosen_load_E, self.load_E, self.num_moved, self.chosen_P, self.dropped_P)
        for own, part in zip((*own_counts, self.prob_E, self.largest_probs_2), (*counted, *summed), strict=True):
            own += part

    def part_starts(self) -> list[int]:
        return [-(-part * self.seq_len // self.num_parts) for part in range(self.num_parts)]

    def reduce(self, layer: int, tokens: int) -> LayerLoad:
        load_entropy = load.entropy(self.load_E)
        tells_probs = bool(self.prob_E.isfinite().all())
        first, second = (self.largest_probs_2 / tokens).tolist()
        return LayerLoad(
            layer=layer,
            num_experts=len(self.load_E),
            top_k=self.chosen_load_E.sum().item() / tokens,
            load=load.load_shares(self.load_E).tolist(),
            importance=load.load_shares(self.prob_E).tolist() if tells_probs else None,
            cv_load=load.coefficient_of_variation(self.load_E).item(),
            cv_importance=load.coefficient_of_variation(self.prob_E).item() if tells_probs else None,
            max_violation=load.max_violation(self.load_E).item(),
            max_violation_batch=self.batch_violation.item() / max(1, int(self.load_E.sum())),
            entropy=load_entropy.item(),
            effective_experts=load_entropy.exp().item(),
            dead_experts=int(load.dead_experts(self.load_E).item()),
            dropped_fraction=load.dropped_fraction(self.chosen_load_E, self.load_E).item(),
            moved_fraction=load.moved_fraction(self.chosen_load_E, self.num_moved).item(),
            confidence=first if tells_probs else None,
            margin=first - second if tells_probs else None,
            dropped_by_position=_ratios(self.dropped_P, self.chosen_P),
        )


def _ratios(part_P: Tensor, whole_P: Tensor) -> list[float]:
    ratios: list[float] = (part_P.double() / whole_P.clamp(min=1)).tolist()
    return ratios


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
