"""Gradients of a spread model: made those of one process, and their norm over all parameters of all processes.

Knows how sharding.py lays out parameters. Must not know losses or optimizers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from moecli.parallel.expert_parallel import expert_stacks
from moecli.parallel.world import World


def reduce_over_replicas(model: nn.Module, *, is_last: bool) -> None:
    """Whether the next backward adds gradients up over replicas: in the last micro-batch of a step alone, for all before it too."""
    assert isinstance(model, FSDPModule), "the model is not spread"
    model.set_requires_all_reduce(is_last)


def finish_gradients(model: nn.Module, world: World) -> None:
    """Divides the gradients of expert stacks by the degree of expert parallelism.

    A process's loss is the mean over its tokens, and the whole's is the mean of these W = D * X means. FSDP takes the mean over the
    processes that hold a parameter: all W of them, but for an expert stack D, where each has the sum over an expert group of X.
    """
    for parameter in _parameters(model, of_stacks=True):
        if parameter.grad is not None:
            parameter.grad.div_(world.expert)


def clip_gradients(model: nn.Module, max_norm: float, world: World) -> Tensor:
    """Scales all gradients so that their norm over all processes is max_norm at most. Returns the norm before.

    Each process adds up the squares of what it holds, each replica its part of what all replicas hold, in one message: the norm of a
    DTensor would send one for each parameter.
    """
    groups = [_parameters(model, of_stacks=of_stacks) for of_stacks in (False, True)]
    squares = torch.stack([_own_squares(parameters, world.device) for parameters in groups]).sum()
    norm = world.add_up([squares])[0].sqrt()
    for parameters in groups:  # one after the other: they lie on different meshes
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def _own_squares(parameters: list[nn.Parameter], device: torch.device) -> Tensor:
    """The sum of squared gradients that is this process's share; parameters of one mesh."""
    gradients = [parameter.grad for parameter in parameters if isinstance(parameter.grad, DTensor)]
    if not gradients:
        return torch.zeros((), device=device)
    num_replicas = math.prod(
        gradients[0].device_mesh.size(dim) for dim, placement in enumerate(gradients[0].placements) if placement.is_replicate()
    )
    return nn.utils.get_total_norm([gradient.to_local() for gradient in gradients]).square() / num_replicas


def _parameters(model: nn.Module, *, of_stacks: bool) -> list[nn.Parameter]:
    """Those of the expert stacks that are shared out over an expert group, or all others."""
    stacks = expert_stacks(model)
    return [parameter for name, parameter in model.named_parameters() if (name in stacks) == of_stacks]
