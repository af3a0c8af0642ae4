"""What `moecli compare-dense` says in a terminal of 80 columns: the answer in words, then the figures that it rests on.

Knows a comparison, and a plan of one, as plain data. Must not compute figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moecli.cli.console import visible
from moecli.cli.words import big_number, duration, num_bytes
from moecli.reports.dense_comparison import DASH, factor_with_interval, with_interval

UNKNOWN = DASH
MATCH_TITLE = "What is matched, and how far off it is"
# Names of arms are shortened, or broken over lines: the figures have to fit beside them.
LONGEST_NAME, SHORTEST_NAME = 24, 10


def print_comparison(console: Console, content: dict[str, Any], files: Sequence[Path]) -> None:
    """What came out."""
    for comparison in content["comparisons"]:
        _say(console, comparison["sentence"])
    _say(console, "")
    _say_notes(console, content["notes"])
    seeds = len(content["seeds"])
    spread = f"± half a 95 % interval over {seeds} seeds" if seeds > 1 else "one seed: no interval"
    arms = content["arms"]
    _print_table(console, f"Validation loss, lower is better ({spread})", _quality_table(content))
    over = " (geometric mean and 95 % interval)" if seeds > 1 else ""
    _print_table(console, f"How many times as fast the base gets to equal loss{over}", _speed_up_table(content["comparisons"]))
    _say(console, f"base: {content['base']}; below 0, and above 1×, it is better")
    _print_table(console, "Cost", _cost_table(arms))
    machine = f"{content['device']}, {content['threads']} thread{'s' * (content['threads'] != 1)}"
    _print_table(console, f"Speed on this machine ({machine}), tokens/s", _speed_table(content))
    if content["matches"]:
        _print_table(console, MATCH_TITLE, _match_table(content["matches"]))
    if any(arm["load"] for arm in arms):
        _print_table(console, "Load of the experts over the validation text, means over layers and seeds", _load_table(arms))
    _say(console, "")
    page = next(path for path in files if path.suffix == ".html")
    _say(console, f"wrote {len(files)} files to {page.parent}; open {page.name} in a browser, paste {page.stem}.md", wrap=False)


def print_plan(console: Console, plan: dict[str, Any]) -> None:
    """What would run."""
    headings = ["match", "width", "total", "active", "FLOPs\n/token", "steps", "done", "weights", "memory"]
    table = _table(headings)
    for arm in plan["arms"]:
        table.add_row(
            _name(arm),
            arm["match"] or UNKNOWN,
            _optional(arm["d_ff"], str),
            *[big_number(arm[key]) for key in ("params_total", "params_active", "flops_per_token")],
            _optional(arm["steps"], "{:,}".format),
            f"{arm['finished_runs']}/{arm['runs']}",
            *[num_bytes(arm[key]) for key in ("weight_bytes", "memory_bytes")],
        )
    _print_table(console, "What would be trained: parameters, and bytes of weights and of all in training", table)
    if plan["matches"]:
        _print_table(console, MATCH_TITLE, _match_table(plan["matches"]))
    _say(console, "")
    _say_notes(console, plan["notes"])
    seeds = ", ".join(map(str, plan["seeds"]))
    unknown = [arm["name"] for arm in plan["arms"] if arm["train_flops"] is None]
    beside = f", beside {', '.join(unknown)}, whose length is measured first" if unknown else ""
    _say(
        console, f"{plan['finished_runs']} of {plan['runs']} runs are done; {big_number(plan['train_flops'])} training FLOPs in all{beside}"
    )
    _say(console, f"seeds {seeds}; arms are compared by {plan['measure'].replace('_', ' ')} ({plan['unit']})")
    _say(console, f"folder {plan['folder']}", wrap=False)


def _quality_table(content: dict[str, Any]) -> Table:
    key = "bits_per_byte" if content["measure"] == "bits_per_byte" else "val_loss"
    unit = content["unit"].replace("/", "/\n")
    table = _table([unit, "base − arm", "p"])
    compared = {comparison["arm"]: comparison for comparison in content["comparisons"]}
    for arm in content["arms"]:
        comparison = compared.get(arm["name"])
        cells = [UNKNOWN] * 2
        if comparison is not None:
            difference = comparison["difference"]
            cells = [with_interval(difference, 4, sign="+"), _optional(difference["p_value"], _p_value)]
        table.add_row(_name(arm), with_interval(arm[key], 4), *cells)
    return table


def _speed_up_table(comparisons: Sequence[dict[str, Any]]) -> Table:
    table = _table(["tokens to\nequal loss", "time to\nequal loss"])
    for comparison in comparisons:
        factors = [factor_with_interval(comparison[kind]) for kind in ("tokens_to_equal_loss", "time_to_equal_loss")]
        table.add_row(_name({"name": comparison["arm"]}), *factors)
    return table


def _cost_table(arms: Sequence[dict[str, Any]]) -> Table:
    table = _table(["width", "total\nparameters", "active\nparameters", "FLOPs\n/token", "weights", "most memory\nin training"])
    for arm in arms:
        counts = [big_number(arm[key]) for key in ("params_total", "params_active", "flops_per_token")]
        table.add_row(
            _name(arm), _optional(arm["d_ff"], str), *counts, *[num_bytes(arm[key]) for key in ("weight_bytes", "peak_memory_bytes")]
        )
    return table


def _speed_table(content: dict[str, Any]) -> Table:
    batch = f"batch of {content['decode']['batch_size']}" if content["decode"] else "batched"
    table = _table(
        ["steps", "tokens", "training\ntime", "training", "generating\none text", f"generating\n{batch}"],
    )
    for arm in content["arms"]:
        speeds = [
            _optional(arm[key], "{:,.0f}".format) for key in ("train_tokens_per_s", "decode_tokens_per_s", "decode_tokens_per_s_batched")
        ]
        seconds = _optional(arm["train_seconds"]["mean"], duration)
        table.add_row(_name(arm), f"{arm['steps']:,}", big_number(arm["tokens"]), seconds, *speeds)
    return table


def _match_table(matches: Sequence[dict[str, Any]]) -> Table:
    table = _table(["", "base", "arm", "off by"])
    table.columns[1].justify = "left"
    for match in matches:
        counts = [_optional(match[key], _count) for key in ("target", "got")]
        table.add_row(Text(visible(match["arm"], LONGEST_NAME)), match["quantity"], *counts, _optional(match["mismatch"], "{:+.3%}".format))
    return table


def _load_table(arms: Sequence[dict[str, Any]]) -> Table:
    table = _table(["load CV", "MaxVio", "dead", "dropped"])
    for arm in arms:
        if load := arm["load"]:
            figures = [f"{load['cv_load']:.3f}", f"{load['max_violation']:.3f}", f"{load['dead_experts']:.3g}"]
            table.add_row(_name(arm), *figures, f"{load['dropped_fraction']:.1%}")
    return table


def _table(headings: Sequence[str]) -> Table:
    """A table with the arms in its first column, the only one that may be broken over lines."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("arm", overflow="fold", min_width=SHORTEST_NAME)
    for heading in headings:
        table.add_column(Text(heading), justify="right", no_wrap=True)
    return table


def _print_table(console: Console, title: str, table: Table) -> None:
    _say(console, f"\n{title}")
    console.print(table)


def _name(arm: dict[str, Any]) -> Text:
    return Text(visible(arm["name"], LONGEST_NAME))


def _optional(value: Any, form: Any) -> str:
    return UNKNOWN if value is None else form(value)


def _p_value(value: float) -> str:
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _count(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}" if value >= 100 else f"{value:.3g}"


def _say_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        _say(console, f"note: {note}")


def _say(console: Console, text: str, *, wrap: bool = True) -> None:
    """Sentences are broken at the width of the terminal, paths are not."""
    console.print("\n".join(visible(line) for line in text.split("\n")), markup=False, highlight=False, soft_wrap=not wrap)
