"""UTF-8 files are read in blocks and cut at blank lines; what is not UTF-8 is named to the byte."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moecli.data import plain_text
from moecli.data.plain_text import check_readable, cut_at_blank_lines, read_blocks
from moecli.errors import DataError


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(plain_text, "BLOCK", 3)


@pytest.mark.parametrize("text", ["", "plain", "é€😀 é€😀", "a\r\nb\rc\n", "nul \0 byte"])
def test_blocks_join_to_the_text(tmp_path, small_blocks, text):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode())
    assert "".join(read_blocks(path)) == text


def test_a_byte_order_mark_at_the_start_is_not_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfhello \xef\xbb\xbf")
    assert "".join(read_blocks(path)) == "hello \ufeff"


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\xff", 0),
        (b"abcdefg\xffh", 7),
        ("é€😀".encode() + b"\xe9\n", 9),  # 2 + 3 + 4 bytes come before
        (b"ab\xe2\x82", 2),  # the file ends inside a character
        (b"\xef\xbb\xbfab\xff", 5),  # the byte order mark counts
    ],
)
def test_not_utf8_names_file_and_byte(tmp_path, small_blocks, data, offset):
    path = tmp_path / "latin.txt"
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        list(read_blocks(path))
    assert str(path) in str(caught.value)
    assert f"byte {offset} " in str(caught.value)
    assert "iconv" in caught.value.next_step


@pytest.mark.parametrize(
    ("pack", "what"),
    [
        (gzip.compress, "compressed by gzip"),
        (bz2.compress, "compressed by bzip2"),
        (lzma.compress, "compressed by xz"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data[::-1], "compressed by zstd"),
        (lambda data: b"PK\x03\x04\xff" + data, "compressed by zip"),
        (lambda data: data.decode().encode("utf-16"), "UTF-16 text"),
    ],
)
def test_what_is_known_by_its_first_bytes_is_named(tmp_path, pack, what):
    path = tmp_path / "a.txt"
    path.write_bytes(pack("Grüße\n".encode() * 100))
    with pytest.raises(DataError, match=what) as caught:
        list(read_blocks(path))
    assert ("iconv -f UTF-16 -t UTF-8" if what == "UTF-16 text" else "unpack it") in caught.value.next_step


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "secret.txt"
    path.write_text("x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (check_readable, lambda path: list(read_blocks(path))):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "Permission denied" in str(caught.value)
        assert "permission" in caught.value.next_step


def test_cuts_by_hand():
    # size 4: after "aaaa" comes a blank line at once; after "bb\n\n", the next 4 characters, comes one behind "cc".
    assert list(cut_at_blank_lines(["aaaa\n\nbb\n\ncc\n\nd"], size=4)) == ["aaaa\n\n", "bb\n\ncc\n\n", "d"]


def test_a_blank_line_may_hold_white_space_and_windows_line_ends():
    assert list(cut_at_blank_lines(["aaaaaa\r\n\r\nbb"], size=5)) == ["aaaaaa\r\n\r\n", "bb"]
    assert list(cut_at_blank_lines(["aaaaaa\n \t\nbb"], size=5)) == ["aaaaaa\n \t\n", "bb"]


def test_without_blank_lines_it_is_cut_hard():
    assert list(cut_at_blank_lines(["a" * 10], size=2)) == ["aaaa", "aaaa", "aa"]


@settings(deadline=None)
@given(text=st.text(alphabet="ab\n ", max_size=200), size=st.integers(1, 20), block=st.integers(1, 50))
def test_pieces_join_to_the_text_whatever_the_blocks(text, size, block):
    blocks = [text[start : start + block] for start in range(0, len(text), block)]
    pieces = list(cut_at_blank_lines(blocks, size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 2 * size for piece in pieces)
    assert pieces == list(cut_at_blank_lines([text], size))
