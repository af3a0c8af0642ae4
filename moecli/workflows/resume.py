"""Whether a run and what is at hand belong together: the same recipe but for its length, and the same text.

Knows recipe.yaml and environment.json of a run. Must not change them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection
from typing import Any

from moecli.data.prepare import PreparedData
from moecli.errors import RecipeError, RunError
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
)


def check_same_recipe(run: RunDir, recipe: Recipe, *, may_differ: Collection[str] = MAY_DIFFER, next_step: str = "") -> None:
    """Raises RecipeError with the differences if this run was begun with another recipe.

    Args:
        run: has a recipe.yaml.
        recipe: what is at hand.
        may_differ: the keys that don't count.
        next_step: the advice of the message, where it is not that of `moecli train --resume`.
    """
    before = _flat(load_recipe(run.recipe).recipe.model_dump())
    now = _flat(recipe.model_dump())
    changed = [key for key in sorted(before.keys() | now.keys()) if key not in may_differ and before.get(key) != now.get(key)]
    if changed:
        lines = [f"  {key}: {before.get(key, 'absent')!r} in the run, {now.get(key, 'absent')!r} now" for key in changed]
        resume = f"resume with {run.recipe}, or give another --out and leave --resume out; only {', '.join(MAY_DIFFER)} may differ"
        raise RecipeError(
            "\n".join(["the run was begun with another recipe:", *lines]), where=str(run.recipe), next_step=next_step or resume
        )


def check_has_text(run: RunDir) -> None:
    """Raises RunError if a run was converted from a checkpoint whose text isn't known."""
    if run.environment.is_file() and _data_fingerprint(run) is None:
        next_step = f"moecli convert {shlex.quote(str(run.path))} NEW --set data.corpus.kind=files --set 'data.corpus.paths=[FILE]'"
        raise RunError("its weights were converted from a checkpoint without a text to train on", where=str(run.path), next_step=next_step)


def check_same_data(run: RunDir, data: PreparedData, next_step: str) -> None:
    """Raises RunError if the text is not the one that the run was begun with."""
    if _data_fingerprint(run) != data.fingerprint:
        raise RunError(
            "the text or its tokens are not those that the run was begun with",
            where=str(run.path),
            next_step=next_step,
        )


def _data_fingerprint(run: RunDir) -> str | None:
    """Of the run's text; None where a converted checkpoint's is not known."""
    try:
        fingerprint: str | None = json.loads(run.environment.read_text(encoding="utf-8"))["data_fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"missing or damaged: {error}", where=str(run.environment), next_step="begin a new run") from error
    return fingerprint


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
