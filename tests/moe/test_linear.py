"""`linear` where no other library is faster, few rows in C, and a single row as a compiler gets it. For oneDNN see test_onednn.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule

from moecli.moe import grouped_product, onednn
from moecli.moe import linear as linear_module
from moecli.moe.linear import Linear, linear, row_product
from tests.moe.needs import needs_library


@pytest.fixture
def for_small_weights(monkeypatch) -> None:
    """Few rows are for C, however small the weights."""
    monkeypatch.setattr(linear_module, "LEAST_WEIGHTS_IN_C", 1)
    monkeypatch.setattr(onednn, "IS_FASTER_HERE", False)


@pytest.fixture
def rows_in_c(for_small_weights, monkeypatch) -> list[int]:
    """The number of rows of each product in C."""
    rows: list[int] = []
    product = grouped_product.product

    def counted(x_NI: Tensor, weights_EIO: Tensor, lengths: list[int]) -> Tensor:
        rows.append(len(x_NI))
        return product(x_NI, weights_EIO, lengths)

    monkeypatch.setattr(grouped_product, "product", counted)
    return rows


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


@needs_library
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "num_rows"), [((8,), 1), ((1, 1, 8), 1), ((2, 3, 8), 6), ((8, 8), 8), ((9, 8), None), ((0, 8), None)])
@torch.no_grad()
def test_outside_of_autograd_few_rows_are_multiplied_in_c(shape, num_rows, bias, rows_in_c):
    torch.manual_seed(0)
    layer, x_I = Linear(8, 6, bias=bias), torch.randn(shape)
    torch.testing.assert_close(layer(x_I), F.linear(x_I, layer.weight, layer.bias))
    assert rows_in_c == ([] if num_rows is None else [num_rows])


@needs_library
@torch.no_grad()
def test_it_takes_many_weights_to_call_c(rows_in_c, monkeypatch):
    layer, x_NI = Linear(8, 6), torch.randn(2, 8)
    for least, rows in ((6 * 8, [2]), (6 * 8 + 1, [])):
        monkeypatch.setattr(linear_module, "LEAST_WEIGHTS_IN_C", least)
        rows_in_c.clear()
        layer(x_NI)
        assert rows_in_c == rows


@needs_library
@torch.no_grad()
def test_a_compiler_makes_one_program_for_all_small_batches(for_small_weights):
    torch.manual_seed(0)
    torch.compiler.reset()  # programs of other tests count, too
    layer, graphs = Linear(8, 6), []

    def backend(module: GraphModule, inputs: list[Tensor]) -> GraphModule:
        graphs.append(str(module.graph))
        return module

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for num_rows in (2, 3, 5, 8):
        x_NI = torch.randn(num_rows, 8)
        torch.testing.assert_close(compiled(x_NI), F.linear(x_NI, layer.weight, layer.bias))
    assert len(graphs) == 1 and "moecli.grouped_product" in graphs[0]


@needs_library
@torch.no_grad()
def test_what_does_not_fit_is_refused_by_torch(rows_in_c):
    weight_OI, bias_O = torch.randn(6, 8), torch.randn(6)
    for x_NI, bias in ((torch.randn(4, 4), bias_O), (torch.randn(2, 8), bias_O.double())):
        with pytest.raises(RuntimeError):
            linear(x_NI, weight_OI, bias)
    assert rows_in_c == []


@needs_library
@pytest.mark.parametrize(
    "other", ["float64", "autocast", "weights that lie transposed", "rows that lie transposed", "rows apart", "gradients"]
)
def test_what_is_not_for_c_is_torchs(other, rows_in_c):
    torch.manual_seed(0)
    layer, x_I = Linear(8, 6, dtype=torch.float64 if other == "float64" else torch.float32), torch.randn(2, 8)
    x_I = x_I.to(layer.weight.dtype)
    if other == "weights that lie transposed":
        layer.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous().t())
    if other == "rows that lie transposed":
        x_I = torch.randn(8, 3).t()[None]
    if other == "rows apart":
        x_I = torch.randn(3, 16)[:, ::2]
    with torch.autocast("cpu", torch.bfloat16, enabled=other == "autocast"), torch.set_grad_enabled(other == "gradients"):
        assert torch.equal(layer(x_I), F.linear(x_I, layer.weight, layer.bias))
    assert rows_in_c == []
