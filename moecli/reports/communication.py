"""What several processes exchanged while they trained the model, as the training itself wrote it down.

Knows `communication` of a report. Must not compute anything that it doesn't hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moecli.reports.lines import draw_record, number_percents
from moecli.reports.picture import Content, Layout, new_sheet, of_the_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Key, name, and how far the axis reaches at the least.
CURVES = (
    ("communication_bytes", "bytes per step", 1.0),
    ("communication_share", "share of the step", 0.1),
    ("process_max_violation", "MaxVio of processes", 0.1),
)


def draw_communication(report: Content) -> Figure:
    """Three curves over the steps."""
    part = report["communication"]
    layout = Layout(panels=len(CURVES), columns=3, panel_height=1.7, gap=0.65, below=0.45)
    remarks = [
        f"{_numbers(part['processes'])} processes, means over them; bytes include what stays with a process",
        "share: of the seconds of a step, while something was under way, waiting for a slower process included",
        "MaxVio: (most - mean) over mean of the assignments that the experts of each process ran",
    ]
    sheet = new_sheet(of_the_model(report), "Communication while training", layout, remarks)
    draw_record(sheet, part, CURVES, {"communication_bytes": _number_bytes, "communication_share": number_percents})
    return sheet.figure


def _numbers(processes: list[int]) -> str:
    """A resumed training may have had others."""
    return ", then ".join(str(number) for number in dict.fromkeys(processes))


def _number_bytes(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axes.yaxis.set_major_formatter(EngFormatter(unit="B"))
