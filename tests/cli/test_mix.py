"""`moecli convert --mix` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workflows.first_runs import first_run

SPARSE = ("--set", "model.ffn.kind=sparse", "--set", "model.ffn.num_experts=2", "--set", "model.ffn.d_expert=16")


@pytest.fixture
def branch(tiny_recipe) -> str:
    return str(first_run(tiny_recipe, ("model.ffn.kind=mlp", "model.ffn.d_ff=16"), path=Path("branch")).path)


def test_the_whole_way(branch, inside):
    code, out, err = inside("convert", branch, branch, "moe", "--mix", *SPARSE, "--set", "training.steps=1")
    assert code == 0, err
    assert f"expert 1   {Path('branch/checkpoints/step-0').absolute()}" in out and "router     begins at random" in out
    assert "verified   all sources are the same" in out
    next_command = next(line for line in out.splitlines() if line.startswith("next: moecli "))
    assert inside(*next_command.removeprefix("next: moecli ").split())[0] == 0


def test_every_option_arrives(branch, inside):
    options = ("--router-init", "domain", "--seed", "5", "--dry-run", "--json")
    code, out, err = inside("convert", branch, branch, "moe", "--mix", *SPARSE, *options)
    result = json.loads(out)
    assert code == 0, err
    assert result["mix"] == {"router_init": "domain", "seed": 5} and not Path("moe").exists()
    assert len(result["sources"]) == 2 and result["format"] == "moecli" and result["verified"] is None
    code, out, _ = inside("convert", branch, branch, "moe", "--mix", *SPARSE, *options[:-1])
    assert code == 0 and "would write    moe" in out and "begins with text of each source" in out and "next:" not in out


def test_a_recipe_can_be_named(branch, tiny_recipe, inside):
    code, out, _ = inside("convert", branch, branch, branch, branch, "moe", "--mix", "--recipe", str(tiny_recipe), "--json")
    assert code == 0 and json.loads(out)["verified"] is True
    assert len(json.loads(Path("moe/conversion.json").read_text())["sources"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b", "moe", "--router-init", "domain"), "2 were given"),
        (("a", "moe", "--router-init", "domain"), "--router-init: is for --mix"),
        (("a", "b", "moe", "--mix", "--router-init", "text"), "text"),
        (("a", "b", "moe", "--mix", "--upcycle", "copies"), "a conversion is one of the"),
        (("a", "b", "moe", "--mix", "--noise-std", "0.1"), "has no place with --mix"),
        (("a", "moe", "--mix"), "one source can't be mixed"),
    ],
)
def test_wrong_usage(inside, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = inside("convert", *arguments, "--json")
    assert code == 2 and not list(tmp_path.iterdir())
    assert message in json.loads(out)["error"] and "Traceback" not in err
