"""What a launcher's environment says of a process, and what is told where it makes no sense."""

from __future__ import annotations

import pytest

from moecli.errors import MoecliError
from moecli.parallel.launched import VARIABLES, Place, launched_as

SENSIBLE = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.fixture
def launched(monkeypatch):
    def launch(**values: str) -> None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        for name, value in (SENSIBLE | values).items():
            monkeypatch.setenv(name, value)

    return launch


def test_a_place(launched):
    launched()
    assert launched_as() == Place(rank=3, size=8, local_rank=1, local_size=2)
    launched(LOCAL_WORLD_SIZE="4")
    assert launched_as() == Place(rank=3, size=8, local_rank=1, local_size=4)


@pytest.mark.parametrize("name", VARIABLES)
def test_what_is_missing_is_named(launched, monkeypatch, name):
    launched()
    monkeypatch.delenv(name)
    with pytest.raises(
        MoecliError, match=f"several processes, but {name} is not in the environment\n  next: start them with torchrun"
    ) as caught:
        launched_as()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("WORLD_SIZE", "two", "1 or more"),
        ("WORLD_SIZE", "0", "1 or more"),
        ("WORLD_SIZE", "-1", "1 or more"),
        ("RANK", "8", "0 to 7"),
        ("RANK", "x", "0 to 7"),
        ("LOCAL_RANK", "-1", "0 or more"),
        ("LOCAL_RANK", "²", "0 or more"),
        ("MASTER_PORT", "65536", "0 to 65535"),
    ],
)
def test_what_makes_no_sense_is_told(launched, name, text, allowed):
    launched(**{name: text})
    with pytest.raises(MoecliError) as caught:
        launched_as()
    assert f"  {name} is {text!r}; allowed: {allowed}" in str(caught.value).splitlines()


def test_all_problems_are_told_at_once(launched):
    launched(WORLD_SIZE="", LOCAL_WORLD_SIZE="2", LOCAL_RANK="2", MASTER_PORT="ssh")
    with pytest.raises(MoecliError) as caught:
        launched_as()
    assert str(caught.value).splitlines() == [
        "the launcher's environment makes no sense:",
        "  WORLD_SIZE is ''; allowed: 1 or more",
        "  LOCAL_RANK is '2'; allowed: 0 to 1",
        "  MASTER_PORT is 'ssh'; allowed: 0 to 65535",
        "  next: start them with torchrun --nproc-per-node N -m moecli train RECIPE",
    ]
