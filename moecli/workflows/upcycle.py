"""`moecli convert --upcycle`: from a dense run to an MoE's run folder that is ready to be trained, with the proof of what was kept.

Knows runs and recipes. Must not know how weights become experts (convert/upcycle.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moecli.convert.upcycle import UpcycleOptions, output_factor, upcycle
from moecli.convert.upcycle_check import departures, upcycle_problems
from moecli.convert.upcycle_moments import carried_moments
from moecli.convert.upcycle_proof import LogitDifference, logit_difference
from moecli.errors import ConvertError, FieldProblem
from moecli.model.accounting import FLOAT32_BYTES, ModelCost, model_cost
from moecli.model.device import check_memory
from moecli.model.gpt import GPT
from moecli.recipe.load import LoadedRecipe, load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.events import Listener, Stage
from moecli.workflows.first_checkpoint import FirstCheckpoint, check_is_free, write_first_checkpoint
from moecli.workflows.source_run import NO_TEXT, SourceRun, open_source


@dataclass(frozen=True, slots=True)
class UpcycleRequest:
    """What is to become what."""

    source: Path
    """A run folder of a dense model, or a checkpoint in one."""
    target: Path
    """The run folder to make."""
    options: UpcycleOptions
    recipe: str | None = None
    """The recipe of the MoE, a file or a shipped one's name. None: that of the source, with `overrides` laid over it."""
    overrides: Sequence[str] = ()
    dry_run: bool = False
    """Check and count; convert and write nothing."""
    carry_optimizer: bool = False
    """Begin with the moments of the dense training, where a parameter has a counterpart there."""


@dataclass(frozen=True, slots=True)
class Upcycling:
    """An MoE that was made from a dense model, or would be."""

    source: Path
    """The checkpoint."""
    target: Path
    options: UpcycleOptions
    recipe: Recipe
    source_cost: ModelCost
    cost: ModelCost
    output_factor: float
    """What the output projections of the routed experts were multiplied by."""
    departures: list[str]
    """Why the MoE does not compute what the dense model does; empty where it does."""
    notices: tuple[str, ...]
    """What was changed in the recipe on the way, and what is missing."""
    can_be_trained: bool
    """Whether the text to train on is known."""
    difference: LogitDifference | None = None
    """None in a dry run."""
    carried: int = 0
    """Parameters, each one tensor, that begin with moments of the dense training."""
    files: list[Path] = field(default_factory=list)

    @property
    def is_same_function(self) -> bool | None:
        """Whether the logits are those of the dense model up to rounding, as measured; None in a dry run."""
        return None if self.difference is None else self.difference.is_rounding

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": "moecli",
            "upcycle": asdict(self.options),
            "output_factor": self.output_factor,
            "optimizer_carried": self.carried,
            "verified": self.is_same_function,
            "max_abs_logit_diff": self.difference and self.difference.max_abs,
            "largest_logit": self.difference and self.difference.largest,
            "departures": self.departures,
            "params_total": self.cost.params_total,
            "params_active": self.cost.params_active,
            "source_params_total": self.source_cost.params_total,
            "files": [str(path) for path in self.files],
            "notes": list(self.notices),
        }


def upcycle_run(request: UpcycleRequest, listener: Listener) -> Upcycling:
    """Makes the MoE's run folder, whole or not at all; in a dry run, says what it would hold.

    Raises:
        ConvertError: the source is not dense, does not fit the recipe, has numbers that are none, or has no optimizer state to carry over;
            the target is taken; or the logits are not what they have to be.
        MoecliError: the source or the recipe can't be read.
    """
    check_is_free(request.target)
    listener(Stage("reading the dense model"))
    source = open_source(request.source)
    loaded = _fitting_recipe(source, request)
    dense, recipe, options = source.model, loaded.recipe, request.options
    fingerprint = source.data_fingerprint(recipe)
    result = Upcycling(
        source=source.checkpoint,
        target=request.target,
        options=options,
        recipe=recipe,
        source_cost=model_cost(dense.config, dense.vocab_size, recipe.data.seq_len),
        cost=model_cost(recipe.model, dense.vocab_size, recipe.data.seq_len),
        output_factor=output_factor(dense.config, recipe.model, options),
        departures=departures(recipe.model, options),
        notices=loaded.notices if fingerprint else (*loaded.notices, NO_TEXT),
        can_be_trained=fingerprint is not None,
    )
    moments = source.moments() if request.carry_optimizer else {}
    num_bytes = (result.source_cost.params_total + result.cost.params_total) * FLOAT32_BYTES * (3 if moments else 1)
    check_memory(num_bytes, torch.device("cpu"), "upcycling", "ask for fewer experts")
    if request.dry_run:
        return result
    listener(Stage("making experts and comparing the logits"))
    upcycled = upcycle(dense, recipe.model, options)
    carried = carried_moments(moments, dense.config, upcycled, options)
    result = replace(result, difference=_measured(dense, upcycled.model, result), carried=len(carried))
    origin = {key: value for key, value in result.to_json().items() if key not in ("target", "files")}
    first = FirstCheckpoint(recipe, upcycled.model, source.tokenizer.json, fingerprint, origin, carried)
    return replace(result, files=write_first_checkpoint(request.target, first))


def _fitting_recipe(source: SourceRun, request: UpcycleRequest) -> LoadedRecipe:
    """The recipe of what the dense model is to become.

    Raises:
        ConvertError: the two don't fit.
        RecipeError: it can't be read.
    """
    loaded = load_recipe(request.recipe or source.run.recipe, request.overrides)
    problems = [problem.under("model") for problem in upcycle_problems(source.model, loaded.recipe.model, request.options.method)]
    if loaded.recipe.objective != source.recipe.objective:
        problems.append(FieldProblem("objective", f"{loaded.recipe.objective} is not that of the source", allowed=source.recipe.objective))
    if problems:
        lines = [f"  {problem.field}: {problem.what} (allowed: {problem.allowed})" for problem in problems]
        raise ConvertError("\n".join(["the dense model can't become this MoE:", *lines]), where=loaded.source)
    return loaded


def _measured(dense: GPT, model: GPT, result: Upcycling) -> LogitDifference:
    """How far the logits lie apart; it must be rounding where nothing departs from the dense model."""
    difference = logit_difference(dense, model, result.recipe.data.seq_len)
    if not result.departures and not difference.is_rounding:
        what = f"the logits differ by {difference.max_abs:.3g}, although {result.options.method} keeps the function here"
        raise ConvertError(what, where=str(result.source), next_step="nothing was written; this is a bug in moecli, report it")
    return difference
