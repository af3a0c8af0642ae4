"""What an expert is worth: the loss that it costs to switch it off, one expert at a time.

Knows language models and batches. Must not know run folders or reports.
Shape letters: see moe/routing.py; N tokens of all batches, D documents (the model's width has no part here).
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
    """Nats per token that the loss rises when the expert's output is zero. In this layer tokens keep their experts and weights, later
    layers choose for what reaches them."""
    standard_error: list[float]
    """Of loss_increase, from its spread over documents, as far as they lie in the batches; NaN for one."""


@dataclass(frozen=True, slots=True)
class Ablation:
    tokens: int
    """Predicted tokens that the losses are means of."""
    loss: float
    """Nats per token with every expert."""
    layers: list[LayerAblation]


@torch.no_grad()
def ablate(
    model: LanguageModel,
    batches: Sequence[Batch],
    precision: Precision,
    end_of_text_id: int,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Ablation:
    """Evaluates the batches once with every expert, and once without each expert that any of their tokens has.

    Args:
        model: its weights are the same afterwards, bit for bit.
        batches: what is evaluated each time.
        precision: of matrix products.
        end_of_text_id: the token that begins a document.
        tell: is told how many experts are done, and of how many.
    """
    model.eval()
    loads: dict[int, Tensor] = {}
    documents_N = _documents(batches, end_of_text_id)
    nats_D, tokens_D = _document_nats(model, batches, precision, documents_N, loads)
    num_experts, done = sum(len(load_E) for load_E in loads.values()), 0
    layers = []
    for layer, outputs in model.expert_outputs().items():
        increases, errors = [], []
        for expert, load in enumerate(loads[layer].tolist()):
            increase_D = torch.zeros_like(nats_D)
            if load:
                with switched_off(outputs, expert):
                    increase_D = _document_nats(model, batches, precision, documents_N)[0] - nats_D
            mean = increase_D.sum() / tokens_D.sum()
            increases.append(mean.item())
            errors.append(_standard_error(increase_D - mean * tokens_D, tokens_D))
            done += 1
            tell(done, num_experts)
        layers.append(LayerAblation(layer, increases, errors))
    tokens = int(tokens_D.sum())
    return Ablation(tokens, nats_D.sum().item() / tokens, layers)


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


def _documents(batches: Sequence[Batch], end_of_text_id: int) -> Tensor:
    """int64 [N]: the document of every token of the batches, from 0. What the border of a batch cuts off counts as one of its own."""
    begins = []
    for batch in batches:
        begins_N = batch.text_ids_BS.flatten() == end_of_text_id
        begins_N[0] = True
        begins.append(begins_N)
    return torch.cat(begins).cumsum(0) - 1


def _document_nats(
    model: LanguageModel, batches: Sequence[Batch], precision: Precision, documents_N: Tensor, loads: dict[int, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Nats and predicted tokens of each document, float64 on the CPU; the load of each layer is added to `loads`."""
    device = next(model.parameters()).device
    nats, is_predicted = [], []
    for batch in batches:
        batch = batch.to(device)
        with autocast(device, precision):
            logits_BSV, records = model(batch.ids_BS)
        targets_N = batch.targets_BS.flatten()
        losses_N = F.cross_entropy(logits_BSV.float().flatten(0, 1), targets_N, ignore_index=IGNORED, reduction="none")
        nats.append(losses_N.double().cpu())
        is_predicted.append((targets_N != IGNORED).double().cpu())
        for layer, record in enumerate(records):
            if record is not None and loads is not None:
                loads[layer] = loads.get(layer, 0) + record.load_E.cpu()
    nothing_D = torch.zeros(int(documents_N[-1]) + 1, dtype=torch.float64)
    return nothing_D.index_add(0, documents_N, torch.cat(nats)), nothing_D.index_add(0, documents_N, torch.cat(is_predicted))


def _standard_error(residual_D: Tensor, tokens_D: Tensor) -> float:
    """Of a mean per token, where documents are what was drawn (the linearised variance of a ratio); not a number for one document."""
    num_documents = len(residual_D)
    if num_documents < 2:
        return float("nan")
    variance = residual_D.square().sum() * num_documents / (num_documents - 1)
    return float(variance.sqrt() / tokens_D.sum())
