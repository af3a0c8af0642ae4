"""The loss of a run in several settings of its routing, as a table for a terminal of 80 columns.

Knows the rows of a sweep. Must not compute figures.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from moecli.cli.sweep_values import DROPLESS
from moecli.evaluation.routing_setting import RoutingSetting
from moecli.workflows.eval_sweep import SweepRow

TRAINED_MARK, LEAK_MARK = "*", "!"
MOST_WITH_CENTS = 1e6


def sweep_table(rows: Sequence[SweepRow]) -> Table:
    """A row per setting. The loss is in nats per token, and beside it its difference from the trained setting's."""
    trained = next(row for row in rows if row.is_trained)
    has_bits = trained.evaluation.bits_per_byte is not None
    table = Table(
        title=f"Same weights, other routing ({TRAINED_MARK} as trained)",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    headings = ["top-k", "capacity", "loss", "change", "perplexity", *["bits/byte"] * has_bits, "load CV", "MaxVio", "dead", "dropped"]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        evaluation = row.evaluation
        marks = TRAINED_MARK * row.is_trained + LEAK_MARK * bool(row.leak_notes())
        bits = [] if evaluation.bits_per_byte is None else [f"{evaluation.bits_per_byte:.4f}"]
        difference = "" if row.is_trained else f"{evaluation.loss - trained.evaluation.loss:+.4f}"
        table.add_row(
            f"{marks}{row.setting.top_k:g}",
            _factor(row.setting),
            f"{evaluation.loss:.4f}",
            difference,
            f"{evaluation.perplexity:.2f}" if evaluation.perplexity < MOST_WITH_CENTS else f"{evaluation.perplexity:.2e}",
            *bits,
            f"{row.load['cv_load']:.3f}",
            f"{row.load['max_violation']:.3f}",
            f"{row.load['dead_experts']:.0f}",
            f"{row.load['dropped_fraction']:.1%}",
        )
    return table


def sweep_notes(rows: Sequence[SweepRow], told: Sequence[str]) -> list[str]:
    """What tokens see in these settings, beyond what has been told of the run."""
    settings: dict[str, list[str]] = {}
    for row in rows:
        for note in row.leak_notes():
            if note not in told:
                settings.setdefault(note, []).append(f"top-k {row.setting.top_k:g} with capacity {_factor(row.setting)}")
    return [f"{LEAK_MARK} {', '.join(where)}: {note}" for note, where in settings.items()]


def _factor(setting: RoutingSetting) -> str:
    return DROPLESS if setting.capacity_factor is None else f"{setting.capacity_factor:g}"
