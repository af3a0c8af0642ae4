"""The kernels for CUDA against plain torch in float64, with every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from moecli.moe.activations import LEAST_FOR_KERNELS, kernels_pay, swiglu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
# bfloat16 keeps 8 bits, and each number is rounded once.
DTYPES = {torch.float32: 1e-6, torch.bfloat16: 2**-8}


def test_this_machine_can_run_them():
    assert kernels_pay(torch.zeros(LEAST_FOR_KERNELS, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "width"), [(0, 8), (3, 5), (7, 1024), (4, 1500)])
def test_weighed_swiglu(dtype, num_rows, width):
    from moecli.moe.cuda_kernels import WeighedSwiGLU

    torch.manual_seed(0)
    in_NF = torch.randn(num_rows, 2 * width, dtype=dtype, device="cuda", requires_grad=True)
    weights_N = torch.rand(num_rows, device="cuda", requires_grad=True)
    hidden_NH = WeighedSwiGLU.apply(in_NF, weights_N)
    upstream_NH = torch.randn_like(hidden_NH)
    ours = [hidden_NH, *torch.autograd.grad(hidden_NH, [in_NF, weights_N], upstream_NH)]
    leaves = [in_NF.detach().double().requires_grad_(), weights_N.detach().double().requires_grad_()]
    gate_NH, up_NH = leaves[0].chunk(2, dim=-1)
    exact_NH = leaves[1][:, None] * F.silu(gate_NH) * up_NH
    for result, exact in zip(ours, [exact_NH, *torch.autograd.grad(exact_NH, leaves, upstream_NH.double())], strict=True):
        assert (result.double() - exact).norm() <= DTYPES[dtype] * exact.norm()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_tokens", "num_choices", "width"), [(0, 2, 8), (5, 1, 3), (9, 4, 1024), (3, 8, 1500)])
def test_sum_rows(dtype, num_tokens, num_choices, width):
    from moecli.moe.cuda_kernels import sum_rows

    torch.manual_seed(0)
    rows_AD = torch.randn(num_tokens * num_choices, width, dtype=dtype, device="cuda")
    places_TK = torch.randperm(num_tokens * num_choices, device="cuda").view(num_tokens, num_choices)
    exact_TD = rows_AD.double()[places_TK].sum(dim=1)
    assert (sum_rows(rows_AD, places_TK).double() - exact_TD).norm() <= DTYPES[dtype] * exact_TD.norm()


def test_swiglu_takes_them_with_any_number_of_dimensions():
    torch.manual_seed(0)
    in_BSF = torch.randn(4, 256, 2048, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    assert kernels_pay(in_BSF)
    hidden_BSH = swiglu(in_BSF)
    gate_BSH, up_BSH = in_BSF.float().chunk(2, dim=-1)
    exact_BSH = F.silu(gate_BSH) * up_BSH
    upstream_BSH = torch.randn_like(exact_BSH)
    (ours_BSF,) = torch.autograd.grad(hidden_BSH, in_BSF, upstream_BSH.bfloat16())
    (exact_BSF,) = torch.autograd.grad(exact_BSH, in_BSF, upstream_BSH)
    assert (hidden_BSH - exact_BSH).norm() <= 2**-8 * exact_BSH.norm()
    assert (ours_BSF - exact_BSF).norm() <= 2**-7 * exact_BSF.norm()
