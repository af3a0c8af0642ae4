"""The products in C against sums in float64, at the edges of every tile and block of grouped_product.c, and what they leave alone."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from moecli.moe import grouped_product
from tests.moe.needs import needs_library

# Lengths of the experts' queues, inputs, outputs. Tiles have 6 rows and 64 columns, of 16 each; blocks 192, 256, and a depth of 256. Up to
# 8 rows are another way, in blocks of 64 columns if all experts have so few.
SHAPES = [
    ([1], 1, 1),
    ([2, 0, 3], 1, 17),
    ([6, 12, 5], 16, 64),
    ([7, 0, 0, 13], 33, 65),
    ([0, 192, 193, 1], 64, 130),
    ([400], 257, 300),
    ([3, 257], 600, 513),
    ([0, 0], 8, 8),
    ([8, 0, 1, 7], 300, 129),
    ([3, 2], 31, 128),
    ([8, 9], 257, 70),
]


BEFORE_FORBIDDEN_PAGES = """
import ctypes, json, mmap, sys
import torch
from moecli.moe import grouped_product

libc = ctypes.CDLL(None)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

def at_the_end(tensor):
    num_bytes = 4 * tensor.numel()
    room = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(start + room, mmap.PAGESIZE, 0) == 0
    return torch.frombuffer(memory, dtype=torch.float32, count=tensor.numel(), offset=room - num_bytes).view_as(tensor).copy_(tensor)

lengths, num_inputs, num_outputs = (json.loads(argument) for argument in sys.argv[1:])
x_NI, dy_NO = torch.randn(sum(lengths), num_inputs), torch.randn(sum(lengths), num_outputs)
for weights_EIO in (torch.randn(len(lengths), num_inputs, num_outputs), torch.randn(len(lengths), num_outputs, num_inputs).transpose(1, 2)):
    stored = weights_EIO if weights_EIO.is_contiguous() else weights_EIO.transpose(1, 2)
    guarded = at_the_end(stored) if weights_EIO.is_contiguous() else at_the_end(stored).transpose(1, 2)
    assert torch.equal(grouped_product.product(at_the_end(x_NI), guarded, lengths), grouped_product.product(x_NI, weights_EIO, lengths))
gradients_EOI = torch.zeros(len(lengths), num_outputs, num_inputs)
guarded_EOI = at_the_end(gradients_EOI)
grouped_product.write_weight_gradients(at_the_end(dy_NO), at_the_end(x_NI), lengths, guarded_EOI)
grouped_product.write_weight_gradients(dy_NO, x_NI, lengths, gradients_EOI)
print("the same" if torch.equal(guarded_EOI, gradients_EOI) else "others")
"""


def random_tensors(lengths: list[int], num_inputs: int, num_outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """x_NI, weights_EOI, dy_NO"""
    torch.manual_seed(sum(lengths))
    return torch.randn(sum(lengths), num_inputs), torch.randn(len(lengths), num_outputs, num_inputs), torch.randn(sum(lengths), num_outputs)


def close_to_exact(ours: Tensor, exact: Tensor, num_terms: int) -> None:
    """Float32 sums of so many terms of size 1: a few of the last bits of each."""
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=40 * max(1, num_terms) ** 0.5 * 2**-23)


def exact_products(x_NI: Tensor, weights_EIO: Tensor, lengths: list[int]) -> Tensor:
    return torch.cat([x_MI @ weight_IO for x_MI, weight_IO in zip(x_NI.double().split(lengths), weights_EIO.double(), strict=True)])


@needs_library
@pytest.mark.parametrize("lies_transposed", [True, False])
@pytest.mark.parametrize(("lengths", "num_inputs", "num_outputs"), SHAPES)
def test_products_are_exact_up_to_rounding(lengths, num_inputs, num_outputs, lies_transposed):
    x_NI, weights_EOI, _ = random_tensors(lengths, num_inputs, num_outputs)
    weights_EIO = weights_EOI.transpose(1, 2) if lies_transposed else weights_EOI.transpose(1, 2).contiguous()
    y_NO = grouped_product.product(x_NI, weights_EIO, lengths)
    close_to_exact(y_NO, exact_products(x_NI, weights_EIO, lengths), num_inputs)


@needs_library
@pytest.mark.parametrize(("lengths", "num_inputs", "num_outputs"), SHAPES)
def test_weight_gradients_are_exact_up_to_rounding_and_0_without_rows(lengths, num_inputs, num_outputs):
    x_NI, weights_EOI, dy_NO = random_tensors(lengths, num_inputs, num_outputs)
    ours_EOI = torch.full_like(weights_EOI, torch.nan)
    grouped_product.write_weight_gradients(dy_NO, x_NI, lengths, ours_EOI)
    pairs = zip(dy_NO.double().split(lengths), x_NI.double().split(lengths), strict=True)
    close_to_exact(ours_EOI, torch.stack([dy_MO.t() @ x_MI for dy_MO, x_MI in pairs]), max(lengths))
    assert all((gradient_OI == 0).all() for gradient_OI, length in zip(ours_EOI, lengths, strict=True) if length == 0)


@needs_library
@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=6),
    st.integers(1, 70),
    st.integers(1, 140),
)
def test_products_of_any_shape_are_exact(lengths, num_inputs, num_outputs):
    x_NI, weights_EOI, _ = random_tensors(lengths, num_inputs, num_outputs)
    # Small whole numbers, whose sums float32 holds exactly: not one bit may differ.
    x_NI, weights_EIO = (4 * x_NI).round(), (4 * weights_EOI).round().transpose(1, 2)
    exact_NO = exact_products(x_NI, weights_EIO, lengths).float()
    assert torch.equal(grouped_product.product(x_NI, weights_EIO, lengths), exact_NO)
    assert torch.equal(grouped_product.product(x_NI, weights_EIO.contiguous(), lengths), exact_NO)


@needs_library
def test_a_product_by_hand():
    x_NI = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    weights_EIO = torch.tensor([[[1.0], [10.0]], [[100.0], [1000.0]]])
    # 1 * 1 + 2 * 10; then of the second expert 3 * 100 + 4 * 1000 and 5 * 100 + 6 * 1000.
    assert grouped_product.product(x_NI, weights_EIO, [1, 2]).tolist() == [[21.0], [4300.0], [6500.0]]
    gradients_EOI = torch.empty(2, 1, 2)
    grouped_product.write_weight_gradients(torch.tensor([[1.0], [2.0], [3.0]]), x_NI, [1, 2], gradients_EOI)
    # 1 * (1, 2); then 2 * (3, 4) + 3 * (5, 6).
    assert gradients_EOI.tolist() == [[[1.0, 2.0]], [[21.0, 26.0]]]


@needs_library
@pytest.mark.parametrize("lies_transposed", [True, False])
def test_weights_of_experts_without_rows_are_not_read_and_rows_meet_their_own_expert_alone(lies_transposed):
    lengths = [5, 0, 7, 2]
    x_NI, weights_EOI, dy_NO = random_tensors(lengths, 20, 70)
    weights_EOI[1], weights_EOI[3], x_NI[3] = torch.nan, torch.inf, torch.nan
    weights_EIO = weights_EOI.transpose(1, 2) if lies_transposed else weights_EOI.transpose(1, 2).contiguous()
    y_NO = grouped_product.product(x_NI, weights_EIO, lengths)
    assert y_NO.isfinite().all(dim=1).tolist() == [row != 3 and row < 12 for row in range(14)]
    gradients_EOI = torch.empty_like(weights_EOI)
    grouped_product.write_weight_gradients(dy_NO, x_NI, lengths, gradients_EOI)
    assert gradients_EOI.isfinite().flatten(1).all(dim=1).tolist() == [False, True, True, True]


@needs_library
def test_a_sum_of_many_rows_is_rounded_little():
    """One chain of 20,000 additions was 7e-6 off, sums of parts are 3e-7 off."""
    torch.manual_seed(0)
    x_NI, dy_NO = torch.rand(20_000, 3), torch.rand(20_000, 7)
    gradients_EOI = torch.empty(1, 7, 3)
    grouped_product.write_weight_gradients(dy_NO, x_NI, [20_000], gradients_EOI)
    torch.testing.assert_close(gradients_EOI[0].double(), dy_NO.double().t() @ x_NI.double(), rtol=1.5e-6, atol=0)


@needs_library
@pytest.mark.parametrize("length", [1, 8, 9])
def test_a_sum_over_many_inputs_is_rounded_little(length):
    torch.manual_seed(0)
    x_NI, weights_EOI = torch.rand(length, 20_000), torch.rand(1, 7, 20_000)
    y_NO = grouped_product.product(x_NI, weights_EOI.transpose(1, 2), [length])
    torch.testing.assert_close(y_NO.double(), x_NI.double() @ weights_EOI[0].double().t(), rtol=1.5e-6, atol=0)


@needs_library
def test_few_rows_have_a_way_of_their_own():
    """Its sums are rounded otherwise; with one row more they are those of many."""
    torch.manual_seed(0)
    x_NI, weights_EIO, few = torch.randn(40, 500), torch.randn(1, 90, 500).transpose(1, 2), grouped_product.FEW_ROWS
    many_NO = grouped_product.product(x_NI, weights_EIO, [40])
    assert not torch.equal(grouped_product.product(x_NI[:few], weights_EIO, [few]), many_NO[:few])
    assert torch.equal(grouped_product.product(x_NI[: few + 1], weights_EIO, [few + 1]), many_NO[: few + 1])


@needs_library
def test_torch_knows_the_operations():
    """Its counter of FLOPs, its tensors without numbers, and what traces operations to run them again."""
    x_NI, weights_EOI, dy_NO = random_tensors([2, 3], 8, 4)
    with FlopCounterMode(display=False) as counter:
        grouped_product.product(x_NI, weights_EOI.transpose(1, 2), [2, 3])
    assert counter.get_total_flops() == 2 * 5 * 8 * 4
    with FlopCounterMode(display=False) as counter:
        grouped_product.write_weight_gradients(dy_NO, x_NI, [2, 3], torch.empty_like(weights_EOI))
    assert counter.get_total_flops() == 2 * 5 * 8 * 4
    with FakeTensorMode():
        assert grouped_product.product(torch.empty(5, 8), torch.empty(2, 8, 4), [2, 3]).shape == (5, 4)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.moecli.grouped_product, (x_NI, weights_EOI.transpose(1, 2), [2, 3]), test_utils=checks)
    torch.library.opcheck(
        torch.ops.moecli.grouped_weight_gradients, (dy_NO, x_NI, [2, 3], torch.empty_like(weights_EOI)), test_utils=checks
    )
    traced = make_fx(grouped_product.product, tracing_mode="fake")(x_NI, weights_EOI.transpose(1, 2), [2, 3])
    assert torch.equal(
        traced(x_NI, weights_EOI.transpose(1, 2), [2, 3]), grouped_product.product(x_NI, weights_EOI.transpose(1, 2), [2, 3])
    )


@needs_library
@pytest.mark.parametrize(
    ("lengths", "num_inputs", "num_outputs"), [([1], 1, 1), ([5, 2], 17, 33), ([7, 0, 190], 30, 70), ([3, 14], 65, 257), ([8], 600, 65)]
)
def test_nothing_is_read_or_written_behind_the_ends(lengths, num_inputs, num_outputs):
    """In a process of its own, which such a touch would end."""
    call = [sys.executable, "-c", BEFORE_FORBIDDEN_PAGES, *(json.dumps(number) for number in (lengths, num_inputs, num_outputs))]
    done = subprocess.run(call, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "the same\n"), done.stderr


@needs_library
def test_what_lies_beside_the_gradients_stays():
    lengths = [3, 4]
    x_NI, _, dy_NO = random_tensors(lengths, 19, 37)
    around_EOI = torch.full((4, 37, 19), 7.0)
    grouped_product.write_weight_gradients(dy_NO, x_NI, lengths, around_EOI[1:3])
    assert (around_EOI[[0, 3]] == 7).all() and not (around_EOI[1:3] == 7).any()


@needs_library
def test_bits_depend_neither_on_threads_nor_on_the_other_experts():
    lengths = [200, 3, 0, 90]
    x_NI, weights_EOI, dy_NO = random_tensors(lengths, 300, 270)
    num_threads = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            gradients_EOI = torch.empty_like(weights_EOI)
            grouped_product.write_weight_gradients(dy_NO, x_NI, lengths, gradients_EOI)
            results.append((grouped_product.product(x_NI, weights_EOI.transpose(1, 2), lengths), gradients_EOI))
    finally:
        torch.set_num_threads(num_threads)
    for product, gradients in results[1:]:
        assert torch.equal(product, results[0][0]) and torch.equal(gradients, results[0][1])
    for expert, rows in ((1, slice(200, 203)), (3, slice(203, 293))):
        alone_NO = grouped_product.product(x_NI[rows], weights_EOI[expert : expert + 1].transpose(1, 2), [lengths[expert]])
        assert torch.equal(alone_NO, results[0][0][rows])


@needs_library
def test_tensors_that_do_not_fit_are_refused():
    x_NI, weights_EOI, _ = random_tensors([2, 3], 8, 4)
    for bad_x_NI, lengths in ((x_NI, [2, 2]), (x_NI, [5]), (x_NI, [-1, 6]), (x_NI[:, :7], [2, 3]), (x_NI.t().contiguous().t(), [2, 3])):
        with pytest.raises(ValueError, match="fit each other"):
            grouped_product.product(bad_x_NI, weights_EOI.transpose(1, 2), lengths)
    with pytest.raises(ValueError, match="fit each other"):
        grouped_product.product(x_NI, torch.randn(2, 8, 8)[:, :, ::2], [2, 3])
    with pytest.raises(ValueError, match="fit each other"):
        grouped_product.write_weight_gradients(torch.randn(5, 4), x_NI, [-1, 6], torch.empty_like(weights_EOI))


@needs_library
def test_a_product_whose_gradient_is_asked_for_is_refused():
    x_NI, weights_EOI, _ = random_tensors([2, 3], 8, 4)
    with pytest.raises(AssertionError, match="no gradient"):
        grouped_product.product(x_NI.requires_grad_(), weights_EOI.transpose(1, 2), [2, 3])
    with torch.no_grad():
        grouped_product.product(x_NI, weights_EOI.transpose(1, 2), [2, 3])


def test_it_takes_float32_on_a_cpu_where_the_library_is(monkeypatch):
    x_NI = torch.randn(2, 3)
    monkeypatch.setattr(grouped_product, "LIBRARY", object())
    assert grouped_product.takes(x_NI, x_NI)
    weights_EIO = torch.randn(2, 3, 8)
    assert grouped_product.takes(weights_EIO, weights_EIO.transpose(1, 2), weights_EIO[1:])
    for other_NI in (
        x_NI.double(),
        x_NI.bfloat16(),
        x_NI.to("meta"),
        x_NI.t(),
        weights_EIO[:, 1:],
        weights_EIO[:, :, ::2],
    ):
        assert not grouped_product.takes(x_NI, other_NI)
    monkeypatch.setattr(grouped_product, "LIBRARY", None)
    assert not grouped_product.takes(x_NI)


@pytest.mark.parametrize("what", ["missing", "no library", "for another processor"])
def test_without_a_library_that_runs_here_there_is_none(what, tmp_path, monkeypatch):
    path = tmp_path / "library.so"
    if what == "no library":
        path.write_text("text")
    if what == "for another processor":
        monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(grouped_product=print, grouped_weight_gradient=print))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2" if what == "for another processor" else "AVX512")
    assert grouped_product._load(path) is None
