"""`moecli convert --resize`: its options, and how to show what became of an MoE.

Knows the resizing workflow. Must not know how experts are moved.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moecli.cli import console
from moecli.cli.console import visible
from moecli.cli.convert_modes import ConvertArguments, next_line

if TYPE_CHECKING:
    from moecli.convert.resize.options import LayerChange
    from moecli.workflows.resize import Resizing

PANEL = "An MoE of another size (with --resize)"
# Layers that are shown one by one.
MOST_LAYERS = 12


class OperationName(StrEnum):
    prune = "prune"
    merge = "merge"
    add = "add"
    split_ = "split"  # a str has a method split
    dense = "dense"
    regate = "regate"


class ByName(StrEnum):
    load = "load"
    ablation = "ablation"
    random = "random"


class MergeByName(StrEnum):
    average = "average"
    load = "load"
    heaviest = "heaviest"
    concatenate = "concatenate"


# The options of each operation, as fields of ConvertArguments; those that it can't do without come first, one of the alternatives.
OPTIONS_OF: dict[OperationName, tuple[tuple[str, ...], tuple[str, ...]]] = {
    OperationName.prune: (("experts", "drop_experts"), ("by", "seed")),
    OperationName.merge: (("experts",), ()),
    OperationName.add: (("experts",), ("noise_std", "seed")),
    OperationName.split_: (("shards",), ()),
    OperationName.dense: ((), ("merge_by",)),
    OperationName.regate: ((), ("seed",)),
}
FIELDS = ("experts", "by", "drop_experts", "shards", "merge_by", "noise_std", "seed")

ResizeOption = Annotated[
    OperationName | None,
    typer.Option(
        "--resize",
        help="Make of SOURCE, an MoE's run, one with fewer experts (prune, merge), more (add), narrower ones (split), the same ones behind "
        "a new gate (regate), or an mlp in their place (dense).",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
ExpertsOption = Annotated[
    int | None,
    typer.Option(min=1, help="With prune, merge, add: experts per layer afterwards.", rich_help_panel=PANEL, show_default=False),
]
ByOption = Annotated[
    ByName | None,
    typer.Option(
        help="With prune: keep the experts with the most tokens, those that cost most to switch off, or any. Measured on training text. "
        "Default: load.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
DropExpertsOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="With prune, instead of --experts: which go, in every layer (0,3), or by layer, as many in each (0:1,2;3:0,5).",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
ShardsOption = Annotated[
    int | None,
    typer.Option(min=2, help="With split: experts that each becomes.", rich_help_panel=PANEL, show_default=False),
]
MergeByOption = Annotated[
    MergeByName | None,
    typer.Option(
        help="With dense: the mean of the experts, that weighted by load, the most used one, or the top_k most used side by side. "
        "Default: load.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


def run_resize(arguments: ConvertArguments) -> None:
    """Makes the resized run and shows what became of its experts."""
    assert arguments.resize is not None
    operation = OperationName(arguments.resize)
    _check_options(arguments, operation)
    dropped = None if arguments.drop_experts is None else parse_drop_experts(arguments.drop_experts)
    from moecli.cli.stage_progress import StageProgress
    from moecli.convert.resize.options import ResizeOptions
    from moecli.workflows.resize import ResizeRequest, resize_run

    values = {name: getattr(arguments, name) for name in ("by", "shards", "merge_by", "noise_std", "seed")}
    given: dict[str, Any] = {name: getattr(value, "value", value) for name, value in values.items() if value is not None}
    options = ResizeOptions(operation.value, num_experts=arguments.experts, drop_experts=dropped, **given)
    request = ResizeRequest(arguments.source, arguments.target, options, arguments.overrides or (), arguments.dry_run)
    with StageProgress(console.stderr()) as progress:
        resizing = resize_run(request, progress.show)
    if arguments.as_json:
        console.print_json(resizing.to_json())
        console.print_notices(console.stderr(), resizing.notices)
    else:
        _print_resizing(resizing)


def parse_drop_experts(text: str) -> tuple[int, ...] | dict[int, tuple[int, ...]]:
    """`0,3` for every layer, `0:1,2;3:0,5` by layer.

    Raises:
        BadParameter: it reads otherwise, or names a layer twice.
    """
    text = text.replace(" ", "")
    if re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        return tuple(map(int, text.split(",")))
    if not re.fullmatch(r"\d{1,9}:\d{1,9}(,\d{1,9})*(;\d{1,9}:\d{1,9}(,\d{1,9})*)*", text):
        raise typer.BadParameter("is neither a list such as 0,3 nor lists by layer such as 0:1,2;3:0,5", param_hint="--drop-experts")
    by_layer: dict[int, tuple[int, ...]] = {}
    for part in text.split(";"):
        layer, experts = part.split(":")
        if int(layer) in by_layer:
            raise typer.BadParameter(f"names layer {int(layer)} twice", param_hint="--drop-experts")
        by_layer[int(layer)] = tuple(map(int, experts.split(",")))
    return by_layer


def _check_options(arguments: ConvertArguments, operation: OperationName) -> None:
    """Raises BadParameter where an option is missing, or is not for this operation."""
    needed, allowed = OPTIONS_OF[operation]
    for field in FIELDS:
        if getattr(arguments, field) is not None and field not in (*needed, *allowed):
            is_for = ", ".join(name for name, groups in OPTIONS_OF.items() if field in (*groups[0], *groups[1]))
            raise typer.BadParameter(f"has no place with --resize {operation}: it is for {is_for}", param_hint=_option(field))
    given = [field for field in needed if getattr(arguments, field) is not None]
    if needed and len(given) != 1:
        what = f"--resize {operation} needs it" if not given else "each says how many go: give one of the two"
        raise typer.BadParameter(what, param_hint=" or ".join(map(_option, needed)))
    if arguments.by is not None and arguments.drop_experts is not None:
        raise typer.BadParameter("has no place with --drop-experts, which says who goes", param_hint="--by")
    if operation is OperationName.prune and arguments.seed is not None and arguments.by != ByName.random:
        raise typer.BadParameter("is for --by random: nothing else is drawn", param_hint="--seed")


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _print_resizing(resizing: Resizing) -> None:
    out = console.stdout()
    cost, before = resizing.cost, resizing.source_cost
    lines = [
        f"{'written' if resizing.files else 'would write'}    {resizing.target}",
        f"parameters {cost.params_total:,}, {cost.params_active:,} active; before {before.params_total:,}, {before.params_active:,} active",
    ]
    lines += [_layer_line(change) for change in resizing.changes[:MOST_LAYERS]]
    if len(resizing.changes) > MOST_LAYERS:
        lines.append(f"{len(resizing.changes) - MOST_LAYERS} further layers: see {resizing.target / 'conversion.json'}")
    difference = resizing.difference
    if difference is not None:
        word = "verified  " if resizing.is_verified else "measured  "
        lines.append(f"{word} logits differ by {difference.max_abs:.2g} at most, of {difference.largest:.3g}")
    lines += [f"not the source's function: {reason}" for reason in resizing.departures]
    if resizing.files:
        lines.append(next_line(resizing.target))
    for line in lines:
        out.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, resizing.notices)


def _layer_line(change: LayerChange) -> str:
    """`layer 3    experts 0+4, 1, 2; outputs times 0.5`."""
    parts = ", ".join("+".join(map(str, members)) for members in change.made_of)
    factors = sorted({f"{factor:.4g}" for factor in change.output_factors})
    return f"layer {change.layer:<4} experts {parts}" + (f"; outputs times {', '.join(factors)}" if factors else "")
