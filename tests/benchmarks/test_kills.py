"""A small version of the benchmark that kills a training: the same code, fewer kills, in a process of its own, since it forks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_five_kills_change_no_bit():
    command = [sys.executable, "-m", "benchmarks.kills", "--kills", "5", "--steps", "300", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert (result["kills"], result["failed"], result["different"]) == (5, 0, [])
    assert result["resumes"] >= 1
