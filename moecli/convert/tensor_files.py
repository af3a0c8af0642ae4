"""Tensors in safetensors files, one file or several with an index: read one by one, and written shard by shard.

Knows the files of one folder. Must not know what the tensors mean. No pickle is loaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from moecli.convert.rules import Made, Shape
from moecli.data.small_file import read_small
from moecli.errors import ConvertError
from moecli.model.checkpoint import write_tensors

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth")
# Of a file in the folder itself; half of a character can't be in one.
FILE_NAME = re.compile(r"[^/\\\0\ud800-\udfff]+\.safetensors")
COPY_AGAIN = "copy or download the checkpoint again"
# What a header calls them. Narrower ones are quantised, and their scales lie in tensors of their own; several can share an I32.
READABLE = {"F32", "F16", "BF16", "F64"}
PACKED = ("I8", "U8", "I32")


class TensorFiles:
    """The tensors of a folder, by name. They are read when they are asked for, and checked then."""

    def __init__(self, handles: dict[str, Any], files: dict[str, Path]) -> None:
        self._handles = handles
        self._files = files
        self._last: tuple[str, Tensor] | None = None
        """The rules ask for the slices of one tensor one after the other."""
        self.shapes: dict[str, Shape] = {name: tuple(handle.get_slice(name).get_shape()) for name, handle in handles.items()}

    def file_of(self, name: str) -> Path:
        """The file that holds a tensor; of one that isn't there, the file or the index that should name it."""
        return self._files.get(name) or next(iter(self._files.values())).with_name(INDEX_FILE if self._is_sharded else WEIGHTS_FILE)

    @property
    def _is_sharded(self) -> bool:
        return len(set(self._files.values())) > 1

    def read(self, name: str) -> Tensor:
        """A tensor, perhaps a view of the file; float64 as float32, which is all that a GPT has.

        Raises:
            ConvertError: it is of a type that can't be converted, or holds values that are no numbers.
        """
        if self._last is not None and self._last[0] == name:
            return self._last[1]
        dtype = self._handles[name].get_slice(name).get_dtype()
        if dtype not in READABLE:
            is_quantised = dtype.startswith("F") or dtype in PACKED
            what = f"tensor {name} is of type {dtype}: {'quantised weights' if is_quantised else 'whole numbers'} can't be converted"
            raise ConvertError(what, where=str(self._files[name]), allowed="float32, bfloat16, float16")
        tensor: Tensor = self._handles[name].get_tensor(name)
        if dtype == "F64":
            tensor = tensor.float()
        if not tensor.isfinite().all():
            what = f"tensor {name} holds values that are no numbers (NaN, infinite, or too large for float32)"
            raise ConvertError(what, where=str(self._files[name]), next_step="use another checkpoint: this training may have diverged")
        self._last = (name, tensor)
        return tensor

    def is_zero(self, name: str) -> bool:
        """Whether all of a tensor is 0, or there is none of that name."""
        return name not in self.shapes or not self.read(name).any()


@contextmanager
def open_tensors(folder: Path) -> Iterator[TensorFiles]:
    """Opens the safetensors files of a folder.

    Raises:
        ConvertError: there are none, or one of them is missing or damaged.
    """
    paths = _weight_files(folder)
    handles: dict[str, Any] = {}
    files: dict[str, Path] = {}
    with ExitStack() as stack:
        for path in paths:
            if path.exists() and not path.is_file():  # a pipe would never end
                raise ConvertError("no regular file", where=str(path), next_step=COPY_AGAIN)
            try:
                handle = stack.enter_context(safe_open(path, framework="pt"))
            except FileNotFoundError as error:
                raise ConvertError("there is no such file", where=str(path), next_step=COPY_AGAIN) from error
            except (SafetensorError, OSError) as error:
                raise ConvertError(f"damaged or cut short: {error}", where=str(path), next_step=COPY_AGAIN) from error
            for name in handle.keys():  # noqa: SIM118 (a handle is no mapping)
                if name in files:
                    raise ConvertError(f"tensor {name} stands in {files[name].name} too", where=str(path), next_step=COPY_AGAIN)
                handles[name], files[name] = handle, path
        if not files:
            raise ConvertError("there is no tensor in it", where=str(paths[0]), next_step=COPY_AGAIN)
        if (folder / INDEX_FILE).is_file():
            _check_index(folder, files)
        yield TensorFiles(handles, files)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX_FILE).is_file():
        _check_no_second(folder)
        return [folder / name for name in sorted(set(_weight_map(folder).values()))]
    if (folder / WEIGHTS_FILE).is_file():
        return [folder / WEIGHTS_FILE]
    if any(path.suffix in PICKLES for path in folder.iterdir()):
        what = "its weights are pickled, and loading a pickle can run any program, so moecli loads none"
        next_step = "convert them with transformers: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(OTHER_FOLDER)"
        raise ConvertError(what, where=str(folder), allowed="weights in .safetensors files", next_step=next_step)
    raise ConvertError(f"there is no {WEIGHTS_FILE} and no {INDEX_FILE} in it", where=str(folder), next_step=COPY_AGAIN)


def _check_no_second(folder: Path) -> None:
    """Which of two sets of weights is meant, no file says, and transformers takes the single file."""
    if (folder / WEIGHTS_FILE).is_file() and set(_weight_map(folder).values()) != {WEIGHTS_FILE}:
        what = f"both {WEIGHTS_FILE} and {INDEX_FILE} are in it, and the index names other files"
        raise ConvertError(what, where=str(folder), next_step="remove the one that is not meant")


def _weight_map(folder: Path) -> dict[str, str]:
    """From the tensors to the files, as the index says."""
    path = folder / INDEX_FILE
    try:
        weight_map = json.loads(read_small(path))["weight_map"]
        names = {str(name): str(file) for name, file in weight_map.items()}
    except OSError as error:
        raise ConvertError(f"can't be read: {error.strerror}", where=str(path), next_step=COPY_AGAIN) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConvertError(f"damaged: {error}", where=str(path), next_step=COPY_AGAIN) from error
    outside = next((file for file in names.values() if not FILE_NAME.fullmatch(file)), None)
    if outside is not None or not names:
        is_elsewhere = outside is not None and (Path(outside).name != outside or outside == "..")
        kind = "file outside the folder" if is_elsewhere else "file that can't be of weights"
        what = "names no files" if outside is None else f"names a {kind}: {outside}"
        raise ConvertError(what, where=str(path), allowed="names of .safetensors files beside it", next_step=COPY_AGAIN)
    return names


def _check_index(folder: Path, files: dict[str, Path]) -> None:
    for name, file in _weight_map(folder).items():
        if name not in files or files[name].name != file:
            raise ConvertError(f"tensor {name} is missing, by the index it is here", where=str(folder / file), next_step=COPY_AGAIN)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of weights to be written."""

    file: str
    tensors: tuple[Made, ...]


def dtype_of(made: Made, dtype: torch.dtype) -> torch.dtype:
    """In what a tensor is written."""
    return torch.float32 if made.keeps_float32 else dtype


def num_bytes(made: Made, dtype: torch.dtype) -> int:
    return torch.Size(made.shape).numel() * dtype_of(made, dtype).itemsize


def plan_shards(tensors: Sequence[Made], dtype: torch.dtype, max_bytes: int) -> list[Shard]:
    """The tensors in files of at most so many bytes, each of at least one tensor, in their order."""
    groups: list[list[Made]] = []
    size = 0
    for made in tensors:
        size += num_bytes(made, dtype)
        if not groups or (size > max_bytes and groups[-1]):
            groups.append([])
            size = num_bytes(made, dtype)
        groups[-1].append(made)
    if len(groups) == 1:
        return [Shard(WEIGHTS_FILE, tuple(groups[0]))]
    count = len(groups)
    return [Shard(f"model-{number:05}-of-{count:05}.safetensors", tuple(group)) for number, group in enumerate(groups, start=1)]


def write_shards(shards: Sequence[Shard], folder: Path, dtype: torch.dtype) -> Iterator[Shard]:
    """Writes the files into an existing folder, and their index where there are several; yields each when it is written.

    Raises:
        ConvertError: a number is too large for the type.
        OSError: the disk refuses.
    """
    for shard in shards:
        write_tensors({made.name: _cast(made, dtype, folder / shard.file) for made in shard.tensors}, folder / shard.file)
        yield shard
    if len(shards) > 1:
        total = sum(num_bytes(made, dtype) for shard in shards for made in shard.tensors)
        weight_map = {made.name: shard.file for shard in shards for made in shard.tensors}
        content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / INDEX_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _cast(made: Made, dtype: torch.dtype, path: Path) -> Tensor:
    """A tensor that shares no memory with another, as a file needs it."""
    tensor = made.make().to(dtype_of(made, dtype), copy=True, memory_format=torch.contiguous_format)
    if not tensor.isfinite().all():
        what = f"tensor {made.name} holds numbers that are too large for {str(dtype).removeprefix('torch.')}"
        raise ConvertError(what, where=str(path), next_step="use --dtype bfloat16 or float32")
    return tensor
