"""What every router is.

Knows the contract (routing.py). Must not know dispatch, experts, losses or training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moecli.config import KindConfig
from moecli.errors import FieldProblem
from moecli.moe.routing import Routing


class RouterConfig(KindConfig):
    """Base of the router configs."""

    def problems_with(self, num_experts: int) -> list[FieldProblem]:
        """The rules between this router and the number of experts that are broken."""
        return []


class Router(nn.Module, ABC):
    """Scores the experts for each token and chooses. `forward(x_BSD) -> Routing`, with tokens flattened row by row."""

    config_class: ClassVar[type[RouterConfig]]

    @property
    @abstractmethod
    def assignments_per_token(self) -> float:
        """How many experts a token gets on average, before drops: A / T."""

    @abstractmethod
    def forward(self, x_BSD: Tensor) -> Routing: ...


def float32_logits(x_BSD: Tensor, weight_ED: Tensor) -> Tensor:
    """Router logits [T, E] in float32 whatever autocast says: Switch's selective precision (arXiv 2101.03961, section 2.4)."""
    x_TD = x_BSD.flatten(0, -2)
    with torch.autocast(device_type=x_TD.device.type, enabled=False):
        return F.linear(x_TD.float(), weight_ED.float())
