"""`moecli convert --resize` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from moecli.cli.resize import parse_drop_experts


@pytest.fixture
def moe(tiny_recipe, inside) -> str:
    code, _, err = inside("train", str(tiny_recipe), "--set", "training.steps=4", "--set", "evaluation.every=0", "--out", "moe")
    assert code == 0, err
    return "moe"


def test_the_whole_way(moe, inside):
    code, out, err = inside("convert", moe, "new", "--resize", "split", "--shards", "2", "--set", "training.steps=2")
    assert code == 0, err
    assert "verified   logits differ by" in out and "layer 1    experts 0, 0, 1, 1, 2, 2, 3, 3; outputs times 2" in out
    # Two rows of 16 instead of one for each of 4 experts in 2 layers; the experts themselves have as many weights as before.
    before, after = (json.loads(inside("train", f"{run}/recipe.yaml", "--dry-run", "--json")[1])["params_total"] for run in ("moe", "new"))
    assert after - before == 2 * 4 * 16 and f"parameters {after:,}" in out and f"before {before:,}" in out
    next_command = next(line for line in out.splitlines() if line.startswith("next: moecli "))
    assert inside(*next_command.removeprefix("next: moecli ").split())[0] == 0


@pytest.mark.parametrize(
    ("options", "resize", "layers"),
    [
        ("prune --drop-experts 0,3", {"drop_experts": [0, 3]}, [[[1], [2]]] * 2),
        ("prune --drop-experts 0:1;1:2", {"drop_experts": {"0": [1], "1": [2]}}, [[[0], [2], [3]], [[0], [1], [3]]]),
        ("prune --experts 2 --by random --seed 3", {"num_experts": 2, "by": "random", "seed": 3}, None),
        ("add --experts 6 --noise-std 0.5 --seed 4", {"num_experts": 6, "noise_std": 0.5, "seed": 4}, None),
        ("dense --merge-by heaviest", {"merge_by": "heaviest"}, None),
    ],
)
def test_every_option_arrives(moe, inside, options, resize, layers):
    code, out, err = inside("convert", moe, "new", "--resize", *options.split(), "--json")
    assert code == 0, err
    resize = {"operation": options.split()[0]} | resize
    result = json.loads(out)
    assert result["resize"] == resize and result["format"] == "moecli" and result["verified"] is False
    assert result["departures"] and result["max_abs_logit_diff"] >= 0
    assert layers is None or [layer["made_of"] for layer in result["layers"]] == layers
    assert json.loads(Path("new/conversion.json").read_text())["resize"] == resize
    assert set(result["files"]) >= {"new/recipe.yaml", "new/checkpoints/step-0/model.safetensors"}


def test_a_dry_run_says_would_and_settings_come_on_top(moe, inside):
    options = ("--resize", "merge", "--experts", "1", "--set", "training.steps=3", "--dry-run")
    code, out, _ = inside("convert", moe, "new", *options)
    assert code == 0 and "would write" in out and "next:" not in out and not Path("new").exists()
    assert "note: top_k: 2 -> 1" in out and "note: normalize_weights: true -> false" in out
    assert "not the source's function: 4 experts of each layer have become 1" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resize", "shrink"), "shrink"),
        (("--experts", "3"), "--experts: is for --resize, which was not given"),
        (("--resize", "prune"), "--experts or --drop-experts: --resize prune needs it"),
        (("--resize", "prune", "--experts", "3", "--drop-experts", "0"), "give one of the two"),
        (("--resize", "prune", "--drop-experts", "0", "--by", "load"), "has no place with --drop-experts"),
        (("--resize", "prune", "--experts", "3", "--seed", "1"), "is for --by random"),
        (("--resize", "prune", "--experts", "0"), "--experts"),
        (("--resize", "prune", "--drop-experts", "0-3"), "is neither a list such as 0,3 nor"),
        (("--resize", "merge", "--experts", "3", "--noise-std", "0.1"), "has no place with --resize merge: it is for add"),
        (("--resize", "merge"), "--experts: --resize merge needs it"),
        (("--resize", "split"), "--shards: --resize split needs it"),
        (("--resize", "split", "--experts", "8"), "it is for prune, merge, add"),
        (("--resize", "dense", "--merge-by", "mean"), "mean"),
        (("--resize", "regate", "--merge-by", "load"), "it is for dense"),
        (("--resize", "dense", "--recipe", "quickstart"), "has no place with --resize"),
        (("--resize", "dense", "--upcycle", "copies"), "a conversion is one of the two"),
        (("--resize", "dense", "--to", "mixtral"), "has no place with --resize"),
        (("--resize", "dense", "--no-verify"), "has no place with --resize"),
    ],
)
def test_wrong_usage(inside, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = inside("convert", "moe", "new", *options, "--json")
    assert code == 2 and not list(tmp_path.iterdir())
    assert message in json.loads(out)["error"]
    assert "Traceback" not in err


def test_what_does_not_fit_is_told_with_what_would(moe, inside):
    code, out, err = inside("convert", moe, "new", "--resize", "prune", "--drop-experts", "0:1;1:2,9")
    assert code == 2 and not out and not Path("new").exists()
    assert "the layers would lose 1 or 2 experts (allowed: as many in every layer)" in err
    assert "there is no expert 9 (allowed: 0 to 3)" in err


def test_lists_of_experts():
    assert parse_drop_experts("0,3") == (0, 3) and parse_drop_experts(" 7 ") == (7,)
    assert parse_drop_experts("0:1,2; 3:0,5") == {0: (1, 2), 3: (0, 5)}


@pytest.mark.parametrize("text", ["", ",", "0,", "a", "-1", "0:1;", "0:", "0:1,2;0:3", "1;2", "9999999999"])
def test_texts_that_are_no_lists(text):
    with pytest.raises(typer.BadParameter):
        parse_drop_experts(text)
