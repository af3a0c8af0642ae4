"""What a process hands to its collectives: bytes and seconds, by kind, measured from outside.

Knows the operators that torch.distributed calls. Must not know models or who communicates: nothing in them counts.
"""

from __future__ import annotations

import threading
import time
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


class Traffic(TorchDispatchMode):
    """Counts what passes while it is active, backward passes included.

    Not seen are collectives that an operation on a DTensor makes by itself; training makes none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinds = {kind: KindTraffic() for kind, _ in OPERATORS.values()}
        self._lock = threading.Lock()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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
        """Notes the seconds when the collective is done, where its backend says when that is."""

        def note(future: Any) -> None:
            seconds = time.perf_counter() - started
            with self._lock:  # called by the backend's thread
                kind.timed_calls += 1
                kind.seconds += seconds

        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.ScriptObject):
                try:
                    dist.Work.unbox(leaf).get_future().add_done_callback(note)
                except RuntimeError:  # gloo's reduce-scatter has no future
                    return
