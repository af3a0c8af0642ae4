"""`moecli convert --mix`: its options, and how to show what became of several dense models.

Knows the mixing workflow. Must not know how weights are mixed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from moecli.cli import console
from moecli.cli.console import visible
from moecli.cli.convert_modes import ConvertArguments, next_line

if TYPE_CHECKING:
    from moecli.workflows.mix import Mixing

PANEL = "Several dense runs to one MoE (with --mix)"


class RouterInitName(StrEnum):
    random = "random"
    domain = "domain"


MixOption = Annotated[
    bool | None,
    typer.Option(
        "--mix",
        help="Make of SOURCE..., dense runs of one shape, one MoE: the feed-forward networks of each become one expert of every layer, all "
        "else is averaged (Branch-Train-MiX). TARGET is then trained with `moecli train TARGET/recipe.yaml --out TARGET --resume`.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
RouterInitOption = Annotated[
    RouterInitName | None,
    typer.Option(
        "--router-init",
        help="How the router begins: at random, or with what text of each source looks like to it. Default: random.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


def run_mix(arguments: ConvertArguments) -> None:
    """Mixes the runs and shows what became of them."""
    from moecli.cli.stage_progress import StageProgress
    from moecli.convert.mix import MixOptions
    from moecli.workflows.mix import MixRequest, mix_runs

    init = RouterInitName(arguments.router_init or RouterInitName.random)
    options = MixOptions(init.value, arguments.seed or 0)
    request = MixRequest(arguments.sources, arguments.target, options, arguments.recipe, arguments.overrides or (), arguments.dry_run)
    with StageProgress(console.stderr()) as progress:
        mixing = mix_runs(request, progress.show)
    if arguments.as_json:
        console.print_json(mixing.to_json())
        console.print_notices(console.stderr(), mixing.notices)
    else:
        _print_mixing(mixing)


def _print_mixing(mixing: Mixing) -> None:
    out = console.stdout()
    cost, before = mixing.cost, mixing.source_cost
    lines = [
        f"{'written' if mixing.files else 'would write'}    {mixing.target}",
        f"parameters {cost.params_total:,}, {cost.params_active:,} active; of each source {before.params_total:,}",
        *(f"expert {number:<3} {source}" for number, source in enumerate(mixing.sources)),
        f"outputs    of the experts times {mixing.output_factor:.6g}; all else is the mean of the sources",
        f"router     begins {'at random' if mixing.options.router_init == 'random' else 'with text of each source'}",
    ]
    difference = mixing.difference
    if difference is not None:
        word = "verified  " if difference.is_rounding else "measured  "
        lines.append(f"{word} all sources are the same; logits differ from theirs by {difference.max_abs:.2g} at most")
    if mixing.files:
        lines.append(next_line(mixing.target))
    for line in lines:
        out.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, mixing.notices)
