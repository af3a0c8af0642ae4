"""The loss that is reported: cross-entropy in nats per token, and what follows from it.

Knows logits and targets. Must not add anything to the loss: dense and MoE models are compared by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.config import Config, NonNegativeInt, PositiveInt
from moecli.data.batches import IGNORED, Batch
from moecli.model.device import Precision, autocast
from moecli.moe.routing import RoutingRecord
from moecli.parallel.rank_batches import evaluation_share
from moecli.parallel.world import World

Observer = Callable[[Batch, tuple[RoutingRecord | None, ...]], None]


class LanguageModel(Protocol):
    """What can be evaluated: our GPT, or a model of others behind the same calls."""

    @property
    def is_causal(self) -> bool:
        """Whether it predicts the next token; else tokens that were hidden from it."""
        ...

    def __call__(self, ids_BS: Tensor, /) -> tuple[Tensor, tuple[RoutingRecord | None, ...]]:
        """Logits [B, S, V], and a record per layer, None where the layer does not route."""
        ...

    def expert_outputs(self) -> dict[int, tuple[Tensor, ...]]:
        """For each layer that routes the weights whose slice [e] makes expert e's output, so that zeros switch it off."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def eval(self) -> Any: ...


class EvaluationConfig(Config):
    """Validation during training."""

    every: NonNegativeInt = 200
    """Steps between validations; 0 for one at the end alone."""
    batch_size: PositiveInt = 16
    """Sequences that go through the model at once."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's loss on a text."""

    loss: float
    """Nats per token, end-of-text tokens included."""
    tokens: int
    """Tokens that were predicted."""
    num_bytes: int
    """UTF-8 bytes of the whole text."""
    is_masked: bool = False
    """The tokens are those that were hidden from a bidirectional model: a sample of the text."""

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Comparable between tokenizers, as nats per token are not. None for masked tokens: a sample doesn't spell the text."""
        return None if self.is_masked else self.loss * self.tokens / math.log(2) / self.num_bytes


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    batches: Iterable[Batch],
    num_bytes: int,
    precision: Precision,
    observe: Observer | None = None,
    world: World | None = None,
) -> Evaluation:
    """Mean cross-entropy over all targets of the batches, each once.

    Args:
        model: put into evaluation mode and left in it.
        batches: the text.
        num_bytes: its length in UTF-8 bytes.
        precision: of matrix products; the loss is taken in float32 per batch and added up in float64.
        observe: is handed each batch with the routing records of all layers.
        world: the processes that `model` is spread over, all of which evaluate the same batches: each takes its rows, and the result is
            that of all. `observe` is handed the whole batch, with the records of this process's share (parallel/rank_batches.py).
    """
    model.eval()
    device = next(model.parameters()).device
    nats = torch.zeros((), dtype=torch.float64)
    tokens = torch.zeros((), dtype=torch.float64)
    for whole in batches:
        batch = (whole if world is None else evaluation_share(whole, world)).to(device)
        with autocast(device, precision):
            logits_BSV, records = model(batch.ids_BS)
        nats += F.cross_entropy(logits_BSV.float().flatten(0, 1), batch.targets_BS.flatten(), ignore_index=IGNORED, reduction="sum").cpu()
        tokens += (batch.targets_BS != IGNORED).sum().cpu()
        if observe is not None:
            observe(batch if world is None else whole, records)
    if world is not None:
        nats, tokens = world.add_up([nats, tokens])
    num_tokens = int(tokens)
    return Evaluation(loss=nats.item() / num_tokens, tokens=num_tokens, num_bytes=num_bytes, is_masked=not model.is_causal)
