"""What torchrun, or another launcher, has told this process: how many there are, and which one it is.

Knows the environment. Must not import torch, nor meet the others (parallel/world.py does).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from moecli.cli.stop import Stopped
from moecli.errors import MoecliError


def num_processes() -> int:
    """1 without a launcher."""
    return _number("WORLD_SIZE", 1) if "RANK" in os.environ else 1


def is_first() -> bool:
    """Whether this process speaks for all."""
    return num_processes() == 1 or _number("RANK", 0) == 0


def is_first_here() -> bool:
    """Whether this process speaks for those of its machine, as long as the machines have not met."""
    return num_processes() == 1 or _number("LOCAL_RANK", 0) == 0


def has_restarted() -> bool:
    """Whether the launcher has started all processes again after one was lost, with the same command line (torchrun --max-restarts)."""
    return num_processes() > 1 and _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


@contextmanager
def told_once() -> Iterator[None]:
    """A user error that every process finds before they have met is told once on each machine."""
    try:
        yield
    except MoecliError as error:
        if is_first_here():
            raise
        raise Stopped(error.exit_code) from error


def refuse(command: str) -> None:
    """Raises MoecliError on the first of several processes, and Stopped on the others."""
    if num_processes() == 1:
        return
    error = MoecliError(
        f"{command} runs in one process, and the launcher has started {num_processes()}",
        allowed="moecli train RECIPE, with --out and --resume",
        next_step=f"call `{command}` without torchrun",
    )
    raise error if is_first() else Stopped(error.exit_code)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
