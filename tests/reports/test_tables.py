"""The CSV tables, row by row, read back from the files."""

from __future__ import annotations

import csv

import pytest

from moecli.reports import COMPARISON_REPORTS, REPORTS
from moecli.reports.csv_file import write_csv
from tests.reports.report_content import report_content


@pytest.fixture
def read(tmp_path):
    """Writes a table of a report and gives its rows as dicts."""

    def write_and_read(name: str, report: dict, reports=REPORTS) -> list[dict[str, str]]:
        assert reports[name].write(report, tmp_path, name) == [name]
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    return write_and_read


def test_layers_have_a_row_with_every_figure(read):
    report = report_content(2, 4)
    report["layers"][1] |= {"confidence": None, "cv_load": 0.125}
    rows = read("layers.csv", report)
    assert [row["layer"] for row in rows] == ["1", "2"]
    assert (rows[1]["cv_load"], rows[1]["confidence"], rows[1]["num_experts"], rows[1]["top_k"]) == ("0.125", "", "4", "2.0")
    assert set(rows[0]) == set(report["layers"][0]) - {"load", "importance", "dropped_by_position"}


def test_load_has_a_row_for_each_expert(read):
    report = report_content(2, 2)
    report["layers"][0] |= {"load": [0.25, 0.75], "importance": [0.5, 0.5]}
    report["layers"][1] |= {"load": [0.125, 0.875], "importance": None}
    assert [tuple(row.values()) for row in read("load.csv", report)] == [
        ("1", "0", "0.25", "0.5"), ("1", "1", "0.75", "0.5"), ("2", "0", "0.125", ""), ("2", "1", "0.875", ""),
    ]  # fmt: skip


def test_drops_have_a_row_for_each_part_of_the_sequence(read):
    rows = read("dropped.csv", report_content(1, 2))
    assert [tuple(row.values()) for row in rows] == [("1", "0", "0.0"), ("1", "32", "0.01"), ("1", "64", "0.02"), ("1", "96", "0.05")]


def test_specialisation_has_a_row_for_each_cell(read):
    report = report_content(2, 3)
    rows = read("specialisation.csv", report)
    assert len(rows) == 2 * (4 + 5) * 3  # layers x (domains + positions) x experts
    row = next(row for row in rows if (row["label"], row["layer"], row["value"], row["expert"]) == ("domain", "2", "docstring", "1"))
    layer = report["specialisation"][0]["layers"][1]
    assert row["tokens"] == "3000"
    for key in ("share_of_tokens", "share_of_assignments", "chance", "low", "high", "special"):
        assert float(row[key]) == layer[key][2][1]
    first = read("specialisation-layers.csv", report)[0]
    assert first == {
        "label": "domain", "layer": "1", "mutual_information": "0.05", "nmi": "0.04", "nmi_corrected": "0.03", "p_value": "0.005",
        "significant": "True", "nmi_null_mean": "0.01", "nmi_null_low": "0.005", "nmi_null_high": "0.02", "documents": "40",
        "permutations": "200", "min_count": "20", "too_rare": "0",
    }  # fmt: skip


def test_vocabulary_keeps_the_tokens(read):
    rows = read("vocabulary.csv", report_content(1, 4))
    assert [row["token"] for row in rows] == ["</script><b>", " def", "\n", "|"]
    assert {key: rows[1][key] for key in ("layer", "id", "count", "expert", "share", "chance")} == {
        "layer": "1", "id": "12", "count": "120", "expert": "2", "share": "0.9", "chance": "0.25",
    }  # fmt: skip
    assert read("vocabulary-layers.csv", report_content(1, 4))[0]["null_mean"] == "0.4"


def test_coactivation_has_a_row_for_each_pair(read):
    report = report_content(1, 3)
    report["coactivation"][0]["share"][2][1] = 0.375
    rows = read("coactivation.csv", report)
    assert [(row["expert"], row["other_expert"]) for row in rows] == [
        ("0", "1"),
        ("0", "2"),
        ("1", "0"),
        ("1", "2"),
        ("2", "0"),
        ("2", "1"),
    ]
    assert rows[-1]["share"] == "0.375" and rows[-1]["chance"] == "0.5"


def test_paths_have_a_row_for_each_layer_and_transitions_for_each_move(read):
    report = report_content(2, 2)
    report["paths"]["top"] = [{"experts": [1, 0], "count": 3, "share": 0.75, "chance": 0.5}]
    report["paths"]["transitions"][0]["share"] = [[0.25, 0.0], [0.75, 0.0]]
    assert [tuple(row.values()) for row in read("paths.csv", report)] == [
        ("1", "1", "1", "3", "0.75", "0.5"), ("1", "2", "0", "3", "0.75", "0.5"),
    ]  # fmt: skip
    assert [tuple(row.values()) for row in read("transitions.csv", report)] == [("1", "2", "0", "0", "0.25"), ("1", "2", "1", "0", "0.75")]


def test_consistency_has_its_chance_beside_it(read):
    report = report_content(1, 2)
    report["consistency"][0] |= {"first_or_second": None, "first_or_second_chance": None}
    assert list(read("consistency.csv", report)[0].items()) == [
        ("layer", "1"), ("pairs", "75000"), ("first", "0.27"), ("first_chance_mean", "0.13"), ("first_chance_low", "0.128"),
        ("first_chance_high", "0.133"), ("first_or_second", ""), ("first_or_second_chance_mean", ""), ("first_or_second_chance_low", ""),
        ("first_or_second_chance_high", ""),
    ]  # fmt: skip


def test_what_goes_over_training_has_a_row_for_each_step(read):
    report = report_content(2, 2)
    assert [tuple(row.values()) for row in read("training.csv", report)][1] == ("20", "0.5", "1.0", "0.0", "1")
    assert [tuple(row.values()) for row in read("communication.csv", report)][2] == ("30", "4", "4000000.0", "0.35", "0.3")
    assert [(row["step"], row["layer"]) for row in read("checkpoints.csv", report)] == [
        ("300", "1"),
        ("300", "2"),
        ("600", "1"),
        ("600", "2"),
    ]
    rows = read("checkpoints-load.csv", report)
    assert len(rows) == 2 * 2 * 2 and float(rows[5]["load"]) == report["checkpoints"][1]["layers"][0]["load"][1]
    assert [tuple(row.values()) for row in read("saturation.csv", report)][:2] == [
        ("1", "300", "0.7", "0.25", "0.6", "0.13"), ("1", "600", "1.0", "0.25", "1.0", "0.13"),
    ]  # fmt: skip


def test_ablation_has_a_row_for_each_expert(read):
    report = report_content(1, 2)
    report["ablation"]["layers"] = [{"layer": 3, "load": [0.5, 0.5], "loss_increase": [0.25, -0.125], "standard_error": [0.0625, None]}]
    assert [tuple(row.values()) for row in read("ablation.csv", report)] == [
        ("3", "0", "0.5", "0.25", "0.0625"),
        ("3", "1", "0.5", "-0.125", ""),
    ]


def test_runs_have_a_row_for_each_layer(read):
    runs = [{"name": f"run {number}"} | report_content(number, 2) for number in (1, 2)]
    rows = read("comparison.csv", {"runs": runs}, COMPARISON_REPORTS)
    assert [(row["name"], row["layer"], row["loss"], row["top_k"]) for row in rows] == [
        ("run 1", "1", "3.4631", "2.0"), ("run 2", "1", "3.4631", "2.0"), ("run 2", "2", "3.4631", "2.0"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "-", '=HYPERLINK("a")'])
def test_no_text_is_a_formula(tmp_path, text):
    write_csv([{"token": text, "figure": -1.5}], tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [{"token": f"'{text}", "figure": "-1.5"}]


@pytest.mark.parametrize("text", ["a=b", " =1", "'", 'a,"b"\nc', "日本", "", "x\r\ny"])
def test_other_texts_come_back_as_they_were(tmp_path, text):
    write_csv([{"token": text}, {"token": "last"}], tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as file:
        assert [row["token"] for row in csv.DictReader(file)] == [text, "last"]


def test_half_a_character_is_written_out(tmp_path):
    write_csv([{"token": "\ud83d"}], tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "token\n\\ud83d\n"


def test_a_table_without_rows_is_no_file(tmp_path):
    report = report_content(1, 2)
    report["vocabulary"][0]["top"] = []
    assert REPORTS["vocabulary.csv"].write(report, tmp_path, "vocabulary.csv") == []
    assert not list(tmp_path.iterdir())
