"""Load figures by hand, and their ranges as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moecli.moe.load import coefficient_of_variation, dead_experts, dropped_fraction, entropy, load_shares, max_violation

loads = st.lists(st.integers(0, 10**9), min_size=1, max_size=64).map(lambda values: torch.tensor(values, dtype=torch.int64))


def test_figures_by_hand():
    # load (1, 3): mean 2, population std 1, so CV = 1/2 and MaxVio = (3 - 2) / 2 = 1/2.
    # entropy = -(1/4 ln 1/4 + 3/4 ln 3/4) = ln 4 - 3/4 ln 3
    load = torch.tensor([1, 3])
    assert coefficient_of_variation(load).item() == pytest.approx(0.5)
    assert max_violation(load).item() == pytest.approx(0.5)
    assert entropy(load).item() == pytest.approx(math.log(4) - 0.75 * math.log(3))
    assert dead_experts(load).item() == 0


def test_layers_stay_apart():
    # Pooled, these two layers would look even.
    load_LE = torch.tensor([[10, 0], [0, 10]])
    assert coefficient_of_variation(load_LE).tolist() == [1.0, 1.0]
    assert dead_experts(load_LE).tolist() == [1, 1]


def test_dead_is_less_than_a_hundredth_of_the_even_share():
    # Even share of 2 experts is 1/2, a hundredth of it 0.005: 4 of 1,000 is dead, 5 of 1,000 is not.
    assert dead_experts(torch.tensor([4, 996])).item() == 1
    assert dead_experts(torch.tensor([5, 995])).item() == 0


def test_dropped_fraction_by_hand():
    assert dropped_fraction(torch.tensor([6, 2]), torch.tensor([4, 2])).item() == pytest.approx(2 / 8)
    assert dropped_fraction(torch.tensor([0, 0]), torch.tensor([0, 0])).item() == 0


@given(loads)
def test_ranges(load_E):
    num_experts = len(load_E)
    assert load_shares(load_E).sum().item() == pytest.approx(1)
    assert -1e-9 <= coefficient_of_variation(load_E).item() <= math.sqrt(num_experts - 1) + 1e-9
    assert -1e-9 <= max_violation(load_E).item() <= num_experts - 1 + 1e-9
    assert -1e-9 <= entropy(load_E).item() <= math.log(num_experts) + 1e-9
    assert 0 <= dead_experts(load_E).item() < num_experts


@given(loads, st.integers(1, 1000))
def test_figures_do_not_depend_on_scale_or_order(load_E, factor):
    for figure in (coefficient_of_variation, max_violation, entropy):
        assert figure(load_E * factor).item() == pytest.approx(figure(load_E).item(), abs=1e-9)
        assert figure(load_E.flip(0)).item() == pytest.approx(figure(load_E).item(), abs=1e-9)
