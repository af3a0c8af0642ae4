"""`moecli route-stats --compare`: the routing of several runs side by side.

Knows how one run is looked at. Must not know how figures are computed, drawn or shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moecli.errors import RunError
from moecli.workflows.events import Listener, Stage
from moecli.workflows.route_stats import RouteStats, StatsOptions, look_at_routing
from moecli.workflows.stats_folder import comparison_target, stats_target, write_comparison_files


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several runs beside each other."""

    runs: list[RouteStats]
    names: list[str]
    files: list[Path]

    def to_json(self) -> dict[str, Any]:
        runs = [{"name": name} | stats.to_json() for name, stats in zip(self.names, self.runs, strict=True)]
        return {"runs": runs, "files": [str(path) for path in self.files]}


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
        runs.append(look_at_routing(path, options, listener))
    names = [str(path) for path in paths]
    content = {"runs": [{"name": name} | stats.report for name, stats in zip(names, runs, strict=True)]}
    listener(Stage("drawing"))
    return Comparison(runs, names, write_comparison_files(content, target))
