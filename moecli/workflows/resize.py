"""`moecli convert --resize`: from an MoE's run to the run folder of a smaller, larger or other one, with what that changed measured.

Knows runs and recipes. Must not know what becomes of the weights (convert/resize).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moecli.convert.features import moe_layers
from moecli.convert.resize.check import recipe_problems, resize_problems
from moecli.convert.resize.departures import departures
from moecli.convert.resize.layers import moe_of
from moecli.convert.resize.operations import Measured, resize
from moecli.convert.resize.options import LayerChange, ResizeOptions
from moecli.convert.resize.shape import resized_feed_forward
from moecli.convert.resize.split import has_ties
from moecli.convert.upcycle_proof import LogitDifference, logit_difference
from moecli.errors import ConvertError, FieldProblem
from moecli.model.accounting import FLOAT32_BYTES, ModelCost, model_cost
from moecli.model.config import GPTConfig
from moecli.model.device import check_memory, pick_device
from moecli.recipe.load import LoadedRecipe, parse_recipe
from moecli.recipe.rules import WITHOUT_ROUTER
from moecli.recipe.schema import Recipe
from moecli.recipe.yaml_source import write_yaml
from moecli.workflows.events import Listener, Stage
from moecli.workflows.expert_scores import measure_experts
from moecli.workflows.first_checkpoint import FirstCheckpoint, check_is_free, write_first_checkpoint
from moecli.workflows.source_run import NO_TEXT, SourceRun, open_source


@dataclass(frozen=True, slots=True)
class ResizeRequest:
    """What is to become what."""

    source: Path
    """A run folder of an MoE, or a checkpoint in one."""
    target: Path
    """The run folder to make."""
    options: ResizeOptions
    overrides: Sequence[str] = ()
    """Laid over the source's recipe, in which the operation has changed the shape."""
    dry_run: bool = False
    """Check and count; measure, convert and write nothing."""


@dataclass(frozen=True, slots=True)
class Resizing:
    """A resized model, or what it would be."""

    source: Path
    """The checkpoint."""
    target: Path
    options: ResizeOptions
    recipe: Recipe
    source_cost: ModelCost
    cost: ModelCost
    departures: list[str]
    """Why it does not compute what the source does; empty where it does."""
    notices: tuple[str, ...]
    """What was changed in the recipe beside the shape."""
    changes: list[LayerChange] = field(default_factory=list)
    """Of each layer with experts; empty in a dry run."""
    difference: LogitDifference | None = None
    """None in a dry run."""
    files: list[Path] = field(default_factory=list)

    @property
    def is_verified(self) -> bool | None:
        """Whether the function had to stay and the logits say so; None in a dry run. Where it need not, equal logits on random ids, of
        which none needs an expert that went, prove nothing."""
        return None if self.difference is None else self.difference.is_rounding and not self.departures

    def to_json(self) -> dict[str, Any]:
        return {
            "source": str(self.source),
            "target": str(self.target),
            "format": "moecli",
            "resize": self.options.to_json(),
            "layers": [asdict(change) for change in self.changes],
            "verified": self.is_verified,
            "max_abs_logit_diff": self.difference and self.difference.max_abs,
            "largest_logit": self.difference and self.difference.largest,
            "departures": self.departures,
            "params_total": self.cost.params_total,
            "params_active": self.cost.params_active,
            "source_params_total": self.source_cost.params_total,
            "source_params_active": self.source_cost.params_active,
            "files": [str(path) for path in self.files],
            "notes": list(self.notices),
        }


def resize_run(request: ResizeRequest, listener: Listener) -> Resizing:
    """Makes the resized run's folder, whole or not at all; in a dry run, says what it would hold.

    Raises:
        ConvertError: the source can't be resized so, the settings don't fit, the target is taken, or the logits are not what they have
            to be.
        MoecliError: the source, its text or the recipe can't be read.
    """
    check_is_free(request.target)
    listener(Stage("reading the run"))
    source, options = open_source(request.source), request.options
    _refuse(source, resize_problems(source.model.config, options), f"{options.operation} is not possible")
    expected, loaded = _resized_recipe(source, request)
    model_config, recipe = loaded.recipe.model, loaded.recipe
    fingerprint = source.data_fingerprint(recipe)
    result = Resizing(
        source=source.checkpoint,
        target=request.target,
        options=options,
        recipe=recipe,
        source_cost=model_cost(source.model.config, source.model.vocab_size, recipe.data.seq_len),
        cost=model_cost(model_config, source.model.vocab_size, recipe.data.seq_len),
        departures=[*departures(source.model.config, expected, model_config, options), *_ties(source, options)],
        notices=loaded.notices if fingerprint else (*loaded.notices, NO_TEXT),
    )
    num_bytes = (result.source_cost.params_total + result.cost.params_total) * FLOAT32_BYTES
    check_memory(num_bytes, torch.device("cpu"), "resizing", "ask for fewer experts")
    if request.dry_run:
        return result
    measured = measure_experts(source, pick_device(recipe.training.device), options, listener)
    return _made(source, result, measured, fingerprint, listener)


def _made(source: SourceRun, result: Resizing, measured: Measured, fingerprint: str | None, listener: Listener) -> Resizing:
    """The same with the run folder written."""
    listener(Stage("moving experts and comparing the logits"))
    model, changes = resize(source.model, result.recipe.model, result.options, measured)
    difference = logit_difference(source.model, model, result.recipe.data.seq_len)
    if not result.departures and not difference.is_rounding:
        what = f"the logits differ by {difference.max_abs:.3g}, although {result.options.operation} keeps the function here"
        raise ConvertError(what, where=str(result.source), next_step="nothing was written; this is a bug in moecli, report it")
    result = replace(result, changes=changes, difference=difference)
    origin = {key: value for key, value in result.to_json().items() if key not in ("target", "files")}
    first = FirstCheckpoint(result.recipe, model, source.tokenizer.json, fingerprint, origin)
    return replace(result, files=write_first_checkpoint(result.target, first))


def _resized_recipe(source: SourceRun, request: ResizeRequest) -> tuple[GPTConfig, LoadedRecipe]:
    """The model that the operation alone makes, and the recipe with the user's settings laid over it.

    Raises:
        ConvertError: these change more than they may.
        RecipeError: something in it is wrong.
    """
    options = request.options
    ffn, notes = resized_feed_forward(source.model.config, options)
    tree = source.recipe.model_dump(mode="json")
    tree["model"]["ffn"] = ffn
    if options.operation == "dense":
        dropped = [name for name, value in WITHOUT_ROUTER.items() if tree["training"][name] != value]
        tree["training"] |= WITHOUT_ROUTER
        notes += [f"training.{name}: dropped, as an mlp has no use for it" for name in dropped]
    loaded = parse_recipe(write_yaml(tree), f"{source.run.recipe} after {options.operation}", request.overrides)
    expected = GPTConfig.model_validate(source.model.config.model_dump() | {"ffn": ffn})
    problems = [problem.under("model") for problem in recipe_problems(source.model.config, expected, loaded.recipe.model, options)]
    if loaded.recipe.objective != source.recipe.objective:
        problems.append(FieldProblem("objective", f"{loaded.recipe.objective} is not that of the source", allowed=source.recipe.objective))
    _refuse(source, problems, f"the settings don't fit a run after {options.operation}")
    return expected, replace(loaded, notices=(*notes, *loaded.notices))


def _refuse(source: SourceRun, problems: Sequence[FieldProblem], what: str) -> None:
    """Raises ConvertError with all problems, where there are any."""
    if problems:
        lines = [f"  {problem.field}: {problem.what} (allowed: {problem.allowed})" for problem in problems]
        raise ConvertError("\n".join([f"{what}:", *lines]), where=str(source.checkpoint))


def _ties(source: SourceRun, options: ResizeOptions) -> list[str]:
    layers = moe_layers(source.model.config) if options.operation == "split" else []
    tied = [layer for layer in layers if has_ties(moe_of(source.model, layer))]
    return [f"two experts of layer {tied[0]} tie, and the shards of one need not be chosen together"] if tied else []
