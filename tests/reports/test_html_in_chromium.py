"""The page in a real headless Chromium: it loads in silence, menus and tables do what they say, and figures tell their numbers."""

from __future__ import annotations

import pytest

from moecli.reports.html import write_comparison_html
from tests.reports.chromium import NEEDS_CHROMIUM
from tests.reports.report_content import report_content

pytestmark = NEEDS_CHROMIUM

HOSTILE = "</script><img src=x onerror=alert(1)><b>bold"


def percent(share: float) -> str:
    return f"{share * 100:.{1 if share >= 0.1 else 2}f} %"


@pytest.mark.parametrize(("num_layers", "num_experts", "top_k"), [(3, 8, 2), (32, 64, 8)])
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_the_window(opened, tmp_path, num_layers, num_experts, top_k, width):
    page = opened(report_content(num_layers, num_experts, top_k=top_k), width)
    assert page.overflow() == 0
    assert page.page.locator("#load-map [data-cell]").count() == num_layers * num_experts
    assert page.page.locator("section").count() == 6
    page.page.screenshot(path=tmp_path / "page.png", full_page=num_layers < 32)
    assert (tmp_path / "page.png").stat().st_size > 50_000


def test_pointing_at_a_load_shows_its_numbers(opened):
    report = report_content()
    report["layers"][1]["load"][3:5] = [0.0, 0.0002]
    page = opened(report)
    layer = report["layers"][1]
    assert page.point_at('#load-map [data-cell="1,5"]') == {
        "title": "layer 2, expert 5",
        "load": percent(layer["load"][5]),
        "of the even share": f"{layer['load'][5] * 8:.2f}×",
        "importance": percent(layer["importance"][5]),
    }
    assert page.point_at('#load-map [data-cell="1,3"]')["load"] == "0.00 %"
    # 0.0002 of the load is 0.0016 of the even share.
    assert page.point_at('#load-map [data-cell="1,4"]')["load"] == "0.020 %"
    assert page.page.locator("#load-map .mark.cross").get_attribute("d").count("M") == 2 * 2


def test_the_load_map_switches_to_importance_and_to_cost(opened):
    report = report_content()
    page = opened(report)
    numbers = "#load-map .in-cell"
    assert page.texts(numbers)[:8] == [f"{share * 8:.2f}" for share in report["layers"][0]["load"]]
    page.choose("quantity", "importance")
    assert page.texts(numbers)[:8] == [f"{share * 8:.2f}" for share in report["layers"][0]["importance"]]
    page.choose("quantity", "loss without the expert")
    assert page.texts(numbers)[:8] == [f"+{increase:.4f}" for increase in report["ablation"]["layers"][0]["loss_increase"]]


def test_the_arrow_keys_move_through_a_heatmap(opened):
    page = opened(report_content())
    page.page.focus("#load-map svg")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):
        page.page.keyboard.press(key)
    assert page.page.text_content("#tooltip strong") == "layer 1, expert 2"
    page.page.keyboard.press("Escape")
    assert page.page.is_hidden("#tooltip")


def test_a_table_sorts_by_number_and_keeps_the_mean_below(opened):
    report = report_content(12)
    page = opened(report)
    heading = "#figures-table th:has-text('effective experts')"
    values = [layer["effective_experts"] for layer in report["layers"]]
    for order in ("ascending", "descending"):
        page.page.click(f"{heading} button")
        assert page.page.get_attribute(heading, "aria-sort") == order
        expected = sorted(values, reverse=order == "descending")
        assert page.column("#figures-table", "effective experts") == [f"{value:.2f}" for value in expected]
    # As text 10 would come before 2.
    page.page.click("#figures-table th:has-text('layer') button")
    assert page.column("#figures-table", "layer") == [str(number) for number in range(1, 13)]
    assert page.page.get_attribute(heading, "aria-sort") == "none"
    assert page.texts("#figures-table tfoot tr > *")[:3] == ["mean", "–", "2"]


def test_the_ablated_experts_sort_by_what_they_cost(opened):
    report = report_content()
    page = opened(report)
    for _ in range(2):
        page.page.click("#ablation-table th:has-text('loss increase') button")
    costs = [increase for layer in report["ablation"]["layers"] for increase in layer["loss_increase"]]
    assert page.column("#ablation-table", "loss increase") == [f"+{cost:#.3g}" for cost in sorted(costs, reverse=True)]


def test_specialisation_follows_its_label_and_its_layer(opened):
    report = report_content()
    report["specialisation"][1]["layers"][2] |= {"nmi": 0.5, "p_value": 0.75, "significant": False}
    page = opened(report)
    assert page.texts("#specialisation-map text.tick.end") == ["code", "comment", "docstring", "prose"]
    assert page.page.text_content("#specialisation-test .verdict") == "Beyond chance"
    page.choose("label", "position")
    page.choose("specialisationLayer", "3")
    assert page.texts("#specialisation-map text.tick.end") == ["0", "1", "2-3", "4-7", "8-15"]
    assert page.page.text_content("#specialisation-test .verdict") == "Not beyond chance"
    values = dict(zip(page.texts("#specialisation-test dt"), page.texts("#specialisation-test dd"), strict=True))
    assert (values["NMI"], values["its 95 % interval"], values["p-value"]) == ("0.500", "0.005 to 0.020", "0.750")
    layer = report["specialisation"][1]["layers"][2]
    # Chance is 2 choices of 8 experts, its interval in the made-up report 0.8 to 1.2 times that.
    assert page.point_at('#specialisation-map [data-cell="3,6"]') == {
        "title": "4-7, expert 6",
        "share of its tokens": percent(layer["share_of_tokens"][3][6]),
        "chance": "25.0 %",
        "its 95 % interval": "20.0 % to 30.0 %",
        "share of its assignments": percent(layer["share_of_assignments"][3][6]),
        "tokens with this label": "4,000",
        "special": {1: "▲ above chance", 0: "no, within chance", -1: "▼ below chance"}[layer["special"][3][6]],
    }


def test_coactivation_shows_chance_and_knows_its_diagonal(opened):
    report = report_content()
    page = opened(report)
    page.choose("coactivationLayer", "2")
    share = report["coactivation"][1]["share"][2][3]
    found = page.point_at('#coactivation-map [data-cell="2,3"]')
    # Chance is 1/7 in the made-up report.
    assert (found["of expert 2’s tokens"], found["chance"]) == (percent(share), "14.3 %")
    assert page.point_at('#coactivation-map [data-cell="2,2"]') == {
        "title": "expert 2", "of expert 2’s tokens": "–", "chance": "–", "share / chance": "–", "special": "–",
    }  # fmt: skip


def test_half_and_twice_of_chance_have_the_same_strength(opened):
    report = report_content(2, 4)
    layer = report["specialisation"][0]["layers"][0]
    layer["share_of_tokens"][0], layer["chance"][0] = [0.5, 0.125, 0.25, 0.25], [0.25, 0.25, 0.25, 0.0]
    page = opened(report)
    fills = page.page.eval_on_selector_all("#specialisation-map [data-cell^='0,']", "cells => cells.map(cell => cell.getAttribute('fill'))")
    # The stops of the scale at 3/4, between its 8th and 9th, and at 1/4; white; and grey where chance gives none.
    assert fills == ["rgb(229, 131, 104)", "rgb(107, 172, 209)", "rgb(247, 247, 247)", "#b4b8bf"]
    assert page.texts("#specialisation-map .missing") == ["not known, or chance gives none"]
    assert page.texts("#coactivation-map .missing") == ["an expert with itself, or not known"]
    assert page.page.locator("#load-map .missing").count() == 0


def test_numbers_of_any_size_stay_short(opened):
    report = report_content()
    report["paths"]["top"][0] |= {"share": 0.02, "chance": 1e-20}
    report["paths"]["top"][1] |= {"share": 0.02, "chance": 0.00002}
    report["ablation"]["layers"][0] |= {
        "loss_increase": [1.234e-5, -4.5e-8, 0.0, *[12.34] * 5], "standard_error": [1.06e-5, 2e-9, None, *[0.25] * 5],
    }  # fmt: skip
    page = opened(report)
    assert page.column("#paths-table", "chance")[:2] == ["< 0.001 %", "0.0020 %"]
    assert page.column("#paths-table", "share / chance")[:2] == ["> 1,000×", "1,000.00×"]
    assert page.column("#ablation-table", "loss increase")[:4] == ["+0.0000123", "−4.50e−8", "0", "+12.3"]
    assert page.column("#ablation-table", "standard error")[:4] == ["0.000011", "2.0e−9", "–", "0.25"]
    # 12.34 is the most: two digits after the point.
    assert page.texts("#ablation-map .in-cell")[:4] == ["0.00", "0.00", "0.00", "+12.34"]


def test_boxes_of_many_experts_have_a_second_hue(opened):
    report = report_content(2, 16)
    page = opened(report)
    assert page.page.locator("#flows .band").count() == 2 * 8
    assert "Colours come back after 8 experts" in page.page.text_content("#flows .small")
    assert opened(report_content(2, 8)).page.locator("#flows .band").count() == 0


def test_flows_name_their_ends(opened):
    report = report_content(2, 2)
    report["paths"]["transitions"][0]["share"] = [[0.5, 0.125], [0.0, 0.375]]
    page = opened(report)
    assert page.page.locator("#flows .ribbon").count() == 3
    found = page.point_at("#flows [data-ends='1:0 2:1']", position={"x": 3, "y": 3}, force=True)
    assert found == {"title": "layer 1 expert 0 → layer 2 expert 1", "of the tokens": "12.5 %"}
    # 0.125 + 0.375
    assert page.point_at("#flows [data-node='2:1']")["first choice of"] == "50.0 % of the tokens"


def test_a_chart_over_training_shows_the_nearest_step(opened):
    page = opened(report_content())
    assert page.point_at("#training-charts figure:first-child svg") == {"title": "step 20", "CV of load": "0.50"}
    assert page.point_at("#communication-charts figure:first-child svg") == {"title": "step 20", "bytes": "6.1 MB"}
    assert page.point_at("#saturation-chart svg", position={"x": 70, "y": 10})["layer 1"] == "70.0 %"
    assert page.point_at("#consistency-chart svg")["found"] == "27.0 %"


def test_the_text_follows_its_layer(opened):
    report = report_content()
    page = opened(report)
    sequence = report["text"]["sequences"][0]
    for place in range(3):
        page.choose("textLayer", str(place + 1))
        shown = page.page.eval_on_selector_all("#text .token", "tokens => tokens.map(token => token.dataset.expert)")
        assert shown == [str(experts[place]) if experts[place] >= 0 else "–" for experts in sequence["experts"]]
    colours = page.page.evaluate(
        "[...document.querySelectorAll('#text .token, #text-legend button')].map(node => [node.dataset.expert, node.style.background])"
    )
    # One colour per expert, in the text and in its legend; "–" is called -1 in the legend.
    assert len({(expert.replace("–", "-1"), colour) for expert, colour in colours}) == 9
    assert "".join(page.texts("#text .token")) == "".join(sequence["tokens"])


def test_pointing_at_a_token_shows_its_experts_in_all_layers(opened):
    report = report_content()
    page = opened(report)
    assert page.point_at("#text .token:nth-child(8)")["title"] == "return"
    experts = [str(expert) if expert >= 0 else "–" for expert in report["text"]["sequences"][0]["experts"][7]]
    assert page.texts("#tooltip .chip") == experts
    assert page.texts("#tooltip .chips small") == ["layer 1", "layer 2", "layer 3"]


def test_an_expert_of_the_legend_stands_out(opened):
    report = report_content()
    page = opened(report)
    page.page.click("#text-legend button[data-expert='3']")
    expected = [experts[0] != 3 for experts in report["text"]["sequences"][0]["experts"]]
    faded = "tokens => tokens.map(token => token.classList.contains('faded'))"
    assert page.page.eval_on_selector_all("#text .token", faded) == expected
    page.page.click("#text-legend button[data-expert='3']")
    assert not any(page.page.eval_on_selector_all("#text .token", faded))


def test_128_experts_have_128_backgrounds(opened):
    report = report_content(1, 128)
    report["text"]["sequences"] = [{"tokens": ["x"] * 128, "experts": [[expert] for expert in range(128)]}]
    page = opened(report)
    assert len(set(page.page.eval_on_selector_all("#text .token", "tokens => tokens.map(token => token.style.background)"))) == 128


def test_hostile_words_show_as_text_and_run_nothing(opened):
    report = report_content()
    report |= {"checkpoint": HOSTILE, "notes": [HOSTILE]}
    report["specialisation"][0] |= {"label": HOSTILE, "values": [HOSTILE] * 4}
    report["vocabulary"][0]["top"][0]["token"] = HOSTILE
    report["text"]["sequences"][0]["tokens"][0] = HOSTILE
    page = opened(report)
    assert page.page.locator("img, b").count() == 0
    assert page.page.text_content("h1") == HOSTILE
    assert page.page.text_content("#text .token") == HOSTILE
    assert page.texts("#vocabulary-table tbody th")[0] == HOSTILE.replace(" ", "␣")
    assert page.point_at("#text .token:first-child")["title"] == HOSTILE.replace(" ", "␣")
    assert page.point_at('#specialisation-map [data-cell="0,0"]')["title"] == f"{HOSTILE}, expert 0"
    assert page.page.locator("img, b").count() == 0


def test_what_turns_letters_around_is_written_out(opened):
    report = report_content()
    tricky, shown = "a\u202e\x07\U000e0041", "a\\u202e\\u0007\\U000e0041"
    report["specialisation"][0] |= {"label": tricky, "values": [tricky, "שלום", "c", "d"]}
    report["vocabulary"][0]["top"][0]["token"] = tricky
    report["text"]["sequences"][0]["tokens"][0] = tricky
    page = opened(report)
    assert page.page.text_content("#text .token") == shown
    assert page.texts("#vocabulary-table tbody th")[0] == shown
    assert page.point_at("#text .token:first-child")["title"] == shown
    assert page.texts("#specialisation-map text.tick.end")[:2] == [f"{shown[:21]}…", "שלום"]
    assert page.point_at('#specialisation-map [data-cell="1,0"]')["title"] == "שלום, expert 0"
    assert page.texts("#tooltip bdi") == ["שלום"]


def test_the_page_may_not_reach_the_network(opened):
    page = opened(report_content())
    assert page.page.evaluate("fetch('data:text/plain,x').then(() => 'loaded', () => 'refused')") == "refused"
    assert all("Content Security Policy" in noise for noise in page.noises)
    page.noises.clear()


def test_numbers_that_are_not_known_are_dashes(opened):
    report = report_content()
    report["layers"][0] |= {"importance": None, "cv_importance": None, "confidence": float("nan"), "dropped_by_position": [None] * 4}
    report["specialisation"][0]["layers"][0] |= {"nmi_null": None, "nmi": None, "p_value": None, "significant": None}
    report["vocabulary"][0] |= {"null": None, "mean_max_share": None, "top": []}
    report["consistency"][0] |= {"first": None, "first_chance": None, "first_or_second": None, "first_or_second_chance": None}
    report["ablation"]["layers"][0]["loss_increase"][0] = None
    page = opened(report)
    assert page.column("#figures-table", "CV of importance")[0] == "–"
    assert page.column("#figures-table", "confidence")[0] == "–"
    assert page.point_at('#load-map [data-cell="0,0"]')["importance"] == "–"
    assert page.page.text_content("#specialisation-test .verdict") == "Not tested"
    assert page.texts("#specialisation-test dd")[:3] == ["–", "–", "–"]
    assert page.texts("#consistency-table tbody tr:first-child td")[1:] == ["–"] * 8
    # Sorted either way, what is not known comes last.
    for _ in range(2):
        page.page.click("#ablation-table th:has-text('loss increase') button")
        assert page.column("#ablation-table", "loss increase")[-1] == "–"


def test_layers_may_have_different_numbers_of_experts(opened):
    report = report_content()
    report["layers"][0] = report_content(1, 4)["layers"][0]
    report["ablation"]["layers"][0] = report_content(1, 4)["ablation"]["layers"][0]
    page = opened(report)
    assert page.page.locator("#load-map [data-cell]").count() == 4 + 8 + 8
    assert page.page.locator("#ablation-map [data-cell]").count() == 4 + 8 + 8


def test_figures_are_drawn_again_for_another_width(opened):
    page = opened(report_content(2, 32))
    width = "document.querySelector('#load-map svg').getBoundingClientRect().width"
    assert page.page.evaluate(width) > 1000
    page.page.set_viewport_size({"width": 700, "height": 900})
    page.page.wait_for_function(f"{width} < 700")
    assert page.overflow() == 0


def test_runs_are_compared(opened, tmp_path):
    runs = [report_content(seed=seed) | {"name": f"run {seed}", "loss": loss} for seed, loss in enumerate((3.5, 3.25, 10.0))]
    page = opened({"runs": runs, "files": []}, write=write_comparison_html)
    assert page.overflow() == 0
    page.page.click("#figures-table th:has-text('loss') button")
    assert page.column("#figures-table", "loss (nats/token)") == ["3.250", "3.500", "10.000"]
    assert page.column("#figures-table", "run") == ["run 1", "run 0", "run 2"]
    assert page.column("#figures-table", "CV of load")[1] == f"{runs[0]['mean']['cv_load']:.3f}"
    found = page.point_at('#load-maps figure:nth-child(2) [data-cell="0,7"]')
    share = runs[1]["layers"][0]["load"][7]
    assert found["of the even share"] == f"{share * 8:.2f}×"
    page.page.screenshot(path=tmp_path / "comparison.png")
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
