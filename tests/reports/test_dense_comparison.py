"""A comparison with dense twins: every file of it and its pictures, whether it is won or lost, large or hardly known."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from functools import partial

import matplotlib.image
import numpy as np
import pytest

from moecli.reports import DENSE_COMPARISON_REPORTS, write_dense_comparison
from moecli.reports.dense_comparison import amount, arm_styles, heading, near_arms, num_bytes, role, short_names
from moecli.reports.dense_comparison_cost import draw_speed_and_memory
from moecli.reports.dense_comparison_curves import draw_curves, value_range
from moecli.reports.dense_comparison_final import draw_final
from moecli.reports.dense_comparison_markdown import as_markdown
from moecli.reports.picture import PAGE_INCHES
from tests.reports.dense_content import dense_content, moved, unknown_figures
from tests.reports.figures import collisions, drawn, small_print, texts
from tests.reports.test_reports import PAPER_HEIGHT

LONG_NAME = "a-very-long-name-of-a-recipe-that-somebody-wrote-down-in-a-hurry-one-day"
PICTURES = {
    "loss-by-tokens": partial(draw_curves, over="tokens"),
    "loss-by-flops": partial(draw_curves, over="flops"),
    "loss-by-seconds": partial(draw_curves, over="seconds"),
    "final-loss": draw_final,
    "speed-and-memory": draw_speed_and_memory,
}
FILES = [
    "compare-dense.html", "compare-dense.md", *(f"{name}.{suffix}" for name in PICTURES for suffix in ("png", "svg")),
    "arms.csv", "curves.csv", "comparisons.csv", "per-seed.csv",
]  # fmt: skip


def many_arms() -> dict:
    """Twelve arms, one of them with a long name, many notes, and a model that is far larger than the others."""
    content = dense_content(3, 8, loses=True)
    content["arms"][5]["name"] = content["comparisons"][4]["arm"] = LONG_NAME
    content["arms"][6]["params_total"] *= 50
    return content | {"notes": [f"switch-{number}: this model sees its future: its loss may be out of reach" for number in range(9)]}


def equal_arms() -> dict:
    """Two arms that are the same recipe: every difference is 0."""
    content = dense_content()
    base, nothing = content["arms"][0], {"mean": 0.0, "ci95": [0.0, 0.0], "per_seed": [0.0] * 3, "p_value": 1.0}
    compared = content["comparisons"][0] | {"arm": "quickstart-2", "difference": nothing, "verdict": "undecided"}
    return content | {"arms": [base, base | {"name": "quickstart-2"}], "matches": [], "comparisons": [compared]}


CONTENTS = {
    "won": dense_content(),
    "lost": dense_content(loses=True),
    "one seed": dense_content(1),
    "many arms": many_arms(),
    "equal": equal_arms(),
    "one arm failed": moved(moved(many_arms(), 2, 2.9), 4, -1.5),
    "unknown": unknown_figures(dense_content(1)),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_every_file_is_written_and_valid(tmp_path, kind):
    assert write_dense_comparison(CONTENTS[kind], tmp_path) == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for path in tmp_path.iterdir():
        if path.suffix == ".png":
            height, width, _ = matplotlib.image.imread(path).shape
            assert height > 300 and width > 800
        elif path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            assert rows and {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("name", PICTURES)
def test_texts_of_pictures_are_large_enough_and_do_not_touch(name, kind):
    figure = drawn(PICTURES[name], CONTENTS[kind])
    assert not collisions(figure)
    assert min(text.get_fontsize() for text in texts(figure)) >= 7
    assert figure.get_figwidth() <= PAGE_INCHES and figure.get_figheight() <= PAPER_HEIGHT


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_says_what_it_is_of_and_what_to_know(name):
    said = small_print(drawn(PICTURES[name], many_arms()))
    assert "stdlib (validation), sequences of 128 tokens, 3 seeds" in said
    assert "switch-4: this model sees its future" in said and "switch-5" not in said
    assert "and 4 more notes, which are on the page" in said


def test_equal_comparisons_give_equal_files(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        write_dense_comparison(dense_content(2, seed=3), tmp_path / folder)
    assert [name for name in FILES if (tmp_path / "first" / name).read_bytes() != (tmp_path / "second" / name).read_bytes()] == []


def test_a_comparison_without_arms_is_nothing():
    assert [name for name, report in DENSE_COMPARISON_REPORTS.items() if report.applies({"arms": [], "comparisons": []})] == []


@pytest.mark.parametrize("over", ["tokens", "flops", "seconds"])
def test_lines_are_the_curves(over):
    content = dense_content()
    axes = drawn(partial(draw_curves, over=over), content).axes[0]
    for line, arm in zip(axes.lines, content["arms"], strict=True):
        assert line.get_xdata().tolist() == pytest.approx(arm["curve"][over])
        assert line.get_ydata().tolist() == arm["curve"]["value"]
    assert len(axes.collections) == 4
    band = axes.collections[1].get_paths()[0].get_extents()
    values = np.array(content["arms"][1]["curve"]["per_seed"])
    assert (band.y0, band.y1) == (pytest.approx(values.min()), pytest.approx(values.max()))
    assert axes.get_ylabel() == "nats/token (lower is better)"


def test_the_axis_is_chosen_by_what_comes_after_the_first_fifth():
    """Steps 1 to 10: from step 2 on. 9, 5, 4, ..., 4 with one seed at 6 and one at 3.5: 3.5 to 6, and 0.04 x 2.5 = 0.1 to both sides."""
    content = dense_content()
    curve = {"steps": list(range(1, 11)), "value": [9.0, 5.0, *[4.0] * 8], "per_seed": [[9.0, 6.0, *[4.0] * 8], [9.0, 4.0, *[3.5] * 8]]}
    curve |= {key: list(range(1, 11)) for key in ("tokens", "flops", "seconds")}
    content["arms"] = [content["arms"][0] | {"curve": curve}]
    assert value_range(content) == pytest.approx((3.4, 6.1))
    figure = drawn(PICTURES["loss-by-tokens"], content)
    assert figure.axes[0].get_ylim() == pytest.approx((3.4, 6.1))
    assert "1 early value lies above the picture" in small_print(figure)


def with_finals(*finals: float | None) -> dict:
    """A comparison whose arms, the base first, end so."""
    content = dense_content(1, len(finals) - 4)
    for arm, final in zip(content["arms"], finals, strict=True):
        arm["val_loss"] = {"mean": final, "ci95": None, "per_seed": [final]}
    return content


@pytest.mark.parametrize(
    ("finals", "far"),
    [
        # Distances 0.05, 0.1, 2.8: the median is 0.1, 5 of it 0.5.
        ((4.0, 4.05, 4.1, 6.8), [3]),
        ((4.0, 4.05, 4.1, 1.2), [3]),
        ((4.0, 4.05, 4.1, 4.45), []),
        # 0.01, 0.01, 0.19: 5 x 0.01 is less than 5 % of 4, which is 0.2.
        ((4.0, 4.01, 3.99, 4.19), []),
        ((4.0, 4.01, 3.99, 4.21), [3]),
        # Of four the second counts: 0.05, 0.1, 2.8, 2.8.
        ((4.0, 4.05, 4.1, 6.8, 6.8), [3, 4]),
        # The base is the one that failed: it is what is compared.
        ((6.8, 4.05, 4.1, 4.0), []),
        ((4.0, 4.05, None, 6.8), [3]),
        ((None, 4.05, 4.1, 6.8), []),
    ],
)
def test_near_arms_are_those_that_end_near_the_base(finals, far):
    content = with_finals(*finals)
    assert near_arms(content) == {arm["name"] for place, arm in enumerate(content["arms"]) if place not in far}


def test_an_arm_that_failed_does_not_press_the_curves_flat():
    content = dense_content(3, 1)
    before = value_range(content | {"arms": [arm for place, arm in enumerate(content["arms"]) if place not in (2, 4)]})
    content = moved(moved(content, 2, 2.9), 4, -1.5)
    assert value_range(content) == before
    figure = drawn(PICTURES["loss-by-tokens"], content)
    ends = [f"{content['arms'][place]['val_loss']['mean']:.4f}" for place in (2, 4)]
    assert [text.get_text() for text in figure.axes[0].texts] == [f"▲ dense-total {ends[0]}", f"▼ switch-1 {ends[1]}"]
    assert f"arms that end near it: dense-total ({ends[0]}), switch-1 ({ends[1]})" in small_print(figure)
    # All that is above the limits otherwise is early.
    assert "outside the picture" not in small_print(drawn(PICTURES["loss-by-tokens"], dense_content(3, 1)))


def test_an_arm_that_failed_is_an_arrow_beside_the_others():
    content = dense_content(3, 1)
    limits = [axes.get_xlim() for axes in drawn(draw_final, content).axes]
    content = moved(content, 2, 2.9)
    figure = drawn(draw_final, content)
    end, difference = content["arms"][2]["val_loss"]["mean"], content["comparisons"][1]["difference"]["mean"]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[f"{end:.4f} ▶"], [f"◀ −{-difference:.4f}"]]
    assert all(text.get_position()[1] == 2 for axes in figure.axes for text in axes.texts)
    for axes, (low, high) in zip(figure.axes, limits, strict=True):
        assert axes.get_xlim()[1] - axes.get_xlim()[0] <= high - low
    assert f"near it: dense-total ({end:.4f})" in small_print(figure)


def test_a_curve_that_is_not_known_is_no_error():
    content = dense_content(2)
    for arm in content["arms"]:
        arm["curve"] |= {"value": [None] * 20, "per_seed": [[None] * 20] * 2, "seconds": [None] * 20}
    assert "not known" in [text.get_text() for text in drawn(PICTURES["loss-by-seconds"], content).axes[0].texts]


def test_bands_of_many_arms_are_left_out():
    figure = drawn(PICTURES["loss-by-tokens"], many_arms())
    assert not figure.axes[0].collections and "bands" not in small_print(figure)


def test_twelve_arms_look_different():
    styles = arm_styles(12)
    assert len({(style["color"], str(style["linestyle"])) for style in styles}) == 12
    assert styles[0]["linewidth"] > styles[1]["linewidth"]


def test_long_names_are_shortened_in_the_middle_and_stay_apart():
    content = dense_content(1, 2)
    assert short_names(many_arms(), 21)[5] == "a-very-lon…ry-one-day"
    content["arms"][4]["name"], content["arms"][5]["name"] = "x" * 30 + "1" + "x" * 30, "x" * 30 + "2" + "x" * 30
    names = short_names(content, 20)
    assert len(set(names)) == 6 and names[4] == "5: " + "x" * 8 + "…" + "x" * 7
    assert max(map(len, names)) <= 20


def test_finals_are_seeds_mean_and_interval():
    content = dense_content()
    content["arms"][1]["val_loss"] = {"mean": 4.0, "ci95": [3.5, 4.5], "per_seed": [3.75, 4.0, 4.25]}
    content["comparisons"][0]["difference"] = {"mean": -0.5, "ci95": [-1.0, 0.25], "per_seed": [-0.75, -0.5, -0.25], "p_value": 0.1}
    finals, apart = drawn(draw_final, content).axes
    assert [line.get_xdata().tolist() for line in finals.lines[3:6]] == [[3.75, 4.0, 4.25], [3.5, 4.5], [4.0]]
    assert [line.get_xdata().tolist() for line in apart.lines[:3]] == [[-0.75, -0.5, -0.25], [-1.0, 0.25], [-0.5]]
    # In the row of the arm, below the base.
    assert apart.lines[2].get_ydata().tolist() == [1]
    assert "left of 0 quickstart is better" in small_print(apart.figure)
    low, high = apart.get_xlim()
    assert low < 0 < high


def test_bits_per_byte_are_drawn_where_arms_are_compared_by_them():
    content = dense_content() | {"measure": "bits_per_byte", "unit": "bits/byte"}
    finals = drawn(draw_final, content).axes[0]
    assert finals.lines[0].get_xdata().tolist() == content["arms"][0]["bits_per_byte"]["per_seed"]
    assert finals.get_xlabel() == "bits/byte"
    assert f"{content['arms'][0]['bits_per_byte']['mean']:.4f}" in as_markdown(content)


@pytest.mark.parametrize(("threads", "words"), [(1, "(cpu, 1 thread)"), (2, "(cpu, 2 threads)")])
def test_the_machine_is_told(threads, words):
    content = dense_content() | {"threads": threads}
    assert words in as_markdown(content) and words in small_print(drawn(draw_speed_and_memory, content))


def test_one_seed_has_no_interval():
    assert "one seed: no intervals" in small_print(drawn(draw_final, dense_content(1)))
    assert "±" not in as_markdown(dense_content(1)).split("nats/token: pure")[0]


def test_bars_are_the_speeds_and_far_values_are_on_a_logarithmic_axis():
    content = dense_content()
    content["arms"][3]["decode_tokens_per_s"] = None
    content["arms"][2]["params_total"] = 50_000_000
    figure = drawn(draw_speed_and_memory, content)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [4000.0, 6100.0, 3300.0, 6100.0]
    assert [text.get_text() for text in figure.axes[1].texts] == ["350", "410", "300", "–"]
    assert figure.axes[0].get_xlim()[0] == 0.0
    # 50,000,000 is more than 30 x 395,840.
    assert figure.axes[3].get_xscale() == "log" and figure.axes[3].get_title().endswith(", log scale")
    assert [text.get_text() for text in figure.axes[3].texts] == ["986k", "396k", "50M", "396k"]


@pytest.mark.parametrize(
    ("value", "count", "size"),
    [
        (0, "0", "0 B"),
        (7, "7", "7 B"),
        (0.0123, "0.01", "0.01 B"),
        (395_840, "396k", "396 kB"),
        (999_400, "999k", "999 kB"),
        (999_600, "1M", "1 MB"),
        (1_234_567, "1.23M", "1.23 MB"),
        (46_700_000_000, "46.7B", "46.7 GB"),
        (999_600_000_000_000, "1.00e+15", "1.00e+15 B"),
        (None, "–", "–"),
        (float("nan"), "–", "–"),
    ],
)
def test_amounts_have_three_digits(value, count, size):
    assert (amount(value), num_bytes(value)) == (count, size)


@pytest.mark.parametrize(("num_given", "words"), [(0, "3 other models"), (2, "5 other models")])
def test_the_heading_counts_the_others(num_given, words):
    content = dense_content(1, num_given)
    assert heading(content) == f"quickstart against {words}"
    assert as_markdown(content).startswith(f"## quickstart against {words}\n")


def test_one_other_is_no_plural():
    assert heading(equal_arms()) == "quickstart against 1 other model"


def test_an_arm_says_what_it_is_there_for():
    content = dense_content(1, 1)
    assert [role(content, arm) for arm in content["arms"]] == [
        "base", "equal active parameters and training FLOPs per token", "equal total parameters", "equal training seconds", "given",
    ]  # fmt: skip
