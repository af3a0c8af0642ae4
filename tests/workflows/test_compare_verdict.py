"""Verdicts and sentences: won, lost, undecided, equal, one seed, leaking."""

from __future__ import annotations

import pytest

from moecli.analysis.seeds import SeedMean, paired_p_value, seed_mean
from moecli.workflows.compare_verdict import Contest


def contest(differences: list[float], leaking: tuple[str, ...] = ()) -> Contest:
    return Contest("moe", "dense-active", "nats/token", seed_mean(differences), paired_p_value(differences), leaking)


# Differences m - 0.01, m, m + 0.01: standard error 0.01 / sqrt(3), half an interval 4.30265 * 0.0057735 = 0.024841; t = m / 0.0057735,
# p = 1 - t / sqrt(2 + t^2): for m = 0.05 t = 8.66025 and p = 0.013072, for m = 0.01 t = 1.73205 and p = 0.225403.
CASES = {
    "won": (
        [-0.04, -0.05, -0.06], "lower",
        "moe ends 0.0500 nats/token below dense-active (95 % interval 0.0252 to 0.0748 below, 3 seeds, paired t-test p = 0.013)",
    ),
    "lost": (
        [0.04, 0.05, 0.06], "higher",
        "moe ends 0.0500 nats/token above dense-active (95 % interval 0.0252 to 0.0748 above, 3 seeds, paired t-test p = 0.013)",
    ),
    "undecided": (
        [0.0, -0.01, -0.02], "undecided",
        "moe ends 0.0100 nats/token below dense-active, but this is undecided: the 95 % interval goes from 0.0348 below to 0.0148 above "
        "(3 seeds, paired t-test p = 0.23)",
    ),
    "equal": ([0.0, 0.0], "undecided", "moe and dense-active end equal, with 2 seeds"),
    "equal once": ([0.0], "undecided", "moe and dense-active end equal, with 1 seed"),
    "one seed": (
        [-0.05], "undecided",
        "moe ends 0.0500 nats/token below dense-active with the one seed that was run, which can't tell a difference from chance",
    ),
    "always the same": (
        [-0.5, -0.5], "lower",
        "moe ends 0.5000 nats/token below dense-active (95 % interval 0.5000 to 0.5000 below, 2 seeds, paired t-test p < 0.0001)",
    ),
    "tiny": (
        [0.00012], "undecided",
        "moe ends 0.00012 nats/token above dense-active with the one seed that was run, which can't tell a difference from chance",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_verdict_and_sentence(case):
    differences, verdict, sentence = CASES[case]
    assert contest(differences).verdict == verdict
    assert contest(differences).sentence == sentence


def test_exchanging_the_arms_exchanges_the_verdict():
    other = {"lower": "higher", "higher": "lower", "undecided": "undecided"}
    for differences, verdict, _ in CASES.values():
        assert contest([-difference for difference in differences]).verdict == other[verdict]


def test_a_leaking_arm_is_named_with_what_that_means():
    sentence = contest([-0.04, -0.05, -0.06], leaking=("moe",)).sentence
    assert sentence.startswith(CASES["won"][2])
    assert sentence.endswith("; moe sees its future, so its loss can't be reached in generation")


def test_an_interval_that_touches_zero_decides_nothing():
    touching = SeedMean(-0.5, (-1.0, 0.0), (-0.4, -0.6))
    assert Contest("a", "b", "bits/byte", touching, 0.05).verdict == "undecided"
