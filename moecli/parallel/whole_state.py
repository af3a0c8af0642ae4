"""From the shares of all processes to whole tensors on the first one, and back: what one process would have, under the same names.

Knows how sharding.py lays out parameters. Must not know files. Tensor by tensor, so that only the first process ever holds all of them.
All functions have to be called by every process.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from moecli.model.gpt import GPT
from moecli.model.skeleton import skeleton
from moecli.parallel.expert_parallel import expert_stacks
from moecli.parallel.world import World


def reshard(model: GPT) -> None:
    """Puts the parameters back of which each process has its share. After a pass without backward, as in evaluation, FSDP leaves those in
    their place that it fetched, which no optimizer knows."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_model(model: GPT, world: World) -> GPT | None:
    """A one-process model on the CPU with the weights of all processes, in evaluation mode; None but on the first process."""
    weights = whole_tensors(model, model.state_dict(), world)
    if not world.is_first:
        return None
    whole = skeleton(model.config, model.vocab_size)
    whole.load_state_dict(weights, assign=True)
    return whole.eval()


def whole_tensors(model: GPT, tensors: Mapping[str, Tensor], world: World) -> dict[str, Tensor]:
    """The whole of each tensor that is laid out as the model's parameter or buffer of its name, on the CPU; scalars are the same on every
    process. Empty but on the first process."""
    stacks = expert_stacks(model)
    whole = {}
    for name, tensor in tensors.items():
        gathered = _gathered(tensor, world, is_stack=name in stacks and tensor.ndim > 0)
        if gathered is not None:
            whole[name] = gathered
    return whole


def place_tensors(model: GPT, whole: Mapping[str, Tensor] | None, world: World) -> None:
    """Gives every process its share of the first one's whole weights and buffers; `whole` is read there alone, and has all of them."""
    stacks = expert_stacks(model)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            source = None if whole is None or not world.is_first else whole[name]
            tensor.copy_(_placed(source, tensor, world, is_stack=name in stacks))


def place_moments(model: GPT, optimizer: torch.optim.Optimizer, whole: Mapping[str, Mapping[str, Tensor]] | None, world: World) -> None:
    """Gives every process its share of the first one's whole optimizer state, by the parameter's name, then by its key (`exp_avg`).
    Scalars (`step`) are the same everywhere. `whole` is read on the first process alone."""
    stacks = expert_stacks(model)
    shapes = {name: {key: value.shape for key, value in state.items()} for name, state in (whole or {}).items()}
    for name, of_keys in world.broadcast_object(shapes).items():
        parameter = model.get_parameter(name)
        state = optimizer.state[parameter] = {}
        for key, shape in of_keys.items():
            source = None if whole is None or not world.is_first else whole[name][key]
            like = parameter.detach() if shape else torch.zeros((), device=world.device)
            share = _placed(source, like, world, is_stack=name in stacks and bool(shape))
            state[key] = torch.empty_like(like).copy_(share)  # the share may be a view, which would keep the whole in memory


def _placed(whole: Tensor | None, like: Tensor, world: World, *, is_stack: bool) -> Tensor:
    """This process's share of a tensor that the first one has whole, laid out as `like`."""
    shape = torch.Size((like.shape[0] * world.expert, *like.shape[1:])) if is_stack else like.shape
    if world.is_first:
        assert whole is not None and whole.shape == shape, "the first process has the whole"
        tensor = whole.detach().to(world.device, like.dtype).contiguous()
    else:
        tensor = torch.empty(shape, dtype=like.dtype, device=world.device)
    dist.broadcast(tensor, src=0)
    if is_stack:
        tensor = tensor.chunk(world.expert)[world.expert_rank]
    if isinstance(like, DTensor):  # each process cuts its shard out of what it has: nothing is sent
        return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
    return tensor


def _gathered(tensor: Tensor, world: World, *, is_stack: bool) -> Tensor | None:
    """The whole tensor on the CPU of the first process, None elsewhere."""
    whole = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
    if is_stack and world.rank < world.expert:  # the expert group of the first process
        parts = [torch.empty_like(whole) for _ in range(world.expert)] if world.is_first else None
        dist.gather(whole.contiguous(), parts, dst=0, group=world.expert_group)
        whole = torch.cat(parts) if parts is not None else whole
    return whole.to("cpu", copy=True) if world.is_first else None
