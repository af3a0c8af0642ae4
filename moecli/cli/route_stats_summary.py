"""What `moecli route-stats` says in a terminal: the figures that matter, each beside what chance gives.

Knows the report as plain data. Must not compute figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from moecli.analysis.specialisation import POSITION
from moecli.cli.console import visible
from moecli.cli.load_view import load_table, print_heatmap
from moecli.workflows.compare_routing import Comparison
from moecli.workflows.route_stats import RouteStats

MOST_PATHS = 3
MOST_TOKENS = 6
MOST_EXPERTS = 3
# Of a deep model those layers are shown that have the most to tell, and of a path its first experts.
MOST_LAYERS = 8
# Characters of a label's value.
LONGEST_VALUE = 20


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
    console.print(load_table(stats.load))
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
    table = Table(title="Routing, means over layers", title_justify="left", box=SIMPLE)
    for heading in ("run", "text", "loss", "load CV", "MaxVio", "effective", "dead", "dropped"):
        table.add_column(heading, justify="left" if heading in ("run", "text") else "right", overflow="fold")
    reports = [stats.report for stats in comparison.runs]
    for name, report in zip(comparison.names, reports, strict=True):
        mean = report["mean"]
        figures = [f"{report['loss']:.4f}", f"{mean['cv_load']:.3f}", f"{mean['max_violation']:.3f}"]
        figures += [f"{mean['effective_experts']:.2f}", str(mean["dead_experts"]), f"{mean['dropped_fraction']:.1%}"]
        table.add_row(Text(visible(name)), Text(visible(report["corpus"], LONGEST_VALUE)), *figures)
    console.print(table)
    if len({(report["corpus"], report["split"], report["tokens"]) for report in reports}) > 1:
        _say(console, "note: losses on different texts or tokenizers do not compare")
    for name, stats in zip(comparison.names, comparison.runs, strict=True):
        _say(console, f"\n{name}")
        for note in stats.report["notes"]:
            _say(console, f"note: {note}")
        print_heatmap(console, stats.load)
    page = next(path for path in comparison.files if path.suffix == ".html")
    _say(console, "")
    _say(console, f"wrote {len(comparison.files)} files to {page.parent}; open {page.name} in a browser")


def _label_table(label: dict[str, Any]) -> Table:
    name = visible(label["label"], LONGEST_VALUE)
    what = f"Specialisation by {name} (chance: {label['permutations']} exchanges of {label['documents']} documents)"
    table = Table(title=Text(what), title_justify="left", box=SIMPLE)
    headings = {"layer": "right", "NMI": "right", "by chance": "right", "p": "right", "beyond": "left", "furthest above chance": "left"}
    for heading, justify in headings.items():
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for layer in most_telling(label["layers"], "nmi_corrected"):
        table.add_row(
            str(layer["layer"]),
            f"{layer['nmi']:.4f}",
            f"≤ {layer['nmi_null']['high']:.4f}",
            f"{layer['p_value']:.3f}",
            "yes" if layer["significant"] else "no",
            Text(_furthest(label, layer)),
        )
    return table


def most_telling(layers: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """Of many layers those with the largest figures, in their order."""
    largest = sorted(layers, key=lambda layer: layer[key], reverse=True)[:MOST_LAYERS]
    return [layer for layer in layers if layer in largest]


def _furthest(label: dict[str, Any], layer: dict[str, Any]) -> str:
    """The special cell whose share is the most above chance; nothing where none is."""
    cells = [
        (layer["share_of_tokens"][row][expert] - layer["chance"][row][expert], row, expert)
        for row, signs in enumerate(layer["special"])
        for expert, sign in enumerate(signs)
        if sign > 0
    ]
    if not cells:
        return ""
    _, row, expert = max(cells)
    share, chance = layer["share_of_tokens"][row][expert], layer["chance"][row][expert]
    value = visible(label["values"][row], LONGEST_VALUE)
    if label["label"] == POSITION:
        value = f"position {value}"
    return f"{value}: {share:.0%} to expert {expert} ({chance:.0%})"


def _vocabulary(report: dict[str, Any]) -> Iterator[str]:
    layers = most_telling(report["vocabulary"], "mean_max_share")
    if layers:
        yield f"Specialisation by token id: share of an id's favourite expert, mean of {layers[0]['token_types']:,} ids"
    for layer in layers:
        verdict = "beyond chance" if layer["significant"] else "chance"
        yield f"  layer {layer['layer']:>3}: {layer['mean_max_share']:.1%}, by chance up to {layer['null']['high']:.1%}: {verdict}"
        if layer["significant"]:
            named = [f"{visible(repr(token['token']), LONGEST_VALUE)}→{token['expert']}" for token in layer["top"][:MOST_TOKENS]]
            yield "             " + "  ".join(named)


def _coactivation(report: dict[str, Any]) -> Iterator[str]:
    strongest = [{"excess": pair[0], "layer": layer, "pair": pair} for layer in report["coactivation"] if (pair := _strongest_pair(layer))]
    if report["coactivation"]:
        yield f"Experts that run for the same tokens, of {report['coactivation'][0]['tokens']:,} tokens"
        if not strongest:
            yield "  no pair is beyond chance"
    for found in most_telling(strongest, "excess"):
        layer, (_, row, column) = found["layer"], found["pair"]
        share, chance = layer["share"][row][column], layer["chance"][row][column]
        yield f"  layer {layer['layer']:>3}: {column} runs for {share:.0%} of the tokens of {row} (by chance {chance:.0%})"


def _strongest_pair(layer: dict[str, Any]) -> tuple[float, int, int] | None:
    """How far above chance, and of which experts; None where no pair is beyond chance."""
    pairs = [
        (share - layer["chance"][row][column], row, column)
        for row, shares in enumerate(layer["share"])
        for column, share in enumerate(shares)
        if share is not None and layer["special"][row][column] > 0
    ]
    return max(pairs, default=None)


def _consistency(report: dict[str, Any]) -> Iterator[str]:
    layers = most_telling(report["consistency"], "first")
    if layers:
        yield "Consecutive tokens with the same first expert, or one of two in common (by chance)"
    for layer in layers:
        line = f"  layer {layer['layer']:>3}: {layer['first']:.1%} ({layer['first_chance']['mean']:.1%})"
        if layer["first_or_second"] is not None:
            line += f", {layer['first_or_second']:.1%} ({layer['first_or_second_chance']['mean']:.1%})"
        yield line


def _paths(report: dict[str, Any]) -> Iterator[str]:
    paths = report["paths"]
    if paths is None:
        return
    yield f"Paths through the {len(paths['layers'])} layers that route: {paths['distinct']:,} different"
    for path in paths["top"][:MOST_PATHS]:
        experts = "-".join(map(str, path["experts"][:MOST_LAYERS])) + "-…" * (len(path["experts"]) > MOST_LAYERS)
        yield f"  {experts}: {path['share']:.1%} of tokens (by chance {100 * path['chance']:.2g}%)"


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
        spread = "" if error is None else f" ± {error:.2g}"
        yield f"  layer {layer:>3} expert {expert:>3}: {increase:+.3g}{spread}, with {load:.1%} of the load"


def _say(console: Console, text: str) -> None:
    console.print("\n".join(visible(line) for line in text.split("\n")), markup=False, highlight=False, soft_wrap=True)
