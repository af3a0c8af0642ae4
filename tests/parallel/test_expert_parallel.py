"""The experts of two processes against the same experts on one, on the same tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moecli.moe.dispatch import ExpertQueues
from tests.parallel.in_each_process import BESIDE, CHOICES, NUM_EXPERTS, layer_inputs, layer_queues, whole_experts


def expected_results(rank: int, name: str) -> tuple[dict[str, Tensor], ExpertQueues]:
    """What one process's tokens get from experts that are all here, with every gradient."""
    x_TD, logits_TE, upstream_TD = layer_inputs(rank)
    experts = whole_experts()
    queues = layer_queues(logits_TE, CHOICES[name][rank])
    y_TD = experts(x_TD, queues, BESIDE)
    y_TD.backward(upstream_TD)
    gradients = {"x": x_TD.grad, "logits": logits_TE.grad, "in_proj": experts.in_proj.grad, "out_proj": experts.out_proj.grad}
    return {"y": y_TD.detach()} | gradients, queues


@pytest.mark.parametrize("name", CHOICES)
def test_equals_the_experts_on_one_process_with_every_gradient(two, name):
    ours = [returned["layers"][name] for returned in two.returned]
    expected = [expected_results(rank, name)[0] for rank in range(2)]
    for rank in range(2):
        for part in ("y", "x", "logits"):
            torch.testing.assert_close(ours[rank][part], expected[rank][part])
    for part in ("in_proj", "out_proj"):  # an expert's gradient is of the tokens of both processes
        together = torch.cat([ours[rank][part] for rank in range(2)])
        torch.testing.assert_close(together, expected[0][part] + expected[1][part])


def test_what_is_beside_the_experts_is_computed_while_rows_travel(two):
    # Counts, rows, and after the experts their results; backward: their gradients, and after the experts those of the rows.
    exchange = "c10d::alltoall_base_"
    expected = [exchange, exchange, "aten::sin", exchange, exchange, exchange, "aten::cos"]
    for returned in two.returned:
        assert [name for name in returned["order"] if name in expected] == expected
        assert returned["order"].index("aten::sin") < returned["order"].index("aten::silu")


def test_the_choices_leave_idle_what_they_say():
    def load(name: str) -> list[int]:
        return sum(expected_results(rank, name)[1].load_E for rank in range(2)).tolist()

    assert min(load("all")) > 0
    assert load("one-expert-idle")[3] == 0
    assert load("one-process-idle")[2:] == [0, 0] and NUM_EXPERTS == 4
