"""Documents from the rows of tables, read by the library `datasets`.

Knows `datasets`, which is imported when a table is opened. Must not know corpora, tokenizers or the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from moecli.data.documents import Document
from moecli.errors import DataError

Row = Mapping[str, Any]

# Characters of column names that a message shows.
MOST_SHOWN = 300


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Inside the block `datasets` neither logs nor draws progress bars: what goes wrong is told once, by an error.

    Nor does it count uses over the network, which it would do for local files as well, waiting seconds where there is no network.
    """
    import datasets

    verbosity, counts = datasets.logging.get_verbosity(), datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    bars = not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counts
        if bars:
            datasets.enable_progress_bars()


def documents_of_rows(
    rows: Iterable[Row], source: str, text_column: str, label_column: str | None, features: Mapping[str, Any] | None
) -> Iterator[Document]:
    """One document per row that has text. The label is named like its column; a row without one is unlabelled.

    Args:
        rows: mappings from column to value.
        source: the file or data set, for messages.
        text_column: the column that holds the text.
        label_column: the column that holds the label of the whole row.
        features: the types of the columns as `datasets` knows them, for the names of numbered labels.

    Raises:
        DataError: a column is missing, or the text is not text.
    """
    label_type = (features or {}).get(label_column or "")
    if features:
        _check_columns(features, source, text_column, label_column)
    for number, row in enumerate(rows):
        place = f"{source}, row {number}"
        _check_columns(row, place, text_column, label_column)
        text = row[text_column]
        label = _label(row[label_column], label_type) if label_column else ""
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            what = f"column '{text_column}' holds {type(text).__name__}, not text"
            raise DataError(what, where=place, next_step="name a column of strings as text_column")
        yield Document.labelled(text, place, {label_column: label}) if label_column and label else Document(text, place)


def _check_columns(columns: Mapping[str, Any], place: str, text_column: str, label_column: str | None) -> None:
    wanted = {"text_column": text_column, "label_column": label_column}
    for key, column in wanted.items():
        if column and column not in columns:
            next_step = f"name one of these: data.corpus.{key} in a recipe, --{key.replace('_', '-')} on a command line"
            raise DataError(f"no column '{column}'", where=place, allowed=_shortened(", ".join(columns)), next_step=next_step)


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _label(value: Any, label_type: Any) -> str:
    """The label as a string; "" where there is none. A ClassLabel is stored as its number, -1 for none."""
    if value is None or value == "":
        return ""
    if isinstance(value, int) and hasattr(label_type, "int2str"):
        return str(label_type.int2str(value)) if value >= 0 else ""
    return str(value)
