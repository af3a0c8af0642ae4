"""What a launcher's environment tells."""

from __future__ import annotations

import pytest

from moecli.cli import launcher


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
