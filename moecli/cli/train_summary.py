"""The closing words of `moecli train`: quality, cost, and the load of every layer.

Knows the results of the train workflow. Must not compute figures.
"""

from __future__ import annotations

from rich.console import Console

from moecli.cli.load_view import load_table, print_heatmap
from moecli.cli.train_progress import quality_text
from moecli.cli.words import big_number, num_bytes, token_word
from moecli.recipe.leak_notes import leak_notes
from moecli.workflows.train_result import TrainResult


def print_summary(console: Console, result: TrainResult) -> None:
    """All that a person wants to know when a training is done."""
    evaluation = result.validation
    speed = "" if result.tokens_per_s is None else f" at {result.tokens_per_s:,.0f} tokens/s"
    _say(console, "")
    _say(console, f"{result.steps:,} steps, {big_number(result.tokens)} tokens{speed}; {result.wall_s:.0f} s in all")
    _say(console, f"validation: {quality_text(evaluation)} over {evaluation.tokens:,} {token_word(evaluation.is_masked)}s")
    if result.communication is not None:
        _say(console, communication_text(result.communication))
    if result.num_rewinds:
        factor = result.recipe.training.rewind_factor**result.num_rewinds
        times = f"{result.num_rewinds} time{'s' * (result.num_rewinds > 1)}"
        _say(console, f"note: numbers were not finite {times}; the rest was trained at {factor:g} times the learning rate")
    for warning in result.warnings:
        _say(console, f"warning: {warning}")
    for note in leak_notes(result.recipe):
        _say(console, f"note: {note}")
    if result.load.layers:
        _say(console, "")
        console.print(load_table(result.load, "validation tokens"))
        print_heatmap(console, result.load)
    _say(console, "")
    for path in result.files:
        _say(console, f"wrote {path}")
    _say(console, f"next: moecli eval {result.run_dir}")
    if result.load.layers:
        _say(console, f"      moecli route-stats {result.run_dir}")


def communication_text(means: dict[str, float]) -> str:
    """What several processes exchanged."""
    text = f"{means['processes']:.0f} processes: each handed over {num_bytes(round(means['communication_bytes']))} per step"
    if "communication_share" in means:
        text += f", which was under way for {means['communication_share']:.1%} of the time"
    if "process_max_violation" in means:
        text += f"; the fullest ran {means['process_max_violation']:.0%} more assignments than the mean"
    return text


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
