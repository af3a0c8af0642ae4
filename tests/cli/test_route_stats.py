"""`moecli route-stats` as a program: streams, --json, exit codes, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from moecli.cli import app


@pytest.fixture
def inside(capsys) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = app.run(list(arguments), debug=False)
        return (code, *capsys.readouterr())

    return run


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
    code, out, err = inside("route-stats", "run", "--out", "report")
    assert code == 0
    assert "\x1b" not in out + err
    for words in ("Expert load over", "layer   1  ", "Specialisation by position", "by chance", "Paths through layers 0, 1", "to report;"):
        assert words in out, words
    assert "running the text through the model" in err and "running" not in out


def test_compare_prints_a_line_per_run(trained, inside):
    assert inside("train", "tiny.yaml", "--out", "top1", "--set", "model.ffn.router.top_k=1")[0] == 0
    code, out, _ = inside("route-stats", "--compare", "run", "top1", "--out", "side-by-side")
    assert code == 0 and Path("side-by-side/comparison.json").is_file()
    table = [line for line in out.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in table] == ["run", "top1"]
    code, out, _ = inside("route-stats", "--compare", "run", "top1", "--out", "side-by-side", "--json")
    assert [run["name"] for run in json.loads(out)["runs"]] == ["run", "top1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "no such folder"),
        (("run", "run"), "--compare"),
        (("--compare", "run"), "one run alone"),
        (("run", "--by", "colour"), "no label 'colour'"),
        (("run", "--text", "tiny.yaml", "--seq-len", "4000"), "--seq-len"),
        (("run", "--min-count", "0"), "min-count"),
        (("run", "--sample-tokens", "10"), "sample-tokens"),
    ],
)
def test_wrong_input_ends_with_2_and_one_message(trained, inside, arguments, words):
    code, out, err = inside("route-stats", *arguments)
    assert code == 2 and words in err and "Traceback" not in err
    assert out == "" and not Path("run/route-stats").exists()
