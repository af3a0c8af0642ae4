"""The benchmark of layers compares what computes the same."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import layer
from benchmarks.layer import OURS, Shape, check_same, layers_of, settings_of

pytest.importorskip("transformers")
TINY = Shape(num_tokens=16, num_experts=4, top_k=2, d_model=16, d_expert=8)


def test_all_layers_compute_the_same_and_a_wrong_one_is_noticed():
    torch.manual_seed(0)
    layers = layers_of(TINY, settings_of("cpu")[0])
    x_BSD = torch.randn(4, 4, TINY.d_model)
    assert len(layers) == 6
    check_same(layers, x_BSD)
    with torch.no_grad():
        layers[OURS].experts.out_proj[1] += 0.1
    with pytest.raises(AssertionError):
        check_same(layers, x_BSD)


def test_the_table_has_every_layer(monkeypatch, capsys):
    monkeypatch.setitem(layer.SHAPES, "tiny", TINY)
    measured = layer.measure_shape("tiny", 2, settings_of("cpu")[0])
    lines = capsys.readouterr().out
    assert all(f"| {name} |" in lines for name in measured["peak_bytes"])
    assert len(measured["seconds"]["forward"]["moecli"]) == 2


@pytest.mark.parametrize(("arguments", "code"), [(["layer", "--help"], 0), (["route-stats", "--help"], 0), (["rounds"], 1), ([], 1)])
def test_one_entry_for_all(arguments, code):
    done = subprocess.run([sys.executable, "-m", "benchmarks", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("usage: " in done.stdout) == (code == 0)
    assert ("route_stats, " in done.stderr) == (code == 1)
