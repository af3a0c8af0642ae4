"""Options that several commands share, and exact words for them.

Knows typer. Must not know any command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; text for people goes to stderr.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe, e.g. --set training.steps=50. Can be repeated."),
]


def split_list(texts: Sequence[str]) -> list[str]:
    """The items of an option that takes comma lists and can be repeated."""
    return [item.strip() for text in texts for item in text.split(",")]
