"""`linear` where no other library is faster, and the product of a single row as a compiler gets it. For oneDNN see test_onednn.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moecli.moe import onednn
from moecli.moe.linear import Linear, linear, row_product


@pytest.mark.parametrize("shape", [(2, 1, 8), (1, 5, 8), (0, 8), (1, 8)])
@pytest.mark.parametrize("needs_gradient", [True, False])
def test_elsewhere_it_is_the_plain_product(shape, needs_gradient, monkeypatch):
    monkeypatch.setattr(onednn, "IS_FASTER_HERE", False)
    weight_OI, x_I = torch.randn(6, 8, requires_grad=needs_gradient), torch.randn(shape)
    assert torch.equal(linear(x_I, weight_OI), F.linear(x_I, weight_OI))


@torch.no_grad()
def test_autocast_is_followed():
    torch.manual_seed(0)
    layer, x_I = Linear(8, 6), torch.randn(1, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = layer(x_I), F.linear(x_I, layer.weight, layer.bias)
    assert ours.dtype == torch.bfloat16 and torch.equal(ours, expected)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 8), (1, 1, 8)])
@torch.no_grad()
def test_written_out_for_a_compiler_a_row_is_the_same(shape, bias):
    layer, x_I = Linear(8, 6, bias=bias), torch.randn(shape)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="eager")(x_I), F.linear(x_I, layer.weight, layer.bias))
    row_1I = x_I.view(1, 8)
    torch.testing.assert_close(
        torch.compile(row_product, fullgraph=True, backend="eager")(row_1I, layer.weight), F.linear(row_1I, layer.weight)
    )


@torch.no_grad()
def test_under_autocast_a_row_written_out_is_in_bfloat16():
    layer, x_I = Linear(8, 6), torch.randn(1, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = compiled(x_I), F.linear(x_I, layer.weight, layer.bias)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours, expected, rtol=2**-7, atol=2**-7)  # rounded before and after the bias is added
