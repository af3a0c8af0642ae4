"""The load in a terminal: it fits any width, with colours and without, and says what was moved."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from moecli.analysis.load_report import LayerLoad, LoadReport
from moecli.cli.load_view import load_table, print_heatmap


def layer_of(num_experts: int, moved_fraction: float = 0.0, load: list[float] | None = None, layer: int = 0) -> LayerLoad:
    even = [1 / num_experts] * num_experts
    return LayerLoad(
        layer=layer, num_experts=num_experts, top_k=1.0, load=load or even, importance=even, cv_load=0.0, cv_importance=0.0,
        max_violation=0.0, max_violation_batch=0.0, entropy=0.0, effective_experts=float(num_experts), dead_experts=0, dropped_fraction=0.0,
        moved_fraction=moved_fraction, confidence=0.5, margin=0.1, dropped_by_position=[0.0],
    )  # fmt: skip


def report_of(*layers: LayerLoad) -> LoadReport:
    return LoadReport(10, list(layers), [0])


def printed(content, width: int = 80, color_system: str | None = None) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=color_system, force_terminal=color_system is not None)
    content(console)
    return console.file.getvalue()


@pytest.mark.parametrize(("num_experts", "shades"), [(8, 16), (34, 68), (35, 35), (64, 64), (69, 69)])
def test_a_heatmap_is_as_wide_as_the_terminal_lets_it(num_experts, shades):
    text = printed(lambda console: print_heatmap(console, report_of(layer_of(num_experts))))
    assert text.splitlines()[0] == "layer   0  " + "▓" * shades
    assert max(len(line) for line in text.splitlines()) <= 80


def test_experts_that_do_not_fit_go_on_in_the_next_line():
    text = printed(lambda console: print_heatmap(console, report_of(layer_of(150), layer_of(70, layer=1))))
    lines = text.splitlines()
    assert [line[:11] for line in lines[:5]] == ["layer   0  ", "from   69  ", "from  138  ", "layer   1  ", "from   69  "]
    assert [line.count("▓") for line in lines[:5]] == [69, 69, 12, 69, 1]
    assert max(len(line) for line in lines) <= 80


def test_shades_by_hand():
    # 4 experts; loads .001, .2, .299, .5 are 0.004, 0.8, 1.196 and 2 times the even share.
    text = printed(lambda console: print_heatmap(console, report_of(layer_of(4, load=[0.001, 0.2, 0.299, 0.5]))))
    assert text.splitlines()[0] == "layer   0  ··▒▒▓▓██"


def test_colours_by_hand_and_no_wider_than_the_terminal():
    # No load is blue (33, 102, 172) with a mark, the even share near white, twice it red; half way is half way: (33 + 247) / 2 = 140.
    layer = layer_of(4, load=[0.0, 0.125, 0.25, 0.625])
    text = printed(lambda console: print_heatmap(console, report_of(layer, layer_of(64, layer=1))), color_system="truecolor")
    first, second, *_ = text.splitlines()
    assert re.findall(r"48;2;(\d+;\d+;\d+)m(.)", first) == [
        ("33;102;172", "x"), ("140;174;210", " "), ("247;247;247", " "), ("178;24;43", " "),
    ]  # fmt: skip
    assert len(re.sub(r"\x1b\[[0-9;]*m", "", second)) == 11 + 64


def test_moved_assignments_have_a_column_where_there_are_any():
    without, moved = (printed(lambda console, f=f: console.print(load_table(report_of(layer_of(4, f))))) for f in (0.0, 0.25))
    assert "moved" not in without
    assert "moved" in moved and "25.0%" in moved
