"""`moecli eval`.

Knows its options and how to show a loss. Must not know how it is computed.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moecli.cli import console
from moecli.cli.options import JsonOption
from moecli.cli.words import token_word

if TYPE_CHECKING:
    from moecli.workflows.eval import EvalResult

EPILOG = (
    "Examples: `moecli eval outputs/quickstart/...`, `moecli eval RUN --text notes.txt --json`, `moecli eval RUN --audit`, "
    "`moecli eval RUN --top-k 1,2,4 --capacity none,1.0`."
)


class SplitName(StrEnum):
    validation = "validation"
    train = "train"


def eval_command(
    run: Annotated[Path, typer.Argument(help="A run folder (its latest checkpoint), or a checkpoint folder in one.", show_default=False)],
    text: Annotated[list[str] | None, typer.Option("--text", help="A text file to evaluate on instead. Can be repeated.")] = None,
    split: Annotated[SplitName, typer.Option(help="Which part of the recipe's corpus.")] = SplitName.validation,
    audit: Annotated[
        bool, typer.Option("--audit", help="Measure whether tokens see their future or other sequences of the batch.")
    ] = False,
    top_k: Annotated[
        list[str] | None,
        typer.Option(
            "--top-k",
            metavar="K,K,...",
            help="Evaluate with other numbers of experts per token too; weights are normalised, or not, as trained. Can be repeated.",
        ),
    ] = None,
    capacity: Annotated[
        list[str] | None,
        typer.Option(
            "--capacity",
            metavar="F,F,...",
            help='Evaluate with other capacity factors too; "none" drops nothing. With --top-k: every combination. Can be repeated.',
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Held-out loss of a trained run: pure cross-entropy, perplexity, bits per byte (none for masked-lm, which predicts a sample)."""
    from moecli.cli.audit_lines import audit_lines
    from moecli.cli.stage_progress import StageProgress
    from moecli.cli.sweep_table import sweep_notes, sweep_table
    from moecli.cli.sweep_values import sweep_values
    from moecli.recipe.leak_notes import leak_notes
    from moecli.workflows.eval import evaluate_run

    values = sweep_values(run, top_k, capacity)
    with StageProgress(console.stderr()) as progress:
        result = evaluate_run(run, text=text or [], split=split.value, audit=audit, values=values, listener=progress.show)
    if as_json:
        console.print_json(result.to_json())
        return
    out = console.stdout()
    notes = leak_notes(result.recipe)
    for line in [*_loss_lines(result), *audit_lines(result)]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    if result.sweep:
        out.print(sweep_table(result.sweep))
        notes += sweep_notes(result.sweep, told=notes)
    if result.unknown_fraction:
        notes.append(f"{result.unknown_fraction:.2%} of the tokens are unknown to the tokenizer: the loss does not count what they spell")
    console.print_notices(out, notes)


def _loss_lines(result: EvalResult) -> list[str]:
    evaluation = result.evaluation
    token = token_word(evaluation.is_masked)
    lines = [
        f"checkpoint    {result.checkpoint}",
        f"text          {result.corpus} ({result.split}): {evaluation.tokens:,} {token}s, {evaluation.num_bytes:,} bytes",
        f"loss          {evaluation.loss:.6f} nats/{token}",
        f"perplexity    {evaluation.perplexity:.4f}",
    ]
    return lines if evaluation.bits_per_byte is None else [*lines, f"bits per byte {evaluation.bits_per_byte:.4f}"]
