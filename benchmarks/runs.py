"""One command as a user would run it: `moecli ... --json` in a process of its own, with its largest memory.

Knows the command line alone: what it measures is what a user gets.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class Measured:
    """One command."""

    result: dict[str, Any]
    """What it printed."""
    peak_bytes: int
    """Largest resident memory of the process."""


def train(recipe: Path, overrides: Sequence[str], out: Path, threads: int | None = None) -> Measured:
    """Trains a recipe. `threads` limits the cores that it uses; None leaves that to torch."""
    settings = [text for override in overrides for text in ("--set", override)]
    return _measured("train", str(recipe), *settings, "--out", str(out), threads=threads)


def moecli_json(*arguments: str, threads: int | None = None) -> dict[str, Any]:
    """What a command prints with --json."""
    return _measured(*arguments, threads=threads).result


def _measured(*arguments: str, threads: int | None) -> Measured:
    command = [sys.executable, "-m", "moecli", *arguments, "--json"]
    environment = os.environ | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            errors.seek(0)
            raise SystemExit(f"moecli {' '.join(arguments)} failed\n{errors.read()}")
    return Measured(json.loads(printed), usage.ru_maxrss * 1024)  # Linux counts in kilobytes
