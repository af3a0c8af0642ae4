"""Bytes that collectives are handed, against a count by hand."""

from __future__ import annotations

import pytest
import torch

from moecli.parallel.traffic import seconds_covered
from tests.parallel.in_each_process import D_MODEL, NUM_EXPERTS, NUM_TOKENS, TOP_K
from tests.parallel.trainings import CASES, build_trainer


@pytest.mark.parametrize(("dtype", "itemsize"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_the_bytes_of_a_layer_are_those_counted_by_hand(two, dtype, itemsize):
    # A process has 6 tokens of 2 choices each: 12 rows of width 8 go out, as many results come back to it; in between it runs and sends
    # back what it was sent, 12 rows too with these choices (24 choices in all, 6 per expert, 2 experts each). 4 passes: dispatch and
    # combine, each forward and backward: 4 * 12 * 8 values. Before, it tells how many rows there are for each of 4 experts, in int64.
    expected = 4 * 12 * 8 * itemsize + 4 * 8
    assert (NUM_TOKENS * TOP_K, D_MODEL, NUM_EXPERTS) == (12, 8, 4)
    for returned in two.returned:
        counted = returned["traffic"][dtype]
        assert counted["all_to_all"]["bytes"] == expected
        assert counted["all_to_all"]["calls"] == 5
        assert {kind for kind, traffic in counted.items() if traffic["calls"]} == {"all_to_all"}


def test_the_seconds_of_each_call_are_taken(two):
    of_layer = two.returned[0]["traffic"][torch.float32]["all_to_all"]
    for counted in (of_layer, *two.returned[0]["step_traffic"]["shard"].values()):  # a reduce-scatter among them, whose end nobody tells
        assert counted["timed_calls"] == counted["calls"]
        assert 0 <= counted["seconds"] < 10
    assert of_layer["seconds"] > 0


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([], 0.0),
        ([(1.0, 3.0)], 2.0),
        ([(5.0, 6.0), (1.0, 3.0)], 3.0),  # apart, in any order: 1 + 2
        ([(1.0, 3.0), (2.0, 4.5)], 3.5),  # overlapping: 1 to 4.5
        ([(1.0, 9.0), (2.0, 3.0), (4.0, 5.0)], 8.0),  # within another
        ([(1.0, 2.0), (2.0, 4.0)], 3.0),  # one after the other
    ],
)
def test_seconds_under_way_count_once(intervals, expected):
    assert seconds_covered(intervals) == expected


@pytest.mark.parametrize("name", ["shard", "expert"])
def test_a_watched_step_tells_the_mean_over_processes(two, name):
    handed = sum(kind["bytes"] for returned in two.returned for kind in returned["step_traffic"][name].values())
    told = [returned["watched"][name].figures() for returned in two.returned]
    assert [figures["communication_bytes"] for figures in told] == [handed / 2] * 2
    assert [figures["processes"] for figures in told] == [2, 2]
    assert told[0]["communication_share"] == told[1]["communication_share"]
    assert 0 < told[0]["communication_share"] <= 1


def test_the_rows_of_a_process_are_the_load_of_its_experts(two):
    # Experts 0 and 1 of 4 live on process 0. Of 192 assignments a layer, MaxVio is (most - 96) / 96.
    result = two.returned[0]["watched"]["expert"]
    rows_LW = result.sums.load_LE.view(2, 2, 2).sum(-1)
    assert result.sums.process_rows_LW.equal(rows_LW)
    assert result.figures()["process_max_violation"] == pytest.approx(((rows_LW.amax(1) - 96) / 96).mean().item())
    assert two.returned[0]["watched"]["shard"].sums.process_rows_LW is None


@pytest.mark.slow
def test_the_rows_of_two_groups_are_counted_apart(four):
    # Processes 0 and 1 are a group of the first 4 sequences, 2 and 3 one of the others: 96 assignments a layer each.
    for returned in four.returned:
        rows_LW = returned["watched"].sums.process_rows_LW
        assert rows_LW.view(2, 2, 2).sum(-1).tolist() == [[96, 96], [96, 96]]
        assert (rows_LW[:, :2] + rows_LW[:, 2:]).equal(returned["watched"].sums.load_LE.view(2, 2, 2).sum(-1))
        assert not rows_LW[:, :2].equal(rows_LW[:, 2:])


def bytes_of_two(two, step: str, kind: str) -> int:
    return sum(returned["step_traffic"][step][kind]["bytes"] for returned in two.returned)


@pytest.mark.parametrize(("step", "passes", "counts"), [("expert", 4, 1), ("expert-recomputed", 6, 2)])
def test_the_rows_of_a_step_are_those_counted_by_hand(two, step, passes, counts):
    # 8 sequences of 12 tokens with 2 choices, of width 32 in float32, in 2 layers. What one process gets more than its share, the other
    # gets less: together they hand over each row once a pass. Recomputing goes to the experts and back once more. Each of the 2
    # processes tells its counts for 4 experts in int64.
    assert bytes_of_two(two, step, "all_to_all") == 2 * (passes * 8 * 12 * 2 * 32 * 4 + counts * 2 * 4 * 8)


def num_params() -> tuple[int, int]:
    """Of the blocks, and of what is outside of them."""
    model = build_trainer(CASES["topk"]).model
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    return blocks, sum(parameter.numel() for parameter in model.parameters()) - blocks


def test_shards_are_fetched_before_each_pass_and_gradients_given_away_once(two):
    # Each process hands over its half: of the blocks in forward and in backward, of the rest once; and the whole of its gradient.
    blocks, rest = num_params()
    assert bytes_of_two(two, "shard", "all_gather") == 4 * (2 * blocks + rest)
    assert bytes_of_two(two, "shard", "reduce_scatter") == 2 * 4 * (blocks + rest)


def test_replicas_add_up_their_gradients_once_a_step(two):
    # Beside the gradient each process hands over, in float32 and int64: sums for the balance loss of 2 layers of 4 experts, 3 of each;
    # 3 losses and 2 sums of routers; 2 loads of 2 layers of 4 experts, and what was moved in 2 layers; 1 square of the norm.
    blocks, rest = num_params()
    words = 4 * (2 * 4 * 3) + 4 * (3 + 2) + 8 * (2 * 2 * 4 + 2) + 4
    assert bytes_of_two(two, "replicate", "all_reduce") == 2 * (4 * (blocks + rest) + words)
    accumulated = bytes_of_two(two, "replicate-accumulated", "all_reduce")
    assert accumulated == 2 * (4 * (blocks + rest) + words + 4 * (2 * 4 * 3)), "the second micro-batch has sums of its own"
