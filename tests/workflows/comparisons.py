"""Comparisons of tiny models, for tests: planned, and trained without the slow parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moecli.recipe.load import load_recipe
from moecli.workflows.compare_arms import ArmRecipe
from moecli.workflows.compare_dense import DenseComparison, compare_dense
from moecli.workflows.compare_plan import ComparisonPlan, plan_comparison

MLP = "model.ffn={kind: mlp, d_ff: 32}"


def arm_recipe(path: Path, *overrides: str) -> ArmRecipe:
    return ArmRecipe(load_recipe(path, overrides).recipe, str(path))


def planned(base: ArmRecipe, others: Sequence[ArmRecipe] = (), **options: Any) -> ComparisonPlan:
    """One seed against the active twin, in the folder `comparison`, unless told otherwise."""
    return plan_comparison(base, others, **({"matches": ("active",), "num_seeds": 1, "out": Path("comparison")} | options))


def ignore(event: object) -> None:
    pass


def compared(
    base: ArmRecipe,
    others: Sequence[ArmRecipe] = (),
    *,
    listener: Callable[[Any], None] = ignore,
    should_stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> DenseComparison:
    return compare_dense(planned(base, others, **options), listener, should_stop)
