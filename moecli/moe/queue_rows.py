"""The rows of the experts' queues, the long ones filled up to a round number for oneDNN (onednn.py).

Knows queues as lists. Must not know what an expert computes. Shape letters: see routing.py; R the rows of all queues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moecli.moe.onednn import round_rows


@dataclass(frozen=True, slots=True)
class QueueRows:
    """The assignments, queue by queue, and fillers at the ends of queues.

    A filler is the last token of its queue again, with weight 0. So no token meets an expert that it was not sent to, and nothing is added
    to any sum but zeros, unless that expert made no numbers of that token.
    """

    lengths: list[int]
    """Of each queue, with its fillers."""
    token_ids_R: Tensor
    weights_R: Tensor
    is_real_R: Tensor | None
    """False where there is a filler; None where there is none in any queue."""


def fill_up(token_ids_A: Tensor, weights_A: Tensor, lengths: list[int], from_length: float) -> QueueRows:
    """Queues that are at least `from_length` long get fillers."""
    filled = [round_rows(length) if length >= from_length else length for length in lengths]
    if filled == lengths:
        return QueueRows(lengths, token_ids_A, weights_A, None)
    length_E, filled_E = torch.tensor([lengths, filled]).unbind()
    expert_R = torch.arange(len(lengths)).repeat_interleave(filled_E)
    place_R = torch.arange(sum(filled)) - (filled_E.cumsum(0) - filled_E)[expert_R]  # in its own queue
    last_R = (length_E - 1)[expert_R]
    assignment_R = (length_E.cumsum(0) - length_E)[expert_R] + torch.minimum(place_R, last_R)
    is_real_R = place_R <= last_R
    return QueueRows(filled, token_ids_A[assignment_R], weights_A[assignment_R] * is_real_R, is_real_R)
