"""How far the logits of an upcycled model lie from those of the dense model that it was made from.

Knows two models of one vocabulary. Must not know how one became the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moecli.model.gpt import GPT
from moecli.moe.layers import SoftMoEConfig

TOLERANCE = 1e-5
# Sequences, and tokens of each at most.
NUM_ROWS = 4
LONGEST = 64


@dataclass(frozen=True, slots=True)
class LogitDifference:
    """On random ids, in evaluation mode, in float32."""

    max_abs: float
    largest: float
    """Of the dense model's logits, in absolute value."""

    @property
    def is_rounding(self) -> bool:
        """Whether the two models compute the same: float32 rounds large logits in proportion."""
        return self.max_abs <= TOLERANCE * max(1.0, self.largest)


@torch.no_grad()
def logit_difference(dense: GPT, moe: GPT, seq_len: int, seed: int = 0) -> LogitDifference:
    """Both models on the same ids."""
    ffn = moe.config.ffn
    # A mixture over a batch is of so many sequences.
    rows = ffn.group_size or NUM_ROWS if isinstance(ffn, SoftMoEConfig) else NUM_ROWS
    ids_BS = torch.randint(dense.vocab_size, (rows, min(seq_len, LONGEST)), generator=torch.Generator().manual_seed(seed))
    logits_BSV, moe_logits_BSV = dense.eval()(ids_BS)[0], moe.eval()(ids_BS)[0]
    return LogitDifference((moe_logits_BSV - logits_BSV).abs().max().item(), logits_BSV.abs().max().item())
