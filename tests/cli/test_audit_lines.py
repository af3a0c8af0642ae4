"""The audit in words, for every way in which measurement and declaration can meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moecli.cli.audit_lines import audit_lines
from moecli.evaluation.audit import Audit
from moecli.evaluation.evaluate import Evaluation
from moecli.recipe.schema import Recipe
from moecli.workflows.eval import EvalResult

CLEAN = Audit(False, False, 0.0, 0.0, 0, 0, 2.5, 2.5)
EXPERT_CHOICE = {"kind": "sparse", "router": {"kind": "expert_choice"}}
LEAKING_RECIPE = Recipe(allow_future_leak=True, model={"ffn": EXPERT_CHOICE})


def text_of(audit: Audit | None, recipe: Recipe = Recipe(), is_masked: bool = False) -> str:  # noqa: B008 (frozen)
    evaluation = Evaluation(loss=2.5, tokens=10, num_bytes=10, is_masked=is_masked)
    result = EvalResult(Path("run"), "files", "validation", evaluation, unknown_fraction=0.0, recipe=recipe, audit=audit, sweep=None)
    return "\n".join(audit_lines(result))


def test_without_an_audit_there_are_no_lines():
    assert text_of(None) == ""


def test_a_clean_causal_model_is_as_declared_and_its_loss_is_what_generating_gets():
    text = text_of(CLEAN)
    assert text.count("as declared") == 2 and "NOT DECLARED" not in text
    assert "gap +0.000000" in text and "over these tokens generating gets the reported loss" in text


def test_a_leak_that_is_declared_is_named_and_its_gap_explained():
    text = text_of(replace(CLEAN, leaks_future=True, max_abs_diff_past=0.12, past_choices_changed=1234, stepwise_loss=3.0), LEAKING_RECIPE)
    assert "sees future   yes (logits changed by up to 1.2e-01, 1,234 expert choices changed); as declared" in text
    assert "gap +0.500000" in text and "the reported loss can't be reached when generating" in text


@pytest.mark.parametrize("sees", ["leaks_future", "mixes_rows"])
def test_a_leak_that_is_not_declared_is_said_loudly(sees):
    assert text_of(replace(CLEAN, **{sees: True})).count("NOT DECLARED!") == 1


def test_a_declared_leak_that_does_not_show_is_no_acquittal():
    assert "declared all the same" in text_of(CLEAN, LEAKING_RECIPE)


def test_a_lower_loss_step_by_step_is_not_called_out_of_reach():
    text = text_of(replace(CLEAN, stepwise_loss=2.0))
    assert "gap -0.500000" in text and "can't be reached" not in text and "generating does better" in text


def test_masked_lm_sees_both_sides_by_design_and_has_no_steps():
    audit = replace(CLEAN, leaks_future=True, teacher_forced_loss=None, stepwise_loss=None)
    text = text_of(audit, Recipe(objective="masked-lm"), is_masked=True)
    assert "by design" in text and "NOT DECLARED" not in text and "step by step" not in text


def test_one_sequence_is_said_not_to_be_enough():
    text = text_of(replace(CLEAN, mixes_rows=None, max_abs_diff_rows=None, row_choices_changed=None))
    assert "mixes rows    not measured, the batch has one sequence; not declared" in text
