"""What `moecli route-stats` says in a terminal: the figures that matter, each beside what chance gives.

Knows the report as plain data. Must not compute figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moecli.cli.load_view import load_table, print_heatmap
from moecli.workflows.route_stats import Comparison, RouteStats

MOST_PATHS = 3
MOST_TOKENS = 6
MOST_EXPERTS = 3


def print_stats(console: Console, stats: RouteStats) -> None:
    """One run."""
    report = stats.report
    _say(console, f"checkpoint    {report['checkpoint']}")
    _say(
        console, f"text          {report['corpus']} ({report['split']}): {report['tokens']:,} tokens at {stats.tokens_per_s:,.0f} tokens/s"
    )
    _say(console, f"loss          {report['loss']:.6f} nats/token, perplexity {report['perplexity']:.4f}")
    for note in report["notes"]:
        _say(console, f"note: {note}")
    console.print(load_table(stats.load, ""))
    print_heatmap(console, stats.load)
    for label in report["specialisation"]:
        console.print(_label_table(label))
    for lines in (_vocabulary(report), _coactivation(report), _consistency(report), _paths(report), _ablation(report)):
        for line in lines:
            _say(console, line)
    _say(console, "")
    page = next(path for path in stats.files if path.suffix == ".html")
    _say(console, f"wrote {len(stats.files)} files to {page.parent}; open {page.name} in a browser")


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Several runs: a line each, then their heatmaps."""
    table = Table(title="Routing, means over layers", title_justify="left")
    for heading in ("run", "loss", "load CV", "MaxVio", "effective experts", "dead", "dropped", "confidence"):
        table.add_column(heading, justify="left" if heading == "run" else "right", overflow="fold")
    for name, stats in zip(comparison.names, comparison.runs, strict=True):
        mean = stats.report["mean"]
        confidence = "–" if mean["confidence"] is None else f"{mean['confidence']:.3f}"
        figures = [f"{stats.report['loss']:.4f}", f"{mean['cv_load']:.3f}", f"{mean['max_violation']:.3f}"]
        figures += [f"{mean['effective_experts']:.2f}", str(mean["dead_experts"]), f"{mean['dropped_fraction']:.1%}", confidence]
        table.add_row(Text(name), *figures)
    console.print(table)
    for name, stats in zip(comparison.names, comparison.runs, strict=True):
        _say(console, f"\n{name}")
        print_heatmap(console, stats.load)
    _say(console, "")
    _say(console, f"wrote {len(comparison.files)} files to {comparison.files[0].parent}")


def _label_table(label: dict[str, Any]) -> Table:
    what = f"Specialisation by {label['label']}: {label['permutations']} shuffles of {label['documents']} documents"
    table = Table(title=what, title_justify="left")
    for heading in ("layer", "NMI", "by chance", "corrected", "p", "verdict", "furthest from chance"):
        table.add_column(heading, justify="left" if heading in ("verdict", "furthest from chance") else "right")
    for layer in label["layers"]:
        null = layer["nmi_null"]
        table.add_row(
            str(layer["layer"]),
            f"{layer['nmi']:.4f}",
            f"{null['low']:.4f}–{null['high']:.4f}",
            f"{layer['nmi_corrected']:.4f}",
            f"{layer['p_value']:.3f}",
            "beyond chance" if layer["significant"] else "chance",
            Text(_furthest(label, layer)),
        )
    return table


def _furthest(label: dict[str, Any], layer: dict[str, Any]) -> str:
    """The special cell whose share is the most above chance; nothing where none is."""
    cells = [
        (layer["share_of_tokens"][row][expert] - layer["chance"][row][expert], row, expert)
        for row, signs in enumerate(layer["special"])
        for expert, sign in enumerate(signs)
        if sign > 0
    ]
    if not cells:
        return "–"
    _, row, expert = max(cells)
    share, chance = layer["share_of_tokens"][row][expert], layer["chance"][row][expert]
    return f"expert {expert}: {share:.0%} of {label['values'][row]} ({chance:.0%})"


def _vocabulary(report: dict[str, Any]) -> Iterator[str]:
    for layer in report["vocabulary"]:
        null = layer["null"]
        verdict = "beyond chance" if layer["significant"] else "chance"
        if layer is report["vocabulary"][0]:
            yield f"Specialisation by token id: {layer['token_types']:,} ids that occur {layer['min_count']} times or more"
        yield (
            f"  layer {layer['layer']:>3}: the favourite expert of an id takes {layer['mean_max_share']:.1%} of it, "
            f"by chance {null['low']:.1%} to {null['high']:.1%}: {verdict}"
        )
        if layer["significant"]:
            yield "             " + "  ".join(f"{token['token']!r}→{token['expert']}" for token in layer["top"][:MOST_TOKENS])


def _coactivation(report: dict[str, Any]) -> Iterator[str]:
    for layer in report["coactivation"]:
        if layer is report["coactivation"][0]:
            yield "Experts that run for the same tokens, furthest above chance"
        pairs = [
            (share - layer["chance"][row][column], row, column)
            for row, shares in enumerate(layer["share"])
            for column, share in enumerate(shares)
            if share is not None and layer["special"][row][column] > 0
        ]
        if not pairs:
            yield f"  layer {layer['layer']:>3}: no pair is beyond chance"
            continue
        _, row, column = max(pairs)
        share, chance = layer["share"][row][column], layer["chance"][row][column]
        yield f"  layer {layer['layer']:>3}: {column} runs for {share:.0%} of the tokens of {row} (by chance {chance:.0%})"


def _consistency(report: dict[str, Any]) -> Iterator[str]:
    for layer in report["consistency"]:
        if layer is report["consistency"][0]:
            yield "Consecutive tokens with the same expert"
        line = f"  layer {layer['layer']:>3}: first choice {layer['first']:.1%} (by chance {layer['first_chance']['mean']:.1%})"
        if layer["first_or_second"] is not None:
            line += f", first or second {layer['first_or_second']:.1%} (by chance {layer['first_or_second_chance']['mean']:.1%})"
        yield line


def _paths(report: dict[str, Any]) -> Iterator[str]:
    paths = report["paths"]
    if paths is None:
        return
    named = ", ".join(map(str, paths["layers"][:8])) + ", ..." * (len(paths["layers"]) > 8)
    yield f"Paths through layers {named}: {paths['distinct']:,} different"
    for path in paths["top"][:MOST_PATHS]:
        yield f"  {'-'.join(map(str, path['experts']))}: {path['share']:.1%} of tokens (by chance {path['chance']:.2%})"


def _ablation(report: dict[str, Any]) -> Iterator[str]:
    ablation = report["ablation"]
    if ablation is None:
        return
    cells = [
        (increase, layer["layer"], expert, layer["load"][expert], error)
        for layer in ablation["layers"]
        for expert, (increase, error) in enumerate(zip(layer["loss_increase"], layer["standard_error"], strict=True))
    ]
    ranked = sorted(cells, key=lambda cell: cell[0], reverse=True)
    yield f"Switched off, an expert costs (nats/token, over {ablation['tokens']:,} tokens)"
    for increase, layer, expert, load, error in [*ranked[:MOST_EXPERTS], *ranked[max(MOST_EXPERTS, len(ranked) - MOST_EXPERTS) :]]:
        spread = "" if error is None else f" ± {error:.4f}"
        yield f"  layer {layer:>3} expert {expert:>3}: {increase:+.4f}{spread}, with {load:.1%} of the load"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
