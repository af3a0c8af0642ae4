"""`moecli route-stats`.

Knows its options. Must not know how figures are computed or drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moecli.cli import console
from moecli.cli.eval import SplitName
from moecli.cli.options import JsonOption

ABLATE_TOKENS = 16_384
EPILOG = (
    "Examples: `moecli route-stats outputs/quickstart/...`, `moecli route-stats RUN --text notes.txt --ablate`, "
    "`moecli route-stats MIXTRAL_FOLDER --text notes.txt`, `moecli route-stats --compare RUN RUN`."
)


def route_stats_command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="A run folder, a checkpoint in one, or a Hugging Face MoE folder.", show_default=False),
    ],
    text: Annotated[list[str] | None, typer.Option("--text", help="A text or table to look at instead. Can be repeated.")] = None,
    text_column: Annotated[
        str | None, typer.Option(help='The column of a table that holds the text. Default: "text".', show_default=False)
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(help="The column of a table that labels its rows, to look for specialisation in.", show_default=False)
    ] = None,
    split: Annotated[
        SplitName | None, typer.Option(help="Which part of the recipe's corpus. Default: validation.", show_default=False)
    ] = None,
    seq_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens per sequence. Default: the recipe's; 512 for Hugging Face.", show_default=False)
    ] = None,
    by: Annotated[list[str] | None, typer.Option("--by", help="Look at this label alone. Can be repeated.", show_default=False)] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Tokens that a label's value, or a token id, needs to be judged.")] = 20,
    sample_tokens: Annotated[int, typer.Option(min=4096, help="Most tokens that specialisation and structure are taken from.")] = 131_072,
    over_training: Annotated[
        bool, typer.Option("--over-training", help="Look at the run's earlier checkpoints too; one more pass over the text for each.")
    ] = False,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Switch each expert off in turn and tell the loss that it costs; one evaluation for each.")
    ] = False,
    ablate_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of text for --ablate. Default: 16384.", show_default=False)
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put the load of several runs side by side.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the report. Default: route-stats in the run folder, or in outputs/ for Hugging Face and --compare.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Who routes where: load, specialisation beside chance, structure, and what an expert is worth; as numbers, pictures and a page."""
    from moecli.cli.route_stats_summary import print_comparison, print_stats
    from moecli.cli.stage_progress import StageProgress
    from moecli.workflows.compare_routing import compare_routing
    from moecli.workflows.route_stats import StatsOptions, route_stats
    from moecli.workflows.routing_subject import TextChoice

    if len(runs) > 1 and not compare:
        raise typer.BadParameter("several runs: add --compare to put them side by side", param_hint="RUN")
    if compare and (over_training or ablate or by):
        raise typer.BadParameter("shows the load alone: leave --over-training, --ablate and --by out", param_hint="--compare")
    if ablate_tokens is not None and not ablate:
        raise typer.BadParameter("means nothing without --ablate", param_hint="--ablate-tokens")
    choice = TextChoice(tuple(text or ()), text_column, label_column, split.value if split else None, seq_len)
    options = StatsOptions(
        text=choice,
        by=tuple(by or ()),
        min_count=min_count,
        sample_tokens=sample_tokens,
        over_training=over_training,
        ablate=ablate,
        ablate_tokens=ablate_tokens or ABLATE_TOKENS,
    )
    people = console.for_people(as_json)
    with StageProgress(console.stderr()) as progress:
        if compare:
            comparison = compare_routing(runs, options, progress.show, out)
        else:
            stats = route_stats(runs[0], options, progress.show, out)
    if as_json:
        console.print_json(comparison.to_json() if compare else stats.to_json())
    elif compare:
        print_comparison(people, comparison)
    else:
        print_stats(people, stats)
