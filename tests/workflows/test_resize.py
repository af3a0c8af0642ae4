"""From a trained MoE's run to a resized one: measured, told, trainable, whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from moecli.convert.resize.options import ResizeOptions
from moecli.errors import ConvertError, DataError, MoecliError, RecipeError, RunError
from moecli.evaluation.ablation import ablate
from moecli.model.checkpoint import load_model, read_tensors
from moecli.recipe.load import load_recipe
from moecli.workflows import expert_scores
from moecli.workflows import resize as resize_file
from moecli.workflows.batches import evaluation_batches
from moecli.workflows.eval import evaluate_run
from moecli.workflows.events import Event, Progress
from moecli.workflows.opened_run import open_run
from moecli.workflows.resize import ResizeRequest, Resizing, resize_run
from moecli.workflows.source_run import open_source
from moecli.workflows.train import train
from tests.conftest import TINY_RECIPE, TINY_TEXT

EVERY_OPERATION = {
    "prune": ResizeOptions("prune", num_experts=3),
    "ablation": ResizeOptions("prune", num_experts=3, by="ablation"),
    "merge": ResizeOptions("merge", num_experts=2),
    "add": ResizeOptions("add", num_experts=6),
    "split": ResizeOptions("split", shards=2),
    "dense": ResizeOptions("dense", merge_by="concatenate"),
    "regate": ResizeOptions("regate"),
}


def ignore(event: Event) -> None: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a trained run that has an mlp layer before the experts, and its text."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TINY_TEXT, encoding="utf-8")
    (folder / "tiny.yaml").write_text(TINY_RECIPE, encoding="utf-8")
    overrides = ("model.moe_layers.first_dense=1", "training.learning_rate=0.02", "training.steps=12", "model.ffn.num_shared_experts=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MOECLI_CACHE", str(folder / "cache"))
        train(load_recipe("tiny.yaml", (*overrides, "evaluation.every=0")).recipe, out=Path("moe"), listener=ignore)
    return folder


@pytest.fixture
def moe(trained, tmp_path, monkeypatch) -> Path:
    """A copy of it in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.setenv("MOECLI_CACHE", str(tmp_path / "cache"))
    return Path("moe")


def made(source: Path, options: ResizeOptions, overrides=(), *, target: Path = Path("new"), **fields) -> Resizing:
    return resize_run(ResizeRequest(source, target, options, overrides, **fields), ignore)


def loss(run: Path) -> float:
    return evaluate_run(run, listener=ignore).evaluation.loss


@pytest.mark.parametrize("options", EVERY_OPERATION.values(), ids=EVERY_OPERATION)
def test_every_operation_gives_a_run_that_trains(moe, options):
    result = made(moe, options, ("training.steps=2",))
    assert [change.layer for change in result.changes] == [1]
    told = json.loads(Path("new/conversion.json").read_text())
    assert told["resize"]["operation"] == options.operation and told["layers"][0]["made_of"] == result.changes[0].made_of
    assert result.is_verified == (options.operation == "split") == (not result.departures)
    assert loss(Path("new")) == pytest.approx(loss(moe), abs=1e-5 if options.operation == "split" else 1.5)
    assert train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore).steps == 2
    state = read_tensors(Path("new/checkpoints/latest/training_state.safetensors"))
    assert state["optimizer.step.embedding.weight"].item() == 2


def test_the_run_holds_what_was_told(moe):
    result = made(moe, EVERY_OPERATION["prune"])
    model, [kept] = load_model(Path("new/checkpoints/latest")), [[expert for [expert] in change.made_of] for change in result.changes]
    assert torch.equal(model.blocks[1].ffn.experts.in_proj, load_model(moe / "checkpoints/latest").blocks[1].ffn.experts.in_proj[kept])
    # One expert of 3 x 16 x 16 less, and its row of 16, in the one layer that has any.
    assert result.source_cost.params_total - result.cost.params_total == 3 * 16 * 16 + 16
    assert result.cost.params_active == result.source_cost.params_active - 16
    assert {str(path) for path in result.files} == {str(path) for path in Path("new").rglob("*") if path.is_symlink() or not path.is_dir()}


def test_scores_are_of_the_training_text(moe):
    by_load, by_cost = made(moe, EVERY_OPERATION["prune"]), made(moe, EVERY_OPERATION["ablation"], target=Path("b"))
    opened = open_run(moe, split="train")
    batches = list(opened.batches())
    full = [batch for batch in batches if batch.ids_BS.shape == batches[0].ids_BS.shape]
    with torch.no_grad():
        load_E = sum(opened.model(batch.ids_BS)[1][1].load_E for batch in full)
    assert by_load.changes[0].scores == pytest.approx((load_E / load_E.sum()).tolist())
    cost = ablate(opened.model, full, "float32", opened.tokenizer.end_of_text_id).layers[0].loss_increase
    assert by_cost.changes[0].scores == pytest.approx(cost, abs=1e-9)
    for result, scores in ((by_load, load_E.tolist()), (by_cost, cost)):
        assert [expert for expert in range(4) if [expert] not in result.changes[0].made_of] == [min(range(4), key=scores.__getitem__)]


def test_the_sample_is_bounded_and_from_all_over_the_text(moe, monkeypatch):
    monkeypatch.setattr(expert_scores, "SAMPLE_TOKENS", 3 * 8 * 16)
    source = open_source(moe)
    sample = expert_scores._sample(source)
    full = list(evaluation_batches(source.recipe, open_run(moe, split="train").tokens, source.tokenizer.vocab_size))[:-1]
    assert len(sample) == 3 < len(full)
    assert torch.equal(sample[0].ids_BS, full[0].ids_BS)


def test_the_same_twice_is_the_same_bit_for_bit(moe):
    for target in ("a", "b"):
        made(moe, ResizeOptions("add", num_experts=6, seed=7), target=Path(target))
    first, second = (read_tensors(Path(run) / "checkpoints/latest/model.safetensors") for run in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_new_field_for_new_experts(moe):
    """Other text, and of the old model only experts and router learn."""
    Path("other.txt").write_text("\n\n".join(f"Another text, number {n}." for n in range(400)), encoding="utf-8")
    made(moe, EVERY_OPERATION["add"], ("data.corpus.paths=[other.txt]", "training.steps=2", "training.freeze=[router]"))
    before = load_model(Path("new/checkpoints/latest"))
    train(load_recipe("new/recipe.yaml").recipe, out=Path("new"), resume=True, listener=ignore)
    after = load_model(Path("new/checkpoints/latest"))
    assert torch.equal(after.blocks[1].ffn.router.weight, before.blocks[1].ffn.router.weight)
    assert not torch.equal(after.blocks[1].ffn.experts.in_proj[4:], before.blocks[1].ffn.experts.in_proj[4:])


def test_sparse_to_soft_and_back(tiny_recipe):
    train(load_recipe(tiny_recipe).recipe, out=Path("moe"), listener=ignore)
    soft = ("model.ffn.kind=soft", "model.ffn.mixing=batch", "model.ffn.group_size=4")
    result = made(Path("moe"), EVERY_OPERATION["regate"], soft)
    assert result.recipe.model.ffn.kind == "soft" and result.recipe.model.ffn.num_experts == 4
    assert any("dropped" in notice for notice in result.notices)
    made(Path("new"), EVERY_OPERATION["regate"], ("model.ffn.kind=sparse",), target=Path("back"))
    first, last = (load_model(Path(run) / "checkpoints/latest") for run in ("moe", "back"))
    assert torch.equal(first.blocks[0].ffn.experts.in_proj, last.blocks[0].ffn.experts.in_proj)
    assert made(Path("new"), ResizeOptions("prune", num_experts=2), target=Path("fewer")).cost.params_total < result.cost.params_total


def test_an_mlp_needs_no_settings_of_a_router(tiny_recipe):
    overrides = ("training.importance_loss=0.1", "training.freeze=[router]", "training.steps=2")
    train(load_recipe(tiny_recipe, overrides).recipe, out=Path("moe"), listener=ignore)
    result = made(Path("moe"), EVERY_OPERATION["dense"])
    assert result.recipe.training.importance_loss == 0 and result.recipe.training.freeze == []
    assert [notice.split(":")[0] for notice in result.notices] == ["training.importance_loss", "training.freeze"]
    assert result.recipe.model.ffn.d_ff == 2 * 16


def test_experts_that_tie_are_told_before_splitting(tiny_recipe):
    """A noisy router begins at 0 and is frozen there."""
    overrides = ("model.ffn.router.kind=noisy_topk", "training.freeze=[router]", "training.steps=2")
    train(load_recipe(tiny_recipe, overrides).recipe, out=Path("moe"), listener=ignore)
    assert "two experts of layer 0 tie" in made(Path("moe"), EVERY_OPERATION["split"]).departures[0]


def test_a_dry_run_writes_and_measures_nothing(moe, monkeypatch):
    monkeypatch.setattr(resize_file, "measure_experts", lambda *arguments: pytest.fail("measured"))
    before = sorted(Path().rglob("*"))
    result = made(moe, EVERY_OPERATION["ablation"], dry_run=True)
    assert sorted(Path().rglob("*")) == before
    assert result.to_json()["verified"] is None and result.to_json()["files"] == [] and result.to_json()["layers"] == []
    assert result.cost.params_total < result.source_cost.params_total


@pytest.mark.parametrize(
    ("options", "overrides", "error", "message"),
    [
        (ResizeOptions("prune", num_experts=9), (), ConvertError, r"--experts: 9 is more than there are \(allowed: 1 to 4\)"),
        (ResizeOptions("split", shards=3), (), ConvertError, "--shards: 3 does not cut the 16 hidden units"),
        (ResizeOptions("prune", drop_experts={0: (1,)}), (), ConvertError, r"(?s)layer 0 has no experts.*layer 1 is not named"),
        (EVERY_OPERATION["merge"], ("model.ffn.num_experts=3",), ConvertError, r"num_experts: is not for --set .* \(allowed: 2\)"),
        (EVERY_OPERATION["merge"], ("model.num_layers=3",), ConvertError, "model.num_layers: is not for --set to change here"),
        (EVERY_OPERATION["merge"], ("objective=masked-lm", "model.causal=false"), ConvertError, "objective: masked-lm is not that of the"),
        (EVERY_OPERATION["merge"], ("model.ffn.router.top_k=3",), RecipeError, r"more experts per token than there are experts \(2\)"),
        (EVERY_OPERATION["merge"], ("training.stebs=3",), RecipeError, "unknown key"),
        (EVERY_OPERATION["regate"], ("model.ffn.kind=mlp",), ConvertError, "mlp has no experts to keep"),
        (EVERY_OPERATION["regate"], ("model.ffn.kind=dense",), ConvertError, "shared experts are not those of the source"),
        (EVERY_OPERATION["prune"], ("data.tokenizer.kind=char",), ConvertError, "tokenizer of this recipe is not that of the source"),
    ],
)  # fmt: skip
def test_what_does_not_fit(moe, options, overrides, error, message):
    with pytest.raises(error, match=message):
        made(moe, options, overrides)
    assert not Path("new").exists()


def test_a_dense_source(tiny_recipe):
    overrides = ("model.ffn.kind=mlp", "training.steps=1")
    train(load_recipe(tiny_recipe, overrides).recipe, out=Path("dense"), listener=ignore)
    with pytest.raises(ConvertError, match=r"model\.ffn\.kind: mlp has no experts .*--upcycle"):
        made(Path("dense"), EVERY_OPERATION["prune"])


def test_text_that_is_gone_or_another(moe):
    Path("text.txt").write_text("".join(f"Another text, number {n}.\n\n" for n in range(400)), encoding="utf-8")
    with pytest.raises(RunError, match="not those that the run was begun with"):
        made(moe, EVERY_OPERATION["prune"])
    Path("text.txt").unlink()
    with pytest.raises(DataError):
        made(moe, EVERY_OPERATION["merge"])
    made(moe, ResizeOptions("prune", drop_experts=(0,)))  # goes by no text


def test_a_target_that_is_there_stays_as_it_is(moe):
    Path("new").mkdir()
    Path("new/mine").write_text("mine")
    with pytest.raises(ConvertError, match="there is something here already"):
        made(moe, EVERY_OPERATION["split"])
    assert [path.name for path in Path("new").iterdir()] == ["mine"]


def test_logits_that_are_not_what_they_must_be_stop_it(moe, monkeypatch):
    convert = resize_file.resize

    def scaled(*arguments):
        model, changes = convert(*arguments)
        with torch.no_grad():
            model.blocks[1].ffn.experts.out_proj.mul_(0.5)
        return model, changes

    monkeypatch.setattr(resize_file, "resize", scaled)
    with pytest.raises(MoecliError, match=r"the logits differ by .* although split keeps the function"):
        made(moe, EVERY_OPERATION["split"])
    assert not Path("new").exists()
    assert made(moe, EVERY_OPERATION["merge"]).files  # which promises nothing


def test_progress_of_ablation_is_told(moe):
    heard: list[Event] = []
    resize_run(ResizeRequest(moe, Path("new"), EVERY_OPERATION["ablation"]), heard.append)
    assert [(event.done, event.total) for event in heard if isinstance(event, Progress)] == [(done, 4) for done in range(1, 5)]


def test_a_run_without_a_text(moe):
    """As imported: what goes by a text says how to give one, the rest says that one is needed to train."""
    environment = moe / "environment.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"data_fingerprint": None}))
    with pytest.raises(RunError, match=r"without a text to train on\n  next: moecli convert moe NEW"):
        made(moe, EVERY_OPERATION["merge"])
    assert "the text of the source is not known" in made(moe, EVERY_OPERATION["split"]).notices[-1]
