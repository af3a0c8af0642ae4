"""The run folders of a comparison: what of them is there already, how one is trained, and what a finished one tells.

Knows run folders. Must not know what the runs are compared for.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moecli.data.json_file import read_object
from moecli.data.prepare import PreparedData, prepare
from moecli.errors import RunError, TrainingError
from moecli.recipe.schema import Recipe
from moecli.training.metric_log import read_metrics
from moecli.workflows.events import Listener
from moecli.workflows.resume import check_same_data, check_same_recipe
from moecli.workflows.run_dir import LOCK_FILE, RunDir, checkpoint_steps, is_run_without_checkpoint, point_latest, writing
from moecli.workflows.train import train

RunState = Literal["to begin", "to go on", "finished"]

# What a training has made of its folder when it is killed before its first checkpoint.
EARLY_FILES = ("recipe.yaml", "environment.json", "tokenizer.json", "metrics.jsonl", "checkpoints", LOCK_FILE)
LOADS = ("cv_load", "max_violation", "dead_experts", "dropped_fraction")
MACHINE = {"device": str, "threads": int, "cpus": int | None, "platform": str, "products_in_c": bool}
# Seconds or nats: more has never been measured, and a drawing would overflow.
MOST = 1e12
OTHER_PLACE = "give another --out, or remove this folder if the run is not needed"


def run_state(run: RunDir, recipe: Recipe, data: PreparedData) -> RunState:
    """How far the training of this recipe is. What is not a run of it is never touched.

    Raises:
        MoecliError: something else is in its place: files, or a run of another recipe or text.
    """
    if not run.path.exists():
        return "to begin"
    if not run.latest.exists() and _last_checkpoint(run) is None:
        _check_is_early(run)
        return "to begin"
    check_same_recipe(run, recipe, may_differ=(), next_step=OTHER_PLACE)
    check_same_data(run, data, next_step=f"bring the old text (for stdlib, the Python version) back, or {OTHER_PLACE}")
    result = read_result(run)
    return "finished" if result is not None and result["steps"] == recipe.training.steps else "to go on"


def bring_to_end(run: RunDir, recipe: Recipe, data: PreparedData, listener: Listener, should_stop: Callable[[], bool]) -> None:
    """Trains what is missing: nothing, the rest, or all. A run that was killed before its first checkpoint is begun again."""
    state = run_state(run, recipe, data)
    if state == "finished":
        return
    if prepare(recipe.data).fingerprint != data.fingerprint:
        what = "the text has changed since this comparison was begun, and a run on other text can't be compared with the others"
        raise RunError(what, where=str(run.path), next_step=f"bring the old text back, or {OTHER_PLACE}")
    last = _last_checkpoint(run)
    if not run.latest.exists() and last is not None:  # killed before the link was made, or copied without it
        point_latest(run, last)
    if state == "to begin" and run.path.exists():
        with writing(run.path):
            shutil.rmtree(run.path)
    if state == "to go on" and not run.result.is_dir():
        with writing(run.result):
            run.result.unlink(missing_ok=True)  # damaged, or of a shorter training: it is made again
    train(recipe, out=run.path, resume=state == "to go on", listener=listener, should_stop=should_stop)


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a training has come to, and its way there."""

    run: RunDir
    val_loss: float
    """Nats per token, at the end."""
    bits_per_byte: float | None
    load: dict[str, float] | None
    """Over the validation text: means over layers, dead experts their sum; None where nothing routes."""
    seconds: float
    """Of all steps, without validating and saving, the parts before and after an interruption added up."""
    validated_steps: tuple[int, ...]
    """Steps done at each validation, the last one included."""
    val_losses: tuple[float, ...]
    validated_seconds: tuple[float, ...]
    """Of the steps until each validation."""
    seconds_per_step: float
    """Median over the logged windows after the first, in which the model is compiled and caches are cold."""
    machine: dict[str, Any]
    """What seconds depend on: the values of MACHINE in its environment.json."""
    num_rewinds: int
    """How often numbers were not finite and the training went back to a checkpoint."""
    warnings: tuple[str, ...]
    """What looked wrong on the way, each kind once."""

    @property
    def steps(self) -> int:
        return self.validated_steps[-1]


def read_finished(run: RunDir) -> FinishedRun:
    """Reads a run whose state is "finished".

    Raises:
        TrainingError: its final loss is no number.
        RunError: its metrics are damaged.
    """
    result = read_result(run)
    assert result is not None
    if result["val_loss"] is None:
        remove = "remove this folder, so that the run is made again"
        next_step = f"lower training.learning_rate and give another --out; if the machine was at fault, {remove}"
        raise TrainingError("the loss on the validation text is no number at the end", where=str(run.path), next_step=next_step)
    lines = read_metrics(run.metrics)
    try:
        logged = [(line["step"], line["tokens"], line["tokens_per_s"]) for line in lines if "tokens_per_s" in line]
        validated = {line["step"]: float(line["val_loss"]) for line in lines if "val_loss" in line}
        steps, seconds = _seconds_by_step(logged)
        per_step = [tokens / step / tokens_per_s for step, tokens, tokens_per_s in logged]
        if not all(0 <= value < MOST for value in (*seconds, *per_step, *validated.values())) or min(per_step, default=1.0) == 0:
            raise ValueError("a time or a loss that can't be")
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise RunError(f"damaged: {error!r}", where=str(run.metrics), next_step=OTHER_PLACE) from error
    if not validated or not logged or max(validated) != result["steps"] or steps[-1] != result["steps"]:
        raise RunError("does not reach the end of the training", where=str(run.metrics), next_step=OTHER_PLACE)
    mean = result["load"]["mean"]
    return FinishedRun(
        run=run,
        val_loss=result["val_loss"],
        bits_per_byte=result["bits_per_byte"],
        load={key: mean[key] for key in LOADS} if mean else None,
        seconds=seconds[-1],
        validated_steps=tuple(sorted(validated)),
        val_losses=tuple(validated[step] for step in sorted(validated)),
        validated_seconds=tuple(np.interp(sorted(validated), steps, seconds).tolist()),
        seconds_per_step=statistics.median(per_step[1:] or per_step),
        machine=_read_machine(run),
        num_rewinds=sum("rewind" in line for line in lines),
        warnings=tuple(str(line["warning"]) for line in lines if "warning" in line),
    )


def _read_machine(run: RunDir) -> dict[str, Any]:
    environment = read_object(run.environment, OTHER_PLACE)
    machine = {key: environment.value(key) for key in MACHINE if key != "products_in_c"}
    machine["products_in_c"] = environment.content.get("products_in_c", False)  # a run from before there were any says nothing
    for key, value in machine.items():
        is_of_type = isinstance(value, MACHINE[key]) and isinstance(value, bool) == (MACHINE[key] is bool)
        if not is_of_type or (type(value) is int and value < 1):
            raise environment.wrong(f"{key} is {value!r}")
    return machine


def _seconds_by_step(logged: Sequence[tuple[int, int, float]]) -> tuple[list[int], list[float]]:
    """Steps that were logged, 0 before them, and the seconds that training had taken by each."""
    steps, seconds, tokens_before = [0], [0.0], 0
    for step, tokens, tokens_per_s in logged:
        steps.append(step)
        seconds.append(seconds[-1] + (tokens - tokens_before) / tokens_per_s)
        tokens_before = tokens
    return steps, seconds


def read_result(run: RunDir) -> dict[str, Any] | None:
    """None where there is none, or not a whole one: then the end of the training is done again. A loss that is no number is null."""
    try:
        result = read_object(run.result, OTHER_PLACE).content
        mean = result["load"]["mean"]
        qualities = [result[key] for key in ("val_loss", "bits_per_byte")]
        has_numbers = all(value is None or _is_number(value) for value in qualities) and type(result["steps"]) is int
        return result if has_numbers and (mean == {} or all(_is_number(mean[key]) for key in LOADS)) else None
    except (RunError, KeyError, TypeError):
        return None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _check_is_early(run: RunDir) -> None:
    """Raises RunError where the folder holds anything that a training killed before its first checkpoint does not leave."""
    if not run.path.is_dir():
        raise RunError("is no folder, so no run can be put there", where=str(run.path), next_step=OTHER_PLACE)
    names = sorted(path.name for path in run.path.iterdir())
    foreign = [name for name in names if name not in EARLY_FILES and not name.startswith(tuple(f".{early}-" for early in EARLY_FILES))]
    if run.checkpoints.is_dir():
        foreign += sorted(f"{run.checkpoints.name}/{path.name}" for path in run.checkpoints.iterdir() if not path.name.startswith("."))
    if foreign or (names and not is_run_without_checkpoint(run.path)):
        what = f"{(foreign or names)[0]} is here, which is not of a run that could go on, and would be lost"
        raise RunError(what, where=str(run.path), next_step=OTHER_PLACE)


def _last_checkpoint(run: RunDir) -> Path | None:
    """Of those that are there, which are whole: they are renamed into place."""
    steps = checkpoint_steps(run)
    return steps[max(steps)] if steps else None


def as_run_dir(folder: Path, arm: str, seed: int) -> RunDir:
    """Where in a comparison's folder the run of an arm and a seed lies."""
    return RunDir(folder / "runs" / arm / f"seed-{seed}")
