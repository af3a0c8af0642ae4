"""`moecli compare-dense`: trains an MoE and its dense twins over seeds, measures them, and says what came out.

Knows the order of the pieces. Must not know screens or signals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.errors import Interrupted
from moecli.model.device import check_memory, pick_device
from moecli.workflows.compare_content import ArmResult, comparison_content
from moecli.workflows.compare_measures import measure_decode_speed, measure_peak_memory
from moecli.workflows.compare_plan import ComparisonPlan, PlannedRun
from moecli.workflows.compare_progress import ComparisonProgress
from moecli.workflows.compare_runs import FinishedRun, bring_to_end, read_finished
from moecli.workflows.events import Event, Listener, RunBegun, Stage, StepLogged, TrainingStarted, Validated
from moecli.workflows.stats_folder import dense_comparison_target, write_dense_comparison_files

GO_ON = "the same command goes on"


@dataclass(frozen=True, slots=True)
class DenseComparison:
    """A finished comparison."""

    content: dict[str, Any]
    folder: Path
    files: list[Path]
    """The reports."""

    def to_json(self) -> dict[str, Any]:
        return self.content | {"files": [str(path) for path in self.files], "folder": str(self.folder)}


def compare_dense(plan: ComparisonPlan, listener: Listener, should_stop: Callable[[], bool] = lambda: False) -> DenseComparison:
    """Trains the runs that are missing, measures all arms, and writes the reports.

    Raises:
        Interrupted: a stop was asked for; what is done is kept, and the same call goes on with the rest.
        MoecliError: a model does not fit this machine, or a training failed.
    """
    for arm in plan.arms:
        check_memory(arm.plan.memory.total, pick_device(arm.recipe.training.device))
    plan, finished = _train_missing(plan, listener, should_stop)
    runs_of = {arm.name: tuple(finished[arm.name, seed] for seed in plan.seeds) for arm in plan.arms}
    listener(Stage("measuring the memory of training"))
    peaks = measure_peak_memory(plan.arms)
    _check_stop(should_stop)
    listener(Stage("measuring the speed of generation"))
    speeds = measure_decode_speed(plan.arms, [runs_of[arm.name][0].run for arm in plan.arms])
    _check_stop(should_stop)
    results = [ArmResult(arm, runs_of[arm.name], peak, speed) for arm, peak, speed in zip(plan.arms, peaks, speeds, strict=True)]
    content = comparison_content(plan, results)
    listener(Stage("drawing"))
    files = write_dense_comparison_files(content, dense_comparison_target(plan.folder))
    return DenseComparison(content, plan.folder, files)


Finished = dict[tuple[str, int], FinishedRun]
"""(arm, seed) -> its run."""


def _train_missing(plan: ComparisonPlan, listener: Listener, should_stop: Callable[[], bool]) -> tuple[ComparisonPlan, Finished]:
    """All runs, and the plan with every length in it."""
    flops = {arm.name: float(arm.flops_per_run) for arm in plan.arms}
    progress = ComparisonProgress(flops, [(run.arm, float(run.state == "finished")) for run in plan.runs])
    finished: Finished = {}
    for number, run in enumerate(plan.runs):
        if not plan.arm(run.arm).is_length_known:
            plan = plan.with_time_steps(_steps_in_the_same_seconds(plan, finished))
            progress.set_flops(run.arm, plan.arm(run.arm).flops_per_run)
        if run.state != "finished":
            progress.begin(number)
            listener(RunBegun(run.arm, run.seed, number + 1, len(plan.runs)))
            _train(plan, run, _following(progress, listener, plan.arm(run.arm).recipe.training.steps), should_stop)
        finished[run.arm, run.seed] = read_finished(run.run)
    return plan, finished


def _train(plan: ComparisonPlan, run: PlannedRun, listener: Listener, should_stop: Callable[[], bool]) -> None:
    try:
        bring_to_end(run.run, plan.recipe(run), plan.data(run), listener, should_stop)
    except Interrupted as error:
        done = sum(other.state == "finished" for other in plan.runs[plan.runs.index(run) :]) + plan.runs.index(run)
        what = f"{error.what}; {done} of {len(plan.runs)} runs are done"
        raise Interrupted(what, where=f"{run.arm}, seed {run.seed}", next_step=GO_ON) from error


def _following(progress: ComparisonProgress, listener: Listener, steps: int) -> Listener:
    """Passes a run's events on, and tells after each that moves it how far the whole comparison is."""

    def listen(event: Event) -> None:
        listener(event)
        match event:
            case TrainingStarted(first_step=done):
                progress.goes_on_from(done / steps)
            case StepLogged(figures={"step": done}) | Validated(step=done):
                progress.reaches(done / steps)
                listener(progress.work_done())

    return listen


def _steps_in_the_same_seconds(plan: ComparisonPlan, finished: Finished) -> int:
    """How many steps of the active twin take as long as the MoE's training, by the runs of the first seed."""
    base, active = (finished[name, plan.seeds[0]] for name in (plan.base.name, plan.matched["active"].arm))
    return max(1, round(base.seconds / (active.seconds / active.steps)))


def _check_stop(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Interrupted("all runs are done, the reports are not written yet", next_step=GO_ON)
