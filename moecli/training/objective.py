"""What training minimises: the one place where losses are added up.

Knows logits, targets and routing records. Must not know the model that made them, nor the optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moecli.moe.balance_sums import BalanceSums, balance_sums
from moecli.moe.losses import cv_squared, router_z_loss, switch_balance_loss
from moecli.moe.routing import RoutingRecord
from moecli.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars with gradient, all in float32."""

    cross_entropy: Tensor
    """Mean nats per predicted token: the language-model loss and nothing else."""
    router: dict[str, Tensor]
    """The router losses by the name of their weight in `training`, unweighted, each the mean over MoE layers; empty without MoE layers."""
    total: Tensor
    """What is minimised: cross_entropy and each router loss times its weight."""


def training_losses(
    logits_BSV: Tensor,
    targets_BS: Tensor,
    records: Sequence[RoutingRecord],
    config: TrainingConfig,
    sums: Sequence[BalanceSums] | None = None,
) -> Losses:
    """Cross-entropy over the targets that are to be predicted, and the router losses of each layer, averaged over the layers.

    Args:
        logits_BSV: logits.
        targets_BS: int64; -100 where nothing is to be predicted.
        records: of the layers that route.
        config: weights and scope of the router losses.
        sums: what the balance losses of each of these layers are taken of, where that is more than these records.
    """
    cross_entropy = F.cross_entropy(logits_BSV.float().flatten(0, 1), targets_BS.flatten())
    sums = layer_sums(records, config) if sums is None else sums
    router: dict[str, Tensor] = {}
    if records:
        router["balance_loss"] = _mean([switch_balance_loss(layer.count_GE, layer.prob_GE) for layer in sums])
        if config.importance_loss:
            importances = [layer.weight_GE if config.importance_of == "weights" else layer.prob_GE for layer in sums]
            router["importance_loss"] = _mean([cv_squared(importance_GE) for importance_GE in importances])
        if config.load_loss:
            router["load_loss"] = _mean([cv_squared(_smooth_load(layer)) for layer in sums])
        router["z_loss"] = _mean([router_z_loss(record) for record in records])
    total = cross_entropy
    for name, loss in router.items():
        total = total + getattr(config, name) * loss
    return Losses(cross_entropy, router, total)


def layer_sums(records: Sequence[RoutingRecord], config: TrainingConfig) -> list[BalanceSums]:
    """What the balance losses are taken of, per layer, in the groups that `balance_scope` judges by themselves."""
    per_sequence = config.balance_scope == "sequence"
    return [balance_sums(record, counts=config.balance_counts, per_sequence=per_sequence) for record in records]


def _smooth_load(sums: BalanceSums) -> Tensor:
    assert sums.smooth_load_GE is not None, "the recipe check lets load_loss pass for routers with noise alone"
    return sums.smooth_load_GE


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
