"""`moecli eval --audit` on trained runs, and every report of a run that sees its future or mixes rows saying so."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.figure
import pytest

from moecli.errors import DataError
from moecli.recipe.leak_notes import MIXES_ROWS, SEES_FUTURE
from moecli.recipe.load import load_recipe
from moecli.workflows.eval import evaluate_run
from moecli.workflows.train import train
from moecli.workflows.train_result import TrainResult

EXPERT_CHOICE = "model.ffn={kind: sparse, num_experts: 4, d_expert: 16, router: {kind: expert_choice, pool: %s}}"
LEAKING = (EXPERT_CHOICE % "sequence", "allow_future_leak=true")
MIXING = (EXPERT_CHOICE % "batch",)
MASKED = ("objective=masked-lm",)
AUDIT_KEYS = {
    "leaks_future", "mixes_rows", "max_abs_diff_past", "max_abs_diff_rows", "past_choices_changed", "row_choices_changed",
    "teacher_forced_loss", "stepwise_loss", "declared_leaks_future", "declared_mixes_rows",
}  # fmt: skip


def train_tiny(recipe: Path, overrides: tuple[str, ...] = ()) -> TrainResult:
    return train(load_recipe(recipe, overrides).recipe, out=Path("run"), listener=lambda event: None)


@pytest.mark.parametrize(
    ("overrides", "leaks_future", "mixes_rows"),
    [((), False, False), (LEAKING, True, False), (MIXING, False, True), (MASKED, True, False)],
    ids=["topk", "expert_choice-sequence", "expert_choice-batch", "masked-lm"],
)
def test_an_audit_finds_what_the_recipe_declares(tiny_recipe, overrides, leaks_future, mixes_rows):
    train_tiny(tiny_recipe, overrides)
    content = evaluate_run(Path("run"), audit=True).to_json()
    audit = content["audit"]
    assert audit.keys() == AUDIT_KEYS
    assert (audit["leaks_future"], audit["mixes_rows"]) == (leaks_future, mixes_rows)
    assert (audit["declared_leaks_future"], audit["declared_mixes_rows"]) == (leaks_future, mixes_rows)
    assert (content["leaks_future"], content["mixes_rows"]) == (leaks_future, mixes_rows)
    assert (audit["stepwise_loss"] is None) == (overrides == MASKED)
    assert "audit" not in evaluate_run(Path("run")).to_json()


def test_the_audit_does_not_change_the_reported_loss(tiny_recipe):
    result = train_tiny(tiny_recipe, LEAKING)
    assert evaluate_run(Path("run"), audit=True).evaluation == result.validation


@pytest.mark.parametrize(
    ("overrides", "declared", "notes"),
    [
        ((), (False, False), []),
        (LEAKING, (True, False), [SEES_FUTURE]),
        (MIXING, (False, True), [MIXES_ROWS]),
        ((*MASKED, *MIXING), (True, True), [MIXES_ROWS]),  # to see both sides is what masked-lm is for
    ],
    ids=["topk", "expert_choice-sequence", "expert_choice-batch", "masked-lm"],
)
def test_every_file_and_result_of_a_run_says_what_it_sees(tiny_recipe, monkeypatch, overrides, declared, notes):
    written: list[str] = []
    write = matplotlib.figure.Figure.text

    def noted(figure, x, y, text, **options):
        written.append(" ".join(text.split()))  # whatever the width of the picture broke
        return write(figure, x, y, text, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "text", noted)
    content = train_tiny(tiny_recipe, overrides).to_json()
    load = json.loads(Path("run/routing/load.json").read_text())
    for figures in (content, load):
        assert (figures["leaks_future"], figures["mixes_rows"]) == declared
    assert load["notes"] == notes
    for note in (SEES_FUTURE, MIXES_ROWS):
        assert any(note in text for text in written) == (note in notes)


def test_windows_of_one_token_are_too_short_to_audit(tiny_recipe):
    train_tiny(tiny_recipe, ("data.seq_len=1",))
    with pytest.raises(DataError, match="2 tokens or more"):
        evaluate_run(Path("run"), audit=True)
