"""The cache: folders that are there whole or not at all.

Knows folders and the errors of a disk. Must not know what an entry holds.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from moecli.data.disk import disk_errors, in_home
from moecli.errors import MachineError

Entry = TypeVar("Entry")

NEXT_STEP = "free some space, or set data.cache_dir or the environment variable MOECLI_CACHE to a folder that can be written"


def cache_folder(configured: str | None) -> Path:
    """The folder from the recipe, else $MOECLI_CACHE, else $XDG_CACHE_HOME/moecli, else ~/.cache/moecli."""
    if configured:
        return in_home(configured)
    if own := os.environ.get("MOECLI_CACHE"):
        return in_home(own)
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "moecli"
    return in_home("~/.cache/moecli")


class Cache:
    """Entries by key, each a folder. Several processes may use one cache at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def obtain(self, key: str, read: Callable[[Path], Entry | None], build: Callable[[Path], None]) -> Entry:
        """The entry of this key; built where it is missing or damaged.

        Args:
            key: the name of the entry, fit for a folder.
            read: opens the entry; None where it is not there or not whole.
            build: writes the entry into an empty folder and brings it to the disk.

        Raises:
            MachineError: the disk refuses. Nothing half-written is left behind, whatever `build` raises.
        """
        with disk_errors(str(self.folder), NEXT_STEP):
            entry = self.folder / key
            found = read(entry)
            if found is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=self.folder))
                try:
                    build(temporary)
                    self._publish(temporary, entry, read)
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                found = read(entry)
        if found is None:
            raise MachineError("what was written can't be read back", where=str(entry), next_step=NEXT_STEP)
        return found

    def _publish(self, temporary: Path, entry: Path, read: Callable[[Path], Entry | None]) -> None:
        """Gives a built folder its name, unless another process has just done so; a damaged entry makes way."""
        try:
            os.replace(temporary, entry)  # noqa: PTH105 (the tests make exactly this call fail)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if read(entry) is not None:
                return
            damaged = Path(tempfile.mkdtemp(prefix=".damaged-", dir=self.folder))
            try:
                entry.replace(damaged / entry.name)
                temporary.replace(entry)
            finally:
                shutil.rmtree(damaged, ignore_errors=True)
