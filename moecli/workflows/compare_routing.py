"""`moecli route-stats --compare`: the routing of several runs side by side.

Knows how one run is looked at. Must not know how figures are computed, drawn or shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moecli.errors import RunError
from moecli.workflows.events import Listener, Stage
from moecli.workflows.route_stats import RouteStats, StatsOptions, look_at_routing
from moecli.workflows.stats_folder import comparison_target, stats_target, write_comparison_files

# Of a run's report what is compared, and what says what it is of.
PARTS = (
    "checkpoint", "source", "model_type", "corpus", "split", "tokens", "loss", "perplexity", "notes", "model_notes", "layers", "mean",
    "position_starts", "training",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs beside each other."""

    runs: list[RouteStats]
    names: list[str]
    files: list[Path]

    def to_json(self) -> dict[str, Any]:
        return _content(self.names, self.runs) | {"files": [str(path) for path in self.files]}


def compare_routing(paths: Sequence[Path], options: StatsOptions, listener: Listener, out: Path | None = None) -> Comparison:
    """Looks at several runs, each on its own text unless one is given, and writes a report that puts them side by side."""
    if len(paths) < 2:
        raise RunError("one run alone can't be compared", where="--compare", next_step="name two or more run folders")
    target = comparison_target(out)
    if len({path.resolve() for path in paths}) < len(paths):
        raise RunError("a run is named twice", where="--compare", next_step="name each once")
    for path in paths:
        stats_target(path, None)  # is there anything to look at?
    runs = []
    for path in paths:
        listener(Stage(f"{path}"))
        runs.append(look_at_routing(path, replace(options, load_alone=True), listener))
    names = [str(path) for path in paths]
    listener(Stage("drawing"))
    return Comparison(runs, names, write_comparison_files(_content(names, runs), target))


def _content(names: Sequence[str], runs: Sequence[RouteStats]) -> dict[str, Any]:
    """What the files are made of: of each run its name, and its report without the parts that are not compared."""
    return {"runs": [{"name": name} | {part: stats.report[part] for part in PARTS} for name, stats in zip(names, runs, strict=True)]}
