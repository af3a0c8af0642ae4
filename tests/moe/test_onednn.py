"""Products by oneDNN against torch's own in float64, and which products are for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moecli.moe import onednn
from moecli.moe.linear import Linear, linear

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")

# (rows, inputs, outputs)
SHAPES = [(1, 512, 512), (7, 513, 130), (96, 128, 64), (300, 65, 200)]


@pytest.fixture
def for_everything(monkeypatch) -> None:
    """Whatever processor this is, and however small the product."""
    monkeypatch.setattr(onednn, "IS_FASTER_HERE", True)
    for least in ("LEAST_MULTIPLICATIONS", "LEAST_WITH_ONE_ROW", "LEAST_FOR_WEIGHT_GRADIENT"):
        monkeypatch.setattr(onednn, least, 1)


@pytest.fixture
def products(for_everything, monkeypatch) -> list[tuple[int, ...]]:
    """The shapes of the rows of every product by oneDNN."""
    shapes: list[tuple[int, ...]] = []
    product = onednn.product

    def counted(x_NI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        shapes.append(tuple(x_NI.shape))
        return product(x_NI, weight_OI, bias_O)

    monkeypatch.setattr(onednn, "product", counted)
    return shapes


def close_to_exact(ours: Tensor, exact: Tensor, num_terms: int) -> None:
    """Float32 sums of so many terms of size 1: a few of the last bits of each."""
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=4 * num_terms**0.5 * 2**-23 * 10)


@pytest.mark.parametrize(("num_rows", "num_inputs", "num_outputs"), SHAPES)
@pytest.mark.parametrize("lies_transposed", [True, False])
def test_product_and_weight_gradient_are_exact_up_to_rounding(num_rows, num_inputs, num_outputs, lies_transposed):
    torch.manual_seed(0)
    x_NI, weight_OI, dy_NO = torch.randn(num_rows, num_inputs), torch.randn(num_outputs, num_inputs), torch.randn(num_rows, num_outputs)
    if lies_transposed:
        weight_OI = weight_OI.t().contiguous().t()
    close_to_exact(onednn.product(x_NI, weight_OI), x_NI.double() @ weight_OI.double().t(), num_inputs)
    close_to_exact(onednn.weight_gradient(dy_NO, x_NI), dy_NO.double().t() @ x_NI.double(), num_rows)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 12), (7, 12), (1, 12), (1, 1, 12), (12,)])
def test_linear_has_the_value_and_the_gradients_of_torchs(shape, bias, products):
    torch.manual_seed(0)
    layer, x_I = Linear(12, 6, bias=bias), torch.randn(shape, requires_grad=True)
    dy_O = torch.randn(*shape[:-1], 6)
    leaves = [x_I, *layer.parameters()]
    y_O = layer(x_I)
    gradients = torch.autograd.grad(y_O, leaves, dy_O)
    assert len(products) == 3  # the product, dx, dW
    expected_O = F.linear(x_I, layer.weight, layer.bias)
    for ours, expected in zip((y_O, *gradients), (expected_O, *torch.autograd.grad(expected_O, leaves, dy_O)), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("frozen", ["x", "weight", "bias"])
def test_no_gradient_is_computed_that_nobody_wants(frozen, products):
    tensors = {"x": torch.randn(7, 12), "weight": torch.randn(6, 12), "bias": torch.randn(6)}
    wanted = [tensor.requires_grad_() for name, tensor in tensors.items() if name != frozen]
    y_NO = linear(tensors["x"], tensors["weight"], tensors["bias"])
    for ours, expected in zip(
        torch.autograd.grad(y_NO.sum(), wanted), torch.autograd.grad(F.linear(*tensors.values()).sum(), wanted), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    assert len(products) == (3 if frozen == "bias" else 2)


# Of torch's compiler, about its own way with functions that have a backward pass by hand.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("compiled", [True, False])
def test_a_compiler_takes_it_as_one_graph(compiled, for_everything):
    torch.manual_seed(0)
    layer, x_NI = Linear(12, 6), torch.randn(7, 12)
    run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
    run(x_NI).square().sum().backward()
    assert layer.weight.grad is not None
    expected_OI = torch.autograd.grad(F.linear(x_NI, layer.weight, layer.bias).square().sum(), layer.weight)[0]
    torch.testing.assert_close(layer.weight.grad, expected_OI)


def test_only_large_products_in_float32_on_a_cpu_are_for_it(monkeypatch):
    monkeypatch.setattr(onednn, "IS_FASTER_HERE", True)
    monkeypatch.setattr(onednn, "LEAST_MULTIPLICATIONS", 8 * 12 * 6)
    monkeypatch.setattr(onednn, "LEAST_WITH_ONE_ROW", 12 * 6)
    x_NI, weight_OI = torch.randn(8, 12), torch.randn(6, 12)
    assert onednn.pays(x_NI, weight_OI) and onednn.pays(x_NI[:1], weight_OI)
    assert not onednn.pays(x_NI[:7], weight_OI)
    assert not onednn.pays(x_NI[:1], weight_OI[:5])
    assert not onednn.pays(x_NI.double(), weight_OI.double()) and not onednn.pays(x_NI, weight_OI.bfloat16())
    assert not onednn.pays(x_NI.to("meta"), weight_OI.to("meta"))
    monkeypatch.setattr(onednn, "IS_FASTER_HERE", False)
    assert not onednn.pays(x_NI, weight_OI)


def test_under_autocast_products_are_torchs(products):
    layer, x_NI = Linear(12, 6), torch.randn(7, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_NO = layer(x_NI)
    assert y_NO.dtype == torch.bfloat16 and products == []


@pytest.mark.parametrize(
    ("capability", "processor", "expected"),
    [
        ("AVX512", "AMD EPYC 9654", True),
        ("AVX512", "Intel(R) Xeon(R) Platinum 8480+", False),
        ("AVX2", "AMD EPYC 7543", False),
        ("AVX512", None, False),
    ],
)
def test_it_is_faster_where_mkl_leaves_avx512_unused(capability, processor, expected, monkeypatch):
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {} if processor is None else {"cpu_name": processor}, raising=False)
    assert onednn._is_faster_here() is expected
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert onednn._is_faster_here() is False


def test_a_torch_that_does_not_name_the_processor_goes_its_own_way(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert onednn._is_faster_here() is False


def test_a_model_on_the_meta_device_has_shapes_alone():
    assert linear(torch.empty(2, 5, 12, device="meta"), torch.empty(6, 12, device="meta")).shape == (2, 5, 6)
