"""How the experts are put into blocks, and that it changes nothing. That what they compute is right is shown in test_experts.py."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from moecli.moe import blocked_experts, onednn, queue_rows
from moecli.moe.activations import ACTIVATIONS
from moecli.moe.blocked_experts import blocks_of
from moecli.moe.dispatch import ExpertQueues
from moecli.moe.experts import Experts
from moecli.training.peak_memory import LiveTensors

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")

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
    # 5 rows: 3 + 1 of experts 0 and 2; 4 of expert 3; 9, too many, alone; 2.
    blocks = blocks_of(LENGTHS, row_bytes=10, onednn_from=math.inf)
    assert [block.experts for block in blocks] == [(0, 2), (3,), (5,), (6,)]
    assert [block.lengths for block in blocks] == [(3, 1), (4,), (9,), (2,)]
    assert [(block.rows.start, block.rows.stop) for block in blocks] == [(0, 4), (4, 8), (8, 17), (17, 19)]
    assert blocks_of([0, 0], row_bytes=10, onednn_from=math.inf) == []


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
    rows = {1: 19, 3: 9, 5: 1}[num_blocks]  # 3 + 0 + 1 + 4 | 9 | 2, or each of the five that have tokens alone
    monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", rows * row_bytes)
    assert len(blocks_of(LENGTHS, row_bytes, math.inf)) == num_blocks
    for ours, expected in zip(results(), whole, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.fixture
def by_onednn(monkeypatch) -> list[int]:
    """Whatever processor this is, experts with 3 tokens or more are for oneDNN. Returns the rows of each of its products."""
    rows: list[int] = []
    product, weight_gradient = onednn.product, onednn.weight_gradient

    def counted_product(x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        rows.append(len(x_NI))
        return product(x_NI, weight_OI)

    def counted_gradient(doutput_NO: Tensor, input_NI: Tensor) -> Tensor:
        rows.append(len(doutput_NO))
        return weight_gradient(doutput_NO, input_NI)

    monkeypatch.setattr(onednn, "IS_FASTER_HERE", True)
    monkeypatch.setattr(onednn, "LEAST_FOR_WEIGHT_GRADIENT", 1)
    monkeypatch.setattr(queue_rows, "round_rows", lambda num_rows: -(-num_rows // 4) * 4)
    monkeypatch.setattr(blocked_experts, "LEAST_FOR_ONEDNN", 3 * 12 * 8)
    monkeypatch.setattr(
        blocked_experts, "onednn", SimpleNamespace(takes=onednn.takes, product=counted_product, weight_gradient=counted_gradient)
    )
    return rows


@needs_onednn
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_experts_with_many_tokens_go_through_onednn_and_it_changes_nothing(block_bytes, activation, by_onednn, monkeypatch):
    experts, x_TD = experts_and_input(activation)
    on = queues()
    leaves = [x_TD, on.weights_A, *experts.parameters()]

    def results() -> list[Tensor]:
        y_TD = experts(x_TD, on)
        return [y_TD.detach(), *torch.autograd.grad(y_TD.square().sum(), leaves)]

    monkeypatch.setattr(blocked_experts, "BLOCK_BYTES", block_bytes)
    ours = results()
    # Of the lengths 3, 1, 4, 9 and 2 three go through it, filled up to 4, 4 and 12 rows, in 2 products forward and 4 backward.
    assert sorted(by_onednn) == sorted(6 * [4, 4, 12])
    monkeypatch.setattr(onednn, "IS_FASTER_HERE", False)
    for one, expected in zip(ours, results(), strict=True):  # of another library, whose sums are rounded in another order
        torch.testing.assert_close(one, expected, rtol=0, atol=2e-6 * expected.abs().max().item())


@needs_onednn
def test_fillers_meet_no_expert_that_their_token_was_not_sent_to(by_onednn):
    """Expert 0 makes no numbers of anything: no token without it may notice, whichever rows its queue is filled up with."""
    experts, x_TD = experts_and_input()
    with torch.no_grad():
        experts.in_proj[0] = torch.inf
    on = queues()
    gets_expert_0 = torch.zeros(6, dtype=torch.bool).index_fill(0, on.token_ids_A[:3], True)
    y_TD = experts(x_TD, on)
    dx_TD, dout_EDH = torch.autograd.grad(y_TD[~gets_expert_0].sum(), [x_TD, experts.out_proj])
    assert gets_expert_0.any() and not gets_expert_0.all()
    assert y_TD[~gets_expert_0].isfinite().all() and dx_TD[~gets_expert_0].isfinite().all()
    assert dout_EDH[1:].isfinite().all() and y_TD[gets_expert_0].isnan().any()


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
