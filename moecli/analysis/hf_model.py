"""A Hugging Face checkpoint as a model that can be evaluated like moecli's own, with routing records; needs the package transformers.

Knows checkpoint folders and what `evaluation` wants of a model. Must not know what the records are used for, nor any architecture by name.
No pickle is loaded, no code of a checkpoint is run, nothing is fetched.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moecli.analysis.hf_routing import RoutedLayer, has_experts, routed_layers, routing_record, watching
from moecli.errors import MachineError, RunError
from moecli.moe.routing import RoutingRecord

CONFIG_FILE = "config.json"
OTHER_FOLDER = "give a folder that transformers' save_pretrained wrote, or a run folder of moecli"
COPY_AGAIN = "copy or download the checkpoint again"
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


def is_huggingface_folder(path: Path) -> bool:
    """Whether this is a folder whose config.json names a model type, as transformers writes it (moecli's own doesn't).

    Raises:
        RunError: config.json is damaged, so that nobody can tell.
    """
    try:
        content = _read_json(path / CONFIG_FILE)
    except OSError:
        return False
    return isinstance(content, dict) and "model_type" in content


def load_huggingface(folder: Path) -> HuggingFaceModel:
    """Reads a checkpoint that transformers wrote, on the CPU, in evaluation mode, in the precision of the file.

    Raises:
        RunError: it is damaged, or no mixture-of-experts model that moecli can read.
        MachineError: transformers is not installed.
    """
    content = _read_config(folder)
    _refuse_pickles(folder)
    transformers = _transformers()
    with _quiet():
        config = _known_config(transformers, folder, content)
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


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise RunError("there is no such folder", where=str(folder), next_step=OTHER_FOLDER)
    try:
        content = _read_json(path)
    except FileNotFoundError as error:
        raise RunError("there is no such file", where=str(path), next_step=OTHER_FOLDER) from error
    except OSError as error:
        raise RunError(f"damaged: {error}", where=str(path), next_step=COPY_AGAIN) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise RunError("it names no model_type, so it is not of a Hugging Face model", where=str(path), next_step=OTHER_FOLDER)
    return content


def _read_json(path: Path) -> Any:
    """Raises OSError where there is no such file, and RunError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RunError("damaged: not UTF-8 text", where=str(path), next_step=COPY_AGAIN) from error
    except RecursionError as error:
        raise RunError("damaged: nested too deep to be read", where=str(path), next_step=COPY_AGAIN) from error
    except ValueError as error:
        raise RunError(f"damaged: {error}", where=str(path), next_step=COPY_AGAIN) from error


def _refuse_pickles(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    if any(file.suffix in (".bin", ".pt", ".pth") for file in folder.iterdir()):
        what = "its weights are pickled, and loading a pickle can run any program, so moecli loads none"
        next_step = "convert them with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)"
        raise RunError(what, where=str(folder), allowed="weights in .safetensors files", next_step=next_step)
    raise RunError("there are no weights (*.safetensors) in it", where=str(folder), next_step=COPY_AGAIN)


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
