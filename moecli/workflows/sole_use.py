"""One process at a time in a folder.

Knows how this system locks files. Must not know what is in the folder.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from moecli.errors import RunError
from moecli.workflows.run_dir import LOCK_FILE, writing

try:
    import fcntl
except ImportError:  # not on Windows: nothing keeps a second process out there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def sole_use(folder: Path, what: str) -> Iterator[None]:
    """Keeps every other process out of this block for the same folder, which is made if it isn't there. The system gives the lock back
    when the process ends, however it ends. On a file system without locks nobody is kept out.

    Args:
        what: what is at work, as the other process is told ("another comparison").

    Raises:
        RunError: another process is in its block.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / LOCK_FILE).is_symlink():  # a run from a stranger could name any file of ours
            raise RunError("a link, where a file of the run belongs", where=str(folder / LOCK_FILE), next_step="remove it")
        file = (folder / LOCK_FILE).open("a", encoding="utf-8")
    with contextlib.closing(file):
        _lock(file, folder, what, fcntl.LOCK_EX if fcntl else 0)
        yield


def check_not_in_use(folder: Path, what: str) -> None:
    """Raises RunError where another process is in its block of `sole_use`. Leaves the folder as it is."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError), (folder / LOCK_FILE).open("r", encoding="utf-8") as file:
        # Shared: NFS refuses to lock a file for one alone that is open for reading.
        _lock(file, folder, what, fcntl.LOCK_SH if fcntl else 0)


def _lock(file: TextIO, folder: Path, what: str, kind: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        next_step = "wait for it, stop it, or give another --out"
        raise RunError(f"{what} is at work in this folder", where=str(folder), next_step=next_step) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
