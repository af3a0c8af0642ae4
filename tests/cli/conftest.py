"""What the tests of the command line share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from moecli.cli import app


@pytest.fixture(autouse=True)
def signals_at_their_default() -> Iterator[None]:
    """Tests under nohup inherit an ignored SIGHUP, those in the background of a script an ignored SIGINT, and moecli leaves an ignored one
    alone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def inside(capsys) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process, which spares each call the import of torch: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.run(list(arguments), debug=False)
        return (code, *capsys.readouterr())

    return run
