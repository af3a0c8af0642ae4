"""What a comparison will do, and all that is refused before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from moecli.errors import DataError, RecipeError, RunError
from moecli.model.dense_twin import dense_twin
from moecli.recipe.load import dump_recipe, load_recipe, parse_recipe
from moecli.workflows.train import train
from tests.workflows.comparisons import MLP, arm_recipe, ignore, planned

ALL = ("active", "flops", "total", "time")
SOFT = "model.ffn={kind: soft, num_experts: 2, d_expert: 64, mixing: batch, group_size: 4}"


def test_twins_differ_from_the_moe_in_their_network_alone(tiny_recipe):
    base = arm_recipe(tiny_recipe, "training.balance_scope=global-batch", "seed=5")
    plan = planned(base, matches=ALL)
    assert [(arm.name, arm.match) for arm in plan.arms] == [
        ("tiny", None), ("dense-active", "active"), ("dense-total", "total"), ("dense-time", "time"),
    ]  # fmt: skip
    ours = base.recipe.model_dump()
    for arm in plan.arms[1:]:
        theirs = arm.recipe.model_dump()
        assert {key for key in ours if ours[key] != theirs[key]} == {"name", "model", "training", "evaluation"}
        assert {key for key in ours["model"] if ours["model"][key] != theirs["model"][key]} == {"ffn"}
        assert {key for key in ours["training"] if ours["training"][key] != theirs["training"][key]} == {"balance_scope"}
        assert theirs["model"]["ffn"] == {"kind": "mlp", "d_ff": arm.twin.d_ff}
        # It is a recipe like any other.
        assert parse_recipe(dump_recipe(arm.recipe), "twin").recipe == arm.recipe


def test_what_only_a_router_can_use_is_left_out_of_twins(tiny_recipe):
    noisy = ("model.ffn.router={kind: noisy_topk}", "training.load_loss=0.1", "training.importance_loss=0.1")
    biased = ("model.ffn.router={kind: sigmoid_topk}", "training.bias_update.rate=0.1")
    for overrides in (noisy, biased):
        training = planned(arm_recipe(tiny_recipe, *overrides)).arms[1].recipe.training
        assert (training.load_loss, training.importance_loss, training.bias_update) == (0, 0, None)


def test_twins_of_the_same_width_share_an_arm_and_each_match_is_told(tiny_recipe):
    base = arm_recipe(tiny_recipe)
    plan = planned(base, matches=("total", "flops", "active"))
    content = plan.to_json()
    # Active parameters multiply once in a sparse layer: both matches lead to one width.
    assert [(match["match"], match["arm"]) for match in content["matches"]] == [
        ("active", "dense-active"), ("flops", "dense-active"), ("total", "dense-total"),
    ]  # fmt: skip
    for match in content["matches"]:
        twin = dense_twin(base.recipe.model, 257, 16, match["match"])
        assert (match["target"], match["got"], match["mismatch"]) == (twin.target, twin.got, twin.mismatch)
    assert [planned(base, matches=("flops",)).arms[1].name] == ["dense-flops"]


def test_a_soft_moe_has_different_twins_by_parameters_and_by_flops(tiny_recipe):
    plan = planned(arm_recipe(tiny_recipe, SOFT), matches=ALL)
    assert [arm.name for arm in plan.arms[1:]] == ["dense-active", "dense-flops", "dense-time"]  # a soft MoE uses all that it has
    assert plan.matched["total"].arm == "dense-active"


def test_the_same_seconds_need_the_active_twin(tiny_recipe):
    content = planned(arm_recipe(tiny_recipe), matches=("time",), num_seeds=3).to_json()
    assert [arm["name"] for arm in content["arms"]] == ["tiny", "dense-active", "dense-time"]
    time = content["arms"][2]
    assert (time["steps"], time["tokens"], time["train_flops"], time["d_ff"]) == (None, None, None, content["arms"][1]["d_ff"])
    assert content["matches"][1] == {
        "match": "time", "arm": "dense-time", "quantity": "training seconds", "target": None, "got": None, "mismatch": None,
    }  # fmt: skip
    assert any("same seconds" in note for note in content["notes"])


def test_the_cost_of_the_plan(tiny_recipe):
    content = planned(arm_recipe(tiny_recipe), num_seeds=3).to_json()
    assert (content["runs"], content["finished_runs"], content["seeds"]) == (6, 0, [0, 1, 2])
    for arm in content["arms"]:
        # 6 steps of 4 sequences of 16 tokens, 3 times.
        assert arm["tokens"] == 6 * 4 * 16
        assert arm["train_flops"] == 3 * 6 * 4 * 16 * arm["flops_per_token"]
        assert arm["weight_bytes"] == 4 * arm["params_total"] < arm["memory_bytes"]
    assert content["train_flops"] == sum(arm["train_flops"] for arm in content["arms"])
    assert content["folder"] == "comparison" and not Path("comparison").exists()


def test_names_are_unique(tiny_recipe):
    others = [arm_recipe(tiny_recipe), arm_recipe(tiny_recipe, "name=TINY"), arm_recipe(tiny_recipe, "name=dense-total")]
    assert [arm.name for arm in planned(arm_recipe(tiny_recipe), others).arms] == [
        "tiny", "dense-active", "tiny-2", "TINY-3", "dense-total-2",
    ]  # fmt: skip
    assert [arm.name for arm in planned(arm_recipe(tiny_recipe, "name=dense-active")).arms] == ["dense-active", "dense-active-2"]
    long = planned(arm_recipe(tiny_recipe, f"name={'n' * 100}"))
    assert len(long.arms[1].recipe.name) <= 100


@pytest.mark.parametrize(("steps", "every", "expected"), [(6, 4, 1), (100, 0, 5), (100, 3, 5), (100, 50, 5), (119, 0, 5)])
def test_every_arm_is_validated_equally_often(tiny_recipe, steps, every, expected):
    plan = planned(arm_recipe(tiny_recipe, f"training.steps={steps}", f"evaluation.every={every}"), [arm_recipe(tiny_recipe, MLP)])
    assert [arm.recipe.evaluation.every for arm in plan.arms[:2]] == [expected, expected]
    assert plan.arms[2].recipe.evaluation.every == 1


def test_all_arms_have_the_same_seeds(tiny_recipe):
    plan = planned(arm_recipe(tiny_recipe, "seed=7"), [arm_recipe(tiny_recipe, MLP, "seed=100")], num_seeds=2)
    assert [(run.arm, run.seed) for run in plan.runs] == [
        ("tiny", 7), ("dense-active", 7), ("tiny-2", 7), ("tiny", 8), ("dense-active", 8), ("tiny-2", 8),
    ]  # fmt: skip
    assert {plan.recipe(run).seed for run in plan.runs[3:]} == {8}


def test_a_dense_recipe_is_refused(tiny_recipe):
    with pytest.raises(RecipeError, match=r"tiny\.yaml: this model is dense already.*\n.*--arm"):
        planned(arm_recipe(tiny_recipe, MLP))


def test_all_that_is_wrong_with_the_recipes_is_told_at_once(tiny_recipe):
    with pytest.raises(RecipeError) as caught:
        planned(arm_recipe(tiny_recipe, MLP), [arm_recipe(tiny_recipe, "objective=masked-lm")])
    assert "dense already" in str(caught.value) and "objective masked-lm predicts other tokens" in str(caught.value)


def test_a_leaking_recipe_has_to_be_asked_for_and_is_named_in_the_notes(tiny_recipe):
    leaking = "model.ffn.router={kind: expert_choice}"
    with pytest.raises(RecipeError, match="see its own future"):
        arm_recipe(tiny_recipe, leaking)
    plan = planned(arm_recipe(tiny_recipe, leaking, "allow_future_leak=true"))
    assert plan.notes[0].startswith("tiny: this model sees its future")
    assert not plan.arms[1].recipe.allow_future_leak and not plan.arms[1].recipe.leaks_future


@pytest.mark.parametrize("num_seeds", [0, -1])
def test_without_seeds_nothing_is_trained(tiny_recipe, num_seeds):
    with pytest.raises(RunError, match=rf"--seeds: {num_seeds} seeds train nothing"):
        planned(arm_recipe(tiny_recipe), num_seeds=num_seeds)


def test_seeds_end_somewhere(tiny_recipe):
    with pytest.raises(RunError, match="too large"):
        planned(arm_recipe(tiny_recipe, f"seed={2**31 - 1}"), num_seeds=2)


def test_nothing_to_compare_with_is_said(tiny_recipe):
    with pytest.raises(RunError, match="nothing to compare with"):
        planned(arm_recipe(tiny_recipe), matches=())


def test_a_text_too_short_for_an_arm_is_told_before_anything_is_trained(tiny_recipe):
    with pytest.raises(DataError, match=r"training\.batch_size"):
        planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, "training.batch_size=4096")])


def test_one_text_in_other_tokens_is_compared_by_bits_per_byte(tiny_recipe):
    plan = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, "data.tokenizer={kind: bpe, vocab_size: 300}")])
    assert (plan.measure, plan.unit) == ("bits_per_byte", "bits/byte")
    assert [note for note in plan.notes if "other tokens" in note and "bits per byte of the same text" in note]


def test_another_text_is_compared_by_bits_per_byte_with_a_warning(tiny_recipe):
    Path("other.txt").write_text(Path("text.txt").read_text() + "\n\nMore.")
    plan = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, "data.corpus={kind: files, paths: [other.txt]}")])
    assert plan.measure == "bits_per_byte"
    assert [note for note in plan.notes if "a difference may come from the text" in note]


def test_the_same_tokens_by_another_way_are_the_same(tiny_recipe):
    train(load_recipe(tiny_recipe).recipe, out=Path("run"), listener=ignore)
    same = "data.tokenizer={kind: file, path: run/tokenizer.json}"
    assert planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, same)]).measure == "loss"


@pytest.mark.parametrize("override", ["data.tokenizer={kind: char}", "training.mask_rate=0.3", "data.seq_len=8"])
def test_masked_tokens_that_are_not_the_same_are_refused(tiny_recipe, override):
    masked = "objective=masked-lm"
    assert planned(arm_recipe(tiny_recipe, masked), [arm_recipe(tiny_recipe, masked, MLP)]).unit == "nats/masked token"
    with pytest.raises(RecipeError, match=r"tiny\.yaml.*(can't be compared|hides other tokens)"):
        planned(arm_recipe(tiny_recipe, masked), [arm_recipe(tiny_recipe, masked, override)])


@pytest.mark.parametrize(
    ("override", "note"),
    [
        ("training.steps=9", "is trained on 576 tokens, tiny on 384"),
        ("training.batch_size=2", "is trained on 2 sequences at a step, tiny on 4"),
        ("data.seq_len=8", "sequences of 8 tokens, tiny 16"),
        ("training.device=auto", "is trained on device auto, tiny on cpu"),
    ],
)
def test_budgets_that_differ_are_told(tiny_recipe, override, note):
    notes = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, override)]).notes
    assert [line for line in notes if line.startswith("tiny-2") and note in line]
    assert not [line for line in notes if line.startswith("dense-active")]


def test_how_the_evaluation_is_cut_hides_no_other_tokens(tiny_recipe):
    masked = "objective=masked-lm"
    others = [arm_recipe(tiny_recipe, masked, "evaluation.batch_size=3")]
    assert planned(arm_recipe(tiny_recipe, masked), others).unit == "nats/masked token"


def test_a_token_of_each_arm_is_measured_where_tokens_are_not_alike(tiny_recipe):
    plan = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, "data.tokenizer={kind: bpe, vocab_size: 300}")])
    sizes = [arm.data.train.num_bytes / len(arm.data.train.ids) for arm in plan.arms]
    told = f"{sizes[0]:.2f} bytes in tiny, {sizes[1]:.2f} bytes in dense-active, {sizes[2]:.2f} bytes in tiny-2"
    assert sizes[2] > sizes[0] and [note for note in plan.notes if told in note and "no speed-up in tokens" in note]
    assert not [note for note in planned(arm_recipe(tiny_recipe)).notes if "bytes" in note]


def test_tokens_that_a_tokenizer_does_not_know_are_told(tiny_recipe):
    # The vocabulary of a text without an "x", for one in which each "a" has become one.
    Path("few.txt").write_text(Path("text.txt").read_text().replace("x", ""))
    char = "data.tokenizer={kind: char}"
    train(load_recipe(tiny_recipe, (char, "data.corpus={kind: files, paths: [few.txt]}")).recipe, out=Path("run"), listener=ignore)
    Path("text.txt").write_text(Path("text.txt").read_text().replace("a", "x"))
    few = "data.tokenizer={kind: file, path: run/tokenizer.json}"
    plan = planned(arm_recipe(tiny_recipe, few))
    ids, unknown = plan.base.data.validation.ids, plan.base.data.tokenizer.unknown_id
    share = f"{(ids == unknown).mean():.2%}"
    assert share != "0.00%"
    assert f"{share} of the validation tokens are unknown to the tokenizer: the loss does not count what they spell" in plan.notes
    mixed = planned(arm_recipe(tiny_recipe), [arm_recipe(tiny_recipe, few)])
    assert [note for note in mixed.notes if note.endswith(f"spell: 0.00% of tiny, 0.00% of dense-active, {share} of tiny-2")]


def test_generation_that_is_not_as_trained_is_told(tiny_recipe):
    leaking = arm_recipe(tiny_recipe, "model.ffn.router={kind: expert_choice}", "allow_future_leak=true", "name=leaking")
    full = arm_recipe(tiny_recipe, "model.ffn.capacity={factor: 1.0, eval_factor: 1.0}", "name=full")
    notes = planned(arm_recipe(tiny_recipe), [leaking, full]).notes
    assert "leaking: in generation every token takes a pass of its own over all before it" in notes
    assert "full: the experts' capacity is off while generating, as a token that comes alone finds room at every expert" in notes
    assert not [note for note in notes if "generat" in note and note.startswith(("tiny", "dense"))]


def test_a_pass_ahead_of_each_step_counts_in_the_flops_and_in_the_twin_of_equal_flops(tiny_recipe):
    ahead = ("training.balance_scope=global-batch", "training.gradient_accumulation=2")
    content = planned(arm_recipe(tiny_recipe, *ahead), matches=("active", "flops")).to_json()
    moe, active, flops = content["arms"]
    assert flops["name"] == "dense-flops" and flops["d_ff"] > active["d_ff"]
    (match,) = [match for match in content["matches"] if match["match"] == "flops"]
    assert (match["target"], match["got"]) == (moe["flops_per_token"], flops["flops_per_token"])
    alone = planned(arm_recipe(tiny_recipe)).to_json()["arms"][0]
    assert 3 * moe["flops_per_token"] == 4 * alone["flops_per_token"]


def test_one_seed_is_told_to_decide_nothing(tiny_recipe):
    assert any("one seed" in note for note in planned(arm_recipe(tiny_recipe)).notes)
    assert not planned(arm_recipe(tiny_recipe), num_seeds=2).notes


class TestWhatIsThere:
    """Folders that are in the way, and those that are not."""

    def test_another_recipe(self, tiny_recipe):
        recipe = planned(arm_recipe(tiny_recipe)).arms[0].recipe
        changed = recipe.model_copy(update={"training": recipe.training.model_copy(update={"steps": 7})})
        train(changed, out=Path("comparison/runs/tiny/seed-0"), listener=ignore)
        with pytest.raises(RecipeError, match=r"training\.steps: 7 in the run, 6 now\n.*another --out, or remove"):
            planned(arm_recipe(tiny_recipe))

    def test_another_text(self, tiny_recipe):
        train(planned(arm_recipe(tiny_recipe)).arms[0].recipe, out=Path("comparison/runs/tiny/seed-0"), listener=ignore)
        assert planned(arm_recipe(tiny_recipe)).runs[0].state == "finished"
        Path("text.txt").write_text(Path("text.txt").read_text() + "\n\nMore.")
        with pytest.raises(RunError, match="not those that the run was begun with"):
            planned(arm_recipe(tiny_recipe))

    def test_what_a_killed_training_leaves(self, tiny_recipe):
        run = Path("comparison/runs/dense-active/seed-0")
        (run / "checkpoints" / ".step-4.partial").mkdir(parents=True)
        for name in ("recipe.yaml", "metrics.jsonl", ".environment.json-123"):
            (run / name).write_text("")
        assert [planned_run.state for planned_run in planned(arm_recipe(tiny_recipe)).runs] == ["to begin", "to begin"]

    @pytest.mark.parametrize("with_checkpoints", [True, False])
    def test_files_of_others_are_never_in_danger(self, tiny_recipe, with_checkpoints):
        run = Path("comparison/runs/tiny/seed-0")
        (run / "checkpoints" if with_checkpoints else run).mkdir(parents=True)
        (run / "thesis.txt").write_text("mine")
        with pytest.raises(RunError, match=r"thesis\.txt is here"):
            planned(arm_recipe(tiny_recipe))

    @pytest.mark.parametrize("place", ["comparison", "comparison/runs/tiny/seed-0", "comparison/report"])
    def test_a_file_where_a_folder_has_to_be(self, tiny_recipe, place):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text("")
        with pytest.raises(RunError, match="is no folder"):
            planned(arm_recipe(tiny_recipe))

    def test_the_folder_of_a_run(self, tiny_recipe):
        train(load_recipe(tiny_recipe).recipe, out=Path("comparison"), listener=ignore)
        with pytest.raises(RunError, match=r"the folder of a run.*\n.*another --out"):
            planned(arm_recipe(tiny_recipe))

    def test_foreign_files_in_the_report(self, tiny_recipe):
        Path("comparison/report").mkdir(parents=True)
        Path("comparison/report/mine.md").write_text("mine")
        with pytest.raises(RunError, match=r"mine\.md is here"):
            planned(arm_recipe(tiny_recipe))

    def test_foreign_files_that_are_not_in_the_way(self, tiny_recipe):
        Path("comparison").mkdir()
        Path("comparison/notes.md").write_text("mine")
        assert planned(arm_recipe(tiny_recipe)).to_json()["finished_runs"] == 0


def test_the_measured_length_is_kept_for_the_same_moe_alone(tiny_recipe):
    Path("comparison").mkdir()
    planned(arm_recipe(tiny_recipe), matches=("time",)).with_time_steps(41)
    assert planned(arm_recipe(tiny_recipe), matches=("time",)).arm("dense-time").steps == 41
    assert planned(arm_recipe(tiny_recipe, "training.steps=7"), matches=("time",)).arm("dense-time").steps is None
    Path("comparison/time-steps.json").write_text("{")
    assert planned(arm_recipe(tiny_recipe), matches=("time",)).arm("dense-time").steps is None


def test_a_run_of_unknown_length_is_refused(tiny_recipe):
    Path("comparison").mkdir()
    plan = planned(arm_recipe(tiny_recipe), matches=("time",)).with_time_steps(5)
    train(plan.arm("dense-time").recipe, out=Path("comparison/runs/dense-time/seed-0"), listener=ignore)
    assert planned(arm_recipe(tiny_recipe), matches=("time",)).runs[2].state == "finished"
    kept = json.loads(Path("comparison/time-steps.json").read_text())
    assert kept["steps"] == 5
    shutil.move("comparison/time-steps.json", "elsewhere.json")
    with pytest.raises(RunError, match=r"no time-steps\.json of this MoE"):
        planned(arm_recipe(tiny_recipe), matches=("time",))
