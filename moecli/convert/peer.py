"""A Hugging Face checkpoint as transformers runs it: its logits, and the experts that it chooses; needs the package transformers.

Knows how a folder is loaded and what experts of transformers share. Must not know any class by name, nor what is compared.
No pickle is loaded, no code of a checkpoint is run, nothing is fetched.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moecli.errors import ConvertError, MachineError

INSTALL = "install it: pip install 'moecli[hf]', or give --no-verify"
# transformers' experts have had an interface in common since then.
OLDEST_VERSION = (5, 20)


class Peer:
    """A causal language model of transformers, in float32."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._experts = {_layer_of(name): module for name, module in model.named_modules() if hasattr(type(module), "_apply_gate")}

    def __call__(self, ids_BS: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits [B, S, V], and for each MoE layer the experts of each token [T, K]."""
        seen: dict[int, Tensor] = {}

        def watch(layer: int) -> Any:
            return lambda _, inputs: seen.__setitem__(layer, inputs[1])

        with _quiet(), torch.inference_mode(), ExitStack() as stack:
            for layer, experts in self._experts.items():
                stack.callback(experts.register_forward_pre_hook(watch(layer)).remove)
            logits_BSV = self._model(input_ids=ids_BS, use_cache=False).logits
        return logits_BSV, seen


def has_transformers() -> bool:
    return find_spec("transformers") is not None


def check_transformers() -> None:
    """Raises MachineError where transformers is missing or too old."""
    if not has_transformers():
        raise MachineError("to verify a conversion, moecli needs the package transformers", where="--verify", next_step=INSTALL)
    import transformers

    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST_VERSION:
        what = f"transformers {transformers.__version__} is too old to verify with"
        raise MachineError(what, allowed="{}.{} and later".format(*OLDEST_VERSION), next_step=INSTALL)


def load_peer(folder: Path) -> Peer:
    """Loads a checkpoint on the CPU, in float32.

    Raises:
        ConvertError: transformers can't load it, or finds tensors missing, superfluous or of other shapes.
        MachineError: transformers is missing or too old.
    """
    check_transformers()
    import transformers

    with _quiet():
        try:
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
                # The grouped product refuses widths that are no multiple of 16 bytes.
                experts_implementation="eager",
                # It raises for these without a name; they are refused below.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        except Exception as error:  # the library, and what it reads the files with, raise anything
            if "memory" in str(error):
                raise
            what = f"transformers can't load it: {' '.join(str(error).split())[:300]}"
            raise ConvertError(what, where=str(folder), next_step="convert with --no-verify, or report this") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            names = sorted(str(name if isinstance(name, str) else name[0]) for name in info[kind])
            what = f"transformers finds {kind.replace('_keys', '')} tensors: {', '.join(names[:3])}"
            raise ConvertError(what, where=str(folder), next_step="this is a bug in the rules of the class: report it")
    return Peer(model.eval())


def _layer_of(name: str) -> int:
    """The first number in a module's dotted name: 3 of model.layers.3.mlp.experts."""
    return next(int(part) for part in name.split(".") if part.isdigit())


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers logs to stderr while it loads, and draws bars: what matters of it is told as an error."""
    from transformers.utils import logging as their_logging

    verbosity, has_bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity(logging.CRITICAL)
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        their_logging.set_verbosity(verbosity)
        if has_bars:
            their_logging.enable_progress_bar()
