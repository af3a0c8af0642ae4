"""`moecli convert --upcycle`: from a dense run to an MoE's run folder that is ready to be trained, with the proof of what was kept.

Knows runs and recipes. Must not know how weights become experts (convert/upcycle.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from moecli.convert.upcycle import UpcycleOptions, output_factor, upcycle
from moecli.convert.upcycle_check import departures, not_finite, upcycle_problems
from moecli.convert.upcycle_proof import LogitDifference, logit_difference
from moecli.data.prepare import prepare
from moecli.data.tokenizer import Tokenizer
from moecli.errors import ConvertError, FieldProblem, RunError
from moecli.model.accounting import FLOAT32_BYTES, ModelCost, model_cost
from moecli.model.checkpoint import OTHER_CHECKPOINT, WEIGHTS_FILE, load_model
from moecli.model.device import check_memory
from moecli.model.gpt import GPT
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.events import Listener, Stage
from moecli.workflows.first_checkpoint import FirstCheckpoint, check_is_free, write_first_checkpoint
from moecli.workflows.opened_run import check_vocabulary
from moecli.workflows.run_dir import RunDir, find_checkpoint


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
    """What was changed in the recipe on the way."""
    difference: LogitDifference | None = None
    """None in a dry run."""
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
        ConvertError: the source is not dense, does not fit the recipe, or has numbers that are none; the target is taken; or the logits
            are not what they have to be.
        MoecliError: the source or the recipe can't be read.
    """
    check_is_free(request.target)
    listener(Stage("reading the dense model"))
    source = _open(request)
    dense, recipe, options = source.model, source.recipe, request.options
    result = Upcycling(
        source=source.checkpoint,
        target=request.target,
        options=options,
        recipe=recipe,
        source_cost=model_cost(dense.config, dense.vocab_size, recipe.data.seq_len),
        cost=model_cost(recipe.model, dense.vocab_size, recipe.data.seq_len),
        output_factor=output_factor(dense.config, recipe.model, options),
        departures=departures(recipe.model, options),
        notices=source.notices,
    )
    num_bytes = (result.source_cost.params_total + result.cost.params_total) * FLOAT32_BYTES
    check_memory(num_bytes, torch.device("cpu"), "upcycling", "ask for fewer experts")
    if request.dry_run:
        return result
    listener(Stage("making experts and comparing the logits"))
    model = upcycle(dense, recipe.model, options)
    result = replace(result, difference=_measured(dense, model, result))
    origin = {key: value for key, value in result.to_json().items() if key not in ("target", "files")}
    first = FirstCheckpoint(recipe, model, source.tokenizer.json, source.data_fingerprint, origin)
    return replace(result, files=write_first_checkpoint(request.target, first))


@dataclass(frozen=True, slots=True)
class _Source:
    """A dense model, and the recipe of what it is to become; the two fit."""

    checkpoint: Path
    model: GPT
    tokenizer: Tokenizer
    recipe: Recipe
    data_fingerprint: str | None
    notices: tuple[str, ...]


def _open(request: UpcycleRequest) -> _Source:
    run, checkpoint = find_checkpoint(request.source)
    old, loaded = load_recipe(run.recipe).recipe, load_recipe(request.recipe or run.recipe, request.overrides)
    model, tokenizer = load_model(checkpoint), Tokenizer.load(run.tokenizer)
    check_vocabulary(model, old, tokenizer, checkpoint)
    bad = not_finite(model)
    if bad is not None:
        where = str(checkpoint / WEIGHTS_FILE)
        raise ConvertError(f"{bad} holds numbers that are none (NaN or infinite)", where=where, next_step=OTHER_CHECKPOINT)
    problems = [problem.under("model") for problem in upcycle_problems(model, loaded.recipe.model, request.options.method)]
    if loaded.recipe.objective != old.objective:
        problems.append(FieldProblem("objective", f"{loaded.recipe.objective} is not that of the source", allowed=old.objective))
    if problems:
        lines = [f"  {problem.field}: {problem.what} (allowed: {problem.allowed})" for problem in problems]
        raise ConvertError("\n".join(["the dense model can't become this MoE:", *lines]), where=loaded.source)
    fingerprint = _data_fingerprint(run, old, loaded.recipe, tokenizer)
    return _Source(checkpoint, model, tokenizer, loaded.recipe, fingerprint, loaded.notices)


def _data_fingerprint(run: RunDir, old: Recipe, recipe: Recipe, tokenizer: Tokenizer) -> str | None:
    """Of the text that the MoE will be trained on, in the tokens of the dense model; None where the source's is not known either."""
    if recipe.data.model_copy(update={"cache_dir": old.data.cache_dir, "seq_len": old.data.seq_len}) == old.data:
        try:
            fingerprint: str | None = json.loads(run.environment.read_text(encoding="utf-8"))["data_fingerprint"]
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"missing or damaged: {error}", where=str(run.environment), next_step="use another run") from error
        return fingerprint
    data = prepare(recipe.data)
    if data.tokenizer.content_hash != tokenizer.content_hash:
        what = "the tokenizer of this recipe is not that of the source, so ids would mean other text"
        next_step = f"--set data.tokenizer.kind=file --set data.tokenizer.path={run.tokenizer}"
        raise ConvertError(what, where="data.tokenizer", next_step=next_step)
    return data.fingerprint


def _measured(dense: GPT, model: GPT, result: Upcycling) -> LogitDifference:
    """How far the logits lie apart; it must be rounding where nothing departs from the dense model."""
    difference = logit_difference(dense, model, result.recipe.data.seq_len)
    if not result.departures and not difference.is_rounding:
        what = f"the logits differ by {difference.max_abs:.3g}, although {result.options.method} keeps the function here"
        raise ConvertError(what, where=str(result.source), next_step="nothing was written; this is a bug in moecli, report it")
    return difference
