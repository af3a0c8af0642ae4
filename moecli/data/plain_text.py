"""Reading UTF-8 text from files, and cutting it into documents at blank lines.

Knows files and UTF-8. Must not know corpora, tokenizers or the cache.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from moecli.errors import DataError

DOCUMENT_CHARACTERS = 4_000
BLOCK = 1 << 20

# How files begin that are no text.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip"}
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")


def read_blocks(path: Path) -> Iterator[str]:
    """The text of a file in blocks of up to BLOCK bytes, line ends as they are, without a byte order mark.

    Raises:
        DataError: the file can't be read or is not UTF-8; the message names the byte.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = held_back = 0
    start = b""
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                # What the decoder holds back are the first bytes of a character that the border between two blocks cut.
                held_back, start = len(decoder.getstate()[0]), start or block[:8]
                text = decoder.decode(block)
                yield text.removeprefix("\ufeff") if position == 0 else text
                position += len(block)
            held_back = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise not_utf8(path, position - held_back + error.start, start) from error
    except OSError as error:
        raise unreadable(path, error) from error


def check_utf8(path: Path) -> None:
    """Reads a file to its end.

    Raises:
        DataError: the file can't be read or is not UTF-8.
    """
    for _ in read_blocks(path):
        pass


def check_readable(path: Path) -> None:
    """Raises DataError where the file can't be opened."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from error


def not_utf8(path: Path, offset: int, start: bytes) -> DataError:
    """start: the first bytes, which may tell what it is instead."""
    for mark, name in COMPRESSED.items():
        if start.startswith(mark):
            return DataError(f"a file compressed by {name}, not text", where=str(path), next_step="unpack it, or leave it out")
    what, encoding = f"not UTF-8 text: byte {offset} can't be decoded", "ENCODING"
    if start.startswith(UTF16_MARKS):
        what, encoding = "UTF-16 text, not UTF-8", "UTF-16"
    return DataError(what, where=str(path), next_step=f"convert the file to UTF-8 (iconv -f {encoding} -t UTF-8), or leave it out")


def unreadable(path: Path, error: OSError) -> DataError:
    reason = error.strerror or type(error).__name__
    return DataError(f"can't be read: {reason}", where=str(path), next_step="check the path and your permission to read it")


def cut_at_blank_lines(blocks: Iterable[str], size: int = DOCUMENT_CHARACTERS) -> Iterator[str]:
    """Pieces that together are the text.

    A piece ends at the first blank line after `size` characters; where there is none up to 2 * size, it is cut there.
    """
    rest = ""
    for block in blocks:
        rest += block
        start = 0
        while len(rest) - start > 2 * size:
            end = _end_of_piece(rest, start, size)
            yield rest[start:end]
            start = end
        rest = rest[start:]
    while len(rest) > size:
        end = _end_of_piece(rest, 0, size)
        yield rest[:end]
        rest = rest[end:]
    if rest:
        yield rest


def _end_of_piece(text: str, start: int, size: int) -> int:
    blank_line = _BLANK_LINE.search(text, start + size, start + 2 * size)
    return blank_line.end() if blank_line else min(start + 2 * size, len(text))
