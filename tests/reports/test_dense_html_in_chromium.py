"""The page of a comparison with dense twins in a real headless Chromium."""

from __future__ import annotations

import pytest

from moecli.reports.html import write_dense_comparison_html
from tests.reports.chromium import NEEDS_CHROMIUM
from tests.reports.dense_content import dense_content, moved, unknown_figures

pytestmark = NEEDS_CHROMIUM

HOSTILE = "</script><img src=x onerror=alert(1)><b>bold"


@pytest.fixture
def shown(opened):
    return lambda content, width=1280: opened(content, width, write_dense_comparison_html)


def points(page, arm: int) -> int:
    """Of the line of an arm; the base is drawn last."""
    paths = page.page.eval_on_selector_all("#curves-chart .curve", "paths => paths.map(path => path.getAttribute('d'))")
    return len(paths[::-1][arm].replace("M", "L").split("L")) - 1


@pytest.mark.parametrize("content", [dense_content(), dense_content(3, 8, loses=True), unknown_figures(dense_content(1))])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_the_window(shown, tmp_path, content, width):
    page = shown(content, width)
    assert page.overflow() == 0
    assert page.page.locator("#curves-chart .curve").count() == len(content["arms"])
    page.page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_pointing_at_the_curves_shows_the_nearest_point(shown):
    content = dense_content()
    page = shown(content)
    box = page.page.locator("#curves-chart .chart").first.bounding_box()
    found = page.point_at("#curves-chart .chart", position={"x": box["width"] - 16, "y": box["height"] - 60})
    # Below the right end: the last point of the arm with most tokens.
    curve = content["arms"][3]["curve"]
    assert found == {
        "title": "dense-time",
        "nats/token": f"{curve['value'][-1]:.4f}",
        **{f"seed {seed}": f"{curve['per_seed'][seed][-1]:.4f}" for seed in range(3)},
        "step": "450", "tokens": "921,600", "FLOPs": "2.19T", "seconds": "151",
    }  # fmt: skip
    assert page.page.locator("#curves-chart .curve.faded").count() == 3


def test_curves_go_over_what_is_chosen(shown):
    content = dense_content()
    page = shown(content)
    axis = "#curves-chart .chart > text.axis"
    assert page.texts(axis) == ["tokens trained on →"]
    ends = []
    for label in ("training FLOPs", "seconds of training"):
        page.choose("over", label)
        assert page.texts(axis) == [f"{label} →"]
        ends.append([path.split("L")[-1] for path in page.page.eval_on_selector_all(
            "#curves-chart .curve", "paths => paths.map(path => path.getAttribute('d'))")])  # fmt: skip
    # The widest reaches the right edge: by FLOPs the twin of all parameters, by seconds again.
    assert [max(range(4), key=lambda place: float(end[place].split()[0])) for end in ends] == [1, 1]
    assert [points(page, arm) for arm in range(4)] == [20] * 4


def test_the_loss_axis_can_begin_with_the_first_validation(shown):
    content = dense_content()
    page = shown(content)
    top = "#curves-chart .chart > text.tick.end >> nth=-1"
    first = max(value for arm in content["arms"] for curve in arm["curve"]["per_seed"] for value in curve)
    assert float(page.page.text_content(top)) < first
    assert page.texts("#curves-chart .small") == ["The first values lie above the picture."]
    page.choose("part", "from the first validation on")
    assert float(page.page.text_content(top)) >= first
    assert page.texts("#curves-chart .small") == []


def test_arms_that_end_far_from_the_base_are_marked_at_the_edge(shown):
    content = moved(moved(dense_content(3, 1), 2, 2.9), 4, -1.5)
    page = shown(content)
    above, below = (f"{content['arms'][place]['val_loss']['mean']:.4f}" for place in (2, 4))
    said = "Outside the picture, which fits the base and the arms that end near it: dense-total, switch-1."
    assert page.texts("#curves-chart .far") == [f"▲ dense-total {above}", f"▼ switch-1 {below}"]
    assert page.texts("#finals-chart .far") == [f"{above} ▶", f"◀ {below}"]
    differences = [content["comparisons"][place]["difference"]["mean"] for place in (1, 3)]
    assert page.texts("#differences-chart .far") == [f"◀ −{-differences[0]:.4f}", f"+{differences[1]:.4f} ▶"]
    assert [page.texts(f"#{chart}-chart .small")[-1] for chart in ("curves", "finals", "differences")] == [said] * 3
    assert page.page.locator("#finals-chart .mean").count() == 3
    top = "#curves-chart .chart > text.tick.end >> nth=-1"
    assert float(page.page.text_content(top)) < float(above)
    page.choose("part", "anywhere, of arms far from the base too")
    assert float(page.page.text_content(top)) > float(above)
    assert page.texts("#curves-chart .far") == page.texts("#curves-chart .small") == []


def test_the_axis_of_everything_is_offered_where_an_arm_is_far(shown):
    options = "select[name=part] option"
    assert len(shown(dense_content()).texts(options)) == 2
    assert len(shown(moved(dense_content(), 2, 2.9)).texts(options)) == 3


def test_the_arrow_keys_go_along_a_line_and_to_the_next(shown):
    page = shown(dense_content())
    page.page.focus("#curves-chart .chart")
    titles = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp"):
        page.page.keyboard.press(key)
        titles.append(page.page.text_content("#tooltip strong"))
    assert titles == ["quickstart", "quickstart", "dense-active", "quickstart"]
    page.page.keyboard.press("Escape")
    assert page.page.is_hidden("#tooltip")


def test_rows_show_their_numbers(shown):
    content = dense_content()
    page = shown(content)
    difference = content["comparisons"][1]["difference"]
    box = page.page.locator("#differences-chart .chart").bounding_box()
    found = page.point_at("#differences-chart .chart", position={"x": box["width"] / 2, "y": 6 + 34 * 1.5})
    assert (found["title"], found["mean"], found["p"]) == ("dense-total", f"+{difference['mean']:.4f}", "0.0045")
    low, high = (f"{'+' if end > 0 else '−'}{abs(end):.4f}" for end in difference["ci95"])
    assert found["95 % interval"] == f"{low} to {high}"
    assert page.page.locator("#differences-chart .zero").count() == 1
    assert page.page.locator("#finals-chart .seed").count() == 4 * 3
    assert page.page.locator("#finals-chart .interval").count() == 4


def test_tables_hold_the_figures_and_sort(shown):
    content = dense_content()
    page = shown(content)
    assert page.column("#differences-table", "loss of the base is") == ["lower", "higher", "undecided"]
    assert page.column("#cost-table", "parameters") == ["985,664", "395,840", "985,600", "395,840"]
    assert page.column("#speed-table", "generating 8 texts, tokens/s in all")[0] == "2,280"
    spent = content["comparisons"][0]["seconds_at_equal_loss"]
    assert page.column("#differences-table", "seconds of the base")[0] == "125"
    assert page.column("#differences-table", "seconds of the arm")[0] == f"{spent['arm_mean']:.3g}"
    assert page.column("#differences-table", "tokens of the base")[0] == "500k"
    assert page.column("#speed-table", "rounds")[0] in ("315 to 420", "2,140 to 2,310")
    assert page.column("#matching-table", "mismatch") == ["+0.067 %", "+0.067 %", "−0.0065 %", "−2.21 %"]
    assert page.column("#routing-table", "dropped") == ["1.25 %"]
    assert page.page.locator("#runs-table tbody tr").count() == 4 * 3
    page.page.click("#speed-table th:has-text('training, tokens/s') button")
    assert page.column("#speed-table", "arm")[:2] == ["dense-total", "quickstart"]


def test_figures_that_are_not_known_are_dashes(shown):
    page = shown(unknown_figures(dense_content(1)))
    assert set(page.column("#quality-table", "bits/byte")) == {"–"}
    assert set(page.column("#speed-table", "generating one text, tokens/s")) == {"–"}
    assert set(page.column("#differences-table", "p") + page.column("#differences-table", "tokens to equal loss")) == {"–"}
    assert page.page.locator("#finals-chart .interval, #curves-chart .seeds").count() == 0


def test_a_comparison_without_a_known_loss_says_so(shown):
    content = dense_content(1)
    nothing = {"mean": None, "ci95": None, "per_seed": [None]}
    for arm in content["arms"]:
        arm["val_loss"] = nothing
        arm["curve"] |= {"value": [None] * 20, "per_seed": [[None] * 20]}
    for comparison in content["comparisons"]:
        comparison["difference"] = nothing | {"p_value": None}
    page = shown(content)
    assert page.texts(".figure .empty") == ["Not known for this comparison."] * 3


def test_twelve_arms_look_different(shown):
    page = shown(dense_content(3, 8))
    looks = page.page.eval_on_selector_all(
        "#curves-chart .curve", "paths => paths.map(path => [path.getAttribute('stroke'), path.getAttribute('stroke-dasharray')].join())"
    )
    assert len(set(looks)) == 12
    assert page.page.locator("#curves-chart .arm").count() == 12


def test_hostile_and_long_names_show_as_text(shown):
    content = dense_content()
    long = "a-very-long-name-of-a-recipe-that-somebody-wrote-down-in-a-hurry"
    content["arms"][1]["name"] = content["comparisons"][0]["arm"] = HOSTILE
    content["arms"][2]["name"] = content["comparisons"][1]["arm"] = long
    page = shown(content | {"notes": [HOSTILE]}, 360)
    assert page.page.locator("img, b").count() == 0
    assert page.overflow() == 0
    assert page.column("#quality-table", "arm")[1] == HOSTILE
    assert page.texts("#finals-chart text.tick.end")[2] == "a-very-…-hurry"
