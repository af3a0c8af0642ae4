"""`moecli convert --mix`: from several dense runs to the run folder of one MoE that is ready to be trained.

Knows runs and recipes. Must not know how weights are mixed (convert/mix.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moecli.convert.mix import MixOptions, average, domain_rows, mean_router_inputs, mix, output_factor
from moecli.convert.mix_check import are_equal, mix_problems, settings_that_fit, source_problems
from moecli.convert.upcycle import UpcycleOptions, moe_layers
from moecli.convert.upcycle_check import departures
from moecli.convert.upcycle_proof import LogitDifference, logit_difference
from moecli.errors import ConvertError, FieldProblem
from moecli.model.accounting import FLOAT32_BYTES, ModelCost, model_cost
from moecli.model.device import check_memory
from moecli.model.gpt import GPT
from moecli.recipe.load import LoadedRecipe, load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.events import Listener, Stage
from moecli.workflows.first_checkpoint import FirstCheckpoint, check_is_free, write_first_checkpoint
from moecli.workflows.mix_text import has_text, overlap_notes, training_sample
from moecli.workflows.source_run import NO_TEXT, SourceRun, open_source


@dataclass(frozen=True, slots=True)
class MixRequest:
    """What is to become what."""

    sources: Sequence[Path]
    """Run folders of dense models, or checkpoints in such; number e becomes expert e."""
    target: Path
    """The run folder to make."""
    options: MixOptions
    recipe: str | None = None
    """The recipe of the MoE, a file or a shipped one's name. None: that of the first source, with `overrides` laid over it."""
    overrides: Sequence[str] = ()
    dry_run: bool = False
    """Check and count; measure, mix and write nothing."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """An MoE that was made from several dense models, or would be."""

    sources: list[Path]
    """The checkpoints, in the order of the experts."""
    target: Path
    options: MixOptions
    recipe: Recipe
    source_cost: ModelCost
    """Of one source."""
    cost: ModelCost
    output_factor: float
    """What the output projections of the experts were multiplied by."""
    notices: tuple[str, ...]
    """What was changed in the recipe, and what is to be known of the text."""
    difference: LogitDifference | None = None
    """From the sources' logits, where all have the same weights; else None, as in a dry run: the mixture is a new function."""
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.sources[0]),
            "sources": [str(path) for path in self.sources],
            "target": str(self.target),
            "format": "moecli",
            "mix": asdict(self.options),
            "output_factor": self.output_factor,
            "verified": self.difference and self.difference.is_rounding,
            "max_abs_logit_diff": self.difference and self.difference.max_abs,
            "largest_logit": self.difference and self.difference.largest,
            "params_total": self.cost.params_total,
            "params_active": self.cost.params_active,
            "source_params_total": self.source_cost.params_total,
            "files": [str(path) for path in self.files],
            "notes": list(self.notices),
        }


def mix_runs(request: MixRequest, listener: Listener) -> Mixing:
    """Makes the MoE's run folder, whole or not at all; in a dry run, says what it would hold.

    Raises:
        ConvertError: there are not two sources, they differ, are not dense, don't fit the recipe or have numbers that are none; the target
            is taken; a source's text is not known where the router needs it; or equal sources did not give an equal model.
        MoecliError: a source, its text or the recipe can't be read.
    """
    check_is_free(request.target)
    if len(request.sources) < 2:
        what = "one source can't be mixed"
        raise ConvertError(what, where=str(request.sources[0]), next_step="name two or more, or give --upcycle copies for copies of one")
    listener(Stage("reading the dense models"))
    sources = [open_source(path) for path in request.sources]
    _check_sources(sources)
    loaded = _fitting_recipe(sources, request)
    recipe, first = loaded.recipe, sources[0]
    fingerprint = first.data_fingerprint(recipe)
    result = Mixing(
        sources=[source.checkpoint for source in sources],
        target=request.target,
        options=request.options,
        recipe=recipe,
        source_cost=model_cost(first.model.config, first.model.vocab_size, recipe.data.seq_len),
        cost=model_cost(recipe.model, first.model.vocab_size, recipe.data.seq_len),
        output_factor=output_factor(recipe.model),
        notices=(*loaded.notices, *(overlap_notes(recipe, sources) if fingerprint is not None else (NO_TEXT,))),
    )
    # The average is one more.
    num_bytes = ((len(sources) + 1) * result.source_cost.params_total + result.cost.params_total) * FLOAT32_BYTES
    check_memory(num_bytes, torch.device("cpu"), "mixing", "mix fewer runs")
    return result if request.dry_run else _made(sources, result, fingerprint, listener)


def _made(sources: Sequence[SourceRun], result: Mixing, fingerprint: str | None, listener: Listener) -> Mixing:
    """The same with the run folder written."""
    models, recipe, options = [source.model for source in sources], result.recipe, result.options
    rows = _domain_rows(sources, moe_layers(recipe.model), listener) if options.router_init == "domain" else None
    listener(Stage("mixing"))
    model = mix(models, recipe.model, options, rows)
    result = replace(result, difference=_measured(models, model, result))
    origin = {key: value for key, value in result.to_json().items() if key not in ("target", "files")}
    first = FirstCheckpoint(recipe, model, sources[0].tokenizer.json, fingerprint, origin)
    return replace(result, files=write_first_checkpoint(result.target, first))


def _check_sources(sources: Sequence[SourceRun]) -> None:
    """Raises ConvertError with every difference of every source from the first, and every source that is not dense."""
    first, lines = sources[0], []
    for source in sources:
        problems = [problem.under("model") for problem in source_problems(first.model, source.model)]
        if source.tokenizer.content_hash != first.tokenizer.content_hash:
            problems.append(FieldProblem("data.tokenizer", "the tokenizer is not that of the first source, so ids mean other text"))
        if source.recipe.objective != first.recipe.objective:
            what = f"{source.recipe.objective} is not that of the first source"
            problems.append(FieldProblem("objective", what, allowed=first.recipe.objective))
        lines += [f"  {source.run.path}: {_line(problem)}" for problem in problems]
    if lines:
        next_step = "mix dense runs of one shape and one tokenizer, such as runs that began with the same weights (--to moecli)"
        raise ConvertError("\n".join(["these can't be mixed:", *lines]), where=str(first.run.path), next_step=next_step)


def _fitting_recipe(sources: Sequence[SourceRun], request: MixRequest) -> LoadedRecipe:
    """The recipe of the MoE.

    Raises:
        ConvertError: the sources can't become it.
        RecipeError: it can't be read.
    """
    first, init = sources[0], request.options.router_init
    loaded = load_recipe(request.recipe or first.run.recipe, request.overrides)
    problems = [problem.under("model") for problem in mix_problems(first.model.config, loaded.recipe.model, len(sources), init)]
    if loaded.recipe.objective != first.recipe.objective:
        problems.append(FieldProblem("objective", f"{loaded.recipe.objective} is not that of the sources", allowed=first.recipe.objective))
    if problems:
        settings = settings_that_fit(first.model.config, len(sources)).items()
        next_step = "what fits is " + " ".join(f"--set {key}={value}" for key, value in settings)
        lines = [f"  {_line(problem)}" for problem in problems]
        raise ConvertError("\n".join(["the dense models can't become this MoE:", *lines]), where=loaded.source, next_step=next_step)
    unknown = [str(source.run.path) for source in sources if init == "domain" and not has_text(source)]
    if unknown:
        what = f"the text that it was trained on is not known: {', '.join(unknown)}"
        raise ConvertError(what, where="--router-init domain", next_step="give --router-init random")
    return loaded


def _line(problem: FieldProblem) -> str:
    return f"{problem.field}: {problem.what}" + (f" (allowed: {problem.allowed})" if problem.allowed else "")


def _domain_rows(sources: Sequence[SourceRun], layers: Sequence[int], listener: Listener) -> dict[int, torch.Tensor]:
    """The router's first weights, from text of each source in the average of all."""
    model, means = average([source.model for source in sources]), []
    for number, source in enumerate(sources):
        listener(Stage(f"reading text of source {number + 1} of {len(sources)}"))
        means.append(mean_router_inputs(model, training_sample(source), layers))
    return domain_rows(means)


def _measured(models: list[GPT], model: GPT, result: Mixing) -> LogitDifference | None:
    """How far the logits lie from those of the sources, where these are all the same; it must be rounding where nothing departs."""
    if not are_equal(models):
        return None
    difference = logit_difference(models[0], model, result.recipe.data.seq_len)
    if not difference.is_rounding and not departures(result.recipe.model, UpcycleOptions("copies")):
        what = f"the logits differ by {difference.max_abs:.3g}, although all sources are the same"
        raise ConvertError(what, where=str(result.sources[0]), next_step="nothing was written; this is a bug in moecli, report it")
    return difference
