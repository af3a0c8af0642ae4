"""Fresh processes of this machine that make a world, each with one thread on a core of its own: what a function returns in each.

Knows a free port, starting processes from one that has loaded torch already, and how memory is seen on Linux. Must not know what is run.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

Returned = TypeVar("Returned")
PRELOADED = ["torch", "moecli.training.trainer", "moecli.parallel.sharding"]
# glibc's malloc.h.
M_MMAP_THRESHOLD = -3
MAPPED_BYTES = 65536


def in_processes(size: int, work: Callable[..., Returned], *arguments: Any) -> list[Returned]:
    """What `work(*arguments)`, a function of a module, returns in each of so many processes, by rank; they are told what torchrun tells."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(size, mp_context=context) as pool:
        futures = [pool.submit(_in_process, rank, size, port, work, *arguments) for rank in range(size)]
        return [future.result() for future in futures]


def _in_process(rank: int, size: int, port: int, work: Callable[..., Returned], *arguments: Any) -> Returned:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()}
    return work(*arguments)


def map_each_tensor() -> None:
    """Makes glibc take what is larger than MAPPED_BYTES from the system and give it back at once, so that resident memory is that of what
    is alive."""
    assert ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES) == 1


def peak_growth(work: Callable[[], object]) -> int:
    """Bytes of resident memory, at its height during the call, over what it was before."""
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the height is that of now
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
