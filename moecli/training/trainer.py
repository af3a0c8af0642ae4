"""One optimizer step at a time.

Knows a model, its batches, objective and optimizer. Must not know when to validate, save or stop: that is loop.py's.
Shape letters beyond moe/routing.py: L layers that route.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from moecli.data.batches import Batch
from moecli.errors import MachineError
from moecli.model.device import autocast
from moecli.model.gpt import GPT
from moecli.moe.balance_sums import BalanceSums
from moecli.moe.balancing import BiasUpdateConfig, updated_bias
from moecli.moe.layers import FeedForward
from moecli.moe.routing import RoutingRecord
from moecli.training.config import TrainingConfig
from moecli.training.freezing import freeze
from moecli.training.objective import Losses, layer_sums, training_losses
from moecli.training.optimizer import build_adamw
from moecli.training.step_result import StepResult, StepSums


class Batches(Protocol):
    """What a trainer steps through."""

    seq_len: int

    def batch(self, index: int) -> Batch:
        """Micro-batch number `index`, from 0, the same at every call."""
        ...


class Trainer:
    """Steps a model through its batches.

    Args:
        model: on the device that it is trained on, in float32.
        batches: micro-batches; step s takes number s * gradient_accumulation and those after it.
        config: everything about training.
    """

    def __init__(self, model: GPT, batches: Batches, config: TrainingConfig) -> None:
        self.model = model
        self.batches = batches
        self.config = config
        self.device = next(model.parameters()).device
        self.num_rewinds = 0
        """How often training went back to a checkpoint after numbers that were none: each time lowers the learning rate."""
        freeze(model, config.freeze)
        model.recomputes_activations = config.recompute_activations
        self.optimizer = build_adamw(model, config.optimizer)
        self._forward: Callable[..., Any] = _compiled(model) if config.compile else model

    def step(self, step: int) -> StepResult:
        """Does optimizer step number `step`, counted from 0."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        num_micro_batches = self.config.gradient_accumulation
        micro_batches = range(step * num_micro_batches, (step + 1) * num_micro_batches)
        whole = self._sums_ahead(micro_batches) if self._judges_whole_step else None
        sums: StepSums | None = None
        for index in micro_batches:
            losses, records = self._forward_backward(index, whole)
            part = StepSums.of_micro_batch(losses, records)
            sums = part if sums is None else sums + part
        assert sums is not None
        max_norm = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        learning_rate = self._set_learning_rate(step)
        self.optimizer.step()
        routed = {layer: ffn for layer, ffn in enumerate(self.model.feed_forwards()) if ffn.routes}
        bias_update = None if "router" in self.config.freeze else self.config.bias_update
        if bias_update is not None and sums.chosen_load_LE is not None:
            _update_biases(routed.values(), sums.chosen_load_LE, bias_update)
        return StepResult(step, sums, num_micro_batches, grad_norm, learning_rate, tuple(routed))

    @property
    def _judges_whole_step(self) -> bool:
        return self.config.balance_scope == "global-batch" and self.config.gradient_accumulation > 1

    @torch.no_grad()
    def _sums_ahead(self, micro_batches: Sequence[int]) -> list[BalanceSums]:
        """The routing of the whole step, from a pass of its own with the random draws that training will see again."""
        whole: list[BalanceSums] | None = None
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            for index in micro_batches:
                _, _, records = self._run(index)
                sums = [part.detach() for part in layer_sums(records, self.config)]
                whole = sums if whole is None else [total + part for total, part in zip(whole, sums, strict=True)]
        assert whole is not None
        return whole

    def _forward_backward(self, index: int, whole: Sequence[BalanceSums] | None) -> tuple[Losses, list[RoutingRecord]]:
        logits_BSV, targets_BS, records = self._run(index)
        losses = training_losses(logits_BSV, targets_BS, records, self.config, whole)
        (losses.total / self.config.gradient_accumulation).backward()
        return losses, records

    def _run(self, index: int) -> tuple[Tensor, Tensor, list[RoutingRecord]]:
        """Logits, targets and the records of the layers that route."""
        batch = self.batches.batch(index).to(self.device)
        with autocast(self.device, self.config.precision):
            logits_BSV, records = self._forward(batch.ids_BS)
        return logits_BSV, batch.targets_BS, [record for record in records if record is not None]

    def _set_learning_rate(self, step: int) -> float:
        learning_rate = self.config.learning_rate * self.config.schedule.factor(step, self.config.steps)
        learning_rate *= self.config.rewind_factor**self.num_rewinds
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        return learning_rate


def _update_biases(routed: Iterable[FeedForward], chosen_load_LE: Tensor, config: BiasUpdateConfig) -> None:
    """Moves the selection bias of each layer that has one."""
    for ffn, chosen_load_E in zip(routed, chosen_load_LE, strict=True):
        if ffn.selection_bias_E is not None:
            ffn.selection_bias_E.copy_(updated_bias(ffn.selection_bias_E, chosen_load_E, config))


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
