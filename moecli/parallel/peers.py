"""Processes that don't come, go, or don't answer: how long they are waited for, and what is said then.

Knows what torch.distributed raises. Must not know what the processes do together.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed as dist

from moecli.errors import MachineError, PeerLost

Value = TypeVar("Value")


@contextmanager
def lost_peers() -> Iterator[None]:
    """Tells what torch.distributed raises where another process has gone or does not answer in time.

    Raises:
        PeerLost: so it is.
    """
    try:
        yield
    except dist.DistError as error:
        raise _lost(error) from error
    except RuntimeError as error:  # gloo's own have no class
        if "gloo" not in str(error).lower() and "connection" not in str(error).lower():
            raise
        raise _lost(error) from error


@contextmanager
def meeting_errors(size: int, timeout_s: float) -> Iterator[None]:
    """Tells what torch.distributed raises while `size` processes meet.

    Raises:
        MachineError: the port is taken, or not all of them came in time.
    """
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        yield
    except (dist.DistError, RuntimeError, OSError) as error:
        if dist.is_initialized():
            dist.destroy_process_group()
        text = _told(error)
        if "address already in use" in text.lower() or "EADDRINUSE" in text:
            what, next_step = "the port is in use", "give torchrun another --master-port, or --rdzv-endpoint"
        else:
            what = f"not all {size} processes met within {timeout_s:g} s: {text}"
            next_step = "look whether each was started, and whether they reach each other over the network"
        raise MachineError(what, where=address, next_step=next_step) from error


def within(seconds: float, work: Callable[[], Value]) -> Value:
    """What `work` returns, in a thread of its own, since a wait of torch's hears no signal, and has no end where what listens never
    answers.

    Raises:
        TimeoutError: it is not done. The thread is left behind.
    """
    returned: list[Value] = []
    raised: list[Exception] = []

    def run() -> None:
        try:
            returned.append(work())
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError("what listens there does not answer")
    if raised:
        raise raised[0]
    return returned[0]


def _lost(error: Exception) -> PeerLost:
    what = f"another process has ended or does not answer: {_told(error)}"
    next_step = "look at what that process said; then give the same command again with --resume"
    return PeerLost(what, next_step=next_step)


def _told(error: Exception) -> str:
    """The first line, without the place in the library's source that some begin with, and the guesses that some end with."""
    lines = re.sub(r"^\[\S*\]\s*", "", str(error).strip()).splitlines()
    return lines[0].split(". This is typically")[0] if lines else type(error).__name__
