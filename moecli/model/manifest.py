"""`manifest.json`: size and SHA-256 of every file of a checkpoint, so that one that is not as it was written is never read.

Knows files. Must not know what is in them.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from moecli.data.small_file import read_small
from moecli.errors import RunError

MANIFEST_FILE = "manifest.json"
OTHER_CHECKPOINT = "use another checkpoint of the run"


def add_to_manifest(folder: Path, names: Iterable[str]) -> None:
    """Enters files, as they lie there now, into the folder's manifest, which is made if there is none. What has its name already is
    entered anew. Raises OSError where the disk refuses."""
    path = folder / MANIFEST_FILE
    files = json.loads(path.read_text(encoding="utf-8"))["files"] if path.exists() else {}
    path.write_text(_text(files | {name: _entry(folder / name) for name in names}), encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Reads every file of a checkpoint once and compares it with the manifest. Names that begin with a dot don't count: file systems
    and file managers put such files anywhere.

    The time is that of hashing: half a second per GB on a core with SHA instructions.

    Raises:
        RunError: files are missing, are there beside the manifest's, or are not as they were written; all of them are named.
    """
    files = _read(folder)
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {MANIFEST_FILE}
    wrong = dict.fromkeys(files.keys() - there, f"there is no such file, and {MANIFEST_FILE} has it")
    wrong |= dict.fromkeys(there - files.keys(), f"not in {MANIFEST_FILE}, so it was not written with this checkpoint")
    wrong |= {name: what for name in files.keys() & there if (what := _difference(folder / name, files[name]))}
    if wrong:
        first, *others = sorted(wrong)
        what = wrong[first] + "".join(f"; {name}: {wrong[name]}" for name in others)
        raise RunError(what, where=str(folder / first), next_step=OTHER_CHECKPOINT)


def _difference(path: Path, entry: dict[str, Any]) -> str:
    """How a file is not what its entry says; empty where it is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            return "no regular file"
        num_bytes = path.stat().st_size
        if num_bytes != entry["bytes"]:
            return f"damaged: {num_bytes:,} bytes, {entry['bytes']:,} were written"
        return "" if _entry(path) == entry else "damaged: its SHA-256 is not that of what was written"
    except OSError as error:
        return f"can't be read: {error.strerror}"


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of a manifest that is byte for byte what was written."""
    path = folder / MANIFEST_FILE
    try:
        content = read_small(path)
        files: dict[str, dict[str, Any]] = json.loads(content)["files"]
        if content == _text(files) and all(_is_entry(entry) for entry in files.values()):
            return files
    except FileNotFoundError as error:
        what = "there is no such file: the checkpoint is incomplete, or of a version of moecli that wrote none"
        raise RunError(what, where=str(path), next_step=OTHER_CHECKPOINT) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise RunError("damaged", where=str(path), next_step=OTHER_CHECKPOINT)


def _is_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and {key: type(value) for key, value in entry.items()} == {"bytes": int, "sha256": str}


def _text(files: dict[str, dict[str, Any]]) -> str:
    """The one way to write these entries, with a hash of their own: no change of a byte gives another manifest that is sound."""
    listed = {name: files[name] for name in sorted(files)}
    own = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": listed, "sha256": own}, indent=2) + "\n"


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
