"""The norm by hand against torch's, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moecli.model import norm as norm_file
from moecli.model.norm import RMSNorm, RMSNormByHand


@pytest.mark.parametrize("shape", [(3, 5, 8), (4, 8), (2, 3, 5, 8), (8,)])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_value_and_gradients_are_those_of_torch(shape, eps):
    torch.manual_seed(0)
    ours, theirs = RMSNorm(8, eps=eps), nn.RMSNorm(8, eps=eps)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.normal_())
    x_D, dy_D = torch.randn(shape, requires_grad=True), torch.randn(shape)
    results = []
    for norm in (ours, theirs):
        y_D = norm(x_D)
        results.append((y_D, *torch.autograd.grad(y_D, [x_D, norm.weight], dy_D)))
    for one, expected in zip(*results, strict=True):
        torch.testing.assert_close(one, expected)


def test_gradients_are_those_of_finite_differences():
    x_ND, weight_D = torch.randn(4, 6, dtype=torch.float64, requires_grad=True), torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(RMSNormByHand.apply, (x_ND, weight_D, 1e-2))


def test_a_row_worked_by_hand():
    # x = (3, 4): mean square 12.5, and with eps 3.5 the root is 4: n = (3/4, 1), y = (2 * 3/4, -1) = (1.5, -1).
    # g = (1, 1): w g = (2, -1), mean(w g n) = (1.5 - 1) / 2 = 0.25, dx = ((2 - 3/4 * 0.25) / 4, (-1 - 0.25) / 4), dw = n.
    x_D, weight_D = torch.tensor([[3.0, 4.0]], requires_grad=True), torch.tensor([2.0, -1.0], requires_grad=True)
    y_D = RMSNormByHand.apply(x_D, weight_D, 3.5)
    dx_D, dweight_D = torch.autograd.grad(y_D.sum(), [x_D, weight_D])
    assert y_D.tolist() == [[1.5, -1.0]]
    assert dx_D.tolist() == [[0.453125, -0.3125]] and dweight_D.tolist() == [0.75, 1.0]


def test_rows_that_lie_apart_are_normed_in_their_places():
    norm, heads_BNSK = RMSNorm(8, eps=1e-5), torch.randn(2, 5, 3, 8).transpose(1, 2).requires_grad_()
    torch.testing.assert_close(norm(heads_BNSK), nn.functional.rms_norm(heads_BNSK, (8,), norm.weight, 1e-5))
    norm(heads_BNSK).square().sum().backward()
    assert heads_BNSK.grad is not None and heads_BNSK.grad.shape == (2, 3, 5, 8)


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_frozen_parts_get_no_gradient(frozen):
    norm, x_ND = RMSNorm(8, eps=1e-5), torch.randn(4, 8, requires_grad=frozen != "x")
    norm.weight.requires_grad_(frozen != "weight")
    wanted = norm.weight if frozen == "x" else x_ND
    [ours] = torch.autograd.grad(norm(x_ND).square().sum(), [wanted])
    [expected] = torch.autograd.grad(nn.functional.rms_norm(x_ND, (8,), norm.weight, 1e-5).square().sum(), [wanted])
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("options", [{"eps": None}, {"elementwise_affine": False, "eps": 1e-5}])
def test_options_of_torchs_norm_are_torchs(options):
    x_ND = torch.randn(4, 8, requires_grad=True)
    assert torch.equal(RMSNorm(8, **options)(x_ND), nn.RMSNorm(8, **options)(x_ND))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_of_half_precision_do_not_overflow(dtype):
    norm, x_ND = RMSNorm(512, eps=1e-5).to(dtype), torch.full((2, 512), 20.0, dtype=dtype, requires_grad=True)
    torch.testing.assert_close(norm(x_ND), torch.ones(2, 512, dtype=dtype))


def test_by_hand_only_where_a_gradient_may_be_asked_for(monkeypatch):
    monkeypatch.setattr(norm_file, "RMSNormByHand", None)  # calling it fails
    norm, x_ND = RMSNorm(8, eps=1e-5), torch.randn(4, 8)
    with torch.no_grad():
        norm(x_ND)
    torch.compile(norm, fullgraph=True, backend="eager")(x_ND)
    with pytest.raises(AttributeError):
        norm(x_ND)
