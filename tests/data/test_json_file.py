"""JSON that somebody else may have written: whatever is in the file, one error that names it and the key."""

from __future__ import annotations

import json
import os

import pytest

from moecli.data.json_file import read_object
from moecli.errors import RunError

NO_NUMBERS = ["-1", "0", str(2**31), str(2**63), "1e400", "-Infinity", "NaN", "true", '"8"', "8.0", "null", "[8]", '{"a": 8}']


def test_a_sound_object(tmp_path):
    (tmp_path / "a.json").write_text('{"steps": 8, "most": 2147483647}')
    content = read_object(tmp_path / "a.json", "go on")
    assert (content.whole_number("steps"), content.value("most"), content.whole_number("most")) == (8, 2**31 - 1, 2**31 - 1)
    assert content.whole_number("rewinds", default=0) == 0


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_what_is_no_count_is_refused_with_its_key(tmp_path, text):
    (tmp_path / "a.json").write_text(f'{{"steps": {text}}}')
    with pytest.raises(RunError, match=r"a\.json: damaged: steps is .*\n  allowed: a whole number from 1 to 2,147,483,647\n  next: go on"):
        read_object(tmp_path / "a.json", "go on").whole_number("steps", least=1, default=5)


def test_a_key_that_is_missing_is_named(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(RunError, match=r"a\.json: damaged: there is no steps in it"):
        read_object(tmp_path / "a.json", "go on").whole_number("steps")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged: Expecting value"),
        (b"\xff\xfe{}", "damaged: 'utf-8' codec"),
        (b"[1, 2]", r"damaged: it holds \[1, 2\]"),
        (b"null", "damaged: it holds null"),
        (json.dumps("x" * 100).encode(), 'damaged: it holds "x{38}…'),
        (b'{"a":' * 100_000, "damaged: nested too deep"),
        (b'{"steps": ' + b"9" * 5000 + b"}", "damaged: Exceeds the limit"),
    ],
    ids=["empty", "not UTF-8", "a list", "null", "a long text", "deep", "a number of 5,000 digits"],
)
def test_damaged_files_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RunError, match=rf"a\.json: {message}"):
        read_object(tmp_path / "a.json", "go on")


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"a\.json: there is no such file"):
        read_object(tmp_path / "a.json", "go on")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(RunError, match=r"folder\.json: can't be read: a folder, where a file belongs"):
        read_object(tmp_path / "folder.json", "go on")
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(RunError, match=r"pipe\.json: can't be read: no regular file, where a file belongs"):
        read_object(tmp_path / "pipe.json", "go on")
    (tmp_path / "link.json").symlink_to("link.json")
    with pytest.raises(RunError, match=r"link\.json: can't be read: .*symbolic links"):
        read_object(tmp_path / "link.json", "go on")
