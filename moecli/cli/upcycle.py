"""`moecli convert --upcycle`: its options, and how to show what became of a dense model.

Knows the upcycling workflow. Must not know how experts are made.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moecli.cli import console
from moecli.cli.console import visible

if TYPE_CHECKING:
    from moecli.workflows.upcycle import Upcycling

PANEL = "A dense run to an MoE (with --upcycle)"


class MethodName(StrEnum):
    copies = "copies"
    drop = "drop"
    granular = "granular"


def _ratio(value: float | None) -> float | None:
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value} is not above 0 and at most 1.")
    return value


def _spread(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value} is not a finite number above 0.")
    return value


UpcycleOption = Annotated[
    MethodName | None,
    typer.Option(
        "--upcycle",
        help="Make SOURCE, a dense run, an MoE: experts that are copies of its feed-forward networks, copies of which a share of hidden "
        "units begins anew (drop), or shards of them (granular). TARGET is then trained with `moecli train TARGET/recipe.yaml --out TARGET "
        "--resume`.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="The MoE's recipe. Default: SOURCE's own, with --set laid over it.", rich_help_panel=PANEL, show_default=False
    ),
]
UpcycleSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the MoE's recipe, e.g. --set model.ffn.kind=sparse. Can be repeated.",
        rich_help_panel=PANEL,
    ),
]
DropRatioOption = Annotated[
    float | None,
    typer.Option(callback=_ratio, help="With drop: share of hidden units. Default: 0.5.", rich_help_panel=PANEL, show_default=False),
]
NoiseOption = Annotated[
    float | None,
    typer.Option(
        callback=_spread,
        help="Add noise to the experts, in standard deviations of their weights. Default: none.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
RouterStdOption = Annotated[
    float | None,
    typer.Option(
        callback=_spread,
        help="Spread of the router's first weights. Default: as in a training from the start.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
ScaleOption = Annotated[
    bool | None,
    typer.Option(
        "--scale-outputs/--no-scale-outputs",
        help="Multiply the experts' outputs by what the router's weights take away. Default: yes.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
SeedOption = Annotated[
    int | None, typer.Option(min=0, max=2**31 - 1, help="Of everything drawn. Default: 0.", rich_help_panel=PANEL, show_default=False)
]


@dataclass(frozen=True, slots=True)
class UpcycleArguments:
    """What was typed; None where nothing was."""

    recipe: str | None
    overrides: Sequence[str] | None
    drop_ratio: float | None
    noise_std: float | None
    router_std: float | None
    scale_outputs: bool | None
    seed: int | None

    def check_unused(self) -> None:
        """Raises BadParameter where one of them was given without --upcycle."""
        given = [name for name, value in asdict(self).items() if value is not None]
        if given:
            option = "set" if given[0] == "overrides" else given[0].replace("_", "-")
            raise typer.BadParameter("is for a dense run that becomes an MoE: give --upcycle METHOD too", param_hint=f"--{option}")


def check_is_run_to_run(to: str, *, verify: bool | None, dtype: str | None) -> None:
    """Raises BadParameter where an option asks for what an upcycling is not: a Hugging Face folder, or one without the comparison."""
    what = "has no place with --upcycle, which makes a run folder and always compares the logits"
    if to not in ("auto", "moecli"):
        raise typer.BadParameter(what, param_hint="--to")
    if verify is False:
        raise typer.BadParameter(what, param_hint="--no-verify")
    if dtype is not None:
        raise typer.BadParameter(what, param_hint="--dtype")


def run_upcycle(source: Path, target: Path, method: MethodName, arguments: UpcycleArguments, *, dry_run: bool, as_json: bool) -> None:
    """Makes the MoE and shows what became of the dense model."""
    if arguments.drop_ratio is not None and method is not MethodName.drop:
        raise typer.BadParameter("is for --upcycle drop", param_hint="--drop-ratio")
    from moecli.cli.stage_progress import StageProgress
    from moecli.convert.upcycle import UpcycleOptions
    from moecli.workflows.upcycle import UpcycleRequest, upcycle_run

    names = ("drop_ratio", "noise_std", "router_std", "scale_outputs", "seed")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    options = UpcycleOptions(method.value, **given)
    request = UpcycleRequest(source, target, options, arguments.recipe, arguments.overrides or (), dry_run)
    with StageProgress(console.stderr()) as progress:
        upcycling = upcycle_run(request, progress.show)
    if as_json:
        console.print_json(upcycling.to_json())
        console.print_notices(console.stderr(), upcycling.notices)
    else:
        _print_upcycling(upcycling)


def _print_upcycling(upcycling: Upcycling) -> None:
    out = console.stdout()
    cost, before = upcycling.cost, upcycling.source_cost
    lines = [
        f"{'written' if upcycling.files else 'would write'}    {upcycling.target}",
        f"parameters {cost.params_total:,}, {cost.params_active:,} active; before {before.params_total:,}",
        f"outputs    of the experts times {upcycling.output_factor:.6g}",
    ]
    difference = upcycling.difference
    if difference is not None:
        word = "verified  " if difference.is_rounding else "measured  "
        lines.append(f"{word} logits differ by {difference.max_abs:.2g} at most, of {difference.largest:.3g}")
    lines += [f"not the dense model's function: {reason}" for reason in upcycling.departures]
    if upcycling.files:
        recipe, run = (shlex.quote(str(path)) for path in (upcycling.target / "recipe.yaml", upcycling.target))
        lines.append(f"next: moecli train {recipe} --out {run} --resume")
    for line in lines:
        out.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, upcycling.notices)
