"""Dispatch sorts assignments by expert and loses none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moecli.moe.capacity import CapacityConfig
from moecli.moe.dispatch import count_load, dispatch_dropless, dispatch_with_capacity
from moecli.moe.load import moved_fraction
from moecli.moe.routers.base import token_choice
from moecli.moe.routing import Routing


def routing_of(expert_ids: list[int], num_experts: int) -> Routing:
    """One assignment per token, with its index as weight."""
    num_tokens = max(1, len(expert_ids))
    return Routing(
        logits_TE=torch.zeros(num_tokens, num_experts),
        probs_TE=torch.full((num_tokens, num_experts), 1 / num_experts),
        token_ids_A=torch.arange(len(expert_ids)),
        expert_ids_A=torch.tensor(expert_ids, dtype=torch.int64),
        weights_A=torch.arange(len(expert_ids), dtype=torch.float32),
        choices_A=torch.zeros(len(expert_ids), dtype=torch.int64),
        top_k=1,
        seq_len=num_tokens,
    )


def test_queues_by_hand():
    routing = routing_of([2, 0, 2, 1, 0], num_experts=4)
    queues, record = dispatch_dropless(routing)
    assert queues.load_E.tolist() == [2, 1, 2, 0]
    assert queues.token_ids_A.tolist() == [1, 4, 3, 0, 2]
    assert queues.weights_A.tolist() == [1.0, 4.0, 3.0, 0.0, 2.0]
    assert record.routing is routing
    assert record.kept_A.tolist() == [True] * 5
    assert record.final_expert_ids_A.tolist() == [2, 0, 2, 1, 0]
    assert record.chosen_load_E.tolist() == record.load_E.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize("num_experts", [3, 256, 257, 1000])  # around the border between bytes and wide sort keys
@given(data=st.data())
def test_every_assignment_is_in_its_experts_queue_in_order(num_experts, data):
    expert_ids = data.draw(st.lists(st.integers(0, num_experts - 1), max_size=50))
    queues, record = dispatch_dropless(routing_of(expert_ids, num_experts))
    expected = sorted(range(len(expert_ids)), key=lambda index: expert_ids[index])  # Python's sort is stable
    assert queues.token_ids_A.tolist() == expected
    assert queues.load_E.tolist() == [expert_ids.count(expert) for expert in range(num_experts)]
    assert record.kept_A.tolist() == [True] * len(expert_ids)


def test_count_load_counts_experts_without_tokens():
    assert count_load(torch.tensor([1, 1, 3]), 5).tolist() == [0, 2, 0, 1, 0]


def test_moved_assignments_are_counted_apart_from_dropped_ones():
    # Room for 1 at each of 3 experts. Token 0 and 1 both chose expert 0 (0.5, 0.4, 0.1): the second moves to expert 1. Token 2 chose
    # expert 1, which is full now, and so is 0: it moves to 2. Token 3 finds nothing.
    probs = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1], [0.3, 0.6, 0.1], [0.5, 0.4, 0.1]])
    weights, experts = probs.topk(1, dim=-1)
    routing = token_choice(probs.log(), probs, experts, weights, seq_len=4)
    config = CapacityConfig(factor=0.75, overflow="next")  # 0.75 * 4 / 3 = 1
    _, record = dispatch_with_capacity(routing, config, config.factor)
    assert record.final_expert_ids_A.tolist()[:3] == [0, 1, 2]
    assert record.kept_A.tolist() == [True, True, True, False]
    assert record.num_moved.item() == 2
    assert moved_fraction(record.chosen_load_E, record.num_moved).item() == 0.5
    assert dispatch_dropless(routing)[1].num_moved.item() == 0
