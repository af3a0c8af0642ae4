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


@contextmanager
def silent_datasets() -> Iterator[None]:
    """Inside the block `datasets` neither logs nor draws progress bars: what goes wrong is told once, by an error."""
    import datasets

    verbosity, bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
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
    for number, row in enumerate(rows):
        place = f"{source}, row {number}"
        text = _value(row, text_column, place, "data.corpus.text_column")
        label = _label(_value(row, label_column, place, "data.corpus.label_column"), label_type) if label_column else ""
        if text is None or text == "":
            continue
        if not isinstance(text, str):
            what = f"column '{text_column}' holds {type(text).__name__}, not text"
            raise DataError(what, where=place, next_step="set data.corpus.text_column to a column of strings")
        yield Document.labelled(text, place, {label_column: label}) if label_column and label else Document(text, place)


def _value(row: Row, column: str, place: str, key: str) -> Any:
    if column not in row:
        columns = ", ".join(map(str, row))
        raise DataError(f"no column '{column}'", where=place, allowed=columns, next_step=f"set {key} to one of these")
    return row[column]


def _label(value: Any, label_type: Any) -> str:
    """The label as a string; "" where there is none. A ClassLabel is stored as its number, -1 for none."""
    if value is None or value == "":
        return ""
    if isinstance(value, int) and hasattr(label_type, "int2str"):
        return str(label_type.int2str(value)) if value >= 0 else ""
    return str(value)
