"""Generation whose steps are one compiled program: where calling operations is what a step spends its time on.

Knows the step of generate.py. Must not know text. Shape letters: see moe/routing.py; V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from moecli.errors import RunError
from moecli.model.compiling import compile_errors
from moecli.model.device import Precision, autocast
from moecli.model.generate import CachedDecoding, evaluating
from moecli.model.gpt import GPT
from moecli.model.kv_cache import FixedStepCache
from moecli.moe.experts import MOST_GATHERED
from moecli.moe.layers import SparseMoE

# A room is rounded up to a multiple of this: programs that were compiled for one are found again by the next text of about its length.
ROOM_STEP = 128


class CompiledDecoding(CachedDecoding):
    """`CachedDecoding` with steps through torch.compile: the prompts go through the model as they do there.

    One program serves every position, so attention reads the keys of the whole room, and the room is that of `CachedDecoding` rounded up.
    Making it takes the compiler seconds, which the constructor waits for.

    Raises:
        RunError: so many texts at once are no work for it.
        MachineError: this machine can't compile.
    """

    def __init__(self, model: GPT, batch_size: int, room: int, precision: Precision) -> None:
        _check_batch(model, batch_size)
        super().__init__(model, batch_size, rounded_up(room), precision)
        self._fixed = FixedStepCache(self._cache)
        # What calls the kernels is compiled too: in Python it takes a small model as long as the kernels themselves.
        self._program = torch.compile(self._logits, fullgraph=True, dynamic=False, options={"cpp_wrapper": self._device.type == "cpu"})
        self._compile(batch_size)

    def begin(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        logits_BV = super().begin(prompts)
        self._fixed.follow()
        return logits_BV

    def step(self, ids_B: Tensor) -> Tensor:
        return self._run(ids_B[:, None].to(self._device))

    @torch.inference_mode()
    def _run(self, ids_B1: Tensor) -> Tensor:
        with evaluating(self._model), autocast(self._device, self._precision):
            return self._program(ids_B1)

    def _logits(self, ids_B1: Tensor) -> Tensor:
        return self._model(ids_B1, None, self._fixed, last_only=True)[0][:, 0]

    def _compile(self, batch_size: int) -> None:
        """A step that nobody asked for."""
        with compile_errors("--compile", "install a C++ compiler, or leave --compile out"):
            self.step(torch.zeros(batch_size, dtype=torch.int64))
        self._fixed.follow()


def _check_batch(model: GPT, batch_size: int) -> None:
    chosen = [ffn.router.assignments_per_token for ffn in model.feed_forwards() if isinstance(ffn, SparseMoE)]
    most = MOST_GATHERED // max(1, math.ceil(max(chosen, default=0)))
    if batch_size > most:
        what = f"{batch_size:,} texts at once: a compiled step reads the weights of each token's experts, and is for few texts"
        raise RunError(what, where="--compile", allowed=f"{most:,} texts or fewer", next_step="ask for fewer texts, or leave --compile out")


def rounded_up(room: int) -> int:
    """R of a compiled step."""
    return -(-room // ROOM_STEP) * ROOM_STEP
