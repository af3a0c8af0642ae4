"""How the experts are put into blocks, and that it changes nothing. That what they compute is right is shown in test_experts.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from moecli.moe import blocked_experts, grouped_product
from moecli.moe.activations import ACTIVATIONS
from moecli.moe.blocked_experts import blocks_of
from moecli.moe.dispatch import ExpertQueues
from moecli.moe.experts import Experts
from moecli.training.peak_memory import LiveTensors
from tests.moe.needs import needs_library
from tests.operations import Operations

LENGTHS = [3, 0, 1, 4, 0, 9, 2]


def queues() -> ExpertQueues:
    torch.manual_seed(0)
    num_assignments = sum(LENGTHS)
    return ExpertQueues(torch.randint(6, (num_assignments,)), torch.rand(num_assignments).requires_grad_(), torch.tensor(LENGTHS))


def experts_and_input(activation="swiglu") -> tuple[Experts, Tensor]:
    torch.manual_seed(1)
    experts = Experts(len(LENGTHS), 12, 8, activation)
    for weight in experts.parameters():
        nn.init.normal_(weight)
    return experts, torch.randn(6, 12, requires_grad=True)


def test_neighbours_share_a_block_up_to_its_size(monkeypatch):
    monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", 50)
    # 5 rows: 3 + 0 + 1 of experts 0 to 2; 4 of expert 3; 9, too many, alone; 2. Experts without rows go with their neighbour before them.
    blocks = blocks_of(LENGTHS, row_bytes=10)
    assert [(block.experts.start, block.experts.stop) for block in blocks] == [(0, 3), (3, 5), (5, 6), (6, 7)]
    assert [block.lengths for block in blocks] == [(3, 0, 1), (4, 0), (9,), (2,)]
    assert [(block.rows.start, block.rows.stop) for block in blocks] == [(0, 4), (4, 8), (8, 17), (17, 19)]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), st.integers(1, 200))
def test_blocks_hold_all_experts_in_order_and_no_more_rows_than_fit(lengths, most_bytes):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", most_bytes)
        blocks = blocks_of(lengths, row_bytes=10)
    assert [length for block in blocks for length in block.lengths] == lengths
    assert [expert for block in blocks for expert in range(block.experts.start, block.experts.stop)] == list(range(len(lengths)))
    starts = [sum(lengths[: block.experts.start]) for block in blocks]
    assert [(block.rows.start, block.rows.stop) for block in blocks] == [
        (start, start + sum(block.lengths)) for start, block in zip(starts, blocks, strict=True)
    ]
    for block in blocks:
        assert 10 * sum(block.lengths) <= most_bytes or sum(length > 0 for length in block.lengths) == 1
        assert sum(block.lengths) or len(blocks) == 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("num_blocks", [1, 3, 5])
def test_blocks_of_any_size_give_the_same(num_blocks, activation, monkeypatch):
    experts, x_TD = experts_and_input(activation)
    on = queues()
    row_bytes = 2 * (experts.in_proj.shape[1] + 12) * 4
    leaves = [x_TD, on.weights_A, *experts.parameters()]

    def results() -> list[Tensor]:
        y_TD = experts(x_TD, on)
        return [y_TD.detach(), *torch.autograd.grad(y_TD.square().sum(), leaves)]

    whole = results()
    rows = {1: 19, 3: 9, 5: 1}[num_blocks]  # 3 + 0 + 1 + 4 + 0 | 9 | 2, or each of the five that have tokens alone
    monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", rows * row_bytes)
    assert len(blocks_of(LENGTHS, row_bytes)) == num_blocks
    for ours, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(ours, expected)


@needs_library
@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_a_block_has_six_products_each_in_one_call(block_bytes, monkeypatch):
    experts, x_TD = experts_and_input()
    calls: list[int] = []
    product, write_weight_gradients = grouped_product.product, grouped_product.write_weight_gradients
    monkeypatch.setattr(grouped_product, "product", lambda *args: calls.append(len(args[0])) or product(*args))
    monkeypatch.setattr(
        grouped_product, "write_weight_gradients", lambda *args: calls.append(len(args[0])) or write_weight_gradients(*args)
    )
    monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", block_bytes)
    experts(x_TD, queues()).sum().backward()
    assert sorted(calls) == sorted(6 * ([19] if block_bytes > 1 else [length for length in LENGTHS if length]))


@torch.no_grad()
def test_weights_of_experts_without_tokens_are_neither_cast_nor_multiplied(products_of_torch):
    experts, x_TD = experts_and_input()
    with Operations() as operations, torch.autocast("cpu", dtype=torch.bfloat16):
        experts(x_TD, queues())
    assert operations.names.count("aten::mm") == 2 * sum(length > 0 for length in LENGTHS)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_finite_differences(activation):
    experts, x_TD = experts_and_input(activation)
    experts = experts.double()
    on = queues()
    weights_A = on.weights_A.detach().double().requires_grad_()

    def run(x_TD: Tensor, weights_A: Tensor, in_proj: Tensor, out_proj: Tensor) -> Tensor:
        args = (on.token_ids_A, LENGTHS, ACTIVATIONS[activation], torch.float64)
        result: Tensor = blocked_experts.BlockedExperts.apply(x_TD, weights_A, in_proj, out_proj, *args)
        return result

    assert torch.autograd.gradcheck(run, (x_TD.detach().double().requires_grad_(), weights_A, experts.in_proj, experts.out_proj))


@pytest.mark.parametrize("frozen", ["in_proj", "out_proj"])
def test_frozen_weights_get_no_gradient_and_change_no_other(frozen):
    experts, x_TD = experts_and_input()
    on = queues()
    leaves = {"x": x_TD, "weights": on.weights_A, **dict(experts.named_parameters())}
    expected = torch.autograd.grad(experts(x_TD, on).sum(), list(leaves.values()))
    leaves.pop(frozen).requires_grad_(False)
    gradients = iter(torch.autograd.grad(experts(x_TD, on).sum(), list(leaves.values())))
    for name, gradient in zip(("x", "weights", "in_proj", "out_proj"), expected, strict=True):
        if name != frozen:
            assert torch.equal(next(gradients), gradient)


def test_only_the_input_projections_output_is_kept():
    experts, x_TD = experts_and_input()
    kept: list[Tensor] = []
    on = queues()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        experts(x_TD, on)
    known = {tensor.data_ptr() for tensor in (x_TD, on.weights_A, on.token_ids_A, *experts.parameters())}
    assert [tuple(tensor.shape) for tensor in kept if tensor.data_ptr() not in known] == [(sum(LENGTHS), 16)]


def test_without_gradients_a_block_takes_the_room_of_the_one_before(monkeypatch):
    experts, x_TD = experts_and_input()
    on, x_TD = queues(), x_TD.detach()
    on = replace(on, weights_A=on.weights_A.detach())
    expected_TD = experts(x_TD, on).detach()
    monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", 1)  # blocks of one expert, of at most 9 of the 19 rows
    with LiveTensors() as kept:
        experts(x_TD, on)
    with torch.no_grad(), LiveTensors() as passing:
        y_TD = experts(x_TD, on)
    torch.testing.assert_close(y_TD, expected_TD)
    # Memory is highest in the block of 9 rows: then 3, 1 and 4 rows of the input projection's output, width 16, are kept or gone.
    assert kept.peak_bytes - passing.peak_bytes == (3 + 1 + 4) * 16 * 4


def test_gradients_of_autocast_are_close_and_in_float32():
    experts, x_TD = experts_and_input()
    on = queues()
    leaves = [x_TD, on.weights_A, *experts.parameters()]
    exact = torch.autograd.grad(experts(x_TD, on).sum(), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_TD = experts(x_TD, on)
    for rounded, gradient in zip(torch.autograd.grad(y_TD.sum(), leaves), exact, strict=True):
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, gradient)
        assert (rounded - gradient).norm() / gradient.norm() < 0.02  # bfloat16 keeps 8 bits
