"""What training minimises: the one place where losses are added up.

Knows logits, targets and routing records. Must not know the model that made them, nor the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moecli.moe.losses import router_z_loss, switch_balance_loss
from moecli.moe.routing import RoutingRecord


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars with gradient, all in float32."""

    cross_entropy: Tensor
    """Mean nats per token: the language-model loss and nothing else."""
    balance: Tensor
    """Unweighted, mean over MoE layers, 1 when balanced; 0 without MoE layers."""
    router_z: Tensor
    """Unweighted, mean over MoE layers; 0 without MoE layers."""
    total: Tensor
    """What is minimised: cross_entropy + balance_weight * balance + z_weight * router_z."""


def causal_lm_losses(
    logits_BSV: Tensor,
    targets_BS: Tensor,
    records: Sequence[RoutingRecord | None],
    *,
    balance_weight: float,
    z_weight: float,
) -> Losses:
    """Next-token cross-entropy, and the router losses of each layer, averaged over the layers that have a record."""
    cross_entropy = F.cross_entropy(logits_BSV.float().flatten(0, 1), targets_BS.flatten())
    balance = _mean_over_layers(switch_balance_loss, records, like=cross_entropy)
    router_z = _mean_over_layers(router_z_loss, records, like=cross_entropy)
    total = cross_entropy + balance_weight * balance + z_weight * router_z
    return Losses(cross_entropy, balance, router_z, total)


def _mean_over_layers(loss: Callable[[RoutingRecord], Tensor], records: Sequence[RoutingRecord | None], *, like: Tensor) -> Tensor:
    values = [loss(record) for record in records if record is not None]
    return torch.stack(values).mean() if values else torch.zeros_like(like)
