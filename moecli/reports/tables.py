"""The tables of a report, one observation a row: what the pictures show, and what they leave out.

Knows the keys of a report. Must not compute anything that it doesn't hold, nor know how a table is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moecli.reports.picture import Content

Row = dict[str, Any]
"""Name of a column -> text, number, or None where the figure is not known."""

LAYER_FIGURES = (
    "num_experts", "top_k", "cv_load", "cv_importance", "max_violation", "max_violation_batch", "entropy", "effective_experts",
    "dead_experts", "dropped_fraction", "moved_fraction", "confidence", "margin",
)  # fmt: skip


def layers(report: Content) -> Iterator[Row]:
    for layer in report["layers"]:
        yield {"layer": layer["layer"]} | {key: layer.get(key) for key in LAYER_FIGURES}


def load(report: Content) -> Iterator[Row]:
    for layer in report["layers"]:
        importance = layer.get("importance") or [None] * len(layer["load"])
        for expert, shares in enumerate(zip(layer["load"], importance, strict=True)):
            yield {"layer": layer["layer"], "expert": expert} | dict(zip(("load", "importance"), shares, strict=True))


def dropped(report: Content) -> Iterator[Row]:
    for layer in report["layers"]:
        for start, share in zip(report["position_starts"], layer["dropped_by_position"], strict=True):
            yield {"layer": layer["layer"], "first_position": start, "dropped_fraction": share}


def specialisation(report: Content) -> Iterator[Row]:
    keys = ("share_of_tokens", "share_of_assignments", "chance", "low", "high", "special")
    for part in report["specialisation"]:
        for layer in part["layers"]:
            for place, (value, count) in enumerate(zip(part["values"], part["counts"], strict=True)):
                for expert, cells in enumerate(zip(*(layer[key][place] for key in keys), strict=True)):
                    where = {"label": part["label"], "layer": layer["layer"], "value": value, "tokens": count, "expert": expert}
                    yield where | dict(zip(keys, cells, strict=True))


def specialisation_layers(report: Content) -> Iterator[Row]:
    shared = ("documents", "permutations", "min_count", "too_rare")
    for part in report["specialisation"]:
        for layer in part["layers"]:
            figures = {key: layer[key] for key in ("mutual_information", "nmi", "nmi_corrected", "p_value", "significant")}
            null = _interval("nmi_null", layer["nmi_null"])
            yield {"label": part["label"], "layer": layer["layer"]} | figures | null | {key: part[key] for key in shared}


def vocabulary(report: Content) -> Iterator[Row]:
    for layer in report["vocabulary"]:
        for entry in layer["top"]:
            yield {"layer": layer["layer"]} | {key: entry[key] for key in ("token", "id", "count", "expert", "share", "chance")}


def vocabulary_layers(report: Content) -> Iterator[Row]:
    for layer in report["vocabulary"]:
        figures = {key: layer[key] for key in ("layer", "token_types", "min_count", "mean_max_share", "p_value", "significant")}
        yield figures | _interval("null", layer["null"])


def coactivation(report: Content) -> Iterator[Row]:
    """Pairs of two experts: an expert always runs with itself."""
    for layer in report["coactivation"]:
        num_experts = len(layer["share"])
        for expert in range(num_experts):
            for other in range(num_experts):
                if other != expert:
                    cells = {key: layer[key][expert][other] for key in ("share", "chance", "special")}
                    yield {"layer": layer["layer"], "expert": expert, "other_expert": other} | cells


def paths(report: Content) -> Iterator[Row]:
    """A row for each layer of each path; `path` counts from 1, the most travelled."""
    for number, path in enumerate(report["paths"]["top"], start=1):
        for layer, expert in zip(report["paths"]["layers"], path["experts"], strict=True):
            yield {"path": number, "layer": layer, "expert": expert} | {key: path[key] for key in ("count", "share", "chance")}


def transitions(report: Content) -> Iterator[Row]:
    """Only what some token did: with many experts most pairs are empty."""
    for transition in report["paths"]["transitions"]:
        where = {key: transition[key] for key in ("from_layer", "to_layer")}
        for source, shares in enumerate(transition["share"]):
            for target, share in enumerate(shares):
                if share != 0:
                    yield where | {"from_expert": source, "to_expert": target, "share": share}


def consistency(report: Content) -> Iterator[Row]:
    for layer in report["consistency"]:
        row = {"layer": layer["layer"], "pairs": layer["pairs"]}
        for key in ("first", "first_or_second"):
            row |= {key: layer[key]} | _interval(f"{key}_chance", layer[f"{key}_chance"])
        yield row


def training(report: Content) -> Iterator[Row]:
    return _by_step(report["training"], ("load_cv", "max_violation", "dropped_fraction", "dead_experts"))


def communication(report: Content) -> Iterator[Row]:
    columns = ("processes", "communication_bytes", "communication_share", "process_max_violation")
    return _by_step(report["communication"], columns)


def _by_step(part: Content, columns: tuple[str, ...]) -> Iterator[Row]:
    for figures in zip(*(part[key] for key in ("steps", *columns)), strict=True):
        yield dict(zip(("step", *columns), figures, strict=True))


def checkpoints(report: Content) -> Iterator[Row]:
    for checkpoint in report["checkpoints"]:
        for row in layers(checkpoint):
            yield {"step": checkpoint["step"], "checkpoint": checkpoint["checkpoint"]} | row


def checkpoints_load(report: Content) -> Iterator[Row]:
    for checkpoint in report["checkpoints"]:
        for row in load(checkpoint):
            yield {"step": checkpoint["step"]} | row


def saturation(report: Content) -> Iterator[Row]:
    keys = ("top_k", "top_k_chance", "first", "first_chance")
    for layer in report["saturation"]:
        for step, *shares in zip(layer["steps"], *(layer[key] for key in keys), strict=True):
            yield {"layer": layer["layer"], "step": step} | dict(zip(keys, shares, strict=True))


def ablation(report: Content) -> Iterator[Row]:
    keys = ("load", "loss_increase", "standard_error")
    for layer in report["ablation"]["layers"]:
        for expert, figures in enumerate(zip(*(layer[key] for key in keys), strict=True)):
            yield {"layer": layer["layer"], "expert": expert} | dict(zip(keys, figures, strict=True))


def comparison(content: Content) -> Iterator[Row]:
    """A row for each layer of each run; what is of the whole run is repeated."""
    for run in content["runs"]:
        for row in layers(run):
            yield {key: run[key] for key in ("name", "checkpoint", "corpus", "split", "tokens", "loss", "perplexity")} | row


def _interval(name: str, interval: Content | None) -> Row:
    return {f"{name}_{end}": (interval or {}).get(end) for end in ("mean", "low", "high")}
