"""Folders that are no readable mixture-of-experts model: each is refused with what is wrong, where, and what to do; none runs a program."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

from moecli.analysis.hf_folder import is_huggingface_folder
from moecli.analysis.hf_model import load_huggingface
from moecli.errors import MachineError, RunError
from tests.analysis.hf_checkpoints import edit_config, plain_model, write_checkpoint


@pytest.fixture
def mixtral(tmp_path) -> Path:
    """A whole one, to be damaged."""
    return write_checkpoint(tmp_path / "mixtral", "mixtral")


def test_which_folders_are_of_hugging_face(mixtral, tmp_path):
    assert is_huggingface_folder(mixtral)
    assert not is_huggingface_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"moecli_version": "0.1.0", "vocab_size": 3, "model": {}}')
    assert not is_huggingface_folder(tmp_path)
    (tmp_path / "config.json").write_text('["model_type"]')
    assert not is_huggingface_folder(tmp_path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"model_type":', "damaged: Expecting value"),
        (b"\xff", "damaged: not UTF-8 text"),
        (b'{"model_type":' * 100_000, "nested too deep"),
    ],
)
def test_a_damaged_config_is_told(content, what, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    for read in (is_huggingface_folder, load_huggingface):
        with pytest.raises(RunError, match=what) as caught:
            read(tmp_path)
        assert caught.value.where == str(tmp_path / "config.json")


def test_a_pipe_for_a_config_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    for read in (is_huggingface_folder, load_huggingface):
        with pytest.raises(RunError, match=r"config\.json: can't be read: no regular file"):
            read(tmp_path)


def refusal(folder: Path) -> str:
    """What is said; it always says where, and what to do."""
    with pytest.raises(RunError) as caught:
        load_huggingface(folder)
    assert caught.value.next_step
    assert str(folder) in caught.value.where
    return caught.value.what


@pytest.mark.parametrize("model_type", ["jetmoe", "llama4_text", "longcat_flash", "doge"])
def test_experts_of_another_make_are_refused(tmp_path, model_type):
    assert refusal(write_checkpoint(tmp_path, model_type)) == f"architecture {model_type}: moecli can't read its experts"


@pytest.mark.parametrize(("model_type", "options"), [("llama", {}), ("qwen3_moe", {"mlp_only_layers": [0, 1]})])
def test_dense_models_are_refused(tmp_path, model_type, options):
    assert (
        refusal(write_checkpoint(tmp_path, model_type, **options))
        == f"architecture {model_type}: it is a dense model, without a layer that routes"
    )


@pytest.mark.parametrize(
    ("model_type", "what"),
    [
        ("switch_transformers", "architecture switch_transformers is an encoder-decoder"),
        ("nllb-moe", "architecture nllb-moe is an encoder-decoder"),
        ("vit", "architecture vit is no causal language model"),
        ("newest_moe", "doesn't know the architecture newest_moe"),
    ],
)
def test_other_architectures_are_refused(tmp_path, model_type, what):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (tmp_path / "model.safetensors").touch()
    assert what in refusal(tmp_path)


@pytest.mark.parametrize("is_known", [True, False])
def test_code_of_a_checkpoint_never_runs(mixtral, is_known):
    (mixtral / "theirs.py").write_text(f"open({str(mixtral / 'ran')!r}, 'w').close()\nclass Config: ...\nclass Model: ...\n")
    edit_config(mixtral, auto_map={"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"})
    if is_known:
        assert load_huggingface(mixtral).model_type == "mixtral"
    else:
        edit_config(mixtral, model_type="newest_moe")
        assert "moecli runs none that comes with a checkpoint" in refusal(mixtral)
    assert not (mixtral / "ran").exists()


def test_an_attention_that_would_be_fetched_is_not_used(mixtral):
    edit_config(mixtral, attn_implementation="somebody/attention")
    load_huggingface(mixtral)


def test_pickles_are_not_loaded(mixtral):
    torch.save(load_file(mixtral / "model.safetensors"), mixtral / "pytorch_model.bin")
    (mixtral / "model.safetensors").unlink()
    assert "pickled" in refusal(mixtral)
    (mixtral / "pytorch_model.bin").unlink()
    assert "there are no weights" in refusal(mixtral)


def test_pickles_are_not_loaded_where_another_file_is_none(mixtral):
    torch.save(load_file(mixtral / "model.safetensors"), mixtral / "pytorch_model.bin")
    (mixtral / "model.safetensors").rename(mixtral / "adapter.safetensors")
    assert "pickled" in refusal(mixtral)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model.layers.0.block_sparse_moe.gate.weight": None}, "weights that mixtral needs are missing: model.layers.0.mlp.gate.weight"),
        ({"model.norm.weight": None, "lm_head.weight": None}, "weights that mixtral needs are missing: lm_head.weight and 1 more"),
        ({"model.layers.1.block_sparse_moe.experts.2.w1.weight": None}, "a layer's experts can't be put together"),
        ({"lm_head.weight": torch.zeros(60, 16)}, "weights don't fit config.json: lm_head.weight is [60, 16] and should be [64, 16]"),
    ],
)  # fmt: skip
def test_weights_that_are_missing_or_do_not_fit(mixtral, changes, what):
    # transformers itself fills in random numbers for the first two, and says so in a table on stderr.
    tensors = load_file(mixtral / "model.safetensors") | changes
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}, mixtral / "model.safetensors", metadata={"format": "pt"}
    )
    assert what in refusal(mixtral)


def test_damaged_files(mixtral):
    weights = mixtral / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "not fully covered" in refusal(mixtral)
    edit_config(mixtral, hidden_size="wide")
    assert "hidden_size" in refusal(mixtral)
    edit_config(mixtral, model_type=None)
    assert "names no model_type" in refusal(mixtral)
    (mixtral / "config.json").write_text("{")
    assert refusal(mixtral).startswith("damaged: ")
    (mixtral / "config.json").unlink()
    assert refusal(mixtral) == "there is no such file"
    assert refusal(mixtral / "nothing") == "there is no such folder"


def test_a_missing_part_of_the_weights(mixtral, tmp_path):
    plain_model(mixtral).save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    load_huggingface(tmp_path / "parts")
    part = sorted((tmp_path / "parts").glob("model-*.safetensors"))[1]
    part.unlink()
    assert part.name in refusal(tmp_path / "parts")


def test_quantised_weights_need_a_package_of_their_own(mixtral):
    edit_config(mixtral, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "needs another package" in refusal(mixtral)


def test_transformers_is_missing_or_too_old(mixtral, monkeypatch):
    import transformers

    for version in ("4.57.1", "5.19.0"):
        monkeypatch.setattr(transformers, "__version__", version)
        with pytest.raises(MachineError, match=rf"transformers {version} is too old") as caught:
            load_huggingface(mixtral)
    assert caught.value.next_step == "install it: pip install 'transformers>=5.20'"
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MachineError, match="needs the package transformers") as caught:
        load_huggingface(mixtral)
    assert caught.value.next_step == "install it: pip install 'transformers>=5.20'"
