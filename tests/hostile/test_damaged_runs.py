"""Every command that takes a run, pointed at a folder that is damaged: a message that names the place, never a traceback, and an end
without an error only where there is a reason.

The whole takes minutes (`pytest -m slow tests/hostile/test_damaged_runs.py`); otherwise a sample runs that is spread over all of it.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from moecli.cli.app import app
from moecli.cli.convert_modes import Mode
from moecli.workflows import compare_measures
from tests.hostile.fine import REASONS, fine
from tests.hostile.matrix import COMMANDS, KINDS, NOTHING, Case, End, cases, ends
from tests.hostile.runs import make_more, make_runs

# What there is to call that takes no run and no file of one.
TAKE_NO_RUN = {("recipes", "list")}
TOLD_EVERY = 250


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the sound folders, their recipes and their text; the working directory while the tests run. Pictures are small, and
    the speed of generation is not measured for long."""
    folder, before = tmp_path_factory.mktemp("damaged"), Path.cwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOECLI_CACHE", str(folder / "cache"))
        patch.setattr(importlib.import_module("moecli.reports.picture"), "DPI", 20)
        patch.setattr(compare_measures, "SECONDS", 0.0)
        patch.setattr(compare_measures, "FEWEST_ROUNDS", 1)
        patch.setattr(compare_measures, "NEW_TOKENS", 2)
        make_runs(folder)
        make_more()
        yield folder
    os.chdir(before)


def told(found: Iterable[End], total: int) -> Iterator[End]:
    """The same, with a line on stderr every now and then."""
    started = time.perf_counter()
    for number, end in enumerate(found, start=1):
        if number % TOLD_EVERY == 0 or number == total:
            sys.stderr.write(f"{number:,} of {total:,} cases, {time.perf_counter() - started:.0f} s\n")
        yield end


def wrongs(found: Iterable[End]) -> list[str]:
    """What must not be, in lines: how a command ended, or that it ended well without a reason."""
    lines = []
    for end in found:
        wrong = end.wrong or ("exit code 0 without a reason" if end.code == 0 and fine(end.case) is None else "")
        if wrong:
            lines.append(f"{end.case.command} | {end.case.damage} | {wrong}")
    return lines


def counts(found: Iterable[End]) -> str:
    """How often each command ended with which exit code, as a table."""
    codes = Counter((end.case.command, end.code) for end in found)
    rows = [(command, *(codes[command, code] for code in (0, 1, 2))) for kind in KINDS for command in COMMANDS[kind]]
    rows.append(("all", *(sum(row[column] for row in rows) for column in (1, 2, 3))))
    return "\n".join([f"{'exit code':<40}{0:>8}{1:>8}{2:>8}", *(f"{name:<40}{ok:>8}{one:>8}{two:>8}" for name, ok, one, two in rows)])


@pytest.mark.parametrize(("kind", "every"), [("sparse", 53), ("dense", 37), ("comparison", 43), ("huggingface", 57)])
def test_a_sample_of_damages_ends_with_a_message(place, kind, every):
    found = list(ends(list(cases(kind))[::every]))
    assert not (lines := wrongs(found)), "\n".join(lines)
    assert sum(end.code == 2 for end in found) >= 4


@pytest.mark.slow
def test_every_damage_ends_with_a_message_or_for_a_reason(place, capsys):
    chosen = [case for kind in KINDS for case in cases(kind)]
    with capsys.disabled():
        found = list(told(ends(chosen), len(chosen)))
        sys.stderr.write(f"{counts(found)}\n")
    assert not (lines := wrongs(found)), "\n".join(lines)
    used = {fine(end.case) for end in found if end.code == 0}
    assert not (unused := [reason.text for reason in REASONS if reason.is_certain and reason.text not in used]), unused


@pytest.mark.slow
def test_every_command_works_where_nothing_is_damaged(place):
    found = list(ends(Case(kind, NOTHING, command) for kind in KINDS for command in COMMANDS[kind]))
    assert [end for end in found if end.code or end.wrong] == []


def test_every_command_of_the_app_is_in_the_matrix():
    registered = {(command.name,) for command in app.registered_commands}
    registered |= {(group.name, command.name) for group in app.registered_groups for command in group.typer_instance.registered_commands}
    called = [arguments for kind in KINDS for arguments in COMMANDS[kind].values()]
    assert ("eval",) in registered and ("recipes", "show") in registered
    for name in registered - TAKE_NO_RUN:
        assert any(arguments[: len(name)] == name for arguments in called), f"moecli {' '.join(name)} is not in tests/hostile/matrix.py"
    for mode in set(Mode) - {Mode.huggingface}:
        assert any(arguments[0] == "convert" and mode.split()[0] in arguments for arguments in called), mode


def test_an_end_without_an_error_needs_a_reason():
    missing = Case("sparse", "checkpoints/step-6: missing", "eval")
    assert wrongs([End(missing, 0, "")]) and not wrongs([End(missing, 2, "")])
    assert not wrongs([End(Case("sparse", "metrics.jsonl: random bytes", "generate"), 0, "")])
