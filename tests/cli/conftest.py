"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from moecli.cli import app


@pytest.fixture
def inside(capsys) -> Callable[..., tuple[int, str, str]]:
    """The command line in this process, which spares each call the import of torch: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.run(list(arguments), debug=False)
        return (code, *capsys.readouterr())

    return run
