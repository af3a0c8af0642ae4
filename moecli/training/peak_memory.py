"""How much memory training takes at its height, measured.

Knows a trainer and how to watch tensors come and go. Must not know runs, nor what was expected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moecli.training.trainer import Trainer

# AdamW makes its moments in the first step; from the second on each is like the others.
STEPS = 2


def peak_training_memory(build: Callable[[], Trainer], device: torch.device) -> int:
    """The most bytes of tensors that are alive at once, from building the model to the end of its second step.

    Weights, gradients, optimizer moments, activations and what passes between operations; not the allocator's reserve, the libraries'
    own memory, or the Python process. On CUDA the device's own count is read; elsewhere tensors are watched as operations make them. All
    random generators are left as they were.

    Args:
        build: makes the trainer, its model included, on `device`.
        device: where it trains.
    """
    if device.type == "cuda":
        with torch.random.fork_rng([device]):
            before = torch.cuda.memory_allocated(device)
            torch.cuda.reset_peak_memory_stats(device)
            _build_and_train(build)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.random.fork_rng([]), LiveTensors() as tensors:
        _build_and_train(build)
    return tensors.peak_bytes


def _build_and_train(build: Callable[[], Trainer]) -> None:
    trainer = build()
    for step in range(STEPS):
        trainer.step(step)


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of every storage that an operation returns, until nobody holds it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._alive_bytes = 0
        self._bytes_of: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and not leaf.is_meta:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._bytes_of:
            return
        self._bytes_of[key] = storage.nbytes()
        self._alive_bytes += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._alive_bytes)
        weakref.finalize(storage, self._remove, key).atexit = False

    def _remove(self, key: int) -> None:
        self._alive_bytes -= self._bytes_of.pop(key)
