"""The heatmap's picture holds the report's numbers: cells are read back from the image that matplotlib drew."""

from __future__ import annotations

import json

import pytest

from moecli.analysis.load_report import LoadCollector
from moecli.reports import REPORTS
from moecli.reports.heatmap import draw_heatmap
from tests.analysis.test_load_report import record_of


def report_of(loads: list[list[float]]) -> dict:
    layers = [{"layer": number, "num_experts": len(load), "load": load} for number, load in enumerate(loads)]
    return {"tokens": 1000, "layers": layers}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, kept from being closed away."""
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    yield figures
    monkeypatch.undo()
    plt.close("all")


def test_cells_are_multiples_of_the_even_share(tmp_path, drawn):
    draw_heatmap(report_of([[0.5, 0.25, 0.25, 0.0], [0.25] * 4]), tmp_path / "heatmap.png")
    axes = drawn[0].axes[0]
    assert axes.images[0].get_array().tolist() == [[2.0, 1.0, 1.0, 0.0], [1.0] * 4]
    assert [text.get_text() for text in axes.texts] == ["2.00", "1.00", "1.00", "0.00", *["1.00"] * 4]
    assert (tmp_path / "heatmap.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_many_experts_get_no_numbers(tmp_path, drawn):
    draw_heatmap(report_of([[1 / 64] * 64]), tmp_path / "heatmap.png")
    assert not drawn[0].axes[0].texts


@pytest.mark.parametrize("name", REPORTS)
def test_every_report_draws_a_real_load_report(tmp_path, name):
    import torch

    collector = LoadCollector()
    collector.add([None, record_of(torch.full((4, 2), 0.5), [0, 0, 0, 1])])
    content = json.loads(json.dumps(collector.report().to_json()))
    REPORTS[name](content, tmp_path / name)
    assert (tmp_path / name).stat().st_size > 1000
