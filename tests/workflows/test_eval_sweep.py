"""`moecli eval --top-k ... --capacity ...` on trained runs: against recipes edited by hand, and by identities."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from moecli.data.prepare import prepare
from moecli.errors import RunError
from moecli.model.checkpoint import load_model
from moecli.model.gpt import GPT
from moecli.moe.layers import DenseMoEConfig
from moecli.recipe.load import load_recipe
from moecli.recipe.schema import Recipe
from moecli.workflows.eval import EvalResult, evaluate_run
from moecli.workflows.eval_sweep import SweepRow, SweepValues, sweep
from moecli.workflows.evaluate_split import evaluate_split
from moecli.workflows.events import Progress
from moecli.workflows.opened_run import open_run
from moecli.workflows.train import train

# Routers that tell experts apart within a few steps.
QUICK = ("training.learning_rate=3e-2", "training.steps=12")
LIMITED = "model.ffn.capacity={factor: 1.0, eval_factor: 1.25, overflow: %s}"
EXPERT_CHOICE = "model.ffn.router={kind: expert_choice, pool: batch}"
SOFT = "model.ffn={kind: soft, num_experts: 4, mixing: batch}"


def train_tiny(recipe: Path, *overrides: str) -> Recipe:
    train(load_recipe(recipe, QUICK + overrides).recipe, out=Path("run"), listener=lambda event: None)
    return load_recipe(Path("run/recipe.yaml")).recipe


def swept(top_ks=(), capacity_factors=()) -> EvalResult:
    return evaluate_run(Path("run"), values=SweepValues(tuple(top_ks), tuple(capacity_factors)))


def row_of(result: EvalResult, top_k: float, capacity_factor: float | None) -> SweepRow:
    (row,) = [row for row in result.sweep or () if (row.setting.top_k, row.setting.capacity_factor) == (top_k, capacity_factor)]
    return row


def loss_by_hand(recipe: Recipe, **ffn_changes) -> float:
    """The run's weights in a model that was built with the changed config, evaluated by itself."""
    config = recipe.model.model_copy(update={"ffn": recipe.model.ffn.model_copy(update=ffn_changes)})
    model = GPT(config, vocab_size=257)
    model.load_state_dict(load_model(Path("run/checkpoints/latest")).state_dict())
    return evaluate_split(model, recipe, prepare(recipe.data).validation, 257).loss


@pytest.mark.parametrize("overrides", [(), (LIMITED % "next",), (EXPERT_CHOICE,), ("objective=masked-lm",)])
def test_the_trained_setting_is_the_plain_evaluation_to_the_last_bit(tiny_recipe, overrides):
    train_tiny(tiny_recipe, *overrides)
    plain, result = evaluate_run(Path("run")), swept(top_ks=[1])
    (trained,) = [row for row in result.sweep or () if row.is_trained]
    assert plain.sweep is None and "sweep" not in plain.to_json()
    assert trained.evaluation == result.evaluation == plain.evaluation
    assert [row.setting.top_k for row in result.sweep or ()] == [1, 2]


def test_other_numbers_of_experts_are_what_an_edited_config_gives(tiny_recipe):
    recipe = train_tiny(tiny_recipe)
    result = swept(top_ks=[1, 3])
    losses = []
    for top_k in (1, 3):
        router = recipe.model.ffn.router.model_copy(update={"top_k": top_k})
        losses.append(row_of(result, top_k, None).evaluation.loss)
        assert losses[-1] == loss_by_hand(recipe, router=router)
    assert len({*losses, result.evaluation.loss}) == 3


@pytest.mark.parametrize("overflow", ["residual", "next"])
def test_other_capacities_are_what_an_edited_config_gives(tiny_recipe, overflow):
    recipe = train_tiny(tiny_recipe, LIMITED % overflow)
    tight, none = recipe.model.ffn.capacity.model_copy(update={"eval_factor": 0.5}), None
    result = swept(capacity_factors=[None, 0.5])
    assert row_of(result, 2, 0.5).evaluation.loss == loss_by_hand(recipe, capacity=tight)
    assert row_of(result, 2, None).evaluation.loss == loss_by_hand(recipe, capacity=none)
    assert row_of(result, 2, 0.5).load["dropped_fraction"] > 0.3
    assert row_of(result, 2, None).load["dropped_fraction"] == 0


def test_all_experts_with_normalised_weights_are_the_dense_mixture(tiny_recipe):
    recipe = train_tiny(tiny_recipe)
    ffn = DenseMoEConfig(num_experts=4, d_expert=16)
    dense = GPT(recipe.model.model_copy(update={"ffn": ffn}), vocab_size=257)
    weights = load_model(Path("run/checkpoints/latest")).state_dict()
    dense.load_state_dict({name.replace("router.weight", "gate_weight"): tensor for name, tensor in weights.items()})
    expected = evaluate_split(dense, recipe, prepare(recipe.data).validation, 257).loss
    assert row_of(swept(top_ks=[4]), 4, None).evaluation.loss == pytest.approx(expected, rel=1e-6)


def test_a_capacity_with_room_for_all_drops_nothing(tiny_recipe):
    train_tiny(tiny_recipe)
    result = swept(capacity_factors=[0.5, 2.0])
    # Room for 2 * 2 * N / 4 = N tokens.
    assert row_of(result, 2, 2.0).evaluation.loss == pytest.approx(result.evaluation.loss, rel=1e-9)
    assert row_of(result, 2, 2.0).load["dropped_fraction"] == 0
    assert row_of(result, 2, 0.5).evaluation.loss != result.evaluation.loss


def test_rows_say_what_tokens_see_in_their_setting(tiny_recipe):
    train_tiny(tiny_recipe, "model.ffn.capacity={factor: 2.0, eval_factor: 2.0, order: choice, group: batch}")
    result = swept(capacity_factors=[1.0, None])
    seen = {(row["capacity_factor"]): (row["leaks_future"], row["mixes_rows"]) for row in result.to_json()["sweep"]}
    assert seen == {1.0: (True, True), 2.0: (False, False), None: (False, False)}
    assert (result.to_json()["leaks_future"], result.to_json()["mixes_rows"]) == (False, False)


def test_the_audit_is_of_the_trained_setting(tiny_recipe):
    train_tiny(tiny_recipe)
    alone = evaluate_run(Path("run"), audit=True)
    together = evaluate_run(Path("run"), audit=True, values=SweepValues(top_ks=(1,)))
    assert alone.audit == together.audit


def test_every_moe_layer_changes(tiny_recipe):
    train_tiny(tiny_recipe, "model.num_layers=3", "model.moe_layers={indices: [0, 2]}")
    row = row_of(swept(top_ks=[4]), 4, None)
    # Every expert gets every token, in each of the two layers.
    assert row.load["cv_load"] == 0 and row.load["top_k"] == 4


def test_progress_counts_the_tokens_of_all_settings(tiny_recipe):
    train_tiny(tiny_recipe)
    events: list = []
    result = evaluate_run(Path("run"), values=SweepValues(top_ks=(1, 2, 3)), listener=events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1] == Progress(3 * result.evaluation.tokens, 3 * result.evaluation.tokens, "tokens")
    assert [event.done for event in progress] == sorted(event.done for event in progress)


def test_all_bad_values_are_told_at_once_as_they_were_typed(tiny_recipe):
    train_tiny(tiny_recipe, EXPERT_CHOICE)
    with pytest.raises(RunError) as caught:
        swept(top_ks=[5, 1.3], capacity_factors=[1.25])
    assert "--top-k 5: more experts per token than there are experts (4)" in str(caught.value)
    assert "--top-k 1.3: leaves each of 4 experts 2.6 of evaluation.batch_size (8)" in str(caught.value)
    assert "--capacity 1.25: the expert_choice router" in str(caught.value)


@pytest.mark.parametrize("ffn", ["model.ffn={kind: mlp}", "model.ffn={kind: dense, num_experts: 4, d_expert: 16}", SOFT])
def test_a_run_without_a_choice_among_experts_is_refused(tiny_recipe, ffn):
    recipe = train_tiny(tiny_recipe, ffn)
    with pytest.raises(RunError, match=f"ffn.kind {recipe.model.ffn.kind} makes no choice among experts"):
        swept(top_ks=[1])


def test_unknown_characters_of_a_text_are_counted(tiny_recipe):
    train_tiny(tiny_recipe, "data.tokenizer={kind: char}")
    # Of 10 characters, with an end of text before and after them, 3 stand nowhere in the training text.
    Path("other.txt").write_text("a text ßßß", encoding="utf-8")
    result = evaluate_run(Path("run"), text=["other.txt"])
    assert result.unknown_fraction == result.to_json()["unknown_fraction"] == 3 / 12
    assert evaluate_run(Path("run")).unknown_fraction == 0


def test_a_sweep_leaves_the_model_as_it_was(tiny_recipe):
    train_tiny(tiny_recipe)
    opened = open_run(Path("run"))
    before = {name: tensor.clone() for name, tensor in opened.model.state_dict().items()}
    sweep(opened, SweepValues((1, 4), (0.5,)), lambda event: None)
    assert opened.model.config == load_model(Path("run/checkpoints/latest")).config
    assert all(torch.equal(opened.model.state_dict()[name], tensor) for name, tensor in before.items())
