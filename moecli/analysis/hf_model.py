"""A Hugging Face checkpoint as a model that can be evaluated like moecli's own, with routing records; needs the package transformers.

Knows checkpoint folders and what `evaluation` wants of a model. Must not know what the records are used for, nor any architecture by name.
No pickle is loaded, no code of a checkpoint is run, nothing is fetched.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moecli.analysis.hf_folder import CONFIG_FILE, COPY_AGAIN, Weights, check_counts, check_numbers, check_weights, read_config
from moecli.analysis.hf_routing import RoutedLayer, has_experts, routed_layers, routing_record, watching
from moecli.errors import MachineError, RunError
from moecli.moe.routing import RoutingRecord

OTHER_MODEL = "give a causal language model with mixture-of-experts layers, such as Mixtral, OLMoE, Qwen3-MoE, DeepSeek-V3 or gpt-oss"
INSTALL = "install it: pip install 'transformers>=5.20'"
# transformers' experts have had an interface in common since then.
OLDEST_VERSION = (5, 20)


class HuggingFaceModel:
    """A causal language model of transformers with experts that can be watched.

    Args:
        model: a transformers model with a language-model head.
        layers: its layers that route.
        folder: where it was read from, for messages.
    """

    is_causal: bool = True

    def __init__(self, model: nn.Module, layers: dict[int, RoutedLayer], folder: Path) -> None:
        config: Any = model.config
        text_config = config.get_text_config(decoder=True)
        self._model = model
        self._layers = layers
        self._folder = folder
        self._num_layers = max(int(text_config.num_hidden_layers), 1 + max(layers))
        self.model_type: str = config.model_type
        self.vocab_size: int = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        self.max_seq_len: int | None = getattr(text_config, "max_position_embeddings", None)

    def __call__(self, ids_BS: Tensor) -> tuple[Tensor, tuple[RoutingRecord | None, ...]]:
        """Logits [B, S, V] and one record per layer of the model; None for those that don't route.

        Raises:
            RunError: a layer doesn't hand each token to its experts once.
        """
        with _quiet(), watching(self._layers) as seen:
            logits_BSV = self._logits(ids_BS)
        records: list[RoutingRecord | None] = [None] * self._num_layers
        with _told_of(self.model_type, self._folder):
            for layer, modules in self._layers.items():
                records[layer] = routing_record(layer, modules.experts, seen[layer], ids_BS)
        return logits_BSV, tuple(records)

    def _logits(self, ids_BS: Tensor) -> Tensor:
        try:
            logits_BSV: Tensor = self._model(input_ids=ids_BS, use_cache=False).logits
        except Exception as error:  # a configuration that loads may still contradict itself
            if "memory" in str(error):
                raise
            what = f"architecture {self.model_type}: the model fails on a text: {_first_words(error)}"
            raise RunError(what, where=str(self._folder), next_step=COPY_AGAIN) from error
        return logits_BSV

    def eval(self) -> HuggingFaceModel:
        self._model.eval()
        return self

    def to(self, device: torch.device | str) -> HuggingFaceModel:
        self._model.to(device)
        return self

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()

    def expert_outputs(self) -> dict[int, tuple[Tensor, ...]]:
        """For each layer that routes the parameters [E, ...] whose slice e, set to zero, makes expert e contribute nothing."""
        names = ("down_proj", "down_proj_bias")
        return {layer: tuple(getattr(m.experts, name) for name in names if hasattr(m.experts, name)) for layer, m in self._layers.items()}


def load_huggingface(folder: Path) -> HuggingFaceModel:
    """Reads a checkpoint that transformers wrote, on the CPU, in evaluation mode, in the precision of the file.

    Raises:
        RunError: it is damaged, or no mixture-of-experts model that moecli can read.
        MachineError: transformers is not installed.
    """
    content, weights = read_config(folder), check_weights(folder)
    check_counts(content, weights, str(folder / CONFIG_FILE))
    transformers = _transformers()
    with _quiet():
        config = _known_config(transformers, folder, content)
        _check_size(transformers, folder, config, weights)
        model = _load(transformers, folder, config).eval()
    with _told_of(config.model_type, folder):
        layers = routed_layers(model)
        if not layers and has_experts(model):
            raise RunError("moecli can't read its experts")
        if not layers:
            raise RunError("it is a dense model, without a layer that routes")
    return HuggingFaceModel(model, layers, folder)


@contextmanager
def _told_of(model_type: str, folder: Path) -> Iterator[None]:
    """An error in the context names the architecture and the folder."""
    try:
        yield
    except RunError as error:
        raise RunError(f"architecture {model_type}: {error.what}", where=str(folder), next_step=OTHER_MODEL) from error


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        what = f"a Hugging Face checkpoint needs the package transformers: {_first_words(error)}"
        raise MachineError(what, next_step=INSTALL) from error
    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST_VERSION:
        what = f"transformers {transformers.__version__} is too old"
        raise MachineError(what, allowed="{}.{} and later".format(*OLDEST_VERSION), next_step=INSTALL)
    return transformers


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


def _known_config(transformers: Any, folder: Path, content: dict[str, Any]) -> Any:
    """The configuration, of an architecture that transformers itself has, as a causal language model."""
    model_type, where = content["model_type"], str(folder / CONFIG_FILE)
    if model_type not in transformers.CONFIG_MAPPING:
        if "auto_map" in content:
            what = f"architecture {model_type} brings its own program, and moecli runs none that comes with a checkpoint"
            raise RunError(what, where=where, next_step=OTHER_MODEL)
        what = f"transformers {transformers.__version__} doesn't know the architecture {model_type}"
        raise RunError(what, where=where, next_step=f"install a newer transformers, or {OTHER_MODEL}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a value can be wrong in any way, and each class of configuration has its own checks
        raise RunError(f"transformers can't read it: {_first_words(error)}", where=where, next_step=COPY_AGAIN) from error
    if config.is_encoder_decoder:
        raise RunError(f"architecture {model_type} is an encoder-decoder", where=where, next_step=OTHER_MODEL)
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise RunError(f"architecture {model_type} is no causal language model", where=where, next_step=OTHER_MODEL)
    return config


def _check_size(transformers: Any, folder: Path, config: Any, weights: Weights) -> None:
    """That the model has no more numbers than its files: transformers makes it all before it looks for what is missing."""
    where = str(folder / CONFIG_FILE)
    try:
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(
                config, trust_remote_code=False, attn_implementation=None, experts_implementation="eager"
            )
        numbers = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    except Exception as error:  # a value can be wrong in any way, and each class of model has its own checks
        raise RunError(f"transformers can't make a model of it: {_first_words(error)}", where=where, next_step=COPY_AGAIN) from error
    check_numbers(numbers, weights, where)


def _load(transformers: Any, folder: Path, config: Any) -> nn.Module:
    """The model with all its weights from the file: transformers would fill in random ones for those that are missing."""
    where = str(folder)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype="auto",
            # The file may name an attention that is fetched and run. None: what comes with transformers.
            attn_implementation=None,
            # The grouped product refuses widths that are no multiple of 16 bytes.
            experts_implementation="eager",
            # It raises for these without a name; they are refused below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except ImportError as error:
        what = f"the checkpoint needs another package: {_first_words(error)}"
        raise RunError(what, where=where, next_step="install it") from error
    except Exception as error:  # the library, and what it reads the files with, raise anything
        if "memory" in str(error):
            raise
        raise RunError(f"transformers can't load it: {_reason(error)}", where=where, next_step=COPY_AGAIN) from error
    if info["missing_keys"]:
        raise RunError(
            f"weights that {config.model_type} needs are missing: {_few(info['missing_keys'])}", where=where, next_step=COPY_AGAIN
        )
    if info["mismatched_keys"]:
        sizes = [f"{name} is {list(found)} and should be {list(wanted)}" for name, found, wanted in info["mismatched_keys"]]
        raise RunError(f"weights don't fit {CONFIG_FILE}: {_few(sizes)}", where=where, next_step=COPY_AGAIN)
    return model


def _reason(error: Exception) -> str:
    if "CONVERSION" in str(error):
        return "the weights of a layer's experts can't be put together: some are missing, or not of the size of the others"
    return _first_words(error)


def _few(names: Iterable[str]) -> str:
    """The first of the names, and how many there are beside it."""
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first


def _first_words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
