"""What every report of a run says where its tokens see more than their own past.

Knows what a recipe declares. Must not know how reports look.
"""

from __future__ import annotations

from moecli.recipe.schema import Recipe

SEES_FUTURE = "this model sees its future: its loss may be out of reach when generating (allow_future_leak)"
MIXES_ROWS = "the loss depends on how sequences are batched together"


def leak_notes(recipe: Recipe) -> list[str]:
    """One sentence per leak that is declared; of the future for causal-lm alone, as masked-lm is meant to see it."""
    notes = []
    if recipe.leaks_future and recipe.objective == "causal-lm":
        notes.append(SEES_FUTURE)
    if recipe.mixes_rows:
        notes.append(MIXES_ROWS)
    return notes


def leaks_json(recipe: Recipe) -> dict[str, str | bool]:
    """The declarations, as the JSON of every report has them. In masked-lm a token is meant to see its future."""
    return {"objective": recipe.objective, "leaks_future": recipe.leaks_future, "mixes_rows": recipe.mixes_rows}
