"""`route-stats` from a run to its files: its figures are those of training and of eval, and bad input leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from moecli.analysis.load_report import LoadCollector
from moecli.analysis.sample import PIECE_TOKENS
from moecli.errors import DataError, MoecliError, RunError
from moecli.evaluation.evaluate import evaluate
from moecli.model.checkpoint import load_model
from moecli.moe.load import load_shares
from moecli.recipe.load import load_recipe
from moecli.workflows.batches import spread_batches
from moecli.workflows.compare_routing import compare_routing
from moecli.workflows.eval import evaluate_run
from moecli.workflows.events import Event, Progress
from moecli.workflows.opened_run import open_run
from moecli.workflows.route_stats import StatsOptions, look_at_routing, route_stats
from moecli.workflows.routing_subject import TextChoice, open_subject
from moecli.workflows.train import train
from moecli.workflows.train_result import TrainResult

LAYER_KEYS = {
    "layer", "num_experts", "top_k", "load", "importance", "cv_load", "cv_importance", "max_violation", "max_violation_batch", "entropy",
    "effective_experts", "dead_experts", "dropped_fraction", "moved_fraction", "confidence", "margin", "dropped_by_position",
}  # fmt: skip
TOP_KEYS = {
    "checkpoint", "source", "model_type", "corpus", "split", "tokens", "loss", "perplexity", "notes", "layers", "position_starts", "mean",
    "sample", "specialisation", "vocabulary", "coactivation", "consistency", "paths", "training", "communication", "checkpoints",
    "saturation", "ablation", "text",
}  # fmt: skip
FFN = "model.ffn={kind: sparse, num_experts: 4, d_expert: 16, %s}"
ROUTINGS = {
    "switch": (FFN % "router: {kind: topk, top_k: 1}",),
    "dropping": (FFN % "router: {kind: topk, top_k: 2}, capacity: {factor: 0.5, eval_factor: 0.5}",),
    "moving": (FFN % "router: {kind: topk, top_k: 1}, capacity: {factor: 1.0, eval_factor: 1.0, overflow: next}",),
    "noisy": (FFN % "router: {kind: noisy_topk, top_k: 2}",),
    "vmoe": (FFN % "router: {kind: vmoe_topk, top_k: 2}",),
    "sigmoid": (FFN % "router: {kind: sigmoid_topk, top_k: 2}", "training.bias_update={rate: 0.01}"),
    "hash": (FFN % "router: {kind: hash, top_k: 2}",),
    "random": (FFN % "router: {kind: random, top_k: 2}",),
    "expert choice": (FFN % "router: {kind: expert_choice, pool: batch}",),
    "dense": ("model.ffn={kind: dense, num_experts: 4, d_expert: 16}",),
    "soft": ("model.ffn={kind: soft, num_experts: 4, d_expert: 16, mixing: batch}",),
    "masked": ("objective=masked-lm",),
}


def silent(event: Event) -> None:
    pass


def train_tiny(recipe: Path, *overrides: str, out: str = "run") -> TrainResult:
    return train(load_recipe(recipe, overrides).recipe, out=Path(out), listener=silent)


@pytest.mark.parametrize("overrides", ROUTINGS.values(), ids=ROUTINGS)
def test_every_way_of_routing_has_a_report_that_agrees_with_training_and_eval(tiny_recipe, overrides):
    trained = train_tiny(tiny_recipe, *overrides)
    report = route_stats(Path("run"), StatsOptions(num_shuffles=5, ablate=True, ablate_tokens=64), silent).report
    assert report.keys() >= TOP_KEYS
    assert report["loss"] == trained.validation.loss == evaluate_run(Path("run")).evaluation.loss
    written = json.loads(Path("run/routing/load.json").read_text())
    for layer, before in zip(report["layers"], written["layers"], strict=True):
        assert layer == before and layer.keys() == LAYER_KEYS
        assert sum(layer["load"]) == pytest.approx(1)
        assert sum(layer["importance"]) == pytest.approx(1)
    # Of the whole text, what was kept is in the sample, and what was dropped is not.
    opened = open_run(Path("run"))
    assert report["sample"]["tokens"] == report["tokens"] == len(opened.tokens.ids) - 1
    for layer in report["ablation"]["layers"]:
        assert layer["load"] == report["layers"][layer["layer"]]["load"]
    (sequence, *_) = report["text"]["sequences"]
    assert len(sequence["tokens"]) == len(sequence["experts"])
    json.dumps(report, allow_nan=False)


def test_kept_and_dropped_are_all_and_the_sample_counts_like_the_load(tiny_recipe):
    train_tiny(tiny_recipe, *ROUTINGS["dropping"])
    report = look_at_routing(Path("run"), StatsOptions(num_shuffles=3), silent).report
    opened = open_run(Path("run"))
    collector, chosen, kept = LoadCollector(), 0, 0
    for batch in opened.batches():
        with torch.no_grad():
            _, records = opened.model(batch.ids_BS)
        collector.add(records)
        record = records[0]
        assert record is not None
        chosen += len(record.kept_A)
        kept += int(record.kept_A.sum())
    layer = report["layers"][0]
    assert layer == json.loads(json.dumps(collector.report().to_json()))["layers"][0]
    assert layer["dropped_fraction"] == pytest.approx(1 - kept / chosen) and 0 < kept < chosen
    assert layer["top_k"] * report["tokens"] == pytest.approx(chosen)
    # Positions 0 to 15 of sequences of 16: early tokens claim room first, so drops rise along the sequence.
    drops = layer["dropped_by_position"]
    assert report["position_starts"] == list(range(16)) and drops[0] == 0 and drops[-1] > drops[1]
    assert np.mean(drops) == pytest.approx(layer["dropped_fraction"], abs=0.02)


def test_the_load_is_that_of_the_training_record_of_the_same_batch(tiny_recipe):
    train_tiny(tiny_recipe)
    opened = open_run(Path("run"))
    batch = next(opened.batches())
    opened.model.train()
    _, records = opened.model(batch.ids_BS)
    collector = LoadCollector()
    evaluate(opened.model, [batch], 1, "float32", lambda _, seen: collector.add(seen))
    for layer, record in zip(collector.report().layers, records, strict=True):
        assert record is not None
        assert layer.load == load_shares(record.load_E).tolist()
        assert layer.top_k * batch.ids_BS.numel() == int(record.load_E.sum())


def test_maxvio_of_batches_is_a_mean_and_confidence_is_of_the_probabilities(tiny_recipe):
    train_tiny(tiny_recipe, *ROUTINGS["switch"])
    opened = open_run(Path("run"))
    report = look_at_routing(Path("run"), StatsOptions(num_shuffles=3), silent).report
    violations, weights, largest, margins = [], [], [], []
    for batch in opened.batches():
        record = opened.model(batch.ids_BS)[1][1]
        load_E = record.load_E.double()
        violations.append(((load_E.max() - load_E.mean()) / load_E.mean()).item())
        weights.append(load_E.sum().item())
        ranked_TE = record.routing.probs_TE.sort(dim=-1, descending=True).values
        largest += ranked_TE[:, 0].tolist()
        margins += (ranked_TE[:, 0] - ranked_TE[:, 1]).tolist()
    layer = report["layers"][1]
    assert (
        layer["max_violation_batch"] == pytest.approx(np.average(violations, weights=weights))
        and layer["max_violation_batch"] >= layer["max_violation"]
    )
    assert layer["confidence"] == pytest.approx(np.mean(largest)) and layer["margin"] == pytest.approx(np.mean(margins), abs=1e-6)


def test_the_files_are_written_whole_and_a_new_report_replaces_the_old(tiny_recipe):
    train_tiny(tiny_recipe)
    options = StatsOptions(num_shuffles=3)
    stats = route_stats(Path("run"), options, silent)
    assert {path.parent for path in stats.files} == {Path("run/route-stats")}
    assert all(path.stat().st_size for path in stats.files)
    suffixes = {path.suffix for path in stats.files}
    assert suffixes == {".json", ".csv", ".png", ".svg", ".html"}
    (content := json.loads(Path("run/route-stats/route-stats.json").read_text()))["tokens"] = "old"
    Path("run/route-stats/route-stats.json").write_text(json.dumps(content))
    route_stats(Path("run"), options, silent)
    content = json.loads(Path("run/route-stats/route-stats.json").read_text())
    assert content["files"] == [path.name for path in stats.files] and content.keys() >= TOP_KEYS and content["tokens"] != "old"
    # A checkpoint that is named has a folder of its own.
    named = route_stats(Path("run/checkpoints/step-4"), options, silent)
    assert named.files[0] == Path("run/route-stats-step-4/route-stats.json").resolve()
    assert named.report["checkpoint"].endswith("step-4")


def test_what_is_no_report_is_not_replaced(tiny_recipe):
    train_tiny(tiny_recipe)
    Path("precious").mkdir()
    Path("precious/thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.txt is here"):
        route_stats(Path("run"), StatsOptions(), silent, Path("precious"))
    assert Path("precious/thesis.txt").read_text() == "years of work"
    # Not even beside a report, or under the name of one.
    route_stats(Path("run"), StatsOptions(num_shuffles=3), silent, Path("mine"))
    Path("mine/notes.md").write_text("what I saw")
    Path("other").mkdir()
    Path("other/route-stats.json").write_text('{"files": "thesis.txt"}')
    Path("other/thesis.txt").write_text("years of work")
    for folder, name in (("mine", "notes.md"), ("other", "thesis.txt")):
        with pytest.raises(RunError, match=name):
            route_stats(Path("run"), StatsOptions(), silent, Path(folder))
        assert (Path(folder) / name).is_file()
    for out in (Path(), Path(".."), Path("..") / Path.cwd().name, Path("precious/thesis.txt/report")):
        with pytest.raises(RunError):
            route_stats(Path("run"), StatsOptions(), silent, out)
    Path("empty").mkdir()
    assert route_stats(Path("run"), StatsOptions(num_shuffles=3), silent, Path("empty")).files[0].parent == Path("empty")


def test_a_report_behind_a_link_is_replaced_and_the_link_stays(tiny_recipe):
    train_tiny(tiny_recipe)
    Path("real").mkdir()
    Path("link").symlink_to("real")
    for _ in range(2):
        route_stats(Path("run"), StatsOptions(num_shuffles=3), silent, Path("link"))
        assert Path("link").is_symlink() and Path("real/route-stats.json").is_file()


def test_one_document_has_no_chance_to_compare_with(tiny_recipe):
    train_tiny(tiny_recipe)
    Path("one.txt").write_text("One document, and no other. " * 40)
    report = look_at_routing(Path("run"), StatsOptions(text=TextChoice(("one.txt",))), silent).report
    assert report["specialisation"] == report["vocabulary"] == []
    assert any("one document" in note for note in report["notes"])


def test_a_checkpoint_of_another_model_among_the_earlier_ones_is_named(tiny_recipe):
    train_tiny(tiny_recipe, "training.checkpoint_every=2")
    train_tiny(tiny_recipe, "model.num_layers=1", out="other")
    shutil.copytree("other/checkpoints/step-6", "run/checkpoints/step-3")
    with pytest.raises(RunError, match="step-3: is not of the model") as caught:
        look_at_routing(Path("run"), StatsOptions(num_shuffles=3, over_training=True), silent)
    assert "--over-training" in caught.value.next_step


def test_over_training_looks_at_every_checkpoint(tiny_recipe):
    train_tiny(tiny_recipe, "training.steps=6", "training.checkpoint_every=2")
    report = look_at_routing(Path("run"), StatsOptions(num_shuffles=3, over_training=True), silent).report
    assert [entry["step"] for entry in report["checkpoints"]] == [2, 4, 6]
    last = report["checkpoints"][-1]
    assert last["layers"] == report["layers"] and last["mean"] == report["mean"]
    first = look_at_routing(Path("run/checkpoints/step-2"), StatsOptions(num_shuffles=3), silent).report
    assert report["checkpoints"][0]["layers"] == first["layers"]
    for layer in report["saturation"]:
        assert layer["steps"] == [2, 4, 6] and layer["top_k"][-1] == layer["first"][-1] == 1
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert report["training"]["load_cv"] == [line["load_cv"] for line in lines if "load_cv" in line]
    assert report["training"]["steps"] == [1, 2, 3, 4, 5, 6]


def test_ablation_looks_at_the_text_from_its_first_to_its_last_batch(tiny_recipe):
    train_tiny(tiny_recipe)
    subject = open_subject(Path("run"), TextChoice())
    batches = [batch for batch in subject.make_batches() if len(batch.ids_BS) == 8]
    assert 3 < len(batches) < len(list(subject.make_batches()))
    for wanted in (1, 2, len(batches) - 1, len(batches)):
        spread = spread_batches(subject.make_batches, wanted * batches[0].ids_BS.numel())
        assert len(spread) == wanted
        assert torch.equal(spread[0].ids_BS, batches[0].ids_BS)
        if wanted > 1:
            assert torch.equal(spread[-1].ids_BS, batches[-1].ids_BS)


def test_labels_of_a_table_are_looked_at_and_progress_is_told(tiny_recipe):
    train_tiny(tiny_recipe)
    rows = [{"text": "cats and trees " * 20, "author": "ann" if number % 2 else "bob"} for number in range(40)]
    Path("table.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    text = TextChoice(("table.jsonl",), label_column="author")
    events: list[Event] = []
    report = look_at_routing(Path("run"), StatsOptions(text=text, num_shuffles=5), events.append).report
    assert [label["label"] for label in report["specialisation"]] == ["author", "position"]
    assert report["specialisation"][0]["values"] == ["bob", "ann"]
    assert (report["corpus"], report["split"]) == ("table.jsonl", "all")
    told = [event for event in events if isinstance(event, Progress) and event.unit == "tokens"]
    assert told[-1].done == told[-1].total == report["tokens"]
    only = look_at_routing(Path("run"), StatsOptions(text=text, by=("author",), num_shuffles=5), silent).report
    assert [label["label"] for label in only["specialisation"]] == ["author"]


def test_a_long_text_is_sampled_and_the_report_says_so(tiny_recipe):
    train_tiny(tiny_recipe)
    Path("long.txt").write_text("\n\n".join(f"Paragraph {number} of a long text." * 60 for number in range(12)))
    options = StatsOptions(text=TextChoice(("long.txt",)), sample_tokens=2 * PIECE_TOKENS, num_shuffles=3)
    report = look_at_routing(Path("run"), options, silent).report
    assert report["sample"]["tokens"] <= 2 * PIECE_TOKENS < report["sample"]["of_tokens"] == report["tokens"]
    assert any("drawn evenly" in note for note in report["notes"])
    assert any("too few" in note for note in report["notes"])


def test_compare_puts_runs_side_by_side(tiny_recipe):
    train_tiny(tiny_recipe, out="one")
    train_tiny(tiny_recipe, *ROUTINGS["switch"], out="two")
    comparison = compare_routing([Path("one"), Path("two")], StatsOptions(num_shuffles=3), silent)
    content = json.loads(Path("outputs/comparison/comparison.json").read_text())
    assert [run["name"] for run in content["runs"]] == ["one", "two"]
    alone = look_at_routing(Path("two"), StatsOptions(num_shuffles=3), silent).report
    assert content["runs"][1]["layers"] == alone["layers"]
    assert {path.suffix for path in comparison.files} == {".json", ".csv", ".png", ".svg", ".html"}
    with pytest.raises(RunError, match="named twice"):
        compare_routing([Path("one"), Path("one/../one")], StatsOptions(), silent)
    with pytest.raises(RunError, match="one run"):
        compare_routing([Path("one")], StatsOptions(), silent)


def test_a_report_of_a_leaking_run_says_so(tiny_recipe):
    train_tiny(tiny_recipe, FFN % "router: {kind: expert_choice}", "allow_future_leak=true")
    assert "future" in look_at_routing(Path("run"), StatsOptions(num_shuffles=3), silent).report["notes"][0]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BAD = {
    "no such run": (lambda: None, "nowhere", {}, RunError, "no such folder"),
    "neither ours nor theirs": (lambda: Path("plain").mkdir(), "plain", {}, RunError, "neither a run folder nor"),
    "truncated": (lambda: cut_short(Path("run/checkpoints/latest/model.safetensors")), "run", {}, RunError, "damaged"),
    "other tokenizer": (
        lambda: Path("run/tokenizer.json").write_text(Path("other/tokenizer.json").read_text()), "run", {}, RunError, "token ids",
    ),
    "no such file": (lambda: None, "run", {"text": TextChoice(("missing.txt",))}, DataError, "no such file"),
    "short text": (lambda: Path("short.txt").write_text("cat"), "run", {"text": TextChoice(("short.txt",))}, DataError, "one sequence 16"),
    "empty text": (lambda: Path("none.txt").write_text(""), "run", {"text": TextChoice(("none.txt",))}, DataError, "no text"),
    "no such label": (lambda: None, "run", {"by": ("colour",)}, DataError, "no label 'colour'"),
    "a label without a table": (lambda: None, "run", {"text": TextChoice(label_column="colour")}, DataError, "no table is named"),
    "a label of plain text": (
        lambda: Path("t.txt").write_text("a cat " * 99), "run", {"text": TextChoice(("t.txt",), label_column="colour")}, DataError,
        "no text has a value",
    ),
    "a label with the name of another": (
        lambda: Path("t.jsonl").write_text('{"text": "a cat and a tree", "position": "first"}\n' * 9), "run",
        {"text": TextChoice(("t.jsonl",), label_column="position")}, DataError, "every text has of its own",
    ),
    "a split of files": (lambda: None, "run", {"text": TextChoice(("text.txt",), split="train")}, DataError, "as a whole"),
    "metrics that are no numbers": (
        lambda: Path("run/metrics.jsonl").write_text('{"step": 1, "load_cv": "abc"}\n'), "run", {}, RunError, "load_cv of step 1",
    ),
    "no such column": (
        lambda: Path("t.jsonl").write_text('{"text": "a cat"}\n' * 9), "run",
        {"text": TextChoice(("t.jsonl",), label_column="colour")}, DataError, "colour",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "path", "options", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_message_and_no_report(tiny_recipe, spoil, path, options, kind, message):
    train_tiny(tiny_recipe)
    if path == "run" and kind is RunError:
        train_tiny(tiny_recipe, "data.tokenizer={kind: char}", out="other")
    spoil()
    before = sorted(map(str, Path().rglob("*")))
    with pytest.raises(kind, match=message) as caught:
        route_stats(Path(path), StatsOptions(**options), silent)
    assert isinstance(caught.value, MoecliError) and caught.value.exit_code == 2 and caught.value.next_step
    assert sorted(map(str, Path().rglob("*"))) == before


def test_a_run_without_moe_layers_is_told_so(tiny_recipe):
    train_tiny(tiny_recipe, "model.ffn={kind: mlp, d_ff: 32}")
    with pytest.raises(RunError, match=r"no layer of this run routes: model\.ffn\.kind is mlp"):
        route_stats(Path("run"), StatsOptions(), silent)


def test_looking_changes_no_weight(tiny_recipe):
    train_tiny(tiny_recipe)
    before = load_model(Path("run/checkpoints/latest")).state_dict()
    route_stats(Path("run"), StatsOptions(num_shuffles=3, ablate=True, ablate_tokens=64), silent)
    for name, tensor in load_model(Path("run/checkpoints/latest")).state_dict().items():
        assert torch.equal(tensor, before[name])
