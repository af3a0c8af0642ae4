"""The activations of feed-forward networks, and whether each needs a gate beside the up projection.

Knows functions of one tensor. Must not know where the tensor comes from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ActivationName = Literal["swiglu", "gelu", "relu", "relu2"]


@dataclass(frozen=True, slots=True)
class Activation:
    """A map from the input projection's output [..., F] to the hidden state [..., H]."""

    function: Callable[[Tensor], Tensor]
    is_gated: bool
    """True: F = 2H, the first half is the gate, the second the up projection. False: F = H."""

    def with_gradient(self, in_NF: Tensor, dhidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden state, and the gradient of the input projection's output for this gradient of the hidden state."""
        with torch.enable_grad():
            leaf_NF = in_NF.detach().requires_grad_()
            hidden_NH = self.function(leaf_NF)
        [din_NF] = torch.autograd.grad(hidden_NH, leaf_NF, dhidden_NH)
        return hidden_NH.detach(), din_NF

    def in_width(self, hidden_width: int) -> int:
        """F for a given H."""
        return 2 * hidden_width if self.is_gated else hidden_width


def swiglu(in_F: Tensor) -> Tensor:
    """SiLU(gate) * up (Shazeer 2020, arXiv 2002.05202, eq. 6)."""
    gate_H, up_H = in_F.chunk(2, dim=-1)
    return F.silu(gate_H) * up_H


def squared_relu(in_F: Tensor) -> Tensor:
    """max(0, x)^2 (Primer, arXiv 2109.08668)."""
    return F.relu(in_F).square()


ACTIVATIONS: dict[ActivationName, Activation] = {
    "swiglu": Activation(swiglu, is_gated=True),
    "gelu": Activation(F.gelu, is_gated=False),
    "relu": Activation(F.relu, is_gated=False),
    "relu2": Activation(squared_relu, is_gated=False),
}
