"""`moecli convert --upcycle` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SPARSE = ("--set", "model.ffn.kind=sparse", "--set", "model.ffn.num_experts=4", "--set", "model.ffn.d_expert=16")


@pytest.fixture
def dense(tiny_recipe, inside) -> str:
    """A trained dense run."""
    code, _, err = inside("train", str(tiny_recipe), "--set", "model.ffn.kind=mlp", "--set", "model.ffn.d_ff=16", "--out", "dense")
    assert code == 0, err
    return "dense"


def test_the_whole_way(dense, inside):
    code, out, err = inside("convert", dense, "moe", "--upcycle", "copies", *SPARSE)
    assert code == 0, err
    assert "verified   logits differ by" in out and "note: model.ffn: dropped d_ff" in out
    next_command = next(line for line in out.splitlines() if line.startswith("next: moecli "))
    assert inside(*next_command.removeprefix("next: moecli ").split())[0] == 0
    before, after = (json.loads(inside("eval", run, "--json")[1])["loss"] for run in ("moe/checkpoints/step-0", "moe"))
    assert before == pytest.approx(json.loads(inside("eval", dense, "--json")[1])["loss"], abs=1e-5)
    assert after != before


def test_json(dense, inside):
    code, out, _ = inside("convert", dense, "moe", "--upcycle", "drop", "--drop-ratio", "0.25", "--seed", "3", *SPARSE, "--json")
    result = json.loads(out)
    assert code == 0 and result["format"] == "moecli" and result["target"] == "moe"
    assert result["verified"] is False and result["max_abs_logit_diff"] > 1e-3
    assert result["departures"] == ["a share of 0.25 of each expert's hidden units begins anew"]
    assert result["upcycle"] == {
        "method": "drop", "drop_ratio": 0.25, "noise_std": 0.0, "router_std": None, "scale_outputs": True, "seed": 3,
    }  # fmt: skip
    assert set(result["files"]) >= {"moe/recipe.yaml", "moe/checkpoints/step-0/model.safetensors"}
    assert json.loads(Path("moe/conversion.json").read_text())["upcycle"] == result["upcycle"]


def test_every_option_arrives(dense, inside):
    code, out, _ = inside("convert", dense, "carried", "--upcycle", "copies", "--carry-optimizer", *SPARSE)
    assert code == 0 and "optimizer  moments of" in out
    options = ("--noise-std", "0.1", "--router-std", "0.3", "--no-scale-outputs", "--seed", "5", "--dry-run", "--json")
    code, out, _ = inside("convert", dense, "moe", "--upcycle", "granular", *options, *SPARSE, "--set", "model.ffn.d_expert=8")
    assert code == 0 and not Path("moe").exists()
    assert json.loads(out)["upcycle"] == {
        "method": "granular", "drop_ratio": 0.5, "noise_std": 0.1, "router_std": 0.3, "scale_outputs": False, "seed": 5,
    }  # fmt: skip
    assert json.loads(out)["verified"] is None and json.loads(out)["output_factor"] == 1.0


def test_a_dry_run_says_would(dense, inside):
    code, out, _ = inside("convert", dense, "moe", "--upcycle", "copies", *SPARSE, "--dry-run")
    assert code == 0 and "would write" in out and "next:" not in out and not Path("moe").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--upcycle", "merge"), "merge"),
        (("--noise-std", "0.1"), "--noise-std: is for --upcycle"),
        (("--no-scale-outputs",), "--scale-outputs: is for --upcycle"),
        (("--upcycle", "copies", "--drop-ratio", "0.5"), "is for --upcycle drop"),
        (("--upcycle", "drop", "--drop-ratio", "1.5"), "not above 0 and at most 1"),
        (("--upcycle", "copies", "--noise-std", "nan"), "not a finite number above 0"),
        (("--upcycle", "copies", "--router-std", "0"), "not a finite number above 0"),
        (("--upcycle", "copies", "--to", "mixtral"), "has no place with --upcycle"),
        (("--upcycle", "copies", "--no-verify"), "has no place with --upcycle"),
        (("--upcycle", "copies", "--dtype", "bfloat16"), "has no place with --upcycle"),
    ],
)
def test_wrong_usage(inside, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = inside("convert", "dense", "moe", *options, "--json")
    assert code == 2 and not list(tmp_path.iterdir())
    assert message in json.loads(out)["error"]
    assert "Traceback" not in err


def test_what_does_not_fit_is_told_with_what_would(dense, inside):
    code, out, err = inside("convert", dense, "moe", "--upcycle", "copies", "--set", "model.ffn.kind=sparse", "--set", "model.num_layers=3")
    assert code == 2 and not out and not Path("moe").exists()
    assert "model.num_layers: 3 is not that of the source (allowed: 2)" in err
