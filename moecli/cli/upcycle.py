"""`moecli convert --upcycle`: its options, and how to show what became of a dense model.

Knows the upcycling workflow. Must not know how experts are made.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moecli.cli import console
from moecli.cli.console import visible
from moecli.cli.convert_modes import ConvertArguments, finite_above_zero, next_line

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
DropRatioOption = Annotated[
    float | None,
    typer.Option(callback=_ratio, help="With drop: share of hidden units. Default: 0.5.", rich_help_panel=PANEL, show_default=False),
]
RouterStdOption = Annotated[
    float | None,
    typer.Option(
        callback=finite_above_zero,
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


def run_upcycle(arguments: ConvertArguments) -> None:
    """Makes the MoE and shows what became of the dense model."""
    if arguments.drop_ratio is not None and arguments.upcycle != MethodName.drop:
        raise typer.BadParameter("is for --upcycle drop", param_hint="--drop-ratio")
    from moecli.cli.stage_progress import StageProgress
    from moecli.convert.upcycle import UpcycleOptions
    from moecli.workflows.upcycle import UpcycleRequest, upcycle_run

    names = ("drop_ratio", "noise_std", "router_std", "scale_outputs", "seed")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    assert arguments.upcycle is not None
    options = UpcycleOptions(MethodName(arguments.upcycle).value, **given)
    request = UpcycleRequest(
        arguments.source,
        arguments.target,
        options,
        arguments.recipe,
        arguments.overrides or (),
        arguments.dry_run,
        carry_optimizer=bool(arguments.carry_optimizer),
    )
    with StageProgress(console.stderr()) as progress:
        upcycling = upcycle_run(request, progress.show)
    if arguments.as_json:
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
    if upcycling.carried:
        lines.append(f"optimizer  moments of {upcycling.carried} tensors are those of the dense training")
    lines += [f"not the dense model's function: {reason}" for reason in upcycling.departures]
    if upcycling.files and upcycling.can_be_trained:
        lines.append(next_line(upcycling.target))
    for line in lines:
        out.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, upcycling.notices)
