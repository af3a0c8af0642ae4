"""What is no file, or too large, is refused before it is read."""

from __future__ import annotations

import os

import pytest

from moecli.data.small_file import read_small


def test_text_comes_as_it_is(tmp_path):
    path = tmp_path / "file"
    path.write_bytes("naïve\r\n".encode())
    assert read_small(path, largest=8) == "naïve\n"
    with pytest.raises(OSError, match="more than 0 MB"):
        read_small(path, largest=7)  # the ï has two bytes: 8


def test_a_file_with_holes_is_refused_by_its_size(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**42)  # 4 TB that take no room
    with pytest.raises(OSError, match="more than 100 MB"):
        read_small(path)


@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "no regular file"), (os.mkdir, "a folder")])
def test_what_is_no_file_is_not_opened(make, what, tmp_path):
    make(tmp_path / "odd")
    with pytest.raises(OSError, match=f"{what}, where a file belongs"):
        read_small(tmp_path / "odd")


def test_another_encoding_and_no_file(tmp_path):
    (tmp_path / "latin").write_bytes(b"na\xefve")
    with pytest.raises(UnicodeDecodeError):
        read_small(tmp_path / "latin")
    assert read_small(tmp_path / "latin", errors="replace") == "na\ufffdve"
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "absent")
