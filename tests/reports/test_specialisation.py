"""The picture of specialisation: cells over chance, marks, verdicts."""

from __future__ import annotations

from moecli.reports.specialisation import draw_specialisation
from tests.reports.figures import cells, collisions, drawn, panels, small_print
from tests.reports.report_content import report_content


def part_of(values: list[str], layers: list[dict]) -> dict:
    counts = [100 * (place + 1) for place in range(len(values))]
    return {
        "label": "domain", "values": values, "counts": counts, "too_rare": 0, "min_count": 20, "permutations": 50, "documents": 9,
        "layers": layers,
    }  # fmt: skip


def layer_of(number: int, share: list[list[float]], special: list[list[int]], **other) -> dict:
    figures = {"nmi_corrected": 0.1234, "p_value": 0.02, "significant": True}
    return {"layer": number, "share_of_tokens": share, "chance": [[0.5] * len(share[0])] * len(share), "special": special} | figures | other


def test_cells_are_shares_over_chance_and_special_ones_are_marked():
    layer = layer_of(2, [[1.0, 0.0], [0.25, 0.75]], [[1, -1], [0, 0]])
    axes = drawn(draw_specialisation, report_content(), part_of(["code", "prose"], [layer])).axes[0]
    assert cells(axes) == [[2.0, 0.0], [0.5, 1.5]]
    assert axes.collections[0].get_offsets().tolist() == [[0, 0], [1, 0]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["code (100)", "prose (200)"]


def test_a_layer_says_whether_it_is_beyond_chance():
    share, special = [[0.5, 0.5]] * 2, [[0, 0]] * 2
    layers = [
        layer_of(0, share, special),
        layer_of(1, share, special, significant=False, p_value=0.4),
        layer_of(2, share, special, significant=None, nmi_corrected=None, p_value=None),
    ]
    figure = drawn(draw_specialisation, report_content(), part_of(["code", "prose"], layers))
    assert [axes.get_title() for axes in panels(figure)] == [
        "layer 0\nNMI 0.1234, p 0.020",
        "layer 1: not beyond chance\nNMI 0.1234, p 0.400",
        "layer 2\nNMI unknown, p unknown",
    ]
    assert "chance: labels of 9 documents exchanged at random, 50 times" in small_print(figure)
    position = part_of(["0", "1"], layers[:1]) | {"label": "position"}
    assert "chance: 9 documents moved along the sequences" in small_print(drawn(draw_specialisation, report_content(), position))


def test_of_many_values_the_most_frequent_are_shown_in_their_order():
    """20 values with 100, 200, ..., 2,000 tokens: the first four are left out."""
    values = [f"a rather long name {number}" for number in range(20)]
    shares = [[place / 20, 1 - place / 20] for place in range(20)]
    figure = drawn(draw_specialisation, report_content(), part_of(values, [layer_of(0, shares, [[0, 0]] * 20)]) | {"too_rare": 3})
    assert cells(figure.axes[0]) == [[2 * share for share in row] for row in shares[4:]]
    assert figure.axes[0].get_yticklabels()[0].get_text() == "a rather …g name 4 (500)"
    assert "shown: the 16 most frequent of 20 values" in small_print(figure)
    assert "3 values left out: fewer than 20 tokens" in small_print(figure)
    assert not collisions(figure)


def test_what_chance_gives_none_of_is_grey():
    layer = layer_of(2, [[0.5, 0.0]], [[0, 0]]) | {"chance": [[0.5, 0.0]]}
    figure = drawn(draw_specialisation, report_content(), part_of(["code"], [layer]))
    assert cells(figure.axes[0]) == [[1.0, None]]
    assert "grey: chance gives none, or not known" in small_print(figure)


def test_the_most_that_is_shown_fits_on_a_page():
    """16 values in 6 layers of 64 experts, two beside each other."""
    values = [f"value {number}" for number in range(16)]
    layers = [layer_of(number, [[0.5] * 64] * 16, [[1] * 64] * 16) for number in range(6)]
    figure = drawn(draw_specialisation, report_content(), part_of(values, layers))
    assert figure.get_figheight() < 10.2
    assert not collisions(figure)
    assert len(figure.axes[0].get_yticklabels()) == 16


def test_of_many_layers_six_are_shown():
    figure = drawn(draw_specialisation, report_content(32), report_content(32)["specialisation"][0])
    assert [axes.get_title().splitlines()[0] for axes in panels(figure)] == [f"layer {number}" for number in (1, 7, 13, 20, 26, 32)]
    assert "shown: 6 of 32 layers, evenly spread" in small_print(figure)
