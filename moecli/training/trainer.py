"""One optimizer step at a time.

Knows a model, its batches, objective and optimizer. Must not know when to validate, save or stop: that is loop.py's.
Shape letters beyond moe/routing.py: L layers that route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moecli.data.batches import TrainBatches
from moecli.errors import MachineError
from moecli.model.device import autocast
from moecli.model.gpt import GPT
from moecli.moe.load import coefficient_of_variation, dead_experts, dropped_fraction, max_violation
from moecli.moe.routing import RoutingRecord
from moecli.training.config import TrainingConfig
from moecli.training.objective import Losses, causal_lm_losses
from moecli.training.optimizer import build_adamw


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did, as tensors on the model's device: reading a number waits for the device, so it is left to the reader."""

    losses: Tensor
    """float32 [3]: cross-entropy, balance, router z; means over the micro-batches."""
    grad_norm: Tensor
    """Norm of the gradient before clipping."""
    learning_rate: float
    chosen_load_LE: Tensor | None
    """int64, summed over the micro-batches; None where no layer routes."""
    load_LE: Tensor | None
    """The same after drops."""

    def figures(self) -> dict[str, float]:
        """The step as plain numbers. Load figures are means over the layers, dead experts the sum."""
        loss, balance, router_z = self.losses.tolist()
        figures = {"loss": loss, "grad_norm": self.grad_norm.item(), "learning_rate": self.learning_rate}
        if self.load_LE is None or self.chosen_load_LE is None:
            return figures
        chosen_load_LE, load_LE = self.chosen_load_LE.cpu(), self.load_LE.cpu()
        return figures | {
            "balance_loss": balance,
            "z_loss": router_z,
            "load_cv": coefficient_of_variation(load_LE).mean().item(),
            "max_violation": max_violation(load_LE).mean().item(),
            "dropped_fraction": dropped_fraction(chosen_load_LE, load_LE).mean().item(),
            "dead_experts": int(dead_experts(load_LE).sum().item()),
        }


class Trainer:
    """Steps a model through its batches.

    Args:
        model: on the device that it is trained on, in float32.
        batches: micro-batches; step s takes number s * gradient_accumulation and those after it.
        config: everything about training.
    """

    def __init__(self, model: GPT, batches: TrainBatches, config: TrainingConfig) -> None:
        self.model = model
        self.batches = batches
        self.config = config
        self.device = next(model.parameters()).device
        self.optimizer = build_adamw(model, config.optimizer)
        self._forward: Callable[..., Any] = _compiled(model) if config.compile else model

    def step(self, step: int) -> StepResult:
        """Does optimizer step number `step`, counted from 0."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(3, device=self.device)
        chosen_load_LE, load_LE = None, None
        num_micro_batches = self.config.gradient_accumulation
        for index in range(step * num_micro_batches, (step + 1) * num_micro_batches):
            micro_losses, records = self._forward_backward(index)
            losses += torch.stack((micro_losses.cross_entropy, micro_losses.balance, micro_losses.router_z)).detach() / num_micro_batches
            chosen_load_LE = _add(chosen_load_LE, [record.chosen_load_E for record in records])
            load_LE = _add(load_LE, [record.load_E for record in records])
        max_norm = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        learning_rate = self._set_learning_rate(step)
        self.optimizer.step()
        return StepResult(losses, grad_norm, learning_rate, chosen_load_LE, load_LE)

    def _forward_backward(self, index: int) -> tuple[Losses, list[RoutingRecord]]:
        batch = self.batches.batch(index).to(self.device)
        with autocast(self.device, self.config.precision):
            logits_BSV, records = self._forward(batch.ids_BS)
        losses = causal_lm_losses(
            logits_BSV, batch.targets_BS, records, balance_weight=self.config.balance_loss, z_weight=self.config.z_loss
        )
        (losses.total / self.config.gradient_accumulation).backward()
        return losses, [record for record in records if record is not None]

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self.config.learning_rate * self.config.schedule.factor(step, self.config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate


def _compiled(model: GPT) -> Callable[..., Any]:
    """The model through torch.compile. The call raises MachineError where this machine can't compile."""
    from torch._dynamo.exc import TorchDynamoException  # half a second that only compiled trainings pay

    forward = torch.compile(model)

    def call(ids_BS: Tensor) -> Any:
        try:
            return forward(ids_BS)
        except TorchDynamoException as error:
            what = f"torch.compile fails here: {str(error).splitlines()[0]}"
            next_step = "install a C++ compiler, or set training.compile to false"
            raise MachineError(what, where="training.compile", next_step=next_step) from error

    return call


def _add(sum_LE: Tensor | None, loads: Sequence[Tensor]) -> Tensor | None:
    if not loads:
        return None
    loads_LE = torch.stack(list(loads))
    return loads_LE if sum_LE is None else sum_LE + loads_LE
