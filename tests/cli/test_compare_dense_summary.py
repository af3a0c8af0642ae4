"""What a person reads of a comparison and of its plan: in 80 columns, won or lost, known or unknown, whatever the arms are called."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from moecli.cli.compare_dense_summary import print_comparison, print_plan
from tests.reports.dense_content import dense_content, unknown_figures

FILES = [Path("report/compare-dense.json"), Path("report/compare-dense.md"), Path("report/compare-dense.html")]


def shown(capsys, content: dict, width: int = 80) -> list[str]:
    print_comparison(Console(width=width), content, FILES)
    return capsys.readouterr().out.splitlines()


def plan_of(content: dict) -> dict:
    arms = [
        arm
        | {"memory_bytes": 190_000_000, "runs": 3, "finished_runs": 1}
        | ({"steps": None, "train_flops": None} if arm["match"] == "time" else {"train_flops": 4e12})
        for arm in content["arms"]
    ]
    matches = [
        match | ({"target": None, "got": None, "mismatch": None} if match["match"] == "time" else {}) for match in content["matches"]
    ]
    known = {key: content[key] for key in ("seeds", "measure", "unit", "notes")}
    return known | {"folder": "out", "arms": arms, "matches": matches, "runs": 12, "finished_runs": 4, "train_flops": 1.2e13}


@pytest.mark.parametrize("loses", [False, True])
def test_the_answers_come_first_won_or_lost_and_every_arm_is_in_every_table(capsys, loses):
    content = dense_content(3, num_given=1, loses=loses)
    lines = shown(capsys, content)
    assert lines[:4] == [comparison["sentence"] for comparison in content["comparisons"]]
    for arm in content["arms"]:
        # Quality, speed-up, cost and speed; the twins once more in the matching, dense-active twice; the base in no speed-up, but the load.
        times = {"dense-active": 6, "dense-total": 5, "dense-time": 5, "switch-1": 4, "quickstart": 4}[arm["name"]]
        assert sum(line.split()[:1] == [arm["name"]] and "ends" not in line for line in lines) == times, arm["name"]
    assert lines[-1].startswith("wrote 3 files to report; open compare-dense.html")
    assert max(map(len, lines[:-1])) <= 80  # a path is not broken


def test_an_interval_is_shown_by_its_half(capsys):
    content = dense_content(3)
    content["comparisons"][0]["difference"] |= {"mean": -0.05, "ci95": [-0.0625, -0.0375], "p_value": 0.00001}
    (line,) = [line for line in shown(capsys, content) if line.startswith("dense-active") and "<0.0001" in line]
    assert "-0.0500 ± 0.0125" in line


def test_bits_per_byte_are_shown_where_arms_are_compared_by_them(capsys):
    content = dense_content(3) | {"measure": "bits_per_byte", "unit": "bits/byte"}
    lines = shown(capsys, content)
    (line,) = [line for line in lines if line.startswith("quickstart") and "±" in line]
    assert line.split()[1] == f"{content['arms'][0]['bits_per_byte']['mean']:.4f}"
    assert any(line.split()[:2] == ["arm", "byte"] for line in lines)


def test_what_is_not_known_is_a_dash(capsys):
    lines = shown(capsys, unknown_figures(dense_content(1)))
    text = "\n".join(lines)
    assert "one seed: no interval" in text and "±" not in text and "None" not in text
    assert "Load of the experts" not in text
    assert [line.split()[-2:] for line in lines if line.startswith("dense-total") and "min" in line] == [["–", "–"]]


def test_names_of_any_kind_keep_the_tables_within_eighty_columns(capsys):
    content = dense_content(3, num_given=2)
    content["arms"][-1]["name"] = content["comparisons"][-1]["arm"] = "a" * 100
    content["arms"][-2]["name"] = content["comparisons"][-2]["arm"] = "\x1b[31m[bold]\u202e"
    content["comparisons"][-2]["sentence"] = "ends \x1b[2J"
    content["notes"] = ["\x1b]0;title\x07"]
    lines = shown(capsys, content)
    text = "\n".join(lines)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "[bold]" in text and "…" in text
    assert max(map(len, lines[:-1])) <= 80


def test_a_long_base_and_twelve_arms_keep_the_answer_whole(capsys):
    content = dense_content(2, num_given=8)
    content["base"] = content["arms"][0]["name"] = "my-deepseek-like-experiment-24"
    # With two seeds an interval can be of any width.
    for place, times in enumerate((1.5, 7.0, 80.0, 9000.0)):
        content["comparisons"][place]["tokens_to_equal_loss"] = {"mean": 1.25, "ci95": [1.25 / times, 1.25 * times], "per_seed": [1.0, 1.5]}
    lines = shown(capsys, content)
    assert max(map(len, lines[:-1])) <= 80
    assert "base: my-deepseek-like-experiment-24; below 0, and above 1×, it is better" in lines
    (heading,) = [line for line in lines if "base − arm" in line]
    start = heading.index("base − arm") + len("base − arm")
    for comparison in content["comparisons"]:
        (row,) = [line for line in lines if line.startswith(comparison["arm"]) and line.count("±") == 2]
        difference = comparison["difference"]
        assert row[:start].endswith(f"{difference['mean']:+.4f} ± {difference['ci95'][1] - difference['mean']:.4f}")
    text = "\n".join(lines)
    spreads = ("1.25× (0.83 to 1.88)", "1.25× (0.18 to 8.75)", "1.25× (0.02 to 100)", "1.25× (0.00 to > 1,000)")
    assert [spread in text for spread in spreads] == [True] * 4


def test_the_plan_shows_what_is_known_before_training(capsys):
    print_plan(Console(width=80), plan_of(dense_content(3, num_given=1)))
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in reversed(out.splitlines()) if line}
    assert rows["dense-total"] == [
        "dense-total",
        "total",
        "1795",
        "986",
        "k",
        "986",
        "k",
        "5.91",
        "M",
        "300",
        "1/3",
        "3.9",
        "MB",
        "190.0",
        "MB",
    ]
    assert rows["dense-time"][1:3] == ["time", "259"] and rows["dense-time"][9] == "–"
    assert "dense-active training FLOPs per token 2,371,584 2,373,168 +0.067%" in out
    assert "4 of 12 runs are done; 12 T training FLOPs in all, beside dense-time, whose length is measured" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
