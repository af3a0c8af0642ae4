"""The processes that train together: who this one is, and what all of them can say to each other.

Knows torch.distributed and what torchrun writes into the environment. Must not know models, losses or files.

A world of W processes is a grid of D x X: `expert` (X) processes hold the experts of a layer between them, and there are D = W / X such
groups. Rank r = d * X + x is number x of group d.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import Store

from moecli.errors import MoecliError, RecipeError

Value = TypeVar("Value")

# Between two words of a process that others wait for; short beside any timeout that makes sense.
ALIVE_EVERY_S = 0.2
# In which a process that has the same error as others has it too.
SECONDS_TO_HEAR, LISTEN_EVERY_S = 5.0, 0.02
# In which torch's threads give back the tensors of the last exchange: one that needs the interpreter when that ends aborts the process.
LAST_TENSORS_S = 0.1


@dataclass(frozen=True, slots=True)
class World:
    """This process among the W that train together. All methods but `seed_step`, `call_out` and `hears` have to be called by all of
    them, in the same order."""

    rank: int
    """0 to W - 1."""
    size: int
    """W."""
    local_rank: int
    """The number of this process on its machine."""
    device: torch.device
    seed: int
    """The recipe's: random draws of all processes follow from it."""
    mesh: DeviceMesh
    """D x X, its dimensions named "data" and "expert"."""
    store: Store | None = None
    """What the processes met by: heard even while others are in an exchange."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reads, writes and speaks for all."""
        return self.rank == 0

    @property
    def expert(self) -> int:
        """X, the processes that hold the experts of a layer between them."""
        return self.mesh.size(1)

    @property
    def expert_rank(self) -> int:
        """x, the number of this process among those."""
        return self.mesh.get_local_rank("expert")

    @property
    def expert_group(self) -> dist.ProcessGroup:
        return self.mesh.get_group("expert")

    def seed_step(self, step: int) -> None:
        """Sets torch's generators to what follows from (seed, step, rank): other draws for each process, and nothing to save of any."""
        torch.manual_seed(int(np.random.SeedSequence((self.seed, step, self.rank)).generate_state(1, np.uint64)[0] >> 1))

    def add_up(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum over all processes of each tensor, without gradient, in one message. All are of one dtype and on the world's device."""
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        dist.all_reduce(flat)
        sizes = [tensor.numel() for tensor in tensors]
        return [part.view_as(tensor) for part, tensor in zip(flat.split(sizes), tensors, strict=True)]

    def agree(self, flag: bool) -> bool:
        """Whether any process says True."""
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def gather_objects(self, value: Value) -> list[Value]:
        """The value of each process, by rank. They are pickled on the way, between processes of one training alone."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Value) -> Value:
        """The first process's value."""
        values: list[Any] = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Work of which any process may have a share, without a word between them: a user error of one is raised by all, that of the
        lowest rank. Those that are done wait for the others as long as these live."""
        error: MoecliError | None = None
        with self._at_work():
            try:
                yield
            except MoecliError as raised:
                error = raised
        errors = [other for other in self.gather_objects(error) if other is not None]
        if error is not None and error.what == errors[0].what:
            raise error
        if errors:
            raise errors[0]

    def on_first(self, work: Callable[[], Value]) -> Value:
        """What `work` returns on the first process, for all, who wait as long as it lives; a user error that it raises there is raised by
        all."""
        value: Any = None
        error: MoecliError | None = None
        with self._at_work():
            try:
                value = work() if self.is_first else None
            except MoecliError as raised:
                error = raised
        told, error_of_first = self.broadcast_object((value, error))
        if error is not None:
            raise error
        if error_of_first is not None:
            raise error_of_first
        return told

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Lets all processes tell each other that they live until each has left the body, which may so take longer than the timeout."""
        done, leaves = threading.Event(), threading.Event()
        lost: list[Exception] = []

        def tell() -> None:
            try:
                while self.agree(not done.wait(ALIVE_EVERY_S)) and not leaves.is_set():
                    pass
            except (dist.DistError, RuntimeError) as error:
                lost.append(error)

        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        try:
            yield
            done.set()
            thread.join()
        except BaseException:  # this process ends, whatever the others do
            leaves.set()
            done.set()
            thread.join(2 * ALIVE_EVERY_S)
            raise
        if lost:
            raise lost[0]

    def with_expert(self, expert: int) -> World:
        """The same processes as another grid.

        Raises:
            RecipeError: there are no multiple of `expert` of them.
        """
        check_size(self.size, expert)
        return replace(self, mesh=grid_of(self.device.type, self.size, expert))

    def call_out(self, word: str) -> None:
        """Says a word that others may be waiting for. A lost store hears nothing."""
        assert self.store is not None
        with suppress(dist.DistError, RuntimeError):
            self.store.set(word, "said")

    def hears(self, *words: str) -> bool:
        """Whether other processes call all of them out within SECONDS_TO_HEAR."""
        assert self.store is not None
        until = time.monotonic() + SECONDS_TO_HEAR
        with suppress(dist.DistError, RuntimeError):
            while time.monotonic() < until:  # torch's own wait writes to stderr when it ends
                if self.store.check(list(words)):
                    return True
                time.sleep(LISTEN_EVERY_S)
        return False

    def outlive_first(self) -> None:
        """Waits until the first process has ended: a launcher that sees another one fail ends the first before it has spoken."""
        with suppress(dist.DistError, RuntimeError):
            dist.broadcast(torch.zeros(1), src=0)

    def end(self) -> None:
        """Says goodbye; nothing can be said afterwards."""
        dist.destroy_process_group()
        time.sleep(LAST_TENSORS_S)


def on_first(world: World | None, work: Callable[[], Value]) -> Value:
    """`World.on_first`; without a world this process is the only one."""
    return work() if world is None else world.on_first(work)


def grid_of(device_type: str, size: int, expert: int) -> DeviceMesh:
    """D x X."""
    return init_device_mesh(device_type, (size // expert, expert), mesh_dim_names=("data", "expert"))


def check_size(size: int, expert: int) -> None:
    """Raises RecipeError where so many processes are no multiple of `expert`."""
    if size % expert:
        what = f"{expert} processes share out the experts, and {size} processes are no multiple of that"
        allowed = ", ".join(str(degree) for degree in range(1, size + 1) if size % degree == 0)
        raise RecipeError(what, where="parallel.expert", allowed=allowed, next_step="or start another number of processes")
