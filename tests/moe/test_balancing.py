"""The bias update by hand."""

from __future__ import annotations

import pytest
import torch

from moecli.moe.balancing import BiasUpdateConfig, updated_bias


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # Loads 6, 2, 4: mean 4, errors -2, +2, 0. Signs times 0.1.
        ("sign", [0.5 - 0.1, 0.0 + 0.1, -0.25]),
        # Errors over the mean: -1/2, +1/2, 0, times 0.1.
        ("proportional", [0.5 - 0.05, 0.0 + 0.05, -0.25]),
    ],
)
def test_update_by_hand(rule, expected):
    bias_E = torch.tensor([0.5, 0.0, -0.25])
    new_E = updated_bias(bias_E, torch.tensor([6, 2, 4]), BiasUpdateConfig(rule=rule, rate=0.1))
    torch.testing.assert_close(new_E, torch.tensor(expected))
    assert bias_E.tolist() == [0.5, 0.0, -0.25]


@pytest.mark.parametrize("rule", ["sign", "proportional"])
@pytest.mark.parametrize("load", [[5, 5, 5], [0, 0, 0]])
def test_an_even_or_absent_load_moves_nothing(rule, load):
    bias_E = torch.tensor([0.5, 0.0, -0.25])
    assert torch.equal(updated_bias(bias_E, torch.tensor(load), BiasUpdateConfig(rule=rule, rate=0.1)), bias_E)


def test_a_proportional_step_means_the_same_for_every_batch_size():
    config = BiasUpdateConfig(rule="proportional", rate=0.1)
    small, large = (updated_bias(torch.zeros(3), torch.tensor([6, 2, 4]) * size, config) for size in (1, 1000))
    torch.testing.assert_close(small, large)
