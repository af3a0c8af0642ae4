"""What tests of comparisons share."""

from __future__ import annotations

import pytest

from moecli.workflows import compare_measures, stats_folder


@pytest.fixture
def quick(monkeypatch) -> None:
    """A comparison that generates few tokens and draws nothing."""
    monkeypatch.setattr(compare_measures, "NEW_TOKENS", 2)
    monkeypatch.setattr(compare_measures, "FEWEST_ROUNDS", 1)
    monkeypatch.setattr(compare_measures, "SECONDS", 0.0)
    monkeypatch.setattr(stats_folder, "write_dense_comparison", lambda content, folder: [])
