"""`moecli eval`.

Knows its options and how to show a loss. Must not know how it is computed.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from moecli.cli import console
from moecli.cli.options import JsonOption
from moecli.cli.words import token_word

EPILOG = "Examples: `moecli eval outputs/quickstart/...`, `moecli eval RUN --text notes.txt --json`, `moecli eval RUN --audit`."


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
    as_json: JsonOption = False,
) -> None:
    """Held-out loss of a trained run: pure cross-entropy, perplexity, bits per byte (none for masked-lm, which predicts a sample)."""
    from moecli.cli.audit_lines import audit_lines
    from moecli.recipe.leak_notes import leak_notes
    from moecli.workflows.eval import evaluate_run

    result = evaluate_run(run, text=text or [], split=split.value, audit=audit)
    if as_json:
        console.print_json(result.to_json())
        return
    evaluation = result.evaluation
    token = token_word(evaluation.is_masked)
    lines = [
        f"checkpoint    {result.checkpoint}",
        f"text          {result.corpus} ({result.split}): {evaluation.tokens:,} {token}s, {evaluation.num_bytes:,} bytes",
        f"loss          {evaluation.loss:.6f} nats/{token}",
        f"perplexity    {evaluation.perplexity:.4f}",
    ]
    if evaluation.bits_per_byte is not None:
        lines.append(f"bits per byte {evaluation.bits_per_byte:.4f}")
    lines += audit_lines(result)
    lines += [f"note: {note}" for note in leak_notes(result.recipe)]
    out = console.stdout()
    for line in lines:
        out.print(line, markup=False, highlight=False, soft_wrap=True)
