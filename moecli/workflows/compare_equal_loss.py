"""What two arms have spent until they are equally good: tokens and seconds, and how many times less the first one needs.

Knows the results of two arms. Must not know how they are shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from moecli.analysis.learning_curve import LearningCurve, equal_level, speed_up_to_equal_loss
from moecli.analysis.seeds import geometric_seed_mean
from moecli.workflows.compare_notes import Measure
from moecli.workflows.compare_results import ArmResult

CurvePair = tuple[LearningCurve, LearningCurve]


def equal_loss_json(base: ArmResult, other: ArmResult, measure: Measure) -> dict[str, Any]:
    """Speed-ups and amounts of both. Tokens of other text or of another tokenizer are not alike: all about them is null."""
    in_tokens = curve_pairs(base, other, measure, over_seconds=False)
    in_seconds = curve_pairs(base, other, measure, over_seconds=True)
    are_alike = base.arm.data.fingerprint == other.arm.data.fingerprint
    unknown = [None] * len(in_tokens)
    return {
        "tokens_to_equal_loss": _speed_up(in_tokens) if are_alike else {"mean": None, "ci95": None, "per_seed": unknown},
        "time_to_equal_loss": _speed_up(in_seconds),
        "tokens_at_equal_loss": _amounts(in_tokens) if are_alike else _with_means(unknown, unknown),
        "seconds_at_equal_loss": _amounts(in_seconds),
    }


def curve_pairs(base: ArmResult, other: ArmResult, measure: Measure, *, over_seconds: bool) -> list[CurvePair]:
    """Those of the same seed."""
    return [
        (base.curve(of_base, measure, over_seconds=over_seconds), other.curve(of_other, measure, over_seconds=over_seconds))
        for of_base, of_other in zip(base.runs, other.runs, strict=True)
    ]


def _speed_up(pairs: Sequence[CurvePair]) -> dict[str, Any]:
    return geometric_seed_mean([speed_up_to_equal_loss(base, other) for base, other in pairs]).to_json()


def _amounts(pairs: Sequence[CurvePair]) -> dict[str, Any]:
    """Spent until the worse of the two final values is reached first."""
    reached = [[curve.first_reach(equal_level(*pair)) for curve in pair] for pair in pairs]
    return _with_means([base for base, _ in reached], [other for _, other in reached])


def _with_means(base: Sequence[float | None], arm: Sequence[float | None]) -> dict[str, Any]:
    means = {f"{name}_mean": _mean(values) for name, values in (("base", base), ("arm", arm))}
    return {"base": list(base), "arm": list(arm)} | means


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
