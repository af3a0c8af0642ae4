"""What one optimizer step did.

Knows losses and loads. Must not know how the step was made.
Shape letters beyond moe/routing.py: L layers that route, W processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moecli.errors import NotFinite
from moecli.moe.load import coefficient_of_variation, dead_experts, dropped_fraction, max_violation, moved_fraction
from moecli.moe.routing import Routing, RoutingRecord
from moecli.parallel.world import World
from moecli.training.objective import Losses

SOUND_CHECKPOINT = "the last checkpoint is sound, and training.on_non_finite: rewind goes back to it without being asked"


@dataclass(frozen=True, slots=True)
class StepSums:
    """What is added up over the micro-batches of a step, detached, on the model's device."""

    losses: dict[str, Tensor]
    """`loss` (cross-entropy) and the router losses, unweighted."""
    chosen_load_LE: Tensor | None
    """int64, before drops; None where no layer routes."""
    load_LE: Tensor | None
    """int64, after drops."""
    router_sum_L: Tensor | None
    """The sum of each layer's router logits and weights: not finite where one of them is not."""
    moved_L: Tensor | None
    """int64, assignments that ran on another expert than they chose."""
    process_rows_LW: Tensor | None = None
    """int64, assignments that each process's experts ran in all micro-batches; None where every process has all experts."""

    @classmethod
    def of_micro_batch(cls, losses: Losses, records: Sequence[RoutingRecord]) -> StepSums:
        named = {"loss": losses.cross_entropy} | losses.router
        detached = {name: loss.detach() for name, loss in named.items()}
        if not records:
            return cls(detached, None, None, None, None)
        return cls(
            losses=detached,
            chosen_load_LE=torch.stack([record.chosen_load_E for record in records]),
            load_LE=torch.stack([record.load_E for record in records]),
            router_sum_L=torch.stack([_sum_of_router(record.routing) for record in records]),
            moved_L=torch.stack([record.num_moved for record in records]),
        )

    def __add__(self, other: StepSums) -> StepSums:
        return StepSums(
            losses={name: loss + other.losses[name] for name, loss in self.losses.items()},
            chosen_load_LE=_sum(self.chosen_load_LE, other.chosen_load_LE),
            load_LE=_sum(self.load_LE, other.load_LE),
            router_sum_L=_sum(self.router_sum_L, other.router_sum_L),
            moved_L=_sum(self.moved_L, other.moved_L),
        )

    def over_ranks(self, world: World) -> StepSums:
        """Those of all processes: losses are means over them, counts are sums."""
        losses = torch.stack(list(self.losses.values()))
        if self.chosen_load_LE is None or self.load_LE is None or self.router_sum_L is None or self.moved_L is None:
            (losses,) = world.add_up([losses])
            return StepSums(self._named(losses / world.size), None, None, None, None)
        losses, router_sum_L = world.add_up([losses, self.router_sum_L])
        rows_LW = [_rows_by_process(self.load_LE, world)] if world.expert > 1 else []
        chosen_load_LE, load_LE, moved_L, *rows_LW = world.add_up([self.chosen_load_LE, self.load_LE, self.moved_L, *rows_LW])
        sums = StepSums(self._named(losses / world.size), chosen_load_LE, load_LE, router_sum_L, moved_L)
        return replace(sums, process_rows_LW=rows_LW[0]) if rows_LW else sums

    def _named(self, losses: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.losses, losses.unbind(), strict=True))


@dataclass(frozen=True, slots=True)
class Communication:
    """What the processes of a world exchanged in a step."""

    num_processes: int
    bytes: Tensor
    """Handed over to collectives, the mean over processes."""
    share: Tensor | None
    """Of the step's seconds, while a collective was under way, the mean over processes: sending, and waiting for a slower process. None on
    accelerators, where it is not measured."""

    def figures(self) -> dict[str, float]:
        figures = {"processes": self.num_processes, "communication_bytes": self.bytes.item()}
        return figures if self.share is None else figures | {"communication_share": self.share.item()}


@dataclass(frozen=True, slots=True)
class StepResult:
    """Holds tensors on the model's device: reading a number waits for the device, so it is left to the reader."""

    step: int
    """Counted from 0."""
    sums: StepSums
    num_micro_batches: int
    grad_norm: Tensor
    """Norm of the gradient before clipping."""
    learning_rate: float
    routed_layers: tuple[int, ...]
    """The number of each of the L layers in the model."""
    communication: Communication | None = None
    """Of a world, if the step was watched."""

    def figures(self) -> dict[str, float]:
        """The step as plain numbers. Losses are means over micro-batches, load figures over layers, dead experts the sum."""
        figures = {name: loss.item() / self.num_micro_batches for name, loss in self.sums.losses.items()}
        figures |= {"grad_norm": self.grad_norm.item(), "learning_rate": self.learning_rate}
        if self.communication is not None:
            figures |= self.communication.figures()
        if self.sums.process_rows_LW is not None:
            figures["process_max_violation"] = max_violation(self.sums.process_rows_LW.cpu()).mean().item()
        if self.sums.load_LE is None or self.sums.chosen_load_LE is None or self.sums.moved_L is None:
            return figures
        chosen_load_LE, load_LE, moved_L = self.sums.chosen_load_LE.cpu(), self.sums.load_LE.cpu(), self.sums.moved_L.cpu()
        return figures | {
            "load_cv": coefficient_of_variation(load_LE).mean().item(),
            "max_violation": max_violation(load_LE).mean().item(),
            "dropped_fraction": dropped_fraction(chosen_load_LE, load_LE).mean().item(),
            "moved_fraction": moved_fraction(chosen_load_LE, moved_L).mean().item(),
            "dead_experts": int(dead_experts(load_LE).sum().item()),
        }

    def check_finite(self) -> None:
        """Raises NotFinite if router logits, loss or gradient are not finite, with the step and the first layer where it shows."""
        done = self.step + 1
        if self.sums.router_sum_L is not None:
            sums = zip(self.routed_layers, self.sums.router_sum_L.tolist(), strict=True)
            broken = [layer for layer, value in sums if not math.isfinite(value)]
            if broken:
                raise NotFinite(
                    f"router logits of layer {broken[0]} are not finite at step {done}",
                    next_step=f"lower training.learning_rate or training.clip_norm, or raise training.z_loss; {SOUND_CHECKPOINT}",
                )
        loss, grad_norm = self.sums.losses["loss"].item() / self.num_micro_batches, self.grad_norm.item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise NotFinite(
                f"loss {loss}, gradient norm {grad_norm} at step {done}",
                next_step=f"lower training.learning_rate, or raise training.schedule.warmup_fraction; {SOUND_CHECKPOINT}",
            )


def _sum_of_router(routing: Routing) -> Tensor:
    return routing.logits_TE.detach().sum() + routing.weights_A.detach().sum()


def _rows_by_process(load_LE: Tensor, world: World) -> Tensor:
    """int64 [L, W]: how many assignments of this process ran on each, which are all of its expert group."""
    rows_LW = load_LE.new_zeros(len(load_LE), world.size)
    first = world.rank - world.expert_rank
    rows_LW[:, first : first + world.expert] = load_LE.view(len(load_LE), world.expert, -1).sum(-1)
    return rows_LW


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else first + second
