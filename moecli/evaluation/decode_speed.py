"""How fast models generate, measured side by side.

Knows models and clocks. Must not know recipes, nor what the figures are compared for.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.model.device import Precision
from moecli.model.generate import CachedDecoding, Decoding, Recomputation, Sampling
from moecli.model.gpt import GPT

GREEDY = Sampling(temperature=0)


@dataclass(frozen=True, slots=True)
class DecodeSubject:
    """A model whose generation is timed."""

    model: GPT
    ids_BS: Tensor
    """Text to go on from, at least as many sequences and positions as are asked for."""
    precision: Precision = "float32"
    leaks_future: bool = False
    """Whether nothing can be cached, so that every token takes a pass over all before it; see generate.py."""


def decode_speeds(subjects: Sequence[DecodeSubject], *, prompt_tokens: int, new_tokens: int, batch_size: int, rounds: int) -> list[float]:
    """Tokens per second that each model generates, summed over the batch; the pass over the prompt is not in it.

    The subjects take turns, after one round that counts for nothing; the median of `rounds` is taken. The most probable token is fed back.
    """
    seconds: list[list[float]] = [[] for _ in subjects]
    for number in range(rounds + 1):
        for subject, measured in zip(subjects, seconds, strict=True):
            prompt_BS = subject.ids_BS[:batch_size, :prompt_tokens]
            assert prompt_BS.shape == (batch_size, prompt_tokens), "too little text to go on from"
            elapsed = _decode_seconds(subject, prompt_BS, new_tokens)
            if number > 0:
                measured.append(elapsed)
    return [batch_size * new_tokens / statistics.median(measured) for measured in seconds]


def _decode_seconds(subject: DecodeSubject, prompt_BS: Tensor, new_tokens: int) -> float:
    """Seconds for so many steps after the prompt."""
    decoding: Decoding
    if subject.leaks_future:
        decoding = Recomputation(subject.model, subject.precision)
    else:
        batch_size, prompt_tokens = prompt_BS.shape
        decoding = CachedDecoding(subject.model, batch_size, prompt_tokens + new_tokens, subject.precision)
    generator = torch.Generator()
    # `next_ids` brings the choice to the CPU, so an accelerator is done when the clock is read.
    ids_B = GREEDY.next_ids(decoding.begin(prompt_BS.tolist()), generator)
    started = time.perf_counter()
    for _ in range(new_tokens):
        ids_B = GREEDY.next_ids(decoding.step(ids_B), generator)
    return time.perf_counter() - started
