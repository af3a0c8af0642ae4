"""The tables of a comparison with dense twins, one observation a row.

Knows the keys of a comparison. Must not compute anything that it doesn't hold, nor know how a table is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moecli.reports.dense_comparison import UNKNOWN, final
from moecli.reports.picture import Content
from moecli.reports.tables import Row

COSTS = (
    "match", "kind", "d_ff", "source", "params_total", "params_active", "flops_per_token", "steps", "tokens", "train_tokens_per_s",
    "decode_tokens_per_s", "decode_tokens_per_s_batched", "weight_bytes", "peak_memory_bytes",
)  # fmt: skip
LOAD = ("cv_load", "max_violation", "dead_experts", "dropped_fraction")
OVER_SEEDS = ("val_loss", "bits_per_byte", "train_seconds")
AMOUNTS = ("tokens_at_equal_loss", "seconds_at_equal_loss")
DIFFERENCES = ("difference", "tokens_to_equal_loss", "time_to_equal_loss")


def arms(content: Content) -> Iterator[Row]:
    for arm in content["arms"]:
        row: Row = {"arm": arm["name"]} | {key: arm[key] for key in COSTS}
        for key in OVER_SEEDS:
            row |= _interval(key, arm[key])
        yield row | {key: (arm["load"] or {}).get(key) for key in LOAD}


def curves(content: Content) -> Iterator[Row]:
    """A row for each validation of each run. The seconds are the mean over the seeds of an arm."""
    for arm in content["arms"]:
        curve = arm["curve"]
        for seed, values in zip(content["seeds"], curve["per_seed"], strict=True):
            for figures in zip(curve["steps"], curve["tokens"], curve["flops"], curve["seconds"], values, strict=True):
                columns = ("step", "tokens", "flops", "seconds", "value")
                yield {"arm": arm["name"], "seed": seed} | dict(zip(columns, figures, strict=True)) | {"unit": content["unit"]}


def comparisons(content: Content) -> Iterator[Row]:
    for comparison in content["comparisons"]:
        row: Row = {"base": content["base"], "arm": comparison["arm"], "unit": content["unit"]}
        for key in DIFFERENCES:
            row |= _interval(key, comparison[key])
        row |= {f"{key}_{side}_mean": comparison[key][f"{side}_mean"] for key in AMOUNTS for side in ("base", "arm")}
        p_value = comparison["difference"]["p_value"]
        yield row | {"p_value": p_value, "verdict": comparison["verdict"], "sentence": comparison["sentence"]}


def per_seed(content: Content) -> Iterator[Row]:
    """A row for each run: where it ended, how far the base's run of the same seed lies from it, and what both had spent at equal loss."""
    compared = {comparison["arm"]: comparison for comparison in content["comparisons"]}
    for arm in content["arms"]:
        for place, seed in enumerate(content["seeds"]):
            row: Row = {"arm": arm["name"], "seed": seed, "value": _at(final(content, arm), place), "unit": content["unit"]}
            row |= {key: _at(arm[key], place) for key in OVER_SEEDS}
            row |= {key: _at(compared.get(arm["name"], {}).get(key), place) for key in DIFFERENCES}
            for key in AMOUNTS:
                spent = compared.get(arm["name"], {}).get(key)
                row |= {f"{key}_{side}": spent[side][place] if spent else None for side in ("base", "arm")}
            yield row | {"run_dir": arm["run_dirs"][place] if place < len(arm["run_dirs"]) else None}


def _interval(name: str, figure: Content | None) -> Row:
    low, high = (figure or UNKNOWN)["ci95"] or (None, None)
    return {f"{name}_mean": (figure or UNKNOWN)["mean"], f"{name}_low": low, f"{name}_high": high}


def _at(figure: Content | None, place: int) -> Any:
    values = (figure or UNKNOWN)["per_seed"]
    return values[place] if place < len(values) else None
