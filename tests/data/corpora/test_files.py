"""Every file format is read, and every bad file is named with what to do."""

from __future__ import annotations

import errno
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moecli.data.corpora import FilesCorpus
from moecli.errors import DataError, MachineError

ROWS = [{"text": "first é", "kind": "a"}, {"text": "", "kind": "a"}, {"text": "second", "kind": "b"}, {"text": "third", "kind": None}]


def write_table(path: Path) -> None:
    match path.suffix:
        case ".jsonl" | ".ndjson":
            path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        case ".json":
            path.write_text(json.dumps(ROWS))
        case ".csv" | ".tsv":
            separator = "," if path.suffix == ".csv" else "\t"
            lines = [[row["text"], row["kind"] or ""] for row in ROWS]
            path.write_text("\n".join(separator.join(line) for line in [["text", "kind"], *lines]) + "\n")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)


def read(*paths, **options):
    return list(FilesCorpus(paths=[str(path) for path in paths], **options).documents())


def fails(*paths, **options):
    with pytest.raises(DataError) as caught:
        read(*paths, **options)
    assert caught.value.next_step
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_tables(tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(path)
    documents = read(path, label_column="kind")
    assert [document.text for document in documents] == ["first é", "second", "third"]
    assert [{kind: spans[0].value for kind, spans in document.labels.items()} for document in documents] == [
        {"kind": "a"},
        {"kind": "b"},
        {},
    ]
    assert documents[1].source == f"{path}, row 2"
    assert [document.labels for document in read(path)] == [{}] * 3


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.py", "a.rst", "README", "a.unknown"])
def test_plain_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("line é\r\n".encode())
    assert [(document.text, document.source) for document in read(path)] == [("line é\r\n", f"{path}, piece 0")]


def test_a_long_file_becomes_several_documents(tmp_path):
    path = tmp_path / "book.txt"
    text = "".join(f"paragraph {number}\n\n" for number in range(2000))
    path.write_text(text)
    documents = read(path)
    assert "".join(document.text for document in documents) == text
    assert all(4_000 <= len(document.text) < 4_020 for document in documents[:-1])


def test_globs_are_sorted_and_no_file_is_read_twice(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    for name in ("b.txt", "a.txt", "deep/c.txt", "d.md"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert [document.text for document in read("d.md", "*.txt", "b.txt")] == ["d.md", "a.txt", "b.txt"]
    assert [document.text for document in read("**/*.txt")] == ["a.txt", "b.txt", "deep/c.txt"]
    assert [document.text for document in read(tmp_path / "*" / "c.txt")] == ["deep/c.txt"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.txt").write_text("at home")
    assert [document.text for document in read("~/a.txt", "~/*.txt")] == ["at home"]


@pytest.mark.parametrize("name", ["a[1].txt", "a[1].jsonl", "a*.jsonl", "a?.jsonl", "a b.jsonl"])
def test_a_file_whose_name_looks_like_a_glob(tmp_path, name):
    for path in (tmp_path / name, tmp_path / "a1.jsonl", tmp_path / "ab.jsonl"):
        path.write_text('{"text": "one"}')
    assert len(read(tmp_path / name)) == 1


def test_csv_cells_are_the_strings_that_stand_there(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n007,1\nNA,1.50\n"two\nlines",null\n')
    documents = read(path, label_column="label")
    assert [document.text for document in documents] == ["007", "NA", "two\nlines"]
    assert [document.labels["label"][0].value for document in documents] == ["1", "1.50", "null"]


def test_labels_that_are_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "year": 1999}\n')
    assert read(path, label_column="year")[0].labels["year"][0].value == "1999"


def test_nothing_is_left_behind_and_logging_is_as_it_was(tmp_path, monkeypatch):
    import datasets

    verbosity = datasets.logging.get_verbosity()
    scratch, home = tmp_path / "scratch", tmp_path / "home"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    write_table(tmp_path / "a.jsonl")
    assert len(read(tmp_path / "a.jsonl")) == 3
    fails(tmp_path / "a.jsonl", text_column="missing")
    assert list(scratch.iterdir()) == []
    assert not home.exists()
    assert datasets.logging.get_verbosity() == verbosity
    assert not datasets.are_progress_bars_disabled()


def test_an_empty_table_has_no_documents(tmp_path):
    for name in ("a.jsonl", "a.csv", "a.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "header.csv").write_text("text,label\n")
    assert read(tmp_path / "*.*") == []


def test_missing_file_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = fails("missing.txt")
    assert "missing.txt: no such file" in message
    assert str(tmp_path) in message


def test_a_glob_that_finds_nothing(tmp_path):
    message = fails(tmp_path / "*.txt")
    assert str(tmp_path / "*.txt") in message
    assert "no file matches" in message


def test_a_folder(tmp_path):
    message = fails(tmp_path)
    assert "is a folder" in message
    assert str(tmp_path / "*.txt") in message


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_not_utf8(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"text\nab\xe9\n")
    message = fails(path)
    assert str(path) in message
    assert "byte 7 " in message


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.parquet"])
def test_a_file_without_anything_in_it_has_no_documents(tmp_path, name):
    path = tmp_path / name
    path.touch()
    if name == "a.csv":
        path.write_text("text\n")
    if name == "a.parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert read(path) == []


def test_half_a_surrogate_pair(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud800"}\n')
    assert str(path) in fails(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("key", ["text_column", "label_column"])
def test_a_missing_column_names_those_there_are(tmp_path, suffix, key):
    path = tmp_path / f"table{suffix}"
    write_table(path)
    message = fails(path, **{key: "body"})
    assert str(path) in message
    assert "no column 'body'" in message
    assert "text, kind" in message
    assert f"data.corpus.{key}" in message


def test_a_column_that_is_not_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": 5}\n')
    message = fails(path)
    assert "holds int, not text" in message
    assert f"{path}, row 0" in message


def test_a_malformed_line_is_named(tmp_path, capfd):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"text": oops}\n')
    message = fails(path)
    assert str(path) in message
    assert "line 2 is not JSON" in message
    assert capfd.readouterr() == ("", "")


def test_an_open_quote_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,b\n"open,1\n')
    assert "a.csv, line 2: 1 fields, but the header has 2" in fails(path)


def test_a_name_of_a_column_as_long_as_a_book_is_cut_in_the_message(tmp_path):
    path = tmp_path / "long.csv"
    path.write_bytes(b"x" * 200_000)
    message = fails(path)
    assert "no column 'text'" in message and len(message) < 1000


def test_a_text_longer_than_the_csv_module_takes_by_default_is_read(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text('text\n"' + "word, " * 50_000 + '"\n')
    (document,) = FilesCorpus(paths=[str(path)]).documents()
    assert len(document.text) == 300_000


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b"not parquet"), ("a.json", b'{"text": ')],
)
def test_a_damaged_table(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    message = fails(path)
    assert str(path) in message
    assert "put the file right" in message


def test_a_full_disk_for_temporary_files(tmp_path, monkeypatch):
    write_table(tmp_path / "a.jsonl")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(MachineError, match="the disk is full") as caught:
        read(tmp_path / "a.jsonl")
    assert "TMPDIR" in caught.value.next_step
