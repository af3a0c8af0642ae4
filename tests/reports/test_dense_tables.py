"""A comparison with dense twins as CSV tables, read back from the files, and as Markdown."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree

import pytest

from moecli.reports import DENSE_COMPARISON_REPORTS, write_dense_comparison
from moecli.reports.dense_comparison import factor_with_interval, with_interval
from moecli.reports.dense_comparison_markdown import as_markdown
from tests.reports.dense_content import dense_content, unknown_figures
from tests.reports.test_dense_comparison import FILES
from tests.reports.test_markdown import cells


@pytest.fixture
def read(tmp_path):
    """Writes a table and gives its rows as dicts."""

    def write_and_read(name: str, content: dict) -> list[dict[str, str]]:
        assert DENSE_COMPARISON_REPORTS[name].write(content, tmp_path, name) == [name]
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return write_and_read


def test_arms_have_a_row_with_their_figures(read):
    content = dense_content()
    base, twin = read("arms.csv", content)[:2]
    assert {key: base[key] for key in ("arm", "match", "kind", "d_ff", "source", "params_total", "dropped_fraction")} == {
        "arm": "quickstart", "match": "", "kind": "sparse", "d_ff": "", "source": "recipes/quickstart.yaml", "params_total": "985664",
        "dropped_fraction": "0.0125",
    }  # fmt: skip
    assert (twin["match"], twin["d_ff"], twin["cv_load"], twin["weight_bytes"]) == ("active", "259", "", str(4 * 395_840))
    assert float(twin["val_loss_low"]) == content["arms"][1]["val_loss"]["ci95"][0]
    alone = read("arms.csv", unknown_figures(dense_content(1)))[0]
    assert (alone["val_loss_low"], alone["bits_per_byte_mean"], alone["decode_tokens_per_s"]) == ("", "", "")


def test_curves_have_a_row_for_each_validation_of_each_seed(read):
    content = dense_content(2)
    content["seeds"] = [7, 8]
    rows = read("curves.csv", content)
    assert len(rows) == 4 * 2 * 20
    curve = content["arms"][1]["curve"]
    row = rows[1 * 2 * 20 + 20 + 3]
    assert (row["arm"], row["seed"], row["step"], row["tokens"], row["unit"]) == ("dense-active", "8", "60", "122880", "nats/token")
    assert (int(row["flops"]), float(row["seconds"]), float(row["value"])) == (
        curve["flops"][3],
        curve["seconds"][3],
        curve["per_seed"][1][3],
    )


def test_comparisons_and_runs_have_their_rows(read):
    content = dense_content()
    row = read("comparisons.csv", content)[1]
    compared = content["comparisons"][1]
    assert (row["base"], row["arm"], row["verdict"], row["p_value"]) == ("quickstart", "dense-total", "higher", "0.0045")
    assert float(row["tokens_to_equal_loss_high"]) == compared["tokens_to_equal_loss"]["ci95"][1]
    assert row["sentence"] == compared["sentence"]
    rows = read("per-seed.csv", content)
    assert len(rows) == 4 * 3 and rows[0]["difference"] == ""
    assert (rows[5]["arm"], rows[5]["seed"]) == ("dense-active", "2")
    assert float(rows[5]["difference"]) == content["comparisons"][0]["difference"]["per_seed"][2]
    assert float(rows[5]["value"]) == float(rows[5]["val_loss"]) == content["arms"][1]["val_loss"]["per_seed"][2]
    assert rows[5]["run_dir"] == "outputs/quickstart/compare-dense/runs/dense-active/seed-2"


def test_amounts_at_equal_loss_are_means_in_one_table_and_single_runs_in_the_other(read):
    content = dense_content()
    spent = content["comparisons"][1]["seconds_at_equal_loss"]
    row = read("comparisons.csv", content)[1]
    assert float(row["seconds_at_equal_loss_base_mean"]) == 125.0
    assert float(row["seconds_at_equal_loss_arm_mean"]) == spent["arm_mean"]
    assert float(row["tokens_at_equal_loss_base_mean"]) == 500_000
    runs = read("per-seed.csv", content)
    assert (runs[8]["arm"], runs[8]["seed"]) == ("dense-total", "2")
    assert float(runs[8]["seconds_at_equal_loss_arm"]) == spent["arm"][2]
    assert runs[0]["seconds_at_equal_loss_base"] == ""
    unknown = unknown_figures(dense_content(1))
    assert read("comparisons.csv", unknown)[0]["tokens_at_equal_loss_arm_mean"] == ""
    assert read("per-seed.csv", unknown)[1]["tokens_at_equal_loss_arm"] == ""


@pytest.mark.parametrize(
    ("mean", "ci95", "text"),
    [
        (1.333, [0.94, 1.716], "1.33× (0.94 to 1.72)"),
        (0.5, None, "0.50×"),
        (12.34, [0.001, 12345.0], "12.3× (0.00 to > 1,000)"),
        (None, None, "–"),
    ],
)
def test_a_factor_has_both_ends_of_its_interval_beside_it(mean, ci95, text):
    assert factor_with_interval({"mean": mean, "ci95": ci95, "per_seed": []}) == text


def test_a_mean_has_half_of_its_interval_beside_it():
    assert with_interval({"mean": 4.0, "ci95": [3.75, 4.25], "per_seed": []}, 2) == "4.00 ± 0.25"
    assert with_interval({"mean": -0.5, "ci95": None, "per_seed": []}, 1, sign="+") == "-0.5"
    assert with_interval({"mean": None, "ci95": None, "per_seed": []}, 1) == "–"


def test_markdown_says_it_all():
    content = dense_content(loses=True)
    text = as_markdown(content)
    for comparison in content["comparisons"]:
        assert f"- {comparison['sentence']}\n" in text
    assert text.index("Keep in mind") < text.index("| arm")
    lines = text.splitlines()
    row = cells(next(line for line in lines if line.startswith("| dense-active")))
    difference = content["comparisons"][0]["difference"]
    half = difference["ci95"][1] - difference["mean"]
    assert row[1:3] == ["396k", "396k"] and row[4:6] == [f"+{difference['mean']:.4f} ± {half:.4f}", "0.0045"]
    assert any(cells(line) == ["dense-active", "active parameters", "395,840", "396,104", "+0.067 %"] for line in lines if "|" in line)
    widths = [[len(line) for line in part.splitlines()] for part in text.split("\n\n") if part.startswith("|")]
    assert len(widths) == 3 and all(len(set(part)) == 1 for part in widths)


def test_hostile_words_are_no_markup(tmp_path):
    hostile = "a|b</script><b>`x` \u202e\n# [y](z) @someone"
    content = dense_content() | {"notes": [hostile], "corpus": hostile}
    content["comparisons"][0]["sentence"] = hostile
    for arm in (content["arms"][1], content["comparisons"][0]):
        arm["name" if "name" in arm else "arm"] = hostile
    text = as_markdown(content)
    assert [word for word in ("</script>", "<b>", " `x`", "@someone", "\u202e") if word in text] == []
    assert "a\\|b\\</script\\>" in text
    assert len({len(cells(line)) for line in text.splitlines() if line.startswith("| ")}) <= 3
    assert write_dense_comparison(content, tmp_path) == FILES
    said = ElementTree.parse(tmp_path / "final-loss.svg").getroot()
    assert "\u202e" not in "".join(said.itertext())
