"""`moecli convert` on the command line: its JSON, its lines, its exit codes."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from tests.convert.models import PLAIN, config_of, write_run

KEYS = {
    "source", "target", "format", "verified", "max_abs_logit_diff", "choices_compared", "params_total", "params_active", "files", "notes",
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", config_of(PLAIN["mixtral"]))
    return "run"


def test_json(run, inside):
    code, out, _ = inside("convert", run, "hf", "--json")
    content = json.loads(out)
    assert code == 0
    assert content.keys() >= KEYS
    assert (content["source"], content["target"], content["format"], content["verified"]) == ("run", "hf", "mixtral", True)
    assert content["max_abs_logit_diff"] < 1e-4
    code, out, _ = inside("convert", "hf", "back", "--to", "moecli", "--no-verify", "--json")
    assert (code, json.loads(out)["verified"], json.loads(out)["max_abs_logit_diff"]) == (0, False, None)
    assert json.loads(out)["notes"] == ["not verified: --no-verify was given, so nothing shows that both compute the same"]


def test_a_run_has_no_shards(run, inside):
    inside("convert", run, "hf", "--no-verify")
    code, _, err = inside("convert", "hf", "back", "--max-shard-bytes", "30000")
    assert code == 2
    assert "--max-shard-bytes" in err and "the weights of a run are one file" in err


def test_lines(run, inside):
    code, out, err = inside("convert", run, "hf", "--to", "qwen2_moe", "--dtype", "bfloat16", "--max-shard-bytes", "30000")
    assert code == 0
    assert "hf (qwen2_moe)" in out
    assert "logits differ by" in out
    assert "choices of experts are the same" in out
    assert "24 of 24 experts were chosen" in out
    assert "against the rounded weights; rounding moved a logit by" in out
    assert "comparing with transformers" in err


def test_dry_run(run, inside, tmp_path):
    code, out, _ = inside("convert", run, "hf", "--dry-run")
    assert code == 0
    assert "model.layers.2.block_sparse_moe.experts.7.w2.weight  16 x 12  float32" in out
    assert "glm4_moe can't: router with a softmax" in out
    code, out, _ = inside("convert", run, "hf", "--dry-run", "--json")
    content = json.loads(out)
    assert content["bytes"] == sum(tensor["bytes"] for tensor in content["tensors"])
    assert "router with a softmax" in content["problems"]["glm4_moe"][0]
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("run", "hf", "--to", "glm4_moe"), "router with a softmax: glm4_moe has a sigmoid"),
        (("run", "run"), "there is something here already"),
        (("none", "hf"), "there is no such folder"),
        (("run", "hf", "--to", "gpt2"), "gpt2"),
        (("run", "hf", "--max-shard-bytes", "0"), "--max-shard-bytes"),
    ],
)
def test_errors_are_told_and_exit_with_2(run, inside, arguments, what):
    code, out, err = inside("convert", *arguments, "--json")
    assert code == 2
    assert what in err
    assert "error" in json.loads(out)


def test_an_import_with_a_text_says_how_it_is_trained(run, inside, tmp_path):
    inside("convert", run, "hf", "--no-verify")
    (tmp_path / "mine.txt").write_text("\n\n".join(f"A text of mine, number {n}." for n in range(200)))
    text = ("--set", "data.corpus.kind=files", "--set", "data.corpus.paths=[mine.txt]")
    code, out, err = inside("convert", "hf", "new", *text, "--set", "training.steps=1", "--set", "training.batch_size=2", "--no-verify")
    assert code == 0, err
    next_command = next(line for line in out.splitlines() if line.startswith("next: moecli "))
    assert inside(*next_command.removeprefix("next: moecli ").split())[0] == 0
    assert "next:" not in inside("convert", "hf", "without", "--no-verify")[1]
    code, _, err = inside("train", "without/recipe.yaml", "--out", "without", "--resume")
    assert code == 2 and "next: moecli convert without NEW --set data.corpus.kind=files" in err
