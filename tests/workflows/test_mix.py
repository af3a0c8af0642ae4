"""From several dense runs to one MoE's run: which text was held out, what is refused, whole or not at all, and training from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from moecli.convert.mix import MixOptions, average, domain_rows, mean_router_inputs
from moecli.data.prepare import prepare
from moecli.errors import ConvertError, MachineError, RecipeError, RunError
from moecli.model.checkpoint import load_model, save_model
from moecli.recipe.load import load_recipe
from moecli.workflows import mix as mix_file
from moecli.workflows.events import Event, Stage
from moecli.workflows.mix import Mixing, MixRequest, mix_runs
from moecli.workflows.mix_text import training_sample
from moecli.workflows.source_run import NO_TEXT, open_source
from moecli.workflows.train import train
from tests.workflows.first_runs import first_run

SYNTHETIC = (
    "data.corpus={kind: synthetic, num_domains: 2, num_documents: 80, document_length: 40, num_symbols: 5, branching: 2}",
    "data.tokenizer={kind: char}",
)
DENSE = (*SYNTHETIC, "model.ffn.kind=mlp", "model.ffn.d_ff=16", "data.validation_fraction=0.3")
SPARSE = ("model.ffn.kind=sparse", "model.ffn.d_expert=16", "model.ffn.num_experts=2")
UNION = ("data.corpus.domains=null", "data.validation_fraction=0.1")
RANDOM, DOMAIN = MixOptions(), MixOptions("domain")


def ignore(event: Event) -> None: ...


@pytest.fixture
def branches(tiny_recipe) -> list[Path]:
    """Runs of one shape with random weights, each on the text of its own domain."""
    runs = [first_run(tiny_recipe, (*DENSE, f"data.corpus.domains=[{n}]"), path=Path(f"branch-{n}")).path for n in range(2)]
    change(runs[1])
    return runs


def change(run: Path) -> None:
    """Gives a run other weights."""
    folder = (run / "checkpoints/latest").resolve()
    model = load_model(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9).add_(0.01)
    save_model(model, folder)


def made(sources, overrides=(*SPARSE, *UNION), *, options=RANDOM, target: Path = Path("moe"), **fields) -> Mixing:
    return mix_runs(MixRequest(sources, target, options, overrides=overrides, **fields), ignore)


def test_what_is_written_can_be_trained_and_names_its_sources(branches):
    result = made(branches, (*SPARSE, *UNION, "training.steps=2"))
    assert {str(path) for path in result.files} == {str(path) for path in Path("moe").rglob("*") if path.is_symlink() or not path.is_dir()}
    origin = json.loads(Path("moe/conversion.json").read_text())
    assert origin["mix"] == {"router_init": "random", "seed": 0} and origin["sources"] == [str(path) for path in result.sources]
    assert origin["verified"] is None and result.difference is None
    first = load_model(Path("moe/checkpoints/latest"))
    for expert, branch in enumerate(branches):
        network = load_model(branch / "checkpoints/latest").blocks[1].ffn
        assert torch.equal(first.blocks[1].ffn.experts.in_proj[expert], network.in_proj.weight)
    train(load_recipe(Path("moe/recipe.yaml")).recipe, out=Path("moe"), resume=True, listener=ignore)
    assert Path("moe/checkpoints/latest").resolve().name == "step-2"


def test_the_router_begins_with_training_text_of_each_source(branches):
    made(branches, options=DOMAIN)
    model = average([load_model(branch / "checkpoints/latest") for branch in branches])
    means = []
    for branch in branches:
        recipe = load_recipe(branch / "recipe.yaml").recipe
        ids_N = torch.from_numpy(prepare(recipe.data).train.ids.astype("int64"))
        windows = (len(ids_N) - 1) // recipe.data.seq_len
        # As many whole batches as there are; the last, shorter window is not of the sample.
        rows = windows - windows % recipe.evaluation.batch_size
        means.append(mean_router_inputs(model, [ids_N[: rows * recipe.data.seq_len].view(rows, -1)], [0, 1]))
        assert sum(ids_BS.numel() for ids_BS in training_sample(open_source(branch))) == rows * recipe.data.seq_len
    for layer, rows_ED in domain_rows(means).items():
        router = load_model(Path("moe/checkpoints/latest")).blocks[layer].ffn.router
        torch.testing.assert_close(router.weight, rows_ED, rtol=1e-3, atol=1e-4)
        assert rows_ED.norm(dim=1).tolist() == pytest.approx([1, 1])


def test_equal_sources_are_proved_to_give_an_equal_model(branches):
    result = made([branches[0]] * 3, (*SPARSE, "model.ffn.num_experts=3"))
    assert result.difference is not None and result.difference.max_abs <= 1e-5 * max(1, result.difference.largest)
    assert result.to_json()["verified"] is True and result.notices == ("model.ffn: dropped d_ff: kind sparse does not have it",)


def test_equal_sources_that_gave_another_model_stop_it(branches, monkeypatch):
    mix = mix_file.mix

    def exchanged(*arguments):
        model = mix(*arguments)
        with torch.no_grad():
            experts = model.blocks[1].ffn.experts
            experts.in_proj.copy_(experts.in_proj.roll(16, dims=1))  # gate rows and up rows change places
        return model

    monkeypatch.setattr(mix_file, "mix", exchanged)
    with pytest.raises(ConvertError, match=r"the logits differ by .* although all sources are the same"):
        made([branches[0]] * 2)
    assert not Path("moe").exists()


def test_where_the_weights_sum_varies_equal_sources_are_measured_and_not_held_to_it(branches):
    result = made([branches[0]] * 2, (*SPARSE, "model.ffn.router.top_k=1"))
    assert result.to_json()["verified"] is False and result.output_factor == 2


def test_held_out_text_that_a_branch_was_trained_on_is_told(branches):
    assert not any("held-out" in note for note in made(branches, dry_run=True).notices)
    # With as much of the text held out as of the branches', the border of a domain lies elsewhere; beyond it, all of it does.
    notes = [note for note in made(branches, (*SPARSE, *UNION, "data.validation_fraction=0.6"), dry_run=True).notices if "held-out" in note]
    assert len(notes) == 2 and all(
        f"trained on by {branch}: its loss there flatters" in note for branch, note in zip(branches, notes, strict=True)
    )
    # 80 documents of one length: 48 are held out of all; a branch held out 12 of its 40, so all of its others that are among the 48 count.
    seen, of = zip(*((int(note.split()[0]), int(note.split()[2])) for note in notes), strict=True)
    assert set(of) == {48} and sum(seen) == 48 - 2 * 12


def test_a_dry_run_writes_nothing(branches):
    before = sorted(Path().rglob("*"))
    result = made(branches, options=DOMAIN, dry_run=True)
    assert sorted(Path().rglob("*")) == before and result.to_json()["files"] == []
    # One more network of 3 x 16 x 16, and a router of 2 x 16, in each of 2 layers.
    assert result.cost.params_total - result.source_cost.params_total == 2 * (3 * 16 * 16 + 2 * 16)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        ((), ConvertError, r"mlp has no experts.*\n.*next: what fits is --set model\.ffn\.kind=sparse --set model\.ffn\.num_experts=2"),
        (("model.ffn.kind=sparse",), ConvertError, r"num_experts: 8 is not the number of sources \(allowed: 2\)\n.*d_expert: 64 is not"),
        ((*SPARSE, "objective=masked-lm", "model.causal=false"), ConvertError, "objective: masked-lm is not that of the sources"),
        ((*SPARSE, "model.ffn.nun_experts=3"), RecipeError, "unknown key"),
        ((*SPARSE, "data.tokenizer.kind=byte"), ConvertError, "tokenizer of this recipe is not that of the source"),
    ],
)
def test_a_recipe_that_does_not_fit(branches, overrides, error, message):
    with pytest.raises(error, match=message):
        made(branches, overrides)
    assert not Path("moe").exists()


def test_a_router_without_scores_can_only_begin_as_it_does(branches):
    with pytest.raises(ConvertError, match="hash does not score experts"):
        made(branches, (*SPARSE, "model.ffn.router={kind: hash}"), options=DOMAIN)


def test_every_difference_of_every_source_is_named(branches, tiny_recipe):
    deeper = first_run(tiny_recipe, (*DENSE, "model.num_layers=1", "model.ffn.d_ff=8"), path=Path("deeper")).path
    bytes_ = first_run(tiny_recipe, (*DENSE, "data.tokenizer={kind: byte}"), path=Path("bytes")).path
    sparse = first_run(tiny_recipe, SYNTHETIC, path=Path("sparse")).path
    with pytest.raises(ConvertError) as caught:
        made([*branches, deeper, bytes_, sparse])
    for line in (
        "deeper: model.num_layers: 1 is not that of the first source (allowed: 2)",
        "bytes: data.tokenizer: the tokenizer is not that of the first source",
        "sparse: model.ffn.kind: layer 0 has experts already",
    ):
        assert line in caught.value.what
    assert "branch-1" not in caught.value.what and not Path("moe").exists()


def test_one_source_is_not_enough(branches):
    with pytest.raises(ConvertError, match="one source can't be mixed"):
        made(branches[:1])


def test_a_source_of_unknown_text(branches):
    path = branches[1] / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": None}))
    for is_dry in (True, False):
        with pytest.raises(ConvertError, match="text that it was trained on is not known: branch-1"):
            made(branches, options=DOMAIN, dry_run=is_dry)
    assert "the text of branch-1 is not at hand" in made(branches, dry_run=True).notices[-1]


def test_a_source_whose_text_is_another_by_now_is_told(branches):
    environment = branches[1] / "environment.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"data_fingerprint": "of what was there before"}))
    assert "the text of branch-1 is not at hand" in made(branches, dry_run=True).notices[-1]
    with pytest.raises(RunError, match="the text or its tokens are not those"):
        made(branches, options=DOMAIN)


def test_a_source_whose_text_is_gone_is_told(tiny_recipe, branches):
    Path("gone.txt").write_text("\n\n".join("ab " * count for count in range(1, 100)))
    settings = (*DENSE, "data.corpus={kind: files, paths: [gone.txt]}", "data.tokenizer={kind: file, path: branch-0/tokenizer.json}")
    gone = first_run(tiny_recipe, settings, path=Path("gone")).path
    Path("gone.txt").unlink()
    assert "the text of gone is not at hand" in made([branches[0], gone], dry_run=True).notices[-1]


def test_a_new_run_of_unknown_text_is_told(branches):
    path = branches[0] / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_fingerprint": None}))
    assert made(branches, SPARSE).notices[-1] == NO_TEXT


def test_a_target_that_is_there_and_a_disk_that_fills(branches, monkeypatch):
    with pytest.raises(ConvertError, match="there is something here already"):
        made(branches, target=branches[0])

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("moecli.workflows.first_checkpoint.save_first_state", full)
    before = sorted(Path().rglob("*"))
    with pytest.raises(MachineError, match="the disk is full"):
        made(branches)
    assert sorted(Path().rglob("*")) == before


def test_the_listener_hears_what_is_done(branches):
    heard: list[Event] = []
    mix_runs(MixRequest(branches, Path("moe"), DOMAIN, overrides=(*SPARSE, *UNION)), heard.append)
    assert [event.text for event in heard if isinstance(event, Stage)] == [
        "reading the dense models",
        "reading text of source 1 of 2",
        "reading text of source 2 of 2",
        "mixing",
    ]
