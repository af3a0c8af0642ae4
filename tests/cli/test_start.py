"""`moecli convert RUN TARGET --to moecli` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflows.first_runs import first_run


@pytest.fixture
def run(tiny_recipe) -> str:
    return str(first_run(tiny_recipe, ("training.steps=1",)).path)


def test_the_whole_way(run, inside):
    code, out, err = inside("convert", run, "new", "--set", "training.learning_rate=0.5", "--set", "model.ffn.router.top_k=1")
    assert code == 2 and not out and "normalize_weights" in err
    code, out, err = inside("convert", run, "new", "--set", "training.learning_rate=0.5", "--set", "model.ffn.router.top_k=3")
    assert code == 0, err
    assert "changed    model.ffn.router.top_k: 2 -> 3" in out and "measured   logits differ by" in out
    next_command = next(line for line in out.splitlines() if line.startswith("next: moecli "))
    assert inside(*next_command.removeprefix("next: moecli ").split())[0] == 0
    assert Path("new/checkpoints/latest").resolve().name == "step-1"


def test_json(run, inside):
    code, out, _ = inside("convert", run, "new", "--to", "moecli", "--json")
    result = json.loads(out)
    assert code == 0 and result["verified"] is True and result["max_abs_logit_diff"] < 1e-5
    assert {"source", "target", "format", "changes", "largest_logit", "params_total", "params_active", "files", "notes"} <= result.keys()
    assert (result["format"], result["changes"]) == ("moecli", [])
    assert json.loads(Path("new/conversion.json").read_text())["source"] == result["source"]


def test_no_training_is_proposed_without_a_text(run, inside):
    environment = json.loads(Path(run, "environment.json").read_text()) | {"data_fingerprint": None}
    Path(run, "environment.json").write_text(json.dumps(environment))
    code, out, _ = inside("convert", run, "new", "--to", "moecli")
    assert code == 0 and "next:" not in out and "the text of the source is not known" in out


def test_a_dry_run_says_would(run, inside):
    code, out, _ = inside("convert", run, "new", "--to", "moecli", "--dry-run")
    assert code == 0 and "would write" in out and "next:" not in out and not Path("new").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "moecli", "--no-verify"), "--verify: has no place with --to moecli"),
        (("--to", "moecli", "--dtype", "bfloat16"), "--dtype: has no place with --to moecli"),
        (("--set", "seed=1", "--seed", "1"), "--seed: has no place with --to moecli: it is for --upcycle"),
        (("--to", "mixtral", "--set", "seed=1"), "--set: is for a run folder"),
        (("--to", "mixtral", "--recipe", "tiny.yaml"), "--recipe: is for a run folder"),
        (("--to", "moecli", "--set", "model.norm_eps=0.1"), "model.norm_eps: 0.1 is not that of the source"),
    ],
)
def test_wrong_usage(run, inside, options, message):
    code, out, err = inside("convert", run, "new", *options, "--json")
    assert code == 2 and not Path("new").exists()
    assert message in json.loads(out)["error"]
    assert "Traceback" not in err
