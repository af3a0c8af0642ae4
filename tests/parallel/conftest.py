"""One launch of two processes, and one of four, for all tests that look at what they did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.in_each_process import of_four, of_two
from tests.parallel.world_of_processes import in_world


@dataclass(frozen=True, slots=True)
class Launch:
    returned: list[dict[str, Any]]
    """By rank."""
    folder: Path
    """Where they saved a checkpoint."""


@pytest.fixture(scope="session")
def two(tmp_path_factory) -> Launch:
    folder = tmp_path_factory.mktemp("two-processes")
    return Launch(in_world(2, of_two, folder), folder)


@pytest.fixture(scope="session")
def four(tmp_path_factory) -> Launch:
    folder = tmp_path_factory.mktemp("four-processes")
    return Launch(in_world(4, of_four, folder), folder)
