"""What an expert is worth: the loss that it costs to switch it off, one expert at a time.

Knows language models and batches. Must not know run folders or reports. Shape letters: see moe/routing.py; B sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moecli.data.batches import IGNORED, Batch
from moecli.evaluation.evaluate import LanguageModel
from moecli.model.device import Precision, autocast


@dataclass(frozen=True, slots=True)
class LayerAblation:
    """One layer, [E] each."""

    layer: int
    loss_increase: list[float]
    """Nats per token that the loss rises when the expert's output is zero; tokens keep their experts and weights."""
    standard_error: list[float]
    """Of loss_increase, from its spread over sequences."""


@dataclass(frozen=True, slots=True)
class Ablation:
    tokens: int
    """Predicted tokens that the losses are means of."""
    loss: float
    """Nats per token with every expert."""
    layers: list[LayerAblation]


@torch.no_grad()
def ablate(
    model: LanguageModel, batches: Sequence[Batch], precision: Precision, tell: Callable[[int, int], None] = lambda done, total: None
) -> Ablation:
    """Evaluates the batches once with every expert, and once without each expert that any of their tokens has.

    Args:
        model: its weights are the same afterwards, bit for bit.
        batches: what is evaluated each time.
        precision: of matrix products.
        tell: is told how many experts are done, and of how many.
    """
    model.eval()
    loads: dict[int, Tensor] = {}
    nats_B, tokens_B = _sequence_nats(model, batches, precision, loads)
    num_experts, done = sum(len(load_E) for load_E in loads.values()), 0
    layers = []
    for layer, outputs in model.expert_outputs().items():
        increases, errors = [], []
        for expert, load in enumerate(loads[layer].tolist()):
            increase_B = torch.zeros_like(nats_B)
            if load:
                with switched_off(outputs, expert):
                    increase_B = _sequence_nats(model, batches, precision)[0] - nats_B
            mean = increase_B.sum() / tokens_B.sum()
            increases.append(mean.item())
            errors.append(_standard_error(increase_B - mean * tokens_B, tokens_B))
            done += 1
            tell(done, num_experts)
        layers.append(LayerAblation(layer, increases, errors))
    tokens = int(tokens_B.sum())
    return Ablation(tokens, nats_B.sum().item() / tokens, layers)


@contextmanager
def switched_off(outputs: Sequence[Tensor], expert: int) -> Iterator[None]:
    """Zeros in the weights that make an expert's output while the body runs."""
    saved = [output[expert].clone() for output in outputs]
    try:
        for output in outputs:
            output[expert] = 0
        yield
    finally:
        for output, before in zip(outputs, saved, strict=True):
            output[expert] = before


def _sequence_nats(
    model: LanguageModel, batches: Sequence[Batch], precision: Precision, loads: dict[int, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Nats and predicted tokens of each sequence, float64 on the CPU; the load of each layer is added to `loads`."""
    device = next(model.parameters()).device
    nats, tokens = [], []
    for batch in batches:
        batch = batch.to(device)
        with autocast(device, precision):
            logits_BSV, records = model(batch.ids_BS)
        logits_BVS = logits_BSV.float().transpose(1, 2)
        nats.append(F.cross_entropy(logits_BVS, batch.targets_BS, ignore_index=IGNORED, reduction="none").double().sum(dim=1).cpu())
        tokens.append((batch.targets_BS != IGNORED).sum(dim=1).double().cpu())
        for layer, record in enumerate(records):
            if record is not None and loads is not None:
                loads[layer] = loads.get(layer, 0) + record.load_E.cpu()
    return torch.cat(nats), torch.cat(tokens)


def _standard_error(residual_B: Tensor, tokens_B: Tensor) -> float:
    """Of a mean per token, where sequences are what was drawn (the linearised variance of a ratio); not a number for one sequence."""
    num_sequences = len(residual_B)
    if num_sequences < 2:
        return float("nan")
    variance = residual_B.square().sum() * num_sequences / (num_sequences - 1)
    return float(variance.sqrt() / tokens_B.sum())
