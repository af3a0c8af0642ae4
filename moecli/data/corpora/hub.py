"""A corpus from the Hugging Face hub, or from a local folder that `datasets` can load.

Knows `datasets`. Must not know tokenizers, splits or the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Literal

from moecli.config import PositiveInt
from moecli.data.corpora.base import Corpus
from moecli.data.disk import disk_error, in_home, is_disk_error
from moecli.data.documents import Document
from moecli.data.json_rows import check_json_rows
from moecli.data.table_rows import documents_of_rows, quiet_datasets
from moecli.errors import DataError


class HubCorpus(Corpus):
    """A text data set by its name on the hub, or a local folder of data files. Code of a data set is never run."""

    kind: Literal["hub"] = "hub"
    path: str
    """Name on the hub, or a local folder."""
    config_name: str | None = None
    """Which of the data set's configurations; needed where it has several."""
    split: str = "train"
    """Split of the data set to read; moecli makes its own train and validation split of it."""
    text_column: str = "text"
    """The column that holds the text."""
    label_column: str | None = None
    """The column that holds a label for the whole row. The label is named like the column."""
    streaming: bool = False
    """Read over the network up to three times instead of downloading to the cache of `datasets`; goes well with max_documents."""
    max_documents: PositiveInt | None = None
    """Rows to read at most."""

    def label_kinds(self) -> tuple[str, ...]:
        return (self.label_column,) if self.label_column else ()

    def describe(self) -> str:
        return f"corpus hub ({self.path}, split {self.split})"

    def documents(self) -> Iterator[Document]:
        import datasets

        local = in_home(self.path)
        if self.path.startswith((".", "/", "~")) and not local.is_dir():
            raise DataError("no such folder", where=self.path, next_step="check data.corpus.path")
        name = str(local) if local.is_dir() else self.path
        with quiet_datasets(), self._loadable():
            if local.is_dir():
                _check_files(local, datasets.load_dataset_builder(name, self.config_name).config.data_files or {})
            rows = datasets.load_dataset(name, self.config_name, split=self.split, streaming=self.streaming)
            first_rows = islice(rows, self.max_documents)
            yield from documents_of_rows(first_rows, self.path, self.text_column, self.label_column, rows.features)

    @contextmanager
    def _loadable(self) -> Iterator[None]:
        """Turns what `datasets` raises into a DataError, or a MachineError where the disk of its cache refuses."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:  # datasets, huggingface_hub, pyarrow and the network have no common root
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> Exception:
        import datasets

        for cause in _causes(error):
            if is_disk_error(cause):
                folder = str(datasets.config.HF_DATASETS_CACHE)
                return disk_error(cause, folder, "free some space, set HF_HOME to another folder, or set data.corpus.streaming: true")
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        what = f"the data set can't be loaded: {type(error).__name__}: {first_line}"
        if any(_is_network_error(cause) for cause in _causes(error)):
            next_step = "the hub can't be reached: check the network, or give a local folder as data.corpus.path"
        else:
            next_step = "check data.corpus.path, config_name and split; a private data set needs `hf auth login`"
        return DataError(what, where=self.describe(), next_step=next_step)


def _check_files(folder: Path, files_of_splits: Mapping[str, Sequence[str]]) -> None:
    """The files of a local data set, which a README.md in the folder may name as it likes.

    Raises:
        DataError: one lies elsewhere, or holds JSON that would end the process that reads it.
    """
    above = Path(os.path.abspath(folder))  # noqa: PTH100 (a link in the folder is the user's own way to bring a file in)
    for file in chain.from_iterable(files_of_splits.values()):
        path = Path(os.path.abspath(file))  # noqa: PTH100
        if not path.is_relative_to(above):
            raise DataError(
                f"its README.md names a file outside of it: {file}", where=str(folder), next_step="name the file as corpus files"
            )
        if path.suffix.lower() in (".json", ".jsonl", ".ndjson") and path.is_file():
            check_json_rows(path, is_one_value=path.suffix.lower() == ".json")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_network_error(error: BaseException) -> bool:
    names: set[str] = {parent.__name__ for parent in type(error).__mro__}
    # By name: the classes come from httpx, requests and huggingface_hub, of which one release or another is installed.
    return isinstance(error, ConnectionError) or bool(names & {"TransportError", "RequestException", "OfflineModeIsEnabled"})
