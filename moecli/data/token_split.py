"""Ids and labels of one split, as they lie on the disk and as they are read from there.

Knows arrays and files. Must not know where a split comes from, nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from moecli.errors import DataError

LABEL_TYPE = np.dtype("<u2")


@dataclass(frozen=True)
class TokenSplit:
    """The tokens N of a split: end of text, document, end of text, document, ..., end of text.

    So every token of a text is a target exactly once when consecutive windows are evaluated. The arrays are memory-mapped, read-only.
    """

    name: str
    ids: np.ndarray
    """[N] uint16, or uint32 where the vocabulary needs it."""
    labels: dict[str, np.ndarray]
    """From the name of a label to [N] uint16: the place of the token's value in `label_names`; 0 is unlabelled."""
    label_names: dict[str, tuple[str, ...]]
    """From the name of a label to its values; the first is "", unlabelled."""
    num_bytes: int
    """UTF-8 bytes of the texts."""
    num_documents: int


@dataclass
class LabelTable:
    """Numbers the values of a label in the order in which they come."""

    kind: str
    numbers: dict[str, int] = field(default_factory=lambda: {"": 0})

    def number(self, value: str) -> int:
        """Raises DataError where there are more values than a number can tell apart."""
        number = self.numbers.setdefault(value, len(self.numbers))
        if number > np.iinfo(LABEL_TYPE).max:
            what = f"the label '{self.kind}' has more than {number - 1:,} values"
            raise DataError(what, where="data.corpus.label_column", next_step="choose a column with few values, or none")
        return number


def id_type(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


class SplitWriter:
    """Writes a split piece by piece: one raw file of ids and one per label. To be used in a `with` block."""

    def __init__(self, folder: Path, name: str, ids: np.dtype, end_of_text_id: int, tables: Mapping[str, LabelTable]) -> None:
        self._end_of_text_id = end_of_text_id
        self._types = {"": ids} | dict.fromkeys(tables, LABEL_TYPE)
        self._tables = tables
        self._num_tokens = self._num_bytes = self._num_documents = 0
        self._stack = ExitStack()
        self._files = {}
        for array, path in _array_paths(folder, name, list(tables)).items():
            self._files[array] = self._stack.enter_context(path.open("wb"))

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()

    def add(self, ids: Sequence[int], labels: Mapping[str, np.ndarray], num_bytes: int) -> None:
        """Adds an end of text and a document of `num_bytes` bytes. `labels` has every label of the split, each as long as `ids`."""
        self._write([self._end_of_text_id], {kind: [0] for kind in self._tables})
        self._write(ids, labels)
        self._num_bytes += num_bytes
        self._num_documents += 1

    def finish(self) -> dict[str, Any]:
        """Adds the last end of text, brings everything to the disk, and returns what `open_split` needs to read it."""
        self._write([self._end_of_text_id], {kind: [0] for kind in self._tables})
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return {
            "id_type": self._types[""].str,
            "num_tokens": self._num_tokens,
            "num_bytes": self._num_bytes,
            "num_documents": self._num_documents,
            "labels": {kind: list(table.numbers) for kind, table in self._tables.items()},
        }

    def _write(self, ids: Sequence[int], labels: Mapping[str, ArrayLike]) -> None:
        assert labels.keys() == self._tables.keys()
        for array, values in {"": ids, **labels}.items():
            values_N = np.asarray(values, dtype=self._types[array])
            assert len(values_N) == len(ids)
            self._files[array].write(values_N.tobytes())
        self._num_tokens += len(ids)


def open_split(folder: Path, name: str, described: Mapping[str, Any]) -> TokenSplit | None:
    """The split, memory-mapped; None where a file is not there or has not the size that it was written with."""
    label_names = {kind: tuple(names) for kind, names in described["labels"].items()}
    arrays: dict[str, np.ndarray] = {}
    for array, path in _array_paths(folder, name, list(label_names)).items():
        item = LABEL_TYPE if array else np.dtype(described["id_type"])
        if not path.is_file() or path.stat().st_size != described["num_tokens"] * item.itemsize:
            return None
        arrays[array] = np.memmap(path, dtype=item, mode="r")
    ids = arrays.pop("")
    return TokenSplit(name, ids, arrays, label_names, described["num_bytes"], described["num_documents"])


def _array_paths(folder: Path, name: str, kinds: list[str]) -> dict[str, Path]:
    """The file of the ids under "", and that of each label under its name, which need not be fit for a file name."""
    return {"": folder / f"{name}.ids"} | {kind: folder / f"{name}.label{number}" for number, kind in enumerate(kinds)}
