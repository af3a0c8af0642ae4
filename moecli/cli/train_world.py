"""`moecli train` as one of the processes that a launcher has started: the first one speaks for all, where all have the same to say.

Knows when the processes have met. Must not know how training works.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from moecli.cli import launcher
from moecli.cli.stop import LeftAtOnce, Stopped
from moecli.errors import Interrupted, MoecliError, PeerLost
from moecli.parallel.config import ParallelConfig
from moecli.parallel.meeting import begin_world
from moecli.parallel.peers import lost_peers
from moecli.parallel.world import World
from moecli.recipe.load import LoadedRecipe

FAILED = "the first process tells why it ends"


@contextmanager
def met(load: Callable[[], LoadedRecipe]) -> Iterator[tuple[World, LoadedRecipe]]:
    """The world, and the recipe as every process can read it. What is raised in the body is told by the first process, where it is
    raised there too; what one process alone raises, by that one; the loss of another process by each that is left."""
    loaded, problem = _tried(load)
    device = "auto" if loaded is None else loaded.recipe.training.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    timeout_s = ParallelConfig().timeout_s if loaded is None else loaded.recipe.parallel.timeout_s
    with launcher.told_by_each_alone():
        world = begin_world(device, seed=0 if loaded is None else loaded.recipe.seed, timeout_s=timeout_s)
    # Not before all is said: the others wait for this goodbye of the first. Without one torch's threads abort the process at its end.
    atexit.register(_say_goodbye, world)
    try:
        with lost_peers():
            with world.together():
                if problem is not None:
                    raise problem
            assert loaded is not None
            yield world, loaded
    except PeerLost:
        raise
    except (LeftAtOnce, KeyboardInterrupt) as error:  # the others find this process gone
        if world.is_first:
            raise
        raise Stopped(getattr(error, "exit_code", Interrupted.exit_code)) from error
    except MoecliError as error:
        if world.is_first:
            world.call_out(FAILED)
            atexit.register(_wait_to_be_heard, world)
            raise
        if not world.hears(FAILED):  # the others know nothing of this
            raise
        world.call_out(_answer(world.rank))
        world.outlive_first()
        raise Stopped(error.exit_code) from error


def _answer(rank: int) -> str:
    return f"process {rank} knows that"


def _wait_to_be_heard(world: World) -> None:
    # The store of the processes may end with this one.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    world.hears(*(_answer(rank) for rank in range(1, world.size)))


def _say_goodbye(world: World) -> None:
    # A launcher that ends all processes, since one was lost, ends this one here without a word: all is said.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    world.end()


def _tried(load: Callable[[], LoadedRecipe]) -> tuple[LoadedRecipe | None, MoecliError | None]:
    try:
        return load(), None
    except MoecliError as error:
        return None, error
