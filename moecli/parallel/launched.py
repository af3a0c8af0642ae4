"""Which process this one is: what torchrun, or another launcher, has written into its environment.

Knows the variables and what may be in them. Must not know torch.distributed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from moecli.errors import MoecliError

# What torchrun tells each process that it starts. LOCAL_RANK numbers those of one machine.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
NEXT_STEP = "start them with torchrun --nproc-per-node N -m moecli train RECIPE"
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Place:
    """Of one process among all."""

    rank: int
    """0 to size - 1."""
    size: int
    """How many processes there are."""
    local_rank: int
    """The number of this process on its machine."""
    local_size: int
    """How many there are on its machine, or at least so many, where the launcher does not say."""


def launched_as() -> Place:
    """Where the launcher has put this process.

    Raises:
        MoecliError: something is missing, or is no such number; all that is wrong is told.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise MoecliError(f"several processes, but {', '.join(missing)} is not in the environment", next_step=NEXT_STEP)
    problems: list[str] = []
    size = _number("WORLD_SIZE", 1, None, problems)
    rank = _number("RANK", 0, size - 1 if size else None, problems)
    local_size = _number("LOCAL_WORLD_SIZE", 1, None, problems) if "LOCAL_WORLD_SIZE" in os.environ else None
    local_rank = _number("LOCAL_RANK", 0, local_size - 1 if local_size else None, problems)
    _number("MASTER_PORT", 0, LAST_PORT, problems)
    if problems:
        raise MoecliError("\n".join(["the launcher's environment makes no sense:", *problems]), next_step=NEXT_STEP)
    return Place(rank, size, local_rank, local_size or local_rank + 1)


def _number(name: str, least: int, most: int | None, problems: list[str]) -> int:
    """The variable, or 0 and a problem more where it is no whole number in the range."""
    text = os.environ[name]
    if text.isascii() and text.isdecimal() and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    problems.append(f"  {name} is {text!r}; allowed: {f'{least} or more' if most is None else f'{least} to {most}'}")
    return 0
