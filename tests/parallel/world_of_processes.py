"""Runs a function in several processes that make a world, and brings back what each returned.

Knows spawning and a free port. Must not know what is run.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh

from moecli.parallel.meeting import begin_world
from moecli.parallel.world import World

TIMEOUT_S = 60.0


def in_world(size: int, work: Callable[[World, Path], Any], folder: Path, device_type: str = "cpu") -> list[Any]:
    """What `work`, a function of a module, returns in each of the processes, by rank. They share the folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_process, (size, port, work, folder, device_type), nprocs=size)
    return [torch.load(folder / f"returned-{rank}", weights_only=False) for rank in range(size)]


def with_expert_degree(world: World, expert: int) -> World:
    """The same processes as another grid."""
    mesh = init_device_mesh(world.device.type, (world.size // expert, expert), mesh_dim_names=("data", "expert"))
    return dataclasses.replace(world, mesh=mesh)


def _process(rank: int, size: int, port: int, work: Callable[[World, Path], Any], folder: Path, device_type: str) -> None:
    torch.set_num_threads(1)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    world = begin_world(device_type, seed=3, timeout_s=TIMEOUT_S)
    returned = work(world, folder)
    torch.save(returned, folder / f"returned-{rank}")
    world.end()
