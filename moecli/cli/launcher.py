"""What torchrun, or another launcher, has told this process: how many there are, and which one it is.

Knows the environment. Must not import torch, nor meet the others (parallel/world.py does).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from moecli.cli.stop import Stopped
from moecli.errors import MoecliError

# More than the start of one process may take longer than that of another. torchrun cuts it short.
SECONDS_TO_SPEAK = 10.0


def has_started_several() -> bool:
    """Whether there are other processes. A number of them that makes no sense counts too: parallel/launched.py tells what is wrong."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def is_first() -> bool:
    """Whether this process speaks for all."""
    return not has_started_several() or _number("RANK", 0) == 0


def is_first_here() -> bool:
    """Whether this process speaks for those of its machine, as long as the machines have not met."""
    return not has_started_several() or _number("LOCAL_RANK", 0) == 0


def has_restarted() -> bool:
    """Whether the launcher has started all processes again after one was lost, with the same command line (torchrun --max-restarts)."""
    return has_started_several() and _number("TORCHELASTIC_RESTART_COUNT", 0) > 0


def may_restart() -> bool:
    """Whether it would do so."""
    return has_started_several() and _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0


@contextmanager
def told_once() -> Iterator[None]:
    """A user error that every process finds before they have met is told once on each machine."""
    try:
        yield
    except MoecliError as error:
        if is_first_here():
            raise
        give_way()
        raise Stopped(error.exit_code) from error


@contextmanager
def told_by_each_alone() -> Iterator[None]:
    """What goes wrong while processes meet is told once on each machine too, if torchrun started all that are there together. Where each
    was started by itself, the one that would speak may be the one that is missing: then each speaks."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    with told_once():
        yield


def refuse(command: str) -> None:
    """Raises MoecliError on the first of several processes, and Stopped on the others."""
    if not has_started_several():
        return
    error = MoecliError(
        f"{command} runs in one process, and the launcher has started {os.environ['WORLD_SIZE']}",
        allowed="moecli train RECIPE, with --out and --resume",
        next_step=f"call `{command}` without torchrun",
    )
    if is_first():
        raise error
    give_way()
    raise Stopped(error.exit_code)


def give_way() -> None:
    """Lets the process that speaks do so, before this one ends without a word: torchrun ends all as soon as it sees one fail."""
    time.sleep(SECONDS_TO_SPEAK)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default
