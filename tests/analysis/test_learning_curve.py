"""When curves meet, on curves drawn by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.analysis.learning_curve import LearningCurve, equal_level, speed_up_to_equal_loss

QUICK = LearningCurve([100, 200, 300, 400], [5.0, 4.0, 3.0, 2.0])
SLOW = LearningCurve([100, 200, 300, 400], [6.0, 5.0, 4.0, 3.5])

LOSSES = st.lists(st.floats(0.5, 9.0), min_size=1, max_size=6)


def curve(losses: list[float]) -> LearningCurve:
    return LearningCurve([100.0 * number for number in range(1, len(losses) + 1)], losses)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (4.0, 200),  # at a validation
        (3.5, 250),  # half-way from 4.0 to 3.0
        (2.25, 375),  # three quarters of the way from 3.0 to 2.0
        (2.0, 400),  # the last
        (5.0, 100),  # the first
        (7.0, 100),  # before the first validation nothing is known
        (1.9, math.inf),  # never
    ],
)
def test_first_reach(level, expected):
    assert QUICK.first_reach(level) == expected


def test_a_curve_that_rises_again_has_reached_what_it_had():
    bumpy = LearningCurve([10, 20, 30, 40], [5.0, 3.0, 4.0, 3.0])
    assert bumpy.first_reach(3.5) == 17.5  # 10 + 10 * (5 - 3.5) / (5 - 3)
    assert bumpy.first_reach(3.0) == 20


def test_the_winner_is_quicker_by_the_tokens_that_it_saves():
    # SLOW ends at 3.5 after 400. QUICK is there half-way between 200 and 300.
    assert speed_up_to_equal_loss(QUICK, SLOW) == 400 / 250


def test_the_loser_gets_a_number_below_one():
    # The level is its own 3.5, for which the other needs 250.
    assert speed_up_to_equal_loss(SLOW, QUICK) == 250 / 400


def test_budgets_need_not_be_equal():
    # 3.5 is reached after 1,600 instead of 400.
    assert speed_up_to_equal_loss(QUICK, LearningCurve([400, 800, 1200, 1600], SLOW.value)) == 1600 / 250


def test_a_curve_below_the_level_from_its_first_validation_on():
    assert speed_up_to_equal_loss(LearningCurve([100, 200], [3.0, 2.0]), SLOW) == 400 / 100


@pytest.mark.parametrize(("level", "expected"), [(5.1, True), (5.0, False), (4.0, False)])
def test_below_a_level_from_the_first_validation_on(level, expected):
    assert QUICK.is_early(level) is expected


def test_the_equal_level_is_the_worse_end():
    assert equal_level(QUICK, SLOW) == equal_level(SLOW, QUICK) == 3.5


@given(LOSSES)
def test_a_curve_against_itself_gives_one_however_it_goes(losses):
    assert speed_up_to_equal_loss(curve(losses), curve(losses)) == 1


@given(LOSSES, LOSSES)
def test_exchanging_two_curves_gives_the_reciprocal(losses, other_losses):
    first, second = curve(losses), curve(other_losses)
    assert speed_up_to_equal_loss(first, second) * speed_up_to_equal_loss(second, first) == pytest.approx(1)
    assert 0 < speed_up_to_equal_loss(first, second) < math.inf
