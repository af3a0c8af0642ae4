"""What every report of a comparison with dense twins shares: how arms are named and told apart, and how amounts are written.

Knows a comparison as plain data. Must not compute anything that it doesn't hold, nor know where it is shown.
"""

from __future__ import annotations

from statistics import median_low
from typing import TYPE_CHECKING, Any

import numpy as np

from moecli.reports.cells import LETTER_WIDTH
from moecli.reports.picture import MARGIN_INCHES, PAGE_INCHES, Content, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DASH = "–"
UNKNOWN: Content = {"mean": None, "ci95": None, "per_seed": []}

# Arms that end farther from the base than so many times the median arm, and than this share of the base's own value, are not fitted into
# a picture: one arm that failed would press all others into a line. templates/arms.js has the same numbers.
NEAR_TIMES, NEAR_SHARE = 5.0, 0.05
# Okabe and Ito's colours without their yellow; arms beyond the seventh have a colour again with other dashes and another marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
MARKERS = "osD^"
MOST_LETTERS = 28
# Of the small print of a picture; the page and the Markdown have them all.
MOST_NOTES = 5
# A row of a legend, the length of a line in it with the space around, in inches.
KEY_HEIGHT, KEY_LINE = 0.17, 0.62


def final(content: Content, arm: Content) -> Content:
    """The final values of an arm {"mean", "ci95", "per_seed"} in the comparison's unit."""
    return arm["val_loss" if content["measure"] == "loss" else "bits_per_byte"] or UNKNOWN


def near_arms(content: Content) -> set[str]:
    """The base and the arms that end near it, by name: what the axes of pictures fit. An arm whose end is not known is near."""
    ends = {arm["name"]: final(content, arm)["mean"] for arm in content["arms"]}
    centre, *others = ends.values()
    distances = [abs(end - centre) for end in others if end is not None and centre is not None]
    if not distances:
        return set(ends)
    most = max(NEAR_TIMES * median_low(distances), NEAR_SHARE * abs(centre))
    return {name for name, end in ends.items() if end is None or abs(end - centre) <= most}


def outside_remarks(content: Content, limits: tuple[float, float]) -> list[str]:
    """A remark where an arm ends outside the limits of a picture."""
    low, high = limits
    ends = [final(content, arm)["mean"] for arm in content["arms"]]
    pairs = zip(short_names(content), ends, strict=True)
    outside = [f"{name} ({end:.4f})" for name, end in pairs if end is not None and not low <= end <= high]
    return [f"outside the picture, which fits the base and the arms that end near it: {', '.join(outside)}"] if outside else []


def role(content: Content, arm: Content) -> str:
    """What an arm is there for: the base, a twin that is equal in something, or a recipe that was given."""
    if arm["name"] == content["base"]:
        return "base"
    matches = [match["quantity"] for match in content["matches"] if match["arm"] == arm["name"]]
    return f"equal {' and '.join(matches)}" if matches else "given"


def heading(content: Content) -> str:
    """What is compared with how many others: twins, and recipes that were given."""
    others = len(content["comparisons"])
    return f"{content['base']} against {others} other model{'' if others == 1 else 's'}"


def short_names(content: Content, most: int = MOST_LETTERS) -> list[str]:
    """The arms' names, long ones without their middle; numbered where that makes two the same."""
    names = [plain(arm["name"], most) for arm in content["arms"]]
    if len(set(names)) == len(names):
        return names
    return [f"{number}: {plain(arm['name'], most - 4)}" for number, arm in enumerate(content["arms"], start=1)]


def arm_styles(count: int) -> list[dict[str, Any]]:
    """Keyword arguments of `Axes.plot`, one for each arm; the first, the base, is the strongest."""
    styles = []
    for place in range(count):
        again, hue = divmod(place, len(COLOURS))
        kind = again % len(DASHES)
        styles.append({
            "color": COLOURS[hue], "linestyle": DASHES[kind], "marker": MARKERS[kind], "linewidth": 1.1 if place else 2.0,
            "zorder": 3 if place else 4,
        })  # fmt: skip
    return styles


def setting(content: Content) -> str:
    """On what text and with what seeds, in one line."""
    seeds = f"{len(content['seeds'])} seed{'' if len(content['seeds']) == 1 else 's'}"
    return f"{content['corpus']} ({content['split']}), sequences of {content['seq_len']:,} tokens, {seeds}"


def machine(content: Content) -> str:
    threads = content["threads"]
    return f"{content['device']}, {threads} thread{'' if threads == 1 else 's'}"


def small_print(content: Content, *remarks: str) -> Content:
    """What `new_sheet` takes as a report: the setting, the remarks, and the first of the notes."""
    notes, more = content["notes"][:MOST_NOTES], len(content["notes"]) - MOST_NOTES
    rest = [f"and {more} more note{'' if more == 1 else 's'}, which are on the page and in the Markdown"] if more > 0 else []
    return {"notes": [setting(content), *remarks, *notes, *rest]}


def interval_remark(content: Content) -> str:
    if len(content["seeds"]) == 1:
        return "one seed: no intervals"
    return "bars: 95 % intervals of the mean over seeds (Student's t); small circles: single seeds"


def key_columns(names: list[str]) -> int:
    """Of a legend as wide as the page."""
    widest = KEY_LINE + LETTER_WIDTH * max(len(name) for name in names)
    return max(1, min(len(names), int((PAGE_INCHES - 2 * MARGIN_INCHES) / widest)))


def key_height(names: list[str]) -> float:
    """In inches."""
    return 0.1 + KEY_HEIGHT * -(-len(names) // key_columns(names))


def draw_key(figure: Figure, names: list[str], styles: list[dict[str, Any]]) -> None:
    """Below everything, in a band of `key_height` inches: which line is which arm."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, markersize=3, **style) for name, style in zip(names, styles, strict=True)]
    place = (0.5, 0.06 / figure.get_figheight())
    spacing = {"labelspacing": 0.35, "columnspacing": 1.2, "borderpad": 0.0}
    columns = key_columns(names)
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=place, ncols=columns, frameon=False, handlelength=3.2, **spacing)


def with_interval(figure: Content, digits: int, sign: str = "") -> str:
    """The mean ± half of its interval, which is as wide to both sides; the mean alone where there is no interval."""
    if figure["mean"] is None:
        return DASH
    mean = f"{figure['mean']:{sign}.{digits}f}"
    if not figure["ci95"]:
        return mean
    low, high = figure["ci95"]
    return f"{mean} ± {(high - low) / 2:.{digits}f}"


def factor_with_interval(figure: Content) -> str:
    """A factor over seeds, "1.33× (0.94 to 1.72)": its interval is not as wide to both sides. Of large ones fewer digits say as much."""
    if figure["mean"] is None:
        return DASH
    mean = f"{_factor(figure['mean'])}×"
    return f"{mean} ({' to '.join(map(_factor, figure['ci95']))})" if figure["ci95"] else mean


def _factor(value: float) -> str:
    """Two seeds can give intervals of any width; how far a factor is beyond a thousand says nothing more."""
    return "> 1,000" if value > 1000 else f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def amount(value: float | None) -> str:
    """395,840 -> "396k": thousands, millions, billions, trillions; with an exponent beyond."""
    if value is None or not np.isfinite(value):
        return DASH
    return _scaled(value, ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")), "")


def num_bytes(value: float | None) -> str:
    """In powers of 1,000."""
    if value is None or not np.isfinite(value):
        return DASH
    return _scaled(value, ((1e12, " TB"), (1e9, " GB"), (1e6, " MB"), (1e3, " kB")), " B")


def _scaled(value: float, units: tuple[tuple[float, str], ...], smallest: str) -> str:
    """With three digits."""
    if abs(value) >= 999.5 * units[0][0]:
        return f"{value:.2e}{smallest}"
    for size, unit in units:
        # What would be rounded up to 1,000 of a unit is 1 of the next.
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)}{unit}"
    return f"{_three_digits(value)}{smallest}"


def _three_digits(value: float) -> str:
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
