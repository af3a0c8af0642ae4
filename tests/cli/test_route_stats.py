"""`moecli route-stats` as a program: streams, --json, exit codes, and what a person reads."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest


@pytest.fixture
def trained(tiny_recipe, inside) -> None:
    assert inside("train", "tiny.yaml", "--out", "run")[0] == 0


def test_json_is_one_object_on_stdout_and_the_rest_goes_to_stderr(trained, inside):
    code, out, err = inside("route-stats", "run", "--json", "--ablate", "--ablate-tokens", "64")
    assert code == 0 and out.count("\n") == 1
    content = json.loads(out)
    assert {"checkpoint", "corpus", "tokens", "layers", "mean", "files"} <= content.keys()
    assert "text" not in content and content["ablation"]["layers"]
    assert all(Path(path).is_file() for path in content["files"])
    assert "switching each expert off" in err


def test_a_person_reads_plain_lines_without_a_terminal(trained, inside):
    Path("two.txt").write_text("\n\n".join(f"Paragraph {number} of a text." * 150 for number in range(4)))
    code, out, err = inside("route-stats", "run", "--text", "two.txt", "--out", "report")
    assert code == 0
    assert "\x1b" not in out + err
    for words in ("Expert load over", "layer   1  ", "Specialisation by position", "by chance", "Paths through the 2 layers", "to report;"):
        assert words in out, words
    assert "running the text through the model" in err and "running" not in out


def test_compare_prints_a_line_per_run(trained, inside):
    assert inside("train", "tiny.yaml", "--out", "top1", "--set", "model.ffn.router.top_k=1")[0] == 0
    code, out, _ = inside("route-stats", "--compare", "run", "top1", "--out", "side-by-side")
    assert code == 0 and Path("side-by-side/comparison.json").is_file()
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if line[:2] in (["run", "files"], ["top1", "files"])] == ["run", "top1"]
    code, out, _ = inside("route-stats", "--compare", "run", "top1", "--out", "side-by-side", "--json")
    assert [run["name"] for run in json.loads(out)["runs"]] == ["run", "top1"]


def test_control_characters_of_the_data_do_not_reach_the_terminal(trained, inside):
    hostile = "\x1b[31mred\x1b]0;title\x07\u202eback[bold]"
    rows = [{"text": f"a {word} and a {word} " * 9, hostile: hostile + word} for word in ("cat", "tree") for _ in range(20)]
    Path("rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    code, out, err = inside("route-stats", "run", "--text", "rows.jsonl", "--label-column", hostile)
    assert code == 0
    assert not {"\x1b", "\x07", "\u202e"} & set(out + err)
    assert "\\x1b[31mred" in out and "[bold]" not in out.replace("back[bold]", "")
    code, _, err = inside("route-stats", "run", "--by", hostile)
    assert code == 2 and "\\x1b" in err and "\x1b" not in err


def test_a_summary_of_many_layers_and_experts_fits_eighty_columns(trained, capsys):
    from rich.console import Console

    from moecli.cli.route_stats_summary import print_stats
    from moecli.workflows.route_stats import StatsOptions, look_at_routing
    from tests.reports.report_content import report_content

    stats = look_at_routing(Path("run"), StatsOptions(num_shuffles=3), lambda event: None)
    wide = report_content(32, 64, top_k=8)
    print_stats(Console(width=80), dataclasses.replace(stats, report=wide, files=[Path("report/report.html")]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 120 and sum(len(line) > 80 for line in lines) < 12
    assert len(lines) < 120


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "no such folder"),
        (("run", "run"), "--compare"),
        (("--compare", "run"), "one run alone"),
        (("run", "--by", "colour"), "no label 'colour'"),
        (("run", "--text", "tiny.yaml", "--seq-len", "4000"), "--seq-len"),
        (("run", "--min-count", "0"), "min-count"),
        (("run", "--ablate-tokens", "64"), "without --ablate"),
        (("--compare", "run", "run", "--ablate"), "the load alone"),
        (("run", "--label-column", "colour"), "no table is named"),
        (("run", "--sample-tokens", "10"), "sample-tokens"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(trained, inside, arguments, words):
    code, out, err = inside("route-stats", *arguments)
    assert code == 2 and words in err and "Traceback" not in err
    assert out == "" and not Path("run/route-stats").exists()
