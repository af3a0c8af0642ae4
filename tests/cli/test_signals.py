"""SIGTERM and SIGHUP at a command that is no training: the exit code of the signal, and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A command that gets the signal while it writes its folder.
COMMAND = """
import os, pathlib, signal, sys
from moecli.cli import app
from moecli.workflows.run_dir import atomic_folder

if "--ignored" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

def run(arguments, *, debug):
    with atomic_folder(pathlib.Path("target")) as folder:
        (folder / "half").touch()
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    return 0

app.run = run
app.main()
"""


def call(folder: Path, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-c", COMMAND, *arguments], cwd=folder, check=False).returncode


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_nothing_half_written_stays(name, code, tmp_path):
    assert call(tmp_path, name) == code
    assert list(tmp_path.iterdir()) == []


def test_a_hangup_that_is_switched_off_stays_so(tmp_path):
    assert call(tmp_path, "SIGHUP", "--ignored") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
