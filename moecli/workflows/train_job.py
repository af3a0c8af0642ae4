"""The hooks of one training: what is done with a logged step, a validation, a checkpoint, and at the end.

Knows a trainer and its run folder. Must not know when the hooks are called (training/loop.py), nor how the pieces came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moecli.analysis.load_report import LoadCollector, LoadReport
from moecli.data.batches import Batch
from moecli.data.prepare import PreparedData
from moecli.errors import Interrupted
from moecli.evaluation.evaluate import Evaluation
from moecli.moe.routing import RoutingRecord
from moecli.parallel.rank_batches import evaluation_rows
from moecli.parallel.whole_state import reshard
from moecli.parallel.world import on_first
from moecli.recipe.leak_notes import leak_notes, leaks_json
from moecli.recipe.schema import Recipe
from moecli.reports import TRAINING_REPORTS
from moecli.training.guards import TrainingWatch
from moecli.training.loop import Hooks
from moecli.training.metric_log import MetricLog
from moecli.training.trainer import Trainer
from moecli.workflows.checkpoints import point_best, prune, save_checkpoint
from moecli.workflows.evaluate_split import evaluate_split
from moecli.workflows.events import CheckpointSaved, Listener, StepLogged, Validated, Warned
from moecli.workflows.run_dir import RunDir, atomic_folder, writing


@dataclass(slots=True)
class TrainJob:
    """One training, and what its hooks need. Of a world every process has one and calls the same hooks; the first alone has the log and
    the losses, writes files and tells the listener."""

    recipe: Recipe
    run: RunDir
    data: PreparedData
    trainer: Trainer
    listener: Listener
    should_stop: Callable[[], bool]
    """Of a world: whether any process is asked to."""
    metric_log: MetricLog = field(init=False)
    watch: TrainingWatch = field(init=False)
    val_losses: dict[int, float] = field(init=False)
    """Those that are numbers, by step."""

    def hooks(self) -> Hooks:
        return Hooks(log=self.log, validate=self.validate, save=self.save, should_stop=self.should_stop)

    def begin_log(self, last_step: int) -> None:
        """Cuts metrics.jsonl back to a step; called before any hook is, on the first process. The watch sees what is left, so that nothing
        is told twice."""
        with writing(self.run.metrics):
            self.metric_log = MetricLog(self.run.metrics, last_step)
        self.watch = TrainingWatch(learns_routing=self.recipe.model.ffn.learns_routing)
        self.val_losses = {}
        for line in self.metric_log.lines():
            self.watch.look(line)
            self._note_val_loss(line)

    def append(self, figures: dict[str, Any]) -> None:
        with writing(self.run.metrics):
            self.metric_log.append(figures)

    def log(self, figures: dict[str, Any]) -> None:
        on_first(self.trainer.world, lambda: self._log(figures))

    def _log(self, figures: dict[str, Any]) -> None:
        self.append(figures)
        self.listener(StepLogged(figures))
        for warning in self.watch.look(figures):
            self.append({"step": figures["step"], "warning": warning})
            self.listener(Warned(warning))

    def validate(self, step: int) -> bool:
        """Whether the model of this step is to be kept as the best so far. Leaves off half-way if a stop is asked for: the loop then
        saves and says so."""
        with suppress(_StopAskedError):
            evaluation = self._evaluate()
            return on_first(self.trainer.world, lambda: self._is_best(step, evaluation))
        return False

    def _is_best(self, step: int, evaluation: Evaluation) -> bool:
        self._validated(step, evaluation)
        earlier = [loss for before, loss in self.val_losses.items() if before < step]
        return self.recipe.training.keep_best and step in self.val_losses and all(evaluation.loss < loss for loss in earlier)

    def save(self, step: int) -> None:
        on_first(self.trainer.world, self._flush_log)
        is_new = not self.run.checkpoint(step).exists()  # else it was told before
        target = save_checkpoint(self.run, self.trainer, step)
        on_first(self.trainer.world, lambda: self._saved(target, is_new))

    def _flush_log(self) -> None:
        with writing(self.run.metrics):
            self.metric_log.flush()

    def _saved(self, target: Path, is_new: bool) -> None:
        self._tidy()
        if is_new:
            self.listener(CheckpointSaved(target))

    def finish(self) -> tuple[Evaluation, LoadReport, list[Path]]:
        """The final loss and the load over the validation text, written to routing/.

        Raises:
            Interrupted: a stop was asked for; all steps are done and saved.
        """
        world = self.trainer.world
        collector = LoadCollector() if world is None else LoadCollector(world.add_up)
        try:
            evaluation = self._evaluate(collector)
        except _StopAskedError:
            what = "stopped during the final evaluation; all steps are done and saved"
            raise Interrupted(what, next_step="add --resume to evaluate, or call `moecli eval`") from None
        report = collector.report()
        return evaluation, report, on_first(world, lambda: self._finished(evaluation, report))

    def _finished(self, evaluation: Evaluation, report: LoadReport) -> list[Path]:
        self._validated(self.recipe.training.steps, evaluation)
        self._tidy()
        return self._write_reports(report) if report.layers else []

    def _tidy(self) -> None:
        """Brings the links and the number of checkpoints to what the recipe says."""
        point_best(self.run, self.val_losses if self.recipe.training.keep_best else {})
        prune(self.run, self.recipe.training.keep_last)

    def _note_val_loss(self, line: dict[str, Any]) -> None:
        loss = line.get("val_loss")
        if isinstance(loss, float) and math.isfinite(loss):
            self.val_losses[line["step"]] = loss

    def _evaluate(self, collector: LoadCollector | None = None) -> Evaluation:
        world = self.trainer.world

        def observe(batch: Batch, records: tuple[RoutingRecord | None, ...]) -> None:
            if self.should_stop():
                raise _StopAskedError
            if collector is not None:
                collector.add(records, counts=world is None or bool(evaluation_rows(len(batch.ids_BS), world)))

        try:
            return evaluate_split(self.trainer.model, self.recipe, self.data.validation, self.data.tokenizer.vocab_size, observe, world)
        finally:
            if world is not None:
                reshard(self.trainer.model)

    def _validated(self, step: int, evaluation: Evaluation) -> None:
        line = {"step": step, "val_loss": evaluation.loss, "val_tokens": evaluation.tokens}
        self.append(line)
        self._note_val_loss(line)
        self.listener(Validated(step, evaluation))

    def _write_reports(self, report: LoadReport) -> list[Path]:
        with atomic_folder(self.run.routing) as folder:
            content = report.to_json() | leaks_json(self.recipe) | {"notes": leak_notes(self.recipe)}
            (folder / "load.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            for name, draw in TRAINING_REPORTS.items():
                draw(content, folder / name)
        return [self.run.routing / name for name in ("load.json", *TRAINING_REPORTS)]


class _StopAskedError(Exception):
    """Carries a stop request out of an evaluation."""
