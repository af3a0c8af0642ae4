"""A corpus of files of the user's: plain text and tables.

Knows files by their suffix. Must not know tokenizers, splits or the cache.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

from annotated_types import MinLen

from moecli.data.corpora.base import Corpus
from moecli.data.disk import disk_errors, in_home, is_disk_error
from moecli.data.documents import Document
from moecli.data.json_rows import LONGEST_ROW, check_json_rows
from moecli.data.plain_text import check_readable, check_utf8, cut_at_blank_lines, read_blocks
from moecli.data.table_rows import documents_of_rows, quiet_datasets
from moecli.errors import DataError

# Suffix -> the reader of `datasets`. Every other file is read as plain text, whatever its suffix.
TABLES = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
MAGIC_CHARACTERS = "*?["


class FilesCorpus(Corpus):
    """Text files (cut at blank lines into documents of about 4,000 characters) and tables (a document per row).

    Tables are jsonl, ndjson, json, csv, tsv and parquet; a file with any other suffix is read as UTF-8 text.
    """

    kind: Literal["files"] = "files"
    paths: Annotated[list[str], MinLen(1)]
    """Files or globs (`**` goes into folders, not through links), relative to the working directory; `~` is the home folder."""
    text_column: str = "text"
    """Tables: the column that holds the text."""
    label_column: str | None = None
    """Tables: the column that holds a label for the whole row. The label is named like the column."""

    def label_kinds(self) -> tuple[str, ...]:
        return (self.label_column,) if self.label_column else ()

    def describe(self) -> str:
        return f"corpus files ({', '.join(self.paths)})"

    def files(self) -> list[Path]:
        """The files, each once: in the order of `paths`, those of a glob sorted.

        Raises:
            DataError: a path is no file, or a glob finds none.
        """
        return list(dict.fromkeys(path for pattern in self.paths for path in _expand(pattern)))

    def documents(self) -> Iterator[Document]:
        for path in self.files():
            if path.suffix.lower() in TABLES:
                yield from self._table(path)
            else:
                for number, text in enumerate(cut_at_blank_lines(read_blocks(path))):
                    yield Document(text, f"{path}, piece {number}")

    def _table(self, path: Path) -> Iterator[Document]:
        import datasets

        reader = TABLES[path.suffix.lower()]
        if reader == "parquet":
            check_readable(path)
        else:
            check_utf8(path)
        if reader == "json":
            check_json_rows(path, is_one_value=path.suffix.lower() == ".json")
        if path.stat().st_size == 0:
            return
        # Even a stream writes a lock file to its cache folder: it gets one that is gone afterwards.
        scratch_errors = disk_errors("the folder for temporary files", "free some space there, or set TMPDIR to another folder")
        with scratch_errors, tempfile.TemporaryDirectory() as scratch, quiet_datasets(), _readable(path):
            if reader == "parquet" and _has_no_rows(path):
                return
            options = _csv_options(path) if reader == "csv" else {}
            name = glob.escape(str(path))
            rows = datasets.load_dataset(reader, data_files=[name], split="train", streaming=True, cache_dir=scratch, **options)
            yield from documents_of_rows(rows, str(path), self.text_column, self.label_column, rows.features)


def _expand(pattern: str) -> list[Path]:
    path = in_home(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        raise DataError("is a folder, not a file", where=pattern, next_step=f"name the files in it: {path / '*.txt'}")
    if not any(character in pattern for character in MAGIC_CHARACTERS):
        if path.exists():  # reading a pipe or a device may never end
            raise DataError("a pipe or a device, not a file", where=pattern, next_step="copy what it gives into a file")
        raise DataError("no such file", where=pattern, next_step=f"check the path; it is relative to {Path.cwd()}")
    found = sorted({Path(name) for name in _matches(path) if Path(name).is_file()})
    if not found:
        raise DataError("no file matches", where=pattern, next_step=f"check the pattern; it is relative to {Path.cwd()}")
    return found


def _matches(pattern: Path) -> Iterator[str]:
    """As glob.glob has them with recursive=True, but `**` follows no links: two in a folder that point at it make 2^40 folders of one."""
    parts = pattern.parts
    if "**" not in parts:
        yield from glob.iglob(str(pattern))  # noqa: PTH207 (Path.glob takes no absolute pattern, and takes hidden files)
        return
    place = parts.index("**")
    for above in glob.iglob(str(Path(*parts[:place]))):  # noqa: PTH207
        for folder, folders, _ in os.walk(above):
            folders[:] = [name for name in folders if not name.startswith(".")]
            yield from _matches(Path(glob.escape(folder), *(parts[place + 1 :] or ["*"])))


def _csv_options(path: Path) -> dict[str, Any]:
    """Every cell is the string that stands there: 007 is not seven, and NA is not a missing value."""
    import datasets

    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    columns = _csv_columns(path, separator)
    features = datasets.Features({column: datasets.Value("string") for column in columns})
    return {"sep": separator, "features": features, "keep_default_na": False}


def _csv_columns(path: Path, separator: str) -> list[str]:
    """The names in the header, once every row is known to have a field for each and no other: pandas would guess, and lose text.

    Raises:
        DataError: a name stands twice, or a row has more or fewer fields.
    """
    limit = csv.field_size_limit(LONGEST_ROW)  # a text may be longer than the module's own limit
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(_lines(file, path), delimiter=separator)
            columns = next(rows, [])
            if len(set(columns)) < len(columns):
                raise DataError("two columns have the same name", where=str(path), next_step="give each column its own name")
            for row in rows:
                if row and len(row) != len(columns):
                    what = f"{len(row)} fields, but the header has {len(columns)}"
                    next_step = "put texts with commas or line breaks into double quotes"
                    raise DataError(what, where=f"{path}, line {rows.line_num}", next_step=next_step)
    finally:
        csv.field_size_limit(limit)
    return columns


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_ROW), ""), start=1):
        if len(line) == LONGEST_ROW:
            what = f"longer than {LONGEST_ROW / 1e6:,.0f} MB"
            raise DataError(what, where=f"{path}, line {number}", next_step="put the row right, or leave the file out")
        yield line


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what `datasets` raises about a file into a DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # pyarrow, pandas and datasets have no common root
        if is_disk_error(error):
            raise
        what = _first_bad_line(path) or f"not a {path.suffix[1:]} file: {error}"
        raise DataError(what, where=str(path), next_step="put the file right, or leave it out") from error


def _has_no_rows(path: Path) -> bool:
    """Of a Parquet file, which `datasets` could not read then."""
    from pyarrow.parquet import read_metadata

    return bool(read_metadata(path).num_rows == 0)


def _first_bad_line(path: Path) -> str:
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return ""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                json.loads(line)
            except ValueError as error:
                return f"line {number} is not JSON: {error}" if line.strip() else ""
    return ""
