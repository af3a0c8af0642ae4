"""A single row's product in parts against the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moecli.moe import linear as linear_file
from moecli.moe.linear import Linear, linear, row_product


@pytest.fixture
def shared_by_three(monkeypatch) -> list[int]:
    """However small the weights are. Returns the outputs of every product that is shared out."""
    monkeypatch.setattr(linear_file, "LEAST_TO_SHARE", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared: list[int] = []
    bmm = torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda x, w: shared.append(w.shape[0] * w.shape[2]) or bmm(x, w))
    return shared


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_outputs", "is_shared"), [(12, True), (3, True), (13, False), (1, False)])
@torch.no_grad()
def test_a_row_is_shared_out_in_equal_parts(num_outputs, is_shared, bias, shared_by_three):
    torch.manual_seed(0)
    layer, x_BSI = Linear(8, num_outputs, bias=bias), torch.randn(1, 1, 8)
    torch.testing.assert_close(layer(x_BSI), F.linear(x_BSI, layer.weight, layer.bias))
    assert shared_by_three == ([num_outputs] if is_shared else [])


@pytest.mark.parametrize("shape", [(2, 1, 8), (1, 5, 8), (0, 8)])
@torch.no_grad()
def test_other_than_one_row_is_the_plain_product(shape, shared_by_three):
    weight_OI, x_I = torch.randn(6, 8), torch.randn(shape)
    assert torch.equal(linear(x_I, weight_OI), F.linear(x_I, weight_OI))
    assert shared_by_three == []


def test_gradients_go_through_the_plain_product(shared_by_three):
    layer, x_I = Linear(8, 6), torch.randn(1, 8)
    layer(x_I).sum().backward()
    assert layer.weight.grad is not None and shared_by_three == []


@torch.no_grad()
def test_small_weights_are_left_to_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "bmm", None)
    row_product(torch.randn(1, 8), torch.randn(6, 8))


@torch.no_grad()
def test_autocast_is_followed_and_bfloat16_not_shared_out(shared_by_three):
    torch.manual_seed(0)
    layer, x_I = Linear(8, 6), torch.randn(1, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, expected = layer(x_I), F.linear(x_I, layer.weight, layer.bias)
    assert ours.dtype == expected.dtype == torch.bfloat16 and shared_by_three == []
    torch.testing.assert_close(ours, expected, rtol=2**-7, atol=2**-7)  # rounded before and after the bias is added


@torch.no_grad()
def test_written_out_for_a_compiler_it_is_the_same():
    weight_OI, x_1I = torch.randn(6, 8), torch.randn(1, 8)
    compiled = torch.compile(row_product, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x_1I, weight_OI), F.linear(x_1I, weight_OI))
