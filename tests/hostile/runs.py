"""Runs of a second each, one with experts and one without, what is made of them, and the command line in this process.

Knows the command line. Must not know what is done to the folders.
"""

from __future__ import annotations

import contextlib
import io
import signal
from pathlib import Path

from moecli.cli import app
from tests.conftest import TINY_RECIPE, TINY_TEXT

MOST_SECONDS = 60
DENSE = TINY_RECIPE.replace(TINY_RECIPE[TINY_RECIPE.index("  ffn:") : TINY_RECIPE.index("training:")], "  ffn: {kind: mlp, d_ff: 16}\n")


def make_runs(folder: Path) -> None:
    """Trains `sparse` and `dense` in this folder, which is the working directory; beside them their recipes, text and cache."""
    Path("text.txt").write_text(TINY_TEXT, encoding="utf-8")
    for name, recipe in (("sparse", TINY_RECIPE), ("dense", DENSE)):
        Path(f"{name}.yaml").write_text(recipe.replace("  seq_len", "  cache_dir: cache\n  seq_len"), encoding="utf-8")
        _make(["train", f"{name}.yaml", "--out", name])


def make_more() -> None:
    """Beside these a `comparison` of one seed, and `huggingface`, an export in several files."""
    _make(["compare-dense", "sparse.yaml", "--seeds", "1", "--out", "comparison"])
    _make(["convert", "sparse", "huggingface", "--no-verify", "--max-shard-bytes", "20000"])


def said(arguments: list[str]) -> tuple[int, str]:
    """The command line: exit code, and what it says on stderr."""
    errors = io.StringIO()
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(MOST_SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            return app.run(arguments, debug=False), errors.getvalue()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _make(arguments: list[str]) -> None:
    code, message = said(arguments)
    assert code == 0, message


def _too_long(signal_number: int, frame: object) -> None:
    raise AssertionError(f"more than {MOST_SECONDS} s")
