"""From a trained dense run to an MoE's run: same loss at the start, goes on training, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moecli.convert.upcycle import UpcycleOptions
from moecli.errors import ConvertError, MachineError, MoecliError, RecipeError, RunError
from moecli.model.checkpoint import load_model, read_tensors, write_tensors
from moecli.model.manifest import add_to_manifest
from moecli.recipe.load import load_recipe
from moecli.workflows import upcycle as upcycle_file
from moecli.workflows.eval import evaluate_run
from moecli.workflows.events import Event, Stage
from moecli.workflows.first_checkpoint import check_is_free
from moecli.workflows.train import train
from moecli.workflows.upcycle import UpcycleRequest, Upcycling, upcycle_run
from tests.workflows.first_runs import first_run

DENSE = ("model.ffn.kind=mlp", "model.ffn.d_ff=16")
SPARSE = ("model.ffn.kind=sparse", "model.ffn.d_expert=16", "model.ffn.num_experts=4")
COPIES = UpcycleOptions("copies")


def ignore(event: Event) -> None: ...


@pytest.fixture
def dense(tiny_recipe) -> Path:
    """A trained dense run."""
    overrides = (*DENSE, "training.learning_rate=0.02", "training.steps=12")
    return train(load_recipe(tiny_recipe, overrides).recipe, out=Path("dense"), listener=ignore).run_dir


def made(source: Path, overrides=SPARSE, *, options=COPIES, target: Path = Path("moe"), **fields) -> Upcycling:
    return upcycle_run(UpcycleRequest(source, target, options, overrides=overrides, **fields), ignore)


def loss(run: Path) -> float:
    return evaluate_run(run, listener=ignore).evaluation.loss


@pytest.mark.parametrize(
    ("options", "overrides"),
    [
        (COPIES, SPARSE),
        (UpcycleOptions("granular"), (*SPARSE, "model.ffn.d_expert=8")),
        (UpcycleOptions("drop"), (*SPARSE, "model.ffn.num_shared_experts=1")),
    ],
    ids=["copies", "granular", "shared"],
)
def test_the_run_begins_at_the_dense_loss(dense, options, overrides):
    result = made(dense, overrides, options=options)
    assert result.is_same_function and result.departures == []
    assert loss(Path("moe")) == pytest.approx(loss(dense), abs=1e-5)
    assert loss(Path("moe")) < 5.4  # below ln(257), that of a model that knows nothing: the dense run had learned


def test_drop_begins_elsewhere_and_says_so(dense):
    result = made(dense, options=UpcycleOptions("drop"))
    assert result.is_same_function is False and "begins anew" in result.departures[0]
    assert abs(loss(Path("moe")) - loss(dense)) > 1e-4
    assert result.to_json()["verified"] is False and result.to_json()["max_abs_logit_diff"] > 1e-3


def test_training_goes_on_from_it_with_a_fresh_optimizer(dense):
    made(dense, (*SPARSE, "training.steps=5"))
    first = load_model(Path("moe/checkpoints/step-0"))
    result = train(load_recipe(Path("moe/recipe.yaml")).recipe, out=Path("moe"), resume=True, listener=ignore)
    assert result.steps == 5 and Path("moe/checkpoints/latest").resolve().name == "step-5"
    lines = [json.loads(line) for line in Path("moe/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "learning_rate" in line] == [1, 2, 3, 4, 5]
    moved = load_model(Path("moe/checkpoints/latest"))
    assert not torch.equal(moved.blocks[0].ffn.experts.in_proj, first.blocks[0].ffn.experts.in_proj)
    state = read_tensors(Path("moe/checkpoints/latest/training_state.safetensors"))
    assert state["optimizer.step.embedding.weight"].item() == 5
    assert json.loads(Path("moe/conversion.json").read_text())["upcycle"]["method"] == "copies"


def test_the_same_conversion_and_training_twice_is_the_same_bit_for_bit(dense):
    for target in ("a", "b"):
        made(dense, (*SPARSE, "training.steps=3"), target=Path(target), options=UpcycleOptions("drop", noise_std=0.1))
        train(load_recipe(f"{target}/recipe.yaml").recipe, out=Path(target), resume=True, listener=ignore)
    first, second = (read_tensors(Path(run) / "checkpoints/latest/model.safetensors") for run in "ab")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_freezing_the_rest_trains_the_gate_alone(dense):
    made(dense, (*SPARSE, "training.freeze=[all-but-router]", "training.steps=3"), options=UpcycleOptions("drop"))
    train(load_recipe("moe/recipe.yaml").recipe, out=Path("moe"), resume=True, listener=ignore)
    before, after = (read_tensors(Path("moe/checkpoints") / step / "model.safetensors") for step in ("step-0", "latest"))
    assert [name for name in before if not torch.equal(before[name], after[name])] == [f"blocks.{n}.ffn.router.weight" for n in range(2)]


def test_a_recipe_file_can_be_given(dense, tiny_recipe):
    result = made(dense, ("model.ffn.num_experts=3",), recipe=str(tiny_recipe))
    assert result.recipe.model.ffn.num_experts == 3 and result.recipe.training.steps == 6


def test_a_checkpoint_inside_the_run_can_be_the_source(dense):
    result = made(Path("dense/checkpoints/step-4"))
    first = load_model(Path("moe/checkpoints/latest"))
    assert result.source.name == "step-4"
    assert torch.equal(first.embedding.weight, load_model(Path("dense/checkpoints/step-4")).embedding.weight)


def test_a_dry_run_writes_nothing_and_counts(dense):
    before = sorted(Path().rglob("*"))
    result = made(dense, dry_run=True)
    assert sorted(Path().rglob("*")) == before
    assert result.to_json()["verified"] is None and result.to_json()["files"] == []
    # Three further experts of 3 x 16 x 16, and a router of 4 x 16, in each of 2 layers.
    assert result.cost.params_total - result.source_cost.params_total == 2 * (3 * 3 * 16 * 16 + 4 * 16)


def test_the_files_are_told(dense):
    result = made(dense)
    names = {str(path) for path in result.files}
    assert names == {str(path) for path in Path("moe").rglob("*") if path.is_symlink() or not path.is_dir()}


def test_other_text_in_the_same_tokens(dense):
    Path("other.txt").write_text("\n\n".join(f"Another text, number {n}." for n in range(400)), encoding="utf-8")
    made(dense, (*SPARSE, "data.corpus.paths=[other.txt]", "training.steps=2"))
    train(load_recipe("moe/recipe.yaml").recipe, out=Path("moe"), resume=True, listener=ignore)


def test_other_tokens_are_refused(dense):
    with pytest.raises(ConvertError, match="tokenizer of this recipe is not that of the source"):
        made(dense, (*SPARSE, "data.tokenizer.kind=char"))
    assert not Path("moe").exists()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ((), ConvertError, "mlp has no experts"),
        (("model.ffn.kind=sparse",), ConvertError, r"model\.ffn\.d_expert: 64 is not the width .* \(allowed: 16\)"),
        ((*SPARSE, "model.num_layers=3"), ConvertError, "model.num_layers: 3 is not that of the source"),
        ((*SPARSE, "objective=masked-lm", "model.causal=false"), ConvertError, "objective: masked-lm is not that of the source"),
        ((*SPARSE, "model.ffn.nun_experts=3"), RecipeError, "unknown key"),
    ],
)
def test_a_recipe_that_does_not_fit(dense, overrides, error, message):
    with pytest.raises(error, match=message):
        made(dense, overrides)
    assert not Path("moe").exists()


def test_a_source_that_is_not_dense(tiny_recipe):
    train(load_recipe(tiny_recipe).recipe, out=Path("sparse"), listener=ignore)
    with pytest.raises(ConvertError, match="layer 0 of the source has experts already"):
        made(Path("sparse"))


def test_a_source_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        made(tmp_path / "nothing")


def test_a_number_that_is_none_is_named_with_its_file(dense):
    path = Path("dense/checkpoints/latest/model.safetensors").resolve()
    weights = {name: tensor.clone() for name, tensor in read_tensors(path).items()}
    weights["blocks.1.attention_norm.weight"][0] = float("nan")
    write_tensors(weights, path)
    add_to_manifest(path.parent, [path.name])
    with pytest.raises(ConvertError, match=r"model\.safetensors: blocks\.1\.attention_norm\.weight holds numbers that are none"):
        made(dense)
    assert not Path("moe").exists()


def test_a_truncated_source(dense):
    path = Path("dense/checkpoints/latest/model.safetensors").resolve()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"model\.safetensors: damaged"):
        made(dense)


@pytest.mark.parametrize("there", ["a file", "a folder", "a link", "the source"])
def test_a_target_that_is_there_stays_as_it_is(dense, there):
    target = Path("moe")
    if there == "a file":
        target.write_text("mine")
    elif there == "a folder":
        target.mkdir()
        (target / "mine").write_text("mine")
    elif there == "a link":
        target.symlink_to("nowhere")
    else:
        target = dense
    before = sorted(Path().rglob("*"))
    with pytest.raises(ConvertError, match="there is something here already"):
        made(dense, target=target)
    assert sorted(Path().rglob("*")) == before


def test_an_empty_folder_is_nothing(dense):
    Path("moe").mkdir()
    assert made(dense).is_same_function
    with pytest.raises(ConvertError, match="is no folder"):
        check_is_free(Path("text.txt/moe"))


def test_a_disk_that_fills_leaves_nothing(dense, monkeypatch):
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moecli.workflows.first_checkpoint.save_first_state", full)
    before = sorted(Path().rglob("*"))
    with pytest.raises(MachineError, match="the disk is full") as caught:
        made(dense, target=Path("new/parent/moe"))
    assert caught.value.next_step == "free some space there, or name another folder"
    assert sorted(Path().rglob("*")) == before


def test_what_a_killed_conversion_left_is_no_hindrance(dense):
    Path(".moe.partial/checkpoints").mkdir(parents=True)
    made(dense)
    assert not Path(".moe.partial").exists()


def test_logits_that_are_not_what_they_must_be_stop_it(dense, monkeypatch):
    convert = upcycle_file.upcycle

    def exchanged(*arguments):
        upcycled = convert(*arguments)
        with torch.no_grad():
            experts = upcycled.model.blocks[1].ffn.experts
            experts.in_proj.copy_(experts.in_proj.roll(16, dims=1))  # gate rows and up rows change places
        return upcycled

    monkeypatch.setattr(upcycle_file, "upcycle", exchanged)
    with pytest.raises(MoecliError, match=r"the logits differ by .* although copies keeps the function"):
        made(dense)
    assert not Path("moe").exists()


def test_the_listener_hears_what_is_done(dense):
    heard: list[Event] = []
    upcycle_run(UpcycleRequest(dense, Path("moe"), COPIES, overrides=SPARSE), heard.append)
    assert [event.text for event in heard if isinstance(event, Stage)] == [
        "reading the dense model",
        "making experts and comparing the logits",
    ]


def test_the_optimizer_is_carried_over_where_asked(dense):
    result = made(dense, (*SPARSE, "training.steps=1"), carry_optimizer=True)
    before, first = (read_tensors(run / "checkpoints" / "latest" / "training_state.safetensors") for run in (dense, Path("moe")))
    assert result.carried == result.to_json()["optimizer_carried"] == sum(name.startswith("optimizer.step.") for name in first) > 10
    for expert in range(4):
        mean = first["optimizer.exp_avg.blocks.1.ffn.experts.out_proj"][expert]
        assert torch.equal(mean, before["optimizer.exp_avg.blocks.1.ffn.out_proj.weight"]) and mean.any()
    assert not any("router" in name for name in first)
    train(load_recipe("moe/recipe.yaml").recipe, out=Path("moe"), resume=True, listener=ignore)
    after = read_tensors(Path("moe/checkpoints/latest/training_state.safetensors"))
    steps = {name: after[f"optimizer.step.{name}"].item() for name in ("embedding.weight", "blocks.0.ffn.experts.in_proj")}
    assert set(steps.values()) == {13}  # 12 of the dense training
    assert after["optimizer.step.blocks.0.ffn.router.weight"].item() == 1
    # The first step moves the mean by 1 - beta1 of the way to the gradient, so most of it is what was carried over.
    old, new = first["optimizer.exp_avg.embedding.weight"].flatten(), after["optimizer.exp_avg.embedding.weight"].flatten()
    assert torch.nn.functional.cosine_similarity(old, new, dim=0) > 0.5


def test_without_asking_nothing_is_carried_over(dense):
    assert made(dense).carried == 0
    assert read_tensors(Path("moe/checkpoints/latest/training_state.safetensors")).keys() == {"random.cpu"}


def test_a_source_without_a_state_has_none_to_carry_over(tiny_recipe):
    first_run(tiny_recipe, DENSE)
    for is_dry in (True, False):
        with pytest.raises(ConvertError, match="no optimizer state in it") as caught:
            made(Path("run"), carry_optimizer=True, dry_run=is_dry)
    assert caught.value.next_step == "leave --carry-optimizer out" and not Path("moe").exists()
