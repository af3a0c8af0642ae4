"""The closing words of `moecli train`: quality, cost, the load of every layer as a table and as a heatmap.

Knows the results of the train workflow. Must not compute figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moecli.analysis.load_report import LayerLoad, LoadReport
from moecli.cli.train_progress import quality_text
from moecli.cli.words import big_number, num_bytes, token_word
from moecli.recipe.leak_notes import leak_notes
from moecli.workflows.plan import TrainingPlan
from moecli.workflows.train import TrainResult

# Load in multiples of the even share: the shade for the first limit that is not reached.
SHADES = ((0.01, "·"), (0.5, "░"), (0.9, "▒"), (1.5, "▓"), (float("inf"), "█"))
# What a line of the heatmap begins with: "layer   0  ".
HEATMAP_MARGIN = 11


def print_summary(console: Console, result: TrainResult) -> None:
    """All that a person wants to know when a training is done."""
    evaluation = result.validation
    speed = "" if result.tokens_per_s is None else f" at {result.tokens_per_s:,.0f} tokens/s"
    _say(console, "")
    _say(console, f"{result.steps:,} steps, {big_number(result.tokens)} tokens{speed}; {result.wall_s:.0f} s in all")
    _say(console, f"validation: {quality_text(evaluation)} over {evaluation.tokens:,} {token_word(evaluation.is_masked)}s")
    for note in leak_notes(result.recipe):
        _say(console, f"note: {note}")
    if result.load.layers:
        _say(console, "")
        console.print(load_table(result.load))
        print_heatmap(console, result.load)
    _say(console, "")
    for path in result.files:
        _say(console, f"wrote {path}")
    _say(console, f"next: moecli eval {result.run_dir}")


def print_plan(console: Console, plan: TrainingPlan, notes: Sequence[str]) -> None:
    """What a recipe would cost."""
    cost = plan.cost
    table = Table(show_header=False, box=None)
    table.add_row("vocabulary", f"{plan.vocab_size:,}")
    table.add_row("parameters, total", f"{cost.params_total:,}")
    table.add_row("parameters, active per token", f"{cost.params_active:,}")
    table.add_row("  of these without the input embedding", f"{cost.params_active_without_embedding:,}")
    table.add_row("  and without the output layer", f"{cost.params_active_without_embedding_and_head:,}")
    table.add_row("FLOPs per token, forward", f"{cost.forward_flops_per_token:,}")
    table.add_row("FLOPs per token, training", f"{cost.train_flops_per_token:,}")
    for name, count in asdict(plan.memory).items():
        table.add_row(f"memory, {name}", num_bytes(count))
    table.add_row("memory, together", num_bytes(plan.memory.total))
    console.print(table)
    for note in notes:
        _say(console, f"note: {note}")


def load_table(report: LoadReport) -> Table:
    """One line per layer that routes."""
    table = Table(title=f"Expert load over {report.tokens:,} validation tokens", title_justify="left")
    # Only a capacity with `overflow: next` moves anything.
    has_moved = any(layer.moved_fraction for layer in report.layers)
    headings = ["layer", "experts", "load CV", "MaxVio", "entropy (nats)", "effective experts", "dead", "dropped"]
    for heading in headings + ["moved"] * has_moved:
        table.add_column(heading, justify="right")
    for layer in report.layers:
        table.add_row(
            str(layer.layer),
            str(layer.num_experts),
            f"{layer.cv_load:.3f}",
            f"{layer.max_violation:.3f}",
            f"{layer.entropy:.3f}",
            f"{layer.effective_experts:.2f}",
            str(layer.dead_experts),
            f"{layer.dropped_fraction:.1%}",
            *[f"{layer.moved_fraction:.1%}"] * has_moved,
        )
    return table


def print_heatmap(console: Console, report: LoadReport) -> None:
    """Layers x experts in shades, each in multiples of the even share."""
    cell_width = min(2, (console.width - HEATMAP_MARGIN) // max(layer.num_experts for layer in report.layers))
    if cell_width == 0:
        _say(console, "too many experts for a heatmap of this width: the picture in routing/ has them all")
        return
    for layer in report.layers:
        console.print(Text(f"layer {layer.layer:>3}  ").append_text(_shaded(layer, cell_width)), soft_wrap=True)
    _say(
        console,
        "load / even share:  · dead   ░ < 0.5   ▒ < 0.9   ▓ < 1.5   █ more",
    )


def _shaded(layer: LayerLoad, cell_width: int) -> Text:
    text = Text()
    for share in layer.load:
        multiple = share * layer.num_experts
        shade = next(shade for limit, shade in SHADES if multiple < limit)
        text.append(shade * cell_width, style="red" if multiple >= 1.5 else "blue" if multiple < 0.5 else "")
    return text


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
