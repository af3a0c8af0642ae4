"""Means over seeds against hand-worked numbers, and the interval against its own promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.analysis.seeds import geometric_seed_mean, paired_p_value, seed_mean

DIFFERENCES = st.lists(st.floats(-10, 10, allow_nan=False).map(lambda value: round(value, 3)), min_size=2, max_size=8)


def test_three_seeds_by_hand():
    # 1, 2, 3: mean 2, standard deviation 1, standard error 1 / sqrt(3) = 0.57735; t(0.975, 2) = 4.30265 (any table).
    result = seed_mean([1.0, 2.0, 3.0])
    half = 4.30265 * 0.57735
    assert result.mean == 2.0
    assert result.ci95 == pytest.approx((2 - half, 2 + half), abs=1e-4)
    assert result.to_json() == {"mean": 2.0, "ci95": list(result.ci95), "per_seed": [1.0, 2.0, 3.0]}


def test_two_and_five_seeds_by_hand():
    # 0, 2: standard deviation sqrt(2), error 1; t(0.975, 1) = 12.7062.
    assert seed_mean([0.0, 2.0]).ci95 == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)
    # 1 .. 5: standard deviation sqrt(10 / 4) = 1.58114, error 0.70711; t(0.975, 4) = 2.77645: half 1.96325.
    assert seed_mean([1.0, 2.0, 3.0, 4.0, 5.0]).ci95 == pytest.approx((3 - 1.96325, 3 + 1.96325), abs=1e-4)


def test_paired_test_by_hand():
    # Differences 1, 2, 3: t = 2 / 0.57735 = 3.46410 with 2 degrees of freedom. There P(T > t) = 1/2 - t / (2 sqrt(2 + t^2)):
    # 1/2 - 3.46410 / (2 * sqrt(14)) = 0.037090, twice that 0.074180.
    assert paired_p_value([1.0, 2.0, 3.0]) == pytest.approx(0.074180, abs=1e-6)
    assert paired_p_value([-1.0, -2.0, -3.0]) == pytest.approx(0.074180, abs=1e-6)
    # One degree of freedom is Cauchy's: t = 1 / 1, p = 1 - 2/pi * atan(1) = 0.5.
    assert paired_p_value([0.0, 2.0]) == pytest.approx(0.5)


def test_factors_by_hand():
    # 1/2, 1, 2 have the logs -0.693147, 0, 0.693147: mean 0, standard error 0.693147 / sqrt(3) = 0.400189, half 4.30265 * that = 1.721874.
    # exp(0) = 1, exp(1.721874) = 5.59501; and the other end is 1 / 5.59501.
    result = geometric_seed_mean([0.5, 1.0, 2.0])
    assert result.mean == pytest.approx(1.0)
    assert result.ci95 == pytest.approx((1 / 5.59501, 5.59501), rel=1e-5)
    assert result.per_seed == (0.5, 1.0, 2.0)
    # The square root of 2 * 8.
    assert geometric_seed_mean([2.0, 8.0]).mean == pytest.approx(4.0)
    assert geometric_seed_mean([0.7]).to_json() == {"mean": 0.7, "ci95": None, "per_seed": [0.7]}
    assert geometric_seed_mean([1.1, 1.1, 1.1]).ci95 == (1.1, 1.1)


@given(st.lists(st.floats(0.01, 100).map(lambda value: round(value, 3)), min_size=2, max_size=6))
def test_factors_the_other_way_round_have_the_interval_upside_down(factors):
    ours, theirs = geometric_seed_mean(factors), geometric_seed_mean([1 / factor for factor in factors])
    assert ours.mean == pytest.approx(1 / theirs.mean)
    assert ours.ci95 is not None and theirs.ci95 is not None
    assert ours.ci95 == pytest.approx((1 / theirs.ci95[1], 1 / theirs.ci95[0]))


def test_one_seed_has_no_interval_and_no_test():
    assert seed_mean([3.5]).to_json() == {"mean": 3.5, "ci95": None, "per_seed": [3.5]}
    assert paired_p_value([3.5]) is None


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_differences_without_spread(value):
    # 0.1 + 0.1 + 0.1 is not 0.3 in floating point: the interval is the number itself nevertheless.
    assert seed_mean([value] * 3).ci95 == (value, value)
    assert seed_mean([value] * 3).mean == value
    assert paired_p_value([value] * 3) == (1.0 if value == 0 else 0.0)


@given(DIFFERENCES)
def test_the_interval_leaves_zero_out_exactly_where_p_is_below_5_percent(differences):
    ci95, p_value = seed_mean(differences).ci95, paired_p_value(differences)
    assert ci95 is not None and p_value is not None
    low, high = ci95
    if not math.isclose(p_value, 0.05, rel_tol=1e-6):
        assert (low > 0 or high < 0) == (p_value < 0.05)


@given(DIFFERENCES, st.floats(-5, 5), st.floats(0.1, 10))
def test_another_unit_moves_the_interval_along(differences, shift, scale):
    ours = seed_mean(differences).ci95
    moved = seed_mean([scale * value + shift for value in differences]).ci95
    assert ours is not None and moved is not None
    assert moved == pytest.approx([scale * bound + shift for bound in ours], abs=1e-6)


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_95_percent_of_intervals_hold_the_true_mean(num_seeds):
    rng = np.random.default_rng(num_seeds)
    experiments = 4000
    samples = rng.normal(1.7, 0.3, (experiments, num_seeds)).tolist()
    covered = sum(low <= 1.7 <= high for low, high in (seed_mean(sample).ci95 for sample in samples))
    # The count is binomial: standard deviation sqrt(0.95 * 0.05 / 4000) = 0.0034; 4 of them are allowed.
    assert covered / experiments == pytest.approx(0.95, abs=0.014)


def test_under_no_difference_p_is_uniform():
    rng = np.random.default_rng(0)
    p_values = np.array([paired_p_value(sample) for sample in rng.normal(0, 1, (4000, 3)).tolist()])
    for level in (0.05, 0.5, 0.9):
        assert (p_values < level).mean() == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 4000))
