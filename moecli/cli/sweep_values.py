"""Lists of numbers as they are typed after --top-k and --capacity.

Knows how they are written. Must not know which of them a model can be evaluated with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from moecli.cli.console import visible
from moecli.cli.options import split_list

if TYPE_CHECKING:
    from moecli.workflows.eval_sweep import SweepValues

DROPLESS = "none"


def sweep_values(run: Path, top_k: Sequence[str] | None, capacity: Sequence[str] | None) -> SweepValues | None:
    """`1,2,4` and `none,1.0,1.25`, each given once or more; None where neither is given.

    Raises:
        BadParameter: an item can't be read. Names all of these, and those that this run can't be evaluated with.
    """
    from moecli.workflows.eval_sweep import SweepValues, refused_values

    if top_k is None and capacity is None:
        return None
    top_ks = {item: _positive(item) for item in split_list(top_k or [])}
    factors = {item: _positive(item) for item in split_list(capacity or [])}
    problems = []
    if wrong := [item for item, number in top_ks.items() if number is None]:
        problems.append(f"--top-k takes numbers above 0, not {_quoted(wrong)}")
    if wrong := [item for item, number in factors.items() if number is None and not _is_dropless(item)]:
        problems.append(f'--capacity takes numbers above 0, or "{DROPLESS}" to drop nothing, not {_quoted(wrong)}')
    numbers = tuple(number for number in top_ks.values() if number is not None)
    if not problems:
        return SweepValues(numbers, tuple(factors.values()))
    readable = SweepValues(numbers, tuple(number for item, number in factors.items() if number is not None or _is_dropless(item)))
    raise typer.BadParameter("; ".join([*problems, *refused_values(run, readable)]))


def _is_dropless(item: str) -> bool:
    return item.lower() == DROPLESS


def _positive(item: str) -> float | None:
    try:
        number = float(item)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _quoted(items: Sequence[str]) -> str:
    return ", ".join(f"'{visible(item, 40)}'" for item in items)
