"""Text files that are held in memory as a whole: what is no file or too large is refused before a byte of it is read.

Knows files. Must not know what is in them.
"""

from __future__ import annotations

import errno
import stat
from pathlib import Path

# Several times the largest tokenizer.json and index of weights that there are.
LARGEST = 100_000_000


def read_small(path: Path, errors: str = "strict", *, largest: int = LARGEST) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: it isn't there or can't be read, is a folder, a pipe or a device (which would never end), or has more than `largest` bytes.
        UnicodeDecodeError: it is not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise OSError(errno.EINVAL, f"{kind}, where a file belongs", str(path))
    if status.st_size > largest:  # a file with holes takes no room on the disk, and all of it in memory
        raise OSError(errno.EFBIG, f"more than {largest // 1_000_000:,} MB, far too large for such a file", str(path))
    return path.read_text(encoding="utf-8", errors=errors)
