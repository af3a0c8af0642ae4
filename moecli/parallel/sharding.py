"""A whole model turned into one that is spread over the world: FSDP2 for what all processes share, expert parallelism for the experts.

Knows torch's fully_shard, the model's blocks and the world's grid. Must not know losses or optimizers.
"""

from __future__ import annotations

import warnings

from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

from moecli.model.gpt import GPT
from moecli.model.skeleton import skeleton
from moecli.moe.layers import SparseMoE
from moecli.parallel.config import ParallelConfig
from moecli.parallel.expert_parallel import ExpertParallel
from moecli.parallel.plan_units import shard_dim
from moecli.parallel.whole_state import place_tensors
from moecli.parallel.world import World


def spread(model: GPT, world: World, config: ParallelConfig) -> GPT:
    """A new model on the world's device that has the weights of the first process's `model`, spread over all processes.

    Weights, gradients and moments are whole on every process (`data: replicate`) or sharded over all (`shard`), block by block; experts
    are shared out over each expert group first, and only then replicated or sharded over the groups.

    Args:
        model: whole; on all but the first process its weights are not read, and may be on the meta device.
    """
    # Of in-place operations on what a block returns, which nobody does: routing records hold views.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning)
    there = skeleton(model.config, model.vocab_size)
    if world.expert > 1:
        for ffn in there.feed_forwards():
            if isinstance(ffn, SparseMoE):
                ffn.experts = ExpertParallel(ffn.experts, world.expert_group)
    _shard(there, world, replicates=config.data == "replicate")
    there.to_empty(device=world.device)
    place_tensors(there, model.state_dict() if world.is_first else None, world)
    return there.train(model.training)


def _shard(model: GPT, world: World, *, replicates: bool) -> None:
    whole_mesh, expert_mesh = _meshes(world, replicates=replicates)
    for block in model.blocks:
        experts = getattr(block.ffn, "experts", None)
        if isinstance(experts, ExpertParallel):
            _fully_shard(experts, expert_mesh, replicates=replicates)
        _fully_shard(block, whole_mesh, replicates=replicates)
    _fully_shard(model, whole_mesh, replicates=replicates)


def _fully_shard(module: nn.Module, mesh: DeviceMesh, *, replicates: bool) -> None:
    # What is whole on every process needs no fetching: it stays between forward and backward.
    reshards = False if replicates else None
    num_shards = mesh.size(-1)

    def placement(parameter: nn.Parameter) -> Shard:
        return Shard(shard_dim(parameter.shape, num_shards))

    fully_shard(module, mesh=mesh, reshard_after_forward=reshards, shard_placement_fn=placement)


def _meshes(world: World, *, replicates: bool) -> tuple[DeviceMesh, DeviceMesh]:
    """For what all processes share, and for an expert stack: 1-D to shard over, or (n, 1), which is n replicas of one shard."""
    device_type, size, expert = world.device.type, world.size, world.expert
    if not replicates:
        return init_device_mesh(device_type, (size,), mesh_dim_names=("world",)), world.mesh["data"]
    whole = init_device_mesh(device_type, (size, 1), mesh_dim_names=("world", "shard"))
    grid = init_device_mesh(device_type, (size // expert, expert, 1), mesh_dim_names=("data", "expert", "shard"))
    return whole, grid["data", "shard"]
