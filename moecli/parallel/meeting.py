"""How the processes that a launcher has started find each other.

Knows what the launcher has said, devices and torch.distributed's rendezvous. Must not know what they do together.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from moecli.errors import MachineError
from moecli.parallel.launched import Place, launched_as
from moecli.parallel.peers import meeting_errors, within
from moecli.parallel.world import World, check_size, grid_of

# On accelerators too, words between processes (objects, flags) go over gloo, so that they don't wait for what the accelerator has to do.
BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
DEFAULT_TIMEOUT_S = 600.0
# What torch times by itself it also tells better.
SPARE_S = 5.0


def begin_world(device_type: str, *, expert: int = 1, seed: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S) -> World:
    """Meets the other processes that the launcher started.

    Args:
        device_type: `cpu` (over gloo) or `cuda` (over nccl, one process per GPU).
        expert: X.
        seed: the recipe's.
        timeout_s: how long to wait for the others, here and in every exchange later.

    Raises:
        RecipeError: W is no multiple of X.
        MoecliError: what the launcher says makes no sense.
        MachineError: there are more processes than GPUs, the port is taken, or not all processes came in time.
    """
    place = launched_as()
    check_size(place.size, expert)
    device = _device(device_type, place)
    with meeting_errors(place.size, timeout_s):
        store = within(timeout_s + SPARE_S, lambda: _meet(BACKENDS[device_type], place, timedelta(seconds=timeout_s)))
        mesh = grid_of(device_type, place.size, expert)
    return World(place.rank, place.size, place.local_rank, device, seed, mesh, store)


def _meet(backends: str, place: Place, timeout: timedelta) -> Store:
    store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=timeout))
    # After a restart torchrun's store has the addresses of the processes that are gone.
    attempt = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    dist.init_process_group(backends, store=attempt, rank=place.rank, world_size=place.size, timeout=timeout)
    return attempt


def _device(device_type: str, place: Place) -> torch.device:
    if device_type not in BACKENDS:
        what = f"several processes don't train on {device_type}"
        raise MachineError(what, where="training.device", allowed=", ".join(BACKENDS), next_step="set it to cpu, or start one process")
    if device_type == "cpu":
        return torch.device("cpu")
    num_gpus = torch.cuda.device_count()
    if place.local_size > num_gpus:
        what = f"{place.local_size} processes on this machine, which has {num_gpus} GPUs: each needs its own"
        raise MachineError(what, where="training.device", next_step=f"torchrun --nproc-per-node {max(1, num_gpus)}, or set it to cpu")
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)
