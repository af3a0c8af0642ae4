"""Fillers at the ends of long queues."""

from __future__ import annotations

import math

import pytest
import torch

from moecli.moe.onednn import round_rows
from moecli.moe.queue_rows import fill_up


def test_a_long_queue_gets_its_last_token_again_with_weight_0():
    ids_A, weights_A = torch.arange(100, 200)[:73], torch.linspace(0.1, 1, 73)
    # 64 to 127 rows go up to the next multiple of 2^(7 - 6) = 2: 67 becomes 68. 4 and 2 are short.
    rows = fill_up(ids_A, weights_A, [4, 0, 67, 2], from_length=10)
    assert rows.lengths == [4, 0, 68, 2]
    assert rows.token_ids_R.tolist() == [*range(100, 171), 170, 171, 172]
    assert torch.equal(rows.weights_R, torch.cat((weights_A[:71], torch.zeros(1), weights_A[71:])))
    assert rows.is_real_R is not None and rows.is_real_R.tolist() == [True] * 71 + [False] + [True] * 2


@pytest.mark.parametrize(("lengths", "from_length"), [([3, 67], math.inf), ([3, 67], 68), ([64, 66], 10), ([0, 0], 0), ([], 0)])
def test_queues_that_are_short_or_round_stay_as_they_are(lengths, from_length):
    ids_A, weights_A = torch.arange(sum(lengths)), torch.rand(sum(lengths))
    rows = fill_up(ids_A, weights_A, lengths, from_length)
    assert rows.token_ids_R is ids_A and rows.weights_R is weights_A and rows.is_real_R is None and rows.lengths == lengths


def test_numbers_of_rows_are_few_and_at_most_a_thirtysecond_too_large():
    assert [round_rows(number) for number in (0, 1, 31, 63, 64, 65, 127, 129, 1000, 1025)] == [0, 1, 31, 63, 64, 66, 128, 132, 1008, 1056]
    rounded = [round_rows(number) for number in range(64, 4097)]
    assert len(set(rounded)) == 6 * 32 + 1
    assert all(number <= up <= number * (1 + 1 / 32) for number, up in zip(range(64, 4097), rounded, strict=True))
