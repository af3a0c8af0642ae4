"""What a disk that refuses looks like to the user, and files that appear whole or not at all.

Knows files and errors. Must not know what is written.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeGuard

from moecli.errors import DataError, MachineError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
# Where room is of no help: what is in the way, and what to do about that.
_IN_THE_WAY = {
    errno.EISDIR: ("a folder is where a file belongs", "move it away"),
    errno.ENOTDIR: ("a file is where a folder belongs", "move it away"),
    errno.EEXIST: ("a file is where a folder belongs", "move it away"),
    errno.ELOOP: ("a link points at itself", "remove it"),
}


@contextmanager
def disk_errors(where: str, next_step: str) -> Iterator[None]:
    """Turns an OSError inside the block into a MachineError that names the place."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, where, next_step) from error


def disk_error(error: OSError, where: str, next_step: str) -> MachineError:
    """The message. It names the file that the system names, where that is not `where` itself."""
    if error.errno in _IN_THE_WAY:
        what, next_step = _IN_THE_WAY[error.errno]
        named = error.filename2 or error.filename or where  # of a renaming, where it goes
        return MachineError(what, where=str(named), next_step=next_step)
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
    return MachineError(f"can't read or write here: {reason}", where=where, next_step=next_step)


def in_home(path: str) -> Path:
    """The path with `~` spelled out.

    Raises:
        DataError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError("there is no home folder of this user", where=path, next_step="spell the path out") from error


def is_disk_error(error: BaseException) -> TypeGuard[OSError]:
    """Whether this is the disk refusing to be written, rather than a file that is not there."""
    return isinstance(error, OSError) and error.errno in _REASONS


def write_text_whole(path: Path, text: str) -> None:
    """Writes a UTF-8 file that is there whole or, where something fails, not at all."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
