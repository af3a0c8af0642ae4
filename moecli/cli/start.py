"""`moecli convert RUN TARGET --to moecli`: a run that begins with another run's weights.

Knows when that is meant, and how to show it. Must not know how such a run is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moecli.cli import console
from moecli.cli.console import visible
from moecli.cli.convert_modes import ConvertArguments, next_line

if TYPE_CHECKING:
    from moecli.workflows.start import Start


def is_start(arguments: ConvertArguments) -> bool:
    """Whether a run is to become a run: the source is one, and either moecli or a change of its recipe was asked for."""
    if arguments.to != "moecli" and not (arguments.to == "auto" and arguments.changes_recipe):
        return False
    from moecli.workflows.source_run import is_run

    return is_run(arguments.sources[0])


def run_start(arguments: ConvertArguments) -> None:
    """Makes the run and shows what of the model was changed."""
    from moecli.cli.stage_progress import StageProgress
    from moecli.workflows.start import StartRequest, start_run

    request = StartRequest(
        arguments.source,
        arguments.target,
        arguments.recipe,
        arguments.overrides or (),
        arguments.dry_run,
        carry_optimizer=bool(arguments.carry_optimizer),
    )
    with StageProgress(console.stderr()) as progress:
        start = start_run(request, progress.show)
    if arguments.as_json:
        console.print_json(start.to_json())
        console.print_notices(console.stderr(), start.notices)
    else:
        _print_start(start)


def _print_start(start: Start) -> None:
    out = console.stdout()
    lines = [
        f"{'written' if start.files else 'would write'}    {start.target}",
        f"parameters {start.cost.params_total:,}, {start.cost.params_active:,} active",
        *(f"changed    {change}" for change in start.changes),
    ]
    difference = start.difference
    if difference is not None:
        word = "verified  " if difference.is_rounding else "measured  "
        lines.append(f"{word} logits differ by {difference.max_abs:.2g} at most, of {difference.largest:.3g}")
    if start.carried:
        lines.append(f"optimizer  moments of {start.carried} tensors are those of the source's training")
    if start.files and start.can_be_trained:
        lines.append(next_line(start.target))
    for line in lines:
        out.print(visible(line), markup=False, highlight=False, soft_wrap=True)
    console.print_notices(out, start.notices)
