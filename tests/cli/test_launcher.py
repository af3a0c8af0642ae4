"""What a launcher's environment tells."""

from __future__ import annotations

import pytest

from moecli.cli import launcher
from moecli.cli.stop import Stopped
from moecli.errors import MachineError


@pytest.mark.parametrize(
    ("environment", "restarted"),
    [
        ({}, False),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0"}, False),
        ({"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "1"}, True),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, False),
    ],
)
def test_processes_that_were_started_again_go_on_with_their_run(environment, restarted, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.has_restarted() == restarted


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"WORLD_SIZE": "2"}, False),
        ({"RANK": "0"}, False),
        ({"RANK": "0", "WORLD_SIZE": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "0", "WORLD_SIZE": "two"}, True),
        ({"RANK": "0", "WORLD_SIZE": "0"}, True),
    ],
)
def test_a_number_of_processes_that_makes_no_sense_is_not_one_process(environment, several, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.has_started_several() == several


@pytest.mark.parametrize(
    ("by_torchrun", "local_rank", "speaks"), [(True, "0", True), (True, "1", False), (False, "0", True), (False, "1", True)]
)
def test_who_says_that_others_are_missing(by_torchrun, local_rank, speaks, monkeypatch):
    monkeypatch.setattr(launcher, "SECONDS_TO_SPEAK", 0.0)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    started = {"RANK": local_rank, "WORLD_SIZE": "2", "LOCAL_RANK": local_rank} | ({"TORCHELASTIC_RUN_ID": "none"} if by_torchrun else {})
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(MachineError if speaks else Stopped) as caught, launcher.told_by_each_alone():
        raise MachineError("nobody came")
    assert caught.value.exit_code == 1


def test_a_process_that_is_silent_lets_the_first_speak_before_it_ends(monkeypatch):
    """torchrun ends the first one too as soon as it sees another fail."""
    slept: list[float] = []
    monkeypatch.setattr(launcher.time, "sleep", slept.append)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Stopped):
        launcher.refuse("moecli eval")
    with pytest.raises(Stopped), launcher.told_once():
        raise MachineError("no such option")
    assert slept == [launcher.SECONDS_TO_SPEAK] * 2
