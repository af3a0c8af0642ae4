"""Whether a run and what is at hand belong together: the same recipe but for its length, and the same text and tokens.

Knows recipe.yaml, environment.json and tokenizer.json of a run. Must not change them.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

from moecli.data.json_file import read_object
from moecli.data.prepare import PreparedData
from moecli.data.tokenizer import Tokenizer
from moecli.errors import DataError, RecipeError, RunError
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.run_dir import RunDir

MAY_DIFFER = (
    "training.steps",
    "training.checkpoint_every",
    "training.keep_last",
    "training.keep_best",
    "training.on_non_finite",
    "training.rewind_factor",
    "training.max_rewinds",
    "parallel.data",
    "parallel.expert",
    "parallel.timeout_s",
)


def check_own_files(run: RunDir, *, has_checkpoint: bool) -> None:
    """Raises RunError where a file of the run that a training writes is a folder or a pipe, or its metrics a link: a run from a stranger
    could name any file of ours, to which lines would be added. Or where one with a checkpoint has lost the file that says how it was
    trained, or its tokens."""
    for path in (run.recipe, run.tokenizer, run.environment, run.metrics, run.result):
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise RunError(f"{kind}, where a file of the run belongs", where=str(path), next_step="move it away")
    if run.metrics.is_symlink():
        raise RunError("a link, where a file of the run belongs", where=str(run.metrics), next_step="put the file in its place")
    for path in (run.recipe, run.tokenizer):
        if has_checkpoint and not path.exists():
            next_step = "put the file that the run was begun with there, from a copy; --resume makes no other one in its place"
            raise RunError("there is no such file", where=str(path), next_step=next_step)


def check_same_tokenizer(run: RunDir, data: PreparedData) -> None:
    """Raises RunError where tokenizer.json is damaged, or not that of the data: --resume would write another in its place."""
    next_step = f"bring the run's own tokenizer.json back from a copy, or copy the one of a new run of {run.recipe}: it is the same"
    try:
        own = Tokenizer.load(run.tokenizer)
    except DataError as error:
        raise RunError(error.what, where=error.where, next_step=next_step) from error
    if own.content_hash != data.tokenizer.content_hash:
        raise RunError("not the tokenizer that the run was begun with", where=str(run.tokenizer), next_step=next_step)


def check_same_recipe(run: RunDir, recipe: Recipe, *, may_differ: Collection[str] = MAY_DIFFER, next_step: str = "") -> None:
    """Raises RecipeError with the differences if this run was begun with another recipe.

    Args:
        run: has a recipe.yaml.
        recipe: what is at hand.
        may_differ: the keys that don't count.
        next_step: the advice of the message, where it is not that of `moecli train --resume`.
    """
    before = flat(load_recipe(run.recipe).recipe.model_dump())
    now = flat(recipe.model_dump())
    changed = [key for key in sorted(before.keys() | now.keys()) if key not in may_differ and before.get(key) != now.get(key)]
    if changed:
        lines = [f"  {key}: {before.get(key, 'absent')!r} in the run, {now.get(key, 'absent')!r} now" for key in changed]
        resume = f"resume with {run.recipe}, or give another --out and leave --resume out; only {', '.join(MAY_DIFFER)} may differ"
        raise RecipeError(
            "\n".join(["the run was begun with another recipe:", *lines]), where=str(run.recipe), next_step=next_step or resume
        )


def check_has_text(run: RunDir) -> None:
    """Raises RunError if a run was converted from a checkpoint whose text isn't known."""
    if run.environment.is_file() and data_fingerprint(run) is None:
        next_step = f"moecli convert {shlex.quote(str(run.path))} NEW --set data.corpus.kind=files --set 'data.corpus.paths=[FILE]'"
        raise RunError("its weights were converted from a checkpoint without a text to train on", where=str(run.path), next_step=next_step)


def check_same_data(run: RunDir, data: PreparedData, next_step: str) -> None:
    """Raises RunError if the text is not the one that the run was begun with."""
    if data_fingerprint(run) != data.fingerprint:
        raise RunError(
            "the text or its tokens are not those that the run was begun with",
            where=str(run.path),
            next_step=next_step,
        )


def data_fingerprint(run: RunDir, next_step: str = "begin a new run") -> str | None:
    """Of the run's text; None where a converted checkpoint's is not known.

    Raises:
        RunError: environment.json is missing or damaged.
    """
    environment = read_object(run.environment, next_step)
    fingerprint = environment.value("data_fingerprint")
    if not isinstance(fingerprint, str | None):
        raise environment.wrong("data_fingerprint is no text", allowed="text, or null")
    return fingerprint


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by their key paths."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values
