"""One optimizer step at a time.

Knows a model, its batches, objective and optimizer. Must not know when to validate, save or stop: that is loop.py's.
Shape letters beyond moe/routing.py: L layers that route.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from moecli.data.batches import Batch
from moecli.model.compiling import compile_errors
from moecli.model.device import autocast
from moecli.model.gpt import GPT
from moecli.moe.balance_sums import BalanceSums
from moecli.moe.balancing import BiasUpdateConfig, updated_bias
from moecli.moe.layers import FeedForward
from moecli.moe.routing import RoutingRecord
from moecli.parallel.balance import sums_over_ranks
from moecli.parallel.fit import check_world
from moecli.parallel.gradients import clip_gradients, finish_gradients, reduce_over_replicas
from moecli.parallel.rank_batches import RankBatches
from moecli.parallel.traffic import Traffic
from moecli.parallel.world import World
from moecli.training.config import TrainingConfig
from moecli.training.freezing import freeze
from moecli.training.objective import Losses, layer_sums, training_losses
from moecli.training.optimizer import build_adamw
from moecli.training.step_result import Communication, StepResult, StepSums


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
        world: the processes that `model` is spread over (parallel/sharding.py), each of which has a trainer; the batches are those of
            all, and so is what a step reports. None: this process trains alone.

    Raises:
        RecipeError: the batches can't be shared out over the world.
    """

    def __init__(self, model: GPT, batches: Batches, config: TrainingConfig, world: World | None = None) -> None:
        if world is not None:
            check_world(model.config.ffn, config.batch_size, config.gradient_accumulation, world.size)
        self.model = model
        self.batches = batches if world is None else RankBatches(batches, world)
        self.config = config
        self.world = world
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
        if self.world is not None:
            self.world.seed_step(step)
        num_micro_batches = self.config.gradient_accumulation
        sums = self._gradients(range(step * num_micro_batches, (step + 1) * num_micro_batches))
        grad_norm = self._clip()
        learning_rate = self._set_learning_rate(step)
        self.optimizer.step()
        routed = {layer: ffn for layer, ffn in enumerate(self.model.feed_forwards()) if ffn.routes}
        bias_update = None if "router" in self.config.freeze else self.config.bias_update
        if bias_update is not None and sums.chosen_load_LE is not None:
            _update_biases(routed.values(), sums.chosen_load_LE, bias_update)
        return StepResult(step, sums, num_micro_batches, grad_norm, learning_rate, tuple(routed))

    def watched_step(self, step: int) -> StepResult:
        """`step`, which of a world also tells what was exchanged. Watching makes every operation a little slower."""
        if self.world is None:
            return self.step(step)
        started = time.perf_counter()
        with Traffic() as traffic:
            result = self.step(step)
        return replace(result, communication=_communication(traffic, time.perf_counter() - started, self.world))

    def _gradients(self, micro_batches: Sequence[int]) -> StepSums:
        """Leaves the gradient of a step with the parameters, added up over micro-batches and processes."""
        whole = self._sums_ahead(micro_batches) if self._judges_whole_step else None
        sums: StepSums | None = None
        for index in micro_batches:
            if self.world is not None:
                reduce_over_replicas(self.model, is_last=index == micro_batches[-1])
            losses, records = self._forward_backward(index, whole)
            part = StepSums.of_micro_batch(losses, records)
            sums = part if sums is None else sums + part
        assert sums is not None
        if self.world is None:
            return sums
        finish_gradients(self.model, self.world)
        return sums.over_ranks(self.world)

    def _clip(self) -> Tensor:
        """Returns the norm of the gradient before."""
        max_norm = float("inf") if self.config.clip_norm is None else self.config.clip_norm
        if self.world is None:
            return nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)
        return clip_gradients(self.model, max_norm, self.world)

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
        return whole if self.world is None else sums_over_ranks(whole, self.world)

    def _forward_backward(self, index: int, whole: Sequence[BalanceSums] | None) -> tuple[Losses, list[RoutingRecord]]:
        """`whole`: the sums of the whole step, where that is more than this micro-batch of all processes."""
        logits_BSV, targets_BS, records = self._run(index)
        sums = layer_sums(records, self.config)
        num_parts = 1 if whole is None else self.config.gradient_accumulation
        if self.world is not None and self.config.balance_scope != "sequence":
            whole = sums_over_ranks(sums, self.world) if whole is None else whole
            num_parts *= self.world.size
        if whole is not None:
            sums = [part.within(total, num_parts) for part, total in zip(sums, whole, strict=True)]
        losses = training_losses(logits_BSV, targets_BS, records, self.config, sums)
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


def _communication(traffic: Traffic, seconds: float, world: World) -> Communication:
    own = torch.tensor([traffic.bytes, traffic.seconds / seconds], dtype=torch.float64).to(world.device, non_blocking=True)
    mean_bytes, mean_share = world.add_up([own])[0] / world.size
    return Communication(world.size, mean_bytes, mean_share if world.device.type == "cpu" else None)


def _update_biases(routed: Iterable[FeedForward], chosen_load_LE: Tensor, config: BiasUpdateConfig) -> None:
    """Moves the selection bias of each layer that has one."""
    for ffn, chosen_load_E in zip(routed, chosen_load_LE, strict=True):
        if ffn.selection_bias_E is not None:
            ffn.selection_bias_E.copy_(updated_bias(ffn.selection_bias_E, chosen_load_E, config))


def _compiled(model: GPT) -> Callable[..., Any]:
    """The model through torch.compile. The call raises MachineError where this machine can't compile."""
    forward = torch.compile(model)

    def call(ids_BS: Tensor) -> Any:
        with compile_errors("training.compile", "install a C++ compiler, or set training.compile to false"):
            return forward(ids_BS)

    return call
