"""Every command that takes a run, pointed at a run folder that is damaged: a message that names the file, never a traceback.

A sample that is spread over all damages and commands: the whole takes many minutes.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.hostile.damage import commands, copy_of, damages, dense_commands, is_needed
from tests.hostile.runs import make_runs, said


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an MoE run, a dense run, their recipes and their text; the working directory while the tests run."""
    folder, before = tmp_path_factory.mktemp("damaged"), Path.cwd()
    os.chdir(folder)
    make_runs(folder)
    yield folder
    os.chdir(before)


def cases(kind: str) -> list[tuple[str, str]]:
    """Damage and command, by their names."""
    named = (
        commands(Path("run"), Path("sparse"), Path("sparse.yaml"), Path("out"))
        if kind == "sparse"
        else dense_commands(Path("run"), Path("out"))
    )
    tried = [(damage, command) for damage, _ in damages(Path(kind)) for command in named]
    return [(damage, command) for damage, command in tried if is_needed(damage, command) or "random bytes" in damage]


def check(kind: str, damage: str, command: str) -> tuple[int, str]:
    """Damages a copy of the run, calls the command, and returns its exit code and how it is wrong (empty: it isn't)."""
    run, out = copy_of(Path(kind), Path("run")), Path("out")
    shutil.rmtree(out, ignore_errors=True)
    dict(damages(Path(kind)))[damage](run)
    arguments = commands(run, Path("sparse"), Path("sparse.yaml"), out) if kind == "sparse" else dense_commands(run, out)
    code, message = said(arguments[command])
    message = " ".join(message.split())
    if code not in (0, 1, 2):
        return code, f"exit code {code}: {message}"
    if "bug in moecli" in message or "Traceback" in message or "out of memory" in message:
        return code, message
    if code == 0:  # it did not read what is damaged, or the manifest was forged with it: that a command notices is other tests' matter
        return code, ""
    leftovers = [path for path in Path().iterdir() if path.name == "out" or ".partial" in path.name]
    named = any(name in message for name in (Path(damage.split(":")[0]).name, "run/", "run:"))
    return code, "" if named and not leftovers else f"doesn't name the place, or leaves {leftovers}: {message}"


def wrongs(kind: str, chosen: list[tuple[str, str]]) -> tuple[Counter[int], list[str]]:
    codes: Counter[int] = Counter()
    found = []
    for damage, command in chosen:
        code, wrong = check(kind, damage, command)
        codes[code] += 1
        if wrong:
            found.append(f"{command} | {damage} | {wrong}")
    return codes, found


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_sample_of_damages_ends_with_a_message(place, kind):
    codes, found = wrongs(kind, cases(kind)[::29])
    assert not found, "\n".join(found)
    assert codes[2] >= 5
