"""What a Hugging Face folder from anybody has to be before transformers may read it: weights in safetensors files inside it, and a
config.json that promises no more than they hold.

Knows the files of a folder. Must not know transformers, nor any architecture by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.data.small_file import LARGEST, read_small
from moecli.errors import RunError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"
OTHER_FOLDER = "give a folder that transformers' save_pretrained wrote, or a run folder of moecli"
COPY_AGAIN = "copy or download the checkpoint again"
# Keys of config.json that count what transformers makes one by one, before it has looked at a weight.
COUNTS = re.compile(r"(layers?|experts?|blocks?|depth)$")
# That many are made in seconds; a checkpoint that has more of anything has as many tensors.
ALWAYS_FINE = 4096
# Of a quantised checkpoint a byte holds several parameters; the rest is for what a model computes and doesn't read, such as masks.
MOST_NUMBERS_PER_BYTE, SPARE_NUMBERS = 8, 1 << 26


@dataclass(frozen=True, slots=True)
class Weights:
    """What the files of a folder hold, by their headers."""

    tensors: int
    num_bytes: int


def is_huggingface_folder(path: Path) -> bool:
    """Whether this is a folder whose config.json names a model type, as transformers writes it (moecli's own doesn't).

    Raises:
        RunError: config.json is damaged or can't be read, so that nobody can tell.
    """
    try:
        content = _read_json(path / CONFIG_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise RunError(f"can't be read: {error.strerror}", where=str(path / CONFIG_FILE), next_step=COPY_AGAIN) from error
    return isinstance(content, dict) and "model_type" in content


def read_config(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        RunError: there is none, it is damaged, or it names other files than those of the folder.
    """
    path = folder / CONFIG_FILE
    if not folder.is_dir():
        raise RunError("there is no such folder", where=str(folder), next_step=OTHER_FOLDER)
    try:
        content = _read_json(path)
    except FileNotFoundError as error:
        raise RunError("there is no such file", where=str(path), next_step=OTHER_FOLDER) from error
    except OSError as error:
        raise RunError(f"can't be read: {error.strerror}", where=str(path), next_step=COPY_AGAIN) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise RunError("it names no model_type, so it is not of a Hugging Face model", where=str(path), next_step=OTHER_FOLDER)
    if "transformers_weights" in content:
        what = "names a file of weights (transformers_weights)"
        raise RunError(what, where=str(path), allowed=f"{WEIGHTS_FILE}, or {INDEX_FILE}", next_step=OTHER_FOLDER)
    return content


def check_weights(folder: Path) -> Weights:
    """Looks at the files that transformers will read.

    Raises:
        RunError: the weights are pickled, lie elsewhere, or are missing; or the folder has an adapter, which names another folder.
    """
    if (folder / ADAPTER_FILE).exists():
        raise RunError("an adapter, which is a part of a model", where=str(folder / ADAPTER_FILE), next_step=OTHER_FOLDER)
    has_one = (folder / WEIGHTS_FILE).exists() or (folder / WEIGHTS_FILE).is_symlink()
    files = [folder / WEIGHTS_FILE] if has_one else list(_indexed_files(folder))
    if not files:
        _refuse_pickles(folder)
    for path in files:
        if not path.is_file():
            raise RunError(f"{path.name} is not there, or no regular file", where=str(path), next_step=COPY_AGAIN)
    return Weights(sum(map(_count_tensors, files)), sum(path.stat().st_size for path in files))


def check_counts(content: Any, weights: Weights, where: str) -> None:
    """Raises RunError where config.json counts more layers or experts than there are tensors: only making a list of them takes memory."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        if isinstance(value, int) and COUNTS.search(str(key)) and value > max(weights.tensors, ALWAYS_FINE):
            what = f"{key} is {_short(value)}, and the files hold {weights.tensors:,} tensors"
            raise RunError(what, where=where, next_step=COPY_AGAIN)
        check_counts(value, weights, where)


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**15 else f"more than 10**{len(str(number)) - 1}"


def check_numbers(numbers: int, weights: Weights, where: str) -> None:
    """Raises RunError where the model of a config.json has more numbers than its files can hold."""
    if numbers > MOST_NUMBERS_PER_BYTE * weights.num_bytes + SPARE_NUMBERS:
        what = f"describes a model of {numbers:,} numbers, and the files hold {weights.num_bytes:,} bytes"
        raise RunError(what, where=where, next_step=COPY_AGAIN)


def _indexed_files(folder: Path) -> Iterator[Path]:
    path = folder / INDEX_FILE
    if not path.exists():
        return
    try:
        content = _read_json(path)
    except OSError as error:
        raise RunError(f"can't be read: {error.strerror}", where=str(path), next_step=COPY_AGAIN) from error
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise RunError("damaged: it has no weight_map from tensors to files", where=str(path), next_step=COPY_AGAIN)
    for name in sorted(set(names.values())):
        if re.search(r"[/\\\0\ud800-\udfff]", name) or not name.endswith(".safetensors"):
            what = f"names {name!r}"
            raise RunError(what, where=str(path), allowed="names of .safetensors files in this folder", next_step=COPY_AGAIN)
        yield folder / name


def _count_tensors(path: Path) -> int:
    """As the header of a safetensors file has them: 8 bytes that say how long it is, then JSON. 0 where there is no header: it is read,
    and refused, by the library."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, LARGEST):  # the library's own limit, too
            return 0
        try:
            content = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return 0
    return len(content.keys() - {"__metadata__"}) if isinstance(content, dict) else 0


def _read_json(path: Path) -> Any:
    """Raises OSError where there is no such file, and RunError where it is damaged."""
    try:
        return json.loads(read_small(path))
    except UnicodeDecodeError as error:
        raise RunError("damaged: not UTF-8 text", where=str(path), next_step=COPY_AGAIN) from error
    except RecursionError as error:
        raise RunError("damaged: nested too deep to be read", where=str(path), next_step=COPY_AGAIN) from error
    except ValueError as error:
        raise RunError(f"damaged: {error}", where=str(path), next_step=COPY_AGAIN) from error


def _refuse_pickles(folder: Path) -> None:
    if any(file.suffix in (".bin", ".pt", ".pth") for file in folder.iterdir()):
        what = "its weights are pickled, and loading a pickle can run any program, so moecli loads none"
        next_step = "convert them with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)"
        raise RunError(what, where=str(folder), allowed="weights in .safetensors files", next_step=next_step)
    raise RunError("there are no weights (*.safetensors) in it", where=str(folder), next_step=COPY_AGAIN)
