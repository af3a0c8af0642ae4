"""A file appears whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from moecli.data.disk import write_text_whole


def test_written_as_it_is(tmp_path):
    write_text_whole(tmp_path / "a.txt", "é\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("owner_and_function", [(os, "fsync"), (Path, "replace")])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, owner_and_function):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "a.txt").write_text("old")
    monkeypatch.setattr(*owner_and_function, full)
    with pytest.raises(OSError, match="No space"):
        write_text_whole(tmp_path / "a.txt", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.txt", "old")]
