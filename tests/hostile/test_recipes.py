"""Recipes that are broken in any way end with a message and exit code 2, recipes that are fine build: a few hundred of each.

`python -m benchmarks.broken_recipes` draws thousands.
"""

from __future__ import annotations

import pytest

from tests.hostile.counted_recipes import KINDS, count_broken, count_valid


def test_broken_recipes_end_with_a_message_that_names_the_place(tmp_path):
    counts = count_broken(120, tmp_path)
    refused = counts.total() - counts["fine"]
    assert refused >= 100
    assert counts.keys() >= {"value", "unknown", "key", "text", "override", "bytes", "edited", "numbers"}


@pytest.mark.parametrize(("ffn", "router"), KINDS)
def test_valid_recipes_build_and_run(ffn, router):
    assert count_valid(5, ffn, router) >= 5
