"""`moecli convert RUN TARGET --to moecli`: a run whose first weights are those of another run, with that run's recipe and changes to it.

Knows runs and recipes. Must not know which changes leave the weights their meaning (convert/start.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moecli.convert.start import change_lines, changed_fields, changes_function, start_problems, with_weights_of
from moecli.convert.upcycle_proof import LogitDifference, logit_difference
from moecli.errors import ConvertError, FieldProblem
from moecli.model.accounting import ModelCost, model_cost
from moecli.model.gpt import GPT
from moecli.recipe.load import LoadedRecipe, load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.events import Listener, Stage
from moecli.workflows.first_checkpoint import FirstCheckpoint, check_is_free, write_first_checkpoint
from moecli.workflows.source_run import NO_TEXT, SourceRun, open_source


@dataclass(frozen=True, slots=True)
class StartRequest:
    """Which weights a run is to begin with, and what of the recipe is to be another."""

    source: Path
    """A run folder, or a checkpoint in one."""
    target: Path
    """The run folder to make."""
    recipe: str | None = None
    """A file or a shipped recipe's name. None: that of the source, with `overrides` laid over it."""
    overrides: Sequence[str] = ()
    dry_run: bool = False
    """Check and count; write nothing."""
    carry_optimizer: bool = False
    """Begin with the moments of the source's training."""


@dataclass(frozen=True, slots=True)
class Start:
    """A run that begins with another's weights, or would."""

    source: Path
    """The checkpoint."""
    target: Path
    recipe: Recipe
    cost: ModelCost
    changes: list[str]
    """Of the model, as key: old -> new."""
    changes_function: bool
    """Whether evaluation computes with one of them."""
    notices: tuple[str, ...]
    can_be_trained: bool
    """Whether the text to train on is known."""
    difference: LogitDifference | None = None
    """None in a dry run."""
    carried: int = 0
    """Parameters, each one tensor, that begin with moments of the source's training."""
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": "moecli",
            "verified": self.difference and self.difference.is_rounding,
            "max_abs_logit_diff": self.difference and self.difference.max_abs,
            "largest_logit": self.difference and self.difference.largest,
            "changes": self.changes,
            "optimizer_carried": self.carried,
            "params_total": self.cost.params_total,
            "params_active": self.cost.params_active,
            "files": [str(path) for path in self.files],
            "notes": list(self.notices),
        }


def start_run(request: StartRequest, listener: Listener) -> Start:
    """Makes the run folder, whole or not at all; in a dry run, says what it would hold.

    Raises:
        ConvertError: a change gives the weights another shape or meaning, the tokens are others, the source has numbers that are none
            or no optimizer state to carry over, the target is taken, or the logits are not what they have to be.
        MoecliError: the source or the recipe can't be read.
    """
    check_is_free(request.target)
    listener(Stage("reading the run"))
    source = open_source(request.source)
    loaded = _fitting_recipe(source, request)
    recipe, changed = loaded.recipe, changed_fields(source.model.config, loaded.recipe.model)
    fingerprint = source.data_fingerprint(recipe)
    moments = source.moments() if request.carry_optimizer else {}
    result = Start(
        source=source.checkpoint,
        target=request.target,
        recipe=recipe,
        cost=model_cost(recipe.model, source.model.vocab_size, recipe.data.seq_len),
        changes=change_lines(changed),
        changes_function=changes_function(changed),
        notices=loaded.notices if fingerprint else (*loaded.notices, NO_TEXT),
        can_be_trained=fingerprint is not None,
        carried=len(moments),
    )
    if request.dry_run:
        return result
    listener(Stage("comparing the logits"))
    model = with_weights_of(source.model, recipe.model)
    result = replace(result, difference=_measured(source.model, model, result))
    origin = {key: value for key, value in result.to_json().items() if key not in ("target", "files")}
    first = FirstCheckpoint(recipe, model, source.tokenizer.json, fingerprint, origin, moments)
    return replace(result, files=write_first_checkpoint(request.target, first))


def _fitting_recipe(source: SourceRun, request: StartRequest) -> LoadedRecipe:
    """The recipe of the new run.

    Raises:
        ConvertError: the weights can't be those of its model.
        RecipeError: it can't be read.
    """
    loaded = load_recipe(request.recipe or source.run.recipe, request.overrides)
    changed = changed_fields(source.model.config, loaded.recipe.model)
    problems = [problem.under("model") for problem in start_problems(changed)]
    if loaded.recipe.objective != source.recipe.objective:
        problems.append(FieldProblem("objective", f"{loaded.recipe.objective} is not that of the source", allowed=source.recipe.objective))
    if problems:
        lines = [f"  {problem.field}: {problem.what} (allowed: {problem.allowed})" for problem in problems]
        next_step = "for an MoE from a dense run give --upcycle; for other experts or another router --resize"
        raise ConvertError("\n".join(["its weights can't begin this run:", *lines]), where=str(source.checkpoint), next_step=next_step)
    return loaded


def _measured(before: GPT, after: GPT, result: Start) -> LogitDifference:
    """How far the logits lie apart; it must be rounding where nothing was changed that evaluation computes with."""
    difference = logit_difference(before, after, result.recipe.data.seq_len)
    if not result.changes_function and not difference.is_rounding:
        what = f"the logits differ by {difference.max_abs:.3g}, although nothing was changed that they depend on"
        raise ConvertError(what, where=str(result.source), next_step="nothing was written; this is a bug in moecli, report it")
    return difference
