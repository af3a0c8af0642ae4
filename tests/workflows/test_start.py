"""A run that begins with another run's weights: the same function, what was changed and no more, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moecli.errors import ConvertError, MoecliError, RecipeError, RunError
from moecli.model.checkpoint import load_model, read_tensors
from moecli.recipe.load import load_recipe
from moecli.workflows import first_checkpoint as first_file
from moecli.workflows import start as start_file
from moecli.workflows.events import Event, Stage
from moecli.workflows.run_dir import RunDir, write_atomically
from moecli.workflows.source_run import NO_TEXT
from moecli.workflows.start import Start, StartRequest, start_run
from moecli.workflows.train import train
from tests.workflows.first_runs import first_run


def ignore(event: Event) -> None: ...


@pytest.fixture
def run(tiny_recipe) -> RunDir:
    return first_run(tiny_recipe)


def made(source: RunDir, *overrides: str, target: Path = Path("new"), **fields: object) -> Start:
    return start_run(StartRequest(source.path, target, overrides=overrides, **fields), ignore)  # type: ignore[arg-type]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "checkpoints" / "latest" / "model.safetensors")


def test_the_weights_and_the_recipe_are_those_of_the_source(run):
    result = made(run, "training.learning_rate=0.5", "training.freeze=[experts]")
    assert result.to_json()["verified"] is True and result.to_json()["changes"] == []
    before, after = weights(run.path), weights(Path("new"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    old, new = (load_recipe(path / "recipe.yaml").recipe for path in (run.path, Path("new")))
    assert (new.training.learning_rate, new.training.freeze) == (0.5, ["experts"])
    assert new.model_copy(update={"training": old.training}) == old
    assert {str(path) for path in result.files} == {str(path) for path in Path("new").rglob("*") if path.is_symlink() or not path.is_dir()}


def test_it_trains_with_a_fresh_optimizer_and_schedule(run, tiny_recipe):
    trained = train(load_recipe(tiny_recipe, ("training.steps=3",)).recipe, out=Path("trained"), listener=ignore).run_dir
    made(RunDir(trained), "training.steps=2", "training.freeze=[experts]")
    result = train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore)
    assert result.steps == 2
    lines = [json.loads(line) for line in Path("new/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "learning_rate" in line] == [1, 2]
    assert read_tensors(Path("new/checkpoints/latest/training_state.safetensors"))["optimizer.step.embedding.weight"].item() == 2
    before, after = weights(trained), weights(Path("new"))
    moved = {name.split(".ffn.")[-1] for name in before if not torch.equal(before[name], after[name])}
    assert "embedding.weight" in moved and "router.weight" in moved and not any(name.startswith("experts") for name in moved)


def test_the_optimizer_is_carried_over_where_asked(run, tiny_recipe):
    with pytest.raises(ConvertError, match="no optimizer state in it"):
        made(run, carry_optimizer=True)
    trained = train(load_recipe(tiny_recipe, ("training.steps=3",)).recipe, out=Path("trained"), listener=ignore).run_dir
    planned = made(RunDir(trained), "training.steps=1", carry_optimizer=True, dry_run=True)
    result = made(RunDir(trained), "training.steps=1", carry_optimizer=True)
    assert planned.carried == result.carried
    before, first = (read_tensors(path / "checkpoints" / "latest" / "training_state.safetensors") for path in (trained, Path("new")))
    names = {name for name in before if name.startswith("optimizer.")}
    assert len(names) == 3 * result.carried and names == first.keys() - {"random.cpu"}
    assert all(torch.equal(before[name], first[name]) for name in names)
    train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore)
    after = read_tensors(Path("new/checkpoints/latest/training_state.safetensors"))
    assert after["optimizer.step.embedding.weight"].item() == 4


def test_other_text_in_the_same_tokens(run):
    Path("other.txt").write_text("\n\n".join(f"Another text, number {n}." for n in range(400)), encoding="utf-8")
    made(run, "data.corpus.paths=[other.txt]", "training.steps=1")
    train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore)
    with pytest.raises(ConvertError, match="tokenizer of this recipe is not that of the source"):
        made(run, "data.tokenizer.kind=char", target=Path("other"))
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("override", "change", "is_same"),
    [
        ("model.ffn.router.top_k=3", "model.ffn.router.top_k: 2 -> 3", False),
        ("model.ffn.router.input_jitter=0.25", "model.ffn.router.input_jitter: 0.0 -> 0.25", True),
        ("model.ffn.capacity={factor: 1.0, eval_factor: 0.5}", "model.ffn.capacity.eval_factor: none -> 0.5", False),
        ("model.ffn.capacity={factor: 1.0, eval_factor: null}", "model.ffn.capacity.factor: none -> 1.0", True),
    ],
)
def test_what_routing_changes_is_measured(run, override, change, is_same):
    result = made(run, override)
    assert change in result.changes
    model, other = load_model(run.latest.resolve()), load_model(Path("new/checkpoints/latest").resolve())
    ids_BS = torch.randint(model.vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # as the logits are compared: a norm with a gradient is rounded in another order
        moved = (model(ids_BS)[0] - other(ids_BS)[0]).abs().max().item()
    assert result.difference is not None and result.difference.max_abs == pytest.approx(moved, abs=1e-6)
    assert result.difference.is_rounding is is_same and (moved < 1e-5) is is_same


def test_everything_that_does_not_fit_is_told_at_once(run):
    with pytest.raises(ConvertError) as caught:
        made(run, "model.activation=gelu", "model.ffn.num_experts=5", "objective=masked-lm", "model.causal=false")
    for part in ("model.activation: gelu", "model.ffn.num_experts: 5", "model.causal: False", "objective: masked-lm", "--upcycle"):
        assert part in str(caught.value)
    assert caught.value.where == str(run.checkpoint(0).resolve())
    assert not Path("new").exists()


def test_logits_that_moved_although_nothing_changed_stop_it(run, monkeypatch):
    begun = start_file.with_weights_of

    def shifted(*arguments):
        model = begun(*arguments)
        model.norm = torch.nn.RMSNorm(16, eps=0.1)
        return model

    monkeypatch.setattr(start_file, "with_weights_of", shifted)
    with pytest.raises(MoecliError, match="although nothing was changed that they depend on"):
        made(run)
    assert not Path("new").exists()


def test_a_dry_run_writes_nothing(run):
    before = sorted(Path().rglob("*"))
    result = made(run, "model.ffn.router.top_k=1", "model.ffn.router.normalize_weights=false", dry_run=True)
    assert sorted(Path().rglob("*")) == before
    assert result.to_json()["verified"] is None and result.to_json()["files"] == []
    assert result.changes == ["model.ffn.router.top_k: 2 -> 1", "model.ffn.router.normalize_weights: True -> False"]


def test_a_recipe_file_can_be_given(run, tiny_recipe):
    assert made(run, "training.steps=7", recipe=str(tiny_recipe)).recipe.training.steps == 7
    with pytest.raises(RecipeError, match="unknown key"):
        made(run, "training.step=7", target=Path("other"))


def test_a_source_without_a_text_stays_without(run):
    environment = json.loads(run.environment.read_text()) | {"data_fingerprint": None}
    write_atomically(run.environment, json.dumps(environment))
    result = made(run)
    assert result.notices == (NO_TEXT,) and not result.can_be_trained
    with pytest.raises(RunError, match="without a text to train on") as caught:
        train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore)
    assert "moecli convert new NEW --set data.corpus.kind=files" in caught.value.next_step


def test_the_new_run_needs_no_file_of_another_folder(run, tiny_recipe):
    run.tokenizer.rename("elsewhere.json")
    run.tokenizer.write_text(Path("elsewhere.json").read_text())
    made(run, "data.tokenizer.kind=file", "data.tokenizer.path=elsewhere.json", "training.steps=1")
    Path("elsewhere.json").unlink()
    train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore)


def test_a_target_that_is_taken_in_the_meantime_leaves_nothing_half(run, monkeypatch):
    write = first_file.save_first_state

    def slow(*arguments):
        write(*arguments)
        Path("new").mkdir()
        Path("new/mine").write_text("mine")

    monkeypatch.setattr(first_file, "save_first_state", slow)
    with pytest.raises(MoecliError, match="new: can't read or write here"):
        made(run)
    assert [str(path) for path in Path().rglob("*new*")] == ["new"] and [path.name for path in Path("new").iterdir()] == ["mine"]


def test_a_target_that_is_there_stays_as_it_is(run):
    with pytest.raises(ConvertError, match="there is something here already"):
        made(run, target=run.path)
    with pytest.raises(ConvertError, match="is among the checkpoints of a run"):
        made(run, target=run.path / "checkpoints" / "step-99")
    assert not (run.path / "checkpoints" / "step-99").exists()


def test_the_listener_hears_what_is_done(run):
    heard: list[Event] = []
    start_run(StartRequest(run.path, Path("new")), heard.append)
    assert [event.text for event in heard if isinstance(event, Stage)] == ["reading the run", "comparing the logits"]
