"""Texts and tables from anybody: what never ends, what links in circles, and what is nested or long beyond all measure."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.data import json_rows
from moecli.data.corpora.files import FilesCorpus
from moecli.data.corpora.hub import HubCorpus
from moecli.data.json_rows import MOST_LEVELS, check_json_rows
from moecli.errors import DataError
from tests.hostile.bounds import within


def texts(*patterns: object) -> list[str]:
    return [document.text for document in FilesCorpus(paths=[str(pattern) for pattern in patterns]).documents()]


def refusal(path: Path) -> DataError:
    with within(), pytest.raises(DataError) as caught:
        texts(path)
    assert str(path) in caught.value.where and caught.value.next_step
    return caught.value


@pytest.mark.parametrize("name", ["text.txt", "text.jsonl", "text.csv", "text.parquet"])
def test_a_pipe_is_not_read(name, tmp_path):
    os.mkfifo(tmp_path / name)
    assert "a pipe or a device" in refusal(tmp_path / name).what
    assert "no file matches" in refusal(tmp_path / f"*{Path(name).suffix}").what


def test_a_device_is_not_read(tmp_path):
    (tmp_path / "text.txt").symlink_to("/dev/zero")
    assert "a pipe or a device" in refusal(Path("/dev/zero")).what
    assert "a pipe or a device" in refusal(tmp_path / "text.txt").what
    (tmp_path / "good.txt").write_text("good")
    with within():
        assert texts(tmp_path / "*.txt") == ["good"]


def test_links_in_circles_are_not_followed(tmp_path):
    # Each folder below has three links to itself: a walk that follows them meets 3^40 folders before the system says stop.
    for name in ("a", "b", "c"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "sub" / ".hidden").mkdir(parents=True)
    (tmp_path / "sub" / "text.txt").write_text("in sub")
    (tmp_path / "sub" / ".hidden" / "text.txt").write_text("hidden")
    (tmp_path / "text.txt").write_text("above")
    (tmp_path / "sub" / "other.md").write_text("other")
    with within():
        assert texts(tmp_path / "**" / "*.txt") == ["in sub", "above"]
        assert texts(tmp_path / "**") == ["other", "in sub", "above"]
        assert texts(tmp_path / "**" / "sub" / "**" / "*.md") == ["other"]
        assert texts(tmp_path / "s*" / "**" / "o*") == ["other"]


def test_a_link_that_is_named_is_followed(tmp_path):
    (tmp_path / "text.txt").write_text("there")
    (tmp_path / "link.txt").symlink_to("text.txt")
    (tmp_path / "folder").symlink_to(".")
    assert texts(tmp_path / "link.txt") == texts(tmp_path / "folder" / "text.txt") == ["there"]


def test_a_pattern_works_from_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub[1]").mkdir()
    (tmp_path / "sub[1]" / "text.txt").write_text("there")
    assert texts("**/*.txt") == texts("./**/text.txt") == texts("**/sub?1?/*") == ["there"]


DEEP = {"lists": ("[", "]"), "mappings": ('{"a":', "}"), "both": ('[{"a":', "}]")}


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json"])
@pytest.mark.parametrize("kind", DEEP)
def test_deep_json_is_refused_before_a_library_reads_it(kind, suffix, tmp_path):
    opening, closing = DEEP[kind]
    deep = f'{opening * 100_000}"x"{closing * 100_000}'
    path = tmp_path / f"text{suffix}"
    path.write_text(f'{{"text": "first"}}\n{{"text": "second", "more": {deep}}}\n')
    error = refusal(path)
    assert error.what == "nested deeper than 50 levels"
    assert error.where == f"{path}, line 2"


def test_json_as_deep_as_may_be_is_read(tmp_path):
    # The row itself is the first level.
    levels = MOST_LEVELS - 1
    (tmp_path / "text.jsonl").write_text(f'{{"text": "x", "more": {"[" * levels}{"]" * levels}}}\n' * 2)
    assert texts(tmp_path / "text.jsonl") == ["x", "x"]
    (tmp_path / "text.jsonl").write_text(f'{{"text": "x", "more": {"[" * (levels + 1)}{"]" * (levels + 1)}}}\n')
    assert "nested deeper" in refusal(tmp_path / "text.jsonl").what


@pytest.mark.parametrize("block", [7, 1 << 20])
@pytest.mark.parametrize("text", ["[" * 300, '"' * 3 + "{" * 300, "\\" * 5 + "[{" * 300, '\\"[' * 300])
def test_brackets_in_a_text_do_not_count(text, block, tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "BLOCK", block)
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "x"}) + "\n")
    assert texts(tmp_path / "text.jsonl") == [text, "x"]


def levels_of(value: object) -> int:
    """The same by recursion: a list or a mapping is one level above what it holds."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if parts is None else 1 + max(map(levels_of, parts), default=0)


NESTED = st.recursive(st.text('[]{}"\\\n,') | st.integers(), lambda part: st.lists(part) | st.dictionaries(st.text('[]{}"\\'), part))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(NESTED, max_size=3), block=st.integers(1, 40))
def test_levels_are_counted_as_json_has_them(values, block, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    deepest = max(map(levels_of, values), default=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "BLOCK", block)
        for suffix, text in ((".jsonl", "".join(json.dumps(value) + "\n" for value in values)), (".json", json.dumps(values, indent=1))):
            found = deepest + (suffix == ".json")
            path.write_text(text)
            patch.setattr(json_rows, "MOST_LEVELS", found)
            check_json_rows(path, is_one_value=suffix == ".json")
            patch.setattr(json_rows, "MOST_LEVELS", found - 1)
            if found:
                with pytest.raises(DataError, match="nested deeper"):
                    check_json_rows(path, is_one_value=suffix == ".json")


def test_a_string_that_never_ends_takes_no_time(tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "' + '\\"' * 3_000_000)
    with within(seconds=5):
        check_json_rows(tmp_path / "text.jsonl", is_one_value=False)


@pytest.mark.parametrize(("name", "start"), [("text.jsonl", b'{"text": "'), ("text.csv", b"text\n")])
def test_a_row_without_end_is_refused_before_it_is_in_memory(name, start, tmp_path, monkeypatch):
    # A file with a hole: a terabyte that takes no room on the disk, of which no more than a row may be read. It is not read to its end
    # to see whether it is UTF-8, either, which takes the time of reading it.
    monkeypatch.setattr("moecli.data.corpora.files.check_utf8", lambda path: None)
    monkeypatch.setattr(json_rows, "LONGEST_ROW", 1 << 22)
    monkeypatch.setattr("moecli.data.corpora.files.LONGEST_ROW", 1 << 22)
    with (tmp_path / name).open("wb") as file:
        file.write(start)
        file.truncate(1 << 40)
    assert refusal(tmp_path / name).what == "longer than 4 MB"


def test_a_text_without_a_line_is_read_in_pieces(tmp_path):
    with (tmp_path / "text.txt").open("wb") as file:
        file.truncate(1 << 28)
    with within(megabytes=100):
        assert sum(len(document.text) for document in FilesCorpus(paths=[str(tmp_path / "text.txt")]).documents()) == 1 << 28


@pytest.fixture
def data_set(tmp_path, monkeypatch) -> Path:
    """A folder that `datasets` can load, beside a file that is none of its."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "other.txt").write_text("secret\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jsonl").write_text('{"text": "fine"}\n')
    return tmp_path / "set"


def texts_of_set(folder: Path) -> list[str]:
    return [document.text for document in HubCorpus(path=str(folder)).documents()]


@pytest.mark.parametrize("way", ["../other.txt", "{}/other.txt", "file://{}/other.txt"])
def test_a_data_set_in_a_folder_names_no_other_files(way, data_set):
    configs = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: '{}'\n---\n"
    (data_set / "README.md").write_text(configs.format("*.jsonl"))
    assert texts_of_set(data_set) == ["fine"]
    (data_set / "README.md").write_text(configs.format(way.format(data_set.parent)))
    with pytest.raises(DataError, match="names a file outside of it"):
        texts_of_set(data_set)


def test_deep_json_of_a_data_set_in_a_folder_is_refused(data_set):
    (data_set / "a.jsonl").write_text('{"text": "x", "more": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(DataError, match="nested deeper"):
        texts_of_set(data_set)
