"""The schedules by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moecli.training.schedule import SCHEDULES, CosineConfig, WarmupStableDecayConfig


def test_cosine_by_hand():
    schedule = CosineConfig(warmup_fraction=1 / 3, min_lr_fraction=0.1)
    # A third of 12 steps is 4. Warm-up: 1/4, 2/4, 3/4, 4/4. Then progress (step - 4) / (12 - 1 - 4) over steps 4 to 11.
    assert [schedule.factor(step, 12) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert schedule.factor(4, 12) == pytest.approx(1.0)
    assert schedule.factor(11, 12) == pytest.approx(0.1)
    # Step 6: progress 2/7, 0.1 + 0.9 * (1 + cos(2 pi / 7)) / 2
    assert schedule.factor(6, 12) == pytest.approx(0.1 + 0.45 * (1 + math.cos(2 * math.pi / 7)))


def test_warmup_stable_decay_by_hand():
    schedule = WarmupStableDecayConfig(warmup_fraction=0.0, min_lr_fraction=0.0, decay_fraction=0.5)
    # 5 steps, progress 0, 1/4, 2/4, 3/4, 1: flat up to one half, then down to 0 in a straight line.
    assert [schedule.factor(step, 5) for step in range(5)] == pytest.approx([1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("kind", SCHEDULES)
@given(warmup_fraction=st.floats(0, 1), num_steps=st.integers(1, 100), min_lr_fraction=st.floats(0, 1))
def test_every_schedule_rises_to_the_peak_and_falls_to_the_minimum(kind, warmup_fraction, num_steps, min_lr_fraction):
    schedule = SCHEDULES[kind](warmup_fraction=warmup_fraction, min_lr_fraction=min_lr_fraction)
    warmup_steps = round(warmup_fraction * num_steps)
    factors = [schedule.factor(step, num_steps) for step in range(num_steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[:warmup_steps] == sorted(factors[:warmup_steps])
    assert factors[warmup_steps:] == sorted(factors[warmup_steps:], reverse=True)
    if num_steps > warmup_steps + 1:
        assert factors[warmup_steps] == pytest.approx(1.0)
        assert factors[-1] == pytest.approx(min_lr_fraction, abs=1e-9)


@pytest.mark.parametrize("decay_fraction", [0.0, 1.0])
def test_warmup_stable_decay_at_its_limits(decay_fraction):
    schedule = WarmupStableDecayConfig(warmup_fraction=0.0, min_lr_fraction=0.2, decay_fraction=decay_fraction)
    factors = [schedule.factor(step, 3) for step in range(3)]
    assert factors == pytest.approx([1, 1, 1] if decay_fraction == 0 else [1, 0.6, 0.2])
