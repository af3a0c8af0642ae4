"""Fillers at the ends of long queues."""

from __future__ import annotations

import math

import pytest
import torch

from moecli.moe.onednn import round_rows
from moecli.moe.queue_rows import fill_up


def test_a_long_queue_gets_its_last_token_again_with_weight_0():
    ids_A, weights_A = torch.arange(100, 200)[:77], torch.linspace(0.1, 1, 77)
    # 64 to 127 rows go up to the next multiple of 2^(7 - 4) = 8: 71 becomes 72. 4 and 2 are short.
    rows = fill_up(ids_A, weights_A, [4, 0, 71, 2], from_length=10)
    assert rows.lengths == [4, 0, 72, 2]
    assert rows.token_ids_R.tolist() == [*range(100, 175), 174, 175, 176]
    assert torch.equal(rows.weights_R, torch.cat((weights_A[:75], torch.zeros(1), weights_A[75:])))
    assert rows.is_real_R is not None and rows.is_real_R.tolist() == [True] * 75 + [False] + [True] * 2


@pytest.mark.parametrize(("lengths", "from_length"), [([3, 67], math.inf), ([3, 67], 68), ([64, 72], 10), ([0, 0], 0), ([], 0)])
def test_queues_that_are_short_or_round_stay_as_they_are(lengths, from_length):
    ids_A, weights_A = torch.arange(sum(lengths)), torch.rand(sum(lengths))
    rows = fill_up(ids_A, weights_A, lengths, from_length)
    assert rows.token_ids_R is ids_A and rows.weights_R is weights_A and rows.is_real_R is None and rows.lengths == lengths


def test_numbers_of_rows_are_few_and_at_most_an_eighth_too_large():
    assert [round_rows(number) for number in (0, 1, 15, 17, 64, 65, 127, 129, 1000, 1025)] == [0, 1, 15, 18, 64, 72, 128, 144, 1024, 1152]
    rounded = [round_rows(number) for number in range(64, 4097)]
    assert len(set(rounded)) == 6 * 8 + 1
    assert all(number <= up <= number * (1 + 1 / 8) for number, up in zip(range(64, 4097), rounded, strict=True))
