"""The script of docs/ runs as it is, here on a little text and for one step per stage."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from moecli.cli import app

ROOT = Path(__file__).parent.parent
CORPUS = ("data.corpus.num_documents=120", "data.corpus.document_length=150", "data.seq_len=16")
SHORT = ("training.steps=1", "training.batch_size=2", "evaluation.every=0")


def commands_of_the_script(folder: Path) -> list[list[str]]:
    """What the script calls moecli with, as bash expands it."""
    stub = folder / "bin" / "moecli"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >> calls\necho >> calls\n')
    stub.chmod(0o755)
    path = f"{stub.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", ROOT / "docs/three-stages.sh", "out"], cwd=folder, env=os.environ | {"PATH": path}, check=True)
    return [call.splitlines() for call in (folder / "calls").read_text().strip().split("\n\n")]


def test_every_command_of_the_script_runs_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    commands = commands_of_the_script(tmp_path)
    assert [words[0] for words in commands] == ["train", *["convert", "train"] * 6, "eval", "route-stats"]
    for words in commands:
        overrides: tuple[str, ...] = ()
        if any(word.startswith("recipes/") for word in words):
            overrides = (*CORPUS, *SHORT)
        elif words[0] == "convert":
            overrides = SHORT
        code = app.run([*words, *(text for override in overrides for text in ("--set", override))], debug=False)
        shown = capsys.readouterr()
        assert code == 0, (words, shown.err)
        assert "held-out documents were trained on" not in shown.out
    assert (tmp_path / "out/joint/route-stats/report.html").is_file()
