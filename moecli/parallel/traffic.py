"""What a process hands to its collectives: bytes and seconds, by kind, measured from outside.

Knows the operators that torch.distributed calls. Must not know models or who communicates: nothing in them counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# The operators of each kind, and which argument is what this process hands over.
OPERATORS = {
    "c10d::alltoall_base_": ("all_to_all", 1),
    "c10d::_allgather_base_": ("all_gather", 1),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d::allreduce_": ("all_reduce", 0),
    "_c10d_functional::all_to_all_single": ("all_to_all", 0),
    "_c10d_functional::all_gather_into_tensor": ("all_gather", 0),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", 0),
    "_c10d_functional::all_reduce": ("all_reduce", 0),
}


@dataclass(slots=True)
class KindTraffic:
    """Of one kind of collective."""

    calls: int = 0
    bytes: int = 0
    """Handed over by this process, what stays with it included."""
    timed_calls: int = 0
    seconds: float = 0.0
    """From issue to completion, of the timed calls; calls that overlap count each. On CPUs: on an accelerator a call that is issued is no
    call that is done, and none is timed."""


@dataclass(frozen=True, slots=True)
class _Untold:
    """A call whose end nobody tells."""

    kind: KindTraffic
    started: float


class Traffic(TorchDispatchMode):
    """Counts what passes while it is active, backward passes included.

    Not seen are collectives that an operation on a DTensor makes by itself; training makes none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds = {kind: KindTraffic() for kind, _ in OPERATORS.values()}
        self._intervals: list[tuple[float, float]] = []
        self._untold: _Untold | None = None
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Of all kinds."""
        return sum(kind.bytes for kind in self.kinds.values())

    @property
    def seconds(self) -> float:
        """In which at least one of the timed calls was under way, whether something was computed meanwhile or not."""
        with self._lock:
            return seconds_covered(self._intervals)

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Else torch.compile leaves what it meets under this watch uncompiled from then on."""
        return True

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._end_untold()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._end_untold()
        started = time.perf_counter()
        result = function(*args, **(kwargs or {}))
        operator = OPERATORS.get(function._schema.name)
        if operator is not None:
            kind, place = operator
            tensors = [leaf for leaf in tree_leaves(args[place]) if isinstance(leaf, Tensor)]
            self.kinds[kind].calls += 1
            self.kinds[kind].bytes += sum(tensor.nbytes for tensor in tensors)
            if all(tensor.device.type == "cpu" for tensor in tensors):
                self._time(self.kinds[kind], result, started)
        return result

    def _time(self, kind: KindTraffic, result: Any, started: float) -> None:
        """Notes when the collective is done."""
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.ScriptObject):
                work = dist.Work.unbox(leaf)
                try:
                    work.get_future().add_done_callback(lambda _: self._done(kind, started))  # called by the backend's thread
                except RuntimeError:  # gloo's reduce-scatter has no future, and does not know whether it is completed
                    self._untold = _Untold(kind, started)

    def _end_untold(self) -> None:
        """FSDP waits for a reduce-scatter on CPUs before it does anything else: with the next operation it is done."""
        if self._untold is not None:
            self._done(self._untold.kind, self._untold.started)
            self._untold = None

    def _done(self, kind: KindTraffic, started: float) -> None:
        ended = time.perf_counter()
        with self._lock:
            kind.timed_calls += 1
            kind.seconds += ended - started
            self._intervals.append((started, ended))


def seconds_covered(intervals: Iterable[tuple[float, float]]) -> float:
    """In at least one of the intervals (begin, end)."""
    total, last_end = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, last_end))
        last_end = max(last_end, end)
    return total
