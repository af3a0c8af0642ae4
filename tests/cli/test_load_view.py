"""The closing words of a training fit the terminal and say what was moved."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moecli.analysis.load_report import LayerLoad, LoadReport
from moecli.cli.train_summary import load_table, print_heatmap


def layer_of(num_experts: int, moved_fraction: float = 0.0) -> LayerLoad:
    even = [1 / num_experts] * num_experts
    return LayerLoad(
        layer=0, num_experts=num_experts, top_k=1.0, load=even, importance=even, cv_load=0.0, cv_importance=0.0, max_violation=0.0,
        entropy=0.0, effective_experts=float(num_experts), dead_experts=0, dropped_fraction=0.0, moved_fraction=moved_fraction,
    )  # fmt: skip


def printed(content, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    content(console)
    return console.file.getvalue()


@pytest.mark.parametrize(("num_experts", "shades"), [(8, 16), (34, 68), (35, 35), (64, 64), (69, 69)])
def test_a_heatmap_is_as_wide_as_the_terminal_lets_it(num_experts, shades):
    text = printed(lambda console: print_heatmap(console, LoadReport(10, [layer_of(num_experts)])))
    assert text.splitlines()[0] == "layer   0  " + "▓" * shades
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_heatmap_that_does_not_fit_points_to_the_picture():
    text = printed(lambda console: print_heatmap(console, LoadReport(10, [layer_of(70)])))
    assert "too many experts" in text and "▓" not in text


def test_moved_assignments_have_a_column_where_there_are_any():
    without, moved = (printed(lambda console, f=f: console.print(load_table(LoadReport(10, [layer_of(4, f)])))) for f in (0.0, 0.25))
    assert "moved" not in without
    assert "moved" in moved and "25.0%" in moved
