"""`moecli convert`: a run as a folder that transformers runs and back, whole or not at all."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from moecli.convert import tensor_files
from moecli.convert.config_reader import ConfigReader
from moecli.convert.formats import FORMATS
from moecli.data.corpora.files import FilesCorpus
from moecli.data.tokenizer import Tokenizer
from moecli.errors import ConvertError, DataError, MachineError, MoecliError, RunError
from moecli.model import checkpoint
from moecli.model.checkpoint import load_model
from moecli.model.config import GPTConfig
from moecli.model.generate import Sampling, generate
from moecli.model.manifest import add_to_manifest
from moecli.recipe.load import load_recipe
from moecli.workflows import convert_export, convert_import, convert_proof, convert_request
from moecli.workflows.convert import Conversion, ConvertRequest, convert, plan_conversion
from moecli.workflows.eval import evaluate_run
from moecli.workflows.generate import GenerateRequest, Prompt, generate_text
from moecli.workflows.opened_run import open_run
from moecli.workflows.routing_subject import TextChoice, open_subject
from moecli.workflows.run_dir import RunDir
from moecli.workflows.train import train
from tests.convert.models import PLAIN, SEQ_LEN, SIZES, SPARSE, config_of, write_folder, write_run
from tests.convert.models import random_model as random_model_of

transformers = pytest.importorskip("transformers")
TEXT = "Experts are chosen by a router.\n" * 8


def converted(source: Path, target: Path, **options: object) -> Conversion:
    return convert(ConvertRequest(source, target, **options), lambda event: None)  # type: ignore[arg-type]


@pytest.fixture
def mixtral_run(tmp_path) -> RunDir:
    return write_run(tmp_path / "run", config_of(PLAIN["mixtral"]))


@pytest.fixture
def text_file(tmp_path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


# torch says so of a shared expert of width 0, which the class has where a model shares none.
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
@pytest.mark.parametrize("name", FORMATS)
def test_transformers_generates_what_moecli_generates(name, tmp_path):
    run = write_run(tmp_path / "run", config_of(PLAIN[name]))
    result = converted(run.path, tmp_path / "hf")
    assert (result.format, result.to_json()["verified"]) == (name, True)

    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    prompt = tokenizer("An expert ", return_tensors="pt")["input_ids"]
    theirs = model.generate(prompt, max_new_tokens=16)[0, prompt.shape[1] :].tolist()
    own = Tokenizer.load(run.tokenizer)
    assert prompt[0].tolist() == own.encode("An expert ")
    assert tokenizer.eos_token_id == model.config.eos_token_id == own.end_of_text_id
    assert tokenizer.decode(own.encode("Any text, ünïcode too")) == "Any text, ünïcode too"
    steps = generate(load_model(run.latest), prompt.tolist(), max_tokens=16, sampling=Sampling(temperature=0), seed=0)
    ours = [int(ids_B) for ids_B in steps]
    assert len(theirs) == 16 or theirs[-1] == own.end_of_text_id
    assert theirs == ours[: len(theirs)]


def test_a_run_comes_back_as_a_run_that_computes_the_same(mixtral_run, text_file, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", max_shard_bytes=30_000)
    back = converted(tmp_path / "hf", tmp_path / "back")
    assert back.format == "moecli"
    assert back.verification is not None and back.verification.choices_compared
    assert all(path.is_file() or path.is_symlink() for path in back.files)
    before, after = load_file(mixtral_run.latest / "model.safetensors"), load_file(RunDir(tmp_path / "back").latest / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)

    losses = [evaluate_run(path, text=[text_file]).evaluation.loss for path in (mixtral_run.path, tmp_path / "back")]
    assert losses[0] == losses[1]
    assert open_subject(tmp_path / "back", TextChoice(paths=(text_file,))).model.expert_outputs().keys() == {0, 1, 2}
    request = GenerateRequest([Prompt("An")], max_tokens=8, sampling=Sampling(temperature=0))
    texts = [generate_text(path, request, lambda index, piece: None).texts for path in (mixtral_run.path, tmp_path / "back")]
    assert texts[0] == texts[1]

    converted(tmp_path / "back", tmp_path / "again")
    converted(mixtral_run.path, tmp_path / "whole")
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_text_of_an_imported_model_is_asked_for(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    converted(tmp_path / "hf", tmp_path / "back", verify=False)
    with pytest.raises(DataError, match="the text of an imported model is not known: name one with --text FILE"):
        evaluate_run(tmp_path / "back")
    assert json.loads((tmp_path / "back" / "environment.json").read_text())["imported_class"] == "MixtralForCausalLM"


def test_ids_that_the_tokenizer_has_no_token_for_get_names(mixtral_run, text_file, tmp_path):
    # 257 ids of bytes and an end of text; the model of 64 ids has too few, one of 300 has more.
    source = write_folder(random_model_of(config_of(PLAIN["mixtral"])), tmp_path / "small")
    (source / "tokenizer.json").write_text(mixtral_run.tokenizer.read_text())
    with pytest.raises(ConvertError, match="the tokenizer has 257 token ids, the model 64"):
        converted(source, tmp_path / "no", verify=False)
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.cat([weights[name], torch.ones(43, 16)])
    save_file(weights, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "hf" / "config.json").read_text()) | {"vocab_size": 300}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    converted(tmp_path / "hf", tmp_path / "back")
    opened = open_run(tmp_path / "back", text=FilesCorpus(paths=[text_file]))
    assert opened.tokenizer.vocab_size == opened.model.vocab_size == 300
    assert opened.tokenizer.encode(TEXT) == Tokenizer.load(mixtral_run.tokenizer).encode(TEXT)
    assert opened.tokenizer.pieces([299]) == ["<|unused-299|>"]


def test_a_folder_without_a_tokenizer_is_no_run(tmp_path):
    folder = write_folder(random_model_of(config_of(PLAIN["llama"])), tmp_path / "hf")
    with pytest.raises(ConvertError, match="a run reads text with it") as caught:
        converted(folder, tmp_path / "back")
    assert caught.value.where == str(folder / "tokenizer.json")
    assert not (tmp_path / "back").exists()


def test_one_class_becomes_another_with_its_tokenizer(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf")
    (tmp_path / "hf" / "chat_template.jinja").write_text("{{ messages }}")
    ids = {"eos_token_id": [256, 10], "bos_token_id": 1, "pad_token_id": 2}
    config_file = tmp_path / "hf" / "config.json"
    config_file.write_text(json.dumps(json.loads(config_file.read_text()) | ids))
    result = converted(tmp_path / "hf", tmp_path / "qwen", to="qwen2_moe")
    assert (result.format, result.verification is not None) == ("qwen2_moe", True)
    config = json.loads((tmp_path / "qwen" / "config.json").read_text())
    assert {key: config[key] for key in ids} == ids
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "qwen" / name).read_text() == (tmp_path / "hf" / name).read_text()


def test_a_source_that_transformers_computes_otherwise_becomes_no_other_class(mixtral_run, tmp_path, monkeypatch):
    converted(mixtral_run.path, tmp_path / "hf")
    # A reader of a wrong base of the rotary frequencies: what is written agrees with what was read, not with the source.
    monkeypatch.setattr(ConfigReader, "rope_theta", lambda self: 3.0)
    with pytest.raises(ConvertError, match="the conversion doesn't hold"):
        converted(tmp_path / "hf", tmp_path / "qwen", to="qwen2_moe")
    assert not (tmp_path / "qwen").exists()
    assert converted(tmp_path / "hf", tmp_path / "qwen", to="qwen2_moe", verify=False).notes == [convert_request.NOT_ASKED_FOR]


@pytest.mark.parametrize(
    ("result", "is_told"),
    [
        ('{"val_loss": 1.25, "steps": 7}', True),
        ('{"val_loss": 1.25, "steps": 9}', False),
        ('{"val_loss": 1.25}', False),
        ('{"val_loss": NaN, "steps": 7}', False),
        ('{"val', False),
        ("[]", False),
        ("[" * 100_000, False),
    ],
    ids=["own", "of a later step", "no step", "no number", "cut short", "a list", "deep"],
)
def test_the_card_tells_the_loss_of_this_checkpoint_alone(result, is_told, mixtral_run, tmp_path):
    mixtral_run.result.write_text(result)
    converted(mixtral_run.checkpoint(7), tmp_path / "hf", verify=False)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert ("| loss, nats per token | 1.25 |" in card) == ("## Results" in card) == is_told


def test_the_card_of_an_imported_model_names_no_data(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    converted(tmp_path / "hf", tmp_path / "back", verify=False)
    converted(tmp_path / "back", tmp_path / "again", verify=False)
    assert "## Data" in (tmp_path / "hf" / "README.md").read_text()
    assert "## Data" not in (tmp_path / "again" / "README.md").read_text()


def test_what_a_run_does_not_keep_is_told(mixtral_run, tmp_path):
    source = tmp_path / "hf"
    converted(mixtral_run.path, source, verify=False)
    assert converted(source, tmp_path / "plain", verify=False).notes == [convert_request.NOT_ASKED_FOR]
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [256, 10], "do_sample": True, "top_p": 0.95}))
    content = {"max_position_embeddings": 32768, "eos_token_id": [256, 10], "bos_token_id": 1}
    (source / "config.json").write_text(json.dumps(json.loads((source / "config.json").read_text()) | content))
    told = (
        "a run doesn't keep: max_position_embeddings 32768 (the run's is 2048), eos_token_id [256, 10] (the run's is 256), bos_token_id 1, "
        "generation_config.json (do_sample, top_p), the chat template; a conversion from class to class does"
    )
    assert plan_conversion(ConvertRequest(source, tmp_path / "back")).notes == [told]
    assert converted(source, tmp_path / "back").notes == [told]


def test_experts_that_no_token_chose_are_told(tmp_path):
    # With a router of 0 every expert of layer 1 is as good, and all tokens take the same two: 6 of the 24 are never chosen.
    run = write_run(tmp_path / "run", config_of(PLAIN["mixtral"]))
    tensors = load_file(run.latest / "model.safetensors")
    tensors["blocks.1.ffn.router.weight"].zero_()
    save_file(tensors, run.latest / "model.safetensors")
    add_to_manifest(run.latest, ["model.safetensors"])
    result = converted(run.path, tmp_path / "hf")
    assert (result.to_json()["experts"], result.to_json()["experts_visited"]) == (24, 18)
    assert result.notes[0].startswith("6 of 24 experts (each layer's counted) were chosen by no token of the proof")
    assert "18 of 24 experts were chosen" in (tmp_path / "hf" / "README.md").read_text()


def test_more_ids_follow_until_every_expert_was_chosen(tmp_path):
    # 8 tokens a row, 2 rows and the text: too few for 64 experts of 3 layers.
    config = GPTConfig.model_validate(SIZES | {"ffn": SPARSE | {"num_experts": 64}})
    run = write_run(tmp_path / "run", config, seq_len=8)
    proof = converted(run.path, tmp_path / "hf").verification
    assert proof is not None
    assert proof.num_experts == 3 * 64
    assert len(proof.visited) > 100
    assert 2 * 8 + 8 < proof.tokens <= 2 * 8 + 8 + convert_proof.MORE_BATCHES * 2 * 8


def test_the_card_tells_what_rounding_changed(mixtral_run, tmp_path):
    result = converted(mixtral_run.path, tmp_path / "hf", dtype="bfloat16")
    before, after = load_model(mixtral_run.latest), load_model(mixtral_run.latest)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter.copy_(parameter.bfloat16())
        batches = convert_proof.proof_ids(before.vocab_size, SEQ_LEN, Tokenizer.load(mixtral_run.tokenizer))
        moved = max((before(ids_BS)[0] - after(ids_BS)[0]).abs().max().item() for ids_BS in batches)
    assert result.verification is not None
    assert result.verification.rounding_diff == pytest.approx(moved, rel=1e-5)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "Verified against moecli with the weights rounded as they are here" in card
    assert f"The rounding itself moved a logit by {moved:.2g} at most." in card
    assert converted(mixtral_run.path, tmp_path / "whole").to_json()["rounding_logit_diff"] is None


@pytest.mark.parametrize("is_import", [False, True], ids=["export", "import"])
def test_an_empty_target_is_still_there_after_a_failure(is_import, mixtral_run, tmp_path, monkeypatch):
    source = mixtral_run.path
    if is_import:
        source = tmp_path / "hf"
        converted(mixtral_run.path, source, verify=False)
    (tmp_path / "target").mkdir()
    monkeypatch.setattr(checkpoint if is_import else tensor_files, "write_tensors", full_disk)
    with pytest.raises(MachineError):
        converted(source, tmp_path / "target", verify=False)
    assert list((tmp_path / "target").iterdir()) == []


def test_a_run_has_no_shards(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    with pytest.raises(ConvertError, match="the weights of a run are one file") as caught:
        converted(tmp_path / "hf", tmp_path / "back", max_shard_bytes=1000)
    assert caught.value.where == "--max-shard-bytes"


def test_the_card_tells_the_recipe_the_data_and_the_loss(mixtral_run, tmp_path):
    mixtral_run.result.write_text(json.dumps({"val_loss": 2.5, "perplexity": 12.18, "bits_per_byte": 1.25, "steps": 7}))
    converted(mixtral_run.path, tmp_path / "hf", to="qwen2_moe", dtype="bfloat16")
    card = (tmp_path / "hf" / "README.md").read_text()
    for part in (
        "# tiny", "as Qwen2MoeForCausalLM, in bfloat16", "corpus stdlib", "| loss, nats per token | 2.5 |", "| bits per byte | 1.25 |",
        "moecli convert RUN hf --to qwen2_moe --dtype bfloat16", "Verified against moecli", mixtral_run.recipe.read_text(),
    ):  # fmt: skip
        assert part in card


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_in_half_precision_are_proved_against_the_rounded_model(dtype, tmp_path):
    run = write_run(tmp_path / "run", config_of(PLAIN["glm4_moe"]))
    result = converted(run.path, tmp_path / "hf", dtype=dtype)
    assert result.verification is not None
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    kinds = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    assert {kind for name, kind in kinds.items() if not name.endswith("e_score_correction_bias")} == {dtype}
    bias = tensors["model.layers.0.mlp.gate.e_score_correction_bias"]
    assert torch.equal(bias, load_file(run.latest / "model.safetensors")["blocks.0.ffn.router.selection_bias_E"])
    with pytest.raises(ConvertError, match="the weights of a run are float32"):
        converted(tmp_path / "hf", tmp_path / "back", dtype=dtype)


def test_what_is_left_out_is_told(tmp_path):
    config = GPTConfig.model_validate(SIZES | {"ffn": SPARSE | {"capacity": {"eval_factor": None}, "router": {"kind": "noisy_topk"}}})
    notes = converted(write_run(tmp_path / "run", config).path, tmp_path / "hf").notes
    assert ["noise" in note for note in notes] == [True, False]
    assert "capacity" in notes[1]


def test_a_dry_run_lists_what_is_written_then(mixtral_run, tmp_path):
    for source, target, options in (
        (mixtral_run.path, tmp_path / "hf", {"max_shard_bytes": 30_000, "dtype": "bfloat16"}),
        (tmp_path / "hf", tmp_path / "back", {}),
    ):
        plan = plan_conversion(ConvertRequest(source, target, **options))
        assert not target.exists()
        result = converted(source, target, **options)
        assert sorted(plan.files) == sorted(str(path.relative_to(target)) for path in result.files)
        assert (plan.format, plan.params_total, plan.params_active) == (result.format, result.params_total, result.params_active)
        written = {}
        for file in {tensor.file for tensor in plan.tensors}:
            for name, tensor in load_file(target / file).items():
                written[name] = (file, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), tensor.nbytes)
        assert {tensor.name: (tensor.file, tuple(tensor.shape), tensor.dtype, tensor.num_bytes) for tensor in plan.tensors} == written
    assert plan_conversion(ConvertRequest(mixtral_run.path, tmp_path / "x")).problems["glm4_moe"][0].startswith("router with a softmax")


def test_a_dry_run_from_class_to_class_reads_headers_alone(mixtral_run, tmp_path, monkeypatch):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    (tmp_path / "hf" / "vocab.json").write_text("{}")
    (tmp_path / "hf" / "tokenizer.model").write_bytes(b"\xff")
    with monkeypatch.context() as patch:
        patch.setattr(tensor_files.TensorFiles, "read", None)
        plan = plan_conversion(ConvertRequest(tmp_path / "hf", tmp_path / "qwen", to="qwen2_moe"))
    assert not (tmp_path / "qwen").exists()
    result = converted(tmp_path / "hf", tmp_path / "qwen", to="qwen2_moe", verify=False)
    assert sorted(plan.files) == sorted(path.name for path in result.files) and "vocab.json" in plan.files
    assert {tensor.name: tuple(tensor.shape) for tensor in plan.tensors} == {
        name: tuple(tensor.shape) for name, tensor in load_file(tmp_path / "qwen" / "model.safetensors").items()
    }
    # What is no text is told of in both directions.
    assert plan.notes == result.notes[:1] == ["tokenizer.model is left behind: copy it if a reader of this folder needs it"]
    assert (
        "tokenizer.model (the run reads text by tokenizer.json)"
        in plan_conversion(ConvertRequest(tmp_path / "hf", tmp_path / "b")).notes[0]
    )


def test_a_target_that_is_taken(mixtral_run, tmp_path):
    for target in (tmp_path / "full" / "file", tmp_path / "full"):
        (tmp_path / "full").mkdir(exist_ok=True)
        (tmp_path / "full" / "file").touch()
        with pytest.raises(ConvertError, match="there is something here already"):
            converted(mixtral_run.path, target)
    for target in (Path(), tmp_path / ".."):
        with pytest.raises(ConvertError, match="names no folder to be made"):
            converted(mixtral_run.path, target)
    with pytest.raises(ConvertError, match="is no folder"):
        converted(mixtral_run.path, tmp_path / "full" / "file" / "hf")
    with pytest.raises(ConvertError, match="can't be made: File name too long"):
        converted(mixtral_run.path, tmp_path / ("x" * 300))
    (tmp_path / "empty").mkdir()
    assert converted(mixtral_run.path, tmp_path / "empty", verify=False).files


def test_a_config_that_is_nested_too_deep(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    (tmp_path / "hf" / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(ConvertError, match="damaged: maximum recursion depth"):
        converted(tmp_path / "hf", tmp_path / "back")


def test_a_source_that_is_none(mixtral_run, tmp_path):
    with pytest.raises(RunError, match="there is no such folder"):
        converted(tmp_path / "none", tmp_path / "hf")
    with pytest.raises(ConvertError, match="there is no such file"):
        converted(mixtral_run.path, tmp_path / "hf", to="moecli")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="neither a run folder nor a checkpoint") as caught:
        converted(tmp_path / "empty", tmp_path / "hf", to="moecli")
    assert "or a Hugging Face folder" in caught.value.allowed


def test_a_checkpoint_with_a_number_that_is_none(mixtral_run, tmp_path):
    path = mixtral_run.checkpoint(7) / "model.safetensors"
    tensors = load_file(path)
    tensors["blocks.1.ffn.router.weight"][3, 2] = float("inf")
    save_file(tensors, path)
    add_to_manifest(path.parent, [path.name])
    with pytest.raises(ConvertError, match=r"tensor blocks.1.ffn.router.weight holds values that are no numbers"):
        converted(mixtral_run.path, tmp_path / "hf")
    del tensors["blocks.1.ffn.router.weight"]
    save_file(tensors, path)
    add_to_manifest(path.parent, [path.name])
    with pytest.raises(ConvertError, match=r"tensor blocks.1.ffn.router.weight is missing"):
        converted(mixtral_run.path, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("is_import", [False, True], ids=["export", "import"])
@pytest.mark.parametrize("fault", ["proof", "disk", "interrupt"])
def test_what_fails_leaves_nothing(is_import, fault, mixtral_run, tmp_path, monkeypatch):
    source = mixtral_run.path
    if is_import:
        source = tmp_path / "hf"
        converted(mixtral_run.path, source, verify=False)
    before = sorted(path.name for path in tmp_path.iterdir())
    expected: type[BaseException] = ConvertError
    if fault == "proof":

        def fails(*arguments: object) -> None:
            raise ConvertError("the conversion doesn't hold")

        monkeypatch.setattr(convert_import if is_import else convert_export, "prove", fails)
    elif fault == "disk":
        expected = MachineError
        monkeypatch.setattr(checkpoint if is_import else tensor_files, "write_tensors", full_disk)
    else:
        expected = KeyboardInterrupt

        def stops(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoint if is_import else tensor_files, "write_tensors", stops)
    with pytest.raises(expected):
        converted(source, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_without_transformers(mixtral_run, tmp_path, monkeypatch):
    monkeypatch.setattr(convert_request, "has_transformers", lambda: False)
    monkeypatch.setattr("moecli.convert.peer.has_transformers", lambda: False)
    result = converted(mixtral_run.path, tmp_path / "hf")
    assert result.to_json()["verified"] is False
    assert result.to_json()["max_abs_logit_diff"] is None
    assert "transformers is not installed" in result.notes[-1]
    with pytest.raises(MoecliError, match=r"moecli\[hf\]"):
        converted(mixtral_run.path, tmp_path / "other", verify=True)
    assert not (tmp_path / "other").exists()
    assert "transformers is not installed" in converted(tmp_path / "hf", tmp_path / "back").notes[-1]


def test_an_imported_model_is_trained_on_the_text_that_was_given(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    (tmp_path / "mine.txt").write_text("\n\n".join(f"A text of mine, number {n}." for n in range(200)))
    text = ("data.corpus.kind=files", f"data.corpus.paths=[{tmp_path / 'mine.txt'}]")
    overrides = (*text, "training.steps=2", "training.batch_size=2", "evaluation.every=0")
    with pytest.raises(ConvertError, match="tokenizer of this recipe is not that of the checkpoint") as caught:
        converted(tmp_path / "hf", tmp_path / "run2", verify=False, overrides=(*overrides, "data.tokenizer.kind=char"))
    assert str(tmp_path / "run2" / "tokenizer.json") in caught.value.next_step and not (tmp_path / "run2").exists()
    result = converted(tmp_path / "hf", tmp_path / "run2", verify=False, overrides=overrides)
    assert result.can_be_trained
    plan = plan_conversion(ConvertRequest(tmp_path / "hf", tmp_path / "other", overrides=overrides))
    assert sorted(plan.files) == sorted(str(path.relative_to(tmp_path / "run2")) for path in result.files)
    assert json.loads((tmp_path / "run2" / "environment.json").read_text())["imported_class"] == "MixtralForCausalLM"
    trained = train(load_recipe(tmp_path / "run2" / "recipe.yaml").recipe, out=tmp_path / "run2", resume=True, listener=lambda event: None)
    first, before = load_model(tmp_path / "run2" / "checkpoints" / "step-0"), load_model(mixtral_run.latest)
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in before.state_dict().items())
    assert trained.steps == 2 and not torch.equal(load_model(trained.checkpoint).embedding.weight, first.embedding.weight)


def test_what_to_do_about_an_imported_model_without_a_text(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    assert not converted(tmp_path / "hf", tmp_path / "back", verify=False).can_be_trained
    with pytest.raises(RunError, match="without a text to train on") as caught:
        train(load_recipe(tmp_path / "back" / "recipe.yaml").recipe, out=tmp_path / "back", resume=True, listener=lambda event: None)
    assert caught.value.next_step.startswith(f"moecli convert {tmp_path / 'back'} NEW --set data.corpus.kind=files")


def test_an_imported_model_keeps_its_shape(mixtral_run, tmp_path):
    converted(mixtral_run.path, tmp_path / "hf", verify=False)
    with pytest.raises(ConvertError, match=r"model\.rope_theta: 3\.0 is not that of the source"):
        converted(tmp_path / "hf", tmp_path / "back", verify=False, overrides=("model.rope_theta=3",))
    top_3 = ("model.ffn.router.top_k=3",)
    assert "model.ffn.router.top_k: 2 -> 3" in plan_conversion(ConvertRequest(tmp_path / "hf", tmp_path / "b", overrides=top_3)).notes
    [note, _] = converted(tmp_path / "hf", tmp_path / "back", verify=False, overrides=top_3).notes
    assert note.startswith("model.ffn.router.top_k: 2 -> 3: other than the checkpoint, whose logits differ from the run's by ")
    assert load_model(RunDir(tmp_path / "back").latest.resolve()).config.ffn.router.top_k == 3


def test_a_folder_of_hugging_face_has_no_recipe(mixtral_run, tmp_path):
    with pytest.raises(ConvertError, match="is for a run folder") as caught:
        converted(mixtral_run.path, tmp_path / "hf", overrides=("seed=1",))
    assert caught.value.where == "--set"
