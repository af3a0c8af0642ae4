"""`moecli compare-dense`: trains an MoE and its dense twins over seeds, measures them, and says what came out.

Knows the order of the pieces. Must not know screens or signals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.errors import Interrupted, MoecliError
from moecli.model.device import check_memory, pick_device
from moecli.workflows.compare_content import comparison_content
from moecli.workflows.compare_measures import measure_decode_speed, measure_peak_memory
from moecli.workflows.compare_plan import ComparisonPlan, PlannedRun
from moecli.workflows.compare_progress import ComparisonProgress
from moecli.workflows.compare_results import ArmResult
from moecli.workflows.compare_runs import FinishedRun, bring_to_end, read_finished
from moecli.workflows.events import Event, Listener, RunBegun, RunsDone, Stage, StepLogged, TrainingStarted, Validated
from moecli.workflows.sole_use import sole_use
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
        MoecliError: a model does not fit this machine, another process is at work in the folder, or a training failed: then with its name.
    """
    for arm in plan.arms:
        check_memory(arm.plan.memory.total, pick_device(arm.recipe.training.device))
    _check_memory_of_generation(plan)
    with sole_use(plan.folder, "another comparison"):
        return _compare(plan, listener, should_stop)


def _compare(plan: ComparisonPlan, listener: Listener, should_stop: Callable[[], bool]) -> DenseComparison:
    plan, finished = _train_missing(plan, listener, should_stop)
    listener(RunsDone())
    _check_stop(should_stop)
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


def _check_memory_of_generation(plan: ComparisonPlan) -> None:
    """Before hours of training, not after: the models take turns when generation is timed, so all are loaded."""
    weight_bytes = {arm.recipe.model.model_dump_json(): arm.plan.memory.weights for arm in plan.arms}
    check_memory(
        sum(weight_bytes.values()),
        pick_device(plan.base.recipe.training.device),
        what="timing the generation of all arms side by side",
        next_step="compare fewer arms at a time",
    )


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
    """Trains one run. What goes wrong in it is told with its name and what is done of the whole."""
    try:
        bring_to_end(run.run, plan.recipe(run), plan.data(run), listener, should_stop)
    except MoecliError as error:
        done = sum(other.state == "finished" for other in plan.runs[plan.runs.index(run) :]) + plan.runs.index(run)
        raise type(error)(
            f"{error.what}; {done} of {len(plan.runs)} runs are done",
            where=": ".join(filter(None, [f"{run.arm}, seed {run.seed}", error.where])),
            allowed=error.allowed,
            next_step=GO_ON if isinstance(error, Interrupted) else error.next_step,
        ) from error


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
    """How many steps of the active twin take as long as the MoE's training, by the runs of the first seed and what a step takes in them.

    The time before steps go at their usual pace comes once, however many there are: it is in neither.
    """
    base, active = (finished[name, plan.seeds[0]] for name in (plan.base.name, plan.matched["active"].arm))
    return max(1, round(base.steps * base.seconds_per_step / active.seconds_per_step))


def _check_stop(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise Interrupted("all runs are done, the reports are not written yet", next_step=GO_ON)
