"""One process at a time in a folder.

Knows how this system locks files. Must not know what is in the folder.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moecli.errors import RunError
from moecli.workflows.run_dir import writing

try:
    import fcntl
except ImportError:  # not on Windows: nothing keeps a second process out there
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".lock"


@contextmanager
def sole_use(folder: Path, what: str) -> Iterator[None]:
    """Keeps every other process out of this block for the same folder, which is made if it isn't there. The system gives the lock back
    when the process ends, however it ends.

    Args:
        what: what is at work, as the other process is told ("another comparison").

    Raises:
        RunError: another process is in its block.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w", encoding="utf-8")
    with contextlib.closing(file):
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                next_step = "wait for it, stop it, or give another --out"
                raise RunError(f"{what} is at work in this folder", where=str(folder), next_step=next_step) from None
        yield
