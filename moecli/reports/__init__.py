"""Reports: draws and tabulates numbers, computes none. A new report is a file here and a line in REPORTS.

Knows reports as plain data. Must not know the models and texts that they are of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from moecli.reports import dense_comparison_tables, tables
from moecli.reports.ablation import draw_ablation, draw_ablation_by_load
from moecli.reports.checkpoints import draw_checkpoints
from moecli.reports.coactivation import draw_coactivation
from moecli.reports.communication import draw_communication
from moecli.reports.comparison import draw_comparison
from moecli.reports.consistency import draw_consistency
from moecli.reports.csv_file import write_csv
from moecli.reports.dense_comparison_cost import draw_speed_and_memory
from moecli.reports.dense_comparison_curves import draw_curves
from moecli.reports.dense_comparison_final import draw_final
from moecli.reports.dense_comparison_markdown import as_markdown
from moecli.reports.dropped import anything_dropped, draw_dropped
from moecli.reports.heatmap import draw_heatmap
from moecli.reports.paths import draw_paths
from moecli.reports.picture import Content, save_picture
from moecli.reports.saturation import draw_saturation
from moecli.reports.specialisation import draw_specialisation
from moecli.reports.training import draw_training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of a label in a file's name.
MOST_LETTERS, MOST_BYTES = 60, 200


@dataclass(frozen=True, slots=True)
class Report:
    """One way to show a report, or a part of it."""

    applies: Callable[[Content], bool]
    """Whether the report holds what is shown."""
    write: Callable[[Content, Path, str], list[str]]
    """function(report, folder, name) -> names of the files that it wrote there, all beginning with that name."""


def has(part: str) -> Callable[[Content], bool]:
    return lambda report: bool(report.get(part))


def picture(draw: Callable[[Content], Figure], applies: Callable[[Content], bool]) -> Report:
    """Drawn once, written as PNG and as SVG."""

    def write(report: Content, folder: Path, name: str) -> list[str]:
        names = [f"{name}.png", f"{name}.svg"]
        save_picture(draw, report, *(folder / name for name in names))
        return names

    return Report(applies, write)


def picture_of_each(draw: Callable[..., Figure], part: str) -> Report:
    """A picture for each entry of a list in the report, named for the entry's label: draw(report, part=entry)."""

    def write(report: Content, folder: Path, name: str) -> list[str]:
        names: list[str] = []
        for entry in report[part]:
            stem = _unused(f"{name}-{_as_file_name(entry['label'])}", names)
            names += picture(partial(draw, part=entry), has(part)).write(report, folder, stem)
        return names

    return Report(has(part), write)


def table(rows: Callable[[Content], Iterable[tables.Row]], part: str) -> Report:
    def write(report: Content, folder: Path, name: str) -> list[str]:
        return [name] if write_csv(rows(report), folder / name) else []

    return Report(has(part), write)


def _write_page(report: Content, folder: Path, name: str) -> list[str]:
    from moecli.reports.html import write_html

    write_html(report, folder / name)
    return [name]


def _write_comparison_page(comparison: Content, folder: Path, name: str) -> list[str]:
    from moecli.reports.html import write_comparison_html

    write_comparison_html(comparison, folder / name)
    return [name]


def _write_dense_comparison_page(comparison: Content, folder: Path, name: str) -> list[str]:
    from moecli.reports.html import write_dense_comparison_html

    write_dense_comparison_html(comparison, folder / name)
    return [name]


def _write_markdown(comparison: Content, folder: Path, name: str) -> list[str]:
    # A path may hold bytes that are no text.
    (folder / name).write_text(as_markdown(comparison), encoding="utf-8", errors="backslashreplace")
    return [name]


REPORTS: dict[str, Report] = {
    "report.html": Report(has("layers"), _write_page),
    "load": picture(draw_heatmap, has("layers")),
    "specialisation": picture_of_each(draw_specialisation, "specialisation"),
    "coactivation": picture(draw_coactivation, has("coactivation")),
    "paths": picture(draw_paths, has("paths")),
    "consistency": picture(draw_consistency, has("consistency")),
    "dropped": picture(draw_dropped, anything_dropped),
    "training": picture(draw_training, has("training")),
    "communication": picture(draw_communication, has("communication")),
    "checkpoints": picture(draw_checkpoints, has("checkpoints")),
    "saturation": picture(draw_saturation, has("saturation")),
    "ablation": picture(draw_ablation, has("ablation")),
    "ablation-by-load": picture(draw_ablation_by_load, has("ablation")),
    "layers.csv": table(tables.layers, "layers"),
    "load.csv": table(tables.load, "layers"),
    "dropped.csv": table(tables.dropped, "position_starts"),
    "specialisation.csv": table(tables.specialisation, "specialisation"),
    "specialisation-layers.csv": table(tables.specialisation_layers, "specialisation"),
    "vocabulary.csv": table(tables.vocabulary, "vocabulary"),
    "vocabulary-layers.csv": table(tables.vocabulary_layers, "vocabulary"),
    "coactivation.csv": table(tables.coactivation, "coactivation"),
    "paths.csv": table(tables.paths, "paths"),
    "transitions.csv": table(tables.transitions, "paths"),
    "consistency.csv": table(tables.consistency, "consistency"),
    "training.csv": table(tables.training, "training"),
    "communication.csv": table(tables.communication, "communication"),
    "checkpoints.csv": table(tables.checkpoints, "checkpoints"),
    "checkpoints-load.csv": table(tables.checkpoints_load, "checkpoints"),
    "saturation.csv": table(tables.saturation, "saturation"),
    "ablation.csv": table(tables.ablation, "ablation"),
}
"""Name of a file, or how its name begins -> how it comes about. Files are written in this order."""

COMPARISON_REPORTS: dict[str, Report] = {
    "comparison.html": Report(has("runs"), _write_comparison_page),
    "comparison": picture(draw_comparison, has("runs")),
    "comparison.csv": table(tables.comparison, "runs"),
}
"""The same for several runs side by side."""

DENSE_COMPARISON_REPORTS: dict[str, Report] = {
    "compare-dense.html": Report(has("arms"), _write_dense_comparison_page),
    "compare-dense.md": Report(has("arms"), _write_markdown),
    "loss-by-tokens": picture(partial(draw_curves, over="tokens"), has("arms")),
    "loss-by-flops": picture(partial(draw_curves, over="flops"), has("arms")),
    "loss-by-seconds": picture(partial(draw_curves, over="seconds"), has("arms")),
    "final-loss": picture(draw_final, has("arms")),
    "speed-and-memory": picture(draw_speed_and_memory, has("arms")),
    "arms.csv": table(dense_comparison_tables.arms, "arms"),
    "curves.csv": table(dense_comparison_tables.curves, "arms"),
    "comparisons.csv": table(dense_comparison_tables.comparisons, "comparisons"),
    "per-seed.csv": table(dense_comparison_tables.per_seed, "arms"),
}
"""The same for a mixture of experts and its dense twins."""

TRAINING_REPORTS: dict[str, Callable[[Content, Path], None]] = {
    "heatmap.png": partial(save_picture, draw_heatmap),
}
"""What a training draws: file name -> function(load report as JSON, path)."""


def write_reports(report: Content, folder: Path) -> list[str]:
    """Writes all that applies to a report of route-stats into a folder that exists; gives the names of the files, in order."""
    return _write_all(REPORTS, report, folder)


def write_comparison(comparison: Content, folder: Path) -> list[str]:
    """The same for {"runs": [report with a "name", ...]}."""
    return _write_all(COMPARISON_REPORTS, comparison, folder)


def write_dense_comparison(content: Content, folder: Path) -> list[str]:
    """The same for a comparison with dense twins, as the JSON of `moecli compare-dense` has it."""
    return _write_all(DENSE_COMPARISON_REPORTS, content, folder)


def _write_all(reports: dict[str, Report], content: Content, folder: Path) -> list[str]:
    applicable = [(name, report) for name, report in reports.items() if report.applies(content)]
    return [file for name, report in applicable for file in report.write(content, folder, name)]


def _as_file_name(label: str) -> str:
    """A label column may be called anything, and a file system takes 255 bytes, of which some are left for what is put around it."""
    short = re.sub(r"[^\w.-]+", "-", label).strip("-.")[:MOST_LETTERS].encode()[:MOST_BYTES].decode(errors="ignore")
    return short.strip("-.") or "label"


def _unused(stem: str, names: list[str]) -> str:
    """Two labels may be the same as file names, also where a file system does not tell capital letters apart."""
    taken = {name.lower() for name in names}
    numbered = [stem, *(f"{stem}-{number}" for number in range(2, len(names) + 2))]
    return next(candidate for candidate in numbered if f"{candidate}.png".lower() not in taken)
