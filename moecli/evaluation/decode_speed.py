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


@dataclass(frozen=True, slots=True)
class DecodeRate:
    """Tokens per second over the rounds of one subject, summed over the batch; the pass over the prompt is not in it."""

    median: float
    low: float
    """Of the slowest round."""
    high: float


def decode_speeds(
    subjects: Sequence[DecodeSubject], *, prompt_tokens: int, new_tokens: int, batch_size: int, rounds: int, seconds: float = 0.0
) -> list[DecodeRate]:
    """How fast each model generates. The most probable token is fed back.

    The subjects take turns, after one round that counts for nothing. Each has `rounds` of them, and goes on as long as it has taken less
    than `seconds`: the shorter the rounds, the more of them there are.
    """
    prompts = [subject.ids_BS[:batch_size, :prompt_tokens] for subject in subjects]
    assert all(prompt_BS.shape == (batch_size, prompt_tokens) for prompt_BS in prompts), "too little text to go on from"
    for subject, prompt_BS in zip(subjects, prompts, strict=True):
        _decode_seconds(subject, prompt_BS, new_tokens)
    taken: list[list[float]] = [[] for _ in subjects]
    while unfinished := [place for place, rounds_of in enumerate(taken) if len(rounds_of) < rounds or sum(rounds_of) < seconds]:
        for place in unfinished:
            taken[place].append(_decode_seconds(subjects[place], prompts[place], new_tokens))
    tokens = batch_size * new_tokens
    return [DecodeRate(tokens / statistics.median(rounds_of), tokens / max(rounds_of), tokens / min(rounds_of)) for rounds_of in taken]


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
