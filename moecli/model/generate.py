"""Generation: from the ids of prompts to the ids that follow, one position at a time.

Knows models and ids. Must not know text, nor when one is at its end: the caller stops asking.
Shape letters: see moe/routing.py; V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from moecli.errors import RunError
from moecli.model.device import Precision, autocast
from moecli.model.gpt import GPT
from moecli.model.kv_cache import KVCache
from moecli.model.rerouted import without_capacity

# A long prompt goes through the model in parts of so many positions, so that only the cache grows with it.
PROMPT_PART = 512


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn: temperature first, then the `top_k` most probable, then the nucleus of what is left."""

    temperature: float = 1.0
    """Divides the logits; 0 takes the most probable token, always."""
    top_k: int | None = None
    """How many tokens are left in the draw; None for all."""
    top_p: float | None = None
    """The smallest set of the most probable tokens whose probability reaches this is left in the draw (arXiv 1904.09751, section 3.1)."""

    def __post_init__(self) -> None:
        assert 0 <= self.temperature < math.inf
        assert self.top_k is None or self.top_k >= 1
        assert self.top_p is None or 0 < self.top_p <= 1

    def probabilities(self, logits_BV: Tensor) -> Tensor:
        """float64 [B, V]: from what distribution the next token is drawn. Needs a temperature above 0."""
        logits_BV = logits_BV.double()
        # The largest logit is 0 before it is divided: then no temperature, however small, makes it infinite.
        logits_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)) / self.temperature
        if self.top_k is not None and self.top_k < logits_BV.shape[1]:
            kept = logits_BV.topk(self.top_k, dim=-1)
            logits_BV = torch.full_like(logits_BV, -math.inf).scatter(1, kept.indices, kept.values)
        probs_BV = logits_BV.softmax(dim=-1)
        return probs_BV if self.top_p is None or self.top_p == 1 else _nucleus(probs_BV, self.top_p)

    def next_ids(self, logits_BV: Tensor, generator: Generator) -> Tensor:
        """int64 [B] on the CPU, where `generator` is: the same draws on every device."""
        if self.temperature == 0:
            return logits_BV.argmax(dim=-1).cpu()
        return torch.multinomial(self.probabilities(logits_BV.cpu()), num_samples=1, generator=generator)[:, 0]


class CachedDecoding:
    """Generation with a cache: the prompts go through the model once, and then each new token alone.

    A capacity is left off, from the prompt on: one token finds room at every expert, while a whole prefix could overflow. Prompts of
    different lengths are filled up on the left.

    Args:
        model: causal, whose tokens don't see their future. Computes in evaluation mode and is left as it was.
        room: R, the most positions: those of the longest prompt and the tokens to come but for the last.
    """

    def __init__(self, model: GPT, batch_size: int, room: int, precision: Precision) -> None:
        self._model = without_capacity(model)
        self._precision: Precision = precision
        self._device = model.embedding.weight.device
        self._cache = KVCache(model.config, batch_size, room, self._device, cache_dtype(model, precision))

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits [B, V] after the prompts, none of which is empty; what came before is forgotten."""
        self._cache.clear()
        longest = max(map(len, prompts))
        ids_BS = torch.tensor([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts], device=self._device)
        lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        is_padding_BS = torch.arange(longest, device=self._device) < longest - lengths_B[:, None]
        is_padded = any(len(prompt) < longest for prompt in prompts)
        for start in range(0, longest, PROMPT_PART):
            part = slice(start, start + PROMPT_PART)
            logits_BV = self._forward(ids_BS[:, part], is_padding_BS[:, part] if is_padded else None)
        return logits_BV

    def step(self, ids_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token of each sequence."""
        return self._forward(ids_B[:, None].to(self._device))

    @torch.inference_mode()
    def _forward(self, ids_BS: Tensor, is_padding_BS: Tensor | None = None) -> Tensor:
        with evaluating(self._model), autocast(self._device, self._precision):
            return self._model(ids_BS, is_padding_BS, self._cache, last_only=True)[0][:, 0]


class Recomputation:
    """Generation without a cache: every sequence, each by itself, goes through the model again for each token.

    It is what the step-by-step loss of `evaluation/audit.py` means. Where tokens see their future, each new one changes all before it, so
    there is no other way.
    """

    def __init__(self, model: GPT, precision: Precision) -> None:
        self._model = model
        self._precision: Precision = precision
        self._device = model.embedding.weight.device
        self._sequences: list[list[int]] = []

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits [B, V] after the prompts, none of which is empty."""
        self._sequences = [list(prompt) for prompt in prompts]
        return self._forward()

    def step(self, ids_B: Tensor) -> Tensor:
        """Logits [B, V] after one more token of each sequence."""
        for sequence, number in zip(self._sequences, ids_B.tolist(), strict=True):
            sequence.append(number)
        return self._forward()

    @torch.inference_mode()
    def _forward(self) -> Tensor:
        with evaluating(self._model), autocast(self._device, self._precision):
            rows = [self._model(torch.tensor([ids], device=self._device), last_only=True)[0][:, 0] for ids in self._sequences]
        return torch.cat(rows)


Decoding = CachedDecoding | Recomputation


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int,
    precision: Precision = "float32",
    leaks_future: bool = False,
) -> Iterator[Tensor]:
    """Yields the next id of each sequence, int64 [B] on the CPU, `max_tokens` times; a sequence that is at its end goes on.

    Args:
        model: causal by its attention. Computes in evaluation mode and is left as it was.
        prompts: B sequences of ids, of any lengths but 0.
        seed: of the draws, which depend on nothing else.
        leaks_future: whether its routing lets tokens see later ones, so that nothing can be cached.

    Raises:
        RunError: the logits are no numbers, as of a training that diverged.
    """
    decoding = decoding_for(model, len(prompts), room_for(prompts, max_tokens), precision, leaks_future)
    return decode(decoding, prompts, max_tokens=max_tokens, sampling=sampling, seed=seed)


def decoding_for(model: GPT, batch_size: int, room: int, precision: Precision, leaks_future: bool) -> Decoding:
    """The way of decoding that such a model needs."""
    return Recomputation(model, precision) if leaks_future else CachedDecoding(model, batch_size, room, precision)


def room_for(prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
    """R: the last token is drawn, and goes through no model."""
    return max(map(len, prompts)) + max_tokens - 1


def decode(decoding: Decoding, prompts: Sequence[Sequence[int]], *, max_tokens: int, sampling: Sampling, seed: int) -> Iterator[Tensor]:
    """`generate` with a way of decoding that is already there, and has room for so much."""
    generator = Generator().manual_seed(seed)
    logits_BV = decoding.begin(prompts)
    for number in range(max_tokens):
        if not logits_BV.isfinite().all():
            raise RunError("the model's logits are no numbers", next_step="use an earlier checkpoint: the training may have diverged")
        ids_B = sampling.next_ids(logits_BV, generator)
        yield ids_B
        if number < max_tokens - 1:
            logits_BV = decoding.step(ids_B)


def cache_dtype(model: GPT, precision: Precision) -> torch.dtype:
    """In what keys and values come out of the model."""
    return torch.bfloat16 if precision == "bfloat16" else model.embedding.weight.dtype


@contextmanager
def evaluating(model: GPT) -> Iterator[None]:
    """Evaluation mode inside the block, and then the mode that was."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _nucleus(probs_BV: Tensor, top_p: float) -> Tensor:
    """The smallest set of the most probable tokens whose probability reaches `top_p`, as a distribution."""
    sorted_BV, order_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
    reached_before_BV = F.pad(sorted_BV.cumsum(dim=-1)[:, :-1], (1, 0))
    kept_BV = sorted_BV.masked_fill(reached_before_BV >= top_p, 0.0)
    return torch.zeros_like(probs_BV).scatter(1, order_BV, kept_BV / kept_BV.sum(dim=-1, keepdim=True))
