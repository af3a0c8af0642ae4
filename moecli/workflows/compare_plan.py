"""What `moecli compare-dense` will do: arms, seeds, cost, and which runs are there already; all that can be refused is refused here.

Knows recipes, texts and run folders. Must not train.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moecli.config import LARGEST
from moecli.data.prepare import PreparedData
from moecli.data.small_file import read_small
from moecli.errors import RunError
from moecli.recipe.schema import Recipe
from moecli.workflows.compare_arms import Arm, ArmRecipe, Match, Matched, build_arms, check_can_be_compared, check_same_tokens_if_masked
from moecli.workflows.compare_notes import Measure, comparison_notes, measure_of, unit_of
from moecli.workflows.compare_runs import OTHER_PLACE, RunState, as_run_dir, run_state
from moecli.workflows.run_dir import OUTPUTS, RunDir, checkpoint_steps, write_atomically
from moecli.workflows.stats_folder import OTHER_OUT, dense_comparison_target

__all__ = ["ArmRecipe", "ComparisonPlan", "Match", "PlannedRun", "plan_comparison"]

QUANTITIES: dict[Match, str] = {
    "active": "active parameters",
    "flops": "training FLOPs per token",
    "total": "total parameters",
    "time": "training seconds",
}
TIME_STEPS_FILE = "time-steps.json"


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One training of one arm."""

    arm: str
    seed: int
    run: RunDir
    state: RunState


@dataclass(frozen=True, slots=True)
class ComparisonPlan:
    """A comparison that can be begun, or gone on with."""

    folder: Path
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    """The MoE first."""
    matched: dict[Match, Matched]
    runs: tuple[PlannedRun, ...]
    """In the order of training: all arms of a seed before the next seed, so that what there is can be compared in pairs."""

    @property
    def base(self) -> Arm:
        return self.arms[0]

    @property
    def measure(self) -> Measure:
        return measure_of(self.arms)

    @property
    def unit(self) -> str:
        return unit_of(self.arms)

    @property
    def notes(self) -> list[str]:
        return comparison_notes(self.arms, self.seeds)

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)

    def recipe(self, run: PlannedRun) -> Recipe:
        return self.arm(run.arm).recipe_of_seed(run.seed)

    def data(self, run: PlannedRun) -> PreparedData:
        return self.arm(run.arm).data

    def with_time_steps(self, steps: int) -> ComparisonPlan:
        """The same plan with the length of the twin that trains for the same seconds, kept for when the comparison is begun again."""
        kept = {"recipe": self.base.recipe.model_dump(mode="json"), "steps": steps}
        write_atomically(self.folder / TIME_STEPS_FILE, json.dumps(kept, indent=2) + "\n")
        return replace(self, arms=tuple(arm.with_steps(steps) if arm.match == "time" else arm for arm in self.arms))

    def matches_json(self) -> list[dict[str, Any]]:
        """What each match asks and what rounding leaves of it. Seconds are null: they have to be measured."""
        matches = []
        for match, matched in self.matched.items():
            twin = None if match == "time" else matched.twin
            figures = (twin.target, twin.got, twin.mismatch) if twin else (None, None, None)
            entry = {"match": match, "arm": matched.arm, "quantity": QUANTITIES[match]}
            matches.append(entry | dict(zip(("target", "got", "mismatch"), figures, strict=True)))
        return matches

    def to_json(self) -> dict[str, Any]:
        finished = [run for run in self.runs if run.state == "finished"]
        return {
            "folder": str(self.folder),
            "seeds": list(self.seeds),
            "measure": self.measure,
            "unit": self.unit,
            "notes": self.notes,
            "matches": self.matches_json(),
            "arms": [self._arm_json(arm, finished) for arm in self.arms],
            "runs": len(self.runs),
            "finished_runs": len(finished),
            "train_flops": len(self.seeds) * sum(arm.flops_per_run for arm in self.arms if arm.is_length_known),
        }

    def _arm_json(self, arm: Arm, finished: Sequence[PlannedRun]) -> dict[str, Any]:
        return {
            "name": arm.name,
            "match": arm.match,
            "kind": arm.recipe.model.ffn.kind,
            "d_ff": arm.twin.d_ff if arm.twin else None,
            "params_total": arm.plan.cost.params_total,
            "params_active": arm.plan.cost.params_active,
            "flops_per_token": arm.plan.cost.train_flops_per_token,
            "steps": arm.steps,
            "tokens": arm.tokens,
            "train_flops": len(self.seeds) * arm.flops_per_run if arm.is_length_known else None,
            "weight_bytes": arm.plan.memory.weights,
            "memory_bytes": arm.plan.memory.total,
            "runs": len(self.seeds),
            "finished_runs": sum(run.arm == arm.name for run in finished),
        }


def plan_comparison(
    base: ArmRecipe, others: Sequence[ArmRecipe], *, matches: Sequence[Match], num_seeds: int, out: Path | None
) -> ComparisonPlan:
    """Derives the arms and looks at what is there of them. Reads texts; builds no model and writes nothing but the cache of ids.

    Args:
        base: the MoE.
        others: further recipes to compare it with.
        matches: what its dense twins have in common with it; "time" implies "active".
        num_seeds: runs of each arm, with the seeds that follow the recipe's own.
        out: the folder of the comparison. Default: outputs/<name>/compare-dense.

    Raises:
        MoecliError: these recipes can't be compared, or something else is where a run or the report would be put.
    """
    _check_numbers(base.recipe, others, matches, num_seeds)
    check_can_be_compared(base, others)
    folder = out or OUTPUTS / base.recipe.name / "compare-dense"
    if checkpoint_steps(RunDir(folder)):
        raise RunError("this is the folder of a run, and a comparison has several", where=str(folder), next_step=OTHER_OUT)
    dense_comparison_target(folder)
    arms, matched = build_arms(base, others, matches)
    check_same_tokens_if_masked(arms)
    arms = [_with_kept_steps(arm, arms[0], folder) if arm.match == "time" else arm for arm in arms]
    seeds = tuple(range(base.recipe.seed, base.recipe.seed + num_seeds))
    runs = tuple(_planned_run(arm, seed, folder) for seed in seeds for arm in arms)
    return ComparisonPlan(folder, seeds, tuple(arms), matched, runs)


def _check_numbers(base: Recipe, others: Sequence[ArmRecipe], matches: Sequence[Match], num_seeds: int) -> None:
    if num_seeds < 1:
        raise RunError(f"{num_seeds} seeds train nothing", where="--seeds", allowed="1 or more; 2 or more give an interval")
    if base.seed + num_seeds - 1 > LARGEST:
        raise RunError("the seeds after the recipe's are too large", where="--seeds", allowed=f"up to seed {LARGEST}")
    if not matches and not others:
        raise RunError("there is nothing to compare with", where="--match", next_step="name a match, or a recipe with --arm")


def _with_kept_steps(arm: Arm, base: Arm, folder: Path) -> Arm:
    """The twin of the same seconds with the length that was measured before, if this MoE's was."""
    try:
        kept = json.loads(read_small(folder / TIME_STEPS_FILE))
        # Through the schema: another version may have keys more, with their defaults.
        steps = int(kept["steps"]) if Recipe.model_validate_json(json.dumps(kept["recipe"])) == base.recipe else 0
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        steps = 0
    return arm.with_steps(steps) if 0 < steps <= LARGEST else arm


def _planned_run(arm: Arm, seed: int, folder: Path) -> PlannedRun:
    run = as_run_dir(folder, arm.name, seed)
    if not arm.is_length_known and run.latest.exists():
        what = f"a run is here, and no {TIME_STEPS_FILE} of this MoE says how long it had to be"
        raise RunError(what, where=str(run.path), next_step=OTHER_PLACE)
    return PlannedRun(arm.name, seed, run, run_state(run, arm.recipe_of_seed(seed), arm.data))
